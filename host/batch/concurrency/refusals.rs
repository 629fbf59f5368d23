//! Whether refusals of batches (429, 503) say that an endpoint has too much to do. One client's quota, or one item that
//! a model can't take, is refused as often however few batches are under way; then fewer slots would only cost the
//! others. Pure.

use std::collections::VecDeque;

/// Batches that are remembered, for each endpoint, and how many there are at least before anything follows.
const WINDOW: usize = 64;
const WINDOW_MIN: usize = 16;

/// How many of them are refused at least, and which part, before there are fewer slots.
const REFUSED_MIN: usize = 3;
const REFUSED_PART: usize = 10;

/// Batches with fewer slots after which it is judged whether that was of use.
const JUDGED_AFTER: usize = 32;

/// Batches whose refusals count for nothing, because fewer slots were of no use; doubled by each time that shows it.
const DEAF_FOR: u32 = 256;
const DEAF_MAX: u32 = 8_192;

/// What batches and their refusals say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Nothing.
    Stay,
    /// There should be this many slots, which are fewer.
    Lower(usize),
    /// Fewer were of no use: there should be as many as before.
    Restore(usize),
}

/// The batches of late, those that were refused among them.
#[derive(Debug)]
pub(super) struct Refusals {
    /// Whether each was refused.
    recent: VecDeque<bool>,
    judged: Option<Lowered>,
    deaf: u32,
    deaf_next: u32,
}

/// What was before there were fewer slots.
#[derive(Debug)]
struct Lowered {
    slots: usize,
    /// How many batches at once weren't refused.
    useful: f64,
}

impl Refusals {
    pub(super) const fn new() -> Self {
        Self { recent: VecDeque::new(), judged: None, deaf: 0, deaf_next: DEAF_FOR }
    }

    /// Takes in a batch that is back, and says what follows. It was sent with so many slots, to one of so many endpoints.
    pub(super) fn after(&mut self, is_refused: bool, slots: usize, endpoints: usize) -> Advice {
        if self.deaf > 0 {
            self.deaf -= 1;
            return Advice::Stay;
        }
        if self.recent.len() >= WINDOW * endpoints {
            self.recent.pop_front();
        }
        self.recent.push_back(is_refused);
        if let Some(lowered) = &self.judged {
            if self.recent.len() < JUDGED_AFTER * endpoints {
                return Advice::Stay;
            }
            // An endpoint that has too much takes as many as before; one that refuses a part refuses the same part.
            let part = slots as f64 / lowered.slots as f64;
            if self.useful(slots) < lowered.useful * f64::midpoint(1.0, part) {
                let before = lowered.slots;
                (self.judged, self.deaf) = (None, self.deaf_next);
                self.deaf_next = self.deaf_next.saturating_mul(2).min(DEAF_MAX);
                self.recent.clear();
                return Advice::Restore(before);
            }
            (self.judged, self.deaf_next) = (None, DEAF_FOR);
        }
        let refused = self.refused();
        let is_much = refused >= REFUSED_MIN && refused * REFUSED_PART >= self.recent.len();
        if !is_refused || slots <= 1 || self.recent.len() < WINDOW_MIN * endpoints || !is_much {
            return Advice::Stay;
        }
        // The cast saturates.
        Advice::Lower((self.useful(slots).round() as usize).clamp(slots / 2, slots - 1))
    }

    /// Notes that there are fewer slots from now on than these.
    pub(super) fn lowered_from(&mut self, slots: usize) {
        self.judged = Some(Lowered { slots, useful: self.useful(slots) });
        self.recent.clear();
    }

    fn refused(&self) -> usize {
        self.recent.iter().filter(|is_refused| **is_refused).count()
    }

    fn useful(&self, slots: usize) -> f64 {
        slots as f64 * (1.0 - self.refused() as f64 / self.recent.len().max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has so many batches come back, of which those are refused that `is_refused` says by their number and the slots,
    /// and returns the fewest slots that there were, and those that there are.
    fn slots_after(mut slots: usize, batches: usize, is_refused: impl Fn(usize, usize) -> bool) -> (usize, usize) {
        let (mut refusals, mut fewest) = (Refusals::new(), slots);
        for batch in 0..batches {
            match refusals.after(is_refused(batch, slots), slots, 1) {
                Advice::Stay => {}
                Advice::Lower(to) => {
                    refusals.lowered_from(slots);
                    slots = to;
                }
                Advice::Restore(before) => slots = before,
            }
            fewest = fewest.min(slots);
        }
        (fewest, slots)
    }

    #[test]
    fn an_endpoint_that_takes_a_few_gets_as_few() {
        for takes in 1..8 {
            // Of those that are under way at once, what is too much is refused.
            let (_, slots) = slots_after(8, 400, |batch, slots| batch % slots >= takes);
            assert_eq!(slots, takes);
        }
        assert_eq!(slots_after(8, 400, |_, _| true).1, 1, "all are refused");
    }

    #[test]
    fn what_is_refused_however_few_there_are_costs_no_slots_for_long() {
        for every in [40, 12, 8, 5, 3, 2] {
            let (fewest, slots) = slots_after(16, 250, |batch, _| batch % every == 0);
            assert!(fewest >= 8 && slots == 16, "one in {every}: {fewest}, {slots}");
        }
    }

    #[test]
    fn refusals_count_again_after_a_while() {
        let (_, slots) =
            slots_after(8, 2_000, |batch, slots| if batch < 200 { batch % 5 == 0 } else { batch % slots >= 2 });
        assert_eq!(slots, 2);
    }

    #[test]
    fn a_few_refusals_say_nothing() {
        let mut refusals = Refusals::new();
        for batch in 0..1_000 {
            assert_eq!(refusals.after(batch % 16 == 3, 8, 1), Advice::Stay, "{batch}");
        }
    }
}
