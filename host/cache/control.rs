//! `Cache-Control` of requests and responses (RFC 9111, section 5.2; RFC 5861).

use std::time::Duration;

use http::{
    HeaderMap,
    header::{CACHE_CONTROL, PRAGMA},
};

/// The directives that decide something here. Unknown ones are ignored, as the RFC wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `max-age`.
    pub max_age: Option<Duration>,
    /// `s-maxage`.
    pub s_maxage: Option<Duration>,
    /// `max-stale`; without a value any staleness is accepted.
    pub max_stale: Option<Duration>,
    /// `min-fresh`.
    pub min_fresh: Option<Duration>,
    /// `stale-while-revalidate`.
    pub grace: Option<Duration>,
    /// `stale-if-error`.
    pub stale_if_error: Option<Duration>,
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`, with or without field names: the qualified form is treated as the whole one.
    pub no_cache: bool,
    /// `private`, likewise.
    pub private: bool,
    /// `public`.
    pub public: bool,
    /// `must-understand`.
    pub must_understand: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `only-if-cached`.
    pub only_if_cached: bool,
    /// `no-transform`.
    pub no_transform: bool,
    /// They are from a targeted field (RFC 9213), so that `Expires` counts as little as `Cache-Control`.
    pub targeted: bool,
}

impl Directives {
    /// Reads all `Cache-Control` lines of a message.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Self {
        let mut it = Self::default();
        for line in headers.get_all(CACHE_CONTROL) {
            for directive in split_unquoted(line.as_bytes(), b',') {
                it.add(directive);
            }
        }
        it
    }

    /// Whether a stale response may never be served, whoever accepts it (sections 4.2.4 and 5.2.2).
    #[must_use]
    pub const fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.s_maxage.is_some() || self.no_cache
    }

    /// Reads a request's directives; `Pragma: no-cache` counts where there is no `Cache-Control` (section 5.4).
    #[must_use]
    pub fn of_request(headers: &HeaderMap) -> Self {
        if headers.contains_key(CACHE_CONTROL) {
            return Self::read(headers);
        }
        let no_cache = headers.get_all(PRAGMA).iter().any(|value| {
            split_unquoted(value.as_bytes(), b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(b"no-cache"))
        });
        Self { no_cache, ..Self::default() }
    }

    fn add(&mut self, directive: &[u8]) {
        let directive = directive.trim_ascii();
        let (name, value) = match directive.iter().position(|byte| *byte == b'=') {
            Some(at) => (directive[..at].trim_ascii_end(), Some(directive[at + 1..].trim_ascii())),
            None => (directive, None),
        };
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("max-age") {
            keep_lowest(&mut self.max_age, seconds(value));
        } else if is("s-maxage") {
            keep_lowest(&mut self.s_maxage, seconds(value));
        } else if is("max-stale") {
            self.max_stale = Some(value.map_or(Duration::MAX, |text| seconds(Some(text))));
        } else if is("min-fresh") {
            self.min_fresh = Some(seconds(value));
        } else if is("stale-while-revalidate") {
            keep_lowest(&mut self.grace, seconds(value));
        } else if is("stale-if-error") {
            keep_lowest(&mut self.stale_if_error, seconds(value));
        } else if let Some(flag) = self.flag(is) {
            *flag = true;
        }
    }

    /// Returns the directive without a value that has this name.
    pub(super) fn flag(&mut self, is: impl Fn(&str) -> bool) -> Option<&mut bool> {
        let flags = [
            ("no-store", &mut self.no_store),
            ("no-cache", &mut self.no_cache),
            ("private", &mut self.private),
            ("public", &mut self.public),
            ("must-understand", &mut self.must_understand),
            ("must-revalidate", &mut self.must_revalidate),
            ("proxy-revalidate", &mut self.proxy_revalidate),
            ("only-if-cached", &mut self.only_if_cached),
            ("no-transform", &mut self.no_transform),
        ];
        flags.into_iter().find_map(|(name, flag)| is(name).then_some(flag))
    }
}

/// Of contradicting lifetimes the shortest holds.
fn keep_lowest(slot: &mut Option<Duration>, value: Duration) {
    *slot = Some(slot.map_or(value, |known| known.min(value)));
}

/// The most that delta-seconds mean (section 1.2.2): whatever is more, in however many digits, is this, 68 years.
pub(super) const SECONDS_MAX: u64 = 1 << 31;

/// Delta-seconds of a directive. What can't be read is zero: stale rather than fresh for ever.
fn seconds(value: Option<&[u8]>) -> Duration {
    let text = value.unwrap_or_default();
    let text = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text);
    delta_seconds(text).map_or(Duration::ZERO, Duration::from_secs)
}

/// Delta-seconds (section 1.2.2), at most [`SECONDS_MAX`]; `None` if it isn't digits alone.
pub(super) fn delta_seconds(text: &[u8]) -> Option<u64> {
    digits(text).map(|number| number.min(SECONDS_MAX))
}

/// A number of any length; one that doesn't fit is the largest. `None` if it isn't digits alone.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    (!text.is_empty() && text.iter().all(u8::is_ascii_digit)).then(|| text.iter().fold(0, add))
}

/// Splits at `border` outside of quoted strings.
pub(super) fn split_unquoted(text: &[u8], border: u8) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |byte| {
        if escaped {
            escaped = false;
        } else if quoted && *byte == b'\\' {
            escaped = true;
        } else if *byte == b'"' {
            quoted = !quoted;
        } else if !quoted && *byte == border {
            return true;
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(lines: &[&'static str]) -> Directives {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, HeaderValue::from_static(line));
        }
        Directives::read(&headers)
    }

    #[test]
    fn directives_are_read_tolerantly() {
        let secs = |s| Some(Duration::from_secs(s));
        let none = Directives::default();
        for (lines, wanted) in [
            (&["max-age=60"][..], Directives { max_age: secs(60), ..none.clone() }),
            (&["Max-Age = 60"], Directives { max_age: secs(60), ..none.clone() }),
            (&["max-age=\"60\""], Directives { max_age: secs(60), ..none.clone() }),
            (&["max-age=60, max-age=10"], Directives { max_age: secs(10), ..none.clone() }),
            (&["max-age=soon"], Directives { max_age: secs(0), ..none.clone() }),
            (&["max-age=-1"], Directives { max_age: secs(0), ..none.clone() }),
            (&["max-age=99999999999999999999999"], Directives { max_age: secs(1 << 31), ..none.clone() }),
            (&["max-age=2147483648"], Directives { max_age: secs(1 << 31), ..none.clone() }),
            (&["max-age=2147483647"], Directives { max_age: secs((1 << 31) - 1), ..none.clone() }),
            (&["max-age=18446744073709551616"], Directives { max_age: secs(1 << 31), ..none.clone() }),
            (&["max-age=000000000000000000000060"], Directives { max_age: secs(60), ..none.clone() }),
            (&["s-maxage=99999999999"], Directives { s_maxage: secs(1 << 31), ..none.clone() }),
            (&["stale-while-revalidate=18446744073709551615"], Directives { grace: secs(1 << 31), ..none.clone() }),
            (&["stale-if-error=99999999999999999999"], Directives { stale_if_error: secs(1 << 31), ..none.clone() }),
            (&["max-stale=99999999999999999999"], Directives { max_stale: secs(1 << 31), ..none.clone() }),
            (&["min-fresh=99999999999999999999"], Directives { min_fresh: secs(1 << 31), ..none.clone() }),
            (&["max-age=1.5"], Directives { max_age: secs(0), ..none.clone() }),
            (&["max-age=60; must-revalidate"], Directives { max_age: secs(0), ..none.clone() }),
            (&["ext=\"a, no-store\", public"], Directives { public: true, ..none.clone() }),
            (&["no-cache=\"set-cookie\""], Directives { no_cache: true, ..none.clone() }),
            (&["private", "s-maxage=1"], Directives { private: true, s_maxage: secs(1), ..none.clone() }),
            (&["max-stale"], Directives { max_stale: Some(Duration::MAX), ..none.clone() }),
            (&["max-age=60, No-Transform"], Directives { max_age: secs(60), no_transform: true, ..none.clone() }),
            (&["unknown=1,,"], none.clone()),
        ] {
            assert_eq!(read(lines), wanted, "{lines:?}");
        }
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        let mut headers = HeaderMap::new();
        headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        assert!(Directives::of_request(&headers).no_cache);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=1"));
        assert!(!Directives::of_request(&headers).no_cache);
    }
}
