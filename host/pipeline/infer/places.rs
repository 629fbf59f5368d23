//! Places in the queue of items that several requests wait for. A request that joins a flight waits for the item of
//! another one; if that is still in a queue, it gets the place that the request's own item would have had, too. So
//! nobody waits behind a list, or a tenant with much to do, because that asked for the same before.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{
    batches::Batchers,
    model::{BatchItem, ItemResult, PendingResult},
};
use crate::batch::{Interest, Interested, Pending, Queued, Terms};

/// Requests that may wait for a flight's item before it is queued, each with terms of its own.
const EARLY_MAX: usize = 16;

/// An item in the queue of its pool.
pub(super) type QueuedItem = Queued<BatchItem, ItemResult>;

/// Items, each with the terms on which a request would have submitted it.
type Items = Vec<(QueuedItem, Terms)>;

/// The items of flights, by the numbers of these: bounded by the flights that there may be.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Places(Mutex<HashMap<u64, Place>>);

#[derive(Debug)]
enum Place {
    /// The item isn't queued yet, or the flight is over; these requests joined it.
    Early(Vec<(Terms, Interested)>),
    Queued(QueuedItem),
}

/// A queued item that is to have a further place for a request.
struct Wish {
    item: QueuedItem,
    terms: Terms,
    interested: Interested,
}

/// The items of a request, which other requests may have joined already.
#[derive(Default)]
pub(super) struct Wishes(Vec<Wish>);

impl Wishes {
    /// Gives the items the places that these requests would have given them.
    pub(super) fn grant(self, batchers: &Batchers) {
        let mut by_pool: BTreeMap<Arc<str>, Vec<(Interested, Items)>> = BTreeMap::new();
        for Wish { item, terms, interested } in self.0 {
            let Some(pool) = item.pool() else { continue };
            let requests = by_pool.entry(pool).or_default();
            match requests.iter_mut().find(|(known, _)| known.is_same(&interested)) {
                Some((_, items)) => items.push((item, terms)),
                None => requests.push((interested, vec![(item, terms)])),
            }
        }
        for (pool, requests) in by_pool {
            let Some(batches) = batchers.get(&pool) else { continue };
            for (interested, items) in requests {
                batches.hasten(&items, &interested);
            }
        }
    }
}

/// The row of a flight, which goes with it.
#[derive(Debug)]
pub(super) struct Row {
    places: Arc<Places>,
    flight: u64,
}

impl Drop for Row {
    fn drop(&mut self) {
        self.places.0.lock().remove(&self.flight);
    }
}

/// A request's part in the flights of others. The places that their items have for its sake go with it.
#[derive(Debug)]
pub(super) struct Following {
    places: Arc<Places>,
    early: Vec<u64>,
    interest: Interest,
}

impl Drop for Following {
    fn drop(&mut self) {
        let (own, mut rows) = (self.interest.handle(), self.places.0.lock());
        for flight in &self.early {
            let Entry::Occupied(mut row) = rows.entry(*flight) else { continue };
            let Place::Early(requests) = row.get_mut() else { continue };
            requests.retain(|(_, interested)| !interested.is_same(&own));
            if requests.is_empty() {
                row.remove();
            }
        }
    }
}

impl Places {
    /// Notes where the item of a flight waits, if it does.
    pub(super) fn row(self: &Arc<Self>, flight: u64, pending: &PendingResult, wishes: &mut Wishes) -> Option<Row> {
        let queued = pending.as_ref().ok()?.as_ref().map(Pending::queued)?;
        Some(self.queued(flight, &queued, wishes))
    }

    /// Notes that the item of a flight is in a queue, and adds the wishes of requests that joined the flight before
    /// that.
    pub(super) fn queued(self: &Arc<Self>, flight: u64, item: &QueuedItem, wishes: &mut Wishes) -> Row {
        let before = self.0.lock().insert(flight, Place::Queued(item.clone()));
        if let Some(Place::Early(requests)) = before {
            let wish = |(terms, interested)| Wish { item: item.clone(), terms, interested };
            wishes.0.extend(requests.into_iter().map(wish));
        }
        Row { places: Arc::clone(self), flight }
    }

    /// Whether the item of a flight may still be in a queue, or come to be.
    pub(super) fn may_wait(&self, flight: u64) -> bool {
        match self.0.lock().get(&flight) {
            Some(Place::Queued(item)) => !item.has_left(),
            Some(Place::Early(requests)) => requests.len() < EARLY_MAX,
            None => true,
        }
    }

    /// Notes that a request waits for the items of these flights, which it would have submitted on these terms, and
    /// adds its wishes as far as they are queued already.
    pub(super) fn follow(self: &Arc<Self>, flights: Vec<(u64, Terms)>, wishes: &mut Wishes) -> Following {
        let (interest, mut early) = (Interest::default(), Vec::new());
        let mut rows = self.0.lock();
        for (flight, terms) in flights {
            let interested = interest.handle();
            match rows.entry(flight).or_insert_with(|| Place::Early(Vec::new())) {
                Place::Queued(item) => wishes.0.push(Wish { item: item.clone(), terms, interested }),
                Place::Early(requests) => {
                    if requests.len() < EARLY_MAX {
                        requests.push((terms, interested));
                    }
                    early.push(flight);
                }
            }
        }
        drop(rows);
        Following { places: Arc::clone(self), early, interest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(places: &Places) -> usize {
        places.0.lock().len()
    }

    #[test]
    fn a_request_that_comes_before_the_item_is_queued_leaves_nothing_behind() {
        let places = Arc::<Places>::default();
        let mut wishes = Wishes::default();
        let flights = || vec![(1, Terms::default()), (2, Terms { priority: 1, ..Terms::default() })];
        let one = places.follow(flights(), &mut wishes);
        let other = places.follow(flights(), &mut wishes);
        assert_eq!((rows(&places), wishes.0.len()), (2, 0), "nothing is queued yet");
        drop(one);
        assert_eq!(rows(&places), 2, "the other one still waits");
        drop(other);
        assert_eq!(rows(&places), 0);
    }

    #[test]
    fn early_requests_are_bounded() {
        let places = Arc::<Places>::default();
        let mut wishes = Wishes::default();
        let mut following = Vec::new();
        for _ in 0..EARLY_MAX {
            assert!(places.may_wait(1));
            following.push(places.follow(vec![(1, Terms::default())], &mut wishes));
        }
        assert!(!places.may_wait(1) && places.may_wait(2));
        following.push(places.follow(vec![(1, Terms::default())], &mut wishes));
        assert!(matches!(places.0.lock().get(&1), Some(Place::Early(requests)) if requests.len() == EARLY_MAX));
        drop(following);
        assert_eq!(rows(&places), 0);
    }
}
