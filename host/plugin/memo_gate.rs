//! Whether remembering a hook's verdicts pays: a look-up that finds nothing is lost time, and a call may be cheaper
//! than a look-up.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// Lookups that are judged together.
pub(super) const WINDOW: u64 = 1024;

/// How long it stays off at first, in windows; twice as long after each trial that didn't pay.
const REST_WINDOWS: u64 = 16;

/// The longest that it stays off, in windows.
const REST_WINDOWS_MAX: u64 = 256;

/// The weight of a new cost in the mean.
const WEIGHT: f64 = 1.0 / 8.0;

/// A cost counts for so many times what is known at most: that a thread was put to sleep says nothing about a look-up.
const OUTLIER: f64 = 8.0;

/// Decides whether verdicts of one hook are remembered. Its fields are approximations: an update that is lost to
/// another thread's makes the decision a little later or a little coarser, never a verdict wrong.
pub(super) struct MemoGate {
    state: AtomicU8,
    /// Lookups of this window in the lower half, hits among them in the upper: one step counts both.
    window: AtomicU64,
    /// Calls until it is tried again.
    left: AtomicU64,
    /// Windows that the next rest takes.
    rest: AtomicU64,
    lookup: Cost,
    insert: Cost,
    call: Cost,
}

/// Whether verdicts are remembered, and if not, why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// They are.
    On,
    /// It doesn't pay at present.
    Off,
    /// The policy gave two verdicts on the same inputs: it keeps state, and is always called.
    Stateful,
}

impl State {
    /// Returns the label for metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Stateful => "stateful",
        }
    }
}

impl MemoGate {
    /// Returns a gate that is on until it turns out not to pay.
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU8::new(State::On as u8),
            window: AtomicU64::new(0),
            left: AtomicU64::new(0),
            rest: AtomicU64::new(REST_WINDOWS),
            lookup: Cost::default(),
            insert: Cost::default(),
            call: Cost::default(),
        }
    }

    /// Whether to look a verdict up. To be called once before each call of the policy: while it is off, that counts the
    /// calls.
    pub(super) fn is_on(&self) -> bool {
        match self.state() {
            State::On => true,
            State::Off => self.rested(),
            State::Stateful => false,
        }
    }

    /// Notes that a verdict was looked up, and found or not. Decides after every [`WINDOW`].
    pub(super) fn looked_up(&self, hit: bool) {
        let step = 1 | (u64::from(hit) << 32);
        if lookups(self.window.fetch_add(step, Relaxed) + step) == WINDOW {
            // Those that came in between are part of this window.
            let window = self.window.swap(0, Relaxed);
            self.judge(lookups(window), window >> 32);
        }
    }

    /// Returns the look-ups of this window so far: to draw a sample by.
    pub(super) fn lookups(&self) -> u64 {
        lookups(self.window.load(Relaxed))
    }

    /// Notes the time of a sampled look-up.
    pub(super) fn lookup_took(&self, ns: u64) {
        self.lookup.took(ns);
    }

    /// Notes the time it took to remember a sampled verdict.
    pub(super) fn insert_took(&self, ns: u64) {
        self.insert.took(ns);
    }

    /// Notes the time of a sampled call of the policy, with all that belongs to it.
    pub(super) fn call_took(&self, ns: u64) {
        self.call.took(ns);
    }

    /// Notes that the policy gave another verdict than the remembered one. From now on nothing is remembered.
    pub(super) fn disagreed(&self) {
        self.state.store(State::Stateful as u8, Relaxed);
    }

    /// Whether verdicts are remembered at present.
    pub(super) fn state(&self) -> State {
        match self.state.load(Relaxed) {
            0 => State::On,
            1 => State::Off,
            _ => State::Stateful,
        }
    }

    /// Counts a call that wasn't looked up. Exactly one of them is the last, and ends the rest.
    fn rested(&self) -> bool {
        if self.left.fetch_sub(1, Relaxed) != 1 {
            return false;
        }
        self.window.store(0, Relaxed);
        self.turn(State::Off, State::On)
    }

    fn judge(&self, lookups: u64, hits: u64) {
        // Look-ups from before the rest may report late.
        if self.state() != State::On {
            return;
        }
        if self.pays(lookups as f64, hits as f64) {
            self.rest.store(REST_WINDOWS, Relaxed);
            return;
        }
        let rest = self.rest.load(Relaxed);
        self.rest.store((rest * 2).min(REST_WINDOWS_MAX), Relaxed);
        self.left.store(rest * WINDOW, Relaxed);
        self.turn(State::On, State::Off);
    }

    /// Whether look-ups pay. While the cost of a call is unknown, they are assumed to.
    fn pays(&self, lookups: f64, hits: f64) -> bool {
        let Some(call) = self.call.known() else { return true };
        let [lookup, insert] = [&self.lookup, &self.insert].map(|cost| cost.known().unwrap_or(0.0));
        hits * call >= lookups * lookup + (lookups - hits) * insert
    }

    /// Switches from one state to another. What was found to keep state never changes.
    fn turn(&self, from: State, to: State) -> bool {
        self.state.compare_exchange(from as u8, to as u8, Relaxed, Relaxed).is_ok()
    }
}

const fn lookups(window: u64) -> u64 {
    window & 0xffff_ffff
}

/// An exponentially weighted mean of nanoseconds, as the bits of a float; zero if nothing is known.
#[derive(Default)]
struct Cost(AtomicU64);

impl Cost {
    fn took(&self, ns: u64) {
        let ns = ns.max(1) as f64;
        let mean = self.known().map_or(ns, |mean| mean + (ns.min(mean * OUTLIER) - mean) * WEIGHT);
        self.0.store(mean.to_bits(), Relaxed);
    }

    fn known(&self) -> Option<f64> {
        let mean = f64::from_bits(self.0.load(Relaxed));
        (mean > 0.0).then_some(mean)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Returns a gate by which a call costs ten times a look-up, and remembering twice.
    fn gate() -> MemoGate {
        let gate = MemoGate::new();
        gate.lookup_took(100);
        gate.insert_took(200);
        gate.call_took(1_000);
        gate
    }

    /// Makes so many look-ups; a share of them, in percent, hits.
    fn look(gate: &MemoGate, lookups: u64, hit_percent: u64) {
        for at in 0..lookups {
            assert!(gate.is_on());
            gate.looked_up(at % 100 < hit_percent);
        }
    }

    /// Returns how many calls in a row aren't looked up.
    fn rest(gate: &MemoGate) -> u64 {
        (1..).find(|_| gate.is_on()).unwrap()
    }

    #[test]
    fn it_stays_on_while_it_pays() {
        for (hit_percent, wanted) in [(0, State::Off), (20, State::Off), (30, State::On), (100, State::On)] {
            let gate = gate();
            look(&gate, WINDOW - 1, hit_percent);
            assert_eq!(gate.state(), State::On, "judged by whole windows");
            gate.looked_up(hit_percent == 100);
            assert_eq!(gate.state(), wanted, "{hit_percent} % hits");
        }
    }

    #[test]
    fn a_call_that_is_cheaper_than_a_lookup_is_made() {
        let gate = gate();
        (0..100).for_each(|_| gate.call_took(50));
        look(&gate, WINDOW, 100);
        assert_eq!(gate.state(), State::Off);
    }

    #[test]
    fn it_is_tried_again_after_ever_longer_rests() {
        let gate = gate();
        for windows in [16, 32, 64, 128, 256, 256] {
            look(&gate, WINDOW, 0);
            assert_eq!(gate.state(), State::Off);
            assert_eq!(rest(&gate), windows * WINDOW);
        }
        look(&gate, WINDOW - 1, 90);
        gate.looked_up(true);
        assert_eq!(gate.state(), State::On);
        look(&gate, WINDOW, 0);
        assert_eq!(rest(&gate), 16 * WINDOW, "a window that paid is a new beginning");
    }

    #[test]
    fn nothing_is_judged_before_a_call_was_timed() {
        let gate = MemoGate::new();
        gate.lookup_took(100);
        look(&gate, 4 * WINDOW, 0);
        assert_eq!(gate.state(), State::On);
    }

    #[test]
    fn a_policy_that_keeps_state_is_asked_for_good() {
        let gate = gate();
        look(&gate, WINDOW, 0);
        gate.disagreed();
        assert!((0..1_000 * WINDOW).all(|_| !gate.is_on()));
        assert_eq!((gate.state(), gate.state().as_str()), (State::Stateful, "stateful"));
    }

    #[test]
    fn late_reports_do_not_lengthen_the_rest() {
        let gate = gate();
        look(&gate, WINDOW, 0);
        (0..3 * WINDOW + 500).for_each(|_| gate.looked_up(false));
        assert_eq!(rest(&gate), 16 * WINDOW);
        look(&gate, WINDOW, 0);
        assert_eq!(rest(&gate), 32 * WINDOW);
    }

    #[test]
    fn costs_follow_what_is_usual() {
        let cost = Cost::default();
        assert_eq!(cost.known(), None);
        cost.took(100);
        cost.took(10_000_000);
        assert!(cost.known().unwrap() < 200.0, "one that slept");
        (0..100).for_each(|_| cost.took(10_000));
        assert!((cost.known().unwrap() - 10_000.0).abs() < 1.0, "all that are slow");
        (0..200).for_each(|_| cost.took(0));
        assert!(cost.known().is_some_and(|mean| mean < 2.0));
    }

    #[test]
    fn threads_judge_each_window_once() {
        let gate = gate();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..WINDOW / 4).for_each(|_| gate.looked_up(false)));
            }
        });
        assert_eq!(gate.state(), State::Off);
        let tried = thread::scope(|scope| {
            let count = || (0..4 * WINDOW).filter(|_| gate.is_on()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert!(tried >= 1 && gate.state() == State::On, "one of 16 windows' calls was the last");
    }
}
