//! Header fields by which a model speaks of the moment: how much more it takes and when, how long it took, which request
//! it responded to. Clients need them to back off. Later they would be wrong, so they aren't stored. Pure.
//!
//! A client that sent a list may get the results of several responses. It gets the strictest of what they say:
//!
//! | fields | of several |
//! |---|---|
//! | `Retry-After`, `retry-after-ms` | the longest, of those that failed if any did |
//! | `x-should-retry` | of the same, `false` if any says so |
//! | `…ratelimit…` with `remaining` or `limit` | the least |
//! | `…ratelimit…` with `reset` | the latest |
//! | other `…ratelimit…` | what all agree on |
//! | how long the model took | the longest |
//! | ids | the first few, and how many more there are |

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::clock::Timestamp;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The model's own id of a request. In `x-request-id` a client gets this node's.
const UPSTREAM_REQUEST_ID: HeaderName = HeaderName::from_static("x-upstream-request-id");

const IDS: [&str; 7] = [
    "x-request-id",
    "x-upstream-request-id",
    "request-id",
    "x-correlation-id",
    "apim-request-id",
    "x-amzn-requestid",
    "cf-ray",
];

/// Different ids in the field of one response; of more only their number is given.
const IDS_MAX: usize = 4;

const TIMES: [&str; 7] = [
    "openai-processing-ms",
    "x-envoy-upstream-service-time",
    "x-total-time",
    "x-queue-time",
    "x-compute-time",
    "x-inference-time",
    "x-tokenization-time",
];

/// How the values of several responses become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merge {
    LongestDelay,
    /// A part that can't succeed keeps the whole from succeeding, however often that is repeated.
    RetryUnlessForbidden,
    LatestReset,
    Largest,
    Least,
    List,
    IfEqual,
}

/// The header fields of a response that brought some of a client's results.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'h> {
    pub(super) headers: &'h HeaderMap,
    /// Whether it brought failures.
    pub(super) failed: bool,
}

/// Removes the fields of this kind.
pub(super) fn strip(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| Merge::of(name).is_some()).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Returns the fields of this kind alone.
pub(super) fn only(headers: &HeaderMap) -> HeaderMap {
    let momentary = headers.iter().filter(|(name, _)| Merge::of(name).is_some());
    momentary.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Moves the model's own id of a request to a field where this node's doesn't replace it.
pub(super) fn set_id_aside(headers: &mut HeaderMap) {
    if let Some(id) = headers.remove(REQUEST_ID) {
        headers.insert(UPSTREAM_REQUEST_ID, id);
    }
}

/// Returns the fields of this kind for a client whose results came in these responses. Of one they are unchanged.
pub(super) fn merged(parts: &[Part<'_>], now: Timestamp) -> HeaderMap {
    if let [part] = parts {
        return only(part.headers);
    }
    let failed: Vec<Part<'_>> = parts.iter().copied().filter(|part| part.failed).collect();
    let mut names: Vec<(&HeaderName, Merge)> = Vec::new();
    for name in parts.iter().flat_map(|part| part.headers.keys()) {
        if !names.iter().any(|(known, _)| *known == name)
            && let Some(merge) = Merge::of(name)
        {
            names.push((name, merge));
        }
    }
    let mut merged = HeaderMap::new();
    for (name, merge) in names {
        let parts = if merge.is_about_retrying() && !failed.is_empty() { &failed[..] } else { parts };
        let values: Vec<&HeaderValue> = parts.iter().filter_map(|part| part.headers.get(name)).collect();
        if let Some(value) = merge.value(&values, now) {
            merged.insert(name, value);
        }
    }
    merged
}

impl Merge {
    /// Returns how a field's values are merged; `None` if it isn't of this kind.
    fn of(name: &HeaderName) -> Option<Self> {
        let name = name.as_str();
        match name {
            "retry-after" | "retry-after-ms" => return Some(Self::LongestDelay),
            "x-should-retry" => return Some(Self::RetryUnlessForbidden),
            // Of a node behind this one.
            "holm-usage" => return Some(Self::IfEqual),
            _ if IDS.contains(&name) => return Some(Self::List),
            _ if TIMES.contains(&name) => return Some(Self::Largest),
            _ => {}
        }
        let (_, kind) = name.split_once("ratelimit")?;
        Some(if kind.contains("reset") {
            Self::LatestReset
        } else if kind.contains("remaining") || kind.contains("limit") {
            Self::Least
        } else {
            Self::IfEqual
        })
    }

    /// Whether it says when the same may be tried again: of interest of what failed.
    const fn is_about_retrying(self) -> bool {
        matches!(self, Self::LongestDelay | Self::RetryUnlessForbidden)
    }

    fn value(self, values: &[&HeaderValue], now: Timestamp) -> Option<HeaderValue> {
        let first = values.first().copied();
        match self {
            Self::LongestDelay => largest(values, |text| delay(text, now)),
            Self::LatestReset => largest(values, reset),
            Self::Largest => largest(values, number),
            Self::Least => largest(values, |text| number(text).map(|number| -number)),
            Self::RetryUnlessForbidden => {
                let forbids = |value: &&HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"false");
                values.iter().copied().find(forbids).or(first).cloned()
            }
            Self::List => list(values),
            Self::IfEqual => first.filter(|first| values.iter().all(|value| value == first)).cloned(),
        }
    }
}

/// Returns the value that reads as the largest; the first if none can be read.
fn largest<K: PartialOrd>(values: &[&HeaderValue], read: impl Fn(&str) -> Option<K>) -> Option<HeaderValue> {
    let mut found: Option<(K, &HeaderValue)> = None;
    for value in values.iter().copied() {
        let Some(key) = value.to_str().ok().and_then(|text| read(text.trim())) else { continue };
        if found.as_ref().is_none_or(|(largest, _)| key > *largest) {
            found = Some((key, value));
        }
    }
    found.map(|(_, value)| value).or(values.first().copied()).cloned()
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

/// Reads a delay: a number, or the date when it is over (RFC 9110, section 10.2.3).
fn delay(text: &str, now: Timestamp) -> Option<f64> {
    let until_date = || httpdate::parse_http_date(text).ok().map(|date| Timestamp::from(date).since(now).as_secs_f64());
    number(text).or_else(until_date)
}

/// When a limit is lifted. A time compares with others like it only, and counts as later than any duration.
#[derive(Debug, PartialEq, PartialOrd)]
enum Reset {
    /// After so many seconds.
    In(f64),
    /// At this time, in a form that sorts as text (RFC 3339, in UTC).
    At(String),
}

fn reset(text: &str) -> Option<Reset> {
    let is_time = text.len() >= 20 && text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T');
    let duration = number(text).or_else(|| duration(text)).map(Reset::In);
    duration.or_else(|| is_time.then(|| Reset::At(text.to_owned())))
}

/// Reads a duration such as `12ms` or `1m3.5s`, in seconds.
fn duration(text: &str) -> Option<f64> {
    let (mut seconds, mut rest) = (None, text);
    while !rest.is_empty() {
        let (count, after) = rest.split_at(rest.find(|c: char| c.is_ascii_alphabetic())?);
        let (unit, next) = after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
        let unit = match unit {
            "ns" => 1e-9,
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        seconds = Some(seconds.unwrap_or(0.0) + number(count)? * unit);
        rest = next;
    }
    seconds
}

/// Returns the different ones, the first few of them, and how many more there are.
fn list(values: &[&HeaderValue]) -> Option<HeaderValue> {
    let mut different: Vec<&[u8]> = Vec::new();
    for value in values {
        if !different.contains(&value.as_bytes()) {
            different.push(value.as_bytes());
        }
    }
    let more = different.len().saturating_sub(IDS_MAX);
    different.truncate(IDS_MAX);
    let mut text = different.join(&b", "[..]);
    if more > 0 {
        text.extend_from_slice(format!(", +{more}").as_bytes());
    }
    HeaderValue::from_bytes(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    /// 1 January 2026, noon.
    const NOW: Timestamp = Timestamp(1_767_268_800_000);

    /// The value of a field that several failed responses have.
    fn of_several(name: &'static str, values: &[&'static str]) -> Option<String> {
        let headers: Vec<HeaderMap> = values.iter().map(|value| headers(&[(name, *value)])).collect();
        let parts: Vec<Part<'_>> = headers.iter().map(|headers| Part { headers, failed: true }).collect();
        merged(&parts, NOW).get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_client_gets_the_strictest_of_what_several_responses_say() {
        const IN_A_MINUTE: &str = "Thu, 01 Jan 2026 12:01:00 GMT";
        for (name, values, wanted) in [
            ("retry-after", &["1", "30", "7"][..], Some("30")),
            ("retry-after", &["soon", "3"], Some("3")),
            ("retry-after", &["soon", "later"], Some("soon")),
            ("retry-after", &["59", IN_A_MINUTE], Some(IN_A_MINUTE)),
            ("retry-after", &["61", IN_A_MINUTE], Some("61")),
            ("retry-after-ms", &["900", "1000.5"], Some("1000.5")),
            ("x-should-retry", &["true", "false"], Some("false")),
            ("x-should-retry", &["true", "true"], Some("true")),
            ("x-ratelimit-remaining-requests", &["10", "9", "11"], Some("9")),
            ("x-ratelimit-limit-tokens", &["1000", "200"], Some("200")),
            ("x-ratelimit-remaining", &["none", "9"], Some("9")),
            ("x-ratelimit-reset-requests", &["900ms", "1m3s", "59.5s"], Some("1m3s")),
            ("x-ratelimit-reset-tokens", &["12ms", "0s"], Some("12ms")),
            ("ratelimit-reset", &["7", "30"], Some("30")),
            (
                "anthropic-ratelimit-requests-reset",
                &["2026-01-01T12:00:30Z", "2026-01-01T12:01:00Z", "2026-01-01T12:00:59Z"],
                Some("2026-01-01T12:01:00Z"),
            ),
            ("anthropic-ratelimit-requests-remaining", &["3", "2"], Some("2")),
            ("ratelimit-policy", &["a;q=1", "a;q=1"], Some("a;q=1")),
            ("ratelimit-policy", &["a;q=1", "a;q=2"], None),
            ("openai-processing-ms", &["3", "12", "7"], Some("12")),
            ("request-id", &["a", "b", "a"], Some("a, b")),
            ("request-id", &["a", "b", "c", "d", "e", "f"], Some("a, b, c, d, +2")),
            ("server", &["a", "a"], None),
            ("content-type", &["a", "b"], None),
        ] {
            assert_eq!(of_several(name, values).as_deref(), wanted, "{name}: {values:?}");
        }
    }

    #[test]
    fn when_to_try_again_is_said_by_what_failed() {
        let good = headers(&[("retry-after", "99"), ("x-should-retry", "false"), ("x-ratelimit-remaining", "0")]);
        let bad = headers(&[("retry-after", "3"), ("x-should-retry", "true"), ("x-ratelimit-remaining", "1")]);
        let parts = |failed| [Part { headers: &good, failed: false }, Part { headers: &bad, failed }];
        let said = headers(&[("retry-after", "3"), ("x-should-retry", "true"), ("x-ratelimit-remaining", "0")]);
        assert_eq!(merged(&parts(true), NOW), said);
        assert_eq!(merged(&parts(false), NOW)["retry-after"], "99");
    }

    #[test]
    fn what_one_response_says_is_unchanged() {
        let lines = [
            ("retry-after", "soon"),
            ("x-ratelimit-remaining", "1"),
            ("x-ratelimit-remaining", "2"),
            ("set-cookie", "a"),
            ("cache-control", "max-age=1"),
        ];
        let whole = headers(&lines);
        assert_eq!(merged(&[Part { headers: &whole, failed: false }], NOW), headers(&lines[..3]));
        assert_eq!(merged(&[], NOW), HeaderMap::new());
        let mut left = whole;
        strip(&mut left);
        assert_eq!(left, headers(&lines[3..]));
    }

    #[test]
    fn the_models_own_id_is_set_aside() {
        let mut fields = headers(&[("x-request-id", "a"), ("server", "m")]);
        set_id_aside(&mut fields);
        assert_eq!(fields, headers(&[("x-upstream-request-id", "a"), ("server", "m")]));
    }

    #[test]
    fn durations() {
        for (text, wanted) in [
            ("12ms", Some(0.012)),
            ("1m3s", Some(63.0)),
            ("1h0m0.5s", Some(3_600.5)),
            ("2d", Some(172_800.0)),
            ("", None),
            ("s", None),
            ("5", None),
            ("5y", None),
            ("1.2.3s", None),
        ] {
            assert_eq!(duration(text), wanted, "{text:?}");
        }
    }
}
