//! A few clients that send or read slowly must not stop the others: they hold no place at an origin.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};

use crate::harness::{
    client::{Conn, piped, read_to_close},
    eventually,
    liar::crlf,
    node::{Builder, Node, NodeHandle},
    origin::{Gate, Origin, Reply, Taps},
    sealed, within,
};

/// More than the places of the default pool.
const ATTACKERS: usize = 300;
const CONNECTIONS: usize = 3;
const STREAMS: usize = 100;

/// The wait of a request for a place; with the places gone it gets 503 then.
const WAIT: Duration = Duration::from_secs(15);

const LARGE: usize = 4 << 20;

async fn origin() -> Origin {
    let (origin, large) = (Origin::start().await, sealed("large", LARGE));
    origin.on("/large", move |_| Reply::ok(large.clone()).header("cache-control", "no-store"));
    origin.on("/free", |_| Reply::ok("free").header("cache-control", "no-store"));
    origin.on("/echo", |seen| Reply::ok(seen.body.clone()).header("cache-control", "no-store"));
    origin
}

fn node(origin: &Origin) -> Builder {
    Node::builder().origin(&origin.url()).set("pool.web", &format!("connect_ms = {}", WAIT.as_millis()))
}

/// Other clients request what isn't cached: all get their responses, and none waits for the attackers to go.
async fn others_notice_nothing(node: &NodeHandle) {
    let mut others = JoinSet::new();
    for client in 0..4 {
        let node = node.clone();
        others.spawn(async move {
            for number in 0..20 {
                let (begun, target) = (Instant::now(), format!("/free?{client}-{number}"));
                let ask = if number % 4 == 0 { node.post(&target).body("a body") } else { node.get(&target) };
                let response = ask.send().await;
                assert_eq!((response.status, response.text()), (200, "free"), "{target}: {:?}", response.headers);
                assert!(begun.elapsed() < WAIT, "{target} waited for the attackers");
            }
        });
    }
    within("the others", others.join_all()).await;
}

/// Requests that hold a place at the origin.
async fn places(node: &NodeHandle) -> f64 {
    node.metric("holm_origin_inflight", "").await
}

/// Requests that have come over HTTP/1.1.
async fn begun(node: &NodeHandle) -> f64 {
    node.metric("holm_http_requests_total", "version=\"1.1\"").await
}

/// An HTTP/2 client's request for `/large` on stream 1, whose window has so many bytes.
fn h2_request(window: u32) -> Vec<u8> {
    const SETTINGS: u8 = 4;
    const HEADERS: u8 = 1;
    const END_STREAM_AND_HEADERS: u8 = 5;
    let setting = [&[0_u8, 4][..], &window.to_be_bytes()].concat();
    // GET and http from HPACK's static table, then a path and an authority as literals.
    let fields = b"\x82\x86\x04\x06/large\x01\x09shop.test";
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    [preface, frame(SETTINGS, 0, 0, &setting), frame(HEADERS, END_STREAM_AND_HEADERS, 1, fields)].concat()
}

/// An HTTP/2 frame (RFC 9113, section 4.1) with a payload of less than 256 bytes.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

/// Connects from this address with so small a receive buffer, if one is given, and sends `request`.
#[cfg(target_os = "linux")]
async fn socket_from(node: &NodeHandle, ip: &str, buffer: Option<u32>, request: &str) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    if let Some(bytes) = buffer {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    socket.bind(format!("{ip}:0").parse().unwrap()).unwrap();
    let mut stream = socket.connect(node.address).await.unwrap();
    stream.write_all(&crlf(request)).await.unwrap();
    stream
}

/// Bytes of bodies that wait.
async fn spooled(node: &NodeHandle) -> f64 {
    node.metric("holm_origin_spool_memory_bytes", "").await + node.metric("holm_origin_spool_disk_bytes", "").await
}

/// Connects, sends `request`, and leaves it at that.
async fn sockets(node: &NodeHandle, count: usize, request: &str) -> Vec<TcpStream> {
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(&crlf(request)).await.unwrap();
        open.push(stream);
    }
    open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_that_state_much_and_send_a_byte_stop_nobody() {
    let origin = origin().await;
    let node = node(&origin).start().await;
    let posting = "POST /slow HTTP/1.1\nHost: shop.test\nContent-Length: 1000000\n\nx";
    let attackers = sockets(&node, ATTACKERS, posting).await;
    eventually("the requests", async || begun(&node).await > 299.0).await;
    others_notice_nothing(&node).await;
    assert!(places(&node).await < 1.0, "whose body isn't there holds no place");
    assert_eq!((attackers.len(), origin.hits("/slow")), (ATTACKERS, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunked_posts_that_send_a_byte_leave_half_of_the_places() {
    let origin = origin().await;
    let node = node(&origin).start().await;
    let posting = "POST /slow HTTP/1.1\nHost: shop.test\nTransfer-Encoding: chunked\n\n1\nx\n";
    let attackers = sockets(&node, ATTACKERS, posting).await;
    eventually("those that stream", async || origin.hits("/slow") == 128).await;
    others_notice_nothing(&node).await;
    assert_eq!((attackers.len(), origin.hits("/slow")), (ATTACKERS, 128));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_state_much_and_send_a_byte_stop_nobody() {
    let origin = origin().await;
    let node = node(&origin).start().await;
    let (mut conns, mut pipes, mut attackers) = (Vec::new(), Vec::new(), JoinSet::new());
    for _ in 0..CONNECTIONS {
        let conn = node.h2().await;
        for _ in 0..STREAMS {
            let ((pipe, body), mut stream) = (piped(), conn.stream());
            pipe.send(Ok("x".into())).await.unwrap();
            pipes.push(pipe);
            let ask = node.post("/slow").header("content-length", "1000000").stream(body);
            attackers.spawn(async move { stream.open(ask).await.is_ok() });
        }
        conns.push(conn);
    }
    node.took_over_h2(300).await;
    others_notice_nothing(&node).await;
    assert!(places(&node).await < 1.0, "whose body isn't there holds no place");
    assert_eq!((attackers.len(), origin.hits("/slow")), (ATTACKERS, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_stop_nobody_although_the_spool_is_full() {
    let origin = origin().await;
    let node =
        node(&origin).set("limits", "spool_memory_bytes_max = \"16MiB\"\nspool_bytes_max = \"64MiB\"").start().await;
    let attackers = sockets(&node, ATTACKERS, "GET /large HTTP/1.1\nHost: shop.test\n\n").await;
    eventually("the requests", async || begun(&node).await > 299.0).await;
    others_notice_nothing(&node).await;
    eventually("all but the lent places", async || places(&node).await < 129.0).await;
    assert!(node.metric("holm_origin_spool_disk_bytes", "").await <= f64::from(64 << 20));
    assert_eq!(attackers.len(), ATTACKERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_with_a_shut_window_stop_nobody() {
    let (origin, medium) = (origin().await, sealed("medium", 1 << 20));
    origin.on("/medium", move |_| Reply::ok(medium.clone()).header("cache-control", "no-store"));
    let node = node(&origin).start().await;
    let (mut conns, mut attackers) = (Vec::new(), JoinSet::new());
    for _ in 0..CONNECTIONS {
        let conn = Conn::h2_shut(node.address).await.unwrap();
        for _ in 0..STREAMS {
            let (mut stream, ask) = (conn.stream(), node.get("/medium"));
            attackers.spawn(async move { stream.open(ask).await.unwrap() });
        }
        conns.push(conn);
    }
    node.took_over_h2(300).await;
    others_notice_nothing(&node).await;
    let unread = within("the heads", attackers.join_all()).await;
    eventually("all places", async || places(&node).await < 1.0).await;
    assert!(unread.iter().all(|opened| opened.status == 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_are_whole_through_the_spool() {
    let origin = origin().await;
    let limits = "body_buffered_bytes_max = \"64KiB\"\nspool_memory_bytes_max = \"256KiB\"";
    let node = node(&origin).set("limits", limits).start().await;
    let body = sealed("up", LARGE);
    for mut conn in [node.h1().await, node.h2().await] {
        let response = conn.send(node.post("/echo").body(body.clone())).await;
        assert!(response.body == body, "{:?}: {} bytes", response.version, response.body.len());
    }
    assert!(origin.seen("/echo").iter().all(|seen| seen.body == body), "what came up is what was sent");

    let large = sealed("large", LARGE);
    for mut conn in [node.h1().await, Conn::h2(node.address).await.unwrap()] {
        let opened = conn.open(node.get("/large")).await.unwrap();
        eventually("the place", async || places(&node).await < 1.0).await;
        let response = within("the body", opened.whole()).await.unwrap();
        assert!(response.body == large, "{:?}: {} bytes", response.version, response.body.len());
    }
    eventually("all room", async || spooled(&node).await < 1.0).await;
}

/// All of 127.0.0.0/8 is this machine on Linux, elsewhere 127.0.0.1 alone.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_fills_its_share_of_the_spool_and_leaves_the_rest_to_others() {
    const MIB: f64 = (1 << 20) as f64;
    let origin = origin().await;
    let limits = "spool_memory_bytes_max = \"4MiB\"\nspool_bytes_max = \"28MiB\"\nclient_spool_bytes_max = \"8MiB\"\n\
                  trusted_proxies = []";
    let node = node(&origin).set("limits", limits).start().await;
    let asking = "GET /large HTTP/1.1\nHost: shop.test\n\n";
    let attackers = sockets(&node, 20, asking).await;
    eventually("the share being full", async || node.metric("holm_origin_spool_full_total", "").await > 9.0).await;
    let filled = spooled(&node).await;
    assert!(filled > 7.0 * MIB && filled < 9.0 * MIB, "{filled} bytes of an address that may have 8 MiB");

    let other = socket_from(&node, "127.0.0.2", None, asking).await;
    eventually("the room of another", async || spooled(&node).await > filled + 3.0 * MIB).await;
    drop((attackers, other));
    eventually("all room", async || spooled(&node).await < 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_pass_piece_by_piece() {
    let (origin, taps) = (origin().await, Taps::default());
    let feed = taps.clone();
    origin.on("/events", move |_| {
        Reply::ok("").header("content-type", "text/event-stream").header("cache-control", "no-store").fed(&feed)
    });
    let node = node(&origin).set("timeouts", "rate_bytes_min = \"1MiB\"\nrate_window_ms = 100").start().await;
    for mut conn in [node.h1().await, node.h2().await] {
        let ask = node.get("/events");
        let opening = tokio::spawn(async move {
            let opened = conn.open(ask).await.unwrap();
            (opened, conn)
        });
        let pipe = taps.next().await;
        pipe.send(Ok("data: first\n\n".into())).await.unwrap();
        let (mut opened, _conn) = opening.await.unwrap();
        assert_eq!(opened.piece().await.unwrap().unwrap(), "data: first\n\n");
        for number in 0..5 {
            // Longer than the window of the minimum rate, which is the client's and not the origin's.
            sleep(Duration::from_millis(150)).await;
            let event = Bytes::from(format!("data: {number}\n\n"));
            pipe.send(Ok(event.clone())).await.unwrap();
            assert_eq!(opened.piece().await.unwrap().unwrap(), event);
        }
        drop(pipe);
        // Its end may come as an empty piece of its own.
        while let Some(piece) = opened.piece().await {
            assert_eq!(piece.unwrap(), "");
        }
    }
    assert!(node.metric("holm_origin_spool_disk_bytes", "").await < 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_everything_and_one_that_is_too_slow_is_cut() {
    let origin = origin().await;
    let node = node(&origin).set("timeouts", "rate_bytes_min = \"8KiB\"\nrate_window_ms = 1_000").start().await;
    let mut stopped = sockets(&node, 1, "GET /large HTTP/1.1\nHost: shop.test\n\n").await;
    let mut slow = sockets(&node, 1, "GET /large HTTP/1.1\nHost: shop.test\nConnection: close\n\n").await;

    let (mut said, mut piece) = (Vec::new(), vec![0; 128 << 10]);
    loop {
        let read = within("a piece", slow[0].read(&mut piece)).await.unwrap();
        if read == 0 {
            break;
        }
        said.extend_from_slice(&piece[..read]);
        sleep(Duration::from_millis(50)).await;
    }
    assert!(said.ends_with(&sealed("large", LARGE)), "{} bytes", said.len());

    eventually("the one that stopped being cut", async || {
        node.metric("holm_http_connections_closed_total", "reason=\"rate\"").await > 0.0
    })
    .await;
    assert!(read_to_close(&mut stopped[0]).await.len() < LARGE);

    let conn = Conn::h2_shut(node.address).await.unwrap();
    let unread = conn.stream().open(node.get("/large")).await.unwrap();
    assert!(within("the stream being reset", unread.whole()).await.is_err());
    assert!(node.metric("holm_http_streams_reset_total", "reason=\"rate\"").await > 0.0);
    assert_eq!(conn.stream().open(node.get("/free")).await.unwrap().status, 200, "its connection goes on");
}

/// Its socket takes bytes by the tens of thousands, which this one needs longer for than it may pause.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_keeps_the_minimum_rate_is_not_cut_however_small_its_buffer() {
    let origin = origin().await;
    let rates = "send_ms = 4_000\nrate_bytes_min = 100\nrate_window_ms = 4_000";
    let node = node(&origin).set("timeouts", rates).start().await;
    let mut slow = socket_from(&node, "127.0.0.1", Some(4096), "GET /large HTTP/1.1\nHost: shop.test\n\n").await;
    let (begun, mut piece) = (Instant::now(), [0; 1000]);
    while begun.elapsed() < Duration::from_secs(10) {
        within("a piece", slow.read_exact(&mut piece)).await.unwrap();
        sleep(Duration::from_millis(250)).await;
    }
    for reason in ["reason=\"send\"", "reason=\"rate\""] {
        assert!(node.metric("holm_http_connections_closed_total", reason).await < 1.0, "{reason}");
    }
}

/// Large buffers are acknowledged in large steps, and the next one may take longer than a single pause may be.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_keeps_the_minimum_rate_is_not_cut_however_large_its_steps() {
    let origin = origin().await;
    let rates = "send_ms = 3_000\nrate_bytes_min = \"4KiB\"\nrate_window_ms = 3_000";
    let node = node(&origin).set("timeouts", rates).start().await;
    let asking = "GET /large HTTP/1.1\nHost: shop.test\n\n";
    let mut slow = socket_from(&node, "127.0.0.1", Some(64 << 10), asking).await;
    let mut piece = vec![0; 512 << 10];
    // Long enough that what comes next isn't taken for the filling of buffers.
    within("the first bytes", slow.read_exact(&mut piece[..12])).await.unwrap();
    sleep(Duration::from_millis(1_500)).await;
    for _ in 0..2 {
        within("a step", slow.read_exact(&mut piece)).await.unwrap();
        sleep(Duration::from_secs(7)).await;
    }
    within("a step", slow.read_exact(&mut piece)).await.unwrap();
    for reason in ["reason=\"send\"", "reason=\"rate\""] {
        assert!(node.metric("holm_http_connections_closed_total", reason).await < 1.0, "{reason}");
    }
}

/// hyper hands over pieces of 16 KiB, each of which lasts this client longer than it may pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_keeps_the_minimum_rate_is_not_reset_however_little_its_window_is_opened() {
    const DATA: u8 = 0;
    const RST_STREAM: u8 = 3;
    const WINDOW_UPDATE: u8 = 8;
    let origin = origin().await;
    let rates = "send_ms = 2_000\nrate_bytes_min = \"1KiB\"\nrate_window_ms = 2_000";
    let node = node(&origin).set("timeouts", rates).start().await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(&h2_request(1024)).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let opening = tokio::spawn(async move {
        while write.write_all(&frame(WINDOW_UPDATE, 0, 1, &1_000_u32.to_be_bytes())).await.is_ok() {
            sleep(Duration::from_millis(200)).await;
        }
    });
    let (mut bytes, mut head) = (0, [0; 9]);
    while bytes < 40_000 {
        within("a frame", read.read_exact(&mut head)).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        within("its payload", read.read_exact(&mut payload)).await.unwrap();
        assert_ne!(head[3], RST_STREAM, "after {bytes} bytes");
        if head[3] == DATA {
            bytes += payload.len();
        }
    }
    opening.abort();
}

/// To HTTP/1.0 the end of a connection is the end of a body without a stated length.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_http_1_0_that_is_cut_sees_that_the_body_is_not_whole() {
    let (origin, taps) = (origin().await, Taps::default());
    let feed = taps.clone();
    origin.on("/fed", move |_| Reply::ok("").header("cache-control", "no-store").fed(&feed));
    // At such a rate the last bytes that fill the client's buffer earn it next to nothing.
    let node = node(&origin).set("timeouts", "send_ms = 1_000\nrate_bytes_min = \"64KiB\"").start().await;
    let asking = "GET /fed HTTP/1.0\nHost: shop.test\n\n";
    let mut stopped = socket_from(&node, "127.0.0.1", Some(4096), asking).await;
    let pipe = taps.next().await;
    pipe.send(Ok(sealed("large", LARGE))).await.unwrap();
    drop(pipe);
    eventually("the cut", async || node.metric("holm_http_connections_closed_total", "reason=\"send\"").await > 0.0)
        .await;
    let mut said = Vec::new();
    let end = within("the end", stopped.read_to_end(&mut said)).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{} bytes", said.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_trickles_is_408_although_it_never_pauses() {
    let origin = origin().await;
    let node = node(&origin).set("timeouts", "rate_bytes_min = \"1kB\"\nrate_window_ms = 500").start().await;
    let mut streams = sockets(&node, 1, "POST /echo HTTP/1.1\nHost: shop.test\nContent-Length: 1000\n\n").await;
    let (mut read, mut write) = streams.remove(0).into_split();
    let trickling = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    let mut head = [0; 12];
    within("the refusal", read.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 408");
    assert_eq!(origin.hits("/echo"), 0);
    trickling.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_is_limited_in_connections_requests_and_places() {
    let (origin, gate) = (origin().await, Gate::closed());
    let held = gate.clone();
    origin.on("/held", move |_| Reply::ok("held").header("cache-control", "no-store").behind(&held));
    origin.on("/kept", |_| Reply::fresh(600, "kept"));
    let limits = "client_connections_max = 40\nclient_streams_max = 5\nclient_places_max = 2\ntrusted_proxies = []";
    let node = node(&origin).set("limits", limits).start().await;
    assert_eq!(node.fetch("/kept").await.text(), "kept");
    node.hit("/kept").await;

    let mut holding = JoinSet::new();
    for number in 0..2 {
        holding.spawn(node.post(&format!("/held?{number}")).send());
    }
    eventually("two places", async || places(&node).await > 1.0).await;
    for ask in [node.get("/free"), node.post("/free").body("a body")] {
        let refused = ask.send().await;
        assert_eq!((refused.status, refused.header("retry-after")), (429, "1"), "{}", refused.text());
        assert_eq!(refused.header("content-type"), "application/problem+json");
        assert_eq!(refused.cache().get("detail"), "client-limit");
    }
    assert!(node.fetch("/kept").await.is_hit(), "what is stored needs no place");

    // Two are held already.
    let before = begun(&node).await;
    let mut streams = sockets(&node, 3, "POST /slow HTTP/1.1\nHost: shop.test\nContent-Length: 9\n\nx").await;
    eventually("three more", async || begun(&node).await > before + 2.0).await;
    let refused = node.fetch("/kept").await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, "1"));
    assert_eq!(refused.cache().get("detail"), "refused");

    // With those five there are more than an address may have open.
    for _ in 0..40 {
        streams.push(TcpStream::connect(node.address).await.unwrap());
    }
    eventually("connections being closed", async || {
        node.metric("holm_http_connections_closed_total", "reason=\"client-limit\"").await > 4.0
    })
    .await;
    let mut last = streams.pop().unwrap();
    assert!(read_to_close(&mut last).await.is_empty());

    drop(streams);
    gate.open();
    let held = within("those that are held", holding.join_all()).await;
    assert!(held.iter().all(|response| response.status == 200));
    eventually("the address may go on", async || {
        node.get("/free").try_send().await.is_ok_and(|response| response.status == 200)
    })
    .await;
}
