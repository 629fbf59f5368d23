//! Checks of any verdict: sizes within their limits, and header fields that a policy may set.

use http::{HeaderName, HeaderValue, header};

use crate::{
    plugin::limits::{FIELD_NAME_BYTES_MAX, FIELD_VALUE_BYTES_MAX, Limit, plain},
    policy::Fault,
};

/// Checks that a list is within the contract's limit, and the operator's.
pub(super) fn counted<T>(what: &'static str, list: &[T], max: usize, limit: &Limit) -> Result<(), Fault> {
    let max = max.min(limit.result_items);
    if list.len() <= max {
        return Ok(());
    }
    Err(Fault::Malformed(format!("{} {what}; at most {max} are allowed", list.len())))
}

/// Checks that sizes together are within the limit of a result.
pub(super) fn weighed(sizes: impl Iterator<Item = usize>, limit: &Limit) -> Result<(), Fault> {
    let bytes: usize = sizes.sum();
    if bytes <= limit.result_bytes { Ok(()) } else { Err(Fault::TooLarge { bytes, limit: limit.result_bytes }) }
}

/// Returns a header field of a request, as a component names it; without a value it is one to be removed.
pub(super) fn request_field(name: &str, value: Option<&str>) -> Result<(HeaderName, Option<HeaderValue>), Fault> {
    let wrong = |why: String| Fault::Malformed(format!("the header field `{}` {why}", plain(name, 80)));
    if name.len() > FIELD_NAME_BYTES_MAX {
        return Err(wrong(format!("has a name of {} bytes; at most {FIELD_NAME_BYTES_MAX} are allowed", name.len())));
    }
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("has no valid name".to_owned()))?;
    if is_hosts(&name) {
        return Err(wrong(
            "is not a policy's to set: it belongs to the connection, or says where a request ends".to_owned(),
        ));
    }
    let Some(value) = value else { return Ok((name, None)) };
    if value.len() > FIELD_VALUE_BYTES_MAX {
        return Err(wrong(format!(
            "has a value of {} bytes; at most {FIELD_VALUE_BYTES_MAX} are allowed",
            value.len()
        )));
    }
    let value = HeaderValue::from_str(value).map_err(|_| wrong("has characters that no value has".to_owned()))?;
    Ok((name, Some(value)))
}

/// Whether a field is the host's own: it frames the request or names its host, or it is for one hop only (RFC 9110,
/// section 7.6.1).
fn is_hosts(name: &HeaderName) -> bool {
    const OWN: [HeaderName; 10] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::EXPECT,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
    ];
    OWN.contains(name) || ["keep-alive", "proxy-connection", "http2-settings"].contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_are_set_removed_or_refused_with_the_reason() {
        let (long, large) = ("x".repeat(FIELD_NAME_BYTES_MAX + 1), "x".repeat(FIELD_VALUE_BYTES_MAX + 1));
        for (name, value, words) in [
            ("a b", Some("1"), "`a b` has no valid name"),
            ("", None, "`` has no valid name"),
            (&*long, None, "has a name of 257 bytes; at most 256"),
            ("x-a", Some("a\nb"), "`x-a` has characters that no value has"),
            ("x-a", Some(&*large), "`x-a` has a value of 8193 bytes; at most 8192"),
            ("Content-Length", Some("1"), "`Content-Length` is not a policy's to set"),
            ("host", None, "`host` is not a policy's to set"),
            ("Connection", None, "is not a policy's to set"),
            ("keep-alive", Some("1"), "is not a policy's to set"),
            ("proxy-authorization", Some("1"), "is not a policy's to set"),
            ("te", Some("trailers"), "is not a policy's to set"),
        ] {
            let fault = request_field(name, value).unwrap_err().to_string();
            assert!(fault.contains(words), "{fault}");
        }
        let (name, value) = request_field("X-A", Some(&large[1..])).unwrap();
        assert_eq!((name.as_str(), value.map(|value| value.len())), ("x-a", Some(FIELD_VALUE_BYTES_MAX)));
        assert!(matches!(request_field("authorization", None), Ok((_, None))));
    }
}
