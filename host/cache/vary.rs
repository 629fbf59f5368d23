//! `Vary` (RFC 9110, section 12.5.5; RFC 9111, section 4.1): which variant of a response a request selects.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName,
    header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE, HOST, VARY},
};

use super::key::{Key, KeyHasher};
use crate::{
    message::RequestHead,
    planted::{Plant, planted},
    policy::Material,
};

/// The origin reads these as we send them, whatever the client said.
const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("x-forwarded-for");
const CLIENT_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-proto");
const CLIENT_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Variants named by more fields than this aren't stored: hardly any request would select one again.
pub const NAMES_MAX: usize = 16;

/// What a response's `Vary` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vary {
    /// The response doesn't vary.
    No,
    /// It varies by these fields: sorted, without repetition.
    By(Vec<HeaderName>),
    /// `*`, an invalid name or too many: no later request can be known to select it.
    Any,
}

/// Reads all `Vary` lines of a response.
#[must_use]
pub fn read(response: &HeaderMap) -> Vary {
    let mut names = Vec::new();
    for line in response.get_all(VARY) {
        for name in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            match HeaderName::from_bytes(name) {
                _ if name.is_empty() => {}
                Ok(name) => names.push(name),
                Err(_) => return Vary::Any,
            }
        }
    }
    by(names)
}

/// What it means to vary by these fields.
#[must_use]
pub fn by(mut names: Vec<HeaderName>) -> Vary {
    // A response for one address is for no other request.
    if names.iter().any(|name| *name == "*" || *name == CLIENT_ADDRESS) {
        return Vary::Any;
    }
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    match names.len() {
        0 => Vary::No,
        1..=NAMES_MAX => Vary::By(names),
        _ => Vary::Any,
    }
}

/// The key of the variant that `request` selects under `key`.
#[must_use]
pub fn variant(key: &Key, names: &[HeaderName], request: &RequestHead) -> Key {
    let mut hasher = KeyHasher::under(key);
    for name in names {
        hasher.part(Some(name.as_str().as_bytes()));
        let value = normalised(request, name).filter(|_| !planted(Plant::VaryIgnored));
        hasher.part(value.as_deref());
    }
    hasher.finish()
}

/// A field's value with its lines joined and, in fields that are known to be lists, the white space around members removed
/// (section 4.1 allows both).
#[must_use]
pub fn normalised<'r>(request: &'r RequestHead, name: &HeaderName) -> Option<Cow<'r, [u8]>> {
    if *name == CLIENT_SCHEME {
        return Some(Cow::Borrowed(request.scheme.as_str().as_bytes()));
    }
    if *name == CLIENT_HOST || *name == HOST {
        return Some(Cow::Borrowed(request.authority().as_bytes()));
    }
    if !name.as_str().starts_with("accept") {
        let lines: Vec<&[u8]> = request.headers.get_all(name).iter().map(|line| line.as_bytes().trim_ascii()).collect();
        return (!lines.is_empty()).then(|| Cow::Owned(lines.join(&b", "[..])));
    }
    // Codings (RFC 9110, section 8.4.1) and languages (RFC 4647, section 2) are the same in any case.
    let any_case = *name == ACCEPT_ENCODING || *name == ACCEPT_LANGUAGE;
    let mut joined: Option<Vec<u8>> = None;
    for line in request.headers.get_all(name) {
        for member in super::control::split_unquoted(line.as_bytes(), b',') {
            match &mut joined {
                Some(joined) => joined.push(b','),
                None => joined = Some(Vec::new()),
            }
            if let Some(joined) = &mut joined {
                let at = joined.len();
                joined.extend_from_slice(member.trim_ascii());
                if any_case {
                    joined[at..].make_ascii_lowercase();
                }
            }
        }
    }
    joined.map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: &'static str, lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (HeaderName::from_static(name), HeaderValue::from_static(line))).collect()
    }

    #[test]
    fn vary_is_read_as_a_set() {
        let by = |names: &[&'static str]| Vary::By(names.iter().map(|n| HeaderName::from_static(n)).collect());
        for (lines, wanted) in [
            (&[][..], Vary::No),
            (&[""], Vary::No),
            (&["Accept , accept-language", "accept"], by(&["accept", "accept-language"])),
            (&["accept, *"], Vary::Any),
            (&["x-forwarded-for"], Vary::Any),
            (&["not a name"], Vary::Any),
        ] {
            assert_eq!(read(&headers("vary", lines)), wanted, "{lines:?}");
        }
    }

    #[test]
    fn names_from_elsewhere_mean_the_same() {
        fn names(names: &[&str]) -> Vec<HeaderName> {
            names.iter().map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap()).collect()
        }
        for (given, wanted) in [
            (&[][..], Vary::No),
            (&["b", "a", "b"], Vary::By(names(&["a", "b"]))),
            (&["a", "*"], Vary::Any),
            (&["x-forwarded-for"], Vary::Any),
        ] {
            assert_eq!(by(names(given)), wanted, "{given:?}");
        }
        let many = (0..=NAMES_MAX).map(|n| HeaderName::try_from(format!("x-{n}")).unwrap());
        assert_eq!(by(many.collect()), Vary::Any);
    }

    #[test]
    fn variants_differ_by_value_and_by_absence_but_not_by_spacing() {
        let key = Key::from_bytes([7; 32]);
        let by = |name: &'static str, lines: &[&'static str]| {
            let mut head = crate::policy::facts::tests::request(http::Method::GET, "/", &[]);
            head.headers = headers(name, lines);
            variant(&key, &[HeaderName::from_static(name)], &head)
        };
        let of = |lines: &[&'static str]| by("accept", lines);
        assert_eq!(of(&["a, b"]), of(&["a,b"]));
        assert_eq!(of(&["a", "b"]), of(&["a,b"]));
        assert_ne!(of(&["a"]), of(&["b"]));
        assert_ne!(of(&[]), of(&[""]));
        assert_ne!(of(&["a"]), key);
        for (name, same) in [("accept-language", true), ("accept-encoding", true), ("accept", false)] {
            assert_eq!(by(name, &["a;Q=0.5, B-C"]) == by(name, &["A;q=0.5,b-c"]), same, "{name}");
        }
    }
}
