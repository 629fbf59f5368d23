//! Certificates that change while the node runs, several at one address, and who may use the admin API.

use std::{ffi::OsStr, fs, net::SocketAddr, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::json;

use crate::{
    harness::{
        LIMIT,
        client::{Ask, Conn, HOST_NAME},
        eventually,
        h3::H3Conn,
        node::Node,
        origin::{Origin, Reply},
        process::{Process, run, words},
        quoted,
    },
    http_versions::Certificate,
};

/// The least that a token may have.
const TOKEN: &str = "0123456789abcdef";

async fn origin() -> Origin {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::ok(seen.target.clone()).header("cache-control", "no-store"));
    origin
}

/// Puts a copy of a file in the place of another, at once.
fn put(file: &Path, place: &Path) {
    let beside = place.with_extension("new");
    fs::copy(file, &beside).unwrap();
    fs::rename(&beside, place).unwrap();
}

/// Puts the files of `other` in the place of those of `former`.
fn replace(former: &Certificate, other: &Certificate) {
    put(&other.certificate, &former.certificate);
    put(&other.key, &former.key);
}

fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

async fn serves(address: SocketAddr, certificate: &Certificate) -> bool {
    Conn::tls(address, &certificate.der, &["h2"]).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_certificate_is_for_new_connections_and_old_ones_go_on() {
    let (origin, files, changed) = (origin().await, Certificate::new(), Certificate::new());
    let former = files.der.clone();
    let node = Node::builder().origin(&origin.url()).tls(&files.certificate, &files.key).set("tls", "reload_ms = 20");
    let node = node.start().await;
    let mut old = [
        Conn::tls(node.address, &former, &["h2"]).await.unwrap(),
        Conn::tls(node.address, &former, &["http/1.1"]).await.unwrap(),
    ];
    for conn in &mut old {
        assert_eq!(conn.send(node.get("/before").host("localhost")).await.text(), "/before");
    }

    replace(&files, &changed);
    eventually("the changed certificate", async || serves(node.address, &changed).await).await;
    assert!(Conn::tls(node.address, &former, &["h2"]).await.is_err(), "the former one is gone");
    for conn in &mut old {
        assert_eq!(conn.send(node.get("/after").host("localhost")).await.text(), "/after");
    }
    assert!(node.metric("holm_tls_certificates_replaced_total", "").await >= 1.0);
    assert!(node.metric("holm_tls_certificate_not_after_seconds", "certificate.pem").await > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_certificate_is_for_new_connections_of_http_3_too() {
    let (origin, files, changed) = (origin().await, Certificate::new(), Certificate::new());
    let former = files.der.clone();
    let node = Node::builder().origin(&origin.url()).http3(&files.certificate, &files.key).set("tls", "reload_ms = 20");
    let node = node.start().await;
    let old = H3Conn::open(node.address, &former).await.unwrap();
    assert_eq!(old.send(node.get("/before")).await.text(), "/before");

    replace(&files, &changed);
    eventually("the changed certificate", async || H3Conn::open(node.address, &changed.der).await.is_ok()).await;
    assert!(H3Conn::open(node.address, &former).await.is_err(), "the former one is gone");
    assert_eq!(old.send(node.get("/after")).await.text(), "/after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_do_not_match_leave_the_former_certificate() {
    let (origin, files, other) = (origin().await, Certificate::new(), Certificate::new());
    let node = Node::builder().origin(&origin.url()).tls(&files.certificate, &files.key).set("tls", "reload_ms = 20");
    let node = node.start().await;
    put(&other.key, &files.key);
    eventually("the refusal", async || node.metric("holm_tls_certificate_refused", "").await == 1.0).await;
    assert!(serves(node.address, &files).await);
    assert_eq!(node.metric("holm_tls_certificates_refused_total", "").await, 1.0, "however often they are looked at");

    put(&other.certificate, &files.certificate);
    eventually("the other certificate", async || serves(node.address, &other).await).await;
    assert_eq!(node.metric("holm_tls_certificate_refused", "").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_host_gets_its_certificate() {
    let origin = origin().await;
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let (certificate, key) = (dir.path().join(format!("{name}.pem")), dir.path().join(format!("{name}.key")));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (format!("certificate = {}, key = {}", path(&certificate), path(&key)), made.cert.der().clone())
    };
    let (first, first_der) = write("first", &["localhost", "unknown.test"]);
    let (shop, shop_der) = write("shop", &["shop.test", "*.shop.test"]);
    let listen = format!("tls = {{ {first}, further = [{{ {shop} }}] }}");
    let node = Node::builder().origin(&origin.url()).listen(&listen).start().await;
    for (host, der, other) in [
        ("localhost", &first_der, &shop_der),
        ("unknown.test", &first_der, &shop_der),
        ("shop.test", &shop_der, &first_der),
        ("www.shop.test", &shop_der, &first_der),
    ] {
        let mut conn = Conn::tls_to(node.address, host, der, &["h2"]).await.unwrap();
        assert_eq!(conn.send(node.get("/x").host(host)).await.text(), "/x", "{host}");
        assert!(Conn::tls_to(node.address, host, other, &["h2"]).await.is_err(), "{host}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hup_reads_certificates_again() {
    let (origin, files, changed) = (origin().await, Certificate::new(), Certificate::new());
    let node = Node::builder().origin(&origin.url()).tls(&files.certificate, &files.key).set("tls", "reload_ms = 0");
    let process = node.spawn().await;
    assert!(serves(process.address, &files).await);
    replace(&files, &changed);
    process.signal("HUP");
    eventually("the changed certificate", async || serves(process.address, &changed).await).await;
    assert!(!process.said().contains("PRIVATE KEY"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_are_enough_for_tls() {
    let (origin, files) = (origin().await, Certificate::new());
    let url = origin.url();
    let base = ["--origin", &url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--access-log", "off"];
    let (certificate, key) = (files.certificate.display().to_string(), files.key.display().to_string());
    let from_files = Process::serve_with(&[&base[..], &["--tls-cert", &certificate, "--tls-key", &key]].concat()).await;
    let mut conn = Conn::tls(from_files.address, &files.der, &["h2"]).await.unwrap();
    assert_eq!(conn.send(from_files.get("/flags").host("localhost")).await.text(), "/flags");

    let self_signed = Process::serve_with(&[&base[..], &["--tls-self-signed"]].concat()).await;
    let refused =
        Conn::tls(self_signed.address, &files.der, &["h2"]).await.err().expect("nobody trusts it").to_string();
    assert!(refused.contains("certificate"), "{refused}");
    assert!(self_signed.said().contains("listening on https://"), "{}", self_signed.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_api_wants_its_token_and_no_strange_names() {
    let origin = origin().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let token_file = format!("token_file = {}", path(&file));
    let node = Node::builder().origin(&origin.url()).set("admin", &token_file).start().await;
    let bearer = format!("Bearer {TOKEN}");
    for (target, host, credentials, status) in [
        ("/readyz", "evil.test", "", 200),
        ("/healthz", "evil.test", "", 200),
        ("/metrics", "localhost", "", 401),
        ("/metrics", "localhost", "Bearer 0123456789abcdeg", 401),
        ("/metrics", "localhost", bearer.as_str(), 200),
        ("/metrics", HOST_NAME, bearer.as_str(), 200),
        ("/metrics", "evil.test", bearer.as_str(), 421),
    ] {
        let ask = Ask::new(node.admin, http::Method::GET, target).host(host);
        let ask = if credentials.is_empty() { ask } else { ask.header("authorization", credentials) };
        let response = ask.send().await;
        assert_eq!(response.status, status, "{target} of {host} with {credentials:?}: {}", response.text());
    }
    let refused = Ask::new(node.admin, http::Method::POST, "/purge").json(&json!({"tag": "a"})).send().await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, "Bearer"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_show_the_token() {
    let origin = origin().await;
    let dir = tempfile::tempdir().unwrap();
    let (file, wrong) = (dir.path().join("token"), dir.path().join("wrong"));
    fs::write(&file, TOKEN).unwrap();
    fs::write(&wrong, "another0token0of0that0length").unwrap();
    let builder = Node::builder().origin(&origin.url());
    let process = Process::serve_in(&builder.text(), "HOLM_ADMIN_TOKEN", OsStr::new(TOKEN)).await;
    let admin = process.admin.to_string();
    for (command, file, succeeds) in [
        (&["purge", "--tag", "a"][..], &file, true),
        (&["purge", "--tag", "a"], &wrong, false),
        (&["policy", "list"], &file, true),
        (&["policy", "list"], &wrong, false),
    ] {
        let file = file.display().to_string();
        let arguments = [command, &["--admin", admin.as_str(), "--token-file", file.as_str()]].concat();
        let output = run(&arguments, LIMIT).await;
        assert_eq!(output.status.success(), succeeds, "{arguments:?}: {}", words(&output));
        assert!(!words(&output).contains(TOKEN));
    }
    assert!(!process.said().contains(TOKEN), "{}", process.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_api_that_everyone_could_use_is_not_opened() {
    let flags = ["serve", "--origin", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0"];
    let output = run(&flags, LIMIT).await;
    let said = words(&output);
    assert!(!output.status.success() && said.contains("admin.token_file"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_api_lets_clients_in_by_their_certificates() {
    let (origin, files, stranger) = (origin().await, Certificate::new(), authority());
    let operators = authority();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("operators.pem");
    fs::write(&ca, operators.pem()).unwrap();
    let tls =
        format!("certificate = {}\nkey = {}\nclient_ca = {}", path(&files.certificate), path(&files.key), path(&ca));
    let node = Node::builder().origin(&origin.url()).set("admin.tls", &tls).launch().await.unwrap();
    let (own, own_key) = client_pair(&operators);
    let own_files = [dir.path().join("own.pem"), dir.path().join("own.key")];
    fs::write(&own_files[0], own.pem()).unwrap();
    fs::write(&own_files[1], own_key.serialize_pem()).unwrap();
    let url = format!("https://localhost:{}", node.admin.port());
    let [own, own_key, ca] = [&own_files[0], &own_files[1], &files.certificate].map(|file| file.display().to_string());
    let command = ["policy", "list", "--admin", url.as_str(), "--ca", ca.as_str()];
    let whole = [&command[..], &["--client-cert", own.as_str(), "--client-key", own_key.as_str()]].concat();
    let shown = run(&whole, LIMIT).await;
    assert!(shown.status.success(), "{}", words(&shown));
    assert!(!run(&command, LIMIT).await.status.success());

    for (client, may) in [(Some(&operators), true), (Some(&stranger), false), (None, false)] {
        let ask = Ask::new(node.admin, http::Method::GET, "/pools").host("localhost");
        // In TLS 1.3 a client learns only with the response that its certificate was refused.
        let response = match Conn::tls_by(node.admin, "localhost", client_config(&files.der, client)).await {
            Ok(mut conn) => match conn.open(ask).await {
                Ok(opened) => opened.whole().await.ok(),
                Err(_) => None,
            },
            Err(_) => None,
        };
        assert_eq!(response.map(|response| response.status), may.then_some(200));
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Returns a certificate that `issuer` has signed, and its key.
fn client_pair(issuer: &Authority) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["operator".to_owned()]).unwrap();
    (params.signed_by(&key, issuer).unwrap(), key)
}

/// Trusts `root`, and shows a certificate that `issuer` has signed.
fn client_config(root: &CertificateDer<'static>, issuer: Option<&Authority>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let Some(issuer) = issuer else { return builder.with_no_client_auth() };
    let (certificate, key) = client_pair(issuer);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
}
