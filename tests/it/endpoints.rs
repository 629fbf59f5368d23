//! The endpoints of a pool: Unix sockets, paths in front of the requests' own, weights, backups and zones.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use http::{Response, Version};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    net::UnixListener,
    task::{JoinHandle, JoinSet},
};

use crate::harness::{
    client::full,
    eventually,
    model::ARRAY,
    node::{Builder, Node},
    origin::{Gate, Origin, Reply, Seen},
    quoted,
};

/// Responds to everything with a word, unstored.
async fn saying(word: &'static str) -> Origin {
    let origin = Origin::start().await;
    says(&origin, word);
    origin
}

fn says(origin: &Origin, word: &'static str) {
    origin.on("*", move |_| Reply::ok(word).header("cache-control", "no-store"));
}

/// A pool with these lines for endpoints.
fn pool(endpoints: &[String]) -> Builder {
    Node::builder().set("pool.web", &format!("endpoints = [{}]", endpoints.join(", ")))
}

fn table(origin: &Origin, more: &str) -> String {
    format!("{{ url = {}, {more} }}", quoted(&origin.url()))
}

/// Asks for so many pages, all of which come.
async fn ask(node: &Node, count: usize) {
    for n in 0..count {
        assert_eq!(node.fetch(&format!("/{n}")).await.status, 200, "{n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_at_a_unix_socket_is_an_origin_as_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let origin = Origin::at_socket(&path);
    origin.on("/page", |_| Reply::fresh(60, "page"));
    origin.on("/v1/page", |_| Reply::ok("page of v1"));
    origin.on("/echo", |seen| Reply::ok(seen.body.clone()));
    let node = Node::builder().origin(&origin.url()).start().await;
    assert_eq!(node.fetch("/page").await.text(), "page");
    assert_eq!(node.hit("/page").await.text(), "page");
    assert_eq!(origin.seen("/page")[0].header("host"), "shop.test", "an address of no name says the client's");
    let body = "x".repeat(300_000);
    assert_eq!(node.post("/echo").body(body.clone()).send().await.text(), body);
    let pools = node.admin("/pools").send().await.json();
    assert_eq!(pools[0]["endpoints"][0]["address"], json!(origin.url()), "{pools}");

    let in_front = Node::builder().origin(&format!("{}:/v1/", origin.url()));
    let node = in_front.set("pool.web", "host = \"app.example\"").start().await;
    assert_eq!(node.fetch("/page").await.text(), "page of v1");
    assert_eq!(origin.seen("/v1/page")[0].header("host"), "app.example");

    let nobody = dir.path().join("nobody.sock");
    let node = Node::builder().origin(&format!("unix:{}", nobody.display())).start().await;
    let response = node.fetch("/page").await;
    assert_eq!((response.status, response.cache().get("detail")), (502, "connect-failed"));
}

/// An origin at a Unix socket that speaks HTTP/2 without having been asked.
fn http2_at(path: &Path, seen: Arc<Mutex<Vec<(Version, String)>>>) -> JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
                seen.lock().push((request.version(), authority));
                async { Ok::<_, std::convert::Infallible>(Response::new(full("h2"))) }
            });
            let serving = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move { drop(serving.await) });
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_spoken_at_a_unix_socket_that_is_known_to_speak_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, seen) = (dir.path().join("app.sock"), Arc::default());
    let origin = http2_at(&path, Arc::clone(&seen));
    let node =
        Node::builder().origin(&format!("unix:{}", path.display())).set("pool.web", "http = \"2\"").start().await;
    assert_eq!(node.fetch("/x").await.text(), "h2");
    assert_eq!(*seen.lock(), [(Version::HTTP_2, "shop.test".to_owned())]);
    origin.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_are_put_behind_that_of_the_endpoint_and_do_not_leave_it() {
    let origin = saying("in").await;
    let node = Node::builder()
        .origin(&format!("{}/app//v1/", origin.url()))
        .set("pool.web", "health.path = \"/health\"")
        .start()
        .await;
    eventually("the check", async || origin.hits("/app/v1/health") > 0).await;
    for (given, seen) in [
        ("/", "/app/v1/"),
        ("/a?b=/../c", "/app/v1/a?b=/../c"),
        ("/a//b/%61", "/app/v1/a/b/a"),
        ("/a/../b", "/app/v1/b"),
        ("/a%2Fb", "/app/v1/a%2Fb"),
    ] {
        assert_eq!(node.fetch(given).await.status, 200, "{given}");
        assert_eq!(origin.hits(seen), 1, "{given}");
    }
    let before = origin.total() - origin.hits("/app/v1/health");
    for given in ["/../b", "/%2e%2e/b", "/a/..%2f..%2f..%2fb", "/a/..%5c..%5cb", "/a/..;/..;/b"] {
        let status = node.fetch(given).await.status;
        assert!(status >= 400, "{given}: {status}");
    }
    assert_eq!(origin.total() - origin.hits("/app/v1/health"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_are_sent_behind_the_path_of_the_endpoint() {
    let origin = Origin::start().await;
    origin.on("/tenants/a/double", |seen| {
        let items: Vec<Value> = serde_json::from_slice(&seen.body).unwrap();
        let doubled: Vec<Value> = items.iter().map(|item| json!({"double": 2 * item["n"].as_i64().unwrap()})).collect();
        Reply::ok(Value::Array(doubled).to_string()).header("content-type", "application/json")
    });
    let node = Node::builder().origin(&format!("{}/tenants/a", origin.url())).infer("json-array").start().await;
    let response = node.post(ARRAY).json(&json!([{"n": 3}, {"n": 4}])).send().await;
    assert_eq!(response.json(), json!([{"double": 6}, {"double": 8}]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_are_as_the_weights() {
    let (heavy, light) = (saying("heavy").await, saying("light").await);
    let node = pool(&[table(&heavy, "weight = 3"), quoted(&light.url())]).start().await;
    ask(&node, 400).await;
    assert_eq!(heavy.total() + light.total(), 400);
    // Three quarters; five times the deviation that is to be expected.
    assert!((256..=344).contains(&heavy.total()), "{}", heavy.total());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_takes_over_and_gives_back() {
    let (first, backup) = (saying("first").await, saying("backup").await);
    let node = pool(&[table(&backup, "backup = true"), quoted(&first.url())])
        .set("pool.web.eject", "failures = 1\nduration_ms = 100\npercent_max = 100")
        .start()
        .await;
    ask(&node, 30).await;
    assert_eq!((first.total(), backup.total()), (30, 0));

    let address = first.address();
    first.stop().await;
    ask(&node, 30).await;
    assert_eq!(backup.total(), 30);
    assert_eq!(node.metric("holm_origin_attempts_total", "zone=\"own\",backup=\"true\"").await, 30.0);
    let pools = node.admin("/pools").send().await.json();
    assert_eq!((&pools[0]["endpoints"][0]["backup"], &pools[0]["endpoints"][1]["weight"]), (&json!(true), &json!(1)));

    let first = Origin::start_at(address).await;
    says(&first, "first");
    eventually("the first one at work", async || node.fetch("/again").await.text() == "first").await;
    let sent = backup.total();
    ask(&node, 30).await;
    assert_eq!(backup.total(), sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_zones_are_for_when_the_own_has_none_of_use() {
    let (near, far, backup) = (saying("near").await, saying("far").await, saying("backup").await);
    let endpoints =
        [table(&backup, "zone = \"a\", backup = true"), table(&far, "zone = \"b\""), table(&near, "zone = \"a\"")];
    let lenient = "failures = 1\nduration_ms = 60000\npercent_max = 100";
    let node = pool(&endpoints).set("pool.web.eject", lenient).zone("a").start().await;
    ask(&node, 30).await;
    assert_eq!((near.total(), far.total()), (30, 0));
    near.stop().await;
    ask(&node, 30).await;
    assert_eq!(far.total(), 30);
    assert_eq!(node.metric("holm_origin_attempts_total", "zone=\"other\",backup=\"false\"").await, 30.0);
    far.stop().await;
    ask(&node, 30).await;
    assert_eq!(backup.total(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_zones_are_used_in_the_order_of_the_pool() {
    let (near, first, second, last) =
        (saying("near").await, saying("first").await, saying("second").await, saying("last").await);
    let endpoints = [
        table(&last, "zone = \"d\""),
        table(&second, "zone = \"c\""),
        table(&first, "zone = \"b\""),
        table(&near, "zone = \"a\""),
    ];
    let lenient = "failures = 1\nduration_ms = 60000\npercent_max = 100";
    let builder = pool(&endpoints).set("pool.web", "zones = [\"b\", \"c\"]").set("pool.web.eject", lenient);
    let node = builder.zone("a").start().await;
    let mut origins = vec![near, first, second, last];
    while !origins.is_empty() {
        ask(&node, 20).await;
        let counts: Vec<usize> = origins.iter().map(Origin::total).collect();
        assert!(counts[0] == 20 && counts[1..].iter().all(|count| *count == 0), "{counts:?}");
        origins.remove(0).stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_zone_prefers_others_as_soon_as_it_is_told_where_it_is() {
    let (one, two) = (saying("one").await, saying("two").await);
    let builder = pool(&[table(&one, "zone = \"a\""), table(&two, "zone = \"b\"")]);
    let node = builder.start().await;
    ask(&node, 40).await;
    assert!(one.total() > 0 && two.total() > 0, "no zone is its own");
    node.adopt(&builder.zone("b")).await.unwrap();
    let before = one.total();
    ask(&node, 30).await;
    assert_eq!(one.total(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_addresses_of_a_name_are_shown() {
    let origin = saying("x").await;
    let port = origin.address().port();
    let node = Node::builder().origin(&format!("http://localhost:{port}")).start().await;
    assert_eq!(node.fetch("/x").await.text(), "x");
    let pools = node.admin("/pools").send().await.json();
    let addresses = pools[0]["endpoints"][0]["addresses"].as_array().unwrap();
    assert!(addresses.contains(&json!(format!("127.0.0.1:{port}"))), "{pools}");
}

/// Responds with the items that a model was sent.
fn echo(seen: &Seen) -> Reply {
    Reply::ok(seen.body.clone()).header("content-type", "application/json")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_stops_with_the_only_slot_leaves_it_to_another_one() {
    let (stops, works) = (Origin::start().await, Origin::start().await);
    let (has_stopped, gate) = (Arc::new(AtomicBool::new(false)), Gate::closed());
    let (flag, held) = (Arc::clone(&has_stopped), gate.clone());
    stops.on(ARRAY, move |seen| if flag.load(SeqCst) { echo(seen).behind(&held) } else { echo(seen) });
    works.on(ARRAY, echo);
    let batch = "concurrency = 1\noverdue_factor = 4\noverdue_ms = 20";
    let node = Node::builder().endpoints(&[stops.url(), works.url()]).infer("json-array");
    let node = node.set("pool.web.batch", batch).start().await;
    let mut n = 0;
    eventually("batches of both", async || {
        n += 1;
        assert_eq!(node.post(ARRAY).json(&json!({"n": n})).send().await.status, 200, "{n}");
        stops.hits(ARRAY) > 2 && works.hits(ARRAY) > 2
    })
    .await;

    has_stopped.store(true, SeqCst);
    let (conn, mut asks, before) = (node.h2().await, JoinSet::new(), stops.hits(ARRAY));
    eventually("a batch where it stops", async || {
        n += 1;
        let (mut stream, request) = (conn.stream(), node.post(ARRAY).json(&json!({"n": n})));
        asks.spawn(async move { stream.send(request).await });
        stops.hits(ARRAY) > before
    })
    .await;
    for n in n + 1..n + 6 {
        let response = node.post(ARRAY).json(&json!({"n": n})).send().await;
        assert_eq!((response.status, response.json()), (200, json!({"n": n})));
    }
    assert_eq!(stops.hits(ARRAY), before + 1, "it has nothing more to do meanwhile");
    gate.open();
    assert!(asks.join_all().await.iter().all(|response| response.status == 200));
}
