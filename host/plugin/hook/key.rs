//! The `key` hook: its plan, called once, and its call.

use holm_bindings::exports::holm::policy::key::{Keying, Verdict};

use super::bounds::{counted, weighed};
use crate::{
    plugin::{
        exports::present,
        instance::{Instance, own_fault},
        limits::{Limit, PARTS_MAX, plain},
    },
    policy::{Fault, KeyVerdict},
};

/// Calls `plan`: how keys are made.
pub(super) fn plan(instance: &mut Instance, limit: &Limit) -> Result<Keying, Fault> {
    let answer = instance.call(limit, |exports, store| present(exports.key.as_ref())?.call_plan(store))?;
    answer.map_err(|fault| own_fault(&fault))
}

/// Calls `derive`: the key of one request.
pub(super) fn derive(instance: &mut Instance, limit: &Limit, values: &[Option<&[u8]>]) -> Result<KeyVerdict, Fault> {
    let answer = instance.call(limit, |exports, store| present(exports.key.as_ref())?.call_derive(store, values))?;
    answer.map_err(|fault| own_fault(&fault)).and_then(|verdict| checked(verdict, limit))
}

/// Characters of a reason to bypass, which ends up in `Cache-Status`.
const REASON_CHARS_MAX: usize = 128;

fn checked(verdict: Verdict, limit: &Limit) -> Result<KeyVerdict, Fault> {
    let parts = match verdict {
        Verdict::Bypass(reason) => return Ok(KeyVerdict::Bypass(plain(&reason, REASON_CHARS_MAX))),
        Verdict::Lookup(parts) => parts,
    };
    if parts.is_empty() {
        // One key for every request would share every response.
        return Err(Fault::Malformed("its key has no parts".to_owned()));
    }
    counted("parts of a key", &parts, PARTS_MAX, limit)?;
    weighed(parts.iter().map(Vec::len), limit)?;
    Ok(KeyVerdict::Lookup(parts.into_iter().map(Some).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_parts_and_a_bounded_size() {
        let limit = Limit::of_bytes(10);
        let lookup = |parts: Vec<Vec<u8>>| checked(Verdict::Lookup(parts), &limit);
        let parts = vec![Some(vec![1; 4]), Some(vec![2; 6])];
        assert_eq!(lookup(vec![vec![1; 4], vec![2; 6]]), Ok(KeyVerdict::Lookup(parts)));
        assert_eq!(lookup(vec![vec![1; 4], vec![2; 7]]), Err(Fault::TooLarge { bytes: 11, limit: 10 }));
        assert!(lookup(vec![vec![]; PARTS_MAX]).is_ok());
        assert!(matches!(lookup(vec![vec![]; PARTS_MAX + 1]), Err(Fault::Malformed(_))));
        assert!(matches!(lookup(vec![]), Err(Fault::Malformed(_))));
    }

    #[test]
    fn a_reason_is_fit_for_a_header() {
        let reason = format!("no\r\ntenant{}", "!".repeat(200));
        let Ok(KeyVerdict::Bypass(reason)) = checked(Verdict::Bypass(reason), &Limit::of_bytes(10)) else {
            panic!("no bypass")
        };
        assert!(reason.starts_with("no??tenant!") && reason.len() == REASON_CHARS_MAX, "{reason}");
    }
}
