//! One item on its way to a model: with whom it may share a batch, on which terms, and its result.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::tenant::Account;
use crate::{
    batch::{Class, Pending, Rejected, Terms},
    cache::{collapse::Lead, entry::Object, key::Key, lease::Turn, purge::Purgeable, store::Tier},
    message::{RequestHead, RequestSpan},
    origin::protocol::{Item, ItemError, Outcome, Protocol, Received, Shape},
    pipeline::{
        advice::{Advice, PolicyContext},
        forwarding,
        loops::Loops,
        momentary,
        route::Route,
        upstream::{self, DEADLINE, Failed},
    },
    policy::{Choice, Decision, Fault, Grouping, Hook, HookCall, RequestEdits, edit},
};

/// The reason of a refusal by a queue that is full.
const QUEUE_FULL: &str = "queue-full";

/// One item on its way to a model.
#[derive(Clone, Debug)]
pub struct BatchItem {
    pub(super) protocol: &'static dyn Protocol,
    pub(super) item: Item,
    pub(super) head: Arc<RequestHead>,
    pub(super) route: Arc<Route>,
    pub(super) response_bytes_max: u64,
    /// Header fields of the request that are sent with it. They are in its key.
    pub(super) sent: Arc<[HeaderName]>,
    /// Marks its batch as one that this node has sent on.
    pub(super) loops: Loops,
    /// Header fields that the policy sets or removes.
    pub(super) set: Vec<(HeaderName, Option<HeaderValue>)>,
    /// The tenant that it is served for.
    pub(super) account: Account,
    /// When its deadline began.
    pub(super) arrived_at: Instant,
    /// When its client stops to wait, if it says so. That moves the item to the front of the queue, or out of it; what
    /// is sent isn't given up for one client of several.
    due: Option<Instant>,
    /// Whether other requests may wait for it, too: then no request's deadline takes it out of the queue.
    pub(super) is_shared: bool,
    /// Whether its result was unlike those that came with it, a short while ago.
    pub(super) has_differed: bool,
    /// What results of its class usually are like, by the candidate that brings them, as far as that is known.
    pub(super) expected: Arc<[(usize, Shape)]>,
    /// Whether something of its request was taken in before.
    is_admitted: bool,
    pub(super) choice: Choice,
    grouping: Grouping,
    pub(super) span: RequestSpan,
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
    /// What a purge may mean. It began with its flight.
    pub(super) purgeable: Option<Purgeable>,
}

/// An item with its policy's advice.
#[derive(Clone)]
pub(super) struct AdvisedItem {
    pub(super) item: Item,
    pub(super) advice: Arc<Advice>,
}

impl BatchItem {
    /// Returns this item of a client that waits until then.
    pub(super) fn within(self, due: Option<Instant>) -> Self {
        Self { due, ..self }
    }

    /// Returns this item of a request whose deadlines began then.
    pub(super) fn since(self, arrived_at: Instant) -> Self {
        Self { arrived_at, ..self }
    }

    /// Returns this item, for which other requests may wait, too, if it `is_shared`.
    pub(super) fn shared(self, is_shared: bool) -> Self {
        Self { is_shared, ..self }
    }

    /// Returns this item of a request of which something was taken in before, if it `is_admitted`.
    pub(super) fn admitted(self, is_admitted: bool) -> Self {
        Self { is_admitted, ..self }
    }

    /// Returns what its result would usually be like, if it comes from this candidate and that is known.
    pub(super) fn usual(&self, candidate: Option<usize>) -> Option<Shape> {
        self.expected.iter().find(|(of, _)| Some(*of) == candidate).map(|(_, shape)| *shape)
    }

    /// Returns until when its request waits for it, by its policy's word.
    pub(super) fn until(&self) -> Option<Instant> {
        until(self.arrived_at, &self.choice)
    }
}

/// Returns when a policy's deadline is over that began then, if there is one.
pub(super) fn until(began: Instant, choice: &Choice) -> Option<Instant> {
    choice.deadline_us.map(|us| began + Duration::from_micros(us.into()))
}

/// An item that another node of the region is fetching.
pub(super) struct Elsewhere {
    pub(super) key: Key,
    pub(super) lead: Lead<Arc<ItemResult>>,
    /// This node's attempt at the lease, and after how long it asks again.
    pub(super) turn: (Turn, Duration),
    /// What is in a tier, stale, and served meanwhile.
    pub(super) stale: Option<(Arc<Object>, Tier)>,
}

/// A result that is pending, `None` because the item wasn't submitted, or its failure.
pub(super) type PendingResult = Result<Option<Pending<BatchItem, ItemResult>>, Box<ItemResult>>;

impl ItemResult {
    /// Returns the result of one item of the response that this was made of.
    pub(super) fn with_outcome(&self, outcome: Outcome) -> Self {
        if outcome.as_ref().is_err_and(|error| error.retry_alone) {
            return self.unreadable(outcome, "bad-response");
        }
        let mut result = Self { outcome, ..self.clone() };
        if let Ok(answer) = &mut result.outcome
            && !answer.headers.is_empty()
        {
            Arc::make_mut(&mut result.headers).extend(mem::take(&mut answer.headers));
        }
        result
    }

    /// Returns the failure whose client gets the response that this was made of as it is.
    pub(super) fn as_it_is(&self, status: StatusCode, body: Bytes, reason: &'static str) -> Self {
        Self { outcome: Err(ItemError::response(status.as_u16(), body)), reason: Some(reason), ..self.clone() }
    }

    /// Returns a failure that this node worded, because the response can't be read: of its header fields those are left
    /// that don't describe its body.
    pub(super) fn unreadable(&self, outcome: Outcome, reason: &'static str) -> Self {
        let headers = Arc::new(momentary::only(&self.headers));
        Self { outcome, headers, reason: Some(reason), ..self.clone() }
    }

    /// Whether the model's result is only for a client that sent the item alone: it can't stand beside others.
    pub(super) fn is_for_one_alone(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|response| !response.joinable)
    }

    /// Returns the error by which the queue refused the item, and its request with it, before it was sent.
    pub(super) fn refusal(&self) -> Option<&ItemError> {
        let is_of_queue = matches!(self.reason, Some(QUEUE_FULL | DEADLINE));
        self.outcome.as_ref().err().filter(|error| is_of_queue && matches!(error.status, 429 | 503))
    }

    /// Whether it says nothing but that one request's turn or time was over, so that it isn't for others.
    pub(super) fn is_of_one_request(&self) -> bool {
        !self.shareable && self.outcome.is_err() && matches!(self.reason, Some(QUEUE_FULL | DEADLINE))
    }

    /// Returns what it is like, if that should be what all results of its class are like.
    pub(super) fn shape(&self) -> Option<Shape> {
        self.outcome.as_ref().ok()?.shape
    }

    /// Whether it is unlike most of those that came in one response with it.
    pub(super) fn differs(&self) -> bool {
        self.outcome.as_ref().is_err_and(|error| error.differs)
    }

    /// Returns this result of an item that came with others before and was unlike them: it is only for a client that
    /// sent the item alone, and isn't stored.
    pub(super) fn mistrusted(mut self) -> Self {
        if let Ok(response) = &mut self.outcome {
            (response.storable, response.joinable) = (false, false);
        }
        self
    }

    /// Whether the model responded, but not with a result that could be read or with a failure of the item's own.
    pub(super) fn is_unreadable(&self) -> bool {
        self.outcome.as_ref().is_err_and(|error| error.retry_alone)
    }
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
    account: Account,
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
        item: edited(protocol, route, head, item, &request_edits),
        head: Arc::clone(head),
        route: Arc::clone(route),
        response_bytes_max,
        sent: forwarding::sent(route, maker, &head.headers).into(),
        account: account.by_policy(&route.config, request_edits.tenancy()),
        loops: policy_context.loops.clone(),
        set: request_edits.headers,
        arrived_at: Instant::now(),
        due: None,
        is_shared: false,
        has_differed: false,
        expected: Arc::default(),
        is_admitted: false,
        choice,
        grouping,
        span: advice.span().clone(),
    })
}

/// Returns the item after a policy's edits. One that isn't of the protocol any more is sent as the client sent it.
fn edited(
    protocol: &dyn Protocol,
    route: &Route,
    head: &RequestHead,
    item: &Item,
    request_edits: &RequestEdits,
) -> Item {
    let body = (!request_edits.edits.is_empty()).then(|| edit::edited(&item.body, &request_edits.edits)).flatten();
    let Some(body) = body else { return item.clone() };
    if item.whole {
        return item.with_body(body);
    }
    // They describe the body that the item was cut out of.
    let described = head.headers.keys().filter(|name| protocol.describes_body(name));
    let mut headers = head.headers.clone();
    for name in described {
        headers.remove(name);
    }
    let received = Received { target: &head.target, headers: &headers, body: &body };
    match protocol.split(&received, &route.split_rules(1)).map(|split| split.items) {
        Ok(mut items) if items.len() == 1 => items.remove(0).uncalled(),
        _ => item.clone(),
    }
}

/// The items of one request that are of one class, each with its terms.
pub(super) type Group = (Class, Vec<(BatchItem, Terms)>);

/// Adds an item to the group of its class, and returns the group's index.
pub(super) fn group_for(groups: &mut Vec<Group>, batch_item: BatchItem) -> usize {
    let (class, terms) = (class(&batch_item), terms(&batch_item));
    let index = groups.iter().position(|(other, _)| *other == class).unwrap_or_else(|| {
        groups.push((class, Vec::new()));
        groups.len() - 1
    });
    groups[index].1.push((batch_item, terms));
    index
}

/// Returns the terms on which an item is batched. Its policy's deadline says what is sent first and what is refused as
/// late; it ends the wait of its own request, and takes the item out of the queue only if no other may wait for it.
pub(super) fn terms(batch_item: &BatchItem) -> Terms {
    let Grouping { priority, weight, max_wait_us, max_size, .. } = batch_item.grouping;
    let by_policy = batch_item.until();
    Terms {
        bytes: if weight == 0 { batch_item.item.weight() } else { usize::try_from(weight).unwrap_or(usize::MAX) },
        priority,
        tenant: batch_item.account.tenant,
        weight: batch_item.account.weight,
        deadline: by_policy.filter(|_| !batch_item.is_shared),
        late_by: by_policy,
        wanted_by: [batch_item.due, by_policy].into_iter().flatten().min(),
        wait_max: max_wait_us.map(|us| Duration::from_micros(us.into())),
        size_max: if batch_item.item.whole {
            Some(1)
        } else {
            max_size.map(|size| usize::try_from(size).unwrap_or(usize::MAX))
        },
        admitted: batch_item.is_admitted,
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
    pending.result().await.unwrap_or_else(|rejected| rejection(protocol, rejected))
}

fn rejection(protocol: &dyn Protocol, rejected: Rejected) -> ItemResult {
    let (status, reason, retry_after) = match rejected {
        Rejected::QueueFull { retry_after } => (StatusCode::TOO_MANY_REQUESTS, QUEUE_FULL, Some(retry_after)),
        Rejected::Late { retry_after } => (StatusCode::SERVICE_UNAVAILABLE, DEADLINE, Some(retry_after)),
        Rejected::Expired => (StatusCode::GATEWAY_TIMEOUT, DEADLINE, None),
        Rejected::Lost => (StatusCode::BAD_GATEWAY, "batch-lost", None),
    };
    let mut result = failed(protocol, status, reason, &rejected.to_string(), 1);
    // One tenant's place in the queue, or one request's time, says nothing of the others that wait for the item.
    result.shareable = matches!(rejected, Rejected::Lost);
    if let Some(after) = retry_after {
        result.headers = Arc::new(HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from(after.as_secs()))]));
    }
    result
}

/// Returns the failure of an item that came to nothing within the time that the policy gave this request for it.
pub(super) fn expired(protocol: &dyn Protocol) -> ItemResult {
    let detail = "no result within the time that the policy gave";
    ItemResult { shareable: false, ..failed(protocol, StatusCode::GATEWAY_TIMEOUT, DEADLINE, detail, 1) }
}

/// Returns an item's class: items gather at the pool of the first candidate.
fn class(batch_item: &BatchItem) -> Class {
    let first = batch_item.choice.order.first().and_then(|index| batch_item.route.destinations.get(*index));
    let pool =
        first.map_or_else(|| batch_item.route.config.pool.as_str().into(), |destination| Arc::clone(&destination.name));
    Class { pool, group: group(batch_item), apart: None }
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
    // Times may differ by item: a batch has until the last of its members' deadlines.
    for number in &batch_item.choice.order {
        part(Some(&number.to_le_bytes()));
    }
    // A digest, since the batcher keeps it for a while and must not hold credentials.
    Bytes::copy_from_slice(group.finalize().as_bytes())
}

/// Returns the failure of an item that the model didn't respond to.
pub(super) fn failed(
    protocol: &dyn Protocol,
    status: StatusCode,
    reason: &'static str,
    detail: &str,
    batch: usize,
) -> ItemResult {
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
    use http::{Method, header};

    use super::*;
    use crate::{
        config,
        origin::protocol::{self, ItemResponse},
        policy::{
            edit::{Edit, Pointer},
            facts::tests::request,
        },
    };

    #[test]
    fn edits_are_made_before_an_item_is_translated() {
        let config = config::Route {
            mode: config::Mode::Infer(config::Protocol::JsonArray),
            translation: Some(Arc::new(config::Translation::new(config::PoolProtocol::MsgPackArray))),
            ..config::Route::new("r", "p")
        };
        let route = Route::nowhere(config);
        let (protocol, head) = (route.splits().unwrap(), request(Method::POST, "/x", &[]));
        let body = Bytes::from_static(b"[{\"a\":1}]");
        let received = Received { target: &head.target, headers: &head.headers, body: &body };
        let item = protocol.split(&received, &route.split_rules(1)).unwrap().items.remove(0);
        let edit = Edit { pointer: Pointer::parse("/a").unwrap(), value: Some(true.into()) };
        let edits = RequestEdits { edits: vec![edit], ..RequestEdits::default() };
        let edited = edited(protocol, &route, &head, &item, &edits);
        let sent = protocol.join(&head.target, &[&edited]);
        assert_eq!(&sent.body[..], b"\x91\x81\xa1a\xc3");
    }

    #[test]
    fn the_rejection_of_one_tenant_or_of_one_requests_time_is_for_no_other_request() {
        let (protocol, retry_after) = (protocol::of(config::Protocol::JsonArray), Duration::from_secs(1));
        for (rejected, reason, is_shareable) in [
            (Rejected::QueueFull { retry_after }, "queue-full", false),
            (Rejected::Late { retry_after }, "deadline", false),
            (Rejected::Expired, "deadline", false),
            (Rejected::Lost, "batch-lost", true),
        ] {
            let result = rejection(protocol, rejected);
            assert_eq!((result.reason, result.shareable), (Some(reason), is_shareable));
        }
    }

    #[test]
    fn an_items_own_header_fields_replace_those_of_its_response() {
        let fields = |media_type| HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))]);
        let mut headers = fields("application/json");
        headers.insert("x-model", HeaderValue::from_static("m"));
        let protocol = protocol::of(config::Protocol::JsonArray);
        let base = ItemResult { headers: Arc::new(headers), ..failed(protocol, StatusCode::BAD_GATEWAY, "", "", 2) };

        let same = base.with_outcome(Ok(ItemResponse::from(Bytes::from_static(b"1"))));
        assert!(Arc::ptr_eq(&same.headers, &base.headers), "fields of the response are shared");
        let own = ItemResponse {
            headers: fields("application/octet-stream"),
            ..ItemResponse::from(Bytes::from_static(b"2"))
        };
        let other = base.with_outcome(Ok(own));
        assert_eq!(other.headers["content-type"], "application/octet-stream");
        assert_eq!(other.headers["x-model"], "m");
        assert_eq!(base.headers["content-type"], "application/json");
    }

    #[test]
    fn a_failure_that_this_node_words_has_no_fields_of_the_models_body() {
        let protocol = protocol::of(config::Protocol::JsonArray);
        let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("text/html"))]);
        headers.insert("request-id", HeaderValue::from_static("r"));
        let base = ItemResult { headers: Arc::new(headers), ..failed(protocol, StatusCode::BAD_GATEWAY, "", "", 2) };
        let unreadable = ItemError { retry_alone: true, ..ItemError::new(502, Bytes::new()) };
        let result = base.with_outcome(Err(unreadable));
        assert!(result.is_unreadable() && !base.is_unreadable());
        assert_eq!((result.headers.len(), result.reason), (1, Some("bad-response")));
        assert_eq!(result.headers["request-id"], "r");
    }
}
