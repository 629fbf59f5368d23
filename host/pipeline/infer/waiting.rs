//! Waiting for the items of a request, each until its result is there or its time is over.

use std::sync::Arc;

use http::StatusCode;
use tokio::time::timeout_at;

use super::{
    Disposition, SplitRequest, Waited, Waiting,
    landing::Landing,
    model::{self, AdvisedItem, ItemResult, await_result},
    tally::ItemReply,
};
use crate::{
    cache::{Query, key::Key, tag},
    clock,
    pipeline::trace,
};

/// What came of waiting for an item.
enum Landed {
    /// It is in a tier.
    Stored(ItemReply),
    /// A result; through the fetch of another request if so.
    Result(Arc<ItemResult>, bool),
}

impl SplitRequest {
    /// Waits for an item, and returns the reply to it.
    pub(super) async fn finish(&self, waited: Waited<'_>) -> ItemReply {
        let Waited { advised, waiting, fallback, until } = waited;
        if let Waiting::Done(reply) = waiting {
            return reply;
        }
        let landing = Box::pin(self.land(advised, waiting));
        let landed = match until {
            Some(until) => timeout_at(until.into(), landing).await.unwrap_or_else(|_| {
                // Others may go on to wait for it.
                Landed::Result(Arc::new(model::expired(self.protocol)), false)
            }),
            None => landing.await,
        };
        let (result, collapsed) = match landed {
            Landed::Stored(reply) => return reply,
            Landed::Result(result, collapsed) => (result, collapsed),
        };
        let status = result.outcome.as_ref().map_or_else(|error| error.status, |_| StatusCode::OK.as_u16());
        trace::item_fetched(advised.advice.span(), status, result.reason, collapsed, result.stored);
        let failed = result.outcome.as_ref().is_err_and(|error| error.status >= 500 || error.is_unread());
        match fallback.filter(|(object, _)| failed && !self.infer.cache.is_gone(object, &self.url)) {
            Some((object, tier)) => ItemReply::Fallback { object, tier, result },
            None => ItemReply::Fetched { result, collapsed },
        }
    }

    /// Waits for the item. If what its flight lands with is no word on it, all that waited join a further flight; past
    /// a few of them, or if the result is another request's own, the item is fetched by itself.
    async fn land(&self, advised: &AdvisedItem, mut waiting: Waiting) -> Landed {
        let span = advised.advice.span();
        let mut joins = 0;
        // Its item needn't wait behind what the one that leads a further flight has to do.
        let mut _following = None;
        loop {
            let (key, follower, follows) = match waiting {
                Waiting::Done(reply) => return Landed::Stored(reply),
                Waiting::Alone(pending) => {
                    return Landed::Result(Arc::new(await_result(self.protocol, pending).await), false);
                }
                Waiting::Flight { key, follower, collapsed } => (key, follower, collapsed),
            };
            let (flight, begun) = (follower.number(), span.timer());
            let result = follower.landed().await;
            let with =
                result.as_ref().map_or("lost", |result| if result.outcome.is_ok() { "result" } else { "failure" });
            trace::landed(span, flight, with, begun);
            let landing = Landing::of(result.as_deref(), follows, |result| self.was_purged(result));
            match (landing, result) {
                (Landing::ForAll, Some(result)) => return Landed::Result(result, follows),
                (Landing::Purged, _) => self.infer.flights.retire(&key, flight),
                (Landing::Lost, _) => {
                    if let Some((object, tier)) = Box::pin(self.stored(key)).await {
                        return Landed::Stored(ItemReply::Stored { object, tier, stale: false });
                    }
                }
                _ => {}
            }
            let is_joined_again = landing.is_joined_again(joins);
            trace::not_for_it(span, if is_joined_again { "join again" } else { "fetch alone" });
            let disposition = if is_joined_again { Box::pin(self.joined_again(key)).await } else { Disposition::Alone };
            disposition.log(advised);
            joins += 1;
            let (mut waited, following) = self.submit(vec![(advised, disposition, None)]);
            _following = following;
            waiting = waited.pop().map_or(Waiting::Alone(Ok(None)), |waited| waited.waiting);
        }
    }

    /// Returns what is to be done about an item whose flight came to nothing for this request: what was stored
    /// meanwhile is served, and one of those that waited leads a further flight.
    async fn joined_again(&self, key: Key) -> Disposition {
        if self.demand.directives.no_cache {
            return Disposition::Alone;
        }
        let by_url = |prefixes| tag::of_url(&self.url, prefixes);
        let query = Query { key, head: &self.head, demand: &self.demand, url: Some(&by_url), now: clock::now() };
        match self.join(&query) {
            lead @ Disposition::Lead(..) if self.infer.cache.mark().is_some() => self.in_region(&query, lead).await,
            other => other,
        }
    }

    /// Whether the result was purged after its flight had begun, if that was before this request came. What a flight brings
    /// that began since then, be it one that it joined again, is this request's whatever is purged meanwhile.
    fn was_purged(&self, result: &ItemResult) -> bool {
        let purger = self.infer.cache.purger();
        result
            .purgeable
            .as_ref()
            .is_some_and(|it| purger.is_outdated(&it.subject(), &self.arrived, || tag::of_url(&self.url, true)))
    }
}
