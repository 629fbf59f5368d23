//! What is to be done with a request, and why: decided once at each of the three moments at which more is known of it.
//! When it comes ([`Plan`]), when its key is made ([`KeyedPlan`]), when nothing was found that could be served at once
//! ([`MissPlan`]). Pure: nothing here reads a clock, waits or allocates.

use http::{Method, header};

use super::{
    advice::Advice,
    keying::Keyed,
    route::{Kind, RouteMatch},
};
use crate::{
    cache::{key::Key, lookup::Demand, status::Forward},
    config::QueryKey,
    message::{self, RequestHead, incremental::is_incremental},
    policy::Fault,
};

/// What a request's plan depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aspects<'a> {
    pub(super) kind: Kind,
    pub(super) method: &'a Method,
    /// Whether origins may take its path for another than this node does.
    pub(super) is_ambiguous: bool,
    pub(super) has_body: bool,
    /// Whether the key depends on the body, where there is one.
    pub(super) is_keyed_by_body: bool,
    /// Whether it is a call of gRPC that its route doesn't split.
    pub(super) is_grpc: bool,
    /// Whether its client wants to switch to another protocol.
    pub(super) is_switch: bool,
    /// Whether a QUERY is looked up on its route.
    pub(super) looks_up_query: bool,
    /// Whether its body is to be sent on as it comes (RFC 10036).
    pub(super) is_incremental: bool,
}

impl<'a> Aspects<'a> {
    /// Returns the aspects of a request that a route takes.
    pub(super) fn of(taken: RouteMatch<'_>, advice: &Advice, head: &'a RequestHead, has_body: bool) -> Self {
        let kind = taken.route.kind();
        let is_grpc = match kind {
            Kind::Http | Kind::Item => has_body && message::is_grpc(&head.headers),
            Kind::Items => taken.route.is_call(head) && !taken.route.splits_call(head),
        };
        Self {
            kind,
            method: &head.method,
            is_ambiguous: taken.is_ambiguous,
            has_body,
            is_keyed_by_body: has_body && advice.keys_by_body(),
            is_grpc,
            // What is sent after the switch comes as a body.
            is_switch: has_body && head.headers.contains_key(header::UPGRADE),
            looks_up_query: taken.route.config.extensions.query_key != QueryKey::Pass,
            is_incremental: has_body && is_incremental(&head.headers),
        }
    }
}

/// What is done with a request, as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It is looked up.
    LookUp(Basis),
    /// It is passed on, although requests of its kind are served from the cache.
    Bypass(Why),
    /// It is passed on: no response to a request of its kind is ever stored.
    Pass(Why),
}

/// The parts of a request that a key is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// The head alone.
    Head,
    /// The body as well.
    Body,
}

/// Why a request isn't served from the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Its method has an effect, or isn't understood.
    Method,
    /// Origins may take its path for one of another route, whose rules might be the right ones.
    AmbiguousPath,
    /// It has a body that its key doesn't depend on, and so no meaning that a cache could know; or it is a QUERY whose
    /// content can't be read, or is of no stated type.
    UnkeyedBody,
    /// It is a QUERY whose content is longer than what is looked up.
    LargeBody,
    /// Its body is to be sent on as it comes, so that it can't be part of a key.
    Incremental,
    /// It is a call of gRPC: its result is in trailers, which aren't stored, and its body may be a stream by design.
    Grpc,
    /// Its client wants to switch to another protocol: the connection becomes a tunnel.
    Switch,
    /// The policy wants it so, or faulted and the native default may not make the key.
    Policy,
    /// The client wants no response stored (`no-store`).
    NoStore,
    /// It is for a range of what isn't stored, and the whole isn't fetched for it.
    Range,
    /// It is conditional, and nothing that comes will be stored: the origin is the one to say that the client's copy is
    /// good.
    Condition,
}

impl Plan {
    /// Returns the plan for a request.
    pub(super) fn of(aspects: &Aspects<'_>) -> Self {
        let Aspects { kind, method, is_ambiguous, has_body, is_keyed_by_body, is_grpc, is_switch, .. } = *aspects;
        let is_read = method == Method::GET || method == Method::HEAD;
        let is_query = method == Method::QUERY;
        let is_answered = match kind {
            Kind::Http => is_read || is_query && aspects.looks_up_query,
            Kind::Item => is_read || method == Method::POST,
            Kind::Items => method == Method::POST,
        };
        match kind {
            _ if is_switch => Self::Bypass(Why::Switch),
            _ if !is_answered => Self::Pass(Why::Method),
            _ if is_ambiguous => Self::Bypass(Why::AmbiguousPath),
            _ if is_grpc => Self::Bypass(Why::Grpc),
            _ if has_body && aspects.is_incremental => Self::Bypass(Why::Incremental),
            Kind::Http if is_query => Self::LookUp(Basis::Body),
            Kind::Http if !has_body => Self::LookUp(Basis::Head),
            Kind::Http if !is_keyed_by_body => Self::Bypass(Why::UnkeyedBody),
            Kind::Http | Kind::Item | Kind::Items => Self::LookUp(Basis::Body),
        }
    }

    /// Whether what is stored may be looked at by this plan, for a request that somebody else than its client may have sent
    /// again if it `is_early`: it is served if memory has a fresh response, which changes nothing. `is_repeatable` says
    /// that its policy isn't changed by it either.
    pub(super) fn may_look(self, is_repeatable: bool, is_early: impl FnOnce() -> bool) -> bool {
        self == Self::LookUp(Basis::Head) && (is_repeatable || !is_early())
    }

    /// Returns the plan and its reason, in a word each.
    pub(super) const fn words(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::LookUp(Basis::Head) => ("look-up", Some("keyed-by-head")),
            Self::LookUp(Basis::Body) => ("look-up", Some("keyed-by-body")),
            Self::Bypass(why) => ("bypass", Some(why.as_str())),
            Self::Pass(why) => ("pass", Some(why.as_str())),
        }
    }
}

impl Why {
    /// Returns the reason in a word.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::AmbiguousPath => "ambiguous-path",
            Self::UnkeyedBody => "unkeyed-body",
            Self::LargeBody => "large-body",
            Self::Incremental => "incremental",
            Self::Grpc => "grpc",
            Self::Switch => "upgrade",
            Self::Policy => "policy",
            Self::NoStore => "no-store",
            Self::Range => "range",
            Self::Condition => "condition",
        }
    }

    /// Returns the reason in RFC 9211's terms.
    pub(super) const fn forward(self) -> Forward {
        match self {
            Self::Method => Forward::Method,
            Self::NoStore => Forward::Request,
            Self::AmbiguousPath
            | Self::UnkeyedBody
            | Self::LargeBody
            | Self::Incremental
            | Self::Grpc
            | Self::Switch
            | Self::Policy
            | Self::Range
            | Self::Condition => Forward::Bypass,
        }
    }

    /// Returns what `Cache-Status` and the access log say beside that, where it says too little. A policy has reasons
    /// of its own.
    pub(super) const fn detail(self) -> Option<&'static str> {
        match self {
            Self::AmbiguousPath | Self::LargeBody => Some(self.as_str()),
            _ => None,
        }
    }
}

/// What is done with a request, or one of its items, once its key is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyedPlan<'k> {
    /// It is looked up under this key.
    LookUp(Key),
    /// It is sent to the origin, and nothing is stored; with its key if it has a valid one.
    Bypass(Why, Option<Key>),
    /// The policy faulted, and the route refuses the request then.
    Refuse(&'k Fault),
}

impl<'k> KeyedPlan<'k> {
    /// Returns the plan for a request with this key, as the client's directives allow.
    pub(super) fn of(keyed: &'k Keyed, kind: Kind, has_body: bool, demand: &Demand) -> Self {
        match keyed {
            Keyed::Refused(fault) => Self::Refuse(fault),
            Keyed::Bypass(_) => Self::Bypass(Why::Policy, None),
            // HTTP's native key doesn't contain the body; the policy's would have.
            Keyed::Key { fault: Some(_), .. } if kind == Kind::Http && has_body => Self::Bypass(Why::Policy, None),
            Keyed::Key { key, .. } if demand.directives.no_store => Self::Bypass(Why::NoStore, Some(*key)),
            Keyed::Key { key, .. } => Self::LookUp(*key),
        }
    }

    /// Returns the key, if it has a valid one.
    pub(super) const fn key(self) -> Option<Key> {
        match self {
            Self::LookUp(key) => Some(key),
            Self::Bypass(_, key) => key,
            Self::Refuse(_) => None,
        }
    }

    /// Returns the plan and its reason, in a word each; `None` if it is what was planned already, a look-up.
    pub(super) const fn change(self) -> Option<(&'static str, Option<&'static str>)> {
        match self {
            Self::LookUp(_) => None,
            Self::Bypass(why, _) => Some(("bypass", Some(why.as_str()))),
            Self::Refuse(_) => Some(("refuse", Some("policy"))),
        }
    }
}

/// What is known of a request for which nothing was found that could be served at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Miss<'a> {
    pub(super) demand: &'a Demand,
    /// Requests for its key don't wait for each other at present.
    pub(super) is_uncacheable: bool,
    /// Something is stored that the request itself doesn't accept as it is.
    pub(super) is_by_request: bool,
    /// Something is stored that may be renewed or fallen back on.
    pub(super) has_stale: bool,
    /// It asks for a range.
    pub(super) has_range: bool,
    /// Ranges are passed on, as the route says.
    pub(super) passes_ranges: bool,
    /// One range is put together from slices before that, as the route says.
    pub(super) slices_ranges: bool,
    pub(super) is_conditional: bool,
    /// Whether requests for something newer than what is stored share a fetch.
    pub(super) coalesces_reloads: bool,
}

/// What is done with a request for which nothing was found that could be served at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MissPlan {
    /// It shares one fetch with all requests for the same.
    Collapse,
    /// It shares one fetch with all requests that want something newer as well, until the response begins.
    CollapseReload,
    /// Its range is put together from slices, each of which is one fetch for all that want it.
    Slices,
    /// A fetch for it alone; what may be stored is stored.
    Alone,
    /// It is passed on, and nothing is stored.
    Bypass(Why),
    /// It is refused: the client wants nothing from the origin (`only-if-cached`). So is a range some of whose slices
    /// aren't stored.
    Refuse,
}

impl MissPlan {
    /// Returns the plan for a miss.
    pub(super) fn of(miss: &Miss<'_>) -> Self {
        let Demand { directives, authorized } = miss.demand;
        // A flight that is under way began before the client's request for something newer.
        let wants_newer = directives.max_age.is_some() || directives.min_fresh.is_some();
        let is_reload = miss.is_by_request || directives.no_cache || miss.coalesces_reloads && wants_newer;
        let is_alone = miss.is_uncacheable || *authorized || is_reload && !miss.coalesces_reloads;
        if miss.has_range && miss.slices_ranges && !is_reload && !*authorized {
            // They may all be stored, although the whole isn't.
            Self::Slices
        } else if directives.only_if_cached {
            Self::Refuse
        } else if miss.has_range && (miss.passes_ranges || is_alone && !miss.has_stale) {
            // For one client alone the whole isn't fetched.
            Self::Bypass(Why::Range)
        } else if is_alone && !miss.has_stale && miss.is_conditional {
            Self::Bypass(Why::Condition)
        } else if is_alone {
            Self::Alone
        } else if is_reload {
            Self::CollapseReload
        } else {
            Self::Collapse
        }
    }

    /// Returns the plan and its reason, in a word each.
    pub(super) const fn words(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Collapse => ("collapse", None),
            Self::CollapseReload => ("collapse", Some("reload")),
            Self::Slices => ("slices", None),
            Self::Alone => ("fetch-alone", None),
            Self::Bypass(why) => ("bypass", Some(why.as_str())),
            Self::Refuse => ("refuse", Some("only-if-cached")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::control::Directives;

    const PLAIN: Aspects<'static> = Aspects {
        kind: Kind::Http,
        method: &Method::GET,
        is_ambiguous: false,
        has_body: false,
        is_keyed_by_body: false,
        is_grpc: false,
        is_switch: false,
        looks_up_query: true,
        is_incremental: false,
    };

    #[test]
    fn what_a_head_decides() {
        let (look_up, passed) = (Plan::LookUp, Plan::Pass(Why::Method));
        let (ambiguous, unkeyed) = (Plan::Bypass(Why::AmbiguousPath), Plan::Bypass(Why::UnkeyedBody));
        // kind, method, ambiguous, has a body, keyed by it, wanted
        for (kind, verb, is_ambiguous, has_body, is_keyed_by_body, wanted) in [
            (Kind::Http, "GET", false, false, false, look_up(Basis::Head)),
            (Kind::Http, "HEAD", false, false, true, look_up(Basis::Head)),
            (Kind::Http, "GET", false, true, true, look_up(Basis::Body)),
            (Kind::Http, "GET", false, true, false, unkeyed),
            (Kind::Http, "GET", true, false, false, ambiguous),
            (Kind::Http, "GET", true, true, true, ambiguous),
            (Kind::Http, "POST", false, true, true, passed),
            (Kind::Http, "POST", true, false, false, passed),
            (Kind::Http, "PURGE", false, false, false, passed),
            (Kind::Http, "OPTIONS", false, false, false, passed),
            (Kind::Item, "GET", false, false, false, look_up(Basis::Body)),
            (Kind::Item, "POST", false, true, false, look_up(Basis::Body)),
            (Kind::Item, "POST", true, true, true, ambiguous),
            (Kind::Item, "PUT", false, true, true, passed),
            (Kind::Items, "POST", false, true, false, look_up(Basis::Body)),
            (Kind::Items, "POST", false, false, false, look_up(Basis::Body)),
            (Kind::Items, "POST", true, true, false, ambiguous),
            (Kind::Items, "GET", false, false, false, passed),
            (Kind::Items, "GET", true, false, false, passed),
        ] {
            let method = Method::from_bytes(verb.as_bytes()).unwrap();
            let aspects = Aspects { kind, method: &method, is_ambiguous, has_body, is_keyed_by_body, ..PLAIN };
            assert_eq!(Plan::of(&aspects), wanted, "{aspects:?}");
            let switch = Aspects { is_switch: true, ..aspects };
            assert_eq!(Plan::of(&switch), Plan::Bypass(Why::Switch), "{switch:?}");
        }
    }

    #[test]
    fn an_early_request_is_looked_up_if_that_has_no_effect() {
        let head = Plan::LookUp(Basis::Head);
        for (plan, is_repeatable, is_early, wanted) in [
            (head, true, false, true),
            (head, true, true, true),
            (head, false, false, true),
            (head, false, true, false),
            (Plan::LookUp(Basis::Body), true, true, false),
            (Plan::Pass(Why::Method), true, true, false),
            (Plan::Bypass(Why::AmbiguousPath), true, true, false),
        ] {
            assert_eq!(plan.may_look(is_repeatable, || is_early), wanted, "{plan:?} {is_repeatable} {is_early}");
        }
    }

    #[test]
    fn calls_of_grpc_are_passed_on_unless_a_protocol_splits_them() {
        let (bypass, passed) = (Plan::Bypass(Why::Grpc), Plan::Pass(Why::Method));
        for (kind, method, is_grpc, wanted) in [
            (Kind::Http, Method::POST, true, passed),
            (Kind::Http, Method::GET, true, bypass),
            (Kind::Item, Method::POST, true, bypass),
            (Kind::Items, Method::POST, true, bypass),
            (Kind::Items, Method::POST, false, Plan::LookUp(Basis::Body)),
        ] {
            let (has_body, is_keyed_by_body) = (true, true);
            let aspects = Aspects { kind, method: &method, has_body, is_keyed_by_body, is_grpc, ..PLAIN };
            assert_eq!(Plan::of(&aspects), wanted, "{aspects:?}");
        }
    }

    #[test]
    fn a_query_is_looked_up_by_its_content_where_the_route_wants_it() {
        let (look_up, passed) = (Plan::LookUp(Basis::Body), Plan::Pass(Why::Method));
        let (ambiguous, incremental) = (Plan::Bypass(Why::AmbiguousPath), Plan::Bypass(Why::Incremental));
        for (kind, looks_up_query, has_body, is_ambiguous, is_incremental, wanted) in [
            (Kind::Http, true, true, false, false, look_up),
            (Kind::Http, true, false, false, false, look_up),
            (Kind::Http, false, true, false, false, passed),
            (Kind::Http, true, true, true, false, ambiguous),
            (Kind::Http, true, true, false, true, incremental),
            (Kind::Http, true, false, false, true, look_up),
            (Kind::Item, true, true, false, false, passed),
            (Kind::Items, true, true, false, false, passed),
        ] {
            let method = &Method::QUERY;
            let aspects = Aspects { kind, method, is_ambiguous, has_body, looks_up_query, is_incremental, ..PLAIN };
            assert_eq!(Plan::of(&aspects), wanted, "{aspects:?}");
        }
    }

    #[test]
    fn what_is_to_be_sent_on_as_it_comes_is_part_of_no_key() {
        let incremental = Plan::Bypass(Why::Incremental);
        for (kind, method, has_body, wanted) in [
            (Kind::Http, Method::GET, true, incremental),
            (Kind::Http, Method::GET, false, Plan::LookUp(Basis::Head)),
            (Kind::Http, Method::POST, true, Plan::Pass(Why::Method)),
            (Kind::Item, Method::POST, true, incremental),
            (Kind::Items, Method::POST, true, incremental),
        ] {
            let aspects = Aspects { kind, method: &method, has_body, is_incremental: true, ..PLAIN };
            assert_eq!(Plan::of(&aspects), wanted, "{aspects:?}");
        }
    }

    fn demand(directives: Directives) -> Demand {
        Demand { directives, authorized: false }
    }

    #[test]
    fn what_a_key_decides() {
        let key = Key::from_bytes([7; 32]);
        let (plain, no_store) = (Demand::default(), demand(Directives { no_store: true, ..Directives::default() }));
        let made = Keyed::Key { key, fault: None };
        let natively = Keyed::Key { key, fault: Some(Fault::Open) };
        let (kept_out, refused) = (Keyed::Bypass("odd".to_owned()), Keyed::Refused(Fault::Open));
        let bypass = KeyedPlan::Bypass;
        for (keyed, kind, has_body, demand, wanted) in [
            (&made, Kind::Http, false, &plain, KeyedPlan::LookUp(key)),
            (&made, Kind::Http, true, &plain, KeyedPlan::LookUp(key)),
            (&made, Kind::Items, true, &no_store, bypass(Why::NoStore, Some(key))),
            (&natively, Kind::Http, false, &plain, KeyedPlan::LookUp(key)),
            (&natively, Kind::Http, true, &plain, bypass(Why::Policy, None)),
            (&natively, Kind::Http, true, &no_store, bypass(Why::Policy, None)),
            (&natively, Kind::Item, true, &plain, KeyedPlan::LookUp(key)),
            (&natively, Kind::Items, true, &plain, KeyedPlan::LookUp(key)),
            (&kept_out, Kind::Http, false, &no_store, bypass(Why::Policy, None)),
            (&refused, Kind::Items, true, &no_store, KeyedPlan::Refuse(&Fault::Open)),
        ] {
            let plan = KeyedPlan::of(keyed, kind, has_body, demand);
            assert_eq!(plan, wanted, "{keyed:?} {kind:?} {has_body} {demand:?}");
            assert_eq!(plan.key().is_some(), !matches!(plan, KeyedPlan::Bypass(Why::Policy, _) | KeyedPlan::Refuse(_)));
        }
    }

    #[test]
    fn what_a_miss_leads_to() {
        let plain = Demand::default();
        let no_cache = demand(Directives { no_cache: true, ..Directives::default() });
        let young = demand(Directives { max_age: Some(std::time::Duration::ZERO), ..Directives::default() });
        let lasting =
            demand(Directives { min_fresh: Some(std::time::Duration::from_secs(9)), ..Directives::default() });
        let offline = demand(Directives { only_if_cached: true, ..Directives::default() });
        let authorized = Demand { authorized: true, ..Demand::default() };
        let miss = |demand| Miss {
            demand,
            is_uncacheable: false,
            is_by_request: false,
            has_stale: false,
            has_range: false,
            passes_ranges: false,
            slices_ranges: false,
            is_conditional: false,
            coalesces_reloads: false,
        };
        // A range is a condition as well.
        let range = |demand| Miss { has_range: true, is_conditional: true, ..miss(demand) };
        let passed = |demand| Miss { passes_ranges: true, ..range(demand) };
        let shared = |demand| Miss { coalesces_reloads: true, ..miss(demand) };
        let sliced = |demand| Miss { slices_ranges: true, ..passed(demand) };
        for (miss, wanted) in [
            (miss(&plain), MissPlan::Collapse),
            (Miss { has_stale: true, ..miss(&plain) }, MissPlan::Collapse),
            // What comes is stored, and this node evaluates the condition.
            (Miss { is_conditional: true, ..miss(&plain) }, MissPlan::Collapse),
            (miss(&no_cache), MissPlan::Alone),
            (miss(&authorized), MissPlan::Alone),
            (Miss { is_uncacheable: true, ..miss(&plain) }, MissPlan::Alone),
            (Miss { is_by_request: true, has_stale: true, ..miss(&plain) }, MissPlan::Alone),
            (Miss { is_conditional: true, ..miss(&no_cache) }, MissPlan::Bypass(Why::Condition)),
            (Miss { is_conditional: true, has_stale: true, ..miss(&no_cache) }, MissPlan::Alone),
            // The whole comes, and this node cuts it.
            (range(&plain), MissPlan::Collapse),
            (Miss { has_stale: true, ..range(&plain) }, MissPlan::Collapse),
            (Miss { has_stale: true, ..range(&no_cache) }, MissPlan::Alone),
            (range(&no_cache), MissPlan::Bypass(Why::Range)),
            (range(&authorized), MissPlan::Bypass(Why::Range)),
            (Miss { is_uncacheable: true, ..range(&plain) }, MissPlan::Bypass(Why::Range)),
            (passed(&plain), MissPlan::Bypass(Why::Range)),
            (Miss { has_stale: true, ..passed(&plain) }, MissPlan::Bypass(Why::Range)),
            (Miss { passes_ranges: true, ..miss(&plain) }, MissPlan::Collapse),
            (range(&offline), MissPlan::Refuse),
            (sliced(&plain), MissPlan::Slices),
            (Miss { has_stale: true, ..sliced(&plain) }, MissPlan::Slices),
            // That the whole can't be stored says nothing about slices of it.
            (Miss { is_uncacheable: true, ..sliced(&plain) }, MissPlan::Slices),
            (Miss { has_range: false, ..sliced(&plain) }, MissPlan::Collapse),
            (sliced(&no_cache), MissPlan::Bypass(Why::Range)),
            (Miss { coalesces_reloads: true, ..sliced(&young) }, MissPlan::Bypass(Why::Range)),
            (sliced(&authorized), MissPlan::Bypass(Why::Range)),
            // All that it needs may be stored.
            (sliced(&offline), MissPlan::Slices),
            (Miss { is_by_request: true, has_stale: true, ..sliced(&offline) }, MissPlan::Refuse),
            (sliced(&Demand { authorized: true, ..offline.clone() }), MissPlan::Refuse),
            (shared(&plain), MissPlan::Collapse),
            (shared(&no_cache), MissPlan::CollapseReload),
            (shared(&young), MissPlan::CollapseReload),
            (shared(&lasting), MissPlan::CollapseReload),
            (Miss { has_stale: true, ..shared(&young) }, MissPlan::CollapseReload),
            (miss(&young), MissPlan::Collapse),
            (Miss { has_stale: true, ..shared(&no_cache) }, MissPlan::CollapseReload),
            (Miss { is_by_request: true, has_stale: true, ..shared(&plain) }, MissPlan::CollapseReload),
            // What comes is stored, and this node evaluates the condition, or cuts it.
            (Miss { is_conditional: true, ..shared(&no_cache) }, MissPlan::CollapseReload),
            (Miss { coalesces_reloads: true, ..range(&no_cache) }, MissPlan::CollapseReload),
            (Miss { coalesces_reloads: true, has_stale: true, ..range(&no_cache) }, MissPlan::CollapseReload),
            (Miss { is_uncacheable: true, ..shared(&no_cache) }, MissPlan::Alone),
            (Miss { is_by_request: true, has_stale: true, ..shared(&authorized) }, MissPlan::Alone),
            (Miss { coalesces_reloads: true, ..range(&authorized) }, MissPlan::Bypass(Why::Range)),
            (Miss { coalesces_reloads: true, is_uncacheable: true, ..range(&no_cache) }, MissPlan::Bypass(Why::Range)),
            (Miss { coalesces_reloads: true, ..passed(&no_cache) }, MissPlan::Bypass(Why::Range)),
            (miss(&offline), MissPlan::Refuse),
            (Miss { has_range: true, is_uncacheable: true, ..miss(&offline) }, MissPlan::Refuse),
        ] {
            assert_eq!(MissPlan::of(&miss), wanted, "{miss:?}");
        }
    }

    #[test]
    fn each_reason_has_its_word() {
        for (why, forward, detail) in [
            (Why::Method, Forward::Method, None),
            (Why::AmbiguousPath, Forward::Bypass, Some("ambiguous-path")),
            (Why::UnkeyedBody, Forward::Bypass, None),
            (Why::Policy, Forward::Bypass, None),
            (Why::NoStore, Forward::Request, None),
            (Why::Range, Forward::Bypass, None),
            (Why::Condition, Forward::Bypass, None),
        ] {
            assert_eq!((why.forward(), why.detail()), (forward, detail), "{why:?}");
            assert_eq!(Plan::Bypass(why).words(), ("bypass", Some(why.as_str())));
            assert!(detail.is_none_or(|detail| detail == why.as_str()), "{why:?}: one word for one reason");
        }
    }
}
