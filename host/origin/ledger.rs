//! What is known of a pool's endpoints, shared between the requests in flight: health, counters, places.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    balance::Standing,
    clients::ClientShare,
    endpoint::Endpoint,
    health::{Counts, Tracker, Turn},
    metrics::Meters,
    multiplex::Lease,
    stats::Recent,
};
use crate::clock::{self, Uptime};

/// The bookkeeping of one pool.
pub(super) struct Ledger {
    pool: Arc<str>,
    tracker: Mutex<Tracker>,
    pub(super) meters: Meters,
    pub(super) recent: Arc<Recent>,
}

impl Ledger {
    pub(super) fn new(pool: Arc<str>, tracker: Tracker, meters: Meters) -> Self {
        Self { pool, tracker: Mutex::new(tracker), meters, recent: Arc::default() }
    }

    /// Takes over the statistics of the pool that had its name before, and what that knew of endpoints: of each pair,
    /// the former place of the endpoint is the second. With `checks` also what active checks said.
    pub(super) fn take_over(&mut self, former: &Self, places: impl Iterator<Item = (usize, usize)>, checks: bool) {
        self.recent = Arc::clone(&former.recent);
        let (tracker, known) = (self.tracker.get_mut(), former.tracker.lock());
        for (index, at) in places {
            tracker.take_over(index, &known, at, checks);
        }
    }

    /// All standings now, in the endpoints' order.
    pub(super) fn standings(&self) -> Vec<Standing> {
        self.tracker.lock().standings(clock::uptime()).collect()
    }

    /// Health, end of the ejection if there is one, and counters of an endpoint.
    pub(super) fn inspect(&self, index: usize, now: Uptime) -> (Standing, Option<Uptime>, Counts) {
        let tracker = self.tracker.lock();
        (tracker.standing(index, now), tracker.ejected_until(index, now), tracker.counts(index))
    }

    /// Takes the outcome of an active check: nothing, or what was wrong.
    pub(super) fn checked(&self, endpoint: &Endpoint, outcome: &Result<(), String>) {
        let turn = self.tracker.lock().checked(endpoint.index, outcome.is_ok());
        let (pool, address) = (&*self.pool, &*endpoint.address);
        match (turn, outcome) {
            (Some(Turn::Up), _) => tracing::info!(pool, endpoint = address, "endpoint is up"),
            (Some(Turn::Down), Err(why)) => tracing::warn!(pool, endpoint = address, why, "endpoint is down"),
            (Some(Turn::Down), Ok(())) | (None, _) => {}
        }
    }

    /// Takes the outcome of a request that began at `started`.
    fn record(&self, endpoint: &Endpoint, ok: bool, started: Uptime) {
        let now = clock::uptime();
        let ejected = self.tracker.lock().record(endpoint.index, ok, started, now);
        if let Some(until) = ejected {
            self.meters.ejections.inc();
            let seconds = until.since(now).as_secs_f64();
            tracing::warn!(pool = &*self.pool, endpoint = &*endpoint.address, seconds, "endpoint is ejected");
        }
    }
}

/// A request's wish for a place: counts in the balance from the moment the endpoint is chosen.
pub(super) struct Claim(Arc<Endpoint>);

impl Claim {
    pub(super) fn new(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.places.want();
        Self(Arc::clone(endpoint))
    }

    /// The places of its endpoint.
    pub(super) fn free(&self) -> &Arc<Semaphore> {
        self.0.places.free()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.places.unwant();
    }
}

/// A place at an endpoint: held by one request until its response body has ended or is dropped.
pub(super) struct Slot {
    ledger: Arc<Ledger>,
    started: Uptime,
    reported: bool,
    claim: Claim,
    /// The place on a connection that others use as well.
    lease: Option<Lease>,
    _held: Held,
}

/// What a request holds as long as it has a place.
pub(super) struct Held {
    pub(super) _place: OwnedSemaphorePermit,
    /// Of the share that is lent to clients who are waited for.
    pub(super) _lent: Option<OwnedSemaphorePermit>,
    /// Of what its client's address may hold.
    pub(super) _client: Option<ClientShare>,
}

impl Slot {
    pub(super) fn new(ledger: &Arc<Ledger>, claim: Claim, held: Held) -> Self {
        ledger.meters.inflight.inc();
        Self { ledger: Arc::clone(ledger), started: clock::uptime(), reported: false, claim, lease: None, _held: held }
    }

    /// Takes the request's place on a connection, to give it up with this one.
    pub(super) fn carry(&mut self, lease: Option<Lease>) {
        self.lease = lease;
    }

    /// What the endpoint lends to clients who are waited for.
    pub(super) fn lent(&self) -> Arc<Semaphore> {
        Arc::clone(&self.claim.0.places.lent)
    }

    /// Reports the outcome of the request. Only the first report counts: a response of 503 is a failure even if its
    /// body arrives.
    pub(super) fn report(&mut self, ok: bool) {
        if !std::mem::replace(&mut self.reported, true) {
            self.ledger.record(&self.claim.0, ok, self.started);
        }
    }

    /// Has further requests take another connection than this one's, on which the peer has stopped in the middle.
    pub(super) fn give_up_connection(&self) {
        if let Some(lease) = &self.lease {
            lease.retire();
        }
    }

    /// Reports that the response body stalled or broke off.
    pub(super) fn report_broken(&mut self) {
        self.ledger.meters.bodies_broken.inc();
        self.report(false);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.ledger.meters.inflight.dec();
    }
}
