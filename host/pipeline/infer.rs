//! Requests that are split into items: each is keyed, looked up, collapsed, batched and stored by itself, and the reply
//! joins the results.

mod batches;
mod compress;
mod following;
mod model;
mod places;
mod region;
mod repeats;
mod send;
mod tally;
mod tenant;

use std::{borrow::Cow, pin::pin, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{
    admission::{self, Case, Responded, Times},
    advice::{Advice, PolicyContext},
    inputs,
    joining::{self, Turn},
    keying::{self, Content},
    metrics::ReplyCodings,
    momentary::{self, Part},
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
        admit::{Admission, Refusal},
        collapse::{Flights, Follower, Joined, Lead},
        control::Directives,
        entry::Object,
        fetches::Fetch,
        key::Key,
        lookup::{Demand, Outcome},
        purge::{Arrived, Mark},
        record::{Origins, Recorder, StorageKeys, TooLarge, head},
        status::{CACHE_STATUS, CUT_OFF},
        store::{Tier, leases::Lease},
        tag::{self, Tag},
    },
    clock::{self, Timestamp},
    config,
    message::{
        Body, Request, RequestHead, Response,
        coding::Undecodable,
        compression::decompress,
        proxy_status::{PROXY_STATUS, ProxyError, ProxyStatus},
    },
    origin::protocol::{
        Item, ItemError, ItemResponse, JoinedReply, Message, OutcomeRef, Protocol, Received, ReplyForm,
    },
    policy::Fault,
};

use batches::submit_groups;
pub use batches::{Batchers, Batches};
use model::{AdvisedItem, Elsewhere, Group, Landed, PendingResult, await_result, group_for};
pub use model::{BatchItem, ItemResult};
pub(super) use places::Places;
use places::{Following, Row, Wishes};
use repeats::distinct;
use tally::{ItemReply, Tally, USAGE};
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
        mark: infer.cache.purger().mark(),
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
    mark: Mark,
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
    /// key are one: the client is the same, so that this holds even of results that no other client may get.
    async fn fetch_all(&self, keyed: Vec<KeyedItem<'_>>) -> Vec<ItemReply> {
        let repeated = |item: &KeyedItem<'_>| trace::repeated(item.advised.advice.span());
        let (keyed, places) = distinct(keyed, |item| item.key, repeated);
        let found = keyed.into_iter().map(|item| self.look_up(item.advised, item.key.filter(|_| item.is_looked_up)));
        let dispositions = join_all(found).await;
        let (waiting, _following) = self.submit(dispositions);
        let finished = waiting.into_iter().map(|(advised, waiting, last)| self.finish(advised, waiting, last));
        places.spread(join_all(finished).await, ItemReply::repeated)
    }

    /// Looks one item up, and joins or starts its flight if it must be fetched.
    async fn look_up<'q>(
        &self,
        advised: &'q AdvisedItem,
        key: Option<Key>,
    ) -> (&'q AdvisedItem, Disposition, Fallback) {
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
        match &disposition {
            Disposition::Lead(_, lead, _) | Disposition::Refresh(_, _, _, lead, _) => trace::leads(span, lead.number()),
            Disposition::Elsewhere(elsewhere) => trace::leads(span, elsewhere.lead.number()),
            Disposition::Follow(_, follower) => trace::follows(span, follower.number()),
            Disposition::Alone => trace::planned(span, "fetch-alone", None),
            Disposition::Known { .. } => {}
        }
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
    fn submit<'q>(
        &self,
        dispositions: Vec<(&'q AdvisedItem, Disposition, Fallback)>,
    ) -> (Vec<(&'q AdvisedItem, Waiting, Fallback)>, Option<Following>) {
        let mut wishes = Wishes::default();
        let following = self.follow(&dispositions, &mut wishes);
        let mut groups: Vec<Group> = Vec::new();
        let mut group_of = Vec::with_capacity(dispositions.len());
        for (advised, disposition, _) in &dispositions {
            let grouped = || self.batch_item(advised).map(|batch_item| group_for(&mut groups, batch_item));
            group_of.push(disposition.needs_fetch().then(grouped).transpose());
        }
        let mut pending: Vec<_> = submit_groups(&self.infer.batchers, groups).into_iter().map(Vec::into_iter).collect();
        let waiting = dispositions.into_iter().zip(group_of).map(|((advised, disposition, fallback), group)| {
            // Items were grouped in this order, so each group's next result is this item's.
            let pending = match group {
                Ok(group) => Ok(group.and_then(|index| pending[index].next()).flatten()),
                Err(result) => Err(result),
            };
            (advised, self.wait(advised, disposition, pending, &mut wishes), fallback)
        });
        let waiting = waiting.collect();
        wishes.grant(&self.infer.batchers);
        (waiting, following)
    }

    fn wait(
        &self,
        advised: &AdvisedItem,
        disposition: Disposition,
        pending: PendingResult,
        wishes: &mut Wishes,
    ) -> Waiting {
        let span = advised.advice.span();
        match disposition {
            Disposition::Known { object, tier, stale } => Waiting::Done(ItemReply::Stored { object, tier, stale }),
            Disposition::Alone => Waiting::Alone(pending),
            Disposition::Follow(key, follower) => Waiting::Flight { key, follower, collapsed: true },
            Disposition::Lead(key, lead, lease) => {
                let follower = lead.follower();
                trace::spawn(span, self.flight(advised, key, lead, (pending, lease), wishes).run_while_wanted());
                Waiting::Flight { key, follower, collapsed: false }
            }
            Disposition::Refresh(object, tier, key, lead, lease) => {
                // No request waits for the refresh, and still it is wanted.
                trace::spawn(span, self.flight(advised, key, lead, (pending, lease), wishes).run());
                Waiting::Done(ItemReply::Stored { object, tier, stale: true })
            }
            Disposition::Elsewhere(elsewhere) => {
                let Elsewhere { key, lead, turn, stale } = *elsewhere;
                let (follower, has) = (lead.follower(), stale.as_ref().map(|(object, _)| Arc::clone(object)));
                trace::spawn(span, self.flight(advised, key, lead, (pending, None), wishes).run_elsewhere(turn, has));
                match stale {
                    Some((object, tier)) => Waiting::Done(ItemReply::Stored { object, tier, stale: true }),
                    None => Waiting::Flight { key, follower, collapsed: false },
                }
            }
        }
    }

    async fn finish(&self, advised: &AdvisedItem, waiting: Waiting, fallback: Fallback) -> ItemReply {
        let (result, collapsed) = match waiting {
            Waiting::Done(reply) => return reply,
            Waiting::Alone(pending) => (Arc::new(await_result(self.protocol, pending).await), false),
            Waiting::Flight { key, follower, collapsed } => match self.land(advised, key, follower, collapsed).await {
                Landed::Stored(object, tier) => return ItemReply::Stored { object, tier, stale: false },
                Landed::Result(result, collapsed) => (result, collapsed),
            },
        };
        let status = result.outcome.as_ref().map_or_else(|error| error.status, |_| StatusCode::OK.as_u16());
        trace::item_fetched(advised.advice.span(), status, result.reason, collapsed, result.stored);
        let failed = result.outcome.as_ref().is_err_and(|error| error.status >= 500 || error.is_unread());
        match fallback.filter(|(object, _)| failed && !self.infer.cache.is_gone(object, &self.url)) {
            Some((object, tier)) => ItemReply::Fallback { object, tier, result },
            None => ItemReply::Fetched { result, collapsed },
        }
    }

    /// Waits for the flight; fetches alone if its result is not for this request.
    async fn land(
        &self,
        advised: &AdvisedItem,
        key: Key,
        follower: Follower<Arc<ItemResult>>,
        collapsed: bool,
    ) -> Landed {
        let flight = follower.number();
        let begun = advised.advice.span().timer();
        let landing = follower.landed().await;
        let with = landing.as_ref().map_or("lost", |result| if result.outcome.is_ok() { "result" } else { "failure" });
        trace::landed(advised.advice.span(), flight, with, begun);
        match landing {
            Some(result) if self.was_purged(&result) => self.infer.flights.retire(&key, flight),
            Some(result) if result.shareable || !collapsed => return Landed::Result(result, collapsed),
            Some(_) => {}
            None => {
                if let Some((object, tier)) = Box::pin(self.stored(key)).await {
                    return Landed::Stored(object, tier);
                }
            }
        }
        trace::not_for_it(advised.advice.span(), "fetch alone");
        let pending = self.batch_item(advised).map(|batch_item| self.infer.submit_alone(batch_item));
        Landed::Result(Arc::new(await_result(self.protocol, pending).await), false)
    }

    /// Whether the result was purged after its flight had begun, and before this request came.
    fn was_purged(&self, result: &ItemResult) -> bool {
        let purger = self.infer.cache.purger();
        result
            .purgeable
            .as_ref()
            .is_some_and(|(tags, mark)| purger.is_outdated(tags, mark, &self.arrived, || tag::of_url(&self.url, true)))
    }

    fn flight(
        &self,
        advised: &AdvisedItem,
        key: Key,
        lead: Lead<Arc<ItemResult>>,
        (pending, lease): (PendingResult, Option<Lease>),
        wishes: &mut Wishes,
    ) -> Flight {
        Flight {
            _row: self.infer.places.row(lead.number(), &pending, wishes),
            infer: Arc::clone(&self.infer),
            route: Arc::clone(&self.route),
            url: self.url.clone(),
            head: Arc::clone(&self.head),
            demand: self.demand.clone(),
            account: self.account,
            due: self.due,
            advised: advised.clone(),
            protocol: self.protocol,
            key,
            fetch: self.infer.cache.begin_leased(&key, lease),
            mark: self.mark,
            requested: clock::now(),
            lead,
            pending: Some(pending),
            begun: Instant::now(),
        }
    }

    /// Returns the item with the policy's edits, its candidates and its terms; or its result if the policy faults and
    /// the route refuses it then.
    fn batch_item(&self, advised: &AdvisedItem) -> Result<BatchItem, Box<ItemResult>> {
        let batch_item = model::batch_item(
            &self.infer.policy_context,
            &self.route,
            &self.head,
            self.protocol,
            advised,
            self.account,
            self.infer.response_bytes_max(),
        );
        batch_item.map(|batch_item| batch_item.within(self.due))
    }

    fn reply(&self, form: ReplyForm, item_replies: &[ItemReply], mut trail: Trail) -> Reply {
        let tally = Tally::of(self.protocol, item_replies);
        tally.note(&mut trail);
        if trail.is_hit() && self.infer.cache.purger().is_serving_cut_off() {
            trail.detail = Some(CUT_OFF.into());
        }
        let spoiled = tally::spoiled(self.protocol, item_replies);
        let outcomes = tally::outcomes(item_replies, &spoiled);
        let is_one_result = form.is_one_result();
        // A request that is refused as a whole is one also where its items could have errors of their own.
        let refusals: Option<Vec<&ItemError>> = item_replies.iter().map(ItemReply::refusal).collect();
        let mut joined_reply = match refusals.as_deref() {
            Some([refusal, ..]) => self.protocol.reply_to_all(refusal),
            _ => self.protocol.join_outcomes(form, &outcomes),
        };
        let mut headers = match item_replies.first().filter(|_| is_one_result) {
            Some(only) => only.headers(),
            None => said_of(item_replies),
        };
        let too_many = StatusCode::TOO_MANY_REQUESTS.as_u16();
        if joined_reply.status == too_many
            && !item_replies.iter().any(|reply| reply.upstream_status() == Some(too_many))
        {
            headers.entry(header::RETRY_AFTER).or_insert(HeaderValue::from_static("1"));
        }
        if let Some(usage) = tally.usage() {
            headers.insert(USAGE, usage);
        }
        if let Some(media_type) = media_type(item_replies, &outcomes, &joined_reply.body) {
            joined_reply.headers.insert(header::CONTENT_TYPE, media_type);
        }
        joined(&self.infer, joined_reply, trail, Some(headers))
    }

    /// Returns the reply in the coding that the client wants, unless its route offers none or a result of it forbids
    /// that.
    async fn compressed(&self, item_replies: &[ItemReply], reply: Reply) -> Reply {
        let rule = &self.route.config.compress;
        let keeps_form = |item_reply: &ItemReply| Directives::read(item_reply.fields()).no_transform;
        if rule.codings.is_empty() || item_replies.iter().any(keeps_form) {
            return reply;
        }
        compress::compressed(rule, &self.infer.codings, &self.head.headers, reply).await
    }
}

/// Returns what the responses that a request's results came in say of the moment. What is stored says nothing of it.
fn said_of(item_replies: &[ItemReply]) -> HeaderMap {
    let mut parts: Vec<(&Arc<HeaderMap>, bool)> = Vec::new();
    for item_reply in item_replies {
        let ItemReply::Fetched { result, .. } = item_reply else { continue };
        let (headers, failed) = (&result.headers, result.outcome.is_err());
        // The results of one response share its fields.
        match parts.iter_mut().find(|(known, _)| Arc::ptr_eq(known, headers)) {
            Some((_, known)) => *known |= failed,
            None => parts.push((headers, failed)),
        }
    }
    let parts: Vec<Part<'_>> = parts.into_iter().map(|(headers, failed)| Part { headers, failed }).collect();
    momentary::merged(&parts, clock::now())
}

/// Returns the media type of a body that is one result's own, byte for byte, if the model has named it.
fn media_type(item_replies: &[ItemReply], outcomes: &[OutcomeRef<'_>], body: &Bytes) -> Option<HeaderValue> {
    let is_whole = |outcome: &OutcomeRef<'_>| {
        let own = outcome.as_ref().map_or_else(|error| &error.body, |answer| answer.body);
        (own.as_ptr(), own.len()) == (body.as_ptr(), body.len())
    };
    let at = outcomes.iter().position(is_whole)?;
    // Beside others the error of such a result is this node's.
    let own = item_replies.get(at).filter(|reply| item_replies.len() == 1 || !reply.is_for_one_alone());
    own?.fields().get(header::CONTENT_TYPE).cloned()
}

impl ItemReply {
    /// Returns the model's status, if it responded to this request.
    fn upstream_status(&self) -> Option<u16> {
        match self {
            Self::Fetched { result, .. } => result.status,
            Self::Stored { .. } | Self::Fallback { .. } => None,
        }
    }

    /// Returns the header fields that describe its body.
    fn fields(&self) -> &HeaderMap {
        match self {
            Self::Stored { object, .. } | Self::Fallback { object, .. } => &object.head.headers,
            Self::Fetched { result, .. } => &result.headers,
        }
    }

    fn outcome(&self) -> OutcomeRef<'_> {
        match self {
            Self::Stored { object, .. } | Self::Fallback { object, .. } => {
                Ok(Message { headers: &object.head.headers, body: &object.body })
            }
            Self::Fetched { result, .. } => {
                result.outcome.as_ref().map(|answer| Message { headers: &result.headers, body: &answer.body })
            }
        }
    }

    /// Returns the error by which the queue refused the item with its request.
    fn refusal(&self) -> Option<&ItemError> {
        match self {
            Self::Fetched { result, .. } if matches!(result.reason, Some("queue-full" | "deadline")) => {
                result.outcome.as_ref().err().filter(|error| matches!(error.status, 429 | 503))
            }
            _ => None,
        }
    }

    fn headers(&self) -> HeaderMap {
        match self {
            Self::Stored { object, .. } | Self::Fallback { object, .. } => object.aged_headers(clock::now()),
            Self::Fetched { result, .. } => (*result.headers).clone(),
        }
    }
}

/// One item's flight to the model and into the tiers.
struct Flight {
    infer: Arc<Infer>,
    route: Arc<Route>,
    url: String,
    head: Arc<RequestHead>,
    demand: Demand,
    account: Account,
    /// Until when the client that began it waits.
    due: Option<Instant>,
    advised: AdvisedItem,
    protocol: &'static dyn Protocol,
    key: Key,
    fetch: Arc<Fetch>,
    mark: Mark,
    requested: Timestamp,
    begun: Instant,
    lead: Lead<Arc<ItemResult>>,
    pending: Option<PendingResult>,
    /// The item's place in the queue, for requests that join.
    _row: Option<Row>,
}

impl Flight {
    async fn run(mut self) {
        let pending = self.pending.take().unwrap_or(Ok(None));
        let result = await_result(self.protocol, pending).await;
        self.settle(result);
    }

    /// Ends early if all that wait have left before the item was sent: dropping what is pending withdraws it. If its
    /// batch was sent already, the result is paid for, and stored.
    async fn run_while_wanted(mut self) {
        let pending = self.pending.take().unwrap_or(Ok(None));
        let queued = pending.as_ref().ok().and_then(|pending| pending.as_ref().map(Pending::queued));
        let mut awaiting = pin!(await_result(self.protocol, pending));
        let result = tokio::select! {
            result = &mut awaiting => result,
            is_off = self.lead.abandoned(|| queued.as_ref().is_some_and(|queued| queued.has_left())) => {
                if is_off {
                    return;
                }
                awaiting.await
            }
        };
        self.settle(result);
    }

    /// Stores the result if it may be, then lands the flight; in this order, so that a request that comes too late for
    /// the flight finds it.
    fn settle(self, mut result: ItemResult) {
        if let Ok(answer) = &result.outcome {
            let (refusal, reason, tags) = self.store(&result.headers, answer);
            result.stored = refusal.is_none();
            result.shareable = refusal.is_none_or(Refusal::is_shareable);
            result.remark = reason.or_else(|| self.advised.advice.remarked().cloned());
            let tags = tags.unwrap_or_else(|| {
                let mut tags = tag::named(&result.headers, &self.route.config.tag_headers);
                tags.extend(tag::of_url(&self.url, true));
                tags.push(Tag::key(&self.key));
                tags
            });
            result.purgeable = Some((tags, self.mark));
        }
        // First off the table: a request that comes after a failure was replied makes an attempt of its own.
        self.lead.close();
        self.lead.land(Arc::new(result));
    }

    /// Stores a result, or returns why not, with the policy's reason if it is the policy's decision; and the tags of
    /// what was stored.
    fn store(
        &self,
        headers: &HeaderMap,
        answer: &ItemResponse,
    ) -> (Option<Refusal>, Option<Arc<str>>, Option<Vec<Tag>>) {
        let body = &answer.body;
        let AdvisedItem { item, advice } = &self.advised;
        let (received, fetch) = (clock::now(), self.begun.elapsed());
        let times = Times { mark: self.mark, requested: self.requested, received, fetch };
        let response = Responded { status: StatusCode::OK, headers, length: Some(body.len() as u64) };
        let cache = &self.infer.cache;
        let facts = advice.facts(&self.infer.policy_context, &self.head, Some(&item.body));
        let case = Case::new(&self.route, &Method::POST, &self.head.headers, advice, response, &times);
        let ruling = admission::rule(cache, &self.route, advice, &facts, &case);
        let storage = match ruling.admission {
            Admission::Store(storage) => storage,
            Admission::Refuse(refusal) => {
                let holds = refusal.holds_for_key() || ruling.uncacheable.is_some();
                if holds && !self.fetch.is_overtaken(&self.key) {
                    cache.mark_uncacheable_by(&self.fetch, self.key, clock::uptime(), ruling.uncacheable);
                }
                return (Some(refusal), ruling.reason, None);
            }
        };
        if !answer.storable {
            return (Some(Refusal::Unreadable), None, None);
        }
        if body.len() > cache.config().part_bytes {
            // A result is joined with others from one piece.
            return (Some(Refusal::TooLarge), None, None);
        }
        self.infer.recent.note(&self.key, clock::uptime(), || {
            let facts = advice.facts(&self.infer.policy_context, &self.head, Some(&item.body));
            inputs::of(&self.route, advice, &facts, Some(&item.canonical))
        });
        // Everything of the client's that reaches the model is in the key, or the policy has decided.
        let keys = StorageKeys { primary: self.key, key: self.key, names: None };
        let origins = Origins {
            url: &self.url,
            key: &self.key,
            mark: self.mark,
            requested: self.requested,
            received,
            tag_headers: &self.route.config.tag_headers,
            targeted: self.route.targeted(),
            groups: false,
            by_rule: None,
        };
        let mut head = head(StatusCode::OK, headers, &storage, &origins);
        momentary::strip(&mut head.headers);
        match Recorder::new(Arc::clone(cache), Arc::clone(&self.fetch), keys, head).whole(body) {
            Ok(object) => (None, None, Some(object.head.tags.clone())),
            Err(TooLarge) => (Some(Refusal::TooLarge), None, None),
        }
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
