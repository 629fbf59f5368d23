//! The pace that measures: how long the model takes, and whether the clients that it has served ask again at once. Pure.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Estimate, Outcome, Outlook, Pace, Returned, Verdict, Why,
    cost::{Cost, Costs},
    echo::{Echo, seconds_between},
};

/// Classes of which echoes are known; the one that came back longest ago gives way.
const CLASSES_MAX: usize = 256;

/// The part of a batch's fixed cost that a slot stays empty for at most.
const WAIT_PART_MAX: f64 = 0.5;

/// The part of the time that items spend at the model that waits may cost without winning it back.
const LOSS_PART_MAX: f64 = 0.01;

/// Sends at once, unless the items that follow a batch, because its clients ask again, are worth a wait.
///
/// Each item that joins a batch which leaves a little later is spared the fixed cost of another one. So a slot stays
/// empty while (items expected to join, beyond what the mean rate explains) × (fixed cost) is more than (the wait) ×
/// (items that wait, and those that come too late to join but before the batch is back). With other slots free nothing
/// is won by waiting, and of several slots only one is held up. Nothing of this is configured: the costs are fitted to
/// what came back, the echo is learned from what followed, and waits that haven't paid aren't repeated.
#[derive(Debug, Default)]
pub struct Adaptive {
    costs: Costs,
    classes: HashMap<u64, ClassPace>,
    /// How long the last batch was held.
    held: Duration,
}

impl Adaptive {
    /// Returns a pace that has measured nothing yet, and sends at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Pace for Adaptive {
    fn on_arrival(&mut self, class: u64, at: Instant, items: usize) {
        // Before its first batch is back nothing can follow one.
        if let Some(class) = self.classes.get_mut(&class) {
            class.echo.arrived(at, items as f64);
        }
    }

    fn on_batch(&mut self, class: u64, returned: &Returned, at: Instant) {
        let Returned { items, took, outcome, endpoint } = returned;
        if *outcome == Outcome::Responded {
            self.costs.add(class, endpoint.as_ref(), *items, took.as_secs_f64());
        }
        if self.classes.len() >= CLASSES_MAX && !self.classes.contains_key(&class) {
            let oldest = self.classes.iter().min_by_key(|(_, known)| known.last).map(|(class, _)| *class);
            if let Some(oldest) = oldest {
                self.classes.remove(&oldest);
            }
        }
        let class = self.classes.entry(class).or_insert_with(|| ClassPace::new(at));
        class.returned(at, *items as f64, took.as_secs_f64());
    }

    fn next(&mut self, outlook: &Outlook) -> Verdict {
        let cost = self.costs.of(outlook.offer.class);
        let Some(class) = self.classes.get_mut(&outlook.offer.class) else {
            return Verdict::Send(outlook.at_once());
        };
        let verdict = class.decide(outlook, cost);
        match verdict {
            Verdict::Send(_) => self.held = class.release(outlook, cost),
            Verdict::WaitUntil(_) => class.hold(outlook),
        }
        verdict
    }

    fn estimate(&self) -> Option<Estimate> {
        let Cost { fixed, per_item } = self.costs.pool();
        let [fixed, per_item] = [fixed, per_item].map(|part| Duration::try_from_secs_f64(part).unwrap_or_default());
        Some(Estimate { fixed, per_item, held: self.held })
    }

    fn expected(&self, class: u64, endpoint: Option<&Arc<str>>, items: usize) -> Option<Duration> {
        self.costs.at(class, endpoint).map(|cost| cost.of(items))
    }

    fn typical(&self, class: u64, items: usize) -> Option<Duration> {
        Some(self.costs.of(class).of(items)).filter(|time| !time.is_zero())
    }
}

impl Outlook {
    /// Returns why a batch is sent that was never held.
    const fn at_once(&self) -> Why {
        match (self.full, self.offer.freed) {
            (true, _) => Why::Full,
            (false, true) => Why::Freed,
            (false, false) => Why::Idle,
        }
    }
}

/// What is known of one class.
#[derive(Debug)]
struct ClassPace {
    echo: Echo,
    held: Option<Held>,
    /// What waits have won, less what they have cost, in seconds of an item's time.
    balance: f64,
    balance_max: f64,
    /// When a batch came back.
    last: Instant,
}

/// A batch that is being held.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Since when the slot has been free that is held for it.
    slot: Instant,
    began: Instant,
    /// Items that it had then.
    items: f64,
}

impl ClassPace {
    fn new(last: Instant) -> Self {
        Self { echo: Echo::default(), held: None, balance: 0.0, balance_max: 0.0, last }
    }

    fn returned(&mut self, at: Instant, items: f64, took: f64) {
        self.last = at;
        self.echo.returned(at, items);
        // What was won long ago is no reason to lose it now.
        self.balance_max = items * took;
        self.earn(LOSS_PART_MAX * items * took);
    }

    fn earn(&mut self, seconds: f64) {
        self.balance = (self.balance + seconds).min(self.balance_max);
    }

    fn decide(&self, outlook: &Outlook, cost: Cost) -> Verdict {
        let Outlook { items, full, due, deadline, offer, now, .. } = *outlook;
        let held = self.held_for(outlook).is_some();
        // The last moment at which the first deadline can be met, if the model keeps to what it took so far.
        let latest = deadline.map_or(due, |deadline| deadline.checked_sub(cost.of(items)).unwrap_or(now));
        if full {
            return Verdict::Send(Why::Full);
        }
        let end = latest.min(due);
        let may_wait = offer.free == 1 && self.balance >= 0.0;
        match may_wait.then(|| self.worthwhile(outlook, cost, end)).flatten() {
            Some(wait) => Verdict::WaitUntil(end.min(now + wait)),
            None if !held => Verdict::Send(outlook.at_once()),
            None if now >= end && latest < due => Verdict::Send(Why::Deadline),
            None if now >= end => Verdict::Send(Why::Due),
            None => Verdict::Send(Why::Echo),
        }
    }

    /// Returns the wait that wins most and ends before `end`, if one wins anything.
    fn worthwhile(&self, outlook: &Outlook, cost: Cost, end: Instant) -> Option<Duration> {
        let Outlook { items, size_max, since, offer, now, .. } = *outlook;
        let (room, waiting) = (size_max.saturating_sub(items) as f64, items as f64);
        let saved = cost.fixed / offer.slots as f64;
        let left = WAIT_PART_MAX * saved - seconds_between(since, now);
        let longest = left.min(seconds_between(now, end));
        let best = self.echo.best_wait(now, longest, cost.of(items).as_secs_f64(), |wait, joining, behind| {
            joining.min(room) * saved - (waiting + behind) * wait
        })?;
        Duration::try_from_secs_f64(best).ok()
    }

    fn held_for(&self, outlook: &Outlook) -> Option<Held> {
        self.held.filter(|held| held.slot == outlook.offer.since)
    }

    fn hold(&mut self, outlook: &Outlook) {
        if self.held_for(outlook).is_none() {
            self.held = Some(Held { slot: outlook.offer.since, began: outlook.now, items: outlook.items as f64 });
        }
    }

    /// Settles what a wait has won, now that the batch is sent, and returns how long it was held.
    fn release(&mut self, outlook: &Outlook, cost: Cost) -> Duration {
        let held = self.held_for(outlook);
        self.held = None;
        let Some(held) = held else { return Duration::ZERO };
        // The items for which it began to wait may be gone.
        let wait = outlook.now.saturating_duration_since(held.began.max(outlook.since));
        let (items, seconds) = (outlook.items as f64, wait.as_secs_f64());
        let joined = (items - held.items - self.echo.rate() * seconds).max(0.0);
        let saved = cost.fixed / outlook.offer.slots as f64;
        let behind = self.echo.expected(outlook.now, cost.of(outlook.items).as_secs_f64());
        self.earn(joined * saved - seconds * (f64::midpoint(items, held.items) + behind));
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::pace::Offer;

    const CLASS: u64 = 7;

    fn responded(items: usize) -> Returned {
        let took = Duration::from_millis(20) + Duration::from_millis(1) * u32::try_from(items).unwrap();
        Returned { items, took, outcome: Outcome::Responded, endpoint: None }
    }

    /// Returns an outlook on so many items that wait since a slot has been free.
    fn outlook(items: usize, since: Instant, now: Instant) -> Outlook {
        Outlook {
            items,
            size_max: 32,
            since,
            due: since + Duration::from_millis(100),
            full: false,
            under_way: 0,
            deadline: None,
            offer: Offer { class: CLASS, since, free: 1, slots: 1, freed: true },
            now,
        }
    }

    /// Returns a pace that knows that four clients ask again within a millisecond, when a batch of theirs is just back.
    fn experienced(start: Instant) -> (Adaptive, Instant) {
        let (mut pace, mut now) = (Adaptive::new(), start);
        for round in 0..40 {
            pace.on_batch(CLASS, &responded(4), now);
            for _ in 0..4 {
                pace.on_arrival(CLASS, now + Duration::from_millis(1), 1);
            }
            now += Duration::from_millis(if round % 2 == 0 { 24 } else { 28 });
        }
        pace.on_batch(CLASS, &responded(4), now);
        (pace, now)
    }

    #[track_caller]
    fn assert_waits(verdict: Verdict, now: Instant) -> Instant {
        match verdict {
            Verdict::WaitUntil(time) if time > now => time,
            other => panic!("{other:?} at {now:?}"),
        }
    }

    #[test]
    fn what_is_expected_to_follow_is_waited_for_and_not_longer() {
        let (mut pace, back) = experienced(Instant::now());
        let time = assert_waits(pace.next(&outlook(4, back, back)), back);
        assert!(time <= back + Duration::from_millis(5), "{:?}", time - back);
        let all = back + Duration::from_millis(1);
        pace.on_arrival(CLASS, all, 4);
        assert_eq!(pace.next(&outlook(8, back, all)), Verdict::Send(Why::Echo));
        assert_eq!(pace.estimate().map(|estimate| estimate.held), Some(Duration::from_millis(1)));
    }

    #[test]
    fn nothing_is_waited_for_before_anything_is_known_or_with_another_slot_free() {
        let start = Instant::now();
        let idle =
            Outlook { offer: Offer { freed: false, ..outlook(1, start, start).offer }, ..outlook(1, start, start) };
        assert_eq!(Adaptive::new().next(&idle), Verdict::Send(Why::Idle));
        let (mut pace, back) = experienced(start);
        let more = outlook(4, back, back);
        let other_free = Outlook { offer: Offer { free: 2, slots: 2, ..more.offer }, ..more };
        assert_eq!(pace.next(&other_free), Verdict::Send(Why::Freed));
        let other_class = Outlook { offer: Offer { class: CLASS + 1, ..more.offer }, ..more };
        assert_eq!(pace.next(&other_class), Verdict::Send(Why::Freed));
        let full = Outlook { full: true, ..more };
        assert_eq!(pace.next(&full), Verdict::Send(Why::Full));
        assert_waits(pace.next(&more), back);
    }

    #[test]
    fn a_deadline_and_the_operators_bound_end_a_wait() {
        let (mut pace, back) = experienced(Instant::now());
        let two = Duration::from_millis(2);
        // A batch of four takes 24 ms.
        let urgent = Outlook { deadline: Some(back + Duration::from_millis(24) + two), ..outlook(4, back, back) };
        assert!(assert_waits(pace.next(&urgent), back) <= back + two + Duration::from_micros(100));
        let late = Outlook { now: back + two + Duration::from_micros(100), ..urgent };
        assert_eq!(pace.next(&late), Verdict::Send(Why::Deadline));
        let bounded = Outlook { due: back + two, ..outlook(4, back, back) };
        assert!(assert_waits(pace.next(&bounded), back) <= back + two);
        assert_eq!(pace.next(&Outlook { now: back + two, ..bounded }), Verdict::Send(Why::Due));
        let hopeless = Outlook { deadline: Some(back), ..outlook(4, back, back) };
        assert_eq!(pace.next(&hopeless), Verdict::Send(Why::Freed), "it was never held");
    }

    #[test]
    fn waits_that_bring_nothing_stop_and_are_tried_again_after_a_while() {
        let (mut pace, mut back) = experienced(Instant::now());
        let mut waits = 0;
        for _ in 0..400 {
            let mut now = back;
            while let Verdict::WaitUntil(time) = pace.next(&outlook(4, back, now)) {
                now = time;
            }
            waits += u32::from(now > back);
            // Those that followed are seen as before, but none of them in time: each wait is in vain.
            back = now + Duration::from_millis(24);
            pace.on_arrival(CLASS, now + Duration::from_millis(1), 4);
            pace.on_batch(CLASS, &responded(4), back);
        }
        assert!(waits < 60, "{waits} of 400 batches waited for nothing");
    }

    #[test]
    fn only_so_many_classes_are_known() {
        let (mut pace, start) = (Adaptive::new(), Instant::now());
        for class in 0..2 * CLASSES_MAX as u64 {
            pace.on_batch(class, &responded(1), start + Duration::from_millis(class));
        }
        assert_eq!(pace.classes.len(), CLASSES_MAX);
        assert!(!pace.classes.contains_key(&0) && pace.classes.contains_key(&(2 * CLASSES_MAX as u64 - 1)));
    }
}
