//! The normal form of an authority (RFC 3986, sections 3.2.2 and 6.2.2): host and optional port, without a user name.

use std::{borrow::Cow, net::Ipv6Addr, str::FromStr};

use super::{scheme::Scheme, target};

/// The longest host name in DNS.
const HOST_BYTES_MAX: usize = 255;

/// Returns `host[:port]` in lower case, without the scheme's own port, the dot that ends a fully qualified name, and
/// escapes; `None` if it isn't one. Borrowed if it has this form already.
#[must_use]
pub fn normal(text: &[u8], scheme: Scheme) -> Option<Cow<'_, [u8]>> {
    let (host, digits) = split(text)?;
    let port = match digits {
        None | Some([]) => None,
        Some(digits) => Some((digits, number(digits)?)).filter(|(_, port)| *port != own_port(scheme)),
    };
    Some(match (normal_host(host)?, port) {
        (normal, None) => normal,
        (Cow::Borrowed(same), Some((digits, _))) if same.len() == host.len() && !digits.starts_with(b"0") => {
            Cow::Borrowed(text)
        }
        (normal, Some((_, port))) => Cow::Owned([&*normal, b":", port.to_string().as_bytes()].concat()),
    })
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

fn number(digits: &[u8]) -> Option<u16> {
    // `parse` alone would let a plus sign pass.
    let digits = str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

const fn own_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    }
}

/// Returns a registered name, an IPv4 address (which looks like one), or an IPv6 address in brackets.
fn normal_host(host: &[u8]) -> Option<Cow<'_, [u8]>> {
    if host.len() > HOST_BYTES_MAX {
        return None;
    }
    if let [b'[', inner @ .., b']'] = host {
        let address = Ipv6Addr::from_str(str::from_utf8(inner).ok()?).ok()?;
        let written = format!("[{address}]").into_bytes();
        return Some(if written == host { Cow::Borrowed(host) } else { Cow::Owned(written) });
    }
    let name = if host.contains(&b'%') { Cow::Owned(unescaped(host)?) } else { Cow::Borrowed(host) };
    is_name(&name).then(|| without_dot(lower(name)))
}

/// Returns a name without its escapes; `None` if any stands for what a name can't have. No name in DNS needs one.
fn unescaped(host: &[u8]) -> Option<Vec<u8>> {
    let host = target::normal_query(str::from_utf8(host).ok()?).into_owned();
    (!host.contains('%')).then(|| host.into_bytes())
}

/// Whether a name is a `reg-name` (RFC 3986, section 3.2.2), with no more than one dot at its end. Without `*`: to
/// purge `*.example.org` would purge nothing.
fn is_name(name: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()+,;=".contains(byte);
    !name.is_empty() && name != b"." && !name.ends_with(b"..") && name.iter().all(is_plain)
}

fn lower(name: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    if name.iter().any(u8::is_ascii_uppercase) { Cow::Owned(name.to_ascii_lowercase()) } else { name }
}

/// Returns a name without the dot at its end, by which `example.org.` only keeps resolvers from using a search list.
fn without_dot(name: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    match name {
        Cow::Borrowed(bytes) => Cow::Borrowed(bytes.strip_suffix(b".").unwrap_or(bytes)),
        Cow::Owned(mut bytes) => {
            if bytes.ends_with(b".") {
                bytes.pop();
            }
            Cow::Owned(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, scheme: Scheme) -> Option<String> {
        normal(text.as_bytes(), scheme).map(|kept| String::from_utf8(kept.into_owned()).unwrap())
    }

    #[test]
    fn hosts_are_checked_and_have_one_form() {
        let cases = [
            ("example.org", Some("example.org")),
            ("Example.ORG", Some("example.org")),
            ("example.org:80", Some("example.org")),
            ("example.org:0080", Some("example.org")),
            ("example.org:", Some("example.org")),
            ("example.org.", Some("example.org")),
            ("example.org.:80", Some("example.org")),
            ("example.org.:8080", Some("example.org:8080")),
            ("Example.org:8080", Some("example.org:8080")),
            ("example.org:08080", Some("example.org:8080")),
            ("example.org:443", Some("example.org:443")),
            ("192.0.2.1:81", Some("192.0.2.1:81")),
            ("my_service", Some("my_service")),
            ("[2001:DB8::1]", Some("[2001:db8::1]")),
            ("[2001:db8:0:0:0:0:0:1]", Some("[2001:db8::1]")),
            ("[2001:db8::1]:81", Some("[2001:db8::1]:81")),
            ("[0:0:0:0:0:0:0:1]:9", Some("[::1]:9")),
            ("[::ffff:192.0.2.1]", Some("[::ffff:192.0.2.1]")),
            ("a%2Db", Some("a-b")),
            ("%41.example%2e", Some("a.example")),
            ("*.example.org", None),
            ("", None),
            (".", None),
            ("a..", None),
            (":80", None),
            ("user@example.org", None),
            ("example.org:80:80", None),
            ("example.org:port", None),
            ("example.org:+80", None),
            ("example.org:65536", None),
            ("[2001:db8::1", None),
            ("[2001:db8::1]80", None),
            ("[2001:db8::1].", None),
            ("[example.org]", None),
            ("[fe80::1%25eth0]", None),
            ("exa mple.org", None),
            ("example.org/", None),
            ("a%2", None),
            ("a%zz", None),
            ("a%2Fb", None),
            ("b%C3%BCcher.example", None),
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
    fn a_normal_authority_is_not_copied() {
        for text in ["example.org", "example.org:8080", "[2001:db8::1]:81"] {
            assert!(matches!(normal(text.as_bytes(), Scheme::Http), Some(Cow::Borrowed(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_normal_stays_and_is_plain(text in "[ -~]{0,40}|[a-zA-Z.%0-9:]{1,12}") {
            if let Some(once) = read(&text, Scheme::Http) {
                prop_assert_eq!(read(&once, Scheme::Http), Some(once.clone()));
                prop_assert!(!once.contains(['@', '/', '?', '#', ' ', '\\', '%']));
                prop_assert!(!once.ends_with('.') && !once.contains(|c: char| c.is_ascii_uppercase()));
            }
        }
    }
}
