//! The choice of the endpoint for an attempt, and for the next.

use std::sync::atomic::AtomicBool;

use http_body_util::{BodyExt, Full};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::message::{Body, BodyError};

#[tokio::test]
async fn a_refused_connection_leads_elsewhere_and_in_the_end_to_ejection() {
    let (dead, origin) = (nobody().await, Origin::saying(OK).await);
    let mut config = config(&[dead, origin.address]);
    config.eject.failures = 3;
    let pool = Pool::new("test", &config).unwrap();
    let mut attempts_max = 0;
    while endpoint(&pool, 0).ejected_until.is_none() {
        let fetched = within(pool.fetch(post("hello"))).await.unwrap();
        attempts_max = attempts_max.max(fetched.attempts);
        assert_eq!(*fetched.endpoint, *origin.address.to_string());
        assert_eq!(text(fetched).await, "ok");
    }
    assert_eq!((endpoint(&pool, 0).failed, attempts_max), (3, 2));
    for _ in 0..10 {
        assert_eq!(within(pool.fetch(get())).await.unwrap().attempts, 1, "the ejected one isn't asked");
    }
}

#[tokio::test]
async fn when_all_refuse_the_last_refusal_is_returned() {
    let dead = [nobody().await, nobody().await];
    let pool = pool(&dead);
    let failure = within(pool.fetch(get())).await.unwrap_err();
    assert_eq!((failure.status().as_u16(), failure.reason()), (502, "connect-refused"));
    let last = failure.endpoint().unwrap();
    assert!(dead.iter().any(|address| address.to_string() == last), "{failure}");
    assert!(failure.to_string().starts_with(&format!("pool test, endpoint {last}: connect-refused: ")), "{failure}");
    assert_eq!((endpoint(&pool, 0).failed, endpoint(&pool, 1).failed), (1, 1));
}

#[tokio::test]
async fn a_body_that_was_not_touched_is_sent_elsewhere() {
    let (dead, origin) = (
        nobody().await,
        Origin::start(|_, mut stream| async move {
            let request = read_request(&mut stream).await.unwrap();
            let status = if request.ends_with("hello") { "200 OK" } else { "400 Bad Request" };
            write(&mut stream, &format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")).await;
        })
        .await,
    );
    let pool = pool(&[dead, origin.address]);
    let mut attempts = 1;
    while attempts == 1 {
        let stream = Full::new(Bytes::from_static(b"hello")).map_err(|never| -> BodyError { match never {} });
        let body = OutboundBody::Once(Body::stream(stream));
        let fetched = within(pool.fetch(request(Method::POST, body))).await.unwrap();
        assert_eq!(fetched.response.status(), 200);
        attempts = fetched.attempts;
    }
    assert_eq!(attempts, 2);
}

#[tokio::test]
async fn a_failing_endpoint_is_ejected_and_comes_back() {
    let failing = Origin::start(|number, mut stream| async move {
        read_request(&mut stream).await;
        write(&mut stream, if number < 2 { UNAVAILABLE } else { OK }).await;
    })
    .await;
    let sound = Origin::saying(OK).await;
    let mut config = config(&[failing.address, sound.address]);
    config.eject = config::Eject { failures: 2, duration: Duration::from_millis(500), percent_max: 50 };
    let pool = Pool::new("test", &config).unwrap();
    while failing.connections() < 2 {
        let fetched = within(pool.fetch(get())).await.unwrap();
        assert_eq!(*fetched.endpoint, *sound.address.to_string(), "its 503 is bettered by the other");
    }
    assert!(endpoint(&pool, 0).ejected_until.is_some());
    until(|| endpoint(&pool, 0).ejected_until.is_none()).await;
    let back = async { while *pool.fetch(get()).await.unwrap().endpoint != *failing.address.to_string() {} };
    within(back).await;
}

#[tokio::test]
async fn when_all_are_unavailable_the_last_response_is_passed_on() {
    let origins = [Origin::saying(UNAVAILABLE).await, Origin::saying(UNAVAILABLE).await];
    let pool = pool(&[origins[0].address, origins[1].address]);
    let fetched = within(pool.fetch(get())).await.unwrap();
    assert_eq!((fetched.response.status().as_u16(), fetched.attempts), (503, 2));
    let fetched = within(pool.fetch(post("hello"))).await.unwrap();
    assert_eq!((fetched.response.status().as_u16(), fetched.attempts), (503, 1), "a POST may have done something");
}

#[tokio::test]
async fn whoever_sends_a_request_says_whether_it_may_be_repeated() {
    for (repeatable, status) in [(true, 200), (false, 503)] {
        let (failing, sound) = (Origin::saying(UNAVAILABLE).await, Origin::saying(OK).await);
        let pool = pool(&[failing.address, sound.address]);
        while failing.connections() == 0 {
            let outbound = Outbound { repeatable, ..post("hello") };
            let fetched = within(pool.fetch(outbound)).await.unwrap();
            let wanted = if failing.connections() == 0 { 200 } else { status };
            assert_eq!(fetched.response.status(), wanted, "repeatable: {repeatable}");
        }
    }
}

#[tokio::test]
async fn a_reset_is_repeated_elsewhere_if_the_method_allows() {
    // On a busy system a connection may seem to have waited for its request, which then has a second one there.
    for (outbound, connections) in [(get(), [1..=2, 1..=2]), (post("hello"), [0..=1, 0..=1])] {
        let is_repeated = outbound.repeatable;
        let origins = [Origin::saying("").await, Origin::saying("").await];
        let pool = pool(&[origins[0].address, origins[1].address]);
        let failure = within(pool.fetch(outbound)).await.unwrap_err();
        assert_eq!((failure.status().as_u16(), failure.reason()), (502, "connection-reset"), "{failure}");
        let asked = [origins[0].connections(), origins[1].connections()];
        assert!(connections.iter().zip(asked).all(|(wanted, asked)| wanted.contains(&asked)), "{asked:?}");
        assert!(is_repeated || asked.iter().sum::<usize>() == 1, "{asked:?}");
    }
}

/// Responds to the first request of each connection, and closes it when it has read the second, after saying `last`.
async fn forgetful(last: &'static str) -> Origin {
    Origin::start(move |_, mut stream| async move {
        read_request(&mut stream).await;
        write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        read_request(&mut stream).await;
        write(&mut stream, last).await;
    })
    .await
}

#[tokio::test]
async fn a_kept_connection_that_closes_under_a_request_costs_neither_an_attempt_nor_the_endpoints_good_name() {
    let origin = forgetful("").await;
    let mut config = config(&[origin.address]);
    config.attempts_max = 1;
    let pool = Pool::new("test", &config).unwrap();
    // Whether a fetch finds the connection of an earlier one depends on when that is put back.
    let repeated = async {
        loop {
            let outbound = Outbound { repeatable: true, ..post("hello") };
            let fetched = pool.fetch(outbound).await.unwrap();
            assert_eq!(fetched.response.status(), 200);
            if fetched.attempts == 2 {
                break;
            }
        }
    };
    within(repeated).await;
    assert_eq!(endpoint(&pool, 0).failed, 0);
}

#[tokio::test]
async fn a_kept_connection_that_breaks_in_a_response_or_under_a_request_that_may_have_had_effect_is_a_failure() {
    let cases: [(&str, fn() -> Outbound); 2] = [("HTTP/1.1 2", get), ("", || post("hello"))];
    for (last, outbound) in cases {
        let origin = forgetful(last).await;
        let pool = pool(&[origin.address]);
        let failing = async {
            loop {
                if let Err(failure) = pool.fetch(outbound()).await {
                    break failure;
                }
            }
        };
        let failure = within(failing).await;
        assert_eq!(failure.reason(), "connection-reset", "{last:?}: {failure}");
        assert_eq!(endpoint(&pool, 0).failed, u64::from(!last.is_empty()), "{last:?}");
    }
}

#[tokio::test]
async fn a_connection_is_not_used_again_for_as_long_as_its_endpoint_would_keep_it() {
    // Half a second of use: what comes after that finds a new connection.
    let origin = Origin::start(|number, mut stream| async move {
        while read_request(&mut stream).await.is_some() {
            let head = format!("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nX-Connection: {number}\r\n");
            write(&mut stream, &format!("{head}Content-Length: 0\r\n\r\n")).await;
        }
    })
    .await;
    let pool = pool(&[origin.address]);
    let number = async || {
        let fetched = within(pool.fetch(get())).await.unwrap();
        fetched.response.headers()["x-connection"].to_str().unwrap().parse::<usize>().unwrap()
    };
    // The first response tells, and gives up the connections of before.
    number().await;
    let before = number().await;
    sleep(Duration::from_millis(600)).await;
    assert!(number().await > before, "the one before was idle for too long");
}

#[tokio::test]
async fn active_checks_take_an_endpoint_out_and_bring_it_back() {
    let sound = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&sound);
    let origin = Origin::start(move |_, mut stream| {
        let state = Arc::clone(&state);
        async move {
            let request = read_request(&mut stream).await.unwrap_or_default();
            let good = request.starts_with("GET /health HTTP/1.1\r\n") && state.load(Ordering::SeqCst);
            write(&mut stream, if good { OK } else { UNAVAILABLE }).await;
        }
    })
    .await;
    let mut config = config(&[origin.address]);
    config.health = Some(config::Health {
        path: "/health".to_owned(),
        interval: Duration::from_millis(10),
        timeout: PATIENCE,
        healthy_after: 2,
        unhealthy_after: 2,
    });
    let pool = Pool::new("test", &config).unwrap();
    assert!(pool.available(), "nothing is known against it yet");
    let stop = CancellationToken::new();
    let watch = tokio::spawn(pool.watch(stop.clone()));

    until(|| !pool.available()).await;
    assert!(!endpoint(&pool, 0).healthy);
    let failure = within(pool.fetch(get())).await.unwrap_err();
    assert_eq!((failure.status().as_u16(), failure.reason()), (503, "no-endpoint"));

    sound.store(true, Ordering::SeqCst);
    until(|| pool.available()).await;
    stop.cancel();
    within(watch).await.unwrap();
}

#[tokio::test]
async fn there_is_nothing_to_watch_without_checks() {
    within(pool(&[nobody().await]).watch(CancellationToken::new())).await;
}

#[tokio::test]
async fn a_pool_that_nobody_uses_is_not_checked_any_more() {
    let origin = Origin::saying(OK).await;
    let mut config = config(&[origin.address]);
    config.health = Some(config::Health {
        path: "/health".to_owned(),
        interval: Duration::from_millis(10),
        timeout: PATIENCE,
        healthy_after: 1,
        unhealthy_after: 1,
    });
    let pool = Pool::new("test", &config).unwrap();
    let (used, stop) = (Arc::clone(&pool), pool.stop_token());
    let watch = tokio::spawn(pool.watch(CancellationToken::new()));
    until(|| origin.connections.load(Ordering::SeqCst) > 1).await;
    drop(pool);
    assert!(!stop.is_cancelled() && !watch.is_finished(), "a request uses it still");
    drop(used);
    assert!(stop.is_cancelled());
    within(watch).await.unwrap();
}
