//! Stored parts past their lifetime: renewed, served while they are refreshed or in place of a failure, served without
//! the origin, and never mixed.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use bytes::Bytes;

use crate::harness::{
    client::Response,
    eventually, found,
    node::{Node, NodeHandle},
    origin::{Origin, Reply, Seen},
    sealed,
};

/// Bytes of a part.
const PART: usize = 4096;

/// Stale at once, and good for when the origin fails.
const IF_ERROR: &str = "max-age=0, stale-if-error=600";

/// Both versions of a body of four parts.
fn versions() -> [Bytes; 2] {
    [sealed("one", 4 * PART), sealed("two", 4 * PART)]
}

/// Serves `bytes=FIRST-LAST` of a body that has this tag, and 304 to a client that has it.
fn serving(seen: &Seen, body: &Bytes, tag: &str, control: &str) -> Reply {
    if !tag.is_empty() && seen.header("if-none-match") == tag {
        return Reply::status(304).header("cache-control", control).header("etag", tag);
    }
    let range = seen.header("range").strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let reply = match range {
        None => Reply::ok(body.clone()),
        Some((first, last)) => {
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            let last = last.min(body.len() - 1);
            let range = format!("bytes {first}-{last}/{}", body.len());
            Reply::says(206, body.slice(first..=last)).header("content-range", &range)
        }
    };
    let reply = reply.header("cache-control", control);
    if tag.is_empty() { reply } else { reply.header("etag", tag) }
}

/// An origin of `/a` whose version can be set, and that fails beyond the last one.
struct Site {
    origin: Origin,
    node: Node,
    version: Arc<AtomicUsize>,
    bodies: [Bytes; 2],
}

/// The version of an origin that responds with 503.
const FAILING: usize = 2;

impl Site {
    async fn start(control: &'static str) -> Self {
        let (origin, version, bodies) = (Origin::start().await, Arc::new(AtomicUsize::new(0)), versions());
        let (now, sent) = (Arc::clone(&version), bodies.clone());
        origin.on("/a", move |seen| match now.load(SeqCst) {
            FAILING => Reply::status(503),
            number => serving(seen, &sent[number], &format!("\"{number}\""), control),
        });
        let builder = Node::builder().origin(&origin.url()).route("range_miss = \"parts\"");
        let builder = builder.set("pool.web", "attempts_max = 1").set("pool.web.eject", "failures = 1000000");
        let node = builder.set("cache", "part_bytes = \"4KiB\"").start().await;
        Self { origin, node, version, bodies }
    }

    fn set(&self, version: usize) {
        self.version.store(version, SeqCst);
    }

    /// Asks for so many parts from one on.
    async fn ask(&self, part: usize, count: usize) -> Response {
        ask(&self.node, part, count, "").await
    }

    /// Fetches one part, and waits until it is stored.
    async fn store(&self, part: usize) {
        assert_eq!(self.ask(part, 1).await.status, 206);
        eventually("a stored part", async || self.stored(part, 1).await.status == 206).await;
    }

    /// Returns what is stored of parts, be it stale.
    async fn stored(&self, part: usize, count: usize) -> Response {
        ask(&self.node, part, count, "only-if-cached, max-stale=600").await
    }

    /// Waits until the lifetime of a part is over.
    async fn outlives(&self, part: usize) {
        eventually("the end of its lifetime", async || self.stored(part, 1).await.cache().ttl() < 0).await;
    }

    /// Whether a response is these parts of a version.
    fn is(&self, response: &Response, version: usize, part: usize, count: usize) -> bool {
        response.status == 206 && response.body == self.bodies[version][part * PART..(part + count) * PART]
    }
}

async fn ask(node: &NodeHandle, part: usize, count: usize, control: &str) -> Response {
    let range = format!("bytes={}-{}", part * PART, (part + count) * PART - 1);
    let ask = node.get("/a").header("range", &range);
    let ask = if control.is_empty() { ask } else { ask.header("cache-control", control) };
    ask.send().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_part_is_renewed_by_a_304() {
    let site = Site::start("max-age=0").await;
    site.store(1).await;
    let (hits, renewed) = (site.origin.hits("/a"), site.ask(1, 1).await);
    assert!(site.is(&renewed, 0, 1, 1));
    let cache = renewed.cache();
    assert_eq!((cache.get("fwd"), cache.get("fwd-status"), site.origin.hits("/a")), ("stale", "304", hits + 1));
    let seen = site.origin.seen("/a").pop().unwrap();
    let wanted = format!("bytes={}-{}", PART, 2 * PART - 1);
    assert_eq!((seen.header("if-none-match"), seen.header("range")), ("\"0\"", wanted.as_str()));

    site.set(1);
    assert!(site.is(&site.ask(1, 1).await, 1, 1, 1), "another version comes by the same request");
    assert_eq!(site.origin.hits("/a"), hits + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_part_is_served_while_it_is_refreshed() {
    let site = Site::start("max-age=1, stale-while-revalidate=600").await;
    for part in [0, 1] {
        site.store(part).await;
    }
    for part in [0, 1] {
        site.outlives(part).await;
    }
    let stale = site.ask(0, 2).await;
    assert!(stale.is_hit() && stale.cache().ttl() < 0 && site.is(&stale, 0, 0, 2), "{:?}", stale.cache());
    eventually("the refresh of both", async || {
        site.origin.seen("/a").iter().filter(|seen| seen.header("if-none-match") == "\"0\"").count() >= 2
    })
    .await;
    eventually("a fresh hit", async || {
        let response = site.ask(0, 2).await;
        response.is_hit() && response.cache().ttl() >= 0
    })
    .await;
}

/// What is missing would have to come from the origin, which has another version by now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reply_begins_with_a_stale_part_unless_the_others_are_there() {
    let site = Site::start("max-age=1, stale-while-revalidate=600").await;
    site.store(0).await;
    site.outlives(0).await;
    site.set(1);
    let whole = site.ask(0, 3).await;
    assert!(site.is(&whole, 1, 0, 3), "all of it is of the new version");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_parts_are_served_if_the_origin_fails() {
    let site = Site::start(IF_ERROR).await;
    for part in [0, 1] {
        site.store(part).await;
    }
    site.set(FAILING);
    let hits = site.origin.hits("/a");
    let stale = site.ask(0, 2).await;
    assert!(site.is(&stale, 0, 0, 2));
    assert_eq!((stale.cache().get("detail"), stale.is_hit()), ("origin-error", false));
    assert!(!stale.header("proxy-status").is_empty() && !stale.header("age").is_empty());
    assert_eq!(site.origin.hits("/a"), hits + 1, "one failure stands for the whole range");
    assert_eq!(site.ask(1, 2).await.status, 503, "a part of it is missing");

    site.node.purge_url("/a", false).await;
    assert_eq!(site.ask(0, 2).await.status, 503, "what was purged stands in for nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_two_versions_never_stand_in_for_one() {
    let site = Site::start(IF_ERROR).await;
    site.store(0).await;
    site.set(1);
    site.store(1).await;
    site.set(FAILING);
    for (part, version) in [(0, 0), (1, 1)] {
        assert!(site.is(&site.ask(part, 1).await, version, part, 1), "each by itself");
    }
    assert_eq!(site.ask(0, 2).await.status, 503, "and not together");
    assert_eq!(site.stored(0, 2).await.status, 504, "nor without the origin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_parts_are_served_if_the_origin_is_out_of_reach() {
    for (control, wanted) in [("max-age=1", true), ("max-age=1, must-revalidate", false)] {
        let Site { origin, node, bodies, .. } = {
            let site = Site::start(control).await;
            site.store(2).await;
            site
        };
        let is_stale = async || ask(&node, 2, 1, "only-if-cached").await.status == 504;
        eventually("the end of its lifetime", is_stale).await;
        origin.stop().await;
        let response = ask(&node, 2, 1, "").await;
        let is_part = response.status == 206 && response.body == bodies[0][2 * PART..3 * PART];
        assert_eq!(is_part, wanted, "{control}: {}", response.status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_origin_there_is_what_is_stored_or_nothing() {
    let site = Site::start("max-age=600").await;
    let offline = async |part, count| ask(&site.node, part, count, "only-if-cached").await;
    assert_eq!((offline(0, 1).await.status, site.origin.total()), (504, 0));
    for part in [0, 1, 3] {
        site.store(part).await;
    }
    let total = site.origin.total();
    let response = offline(0, 2).await;
    assert!(response.is_hit() && site.is(&response, 0, 0, 2));
    let middle = site.node.get("/a").header("range", "bytes=4000-5000").header("cache-control", "only-if-cached");
    let middle = middle.send().await;
    assert!(middle.status == 206 && middle.body == site.bodies[0][4000..=5000]);
    for (part, count) in [(2, 1), (1, 2), (0, 4)] {
        assert_eq!(offline(part, count).await.status, 504, "{count} from {part} on");
    }
    let several = site.node.get("/a").header("range", "bytes=0-1,9-10").header("cache-control", "only-if-cached");
    assert_eq!(several.send().await.status, 504, "several ranges aren't put together here");
    assert_eq!(site.origin.total(), total, "the origin wasn't asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_whole_stands_in_for_parts_that_did_not_come() {
    let site = Site::start(IF_ERROR).await;
    assert!(site.node.fetch("/a").await.body == site.bodies[0]);
    site.node.stale("/a").await;
    site.set(FAILING);
    let response = found("a part of the whole", async || {
        let response = site.ask(1, 2).await;
        (response.status == 206).then_some(response)
    })
    .await;
    assert!(site.is(&response, 0, 1, 2));
    assert_eq!(response.cache().get("detail"), "origin-error");
}

/// An origin that has another coding of a body, say, and doesn't know of `If-Range`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_without_the_same_strong_tag_are_never_put_together() {
    for tag in ["", "W/\"0\"", "\"1\""] {
        let (origin, count, bodies) = (Origin::start().await, AtomicUsize::new(0), versions());
        let sent = bodies.clone();
        origin.on("/a", move |seen| {
            let version = count.fetch_add(1, SeqCst).min(1);
            let reply = serving(seen, &sent[version], "", "max-age=600");
            match [r#""0""#, tag][version] {
                "" => reply,
                tag => reply.header("etag", tag),
            }
        });
        let builder = Node::builder().origin(&origin.url()).route("range_miss = \"parts\"");
        let node = builder.set("cache", "part_bytes = \"4KiB\"").start().await;
        assert!(ask(&node, 1, 1, "").await.body == bodies[0][PART..2 * PART]);
        eventually("a stored part", async || ask(&node, 1, 1, "only-if-cached").await.status == 206).await;
        // It breaks off, or is another version as a whole.
        let both = node.get("/a").header("range", &format!("bytes={PART}-{}", 3 * PART - 1)).try_send().await;
        if let Ok(response) = both {
            assert!(response.body == bodies[1][PART..3 * PART], "{tag}: {} bytes", response.body.len());
        }
    }
}
