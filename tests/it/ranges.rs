//! Ranges: cut from what is stored, from what still arrives, and from what is fetched for them; put together from parts;
//! or passed on.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use fastrand::Rng;
use http::Method;
use tokio::task::JoinSet;

use crate::harness::{
    client::{Conn, Response},
    is_sealed,
    node::{Node, NodeHandle},
    origin::{Gate, Origin, Reply, Seen, Taps},
    sealed,
};

const MIB: usize = 1 << 20;

/// Three parts of the default size.
const LENGTH: usize = 2 * MIB + MIB / 2;

const DIGITS: &str = "0123456789";

/// Asks for a range.
async fn ask(node: &NodeHandle, target: &str, range: &str) -> Response {
    node.get(target).header("range", range).send().await
}

/// Asks for a range under a condition.
async fn ask_if(node: &NodeHandle, target: &str, range: &str, condition: &str, value: &str) -> Response {
    node.get(target).header("range", range).header(condition, value).send().await
}

/// An origin that cuts one range `bytes=FIRST-LAST` by itself.
fn cutting(seen: &Seen, body: &Bytes) -> Reply {
    let range = seen.header("range").strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let Some((first, last)) = range else { return Reply::fresh(600, body.clone()) };
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let range = format!("bytes {first}-{last}/{}", body.len());
    Reply::says(206, body.slice(first..=last)).header("cache-control", "max-age=600").header("content-range", &range)
}

/// A header field of a response that says how long it is fresh.
type Lifetime = (&'static str, &'static str);

const FRESH: Lifetime = ("cache-control", "max-age=600");

/// An origin that cuts one range by itself, of a body that has this tag.
fn slicing(seen: &Seen, body: &Bytes, tag: &str) -> Reply {
    slicing_for(seen, body, tag, FRESH)
}

/// The same, whose responses have this lifetime.
fn slicing_for(seen: &Seen, body: &Bytes, tag: &str, (name, value): Lifetime) -> Reply {
    let range = seen.header("range").strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let Some((first, last)) = range else { return Reply::ok(body.clone()).header(name, value).header("etag", tag) };
    let first: usize = first.parse().unwrap();
    let last = last.parse().map_or(body.len() - 1, |last: usize| last.min(body.len() - 1));
    if first > last {
        return Reply::status(416).header("content-range", &format!("bytes */{}", body.len()));
    }
    let range = format!("bytes {first}-{last}/{}", body.len());
    let reply = Reply::says(206, body.slice(first..=last)).header("content-range", &range);
    reply.header(name, value).header("etag", tag)
}

/// A node whose ranges are put together from parts of 4 KiB.
async fn in_parts(origin: &Origin) -> Node {
    let builder = Node::builder().origin(&origin.url()).route("range_miss = \"parts\"");
    builder.set("cache", "part_bytes = \"4KiB\"").start().await
}

const PART: usize = 4096;

/// The parts of a multipart body: each one's `Content-Range`, and its bytes.
fn parts(response: &Response) -> Vec<(String, Bytes)> {
    let media_type = response.header("content-type");
    let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").unwrap_or_else(|| panic!("{media_type}"));
    let (mut parts, mut rest) = (Vec::new(), response.body.clone());
    let delimiter = format!("--{boundary}\r\n");
    assert_eq!(rest.split_to(delimiter.len()), delimiter);
    loop {
        let end = rest.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
        let head = rest.split_to(end + 4);
        let head = std::str::from_utf8(&head).unwrap();
        let range = head.lines().find_map(|line| line.strip_prefix("Content-Range: ")).expect("a range").to_owned();
        let (first, last) = range.strip_prefix("bytes ").unwrap().split_once('/').unwrap().0.split_once('-').unwrap();
        let length = last.parse::<usize>().unwrap() - first.parse::<usize>().unwrap() + 1;
        parts.push((range, rest.split_to(length)));
        if rest == format!("\r\n--{boundary}--\r\n") {
            return parts;
        }
        assert_eq!(rest.split_to(delimiter.len() + 2), format!("\r\n{delimiter}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_is_cut_to_the_range_that_is_asked_for() {
    let origin = Origin::start().await;
    let reply = || Reply::fresh(600, DIGITS).header("etag", "\"1\"").header("content-type", "text/plain");
    origin.on("/a", move |_| reply());
    let node = Node::builder().origin(&origin.url()).start().await;
    node.fetch("/a").await;
    node.hit("/a").await;
    for (range, status, content_range, body) in [
        ("bytes=0-0", 206, "bytes 0-0/10", "0"),
        ("bytes=2-4", 206, "bytes 2-4/10", "234"),
        ("bytes=7-", 206, "bytes 7-9/10", "789"),
        ("bytes=-2", 206, "bytes 8-9/10", "89"),
        ("bytes=-99", 206, "bytes 0-9/10", DIGITS),
        ("bytes=5-99999999999999999999999", 206, "bytes 5-9/10", "56789"),
        ("bytes=0-2,2-4", 206, "bytes 0-4/10", "01234"),
        ("bytes=99-,4-4", 206, "bytes 4-4/10", "4"),
        ("bytes=4-2", 200, "", DIGITS),
        ("lines=0-1", 200, "", DIGITS),
    ] {
        let response = ask(&node, "/a", range).await;
        assert_eq!((response.status, response.text()), (status, body), "{range}");
        assert_eq!(response.header("content-range"), content_range, "{range}");
        assert_eq!(response.header("content-length"), body.len().to_string(), "{range}");
        assert_eq!((response.header("etag"), response.header("content-type")), ("\"1\"", "text/plain"), "{range}");
        assert!(response.is_hit(), "{range}: {}", response.header("cache-status"));
    }
    for range in ["bytes=10-", "bytes=-0", "bytes=99999999999999999999999-"] {
        let response = ask(&node, "/a", range).await;
        assert_eq!((response.status, response.header("content-range")), (416, "bytes */10"), "{range}");
        assert!(response.is_hit() && response.json()["status"] == 416, "{range}");
    }
    let head = node.ask(Method::HEAD, "/a").header("range", "bytes=0-1").send().await;
    assert_eq!((head.status, head.header("content-length"), head.header("content-range")), (200, "10", ""));
    let response = Conn::h2(node.address).await.unwrap().send(node.get("/a").header("range", "bytes=3-5")).await;
    assert_eq!((response.status, response.text()), (206, "345"), "over HTTP/2");
    assert_eq!(origin.total(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_ranges_are_one_multipart_response() {
    let origin = Origin::start().await;
    origin.on("/a", |_| Reply::fresh(600, DIGITS).header("content-type", "text/plain"));
    origin.on("/coded", |_| Reply::fresh(600, DIGITS).header("content-encoding", "gzip"));
    let node = Node::builder().origin(&origin.url()).start().await;
    node.fetch("/a").await;
    node.hit("/a").await;
    for _ in 0..2 {
        let response = ask(&node, "/a", "bytes=-2, 0-1,4-4").await;
        let wanted = [("bytes 8-9/10", "89"), ("bytes 0-1/10", "01"), ("bytes 4-4/10", "4")];
        let wanted = wanted.map(|(range, bytes)| (range.to_owned(), Bytes::from(bytes)));
        assert_eq!((response.status, parts(&response)), (206, wanted.to_vec()));
        assert_eq!(response.header("content-length"), response.body.len().to_string());
        assert!(response.is_hit() && response.header("content-range").is_empty());
    }
    let many = |count: usize| (0..count).map(|_| "0-0").collect::<Vec<_>>().join(",");
    let response = ask(&node, "/a", &format!("bytes={}", many(16))).await;
    assert_eq!((response.status, response.text()), (206, "0"), "no byte twice");
    let response = ask(&node, "/a", &format!("bytes={}", many(17))).await;
    assert_eq!((response.status, response.text()), (200, DIGITS), "too many are ignored");

    node.fetch("/coded").await;
    let several = ask(&node, "/coded", "bytes=0-1,4-5").await;
    assert_eq!((several.status, several.text()), (200, DIGITS));
    let one = ask(&node, "/coded", "bytes=4-5").await;
    assert_eq!((one.status, one.text(), one.header("content-encoding")), (206, "45", "gzip"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_sets_the_media_type_sets_none_for_several_ranges() {
    let origin = Origin::start().await;
    origin.on("/a", |_| Reply::fresh(600, DIGITS).header("content-type", "text/plain"));
    let edits = "response_headers = { set = { content-type = \"text/x\" } }";
    let node = Node::builder().origin(&origin.url()).route(edits).start().await;
    node.fetch("/a").await;
    node.hit("/a").await;
    let one = ask(&node, "/a", "bytes=0-1").await;
    assert_eq!((one.status, one.text(), one.header("content-type")), (206, "01", "text/x"));
    let bytes: Vec<_> = parts(&ask(&node, "/a", "bytes=0-1,4-4").await).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(bytes, ["01", "4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_come_before_ranges() {
    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let origin = Origin::start().await;
    let reply = || Reply::fresh(600, DIGITS).header("etag", "\"1\"").header("last-modified", MODIFIED);
    origin.on("/a", move |_| reply());
    origin.on("/weak", |_| Reply::fresh(600, DIGITS).header("etag", "W/\"1\""));
    let node = Node::builder().origin(&origin.url()).start().await;
    for target in ["/a", "/weak"] {
        node.fetch(target).await;
        node.hit(target).await;
    }
    for (target, condition, value, status) in [
        ("/a", "if-range", "\"1\"", 206),
        ("/a", "if-range", "\"2\"", 200),
        ("/a", "if-range", "W/\"1\"", 200),
        ("/a", "if-range", MODIFIED, 206),
        ("/a", "if-range", "Sun, 06 Nov 1994 08:49:38 GMT", 200),
        ("/weak", "if-range", "W/\"1\"", 200),
        ("/a", "if-none-match", "\"1\"", 304),
        ("/a", "if-none-match", "\"2\"", 206),
        ("/a", "if-modified-since", MODIFIED, 304),
    ] {
        let response = ask_if(&node, target, "bytes=1-2", condition, value).await;
        let body = match status {
            200 => DIGITS,
            206 => "12",
            _ => "",
        };
        assert_eq!((response.status, response.text()), (status, body), "{target} {condition}: {value}");
    }
    assert_eq!(ask_if(&node, "/a", "bytes=99-", "if-range", "\"2\"").await.status, 200);
    assert_eq!(ask_if(&node, "/a", "bytes=99-", "if-range", "\"1\"").await.status, 416);
    assert_eq!(origin.total(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_a_body_in_parts_have_its_bytes_wherever_they_begin() {
    let (origin, dir, body) = (Origin::start().await, tempfile::tempdir().unwrap(), sealed("big", LENGTH));
    let sent = body.clone();
    origin.on("/big", move |_| Reply::fresh(600, sent.clone()));
    let builder = Node::builder().origin(&origin.url()).disk(dir.path());
    let node = builder.start().await;
    node.fetch("/big").await;
    assert!(node.hit("/big").await.body == body);
    node.stop().await;
    // All parts come from the disk.
    let node = builder.start().await;
    let mut rng = Rng::with_seed(7);
    for _ in 0..40 {
        let first = rng.usize(..LENGTH);
        let last = rng.usize(first..LENGTH.min(first + 2 * MIB));
        let response = ask(&node, "/big", &format!("bytes={first}-{last}")).await;
        assert!(response.status == 206 && response.body == body[first..=last], "{first} to {last}");
        assert_eq!(response.header("content-range"), format!("bytes {first}-{last}/{LENGTH}"));
        assert_eq!(response.header("content-length"), (last + 1 - first).to_string());
    }
    let response = ask(&node, "/big", &format!("bytes=-7,{}-{},0-9", MIB - 3, MIB + 3)).await;
    let wanted = [LENGTH - 7..LENGTH, MIB - 3..MIB + 4, 0..10];
    let bytes = |range: std::ops::Range<usize>| body.slice(range);
    assert_eq!(parts(&response).into_iter().map(|part| part.1).collect::<Vec<_>>(), wanted.map(bytes));
    let refused = ask(&node, "/big", &format!("bytes={LENGTH}-")).await;
    assert_eq!((refused.status, refused.header("content-range")), (416, format!("bytes */{LENGTH}").as_str()));
    assert_eq!(origin.total(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_what_is_not_stored_are_one_fetch_of_the_whole() {
    let (origin, gate, body) = (Origin::start().await, Gate::closed(), sealed("big", LENGTH));
    let (sent, held) = (body.clone(), gate.clone());
    origin.on("/big", move |_| Reply::fresh(600, sent.clone()).header("etag", "\"1\"").behind(&held));
    let node = Node::builder().origin(&origin.url()).memory("64MiB").start().await;
    let mut asking = JoinSet::new();
    for number in 0..8 {
        let (handle, body) = (NodeHandle::clone(&node), body.clone());
        asking.spawn(async move {
            let (first, last) = (number * LENGTH / 8, (number + 1) * LENGTH / 8 - 1);
            let response = ask_if(&handle, "/big", &format!("bytes={first}-{last}"), "if-range", "\"1\"").await;
            assert!(response.status == 206 && response.body == body[first..=last], "{first} to {last}");
        });
    }
    crate::harness::eventually("the fetch", async || origin.hits("/big") == 1).await;
    gate.open();
    asking.join_all().await;
    assert!(is_sealed(&node.hit("/big").await.body), "it is stored");
    let seen = origin.seen("/big");
    assert_eq!((seen.len(), seen[0].header("range"), seen[0].header("if-range")), (1, "", ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_is_sent_while_the_body_still_arrives() {
    let (origin, taps) = (Origin::start().await, Taps::default());
    let (known, unknown) = (taps.clone(), taps.clone());
    origin.on("/known", move |_| Reply::fresh(600, "").header("content-length", "10").fed(&known));
    origin.on("/unknown", move |_| Reply::fresh(600, "").fed(&unknown));
    let node = Node::builder().origin(&origin.url()).start().await;

    let asked = node.get("/known").header("range", "bytes=2-4");
    let opening = tokio::spawn(async move { asked.open().await.unwrap() });
    let pipe = taps.next().await;
    let opened = opening.await.unwrap();
    assert_eq!((opened.status, opened.headers["content-range"].to_str().unwrap()), (206, "bytes 2-4/10"));
    let several = tokio::spawn(node.get("/known").header("range", "bytes=8-8,1-1").send());
    pipe.send(Ok(Bytes::from_static(b"0123"))).await.unwrap();
    pipe.send(Ok(Bytes::from_static(b"45"))).await.unwrap();
    assert_eq!(opened.whole().await.unwrap().text(), "234", "the rest has yet to come");
    pipe.send(Ok(Bytes::from_static(b"6789"))).await.unwrap();
    drop(pipe);
    let several = several.await.unwrap();
    let ranges: Vec<_> = parts(&several).into_iter().map(|(_, bytes)| bytes).collect();
    assert!(
        ranges == ["1", "8"] || ranges == ["8", "1"],
        "in the order in which they arrive, or are stored: {ranges:?}"
    );
    assert_eq!(node.hit("/known").await.text(), DIGITS);
    assert_eq!(origin.hits("/known"), 1);

    let asked = tokio::spawn(node.get("/unknown").header("range", "bytes=0-2").send());
    let pipe = taps.next().await;
    pipe.send(Ok(Bytes::from_static(DIGITS.as_bytes()))).await.unwrap();
    drop(pipe);
    let whole = asked.await.unwrap();
    assert_eq!((whole.status, whole.text()), (200, DIGITS), "how long it is nobody knew");
    node.hit("/unknown").await;
    assert_eq!(ask(&node, "/unknown", "bytes=-1").await.text(), "9");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_to_be_stored_is_asked_for_by_its_range() {
    let (origin, body) = (Origin::start().await, sealed("large", MIB));
    let sent = body.clone();
    origin.on("/large", move |seen| cutting(seen, &sent));
    let node = Node::builder().origin(&origin.url()).set("cache", "object_bytes_max = \"100KiB\"").start().await;
    for (hits, first) in [(2, 1000), (3, MIB - 20)] {
        let last = first + 9;
        let response = ask(&node, "/large", &format!("bytes={first}-{last}")).await;
        assert!(response.status == 206 && response.body == body[first..=last]);
        assert_eq!(response.cache().get("fwd"), "bypass");
        assert_eq!(origin.hits("/large"), hits, "the first one finds out");
    }
    let ranges = origin.seen("/large").iter().filter(|seen| !seen.header("range").is_empty()).count();
    assert_eq!(ranges, 2);
    assert!(node.fetch("/large").await.body == body, "the whole passes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_stored_is_cut_as_it_passes_and_asked_for_by_its_range_from_then_on() {
    let origin = Origin::start().await;
    let digits = Bytes::from_static(DIGITS.as_bytes());
    origin.on("/own", move |seen| cutting(seen, &digits).header("cache-control", "private"));
    origin.on("/gone", |_| Reply::status(404));
    let node = Node::builder().origin(&origin.url()).start().await;
    for range in ["", "bytes=2-4"] {
        let response = ask(&node, "/own", "bytes=2-4").await;
        assert_eq!((response.status, response.text()), (206, "234"));
        assert_eq!(response.header("content-range"), "bytes 2-4/10");
        assert_eq!(origin.seen("/own").last().unwrap().header("range"), range);
    }
    let response = ask(&node, "/gone", "bytes=0-1").await;
    assert_eq!((response.status, response.text()), (404, "404"), "only a 200 has ranges");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_may_pass_ranges_on() {
    let origin = Origin::start().await;
    let digits = Bytes::from_static(DIGITS.as_bytes());
    origin.on("/a", move |seen| cutting(seen, &digits));
    let node = Node::builder().origin(&origin.url()).route("range_miss = \"pass\"").start().await;
    for hits in 1..3 {
        let response = ask(&node, "/a", "bytes=2-4").await;
        assert_eq!((response.status, response.text(), response.cache().get("fwd")), (206, "234", "bypass"));
        assert_eq!(origin.hits("/a"), hits, "a part isn't stored");
    }
    assert_eq!(node.fetch("/a").await.text(), DIGITS, "a part isn't the whole");
    node.hit("/a").await;
    let response = ask(&node, "/a", "bytes=-1").await;
    assert!(response.is_hit() && response.text() == "9");
    assert_eq!(origin.hits("/a"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_revalidated_is_cut_and_another_version_is_never_mixed_in() {
    let (origin, version) = (Origin::start().await, Arc::new(AtomicUsize::new(1)));
    let (now, bodies) = (Arc::clone(&version), [sealed("one", 5000), sealed("two", 5000)]);
    let stored = bodies.clone();
    origin.on("/a", move |seen| {
        let number = now.load(SeqCst);
        let tag = format!("\"{number}\"");
        let reply = if seen.header("if-none-match") == tag {
            Reply::status(304)
        } else {
            Reply::ok(stored[number - 1].clone())
        };
        reply.header("cache-control", "no-cache").header("etag", &tag)
    });
    let node = Node::builder().origin(&origin.url()).set("cache", "part_bytes = \"4KiB\"").start().await;
    node.fetch("/a").await;
    let renewed = crate::harness::found("a renewed entry", async || {
        let response = ask_if(&node, "/a", "bytes=4000-4200", "if-range", "\"1\"").await;
        (response.cache().get("fwd-status") == "304").then_some(response)
    })
    .await;
    assert!(renewed.status == 206 && renewed.body == bodies[0][4000..=4200]);
    let own = ask_if(&node, "/a", "bytes=4000-4200", "if-none-match", "\"1\"").await;
    assert_eq!(own.status, 304, "the client has it");

    version.store(2, SeqCst);
    let changed = ask_if(&node, "/a", "bytes=4000-4200", "if-range", "\"1\"").await;
    assert!(changed.status == 200 && changed.body == bodies[1], "a client that has the other gets the whole");
    let changed = ask(&node, "/a", "bytes=4000-4200").await;
    assert!(changed.status == 206 && changed.header("etag") == "\"2\"" && changed.body == bodies[1][4000..=4200]);
    assert!(origin.seen("/a").iter().all(|seen| seen.header("range").is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_put_together_from_parts_each_of_which_is_fetched_once() {
    const LENGTH: usize = 12 * PART + 100;
    let (origin, body) = (Origin::start().await, sealed("sliced", LENGTH));
    let sent = body.clone();
    origin.on("/a", move |seen| slicing(seen, &sent, "\"1\"").header("content-type", "video/x"));
    let node = in_parts(&origin).await;
    let mut rng = Rng::with_seed(3);
    for _ in 0..40 {
        let first = rng.usize(..LENGTH);
        let last = rng.usize(first..LENGTH);
        let response = ask(&node, "/a", &format!("bytes={first}-{last}")).await;
        assert!(response.status == 206 && response.body == body[first..=last], "{first} to {last}");
        assert_eq!(response.header("content-range"), format!("bytes {first}-{last}/{LENGTH}"));
        assert_eq!(response.header("content-length"), (last + 1 - first).to_string());
        assert_eq!((response.header("etag"), response.header("content-type")), ("\"1\"", "video/x"));
    }
    for (range, first) in [("bytes=-7", LENGTH - 7), ("bytes=49000-", 49_000)] {
        let response = ask(&node, "/a", range).await;
        assert!(response.status == 206 && response.body == body[first..], "{range}");
    }
    let seen: Vec<String> = origin.seen("/a").iter().map(|seen| seen.header("range").to_owned()).collect();
    let distinct: BTreeSet<&String> = seen.iter().collect();
    assert!(distinct.len() == seen.len() && seen.len() <= 13, "{seen:?}");
    for range in &seen {
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        assert!(first.is_multiple_of(PART) && last == first + PART - 1, "{range}");
    }

    let total = origin.total();
    crate::harness::eventually("a hit", async || ask(&node, "/a", "bytes=5000-5010").await.is_hit()).await;
    assert_eq!(ask_if(&node, "/a", "bytes=1-2", "if-range", "\"1\"").await.status, 206);
    assert_eq!(origin.total(), total);
    let changed = ask_if(&node, "/a", "bytes=1-2", "if-range", "\"2\"").await;
    assert_eq!((changed.cache().get("fwd"), origin.total()), ("bypass", total + 1), "the origin judges it");
    let refused = ask(&node, "/a", &format!("bytes={LENGTH}-")).await;
    assert_eq!((refused.status, refused.header("content-range")), (416, format!("bytes */{LENGTH}").as_str()));

    node.purge_url("/a", false).await;
    for first in [0, 6 * PART] {
        let response = ask(&node, "/a", &format!("bytes={first}-{first}")).await;
        assert!(response.status == 206 && !response.is_hit(), "a purge takes all parts");
    }
    assert!(node.fetch("/a").await.body == body, "a part isn't the whole");
    node.hit("/a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_many_want_is_fetched_once() {
    let (origin, gate, body) = (Origin::start().await, Gate::closed(), sealed("sliced", 3 * PART));
    let (sent, held) = (body.clone(), gate.clone());
    origin.on("/a", move |seen| slicing(seen, &sent, "\"1\"").behind(&held));
    let node = in_parts(&origin).await;
    let mut asking = JoinSet::new();
    for number in 0..8 {
        let (handle, body) = (NodeHandle::clone(&node), body.clone());
        asking.spawn(async move {
            let (first, last) = (PART + number * 100, PART + number * 100 + 50);
            let response = ask(&handle, "/a", &format!("bytes={first}-{last}")).await;
            assert!(response.status == 206 && response.body == body[first..=last], "{first} to {last}");
        });
    }
    crate::harness::eventually("the fetch", async || origin.hits("/a") == 1).await;
    gate.open();
    asking.join_all().await;
    assert_eq!(origin.hits("/a"), 1);
}

/// However the origin changes between two versions, and whatever is stored of each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_two_versions_never_meet() {
    const LENGTH: usize = 8 * PART;
    let (origin, version) = (Origin::start().await, Arc::new(AtomicUsize::new(0)));
    let (now, bodies) = (Arc::clone(&version), [sealed("one", LENGTH), sealed("two", LENGTH)]);
    let sent = bodies.clone();
    origin.on("*", move |seen| {
        let number = now.load(SeqCst);
        slicing(seen, &sent[number], &format!("\"{number}\""))
    });
    let node = in_parts(&origin).await;
    let three = format!("bytes=0-{}", 3 * PART - 1);
    assert!(ask(&node, "/a", &format!("bytes=0-{}", 2 * PART - 1)).await.body == bodies[0][..2 * PART]);
    version.store(1, SeqCst);
    let third = format!("bytes={}-{}", 2 * PART, 3 * PART - 1);
    assert!(ask(&node, "/a", &third).await.body == bodies[1][2 * PART..3 * PART]);
    let broken = node.get("/a").header("range", &three).try_send().await;
    assert!(broken.is_err(), "it began with the old one");
    let whole = ask(&node, "/a", &three).await;
    assert!(whole.header("etag") == "\"1\"" && whole.body == bodies[1][..3 * PART], "all of it is of the new one");

    let (mut rng, mut whole) = (Rng::with_seed(5), 0);
    for _ in 0..200 {
        version.store(rng.usize(..2), SeqCst);
        let first = rng.usize(..LENGTH);
        let last = rng.usize(first..LENGTH);
        let asked = node.get("/b").header("range", &format!("bytes={first}-{last}"));
        let Ok(response) = asked.try_send().await else { continue };
        let number: usize = response.header("etag").trim_matches('"').parse().unwrap();
        assert!(response.status == 206 && response.body == bodies[number][first..=last], "{first} to {last}");
        whole += 1;
    }
    assert!(whole > 50, "{whole} of 200 were whole");
}

/// A range that has begun waits for another client's part, which turns out not to be for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_has_begun_is_whole_whatever_another_clients_part_is() {
    const MODIFIED: Lifetime = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
    // The field by which the origin knows the other client, the lifetime of what it gets, and that of what all get.
    for (field, own, others) in [
        ("x-own", ("cache-control", "private"), FRESH),
        ("x-own", ("cache-control", "max-age=0"), FRESH),
        // Without a stated lifetime a response to a request with a cookie is for its client.
        ("cookie", MODIFIED, MODIFIED),
    ] {
        let (origin, gate, body) = (Origin::start().await, Gate::closed(), sealed("sliced", 3 * PART));
        let (sent, held) = (body.clone(), gate.clone());
        origin.on("/a", move |seen| {
            if seen.header(field).is_empty() {
                slicing_for(seen, &sent, "\"1\"", others)
            } else {
                slicing_for(seen, &sent, "\"1\"", own).behind(&held)
            }
        });
        let node = in_parts(&origin).await;
        let range = format!("bytes={}-{}", PART, PART + 9);
        let other = tokio::spawn(node.get("/a").header("range", &range).header(field, "a=b").send());
        crate::harness::eventually("the other client's part", async || origin.hits("/a") == 1).await;
        let ask = node.get("/a").header("range", &format!("bytes=0-{}", 3 * PART - 1));
        let mut opened = ask.open().await.unwrap();
        let mut read = Vec::new();
        while read.len() < PART {
            read.extend_from_slice(&opened.piece().await.expect("the first part").unwrap());
        }
        // The node has had its chance to go on to the second part.
        for _ in 0..5 {
            node.admin("/readyz").send().await;
        }
        gate.open();
        let rest = crate::harness::within("the rest", opened.whole()).await;
        let rest = rest.unwrap_or_else(|error| panic!("{field} {own:?}: {error}"));
        read.extend_from_slice(&rest.body);
        assert!(rest.status == 206 && read == body, "{field} {own:?}");
        let other = other.await.unwrap();
        assert!(other.status == 206 && other.body == body[PART..PART + 10], "{field} {own:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_has_begun_is_whole_past_the_limit_of_flights_and_of_one_version() {
    let (origin, gate, body) = (Origin::start().await, Gate::closed(), sealed("one", 3 * PART));
    let (sent, held) = (body.clone(), gate.clone());
    origin.on("/a", move |seen| slicing(seen, &sent, "\"1\""));
    origin.on("/slow", move |_| Reply::fresh(600, "slow").behind(&held));
    let node = Node::builder().origin(&origin.url()).route("range_miss = \"parts\"");
    let node = node.set("cache", "part_bytes = \"4KiB\"").set("cache.collapse", "flights_max = 1").start().await;
    let flights = async |count: f64| {
        crate::harness::eventually("the flights", async || node.metric("holm_cache_flights", "").await == count).await;
    };
    crate::harness::eventually("the first part", async || ask(&node, "/a", "bytes=0-9").await.is_hit()).await;
    flights(0.0).await;
    let slow = tokio::spawn(node.get("/slow").send());
    crate::harness::eventually("the other flight", async || origin.hits("/slow") == 1).await;
    flights(1.0).await;

    let whole = format!("bytes=0-{}", 3 * PART - 1);
    let response = node.get("/a").header("range", &whole).try_send().await.unwrap();
    assert!(response.status == 206 && response.body == body);
    let rest = format!("bytes={}-{}", PART, 3 * PART - 1);
    assert_eq!(origin.seen("/a").last().unwrap().header("range"), rest, "the rest of it in one request");

    // An origin that sends the whole of another version, and doesn't say which one it is.
    let another = sealed("two", 3 * PART);
    origin.on("/a", move |_| Reply::fresh(600, another.clone()));
    let broken = node.get("/a").header("range", &whole).try_send().await;
    assert!(broken.is_err(), "it began with the old one");
    assert_eq!(origin.seen("/a").last().unwrap().header("range"), rest);
    gate.open();
    assert_eq!(slow.await.unwrap().text(), "slow");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_are_no_parts_ranges_are_passed_on() {
    let (origin, body) = (Origin::start().await, sealed("sliced", 3 * PART));
    let (weak, ignoring) = (body.clone(), body.clone());
    origin.on("/weak", move |seen| slicing(seen, &weak, "W/\"1\""));
    origin.on("/ignoring", move |_| Reply::fresh(600, ignoring.clone()).header("etag", "\"1\""));
    let node = in_parts(&origin).await;
    for (target, status) in [("/weak", 206), ("/ignoring", 200)] {
        for hits in [2, 3] {
            let response = ask(&node, target, "bytes=10-19").await;
            assert_eq!((response.status, response.cache().get("fwd")), (status, "bypass"), "{target}");
            let wanted = if status == 206 { &body[10..=19] } else { &body[..] };
            assert!(response.body == wanted, "{target}");
            assert_eq!(origin.hits(target), hits, "{target}: only the first one looks for parts");
        }
        assert_eq!(origin.seen(target).last().unwrap().header("range"), "bytes=10-19");
    }
    let several = ask(&node, "/ignoring", "bytes=0-1,5-6").await;
    assert_eq!(
        (several.status, several.cache().get("fwd")),
        (200, "bypass"),
        "those are for the origin to put together"
    );
}
