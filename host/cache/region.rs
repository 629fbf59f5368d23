//! Joining the fetch of another node: the edge of [`super::lease`]. Before a node fetches what others may lack as well, it
//! asks the region for a lease; if another node has it, this one waits and reads what that one has stored.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use tokio::time::sleep;

use super::{
    Cache, Query,
    entry::{Object, Value},
    key::Key,
    lease::{Step, Turn},
    lookup::Outcome,
    store::{
        Tier,
        leases::{Lease, Leases},
    },
    vary,
};
use crate::{
    clock::{self, Timestamp},
    message::{RequestHead, structured::joined_by},
};

/// Has the marks of the nodes that have sent a request on (RFC 8586).
static CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// The place of a node that is about to fetch among those of its region.
#[derive(Debug)]
pub enum Joined {
    /// It fetches: under a lease, if the region has given one.
    Fetch(Option<Lease>),
    /// It has what another node has stored, in a tier of its own.
    Stored,
    /// It has to wait, for so long at first: [`Cache::wait_in_region`].
    Wait(Turn, Duration),
}

impl Cache {
    /// Returns the mark by which this process is known in its region, if it asks that for leases. What it sends on has to
    /// have that in `CDN-Loop`: a node that it is sent to must not wait for this one.
    #[must_use]
    pub fn mark(&self) -> Option<&str> {
        self.tiers.leases().map(|leases| &**leases.owner())
    }

    /// Asks the region for the lease of `key`, under which what `query` looks for is stored. `has` is what this node has
    /// of it and wants to be renewed. Without a region, or if Redis doesn't reply within the budget of a look-up, the node
    /// fetches for itself.
    pub async fn join_region(&self, key: &Key, query: &Query<'_>, has: Option<&Object>) -> Joined {
        // What a node that is out of step finds in Redis may have been purged: see `Purges::in_step`.
        let Some(leases) = self.tiers.leases().filter(|_| self.purger().in_step()) else { return Joined::Fetch(None) };
        let has_since = has.map_or(Timestamp(0), |object| object.head.requested_at);
        let turn = Turn::new(has_since, leases.wait_max(), clock::uptime());
        self.ask_region(leases, key, query, has, turn).await
    }

    /// Waits until another node's fetch has landed, has ended otherwise, or has taken as long as is waited at most.
    /// Never returns [`Joined::Wait`].
    pub async fn wait_in_region(
        &self,
        key: &Key,
        query: &Query<'_>,
        has: Option<&Object>,
        (mut turn, mut pause): (Turn, Duration),
    ) -> Joined {
        let Some(leases) = self.tiers.leases() else { return Joined::Fetch(None) };
        let _waiting = leases.wait();
        loop {
            sleep(pause).await;
            match self.ask_region(leases, key, query, has, turn).await {
                Joined::Wait(next, time) => (turn, pause) = (next, time),
                joined => return joined,
            }
        }
    }

    async fn ask_region(
        &self,
        leases: &Leases,
        key: &Key,
        query: &Query<'_>,
        has: Option<&Object>,
        mut turn: Turn,
    ) -> Joined {
        let senders = senders(query.head);
        loop {
            let reply = leases.ask(key, &turn.ask(), &senders).await;
            return match turn.next(reply, leases.waiting(), clock::uptime()) {
                Step::Pause(pause) => Joined::Wait(turn, pause),
                Step::Lead(token) => {
                    if turn.has_waited() {
                        self.metrics.leases_taken_over.inc();
                    }
                    Joined::Fetch(Some(leases.begin(key, token)))
                }
                Step::Look => {
                    if self.take_from_region(query, has).await {
                        Joined::Stored
                    } else if turn.missed() {
                        continue;
                    } else {
                        Joined::Fetch(None)
                    }
                }
                Step::Alone(marked) => {
                    // What is stored stays where it is: it may be served while it is refreshed.
                    if let (Some(time), None) = (marked, has) {
                        self.mark_uncacheable(*key, clock::uptime(), Some(time));
                    }
                    Joined::Fetch(None)
                }
            };
        }
    }

    /// Takes what Redis has into this node's tiers, if it is fresh for the request and newer than what this node `has`.
    /// It is judged as by any look-up, so that what was purged meanwhile is of no use.
    async fn take_from_region(&self, query: &Query<'_>, has: Option<&Object>) -> bool {
        if !self.purger().in_step() {
            return false;
        }
        let mut redis = self.tiers.redis_lookup();
        let (mut key, mut varied) = (query.key, false);
        let mut value = redis.get(&key).await;
        if let Some(Value::Varies(names)) = value {
            key = vary::variant(&query.key, &names, query.head);
            self.tiers.insert_local(query.key, Value::Varies(names));
            (value, varied) = (redis.get(&key).await, true);
        }
        redis.finish();
        let now = Query { now: clock::now(), ..*query };
        let Outcome::Hit(object) = self.found(&now, key, value, Tier::Redis, varied).outcome else { return false };
        let is_newer = |has: &Object| object.head.requested_at > has.head.requested_at;
        let is_of_use = has.is_none_or(is_newer);
        if is_of_use {
            self.tiers.insert_local(key, Value::Object(Arc::clone(&object)));
        }
        is_of_use
    }
}

/// Returns the marks of the nodes that have sent a request on, with whatever else stands in that field.
fn senders(head: &RequestHead) -> Cow<'_, [u8]> {
    joined_by(head.headers.get_all(&CDN_LOOP).iter().map(HeaderValue::as_bytes), b",").unwrap_or_default()
}
