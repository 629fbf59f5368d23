//! The `prefetch` hook.

use holm_bindings::exports::holm::policy::prefetch::Hint as RawHint;
use http::uri::PathAndQuery;

use super::bounds::{counted, request_field, weighed};
use crate::{
    plugin::{
        exports::present,
        instance::{Instance, own_fault},
        limits::{HEADERS_MAX, HINTS_MAX, Limit, plain},
    },
    policy::{Fault, Hint},
};

/// Calls `suggest`: what will be requested next.
pub(super) fn suggest(
    instance: &mut Instance,
    limit: &Limit,
    values: &[Option<&[u8]>],
    hit: bool,
) -> Result<Vec<Hint>, Fault> {
    let answer =
        instance.call(limit, |exports, store| present(exports.prefetch.as_ref())?.call_suggest(store, values, hit))?;
    answer.map_err(|fault| own_fault(&fault)).and_then(|hints| checked(hints, limit))
}

fn checked(raw: Vec<RawHint>, limit: &Limit) -> Result<Vec<Hint>, Fault> {
    counted("hints", &raw, HINTS_MAX, limit)?;
    let fields = |hint: &RawHint| hint.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    weighed(raw.iter().map(|hint| hint.path.len() + fields(hint)), limit)?;
    raw.into_iter().map(|raw| hint(raw, limit)).collect()
}

fn hint(raw: RawHint, limit: &Limit) -> Result<Hint, Fault> {
    let wrong = |what: &str| Fault::Malformed(format!("the hint at `{}` {what}", plain(&raw.path, 80)));
    if !raw.path.starts_with('/') || raw.path.contains('#') || raw.path.parse::<PathAndQuery>().is_err() {
        return Err(wrong("has no path that can be asked for"));
    }
    counted("header fields of a hint", &raw.headers, HEADERS_MAX, limit)?;
    let mut headers = Vec::with_capacity(raw.headers.len());
    for (name, value) in &raw.headers {
        if let (name, Some(value)) = request_field(name, Some(value.as_str()))? {
            headers.push((name, value));
        }
    }
    Ok(Hint { path: raw.path, headers, confidence_ppm: raw.confidence_ppm.min(1_000_000) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_can_be_asked_for() {
        let hints = |paths: &[&str]| {
            let hint = |path: &&str| RawHint { path: (*path).into(), headers: vec![], confidence_ppm: u32::MAX };
            checked(paths.iter().map(hint).collect(), &Limit::of_bytes(100))
        };
        assert_eq!(hints(&["/a?b=1"]).unwrap()[0].confidence_ppm, 1_000_000);
        for path in ["a", "", "//\u{7f}", "/a#b", "/a b"] {
            assert!(matches!(hints(&[path]), Err(Fault::Malformed(_))), "{path}");
        }
        assert!(matches!(hints(&["/"; HINTS_MAX + 1]), Err(Fault::Malformed(_))));
        let with = |name: &str, value: &str| {
            let hint = RawHint { path: "/".into(), headers: vec![(name.into(), value.into())], confidence_ppm: 1 };
            checked(vec![hint], &Limit::of_bytes(100))
        };
        assert_eq!(with("Accept", "a").unwrap()[0].headers.len(), 1);
        assert!(matches!(with("host", "a"), Err(Fault::Malformed(_))));
        assert!(matches!(with("accept", &"a".repeat(100)), Err(Fault::TooLarge { bytes: 107, .. })));
    }
}
