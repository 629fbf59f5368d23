//! A new process takes the place of an old one while clients go on; and the sockets that others bind.

use std::{
    ffi::OsStr,
    net::SocketAddr,
    os::unix::net::UnixDatagram,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::harness::{
    LIMIT,
    client::{Ask, Conn, Failure, Response, piped},
    eventually,
    h3::{self, H3Conn},
    is_sealed,
    load::sealed_origin,
    node::{Builder, Node},
    origin::{Gate, Origin, Reply},
    process::{self, Process, run},
    quoted, sealed, within,
};
use crate::http_versions::Certificate;

/// Upgrades, and the connections of each version of HTTP that are kept open meanwhile.
const UPGRADES: usize = 10;
const CONNECTIONS: [usize; 2] = [480, 20];
const CONNECTIONS_H3: usize = 10;

/// A node whose place can be taken.
fn builder(origin: &Origin, dir: &Path, grace_ms: u64) -> Builder {
    let socket = quoted(&dir.join("takeover.sock").display().to_string());
    let takeover = format!("socket = {socket}\ngrace_ms = {grace_ms}");
    Node::builder().origin(&origin.url()).disk(&dir.join("cache")).set("takeover", &takeover)
}

/// How a client connects.
#[derive(Clone)]
enum Version {
    H1,
    H2,
    H3(CertificateDer<'static>),
}

/// The connection that a client keeps.
#[derive(Default)]
struct Kept {
    tcp: Option<Conn>,
    quic: Option<H3Conn>,
}

/// Clients that keep their connections, and connect again only where HTTP says so.
struct Clients {
    good: Arc<AtomicUsize>,
    bad: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Clients {
    fn start(address: SocketAddr, clients: impl IntoIterator<Item = Version>) -> Self {
        let (good, bad, stop) =
            (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<String>>>::default(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        for (client, version) in clients.into_iter().enumerate() {
            let (good, bad, stop) = (Arc::clone(&good), Arc::clone(&bad), stop.clone());
            tasks.spawn(async move {
                let mut kept = Kept::default();
                for n in 0.. {
                    if stop.is_cancelled() {
                        return;
                    }
                    let target = format!("/{}", (client * 31 + n) % 500);
                    let response = match &version {
                        Version::H1 => ask(address, &mut kept.tcp, true, &target).await,
                        Version::H2 => ask(address, &mut kept.tcp, false, &target).await,
                        Version::H3(root) => ask_h3(address, root, &mut kept.quic, &target).await,
                    };
                    match response {
                        Ok(response) if is_right(&response, &target) => {
                            good.fetch_add(1, SeqCst);
                        }
                        Ok(response) => {
                            bad.lock().push(format!("{target}: {} {:?}", response.status, response.headers));
                        }
                        Err(error) => bad.lock().push(format!("{target}: {error} {error:?}")),
                    }
                }
            });
        }
        Self { good, bad, stop, tasks }
    }

    async fn more(&self, count: usize) {
        let goal = self.good.load(SeqCst) + count;
        eventually("the clients going on", async || self.good.load(SeqCst) >= goal).await;
    }

    async fn finish(self) -> Vec<String> {
        self.stop.cancel();
        within("the clients ending", self.tasks.join_all()).await;
        std::mem::take(&mut *self.bad.lock())
    }
}

fn is_right(response: &Response, target: &str) -> bool {
    response.status == 200 && response.header("x-for") == target && is_sealed(&response.body)
}

/// Sends a request on the connection that is kept, or on another one if that takes no more. It is sent again only if it
/// was certainly not taken.
async fn ask(address: SocketAddr, kept: &mut Option<Conn>, is_h1: bool, target: &str) -> Result<Response, Failure> {
    loop {
        let mut conn = match kept.take() {
            Some(mut conn) => {
                if !conn.is_open().await {
                    continue;
                }
                conn
            }
            None if is_h1 => Conn::h1(address).await?,
            None => Conn::h2(address).await?,
        };
        let response = match conn.open(Ask::new(address, http::Method::GET, target)).await {
            Ok(opened) => opened.whole().await?,
            Err(error) if !is_h1 && was_refused(&error) => continue,
            Err(error) => return Err(error),
        };
        if response.header("connection") != "close" {
            *kept = Some(conn);
        }
        return Ok(response);
    }
}

/// The same over HTTP/3.
async fn ask_h3(
    address: SocketAddr,
    root: &CertificateDer<'static>,
    kept: &mut Option<H3Conn>,
    target: &str,
) -> Result<Response, Failure> {
    loop {
        let conn = match kept.take() {
            Some(conn) => Ok(conn),
            None => H3Conn::open(address, root).await,
        };
        let outcome = match conn {
            Ok(conn) => {
                let response = conn.try_send(Ask::new(address, http::Method::GET, target)).await;
                if response.is_ok() {
                    *kept = Some(conn);
                }
                response
            }
            Err(error) => Err(error),
        };
        match outcome {
            Err(error) if h3::was_refused(&error) => {}
            outcome => return outcome,
        }
    }
}

/// Whether HTTP/2 says that the request wasn't processed: the connection took no more, or its number is beyond the last.
fn was_refused(error: &Failure) -> bool {
    let Some(error) = error.downcast_ref::<hyper::Error>() else { return false };
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    let went_away = source.is_some_and(|it| it.is_go_away() && it.reason() == Some(h2::Reason::NO_ERROR));
    error.is_canceled() || error.is_closed() || went_away
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_upgrades_under_load_fail_no_request() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 2_000);
    // Time for each of many clients that share few cores to send another request.
    let builder = builder(&origin, dir.path(), 10_000);
    let mut running = builder.spawn().await;
    running.fetch("/kept").await;
    running.hit("/kept").await;
    let [h1, h2] = CONNECTIONS;
    let clients = std::iter::repeat_n(Version::H1, h1).chain(std::iter::repeat_n(Version::H2, h2));
    let clients = Clients::start(running.address, clients);
    for upgrade in 0..UPGRADES {
        clients.more(2 * (h1 + h2)).await;
        let next = Process::succeed(&builder.text()).await;
        assert_eq!((next.address, next.admin("/readyz").send().await.status), (running.address, 200));
        let mut old = std::mem::replace(&mut running, next);
        if upgrade == 0 {
            // Later ones begin further blocks of the disk, which is small.
            running.hit("/kept").await;
        }
        clients.more(h1 + h2).await;
        let ended = old.ended().await;
        assert!(ended.success(), "upgrade {upgrade}: {}", old.said());
    }
    let bad = clients.finish().await;
    assert!(bad.is_empty(), "{} failed: {:?}\n{}", bad.len(), &bad[..bad.len().min(5)], running.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_the_old_process_end_well_and_serve_nothing_that_was_purged() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |_| Reply::fresh(600, "old"));
    let builder = builder(&origin, dir.path(), 20_000);
    let mut old = builder.spawn().await;
    assert_eq!(old.fetch("/page").await.text(), "old");
    assert_eq!(old.fetch("/written").await.text(), "old");
    let (mut first, mut second) = (old.h1().await, old.h1().await);
    for conn in [&mut first, &mut second] {
        assert!(conn.send(old.get("/page")).await.is_hit());
    }
    let next = Process::succeed(&builder.text()).await;
    assert!(next.hit("/written").await.is_hit(), "the disk is the next one's now");

    origin.on("*", |_| Reply::fresh(600, "new"));
    next.purge_url("/page", false).await;
    let page = first.send(next.get("/page")).await;
    assert_eq!((page.text(), page.header("connection")), ("new", "close"), "the old one hears of no purge");
    let written = second.send(next.post("/written")).await;
    assert_eq!((written.status, written.header("connection")), (200, "close"));
    assert_eq!(next.fetch("/written").await.text(), "new", "a write through the old one holds at once in the next");
    assert!(old.ended().await.success(), "with its last connection: {}", old.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_fails_to_take_over_leaves_the_old_one_as_it_was() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |seen| Reply::fresh(600, seen.target.clone()));
    let path = dir.path().join("holm.sock");
    let listener = format!("[[listen]]\naddress = {}", quoted(&format!("unix:{}", path.display())));
    let builder = builder(&origin, dir.path(), 1_000).listener(&listener);
    let mut old = builder.spawn().await;
    assert_eq!(old.fetch("/a").await.text(), "/a");

    let nowhere = dir.path().join("no/such/folder/access.log");
    let policy = dir.path().join("broken.wasm");
    std::fs::write(&policy, b"\0asm and no more").unwrap();
    for (text, flags, words) in [
        // Before it gets the directories, and after that.
        (builder.clone().policy("p", &policy, "{}").route("policy = \"p\"").text(), &["--takeover"][..], "policy"),
        (builder.clone().access_log(&nowhere).text(), &["--takeover"][..], "access log"),
        (builder.text(), &[][..], "--takeover"),
    ] {
        let file = dir.path().join("next.toml");
        std::fs::write(&file, text).unwrap();
        let mut arguments = vec![OsStr::new("serve"), OsStr::new("--config"), file.as_os_str()];
        arguments.extend(flags.iter().map(OsStr::new));
        let failed = run(&arguments, LIMIT).await;
        let said = process::words(&failed);
        assert!(!failed.status.success() && said.contains(words), "{words}: {said}");
        assert!(old.is_alive(), "{words}: {}", old.said());
        assert!(path.exists(), "{words}: its socket has its file");
        eventually("a purge that the old one makes durable again", async || {
            let purge = serde_json::json!({"tag": "none"});
            let made = Ask::new(old.admin, http::Method::POST, "/purge").json(&purge).try_send().await;
            made.is_ok_and(|made| made.status == 200)
        })
        .await;
        let hits = origin.hits("/a");
        assert!(old.hit("/a").await.is_hit(), "{words}: what was stored is there");
        assert_eq!(origin.hits("/a"), hits, "{words}: and is served without asking");
    }
    let next = Process::succeed(&builder.text()).await;
    assert!(old.ended().await.success());
    assert!(next.hit("/a").await.is_hit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_that_can_not_be_opened_again_are_tried_until_they_can() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |seen| Reply::fresh(600, seen.target.clone()));
    let (real, plain, file) = (dir.path().join("real"), dir.path().join("plain"), dir.path().join("next.toml"));
    std::fs::create_dir(&real).unwrap();
    std::fs::write(&plain, "no directory").unwrap();
    // Its directory is a link, which is exchanged in one step.
    let point_to = |target: &Path| {
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(target, &link).unwrap();
        std::fs::rename(&link, dir.path().join("cache")).unwrap();
    };
    point_to(&real);
    let builder = builder(&origin, dir.path(), 1_000);
    let mut old = builder.spawn().await;
    old.fetch("/a").await;
    old.hit("/a").await;
    assert_eq!(old.metric("holm_cache_released", "").await, 0.0);

    // What is open stays so; nobody can open it anew.
    point_to(&plain);
    std::fs::write(&file, builder.text()).unwrap();
    let arguments = [OsStr::new("serve"), OsStr::new("--config"), file.as_os_str(), OsStr::new("--takeover")];
    let failed = run(&arguments, LIMIT).await;
    assert!(!failed.status.success() && old.is_alive(), "{}", process::words(&failed));
    eventually("what it lacks being said", async || old.said().contains("can't open its directories again")).await;
    assert_eq!(old.metric("holm_cache_released", "").await, 1.0);
    assert_eq!(old.fetch("/a").await.text(), "/a", "it serves");

    point_to(&real);
    eventually("its directories", async || old.metric("holm_cache_released", "").await == 0.0).await;
    let hits = origin.hits("/a");
    assert!(old.hit("/a").await.is_hit(), "what was stored is there");
    assert_eq!(origin.hits("/a"), hits, "and is served without asking");
    let next = Process::succeed(&builder.text()).await;
    assert!(old.ended().await.success(), "{}", old.said());
    assert!(next.hit("/a").await.is_hit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http3_finishes_in_the_old_process_and_begins_in_the_next() {
    let (origin, dir, gate) = (Origin::start().await, tempfile::tempdir().unwrap(), Gate::closed());
    let (certificate, held) = (Certificate::new(), gate.clone());
    origin.on("/slow", move |_| Reply::ok("slow but whole").behind(&held));
    origin.on("/quick", |_| Reply::ok("quick"));
    let builder = builder(&origin, dir.path(), 20_000).http3(&certificate.certificate, &certificate.key);
    let mut old = builder.spawn().await;
    let conn = H3Conn::open(old.address, &certificate.der).await.unwrap();
    let ask = old.get("/slow");
    let slow = tokio::spawn(async move { conn.send(ask).await });
    eventually("the slow request", async || origin.hits("/slow") == 1).await;

    let next = Process::succeed(&builder.text()).await;
    let conn = within("HTTP/3 in the next process", H3Conn::open(next.address, &certificate.der)).await.unwrap();
    assert_eq!(conn.send(next.get("/quick")).await.text(), "quick");
    assert!(next.metric("holm_http_requests_total", "version=\"3\"").await >= 1.0, "the next one has served it");
    assert!(old.is_alive(), "while the old one has a request");
    gate.open();
    assert_eq!(within("the slow response", slow).await.unwrap().text(), "slow but whole");
    assert!(old.ended().await.success(), "{}", old.said());
    assert_eq!(conn.send(next.get("/quick")).await.text(), "quick");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_upgrades_fail_no_request_over_http3_and_cut_no_upload() {
    let (origin, dir, certificate) = (Origin::start().await, tempfile::tempdir().unwrap(), Certificate::new());
    sealed_origin(&origin, "v1", 2_000);
    origin.on("/echo", |seen| Reply::ok(seen.body.clone()).header("cache-control", "no-store"));
    let builder = builder(&origin, dir.path(), 20_000).http3(&certificate.certificate, &certificate.key);
    let mut running = builder.spawn().await;
    let clients = std::iter::repeat_n(Version::H3(certificate.der.clone()), CONNECTIONS_H3);
    let clients = Clients::start(running.address, clients);
    let body = sealed("up", 1_000_000);
    for upgrade in 0..UPGRADES {
        clients.more(5 * CONNECTIONS_H3).await;
        let conn = within("a connection", H3Conn::open(running.address, &certificate.der)).await.unwrap();
        let (pipe, piped) = piped();
        let ask = running.post("/echo").header("expect", "100-continue").stream(piped);
        let upload = tokio::spawn(async move { conn.send_when_wanted(ask).await });
        let mut pieces = body.chunks(100_000).map(Bytes::copy_from_slice);
        // The second one is taken when the node has said that it wants the first.
        for piece in pieces.by_ref().take(2) {
            within("a piece being sent", pipe.send(Ok(piece))).await.unwrap();
        }
        let next = Process::succeed(&builder.text()).await;
        let mut old = std::mem::replace(&mut running, next);
        clients.more(2 * CONNECTIONS_H3).await;
        for piece in pieces {
            within("a piece being sent", pipe.send(Ok(piece))).await.unwrap();
        }
        drop(pipe);
        let response = within("the response", upload).await.unwrap().unwrap();
        assert!(response.status == 200 && response.body == body, "upgrade {upgrade}: {}", response.status);
        let ended = old.ended().await;
        assert!(ended.success(), "upgrade {upgrade}: {}", old.said());
    }
    let bad = clients.finish().await;
    assert!(bad.is_empty(), "{} failed: {:?}\n{}", bad.len(), &bad[..bad.len().min(5)], running.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_is_listened_at_and_goes_with_the_process() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |seen| Reply::ok(seen.header("x-forwarded-for").to_owned()));
    let path = dir.path().join("holm.sock");
    let listener = format!("[[listen]]\naddress = {}\nmode = \"owner\"", quoted(&format!("unix:{}", path.display())));
    let builder = builder(&origin, dir.path(), 1_000).listener(&listener);
    let mut process = builder.spawn().await;
    let get = async || {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"GET /a HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut response = String::new();
        within("the response", stream.read_to_string(&mut response)).await.unwrap();
        response
    };
    let response = get().await;
    assert!(response.starts_with("HTTP/1.1 200") && response.ends_with("\r\n127.0.0.1"), "{response}");
    let mut next = Process::succeed(&builder.text()).await;
    assert!(process.ended().await.success());
    assert!(get().await.starts_with("HTTP/1.1 200"), "the file is the next one's");
    next.signal("TERM");
    assert!(next.ended().await.success());
    assert!(!path.exists() && !dir.path().join("takeover.sock").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_of_the_service_manager_is_taken_and_it_is_told() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |_| Reply::ok("served"));
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let told = || {
        let mut space = [0; 256];
        let length = manager.recv(&mut space).unwrap();
        String::from_utf8(space[..length].to_vec()).unwrap()
    };
    let text = Node::builder().origin(&origin.url()).text();
    let text = text.replacen("address = \"127.0.0.1:0\"", &format!("address = \"{address}\""), 1);
    let mut process = Process::activated(&text, socket, &path).await;
    assert_eq!((process.address, told().as_str()), (address, "READY=1"));
    assert_eq!(process.fetch("/a").await.text(), "served");
    process.signal("HUP");
    assert!(told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(told(), "READY=1");
    process.signal("TERM");
    assert_eq!(told(), "STOPPING=1");
    assert!(process.ended().await.success());
}
