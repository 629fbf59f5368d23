//! Judges a new generation that is on trial beside the active one, hook by hook. Pure: counts and the time are its
//! arguments.

use std::{fmt, time::Duration};

use crate::{
    clock::Uptime,
    policy::{
        Hook,
        experiment::{below, stable_hash, wilson},
    },
};

/// How far beyond its bound a rate must be to be clear, in standard deviations. It is judged after every few calls, so
/// that chance gets many tries.
const CLEAR_Z: f64 = 3.0;

/// How far within its bound a rate must be before a generation is promoted, in standard deviations: a hook that faults
/// a little more often than it may is within its bound at some moment.
const SURE_Z: f64 = 2.0;

/// Faults or disagreements that a rollback takes at least, whatever share of the calls they are; except where none are
/// allowed.
const TIMES_MIN: u64 = 3;

/// Multiples of the hold after which a hook that is called too rarely to be judged no longer delays the promotion.
const PATIENCE: u32 = 10;

/// How a generation is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It is called as well, and its verdicts are compared and dropped.
    Shadow,
    /// It decides for a share of the clients.
    Canary {
        /// Their share.
        percent: u8,
    },
}

/// The bounds of a generation on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Cases of each hook before the generation is promoted, and timed calls of either generation's hook before their
    /// times are compared.
    pub(super) requests_min: u64,
    /// Faults allowed in a million calls of a hook.
    pub(super) faults_ppm_max: u32,
    /// Verdicts of a hook, in a million, that may differ from the active generation's.
    pub(super) disagreements_ppm_max: u32,
    /// The mean time of a hook's call, in percent of the active generation's.
    pub(super) latency_percent_max: u32,
    /// Failures allowed in a million of the origin's last responses.
    pub(super) origin_failures_ppm_max: u32,
    /// How long it must stay within them before it is promoted.
    pub(super) hold: Duration,
}

/// The counts of one hook of one generation since the trial began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Calls made.
    pub(super) calls: u64,
    /// Those without a verdict.
    pub(super) faults: u64,
    /// Cases in which the hook was tried: a canary's calls, or requests where it is a recipe, which is never
    /// called; a shadow's comparisons and faults.
    pub(super) tried: u64,
    /// Verdicts compared with the other generation's.
    pub(super) compared: u64,
    /// Those that differed in a way that counts.
    pub(super) disagreed: u64,
    /// Verdicts that should have been compared and weren't.
    pub(super) skipped: u64,
    /// Time of the timed calls together, in nanoseconds.
    pub(super) call_ns_sum: u64,
    /// Calls timed.
    pub(super) timed: u64,
}

/// Everything that a trial is judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// The counts of the generation on trial, by [`Hook::index`].
    pub(super) trial: [Counts; Hook::ALL.len()],
    /// The same of the active generation.
    pub(super) active: [Counts; Hook::ALL.len()],
    /// Requests that the one on trial decided for, or that it was compared on.
    pub(super) requests: u64,
    /// The state of the origin.
    pub(super) origin: Origin,
}

/// The origin's last responses to requests of the policy. While it fails, the effect of a policy's decisions can't be
/// seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// A bit for each of the last responses, the latest lowest: 1 is a failure.
    recent: u128,
    /// How many of them there are.
    seen: u32,
    /// When there were too many failures among them last.
    failing_at: Option<Uptime>,
}

/// The verdict on the generation on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet.
    Wait,
    /// It takes over.
    Promote,
    /// It is rolled back.
    RollBack(Reason),
}

/// Why a generation is rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// A hook gave no verdict too often.
    Faults(Hook, Rate),
    /// A hook decided otherwise than the active generation's too often.
    Disagreements(Hook, Rate),
    /// A hook takes too long.
    Latency {
        /// Which.
        hook: Hook,
        /// Its mean.
        trial_ns: u64,
        /// The active generation's.
        active_ns: u64,
        /// What is allowed, in percent of the active generation's.
        percent_max: u32,
    },
}

/// A rate and its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// How often it happened.
    pub(super) times: u64,
    /// The number of cases.
    pub(super) of: u64,
    /// What is allowed in a million.
    pub(super) ppm_max: u32,
}

/// Judges a trial that has been going on since `since`.
///
/// Each hook is judged by itself, because one that fails would be hidden by others that are called more often. The
/// generation is rolled back as soon as a hook's bound is clearly exceeded: the lower end of the rate's interval
/// (Wilson's) lies above it. So a hook that faults in every call ends its generation's trial after three, and one that
/// is a little worse than allowed does when there are enough calls to tell. It is promoted when all hooks are flawless
/// or surely within their bounds (the upper end of a narrower interval), for as long as `hold` since the origin last
/// failed.
pub(super) fn judge(bounds: &Bounds, evidence: &Evidence, since: Uptime, now: Uptime) -> Verdict {
    if let Some(reason) = Hook::ALL.into_iter().find_map(|hook| evidence.exceeded(bounds, hook)) {
        return Verdict::RollBack(reason);
    }
    if evidence.is_proved(bounds, since, now) { Verdict::Promote } else { Verdict::Wait }
}

/// Whether a unit is in the share that the canary decides for. It is the same for a unit at any time, and a larger
/// share contains a smaller one. Another salt selects others, so that not always the same clients try what is new.
pub(super) fn in_canary(unit: &[u8], salt: &[u8], percent: u8) -> bool {
    below(100, stable_hash(&[b"canary", salt, unit])) < u64::from(percent)
}

impl Evidence {
    /// Returns the bound that a hook clearly exceeds.
    fn exceeded(&self, bounds: &Bounds, hook: Hook) -> Option<Reason> {
        let trial = &self.trial[hook.index()];
        let (faults, disagreements) = (trial.fault_rate(bounds), trial.disagreement_rate(bounds));
        if faults.is_clearly_over() {
            return Some(Reason::Faults(hook, faults));
        }
        if disagreements.is_clearly_over() {
            return Some(Reason::Disagreements(hook, disagreements));
        }
        too_slow(bounds, hook, trial, &self.active[hook.index()])
    }

    fn is_proved(&self, bounds: &Bounds, since: Uptime, now: Uptime) -> bool {
        let calm_since = self.origin.failing_at.map_or(since, |failed| failed.max(since));
        let held = now.since(calm_since);
        let patient = held >= bounds.hold.saturating_mul(PATIENCE);
        let tried = self.trial.iter().map(|hook| hook.tried).max().unwrap_or(0);
        held >= bounds.hold
            && !self.origin.is_failing(bounds.origin_failures_ppm_max)
            && tried.max(self.requests) >= bounds.requests_min
            && self.trial.iter().all(|hook| hook.permits(bounds, patient))
    }
}

impl Counts {
    const fn fault_rate(&self, bounds: &Bounds) -> Rate {
        Rate { times: self.faults, of: self.calls, ppm_max: bounds.faults_ppm_max }
    }

    const fn disagreement_rate(&self, bounds: &Bounds) -> Rate {
        Rate { times: self.disagreed, of: self.compared, ppm_max: bounds.disagreements_ppm_max }
    }

    /// Whether the hook allows the promotion. One that was never called does; one of which nothing could be compared
    /// doesn't.
    fn permits(&self, bounds: &Bounds, patient: bool) -> bool {
        let enough = match self.tried {
            0 => self.skipped == 0,
            tried => tried >= bounds.requests_min || patient,
        };
        enough && self.fault_rate(bounds).is_surely_within() && self.disagreement_rate(bounds).is_surely_within()
    }
}

impl Origin {
    /// Records whether a response was a failure.
    pub(super) fn record(&mut self, failed: bool, ppm_max: u32, now: Uptime) {
        self.recent = (self.recent << 1) | u128::from(failed);
        self.seen = u128::BITS.min(self.seen + 1);
        if self.is_failing(ppm_max) {
            self.failing_at = Some(now);
        }
    }

    /// Whether more of its last responses are failures than allowed.
    pub(super) fn is_failing(&self, ppm_max: u32) -> bool {
        u64::from(self.recent.count_ones()) * 1_000_000 > u64::from(self.seen) * u64::from(ppm_max)
    }
}

fn too_slow(bounds: &Bounds, hook: Hook, trial: &Counts, active: &Counts) -> Option<Reason> {
    let percent_max = bounds.latency_percent_max;
    if trial.timed.min(active.timed) < bounds.requests_min {
        return None;
    }
    let trial_ns = trial.call_ns_sum.checked_div(trial.timed)?;
    let active_ns = active.call_ns_sum.checked_div(active.timed)?;
    let over = u128::from(trial_ns) * 100 > u128::from(active_ns) * u128::from(percent_max);
    // A clock too coarse to time the active one can't show how much slower the other is.
    (over && active_ns > 0).then_some(Reason::Latency { hook, trial_ns, active_ns, percent_max })
}

impl Rate {
    fn is_clearly_over(self) -> bool {
        let times_min = if self.ppm_max == 0 { 1 } else { TIMES_MIN };
        let (low, _) = wilson(self.times, self.of, CLEAR_Z);
        self.of > 0 && self.times >= times_min && low > self.bound()
    }

    /// Whether it never happened, or surely more rarely than it may.
    fn is_surely_within(self) -> bool {
        let (_, high) = wilson(self.times, self.of, SURE_Z);
        self.times == 0 || high <= self.bound()
    }

    fn bound(self) -> f64 {
        f64::from(self.ppm_max) / 1e6
    }

    fn ppm(self) -> u64 {
        let ppm = u128::from(self.times) * 1_000_000 / u128::from(self.of.max(1));
        u64::try_from(ppm).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hook, verb, rate, cases) = match self {
            Self::Faults(hook, rate) => (hook, "faulted", rate, "calls"),
            Self::Disagreements(Hook::Key, rate) => {
                (&Hook::Key, "disagreed", rate, "comparisons of which requests share a response")
            }
            Self::Disagreements(hook, rate) => (hook, "disagreed", rate, "comparisons"),
            Self::Latency { hook, trial_ns, active_ns, percent_max } => {
                let percent = (u128::from(*trial_ns) * 100).div_ceil(u128::from(*active_ns).max(1));
                let [trial_us, active_us] = [trial_ns, active_ns].map(|ns| *ns as f64 / 1e3);
                return write!(
                    f,
                    "a call of {} takes {trial_us:.1} µs, {percent} % of the active generation's {active_us:.1} µs; \
                     {percent_max} % are allowed",
                    hook.name()
                );
            }
        };
        let [found, allowed] = [rate.ppm(), u64::from(rate.ppm_max)].map(percent);
        write!(f, "{} {verb} in {found} % of {} {cases}; {allowed} % are allowed", hook.name(), rate.of)
    }
}

/// Formats parts of a million as percent. Small ones keep the digits that make them different from 0.
fn percent(ppm: u64) -> String {
    let percent = ppm as f64 / 1e4;
    if ppm >= 10_000 || ppm.is_multiple_of(1_000) { format!("{percent:.1}") } else { format!("{percent}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        requests_min: 100,
        faults_ppm_max: 10_000,
        disagreements_ppm_max: 100_000,
        latency_percent_max: 150,
        origin_failures_ppm_max: 50_000,
        hold: Duration::from_secs(60),
    };

    /// Returns evidence in which these hooks of the generation on trial were called, and no others.
    fn of(hooks: &[(Hook, Counts)]) -> Evidence {
        let mut evidence = Evidence::default();
        for (hook, counts) in hooks {
            evidence.trial[hook.index()] = *counts;
        }
        evidence
    }

    fn after(seconds: u64, evidence: &Evidence) -> Verdict {
        judge(&BOUNDS, evidence, Uptime(1_000), Uptime(1_000 + seconds * 1_000))
    }

    fn faults(faults: u64, calls: u64) -> Counts {
        Counts { calls, faults, tried: calls, ..Counts::default() }
    }

    fn compared(disagreed: u64, compared: u64) -> Counts {
        Counts { calls: compared, tried: compared, compared, disagreed, ..Counts::default() }
    }

    #[test]
    fn it_is_promoted_after_its_time_and_its_calls() {
        for (seconds, calls, wanted) in [
            (0, 0, Verdict::Wait),
            (59, 1_000, Verdict::Wait),
            (60, 99, Verdict::Wait),
            (60, 100, Verdict::Promote),
            (600, 1_000_000, Verdict::Promote),
        ] {
            let called = of(&[(Hook::Admit, faults(0, calls))]);
            assert_eq!(after(seconds, &called), wanted, "{calls} in {seconds} s");
            let passed_by = Evidence { requests: calls, ..Evidence::default() };
            assert_eq!(after(seconds, &passed_by), wanted, "{calls} requests in {seconds} s");
        }
    }

    #[test]
    fn faults_roll_it_back_as_soon_as_they_are_clear() {
        let over = |times, of| Verdict::RollBack(Reason::Faults(Hook::Key, Rate { times, of, ppm_max: 10_000 }));
        for (times, calls, wanted) in [
            (1, 1, Verdict::Wait),
            (2, 2, Verdict::Wait),
            (3, 3, over(3, 3)),
            (3, 30, over(3, 30)),
            (3, 100, Verdict::Wait),
            (4, 100, over(4, 100)),
            (0, 100, Verdict::Promote),
            // Within its bound, but not surely.
            (1, 100, Verdict::Wait),
            (2, 200, Verdict::Wait),
            (1_000, 100_000, Verdict::Wait),
            (1, 600, Verdict::Promote),
            (900, 100_000, Verdict::Promote),
            (1_010, 100_000, Verdict::Wait),
            (1_200, 100_000, over(1_200, 100_000)),
        ] {
            assert_eq!(after(60, &of(&[(Hook::Key, faults(times, calls))])), wanted, "{times} of {calls}");
        }
    }

    /// All hooks together fault in 0.36 % of their calls, the key in 1.4 % of its own.
    #[test]
    fn a_hook_is_not_hidden_behind_the_others() {
        let mut hooks: Vec<(Hook, Counts)> = Hook::ALL.into_iter().map(|hook| (hook, faults(0, 5_800))).collect();
        hooks[Hook::Key.index()].1 = faults(140, 10_000);
        let key = Rate { times: 140, of: 10_000, ppm_max: 10_000 };
        assert_eq!(after(60, &of(&hooks)), Verdict::RollBack(Reason::Faults(Hook::Key, key)));
        // Before it is clear it isn't promoted: not even where it has been within its bound for a while.
        for calls in 71..5_000 {
            hooks[Hook::Key.index()].1 = faults(calls / 71, calls);
            assert_eq!(after(60, &of(&hooks)), Verdict::Wait, "1 of 71 after {calls}");
        }
    }

    #[test]
    fn a_hook_that_is_asked_rarely_holds_it_up_for_a_while() {
        let asked = |rare: Counts| of(&[(Hook::Key, faults(0, 1_000)), (Hook::Route, rare)]);
        for (rare, seconds, wanted) in [
            (faults(0, 0), 60, Verdict::Promote),
            (faults(0, 99), 60, Verdict::Wait),
            (faults(0, 99), 599, Verdict::Wait),
            (faults(0, 99), 600, Verdict::Promote),
            (faults(0, 100), 60, Verdict::Promote),
            (faults(1, 99), 6_000, Verdict::Wait),
            (
                faults(3, 3),
                0,
                Verdict::RollBack(Reason::Faults(Hook::Route, Rate { times: 3, of: 3, ppm_max: 10_000 })),
            ),
            // Nothing of it could be compared.
            (Counts { skipped: 1, ..Counts::default() }, 6_000, Verdict::Wait),
        ] {
            assert_eq!(after(seconds, &asked(rare)), wanted, "{rare:?} after {seconds} s");
        }
        // None of its hooks alone has been called often enough, but there were requests enough.
        let requests = Evidence { requests: 100, ..of(&[(Hook::Route, faults(0, 9))]) };
        assert_eq!((after(599, &requests), after(600, &requests)), (Verdict::Wait, Verdict::Promote));
    }

    #[test]
    fn where_no_fault_is_allowed_one_is_enough() {
        let bounds = Bounds { faults_ppm_max: 0, ..BOUNDS };
        let verdict =
            |times, calls| judge(&bounds, &of(&[(Hook::Batch, faults(times, calls))]), Uptime(0), Uptime(60_000));
        assert_eq!(verdict(0, 10_000), Verdict::Promote);
        for calls in [1, 10_000] {
            assert!(matches!(verdict(1, calls), Verdict::RollBack(_)), "1 of {calls}");
        }
    }

    #[test]
    fn disagreements_have_a_bound_of_their_own() {
        let rate = Rate { times: 60, of: 150, ppm_max: 100_000 };
        let over = Verdict::RollBack(Reason::Disagreements(Hook::Key, rate));
        for (disagreed, wanted) in
            [(60, over), (17, Verdict::Wait), (15, Verdict::Wait), (3, Verdict::Promote), (0, Verdict::Promote)]
        {
            let evidence = of(&[(Hook::Key, compared(disagreed, 150)), (Hook::Admit, compared(0, 10_000))]);
            assert_eq!(after(60, &evidence), wanted, "{disagreed} of 150");
        }
        let all = Bounds { disagreements_ppm_max: 1_000_000, ..BOUNDS };
        let evidence = of(&[(Hook::Key, compared(150, 150))]);
        assert_eq!(judge(&all, &evidence, Uptime(0), Uptime(60_000)), Verdict::Promote, "where all may differ");
    }

    #[test]
    fn nothing_is_promoted_while_its_origin_fails() {
        let mut evidence = of(&[(Hook::Key, faults(0, 1_000))]);
        let mut respond = |failed: bool, times: u32, second: u64| {
            (0..times).for_each(|_| evidence.origin.record(failed, 50_000, Uptime(1_000 + second * 1_000)));
            evidence
        };
        assert_eq!(after(60, &respond(false, 200, 10)), Verdict::Promote);
        assert_eq!(after(60, &respond(true, 6, 50)), Verdict::Promote, "6 of 128 are within 5 %");
        let failing = respond(true, 1, 55);
        assert_eq!((after(60, &failing), after(6_000, &failing)), (Verdict::Wait, Verdict::Wait), "7 of 128");
        // Well again; but the time until then doesn't count.
        let well = respond(false, 128, 100);
        let since = 100;
        assert_eq!((after(since + 59, &well), after(since + 60, &well)), (Verdict::Wait, Verdict::Promote));
        let none = Bounds { origin_failures_ppm_max: 1_000_000, ..BOUNDS };
        let down = respond(true, 128, 200);
        assert_eq!(judge(&none, &down, Uptime(0), Uptime(600_000)), Verdict::Promote, "all may fail");
    }

    #[test]
    fn times_are_compared_when_there_are_enough() {
        let timed = |timed: u64, call_ns: u64| Counts { timed, call_ns_sum: timed * call_ns, ..faults(0, 1_000) };
        let slow = Verdict::RollBack(Reason::Latency {
            hook: Hook::Features,
            trial_ns: 1_600,
            active_ns: 1_000,
            percent_max: 150,
        });
        for (trial, active, wanted) in [
            (timed(100, 1_600), timed(100, 1_000), slow),
            (timed(100, 1_500), timed(100, 1_000), Verdict::Promote),
            (timed(99, 1_600), timed(100, 1_000), Verdict::Promote),
            (timed(100, 1_600), timed(99, 1_000), Verdict::Promote),
            (timed(100, 1_600), timed(0, 0), Verdict::Promote),
            (timed(100, 1_600), timed(100, 0), Verdict::Promote),
            (timed(100, 500), timed(100, 1_000), Verdict::Promote),
        ] {
            // Another hook, called more often, is as fast as before.
            let mut evidence = of(&[(Hook::Features, trial), (Hook::Key, timed(10_000, 100))]);
            evidence.active[Hook::Features.index()] = active;
            evidence.active[Hook::Key.index()] = timed(10_000, 100);
            assert_eq!(after(60, &evidence), wanted, "{trial:?} beside {active:?}");
        }
        let now = Bounds { requests_min: 0, ..BOUNDS };
        assert_eq!(judge(&now, &Evidence::default(), Uptime(0), Uptime(0)), Verdict::Wait);
    }

    /// Returns the call after which a generation that faults at this rate is rolled back, judged after each; none
    /// within 3,000.
    fn rolled_back(rate: f64, seed: u64) -> Option<u64> {
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut trial = Counts::default();
        (1..=3_000).find(|calls| {
            trial.calls = *calls;
            trial.faults += u64::from(chance.f64() < rate);
            matches!(after(0, &of(&[(Hook::Key, trial)])), Verdict::RollBack(_))
        })
    }

    #[test]
    fn the_good_stay_and_the_bad_go() {
        let outcomes = |rate| (0..200).map(move |seed| rolled_back(rate, seed));
        assert!(outcomes(1.0).all(|at| at == Some(3)));
        assert!(outcomes(0.5).all(|at| at.is_some_and(|at| at <= 40)));
        assert!(outcomes(0.05).all(|at| at.is_some()));
        let wronged = outcomes(0.002).flatten().count();
        assert!(wronged <= 4, "{wronged} of 200 at a fifth of what is allowed");
    }

    /// Judged after each call from the hundredth on; the verdict that comes first within 30,000.
    fn outcome(rate: f64, seed: u64) -> Verdict {
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut faulted = 0;
        let verdict = |calls: u64| {
            faulted += u64::from(chance.f64() < rate);
            let verdict =
                if calls < 100 { Verdict::Wait } else { after(60, &of(&[(Hook::Key, faults(faulted, calls))])) };
            (verdict != Verdict::Wait).then_some(verdict)
        };
        (1..=30_000).find_map(verdict).unwrap_or(Verdict::Wait)
    }

    #[test]
    fn what_is_too_bad_is_hardly_ever_promoted() {
        let promoted = |rate| (0..100).filter(|seed| outcome(rate, *seed) == Verdict::Promote).count();
        // In 98 % of the trials it has faulted within the first hundred calls.
        assert!(promoted(0.04) <= 8, "{} at four times what is allowed", promoted(0.04));
        assert!(promoted(0.002) >= 95, "{} at a fifth of what is allowed", promoted(0.002));
    }

    #[test]
    fn reasons_say_what_was_found_and_what_is_allowed() {
        let rate = |times, of, ppm_max| Rate { times, of, ppm_max };
        for (reason, wanted) in [
            (Reason::Faults(Hook::Key, rate(12, 100, 10_000)), "key faulted in 12.0 % of 100 calls; 1.0 % are allowed"),
            (
                Reason::Faults(Hook::Route, rate(3, 100_000, 5)),
                "route faulted in 0.003 % of 100000 calls; 0.0005 % are allowed",
            ),
            (Reason::Faults(Hook::Admit, rate(1, 3, 0)), "admit faulted in 33.3 % of 3 calls; 0.0 % are allowed"),
            (
                Reason::Disagreements(Hook::Admit, rate(60, 150, 1_000)),
                "admit disagreed in 40.0 % of 150 comparisons; 0.1 % are allowed",
            ),
            (
                Reason::Disagreements(Hook::Key, rate(60, 150, 1_000)),
                "key disagreed in 40.0 % of 150 comparisons of which requests share a response; 0.1 % are allowed",
            ),
            (
                Reason::Latency { hook: Hook::Batch, trial_ns: 1_505, active_ns: 1_000, percent_max: 150 },
                "a call of batch takes 1.5 µs, 151 % of the active generation's 1.0 µs; 150 % are allowed",
            ),
        ] {
            assert_eq!(reason.to_string(), wanted);
        }
    }

    #[test]
    fn the_share_is_right_and_stable_and_grows() {
        let units: Vec<String> = (0..100_000).map(|unit| format!("client-{unit}")).collect();
        let share = |salt: &[u8], percent| -> Vec<bool> {
            units.iter().map(|unit| in_canary(unit.as_bytes(), salt, percent)).collect()
        };
        let count = |share: &[bool]| share.iter().filter(|is_in| **is_in).count();
        let mut smaller = share(b"g1", 0);
        for percent in [0, 1, 5, 50, 99, 100, 200] {
            let larger = share(b"g1", percent);
            assert!(count(&larger).abs_diff(usize::from(percent.min(100)) * 1_000) < 1_000, "{percent} %");
            assert!(smaller.iter().zip(&larger).all(|(before, after)| after >= before), "{percent} % keeps all");
            smaller = larger;
        }
        assert_eq!((count(&share(b"g1", 0)), count(&share(b"g1", 100))), (0, 100_000));
        let both = share(b"g1", 50).iter().zip(share(b"g2", 50)).filter(|(one, other)| **one && *other).count();
        assert!(both.abs_diff(25_000) < 1_000, "salts choose independently: {both}");
    }
}
