//! The remembered verdicts of one generation: its memo, and for each hook a gate that decides whether it pays.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use arrayvec::ArrayVec;

use super::{
    memo::{KEY_BYTES_MAX, Memo},
    memo_gate::{MemoGate, State},
};
use crate::{
    clock::Uptime,
    config,
    policy::{Admission, Decision, Hook, HookCall, Material, key::spell},
};

/// The remembered verdicts of one generation.
pub(super) struct Remembered {
    memo: Memo<Decision>,
    gates: [MemoGate; Hook::ALL.len()],
    remembers: bool,
    check_every: u64,
}

/// The outcome of looking a call up.
pub(super) enum Recalled {
    /// The verdict is remembered.
    Known(Arc<Decision>),
    /// It isn't; the verdict may be remembered under this key.
    Unknown(VerdictKey),
    /// Verdicts of the hook aren't looked up at present.
    Off,
}

/// The key of a verdict.
pub(super) struct VerdictKey {
    hook: Hook,
    key: Box<[u8]>,
}

/// A key as it is spelled out. A whole body isn't copied only to find that it is too long.
#[derive(Default)]
struct Spelling {
    key: ArrayVec<u8, KEY_BYTES_MAX>,
    too_long: bool,
}

impl Spelling {
    fn write(&mut self, bytes: &[u8]) {
        self.too_long |= self.key.try_extend_from_slice(bytes).is_err();
    }

    fn number(&mut self, number: u64) {
        self.write(&number.to_le_bytes());
    }

    fn piece(&mut self, piece: &[u8]) {
        self.part(Some(piece));
    }

    /// Everything that a verdict may depend on, so that different calls are never spelled alike.
    fn call(&mut self, call: &HookCall<'_>, values: &[Option<Cow<'_, [u8]>>]) {
        self.write(&[call.hook() as u8]);
        values.iter().for_each(|value| self.part(value.as_deref()));
        match call {
            HookCall::Key | HookCall::Features | HookCall::Batch => {}
            HookCall::Prefetch { hit } => self.write(&[u8::from(*hit)]),
            HookCall::Admit(Admission::Pass(reason)) => {
                self.write(&[0]);
                self.piece(reason.as_bytes());
            }
            HookCall::Admit(Admission::MarkUncacheable { ms }) => {
                self.write(&[1]);
                self.number(*ms);
            }
            HookCall::Admit(Admission::Store(storage)) => {
                self.write(&[2]);
                for ms in [storage.ttl_ms, storage.grace_ms, storage.stale_if_error_ms, storage.keep_ms] {
                    self.number(ms);
                }
                self.number(storage.tags.len() as u64);
                storage.tags.iter().for_each(|tag| self.piece(tag.as_bytes()));
                storage.vary.iter().for_each(|name| self.piece(name.as_str().as_bytes()));
            }
            HookCall::Route(candidates) => {
                for candidate in *candidates {
                    self.piece(candidate.pool.as_bytes());
                    self.piece(candidate.model.as_deref().unwrap_or_default().as_bytes());
                    let stats = &candidate.stats;
                    for count in [stats.endpoints, stats.healthy, stats.inflight, stats.queued, stats.error_ppm] {
                        self.number(u64::from(count));
                    }
                    for amount in [stats.p50_us, stats.p99_us, candidate.cost_micro] {
                        self.number(amount);
                    }
                }
            }
        }
    }
}

impl Material for Spelling {
    fn part(&mut self, part: Option<&[u8]>) {
        spell(part, |bytes| self.write(bytes));
    }
}

/// One look-up in so many is timed: two readings of the clock would be most of it.
const TIMED: u64 = 32;

impl Remembered {
    pub(super) fn new(rule: config::Memo) -> Self {
        Self {
            memo: Memo::new(rule.entries_max),
            gates: Hook::ALL.map(|_| MemoGate::new()),
            remembers: rule.entries_max > 0,
            check_every: rule.check_every,
        }
    }

    /// Looks for an earlier verdict of the same hook on the same values.
    pub(super) fn recall(
        &self,
        call: &HookCall<'_>,
        values: &[Option<Cow<'_, [u8]>>],
        now: impl Fn() -> Uptime,
    ) -> Recalled {
        let hook = call.hook();
        let gate = &self.gates[hook.index()];
        if !self.remembers || !gate.is_on() {
            return Recalled::Off;
        }
        let timer = gate.lookups().is_multiple_of(TIMED).then(Instant::now);
        let mut spelling = Spelling::default();
        spelling.call(call, values);
        if spelling.too_long {
            gate.looked_up(false);
            return Recalled::Off;
        }
        let key = &*spelling.key;
        let found = self.memo.get(key, now);
        gate.looked_up(found.is_some());
        if let Some(timer) = timer {
            gate.lookup_took(nanos(timer.elapsed()));
        }
        match found {
            None => Recalled::Unknown(VerdictKey { hook, key: key.into() }),
            Some(decision) => Recalled::Known(decision),
        }
    }

    /// Whether this use of a remembered verdict is to be checked by calling the policy. `uses` counts this one.
    pub(super) fn is_to_be_checked(&self, uses: u64) -> bool {
        uses.is_multiple_of(self.check_every)
    }

    /// Remembers a verdict.
    pub(super) fn keep(&self, place: VerdictKey, decision: &Arc<Decision>, until: Option<Uptime>) {
        let gate = &self.gates[place.hook.index()];
        let timer = gate.lookups().is_multiple_of(TIMED).then(Instant::now);
        self.memo.put(place.key, Arc::clone(decision), until);
        if let Some(timer) = timer {
            gate.insert_took(nanos(timer.elapsed()));
        }
    }

    /// Notes the time of a sampled call.
    pub(super) fn call_took(&self, hook: Hook, took: Duration) {
        self.gates[hook.index()].call_took(nanos(took));
    }

    /// Notes that the policy contradicted a remembered verdict: the hook's aren't remembered from now on. Returns true
    /// the first time.
    pub(super) fn disagreed(&self, hook: Hook) -> bool {
        let gate = &self.gates[hook.index()];
        let first = gate.state() != State::Stateful;
        gate.disagreed();
        first
    }

    /// Whether verdicts of a hook are remembered.
    pub(super) fn state(&self, hook: Hook) -> State {
        if self.remembers { self.gates[hook.index()].state() } else { State::Off }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{Candidate, PoolStats, Storage};

    fn key(call: &HookCall<'_>, values: &[Option<Vec<u8>>]) -> Vec<u8> {
        let values: Vec<_> = values.iter().map(|value| value.as_deref().map(Cow::Borrowed)).collect();
        let mut spelling = Spelling::default();
        spelling.call(call, &values);
        spelling.key.to_vec()
    }

    proptest! {
        /// A hook has a fixed number of inputs, so values of equal count are what must not meet.
        #[test]
        fn values_that_differ_are_spelled_differently(
            a in prop::array::uniform3(prop::option::of(prop::collection::vec(any::<u8>(), 0..4))),
            b in prop::array::uniform3(prop::option::of(prop::collection::vec(any::<u8>(), 0..4))),
        ) {
            prop_assert_eq!(a == b, key(&HookCall::Key, &a) == key(&HookCall::Key, &b));
        }
    }

    #[test]
    fn what_is_too_long_to_be_remembered_is_noticed_and_not_copied() {
        let rule = config::Memo { entries_max: 4, ..config::Memo::default() };
        let remembered = Remembered::new(rule);
        // The hook and the lengths take a few bytes.
        for (length, fits) in [(KEY_BYTES_MAX - 12, true), (KEY_BYTES_MAX, false), (1 << 20, false)] {
            let value = vec![0; length];
            let values = [Some(Cow::Borrowed(&*value)), Some(Cow::Borrowed(&b"x"[..]))];
            let recalled = remembered.recall(&HookCall::Key, &values, || Uptime(0));
            assert_eq!(matches!(recalled, Recalled::Unknown(_)), fits, "{length}");
            assert_eq!(matches!(recalled, Recalled::Off), !fits, "{length}");
        }
    }

    #[test]
    fn whatever_is_asked_is_spelled_out() {
        let storage = Storage { tags: vec!["a".into()], ..Storage::default() };
        let admissions = [
            Admission::Pass("a".into()),
            Admission::Pass("b".into()),
            Admission::MarkUncacheable { ms: 1 },
            Admission::Store(Storage::default()),
            Admission::Store(storage.clone()),
            Admission::Store(Storage { tags: vec![], vary: vec![http::header::AGE], ..storage.clone() }),
            Admission::Store(Storage { keep_ms: 1, ..storage }),
        ];
        let busy = Candidate { stats: PoolStats { inflight: 1, ..PoolStats::default() }, ..Candidate::default() };
        let lists = [vec![], vec![Candidate::default()], vec![busy]];
        let mut calls = vec![
            HookCall::Key,
            HookCall::Features,
            HookCall::Batch,
            HookCall::Prefetch { hit: true },
            HookCall::Prefetch { hit: false },
        ];
        calls.extend(admissions.iter().map(HookCall::Admit));
        calls.extend(lists.iter().map(|list| HookCall::Route(list)));
        let mut keys: Vec<Vec<u8>> = calls.iter().map(|call| key(call, &[None])).collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }
}
