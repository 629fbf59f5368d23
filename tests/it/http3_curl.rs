//! curl over HTTP/3, the client that operators try first: `tests/run` finds one or unpacks it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    harness::{
        node::Node,
        origin::{Origin, Reply},
        sealed,
    },
    http_versions::Certificate,
};

/// A curl that speaks HTTP/3.
const CURL: &str = "HOLM_CURL3";

/// As long as the slowest of several tests that share few cores needs.
const TIME: Duration = Duration::from_secs(120);

/// The host that the certificate names, at any port.
const URL: &str = "https://localhost";

struct Curl {
    program: OsString,
    certificate: PathBuf,
    port: u16,
}

impl Curl {
    /// Requests `path` with these arguments, and returns standard output, with what `--write-out` says at its end.
    async fn get(&self, path: &str, arguments: &[&str]) -> Vec<u8> {
        let mut command = Command::new(&self.program);
        command.args(["--silent", "--show-error", "--http3-only", "--cacert"]).arg(&self.certificate);
        // The node listens over IPv4 alone.
        command.args(["--resolve", &format!("localhost:{}:127.0.0.1", self.port), "--max-time", "100"]);
        command.args(arguments).arg(format!("{URL}:{}{path}", self.port));
        let running = spawn_blocking(move || command.output().unwrap());
        let output = timeout(TIME, running).await.expect("done in time").unwrap();
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Returns status, version and length of the response, whose body is in `file` then.
    async fn download(&self, path: &str, file: &Path, arguments: &[&str]) -> String {
        let file = file.display().to_string();
        let told = ["--output", &file, "--write-out", "%{http_code} %{http_version} %{size_download}"];
        String::from_utf8(self.get(path, &[&told[..], arguments].concat()).await).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_gets_heads_uploads_and_downloads() {
    let Some(program) = std::env::var_os(CURL).filter(|program| !program.is_empty()) else {
        eprintln!("skipped: tests/run finds or unpacks a curl with HTTP/3 and sets {CURL}");
        return;
    };
    let (origin, certificate, dir) = (Origin::start().await, Certificate::new(), tempfile::tempdir().unwrap());
    let (large, up) = (sealed("large", 50_000_000), sealed("up", 3_000_000));
    let body = large.clone();
    origin.on("/large", move |_| Reply::ok(body.clone()).header("cache-control", "no-store"));
    origin.on("/kept", |_| Reply::fresh(60, "kept"));
    origin.on("/echo", |seen| Reply::ok(seen.body.clone()).header("cache-control", "no-store"));
    let node = Node::builder().origin(&origin.url()).http3(&certificate.certificate, &certificate.key).start().await;
    let curl = Curl { program, certificate: certificate.certificate.clone(), port: node.address.port() };
    let (file, sent) = (dir.path().join("response"), dir.path().join("request"));

    for _ in 0..2 {
        assert_eq!(curl.download("/kept", &file, &[]).await, "200 3 4");
        assert_eq!(std::fs::read(&file).unwrap(), b"kept");
    }
    let head = String::from_utf8(curl.get("/kept", &["--head"]).await).unwrap();
    assert!(head.starts_with("HTTP/3 200") && head.to_ascii_lowercase().contains("content-length: 4\r\n"), "{head}");
    assert_eq!(origin.hits("/kept"), 1);

    std::fs::write(&sent, &up).unwrap();
    let body = format!("@{}", sent.display());
    assert_eq!(curl.download("/echo", &file, &["--data-binary", &body]).await, "200 3 3000000");
    assert!(std::fs::read(&file).unwrap() == up, "an echo of other bytes");

    assert_eq!(curl.download("/large", &file, &[]).await, "200 3 50000000");
    assert!(std::fs::read(&file).unwrap() == large, "a download of other bytes");
}
