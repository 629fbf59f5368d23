//! One fetch for all requests that wait for the same response.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use crate::harness::{
    client::{Opened, Response},
    eventually, is_sealed,
    liar::{Liar, Lie, crlf},
    node::Node,
    origin::{Gate, Origin, Reply, Taps},
    sealed, within,
};

const CONNECTIONS: usize = 20;
const STREAMS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_for_a_missing_key_make_one_origin_request() {
    let (origin, taps) = (Origin::start().await, Taps::default());
    let (body, feed) = (sealed("hot", 20_000), taps.clone());
    origin.on("/hot", move |_| Reply::fresh(600, "").header("content-length", "20000").fed(&feed));
    let node = Node::builder().origin(&origin.url()).set("limits", "streams_max = 100").start().await;

    let (mut conns, mut clients) = (Vec::new(), JoinSet::new());
    for _ in 0..CONNECTIONS {
        let conn = node.h2().await;
        for _ in 0..STREAMS {
            let (mut stream, ask) = (conn.stream(), node.get("/hot"));
            clients.spawn(async move { stream.open(ask).await.unwrap() });
        }
        conns.push(conn);
    }
    // The origin sends a piece and then waits: a client that has a response's head now waits for the one fetch.
    let pipe = taps.next().await;
    pipe.send(Ok(body.slice(..5_000))).await.unwrap();
    let mut waiting: Vec<Opened> = within("a thousand heads", clients.join_all()).await;
    assert_eq!((waiting.len(), origin.hits("/hot")), (CONNECTIONS * STREAMS, 1));
    let first = waiting[0].piece().await.unwrap().unwrap();
    assert!(body.starts_with(&first), "the body streams before its end");
    pipe.send(Ok(body.slice(5_000..))).await.unwrap();
    drop(pipe);

    let mut collapsed = 0;
    for (index, opened) in waiting.into_iter().enumerate() {
        let response = opened.whole().await.unwrap();
        let rest = if index == 0 { &body[first.len()..] } else { &body[..] };
        assert!(response.status == 200 && response.body == rest, "client {index} got {} bytes", response.body.len());
        collapsed += usize::from(response.cache().has("collapsed"));
    }
    assert_eq!((collapsed, conns.len()), (CONNECTIONS * STREAMS - 1, CONNECTIONS));
    assert_eq!(origin.hits("/hot"), 1);
}

/// What comes for a request with a cookie isn't stored where nothing says for how long it is good, and says nothing about
/// requests without one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_a_cookie_share_a_fetch_whatever_one_with_a_cookie_got() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/page", move |seen| {
        let reply = Reply::ok("page").header("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
        if seen.header("cookie").is_empty() { reply.behind(&held) } else { reply }
    });
    let node = Node::builder().origin(&origin.url()).start().await;
    for _ in 0..2 {
        let own = node.get("/page").header("cookie", "a=b").send().await;
        assert_eq!((own.cache().has("stored"), own.cache().get("detail")), (false, "cookie"), "{:?}", own.cache());
    }
    let mut others = JoinSet::new();
    for _ in 0..8 {
        others.spawn(node.get("/page").send());
    }
    eventually("the fetch", async || origin.hits("/page") == 3).await;
    // The others have had their chance to fetch for themselves.
    for _ in 0..5 {
        node.admin("/readyz").send().await;
    }
    gate.open();
    for response in others.join_all().await {
        assert_eq!((response.status, response.text()), (200, "page"));
    }
    assert_eq!(origin.hits("/page"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_without_a_cookie_who_followed_one_with_it_share_another_fetch() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin
        .on("/page", move |_| Reply::ok("page").header("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT").behind(&held));
    let node = Node::builder().origin(&origin.url()).start().await;
    let own = tokio::spawn(node.get("/page").header("cookie", "a=b").send());
    eventually("its fetch", async || origin.hits("/page") == 1).await;
    let mut others = JoinSet::new();
    for _ in 0..8 {
        others.spawn(node.get("/page").send());
    }
    eventually("all requests", async || node.metric("holm_http_requests_total", "").await >= 9.0).await;
    gate.open();
    assert_eq!(own.await.unwrap().cache().get("detail"), "cookie");
    for response in others.join_all().await {
        assert_eq!((response.status, response.text()), (200, "page"));
    }
    assert_eq!(origin.hits("/page"), 2, "one for the cookie, and one for all others");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fetch_goes_on_when_its_client_leaves() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/left", move |_| Reply::fresh(600, sealed("left", 9000)).behind(&held));
    let node = Node::builder().origin(&origin.url()).start().await;

    let mut client = TcpStream::connect(node.address).await.unwrap();
    client.write_all(&crlf("GET /left HTTP/1.1\nHost: shop.test\n\n")).await.unwrap();
    eventually("the fetch", async || origin.hits("/left") == 1).await;
    drop(client);
    // Others are served meanwhile, so the node has had its chance to notice and to give up.
    origin.on("/other", |_| Reply::ok("other"));
    for _ in 0..5 {
        node.fetch("/other").await;
    }
    let waiter = tokio::spawn(node.get("/left").send());
    gate.open();
    assert_eq!(waiter.await.unwrap().body, sealed("left", 9000));
    assert_eq!(node.hit("/left").await.body, sealed("left", 9000));
    assert_eq!(origin.hits("/left"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_amid_the_body_harms_nobody() {
    let (origin, taps) = (Origin::start().await, Taps::default());
    let (body, feed) = (sealed("amid", 200_000), taps.clone());
    origin.on("/amid", move |_| Reply::fresh(600, "").fed(&feed));
    let node = Node::builder().origin(&origin.url()).start().await;

    let leader = tokio::spawn(node.get("/amid").open());
    let pipe = taps.next().await;
    pipe.send(Ok(body.slice(..100_000))).await.unwrap();
    let mut leader = leader.await.unwrap().unwrap();
    leader.piece().await.unwrap().unwrap();
    let waiter = node.get("/amid").open().await.unwrap();
    drop(leader);
    pipe.send(Ok(body.slice(100_000..))).await.unwrap();
    drop(pipe);
    let response = waiter.whole().await.unwrap();
    assert!(response.body == body && is_sealed(&response.body) && response.cache().has("collapsed"));
    node.hit("/amid").await;
    assert_eq!(origin.hits("/amid"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_response_replaces_none_that_a_later_fetch_has_stored() {
    for on_disk in [false, true] {
        let (origin, gate, asked) = (Origin::start().await, Gate::closed(), AtomicUsize::new(0));
        let held = gate.clone();
        origin.on("/page", move |_| match asked.fetch_add(1, SeqCst) {
            0 => Reply::fresh(600, "old").behind(&held),
            _ => Reply::fresh(600, "new"),
        });
        let dir = tempfile::tempdir().unwrap();
        let builder = Node::builder().origin(&origin.url());
        let node = if on_disk { builder.disk(dir.path()) } else { builder }.start().await;

        let slow = tokio::spawn(node.get("/page").send());
        eventually("the slow fetch", async || origin.hits("/page") == 1).await;
        let reload = node.get("/page").header("cache-control", "no-cache").send().await;
        assert_eq!(reload.text(), "new");
        assert_eq!(node.hit("/page").await.text(), "new");
        gate.open();
        assert_eq!(slow.await.unwrap().text(), "old", "its client asked before the other did");
        eventually("the end of both flights", async || node.metric("holm_cache_flights", "").await == 0.0).await;
        assert_eq!(node.fetch("/page").await.text(), "new", "on disk: {on_disk}");
        assert_eq!(origin.hits("/page"), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_knows_of_a_newer_response_takes_no_older_one() {
    let (origin, gate, asked) = (Origin::start().await, Gate::closed(), AtomicUsize::new(0));
    let held = gate.clone();
    origin.on("/page", move |_| match asked.fetch_add(1, SeqCst) {
        0 => Reply::fresh(600, "old").header("etag", "\"old\"").behind(&held),
        1 => Reply::fresh(1, "new").header("etag", "\"new\""),
        _ => Reply::fresh(600, "newest").header("etag", "\"newest\""),
    });
    let node = Node::builder().origin(&origin.url()).route("keep_ms = 600000").start().await;
    let slow = tokio::spawn(node.get("/page").send());
    eventually("the slow fetch", async || origin.hits("/page") == 1).await;
    let reload = node.get("/page").header("cache-control", "no-cache").send().await;
    assert_eq!(reload.text(), "new");
    eventually("the reload's end", async || node.metric("holm_cache_flights", "").await == 1.0).await;
    eventually("a stale response", async || node.cached("/page").await.is_none()).await;
    let (mut conn, ask) = (node.h2().await, node.get("/page"));
    let late = tokio::spawn(async move { conn.send(ask).await });
    node.took_over_h2(1).await;
    gate.open();
    assert_eq!(slow.await.unwrap().text(), "old", "its client asked before the others did");
    assert_eq!(late.await.unwrap().text(), "newest");
    assert_eq!(origin.hits("/page"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_fetch_reaches_all_who_wait_and_is_made_once() {
    let origin = Liar::start(Lie::Silence).await;
    let node =
        Node::builder().origin(&origin.url()).set("pool.web", "response_ms = 2000\nattempts_max = 1").start().await;
    for response in at_once(&node, "/down", 20).await {
        assert_eq!(
            (response.status, response.cache().get("detail")),
            (504, "response-timeout"),
            "{:?}",
            response.cache()
        );
    }
    assert_eq!(origin.asked(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_shared_unless_it_is_private() {
    for (control, hits) in [("max-age=0", 1), ("private", 6), ("no-store", 6)] {
        let (origin, gate, asked) = (Origin::start().await, Gate::closed(), AtomicUsize::new(0));
        let held = gate.clone();
        origin.on("/error", move |_| {
            let number = asked.fetch_add(1, SeqCst).to_string();
            Reply::status(500).header("cache-control", control).header("x-number", &number).behind(&held)
        });
        let node = Node::builder().origin(&origin.url()).start().await;
        let watching = async {
            node.took_over_h2(6).await;
            eventually("the first", async || origin.hits("/error") >= 1).await;
            assert_eq!(origin.hits("/error"), 1, "{control}: all wait for the first");
            gate.open();
        };
        let (responses, ()) = tokio::join!(at_once(&node, "/error", 6), watching);
        assert!(responses.iter().all(|response| (response.status, response.text()) == (500, "500")), "{control}");
        let numbers: BTreeSet<&str> = responses.iter().map(|response| response.header("x-number")).collect();
        assert_eq!((numbers.len(), origin.hits("/error")), (hits, hits), "{control}");
    }
}

/// An error that names the tenant it was made for, and six requests of three tenants that wait for the first response.
async fn errors(reply: fn(Reply) -> Reply, header: (&str, &str)) -> (usize, Vec<Response>) {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/error", move |seen| reply(Reply::status(500).header("x-for", seen.header("x-tenant"))).behind(&held));
    let node = Node::builder().origin(&origin.url()).start().await;
    let conn = node.h2().await;
    let mut clients = JoinSet::new();
    for n in 0..6 {
        let ask = node.get("/error").header("x-tenant", ["a", "b", "c"][n % 3]).header(header.0, header.1);
        let mut stream = conn.stream();
        clients.spawn(async move { (n, stream.send(ask).await) });
    }
    node.took_over_h2(6).await;
    eventually("the first", async || origin.hits("/error") >= 1).await;
    gate.open();
    let mut responses = clients.join_all().await;
    responses.sort_by_key(|(n, _)| *n);
    (origin.hits("/error"), responses.into_iter().map(|(_, response)| response).collect())
}

/// The origin's addition to an error, a field of the requests, and whether they may share it.
type Case = (fn(Reply) -> Reply, (&'static str, &'static str), bool);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_is_for_somebody_is_not_for_others() {
    let nothing = ("x-a", "1");
    let table: [Case; 7] = [
        (|reply| reply.header("vary", "x-tenant"), nothing, false),
        (|reply| reply.header("vary", "*"), nothing, true),
        (|reply| reply.header("set-cookie", "session=1"), nothing, true),
        (|reply| reply.header("cache-control", "private"), nothing, true),
        (|reply| reply, ("cookie", "session=1"), true),
        (|reply| reply, ("x-api-key", "k"), true),
        (|reply| reply, ("authorization", "Bearer k"), true),
    ];
    for (reply, header, alone) in table {
        let (hits, responses) = errors(reply, header).await;
        for (n, response) in responses.iter().enumerate() {
            let own = ["a", "b", "c"][n % 3];
            assert_eq!((response.status, response.header("x-for")), (500, own), "{header:?}: {:?}", response.headers);
        }
        assert!(if alone { hits == 6 } else { (3..=6).contains(&hits) }, "{header:?}: {hits}");
    }
    let (hits, responses) = errors(|reply| reply, nothing).await;
    assert!(responses.iter().all(|response| response.status == 500), "nothing tells them apart");
    assert_eq!(hits, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_uncacheable_response_does_not_make_the_next_ones_queue() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/own", move |_| Reply::ok("own").header("cache-control", "no-store").behind(&held));
    let node =
        Node::builder().origin(&origin.url()).set("pool.web", "connections_max = 64\nwaiting_max = 64").start().await;

    // Cold: they may wait for the first response, but no longer than that.
    let waiting = at_once(&node, "/own", 20);
    let watching = async {
        eventually("the first", async || origin.hits("/own") >= 1).await;
        gate.release(1);
        eventually("all the others side by side", async || origin.hits("/own") == 20).await;
        gate.release(19);
    };
    let (responses, ()) = tokio::join!(waiting, watching);
    assert!(responses.iter().all(|response| response.text() == "own" && !response.is_hit()));

    // Known to be uncacheable: nobody waits for anybody.
    let waiting = at_once(&node, "/own", 20);
    let watching = async {
        eventually("all side by side", async || origin.hits("/own") == 40).await;
        gate.release(20);
    };
    let (responses, ()) = tokio::join!(waiting, watching);
    assert!(responses.iter().all(|response| response.text() == "own" && !response.cache().has("collapsed")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flights_past_the_limit_go_to_the_origin_by_themselves() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("*", move |seen| Reply::fresh(600, seen.target.clone()).behind(&held));
    let node = Node::builder().origin(&origin.url()).set("cache.collapse", "flights_max = 1").start().await;
    let asks: Vec<_> = ["/a", "/b", "/c"].map(|target| tokio::spawn(node.get(target).send())).into();
    eventually("all three under way", async || origin.total() == 3).await;
    gate.open();
    for (target, ask) in ["/a", "/b", "/c"].into_iter().zip(asks) {
        assert_eq!(ask.await.unwrap().text(), target);
    }
}

/// So many requests at once over one HTTP/2 connection.
async fn at_once(node: &Node, target: &str, count: usize) -> Vec<Response> {
    let conn = node.h2().await;
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let (mut stream, ask) = (conn.stream(), node.get(target));
        clients.spawn(async move { stream.send(ask).await });
    }
    clients.join_all().await
}
