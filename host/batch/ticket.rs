//! An item that waits, and its places in the queue: the one that its own request gave it, and further ones for other
//! requests that wait for it and would have given it a better one. It is sent from the place that comes first, and the
//! others are dropped in their turn.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use thiserror::Error;
use tokio::sync::oneshot;

use super::{class::Class, former::Terms, line::Rank, shares::Tenant};

/// Further places that an item may have at once.
const PLACES_MAX: usize = 16;

/// Why an item got no result.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Rejected {
    /// The queue is full, and its tenant has its share of it. The whole request is refused, before any of its items is
    /// sent.
    #[error("too many items are waiting already; ask again in {} s", retry_after.as_secs())]
    QueueFull {
        /// When what waits will have been served, in whole seconds.
        retry_after: Duration,
    },
    /// It can't be served before its deadline. The whole request is refused, before any of its items is sent.
    #[error("too much is waiting to meet the deadline; ask again in {} s", retry_after.as_secs())]
    Late {
        /// When what waits will have been served, in whole seconds.
        retry_after: Duration,
    },
    /// Its deadline passed while it waited. It wasn't sent.
    #[error("the deadline passed before the item could be sent")]
    Expired,
    /// Its batch came back without a result for each item, or sending it failed in an unforeseen way.
    #[error("the batch of this item came to nothing")]
    Lost,
}

/// The channel to the request that waits for an item's result.
pub(super) type Reply<O> = oneshot::Sender<Result<O, Rejected>>;

/// An item that waits, until it is taken from one of its places.
pub(super) struct Ticket<I, O> {
    class: Class,
    /// The terms of its first place, and how many items of its request arrived with it.
    terms: Terms,
    party: usize,
    state: Mutex<State<I, O>>,
}

struct State<I, O> {
    /// The item, and where its result goes; `None` once it was sent, refused or withdrawn.
    waiting: Option<(I, Reply<O>)>,
    further: Vec<Place>,
}

/// What one place depends on.
struct Place {
    tenant: Tenant,
    rank: Rank,
    party: usize,
    interested: Interested,
}

impl Place {
    /// Whether an item may be sent from here before it is from there. Between tenants nobody knows: that depends on
    /// what each is served until then. Of one tenant's, a short request goes past a list that needs several batches.
    fn may_precede(&self, (tenant, rank, party): (Tenant, Rank, usize), size_max: usize) -> bool {
        let is_shorter = || party > size_max && self.party < party && !rank.precedes(self.rank);
        self.tenant != tenant || self.rank.precedes(rank) || is_shorter()
    }
}

impl<I, O> Ticket<I, O> {
    /// Returns the ticket of an item of a class, one of so many of a request.
    pub(super) fn new(class: Class, terms: Terms, party: usize, item: I, reply: Reply<O>) -> Arc<Self> {
        let state = Mutex::new(State { waiting: Some((item, reply)), further: Vec::new() });
        Arc::new(Self { class, terms, party, state })
    }

    /// Returns the class of the item.
    pub(super) const fn class(&self) -> &Class {
        &self.class
    }

    /// Notes that the item is to have a further place on these terms, and returns those that it is queued on; `None` if
    /// it doesn't wait any more, or no place on these terms would come before those that it has.
    pub(super) fn improve(
        &self,
        terms: Terms,
        party: usize,
        size_max: usize,
        interested: &Interested,
    ) -> Option<Terms> {
        let rank = terms.rank();
        let place = Place { tenant: terms.tenant, rank, party, interested: interested.clone() };
        let first = (self.terms.tenant, self.terms.rank(), self.party);
        let mut state = self.state.lock();
        state.waiting.as_ref()?;
        state.further.retain(|other| other.interested.is_there());
        let may_precede = |other: &Place| place.may_precede((other.tenant, other.rank, other.party), size_max);
        let is_better = place.may_precede(first, size_max) && state.further.iter().all(may_precede);
        if !is_better || state.further.len() >= PLACES_MAX {
            return None;
        }
        state.further.push(place);
        // What is sent is the same item as before, with whatever it may share a batch.
        Some(Terms { bytes: self.terms.bytes, size_max: self.terms.size_max, ..terms })
    }

    fn take(&self) -> Option<(I, Reply<O>)> {
        self.state.lock().waiting.take()
    }
}

/// One place of an item in the queue.
pub(super) struct QueuedItem<I, O> {
    ticket: Arc<Ticket<I, O>>,
    /// Since when it has this place.
    pub(super) since: Instant,
    /// The request whose place it is, unless it is the first.
    interested: Option<Interested>,
}

impl<I, O> QueuedItem<I, O> {
    /// Returns an item's first place.
    pub(super) const fn first(ticket: Arc<Ticket<I, O>>, since: Instant) -> Self {
        Self { ticket, since, interested: None }
    }

    /// Returns a further place, for another request.
    pub(super) const fn further(ticket: Arc<Ticket<I, O>>, since: Instant, interested: Interested) -> Self {
        Self { ticket, since, interested: Some(interested) }
    }

    /// Whether the item still waits, and the request whose place this is, too. An item that nobody waits for any more
    /// is counted as withdrawn, once.
    pub(super) fn is_awaited(&self, withdrawn: &Counter) -> bool {
        let mut state = self.ticket.state.lock();
        let Some((_, reply)) = &state.waiting else { return false };
        if reply.is_closed() {
            state.waiting = None;
            withdrawn.inc();
            return false;
        }
        self.interested.as_ref().is_none_or(Interested::is_there)
    }

    /// Takes the item out, to be sent; `None` if it was taken from another place.
    pub(super) fn take(&self) -> Option<(I, Reply<O>)> {
        self.ticket.take()
    }

    /// Refuses the item, if this is its first place; from a further one it only disappears. Returns whether it was
    /// refused.
    pub(super) fn refuse(&self, rejected: Rejected) -> bool {
        let refused = if self.interested.is_none() { self.ticket.take() } else { None };
        let was_refused = refused.is_some();
        if let Some((_, reply)) = refused {
            // It doesn't matter if the request has gone in the meantime.
            let _ = reply.send(Err(rejected));
        }
        was_refused
    }
}

/// A request that waits for items of other requests. The places that these have for its sake go with it.
#[derive(Debug, Default)]
pub struct Interest(Arc<()>);

/// Whether such a request is still there.
#[derive(Clone, Debug)]
pub struct Interested(Weak<()>);

impl Interest {
    /// Returns a handle to whether the request is still there.
    #[must_use]
    pub fn handle(&self) -> Interested {
        Interested(Arc::downgrade(&self.0))
    }
}

impl Interested {
    /// Whether the request is still there.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Whether both are of one request.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

/// An item that waits in a queue, or did.
pub struct Queued<I, O>(Weak<Ticket<I, O>>);

impl<I, O> Clone for Queued<I, O> {
    fn clone(&self) -> Self {
        Self(Weak::clone(&self.0))
    }
}

impl<I, O> fmt::Debug for Queued<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queued").field("has_left", &self.has_left()).finish()
    }
}

impl<I, O> Queued<I, O> {
    /// Whether it was sent with its batch, after which it can't be withdrawn, or refused.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.0.upgrade().is_none_or(|ticket| ticket.state.lock().waiting.is_none())
    }

    /// Returns the name of the pool for which it waits; `None` if it doesn't any more.
    #[must_use]
    pub fn pool(&self) -> Option<Arc<str>> {
        self.0.upgrade().map(|ticket| Arc::clone(&ticket.class.pool))
    }

    pub(super) fn ticket(&self) -> Option<Arc<Ticket<I, O>>> {
        self.0.upgrade()
    }
}

/// The pending result of one item. Dropping it withdraws the item if it wasn't sent yet.
pub struct Pending<I, O> {
    result: oneshot::Receiver<Result<O, Rejected>>,
    queued: Queued<I, O>,
    lost: Counter,
    is_taken_in: bool,
}

impl<I, O> fmt::Debug for Pending<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("queued", &self.queued).finish_non_exhaustive()
    }
}

impl<I, O> Pending<I, O> {
    /// Returns the pending result of an item. `lost` counts those that come to nothing.
    pub(super) fn new(
        result: oneshot::Receiver<Result<O, Rejected>>,
        ticket: &Arc<Ticket<I, O>>,
        lost: Counter,
    ) -> Self {
        Self { result, queued: Queued(Arc::downgrade(ticket)), lost, is_taken_in: false }
    }

    /// Notes whether the queue has taken the item in.
    pub(super) const fn note(&mut self, is_taken_in: bool) {
        self.is_taken_in = is_taken_in;
    }

    /// Whether the queue took the item in, so that it may have been sent. If not, it was refused at once.
    #[must_use]
    pub const fn is_taken_in(&self) -> bool {
        self.is_taken_in
    }

    /// Returns a handle to the item in its queue.
    #[must_use]
    pub fn queued(&self) -> Queued<I, O> {
        self.queued.clone()
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// [`Rejected`]; there is always a result or this.
    pub async fn result(self) -> Result<O, Rejected> {
        // The other end is dropped unused when the batch comes to nothing.
        let outcome = self.result.await.unwrap_or(Err(Rejected::Lost));
        if matches!(outcome, Err(Rejected::Lost)) {
            self.lost.inc();
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const SIZE_MAX: usize = 32;

    fn ticket(terms: Terms, party: usize) -> (Arc<Ticket<u32, u32>>, oneshot::Receiver<Result<u32, Rejected>>) {
        let (reply, result) = oneshot::channel();
        let class = Class { pool: "pool".into(), group: Bytes::new(), apart: None };
        (Ticket::new(class, terms, party, 7, reply), result)
    }

    fn terms(tenant: u64, priority: u8) -> Terms {
        Terms { tenant: Tenant::of_digest(tenant), priority, ..Terms::default() }
    }

    #[test]
    fn a_further_place_is_one_that_may_come_first() {
        let soon = Some(Instant::now() + Duration::from_secs(1));
        // Items beside the first, its tenant 1 and its priority 2; the other terms, the items of that request.
        for (party, other, items, wanted) in [
            (1, terms(1, 2), 1, false),
            (1, terms(1, 1), 1, false),
            (1, terms(1, 3), 1, true),
            (1, terms(1, 3), 2_000, true),
            (1, terms(2, 0), 1, true),
            (1, Terms { deadline: soon, ..terms(1, 2) }, 1, true),
            (SIZE_MAX, terms(1, 2), 1, false),
            (SIZE_MAX + 1, terms(1, 2), 1, true),
            (SIZE_MAX + 1, terms(1, 1), 1, false),
            (2_000, terms(1, 2), 2_000, false),
        ] {
            let (ticket, _result) = ticket(terms(1, 2), party);
            let interest = Interest::default();
            let improved = ticket.improve(other, items, SIZE_MAX, &interest.handle());
            assert_eq!(improved.is_some(), wanted, "{party}: {other:?}, {items}");
            assert!(ticket.improve(other, items, SIZE_MAX, &interest.handle()).is_none(), "one like it is enough");
        }
    }

    #[test]
    fn places_are_bounded_and_go_with_their_requests() {
        let (ticket, _result) = ticket(Terms { bytes: 9, size_max: Some(1), ..terms(0, 0) }, 1);
        let interests: Vec<Interest> = (0..PLACES_MAX).map(|_| Interest::default()).collect();
        for (tenant, interest) in (1..).zip(&interests) {
            let improved = ticket.improve(terms(tenant, 0), 1, SIZE_MAX, &interest.handle()).unwrap();
            assert_eq!((improved.bytes, improved.size_max), (9, Some(1)), "it is the same item");
        }
        let late = Interest::default();
        let improve = || ticket.improve(terms(99, 0), 1, SIZE_MAX, &late.handle());
        assert!(improve().is_none());
        drop(interests);
        assert!(improve().is_some());
    }

    #[test]
    fn an_item_is_taken_once_and_refused_from_its_first_place_only() {
        let (counter, interest, now) = (Counter::default(), Interest::default(), Instant::now());
        let (one, mut result) = ticket(terms(0, 0), 1);
        let first = QueuedItem::first(Arc::clone(&one), now);
        let further = QueuedItem::further(one, now, interest.handle());
        assert!(first.is_awaited(&counter) && further.is_awaited(&counter));
        assert!(!further.refuse(Rejected::Expired) && result.try_recv().is_err());
        drop(interest);
        assert!(first.is_awaited(&counter) && !further.is_awaited(&counter), "its request has gone");
        assert_eq!(further.take().map(|(item, _)| item), Some(7));
        assert!(first.take().is_none() && !first.is_awaited(&counter) && !first.refuse(Rejected::Expired));

        let (other, mut result) = ticket(terms(0, 0), 1);
        let pending = Queued(Arc::downgrade(&other));
        assert!(!pending.has_left());
        assert!(QueuedItem::first(other, now).refuse(Rejected::Expired) && pending.has_left());
        assert_eq!(result.try_recv(), Ok(Err(Rejected::Expired)));
        assert_eq!(counter.get(), 0, "nothing was withdrawn");
    }

    #[test]
    fn what_nobody_waits_for_is_withdrawn_once() {
        let (counter, interest, now) = (Counter::default(), Interest::default(), Instant::now());
        let (ticket, result) = ticket(terms(0, 0), 1);
        let first = QueuedItem::first(Arc::clone(&ticket), now);
        let further = QueuedItem::further(ticket, now, interest.handle());
        drop(result);
        assert!(!further.is_awaited(&counter) && !first.is_awaited(&counter));
        assert_eq!(counter.get(), 1);
    }
}
