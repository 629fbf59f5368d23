//! Large bodies: whole or visibly broken, whatever happens to their parts, and in bounded memory.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::json;

use crate::harness::{
    client::Conn,
    eventually, found,
    model::ARRAY,
    node::Node,
    origin::{Origin, Reply},
    proxy::Proxy,
    quoted,
    redis::Redis,
    sealed, within,
};

const MIB: usize = 1 << 20;

/// Three parts of the default size.
const LENGTH: usize = 2 * MIB + MIB / 2;
const PARTS: usize = 3;

/// Names of the parts of `body`, in their order: of the only large one that is there beside those of `before`.
async fn parts(redis: &Redis, before: &BTreeMap<Vec<u8>, usize>, body: &[u8]) -> Vec<Vec<u8>> {
    let names = found("its head and its parts in Redis", async || {
        let mut values = redis.values().await;
        values.retain(|name, _| !before.contains_key(name));
        let parts: Vec<_> =
            values.iter().filter(|(_, length)| **length > MIB / 4).map(|(name, _)| name.clone()).collect();
        (parts.len() == PARTS && values.len() == PARTS + 1).then_some(parts)
    })
    .await;
    let mut ordered = vec![Vec::new(); PARTS];
    for name in names {
        let value: Vec<u8> = redis.ask(redis::cmd("GET").arg(&name)).await;
        let index = body.chunks(MIB).position(|part| value.ends_with(part)).unwrap();
        ordered[index] = name;
    }
    ordered
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    Gone,
    Cut,
    Flipped,
}

async fn harm(redis: &Redis, part: &[u8], harm: Harm) {
    if let Harm::Gone = harm {
        return redis.ask(redis::cmd("DEL").arg(part)).await;
    }
    let mut bytes: Vec<u8> = redis.ask(redis::cmd("GET").arg(part)).await;
    let length = bytes.len();
    match harm {
        Harm::Cut => bytes.truncate(length - 1000),
        Harm::Gone | Harm::Flipped => bytes[length / 2] ^= 1,
    }
    redis.ask(redis::cmd("SET").arg(part).arg(bytes).arg("EX").arg(600)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_which_redis_has_lost_a_part_is_whole_and_healed() {
    let (origin, redis, body) = (Origin::start().await, Redis::start().await, sealed("big", LENGTH));
    let (ranged, plain) = (body.clone(), body.clone());
    // One origin knows ranges and has a validator, the other has neither.
    origin.on("/ranged", move |seen| Reply::ranged(seen, 600, &ranged).header("etag", "\"1\""));
    origin.on("/plain", move |_| Reply::fresh(600, plain.clone()));
    let builder = Node::builder().origin(&origin.url()).redis(&redis).memory("256MiB");
    let one = builder.start().await;
    let two = builder.clone().name("n2").start().await;

    let (mut targets, mut stored, mut resumed) = (Vec::new(), 0, 0.0);
    for path in ["/ranged", "/plain"] {
        for index in 0..PARTS {
            for kind in [Harm::Gone, Harm::Cut, Harm::Flipped] {
                let target = format!("{path}?{kind:?}={index}");
                let before = redis.values().await;
                one.fetch(&target).await;
                let parts = parts(&redis, &before, &body).await;
                harm(&redis, &parts[index], kind).await;
                for _ in 0..2 {
                    let response = two.fetch(&target).await;
                    assert!(response.status == 200 && response.body == body, "{target}: {} bytes", response.body.len());
                }
                assert_eq!(origin.hits(&target), 2, "{target}: one request more, for what was lost");
                let resumes = two.metric("holm_cache_bodies_resumed_total", "").await;
                // Without its beginning it is a miss, and comes anew, under other names.
                let anew = if resumes > resumed { 0 } else { PARTS - usize::from(matches!(kind, Harm::Gone)) };
                (stored, resumed) = (stored + PARTS + 1 + anew, resumes);
                eventually("what was lost in Redis again", async || redis.values().await.len() == stored).await;
                targets.push(target);
            }
        }
    }
    assert_eq!(two.metric("holm_cache_bodies_cut_total", "").await, 0.0);
    assert_eq!(resumed, 12.0, "all but those without a beginning");
    let ranges =
        targets.iter().flat_map(|target| origin.seen(target)).filter(|seen| seen.header("if-range") == "\"1\"");
    assert_eq!(ranges.count(), 6);

    two.stop().await;
    let three = builder.name("n3").start().await;
    for target in &targets {
        assert!(three.hit(target).await.body == body, "{target} is whole in Redis again");
        assert_eq!(origin.hits(target), 2, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_cannot_be_made_whole_is_reset_and_the_next_one_is_whole() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    let (old, new) = (sealed("old", LENGTH), sealed("new", LENGTH));
    let stored = old.clone();
    let (bodies, asked) = ([old, new.clone()], Arc::new(AtomicUsize::new(0)));
    origin.on("/big", move |_| Reply::fresh(600, bodies[asked.fetch_add(1, SeqCst).min(1)].clone()));
    let builder = Node::builder().origin(&origin.url()).redis(&redis);
    let one = builder.start().await;
    let two = builder.name("n2").start().await;
    let before = redis.values().await;
    one.fetch("/big").await;
    // Without its last part: that is the only one shorter than the others.
    let parts = parts(&redis, &before, &stored).await;
    let values = redis.values().await;
    let last = parts.iter().min_by_key(|part| values[*part]).unwrap();
    harm(&redis, last, Harm::Gone).await;

    assert!(two.get("/big").try_send().await.is_err(), "a body of two halves isn't ended as if it were one");
    assert_eq!(two.metric("holm_cache_bodies_cut_total", "").await, 1.0);
    eventually("the next one being whole", async || {
        two.get("/big").try_send().await.is_ok_and(|response| response.body == new)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_slow_over_parts_is_waited_for_and_one_that_stops_is_not() {
    let (origin, redis, body) = (Origin::start().await, Redis::start().await, sealed("big", LENGTH));
    let sent = body.clone();
    origin.on("*", move |seen| Reply::ranged(seen, 600, &sent));
    let proxy = Proxy::start(redis.url().trim_start_matches("redis://")).await;
    let one = Node::builder().origin(&origin.url()).redis(&redis).start().await;
    let behind = Node::builder().origin(&origin.url()).redis_at(&format!("redis://{}", proxy.address()), 200);
    let two = behind.clone().name("n2").set("cache", "part_ms = 20_000").start().await;
    one.fetch("/slow").await;
    one.hit("/slow").await;
    one.fetch("/stopping").await;
    one.hit("/stopping").await;
    eventually("both in Redis", async || redis.values().await.len() == 2 * (PARTS + 1)).await;

    proxy.wait(Duration::from_millis(20));
    let response = two.fetch("/slow").await;
    assert!(response.body == body && response.cache().get("detail") == "redis", "{:?}", response.cache());
    assert_eq!((origin.hits("/slow"), two.metric("holm_cache_parts_missing_total", "").await), (1, 0.0));
    two.stop().await;

    proxy.wait(Duration::ZERO);
    let three = behind.name("n3").set("cache", "part_ms = 500").start().await;
    proxy.stop_after((MIB + MIB / 2) as u64);
    let response = three.fetch("/stopping").await;
    assert!(response.body == body && response.cache().get("detail") == "redis", "{:?}", response.cache());
    assert_eq!((origin.hits("/stopping"), three.metric("holm_cache_bodies_resumed_total", "").await), (2, 1.0));
}

/// Flips a bit of the first place below `dir` where these bytes are.
fn flip(dir: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return flip(&path, bytes);
        }
        let mut content = std::fs::read(&path).unwrap();
        let place = content.windows(bytes.len()).position(|window| window == bytes);
        if let Some(place) = place {
            content[place] ^= 1;
            std::fs::write(&path, content).unwrap();
        }
        place.is_some()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_on_disk_costs_a_request_and_no_byte() {
    let (origin, dir, body) = (Origin::start().await, tempfile::tempdir().unwrap(), sealed("big", LENGTH));
    let sent = body.clone();
    origin.on("/big", move |seen| Reply::ranged(seen, 600, &sent));
    let builder = Node::builder().origin(&origin.url()).disk(dir.path());
    let node = builder.start().await;
    node.fetch("/big").await;
    node.hit("/big").await;
    node.stop().await;
    let place = MIB + MIB / 2;
    assert!(flip(dir.path(), &body[place..place + 32]), "the second part is on disk");

    let node = builder.start().await;
    for _ in 0..2 {
        let response = node.fetch("/big").await;
        assert!(response.body == body && response.is_hit(), "{} bytes, {:?}", response.body.len(), response.cache());
    }
    assert_eq!((origin.hits("/big"), node.metric("holm_cache_bodies_cut_total", "").await), (2, 0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_holds_up_neither_the_others_nor_itself() {
    let (origin, body) = (Origin::start().await, sealed("long", 24 * MIB));
    let sent = body.clone();
    origin.on("/long", move |seen| Reply::ranged(seen, 600, &sent));
    let node = Node::builder().origin(&origin.url()).start().await;
    let mut slow = node.get("/long").open().await.unwrap();
    let first = slow.piece().await.unwrap().unwrap();
    for _ in 0..3 {
        assert!(node.fetch("/long").await.body == body, "others are served meanwhile");
    }
    let rest = within("the slow one's turn", slow.whole()).await.unwrap();
    assert!([&first[..], &rest.body[..]].concat() == body);
    assert_eq!(node.metric("holm_cache_bodies_cut_total", "").await, 0.0);
}

/// Twelve clients that hardly read, and twelve that do, of twelve bodies that together are many times what may be held.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_bodies_is_bounded_however_slowly_they_are_read() {
    const EACH: usize = 24 * MIB;
    const COUNT: usize = 12;
    let (origin, body) = (Origin::start().await, sealed("long", EACH));
    let sent = body.clone();
    origin.on("*", move |seen| Reply::ranged(seen, 600, &sent));
    let process = Node::builder()
        .origin(&origin.url())
        .memory("16MiB")
        .set("cache", "bodies_bytes_max = \"64MiB\"")
        .spawn()
        .await;
    process.fetch("/warm").await;
    let before = process.footprint().0;

    let (mut slow, mut fast) = (Vec::new(), tokio::task::JoinSet::new());
    for number in 0..COUNT {
        let target = format!("/{number}");
        slow.push(process.get(&target).open().await.unwrap());
        fast.spawn(process.get(&target).send());
    }
    let mut peak = 0;
    while !fast.is_empty() {
        // Not a wait for luck: memory is looked at every now and then.
        if let Ok(Some(response)) = tokio::time::timeout(Duration::from_millis(10), fast.join_next()).await {
            assert!(response.unwrap().body == body);
        }
        peak = peak.max(process.footprint().0);
    }
    for opened in slow {
        assert!(within("a slow one's turn", opened.whole()).await.unwrap().body == body);
        peak = peak.max(process.footprint().0);
    }
    let grown = peak.saturating_sub(before) / 1024;
    assert!(grown < COUNT * EACH / MIB / 2, "{grown} MiB more for {} MiB of bodies", COUNT * EACH / MIB);
    eventually("all given back", async || process.metric("holm_cache_bodies_bytes", "").await == 0.0).await;
}

/// A body of which memory has room for a tenth, while it arrives and while clients read at random places of it.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_body_goes_to_disk_while_it_is_served_and_each_byte_is_fetched_once() {
    const HUGE: usize = 128 * MIB;
    const READERS: usize = 16;
    let (origin, dir, body) = (Origin::start().await, tempfile::tempdir().unwrap(), sealed("huge", HUGE));
    let (sent, warm) = (body.clone(), body.slice(..32 * MIB));
    origin.on("/huge", move |seen| Reply::ranged(seen, 600, &sent));
    origin.on("/warm", move |seen| Reply::ranged(seen, 600, &warm));
    let disk = format!("dir = {}\nbytes = \"384MiB\"", quoted(&dir.path().display().to_string()));
    let process = Node::builder()
        .origin(&origin.url())
        .memory("16MiB")
        .set("cache", "object_bytes_max = \"1GiB\"\nbodies_bytes_max = \"64MiB\"\npart_ms = 20_000")
        .set("cache.disk", &disk)
        .spawn()
        .await;
    process.fetch("/warm").await;
    process.hit("/warm").await;
    let (before, mut peak) = (process.footprint().0, 0);

    let whole = tokio::spawn(process.get("/huge").send());
    eventually("the fetch", async || origin.hits("/huge") == 1).await;
    let mut rng = fastrand::Rng::with_seed(11);
    // Some of them while it arrives, some from the disk.
    for _ in 0..2 {
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..READERS {
            let first = rng.usize(..HUGE - 2 * MIB);
            let last = rng.usize(first..first + 2 * MIB);
            let asking = process.get("/huge").header("range", &format!("bytes={first}-{last}")).send();
            readers.spawn(async move { (first, last, asking.await) });
        }
        while let Some(read) = readers.join_next().await {
            let (first, last, response) = read.unwrap();
            assert!(response.status == 206 && response.body == body[first..=last], "{first} to {last}");
            peak = peak.max(process.footprint().0);
        }
    }
    assert!(whole.await.unwrap().body == body);
    peak = peak.max(process.footprint().0);
    assert_eq!(origin.hits("/huge"), 1, "no part was lost on its way to the disk");
    assert_eq!(process.metric("holm_cache_parts_missing_total", "").await, 0.0);
    let grown = peak.saturating_sub(before) / 1024;
    assert!(grown < HUGE / MIB * 3 / 4, "{grown} MiB more for {} MiB of bodies", HUGE / MIB);

    process.purge_url("/huge", false).await;
    let range = process.get("/huge").header("range", "bytes=0-9").header("cache-control", "only-if-cached");
    assert_eq!(range.send().await.status, 504, "a purge takes all parts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_disk_could_not_hold_passes_without_being_stored() {
    let (origin, dir, body) = (Origin::start().await, tempfile::tempdir().unwrap(), sealed("huge", 56 * MIB));
    let (known, unknown) = (body.clone(), body.clone());
    origin.on("/small", |_| Reply::fresh(600, sealed("small", 1000)));
    origin.on("/known", move |_| Reply::fresh(600, known.clone()));
    origin.on("/unknown", move |_| Reply::fresh(600, "").streaming(&unknown));
    let node = Node::builder()
        .origin(&origin.url())
        .disk(dir.path())
        .set("cache", "object_bytes_max = \"1GiB\"")
        .start()
        .await;
    node.fetch("/small").await;
    node.hit("/small").await;
    // Three quarters of the disk are 48 MiB.
    for hits in 1..3 {
        assert!(node.fetch("/known").await.body == body);
        assert_eq!(origin.hits("/known"), hits);
        node.hit("/small").await;
    }
    assert_eq!(origin.hits("/small"), 1, "nothing was pushed out");
    // That it is longer shows only when so much of it has come.
    for _ in 0..2 {
        assert!(node.fetch("/unknown").await.body == body);
        assert!(node.cached("/unknown").await.is_none());
    }
}

/// Two hundred clients that hardly read, of as many bodies in one piece; most leave the memory tier meanwhile.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_bodies_in_one_piece_is_bounded_however_slowly_they_are_read() {
    const EACH: usize = MIB - 1000;
    const COUNT: usize = 200;
    const LIMIT: usize = 64 * MIB;
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::ranged(seen, 600, &sealed(&seen.target, EACH)));
    let process = Node::builder()
        .origin(&origin.url())
        .memory("16MiB")
        .set("cache", &format!("bodies_bytes_max = {LIMIT}"))
        .set("timeouts", "send_ms = 600_000\nrate_bytes_min = 0")
        .spawn()
        .await;
    process.fetch("/warm").await;
    let before = process.footprint().0;

    let (mut conns, mut slow, mut peak) = (Vec::new(), Vec::new(), 0);
    for number in 0..COUNT {
        if number % 100 == 0 {
            conns.push(Conn::h2_ahead(process.address, 16 << 10).await.unwrap());
        }
        let target = format!("/{number}");
        process.fetch(&target).await;
        process.hit(&target).await;
        let mut stream = conns[number / 100].stream();
        slow.push((stream.open(process.get(&target)).await.unwrap(), target));
        peak = peak.max(process.footprint().0);
    }
    let held = process.metric("holm_cache_bodies_bytes", "").await;
    assert!((0.5..=1.0).contains(&(held / LIMIT as f64)), "{held} bytes are held");
    for (opened, target) in slow {
        let response = within("a slow one's turn", opened.whole()).await.unwrap();
        assert!(response.is_hit(), "{target}: {:?}", response.cache());
        assert!(response.body == sealed(&target, EACH), "{target}: {} bytes", response.body.len());
        peak = peak.max(process.footprint().0);
    }
    let grown = peak.saturating_sub(before) / 1024;
    assert!(grown < COUNT * 2 / 3, "{grown} MiB more for {} MiB of bodies", COUNT * EACH / MIB);
    assert_eq!(process.metric("holm_cache_bodies_cut_total", "").await, 0.0);
    eventually("all given back", async || process.metric("holm_cache_bodies_bytes", "").await == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_of_infer_routes_are_bounded_and_refused_past_it() {
    const EACH: usize = 500_000;
    const COUNT: usize = 30;
    const LIMIT: usize = 8 * MIB;
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::fresh(600, json!(["x".repeat(EACH)]).to_string()));
    let node = Node::builder()
        .origin(&origin.url())
        .infer("json-array")
        .route("ttl_ms = 600000")
        .memory("64MiB")
        .set("pool.web.batch", "size_max = 1")
        .set("cache", &format!("bodies_bytes_max = {LIMIT}\npart_ms = 20"))
        .start()
        .await;
    // They read nothing.
    let conn = Conn::h2_shut(node.address).await.unwrap();
    let (mut open, mut refused) = (Vec::new(), 0);
    for number in 0..COUNT {
        let opened = conn.stream().open(node.post(ARRAY).json(&json!(number))).await.unwrap();
        match opened.status {
            200 => open.push(opened),
            _ => {
                assert_eq!((opened.status, opened.headers["retry-after"].to_str().unwrap()), (503, "1"));
                refused += 1;
            }
        }
    }
    let held = node.metric("holm_cache_bodies_bytes", "").await;
    assert!(open.len() * EACH <= LIMIT && held <= LIMIT as f64, "{} replies, {held} bytes", open.len());
    assert!(open.len() >= 8 && refused >= 8, "{} replies, {refused} refusals", open.len());
    drop(open);
    eventually("all given back", async || node.metric("holm_cache_bodies_bytes", "").await == 0.0).await;

    // One response for many clients is in memory once.
    let mut open = Vec::new();
    for _ in 0..COUNT {
        let opened = conn.stream().open(node.post(ARRAY).json(&json!(0))).await.unwrap();
        assert_eq!(opened.status, 200);
        open.push(opened);
    }
    let held = node.metric("holm_cache_bodies_bytes", "").await;
    assert!(held <= 2.0 * (EACH + 2) as f64, "{held} bytes for {} replies", open.len());
}
