//! The `key` hook: its plan, asked once, and its call.

use std::borrow::Cow;

use holm_bindings::exports::holm::policy::key::{Keying, Verdict};

use crate::{
    plugin::{
        instance::{Instance, own_fault},
        limits::{Limit, PARTS_MAX, plain},
    },
    policy::{Fault, KeyVerdict},
};

/// Asks how keys are made.
pub(in crate::plugin) fn plan(instance: &mut Instance, limit: &Limit) -> Result<Keying, Fault> {
    let answer = instance.call(limit, |exports, store| match &exports.key {
        Some(key) => key.call_plan(store),
        None => Err(not_exported()),
    })?;
    answer.map_err(|fault| own_fault(&fault))
}

/// Asks for the key of one request.
pub(in crate::plugin) fn derive(
    instance: &mut Instance,
    limit: &Limit,
    values: &[Option<Cow<'_, [u8]>>],
) -> Result<KeyVerdict, Fault> {
    let values: Vec<Option<&[u8]>> = values.iter().map(Option::as_deref).collect();
    let answer = instance.call(limit, |exports, store| match &exports.key {
        Some(key) => key.call_derive(store, &values),
        None => Err(not_exported()),
    })?;
    answer.map_err(|fault| own_fault(&fault)).and_then(|verdict| checked(verdict, limit.result_bytes))
}

/// Characters of a reason to bypass, which ends up in `Cache-Status`.
const REASON_CHARS_MAX: usize = 128;

fn checked(verdict: Verdict, bytes_max: usize) -> Result<KeyVerdict, Fault> {
    let parts = match verdict {
        Verdict::Bypass(reason) => return Ok(KeyVerdict::Bypass(plain(&reason, REASON_CHARS_MAX))),
        Verdict::Lookup(parts) => parts,
    };
    let bytes: usize = parts.iter().map(Vec::len).sum();
    match parts.len() {
        // One key for every request would serve anybody anything.
        0 => Err(Fault::Trap("its key has no parts".to_owned())),
        1..=PARTS_MAX if bytes <= bytes_max => Ok(KeyVerdict::Lookup(parts)),
        1..=PARTS_MAX => Err(Fault::TooLarge { bytes, limit: bytes_max }),
        many => Err(Fault::Trap(format!("its key has {many} parts; at most {PARTS_MAX} are allowed"))),
    }
}

fn not_exported() -> wasmtime::Error {
    wasmtime::Error::msg("the component doesn't export `key`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_parts_and_a_bounded_size() {
        let lookup = |parts: Vec<Vec<u8>>| checked(Verdict::Lookup(parts), 10);
        assert_eq!(lookup(vec![vec![1; 4], vec![2; 6]]), Ok(KeyVerdict::Lookup(vec![vec![1; 4], vec![2; 6]])));
        assert_eq!(lookup(vec![vec![1; 4], vec![2; 7]]), Err(Fault::TooLarge { bytes: 11, limit: 10 }));
        assert!(lookup(vec![vec![]; PARTS_MAX]).is_ok());
        assert!(matches!(lookup(vec![vec![]; PARTS_MAX + 1]), Err(Fault::Trap(_))));
        assert!(matches!(lookup(vec![]), Err(Fault::Trap(_))));
    }

    #[test]
    fn a_reason_is_fit_for_a_header() {
        let reason = format!("no\r\ntenant{}", "!".repeat(200));
        let Ok(KeyVerdict::Bypass(reason)) = checked(Verdict::Bypass(reason), 10) else { panic!("no bypass") };
        assert!(reason.starts_with("no??tenant!") && reason.len() == REASON_CHARS_MAX, "{reason}");
    }
}
