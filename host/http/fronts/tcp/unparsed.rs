//! What HTTP/1's parser refuses. hyper responds to that by itself, with a status alone; `transport` holds that response back,
//! and one that says why is sent in its place.

use std::io::Write as _;

use ::http::StatusCode;
use http_body::Body as _;

use crate::{
    http::rejection::Rejection,
    message::{Body, Response},
};

/// Returns why the parser refuses what came; `None` if it doesn't. The library has no names for its reasons, only words;
/// those that it may have in another version are a malformed head.
pub(super) fn reason(error: &hyper::Error) -> Option<Rejection> {
    if !error.is_parse() {
        return None;
    }
    if error.is_parse_too_large() {
        return Some(Rejection::FieldsTooLarge);
    }
    Some(match error.to_string().as_str() {
        "invalid HTTP version parsed" => Rejection::VersionUnknown,
        "invalid HTTP method parsed" => Rejection::MethodMalformed,
        "invalid URI" => Rejection::TargetMalformed,
        "invalid content-length parsed" => Rejection::LengthMalformed,
        "invalid transfer-encoding parsed" => Rejection::TransferCodingUnknown,
        "unexpected transfer-encoding parsed" => Rejection::TransferEncodingForbidden,
        _ => Rejection::HeadMalformed,
    })
}

/// Returns the reason, of the two ways to be too large the right one (RFC 9110, section 15.5.15): that of the status which
/// the parser chose, which looks at the whole head, or the target if its line is too long by itself.
pub(super) fn of_size(reason: Rejection, status: StatusCode, is_long_line: bool) -> Rejection {
    match reason {
        Rejection::FieldsTooLarge if is_long_line || status == StatusCode::URI_TOO_LONG => Rejection::TargetTooLong,
        other => other,
    }
}

/// Returns a response as HTTP/1.1 has it, with its body, which is in one piece, and this `Date`.
pub(super) fn written(response: Response, date: &[u8]) -> Vec<u8> {
    let (head, body) = response.into_parts();
    let length = body.size_hint().exact().unwrap_or(0);
    let mut bytes = Vec::with_capacity(512);
    // Writing to a vector can't fail.
    let _ =
        write!(bytes, "HTTP/1.1 {} {}\r\n", head.status.as_str(), head.status.canonical_reason().unwrap_or_default());
    for (name, value) in &head.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    let _ = write!(bytes, "content-length: {length}\r\ndate: ");
    bytes.extend_from_slice(date);
    bytes.extend_from_slice(b"\r\n\r\n");
    if let Body::Full(body) = body {
        bytes.extend_from_slice(&body);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use ::http::Version;

    use super::*;

    #[test]
    fn a_refusal_is_written_whole() {
        let bytes = written(Rejection::VersionUnknown.response(Version::HTTP_11), b"today");
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 505 HTTP Version Not Supported\r\n"), "{head}");
        for line in ["connection: close", "cache-control: no-store", "content-type: application/problem+json"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
        }
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{head}");
        assert!(head.ends_with("\r\ndate: today") && body.contains("\"status\":505"), "{text}");
    }

    #[test]
    fn the_parsers_status_or_the_line_tells_what_was_too_large() {
        const FIELDS: StatusCode = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        for (reason, status, is_long_line, wanted) in [
            (Rejection::FieldsTooLarge, StatusCode::URI_TOO_LONG, false, Rejection::TargetTooLong),
            (Rejection::FieldsTooLarge, FIELDS, true, Rejection::TargetTooLong),
            (Rejection::FieldsTooLarge, FIELDS, false, Rejection::FieldsTooLarge),
            (Rejection::HeadMalformed, StatusCode::BAD_REQUEST, true, Rejection::HeadMalformed),
        ] {
            assert_eq!(of_size(reason, status, is_long_line), wanted);
        }
    }
}
