//! What would be done with a request now, and why. The same decisions are made as for one that is served, by the same
//! functions, and nothing is fetched, stored, counted or brought into another tier. What depends on the moment is left
//! aside: places that are taken, flights that are under way, and the policy's hooks after `key`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    Method,
    header::{self, EXPIRES},
};

use super::{
    advice::{Advice, PolicyContext},
    forwarding::Proxies,
    inputs::{self, Input},
    keying::{self, Content, Keyed},
    own, pass,
    plan::{Aspects, Basis, KeyedPlan, Miss, MissPlan, Plan, Why},
    recent::Recent,
    refusal::{Unforwardable, unforwardable},
    rewriting::Unwritable,
    route::{Kind, Route, RouteMatch},
    slices::{self, Preview},
    web,
};
use crate::{
    cache::{
        Cache, Query, conditional,
        entry::{Head, Object},
        inspect::{Inspected, Stored},
        key::Key,
        lookup::{Demand, Outcome},
        purge::Standing,
        range,
        store::Tier,
        tag, targeted,
    },
    clock::{self, Timestamp},
    config::{RangeMiss, Reload},
    message::{RequestHead, compression::decompress, incremental::is_incremental},
    origin::protocol::{Protocol, Received},
    report::{WhyDifference, WhyLookup, WhyNearest, WhyReport, WhyRoute, WhyRule, WhyStored},
};

/// Items of a request whose look-ups are reported.
const ITEMS_MAX: usize = 16;

/// Tags of a stored response that are reported.
const TAGS_MAX: usize = 64;

/// The parts of the node that are needed to say what it would do.
#[derive(Debug)]
pub(super) struct Explainer {
    /// The node's name.
    pub(super) node: String,
    pub(super) cache: Arc<Cache>,
    pub(super) policy_context: Arc<PolicyContext>,
    pub(super) proxies: Arc<Proxies>,
    pub(super) recent: Arc<Recent>,
    /// Items that a request may have.
    pub(super) items_max: usize,
}

/// Why a request is refused: in a word, and by which rule.
type Refusal = (&'static str, WhyRule);

/// A request that is to be looked up, or one of its items.
struct Subject<'a> {
    route: &'a Arc<Route>,
    advice: &'a Advice,
    head: &'a RequestHead,
    body: &'a Bytes,
    /// What its key has of the body, but for what a policy reads of it.
    content: Content<'a>,
    /// Its place in the body, if that is split.
    number: Option<usize>,
    /// Why it is refused unless memory has it.
    refusal: Option<&'a Refusal>,
}

/// A request whose key is made.
struct Asked<'a> {
    subject: &'a Subject<'a>,
    key: Key,
    demand: Demand,
    inputs: Vec<Input>,
    /// Its key by what the last response for its path has said of queries.
    by_rule: Option<Key>,
}

impl Explainer {
    /// Says what would be done with a request.
    pub(super) async fn explain(&self, mut head: RequestHead, body: Bytes) -> WhyReport {
        self.proxies.believe(&mut head);
        let (node, method, url) = (self.node.clone(), head.method.to_string(), head.url());
        let mut report = WhyReport { node, method, url, ..WhyReport::default() };
        let routes = Arc::clone(&self.policy_context.routes);
        let Some(taken) = routes.find(&head) else {
            report.plan = "none".to_owned();
            report.rule = by_node("no route takes its host and path: the response is 404");
            return report;
        };
        if let Some(given) = &taken.route.config.own {
            report.route = Some(self.route(taken, &head));
            (report.plan, report.rule) = match own::response(given, taken.route.config.rewrite.as_ref(), &head) {
                Ok(_) => {
                    let text = "the route has a response of its own (redirect, respond), and nothing is looked up";
                    ("own".to_owned(), by_node(text))
                }
                Err(fault) => {
                    let (word, rule) = unwritable(fault);
                    report.reason = Some(word.to_owned());
                    ("refuse".to_owned(), rule)
                }
            };
            return report;
        }
        let advice = Advice::preview(taken.route, &head);
        report.policy = advice.policy().map(|policy| policy.label().to_string());
        report.route = Some(self.route(taken, &head));
        // After a switch of protocols there is something to read.
        let has_body = !body.is_empty() || head.headers.contains_key(header::UPGRADE);
        let plan = Plan::of(&Aspects::of(taken, &advice, &head, has_body));
        let (word, reason) = plan.words();
        (report.plan, report.reason) = (word.to_owned(), reason.map(str::to_owned));
        report.rule = match plan {
            Plan::LookUp(_) => by_rfc("responses to its method may be stored and used again", "RFC 9111, section 3"),
            Plan::Bypass(why) | Plan::Pass(why) => rule_of(why),
        };
        let refusal = self.refusal(taken.route, &advice, &head, &body, plan);
        // What may be in memory is looked up first.
        let refusal = match refusal {
            Some((word, rule)) if plan != Plan::LookUp(Basis::Head) => {
                (report.plan, report.reason, report.rule) = ("refuse".to_owned(), Some(word.to_owned()), rule);
                return report;
            }
            refusal => refusal,
        };
        match (plan, taken.route.splits()) {
            (Plan::Bypass(_) | Plan::Pass(_), _) => {}
            (Plan::LookUp(_), Some(protocol)) => {
                self.items(taken.route, protocol, &advice, head, body, &mut report).await;
            }
            (Plan::LookUp(_), None) => {
                self.single(taken.route, &advice, &head, body, refusal.as_ref(), &mut report).await;
            }
        }
        report
    }

    /// Reports the look-up of a request whose body isn't split.
    async fn single(
        &self,
        route: &Arc<Route>,
        advice: &Advice,
        head: &RequestHead,
        body: Bytes,
        refusal: Option<&Refusal>,
        report: &mut WhyReport,
    ) {
        let (body, canonical) = web::item(route, &head.headers, body);
        let digest = match web::query_digest(route, head, &body) {
            Ok(digest) => digest,
            Err(why) => {
                report.plan = "bypass".to_owned();
                report.reason = Some(why.as_str().to_owned());
                report.rule = rule_of(why);
                return;
            }
        };
        let content = match (&digest, &canonical) {
            (Some(digest), _) => Content::Query(digest),
            (None, Some(canonical)) => Content::Item(canonical),
            (None, None) => Content::None,
        };
        let subject = Subject { route, advice, head, body: &body, content, number: None, refusal };
        let lookup = self.look_up(&subject).await;
        report.lookups.push(lookup);
    }

    /// Returns why a request isn't sent on, if it isn't.
    fn refusal(&self, route: &Route, advice: &Advice, head: &RequestHead, body: &Bytes, plan: Plan) -> Option<Refusal> {
        let length = body.len() as u64;
        if let Some(reason) = unforwardable(route, &self.policy_context.loops, head, length, plan) {
            return Some(refused(reason));
        }
        let is_read = match plan {
            // A QUERY with more content than is read is passed on.
            Plan::LookUp(_) => head.method != Method::QUERY,
            Plan::Bypass(why) | Plan::Pass(why) => pass::reads_body(advice, why),
        };
        let is_passed = !matches!(plan, Plan::LookUp(_));
        if is_passed && is_read && length > 0 && is_incremental(&head.headers) {
            let text = "the route's policy reads bodies as a whole, and this one is to be sent on as it comes: 501";
            return Some((Why::Incremental.as_str(), by_rfc(text, "RFC 10036, section 4.1")));
        }
        let limit = self.policy_context.body_bytes_max;
        (is_read && length > limit).then(|| too_large(limit))
    }

    fn route(&self, taken: RouteMatch<'_>, head: &RequestHead) -> WhyRoute {
        let (routes, config) = (&self.policy_context.routes, &taken.route.config);
        let (place, count) = routes.place(taken.route);
        WhyRoute {
            name: config.name.clone(),
            place: place + 1,
            routes: count,
            host: taken.route.host_pattern(head.authority()).map(str::to_owned),
            path: config.path.clone(),
            found_by: if routes.has_index() { "index" } else { "walk" }.to_owned(),
            ambiguous: taken.is_ambiguous,
        }
    }

    /// Reports the look-ups of the first items of a request.
    async fn items(
        &self,
        route: &Arc<Route>,
        protocol: &'static dyn Protocol,
        advice: &Advice,
        mut head: RequestHead,
        body: Bytes,
        report: &mut WhyReport,
    ) {
        let refuse = |report: &mut WhyReport, reason: &str, text: String| {
            (report.plan, report.reason) = ("refuse".to_owned(), Some(reason.to_owned()));
            report.rule = WhyRule { text, ..WhyRule::default() };
        };
        if route.splits_call(&head) {
            let text = "no call of gRPC is explained: ask for the request of KServe's REST protocol that it stands for";
            return refuse(report, "grpc", text.to_owned());
        }
        let body = match decompress(&head.headers, body, self.policy_context.body_bytes_max).await {
            Ok(body) => body,
            Err(error) => return refuse(report, "content-coding", error.to_string()),
        };
        head.headers.remove(header::CONTENT_ENCODING);
        let received = Received { target: &head.target, headers: &head.headers, body: &body };
        let Ok(split) = protocol.split(&received, &route.split_rules(self.items_max)) else {
            return refuse(report, "malformed", "the body is none of the route's protocol".to_owned());
        };
        report.left_out = split.items.len().saturating_sub(ITEMS_MAX);
        for (number, item) in split.items.iter().take(ITEMS_MAX).enumerate() {
            let (advice, content) = (advice.for_item(number), Content::Item(&item.canonical));
            let (advice, head, body, number, refusal) = (&advice, &head, &item.body, Some(number), None);
            let subject = Subject { route, advice, head, body, content, number, refusal };
            let mut lookup = self.look_up(&subject).await;
            if !item.shareable {
                (lookup.outcome, lookup.next) = ("bypass".to_owned(), "fetch-alone".to_owned());
                lookup.rule = by_node("its response depends on more than what is sent, so that nobody else may get it");
                (lookup.stored, lookup.nearest) = (None, None);
            }
            report.lookups.push(lookup);
        }
    }

    async fn look_up(&self, subject: &Subject<'_>) -> WhyLookup {
        let Subject { route, advice, head, body, number, .. } = *subject;
        let (keyed, inputs, by_rule) = self.keyed(subject);
        let demand = route.demand(&head.headers);
        let plan = KeyedPlan::of(&keyed, route.kind(), !body.is_empty() || number.is_some(), &demand);
        let made_by = advice.key_maker().map_or_else(|| "native".to_owned(), |maker| maker.label().to_string());
        let mut lookup = WhyLookup {
            item: number,
            key: plan.key().map(|key| key.to_string()),
            made_by,
            remark: keyed.remark(),
            inputs: inputs.iter().map(Input::report).collect(),
            ..WhyLookup::default()
        };
        let KeyedPlan::LookUp(key) = plan else {
            if let Some((word, rule)) = subject.refusal {
                (lookup.outcome, lookup.next) = ("refuse".to_owned(), "refuse".to_owned());
                (lookup.reason, lookup.rule) = (Some((*word).to_owned()), rule.clone());
                return lookup;
            }
            let (word, why) = plan.change().unwrap_or_default();
            (lookup.outcome, lookup.next) = (word.to_owned(), word.to_owned());
            lookup.reason = why.map(str::to_owned);
            lookup.rule = kept_out(plan, advice, lookup.remark.as_deref());
            return lookup;
        };
        self.look_under(&Asked { subject, key, demand, inputs, by_rule }, &mut lookup).await;
        lookup
    }

    /// Makes the key, lists what it is made of, and makes the one by the rule of its path.
    fn keyed(&self, subject: &Subject<'_>) -> (Keyed, Vec<Input>, Option<Key>) {
        let Subject { route, advice, head, body, content, .. } = *subject;
        let facts = advice.facts(&self.policy_context, head, Some(body));
        advice.draw(&facts);
        let keyed = keying::derive(route, advice, &facts, content);
        // If a canary has faulted, what it noted doesn't count any more.
        let facts = advice.facts(&self.policy_context, head, Some(body));
        let by_rule = match keyed {
            Keyed::Key { fault: None, .. } => web::by_rule(&self.cache, route, advice, &facts),
            _ => None,
        };
        let content = match content {
            Content::Item(canonical) if subject.number.is_some() => canonical,
            Content::Query(digest) => &digest[..],
            Content::Item(_) | Content::None => &body[..],
        };
        (keyed, inputs::of(route, advice, &facts, Some(content)), by_rule)
    }

    /// Reports what is stored under a key, what is done with it, and what is stored instead if nothing is.
    async fn look_under(&self, asked: &Asked<'_>, lookup: &mut WhyLookup) {
        let Asked { subject, key, demand, inputs, by_rule } = asked;
        let (route, head, now) = (subject.route, subject.head, clock::now());
        let url = head.url();
        let by_url = |prefixes: bool| tag::of_url(&url, prefixes);
        let query = Query { key: *key, head, demand, url: Some(&by_url), now };
        let mut inspected = self.cache.inspect(&query).await;
        if let Some(key) = by_rule.filter(|_| !web::is_served(&inspected.outcome)) {
            let other = self.cache.inspect(&Query { key, ..query }).await;
            let is_known = other.uncacheable || other.stored.is_some();
            // Of two misses the one that is told is that of which something is known.
            if is_known && web::is_by_rule(&inspected.outcome, inspected.uncacheable, &other.outcome) {
                lookup.key = Some(key.to_string());
                inspected = other;
            }
        }
        let mut inputs = inputs.clone();
        if let Some(names) = &inspected.names {
            let varying = inputs::of_variant(head, names);
            lookup.inputs.extend(varying.iter().map(Input::report));
            lookup.variant = Some(inspected.key.to_string());
            inputs.extend(varying);
        }
        lookup.stored = inspected.stored.as_ref().map(|stored| {
            let names = inspected.names.as_deref().unwrap_or_default();
            let vary = names.iter().map(ToString::to_string).collect();
            WhyStored { vary, ..stored_report(stored, route, now) }
        });
        lookup.rule = rule_of_stored(&inspected);
        self.decide(asked, &query, &inspected, lookup).await;
        if inspected.stored.is_none() {
            lookup.nearest = self.nearest(&inspected.key, &inputs, now).await;
        }
    }

    /// Notes what is done with what was found.
    async fn decide(&self, asked: &Asked<'_>, query: &Query<'_>, inspected: &Inspected, lookup: &mut WhyLookup) {
        let Subject { route, head, refusal, .. } = *asked.subject;
        let (outcome, is_by_request, has_stale) = match &inspected.outcome {
            Outcome::Hit(_) => ("hit", false, false),
            Outcome::Grace(_) => ("grace", false, false),
            Outcome::Stale { by_request, .. } => ("stale", *by_request, true),
            Outcome::Miss => ("miss", false, false),
        };
        lookup.outcome = outcome.to_owned();
        if let Some((word, rule)) = refusal.filter(|_| !is_at_hand(inspected, query.now)) {
            (lookup.next, lookup.reason) = ("refuse".to_owned(), Some((*word).to_owned()));
            lookup.rule = rule.clone();
            return;
        }
        let miss = Miss {
            demand: &asked.demand,
            is_uncacheable: inspected.uncacheable,
            is_by_request,
            has_stale,
            has_range: range::is_asked_for(&head.method, &head.headers),
            passes_ranges: route.config.range_miss != RangeMiss::Whole,
            slices_ranges: route.config.range_miss == RangeMiss::Parts,
            is_conditional: conditional::is_conditional(&head.headers),
            coalesces_reloads: route.reload() == Reload::Coalesce,
        };
        let (next, reason) = match (outcome, route.kind()) {
            ("hit", _) => ("serve", None),
            ("grace", _) => ("serve-and-refresh", None),
            (_, Kind::Items) if inspected.uncacheable => ("fetch-alone", None),
            (_, Kind::Items) => ("collapse", None),
            _ => match MissPlan::of(&miss) {
                MissPlan::Slices => {
                    let preview = slices::preview(&self.cache, query).await;
                    return note_slices(preview, asked.demand.directives.only_if_cached, lookup);
                }
                plan => plan.words(),
            },
        };
        if reason == Some("only-if-cached") {
            lookup.rule = not_cached();
        }
        (lookup.next, lookup.reason) = (next.to_owned(), reason.map(str::to_owned));
    }

    /// Returns the stored entry whose key was made of nearly the same.
    async fn nearest(&self, key: &Key, inputs: &[Input], now: Timestamp) -> Option<WhyNearest> {
        for near in self.recent.nearest(key, inputs) {
            let Some((object, tier)) = self.cache.present(&near.record.key).await else { continue };
            let differs = near.differs.iter().map(|one| WhyDifference {
                name: one.here.name.to_string(),
                here: one.here.report(),
                there: one.there.report(),
            });
            return Some(WhyNearest {
                key: near.record.key.to_string(),
                tier: tier.as_str().to_owned(),
                age_ms: object.head.age_ms(now),
                differs: differs.collect(),
            });
        }
        None
    }
}

/// A rule of this node's own.
fn by_node(text: &str) -> WhyRule {
    WhyRule { text: text.to_owned(), ..WhyRule::default() }
}

fn by_rfc(text: &str, section: &str) -> WhyRule {
    WhyRule { section: Some(section.to_owned()), ..by_node(text) }
}

fn refused(reason: Unforwardable) -> Refusal {
    match reason {
        Unforwardable::Early => (
            "early-data",
            by_rfc("it came in early data, and memory has nothing fresh for it: 425", "RFC 8470, section 5.2"),
        ),
        Unforwardable::Path(fault) => unwritable(fault),
        Unforwardable::TooLarge { limit } => too_large(limit),
        Unforwardable::Loop => {
            let text = "this node has sent the request on before: its origin leads back to it";
            ("loop", by_rfc(text, "RFC 8586"))
        }
        Unforwardable::Call(status, word, detail) => (word, by_node(&format!("{detail}: {}", status.as_u16()))),
        Unforwardable::Switch => {
            let text = "the route doesn't allow a switch to another protocol (websocket = false): 501";
            (Why::Switch.as_str(), by_node(text))
        }
        Unforwardable::Incremental => {
            let text = "the route reads bodies as a whole, and sends none on while it arrives: 501";
            (Why::Incremental.as_str(), by_rfc(text, "RFC 10036, section 4.1"))
        }
    }
}

fn unwritable(fault: Unwritable) -> Refusal {
    let (status, word, detail) = fault.told();
    (word, by_node(&format!("{detail} (rewrite): {}", status.as_u16())))
}

fn too_large(limit: u64) -> Refusal {
    let text = format!("its body is larger than the limit of {limit} bytes (body_bytes_max): 413");
    ("body-too-large", by_rfc(&text, "RFC 9110, section 15.5.14"))
}

fn not_cached() -> WhyRule {
    let text = "the request is only-if-cached, and nothing that may be used is stored: the response is 504";
    by_rfc(text, "RFC 9111, section 5.2.1.7")
}

/// Whether memory has a fresh response that is served before a request could be refused.
fn is_at_hand(inspected: &Inspected, now: Timestamp) -> bool {
    let is_in_memory = inspected.stored.as_ref().is_some_and(|stored| stored.tier == Tier::Memory);
    match &inspected.outcome {
        Outcome::Hit(object) => is_in_memory && object.is_whole() && object.head.is_fresh(now),
        Outcome::Grace(_) | Outcome::Stale { .. } | Outcome::Miss => false,
    }
}

/// Notes what is done for a range that may be put together from slices.
fn note_slices(preview: Preview, is_offline: bool, lookup: &mut WhyLookup) {
    let stored = |is_stale| if is_stale { "grace" } else { "hit" };
    let (outcome, next) = match preview {
        Preview::NoSlices => ("miss", "bypass"),
        Preview::Fetched { is_stale } => (if is_stale { "stale" } else { "miss" }, "slices"),
        Preview::Stored { is_stale: true, is_whole: false } => ("stale", "slices"),
        Preview::Stored { is_stale: false, is_whole: false } => ("hit", "slices"),
        Preview::Stored { is_stale, is_whole: true } => {
            (stored(is_stale), if is_stale { "serve-and-refresh" } else { "serve" })
        }
    };
    lookup.outcome = outcome.to_owned();
    if is_offline && (next == "slices" || next == "bypass") {
        (lookup.next, lookup.reason) = ("refuse".to_owned(), Some("only-if-cached".to_owned()));
        lookup.rule = not_cached();
        return;
    }
    (lookup.next, lookup.reason, lookup.rule) = match preview {
        Preview::NoSlices => ("bypass".to_owned(), Some(Why::Range.as_str().to_owned()), rule_of(Why::Range)),
        Preview::Stored { is_whole: true, .. } => {
            let text = "all parts of its range are stored, in one version, and may be served";
            (next.to_owned(), None, by_rfc(text, "RFC 9111, section 3.4"))
        }
        Preview::Fetched { .. } | Preview::Stored { .. } => {
            let text = "its range is put together from parts, of which some are fetched or confirmed first";
            (next.to_owned(), None, by_rfc(text, "RFC 9110, section 15.3.7.3"))
        }
    };
}

/// Returns the rule by which a request isn't served from the cache.
fn rule_of(why: Why) -> WhyRule {
    match why {
        Why::Method => by_rfc(
            "its method has an effect or isn't understood: it is sent to the origin, and invalidates its URL if it succeeds",
            "RFC 9111, section 4",
        ),
        Why::AmbiguousPath => {
            by_rfc("origins may take its path for one of another route", "RFC 3986, sections 5.2.4 and 6.2.2")
        }
        Why::UnkeyedBody => by_rfc("it has a body that its key doesn't depend on", "RFC 9110, section 9.3.1"),
        Why::LargeBody => by_node("it is a QUERY with more content than the route's query_body_bytes_max"),
        Why::Incremental => by_rfc("its body is to be sent on as it comes", "RFC 10036, section 4"),
        Why::Grpc => by_node("it is a call of gRPC: its result is in trailers, and its body may be a stream"),
        Why::Switch => by_rfc("it switches to another protocol", "RFC 9110, section 7.8"),
        Why::Policy => by_node("the policy keeps it out of the cache"),
        Why::NoStore => by_rfc("the request has no-store", "RFC 9111, section 5.2.1.5"),
        Why::Range => by_rfc("the whole isn't fetched for its range", "RFC 9110, section 14.2"),
        Why::Condition => by_rfc("it is conditional, and nothing that comes will be stored", "RFC 9111, section 4.3.2"),
    }
}

/// Returns the rule by which a request with a key, or without one, isn't looked up.
fn kept_out(plan: KeyedPlan<'_>, advice: &Advice, remark: Option<&str>) -> WhyRule {
    let by_policy = |text: String| WhyRule {
        text,
        section: None,
        policy: advice.policy().map(|policy| policy.label().to_string()),
        hook: Some("key".to_owned()),
    };
    let remark = remark.unwrap_or("no reason given");
    match plan {
        KeyedPlan::Refuse(fault) => {
            by_policy(format!("the policy faulted, and the route refuses the request then (on_fault): {fault}"))
        }
        KeyedPlan::Bypass(Why::Policy, _) => {
            by_policy(format!("the policy keeps it out of the cache, or it faulted: {remark}"))
        }
        KeyedPlan::Bypass(why, _) => rule_of(why),
        KeyedPlan::LookUp(_) => WhyRule::default(),
    }
}

/// Returns the rule that decided about what is stored, or that nothing is.
fn rule_of_stored(inspected: &Inspected) -> WhyRule {
    let Some(stored) = &inspected.stored else {
        return match (inspected.uncacheable, &inspected.names) {
            (true, _) => by_node(
                "a response to it was not to be stored lately: until that is forgotten requests don't wait for each other",
            ),
            (false, Some(_)) => by_rfc("no variant that it selects is stored", "RFC 9111, section 4.1"),
            (false, None) => by_rfc("nothing is stored under its key", "RFC 9111, section 4"),
        };
    };
    let because = stored.because;
    WhyRule { section: because.section().map(str::to_owned), ..by_node(because.text()) }
}

fn stored_report(stored: &Stored, route: &Route, now: Timestamp) -> WhyStored {
    let object: &Object = &stored.object;
    let (head, lifetimes) = (&object.head, &object.head.lifetimes);
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let headers = head.all_headers();
    let tags = tag::names(&headers, &route.config.tag_headers).take(TAGS_MAX);
    let purged = match stored.standing {
        Standing::Good => "no",
        Standing::Stale => "soft",
        Standing::Gone => "hard",
        Standing::Unconfirmed => "unconfirmed",
        Standing::Doubtful => "unknown",
    };
    WhyStored {
        tier: stored.tier.as_str().to_owned(),
        status: head.status.as_u16(),
        length: head.length,
        age_ms: head.age_ms(now),
        lifetime_ms: lifetimes.ttl_ms,
        left_ms: signed(lifetimes.ttl_ms).saturating_sub(signed(head.age_ms(now))),
        lifetime_from: lifetime_from(head, route).to_owned(),
        grace_ms: lifetimes.grace_ms,
        stale_if_error_ms: lifetimes.stale_if_error_ms,
        stale_if_unreachable_ms: lifetimes.stale_if_unreachable_ms,
        vary: Vec::new(),
        tags: tags.map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
        purged: purged.to_owned(),
        for_authorized: head.for_authorized,
    }
}

/// Returns what a stored response's lifetime is from: the field that states the same, if there is one.
fn lifetime_from(head: &Head, route: &Route) -> &'static str {
    let headers = head.all_headers();
    let directives = targeted::effective(&headers, route.targeted());
    let states = |stated: Option<Duration>| stated.is_some_and(|time| clock::millis(time) == head.lifetimes.ttl_ms);
    if states(directives.s_maxage) {
        "s-maxage"
    } else if states(directives.max_age) && directives.targeted {
        "max-age of a targeted field (RFC 9213)"
    } else if states(directives.max_age) {
        "max-age"
    } else if headers.contains_key(EXPIRES) && directives.max_age.is_none() && !directives.targeted {
        "Expires, or what the route or a policy sets in its place"
    } else {
        "a policy, the route's ttl_ms, or a heuristic (RFC 9111, section 4.2.2)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_names_its_rule() {
        for (why, section) in [
            (Why::Method, Some("RFC 9111, section 4")),
            (Why::AmbiguousPath, Some("RFC 3986, sections 5.2.4 and 6.2.2")),
            (Why::UnkeyedBody, Some("RFC 9110, section 9.3.1")),
            (Why::LargeBody, None),
            (Why::Incremental, Some("RFC 10036, section 4")),
            (Why::Grpc, None),
            (Why::Switch, Some("RFC 9110, section 7.8")),
            (Why::Policy, None),
            (Why::NoStore, Some("RFC 9111, section 5.2.1.5")),
            (Why::Range, Some("RFC 9110, section 14.2")),
            (Why::Condition, Some("RFC 9111, section 4.3.2")),
        ] {
            let rule = rule_of(why);
            assert_eq!(rule.section.as_deref(), section, "{why:?}");
            assert!(!rule.text.is_empty() && rule.policy.is_none(), "{why:?}");
        }
    }

    #[test]
    fn a_policys_verdict_names_the_generation_and_the_hook() {
        use crate::policy::Fault;
        let advice = Advice::default();
        let bypass = kept_out(KeyedPlan::Bypass(Why::Policy, None), &advice, Some("no tenant"));
        assert_eq!((bypass.hook.as_deref(), bypass.text.contains("no tenant")), (Some("key"), true));
        let refused = kept_out(KeyedPlan::Refuse(&Fault::Open), &advice, None);
        assert!(refused.text.contains("on_fault"), "{}", refused.text);
        let no_store = kept_out(KeyedPlan::Bypass(Why::NoStore, None), &advice, None);
        assert_eq!((no_store.hook, no_store.section.as_deref()), (None, Some("RFC 9111, section 5.2.1.5")));
    }
}
