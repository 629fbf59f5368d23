//! Another configuration while the node runs: by HUP, by the admin API, and by a changed file.

use std::{fs, io, net::SocketAddr, path::Path};

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        LIMIT,
        client::{Ask, Conn, full},
        eventually, free_address,
        h2::H2Origin,
        load::{Load, sealed_origin},
        node::{Builder, Node, NodeHandle},
        origin::{Gate, Origin, Reply},
        process::{Process, run, words},
        quoted,
    },
    http_versions::Certificate,
};

/// The configuration as a file that isn't watched.
fn unwatched(builder: &Builder) -> String {
    format!("watch = false\n{}", builder.text())
}

/// The same with another listener.
fn listening(builder: &Builder, address: SocketAddr) -> String {
    format!("{}[[listen]]\naddress = \"{address}\"\n", unwatched(builder))
}

fn put(process: &Process, text: &str) {
    fs::write(process.config(), text).unwrap();
}

/// Has the node read its file again, and returns the status and the body of the response.
async fn reload(handle: &NodeHandle) -> (u16, Value) {
    let response = Ask::new(handle.admin, Method::POST, "/config/reload").json(&json!({})).send().await;
    (response.status, response.json())
}

async fn reloaded(handle: &NodeHandle) -> Value {
    let (status, body) = reload(handle).await;
    assert_eq!(status, 200, "{body}");
    body
}

/// Two origins, and a configuration that leads a path to the second.
struct Two {
    web: Origin,
    other: Origin,
}

impl Two {
    async fn start() -> Self {
        let two = Self { web: Origin::start().await, other: Origin::start().await };
        two.web.on("*", |_| Reply::ok("web"));
        two.other.on("*", |_| Reply::ok("other"));
        two
    }

    fn before(&self) -> Builder {
        Node::builder().origin(&self.web.url())
    }

    fn after(&self) -> Builder {
        let route = "name = \"other\"\npath = \"/other\"\npool = \"other\"\nmode = \"http\"";
        let endpoints = format!("endpoints = [{}]", quoted(&self.other.url()));
        self.before().set("pool.other", &endpoints).route_before(route)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hup_adopts_another_route_and_pool() {
    let two = Two::start().await;
    let process = Process::serve(&unwatched(&two.before())).await;
    assert_eq!(process.fetch("/other").await.text(), "web");
    put(&process, &unwatched(&two.after()));
    process.signal("HUP");
    eventually("the new route", async || process.fetch("/other").await.text() == "other").await;
    assert_eq!(process.fetch("/more").await.text(), "web");
    eventually("the counters", async || {
        process.metric("holm_config_reloads_total", "outcome=\"adopted\"").await == 1.0
    })
    .await;
    assert_eq!(process.metric("holm_config_generation", "").await, 2.0);
    assert!(process.metric("holm_config_last_success_timestamp_seconds", "").await > 1.0);
    for words in ["route.other is new", "pool.other is new", "the configuration is adopted"] {
        eventually(words, async || process.said().contains(words)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_is_adopted_by_itself() {
    let two = Two::start().await;
    let process = Process::serve(&two.before().text()).await;
    assert_eq!(process.fetch("/other").await.text(), "web");
    // As editors do it.
    let beside = process.config().with_extension("new");
    fs::write(&beside, two.after().text()).unwrap();
    fs::rename(&beside, process.config()).unwrap();
    eventually("the new route", async || process.fetch("/other").await.text() == "other").await;
    // And once more, in place: what is watched follows the exchange.
    put(&process, &two.before().text());
    eventually("the former route", async || process.fetch("/other").await.text() == "web").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_file_changes_nothing_and_says_why() {
    let two = Two::start().await;
    let process = Process::serve(&unwatched(&two.before())).await;
    put(&process, "watch = false\nnonsense = 1\n");
    process.signal("HUP");
    eventually("the reason in the log", async || {
        let said = process.said();
        said.contains("the configuration is wrong") && said.contains("holm.toml:2:1: unknown key `nonsense`")
    })
    .await;
    let (status, refused) = reload(&process).await;
    assert_eq!(status, 422, "{refused}");
    let finding = &refused["findings"][0];
    assert!(finding["place"].as_str().unwrap().ends_with("holm.toml:2:1"), "{refused}");
    assert_eq!(finding["message"], json!("unknown key `nonsense`"));

    // What needs a restart keeps the rest of the file out as well.
    put(&process, &unwatched(&two.after().memory("32MiB")));
    let (status, refused) = reload(&process).await;
    assert_eq!((status, &refused["needs_restart"]), (409, &json!(["cache.memory.bytes"])), "{refused}");
    // So does an address that is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    put(&process, &listening(&two.after(), address));
    let (status, refused) = reload(&process).await;
    assert!(status == 409 && refused["detail"].as_str().unwrap().contains(&address.to_string()), "{refused}");

    assert_eq!(process.fetch("/other").await.text(), "web");
    assert_eq!(process.metric("holm_config_generation", "").await, 1.0);
    assert_eq!(process.metric("holm_config_reloads_total", "outcome=\"refused\"").await, 4.0);
    // The same without that address is adopted.
    put(&process, &unwatched(&two.after()));
    assert_eq!(reloaded(&process).await["generation"], json!(2));
    assert_eq!(process.fetch("/other").await.text(), "other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_did_not_change_keeps_its_connection() {
    let origin = H2Origin::start(100, None, |_| async { http::Response::new(full("x")) }).await;
    let two = Two::start().await;
    let before = Node::builder().origin(&origin.url()).set("pool.web", "http = \"2\"");
    let process = Process::serve(&unwatched(&before)).await;
    assert_eq!(process.fetch("/1").await.text(), "x");
    assert_eq!(origin.connections(), 1);
    let endpoints = format!("endpoints = [{}]", quoted(&two.other.url()));
    let route = "name = \"other\"\npath = \"/other\"\npool = \"other\"\nmode = \"http\"";
    put(&process, &unwatched(&before.clone().set("pool.other", &endpoints).route_before(route)));
    reloaded(&process).await;
    assert_eq!(process.fetch("/other").await.text(), "other");
    assert_eq!(process.fetch("/2").await.text(), "x");
    assert_eq!(origin.connections(), 1);
    // So do the endpoints that a changed pool still has.
    let (url, other) = (quoted(&origin.url()), quoted(&two.other.url()));
    let both = format!("endpoints = [{{ url = {other}, backup = true }}, {{ url = {url}, weight = 2 }}]\nhttp = \"2\"");
    put(&process, &unwatched(&Node::builder().set("pool.web", &both)));
    reloaded(&process).await;
    assert_eq!(process.fetch("/both").await.text(), "x");
    assert_eq!(origin.connections(), 1);
    eventually("the counts", async || {
        let pools = process.admin("/pools").send().await.json();
        (&pools[0]["endpoints"][0]["ok"], &pools[0]["endpoints"][1]["ok"]) == (&json!(0), &json!(3))
    })
    .await;
    put(&process, &unwatched(&before.clone().set("pool.web", "waiting_max = 9")));
    reloaded(&process).await;
    assert_eq!(process.fetch("/3").await.text(), "x");
    assert_eq!(origin.connections(), 1);
    // Where other connections are wanted, there are others.
    put(&process, &unwatched(&before.set("pool.web", "connect_ms = 1_999")));
    reloaded(&process).await;
    assert_eq!(process.fetch("/4").await.text(), "x");
    assert_eq!(origin.connections(), 2);
    eventually("the former connection closed", async || origin.open() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_added_address_serves_and_one_that_is_gone_drains() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/slow", move |_| Reply::ok("slow but whole").behind(&held));
    origin.on("*", |_| Reply::ok("x"));
    let builder = Node::builder().origin(&origin.url());
    let (first, second) = (free_address(), free_address());
    let process = Process::serve(&listening(&builder, first)).await;
    let at = |address| NodeHandle { address, admin: process.admin };
    let slow = tokio::spawn(at(first).get("/slow").send());
    eventually("the slow request", async || origin.hits("/slow") == 1).await;
    let mut idle = Conn::h2(first).await.unwrap();
    assert_eq!(idle.send(at(first).get("/idle")).await.text(), "x");

    put(&process, &listening(&builder, second));
    let changes = reloaded(&process).await["changes"].clone();
    let keys: Vec<&str> = changes.as_array().unwrap().iter().map(|change| change["key"].as_str().unwrap()).collect();
    let (mut wanted, mut found) = (vec![first, second], Vec::new());
    wanted.sort();
    for key in keys {
        found.push(key.trim_start_matches("listen.").trim_matches('"').parse::<SocketAddr>().unwrap());
    }
    found.sort();
    assert_eq!(found, wanted, "{changes}");

    assert_eq!(at(second).fetch("/new").await.text(), "x");
    assert_eq!(process.fetch("/same").await.text(), "x", "the other address goes on");
    eventually("no new connections", async || tokio::net::TcpStream::connect(first).await.is_err()).await;
    eventually("the idle connection closed", async || idle.open(at(first).get("/idle")).await.is_err()).await;
    gate.open();
    assert_eq!(slow.await.unwrap().text(), "slow but whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_limits_hold_for_connections_that_come_after_them() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::ok("x"));
    let builder = Node::builder().origin(&origin.url());
    let process = Process::serve(&unwatched(&builder)).await;
    let long = || process.post("/x").body("123456789");
    let mut before = process.h1().await;
    assert_eq!(before.send(long()).await.status, 200);
    put(&process, &unwatched(&builder.clone().set("limits", "body_bytes_max = 8")));
    reloaded(&process).await;
    assert_eq!(long().send().await.status, 413);
    assert_eq!(before.send(long()).await.status, 200, "an open connection keeps its own");
    put(&process, &unwatched(&builder));
    reloaded(&process).await;
    assert_eq!(long().send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_shown_to_connections_that_come_after_it() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::ok("x"));
    let (certificate, renewed) = (Certificate::new(), Certificate::new());
    let base = Node::builder().origin(&origin.url()).set("tls", "reload_ms = 0");
    let builder = base.clone().tls(&certificate.certificate, &certificate.key);
    let process = Process::serve(&unwatched(&builder)).await;
    let ask = || process.get("/x").host("localhost");
    let mut open = Conn::tls(process.address, &certificate.der, &["h2"]).await.unwrap();
    assert_eq!(open.send(ask()).await.status, 200);
    fs::copy(&renewed.certificate, &certificate.certificate).unwrap();
    fs::copy(&renewed.key, &certificate.key).unwrap();
    reloaded(&process).await;
    let mut new = Conn::tls(process.address, &renewed.der, &["h2"]).await.unwrap();
    assert_eq!(new.send(ask()).await.status, 200);
    assert!(Conn::tls(process.address, &certificate.der, &["h2"]).await.is_err());
    assert_eq!(open.send(ask()).await.status, 200, "an open connection goes on");
    // A certificate without its key, as in the middle of a renewal, keeps nothing else out.
    fs::copy(&Certificate::new().key, &certificate.key).unwrap();
    put(&process, &unwatched(&builder.set("limits", "headers_max = 50")));
    let adopted = reloaded(&process).await;
    assert_eq!(adopted["changes"][0]["key"], json!("limits.headers_max"), "{adopted}");
    assert!(Conn::tls(process.address, &renewed.der, &["h2"]).await.is_ok());
    assert_eq!(process.metric("holm_tls_certificates_refused_total", "").await, 1.0);
    // But no other files that don't match take the place of those that are served.
    put(&process, &unwatched(&base.tls(&renewed.certificate, &certificate.key)));
    let (status, refused) = reload(&process).await;
    assert!(status == 409 && refused["detail"].as_str().unwrap().contains("certificate"), "{refused}");
    assert!(Conn::tls(process.address, &renewed.der, &["h2"]).await.is_ok());
}

/// Open files of a process.
#[cfg(target_os = "linux")]
fn files(process: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count()
}

/// Requests over one connection of HTTP/2 until it is told to stop; returns their number.
#[cfg(target_os = "linux")]
async fn over_h2(handle: NodeHandle, stop: tokio_util::sync::CancellationToken) -> io::Result<usize> {
    let mut conn = handle.h2().await;
    let mut count = 0;
    while !stop.is_cancelled() {
        let response = conn.send(handle.get(&format!("/{}/{}", ["some", "more"][count % 2], count % 1_000))).await;
        if response.status != 200 {
            return Err(io::Error::other(format!("request {count}: {}", response.status)));
        }
        count += 1;
    }
    Ok(count)
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_exchanges_under_load_fail_no_request_and_leave_nothing_behind() {
    let origin = Origin::start().await;
    sealed_origin(&origin, "one", 500);
    let builder = Node::builder().origin(&origin.url()).memory("4MiB");
    let route = "name = \"some\"\npath = \"/some\"\npool = \"web\"\nmode = \"http\"";
    let texts = [
        unwatched(&builder),
        unwatched(&builder.clone().set("pool.web", "waiting_max = 1000\nhealth.path = \"/health\"")),
        unwatched(&builder.clone().route_before(route).set("limits", "connections_max = 5000\nstreams_max = 64")),
        listening(&builder, free_address()),
    ];
    let process = Process::serve(&texts[0]).await;
    let load = Load::start(&process, 4, |n| format!("/{}/{}", ["some", "more"][n % 2], n % 1_000));
    let stop = tokio_util::sync::CancellationToken::new();
    let streams: Vec<_> = (0..2).map(|_| tokio::spawn(over_h2(NodeHandle::clone(&process), stop.clone()))).collect();
    let mut early = None;
    for round in 1..=EXCHANGES {
        put(&process, &texts[round % texts.len()]);
        reloaded(&process).await;
        load.more(5).await;
        if round == EXCHANGES / 4 {
            early = Some((process.footprint(), files(&process)));
        }
    }
    stop.cancel();
    for stream in streams {
        assert!(stream.await.unwrap().unwrap() > 0);
    }
    let (bad, _) = load.finish().await;
    assert!(bad.is_empty(), "{} bad responses: {:?}", bad.len(), &bad[..bad.len().min(3)]);
    let ((rss_early, maps_early), files_early) = early.unwrap();
    let (rss, maps) = process.footprint();
    assert!(maps <= maps_early + 40, "mappings: {maps_early} early, {maps} at last");
    assert!(rss <= rss_early + rss_early / 4, "KiB: {rss_early} early, {rss} at last");
    // Those of the former pools close with their last requests.
    eventually("no more files than before", async || files(&process) <= files_early + 8).await;
    assert_eq!(process.metric("holm_config_generation", "").await, f64::from(u32::try_from(EXCHANGES).unwrap() + 1));
}

#[cfg(target_os = "linux")]
const EXCHANGES: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn diff_says_what_would_change_and_what_needs_a_restart() {
    let two = Two::start().await;
    let process = Process::serve(&unwatched(&two.before())).await;
    let file = process.config().with_file_name("other.toml");
    let (admin, path) = (process.admin.to_string(), file.display().to_string());
    let diff = async |text: String| {
        fs::write(&file, text).unwrap();
        let output = run(&["diff", &path, "--admin", &admin], LIMIT).await;
        (output.status.code().unwrap(), words(&output))
    };
    assert_eq!(diff(unwatched(&two.before())).await, (0, String::new()));
    let (code, said) = diff(unwatched(&two.after().set("limits", "headers_max = 50"))).await;
    assert_eq!((code, said.as_str()), (1, "limits.headers_max: 100 -> 50\npool.other is new\nroute.other is new\n"));
    let (code, said) = diff(unwatched(&two.before().memory("32MiB").name("n2"))).await;
    assert_eq!(code, 3, "{said}");
    for line in [
        "cache.memory.bytes: \"16MiB\" -> \"32MiB\" (needs a restart)",
        "node: \"n1\" -> \"n2\" (needs a restart)",
        "a running node refuses this file: 2 of 2 changes need a restart",
    ] {
        assert!(said.lines().any(|found| found == line), "{line} is missing in\n{said}");
    }
    let (code, said) = diff("nonsense = 1".to_owned()).await;
    assert!(code == 2 && said.contains("unknown key `nonsense`"), "{code}: {said}");
    assert_eq!(process.metric("holm_config_generation", "").await, 1.0, "nothing was changed by looking");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_is_shown_without_secrets() {
    let origin = Origin::start().await;
    let builder = Node::builder().origin(&origin.url()).redis_at("redis://:hunter2@127.0.0.1:1", 100).at_once();
    let node = builder.launch().await.unwrap();
    let shown = node.admin("/config").send().await;
    assert_eq!(shown.status, 200);
    assert!(!shown.text().contains("hunter2"), "{}", shown.text());
    let info = shown.json();
    assert_eq!(info["config"]["cache"]["redis"]["url"], json!("redis://***@127.0.0.1:1"));
    assert_eq!(info["config"]["limits"]["headers_max"], json!(100), "defaults as well");
    assert_eq!((&info["generation"], &info["file"]), (&json!(1), &Value::Null));
    let (status, refused) = reload(&node).await;
    assert!(status == 409 && refused["detail"].as_str().unwrap().contains("no file"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_by_other_rules_is_not_found() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    let page = || Reply::fresh(600, "x").header("x-tags", "news");
    origin.on("/page", move |_| page());
    origin.on("/slow", move |_| page().behind(&held));
    let before = Node::builder().origin(&origin.url());
    let after = before.clone().route("tag_headers = [\"x-tags\"]");
    let node = before.start().await;
    node.fetch("/page").await;
    node.hit("/page").await;
    let slow = tokio::spawn(node.get("/slow").send());
    eventually("the slow fetch", async || origin.hits("/slow") == 1).await;

    node.adopt(&after).await.unwrap();
    // A fetch that began by the former rules is not for those who come by these.
    let another = tokio::spawn(node.get("/slow").send());
    eventually("another fetch", async || origin.hits("/slow") == 2).await;
    gate.open();
    for waiting in [slow, another] {
        assert_eq!(waiting.await.unwrap().status, 200);
    }
    node.fetch("/page").await;
    assert_eq!(origin.hits("/page"), 2, "what was stored before can't be purged by its tag");
    for path in ["/page", "/slow"] {
        node.hit(path).await;
    }
    node.purge(&json!({"tag": "news"})).await;
    for path in ["/page", "/slow"] {
        assert!(node.cached(path).await.is_none(), "{path}");
    }
    // Whatever else changes, what is stored stays.
    node.fetch("/page").await;
    node.hit("/page").await;
    node.adopt(&after.route("reload = \"honour\"")).await.unwrap();
    assert!(node.fetch("/page").await.is_hit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_gone_keeps_no_reload_out() {
    let (two, certificate) = (Two::start().await, Certificate::new());
    let with = |builder: Builder, file: &Path| builder.set("tls", "reload_ms = 0").tls(file, &certificate.key);
    let process = Process::serve(&unwatched(&with(two.before(), &certificate.certificate))).await;
    fs::remove_file(&certificate.certificate).unwrap();
    put(&process, &unwatched(&with(two.after(), &certificate.certificate)));
    reloaded(&process).await;
    let mut conn = Conn::tls(process.address, &certificate.der, &["h2"]).await.unwrap();
    assert_eq!(conn.send(process.get("/other").host("localhost")).await.text(), "other");
    for words in ["the former one is served on", "what was read of it holds"] {
        eventually(words, async || process.said().contains(words)).await;
    }
    // One that the node hasn't read has to be there.
    put(&process, &unwatched(&with(two.after(), Path::new("/nowhere/certificate.pem"))));
    let (status, refused) = reload(&process).await;
    assert!(status == 422 && refused.to_string().contains("/nowhere/certificate.pem"), "{refused}");
}
