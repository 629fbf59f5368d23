//! Judges a new generation that is on trial beside the active one. Pure: it is told what was counted and what time it
//! is.

use std::{fmt, time::Duration};

use crate::{
    clock::Timestamp,
    policy::experiment::{below, stable_hash, wilson},
};

/// It is judged after every few calls, so that chance gets many tries: only what lies three standard deviations beyond
/// the bound is clear.
const CLEAR_Z: f64 = 3.0;

/// Fewer than this are an accident, whatever share of the calls they are; except where none are allowed.
const TIMES_MIN: u64 = 3;

/// How a generation is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It is asked as well, and its verdicts are compared and thrown away.
    Shadow,
    /// It decides for a share of the clients.
    Canary {
        /// Their share.
        percent: u8,
    },
}

/// What a generation on trial is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Calls before it is promoted, and timed calls of either generation before their times are compared.
    pub(super) requests_min: u64,
    /// Faults allowed in a million calls.
    pub(super) faults_ppm_max: u32,
    /// Verdicts that may differ from the active generation's in a million; for [`Mode::Shadow`] alone, because a canary
    /// isn't compared.
    pub(super) disagreements_ppm_max: u32,
    /// The mean time of a call, in percent of the active generation's.
    pub(super) latency_percent_max: u32,
    /// How long it must behave before it is promoted.
    pub(super) hold: Duration,
}

/// What one generation did since the trial began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Calls made.
    pub(super) calls: u64,
    /// Those without a verdict.
    pub(super) faults: u64,
    /// Verdicts compared with the other generation's.
    pub(super) compared: u64,
    /// Those that differed.
    pub(super) disagreed: u64,
    /// What the timed calls took together.
    pub(super) call_ns_sum: u64,
    /// Calls timed.
    pub(super) timed: u64,
}

/// What becomes of the generation on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet.
    Wait,
    /// It takes over.
    Promote,
    /// It goes.
    RollBack(Reason),
}

/// Why a generation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It gave no verdict too often.
    Faults(Rate),
    /// It decided otherwise than the active one too often.
    Disagreements(Rate),
    /// It takes too long.
    Latency {
        /// Its mean.
        trial_ns: u64,
        /// The active one's.
        active_ns: u64,
        /// What is allowed, in percent of the active one's.
        percent_max: u32,
    },
}

/// How often something happened, and how often it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// So often it happened.
    pub(super) times: u64,
    /// In so many cases.
    pub(super) of: u64,
    /// What is allowed in a million.
    pub(super) ppm_max: u32,
}

/// Judges a trial that has been going on since `since`.
///
/// It rolls back as soon as a bound is clearly exceeded: the lower end of the rate's interval (Wilson's) lies above it.
/// So a generation that faults in every call goes after three, and one that is a little worse than allowed is found out
/// when there are enough calls to tell. A rate that is above its bound, but not clearly, keeps it from being promoted.
pub(super) fn judge(
    mode: Mode,
    bounds: &Bounds,
    trial: &Counts,
    active: &Counts,
    since: Timestamp,
    now: Timestamp,
) -> Verdict {
    let faults = Rate { times: trial.faults, of: trial.calls, ppm_max: bounds.faults_ppm_max };
    let compared = if mode == Mode::Shadow { trial.compared } else { 0 };
    let disagreements = Rate { times: trial.disagreed, of: compared, ppm_max: bounds.disagreements_ppm_max };
    if faults.is_clearly_over() {
        return Verdict::RollBack(Reason::Faults(faults));
    }
    if disagreements.is_clearly_over() {
        return Verdict::RollBack(Reason::Disagreements(disagreements));
    }
    if let Some(latency) = too_slow(bounds, trial, active) {
        return Verdict::RollBack(latency);
    }
    let tried = trial.calls >= bounds.requests_min && now.since(since) >= bounds.hold;
    if tried && faults.is_within() && disagreements.is_within() { Verdict::Promote } else { Verdict::Wait }
}

/// Is a unit in the share that the canary decides for? The same unit always is or isn't, and a larger share keeps those
/// of a smaller one. Another salt makes another choice, so that not always the same clients try what is new.
pub(super) fn in_canary(unit: &[u8], salt: &[u8], percent: u8) -> bool {
    below(100, stable_hash(&[b"canary", salt, unit])) < u64::from(percent)
}

fn too_slow(bounds: &Bounds, trial: &Counts, active: &Counts) -> Option<Reason> {
    let percent_max = bounds.latency_percent_max;
    if trial.timed.min(active.timed) < bounds.requests_min {
        return None;
    }
    let trial_ns = trial.call_ns_sum.checked_div(trial.timed)?;
    let active_ns = active.call_ns_sum.checked_div(active.timed)?;
    let over = u128::from(trial_ns) * 100 > u128::from(active_ns) * u128::from(percent_max);
    // A clock too coarse to time the active one can't tell how much slower the other is.
    (over && active_ns > 0).then_some(Reason::Latency { trial_ns, active_ns, percent_max })
}

impl Rate {
    fn is_clearly_over(self) -> bool {
        let times_min = if self.ppm_max == 0 { 1 } else { TIMES_MIN };
        let (low, _) = wilson(self.times, self.of, CLEAR_Z);
        self.of > 0 && self.times >= times_min && low > f64::from(self.ppm_max) / 1e6
    }

    fn is_within(self) -> bool {
        self.of == 0 || u128::from(self.times) * 1_000_000 <= u128::from(self.of) * u128::from(self.ppm_max)
    }

    fn ppm(self) -> u64 {
        let ppm = u128::from(self.times) * 1_000_000 / u128::from(self.of.max(1));
        u64::try_from(ppm).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, rate, cases) = match self {
            Self::Faults(rate) => ("faulted", rate, "calls"),
            Self::Disagreements(rate) => ("disagreed", rate, "comparisons"),
            Self::Latency { trial_ns, active_ns, percent_max } => {
                let percent = (u128::from(*trial_ns) * 100).div_ceil(u128::from(*active_ns).max(1));
                let [trial_us, active_us] = [trial_ns, active_ns].map(|ns| *ns as f64 / 1e3);
                return write!(
                    f,
                    "a call takes {trial_us:.1} µs, {percent} % of the active generation's {active_us:.1} µs; \
                     {percent_max} % are allowed"
                );
            }
        };
        let [found, allowed] = [rate.ppm(), u64::from(rate.ppm_max)].map(percent);
        write!(f, "{verb} in {found} % of {} {cases}; {allowed} % are allowed", rate.of)
    }
}

/// Parts of a million as percent. Small ones keep the digits that make them different from 0.
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
        hold: Duration::from_secs(60),
    };
    const CANARY: Mode = Mode::Canary { percent: 5 };

    fn after(mode: Mode, seconds: u64, trial: Counts, active: Counts) -> Verdict {
        judge(mode, &BOUNDS, &trial, &active, Timestamp(1_000), Timestamp(1_000 + seconds * 1_000))
    }

    fn faults(faults: u64, calls: u64) -> Counts {
        Counts { calls, faults, ..Counts::default() }
    }

    fn timed(timed: u64, call_ns: u64) -> Counts {
        Counts { calls: 1_000, timed, call_ns_sum: timed * call_ns, ..Counts::default() }
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
            assert_eq!(after(CANARY, seconds, faults(0, calls), Counts::default()), wanted, "{calls} in {seconds} s");
        }
    }

    #[test]
    fn faults_roll_it_back_as_soon_as_they_are_clear() {
        let over = |times, of| Verdict::RollBack(Reason::Faults(Rate { times, of, ppm_max: 10_000 }));
        for (times, of, wanted) in [
            (1, 1, Verdict::Wait),
            (2, 2, Verdict::Wait),
            (3, 3, over(3, 3)),
            (3, 30, over(3, 30)),
            (3, 100, Verdict::Wait),
            (4, 100, over(4, 100)),
            (1, 100, Verdict::Promote),
            (2, 100, Verdict::Wait),
            (2, 200, Verdict::Promote),
            (1_000, 100_000, Verdict::Promote),
            (1_010, 100_000, Verdict::Wait),
            (1_200, 100_000, over(1_200, 100_000)),
        ] {
            assert_eq!(after(CANARY, 60, faults(times, of), Counts::default()), wanted, "{times} of {of}");
        }
    }

    #[test]
    fn where_no_fault_is_allowed_one_is_enough() {
        let bounds = Bounds { faults_ppm_max: 0, ..BOUNDS };
        let verdict = |times, of| judge(CANARY, &bounds, &faults(times, of), &faults(0, 0), Timestamp(0), Timestamp(0));
        assert_eq!(verdict(0, 10_000), Verdict::Wait);
        for of in [1, 10_000] {
            assert!(matches!(verdict(1, of), Verdict::RollBack(_)), "1 of {of}");
        }
    }

    #[test]
    fn disagreements_count_in_the_shadow_only() {
        let trial = Counts { calls: 200, compared: 150, disagreed: 60, ..Counts::default() };
        let rate = Rate { times: 60, of: 150, ppm_max: 100_000 };
        assert_eq!(after(Mode::Shadow, 60, trial, Counts::default()), Verdict::RollBack(Reason::Disagreements(rate)));
        assert_eq!(after(CANARY, 60, trial, Counts::default()), Verdict::Promote);
        let unclear = Counts { disagreed: 17, ..trial };
        assert_eq!(after(Mode::Shadow, 60, unclear, Counts::default()), Verdict::Wait);
        let within = Counts { disagreed: 15, ..trial };
        assert_eq!(after(Mode::Shadow, 60, within, Counts::default()), Verdict::Promote);
    }

    #[test]
    fn times_are_compared_when_there_are_enough() {
        let slow = Verdict::RollBack(Reason::Latency { trial_ns: 1_600, active_ns: 1_000, percent_max: 150 });
        for (trial, active, wanted) in [
            (timed(100, 1_600), timed(100, 1_000), slow),
            (timed(100, 1_500), timed(100, 1_000), Verdict::Promote),
            (timed(99, 1_600), timed(100, 1_000), Verdict::Promote),
            (timed(100, 1_600), timed(99, 1_000), Verdict::Promote),
            (timed(100, 1_600), timed(0, 0), Verdict::Promote),
            (timed(100, 1_600), timed(100, 0), Verdict::Promote),
            (timed(100, 500), timed(100, 1_000), Verdict::Promote),
        ] {
            assert_eq!(after(CANARY, 60, trial, active), wanted, "{trial:?} beside {active:?}");
        }
        let now = Bounds { requests_min: 0, ..BOUNDS };
        let nothing = Counts::default();
        assert_eq!(judge(CANARY, &now, &nothing, &nothing, Timestamp(0), Timestamp(0)), Verdict::Wait);
    }

    /// The call after which a generation that faults at this rate is rolled back, judged after each; none within 3,000.
    fn rolled_back(rate: f64, seed: u64) -> Option<u64> {
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut trial = Counts::default();
        (1..=3_000).find(|calls| {
            trial.calls = *calls;
            trial.faults += u64::from(chance.f64() < rate);
            matches!(after(CANARY, 0, trial, Counts::default()), Verdict::RollBack(_))
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

    #[test]
    fn reasons_say_what_was_found_and_what_is_allowed() {
        let rate = |times, of, ppm_max| Rate { times, of, ppm_max };
        for (reason, wanted) in [
            (Reason::Faults(rate(12, 100, 10_000)), "faulted in 12.0 % of 100 calls; 1.0 % are allowed"),
            (Reason::Faults(rate(3, 100_000, 5)), "faulted in 0.003 % of 100000 calls; 0.0005 % are allowed"),
            (Reason::Faults(rate(1, 3, 0)), "faulted in 33.3 % of 3 calls; 0.0 % are allowed"),
            (Reason::Disagreements(rate(60, 150, 1_000)), "disagreed in 40.0 % of 150 comparisons; 0.1 % are allowed"),
            (
                Reason::Latency { trial_ns: 1_505, active_ns: 1_000, percent_max: 150 },
                "a call takes 1.5 µs, 151 % of the active generation's 1.0 µs; 150 % are allowed",
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
