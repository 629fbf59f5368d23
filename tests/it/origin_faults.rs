//! Origins that are down, slow, broken or lying.

use std::{io, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};

use crate::harness::{
    client::Response,
    eventually,
    liar::{Liar, Lie, Refusing, crlf},
    model::ARRAY,
    node::{Builder, Node},
    origin::{Gate, Origin, Reply, Taps},
    sealed, within,
};

/// A pool that makes one attempt and never ejects, so that every fault is seen as it is.
fn bare<U: AsRef<str>>(urls: &[U]) -> Builder {
    Node::builder()
        .endpoints(urls)
        .set("pool.web", "attempts_max = 1\nresponse_ms = 300")
        .set("pool.web.eject", PATIENT)
}

const PATIENT: &str = "failures = 1000000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_failure_has_its_status_and_its_reason() {
    let refusing = Refusing::new();
    for (lie, status, reason) in [
        (None, 502, "connect-refused"),
        (Some(Lie::Silence), 504, "response-timeout"),
        (Some(Lie::Reset), 502, "connection-reset"),
        (Some(Lie::SayAndReset(crlf("HTTP/1.1 200 OK\nContent-"))), 502, "connection-reset"),
        (Some(Lie::Say(Vec::new())), 502, "connection-reset"),
        (Some(Lie::Say(crlf("HTTP/1.1 200 OK\nContent-"))), 502, "connection-reset"),
        (Some(Lie::Say(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec())), 502, "invalid-response"),
        (Some(Lie::Say(crlf("HTTP/1.1 200 OK\nno colon here\n\n"))), 502, "invalid-response"),
        (Some(Lie::Say(crlf("HTTP/1.1 two hundred\n\n"))), 502, "invalid-response"),
        (Some(Lie::Say(crlf("HTTP/1.1 200 OK\nContent-Length: 1\nContent-Length: 2\n\nab"))), 502, "invalid-response"),
    ] {
        let words = format!("{lie:?}");
        let liar = match lie {
            Some(lie) => Some(Liar::start(lie).await),
            None => None,
        };
        let node = bare(&[liar.as_ref().map_or_else(|| refusing.url(), Liar::url)]).start().await;
        let response = node.fetch("/x").await;
        assert_eq!((response.status, response.cache().get("detail")), (status, reason), "{words}");
        assert_eq!(response.header("content-type"), "application/problem+json", "{words}");
        assert_eq!(response.json()["status"], status, "{words}");
        let error = match reason {
            "connect-refused" => "connection_refused",
            "response-timeout" => "http_response_timeout",
            "connection-reset" => "connection_terminated",
            _ => "http_protocol_error",
        };
        let wanted = format!("n1; error={error}; details=\"{reason}\"");
        assert_eq!(response.header("proxy-status"), wanted, "{words}");
        assert!(node.cached("/x").await.is_none(), "{words}: a failure isn't stored");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_reaches_the_client_as_broken_and_is_not_stored() {
    let short = "HTTP/1.1 200 OK\nCache-Control: max-age=600\nContent-Length: 1000\n\nonly this";
    let chunked = "HTTP/1.1 200 OK\nCache-Control: max-age=600\nTransfer-Encoding: chunked\n\n9\nonly this\n";
    let garbled = "HTTP/1.1 200 OK\nCache-Control: max-age=600\nTransfer-Encoding: chunked\n\nzz\nonly this\n";
    for lie in [
        Lie::Say(crlf(short)),
        Lie::SayAndReset(crlf(short)),
        Lie::SayAndStall(crlf(short)),
        Lie::Say(crlf(chunked)),
        Lie::SayAndReset(crlf(chunked)),
        Lie::Say(crlf(garbled)),
    ] {
        let words = format!("{lie:?}");
        let liar = Liar::start(lie).await;
        let node = bare(&[liar.url()]).set("pool.web", "idle_ms = 300").start().await;
        // A fault that is seen before the head has left may become a 5xx; a whole 200 may not follow.
        if let Ok(response) = node.get("/x").try_send().await {
            assert!(response.status >= 500, "{words}: {} {}", response.status, response.text());
        }
        let mut conn = node.h2().await;
        let opened = conn.open(node.get("/x")).await;
        let second = opened
            .as_ref()
            .map_or_else(|error| format!("{error:?}"), |opened| format!("{} {:?}", opened.status, opened.headers));
        if let Ok(opened) = opened
            && let Ok(response) = opened.whole().await
        {
            assert!(response.status >= 500, "{words}: {} {}", response.status, response.text());
        }
        assert_eq!(liar.asked(), 2, "{words}: nothing was stored; the second response: {second}");
        assert!(node.cached("/x").await.is_none(), "{words}");
    }
}

/// A byte comes each 100 ms, well within `idle_ms`, so that only the time for the whole body ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_whose_response_trickles_is_504_for_its_items_and_its_slot_goes_to_others() {
    let (origin, taps) = (Origin::start().await, Taps::default());
    let feed = taps.clone();
    origin.on(ARRAY, move |seen| {
        let items: Vec<Value> = serde_json::from_slice(&seen.body).unwrap();
        if items.iter().any(|item| item["slow"] == true) {
            Reply::ok("").fed(&feed)
        } else {
            Reply::ok(seen.body.clone())
        }
    });
    let node = Node::builder()
        .origin(&origin.url())
        .infer("json-array")
        .set("pool.web", "body_ms = 500")
        .set("pool.web.batch", "concurrency = 1")
        .start()
        .await;
    let trickle = async || {
        let pipe = taps.next().await;
        while pipe.send(Ok(" ".into())).await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let lone = node.post(ARRAY).json(&json!({"slow": true})).send();
    let (response, ()) = tokio::join!(lone, within("the connection being closed", trickle()));
    assert_eq!((response.status, response.cache().get("detail")), (504, "body-timeout"));
    let list = node.post(ARRAY).json(&json!([{"n": 1}, {"slow": true}, {"n": 2}])).send();
    let (response, ()) = tokio::join!(list, within("the connection being closed", trickle()));
    let failed = response.json().as_array().unwrap().iter().filter(|item| item["error"].is_object()).count();
    assert_eq!(failed, 3, "{}", response.text());
    let other = node.post(ARRAY).json(&json!({"n": 3})).send().await;
    assert_eq!((other.status, other.json()), (200, json!({"n": 3})));
    assert_eq!(origin.hits(ARRAY), 3, "nothing is sent again, together or in parts");
}

/// To HTTP/1.0 the end of a connection is the end of a body without a stated length.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_http_1_0_a_body_that_breaks_off_ends_in_a_reset_and_a_whole_one_in_a_close() {
    let (origin, taps, piece) = (Origin::start().await, Taps::default(), sealed("piece", 40_000));
    let feed = taps.clone();
    origin.on("/fed", move |_| {
        Reply::ok("").header("content-type", "text/event-stream").header("cache-control", "no-store").fed(&feed)
    });
    let node = bare(&[origin.url()]).start().await;
    for is_whole in [true, false] {
        let mut client = TcpStream::connect(node.address).await.unwrap();
        client.write_all(&crlf("GET /fed HTTP/1.0\nHost: shop.test\n\n")).await.unwrap();
        let (pipe, mut said) = (taps.next().await, Vec::new());
        pipe.send(Ok("first".into())).await.unwrap();
        while !said.ends_with(b"first") {
            assert_ne!(within("the first piece", client.read_buf(&mut said)).await.unwrap(), 0);
        }
        let head = String::from_utf8_lossy(&said).to_lowercase();
        assert!(!head.contains("content-length") && !head.contains("chunked"), "{head}");

        if is_whole {
            // All of it is in the hands of the kernel by the time the node closes.
            pipe.send(Ok(piece.clone())).await.unwrap();
            drop(pipe);
            eventually("the close", async || {
                node.metric("holm_http_connections_closed_total", "reason=\"done\"").await > 0.0
            })
            .await;
            within("the rest", client.read_to_end(&mut said)).await.unwrap();
            assert!(said.ends_with(&piece), "{} bytes", said.len());
        } else {
            pipe.send(Err(io::Error::other("on purpose"))).await.unwrap();
            drop(pipe);
            let end = within("the end", client.read_to_end(&mut said)).await;
            assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_says_more_than_it_declared_is_cut_at_its_word() {
    let liar =
        Liar::says("HTTP/1.1 200 OK\nCache-Control: max-age=600\nContent-Length: 4\n\ngoodHTTP/1.1 200 OK\n\n").await;
    let node = bare(&[liar.url()]).start().await;
    for _ in 0..2 {
        assert_eq!(node.fetch("/x").await.text(), "good");
    }
    assert_eq!(node.hit("/x").await.text(), "good");
    assert_eq!(node.fetch("/y").await.text(), "good", "what it sent beyond is nobody's response");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotent_request_is_tried_at_another_endpoint() {
    let (refusing, liar, origin) = (Refusing::new(), Liar::start(Lie::Reset).await, Origin::start().await);
    origin.on("*", |seen| Reply::fresh(60, seen.target.clone()));
    let node = Node::builder()
        .endpoints(&[refusing.url(), liar.url(), origin.url()])
        .set("pool.web", "attempts_max = 3")
        .set("pool.web.eject", PATIENT)
        .start()
        .await;
    for n in 0..40 {
        let response = node.fetch(&format!("/{n}")).await;
        assert_eq!((response.status, response.text()), (200, format!("/{n}").as_str()));
    }
    assert!(liar.asked() > 0, "somebody met the liar");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_may_have_had_effect_is_not_repeated() {
    let (liar, origin) = (Liar::start(Lie::Reset).await, Origin::start().await);
    origin.on("/pay", |_| Reply::ok("paid"));
    let node = Node::builder()
        .endpoints(&[liar.url(), origin.url()])
        .set("pool.web", "attempts_max = 3")
        .set("pool.web.eject", PATIENT)
        .start()
        .await;
    let (mut paid, mut failed) = (0, 0);
    for _ in 0..40 {
        match node.post("/pay").body("10").send().await.status {
            200 => paid += 1,
            502 => failed += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((origin.hits("/pay"), liar.asked()), (paid, failed), "each got one request");
    assert!(paid > 0 && failed > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_keeps_failing_is_ejected() {
    let (liar, origin) = (Liar::start(Lie::Reset).await, Origin::start().await);
    origin.on("*", |_| Reply::ok("good"));
    let node = Node::builder()
        .endpoints(&[liar.url(), origin.url()])
        .set("pool.web", "attempts_max = 2")
        .set("pool.web.eject", "failures = 3\nduration_ms = 60000\npercent_max = 50")
        .start()
        .await;
    let mut n = 0;
    eventually("ejection", async || {
        n += 1;
        assert_eq!(node.fetch(&format!("/{n}")).await.status, 200);
        liar.asked() >= 3
    })
    .await;
    for n in 0..50 {
        assert_eq!(node.fetch(&format!("/after/{n}")).await.status, 200);
    }
    assert_eq!(liar.asked(), 3, "an ejected endpoint gets no request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_endpoint_is_never_ejected() {
    let liar = Liar::start(Lie::Reset).await;
    let node = Node::builder()
        .origin(&liar.url())
        .set("pool.web", "attempts_max = 1")
        .set("pool.web.eject", "failures = 1\nduration_ms = 60000\npercent_max = 100")
        .start()
        .await;
    for asked in 1..=5 {
        assert_eq!(node.fetch(&format!("/{asked}")).await.status, 502);
        assert_eq!(liar.asked(), asked);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_checks_take_an_endpoint_out_and_bring_it_back() {
    let (sick, well) = (Origin::start().await, Origin::start().await);
    for origin in [&sick, &well] {
        origin.on("/health", |_| Reply::ok("well"));
        origin.on("*", |_| Reply::ok("x").header("cache-control", "no-store"));
    }
    let node = Node::builder()
        .endpoints(&[sick.url(), well.url()])
        .set("pool.web.health", "path = \"/health\"\ninterval_ms = 20\ntimeout_ms = 2000")
        .set("pool.web.health", "healthy_after = 2\nunhealthy_after = 2")
        .start()
        .await;
    let all = [&sick, &well];
    for origin in all {
        eventually("both in use", async || is_met(&node, origin).await).await;
    }
    sick.on("/health", |_| Reply::status(503));
    eventually("the sick one out", async || !is_met(&node, &sick).await).await;
    assert!(is_met(&node, &well).await);
    sick.on("/health", |_| Reply::ok("well again"));
    for origin in all {
        eventually("both in use again", async || is_met(&node, origin).await).await;
    }

    for origin in all {
        origin.on("/health", |_| Reply::status(503));
    }
    eventually("nobody left", async || {
        let response = node.fetch("/x").await;
        response.status == 503 && response.cache().get("detail") == "no-endpoint"
    })
    .await;
}

/// Whether it is in use. An endpoint that is escapes so many requests with odds of a million to one.
async fn is_met(node: &Node, origin: &Origin) -> bool {
    let before = origin.hits("/x");
    for _ in 0..20 {
        assert_eq!(node.fetch("/x").await.status, 200);
    }
    origin.hits("/x") > before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_holds_a_limited_number_and_refuses_the_rest() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("*", move |seen| Reply::ok(sealed(&seen.target, 100)).behind(&held));
    let node =
        Node::builder().origin(&origin.url()).set("pool.web", "connections_max = 1\nwaiting_max = 1").start().await;
    let first = tokio::spawn(node.get("/1").send());
    eventually("the first", async || origin.total() == 1).await;
    let mut others: JoinSet<Response> = JoinSet::new();
    others.spawn(node.get("/2").send());
    others.spawn(node.get("/3").send());
    let refused = others.join_next().await.unwrap().unwrap();
    assert_eq!((refused.status, refused.cache().get("detail")), (503, "pool-full"));
    assert_eq!(origin.total(), 1);
    gate.open();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(others.join_next().await.unwrap().unwrap().status, 200);
}
