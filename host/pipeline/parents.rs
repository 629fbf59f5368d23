//! Parents: nodes, most often of another region, that a route asks before its origins. Which requests they are asked
//! for, what a node and its parents agree on, and as of when what a parent has stored counts.
//!
//! A parent is asked with the request as the client sent it, because its own route rewrites and edits that. So both
//! must decide alike: the child says by which terms it decides, and the parent, which is asked by trusted proxies
//! alone, says that its response was made by the same ones. Without that word a response isn't used, and the parent's
//! own failures and refusals never have it.

use std::{collections::VecDeque, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, header::AGE};
use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::{
    loops,
    route::{Parents, Route},
    upstream::{Arrived, UpstreamBody, UpstreamRequest},
};
use crate::{
    cache::purge::Mark,
    clock::Uptime,
    message::Near,
    origin::{Outbound, OutboundBody},
    policy::{Hook, Input, Policy},
};

/// The terms by which a child decides. Only the network of a trusted proxy is believed it.
pub(super) static CHILD: HeaderName = HeaderName::from_static("x-holm-child");

/// The terms by which a parent has decided.
static PARENT: HeaderName = HeaderName::from_static("x-holm-parent");

/// How much older than `Age` says a response may be, in milliseconds: whole seconds are rounded down, and a fetch
/// begins before the request is sent.
const AGE_SLACK_MS: u64 = 2_000;

/// Times at which marks are remembered. Past it the oldest is forgotten.
const MARKS_MAX: usize = 4_096;

/// The least time between two of them, in milliseconds.
const MARKS_APART_MS: u64 = 1_000;

/// What is known of a request that is to be fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking<'r> {
    pub(super) headers: &'r HeaderMap,
    pub(super) infers: bool,
    /// It wants something newer than what is stored.
    pub(super) is_reload: bool,
    /// This node has read its region's purge log within the fence.
    pub(super) in_step: bool,
}

impl Asking<'_> {
    /// Whether parents are asked. Not for a request that came from a node, so that none goes on further than one, or
    /// back; and not by a node that can't know what was purged, which asks the origin itself.
    pub(super) fn asks(&self) -> bool {
        !self.infers && !self.is_reload && self.in_step && loops::depth(self.headers) == 0
    }
}

/// Returns the terms by which requests of a route are decided: what their upstream requests, and so the responses,
/// depend on beside the request itself. The regions are among them only where something depends on them: that of the
/// client, so that a parent which reads another field for it, or doesn't believe the child, is none; that of the node,
/// if the policy reads it.
pub(super) fn terms(route: &Route, policy: Option<&Arc<dyn Policy>>, near: &Near) -> HeaderValue {
    let config = &route.config;
    let edits = format!("{:?} {:?} {:?}", config.rewrite, config.request_headers, config.forward_path);
    let client = is_by_client_region(route, policy).then_some(&near.client);
    let node = policy.is_some_and(|policy| reads(&**policy, &Input::NodeRegion)).then_some(&near.node);
    let regions: String = [("client", client), ("node", node)]
        .into_iter()
        .filter_map(|(whose, region)| Some(format!("{whose} {:?} ", region?)))
        .collect();
    let mut hasher = blake3::Hasher::new();
    let parts = [config.name.as_str(), &edits, policy.map_or("", |policy| &**policy.label())];
    // As before where nothing depends on them.
    for part in parts.into_iter().chain(Some(&*regions).filter(|regions| !regions.is_empty())) {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    let digest = hasher.finalize().to_hex();
    HeaderValue::from_str(&digest.as_str()[..32]).unwrap_or_else(|_| HeaderValue::from_static("none"))
}

/// Whether keys or hooks of a route depend on the client's region.
pub(super) fn is_by_client_region(route: &Route, policy: Option<&Arc<dyn Policy>>) -> bool {
    route.config.key_client_region || policy.is_some_and(|policy| reads(&**policy, &Input::ClientRegion))
}

/// Whether any hook of a policy reads an input, or an arm is drawn by it.
fn reads(policy: &dyn Policy, wanted: &Input) -> bool {
    let hooks = Hook::ALL.into_iter().filter_map(|hook| policy.reads(hook)).flatten();
    let units = policy.experiments().iter().map(|experiment| &experiment.unit);
    hooks.chain(units).any(|input| input == wanted)
}

/// Has the response to a child say by which terms it was made. `made_by` is `None` if it is none of the route's: a
/// refusal or a failure of this node, or a response that no origin gave.
pub(super) fn acknowledge(response: &mut HeaderMap, child: HeaderValue, made_by: Option<&HeaderValue>) {
    response.remove(&PARENT);
    if made_by == Some(&child) {
        response.insert(PARENT.clone(), child);
    }
}

/// What became of asking the parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Their response is the response.
    Used,
    /// They gave none in time.
    Failed,
    /// They gave one of their own, or decide by other terms.
    Refused,
    /// What they have may have been purged here since they fetched it.
    Outdated,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Outdated => "outdated",
        }
    }
}

/// Counts of asking parents; clones count into the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics(Family<[(&'static str, &'static str); 1], Counter>);

impl Metrics {
    /// Adds them to what the node reports.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("parent_requests", "Requests to parents, by what became of them", self.0.clone());
    }
}

/// What a node knows for its dealings with parents. It lasts while configurations come and go.
#[derive(Debug)]
pub(super) struct Ties {
    marks: Mutex<Marks>,
    metrics: Metrics,
}

impl Ties {
    pub(super) fn new(mark: Mark, metrics: Metrics) -> Self {
        let mut marks = Marks::default();
        marks.note(mark);
        Self { marks: Mutex::new(marks), metrics }
    }

    /// Counts what became of a request.
    pub(super) fn count(&self, outcome: Outcome) {
        self.metrics.0.get_or_create(&[("outcome", outcome.as_str())]).inc();
    }

    /// Sends a request to the parents. `None` if there is no response by the same terms.
    pub(super) async fn ask(
        &self,
        parents: &Parents,
        upstream: UpstreamRequest,
        terms: &HeaderValue,
    ) -> Option<Arrived> {
        ask(parents, upstream, terms).await.map_err(|outcome| self.count(outcome)).ok()
    }

    /// Returns the mark that a parent's response has: `begun`, of the request to the parent, if the parent fetched it
    /// for that; else the one of the time when the parent fetched it, but for what is purged in the world if the parent
    /// applies that, too. `None` if what had been purged here by then isn't known.
    pub(super) fn mark(&self, parents: &Parents, response: &HeaderMap, begun: Mark) -> Option<Mark> {
        let mut marks = self.marks.lock();
        marks.note(begun);
        let mark = match age_ms(response) {
            None => None,
            Some(None) => Some(begun),
            Some(Some(age_ms)) => marks.at(Uptime(begun.at.0.saturating_sub(age_ms.saturating_add(AGE_SLACK_MS)))),
        };
        if mark.is_none() {
            self.count(Outcome::Outdated);
        }
        // Parents hear nothing of what is purged in this region, at this node, or by an unsafe method here.
        mark.map(|mark| if parents.share_purges { Mark { world: begun.world, ..mark } } else { mark })
    }
}

/// Returns what `Age` says, the largest if there are several, in milliseconds; the inner `None` if there is none,
/// because the response was fetched for its request. `None` if it can't be read.
fn age_ms(response: &HeaderMap) -> Option<Option<u64>> {
    let mut age = None;
    for value in response.get_all(AGE) {
        let seconds: u64 = value.to_str().ok()?.trim().parse().ok()?;
        age = age.max(Some(seconds.saturating_mul(1_000)));
    }
    Some(age)
}

/// The marks of the past, oldest first: at most one a second, and only where one differs from the last. Bounded.
#[derive(Debug, Default)]
struct Marks(VecDeque<Mark>);

impl Marks {
    /// Remembers a mark of now.
    fn note(&mut self, mark: Mark) {
        let is_new = |last: &Mark| *last != mark && mark.at.0 >= last.at.0.saturating_add(MARKS_APART_MS);
        if self.0.back().is_none_or(is_new) {
            if self.0.len() >= MARKS_MAX {
                self.0.pop_front();
            }
            self.0.push_back(mark);
        }
    }

    /// Returns a mark of the past: the one of `then`, or one before it. `None` if none is that old.
    fn at(&self, then: Uptime) -> Option<Mark> {
        let before = self.0.partition_point(|mark| mark.at <= then).checked_sub(1)?;
        self.0.get(before).map(|mark| Mark { at: then, ..*mark })
    }
}

/// Sends a request to the parents.
///
/// # Errors
/// What became of it, if there is no response by the same terms.
async fn ask(parents: &Parents, mut upstream: UpstreamRequest, terms: &HeaderValue) -> Result<Arrived, Outcome> {
    let body = match upstream.body {
        UpstreamBody::Bytes(bytes) if bytes.is_empty() => OutboundBody::Empty,
        UpstreamBody::Bytes(bytes) => OutboundBody::Replayable(bytes),
        // It couldn't be sent to the origin afterwards.
        UpstreamBody::Once(_) => return Err(Outcome::Refused),
    };
    upstream.headers.insert(CHILD.clone(), terms.clone());
    let outbound = Outbound {
        method: upstream.method,
        authority: upstream.authority,
        target: upstream.target,
        headers: upstream.headers,
        body,
        client: upstream.client,
        // What is asked of parents is safe.
        repeatable: true,
        recodes: false,
        expected: None,
        span: upstream.span,
    };
    let mut fetched = parents.pool.fetch(outbound).await.map_err(|_| Outcome::Failed)?;
    if fetched.response.headers_mut().remove(&PARENT).as_ref() != Some(terms) {
        return Err(Outcome::Refused);
    }
    Ok(Arrived { fetched, candidate: 0, cost_micro: 0, slot: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::purge::{Incarnation, Position},
        config,
    };

    fn mark(position: u64, at: u64) -> Mark {
        Mark { log: Incarnation(1), position: Position(position), at: Uptime(at), ..Mark::default() }
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn the_clients_region_is_a_term_where_keys_have_it() {
        let near = |client: Option<&str>, node: &str| Near { client: client.map(Into::into), node: Some(node.into()) };
        let route = |has_region| {
            let config = config::Route { key_client_region: has_region, ..config::Route::new("r", "p") };
            Route::nowhere(config)
        };
        let (plain, keyed) = (route(false), route(true));
        let of = |route: &Route, near: Near| terms(route, None, &near);
        assert_eq!(of(&plain, near(Some("eu"), "here")), of(&plain, near(None, "there")));
        assert_eq!(of(&keyed, near(Some("eu"), "here")), of(&keyed, near(Some("eu"), "there")));
        for other in [of(&keyed, near(Some("us"), "here")), of(&keyed, near(None, "here")), of(&plain, Near::default())]
        {
            assert_ne!(of(&keyed, near(Some("eu"), "here")), other);
        }
    }

    #[test]
    fn a_request_that_came_from_a_node_or_wants_the_origin_isnt_sent_to_parents() {
        let (none, cdn) = (headers(&[]), headers(&[("cdn-loop", "cloudflare; loops=1")]));
        let node = headers(&[("cdn-loop", "cloudflare, holm-0123456789abcdef")]);
        let case = Asking { headers: &none, infers: false, is_reload: false, in_step: true };
        for (case, wanted) in [
            (case, true),
            (Asking { headers: &cdn, ..case }, true),
            (Asking { headers: &node, ..case }, false),
            (Asking { infers: true, ..case }, false),
            (Asking { is_reload: true, ..case }, false),
            (Asking { in_step: false, ..case }, false),
        ] {
            assert_eq!(case.asks(), wanted, "{case:?}");
        }
    }

    #[test]
    fn a_mark_of_the_past_is_never_later_than_it_was() {
        let mut marks = Marks::default();
        assert!(marks.at(Uptime(u64::MAX)).is_none());
        // The third is too near to the second, and the fourth is the same.
        for (position, at) in [(1, 10_000), (2, 20_000), (3, 20_500), (2, 40_000), (4, 50_000)] {
            marks.note(mark(position, at));
        }
        for (then, wanted) in
            [(9_999, None), (10_000, Some(1)), (20_900, Some(2)), (49_999, Some(2)), (60_000, Some(4))]
        {
            let found = marks.at(Uptime(then));
            assert_eq!(found.map(|mark| mark.position.0), wanted, "{then}");
            assert!(found.is_none_or(|mark| mark.at == Uptime(then)));
        }
        for position in 0..2 * MARKS_MAX as u64 {
            marks.note(mark(position, 100_000 + 1_000 * position));
        }
        assert_eq!(marks.0.len(), MARKS_MAX);
    }

    #[test]
    fn what_a_parent_had_stored_counts_as_of_then() {
        assert_eq!(age_ms(&headers(&[])), Some(None));
        assert_eq!(age_ms(&headers(&[("age", "3"), ("age", "7")])), Some(Some(7_000)));
        assert_eq!(age_ms(&headers(&[("age", "soon")])), None);
        assert_eq!(age_ms(&headers(&[("age", "1, 2")])), None);
    }

    #[test]
    fn only_a_response_by_the_same_terms_says_so() {
        let (own, other) = (HeaderValue::from_static("a"), HeaderValue::from_static("b"));
        let mut response = headers(&[("x-holm-parent", "b")]);
        acknowledge(&mut response, other.clone(), Some(&own));
        assert!(response.is_empty(), "what an origin says doesn't count");
        acknowledge(&mut response, own.clone(), None);
        assert!(response.is_empty());
        acknowledge(&mut response, own.clone(), Some(&own));
        assert_eq!(response.get(&PARENT), Some(&own));
    }
}
