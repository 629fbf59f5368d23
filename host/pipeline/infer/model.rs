//! Requests to a model: which items share a batch, and one batch's way to the origin and back.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::{
    batch::{self, BatchResult, Batcher, Class, Pending, Rejected, Terms, Why},
    cache::{
        control::Directives,
        purge::Mark,
        tag::Tag,
        vary::{self, Vary},
    },
    message::{RequestHead, RequestSpan, coding},
    origin::protocol::{Item, ItemError, JoinedRequest, Message, Outcome, Protocol, Received},
    pipeline::{
        advice::{Advice, PolicyContext},
        forwarding,
        route::Route,
        trace,
        upstream::{self, Failed, UpstreamBody, UpstreamRequest},
    },
    policy::{Choice, Decision, Fault, Grouping, Hook, HookCall, RequestEdits, edit},
};

/// Where the items of one pool gather.
pub type Batches = Batcher<BatchItem, ItemResult>;

/// Where items gather, by the name of their pool.
pub type Batchers = BTreeMap<Arc<str>, Arc<Batches>>;

/// One item on its way to a model.
#[derive(Clone, Debug)]
pub struct BatchItem {
    pub(super) protocol: &'static dyn Protocol,
    pub(super) item: Item,
    pub(super) head: Arc<RequestHead>,
    pub(super) route: Arc<Route>,
    pub(super) response_bytes_max: u64,
    /// Header fields of the request that are sent with it. They are in its key.
    sent: Arc<[HeaderName]>,
    /// Header fields that the policy sets or removes.
    set: Vec<(HeaderName, Option<HeaderValue>)>,
    /// When its deadline began.
    arrived_at: Instant,
    choice: Choice,
    grouping: Grouping,
    span: RequestSpan,
}

/// The result of one item: the model's, or a failure.
#[derive(Clone, Debug)]
pub struct ItemResult {
    /// The item's own response, as if it had been sent alone.
    pub(super) outcome: Outcome,
    /// The header fields of the response that brought it, with those that are the item's own.
    pub(super) headers: Arc<HeaderMap>,
    /// The endpoint, and the attempts it took.
    pub(super) endpoint: Option<Arc<str>>,
    pub(super) attempts: u32,
    /// The origin's status, if there was one.
    pub(super) status: Option<u16>,
    /// Items in its batch.
    pub(super) batch: usize,
    /// Whether it is being stored.
    pub(super) stored: bool,
    /// Whether other requests that wait for the same may get it.
    pub(super) shareable: bool,
    /// A word on a failure.
    pub(super) reason: Option<&'static str>,
    /// A word on what the policy did out of the ordinary.
    pub(super) remark: Option<Arc<str>>,
    /// What the candidate that responded costs.
    pub(super) cost_micro: u64,
    /// What it can be purged by, and where the purge log stood when its flight began.
    pub(super) purgeable: Option<(Vec<Tag>, Mark)>,
}

/// An item with its policy's advice.
#[derive(Clone)]
pub(super) struct AdvisedItem {
    pub(super) item: Item,
    pub(super) advice: Arc<Advice>,
}

/// A result that is pending, `None` because the item wasn't submitted, or its failure.
pub(super) type PendingResult = Result<Option<Pending<ItemResult>>, Box<ItemResult>>;

impl ItemResult {
    /// Returns the result of one item of the response that this was made of.
    fn with_outcome(&self, outcome: Outcome) -> Self {
        let mut result = Self { outcome, ..self.clone() };
        if let Ok(answer) = &mut result.outcome
            && !answer.headers.is_empty()
        {
            Arc::make_mut(&mut result.headers).extend(mem::take(&mut answer.headers));
        }
        result
    }
}

/// Returns the function that a batcher sends with.
#[must_use]
pub fn sender() -> batch::SendBatch<BatchItem, ItemResult> {
    Arc::new(|_class, batch, why| Box::pin(send(batch, why).map(returned)))
}

/// Returns what came back, with whether the model responded.
fn returned(results: Vec<ItemResult>) -> BatchResult<ItemResult> {
    let status = results.first().and_then(|result| result.status);
    let succeeded = status.is_some_and(|status| (200..300).contains(&status));
    let outcome = if succeeded { batch::Outcome::Answered } else { batch::Outcome::Failed };
    BatchResult { results, outcome }
}

/// Returns an item with its policy's edits, its candidates and its terms.
///
/// # Errors
/// The item's failure, if the policy faulted and the route refuses it then.
pub(super) fn batch_item(
    policy_context: &PolicyContext,
    route: &Arc<Route>,
    head: &Arc<RequestHead>,
    protocol: &'static dyn Protocol,
    advised: &AdvisedItem,
    response_bytes_max: u64,
) -> Result<BatchItem, Box<ItemResult>> {
    let AdvisedItem { item, advice } = advised;
    let facts = advice.facts(policy_context, head, Some(&item.body));
    let faulted = |fault: Fault| {
        let Failed { status, reason, detail, .. } = Failed::of_fault(route, &fault);
        Box::new(failed(protocol, status, reason, &detail, 1))
    };
    let request_edits = advice.request_edits(route, &facts).map_err(faulted)?.unwrap_or_default();
    let choice = upstream::choose(route, advice, &facts).map_err(faulted)?;
    let grouping = if advice.has(Hook::Batch) {
        match advice.opinion(route, &HookCall::Batch, &facts).map_err(faulted)?.as_deref() {
            Some(Decision::Batch(grouping)) => grouping.clone(),
            _ => Grouping::default(),
        }
    } else {
        Grouping::default()
    };
    let maker = advice.key_maker().map(|policy| &**policy);
    Ok(BatchItem {
        protocol,
        item: edited(protocol, head, item, &request_edits),
        head: Arc::clone(head),
        route: Arc::clone(route),
        response_bytes_max,
        sent: forwarding::sent(route, maker, &head.headers).into(),
        set: request_edits.headers,
        arrived_at: Instant::now(),
        choice,
        grouping,
        span: advice.span().clone(),
    })
}

/// Returns the item after a policy's edits. One that isn't of the protocol any more is sent as the client sent it.
fn edited(protocol: &dyn Protocol, head: &RequestHead, item: &Item, request_edits: &RequestEdits) -> Item {
    let body = (!request_edits.edits.is_empty()).then(|| edit::edited(&item.body, &request_edits.edits)).flatten();
    let split = body.and_then(|body| {
        let received = Received { target: &head.target, headers: &head.headers, body: &body };
        protocol.split(&received, 1).ok()
    });
    match split.map(|split| split.items) {
        Some(mut items) if items.len() == 1 => items.remove(0),
        _ => item.clone(),
    }
}

/// Adds an item to the group of its class, and returns the group's index.
pub(super) fn group_for(groups: &mut Vec<(Class, Vec<(BatchItem, Terms)>)>, batch_item: BatchItem) -> usize {
    let (class, terms) = (class(&batch_item), terms(&batch_item));
    let index = groups.iter().position(|(other, _)| *other == class).unwrap_or_else(|| {
        groups.push((class, Vec::new()));
        groups.len() - 1
    });
    groups[index].1.push((batch_item, terms));
    index
}

fn terms(batch_item: &BatchItem) -> Terms {
    let Grouping { priority, weight, max_wait_us, max_size, .. } = batch_item.grouping;
    Terms {
        bytes: if weight == 0 { batch_item.item.weight() } else { usize::try_from(weight).unwrap_or(usize::MAX) },
        priority,
        wait_max: max_wait_us.map(|us| Duration::from_micros(us.into())),
        size_max: max_size.map(|size| usize::try_from(size).unwrap_or(usize::MAX)),
    }
}

/// Submits items to their pool's batcher; `None` where there is none, which `app` rules out.
pub(super) fn submit_all(
    batchers: &Batchers,
    class: &Class,
    items: Vec<(BatchItem, Terms)>,
) -> Vec<Option<Pending<ItemResult>>> {
    match batchers.get(&class.pool) {
        Some(batches) => batches.submit_all(class, items).into_iter().map(Some).collect(),
        None => items.iter().map(|_| None).collect(),
    }
}

/// Waits for a result, and turns a rejection into a failure in the protocol's format.
pub(super) async fn await_result(protocol: &dyn Protocol, pending: PendingResult) -> ItemResult {
    let pending = match pending {
        Ok(Some(pending)) => pending,
        Ok(None) => {
            return failed(protocol, StatusCode::INTERNAL_SERVER_ERROR, "no-former", "the pool has no former", 1);
        }
        Err(result) => return *result,
    };
    match pending.result().await {
        Ok(result) => result,
        Err(rejected @ Rejected::QueueFull { .. }) => {
            failed(protocol, StatusCode::TOO_MANY_REQUESTS, "queue-full", &rejected.to_string(), 1)
        }
        Err(rejected @ Rejected::Lost) => {
            failed(protocol, StatusCode::BAD_GATEWAY, "batch-lost", &rejected.to_string(), 1)
        }
    }
}

/// Returns an item's class: items gather at the pool of the first candidate.
fn class(batch_item: &BatchItem) -> Class {
    let first = batch_item.choice.order.first().and_then(|index| batch_item.route.destinations.get(*index));
    let pool =
        first.map_or_else(|| batch_item.route.config.pool.as_str().into(), |destination| Arc::clone(&destination.name));
    Class { pool, group: group(batch_item) }
}

/// Returns a digest of what items must agree on to share a batch: the target, the credentials and what the protocol
/// says.
fn group(batch_item: &BatchItem) -> Bytes {
    let mut group = blake3::Hasher::new();
    let head = &batch_item.head;
    let mut part = |bytes: Option<&[u8]>| {
        group.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
        group.update(bytes.unwrap_or_default());
    };
    // The route itself and not its name: after an exchange of the configuration another one of that name may lead
    // elsewhere, while items of this one wait.
    part(Some(&Arc::as_ptr(&batch_item.route).addr().to_le_bytes()));
    for text in [head.authority(), batch_item.route.target_sent(head).as_str()] {
        part(Some(text.as_bytes()));
    }
    part(Some(&batch_item.sent.len().to_le_bytes()));
    for name in batch_item.sent.iter() {
        part(Some(name.as_str().as_bytes()));
        let lines: Vec<&[u8]> = head.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        part((!lines.is_empty()).then(|| lines.join(&b'\n')).as_deref());
    }
    part(Some(&batch_item.item.group));
    part(Some(&batch_item.grouping.group));
    part(Some(&batch_item.set.len().to_le_bytes()));
    for (name, value) in &batch_item.set {
        part(Some(name.as_str().as_bytes()));
        part(value.as_ref().map(HeaderValue::as_bytes));
    }
    // Times may differ by item: a batch keeps the strictest of its members'.
    for number in &batch_item.choice.order {
        part(Some(&number.to_le_bytes()));
    }
    // A digest, since the batcher keeps it for a while and must not hold credentials.
    Bytes::copy_from_slice(group.finalize().as_bytes())
}

/// Batches with a sampled item that there have been, so that a number in the log means one batch.
static SAMPLED: AtomicU64 = AtomicU64::new(0);

/// Logs for each sampled item that it is sent now, in which batch and why. Returns the span of the batch's attempts:
/// within the first of these items'.
fn sent(batch: &[BatchItem], why: Why) -> RequestSpan {
    let Some(first) = batch.iter().find(|batch_item| batch_item.span.get().is_some()) else {
        return RequestSpan::none();
    };
    let number = SAMPLED.fetch_add(1, Ordering::Relaxed);
    for BatchItem { span, arrived_at, .. } in batch {
        trace::batched(span, number, batch.len(), why.as_str(), arrived_at.elapsed());
    }
    first.span.batch(number)
}

/// Sends one batch, and returns a result for each item.
async fn send(batch: Vec<BatchItem>, why: Why) -> Vec<ItemResult> {
    let count = batch.len();
    let Some(first) = batch.first() else { return Vec::new() };
    let protocol = first.protocol;
    let items: Vec<&Item> = batch.iter().map(|batch_item| &batch_item.item).collect();
    let JoinedRequest { target, headers, body } = protocol.join(&first.route.target_sent(&first.head), &items);
    let mut upstream = UpstreamRequest {
        method: Method::POST,
        authority: first.head.authority.clone(),
        target,
        headers: header_fields(first, headers),
        body: UpstreamBody::Bytes(body),
        // A batch is many clients'.
        client: None,
        span: sent(&batch, why),
    };
    upstream.apply(&RequestEdits { headers: first.set.clone(), ..RequestEdits::default() });
    let for_all = |result: ItemResult| vec![result; count];
    let arrived = match upstream.send(&first.route, &strictest(&batch)).await {
        Ok(arrived) => arrived,
        Err(missed) => return for_all(failed(protocol, missed.status, missed.reason, &missed.detail, count)),
    };
    // One request's cost, shared by its items.
    let (fetched, cost_micro) = (arrived.fetched, arrived.cost_micro / (count as u64).max(1));
    let (mut parts, body) = fetched.response.into_parts();
    let shareable = is_shareable(&parts.headers);
    // One response, many clients: a cookie would go to all of them, and a validator is the batch's.
    for name in [header::SET_COOKIE, header::ETAG, header::LAST_MODIFIED] {
        parts.headers.remove(name);
    }
    let codings = take_codings(&mut parts.headers);
    let base = ItemResult {
        outcome: Err(protocol.failure(502, "no response", None)),
        headers: Arc::new(parts.headers),
        endpoint: Some(fetched.endpoint),
        attempts: fetched.attempts,
        status: Some(parts.status.as_u16()),
        batch: count,
        stored: false,
        shareable,
        reason: None,
        remark: None,
        cost_micro,
        purgeable: None,
    };
    let limit = first.response_bytes_max.saturating_mul(count as u64);
    let bytes = match body.collect(limit).await {
        Ok(bytes) => bytes,
        Err(error) => return for_all(unusable(&base, protocol, "response-body", &error.to_string())),
    };
    // No coding was requested, but an intermediary may have added one.
    let bytes = match coding::decode(&codings, &bytes, limit) {
        Ok(bytes) => bytes,
        Err(error) => return for_all(unusable(&base, protocol, "response-coding", &error.to_string())),
    };
    if !parts.status.is_success() {
        let error = ItemError { status: parts.status.as_u16(), body: bytes };
        return for_all(ItemResult { outcome: Err(error), reason: Some("origin-error"), ..base });
    }
    match protocol.split_response(Message { headers: &base.headers, body: &bytes }, &items) {
        Ok(outcomes) => outcomes.into_iter().map(|outcome| base.with_outcome(outcome)).collect(),
        Err(error) => for_all(unusable(&base, protocol, "bad-response", &error.to_string())),
    }
}

/// Returns the members' common order, the earliest hedge of any, and the time until the first deadline.
fn strictest(batch: &[BatchItem]) -> Choice {
    let left = |batch_item: &BatchItem| {
        let waited = u32::try_from(batch_item.arrived_at.elapsed().as_micros()).unwrap_or(u32::MAX);
        batch_item.choice.deadline_us.map(|deadline| deadline.saturating_sub(waited))
    };
    Choice {
        order: batch.first().map(|first| first.choice.order.clone()).unwrap_or_default(),
        hedge_after_us: batch.iter().filter_map(|batch_item| batch_item.choice.hedge_after_us).min(),
        deadline_us: batch.iter().filter_map(left).min(),
    }
}

/// Returns a batch's header fields; `own` are those that describe its body.
fn header_fields(first: &BatchItem, own: HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in first.sent.iter() {
        for value in first.head.headers.get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers.extend(own);
    headers.append(header::VIA, HeaderValue::from_static("1.1 holm"));
    headers
}

/// Takes the fields that say how a body is encoded out of a response's.
fn take_codings(headers: &mut HeaderMap) -> HeaderMap {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter().cloned();
    let codings = codings.map(|coding| (header::CONTENT_ENCODING, coding)).collect();
    headers.remove(header::CONTENT_ENCODING);
    codings
}

/// Whether a failed response may be shared with other requests that wait for the same: it isn't specific to one. All
/// that was sent is in the key, so that it doesn't matter what it varies by.
fn is_shareable(response: &HeaderMap) -> bool {
    let directives = Directives::read(response);
    let is_private = directives.private || directives.no_store || response.contains_key(header::SET_COOKIE);
    !is_private && vary::read(response) != Vary::Any
}

fn unusable(base: &ItemResult, protocol: &dyn Protocol, reason: &'static str, detail: &str) -> ItemResult {
    ItemResult { outcome: Err(protocol.failure(502, detail, None)), reason: Some(reason), ..base.clone() }
}

fn failed(protocol: &dyn Protocol, status: StatusCode, reason: &'static str, detail: &str, batch: usize) -> ItemResult {
    ItemResult {
        outcome: Err(protocol.failure(status.as_u16(), detail, None)),
        headers: Arc::default(),
        endpoint: None,
        attempts: 0,
        status: None,
        batch,
        stored: false,
        shareable: true,
        reason: Some(reason),
        remark: None,
        cost_micro: 0,
        purgeable: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        origin::protocol::{self, ItemResponse},
    };

    #[test]
    fn an_items_own_header_fields_replace_those_of_its_response() {
        let fields = |media_type| HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))]);
        let mut headers = fields("application/json");
        headers.insert("x-model", HeaderValue::from_static("m"));
        let protocol = protocol::of(config::Protocol::JsonArray);
        let base = ItemResult { headers: Arc::new(headers), ..failed(protocol, StatusCode::BAD_GATEWAY, "", "", 2) };

        let same = base.with_outcome(Ok(ItemResponse::from(Bytes::from_static(b"1"))));
        assert!(Arc::ptr_eq(&same.headers, &base.headers), "fields of the response are shared");
        let own = ItemResponse { headers: fields("application/octet-stream"), body: Bytes::from_static(b"2") };
        let other = base.with_outcome(Ok(own));
        assert_eq!(other.headers["content-type"], "application/octet-stream");
        assert_eq!(other.headers["x-model"], "m");
        assert_eq!(base.headers["content-type"], "application/json");
    }
}
