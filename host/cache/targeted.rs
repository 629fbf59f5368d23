//! Directives that are for some caches alone: targeted fields (RFC 9213), and `Surrogate-Control` of the Edge
//! Architecture note, which is older and has a syntax of its own.
//!
//! A cache has a list of such fields. The first of the list that a response has, and that can be read and says
//! something, takes the place of `Cache-Control` and `Expires` (RFC 9213, section 2.2).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::control::{Directives, SECONDS_MAX, delta_seconds, split_unquoted};
use crate::message::structured::joined;

/// The field of the note.
pub const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// The field for all caches of content delivery networks (RFC 9213, section 3.1).
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The name by which `Surrogate-Control` targets this cache: the one that `Surrogate-Capability` states.
const SURROGATE: &[u8] = b"holm";

/// Returns the directives that a response has for this cache, whose list is `targeted`.
#[must_use]
pub fn effective(response: &HeaderMap, targeted: &[HeaderName]) -> Directives {
    targeted.iter().find_map(|name| of_field(response, name)).unwrap_or_else(|| Directives::read(response))
}

/// Whether a field of the list is for this cache alone, so that it isn't passed on to clients. All but
/// `CDN-Cache-Control`, which other caches on the way may be meant by as well (RFC 9213, section 3.1).
#[must_use]
pub fn is_own(name: &HeaderName) -> bool {
    *name != CDN_CACHE_CONTROL
}

/// Takes the fields that are for this cache alone out of a response's.
pub fn take_own(headers: &mut HeaderMap, targeted: &[HeaderName]) -> HeaderMap {
    let mut own = HeaderMap::new();
    for name in targeted.iter().filter(|name| is_own(name)) {
        for value in headers.get_all(name) {
            own.append(name.clone(), value.clone());
        }
        headers.remove(name);
    }
    own
}

/// Whether a field that is for some caches says `no-transform` (RFC 9111, section 5.2.2.6), of a response's fields and
/// those that were taken out of them. Any such field counts, however it reads: a body that isn't changed is never wrong.
#[must_use]
pub fn forbids_transform(headers: &HeaderMap, own: &HeaderMap) -> bool {
    const NAME: &[u8] = b"no-transform";
    let says = |value: &HeaderValue| value.as_bytes().windows(NAME.len()).any(|text| text.eq_ignore_ascii_case(NAME));
    own.values().any(says) || headers.get_all(CDN_CACHE_CONTROL).iter().any(says)
}

/// Returns the directives of one field; `None` if it is missing, empty, or can't be read.
fn of_field(response: &HeaderMap, name: &HeaderName) -> Option<Directives> {
    let text = joined(response, name)?;
    if *name == SURROGATE_CONTROL { surrogate(&text) } else { dictionary(&text) }
}

/// Reads a targeted field, a dictionary (RFC 9213, section 2.1). One fault anywhere makes it none at all.
fn dictionary(text: &[u8]) -> Option<Directives> {
    let members: Dictionary = Parser::new(text).parse().ok()?;
    if members.is_empty() {
        return None;
    }
    let mut directives = Directives { targeted: true, ..Directives::default() };
    for (key, member) in &members {
        let value = match member {
            ListEntry::Item(item) => Some(&item.bare_item),
            ListEntry::InnerList(_) => None,
        };
        apply(&mut directives, key.as_str(), value);
    }
    Some(directives)
}

/// Applies one member. A lifetime that isn't an integer is ignored; a directive without a value is there unless it is
/// said to be false.
fn apply(directives: &mut Directives, name: &str, value: Option<&BareItem>) {
    let lifetime = match name {
        "max-age" => Some(&mut directives.max_age),
        "s-maxage" => Some(&mut directives.s_maxage),
        "stale-while-revalidate" => Some(&mut directives.grace),
        "stale-if-error" => Some(&mut directives.stale_if_error),
        _ => None,
    };
    if let Some(lifetime) = lifetime {
        if let Some(seconds) = value.and_then(BareItem::as_integer) {
            // Less than nothing is nothing: stale at once.
            let seconds = u64::try_from(i64::from(seconds)).unwrap_or(0);
            *lifetime = Some(Duration::from_secs(seconds.min(SECONDS_MAX)));
        }
        return;
    }
    let is_false = value.and_then(BareItem::as_boolean) == Some(false);
    if let Some(flag) = directives.flag(|known| name == known).filter(|_| !is_false) {
        *flag = true;
    }
}

/// A lifetime of `Surrogate-Control`: fresh for so long, and served stale for so long after while it is refreshed.
type Life = (Duration, Option<Duration>);

/// Reads `Surrogate-Control`. `None` if no member of it is about storing and meant for this cache.
fn surrogate(text: &[u8]) -> Option<Directives> {
    let mut no_store = false;
    let (mut of_all, mut own): (Option<Life>, Option<Life>) = (None, None);
    for member in split_unquoted(text, b',') {
        let mut pieces = split_unquoted(member, b';').map(<[u8]>::trim_ascii);
        let directive = pieces.next().unwrap_or_default();
        let targets: Vec<&[u8]> = pieces.filter(|target| !target.is_empty()).collect();
        let is_targeted = targets.iter().any(|target| target.eq_ignore_ascii_case(SURROGATE));
        if !is_targeted && !targets.is_empty() {
            continue;
        }
        let (name, value) = match directive.iter().position(|byte| *byte == b'=') {
            Some(at) => (&directive[..at], Some(&directive[at + 1..])),
            None => (directive, None),
        };
        if name.eq_ignore_ascii_case(b"max-age") {
            let life = if is_targeted { &mut own } else { &mut of_all };
            let stated = lifetime(value.unwrap_or_default());
            *life = Some(life.map_or(stated, |known| known.min(stated)));
        } else if name.eq_ignore_ascii_case(b"no-store") || name.eq_ignore_ascii_case(b"no-store-remote") {
            no_store = true;
        }
    }
    // What is said to this cache by name counts more than what is said to all.
    let life = own.or(of_all);
    if life.is_none() && !no_store {
        return None;
    }
    let (max_age, grace) = (life.map(|life| life.0), life.and_then(|life| life.1));
    Some(Directives { targeted: true, no_store, max_age, grace, ..Directives::default() })
}

/// Reads `N` or `N+M`. What can't be read is stale rather than fresh for ever.
fn lifetime(text: &[u8]) -> Life {
    let seconds = |text: &[u8]| Duration::from_secs(delta_seconds(text).unwrap_or(0));
    match text.iter().position(|byte| *byte == b'+') {
        Some(at) => (seconds(&text[..at]), Some(seconds(&text[at + 1..]))),
        None => (seconds(text), None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: HeaderName = HeaderName::from_static("example-cache-control");

    fn list() -> [HeaderName; 3] {
        [OWN, CDN_CACHE_CONTROL, SURROGATE_CONTROL]
    }

    fn read(lines: &[(&'static str, &str)]) -> Directives {
        let field = |&(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        effective(&lines.iter().map(field).collect(), &list())
    }

    fn secs(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    /// What a targeted field says.
    fn targeted() -> Directives {
        Directives { targeted: true, ..Directives::default() }
    }

    #[test]
    fn a_targeted_field_is_a_dictionary_or_nothing() {
        let unread = Directives { max_age: secs(7), ..Directives::default() };
        for (field, wanted) in [
            ("max-age=60", Directives { max_age: secs(60), ..targeted() }),
            ("foobar, max-age=60", Directives { max_age: secs(60), ..targeted() }),
            ("max-age=60;ext=1, public", Directives { max_age: secs(60), public: true, ..targeted() }),
            ("max-age=1, max-age=60", Directives { max_age: secs(60), ..targeted() }),
            ("s-maxage=60", Directives { s_maxage: secs(60), ..targeted() }),
            ("max-age=99999999999", Directives { max_age: secs(1 << 31), ..targeted() }),
            ("max-age=-1", Directives { max_age: secs(0), ..targeted() }),
            ("stale-while-revalidate=9", Directives { grace: secs(9), ..targeted() }),
            ("stale-if-error=9", Directives { stale_if_error: secs(9), ..targeted() }),
            ("no-store", Directives { no_store: true, ..targeted() }),
            ("private, no-cache", Directives { private: true, no_cache: true, ..targeted() }),
            ("private=\"x-field\"", Directives { private: true, ..targeted() }),
            ("no-store=?0, must-revalidate", Directives { must_revalidate: true, ..targeted() }),
            // A member of another type is ignored, the field isn't.
            ("max-age=\"60\"", targeted()),
            ("max-age=60.5", targeted()),
            ("max-age", targeted()),
            ("max-age=(60)", targeted()),
            ("foo", targeted()),
            // None of these is a dictionary.
            ("", unread.clone()),
            ("max-age=60, &&&", unread.clone()),
            ("max-age=60,", unread.clone()),
            ("Max-Age=60", unread.clone()),
            ("max-age =60", unread.clone()),
            ("max-age= 60", unread.clone()),
            ("max-age=60; Must-Revalidate", unread.clone()),
            ("max-age=1234567890123456", unread.clone()),
            ("größe=1", unread.clone()),
        ] {
            let lines = [("cache-control", "max-age=7"), ("cdn-cache-control", field)];
            assert_eq!(read(&lines), wanted, "{field:?}");
        }
        let two = [("cdn-cache-control", "max-age=60"), ("cdn-cache-control", "private")];
        assert_eq!(read(&two), Directives { max_age: secs(60), private: true, ..targeted() }, "two lines are one");
    }

    #[test]
    fn the_first_of_the_list_that_says_something_counts() {
        let all = [
            ("cache-control", "no-store"),
            ("surrogate-control", "max-age=3"),
            ("cdn-cache-control", "max-age=2"),
            ("example-cache-control", "max-age=1"),
        ];
        assert_eq!(read(&all).max_age, secs(1));
        assert_eq!(read(&all[..3]).max_age, secs(2));
        assert_eq!(read(&all[..2]).max_age, secs(3));
        assert!(read(&all[..1]).no_store && !read(&all[..1]).targeted);
        assert!(!read(&all).no_store, "Cache-Control has no part in it");
        let broken = [all[1], all[2], ("example-cache-control", "!")];
        assert_eq!(read(&broken).max_age, secs(2));
        // A field that isn't on the list changes nothing.
        let other = [("other-cache-control", "max-age=9"), ("cache-control", "max-age=7")];
        assert_eq!(read(&other), Directives { max_age: secs(7), ..Directives::default() });
        let map: HeaderMap = [(CDN_CACHE_CONTROL, HeaderValue::from_static("max-age=9"))].into_iter().collect();
        assert_eq!(effective(&map, &[]), Directives::default());
    }

    #[test]
    fn surrogate_control_has_a_syntax_of_its_own() {
        let unread = Directives { max_age: secs(7), ..Directives::default() };
        let fresh = |seconds| Directives { max_age: secs(seconds), ..targeted() };
        for (field, wanted) in [
            ("max-age=60", fresh(60)),
            ("MaX-aGe=60", fresh(60)),
            ("foobar, max-age=60", fresh(60)),
            ("max-age=60, content=\"ESI/1.0, x\"", fresh(60)),
            ("max-age=99999999999", fresh(1 << 31)),
            ("max-age=60+9", Directives { grace: secs(9), ..fresh(60) }),
            ("max-age=60+x", Directives { grace: secs(0), ..fresh(60) }),
            ("max-age=60;holm", fresh(60)),
            ("max-age=60; abc; Holm", fresh(60)),
            ("max-age=1;abc, max-age=60;holm, max-age=5", fresh(60)),
            ("max-age=9, max-age=5", fresh(5)),
            ("max-age=0", fresh(0)),
            ("max-age=soon", fresh(0)),
            ("max-age= 60", fresh(0)),
            ("max-age", fresh(0)),
            ("no-store", Directives { no_store: true, ..targeted() }),
            ("no-store-remote", Directives { no_store: true, ..targeted() }),
            ("No-Store, max-age=60;holm", Directives { no_store: true, ..fresh(60) }),
            ("no-store;abc, max-age=60", fresh(60)),
            // None of these is for this cache, or about storing.
            ("", unread.clone()),
            ("foo", unread.clone()),
            ("max-age=60;abc", unread.clone()),
            ("no-store;abc", unread.clone()),
            ("max-age =60", unread.clone()),
            ("content=\"ESI/1.0;no-store\"", unread.clone()),
        ] {
            let lines = [("cache-control", "max-age=7"), ("surrogate-control", field)];
            assert_eq!(read(&lines), wanted, "{field:?}");
        }
    }

    #[test]
    fn what_is_for_this_cache_alone_is_taken_out() {
        let field = |name: HeaderName, value| (name, HeaderValue::from_static(value));
        let mut headers: HeaderMap = [
            field(OWN, "max-age=1"),
            field(OWN, "private"),
            field(CDN_CACHE_CONTROL, "max-age=2"),
            field(SURROGATE_CONTROL, "max-age=3"),
            field(http::header::CACHE_CONTROL, "max-age=4"),
        ]
        .into_iter()
        .collect();
        let own = take_own(&mut headers, &list());
        let names = |headers: &HeaderMap| {
            let mut names: Vec<String> = headers.iter().map(|(name, _)| name.to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&own), ["example-cache-control", "example-cache-control", "surrogate-control"]);
        assert_eq!(names(&headers), ["cache-control", "cdn-cache-control"]);
        assert!(take_own(&mut headers, &[]).is_empty());
    }

    #[test]
    fn a_field_for_some_caches_may_forbid_that_a_body_is_changed() {
        for (name, value, wanted) in [
            (CDN_CACHE_CONTROL, "max-age=1, no-transform", true),
            (SURROGATE_CONTROL, "No-Transform", true),
            (OWN, "max-age=1, no-transform, !", true),
            (OWN, "max-age=1, no-store", false),
            (CDN_CACHE_CONTROL, "transform", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(&name, HeaderValue::from_static(value));
            let own = take_own(&mut headers, &list());
            assert_eq!(forbids_transform(&headers, &own), wanted, "{name}: {value}");
        }
    }

    proptest! {
        /// Whatever an origin writes.
        #[test]
        fn a_field_that_forbids_storing_is_never_read_as_a_lifetime(before in "[ -~]{0,20}", name in 0..3_usize) {
            let name = list()[name].clone();
            let text = format!("{before}, no-store");
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::try_from(text).unwrap());
            headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            prop_assert!(effective(&headers, &list()).no_store || before.contains(['"', ';', ',']), "{:?}", before);
        }
    }
}
