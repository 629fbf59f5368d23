//! Items that another node of the region is fetching. Those that this node fetches aren't held up by them: nodes that
//! waited for each other before they sent anything would do so for as long as they may.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{
    Disposition, Infer, SplitRequest,
    batches::submit_groups,
    flight::Flight,
    model::{self, BatchItem, Elsewhere, ItemResult, PendingResult, group_for},
    places::Wishes,
};
use crate::{
    batch::Pending,
    cache::{Query, entry::Object, key::Key, lease::Turn, lookup::Outcome, region::Joined, store::Tier, tag},
    clock,
};

impl Infer {
    /// Returns the limit of a model's response, which is in memory as a whole.
    pub(super) fn response_bytes_max(&self) -> u64 {
        let config = self.cache.config();
        config.object_bytes_max.min(config.bodies_bytes_max)
    }

    /// Submits an item by itself; `None` if its pool has no batcher.
    pub(super) fn submit_alone(&self, batch_item: BatchItem) -> Option<Pending<BatchItem, ItemResult>> {
        let mut groups = Vec::new();
        group_for(&mut groups, batch_item);
        submit_groups(&self.batchers, groups).pop()?.pop().flatten()
    }
}

impl SplitRequest {
    /// Asks the region for the lease of an item that this request would fetch for all. One for which the request wants
    /// something newer than what is stored is fetched without.
    pub(super) async fn in_region(&self, query: &Query<'_>, disposition: Disposition) -> Disposition {
        if self.demand.directives.no_cache {
            return disposition;
        }
        let (key, lead, stale) = match disposition {
            Disposition::Lead(key, lead, None) => (key, lead, None),
            Disposition::Refresh(object, tier, key, lead, None) => (key, lead, Some((object, tier))),
            other => return other,
        };
        let has = stale.as_ref().map(|(object, _)| &**object);
        let joined = self.infer.cache.join_region(&key, query, has).await;
        match joined {
            Joined::Fetch(lease) => match stale {
                Some((object, tier)) => Disposition::Refresh(object, tier, key, lead, lease),
                None => Disposition::Lead(key, lead, lease),
            },
            Joined::Wait(turn, pause) => {
                Disposition::Elsewhere(Box::new(Elsewhere { key, lead, turn: (turn, pause), stale }))
            }
            // Dropped, the lead has those that follow it look again.
            Joined::Stored => match (self.stored(key).await, stale) {
                (Some((object, tier)), _) => Disposition::Known { object, tier, stale: false },
                (None, Some((object, tier))) => Disposition::Known { object, tier, stale: true },
                (None, None) => Disposition::Lead(key, lead, None),
            },
        }
    }

    /// Returns the result that is stored under a key by now, if it may be served as it is.
    pub(super) async fn stored(&self, key: Key) -> Option<(Arc<Object>, Tier)> {
        let by_url = |prefixes| tag::of_url(&self.url, prefixes);
        let query = Query { key, head: &self.head, demand: &self.demand, url: Some(&by_url), now: clock::now() };
        let found = self.infer.cache.look_up(&query).await;
        match found.outcome {
            Outcome::Hit(object) if object.is_whole() => Some((object, found.tier)),
            _ => None,
        }
    }
}

impl Flight {
    /// Waits for what another node of the region fetches; `has` is what this one has of it, if it is to be refreshed. If
    /// that one brings nothing of use, the item is fetched here.
    pub(super) async fn run_elsewhere(mut self, turn: (Turn, Duration), has: Option<Arc<Object>>) {
        let joined = {
            let by_url = |prefixes| tag::of_url(&self.url, prefixes);
            let (key, now) = (self.key, clock::now());
            let query = Query { key, head: &self.head, demand: &self.demand, url: Some(&by_url), now };
            Box::pin(self.infer.cache.wait_in_region(&self.key, &query, has.as_deref(), turn)).await
        };
        let lease = match joined {
            // Dropped with the flight, its lead has those that follow it look again.
            Joined::Stored => return,
            Joined::Fetch(lease) => lease,
            Joined::Wait(..) => None,
        };
        self.fetch = self.infer.cache.begin_leased(&self.key, lease);
        self.mark = self.infer.cache.purger().mark();
        (self.requested, self.begun) = (clock::now(), Instant::now());
        // No request waits for a refresh: its time begins now.
        let since = if has.is_some() { self.begun } else { self.request_began };
        let (pending, mut wishes) = (self.submitted(since), Wishes::default());
        self._row = self.infer.places.row(self.lead.number(), &pending, &mut wishes);
        self.pending = Some(pending);
        wishes.grant(&self.infer.batchers);
        if has.is_some() {
            self.run().await;
        } else {
            self.run_while_wanted().await;
        }
    }

    /// Submits the item late: others of its request may have been sent by now.
    fn submitted(&self, since: Instant) -> PendingResult {
        let batch_item = model::batch_item(
            &self.infer.policy_context,
            &self.route,
            &self.head,
            self.protocol,
            &self.advised,
            self.account,
            self.infer.response_bytes_max(),
        )?;
        let is_admitted = self.admitted.load(Ordering::Relaxed);
        let batch_item = batch_item.since(since).within(self.due).shared(true).admitted(is_admitted);
        let pending = self.infer.submit_alone(batch_item);
        if pending.as_ref().is_some_and(Pending::is_taken_in) {
            self.admitted.store(true, Ordering::Relaxed);
        }
        Ok(pending)
    }
}
