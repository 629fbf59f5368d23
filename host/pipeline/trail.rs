//! The decisions about one request: the source of its `Cache-Status`, its line in the access log, its counts.

use std::{borrow::Cow, sync::Arc};

use http::HeaderValue;
use tokio::sync::OwnedSemaphorePermit;

use super::{advice::Advice, proxy, route::Route};
use crate::{
    cache::{
        key::Key,
        status::{Forward, Line},
        store::Tier,
    },
    message::proxy_status::ProxyStatus,
    policy::{Arm, Fault, Policy},
};

/// The outcome of the look-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lookup {
    /// Fresh from a tier.
    Hit,
    /// From a tier, past its lifetime.
    Stale,
    /// From the origin, through the cache.
    Miss,
    /// From the origin: a route, policy or request keeps it out of the cache.
    Bypass,
    /// From the origin: nothing of this kind is ever stored.
    #[default]
    Pass,
    /// None: the route responds itself.
    Own,
}

impl Lookup {
    /// Returns the access log's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::Pass => "pass",
            Self::Own => "own",
        }
    }
}

/// The decisions on one request's way.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    /// The route that took it.
    pub route: Option<Arc<Route>>,
    /// The generation that decided.
    pub policy: Option<Arc<dyn Policy>>,
    /// The arms of its experiments that were drawn.
    pub arms: Vec<Arm>,
    /// Its key.
    pub key: Option<Key>,
    /// The look-up.
    pub lookup: Lookup,
    /// Where it was found.
    pub tier: Option<Tier>,
    /// Why it was forwarded to the origin.
    pub forward: Option<Forward>,
    /// The origin's status.
    pub forward_status: Option<u16>,
    /// Whether the origin gave no response.
    pub origin_failed: bool,
    /// Remaining freshness in milliseconds; negative when stale.
    pub ttl_ms: Option<i64>,
    /// Whether the response is being stored.
    pub stored: bool,
    /// Whether it shared another request's fetch.
    pub collapsed: bool,
    /// The endpoint that responded.
    pub endpoint: Option<Arc<str>>,
    /// Attempts at the origin.
    pub attempts: u32,
    /// What the candidate that responded costs.
    pub cost_micro: u64,
    /// Items in the batch, or the largest of its batches.
    pub batch: Option<usize>,
    /// Whether no response came, so that this one is the node's own.
    pub failed: bool,
    /// Whether the response is a refusal or a failure of the node's own, of whatever status.
    pub is_refusal: bool,
    /// The place among its route's requests, free again with the end of the response.
    pub place: Option<Arc<OwnedSemaphorePermit>>,
    /// Why the node has no response of the origin for its client, if it has none.
    pub proxy_status: Option<ProxyStatus>,
    /// The `detail` of `Cache-Status` and of the access log.
    pub detail: Option<Cow<'static, str>>,
    /// What `Cache-Status` says where there is no detail: which request fields select a variant that isn't stored.
    pub hint: Option<Box<str>>,
}

impl Trail {
    /// Returns the start of a request's trail on `route`.
    pub(super) fn on(route: &Arc<Route>, advice: &Advice) -> Self {
        let mut trail = Self { route: Some(Arc::clone(route)), ..Self::default() };
        trail.credit(advice);
        trail
    }

    /// Notes the generation that decides by now, with its arms: the outcome is counted for them. If a canary faulted,
    /// that is the active one.
    pub(super) fn credit(&mut self, advice: &Advice) {
        self.policy = advice.policy().cloned();
        self.arms = advice.arms().to_vec();
    }

    /// Returns the whole trail of a fresh memory hit.
    pub(super) fn of_hit(route: &Arc<Route>, advice: Advice, key: Key) -> Self {
        let (policy, arms) = advice.into_parts();
        let (route, key, tier) = (Some(Arc::clone(route)), Some(key), Some(Tier::Memory));
        Self { route, policy, arms, key, tier, lookup: Lookup::Hit, ..Self::default() }
    }

    /// Whether it was served from the cache: what was forwarded was no hit, even if something stored was served in the
    /// end (RFC 9211, section 2.1).
    #[must_use]
    pub const fn is_hit(&self) -> bool {
        self.forward.is_none() && matches!(self.lookup, Lookup::Hit | Lookup::Stale)
    }

    /// Notes that a fetch brought no response, for this reason. A policy's fault is none of the origin's.
    pub(super) fn note_failure(&mut self, reason: &str) {
        self.origin_failed = !Fault::KINDS.contains(&reason);
        self.proxy_status = Some(ProxyStatus::Error(proxy::error_of(reason)));
    }

    /// Whether the origin failed, by no response or one of 5xx, where this request was sent to it on its own account.
    #[must_use]
    pub fn origin_outcome(&self) -> Option<bool> {
        let failed = self.origin_failed || self.forward_status.is_some_and(|status| status >= 500);
        let asked = self.origin_failed || self.forward_status.is_some();
        (asked && self.forward.is_some() && !self.collapsed).then_some(failed)
    }

    /// Returns the trail as a `Cache-Status` line.
    #[must_use]
    pub fn cache_status(&self, node: &str) -> HeaderValue {
        // What was found meanwhile is a hit like any other.
        let hint = self.hint.as_deref().filter(|_| self.forward.is_some());
        let detail = self.detail.as_deref().or(hint).or(self.tier.map(Tier::as_str));
        Line {
            hit: self.is_hit(),
            forward: self.forward,
            forward_status: self.forward_status,
            ttl: self.ttl_ms.map(|ttl| ttl.div_euclid(1000)),
            stored: self.stored,
            collapsed: self.collapsed,
            policy: self.policy.as_ref().map(|policy| &**policy.label()),
            detail,
        }
        .render(node)
    }

    /// Returns the trail's member of `Proxy-Status`, if it has one.
    pub(super) fn proxy_status(&self, node: &str) -> Option<HeaderValue> {
        Some(self.proxy_status?.render(node, self.detail.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_gives_way_to_a_detail() {
        let missed = Trail { forward: Some(Forward::VaryMiss), hint: Some("vary:accept".into()), ..Trail::default() };
        assert_eq!(missed.cache_status("n"), "n; fwd=vary-miss; detail=vary:accept");
        let detailed = Trail { detail: Some("set-cookie".into()), ..missed };
        assert_eq!(detailed.cache_status("n"), "n; fwd=vary-miss; detail=set-cookie");
    }

    #[test]
    fn a_failure_is_in_proxy_status() {
        let mut trail = Trail::default();
        assert_eq!(trail.proxy_status("n"), None);
        trail.note_failure("connect-timeout");
        trail.detail = Some("connect-timeout".into());
        let wanted = "n; error=connection_timeout; details=\"connect-timeout\"";
        assert_eq!(trail.proxy_status("n").unwrap(), wanted);
    }

    #[test]
    fn an_origin_is_judged_by_what_was_sent_to_it() {
        let sent = || Trail { forward: Some(Forward::UriMiss), ..Trail::default() };
        let failed = |reason| {
            let mut trail = sent();
            trail.note_failure(reason);
            trail
        };
        for (what, trail, wanted) in [
            ("a hit", Trail::default(), None),
            ("200", Trail { forward_status: Some(200), ..sent() }, Some(false)),
            ("404", Trail { forward_status: Some(404), ..sent() }, Some(false)),
            ("503", Trail { forward_status: Some(503), ..sent() }, Some(true)),
            ("no response", failed("connect-refused"), Some(true)),
            ("a policy's fault", failed("trap"), None),
            ("a response that isn't served", Trail { forward_status: Some(503), ..failed("origin-error") }, Some(true)),
            ("only-if-cached", Trail { failed: true, ..sent() }, None),
            ("another's fetch", Trail { collapsed: true, forward_status: Some(503), ..sent() }, None),
        ] {
            assert_eq!(trail.origin_outcome(), wanted, "{what}");
        }
    }
}
