//! The `admit` hook.

use holm_bindings::exports::holm::policy::admit::{Admission as RawAdmission, Storage as RawStorage};
use http::HeaderName;

use super::bounds::{counted, weighed};
use crate::{
    plugin::{
        exports::present,
        instance::{Instance, own_fault},
        limits::{HEADERS_MAX, Limit, TAG_BYTES_MAX, TAGS_MAX, plain},
    },
    policy::{Admission, Fault, Storage},
};

/// Calls `decide`: whether a response is stored.
pub(super) fn decide(
    instance: &mut Instance,
    limit: &Limit,
    values: &[Option<&[u8]>],
    suggested: &Admission,
) -> Result<Admission, Fault> {
    let suggested = raw(suggested);
    let answer = instance
        .call(limit, |exports, store| present(exports.admit.as_ref())?.call_decide(store, values, &suggested))?;
    answer.map_err(|fault| own_fault(&fault)).and_then(|admission| checked(admission, limit))
}

fn raw(admission: &Admission) -> RawAdmission {
    match admission {
        Admission::Store(storage) => RawAdmission::Store(RawStorage {
            ttl_ms: storage.ttl_ms,
            grace_ms: storage.grace_ms,
            stale_if_error_ms: storage.stale_if_error_ms,
            keep_ms: storage.keep_ms,
            tags: storage.tags.clone(),
            vary: storage.vary.iter().map(|name| name.as_str().to_owned()).collect(),
        }),
        Admission::MarkUncacheable { ms } => RawAdmission::MarkUncacheable(*ms),
        Admission::Pass(reason) => RawAdmission::Pass(reason.clone()),
    }
}

/// Characters of a reason, which ends up in `Cache-Status`.
const REASON_CHARS_MAX: usize = 128;
/// The longest lifetime in milliseconds, and the longest time that a key is uncacheable: a year.
const LIFETIME_MS_MAX: u64 = 366 * 24 * 3_600_000;

fn checked(raw: RawAdmission, limit: &Limit) -> Result<Admission, Fault> {
    let storage = match raw {
        RawAdmission::Pass(reason) => return Ok(Admission::Pass(plain(&reason, REASON_CHARS_MAX))),
        RawAdmission::MarkUncacheable(ms) => return Ok(Admission::MarkUncacheable { ms: ms.min(LIFETIME_MS_MAX) }),
        RawAdmission::Store(storage) => storage,
    };
    counted("tags", &storage.tags, TAGS_MAX, limit)?;
    counted("fields to vary by", &storage.vary, HEADERS_MAX, limit)?;
    weighed(storage.tags.iter().chain(&storage.vary).map(String::len), limit)?;
    storage.tags.iter().enumerate().try_for_each(|(at, tag)| purgeable(at, tag))?;
    let name = |name: String| {
        HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Fault::Malformed(format!("it varies by `{}`, which is no header field", plain(&name, 80))))
    };
    Ok(Admission::Store(Storage {
        ttl_ms: storage.ttl_ms.min(LIFETIME_MS_MAX),
        grace_ms: storage.grace_ms.min(LIFETIME_MS_MAX),
        stale_if_error_ms: storage.stale_if_error_ms.min(LIFETIME_MS_MAX),
        keep_ms: storage.keep_ms.min(LIFETIME_MS_MAX),
        tags: storage.tags,
        vary: storage.vary.into_iter().map(name).collect::<Result<_, _>>()?,
    }))
}

/// Refuses a tag that no purge can name, on which the author would rely in vain.
fn purgeable(at: usize, tag: &str) -> Result<(), Fault> {
    let wrong = |why: String| Err(Fault::Malformed(format!("tag {at}, counted from 0, {why}")));
    match tag.len() {
        0 => wrong("is empty".to_owned()),
        bytes if bytes > TAG_BYTES_MAX => wrong(format!("has {bytes} bytes; at most {TAG_BYTES_MAX} are allowed")),
        _ if tag.chars().any(char::is_control) => wrong("has control characters".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(tags: usize, vary: &[&str]) -> RawStorage {
        RawStorage {
            ttl_ms: u64::MAX,
            grace_ms: 1,
            stale_if_error_ms: 2,
            keep_ms: 3,
            tags: vec!["t".into(); tags],
            vary: vary.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn a_verdict_makes_sense_or_is_refused() {
        let limit = Limit::of_bytes(100);
        let store = |storage| checked(RawAdmission::Store(storage), &limit);
        let Ok(Admission::Store(kept)) = store(storage(2, &["Accept"])) else { panic!("refused") };
        assert_eq!((kept.ttl_ms, kept.keep_ms, kept.vary), (LIFETIME_MS_MAX, 3, vec![http::header::ACCEPT]));
        assert!(matches!(store(storage(TAGS_MAX + 1, &[])), Err(Fault::Malformed(_))));
        assert!(matches!(store(storage(0, &["a b"])), Err(Fault::Malformed(_))));
        let long = RawStorage { tags: vec!["t".repeat(101)], ..storage(0, &[]) };
        assert!(matches!(store(long), Err(Fault::TooLarge { .. })));
        let room = Limit::of_bytes(10_000);
        for (tag, words) in [
            ("", "tag 1, counted from 0, is empty"),
            (&*"t".repeat(TAG_BYTES_MAX + 1), "tag 1, counted from 0, has 1025 bytes; at most 1024"),
            ("a\nb", "tag 1, counted from 0, has control characters"),
        ] {
            let tagged = RawStorage { tags: vec!["t".repeat(TAG_BYTES_MAX), tag.to_owned()], ..storage(0, &[]) };
            let fault = checked(RawAdmission::Store(tagged), &room).unwrap_err().to_string();
            assert!(fault.contains(words), "{fault}");
        }
        let Ok(Admission::Store(any)) = store(storage(0, &["*"])) else { panic!("refused") };
        assert_eq!(any.vary.len(), 1, "what it means is decided where it is stored");
        assert_eq!(checked(RawAdmission::Pass("a\nb".into()), &limit), Ok(Admission::Pass("a?b".into())));
        let long = checked(RawAdmission::MarkUncacheable(u64::MAX), &limit);
        assert_eq!(long, Ok(Admission::MarkUncacheable { ms: LIFETIME_MS_MAX }));
    }
}
