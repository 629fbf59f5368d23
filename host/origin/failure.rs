//! Why no response came.

use std::{error::Error as StdError, fmt, io, sync::Arc};

use h2::Reason as Code;
use http::StatusCode;
use hyper_util::client::legacy;

use super::dial::{DialError, Used};
use crate::message::BodyError;

/// Why a fetch brought no response. Cloneable, because one failed fetch fails all requests that wait for it.
#[derive(Clone, Debug)]
pub struct Failure {
    reason: Reason,
    pool: Arc<str>,
    endpoint: Option<Arc<str>>,
    detail: Arc<str>,
}

/// The kinds of failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing listens at the endpoint's address.
    ConnectRefused,
    /// The connection didn't come about in time, TLS included.
    ConnectTimeout,
    /// The connection didn't come about for another reason: a name that doesn't resolve, no route.
    ConnectFailed,
    /// The TLS handshake failed.
    TlsFailed,
    /// The connection closed before the request was written to it, or the endpoint said that it hasn't processed it
    /// (HTTP/2: GOAWAY, REFUSED_STREAM).
    ConnectionClosed,
    /// The connection broke off after the request was written and before the response's head was complete.
    ConnectionReset,
    /// What came back isn't an HTTP response.
    InvalidResponse,
    /// The response's head didn't come in time.
    ResponseTimeout,
    /// All endpoints are down by their health checks.
    NoEndpoint,
    /// All connections are busy and as many requests as may wait do wait.
    PoolFull,
    /// No connection became free in time.
    WaitTimeout,
    /// The client's address holds or waits for as many places as it may.
    ClientLimit,
    /// The request's own body failed while it was sent on: the client's fault, not the endpoint's.
    RequestBody(BodyError),
    /// The request can't be written as HTTP.
    Unsendable,
}

impl Reason {
    /// A word for metrics, logs and `Cache-Status`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect-refused",
            Self::ConnectTimeout => "connect-timeout",
            Self::ConnectFailed => "connect-failed",
            Self::TlsFailed => "tls-failed",
            Self::ConnectionClosed => "connection-closed",
            Self::ConnectionReset => "connection-reset",
            Self::InvalidResponse => "invalid-response",
            Self::ResponseTimeout => "response-timeout",
            Self::NoEndpoint => "no-endpoint",
            Self::PoolFull => "pool-full",
            Self::WaitTimeout => "wait-timeout",
            Self::ClientLimit => "client-limit",
            Self::RequestBody(_) => "request-body",
            Self::Unsendable => "unsendable",
        }
    }

    /// The status of the client's response.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::ConnectTimeout | Self::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::NoEndpoint | Self::PoolFull | Self::WaitTimeout => StatusCode::SERVICE_UNAVAILABLE,
            Self::RequestBody(BodyError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RequestBody(BodyError::Stalled { .. } | BodyError::TooSlow { .. }) => StatusCode::REQUEST_TIMEOUT,
            Self::ClientLimit => StatusCode::TOO_MANY_REQUESTS,
            Self::RequestBody(BodyError::Broken(_)) => StatusCode::BAD_REQUEST,
            Self::ConnectRefused
            | Self::ConnectFailed
            | Self::TlsFailed
            | Self::ConnectionClosed
            | Self::ConnectionReset
            | Self::InvalidResponse
            | Self::Unsendable => StatusCode::BAD_GATEWAY,
        }
    }

    /// The endpoint has certainly done nothing with the request.
    pub(super) const fn is_unsent(&self) -> bool {
        matches!(
            self,
            Self::ConnectRefused
                | Self::ConnectTimeout
                | Self::ConnectFailed
                | Self::TlsFailed
                | Self::ConnectionClosed
        )
    }

    /// The origin can't be reached: no connection to it came about, or lasted until its response began (RFC 9111, section
    /// 4.2.4). What has come back, or what this node's own limits forbid, says nothing of that.
    const fn is_unreachable(&self) -> bool {
        match self {
            Self::NoEndpoint => true,
            // It has come back.
            Self::InvalidResponse => false,
            other => other.blames_endpoint(),
        }
    }

    /// The endpoint is to blame, so its health suffers.
    pub(super) const fn blames_endpoint(&self) -> bool {
        match self {
            Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::ConnectFailed
            | Self::TlsFailed
            | Self::ConnectionClosed
            | Self::ConnectionReset
            | Self::InvalidResponse
            | Self::ResponseTimeout => true,
            Self::NoEndpoint
            | Self::PoolFull
            | Self::WaitTimeout
            | Self::ClientLimit
            | Self::RequestBody(_)
            | Self::Unsendable => false,
        }
    }
}

impl Failure {
    /// A failure that no single endpoint brought about.
    pub(super) fn of_pool(pool: &Arc<str>, fault: Fault) -> Self {
        Self { reason: fault.reason, pool: Arc::clone(pool), endpoint: None, detail: fault.detail.into() }
    }

    /// A failure at an endpoint.
    pub(super) fn of_endpoint(pool: &Arc<str>, endpoint: &Arc<str>, fault: Fault) -> Self {
        Self { endpoint: Some(Arc::clone(endpoint)), ..Self::of_pool(pool, fault) }
    }

    /// The status of the client's response: mostly 502, 503 or 504.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.reason.status()
    }

    /// The response's head didn't come in time.
    #[must_use]
    pub const fn is_timeout(&self) -> bool {
        matches!(self.reason, Reason::ResponseTimeout)
    }

    /// Certainly not a byte of the request reached an endpoint, so that asking another pool can't repeat anything.
    #[must_use]
    pub const fn is_unsent(&self) -> bool {
        self.reason.is_unsent() || matches!(self.reason, Reason::NoEndpoint | Reason::PoolFull | Reason::WaitTimeout)
    }

    /// The origin can't be reached, so that a cache is on its own (RFC 9111, section 4.2.4).
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        self.reason.is_unreachable()
    }

    /// A short word for metrics, logs and `Cache-Status`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        self.reason.as_str()
    }

    /// The reason as a value to match on.
    #[must_use]
    pub const fn kind(&self) -> &Reason {
        &self.reason
    }

    /// `host:port` of the endpoint that failed last, if one was tried.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {}", self.pool)?;
        if let Some(endpoint) = &self.endpoint {
            write!(f, ", endpoint {endpoint}")?;
        }
        write!(f, ": {}: {}", self.reason.as_str(), self.detail)
    }
}

impl StdError for Failure {}

/// What went wrong in one attempt.
#[derive(Debug)]
pub(super) struct Fault {
    /// The kind.
    pub(super) reason: Reason,
    /// The words of the library or the system.
    pub(super) detail: String,
    /// The connection had waited for the request, and closed before a byte of this response came: it may just have been
    /// idle for too long. Or the endpoint hasn't processed the request, which it may on another connection.
    pub(super) lapsed: bool,
}

impl Fault {
    /// A fault that no client library reported.
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), lapsed: false }
    }

    /// The fault of a request that the endpoint hasn't processed, and may process on another connection.
    pub(super) fn unprocessed(detail: impl Into<String>) -> Self {
        Self { lapsed: true, ..Self::new(Reason::ConnectionClosed, detail) }
    }

    /// What the client library reported of an exchange over HTTP/1.1.
    pub(super) fn of_client(error: &legacy::Error) -> Self {
        if error.connect_info().is_some_and(Used::is_spoilt) {
            return Self::unprocessed("the connection had more to read than the response before");
        }
        Self {
            reason: if error.is_connect() { connect_reason(error) } else { exchange_reason(error) },
            detail: error.source().map_or_else(|| error.to_string(), describe),
            lapsed: error.connect_info().is_some_and(Used::lapsed),
        }
    }

    /// What kept a connection for HTTP/2 from being opened.
    pub(super) fn of_dial(error: &DialError) -> Self {
        Self::new(connect_reason(error), describe(error))
    }

    /// What the client library reported of an exchange over HTTP/2, on a connection that may have brought a response
    /// before.
    pub(super) fn of_stream(error: &hyper::Error, has_responded: bool) -> Self {
        let detail = describe(error);
        // The connection's end, that is, and not the word of the peer about this request.
        let lapsed = |fault: Self| Self { lapsed: has_responded, ..fault };
        match find::<h2::Error>(error) {
            Some(error) if is_unprocessed(error) => Self::unprocessed(detail),
            // What the library itself finds wrong, it finds wrong with what came.
            Some(error) if error.is_library() && error.reason() != Some(Code::NO_ERROR) => {
                Self::new(Reason::InvalidResponse, detail)
            }
            Some(error) if error.is_io() => lapsed(Self::new(Reason::ConnectionReset, detail)),
            Some(_) => Self::new(Reason::ConnectionReset, detail),
            // A connection that ends drops requests that it may have sent, and calls that a fault of its user.
            None if error.is_user() => lapsed(Self::new(Reason::ConnectionReset, detail)),
            None => match exchange_reason(error) {
                Reason::ConnectionClosed | Reason::ConnectionReset => {
                    lapsed(Self::new(Reason::ConnectionReset, detail))
                }
                reason => Self::new(reason, detail),
            },
        }
    }
}

/// Whether an error says that the endpoint hasn't processed the request: the stream is beyond the last one of a GOAWAY
/// (RFC 9113, section 6.8), which the library reports for no other, or was refused (section 8.7).
fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Code::REFUSED_STREAM))
}

/// The words of an error and of all that caused it.
pub(super) fn describe(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let words = cause.to_string();
        // Some errors print what they wrap.
        if text.ends_with(&words) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&words);
    }
    text
}

fn connect_reason(error: &(dyn StdError + 'static)) -> Reason {
    for cause in causes(error) {
        if cause.is::<rustls::Error>() {
            return Reason::TlsFailed;
        }
        if matches!(cause.downcast_ref::<DialError>(), Some(DialError::Timeout { .. })) {
            return Reason::ConnectTimeout;
        }
        match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => return Reason::ConnectRefused,
            Some(io::ErrorKind::TimedOut) => return Reason::ConnectTimeout,
            Some(_) | None => {}
        }
    }
    Reason::ConnectFailed
}

fn exchange_reason(error: &(dyn StdError + 'static)) -> Reason {
    if let Some(body) = find::<BodyError>(error) {
        return Reason::RequestBody(body.clone());
    }
    match find::<hyper::Error>(error) {
        Some(error) if error.is_canceled() || error.is_closed() => Reason::ConnectionClosed,
        Some(error) if error.is_parse() => Reason::InvalidResponse,
        Some(error) if error.is_user() => Reason::Unsendable,
        Some(_) => Reason::ConnectionReset,
        None => Reason::Unsendable,
    }
}

fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref::<E>())
}

/// The error, its cause, and so on. `io::Error::source` skips the error it wraps, hence the special case.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&cause: &&'a (dyn StdError + 'static)| {
        match cause.downcast_ref::<io::Error>() {
            Some(error) => error.get_ref().map(|inner| inner as &'a (dyn StdError + 'static)),
            None => cause.source(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        for (reason, status) in [
            (Reason::ConnectRefused, 502),
            (Reason::ConnectTimeout, 504),
            (Reason::TlsFailed, 502),
            (Reason::ConnectionReset, 502),
            (Reason::InvalidResponse, 502),
            (Reason::ResponseTimeout, 504),
            (Reason::NoEndpoint, 503),
            (Reason::PoolFull, 503),
            (Reason::WaitTimeout, 503),
            (Reason::RequestBody(BodyError::TooLarge { limit: 1 }), 413),
            (Reason::ClientLimit, 429),
            (Reason::RequestBody(BodyError::Stalled { idle_ms: 1 }), 408),
            (Reason::RequestBody(BodyError::TooSlow { rate: 1, window_ms: 1 }), 408),
            (Reason::RequestBody(BodyError::Broken(String::new())), 400),
        ] {
            assert_eq!(reason.status().as_u16(), status, "{reason:?}");
        }
    }

    #[test]
    fn which_failures_leave_a_cache_on_its_own() {
        for (reason, wanted) in [
            (Reason::ConnectRefused, true),
            (Reason::ConnectTimeout, true),
            (Reason::ConnectFailed, true),
            (Reason::TlsFailed, true),
            (Reason::ConnectionClosed, true),
            (Reason::ConnectionReset, true),
            (Reason::ResponseTimeout, true),
            (Reason::NoEndpoint, true),
            (Reason::InvalidResponse, false),
            (Reason::PoolFull, false),
            (Reason::WaitTimeout, false),
            (Reason::ClientLimit, false),
            (Reason::RequestBody(BodyError::TooLarge { limit: 1 }), false),
            (Reason::Unsendable, false),
        ] {
            assert_eq!(reason.is_unreachable(), wanted, "{reason:?}");
        }
    }

    #[test]
    fn why_no_connection_came_about_is_told_for_http_2_too() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let tls = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        for (error, wanted) in [
            (DialError::Timeout { limit_ms: 5 }, Reason::ConnectTimeout),
            (DialError::Failed(Box::new(refused)), Reason::ConnectRefused),
            (DialError::Failed(Box::new(tls)), Reason::TlsFailed),
            (DialError::NoSettings, Reason::ConnectFailed),
            (DialError::NotHttp2, Reason::ConnectFailed),
        ] {
            let fault = Fault::of_dial(&error);
            assert_eq!((fault.reason, fault.lapsed), (wanted, false), "{error}");
        }
    }

    #[test]
    fn what_an_error_wraps_is_found_and_named_once() {
        let inner = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        let outer = io::Error::other(DialError::Failed(Box::new(io::Error::other(inner))));
        assert!(find::<rustls::Error>(&outer).is_some());
        assert_eq!(describe(&outer), rustls::Error::DecryptError.to_string());
    }

    #[test]
    fn a_failure_says_where_and_what() {
        let fault = || Fault::new(Reason::ConnectRefused, "Connection refused (os error 111)");
        let (pool, endpoint) = (Arc::from("models"), Arc::from("10.0.0.1:8000"));
        let failure = Failure::of_endpoint(&pool, &endpoint, fault());
        assert_eq!(
            failure.to_string(),
            "pool models, endpoint 10.0.0.1:8000: connect-refused: Connection refused (os error 111)"
        );
        assert_eq!(failure.endpoint(), Some("10.0.0.1:8000"));
        assert_eq!(
            Failure::of_pool(&pool, fault()).to_string(),
            "pool models: connect-refused: Connection refused (os error 111)"
        );
    }
}
