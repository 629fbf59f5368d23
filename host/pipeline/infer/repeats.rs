//! The distinct items of a request: what stands in it several times is looked up, and sent, once. Pure.

use std::collections::HashMap;

use crate::cache::key::{Key, KeyHash};

/// The places of a request's items among the distinct ones, which are numbered in the order in which they come first.
pub(super) struct Places(Vec<usize>);

/// Returns the items without those that have the key of an earlier one, which `repeated` is called for. An item without
/// a key is like no other.
pub(super) fn distinct<T>(items: Vec<T>, key: impl Fn(&T) -> Option<Key>, repeated: impl Fn(&T)) -> (Vec<T>, Places) {
    let mut place_of = HashMap::with_capacity_and_hasher(items.len(), KeyHash::default());
    let mut places = Vec::with_capacity(items.len());
    let mut firsts = Vec::with_capacity(items.len());
    for item in items {
        let next = firsts.len();
        let place = key(&item).map_or(next, |key| *place_of.entry(key).or_insert(next));
        places.push(place);
        if place == next {
            firsts.push(item);
        } else {
            repeated(&item);
        }
    }
    (firsts, Places(places))
}

impl Places {
    /// Returns the results of all items, in their order, of those of the distinct ones; `again` makes that of an item
    /// which isn't the first of its kind.
    pub(super) fn spread<R>(&self, results: Vec<R>, again: impl Fn(&R) -> R) -> Vec<R> {
        let mut spread: Vec<R> = Vec::with_capacity(self.0.len());
        // Where the first of each kind is.
        let mut firsts: Vec<usize> = Vec::with_capacity(results.len());
        let mut results = results.into_iter();
        for place in &self.0 {
            let result = match firsts.get(*place) {
                Some(first) => spread.get(*first).map(&again),
                None => {
                    firsts.push(spread.len());
                    results.next()
                }
            };
            spread.extend(result);
        }
        spread
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    /// Returns the key of a number; 0 has none.
    fn key(number: &u8) -> Option<Key> {
        (*number > 0).then(|| Key::from_bytes([*number; 32]))
    }

    /// Returns the distinct ones of these items, and the results of all if that of each distinct one is its number; one
    /// that is repeated has 100 more.
    fn spread(items: &[u8]) -> (Vec<u8>, Vec<usize>) {
        let repeated = Cell::new(0);
        let (distinct, places) = distinct(items.to_vec(), key, |_| repeated.set(repeated.get() + 1));
        assert_eq!(distinct.len() + repeated.get(), items.len());
        let results = places.spread((0..distinct.len()).collect(), |result| result % 100 + 100);
        (distinct, results)
    }

    #[test]
    fn what_stands_twice_is_there_once_and_its_result_twice() {
        for (items, distinct, results) in [
            (&[1_u8][..], &[1_u8][..], &[0_usize][..]),
            (&[], &[], &[]),
            (&[1, 2, 3], &[1, 2, 3], &[0, 1, 2]),
            (&[1, 1, 1], &[1], &[0, 100, 100]),
            (&[7, 5, 7, 5, 6], &[7, 5, 6], &[0, 1, 100, 101, 2]),
            (&[0, 0, 4, 0, 4], &[0, 0, 4, 0], &[0, 1, 2, 3, 102]),
        ] {
            assert_eq!(spread(items), (distinct.to_vec(), results.to_vec()), "{items:?}");
        }
    }

    proptest! {
        #[test]
        fn each_item_has_the_result_of_its_own_key(items in prop::collection::vec(0_u8..8, 0..40)) {
            let (distinct, results) = spread(&items);
            prop_assert_eq!(results.len(), items.len());
            for (item, result) in items.iter().zip(results) {
                prop_assert_eq!(distinct[result % 100], *item);
            }
        }
    }
}
