//! The program: its command line, its signals, and what it survives.

use std::{ffi::OsStr, io::Read, os::unix::fs::OpenOptionsExt, time::Duration};

use crate::harness::{
    LIMIT, eventually, is_sealed,
    load::{Load, sealed_origin},
    node::Node,
    origin::{Gate, Origin, Reply, Taps},
    process::{self, Process, run},
    repository, sealed,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn term_and_int_finish_what_is_under_way() {
    for signal in ["TERM", "INT"] {
        let (origin, gate, taps) = (Origin::start().await, Gate::closed(), Taps::default());
        let (held, feed, body) = (gate.clone(), taps.clone(), sealed("streamed", 100_000));
        origin.on("/slow", move |_| Reply::ok("slow but whole").behind(&held));
        origin.on("/streamed", move |_| Reply::fresh(60, "").fed(&feed));
        let mut process = Node::builder().origin(&origin.url()).spawn().await;
        let slow = tokio::spawn(process.get("/slow").send());
        let streamed = tokio::spawn(process.get("/streamed").open());
        let pipe = taps.next().await;
        pipe.send(Ok(body.slice(..50_000))).await.unwrap();
        let streamed = streamed.await.unwrap().unwrap();
        eventually("the slow request", async || origin.hits("/slow") == 1).await;

        process.signal(signal);
        eventually("no new connections", async || process.get("/new").try_send().await.is_err()).await;
        gate.open();
        pipe.send(Ok(body.slice(50_000..))).await.unwrap();
        drop(pipe);
        assert_eq!(slow.await.unwrap().text(), "slow but whole", "{signal}");
        assert!(streamed.whole().await.unwrap().body == body, "{signal}");
        assert!(process.ended().await.success(), "{signal}: {}", process.said());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_has_an_end() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/never", move |_| Reply::ok("never").behind(&held));
    let mut process = Node::builder().origin(&origin.url()).set("timeouts", "drain_ms = 300").spawn().await;
    let never = tokio::spawn(process.get("/never").try_send());
    eventually("the request", async || origin.hits("/never") == 1).await;
    process.signal("TERM");
    process.ended().await;
    assert!(never.await.unwrap().is_err());
    gate.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_leaves_nothing_torn_and_brings_nothing_back() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 20_000);
    // So little memory that nearly everything is on disk.
    let builder = Node::builder().origin(&origin.url()).disk(dir.path()).memory("1MiB");
    for round in 0..2 {
        let process = builder.spawn().await;
        let load = Load::start(&process, 6, |n| format!("/k/{}", n * 7 % KEYS));
        load.more(2 * KEYS).await;
        sealed_origin(&origin, "v2", 20_000);
        for n in 0..PURGED {
            process.purge_url(&format!("/k/{n}"), false).await;
        }
        load.more(50).await;
        process.kill();
        let (wrong, _) = load.finish().await;
        let torn = |wrong: &&String| wrong.contains("torn") || wrong.contains("the response of another");
        assert_eq!(wrong.iter().find(torn), None, "round {round}: even while it was being killed");

        let process = builder.spawn().await;
        let mut hits = 0;
        for n in 0..KEYS {
            let target = format!("/k/{n}");
            let response = process.fetch(&target).await;
            hits += usize::from(response.is_hit());
            assert!(
                response.status == 200 && is_sealed(&response.body) && response.header("x-for") == target,
                "{target} is torn"
            );
            let back = n < PURGED && response.header("x-version") == "v1";
            assert!(!back, "round {round}: {target} was purged and came back: {:?}", response.cache());
        }
        assert!(hits > 0, "nothing was on disk, so nothing was tried");
        process.kill();
    }
}

/// Keys of the load, and how many of them are purged.
const KEYS: usize = 240;
const PURGED: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_alone_make_a_caching_proxy() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("/x", |_| Reply::fresh(600, "x"));
    let (url, disk) = (origin.url(), dir.path().join("cache"));
    let flags = ["--origin", &url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--memory", "32MiB"];
    let mut flags: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
    flags.extend([OsStr::new("--disk"), disk.as_os_str(), OsStr::new("--disk-size"), OsStr::new("64MiB")]);
    let process = Process::serve_with(&flags).await;
    assert_eq!(process.fetch("/x").await.text(), "x");
    assert!(process.hit("/x").await.is_hit());
    assert!(disk.is_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_take_a_policy() {
    let origin = Origin::start().await;
    origin.on("/x", |seen| Reply::fresh(600, seen.header("x-tenant").to_owned()));
    let (url, policy) = (origin.url(), repository("plugins/dist/tenant-key.wasm").display().to_string());
    let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let process = Process::serve_with(&[&["--origin", &url, "--policy", &policy][..], &listen].concat()).await;
    for tenant in ["a", "b", "a", "b"] {
        assert_eq!(process.get("/x").header("x-tenant", tenant).send().await.text(), tenant);
    }
    assert_eq!(origin.hits("/x"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_file_is_shown_with_its_line_the_piece_and_what_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    for (text, words) in [
        (
            "[[listen]]\naddress = \"here\"\n[pool.web]\nendpoints = [\"http://a\"]\n",
            &[":2", "here", "127.0.0.1:8080"][..],
        ),
        ("[[listen]]\naddress = \"127.0.0.1:0\"\n[limitz]\n", &[":3", "limitz", "limits"]),
        ("[[listen]]\naddress = \"127.0.0.1:0\"\n[limits]\nheaders_max = 1\n", &[":4", "headers_max", "8"]),
        ("[[listen]]\naddress = \"127.0.0.1:0\"\n[limits]\nheaders_max = \"many\"\n", &[":4", "many"]),
        (
            "[[listen]]\naddress = \"127.0.0.1:0\"\n[[route]]\nname = \"r\"\npool = \"w\"\n[pool.web]\nendpoints = [\"http://a\"]\n",
            &[":5", "web"],
        ),
        ("[[listen]\n", &[":1"]),
    ] {
        let file = dir.path().join("wrong.toml");
        std::fs::write(&file, text).unwrap();
        for command in [&["check"][..], &["serve", "--config"]] {
            let mut arguments: Vec<&OsStr> = command.iter().map(OsStr::new).collect();
            arguments.push(file.as_os_str());
            let output = run(&arguments, LIMIT).await;
            let said = process::words(&output);
            assert!(!output.status.success(), "{command:?} took\n{text}");
            for word in words.iter().chain(&["wrong.toml"]) {
                assert!(said.contains(word), "{command:?} doesn't say {word:?}:\n{said}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_annotated_example_is_right() {
    let output = run(&["check".into(), repository("config/holm.toml").into_os_string()], LIMIT).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["serve", "--origin", "http://127.0.0.1:1", "--listen", &address], LIMIT).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(&address) && !said.contains("panicked"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_is_reopened_on_hup() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |_| Reply::fresh(600, "x"));
    let (log, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let mut process = Node::builder().origin(&origin.url()).access_log(&log).spawn().await;
    process.fetch("/before").await;
    let has = |file: &std::path::Path, word: &str| std::fs::read_to_string(file).is_ok_and(|text| text.contains(word));
    eventually("the first line", async || has(&log, "/before")).await;
    std::fs::rename(&log, &old).unwrap();
    process.signal("HUP");
    eventually("a new file", async || log.exists()).await;
    process.fetch("/after").await;
    eventually("the next line in it", async || has(&log, "/after")).await;
    assert!(!has(&log, "/before") && has(&old, "/before") && process.is_alive());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_access_log_on_a_fifo_that_nobody_reads_holds_nothing_up() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |_| Reply::fresh(600, "x"));
    let fifo = dir.path().join("access.fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // That it comes to be ready shows it: the log is opened before.
    let mut process = Node::builder().origin(&origin.url()).access_log(&fifo).spawn().await;
    process.fetch("/before").await;
    eventually("lines that are counted", async || process.metric("holm_access_log_failed_total", "").await >= 1.0)
        .await;

    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut reader = std::fs::File::options().read(true).custom_flags(nonblocking).open(&fifo).unwrap();
    let mut heard = Vec::new();
    process.fetch("/after").await;
    eventually("the line of the next request", async || {
        // It is empty until the writer has come, and more may always follow.
        let _ = reader.read_to_end(&mut heard);
        String::from_utf8_lossy(&heard).contains("/after")
    })
    .await;
    assert!(!String::from_utf8_lossy(&heard).contains("/before"), "it was lost");
    process.signal("TERM");
    assert!(process.ended().await.success(), "{}", process.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_runs_to_its_summary() {
    let output = run(&["demo", "--once"], Duration::from_secs(300)).await;
    let said = process::words(&output);
    assert!(output.status.success(), "{said}");
    for word in
        ["requests", "collapsed", "batches", "p50", "p99", "at 250 requests a second", "at 1,000 requests a second"]
    {
        assert!(said.to_lowercase().contains(word), "{word} is missing in\n{said}");
    }
    assert!(said.contains("All 3,000 responses through holm equal the origin's own."), "{said}");
}
