//! What a gRPC response says of its success, in the terms of HTTP: `grpc-status` and `grpc-message`, which are in the
//! trailers, or in the head if there is nothing else.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::{message::target, origin::protocol::item::Arrival};

const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";

/// Bytes of a message that are told to clients.
const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// Bytes of the message that a client of gRPC gets, as it is coded: many take 8 KiB of fields in all.
const CODED_BYTES_MAX: usize = 3 << 10;

// Codes of gRPC.
pub(super) const UNKNOWN: u32 = 2;
pub(super) const INVALID_ARGUMENT: u32 = 3;
pub(super) const DEADLINE_EXCEEDED: u32 = 4;
pub(super) const NOT_FOUND: u32 = 5;
pub(super) const PERMISSION_DENIED: u32 = 7;
pub(super) const RESOURCE_EXHAUSTED: u32 = 8;
pub(super) const ABORTED: u32 = 10;
pub(super) const UNIMPLEMENTED: u32 = 12;
pub(super) const INTERNAL: u32 = 13;
pub(super) const UNAVAILABLE: u32 = 14;
pub(super) const UNAUTHENTICATED: u32 = 16;

/// Returns the code of gRPC that a client is told instead of a status of HTTP. What was a code before, at the model, is
/// that code again, or one of its kind.
#[must_use]
pub const fn code_of(status: u16) -> u32 {
    match status {
        400 | 414 | 422 => INVALID_ARGUMENT,
        401 | 407 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 | 410 => NOT_FOUND,
        408 | 504 => DEADLINE_EXCEEDED,
        409 => ABORTED,
        413 | 429 => RESOURCE_EXHAUSTED,
        405 | 415 | 501 | 505 => UNIMPLEMENTED,
        425 | 502 | 503 => UNAVAILABLE,
        500 | 508 => INTERNAL,
        _ => UNKNOWN,
    }
}

/// Returns the fields that say how a call ended: as trailers, or in the head of a response without a message.
#[must_use]
pub fn status_fields(code: u32, message: &str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(HeaderName::from_static(STATUS), HeaderValue::from(code));
    // It is printable ASCII.
    if let Some(message) = HeaderValue::try_from(coded(message)).ok().filter(|message| !message.is_empty()) {
        fields.insert(HeaderName::from_static(MESSAGE), message);
    }
    fields
}

/// Returns a message as the field has it: what is no printable ASCII is written as `%` and two digits.
fn coded(message: &str) -> String {
    let mut coded = String::new();
    for letter in message.chars() {
        if coded.len() > CODED_BYTES_MAX {
            break;
        }
        if matches!(letter, ' '..='~') && letter != '%' {
            coded.push(letter);
            continue;
        }
        for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
            // A String takes whatever is written to it.
            let _ = write!(coded, "%{byte:02X}");
        }
    }
    coded
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::origin::protocol) struct Failure {
    /// HTTP's status for it.
    pub(in crate::origin::protocol) status: u16,
    pub(in crate::origin::protocol) message: String,
}

/// Returns HTTP's status for a code of gRPC; `None` for success. Codes that a single bad input may bring about are
/// those of HTTP that may, so that the others of its batch are sent again without it.
const fn http_status(code: u32) -> Option<u16> {
    Some(match code {
        0 => return None,
        // INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE
        3 | 9 | 11 => 400,
        // UNAUTHENTICATED
        16 => 401,
        // PERMISSION_DENIED
        7 => 403,
        // NOT_FOUND
        5 => 404,
        // ALREADY_EXISTS, ABORTED
        6 | 10 => 409,
        // RESOURCE_EXHAUSTED
        8 => 429,
        // UNKNOWN, INTERNAL, DATA_LOSS
        2 | 13 | 15 => 500,
        // UNIMPLEMENTED
        12 => 501,
        // CANCELLED, UNAVAILABLE
        1 | 14 => 503,
        // DEADLINE_EXCEEDED
        4 => 504,
        _ => 502,
    })
}

/// Returns the one code that fields have; `None` if they have none, or nothing that is one.
fn code(fields: &HeaderMap) -> Option<u32> {
    let mut lines = fields.get_all(STATUS).iter();
    let code =
        lines.next()?.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()?;
    lines.next().is_none().then_some(code)
}

/// Returns the status of a response that failed by its head alone, as a call does which isn't processed at all.
pub(in crate::origin) fn status_of_head(head: &HeaderMap) -> Option<StatusCode> {
    StatusCode::from_u16(http_status(code(head)?)?).ok()
}

/// Returns why a call failed; `None` if it didn't. One that doesn't say that it succeeded did fail.
pub(in crate::origin::protocol) fn failure(arrival: &Arrival<'_>) -> Option<Failure> {
    // A head that begins a response with a message can't say yet how that ends.
    let alone = Some(arrival.headers).filter(|_| arrival.body.is_empty());
    let said = [Some(arrival.trailers), alone].into_iter().flatten().find(|fields| fields.contains_key(STATUS));
    let told = said.map(|fields| (code(fields).map(http_status), message(fields)));
    let worded = |status: u16, text: String| {
        let message = if text.is_empty() { format!("the model failed with status {status}") } else { text };
        Some(Failure { status, message })
    };
    match told {
        Some((Some(Some(status)), text)) => worded(status, text),
        Some((Some(None), _)) if arrival.status == 200 => None,
        // Only a status of failure is one of this failure.
        _ if arrival.status != 200 => worded(if arrival.status < 400 { 502 } else { arrival.status }, String::new()),
        Some(_) => worded(502, "the model's `grpc-status` is no code".to_owned()),
        None => worded(502, "the model's response has no `grpc-status`".to_owned()),
    }
}

/// Returns the message of a failure, decoded: what is no printable ASCII is written as `%` and two digits.
fn message(fields: &HeaderMap) -> String {
    let coded = fields.get(MESSAGE).map(|value| value.as_bytes()).unwrap_or_default();
    let coded = coded.get(..MESSAGE_BYTES_MAX).unwrap_or(coded);
    let bytes: Vec<u8> = target::decoded(coded).map(|(byte, _)| byte).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        fields.iter().map(field).collect()
    }

    #[test]
    fn what_a_response_says_of_its_success() {
        // the status, fields of the head, trailers, HTTP's status and the message of the failure
        for (status, head, trailers, wanted) in [
            (200, &[][..], &[("grpc-status", "0")][..], None),
            (200, &[], &[], Some((502, "the model's response has no `grpc-status`"))),
            (200, &[], &[("grpc-status", "x")], Some((502, "the model's `grpc-status` is no code"))),
            (200, &[], &[("grpc-status", "")], Some((502, "the model's `grpc-status` is no code"))),
            (200, &[], &[("grpc-status", "+0")], Some((502, "the model's `grpc-status` is no code"))),
            (200, &[("grpc-status", "+0")], &[], Some((502, "the model's `grpc-status` is no code"))),
            (200, &[("grpc-status", "0")], &[], None),
            (
                200,
                &[],
                &[("grpc-status", "0"), ("grpc-status", "3")],
                Some((502, "the model's `grpc-status` is no code")),
            ),
            (200, &[], &[("grpc-status", "3"), ("grpc-message", "too%20long %zz %")], Some((400, "too long %zz %"))),
            (200, &[("grpc-status", "14")], &[], Some((503, "the model failed with status 503"))),
            // The head was mapped already.
            (503, &[("grpc-status", "14"), ("grpc-message", "busy")], &[], Some((503, "busy"))),
            (200, &[("grpc-status", "0")], &[("grpc-status", "13")], Some((500, "the model failed with status 500"))),
            (415, &[], &[], Some((415, "the model failed with status 415"))),
            (404, &[], &[("grpc-status", "0")], Some((404, "the model failed with status 404"))),
            // Without a status of failure it is this model's failure to say one.
            (201, &[], &[("grpc-status", "0")], Some((502, "the model failed with status 502"))),
            (204, &[("grpc-status", "0")], &[], Some((502, "the model failed with status 502"))),
            (302, &[], &[], Some((502, "the model failed with status 502"))),
            (304, &[], &[], Some((502, "the model failed with status 502"))),
            (200, &[], &[("grpc-status", "99")], Some((502, "the model failed with status 502"))),
        ] {
            // Lines of one name are kept apart.
            let mut trailer = HeaderMap::new();
            for &(name, value) in trailers {
                trailer.append(name, HeaderValue::from_static(value));
            }
            let (headers, body) = (fields(head), Bytes::new());
            let arrival = Arrival { status, headers: &headers, trailers: &trailer, body: &body };
            let found = failure(&arrival).map(|failure| (failure.status, failure.message));
            let wanted = wanted.map(|(status, message): (u16, &str)| (status, message.to_owned()));
            assert_eq!(found, wanted, "{status} {head:?} {trailers:?}");
        }
    }

    #[test]
    fn a_head_says_nothing_of_a_response_that_goes_on() {
        let (nothing, none) = (HeaderMap::new(), Some((502, "the model's response has no `grpc-status`")));
        for (head, trailers, body, wanted) in [
            ("0", None, "", None),
            ("0", None, "a message", none),
            ("3", None, "a message", none),
            ("0", Some("0"), "a message", None),
            ("3", Some("0"), "a message", None),
            ("0", Some("14"), "a message", Some((503, "the model failed with status 503"))),
        ] {
            let headers = fields(&[("grpc-status", head)]);
            let trailer = trailers.map(|code| fields(&[("grpc-status", code)]));
            let body = Bytes::from_static(body.as_bytes());
            let trailers = trailer.as_ref().unwrap_or(&nothing);
            let arrival = Arrival { status: 200, headers: &headers, trailers, body: &body };
            let found = failure(&arrival).map(|failure| (failure.status, failure.message));
            let wanted = wanted.map(|(status, message): (u16, &str)| (status, message.to_owned()));
            assert_eq!(found, wanted, "{head} {trailer:?} {body:?}");
        }
    }

    #[test]
    fn every_code_has_a_status() {
        for (code, wanted) in [
            ("0", None),
            ("1", Some(503)),
            ("2", Some(500)),
            ("3", Some(400)),
            ("4", Some(504)),
            ("5", Some(404)),
            ("6", Some(409)),
            ("7", Some(403)),
            ("8", Some(429)),
            ("9", Some(400)),
            ("10", Some(409)),
            ("11", Some(400)),
            ("12", Some(501)),
            ("13", Some(500)),
            ("14", Some(503)),
            ("15", Some(500)),
            ("16", Some(401)),
            ("17", Some(502)),
            ("-1", None),
            ("+3", None),
        ] {
            let status = status_of_head(&fields(&[("grpc-status", code)]));
            assert_eq!(status.map(|status| status.as_u16()), wanted, "{code}");
        }
        assert_eq!(status_of_head(&HeaderMap::new()), None);
    }

    #[test]
    fn clients_of_grpc_get_a_code_for_every_status() {
        for (status, wanted) in [
            (400, 3),
            (401, 16),
            (403, 7),
            (404, 5),
            (408, 4),
            (409, 10),
            (413, 8),
            (415, 12),
            (418, 2),
            (422, 3),
            (425, 14),
            (429, 8),
            (500, 13),
            (501, 12),
            (502, 14),
            (503, 14),
            (504, 4),
            (505, 12),
            (200, 2),
        ] {
            assert_eq!(code_of(status), wanted, "{status}");
        }
        // What a model said in gRPC is that again.
        for code in [3, 4, 5, 7, 8, 10, 12, 13, 14, 16] {
            assert_eq!(http_status(code).map(code_of), Some(code));
        }
    }

    #[test]
    fn a_message_arrives_as_it_was_said() {
        for text in ["", "too long", "100 %", "naïve\n", "%41"] {
            let fields = status_fields(3, text);
            assert_eq!((code(&fields), message(&fields)), (Some(3), text.to_owned()));
        }
        assert_eq!(status_fields(0, "").len(), 1);
        let long = "ü".repeat(10_000);
        let coded = coded(&long);
        assert!(coded.len() < CODED_BYTES_MAX + 20, "{} bytes", coded.len());
        assert!(long.starts_with(&message(&status_fields(3, &long))), "no character is cut");
    }

    #[test]
    fn a_message_is_bounded() {
        let long: &'static str = Box::leak("a".repeat(10_000).into_boxed_str());
        assert_eq!(message(&fields(&[("grpc-message", long)])).len(), MESSAGE_BYTES_MAX);
    }
}
