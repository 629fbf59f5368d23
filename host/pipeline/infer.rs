//! Requests that are split into items: each is keyed, looked up, collapsed, batched and stored by itself, and the reply
//! joins the results.

mod batches;
mod compress;
mod flight;
mod following;
mod landing;
mod model;
mod places;
mod region;
mod repeats;
mod replying;
mod send;
mod tally;
mod tenant;
mod waiting;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{
    advice::{Advice, PolicyContext},
    joining::{self, Turn},
    keying::{self, Content},
    metrics::ReplyCodings,
    plan::KeyedPlan,
    recent::Recent,
    reply::{Replies, Reply},
    route::{Kind, Route},
    trace,
    trail::Trail,
};
use crate::{
    batch::Pending,
    cache::{
        Cache, Query,
        collapse::{Flights, Follower, Joined, Lead},
        entry::Object,
        key::Key,
        lookup::{Demand, Outcome},
        purge::{Arrived, Mark},
        status::CACHE_STATUS,
        store::{Tier, leases::Lease},
        tag,
    },
    clock, config,
    message::{
        Body, Request, RequestHead, Response,
        coding::Undecodable,
        compression::decompress,
        proxy_status::{PROXY_STATUS, ProxyError, ProxyStatus},
    },
    origin::protocol::{Item, JoinedReply, Protocol, Received},
    policy::Fault,
};

use batches::submit_groups;
pub use batches::{Batchers, Batches};
use model::{AdvisedItem, Elsewhere, Group, PendingResult, group_for};
pub use model::{BatchItem, ItemResult};
pub(super) use places::Places;
use places::{Following, Wishes};
use repeats::distinct;
use tally::ItemReply;
use tenant::Account;

/// The parts of the node that these requests need.
#[derive(Debug)]
pub(super) struct Infer {
    pub(super) cache: Arc<Cache>,
    pub(super) flights: Arc<Flights<Arc<ItemResult>>>,
    pub(super) places: Arc<Places>,
    pub(super) replies: Arc<Replies>,
    pub(super) policy_context: Arc<PolicyContext>,
    pub(super) batchers: Batchers,
    pub(super) limits: config::Limits,
    pub(super) codings: ReplyCodings,
    pub(super) recent: Arc<Recent>,
}

/// Serves a request that is to be looked up, of a route whose bodies are split. Its client waits until `due`, if it says
/// so.
pub(super) async fn serve(
    infer: &Arc<Infer>,
    route: Arc<Route>,
    protocol: &'static dyn Protocol,
    advice: Arc<Advice>,
    request: Request,
    due: Option<Instant>,
) -> Reply {
    let trail = Trail::on(&route, &advice);
    let Request { mut head, body } = request;
    let body = match body.collect(infer.limits.body_bytes_max).await {
        Ok(body) => body,
        Err(error) => return infer.replies.bad_body(&error, trail),
    };
    let bytes_max = route.config.body_bytes_max.unwrap_or(u64::MAX).min(infer.limits.body_bytes_max);
    let body = match decompress(&head.headers, body, bytes_max).await {
        Ok(body) => body,
        Err(error) => return undecodable(infer, protocol, &error, trail),
    };
    // Its items are sent decoded.
    head.headers.remove(header::CONTENT_ENCODING);
    let received = Received { target: &head.target, headers: &head.headers, body: &body };
    let split = match protocol.split(&received, &route.split_rules(infer.limits.items_max)) {
        Ok(split) => split,
        Err(malformed) => {
            let joined_reply = protocol.refusal(&malformed);
            let proxy_status = Some(ProxyStatus::Error(ProxyError::HttpRequestError));
            return joined(
                infer,
                joined_reply,
                Trail { detail: Some("malformed".into()), proxy_status, ..trail },
                None,
            );
        }
    };
    let url = head.url();
    let split_request = SplitRequest {
        infer: Arc::clone(infer),
        demand: route.demand(&head.headers),
        url,
        arrived: infer.cache.purger().arrived(),
        began: Instant::now(),
        admitted: Arc::default(),
        account: Account::of(&route.config, &head),
        head: Arc::new(head),
        route: Arc::clone(&route),
        advice,
        protocol,
        due,
    };
    let mut trail = trail;
    trace::split(split_request.advice.span(), split.items.len());
    let numbered = split.items.into_iter().enumerate();
    let items: Vec<AdvisedItem> = numbered.map(|(number, item)| split_request.advise(item, number)).collect();
    let keyed = split_request.keys(&items, &mut trail).await;
    if let Some(first) = items.first() {
        // Each has advice of its own; if a canary has faulted in the key, another generation decides than before.
        trail.credit(&first.advice);
    }
    let item_replies = match keyed {
        Ok(keyed) => split_request.fetch_all(keyed).await,
        Err(fault) => return infer.replies.fault_reply(&route, &fault, trail),
    };
    let reply = split_request.reply(split.form, &item_replies, trail);
    let reply = split_request.compressed(&item_replies, reply).await;
    counted(infer, protocol, reply).await
}

/// Counts the reply in the memory that bodies may take until its client has it; returns a refusal if there is no room.
async fn counted(infer: &Infer, protocol: &dyn Protocol, mut reply: Reply) -> Reply {
    let body = match reply.response.body() {
        Body::Full(body) => body.clone(),
        Body::Empty | Body::Stream(_) => return reply,
    };
    if let Some(held) = infer.cache.hold(&body).await {
        *reply.response.body_mut() = Body::Full(held);
        return reply;
    }
    let detail = "the bodies of other responses take all the memory they may; see `cache.bodies_bytes_max`";
    let joined_reply = protocol.reply_to_all(&protocol.failure(StatusCode::SERVICE_UNAVAILABLE.as_u16(), detail, None));
    let proxy_status = Some(ProxyStatus::Error(ProxyError::HttpRequestDenied));
    let trail = Trail { detail: Some("bodies-full".into()), proxy_status, ..reply.trail };
    let mut refused = joined(infer, joined_reply, trail, None);
    refused.response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    refused
}

/// Returns the reply to a body that can't be decoded, in the protocol's format (RFC 9110, section 15.5.16).
fn undecodable(infer: &Infer, protocol: &dyn Protocol, error: &Undecodable, trail: Trail) -> Reply {
    let status = match error {
        Undecodable::Unknown(_) | Undecodable::TooMany => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Undecodable::TooLarge { .. } | Undecodable::TooManyStreams => StatusCode::PAYLOAD_TOO_LARGE,
        Undecodable::Broken => StatusCode::BAD_REQUEST,
    };
    let joined_reply = protocol.reply_to_all(&protocol.failure(status.as_u16(), &error.to_string(), None));
    let proxy_status = Some(ProxyStatus::Error(ProxyError::HttpRequestError));
    let trail = Trail { detail: Some("content-coding".into()), proxy_status, ..trail };
    let mut reply = joined(infer, joined_reply, trail, None);
    if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        let known = HeaderValue::from_static("gzip, deflate, br, zstd");
        reply.response.headers_mut().insert(header::ACCEPT_ENCODING, known);
    }
    reply
}

/// Items whose keys are made before the task yields.
const ITEMS_AT_ONCE: usize = 64;

/// What all items of one request share.
struct SplitRequest {
    infer: Arc<Infer>,
    route: Arc<Route>,
    advice: Arc<Advice>,
    protocol: &'static dyn Protocol,
    head: Arc<RequestHead>,
    account: Account,
    demand: Demand,
    url: String,
    /// Where the purge log stood when the request came.
    arrived: Arrived,
    /// When the deadlines of its items begin.
    began: Instant,
    /// Whether a queue has taken in something of it. That may be sent: nothing that it asks for later is refused.
    admitted: Arc<AtomicBool>,
    /// When its client stops to wait.
    due: Option<Instant>,
}

/// An item and its key, if it has a valid one.
struct KeyedItem<'q> {
    advised: &'q AdvisedItem,
    key: Option<Key>,
    /// Whether it is looked up. If not, it is fetched without storing anything.
    is_looked_up: bool,
}

/// What is to be done about one item.
enum Disposition {
    /// It's in a tier.
    Known { object: Arc<Object>, tier: Tier, stale: bool },
    /// It's in a tier, stale, and to be refreshed in the background.
    Refresh(Arc<Object>, Tier, Key, Lead<Arc<ItemResult>>, Option<Lease>),
    /// Another request is fetching it.
    Follow(Key, Follower<Arc<ItemResult>>),
    /// This request fetches it, for all that wait; under the region's lease if it has that.
    Lead(Key, Lead<Arc<ItemResult>>, Option<Lease>),
    /// Another node of the region is fetching it.
    Elsewhere(Box<Elsewhere>),
    /// This request fetches it, for itself; nothing is stored.
    Alone,
}

/// A stale result that may be served if the model fails.
type Fallback = Option<(Arc<Object>, Tier)>;

impl Disposition {
    const fn needs_fetch(&self) -> bool {
        matches!(self, Self::Refresh(..) | Self::Lead(..) | Self::Alone)
    }

    /// Logs which part the request has in the item's flight.
    fn log(&self, advised: &AdvisedItem) {
        let span = advised.advice.span();
        match self {
            Self::Lead(_, lead, _) | Self::Refresh(_, _, _, lead, _) => trace::leads(span, lead.number()),
            Self::Elsewhere(elsewhere) => trace::leads(span, elsewhere.lead.number()),
            Self::Follow(_, follower) => trace::follows(span, follower.number()),
            Self::Alone => trace::planned(span, "fetch-alone", None),
            Self::Known { .. } => {}
        }
    }
}

/// An item, and what is done about it.
type Disposed<'q> = (&'q AdvisedItem, Disposition, Fallback);

/// An item of which everything is under way.
struct Waited<'q> {
    advised: &'q AdvisedItem,
    waiting: Waiting,
    fallback: Fallback,
    /// Until when this request waits for it, by its policy's word. Others may wait longer.
    until: Option<Instant>,
}

/// What one item waits for.
enum Waiting {
    Done(ItemReply),
    Flight { key: Key, follower: Follower<Arc<ItemResult>>, collapsed: bool },
    Alone(PendingResult),
}

impl SplitRequest {
    /// Returns the item with advice of its own: to a policy each looks as if it had come alone.
    fn advise(&self, item: Item, number: usize) -> AdvisedItem {
        let advice = self.advice.for_item(number);
        advice.draw(&advice.facts(&self.infer.policy_context, &self.head, Some(&item.body)));
        AdvisedItem { item, advice: Arc::new(advice) }
    }

    /// Returns each item with its key.
    async fn keys<'q>(&self, items: &'q [AdvisedItem], trail: &mut Trail) -> Result<Vec<KeyedItem<'q>>, Fault> {
        let mut keys = Vec::with_capacity(items.len());
        for (n, advised) in items.iter().enumerate() {
            if n % ITEMS_AT_ONCE == ITEMS_AT_ONCE - 1 {
                // A policy that is called for each of many items must not block other requests.
                tokio::task::yield_now().await;
            }
            let AdvisedItem { item, advice } = advised;
            let facts = advice.facts(&self.infer.policy_context, &self.head, Some(&item.body));
            let keyed = keying::derive(&self.route, advice, &facts, Content::Item(&item.canonical));
            if trail.detail.is_none() {
                trail.detail = keyed.remark().map(Cow::Owned);
            }
            let plan = KeyedPlan::of(&keyed, Kind::Items, true, &self.demand);
            if let Some((word, why)) = plan.change() {
                trace::planned(advice.span(), word, why);
            }
            trail.key = plan.key().filter(|_| items.len() == 1);
            keys.push(match plan {
                KeyedPlan::Refuse(fault) => return Err(fault.clone()),
                // Two of them may have different results.
                _ if !item.shareable => KeyedItem { advised, key: None, is_looked_up: false },
                KeyedPlan::LookUp(key) => KeyedItem { advised, key: Some(key), is_looked_up: true },
                KeyedPlan::Bypass(_, key) => KeyedItem { advised, key, is_looked_up: false },
            });
        }
        Ok(keys)
    }

    /// Returns the replies to all items: from the tiers what is stored, the rest from the model, together. Items of one
    /// key are one: the client is the same, so that this holds even of results that no other client may get. If one is
    /// refused by a queue, all are, at once; but once a queue has taken in something of the request, which may be sent,
    /// a refusal by another one is the item's own error.
    async fn fetch_all(&self, keyed: Vec<KeyedItem<'_>>) -> Vec<ItemReply> {
        let items = keyed.len();
        let repeated = |item: &KeyedItem<'_>| trace::repeated(item.advised.advice.span());
        let (keyed, places) = distinct(keyed, |item| item.key, repeated);
        let found = keyed.into_iter().map(|item| self.look_up(item.advised, item.key.filter(|_| item.is_looked_up)));
        let dispositions = join_all(found).await;
        let (waiting, _following) = self.submit(dispositions);
        let mut replies: Vec<Option<ItemReply>> = waiting.iter().map(|_| None).collect();
        let finish = |(place, waited)| async move { (place, self.finish(waited).await) };
        let mut finished: FuturesUnordered<_> = waiting.into_iter().enumerate().map(finish).collect();
        while let Some((place, reply)) = finished.next().await {
            if reply.refusal().is_some() && !self.admitted.load(Ordering::Relaxed) {
                return vec![reply; items];
            }
            replies[place] = Some(reply);
        }
        places.spread(replies.into_iter().flatten().collect(), ItemReply::repeated)
    }

    /// Looks one item up, and joins or starts its flight if it must be fetched.
    async fn look_up<'q>(&self, advised: &'q AdvisedItem, key: Option<Key>) -> Disposed<'q> {
        let Some(key) = key else { return (advised, Disposition::Alone, None) };
        let now = clock::now();
        let by_url = |prefixes| tag::of_url(&self.url, prefixes);
        let query = Query { key, head: &self.head, demand: &self.demand, url: Some(&by_url), now };
        let span = advised.advice.span();
        let begun = span.timer();
        let found = self.infer.cache.look_up(&query).await;
        trace::looked_up(span, &found, begun);
        let (uncacheable, tier) = (found.uncacheable, found.tier);
        let mut fallback = None;
        let disposition = match found.outcome {
            Outcome::Hit(object) if object.is_whole() => {
                // Past its lifetime it is a hit only because the client accepts that (`max-stale`).
                let stale = object.head.age_ms(now) >= object.head.lifetimes.ttl_ms;
                Disposition::Known { object, tier, stale }
            }
            Outcome::Grace(object) if object.is_whole() => match self.infer.flights.join(&key) {
                Joined::Lead(lead) => Disposition::Refresh(object, tier, key, lead, None),
                Joined::Follow(_) | Joined::Full => Disposition::Known { object, tier, stale: true },
            },
            _ if uncacheable => Disposition::Alone,
            // Fetched again, and stored for all; but not shared with a flight that began before.
            _ if self.demand.directives.no_cache => match self.infer.flights.join(&key) {
                Joined::Lead(lead) => Disposition::Lead(key, lead, None),
                Joined::Follow(_) | Joined::Full => Disposition::Alone,
            },
            outcome => {
                if let Outcome::Stale { object, if_error: true, .. } = outcome {
                    fallback = object.is_whole().then_some((object, tier));
                }
                self.join(&query)
            }
        };
        let disposition = match disposition {
            fetched @ (Disposition::Lead(..) | Disposition::Refresh(..)) if self.infer.cache.mark().is_some() => {
                Box::pin(self.in_region(&query, fetched)).await
            }
            other => other,
        };
        disposition.log(advised);
        (advised, disposition, fallback)
    }

    fn join(&self, query: &Query<'_>) -> Disposition {
        let key = query.key;
        match joining::join(&self.infer.flights, &key, || self.infer.cache.peek(query)) {
            Turn::Full => Disposition::Alone,
            Turn::Follow(follower) => Disposition::Follow(key, follower),
            Turn::Lead(_, Some(stored)) if stored.object.is_whole() => {
                Disposition::Known { object: stored.object, tier: stored.tier, stale: false }
            }
            Turn::Lead(lead, _) => Disposition::Lead(key, lead, None),
        }
    }

    /// Submits everything that must be fetched at once, so that it can share batches. What other requests fetch needn't
    /// wait behind what they have to do, as long as the second value is held.
    fn submit<'q>(&self, dispositions: Vec<Disposed<'q>>) -> (Vec<Waited<'q>>, Option<Following>) {
        // Before anything is fetched: what is purged from now on is outdated.
        let mark = self.infer.cache.purger().mark();
        let mut wishes = Wishes::default();
        let mut untils = vec![None; dispositions.len()];
        let following = self.follow(&dispositions, &mut untils, &mut wishes);
        let mut groups: Vec<Group> = Vec::new();
        let mut group_of = Vec::with_capacity(dispositions.len());
        for ((advised, disposition, _), until) in dispositions.iter().zip(&mut untils) {
            let is_shared = !matches!(disposition, Disposition::Alone);
            let grouped = |batch_item: BatchItem| {
                *until = batch_item.until();
                group_for(&mut groups, batch_item)
            };
            let batch_item = disposition.needs_fetch().then(|| self.batch_item(advised, is_shared)).transpose();
            group_of.push(batch_item.map(|batch_item| batch_item.map(grouped)));
        }
        let pending = submit_groups(&self.infer.batchers, groups);
        if pending.iter().flatten().flatten().any(Pending::is_taken_in) {
            self.admitted.store(true, Ordering::Relaxed);
        }
        let mut pending: Vec<_> = pending.into_iter().map(Vec::into_iter).collect();
        let submitted = dispositions.into_iter().zip(group_of).zip(untils);
        let waited = submitted.map(|(((advised, disposition, fallback), group), until)| {
            // Items were grouped in this order, so each group's next result is this item's.
            let pending = match group {
                Ok(group) => Ok(group.and_then(|index| pending[index].next()).flatten()),
                Err(result) => Err(result),
            };
            let waiting = self.wait(advised, disposition, pending, mark, &mut wishes);
            Waited { advised, waiting, fallback, until }
        });
        let waited = waited.collect();
        wishes.grant(&self.infer.batchers);
        (waited, following)
    }

    fn wait(
        &self,
        advised: &AdvisedItem,
        disposition: Disposition,
        pending: PendingResult,
        mark: Mark,
        wishes: &mut Wishes,
    ) -> Waiting {
        let span = advised.advice.span();
        match disposition {
            Disposition::Known { object, tier, stale } => Waiting::Done(ItemReply::Stored { object, tier, stale }),
            Disposition::Alone => Waiting::Alone(pending),
            Disposition::Follow(key, follower) => Waiting::Flight { key, follower, collapsed: true },
            Disposition::Lead(key, lead, lease) => {
                let follower = lead.follower();
                trace::spawn(span, self.flight(advised, key, lead, (pending, lease), mark, wishes).run_while_wanted());
                Waiting::Flight { key, follower, collapsed: false }
            }
            Disposition::Refresh(object, tier, key, lead, lease) => {
                // No request waits for the refresh, and still it is wanted.
                trace::spawn(span, self.flight(advised, key, lead, (pending, lease), mark, wishes).run());
                Waiting::Done(ItemReply::Stored { object, tier, stale: true })
            }
            Disposition::Elsewhere(elsewhere) => {
                let Elsewhere { key, lead, turn, stale } = *elsewhere;
                let (follower, has) = (lead.follower(), stale.as_ref().map(|(object, _)| Arc::clone(object)));
                let flight = self.flight(advised, key, lead, (pending, None), mark, wishes);
                trace::spawn(span, flight.run_elsewhere(turn, has));
                match stale {
                    Some((object, tier)) => Waiting::Done(ItemReply::Stored { object, tier, stale: true }),
                    None => Waiting::Flight { key, follower, collapsed: false },
                }
            }
        }
    }

    /// Returns the item with the policy's edits, its candidates and its terms; or its result if the policy faults and
    /// the route refuses it then. Other requests may wait for it, too, if it `is_shared`.
    fn batch_item(&self, advised: &AdvisedItem, is_shared: bool) -> Result<BatchItem, Box<ItemResult>> {
        let batch_item = model::batch_item(
            &self.infer.policy_context,
            &self.route,
            &self.head,
            self.protocol,
            advised,
            self.account,
            self.infer.response_bytes_max(),
        );
        let is_admitted = self.admitted.load(Ordering::Relaxed);
        batch_item.map(|item| item.since(self.began).within(self.due).shared(is_shared).admitted(is_admitted))
    }
}

/// Returns the reply; `headers` are those of its results, beside those that describe its body.
fn joined(infer: &Infer, joined_reply: JoinedReply, trail: Trail, headers: Option<HeaderMap>) -> Reply {
    let mut response = Response::new(Body::Full(joined_reply.body));
    *response.status_mut() = StatusCode::from_u16(joined_reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
    if let Some(headers) = headers {
        *response.headers_mut() = headers;
        // The result may be one of a batch: the length is its own.
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    let headers = response.headers_mut();
    headers.extend(joined_reply.headers);
    headers.append(CACHE_STATUS, trail.cache_status(&infer.replies.node_name));
    if let Some(proxy_status) = trail.proxy_status(&infer.replies.node_name) {
        headers.append(PROXY_STATUS, proxy_status);
    }
    let trail = Trail { failed: joined_reply.status >= 500, ..trail };
    Reply { response, trail }
}
