//! One member of a pool, and one exchange of a request for a response head, over HTTP/1.1 (`single`) or HTTP/2
//! (`multiplex`).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{HOST, TRANSFER_ENCODING, UPGRADE},
    uri::{Authority, InvalidUri, PathAndQuery, Scheme},
};
use http_body::Body as _;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    balance::{self, Rank},
    congestion::Congestion,
    dial::Dialers,
    failure::{Fault, Reason},
    multiplex::{Lease, Multiplexer},
    names::Source,
    places::Places,
    reach::Reach,
    recoding::Willingness,
    records::Resolver,
    single::{Single, await_head, no_head},
    upload::{Upload, WaitsFor},
};
use crate::{
    config::{self, NameSource, OriginHost, OriginHttp},
    message::{
        raw_query,
        target::{hides_dots, normal_path},
    },
};

/// How often a request is sent on another connection because the one that it was meant for closed first.
const SENT_MAX: usize = 4;

/// One member of a pool.
pub(super) struct Endpoint {
    /// Its place in the pool.
    pub(super) index: usize,
    /// `host:port`, `unix:` and the path of a socket, or the URL of a service; and the path in front of the requests'
    /// own.
    pub(super) address: Arc<str>,
    /// Who comes before it.
    pub(super) rank: Rank,
    /// What the configuration says of it.
    pub(super) config: config::Endpoint,
    /// The places at it.
    pub(super) places: Arc<Places>,
    /// Whether it takes coded bodies.
    pub(super) willingness: Arc<Mutex<Willingness>>,
    /// How batches fare there.
    pub(super) congestion: Arc<Mutex<Congestion>>,
    reach: Reach,
    scheme: Scheme,
    authority: Authority,
    /// What its own health checks say in `Host`.
    host: HeaderValue,
    /// Whether all requests say that, and not what their clients said.
    names_itself: bool,
    /// Header fields of a response; one with more is a failure.
    fields_max: usize,
    transport: Arc<Transport>,
}

/// The connections to an endpoint.
enum Transport {
    Http1(Single),
    Http2(Multiplexer),
    /// What the endpoint chooses.
    Negotiated {
        http2: Multiplexer,
        http1: Single,
        /// It chose HTTP/1.1 last.
        is_http1: AtomicBool,
    },
}

/// The connection that a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connect {
    /// One that is open, if it has room.
    Any,
    /// One that is opened from now on, for this request or those that wait with it.
    New,
    /// One that nothing else uses.
    Own,
}

/// A response whose head is there.
pub(super) struct Exchanged {
    pub(super) response: Response<Incoming>,
    /// Its place on a connection that others use as well, to be held until its body has ended.
    pub(super) lease: Option<Lease>,
}

impl Endpoint {
    /// An endpoint with the connections, places and experiences of `former`, or none yet; nothing if its URL isn't
    /// `http` or `https` with a host and perhaps a path in its normal form.
    pub(super) fn new(
        index: usize,
        config: &config::Endpoint,
        pool: &config::Pool,
        dialers: &Dialers,
        former: Option<&Self>,
    ) -> Option<Self> {
        let parts = config.url.clone().into_parts();
        let (scheme, authority) = (parts.scheme?, parts.authority?);
        let port_default = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let is_normal = is_prefix(config.prefix()) && config.url.query().is_none();
        if !is_normal || authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let port = authority.port_u16().unwrap_or(port_default);
        let reach = former.map_or_else(|| reach(config, pool, authority.host(), port), |former| former.reach.clone());
        let own = || HeaderValue::from_str(authority.as_str()).ok();
        let (host, names_itself) = match &pool.host {
            OriginHost::Named(name) => (name.clone(), true),
            OriginHost::Client => (own()?, false),
            OriginHost::ByUrl => (own()?, reach.name().is_some()),
        };
        let transport = || Arc::new(Transport::new(&scheme, &config.url, pool, dialers, &reach));
        Some(Self {
            index,
            address: match (&config.socket, &config.service) {
                (None, None) => format!("{}:{port}{}", authority.host(), config.prefix()).into(),
                (Some(_), _) | (None, Some(_)) => config.written().into(),
            },
            rank: rank(config, pool),
            config: config.clone(),
            places: former.map_or_else(|| Arc::new(Places::new(pool.connections_max)), |it| Arc::clone(&it.places)),
            willingness: former.map(|former| Arc::clone(&former.willingness)).unwrap_or_default(),
            congestion: former.map(|former| Arc::clone(&former.congestion)).unwrap_or_default(),
            transport: former.map_or_else(transport, |former| Arc::clone(&former.transport)),
            reach,
            scheme,
            authority,
            host,
            names_itself,
            fields_max: pool.response_headers_max,
        })
    }

    /// Returns what opens its sockets.
    pub(super) const fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Gives up connections to addresses that are no longer its name's: unused ones at once, others when they have
    /// brought their responses. Over HTTP/1.1 the client library can't tell them apart, so all are given up.
    pub(super) fn leave(&self, gone: &[SocketAddr]) {
        if gone.is_empty() {
            return;
        }
        let (http1, http2) = match &*self.transport {
            Transport::Http1(http1) => (Some(http1), None),
            Transport::Http2(http2) => (None, Some(http2)),
            Transport::Negotiated { http2, http1, .. } => (Some(http1), Some(http2)),
        };
        if let Some(http1) = http1 {
            http1.renew();
        }
        if let Some(http2) = http2 {
            http2.leave(gone);
        }
    }

    /// Returns the target with the endpoint's own path in front. Then the path is in its normal form, as it was when
    /// the request was judged, and one that some servers would find `..` in is refused: it would lead out of that path.
    fn placed(&self, target: PathAndQuery) -> Result<PathAndQuery, Fault> {
        let prefix = self.config.prefix();
        // `*` has no place.
        if prefix.is_empty() || !target.path().starts_with('/') {
            return Ok(target);
        }
        let unsendable = |why: String| Fault::new(Reason::Unsendable, why);
        let path = normal_path(target.path()).map_err(|error| unsendable(error.to_string()))?;
        if hides_dots(&path) {
            return Err(unsendable(format!("some servers would find `..` in its path, which is put behind {prefix}")));
        }
        let whole = match target.query() {
            Some(query) => format!("{prefix}{path}?{query}"),
            None => format!("{prefix}{path}"),
        };
        PathAndQuery::try_from(whole).map_err(|error| unsendable(error.to_string()))
    }

    /// A request to this endpoint. `headers` has `Host` and no framing.
    pub(super) fn request(
        &self,
        method: Method,
        target: PathAndQuery,
        mut headers: HeaderMap,
        upload: Upload,
    ) -> Result<Request<Upload>, Fault> {
        if self.names_itself {
            headers.insert(HOST, self.host.clone());
        }
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(self.placed(target)?)
            .build()
            .map_err(|error| Fault::new(Reason::Unsendable, error.to_string()))?;
        let mut request = Request::new(upload);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// A request of its own health checks.
    pub(super) fn check(&self, target: PathAndQuery, mut headers: HeaderMap) -> Result<Request<Upload>, Fault> {
        headers.insert(HOST, self.host.clone());
        self.request(Method::GET, target, headers, Upload::empty())
    }

    /// Whether a request would go over HTTP/1.1, as far as that is known before it is sent.
    pub(super) fn speaks_http1(&self) -> bool {
        match &*self.transport {
            Transport::Http1(_) => true,
            Transport::Http2(_) => false,
            Transport::Negotiated { is_http1, .. } => is_http1.load(Ordering::Relaxed),
        }
    }

    /// Sends a request and awaits the response's head. Opening a connection is limited by the dialer; `limit` bounds
    /// the time from then on, for as long as it is the endpoint that we wait for (`progress` says whether it is).
    pub(super) async fn exchange(
        &self,
        request: Request<Upload>,
        progress: Option<watch::Receiver<WaitsFor>>,
        limit: Duration,
        connect: Connect,
    ) -> Result<Exchanged, Fault> {
        let is_upgrade = request.headers().contains_key(UPGRADE);
        let exchanged = match &*self.transport {
            Transport::Http1(single) => over_http1(single, request, progress, limit, connect).await?,
            Transport::Http2(_) if is_upgrade => {
                return Err(Fault::new(Reason::Unsendable, "a switch of protocols needs HTTP/1.1"));
            }
            Transport::Http2(multiplexer) => {
                match over_http2(multiplexer, request, progress, limit, connect).await? {
                    Reached::Http2(exchanged) => exchanged,
                    // It can't be chosen where it isn't offered.
                    Reached::Http1(..) => return Err(Fault::new(Reason::ConnectFailed, "it speaks HTTP/1.1 only")),
                }
            }
            Transport::Negotiated { http1, .. } if is_upgrade => {
                over_http1(http1, request, progress, limit, connect).await?
            }
            Transport::Negotiated { http2, http1, is_http1 } => {
                let (request, progress) = if is_http1.load(Ordering::Relaxed) {
                    (request, progress)
                } else {
                    match over_http2(http2, request, progress, limit, connect).await? {
                        Reached::Http2(exchanged) => return checked(exchanged, self.fields_max, is_upgrade),
                        Reached::Http1(request, progress) => (request, progress),
                    }
                };
                let exchanged = over_http1(http1, request, progress, limit, connect).await;
                // An endpoint that can't be reached may come back as another program.
                let is_reached = exchanged.as_ref().err().is_none_or(|fault| !fault.reason.is_unsent());
                is_http1.store(is_reached, Ordering::Relaxed);
                exchanged?
            }
        };
        checked(exchanged, self.fields_max, is_upgrade)
    }
}

impl Transport {
    fn new(scheme: &Scheme, url: &Uri, pool: &config::Pool, dialers: &Dialers, reach: &Reach) -> Self {
        let http1 = || Single::new(pool, dialers.http1(reach));
        let http2 = || Multiplexer::new(url.clone(), pool, dialers.http2(reach));
        match pool.http {
            OriginHttp::Http1 => Self::Http1(http1()),
            OriginHttp::Http2 => Self::Http2(http2()),
            // Only TLS can tell.
            OriginHttp::Auto if *scheme == Scheme::HTTP => Self::Http1(http1()),
            OriginHttp::Auto => Self::Negotiated { http2: http2(), http1: http1(), is_http1: AtomicBool::new(false) },
        }
    }
}

/// Returns what opens the sockets of an endpoint that is at this host and port unless it has a socket or is a service.
fn reach(config: &config::Endpoint, pool: &config::Pool, host: &str, port: u16) -> Reach {
    let resolver = || Resolver::new(&pool.records);
    match (&config.socket, &config.service) {
        (Some(path), _) => Reach::to_socket(path.clone(), pool.connect),
        (None, Some(service)) => Reach::to_host(service, port, Source::Service(resolver()), pool.connect),
        (None, None) => {
            let source = match pool.dns {
                NameSource::System => Source::System,
                NameSource::Records => Source::Records(resolver()),
            };
            Reach::to_host(host, port, source, pool.connect)
        }
    }
}

/// Whether a path may be put in front of the requests' own: it is in its normal form, and no server leaves it.
fn is_prefix(path: &str) -> bool {
    path.is_empty() || (normal_path(path).is_ok_and(|normal| normal == path) && !hides_dots(path))
}

/// Returns who comes before an endpoint of a pool.
fn rank(endpoint: &config::Endpoint, pool: &config::Pool) -> Rank {
    let distance = balance::distance(endpoint.zone.as_deref(), pool.zone.as_deref(), &pool.zones);
    Rank { is_backup: endpoint.backup, distance }
}

/// Refuses what is no response that could be passed on: an interim one, which the client library skips but for 101, unless
/// a switch of protocols was requested; one with too many header fields; and one in a transfer coding that isn't known,
/// whose bytes would be taken for the content (RFC 9112, section 6.1).
fn checked(exchanged: Exchanged, fields_max: usize, is_upgrade: bool) -> Result<Exchanged, Fault> {
    let (status, headers) = (exchanged.response.status(), exchanged.response.headers());
    let why = if status.is_informational() && !(is_upgrade && status == StatusCode::SWITCHING_PROTOCOLS) {
        format!("unasked-for status {status}")
    } else if status == StatusCode::SWITCHING_PROTOCOLS && !is_websocket(headers) {
        "a switch to another protocol than the one asked for".to_owned()
    } else if headers.len() > fields_max {
        format!("{} header fields, and {fields_max} are allowed", headers.len())
    } else if !is_coding_known(headers) {
        "a transfer coding other than chunked".to_owned()
    } else {
        return Ok(exchanged);
    };
    Err(Fault::new(Reason::InvalidResponse, why))
}

/// Whether a switch is to the only protocol that is asked for: any other would be spoken past this node's rules.
fn is_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter();
    let is_named = protocols.next().is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
    is_named && protocols.next().is_none()
}

/// Whether a message has no transfer coding, or is chunked and nothing else.
fn is_coding_known(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    is_chunked && codings.next().is_none()
}

async fn over_http1(
    single: &Single,
    mut request: Request<Upload>,
    progress: Option<watch::Receiver<WaitsFor>>,
    limit: Duration,
    connect: Connect,
) -> Result<Exchanged, Fault> {
    if [Method::GET, Method::HEAD].contains(request.method()) && request.body().size_hint().exact().is_none() {
        // The client library leaves out a body of unknown length of these, unless it is told that there is one.
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    // What is written otherwise than the client library has it needs a connection of its own, see `dial`.
    let is_alone = connect != Connect::Any || raw_query::is_marked(request.uri().query());
    let response = single.exchange(request, progress, limit, is_alone).await?;
    Ok(Exchanged { response, lease: None })
}

/// What an attempt to speak HTTP/2 led to.
enum Reached {
    Http2(Exchanged),
    /// The endpoint chose HTTP/1.1, and has been sent nothing.
    Http1(Request<Upload>, Option<watch::Receiver<WaitsFor>>),
}

/// Sends a request on a connection that others use as well. One that closes before it has been sent costs nothing: it
/// is sent on another.
async fn over_http2(
    multiplexer: &Multiplexer,
    mut request: Request<Upload>,
    progress: Option<watch::Receiver<WaitsFor>>,
    limit: Duration,
    connect: Connect,
) -> Result<Reached, Fault> {
    for sent in 0..SENT_MAX {
        let lease = match connect {
            Connect::Own => multiplexer.lease_alone().await?,
            Connect::New => multiplexer.lease(true).await?,
            Connect::Any => multiplexer.lease(false).await?,
        };
        match lease {
            None if sent == 0 => return Ok(Reached::Http1(request, progress)),
            // It isn't one for HTTP/1.1 any more.
            None => break,
            Some(lease) => {
                if sent == 0 {
                    name_authority(&mut request)?;
                }
                let Some(sender) = lease.sender() else { continue };
                match await_head(sender.send(request), progress.clone(), limit).await {
                    None => {
                        lease.retire();
                        return Err(no_head(limit));
                    }
                    Some(Ok(response)) => {
                        lease.note_response();
                        return Ok(Reached::Http2(Exchanged { response, lease: Some(lease) }));
                    }
                    Some(Err(mut error)) => match error.take_message() {
                        Some(unsent) => request = unsent,
                        None => return Err(Fault::of_stream(error.error(), lease.has_responded())),
                    },
                }
            }
        }
    }
    Err(Fault::unprocessed("the connection closed before the request was sent, again and again"))
}

/// Names the authority where HTTP/2 has it (RFC 9113, section 8.3.1). Up to here the URI has the endpoint's, and `Host`
/// the one that is meant.
fn name_authority(request: &mut Request<Upload>) -> Result<(), Fault> {
    let unsendable = |error: http::Error| Fault::new(Reason::Unsendable, error.to_string());
    if let Some(host) = request.headers_mut().remove(HOST) {
        let authority = Authority::try_from(host.as_bytes()).map_err(|error| unsendable(error.into()))?;
        let mut parts = request.uri().clone().into_parts();
        parts.authority = Some(authority);
        if let Some(target) = parts.path_and_query.as_mut().filter(|target| raw_query::is_marked(target.query())) {
            let query = raw_query::encoded(target.query().unwrap_or_default()).into_owned();
            *target =
                format!("{}?{query}", target.path()).parse().map_err(|error: InvalidUri| unsendable(error.into()))?;
        }
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| unsendable(error.into()))?;
    }
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_to_a_websocket_and_nothing_else() {
        for (lines, wanted) in [
            (&["websocket"][..], true),
            (&["WebSocket"], true),
            (&[], false),
            (&["h2c"], false),
            (&["websocket", "h2c"], false),
            (&["websocket, h2c"], false),
            (&["websocket", "websocket"], false),
        ] {
            let headers: HeaderMap = lines.iter().map(|line| (UPGRADE, HeaderValue::from_static(line))).collect();
            assert_eq!(is_websocket(&headers), wanted, "{lines:?}");
        }
    }

    fn made(url: &str, pool: &config::Pool) -> Option<Endpoint> {
        let (path, endpoint) = match url.strip_prefix("unix:") {
            Some(path) => (Some(path.into()), config::Endpoint::new(Uri::from_static("http://localhost/v1"))),
            None if url.starts_with("srv+") => (None, config::Endpoint::new(Uri::from_static("http://models.example"))),
            None => (None, config::Endpoint::new(url.parse().unwrap())),
        };
        let service = url.starts_with("srv+").then(|| "_http._tcp.models.example".to_owned());
        let endpoint = config::Endpoint { socket: path, service, ..endpoint };
        Endpoint::new(0, &endpoint, pool, &Dialers::new(pool).unwrap(), None)
    }

    fn pool() -> config::Pool {
        super::super::tests::config(&[])
    }

    #[test]
    fn which_urls_are_endpoints() {
        for (url, expected) in [
            ("http://127.0.0.1:8000", Some("127.0.0.1:8000")),
            ("http://127.0.0.1:8000/", Some("127.0.0.1:8000")),
            ("http://models.example", Some("models.example:80")),
            ("https://models.example", Some("models.example:443")),
            ("https://[::1]:9", Some("[::1]:9")),
            ("ftp://models.example", None),
            ("http://models.example/v1", Some("models.example:80/v1")),
            ("unix:/run/app.sock", Some("unix:/run/app.sock:/v1")),
            ("srv+http://_http._tcp.models.example", Some("srv+http://_http._tcp.models.example")),
            ("http://models.example/v1/", Some("models.example:80/v1")),
            ("http://models.example/v1?x", None),
            ("http://models.example/a/../v1", None),
            ("http://models.example//v1", None),
            ("http://models.example/..%2Fv1", None),
            ("http://user:word@models.example", None),
            ("/v1", None),
            ("models.example:80", None),
        ] {
            let endpoint = made(url, &pool());
            assert_eq!(endpoint.as_ref().map(|endpoint| &*endpoint.address), expected, "{url}");
        }
    }

    #[test]
    fn which_transfer_codings_are_known() {
        for (codings, wanted) in [
            (&[][..], true),
            (&["chunked"], true),
            (&["Chunked"], true),
            (&["gzip, chunked"], false),
            (&["gzip", "chunked"], false),
            (&["chunked", "chunked"], false),
            (&["xchunked"], false),
            (&["identity"], false),
            (&[""], false),
        ] {
            let field = |coding: &&'static str| (TRANSFER_ENCODING, HeaderValue::from_static(coding));
            let mut headers = HeaderMap::new();
            for (name, value) in codings.iter().map(field) {
                headers.append(name, value);
            }
            assert_eq!(is_coding_known(&headers), wanted, "{codings:?}");
        }
    }

    #[test]
    fn which_host_is_named() {
        let named = || OriginHost::Named(HeaderValue::from_static("origin.example"));
        for (host, url, wanted, check) in [
            (OriginHost::ByUrl, "http://127.0.0.1:8000", "shop.example", "127.0.0.1:8000"),
            (OriginHost::ByUrl, "http://[::1]:8000", "shop.example", "[::1]:8000"),
            (OriginHost::ByUrl, "https://models.example", "models.example", "models.example"),
            (OriginHost::ByUrl, "http://models.example:8000", "models.example:8000", "models.example:8000"),
            (OriginHost::ByUrl, "unix:/run/app.sock", "shop.example", "localhost"),
            (named(), "unix:/run/app.sock", "origin.example", "origin.example"),
            (OriginHost::Client, "http://models.example:8000", "shop.example", "models.example:8000"),
            (named(), "http://127.0.0.1:8000", "origin.example", "origin.example"),
            (named(), "http://models.example", "origin.example", "origin.example"),
            (OriginHost::ByUrl, "srv+http://_http._tcp.models.example", "models.example", "models.example"),
        ] {
            let endpoint = made(url, &config::Pool { host: host.clone(), ..pool() }).unwrap();
            let headers = || HeaderMap::from_iter([(HOST, HeaderValue::from_static("shop.example"))]);
            let target = || PathAndQuery::from_static("/a?b");
            let mut request = endpoint.request(Method::GET, target(), headers(), Upload::empty()).unwrap();
            assert_eq!(request.headers()[HOST], wanted, "{host:?}, {url}");
            assert_eq!(endpoint.check(target(), headers()).unwrap().headers()[HOST], check, "{host:?}, {url}");
            // HTTP/2 names it once.
            name_authority(&mut request).unwrap();
            assert!(request.headers().is_empty());
            assert_eq!(request.uri().authority().unwrap(), wanted);
            let path = if url.starts_with("unix:") { "/v1/a?b" } else { "/a?b" };
            assert_eq!(request.uri().path_and_query().unwrap(), path);
        }
    }

    #[test]
    fn paths_are_put_behind_that_of_the_endpoint_and_do_not_leave_it() {
        let endpoint = made("http://models.example/v1/x", &pool()).unwrap();
        for (given, wanted) in [
            ("/", Some("/v1/x/")),
            ("/a?b=/../c", Some("/v1/x/a?b=/../c")),
            ("/a//b/./%61", Some("/v1/x/a/b/a")),
            ("/a/../b", Some("/v1/x/b")),
            ("/a%2Fb?%2e%2e/", Some("/v1/x/a%2Fb?%2e%2e/")),
            ("/a?q=\u{E022}x\u{E022}", Some("/v1/x/a?q=\u{E022}x\u{E022}")),
            ("*", Some("*")),
            ("/../b", None),
            ("/%2e%2e/b", None),
            ("/a/..%2f..%2f..%2fb", None),
            ("/a/..%5C..%5C..%5Cb", None),
            ("/a/..;x/../b", Some("/v1/x/a/b")),
            ("/a/..;x/b", None),
        ] {
            let placed = endpoint.placed(given.parse().unwrap());
            assert_eq!(placed.as_ref().ok().map(PathAndQuery::as_str), wanted, "{given}");
        }
    }

    #[test]
    fn an_endpoints_rank_is_by_its_pools_zones_and_by_being_a_backup() {
        let pool = config::Pool { zone: Some("eu".to_owned()), zones: vec!["us".to_owned()], ..pool() };
        for (zone, backup, wanted) in [
            (Some("eu"), false, 0),
            (Some("us"), false, 1),
            (Some("us"), true, 1),
            (Some("ap"), false, 2),
            (None, true, 0),
        ] {
            let endpoint = config::Endpoint::new(Uri::from_static("http://a"));
            let endpoint = config::Endpoint { zone: zone.map(str::to_owned), backup, ..endpoint };
            assert_eq!(rank(&endpoint, &pool), Rank { is_backup: backup, distance: wanted }, "{endpoint:?}");
        }
    }
}
