//! Refreshing what is older than what another node has.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    super::{
        advice::Advice,
        fetch::{self, KeyedRequest},
        keying::{Content, Keyed},
        route::Route,
        trail::Trail,
    },
    NOTHING, Prepared, Web,
};
use crate::{
    cache::{collapse::Joined, lookup::Outcome},
    clock,
    message::RequestHead,
};

/// By how much an age may be off, in milliseconds: nodes count it from different moments, and tell it to each other in
/// whole seconds.
const AGE_SLACK_MS: u64 = 3_000;

impl Web {
    /// Refreshes what is stored for a GET and fresh, if it is older than `age_ms`, as a hit does that refreshes it ahead
    /// of its end; waits until the fetch has a response, or has failed. Returns whether there was a fetch.
    pub(in crate::pipeline) async fn refresh_older(
        &self,
        route: &Arc<Route>,
        advice: Advice,
        head: RequestHead,
        age_ms: u64,
    ) -> bool {
        let Prepared { keyed, by_rule, demand, .. } = self.prepare(route, &advice, &head, &NOTHING, Content::None);
        let Keyed::Key { key, fault: None } = keyed else { return false };
        let request = KeyedRequest::new(Arc::clone(route), Arc::new(advice), head, Bytes::new(), demand, key);
        let mut request = KeyedRequest { by_rule, ..request };
        let now = clock::now();
        let found = self.find(&request, &mut Trail::default(), now).await;
        let Outcome::Hit(object) = found.outcome else { return false };
        if object.head.age_ms(now) <= age_ms.saturating_add(AGE_SLACK_MS) || !object.begin_refresh() {
            return false;
        }
        (request.key, request.stale, request.is_ahead) = (found.key, Some(object), true);
        let Joined::Lead(lead) = self.flights.join(&request.flight_key()) else { return false };
        self.cache.metrics().refreshed_ahead.inc();
        let follower = lead.follower();
        // In a task of its own: others may join it, and nobody breaks it off for them.
        tokio::spawn(fetch::lead(Arc::clone(&self.fetcher), request, lead, oneshot::channel().0));
        follower.landed().await;
        true
    }
}
