//! Regions of a request: the one that its client is in, and the one that serves it.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

/// Bytes of a region that a header field states.
const BYTES_MAX: usize = 64;

/// The regions of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Near {
    /// That of the client, in lower case, as a trusted proxy stated it: a token (RFC 9110, section 5.6.2) of at most 64
    /// bytes. `None` if none did.
    pub client: Option<Arc<str>>,
    /// That of this node; `None` if it has none.
    pub node: Option<Arc<str>>,
}

/// Returns the region that a header field states, in lower case. `None` if it isn't there, is there more than once, or
/// isn't a token of at most 64 bytes: which of several is meant nobody can tell.
#[must_use]
pub fn stated(headers: &HeaderMap, field: &HeaderName) -> Option<Arc<str>> {
    let mut lines = headers.get_all(field).iter();
    let line = lines.next().filter(|_| lines.next().is_none())?;
    let text = line.to_str().ok()?.trim();
    let is_token = (1..=BYTES_MAX).contains(&text.len()) && text.bytes().all(is_tchar);
    is_token.then(|| text.to_ascii_lowercase().into())
}

/// Whether a byte may be in a token (RFC 9110, section 5.6.2).
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_region_is_one_token_in_lower_case_or_none() {
        let (long, longer) = ("x".repeat(BYTES_MAX), "x".repeat(BYTES_MAX + 1));
        for (lines, wanted) in [
            (&[][..], None),
            (&["eu"], Some("eu")),
            (&["EU-West_1.a"], Some("eu-west_1.a")),
            (&[" eu\t"], Some("eu")),
            (&[&*long], Some(&*long)),
            (&[&*longer], None),
            (&[""], None),
            (&["eu, us"], None),
            (&["eu", "us"], None),
            (&["eu", "eu"], None),
            (&["e u"], None),
            (&["\"eu\""], None),
            (&["eu/1"], None),
            (&["\u{fc}"], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-region", HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            let found = stated(&headers, &HeaderName::from_static("x-region"));
            assert_eq!(found.as_deref(), wanted, "{lines:?}");
        }
    }
}
