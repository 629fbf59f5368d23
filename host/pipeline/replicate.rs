//! Responses for other regions: what is stored here and chosen by its route is announced to their nodes, in the
//! background.
//!
//! An announcement has no response in it. The node that takes it fetches for itself, from its own parents or origin,
//! as if a client had sent it a GET for the announced URL: by its own mark, key and rules of storing. So nothing gets
//! into a cache in another way than it always does, and nothing purged there comes back. It also opens nothing: a
//! client can do no more with an announcement than with a GET.
//!
//! What was fetched for another node, or because of an announcement, isn't announced again: nothing goes round.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header::CACHE_CONTROL, uri::PathAndQuery};
use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::sync::Semaphore;

use super::{
    advice::{Advice, PolicyContext},
    claims, loops, parents,
    route::{Replicas, Route},
};
use crate::{
    cache::{conditional, entry::Object, tag::Tag},
    clock::{self, Timestamp},
    config,
    message::{Body, RequestHead, RequestSpan, Response, target},
    origin::{Outbound, OutboundBody, Pool},
    policy::{Hook, Input, fields},
};

/// What makes a request an announcement: the terms by which its node decides, and how old its response is. Only the
/// network of a trusted proxy is believed it. The request that the other node makes of it has the field as well.
pub(super) static REPLICATE: HeaderName = HeaderName::from_static("x-holm-replicate");

/// Stands between the terms and the age, which is in milliseconds.
const AGE: &str = "; age_ms=";

static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Fields that say nothing about which response is stored, beside conditions, ranges, credentials and claims.
const LEFT_OUT: [&str; 8] = ["cache-control", "cdn-loop", "early-data", "expect", "pragma", "priority", "te", "via"];

/// Whether a field of a request may be in an announcement. `client_field`, in which proxies state their client's
/// region, is no claim of a client, whatever its name: what is left of it here a trusted proxy has said.
fn is_kept(name: &HeaderName, client_field: Option<&HeaderName>) -> bool {
    let is_left_out = LEFT_OUT.contains(&name.as_str()) || conditional::CONDITIONS.contains(name);
    let is_claim = client_field != Some(name) && claims::of(name.as_str()).is_some();
    !is_left_out && !fields::is_credential(name) && !is_claim
}

/// Whether a route's rule chooses a response: by a tag that it has, or by its path.
fn chooses(rule: &Replicas, tags: &[Tag], path: &str) -> bool {
    rule.tags.iter().any(|tag| tags.contains(tag)) || rule.prefixes.iter().any(|prefix| target::reaches(prefix, path))
}

/// Whether what is stored for such a request is announced at all: for a GET of this node's own client.
fn may_announce(request: &RequestHead) -> bool {
    [Method::GET, Method::HEAD].contains(&request.method)
        && loops::depth(&request.headers) == 0
        && !request.headers.contains_key(&REPLICATE)
}

/// Returns the fields of a request by which its response is found, copied, so that they keep no connection's buffer
/// alive. `varies_by` are those that its response varies by, `others` such as routes and policies read. `None` if it
/// varies by credentials that the request has: they are sent to no other node.
fn selecting(
    request: &HeaderMap,
    varies_by: &[HeaderName],
    others: impl IntoIterator<Item = HeaderName>,
    client_field: Option<&HeaderName>,
) -> Option<HeaderMap> {
    if varies_by.iter().any(|name| fields::is_credential(name) && request.contains_key(name)) {
        return None;
    }
    let mut headers = HeaderMap::new();
    for name in varies_by.iter().cloned().chain(others).filter(|name| is_kept(name, client_field)) {
        if headers.contains_key(&name) {
            continue;
        }
        for value in request.get_all(&name) {
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                headers.append(name.clone(), value);
            }
        }
    }
    Some(headers)
}

/// Returns the bytes that an announced request takes while it waits.
fn bytes(authority: &HeaderValue, target: &PathAndQuery, headers: &HeaderMap) -> usize {
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    authority.len() + target.as_str().len() + fields
}

/// Work in the background: so much at once, and so much that waits.
#[derive(Debug)]
struct Queue {
    places: Semaphore,
    waiting: Mutex<Waiting>,
    entries_max: usize,
    bytes_max: usize,
    time_max: Duration,
}

/// What waits in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Waiting {
    entries: usize,
    bytes: usize,
}

/// Room in a queue, which is free again once its work has begun or is given up.
#[derive(Debug)]
pub(super) struct Room {
    queue: Arc<Queue>,
    bytes: usize,
}

impl Queue {
    /// Returns a queue of `concurrency` at once; without any, nothing has room.
    fn new(concurrency: usize, entries_max: usize, bytes_max: usize, time_max: Duration) -> Arc<Self> {
        let (places, waiting) = (Semaphore::new(concurrency), Mutex::default());
        let entries_max = if concurrency == 0 { 0 } else { entries_max };
        Arc::new(Self { places, waiting, entries_max, bytes_max, time_max })
    }

    /// Returns room for so many bytes; `None` if there is none.
    fn room(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        let mut waiting = self.waiting.lock();
        let after = Waiting { entries: waiting.entries + 1, bytes: waiting.bytes.saturating_add(bytes) };
        if after.entries > self.entries_max || after.bytes > self.bytes_max {
            return None;
        }
        *waiting = after;
        Some(Room { queue: Arc::clone(self), bytes })
    }
}

impl Room {
    /// Does its work when it has a place. `None` if that takes longer than it may.
    pub(super) async fn run<T>(self, work: impl Future<Output = T>) -> Option<T> {
        let queue = Arc::clone(&self.queue);
        // It is never closed.
        let place = queue.places.acquire().await.ok()?;
        drop(self);
        let done = tokio::time::timeout(queue.time_max, work).await.ok();
        drop(place);
        done
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut waiting = self.queue.waiting.lock();
        waiting.entries = waiting.entries.saturating_sub(1);
        waiting.bytes = waiting.bytes.saturating_sub(self.bytes);
    }
}

/// Counts of announcements; clones count into the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    sent: Family<[(&'static str, &'static str); 1], Counter>,
    received: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Metrics {
    /// Adds them to what the node reports.
    pub(super) fn register(&self, registry: &mut Registry) {
        let sent = "Announcements of stored responses to other regions, by what became of them";
        registry.register("replications_sent", sent, self.sent.clone());
        let received = "Announcements of other nodes, by what became of them";
        registry.register("replications_received", received, self.received.clone());
    }

    fn sent(&self, outcome: &'static str, count: usize) {
        self.sent.get_or_create(&[("outcome", outcome)]).inc_by(count as u64);
    }
}

/// Sends announcements and has room for those of others, within its limits.
#[derive(Debug)]
pub(super) struct Replicator {
    rule: config::Replication,
    sending: Arc<Queue>,
    fetching: Arc<Queue>,
    metrics: Metrics,
}

impl Replicator {
    pub(super) fn new(rule: config::Replication, metrics: Metrics) -> Self {
        let bytes_max = rule.queue_bytes_max;
        Self {
            sending: Queue::new(rule.concurrency, rule.queue_max, bytes_max, rule.send),
            fetching: Queue::new(rule.fetch_concurrency, rule.fetch_queue_max, bytes_max, rule.fetch),
            rule,
            metrics,
        }
    }

    /// Returns what goes by this rule: itself, with what waits, if the rule is the same.
    pub(super) fn under(self: &Arc<Self>, rule: config::Replication) -> Arc<Self> {
        if self.rule == rule { Arc::clone(self) } else { Arc::new(Self::new(rule, self.metrics.clone())) }
    }

    /// Returns room for fetching what another node has announced.
    pub(super) fn room(&self, ahead: &RequestHead) -> Option<Room> {
        self.fetching.room(bytes(&ahead.authority, &ahead.target, &ahead.headers))
    }

    /// Counts what became of another node's announcement.
    pub(super) fn received(&self, outcome: &'static str) {
        self.metrics.received.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Returns what is to be announced of a response once it can be found; `None` if it isn't chosen.
    pub(super) fn announcement(self: &Arc<Self>, storing: &Storing<'_>) -> Option<Announcement> {
        let Storing { route, advice, context, head, tags, varies_by, client_field } = *storing;
        let rule = route.replicas.as_ref()?;
        if !may_announce(head) || !chooses(rule, tags, head.target.path()) {
            return None;
        }
        let policy = advice.policy();
        let region = client_field.filter(|_| parents::is_by_client_region(route, policy)).cloned();
        let others = context.routes.varies_by(head).into_iter().chain(declared(advice)).chain(region);
        let Some(mut headers) = selecting(&head.headers, varies_by, others, client_field) else {
            self.metrics.sent("personal", rule.to.len());
            return None;
        };
        headers.insert(FORWARDED_PROTO.clone(), HeaderValue::from_static(head.scheme.as_str()));
        let authority = HeaderValue::from_bytes(head.authority.as_bytes()).ok()?;
        headers.insert(FORWARDED_HOST.clone(), authority.clone());
        // A node that is told of its own response knows it by that.
        context.loops.mark(&mut headers, &HeaderMap::new());
        let target = route.received(head).unwrap_or(&head.target);
        Some(Announcement {
            replicator: Arc::clone(self),
            to: rule.to.clone(),
            authority,
            target: target.as_str().parse().unwrap_or_else(|_| target.clone()),
            headers,
            terms: parents::terms(route, policy, &head.near),
        })
    }
}

/// Returns the header fields by which a policy tells requests apart.
fn declared(advice: &Advice) -> Vec<HeaderName> {
    let Some(policy) = advice.policy() else { return Vec::new() };
    let read = [Hook::Key, Hook::Features].into_iter().filter_map(|hook| policy.reads(hook)).flatten();
    let name = |input: &Input| match input {
        Input::Header(name) => Some(name.clone()),
        _ => None,
    };
    read.filter_map(name).collect()
}

/// A response that is being stored, and the request that it was fetched for.
#[derive(Clone, Copy)]
pub(super) struct Storing<'r> {
    pub(super) route: &'r Route,
    pub(super) advice: &'r Advice,
    pub(super) context: &'r PolicyContext,
    /// The request.
    pub(super) head: &'r RequestHead,
    /// What the response can be purged by.
    pub(super) tags: &'r [Tag],
    /// The fields that it varies by.
    pub(super) varies_by: &'r [HeaderName],
    /// The field in which proxies state the client's region.
    pub(super) client_field: Option<&'r HeaderName>,
}

/// What other regions are told of a response.
pub(super) struct Announcement {
    replicator: Arc<Replicator>,
    /// The pools of nodes that are told, one node of each.
    to: Vec<Arc<Pool>>,
    authority: HeaderValue,
    target: PathAndQuery,
    headers: HeaderMap,
    terms: HeaderValue,
}

impl Announcement {
    /// Returns it for others than these nodes: the response has come from them. `None` if there are none.
    pub(super) fn except(mut self, pool: &Arc<Pool>) -> Option<Self> {
        self.to.retain(|other| !Arc::ptr_eq(other, pool));
        (!self.to.is_empty()).then_some(self)
    }

    /// Sends it in the background, now that the response can be found here.
    fn send(self, object: &Object) {
        let (replicator, now) = (Arc::clone(&self.replicator), clock::now());
        if !object.head.is_fresh(now) {
            return;
        }
        if object.head.length > replicator.rule.object_bytes_max {
            replicator.metrics.sent("too-large", self.to.len());
            return;
        }
        // When it was made, by this node's clock.
        let made = Timestamp(now.0.saturating_sub(object.head.age_ms(now)));
        let bytes = bytes(&self.authority, &self.target, &self.headers);
        let announcement = Arc::new(self);
        for pool in &announcement.to {
            let Some(room) = replicator.sending.room(bytes) else {
                replicator.metrics.sent("queue-full", 1);
                continue;
            };
            let (announcement, pool) = (Arc::clone(&announcement), Arc::clone(pool));
            let metrics = replicator.metrics.clone();
            tokio::spawn(async move {
                let outcome = room.run(Box::pin(announcement.send_to(&pool, made))).await;
                metrics.sent(outcome.unwrap_or("failed"), 1);
            });
        }
    }

    /// Sends it to one node of a pool, and returns what became of it.
    async fn send_to(&self, pool: &Pool, made: Timestamp) -> &'static str {
        let age_ms = clock::millis(clock::now().since(made));
        let Some(said) = say(&self.terms, age_ms) else { return "failed" };
        let mut headers = self.headers.clone();
        headers.insert(REPLICATE.clone(), said);
        let outbound = Outbound {
            // A server that knows nothing of this does nothing, and sends no body.
            method: Method::HEAD,
            authority: self.authority.clone(),
            target: self.target.clone(),
            headers,
            body: OutboundBody::Empty,
            client: None,
            repeatable: true,
            recodes: false,
            expected: None,
            span: RequestSpan::none(),
        };
        match pool.fetch(outbound).await {
            Ok(fetched) => {
                let response = &fetched.response;
                outcome(response.status(), response.headers().get(&REPLICATE), &self.terms)
            }
            Err(_) => "failed",
        }
    }
}

/// Announces a response that can be found from now on, if it is to be announced.
pub(super) fn announce(announcement: Option<Announcement>, object: &Object) {
    if let Some(announcement) = announcement {
        announcement.send(object);
    }
}

/// Returns what became of an announcement by the response to it. Only a node that takes it repeats the terms.
fn outcome(status: StatusCode, said: Option<&HeaderValue>, terms: &HeaderValue) -> &'static str {
    match (status, said == Some(terms)) {
        (StatusCode::ACCEPTED, true) => "taken",
        (StatusCode::TOO_MANY_REQUESTS, _) => "busy",
        _ => "refused",
    }
}

/// Returns the value of the field of an announcement.
fn say(terms: &HeaderValue, age_ms: u64) -> Option<HeaderValue> {
    HeaderValue::from_bytes(&[terms.as_bytes(), AGE.as_bytes(), age_ms.to_string().as_bytes()].concat()).ok()
}

/// What another node says of a response that it has stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// The terms by which it decides.
    pub(super) terms: HeaderValue,
    /// How old the response was when this was sent, in milliseconds.
    pub(super) age_ms: u64,
}

/// Reads the field of an announcement.
///
/// # Errors
/// It isn't one.
pub(super) fn read(method: &Method, value: &HeaderValue) -> Result<Said, NotTaken> {
    let said = || {
        let (terms, age_ms) = value.to_str().ok()?.split_once(AGE)?;
        Some(Said { terms: HeaderValue::from_str(terms).ok()?, age_ms: age_ms.parse().ok()? })
    };
    said().filter(|_| *method == Method::HEAD).ok_or(NotTaken::Malformed)
}

/// Returns the request that an announcement stands for, as a client would send it that has none of the fields which
/// nodes and proxies add but `client_field`, in which proxies state their client's region, and no credentials.
pub(super) fn ahead(head: &RequestHead, client_field: Option<&HeaderName>) -> RequestHead {
    let mut headers = HeaderMap::new();
    for (name, value) in head.headers.iter().filter(|(name, _)| is_kept(name, client_field)) {
        // A copy: what waits would keep all that its connection has read with it.
        headers.append(name.clone(), HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone()));
    }
    headers.insert(REPLICATE.clone(), HeaderValue::from_static("1"));
    RequestHead { method: Method::GET, headers, ..head.clone() }
}

/// Returns the response to an announcement that is taken.
pub(super) fn taken(said: Said) -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert(REPLICATE.clone(), said.terms);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Why an announcement isn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// It didn't come from the network of a trusted proxy.
    Stranger,
    /// It isn't a HEAD request, or can't be read.
    Malformed,
    /// This node has sent it.
    Own,
    /// No route takes such a GET.
    NoRoute,
    /// The route decides by other terms, or isn't of mode `http`.
    OtherTerms,
    /// Too many wait, or none are taken.
    Busy,
}

impl NotTaken {
    /// Returns the label of the count, and the `detail` of the access log.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Malformed => "malformed",
            Self::Own => "own",
            Self::NoRoute => "no-route",
            Self::OtherTerms => "other-terms",
            Self::Busy => "busy",
        }
    }

    /// Returns the status and the sentence of the response.
    pub(super) const fn told(self) -> (StatusCode, &'static str) {
        match self {
            Self::Stranger => (StatusCode::FORBIDDEN, "only nodes in limits.forwarding_proxies may announce responses"),
            Self::Malformed => (StatusCode::BAD_REQUEST, "an announcement is a HEAD request with terms and an age"),
            Self::Own => (StatusCode::LOOP_DETECTED, "this node has sent the announcement itself"),
            Self::NoRoute => (StatusCode::NOT_FOUND, "no route takes what is announced"),
            Self::OtherTerms => {
                (StatusCode::CONFLICT, "the route or its policy isn't the one of the node that announces")
            }
            // Not 503, by which the node would be taken for one that can't serve.
            Self::Busy => (StatusCode::TOO_MANY_REQUESTS, "as many announcements wait as may"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::facts::tests::request;

    fn rule(tags: &[&str], prefixes: &[&str]) -> Replicas {
        Replicas {
            tags: tags.iter().map(|tag| Tag::named(tag.as_bytes())).collect(),
            prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
            to: Vec::new(),
        }
    }

    fn names(names: &[&'static str]) -> Vec<HeaderName> {
        names.iter().map(|name| HeaderName::from_static(name)).collect()
    }

    #[test]
    fn a_response_is_chosen_by_a_tag_or_by_its_path() {
        for (tags, prefixes, has, path, wanted) in [
            (&["hot"][..], &[][..], &["hot"][..], "/", true),
            (&["hot"], &[], &["cold", "hot"], "/", true),
            (&["hot", "warm"], &[], &["warm"], "/", true),
            (&["hot"], &[], &["hotter"], "/", false),
            (&["hot"], &[], &["Hot"], "/", false),
            (&["hot"], &[], &[], "/hot", false),
            (&[], &["/assets"], &[], "/assets", true),
            (&[], &["/assets"], &["hot"], "/assets/a.css", true),
            (&[], &["/assets/"], &[], "/assets/a.css", true),
            (&[], &["/assets"], &[], "/assetsx", false),
            (&[], &["/assets"], &[], "/", false),
            (&[], &["/@me"], &[], "/%40me/x", true),
            (&["hot"], &["/assets"], &["hot"], "/", true),
            (&["hot"], &["/assets"], &[], "/", false),
        ] {
            let has: Vec<Tag> = has.iter().map(|tag| Tag::named(tag.as_bytes())).collect();
            assert_eq!(chooses(&rule(tags, prefixes), &has, path), wanted, "{tags:?} {prefixes:?} {path}");
        }
    }

    #[test]
    fn only_what_a_client_of_this_node_asked_for_is_announced() {
        for (method, fields, wanted) in [
            (Method::GET, &[][..], true),
            (Method::HEAD, &[], true),
            (Method::QUERY, &[], false),
            (Method::POST, &[], false),
            (Method::GET, &[("cdn-loop", "cloudflare")], true),
            (Method::GET, &[("cdn-loop", "holm-0123456789abcdef")], false),
            (Method::GET, &[("x-holm-replicate", "1")], false),
        ] {
            assert_eq!(may_announce(&request(method.clone(), "/", fields)), wanted, "{method} {fields:?}");
        }
    }

    #[test]
    fn an_announcement_has_what_selects_the_response_and_nothing_of_its_client() {
        let fields = [
            ("accept-language", "de"),
            ("accept-language", "en"),
            ("x-tenant", "a"),
            ("authorization", "Bearer secret"),
            ("cookie", "session=secret"),
            ("user-agent", "u"),
            ("x-forwarded-for", "192.0.2.1"),
            ("range", "bytes=1-2"),
            ("if-none-match", "\"1\""),
            ("cache-control", "no-cache"),
            ("cdn-loop", "holm-0123456789abcdef"),
        ];
        let head = request(Method::HEAD, "/", &fields);
        let varies_by = names(&["accept-language", "x-forwarded-for", "x-absent"]);
        let others = names(&["x-tenant", "accept-language", "authorization", "range"]);
        let found = selecting(&head.headers, &varies_by, others, None).unwrap();
        let texts: Vec<(&str, &str)> =
            found.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(texts, [("accept-language", "de"), ("accept-language", "en"), ("x-tenant", "a")]);
        assert!(selecting(&head.headers, &names(&["cookie"]), Vec::new(), None).is_none());
        let without = request(Method::GET, "/", &[]);
        let none = selecting(&without.headers, &names(&["cookie"]), Vec::new(), None);
        assert_eq!(none, Some(HeaderMap::new()));
        // Whatever else came with it, the node that takes it sends none of that on.
        let ahead = ahead(&head, None);
        let mut kept: Vec<&str> = ahead.headers.keys().map(HeaderName::as_str).collect();
        kept.sort_unstable();
        let wanted = vec!["accept-language", "user-agent", "x-holm-replicate", "x-tenant"];
        assert_eq!((ahead.method, kept), (Method::GET, wanted));
    }

    #[test]
    fn the_field_that_states_the_clients_region_is_announced_whatever_its_name() {
        let stated = [("x-forwarded-country", "eu"), ("x-forwarded-for", "192.0.2.1"), ("authorization", "secret")];
        let head = request(Method::GET, "/", &stated);
        for (field, wanted) in [
            (None, &[][..]),
            (Some("x-forwarded-country"), &["x-forwarded-country"]),
            (Some("x-region"), &[]),
            (Some("authorization"), &[]),
        ] {
            let field = field.map(HeaderName::from_static);
            let others = names(&["x-forwarded-country", "x-forwarded-for", "authorization"]);
            let found = selecting(&head.headers, &[], others, field.as_ref()).unwrap();
            let found: Vec<&str> = found.keys().map(HeaderName::as_str).collect();
            assert_eq!(found, wanted, "{field:?}");
            let ahead = ahead(&head, field.as_ref());
            assert_eq!(ahead.headers.contains_key("x-forwarded-country"), !wanted.is_empty(), "{field:?}");
        }
    }

    #[test]
    fn what_is_said_is_read_and_nothing_else_is() {
        let terms = HeaderValue::from_static("0123456789abcdef");
        let said = say(&terms, 1_500).unwrap();
        assert_eq!(read(&Method::HEAD, &said), Ok(Said { terms: terms.clone(), age_ms: 1_500 }));
        assert_eq!(read(&Method::GET, &said), Err(NotTaken::Malformed));
        for value in ["", "1", "0123456789abcdef", "a; age_ms=", "a; age_ms=-1", "a; age_ms=soon"] {
            assert_eq!(read(&Method::HEAD, &HeaderValue::from_static(value)), Err(NotTaken::Malformed), "{value}");
        }
        let other = HeaderValue::from_static("fedcba9876543210");
        for (status, said, wanted) in [
            (202, Some(&terms), "taken"),
            (202, Some(&other), "refused"),
            (202, None, "refused"),
            (200, Some(&terms), "refused"),
            (429, None, "busy"),
            (409, None, "refused"),
            (403, None, "refused"),
        ] {
            assert_eq!(outcome(StatusCode::from_u16(status).unwrap(), said, &terms), wanted, "{status} {said:?}");
        }
    }

    #[tokio::test]
    async fn no_more_waits_than_may_and_room_is_given_back() {
        const NO_TIME: Duration = Duration::ZERO;
        let queue = Queue::new(1, 2, 10, NO_TIME);
        let waiting = || *queue.waiting.lock();
        let (one, two) = (queue.room(4).unwrap(), queue.room(4).unwrap());
        assert!(queue.room(0).is_none(), "two wait");
        assert_eq!(waiting(), Waiting { entries: 2, bytes: 8 });
        drop(two);
        assert!(queue.room(7).is_none(), "eleven bytes");
        let three = queue.room(6).unwrap();
        assert_eq!(one.run(async { waiting() }).await, Some(Waiting { entries: 1, bytes: 6 }), "its work has begun");
        assert_eq!(three.run(std::future::pending::<()>()).await, None, "it takes longer than it may");
        assert_eq!(waiting(), Waiting::default());
        assert!(queue.places.available_permits() == 1 && Queue::new(0, 2, 10, NO_TIME).room(0).is_none());
    }

    #[test]
    fn the_reasons_of_refusals_are_told_apart_and_none_speaks_of_a_node_that_cant_serve() {
        use NotTaken::{Busy, Malformed, NoRoute, OtherTerms, Own, Stranger};
        let mut words: Vec<&str> = Vec::new();
        for reason in [Stranger, Malformed, Own, NoRoute, OtherTerms, Busy] {
            assert!(!words.contains(&reason.as_str()));
            words.push(reason.as_str());
            assert!(!crate::origin::Reaction::to(reason.told().0).retries_endpoint, "{reason:?}");
        }
    }
}
