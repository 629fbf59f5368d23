//! Slow clients: they hold no place that others need, and get every byte for which there is room.

use std::net::IpAddr;

use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::{Mutex, mpsc};

use super::*;
use crate::{
    message::{Body, BodyError},
    origin::{Bounds, Metrics, SpoolSwitch, dial::PIECE_BYTES, failure::Reason, ledger::Claim},
};

/// Many pieces.
const LARGE: usize = 8 << 20;

/// A large body that no mistake in its order survives.
fn large() -> Bytes {
    (0..LARGE).map(|at| u8::try_from(at / 251 % 251).unwrap()).collect::<Vec<_>>().into()
}

/// An origin whose every response is large, with its length or in chunks.
async fn large_origin(chunked: bool) -> Origin {
    let body = large();
    Origin::start(move |_, mut stream| {
        let body = body.clone();
        async move {
            read_request(&mut stream).await;
            let framing =
                if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {LARGE}") };
            let head = format!("HTTP/1.1 200 OK\r\n{framing}\r\nConnection: close\r\n\r\n");
            write(&mut stream, &head).await;
            for piece in body.chunks(100_000) {
                if chunked {
                    write(&mut stream, &format!("{:x}\r\n", piece.len())).await;
                }
                // The pool may have left already.
                let _ = stream.write_all(piece).await;
                if chunked {
                    write(&mut stream, "\r\n").await;
                }
            }
            if chunked {
                write(&mut stream, "0\r\n\r\n").await;
            }
        }
    })
    .await
}

fn bounded(address: SocketAddr, connections_max: usize, limits: &config::Limits) -> Arc<Pool> {
    let config = config::Pool { connections_max, ..config(&[address]) };
    let metrics = Metrics::new();
    Pool::of_node("test", &config, &metrics, &Bounds::new(limits, &metrics), None).unwrap()
}

async fn whole(fetched: Fetched) -> Result<Bytes, BodyError> {
    within(fetched.response.into_body().collect(LARGE as u64)).await
}

#[tokio::test]
async fn a_client_that_lags_frees_the_place_and_gets_every_byte() {
    let kib = 1 << 10;
    for (memory, disk, chunked) in
        [(LARGE, 0, false), (0, LARGE as u64, false), (100 * kib, LARGE as u64, true), (LARGE / 2, LARGE as u64, false)]
    {
        let origin = large_origin(chunked).await;
        let limits =
            config::Limits { spool_memory_bytes_max: memory, spool_bytes_max: disk, ..config::Limits::default() };
        let pool = bounded(origin.address, 1, &limits);
        let lagging = within(pool.fetch(get())).await.unwrap();
        until(|| endpoint(&pool, 0).inflight == 0).await;
        assert_eq!(endpoint(&pool, 0).ok, 1);
        let waiting = || pool.bounds.spool.used().0 + pool.bounds.spool.used().1;
        // What is in the file counts by blocks.
        until(|| (LARGE as u64..LARGE as u64 + 4096).contains(&waiting())).await;

        assert!(whole(lagging).await.unwrap() == large(), "{memory} {disk} {chunked}");
        until(|| pool.bounds.spool.used() == (0, 0)).await;
    }
}

#[tokio::test]
async fn a_body_that_is_kept_out_of_the_spool_waits_at_its_origin() {
    let origin = large_origin(false).await;
    let limits = config::Limits { spool_memory_bytes_max: 2 * LARGE, ..config::Limits::default() };
    let pool = bounded(origin.address, 2, &limits);
    let kept_out = within(pool.fetch(get())).await.unwrap();
    let off = kept_out.response.extensions().get::<SpoolSwitch>().unwrap().off();
    let lagging = within(pool.fetch(get())).await.unwrap();
    until(|| endpoint(&pool, 0).inflight == 1).await;
    // Both were looked at together.
    assert_eq!(pool.bounds.spool.used().0, LARGE as u64, "only the other one was taken in");
    drop(off);
    until(|| endpoint(&pool, 0).inflight == 0).await;
    for fetched in [kept_out, lagging] {
        assert!(whole(fetched).await.unwrap() == large());
    }
    until(|| pool.bounds.spool.used() == (0, 0)).await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_what_is_taken_in_for_it() {
    let origin = Origin::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
        std::future::pending::<()>().await;
    })
    .await;
    let pool = bounded(origin.address, 1, &config::Limits::default());
    let lagging = within(pool.fetch(get())).await.unwrap();
    until(|| pool.bounds.spool.used().0 == 3).await;
    assert_eq!(endpoint(&pool, 0).inflight, 1, "the origin hasn't ended");
    drop(lagging);
    until(|| endpoint(&pool, 0).inflight == 0).await;
    until(|| pool.bounds.spool.used() == (0, 0)).await;
    assert_eq!(endpoint(&pool, 0).failed, 0, "which isn't the endpoint's fault");
}

#[tokio::test]
async fn a_body_that_breaks_off_for_a_client_that_lags_ends_in_the_error() {
    // What breaks off at once is a 502, so it does when the head has been passed on.
    let (passed_on, break_off) = tokio::sync::watch::channel(false);
    let origin = Origin::start(move |_, mut stream| {
        let mut break_off = break_off.clone();
        async move {
            read_request(&mut stream).await;
            write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nabc").await;
            break_off.wait_for(|passed_on| *passed_on).await.unwrap();
        }
    })
    .await;
    let pool = bounded(origin.address, 1, &config::Limits::default());
    let lagging = within(pool.fetch(get())).await.unwrap();
    passed_on.send_replace(true);
    until(|| endpoint(&pool, 0).inflight == 0).await;
    assert_eq!(endpoint(&pool, 0).failed, 1);
    let mut body = lagging.response.into_body();
    assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "abc");
    assert!(matches!(within(body.frame()).await, Some(Err(BodyError::Broken(_)))));
}

#[tokio::test]
async fn pieces_go_straight_to_a_client_that_keeps_up() {
    let (go_on, pieces) = mpsc::channel::<&'static str>(1);
    let pieces = Arc::new(Mutex::new(pieces));
    let origin = Origin::start(move |_, mut stream| {
        let pieces = Arc::clone(&pieces);
        async move {
            read_request(&mut stream).await;
            write(&mut stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            while let Some(piece) = pieces.lock().await.recv().await {
                write(&mut stream, piece).await;
            }
            write(&mut stream, "0\r\n\r\n").await;
        }
    })
    .await;
    let pool = bounded(origin.address, 1, &config::Limits::default());
    let mut body = within(pool.fetch(get())).await.unwrap().response.into_body();
    for _ in 0..3 {
        let reading = tokio::spawn(async move {
            let piece = within(body.frame()).await.unwrap().unwrap().into_data().unwrap();
            (piece, body)
        });
        // Longer than between two looks at who lags: one that waits for its origin doesn't.
        sleep(Duration::from_millis(150)).await;
        go_on.send("2\r\nok\r\n").await.unwrap();
        let (piece, rest) = within(reading).await.unwrap();
        assert_eq!(piece, "ok");
        body = rest;
        assert_eq!((endpoint(&pool, 0).inflight, pool.bounds.spool.used()), (1, (0, 0)));
    }
    drop(go_on);
    assert!(within(body.frame()).await.is_none());
    assert_eq!((endpoint(&pool, 0).inflight, endpoint(&pool, 0).ok), (0, 1));
}

#[tokio::test]
async fn without_room_only_the_lent_places_are_held_and_what_is_held_is_whole() {
    let origin = large_origin(false).await;
    let limits = config::Limits { spool_memory_bytes_max: 0, spool_bytes_max: 0, ..config::Limits::default() };
    let pool = bounded(origin.address, 4, &limits);
    let mut lagging = Vec::new();
    for _ in 0..4 {
        lagging.push(within(pool.fetch(get())).await.unwrap());
    }
    until(|| endpoint(&pool, 0).inflight == 2).await;
    assert_eq!(endpoint(&pool, 0).failed, 0, "slow clients aren't the endpoint's fault");
    let mut cut = 0;
    for fetched in lagging {
        match whole(fetched).await {
            Ok(body) => assert!(body == large()),
            Err(BodyError::Broken(_)) => cut += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(cut, 2);
    until(|| pool.bounds.spool.used() == (0, 0)).await;
}

#[tokio::test]
async fn a_body_comes_in_small_pieces_and_no_large_one_is_let_in_without_room() {
    let origin = large_origin(false).await;
    let limits = config::Limits { spool_memory_bytes_max: 0, spool_bytes_max: 0, ..config::Limits::default() };
    let pool = bounded(origin.address, 2, &limits);
    let mut body = within(pool.fetch(get())).await.unwrap().response.into_body();
    let spool = &pool.bounds.spool;
    until(|| spool.used().0 > 0).await;
    let mut longest = 0;
    while let Some(frame) = within(body.frame()).await {
        longest = longest.max(frame.unwrap().into_data().unwrap().len());
        assert!(spool.used().0 <= PIECE_BYTES as u64, "{} bytes beyond the room", spool.used().0);
    }
    assert!((1_000..=PIECE_BYTES).contains(&longest), "{longest}");
}

#[tokio::test]
async fn one_client_that_does_not_read_leaves_room_for_others() {
    let origin = large_origin(false).await;
    // Each address has a quarter, and that is half a body.
    let limits = config::Limits {
        spool_memory_bytes_max: LARGE,
        spool_bytes_max: LARGE as u64,
        client_spool_bytes_max: LARGE as u64 / 2,
        trusted_proxies: Vec::new(),
        ..config::Limits::default()
    };
    let pool = bounded(origin.address, 64, &limits);
    let (spool, from) = (&pool.bounds.spool, |ip: &str| Outbound { client: Some(ip.parse().unwrap()), ..get() });
    let mut lagging = Vec::new();
    for _ in 0..4 {
        lagging.push(within(pool.fetch(from("192.0.2.1"))).await.unwrap());
    }
    until(|| spool.meters.full.get() >= 4).await;
    let (memory, disk) = spool.used();
    // Each of the four may hold a piece beyond the room.
    assert!(memory <= (LARGE / 4 + 4 * PIECE_BYTES) as u64 && disk <= LARGE as u64 / 4, "{memory} and {disk}");
    assert!(memory + disk > LARGE as u64 / 4, "its share is used: {memory} and {disk}");

    let other = within(pool.fetch(from("192.0.2.2"))).await.unwrap();
    until(|| spool.used().0 > memory + LARGE as u64 / 8).await;
    assert!(whole(other).await.unwrap() == large(), "the other one's body finds room");
    let unlimited = within(pool.fetch(get())).await.unwrap();
    until(|| endpoint(&pool, 0).inflight <= 4).await;
    assert!(whole(unlimited).await.unwrap() == large());
    drop(lagging);
    until(|| spool.used() == (0, 0)).await;
}

#[tokio::test]
async fn a_request_body_beyond_its_clients_share_streams_and_anothers_is_read_ahead() {
    let origin = Origin::saying(OK).await;
    let limits = config::Limits {
        client_spool_bytes_max: 0,
        trusted_proxies: vec!["192.0.2.9".parse().unwrap()],
        ..config::Limits::default()
    };
    let pool = bounded(origin.address, 4, &limits);
    for (ip, streams) in [("192.0.2.1", true), ("192.0.2.9", false)] {
        let (sender, body) = Body::channel(1, Some(200_000));
        let post = request(Method::POST, OutboundBody::Once(body));
        let outbound = Outbound { client: Some(ip.parse().unwrap()), ..post };
        let slow = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.fetch(outbound).await.map(|fetched| fetched.attempts) }
        });
        sender.send(vec![b'x'; 100_000].into()).await.unwrap();
        if streams {
            until(|| endpoint(&pool, 0).inflight == 1).await;
            assert_eq!(pool.bounds.spool.used(), (0, 0));
        } else {
            until(|| pool.bounds.spool.used().0 == 100_000).await;
            assert_eq!(endpoint(&pool, 0).inflight, 0);
        }
        slow.abort();
        until(|| endpoint(&pool, 0).inflight == 0 && pool.bounds.spool.used() == (0, 0)).await;
    }
}

#[tokio::test]
async fn a_slow_body_that_comes_and_goes_takes_little_of_the_disk() {
    let origin = large_origin(false).await;
    let limits =
        config::Limits { spool_memory_bytes_max: 0, spool_bytes_max: LARGE as u64, ..config::Limits::default() };
    let pool = bounded(origin.address, 1, &limits);
    let spool = &pool.bounds.spool;
    let mut body = within(pool.fetch(get())).await.unwrap().response.into_body();
    until(|| spool.used().1 == LARGE as u64).await;
    let mut read = 0;
    while read < LARGE / 2 {
        read += within(body.frame()).await.unwrap().unwrap().into_data().unwrap().len();
    }
    // File systems that can't give back the beginning of a file count it as long as it is there.
    let held = spool.used().1;
    assert!(held == LARGE as u64 || held <= (LARGE / 2 + (512 << 10)) as u64, "{held} of {LARGE}");
    while within(body.frame()).await.is_some() {}
    drop(body);
    until(|| spool.used() == (0, 0)).await;
}

#[tokio::test]
async fn waiting_for_what_is_lent_and_for_a_place_has_one_limit() {
    let connect = Duration::from_secs(2);
    let mut config = config(&[nobody().await]);
    (config.connections_max, config.connect) = (2, connect);
    let pool = Pool::new("test", &config).unwrap();
    let chosen = pool.choose(&[], false).unwrap();
    let claim = Claim::new(&chosen);
    let places = Arc::clone(claim.free()).acquire_many_owned(2).await.unwrap();
    let lent = Arc::clone(&chosen.places.lent).acquire_owned().await.unwrap();
    let begun = std::time::Instant::now();
    let waiting = tokio::spawn({
        let (pool, chosen) = (Arc::clone(&pool), Arc::clone(&chosen));
        async move { pool.place(&chosen, None, true).await.err().map(|fault| fault.reason) }
    });
    // Not for luck: with a limit for each wait, the second would begin here and end later than is allowed below.
    sleep(connect * 3 / 4).await;
    drop(lent);
    let reason = within(waiting).await.unwrap();
    assert!(matches!(reason, Some(Reason::WaitTimeout)), "{reason:?}");
    assert!(begun.elapsed() < connect * 7 / 4, "{:?}", begun.elapsed());
    drop((places, claim));
}

#[tokio::test]
async fn a_response_head_may_be_long_and_not_endless() {
    for (bytes, taken) in [(100_000, true), (200_000, false)] {
        let origin = Origin::start(move |_, mut stream| async move {
            read_request(&mut stream).await;
            write(&mut stream, &format!("HTTP/1.1 200 OK\r\nA: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(bytes)))
                .await;
        })
        .await;
        let pool = bounded(origin.address, 1, &config::Limits::default());
        match within(pool.fetch(get())).await {
            Ok(fetched) => assert!(taken && fetched.response.headers()["a"].len() == bytes),
            Err(failure) => assert_eq!((taken, failure.reason()), (false, "invalid-response")),
        }
    }
}

#[tokio::test]
async fn a_body_that_is_sent_slowly_holds_no_place_until_it_is_there() {
    let origin = Origin::saying(OK).await;
    let pool = bounded(origin.address, 1, &config::Limits::default());
    let (sender, body) = Body::channel(1, Some(6));
    assert_eq!(body.size_hint().exact(), Some(6));
    let slow = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { text(pool.fetch(request(Method::POST, OutboundBody::Once(body))).await.unwrap()).await }
    });
    sender.send(Bytes::from_static(b"abc")).await.unwrap();
    until(|| pool.bounds.spool.used().0 == 3).await;
    assert_eq!(text(within(pool.fetch(get())).await.unwrap()).await, "ok", "others have the place meanwhile");
    assert_eq!((endpoint(&pool, 0).inflight, origin.connections()), (0, 1));
    sender.send(Bytes::from_static(b"def")).await.unwrap();
    drop(sender);
    assert_eq!(within(slow).await.unwrap(), "ok");
}

#[tokio::test]
async fn streams_that_are_sent_slowly_hold_the_lent_places_only() {
    let origin = Origin::saying(OK).await;
    let mut config = config(&[origin.address]);
    (config.connections_max, config.connect) = (2, Duration::from_millis(100));
    let pool = Pool::new("test", &config).unwrap();
    let mut senders = Vec::new();
    let mut streaming = Vec::new();
    for _ in 0..2 {
        let (sender, body) = Body::channel(1, None);
        sender.send(Bytes::from_static(b"abc")).await.unwrap();
        senders.push(sender);
        let pool = Arc::clone(&pool);
        let body = OutboundBody::Once(body);
        streaming.push(tokio::spawn(async move { pool.fetch(request(Method::POST, body)).await }));
    }
    until(|| streaming.iter().any(tokio::task::JoinHandle::is_finished)).await;
    assert_eq!(endpoint(&pool, 0).inflight, 1);
    assert_eq!(text(within(pool.fetch(get())).await.unwrap()).await, "ok", "the other place is for others");

    drop(senders);
    let mut outcomes = Vec::new();
    for fetch in streaming {
        outcomes.push(within(fetch).await.unwrap().map_or_else(|failure| failure.reason(), |_| "response"));
    }
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["response", "wait-timeout"]);
}

#[tokio::test]
async fn one_address_has_so_many_places() {
    let origin = Origin::silent().await;
    let limits = config::Limits { client_places_max: 1, ..config::Limits::default() };
    let pool = bounded(origin.address, 8, &limits);
    let from = |ip: &str| {
        let client: IpAddr = ip.parse().unwrap();
        Outbound { client: Some(client), ..get() }
    };
    let asking = |outbound: Outbound| {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { pool.fetch(outbound).await })
    };
    let first = asking(from("192.0.2.1"));
    until(|| endpoint(&pool, 0).inflight == 1).await;
    let failure = within(pool.fetch(from("192.0.2.1"))).await.unwrap_err();
    assert_eq!((failure.status().as_u16(), failure.reason(), failure.endpoint()), (429, "client-limit", None));
    let others = [asking(from("192.0.2.2")), asking(from("127.0.0.1")), asking(from("127.0.0.1")), asking(get())];
    until(|| endpoint(&pool, 0).inflight == 5).await;
    first.abort();
    until(|| endpoint(&pool, 0).inflight == 4).await;
    let again = asking(from("192.0.2.1"));
    until(|| endpoint(&pool, 0).inflight == 5).await;
    drop((others, again));
}
