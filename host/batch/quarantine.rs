//! The items that are sent alone for a while, because they failed in company. Pure: the time is an argument.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::clock::Uptime;

/// A digest of an item and of what else decides what it is a request for.
pub type Digest = [u8; 32];

/// A table of items, each until its time is over. Full, it forgets those that failed longest ago.
#[derive(Debug)]
pub struct Quarantine {
    items_max: usize,
    lasts: Duration,
    until: HashMap<Digest, Uptime>,
    /// The same items, those that failed longest ago first.
    order: VecDeque<Digest>,
}

impl Quarantine {
    /// Returns an empty table of at most `items_max` items, each of which stays for `lasts`.
    #[must_use]
    pub fn new(items_max: usize, lasts: Duration) -> Self {
        Self { items_max, lasts, until: HashMap::new(), order: VecDeque::new() }
    }

    /// Takes an item in, or in again: its time begins anew.
    pub fn insert(&mut self, item: Digest, now: Uptime) {
        while let Some(oldest) = self.order.front()
            && !self.holds(oldest, now)
        {
            self.forget_oldest();
        }
        if self.until.remove(&item).is_some() {
            self.order.retain(|known| *known != item);
        }
        self.until.insert(item, now.plus(self.lasts));
        self.order.push_back(item);
        while self.order.len() > self.items_max {
            self.forget_oldest();
        }
    }

    /// Whether an item is to be sent alone.
    #[must_use]
    pub fn holds(&self, item: &Digest, now: Uptime) -> bool {
        self.until.get(item).is_some_and(|until| now < *until)
    }

    /// Whether no item is, so that none needs to be looked up.
    #[must_use]
    pub fn is_empty(&self, now: Uptime) -> bool {
        self.order.back().is_none_or(|youngest| !self.holds(youngest, now))
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.order.pop_front() {
            self.until.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: fn(u64) -> Uptime = Uptime;

    fn table(items_max: usize) -> Quarantine {
        Quarantine::new(items_max, Duration::from_millis(100))
    }

    #[test]
    fn an_item_stays_for_its_time_and_longer_if_it_fails_again() {
        let mut table = table(8);
        assert!(table.is_empty(T(0)));
        table.insert([1; 32], T(0));
        table.insert([2; 32], T(50));
        assert!(table.holds(&[1; 32], T(99)) && !table.holds(&[1; 32], T(100)) && !table.holds(&[3; 32], T(1)));
        table.insert([1; 32], T(99));
        assert!(table.holds(&[1; 32], T(198)) && !table.holds(&[2; 32], T(150)));
        assert!(!table.is_empty(T(198)) && table.is_empty(T(199)));
        table.insert([3; 32], T(300));
        assert_eq!((table.until.len(), table.order.len()), (1, 1), "what is over is forgotten");
    }

    #[test]
    fn a_full_table_forgets_what_failed_longest_ago() {
        let mut table = table(2);
        for item in [1, 2, 1, 3] {
            table.insert([item; 32], T(0));
        }
        assert_eq!([1, 2, 3].map(|item| table.holds(&[item; 32], T(1))), [true, false, true]);
        let mut none = Quarantine::new(0, Duration::from_millis(100));
        none.insert([1; 32], T(0));
        assert!(none.is_empty(T(0)));
    }

    proptest! {
        #[test]
        fn it_is_never_larger_than_it_may_be_and_no_item_stays_for_longer(
            items_max in 0_usize..6,
            steps in prop::collection::vec((0_u8..10, 0_u64..60), 0..200),
        ) {
            let mut table = table(items_max);
            let (mut now, mut last) = (0, HashMap::new());
            for (item, pause) in steps {
                now += pause;
                for (known, since) in &last {
                    let holds = table.holds(&[*known; 32], T(now));
                    prop_assert!(!holds || now < since + 100, "{known} since {since} at {now}");
                    prop_assert!(!holds || !table.is_empty(T(now)));
                }
                table.insert([item; 32], T(now));
                last.insert(item, now);
                prop_assert!(table.order.len() <= items_max && table.until.len() == table.order.len());
            }
        }
    }
}
