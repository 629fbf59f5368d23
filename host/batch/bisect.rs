//! The search for the items that a batch fails for: which of its items are sent again together. Pure: its input is what
//! became of the requests so far, its output the next one.
//!
//! A range of items that failed together is halved, unevenly: if the smaller part succeeds, the fault lies in the other
//! one, which is divided at once, without being sent as a whole. So one item among n is found, and all others have their
//! results, after at most 2·log2(n) further requests.

use std::ops::Range;

/// Requests that fail, from the first on, until the failure is put down to the model instead of single items.
const FAILURES_MAX: usize = 5;

/// The state of a search. Items are known by their place in the batch.
#[derive(Debug)]
pub struct Bisection {
    requests_left: usize,
    /// Ranges that failed together, or in which the fault must lie. Single items are to be sent alone.
    suspects: Vec<Range<usize>>,
    /// The other part of the range whose first part is being sent.
    rest: Option<Range<usize>>,
    /// A part beside one that failed: nothing is known of it.
    unknown: Option<Range<usize>>,
    failures: usize,
    has_succeeded: bool,
}

impl Bisection {
    /// Returns the search in a batch of so many items that is about to be sent.
    #[must_use]
    pub const fn new(items: usize) -> Self {
        Self {
            requests_left: requests_max(items),
            suspects: Vec::new(),
            rest: None,
            unknown: None,
            failures: 0,
            has_succeeded: false,
        }
    }

    /// Notes that these items failed together: the whole batch, or what [`Bisection::next_request`] returned last.
    pub fn failed(&mut self, items: Range<usize>) {
        self.failures += 1;
        self.unknown = self.rest.take();
        if items.len() > 1 {
            self.suspects.push(items);
        }
    }

    /// Notes that these items were responded to, but for `spoiled`, which are to be sent alone.
    pub fn succeeded(&mut self, items: &Range<usize>, spoiled: &[usize]) {
        self.has_succeeded = true;
        self.suspects.extend(self.rest.take());
        if items.len() > 1 {
            self.suspects.extend(spoiled.iter().map(|at| *at..at + 1));
        }
    }

    /// Notes that what [`Bisection::next_request`] returned last wasn't sent.
    pub fn skipped(&mut self) {
        self.unknown = self.rest.take();
    }

    /// Returns the items to be sent together next; `None` if all is known, or nothing more may be sent. What they bring
    /// is to be noted before the next call.
    pub fn next_request(&mut self) -> Option<Range<usize>> {
        if self.requests_left == 0 || !self.has_succeeded && self.failures >= FAILURES_MAX {
            return None;
        }
        let items = self.unknown.take().or_else(|| self.part_of_largest())?;
        self.requests_left -= 1;
        Some(items)
    }

    /// Whether any request succeeded, so that those which failed are not simply the model's failure.
    #[must_use]
    pub const fn has_succeeded(&self) -> bool {
        self.has_succeeded
    }

    /// Divides the largest suspect: most of its items are probably good.
    fn part_of_largest(&mut self) -> Option<Range<usize>> {
        let (at, _) = self.suspects.iter().enumerate().max_by_key(|(_, items)| items.len())?;
        let items = self.suspects.swap_remove(at);
        if items.len() == 1 {
            return Some(items);
        }
        let middle = items.start + first_part(items.len());
        self.rest = Some(middle..items.end);
        Some(items.start..middle)
    }
}

/// Returns the size of the part that is sent first. The other one costs a request less if the fault is there, so it may
/// be larger.
const fn first_part(items: usize) -> usize {
    let part = items * 2 / 5;
    if part == 0 { 1 } else { part }
}

/// Returns how many requests a search may take beyond the first: 2·log2 of the items, rounded down.
const fn requests_max(items: usize) -> usize {
    let items = if items == 0 { 1 } else { items as u128 };
    items.saturating_mul(items).ilog2() as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Found {
        Good,
        /// Failed alone.
        Bad,
        /// Failed in company.
        Unknown,
    }

    /// Searches in a batch of `count` items of which `bad` fail, and everything that is sent with one of them.
    fn search(count: usize, bad: &BTreeSet<usize>) -> (Vec<Found>, usize) {
        let (mut bisection, mut found) = (Bisection::new(count), vec![Found::Unknown; count]);
        let (mut items, mut further) = (0..count, 0);
        loop {
            assert!(!items.is_empty() && items.end <= count, "{items:?} of {count}");
            assert!(found[items.clone()].iter().all(|known| *known == Found::Unknown), "{items:?} again");
            if bad.range(items.clone()).next().is_none() {
                found[items.clone()].fill(Found::Good);
                bisection.succeeded(&items, &[]);
            } else {
                if items.len() == 1 {
                    found[items.start] = Found::Bad;
                }
                bisection.failed(items);
            }
            match bisection.next_request() {
                Some(next) => (items, further) = (next, further + 1),
                None => return (found, further),
            }
        }
    }

    #[test]
    fn how_many_requests_a_search_may_take() {
        for (items, wanted) in
            [(0, 0), (1, 0), (2, 2), (3, 3), (4, 4), (5, 4), (8, 6), (10, 6), (32, 10), (33, 10), (2_048, 22)]
        {
            assert_eq!(requests_max(items), wanted, "{items} items");
        }
    }

    #[test]
    fn one_bad_item_is_found_wherever_it_is() {
        for count in (1..=64).chain([100, 128, 500, 1_000, 2_048]) {
            for bad in 0..count {
                let (found, further) = search(count, &BTreeSet::from([bad]));
                assert!(further <= requests_max(count), "{bad} of {count}: {further} requests");
                for (at, found) in found.iter().enumerate() {
                    let wanted = if at == bad { Found::Bad } else { Found::Good };
                    assert_eq!(*found, wanted, "{at} beside {bad} of {count}");
                }
            }
        }
    }

    #[test]
    fn two_bad_items_of_thirty_two_cost_few_others() {
        for (first, second) in (0..32).flat_map(|first| (first + 1..32).map(move |second| (first, second))) {
            let (found, further) = search(32, &BTreeSet::from([first, second]));
            assert!(further <= 10, "{first}, {second}");
            let good = found.iter().filter(|found| **found == Found::Good).count();
            assert!(good >= 25, "{first}, {second}: {good} good ones are known");
        }
    }

    #[test]
    fn a_model_that_fails_for_everything_is_asked_a_few_times() {
        for (count, wanted) in [(1, 0), (2, 2), (8, 4), (2_048, 4)] {
            let (found, further) = search(count, &(0..count).collect());
            assert_eq!(further, wanted, "{count} items");
            assert!(!found.contains(&Found::Good));
        }
    }

    #[test]
    fn what_is_spoiled_in_company_is_sent_alone_while_requests_are_left() {
        let mut bisection = Bisection::new(4);
        bisection.succeeded(&(0..4), &[0, 2]);
        let mut alone = BTreeSet::new();
        while let Some(items) = bisection.next_request() {
            alone.insert(items.start);
            bisection.succeeded(&items, &[items.start]);
        }
        assert_eq!(alone, BTreeSet::from([0, 2]), "and not again");

        let mut bisection = Bisection::new(8);
        bisection.succeeded(&(0..8), &[0, 1, 2, 3, 4, 5, 6, 7]);
        let asked =
            std::iter::from_fn(|| bisection.next_request().inspect(|items| bisection.failed(items.clone()))).count();
        assert_eq!(asked, requests_max(8));
    }

    #[test]
    fn a_part_that_was_not_sent_says_nothing_about_the_other() {
        let mut bisection = Bisection::new(10);
        bisection.failed(0..10);
        assert_eq!(bisection.next_request(), Some(0..4));
        bisection.skipped();
        assert_eq!(bisection.next_request(), Some(4..10));
        bisection.succeeded(&(4..10), &[]);
        assert_eq!(bisection.next_request(), None);
    }

    proptest! {
        #[test]
        fn the_budget_holds_and_nothing_is_taken_for_good_or_bad_wrongly(
            (count, bad) in (1_usize..=2_048).prop_flat_map(|count| {
                (Just(count), prop::collection::btree_set(0..count, 0..40))
            }),
        ) {
            let (found, further) = search(count, &bad);
            prop_assert!(further <= requests_max(count));
            for (at, found) in found.iter().enumerate() {
                match found {
                    Found::Good => prop_assert!(!bad.contains(&at)),
                    Found::Bad => prop_assert!(bad.contains(&at)),
                    Found::Unknown => {}
                }
            }
            if bad.len() <= 1 {
                prop_assert!(!found.contains(&Found::Unknown));
            }
        }
    }
}
