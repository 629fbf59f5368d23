//! The rules of header sections that are HTTP/3's own (RFC 9114, sections 4.2 and 4.3), and its priorities. Pure, but
//! for `Date`.

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use http_body::Body;

use super::date;
use crate::http::request;

/// Fields that are about a connection, and in HTTP/3 malformed.
static OF_CONNECTION: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The field of priorities (RFC 9218, section 5).
static PRIORITY: HeaderName = HeaderName::from_static("priority");

/// The urgency of a response for which neither side states one (RFC 9218, section 4.1).
const URGENCY: i32 = 3;

/// Whether a request is malformed, so that its stream has to be reset (RFC 9114, section 4.1.2). What the library has
/// found malformed doesn't come as far as this.
pub(super) fn is_malformed(request: &Request<()>) -> bool {
    let headers = request.headers();
    let mut te = headers.get_all(header::TE).iter();
    let is_trailers = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"trailers");
    OF_CONNECTION.iter().any(|name| headers.contains_key(name))
        || !te.all(is_trailers)
        || (*request.method() != Method::CONNECT && request.uri().scheme().is_none())
}

/// Returns the length that a request states; `None` if it states none, or none that can be read: that is refused later.
pub(super) fn stated_length(headers: &HeaderMap) -> Option<u64> {
    request::read_length(headers.get(header::CONTENT_LENGTH)?).ok()
}

/// Whether a request has no content as a rule, so that the end of its stream comes with its head or right behind it, and
/// is worth waiting for: whether there is any decides how it is served.
pub(super) fn is_bare(request: &Request<()>) -> bool {
    match stated_length(request.headers()) {
        Some(length) => length == 0,
        None => matches!(*request.method(), Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS),
    }
}

/// Whether its client waits with the body until it is wanted (RFC 9110, section 10.1.1). Any other expectation is refused
/// later.
pub(super) fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Returns how much more urgent than others a response is by what the request or the response itself says (RFC 9218,
/// sections 4.1 and 5): more than 0 goes first. `None` if nothing is said.
pub(super) fn urgency(headers: &HeaderMap) -> Option<i32> {
    // Of several the last counts, as in any dictionary (RFC 8941, section 3.2).
    headers.get_all(&PRIORITY).iter().rev().filter_map(|value| value.to_str().ok()).find_map(urgency_of)
}

/// Returns the same for a value of the field.
pub(super) fn urgency_of(value: &str) -> Option<i32> {
    value.split(',').rev().find_map(stated_urgency).map(|stated| URGENCY - stated)
}

fn stated_urgency(member: &str) -> Option<i32> {
    let value = member.trim().strip_prefix("u=")?;
    let value = value.split(';').next().unwrap_or(value);
    value.parse().ok().filter(|urgency| (0..=7).contains(urgency))
}

/// Divides a response into its head, as HTTP/3 may send it, and its body.
pub(super) fn divided<B: Body>(response: Response<B>) -> (Response<()>, B) {
    let (mut parts, body) = response.into_parts();
    for name in &OF_CONNECTION {
        parts.headers.remove(name);
    }
    if !body.is_end_stream()
        && let Some(length) = body.size_hint().exact()
    {
        parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    parts.headers.entry(header::DATE).or_insert_with(date::now);
    (Response::from_parts(parts, ()), body)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;

    use super::*;

    fn request(method: Method, uri: &str, fields: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn fields_of_a_connection_are_malformed() {
        let uri = "https://a.test/";
        let cases: [(&str, Method, &str, &[(&'static str, &'static str)], bool); 10] = [
            ("plain", Method::GET, uri, &[("accept", "*/*")], false),
            ("te: trailers", Method::POST, uri, &[("te", "trailers")], false),
            ("te: Trailers", Method::POST, uri, &[("te", " Trailers ")], false),
            ("te: gzip", Method::POST, uri, &[("te", "gzip")], true),
            ("te: two", Method::POST, uri, &[("te", "trailers"), ("te", "gzip")], true),
            ("connection", Method::GET, uri, &[("connection", "close")], true),
            ("upgrade", Method::GET, uri, &[("upgrade", "websocket")], true),
            ("transfer-encoding", Method::POST, uri, &[("transfer-encoding", "chunked")], true),
            ("no scheme", Method::GET, "/a", &[], true),
            ("CONNECT has none", Method::CONNECT, "a.test:443", &[], false),
        ];
        for (name, method, uri, fields, malformed) in cases {
            assert_eq!(is_malformed(&request(method, uri, fields)), malformed, "{name}");
        }
    }

    #[test]
    fn a_request_without_content_is_known_by_its_head() {
        let uri = "https://a.test/";
        let cases: [(Method, &[(&'static str, &'static str)], bool); 6] = [
            (Method::GET, &[], true),
            (Method::GET, &[("content-length", "3")], false),
            (Method::POST, &[], false),
            (Method::POST, &[("content-length", "0")], true),
            (Method::POST, &[("content-length", "+0")], false),
            (Method::DELETE, &[], true),
        ];
        for (method, fields, bare) in cases {
            assert_eq!(is_bare(&request(method.clone(), uri, fields)), bare, "{method} {fields:?}");
        }
    }

    #[test]
    fn urgencies_are_read_as_in_a_dictionary() {
        let cases: [(&[&'static str], Option<i32>); 8] = [
            (&[], None),
            (&["u=3"], Some(0)),
            (&["u=0"], Some(3)),
            (&["i, u=7"], Some(-4)),
            (&["u=5;x=1, i"], Some(-2)),
            (&["u=1", "u=5"], Some(-2)),
            (&["u=8"], None),
            (&["urgent"], None),
        ];
        for (values, expected) in cases {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("priority", HeaderValue::from_static(value));
            }
            assert_eq!(urgency(&headers), expected, "{values:?}");
        }
    }

    #[test]
    fn a_response_says_its_length_and_its_date_and_nothing_of_a_connection() {
        let response = Response::builder().header("keep-alive", "timeout=5").header("connection", "close");
        let (head, body) = divided(response.body(Full::new(Bytes::from_static(b"hello"))).unwrap());
        assert_eq!(head.headers()[header::CONTENT_LENGTH], "5");
        assert!(head.headers().contains_key(header::DATE) && head.headers().len() == 2, "{head:?}");
        assert_eq!(body.size_hint().exact(), Some(5));

        let dated = Response::builder().header("date", "then").header("content-length", "7");
        let (head, _) = divided(dated.body(Full::new(Bytes::new())).unwrap());
        assert_eq!(head.headers()["date"], "then");
        assert_eq!(head.headers()["content-length"], "7", "that of what GET would get");
    }
}
