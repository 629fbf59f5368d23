//! Which host a request is for (RFC 9110, section 7.2; RFC 9112, section 3.2; RFC 9113, section 8.3.1).

use std::{borrow::Cow, net::Ipv6Addr, str::FromStr};

use ::http::{HeaderMap, HeaderValue, Uri, Version, header};

use super::request::Rejection;
use crate::message::Scheme;

/// The longest host name DNS knows.
const HOST_BYTES_MAX: usize = 255;

/// Takes `Host` out of the header fields and settles, with the target's authority, what the request is for.
pub(super) fn resolve(
    uri: &Uri,
    headers: &mut HeaderMap,
    version: Version,
    scheme: Scheme,
) -> Result<HeaderValue, Rejection> {
    let host = take_host(headers)?.map(|value| canonical_value(value, scheme)).transpose()?;
    let named = match uri.authority() {
        Some(named) => Some(canonical_text(named.as_str(), scheme)?),
        None => None,
    };
    match (named, host) {
        (Some(named), Some(host)) if version >= Version::HTTP_2 && named != host => Err(Rejection::HostDiffers),
        (Some(_), None) if version == Version::HTTP_11 => Err(Rejection::HostMissing),
        (Some(named), _) => Ok(named),
        (None, Some(host)) => Ok(host),
        (None, None) => Err(Rejection::HostMissing),
    }
}

fn take_host(headers: &mut HeaderMap) -> Result<Option<HeaderValue>, Rejection> {
    if headers.get_all(header::HOST).iter().nth(1).is_some() {
        return Err(Rejection::HostRepeated);
    }
    Ok(headers.remove(header::HOST))
}

/// Leaves a value alone, and so uncopied, that is canonical already.
fn canonical_value(value: HeaderValue, scheme: Scheme) -> Result<HeaderValue, Rejection> {
    let changed = match canonical(value.as_bytes(), scheme).ok_or(Rejection::HostMalformed)? {
        Cow::Borrowed(same) if same.len() == value.len() => None,
        other => Some(to_value(&other)?),
    };
    Ok(changed.unwrap_or(value))
}

fn canonical_text(text: &str, scheme: Scheme) -> Result<HeaderValue, Rejection> {
    let canonical = canonical(text.as_bytes(), scheme).ok_or(Rejection::HostMalformed)?;
    to_value(&canonical)
}

fn to_value(text: &[u8]) -> Result<HeaderValue, Rejection> {
    HeaderValue::from_bytes(text).map_err(|_| Rejection::HostMalformed)
}

/// `host[:port]` in lower case, without the scheme's own port; `None` if it isn't one.
fn canonical(text: &[u8], scheme: Scheme) -> Option<Cow<'_, [u8]>> {
    let (host, port) = split(text)?;
    if !is_host(host) {
        return None;
    }
    let kept = if is_redundant(port, scheme)? { host } else { text };
    if kept.iter().any(u8::is_ascii_uppercase) {
        return Some(Cow::Owned(kept.to_ascii_lowercase()));
    }
    Some(Cow::Borrowed(kept))
}

/// Splits at the colon in front of the port; the port is `None` without one.
fn split(text: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let end = match text.first()? {
        b'[' => text.iter().position(|&byte| byte == b']')? + 1,
        _ => text.iter().position(|&byte| byte == b':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(end);
    match rest {
        [] => Some((host, None)),
        [b':', port @ ..] => Some((host, Some(port))),
        _ => None,
    }
}

/// Whether the port says nothing that the scheme doesn't; `None` if it isn't a port.
fn is_redundant(port: Option<&[u8]>, scheme: Scheme) -> Option<bool> {
    let Some(port) = port.filter(|port| !port.is_empty()) else { return Some(true) };
    if !port.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u16 = str::from_utf8(port).ok()?.parse().ok()?;
    let own = match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    Some(number == own)
}

/// A registered name, an IPv4 address (which looks like one), or an IPv6 address in brackets.
fn is_host(host: &[u8]) -> bool {
    if host.is_empty() || host.len() > HOST_BYTES_MAX {
        return false;
    }
    match host {
        [b'[', inner @ .., b']'] => str::from_utf8(inner).is_ok_and(|text| Ipv6Addr::from_str(text).is_ok()),
        _ => is_registered_name(host),
    }
}

/// `reg-name` of RFC 3986, section 3.2.2.
fn is_registered_name(host: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte);
    let mut rest = host;
    loop {
        rest = match rest {
            [] => return true,
            [b'%', high, low, more @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => more,
            [byte, more @ ..] if is_plain(byte) => more,
            _ => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, scheme: Scheme) -> Option<String> {
        canonical(text.as_bytes(), scheme).map(|kept| String::from_utf8(kept.into_owned()).unwrap())
    }

    #[test]
    fn hosts_are_checked_and_made_canonical() {
        let cases = [
            ("example.org", Some("example.org")),
            ("Example.ORG", Some("example.org")),
            ("example.org:80", Some("example.org")),
            ("example.org:", Some("example.org")),
            ("Example.org:8080", Some("example.org:8080")),
            ("example.org:443", Some("example.org:443")),
            ("192.0.2.1:81", Some("192.0.2.1:81")),
            ("[2001:DB8::1]", Some("[2001:db8::1]")),
            ("[2001:db8::1]:81", Some("[2001:db8::1]:81")),
            ("a%2Db", Some("a%2db")),
            ("", None),
            (":80", None),
            ("user@example.org", None),
            ("example.org:80:80", None),
            ("example.org:port", None),
            ("example.org:+80", None),
            ("example.org:65536", None),
            ("[2001:db8::1", None),
            ("[2001:db8::1]80", None),
            ("[example.org]", None),
            ("exa mple.org", None),
            ("example.org/", None),
            ("a%2", None),
            ("a%zz", None),
            ("bücher.example", None),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text, Scheme::Http).as_deref(), expected, "{text}");
        }
        assert_eq!(read("a:443", Scheme::Https).as_deref(), Some("a"));
        assert_eq!(read("a:80", Scheme::Https).as_deref(), Some("a:80"));
        assert_eq!(read(&"a".repeat(256), Scheme::Http), None);
    }

    #[test]
    fn a_canonical_value_is_not_copied() {
        let value = HeaderValue::from_maybe_shared(bytes::Bytes::from_static(b"example.org:8080")).unwrap();
        let before = value.as_bytes().as_ptr();
        assert_eq!(canonical_value(value, Scheme::Http).unwrap().as_bytes().as_ptr(), before);
    }

    proptest! {
        #[test]
        fn what_is_canonical_stays_and_is_plain(text in "[ -~]{0,40}") {
            if let Some(once) = read(&text, Scheme::Http) {
                prop_assert_eq!(read(&once, Scheme::Http), Some(once.clone()));
                prop_assert!(!once.contains(['@', '/', '?', '#', ' ', '\\']));
                prop_assert!(!once.contains(|c: char| c.is_ascii_uppercase()));
            }
        }
    }
}
