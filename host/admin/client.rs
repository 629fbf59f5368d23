//! The other end of the admin API, as `holm purge` and `holm policy` use it: one request on a connection of its own.

use std::{fmt, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::{
    purge::Purge,
    trust::{Trust, TrustError},
};
use crate::clock;

/// Bytes of a response that are read: far above a configuration of 10,000 routes.
const RESPONSE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The admin API of a node, and what opens it.
#[derive(Clone)]
pub struct Access {
    /// `host:port`, or an `http://` or `https://` URL.
    pub address: String,
    /// The token to be shown, if the API wants one.
    pub token: Option<String>,
    /// What TLS goes by if it is an `https://` URL.
    pub trust: Trust,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        let mut shown = f.debug_struct("Access");
        shown.field("address", &self.address).field("token", &token).field("trust", &self.trust).finish()
    }
}

/// Why there is no response.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The address isn't one.
    #[error("`{given}` is not an admin address; allowed is host:port or http[s]://host[:port]")]
    Address {
        /// What was given.
        given: String,
    },
    /// The path isn't one.
    #[error("`{0}` is no path of the admin API")]
    Path(String),
    /// TLS can't be set up.
    #[error("TLS to the admin API: {0}")]
    Trust(#[from] TrustError),
    /// The token can't be sent.
    #[error("the admin token can't be sent: it has characters beside visible ASCII")]
    Token,
    /// No connection.
    #[error("no connection to the admin API at {address}: {cause}")]
    Connect {
        /// Host and port.
        address: String,
        /// The error of the system.
        cause: io::Error,
    },
    /// The connection broke, or the other end doesn't speak HTTP.
    #[error("the exchange with the admin API at {address} broke off: {cause}")]
    Exchange {
        /// Host and port.
        address: String,
        /// The error of hyper.
        cause: hyper::Error,
    },
    /// The response broke off or is too long.
    #[error("the response of the admin API at {address} could not be read: {reason}")]
    Answer {
        /// Host and port.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The response isn't JSON: another service has that address.
    #[error("{address} responded {status}, but not in JSON; is it the address of holm's admin API?")]
    NotJson {
        /// Host and port.
        address: String,
        /// The status of the response.
        status: StatusCode,
    },
    /// It took too long.
    #[error("the admin API at {address} has not responded within {limit_ms} ms")]
    Timeout {
        /// Host and port.
        address: String,
        /// The limit.
        limit_ms: u64,
    },
}

/// Requests a purge of the node with this admin API. Returns the status and the JSON of the response, also of a refusal.
///
/// # Errors
/// [`ClientError`] if there is no response.
pub async fn purge(admin: &Access, purge: &Purge, timeout: Duration) -> Result<(StatusCode, Value), ClientError> {
    call(admin, Method::POST, "/purge", Some(&purge.to_json()), timeout).await
}

/// Requests `path` of an admin API. Returns the status and the JSON of the response, also of a refusal.
///
/// # Errors
/// [`ClientError`] if there is no response.
pub async fn call(
    admin: &Access,
    method: Method,
    path: &str,
    body: Option<&Value>,
    timeout: Duration,
) -> Result<(StatusCode, Value), ClientError> {
    let address = Address::parse(&admin.address)?;
    let mut request = address.request(method, path, body)?;
    if let Some(token) = &admin.token {
        let mut shown = HeaderValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| ClientError::Token)?;
        shown.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, shown);
    }
    let outcome = tokio::time::timeout(timeout, address.send(request, &admin.trust)).await;
    outcome
        .unwrap_or_else(|_| Err(ClientError::Timeout { address: address.authority, limit_ms: clock::millis(timeout) }))
}

/// The address of an admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    /// A name or an IP address, without the brackets of IPv6.
    host: String,
    port: u16,
    /// Both as a URL has them.
    authority: String,
    is_tls: bool,
}

impl Address {
    fn parse(given: &str) -> Result<Self, ClientError> {
        let invalid = || ClientError::Address { given: given.to_owned() };
        let uri: Uri = given.parse().map_err(|_| invalid())?;
        let default_port = match uri.scheme_str() {
            None => None,
            Some("http") => Some(80),
            Some("https") => Some(443),
            Some(_) => return Err(invalid()),
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(invalid)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(invalid());
        }
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            // `host:` and `host:99999` have no port that can be meant.
            None if authority.as_str() != authority.host() => return Err(invalid()),
            None => default_port.ok_or_else(invalid)?,
        };
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_tls = uri.scheme_str() == Some("https");
        Ok(Self { host: bare.to_owned(), port, authority: format!("{host}:{port}"), is_tls })
    }

    async fn send(&self, request: Request<Full<Bytes>>, trust: &Trust) -> Result<(StatusCode, Value), ClientError> {
        let failed = |cause| ClientError::Connect { address: self.authority.clone(), cause };
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(failed)?;
        if !self.is_tls {
            return self.exchange(stream, request).await;
        }
        let connector = TlsConnector::from(Arc::new(trust.config()?));
        let name = ServerName::try_from(self.host.clone()).map_err(|error| failed(io::Error::other(error)))?;
        self.exchange(connector.connect(name, stream).await.map_err(failed)?, request).await
    }

    async fn exchange<S>(&self, stream: S, request: Request<Full<Bytes>>) -> Result<(StatusCode, Value), ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let address = || self.authority.clone();
        let broken = |cause| ClientError::Exchange { address: address(), cause };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // An error of the connection reaches the request as well.
        let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), RESPONSE_BYTES_MAX).collect().await;
        let body = body.map_err(|error| ClientError::Answer { address: address(), reason: error.to_string() })?;
        let value = serde_json::from_slice(&body.to_bytes());
        value.map(|value| (status, value)).map_err(|_| ClientError::NotJson { address: address(), status })
    }

    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>, ClientError> {
        let invalid = || ClientError::Path(path.to_owned());
        let uri: Uri = path.parse().map_err(|_| invalid())?;
        let mut request = Request::builder().method(method).uri(uri).header(HOST, self.authority.as_str());
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        request.body(Full::new(body)).map_err(|_| invalid())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::{Router, routing::post};
    use hyper_util::service::TowerToHyperService;
    use tokio::net::TcpListener;

    use super::{super::purge::Scope, *};

    const PATIENCE: Duration = Duration::from_secs(30);

    fn news() -> Purge {
        Purge { scope: Scope::Tag("news".to_owned()), soft: true, extent: None }
    }

    /// Access without a token.
    fn at(address: &str) -> Access {
        Access { address: address.to_owned(), token: None, trust: Trust::default() }
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Serves one connection.
    async fn serve(router: Router) -> SocketAddr {
        let (listener, address) = listener().await;
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(router);
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
        });
        address
    }

    #[test]
    fn addresses_are_host_and_port_or_a_url() {
        for (given, expected) in [
            ("127.0.0.1:7070", Some(("127.0.0.1", 7070, "127.0.0.1:7070"))),
            ("localhost:7070", Some(("localhost", 7070, "localhost:7070"))),
            ("[::1]:7070", Some(("::1", 7070, "[::1]:7070"))),
            ("http://node-1", Some(("node-1", 80, "node-1:80"))),
            ("http://[::1]:7070/", Some(("::1", 7070, "[::1]:7070"))),
            ("localhost", None),
            ("localhost:", None),
            ("localhost:99999", None),
            ("https://localhost:7070", Some(("localhost", 7070, "localhost:7070"))),
            ("https://node-1", Some(("node-1", 443, "node-1:443"))),
            ("ftp://localhost:7070", None),
            ("http://localhost:7070/purge", None),
            ("http://localhost:7070/?a", None),
            ("http://me@localhost:7070/", None),
            ("/purge", None),
            ("", None),
        ] {
            let parsed = Address::parse(given).ok();
            let expected = expected.map(|(host, port, authority)| Address {
                host: host.to_owned(),
                port,
                authority: authority.to_owned(),
                is_tls: given.starts_with("https"),
            });
            assert_eq!(parsed, expected, "{given:?}");
        }
    }

    #[tokio::test]
    async fn the_purge_is_sent_as_json_and_any_response_comes_back() {
        async fn echo(request: axum::extract::Request) -> (StatusCode, axum::body::Body) {
            let is_json = request.headers()["content-type"] == "application/json";
            let status = if is_json { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::UNSUPPORTED_MEDIA_TYPE };
            (status, request.into_body())
        }
        let address = serve(Router::new().route("/purge", post(echo))).await;
        let (status, response) = purge(&at(&format!("http://{address}")), &news(), PATIENCE).await.unwrap();
        assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(Purge::parse(response.to_string().as_bytes()), Ok(news()));
    }

    #[tokio::test]
    async fn whatever_there_is_can_be_asked_for() {
        async fn asked(method: Method, uri: Uri, headers: axum::http::HeaderMap, body: Bytes) -> axum::Json<Value> {
            let body = String::from_utf8_lossy(&body).into_owned();
            let typed = headers.contains_key(CONTENT_TYPE);
            axum::Json(serde_json::json!([method.as_str(), uri.path(), typed, body]))
        }
        for (method, path, body, wanted) in [
            (Method::GET, "/policies", None, serde_json::json!(["GET", "/policies", false, ""])),
            (
                Method::POST,
                "/policies/a/load",
                Some(Value::from(1)),
                serde_json::json!(["POST", "/policies/a/load", true, "1"]),
            ),
        ] {
            let address = serve(Router::new().fallback(asked)).await;
            let (status, response) =
                call(&at(&address.to_string()), method, path, body.as_ref(), PATIENCE).await.unwrap();
            assert_eq!((status, response), (StatusCode::OK, wanted));
        }
        let invalid = call(&at("127.0.0.1:1"), Method::GET, "/a b", None, PATIENCE).await.unwrap_err();
        assert!(matches!(invalid, ClientError::Path(_)), "{invalid}");
    }

    #[tokio::test]
    async fn the_token_is_shown_and_never_printed() {
        async fn shown(headers: axum::http::HeaderMap) -> axum::Json<Value> {
            axum::Json(headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).into())
        }
        for (token, wanted) in [(Some("a secret token\n"), Some("Bearer a secret token")), (None, None)] {
            let address = serve(Router::new().fallback(shown)).await;
            let access = Access { token: token.map(str::to_owned), ..at(&address.to_string()) };
            assert!(!format!("{access:?}").contains("secret"));
            let (_, response) = call(&access, Method::GET, "/", None, PATIENCE).await.unwrap();
            assert_eq!(response, Value::from(wanted));
        }
        let access = Access { token: Some("a\nb".to_owned()), ..at("127.0.0.1:1") };
        let refused = call(&access, Method::GET, "/", None, PATIENCE).await.unwrap_err();
        assert!(matches!(refused, ClientError::Token), "{refused}");
    }

    #[tokio::test]
    async fn what_is_not_the_admin_api_is_said() {
        let address = serve(Router::new().fallback(|| async { "welcome" })).await;
        let error = purge(&at(&address.to_string()), &news(), PATIENCE).await.unwrap_err();
        assert!(matches!(error, ClientError::NotJson { status: StatusCode::OK, .. }), "{error}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    #[tokio::test]
    async fn an_endless_response_is_not_read_to_its_end() {
        let address = serve(Router::new().fallback(|| async { vec![b' '; RESPONSE_BYTES_MAX + 1] })).await;
        let error = purge(&at(&address.to_string()), &news(), PATIENCE).await.unwrap_err();
        assert!(matches!(error, ClientError::Answer { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_closed_and_a_silent_address_are_told_apart() {
        let (closed, address) = listener().await;
        drop(closed);
        let refused = purge(&at(&address.to_string()), &news(), PATIENCE).await.unwrap_err();
        assert!(matches!(refused, ClientError::Connect { .. }), "{refused}");

        let (_silent, address) = listener().await;
        let late = purge(&at(&address.to_string()), &news(), Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(late, ClientError::Timeout { limit_ms: 50, .. }), "{late}");
    }
}
