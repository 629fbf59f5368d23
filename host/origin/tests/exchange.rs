//! One request, one response, or the reason why there is none.

use http::{Version, header};
use tokio::sync::mpsc;

use super::*;

#[tokio::test]
async fn a_request_is_sent_and_its_response_comes_back() {
    let (seen, mut requests) = mpsc::unbounded_channel();
    let origin = Origin::start(move |_, mut stream| {
        let seen = seen.clone();
        async move {
            seen.send(read_request(&mut stream).await.unwrap()).unwrap();
            let answer =
                "HTTP/1.0 201 Fine\r\nContent-Length: 2\r\nConnection: x-hop\r\nX-Hop: 1\r\nX-End: 2\r\n\r\nok";
            write(&mut stream, answer).await;
        }
    })
    .await;
    let pool = pool(&[origin.address]);

    let mut outbound = post("hello");
    outbound.headers.insert("x-one", HeaderValue::from_static("1"));
    outbound.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("99"));
    let fetched = within(pool.fetch(outbound)).await.unwrap();

    let sent = requests.recv().await.unwrap();
    assert!(sent.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{sent}");
    let head = sent.to_ascii_lowercase();
    for line in ["host: shop.example", "x-one: 1", "content-length: 5"] {
        assert_eq!(head.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line} in\n{sent}");
    }
    assert!(sent.ends_with("\r\n\r\nhello"), "{sent}");

    assert_eq!((&*fetched.endpoint, fetched.attempts), (&*origin.address.to_string(), 1));
    assert_eq!(fetched.response.status(), 201);
    assert_eq!(fetched.response.version(), Version::HTTP_11);
    let mut names: Vec<_> = fetched.response.headers().keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "x-end"]);
    assert_eq!((endpoint(&pool, 0).inflight, endpoint(&pool, 0).ok), (1, 0));
    assert_eq!(text(fetched).await, "ok");
    assert_eq!((endpoint(&pool, 0).inflight, endpoint(&pool, 0).ok), (0, 1));
}

#[tokio::test]
async fn a_response_without_a_body_frees_its_place_at_once() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n").await;
    let pool = pool(&[origin.address]);
    let fetched = within(pool.fetch(request(Method::HEAD, OutboundBody::Empty))).await.unwrap();
    assert!(matches!(fetched.response.body(), crate::message::Body::Empty));
    assert_eq!(fetched.response.headers()[header::CONTENT_LENGTH], "7");
    assert_eq!((endpoint(&pool, 0).inflight, endpoint(&pool, 0).ok), (0, 1));
}

#[tokio::test]
async fn interim_responses_are_skipped() {
    let answer = concat!(
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    let origin = Origin::saying(answer).await;
    let fetched = within(pool(&[origin.address]).fetch(get())).await.unwrap();
    assert_eq!(fetched.response.status(), 200);
    assert!(!fetched.response.headers().contains_key(header::LINK));
    assert_eq!(text(fetched).await, "ok");
}

#[tokio::test]
async fn what_is_not_http_is_an_invalid_response() {
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ] {
        let origin = Origin::saying(answer).await;
        let pool = pool(&[origin.address]);
        let failure = within(pool.fetch(get())).await.unwrap_err();
        assert_eq!((failure.status().as_u16(), failure.reason()), (502, "invalid-response"), "{answer:?}: {failure}");
        assert_eq!(endpoint(&pool, 0).failed, 1);
        assert_eq!(origin.connections(), 1, "it isn't repeated");
    }
}

#[tokio::test]
async fn silence_is_a_timeout_that_is_not_repeated_elsewhere() {
    let origins = [Origin::silent().await, Origin::silent().await];
    let mut config = config(&[origins[0].address, origins[1].address]);
    config.response = Duration::from_millis(50);
    let pool = Pool::new("test", &config).unwrap();
    let failure = within(pool.fetch(get())).await.unwrap_err();
    assert_eq!((failure.status().as_u16(), failure.reason()), (504, "response-timeout"));
    assert_eq!(origins[0].connections() + origins[1].connections(), 1);
    assert_eq!(endpoint(&pool, 0).failed + endpoint(&pool, 1).failed, 1);
    assert_eq!(endpoint(&pool, 0).inflight + endpoint(&pool, 1).inflight, 0);
}

#[tokio::test]
async fn a_pool_that_makes_no_sense_is_refused() {
    let origin = nobody().await;
    let mut path = config(&[origin]);
    path.health = Some(config::Health {
        path: "health".to_owned(),
        interval: PATIENCE,
        timeout: PATIENCE,
        healthy_after: 1,
        unhealthy_after: 1,
    });
    let mut url = config(&[origin]);
    url.endpoints.push(config::Endpoint::new("ftp://a.example/x".parse().unwrap()));
    for (config, expected) in [
        (config(&[]), "pool test has no endpoints; it needs at least one"),
        (
            url,
            "pool test: ftp://a.example/x is no endpoint; allowed is http://host:port or https://host:port, with a normal \
             path",
        ),
        (path, "pool test: \"health\" is no path for health checks; allowed is a path that begins with /"),
    ] {
        assert_eq!(Pool::new("test", &config).unwrap_err().to_string(), expected);
    }
}
