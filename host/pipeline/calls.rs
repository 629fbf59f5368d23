//! Calls of gRPC on routes whose bodies are split. A call of KServe's `ModelInfer` is served as the request of the REST
//! protocol that it is, and its response is told as gRPC tells it: a message, and how the call ended in trailers. What
//! is refused or fails has no message, and its head says why.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::time::timeout_at;

use super::{
    advice::Advice,
    infer::{self, Infer},
    proxy,
    reply::Reply,
    rewriting,
    route::Route,
    trail::Trail,
    upstream::DEADLINE,
};
use crate::{
    message::{
        self, Body, BodyError, Request, RequestHead, Response,
        coding::Undecodable,
        compression::decompress,
        proxy_status::{ProxyError, ProxyStatus},
    },
    origin::protocol::{
        Call, Framing, Message, Misframed, Protocol, Uncallable, Unframed, call_code_of, call_response,
        call_status_fields,
    },
};

/// The media type of a call.
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// The compressions of messages that are read.
const ENCODINGS: HeaderValue = HeaderValue::from_static("identity, gzip, deflate");

/// A field of tracing, which is no business of the call's.
const TRACE: &str = "grpc-trace-bin";

/// Times from this on are none.
const TIME_MAX: Duration = Duration::from_secs(24 * 3_600);

const INVALID_ARGUMENT: u32 = 3;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;

/// Whether the reply to a request says by a code of gRPC how it ended. Before HTTP/2 a client of gRPC is none.
pub(super) fn ends_by_code(route: &Route, head: &RequestHead) -> bool {
    head.client.version >= Version::HTTP_2 && route.is_call(head)
}

/// Returns why a request is a call that its route can't serve, if it is one: the status, the reason in a word, and what
/// its client is told.
pub(super) fn refusal(route: &Route, head: &RequestHead) -> Option<(StatusCode, &'static str, &'static str)> {
    if !route.is_call(head) {
        return None;
    }
    if head.client.version < Version::HTTP_2 {
        let detail = "a call of gRPC needs HTTP/2 or HTTP/3";
        return Some((StatusCode::HTTP_VERSION_NOT_SUPPORTED, "grpc", detail));
    }
    let is_served = route.splits_call(head) || route.passes_calls();
    let detail = "the route has no such method: of gRPC, `kserve` routes have \
                  inference.GRPCInferenceService/ModelInfer, and all methods if their pool speaks `kserve-grpc`";
    (!is_served).then_some((StatusCode::NOT_IMPLEMENTED, "grpc", detail))
}

/// Serves a call that its route splits.
pub(super) async fn serve(
    infer: &Arc<Infer>,
    route: Arc<Route>,
    protocol: &'static dyn Protocol,
    advice: Arc<Advice>,
    request: Request,
) -> Reply {
    let trail = Trail::on(&route, &advice);
    let Ok(time) = time_of(&request.head.headers) else {
        let detail = "`grpc-timeout` must be a number of at most 8 digits and one of the units H, M, S, m, u and n";
        return refused(infer, INVALID_ARGUMENT, detail, trail);
    };
    let due = time.filter(|time| *time < TIME_MAX).map(|time| Instant::now() + time);
    let serving = Box::pin(split(infer, route, protocol, advice, request, due));
    let Some(due) = due else { return serving.await };
    timeout_at(due.into(), serving).await.unwrap_or_else(|_| {
        let proxy_status = Some(ProxyStatus::Error(proxy::error_of(DEADLINE)));
        let trail = Trail { detail: Some(DEADLINE.into()), proxy_status, ..trail };
        let detail = "the time that the client gave in `grpc-timeout` is over";
        infer.replies.own(StatusCode::GATEWAY_TIMEOUT, "Gateway Timeout", detail, trail)
    })
}

/// A malformed `grpc-timeout`.
#[derive(Debug, PartialEq, Eq)]
struct BadTime;

/// Returns the time that a client gives a call; `None` if it gives none.
fn time_of(headers: &HeaderMap) -> Result<Option<Duration>, BadTime> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let text = value.to_str().map_err(|_| BadTime)?;
    let unit_at = text.len().checked_sub(1).filter(|digits| (1..=8).contains(digits)).ok_or(BadTime)?;
    let (digits, unit) = text.split_at(unit_at);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadTime);
    }
    let number: u64 = digits.parse().map_err(|_| BadTime)?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(3_600 * number),
        "M" => Duration::from_secs(60 * number),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return Err(BadTime),
    }))
}

/// Reads a call and serves it as the request that it is.
async fn split(
    infer: &Arc<Infer>,
    route: Arc<Route>,
    protocol: &'static dyn Protocol,
    advice: Arc<Advice>,
    request: Request,
    due: Option<Instant>,
) -> Reply {
    let Request { head, body } = request;
    let trail = Trail::on(&route, &advice);
    let bytes_max = route.config.body_bytes_max.unwrap_or(u64::MAX).min(infer.limits.body_bytes_max);
    let call = match read(&head.headers, body, bytes_max, route.passes_calls()).await {
        Ok(call) => call,
        Err(Unread::Body(error)) => return infer.replies.bad_body(&error, trail),
        Err(Unread::Refused(code, why)) => return refused(infer, code, &why, trail),
    };
    let (id, request) = by_rest(head, call);
    // Another path is to be rewritten than the one that was looked at before.
    if let Some(fault) = route.config.rewrite.as_ref().and_then(|rewrite| rewriting::fault(rewrite, &request.head)) {
        return infer.replies.unwritable(fault, trail);
    }
    let reply = Box::pin(infer::serve(infer, route, protocol, advice, request, due)).await;
    written(infer, &id, reply).await
}

/// Why a call couldn't be read.
#[derive(Debug)]
enum Unread {
    Body(BodyError),
    /// The code of gRPC, and what the client is told.
    Refused(u32, String),
}

impl From<BodyError> for Unread {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

impl From<Misframed> for Unread {
    fn from(fault: Misframed) -> Self {
        Self::Refused(fault.code(), fault.to_string())
    }
}

impl From<Uncallable> for Unread {
    fn from(fault: Uncallable) -> Self {
        Self::Refused(fault.code(), fault.to_string())
    }
}

impl From<Undecodable> for Unread {
    fn from(error: Undecodable) -> Self {
        let code = match error {
            Undecodable::Unknown(_) | Undecodable::TooMany => UNIMPLEMENTED,
            Undecodable::TooLarge { .. } | Undecodable::TooManyStreams => RESOURCE_EXHAUSTED,
            Undecodable::Broken => INTERNAL,
        };
        Self::Refused(code, error.to_string())
    }
}

/// Reads a call whose message, decoded, may have so many bytes, for a model that is called by gRPC itself if it
/// `is_native`.
async fn read(headers: &HeaderMap, mut body: Body, bytes_max: u64, is_native: bool) -> Result<Call, Unread> {
    let mut framing = Framing::new(bytes_max);
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            framing.push(&bytes)?;
        }
    }
    let Unframed { message, is_compressed } = framing.finish()?;
    let message = if is_compressed { decompress(&coding_of(headers)?, message, bytes_max).await? } else { message };
    Call::read(&message, is_native).map_err(Unread::from)
}

/// Returns the coding of a compressed message, as a field that HTTP has for it.
fn coding_of(headers: &HeaderMap) -> Result<HeaderMap, Unread> {
    let coding = headers.get("grpc-encoding").map_or(&b""[..], HeaderValue::as_bytes);
    match coding {
        b"gzip" => Ok(HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))])),
        b"deflate" => Ok(HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static("deflate"))])),
        b"" | b"identity" => {
            let why = "the message is compressed, and `grpc-encoding` doesn't say how";
            Err(Unread::Refused(INTERNAL, why.to_owned()))
        }
        _ => {
            let why = "of compressed messages those in gzip and deflate are read";
            Err(Unread::Refused(UNIMPLEMENTED, why.to_owned()))
        }
    }
}

/// Returns the name that a client gave its call, and the call as a request of the REST protocol, without the fields
/// that are the call's own.
fn by_rest(mut head: RequestHead, call: Call) -> (String, Request) {
    const OWN: [&str; 6] = ["accept", "accept-encoding", "content-encoding", "content-length", "content-type", "te"];
    remove(&mut head.headers, |name| name != TRACE && (name.starts_with("grpc-") || OWN.contains(&name)));
    head.headers.extend(call.headers);
    (head.target, head.received) = (call.target, None);
    (call.id, Request { head, body: Body::Full(call.body) })
}

fn remove(headers: &mut HeaderMap, is_removed: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_removed(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Returns the reply to a call by that to the request that it is. One that isn't a success stays as it is, for
/// [`conclude`].
async fn written(infer: &Infer, id: &str, reply: Reply) -> Reply {
    if reply.response.status() != StatusCode::OK {
        return reply;
    }
    let Reply { response, trail } = reply;
    let (mut parts, body) = response.into_parts();
    // It was joined, so that it is in one piece.
    let body = if let Body::Full(body) = body { body } else { Bytes::new() };
    let framed = match call_response(Message { headers: &parts.headers, body: &body }, id) {
        Ok(framed) => framed,
        Err(bad) => {
            let proxy_status = Some(ProxyStatus::Error(proxy::error_of("bad-response")));
            let trail = Trail { detail: Some("bad-response".into()), proxy_status, ..trail };
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return infer.replies.own(status, "Internal Server Error", &bad.to_string(), trail);
        }
    };
    drop(body);
    let Some(message) = infer.cache.hold(&framed).await else {
        let detail = "the bodies of other responses take all the memory they may; see `cache.bodies_bytes_max`";
        let proxy_status = Some(ProxyStatus::Error(ProxyError::HttpRequestDenied));
        let trail = Trail { detail: Some("bodies-full".into()), proxy_status, ..trail };
        let mut full = infer.replies.own(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable", detail, trail);
        full.response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        return full;
    };
    call_head(&mut parts.headers);
    let body = Body::stream(Ended { message: Some(message), trailers: Some(call_status_fields(0, "")) });
    Reply { response: Response::from_parts(parts, body), trail }
}

/// A message, and how its call ended.
struct Ended {
    message: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl http_body::Body for Ended {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let message = self.message.take().map(Frame::data);
        Poll::Ready(message.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none() && self.trailers.is_none()
    }
}

/// Makes the header fields of a response to a request those of a response to a call: what describes the body goes.
fn call_head(headers: &mut HeaderMap) {
    const OTHERS: [&str; 8] = [
        "accept-ranges",
        "digest",
        "etag",
        "inference-header-content-length",
        "last-modified",
        "repr-digest",
        "trailer",
        "vary",
    ];
    remove(headers, |name| {
        let is_of_body = name.starts_with("content-") || OTHERS.contains(&name);
        is_of_body || name.starts_with("grpc-")
    });
    headers.insert(header::CONTENT_TYPE, GRPC);
    headers.insert(HeaderName::from_static("grpc-accept-encoding"), ENCODINGS);
}

/// Returns the refusal of a call that can't be read.
fn refused(infer: &Infer, code: u32, why: &str, trail: Trail) -> Reply {
    let proxy_status = Some(ProxyStatus::Error(ProxyError::HttpRequestError));
    let trail = Trail { detail: Some("malformed".into()), proxy_status, ..trail };
    let mut reply = infer.replies.own(StatusCode::BAD_REQUEST, "Bad Request", why, trail);
    fail(&mut reply.response, code, why);
    reply
}

/// Has the reply to a call say in gRPC's terms how it ended, if it doesn't yet.
pub(super) fn conclude(reply: &mut Reply) {
    let response = &mut reply.response;
    if message::is_grpc(response.headers()) {
        return;
    }
    let status = response.status().as_u16();
    let said = if let Body::Full(body) = response.body() { said(body) } else { None };
    let why = said.unwrap_or_else(|| format!("the call failed with status {status} of HTTP"));
    fail(response, call_code_of(status), &why);
}

/// Makes a response one without a message, whose head says why.
fn fail(response: &mut Response, code: u32, why: &str) {
    *response.body_mut() = Body::Empty;
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    call_head(headers);
    headers.extend(call_status_fields(code, why));
    let seconds = headers.get(header::RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse::<u32>().ok());
    if let Some(seconds) = seconds {
        let pushback = HeaderValue::from(u64::from(seconds) * 1_000);
        headers.insert(HeaderName::from_static("grpc-retry-pushback-ms"), pushback);
    }
}

/// Returns what a failure of HTTP says, in a problem's form or in KServe's.
fn said(body: &[u8]) -> Option<String> {
    let json: Value = serde_json::from_slice(body).ok()?;
    let words = ["error", "detail"].into_iter().find_map(|name| json.get(name))?;
    words.as_str().or_else(|| words.get("message")?.as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_grpc_writes_them() {
        for (text, wanted) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("123456789n", None),
            ("m", None),
            ("", None),
            ("1", None),
            ("1s", None),
            ("-1m", None),
            ("+1m", None),
            ("1.5S", None),
        ] {
            let field = (HeaderName::from_static("grpc-timeout"), HeaderValue::from_static(text));
            let headers = HeaderMap::from_iter([field]);
            assert_eq!(time_of(&headers), wanted.map(Some).ok_or(BadTime), "{text}");
        }
        assert_eq!(time_of(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn a_failure_has_no_body_and_says_why_in_its_head() {
        for (status, body, wanted) in [
            (429, r#"{"error":"later"}"#, ("8", "later")),
            (504, r#"{"title":"Gateway Timeout","detail":"too late"}"#, ("4", "too late")),
            (400, r#"{"error":{"message":"a \"word\""}}"#, ("3", "a \"word\"")),
            (502, "<h1>", ("14", "the call failed with status 502 of HTTP")),
            (200, "{}", ("2", "the call failed with status 200 of HTTP")),
        ] {
            let mut response = Response::new(Body::Full(Bytes::from(body)));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            for (name, value) in
                [("content-type", "text/html"), ("content-length", "7"), ("retry-after", "2"), ("x-model", "m")]
            {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            let mut reply = Reply { response, trail: Trail::default() };
            conclude(&mut reply);
            let once = reply.response.headers().clone();
            conclude(&mut reply);
            assert_eq!(*reply.response.headers(), once, "what is concluded stays");
            let field = |name: &str| once[name].to_str().unwrap();
            assert_eq!((field("grpc-status"), field("grpc-message")), wanted);
            assert_eq!((field("content-type"), field("grpc-retry-pushback-ms")), ("application/grpc", "2000"));
            assert!(once.contains_key("x-model") && !once.contains_key("content-length"));
            assert!(reply.response.status() == 200 && matches!(reply.response.body(), Body::Empty));
        }
    }
}
