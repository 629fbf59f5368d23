//! One batch's way to the model and back: as one request and, if that fails in a way that one of its items may have
//! brought about, in pieces, so that the others have their results nevertheless. It is one request after the other, each
//! in a slot of the pool.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::time::timeout;

use super::model::{BatchItem, ItemResult, failed};
use crate::{
    batch::{self, Bisection, Further, Sending},
    cache::{
        control::Directives,
        vary::{self, Vary},
    },
    clock,
    message::{
        BodyError, RequestSpan,
        coding::{self, Undecodable},
        compression::decompress,
    },
    origin::{
        Pool, Reaction, Reason,
        protocol::{Arrival, BadResponse, Item, ItemError, JoinedRequest, Message, Outcome},
    },
    pipeline::{
        trace,
        upstream::{Arrived, DEADLINE, UpstreamBody, UpstreamRequest},
    },
    policy::{Choice, RequestEdits},
};

/// What became of a batch.
pub(super) struct Sent {
    /// A result for each item, in their order.
    pub(super) results: Vec<ItemResult>,
    /// How it went, for the pool's pace: of more than one request the time says nothing.
    pub(super) outcome: batch::Outcome,
    /// Whether a candidate, of whichever pool, responded to it as a whole.
    pub(super) is_served: bool,
    /// The candidate that responded, if one did.
    pub(super) candidate: Option<usize>,
    /// The requests beyond the first; at fault are items that failed alone while others succeeded, or whose results
    /// couldn't be read.
    pub(super) further: Further,
    /// The places of those whose results were unlike the others of a response.
    pub(super) differing: Vec<usize>,
}

/// What follows a request.
pub(super) enum Step {
    /// There is a result for each item.
    Over(Sent),
    /// There are more, each to be made in a slot of its own.
    Divided(Box<Division>),
}

/// Sends one batch.
pub(super) async fn send(batch: Arc<[BatchItem]>, sending: Sending) -> Step {
    let span = sent(&batch, sending);
    Division::new(batch, sending.expected, span).step().await
}

/// Batches with a sampled item that there have been, so that a number in the log means one batch.
static SAMPLED: AtomicU64 = AtomicU64::new(0);

/// Logs for each sampled item that it is sent now, in which batch and why. Returns the span of the batch's attempts:
/// within the first of these items'.
fn sent(batch: &[BatchItem], sending: Sending) -> RequestSpan {
    let Some(first) = batch.iter().find(|batch_item| batch_item.span.get().is_some()) else {
        return RequestSpan::none();
    };
    let number = SAMPLED.fetch_add(1, Ordering::Relaxed);
    for BatchItem { span, arrived_at, .. } in batch {
        trace::batched(span, number, batch.len(), sending.why.as_str(), arrived_at.elapsed());
    }
    first.span.batch(number)
}

/// What one request brought for its items.
enum Brought {
    /// A result or a failure of its own for each, in their order.
    Each(Vec<ItemResult>),
    /// One failure for all of them, which a single one may have brought about.
    SuspectFailure(Box<ItemResult>),
    /// One failure for all of them, which says nothing about items.
    Failure(Box<ItemResult>),
}

/// A batch, and what is known of its items by their places.
pub(super) struct Division {
    batch: Arc<[BatchItem]>,
    /// The places of the items that are sent together next.
    next: Range<usize>,
    bisection: Bisection,
    results: Vec<Option<ItemResult>>,
    /// Whether the result is the item's own, and not that of a request which failed as a whole.
    settled: Vec<bool>,
    /// The candidate that responded. The pieces are sent there, so that each is one request.
    candidate: Option<usize>,
    /// How long the batch takes by what was measured.
    expected: Option<Duration>,
    requests: usize,
    /// Whether the pool where the batch gathered said to one of them that it has too many.
    is_refused: bool,
    /// The places of the items in each request beyond the first.
    further: Vec<Vec<usize>>,
    /// Whether the last request brought a result or a failure of its own for each item.
    is_each: bool,
    failed_alone: Vec<usize>,
    unreadable: Vec<usize>,
    /// Those whose results were unlike the others of a response.
    differing: Vec<usize>,
    span: RequestSpan,
}

impl Division {
    fn new(batch: Arc<[BatchItem]>, expected: Option<Duration>, span: RequestSpan) -> Self {
        let items = batch.len();
        Self {
            batch,
            next: 0..items,
            bisection: Bisection::new(items),
            results: vec![None; items],
            settled: vec![false; items],
            candidate: None,
            expected,
            requests: 0,
            is_refused: false,
            further: Vec::new(),
            is_each: false,
            failed_alone: Vec::new(),
            unreadable: Vec::new(),
            differing: Vec::new(),
            span,
        }
    }

    /// Makes the next request.
    pub(super) async fn step(mut self) -> Step {
        let goes_on = self.send(self.next.clone()).await;
        let next = if goes_on { self.bisection.next_request() } else { None };
        match next {
            Some(next) => Step::Divided(Box::new(Self { next, ..self })),
            None => Step::Over(self.over()),
        }
    }

    /// The endpoint that responded last, if one did.
    pub(super) fn endpoint(&self) -> Option<Arc<str>> {
        self.results.iter().flatten().find_map(|result| result.endpoint.clone())
    }

    /// Sends the items at these places together, and returns whether others may be sent after them.
    async fn send(&mut self, places: Range<usize>) -> bool {
        let batch = Arc::clone(&self.batch);
        let members = self.in_time(&places);
        let items: Vec<&BatchItem> = members.iter().map(|at| &batch[*at]).collect();
        let Some(first) = items.first() else {
            self.bisection.skipped();
            return true;
        };
        self.requests += 1;
        if self.requests > 1 {
            self.further.push(members.clone());
        }
        // What is known of a whole batch is said of none of its parts.
        let expected = self.expected.filter(|_| self.requests == 1);
        let Requested { brought, candidate, is_refused } =
            Box::pin(request(first, &items, self.candidate, expected, &self.span)).await;
        self.candidate = candidate;
        self.is_refused |= is_refused;
        self.is_each = matches!(brought, Brought::Each(_));
        self.take(places, &members, brought)
    }

    /// Returns those that there is time for. The first request is for all of them: its own deadline is the last of
    /// theirs.
    fn in_time(&mut self, places: &Range<usize>) -> Vec<usize> {
        let (batch, is_first) = (Arc::clone(&self.batch), self.requests == 0);
        let has_time = |at: &usize| is_first || time_left(&batch[*at]) != Some(0);
        let (in_time, late): (Vec<usize>, Vec<usize>) = places.clone().partition(has_time);
        for at in late {
            let detail = "the time that the policy gave was over before it could be sent again";
            let late = failed(batch[at].protocol, StatusCode::GATEWAY_TIMEOUT, DEADLINE, detail, 1);
            self.settle(at, ItemResult { shareable: false, ..late });
        }
        in_time
    }

    /// Takes in what the request for these places brought, and returns whether others may be sent after it.
    fn take(&mut self, places: Range<usize>, members: &[usize], brought: Brought) -> bool {
        match brought {
            Brought::Each(results) => {
                let mut spoiled = Vec::new();
                for (at, result) in members.iter().copied().zip(results) {
                    let is_unreadable = result.is_unreadable();
                    // Alone there is nothing that it could be compared with, unless what is usual is known.
                    let batch_item = &self.batch[at];
                    let is_usual = result.shape().is_some() && result.shape() == batch_item.usual(self.candidate);
                    let is_mistrusted = !is_usual && (batch_item.has_differed || self.differing.contains(&at));
                    if result.differs() && !is_mistrusted {
                        self.differing.push(at);
                    }
                    self.settle(at, if is_mistrusted { result.mistrusted() } else { result });
                    if is_unreadable {
                        spoiled.push(at);
                        self.settled[at] = places.len() == 1;
                    }
                }
                self.bisection.succeeded(&places, &spoiled);
                self.unreadable.extend(spoiled);
                true
            }
            Brought::SuspectFailure(result) => {
                for at in members {
                    self.results[*at] = Some((*result).clone());
                }
                if places.len() == 1 {
                    self.settled[places.start] = true;
                    self.failed_alone.push(places.start);
                }
                self.bisection.failed(places);
                true
            }
            // A piece was refused or lost: nothing more is sent, and no item is blamed for another that isn't known.
            Brought::Failure(result) => {
                for (open, _) in self.results.iter_mut().zip(&self.settled).filter(|(_, settled)| !**settled) {
                    *open = Some((*result).clone());
                }
                false
            }
        }
    }

    fn settle(&mut self, at: usize, result: ItemResult) {
        self.results[at] = Some(result);
        self.settled[at] = true;
    }

    /// Whether a candidate responded to the batch as a whole.
    fn is_served(&self) -> bool {
        self.requests == 1 && self.is_each
    }

    /// Returns how it went, for the pace of the pool where it gathered: another one's response says nothing of it, and its
    /// refusal counts although another one made it good.
    pub(super) fn outcome(&self) -> batch::Outcome {
        let home = self.batch.first().and_then(|first| first.choice.order.first().copied());
        let is_home = self.candidate == home;
        let is_served = is_home && self.is_served();
        let mut results = self.results.iter().flatten();
        let says_so = is_home && !is_served && results.any(|result| matches!(result.status, Some(429 | 503)));
        if self.is_refused || says_so {
            batch::Outcome::Overloaded
        } else if is_served {
            batch::Outcome::Responded
        } else {
            batch::Outcome::Failed
        }
    }

    fn over(self) -> Sent {
        let (outcome, is_served) = (self.outcome(), self.is_served());
        let results: Vec<ItemResult> = self.results.into_iter().flatten().collect();
        let mut unfit = self.unreadable;
        if self.bisection.has_succeeded() || self.batch.len() == 1 {
            unfit.extend(self.failed_alone);
        }
        unfit.sort_unstable();
        unfit.dedup();
        let further = Further { requests: self.further, unfit };
        Sent { results, outcome, is_served, candidate: self.candidate, further, differing: self.differing }
    }
}

/// What one request brought, and from where.
struct Requested {
    brought: Brought,
    /// The candidate that responded.
    candidate: Option<usize>,
    /// Whether the pool where the batch gathered said that it has too many requests.
    is_refused: bool,
}

/// Sends items in one request, to this candidate if one is named.
async fn request(
    first: &BatchItem,
    items: &[&BatchItem],
    candidate: Option<usize>,
    expected: Option<Duration>,
    span: &RequestSpan,
) -> Requested {
    let mut choice = agreed(items);
    if let Some(candidate) = candidate {
        choice.order = vec![candidate];
    }
    let members: Vec<&Item> = items.iter().map(|batch_item| &batch_item.item).collect();
    let mut upstream = UpstreamRequest { expected, ..upstream_request(first, &members, span) };
    let arrived = upstream.send(&first.route, &choice).await;
    let is_refused = upstream.is_refused;
    drop(upstream);
    match arrived {
        Ok(arrived) => {
            let candidate = Some(arrived.candidate);
            let pool = first.route.destinations.get(arrived.candidate).map(|destination| &*destination.pool);
            let time = BodyTime::of(pool, items);
            Requested { brought: read(first, &members, arrived, pool, time).await, candidate, is_refused }
        }
        Err(missed) => {
            let mut result =
                Box::new(failed(first.protocol, missed.status, missed.reason, &missed.detail, items.len()));
            // One request's time says nothing of the others that wait for the item.
            result.shareable = missed.reason != DEADLINE;
            // A response that breaks off as soon as it begins is reported so; see `read` for one that does later.
            // So is a model that an item crashes before it responds.
            let is_suspect = [Reason::InvalidResponse, Reason::ConnectionReset]
                .map(|reason| reason.as_str())
                .contains(&missed.reason);
            let brought = if is_suspect { Brought::SuspectFailure(result) } else { Brought::Failure(result) };
            Requested { brought, candidate, is_refused }
        }
    }
}

fn upstream_request(first: &BatchItem, items: &[&Item], span: &RequestSpan) -> UpstreamRequest {
    let JoinedRequest { target, headers, body } = first.protocol.join(&first.route.target_sent(&first.head), items);
    let mut upstream = UpstreamRequest {
        method: Method::POST,
        authority: first.head.authority.clone(),
        target,
        headers: header_fields(first, headers),
        body: UpstreamBody::Bytes(body),
        // A batch is many clients'.
        client: None,
        // Items gather at the pool of the first candidate, whichever one a part of them is sent to.
        home: first.choice.order.first().copied(),
        expected: None,
        is_refused: false,
        recodes: true,
        span: span.clone(),
    };
    upstream.apply(&RequestEdits { headers: first.set.clone(), ..RequestEdits::default() });
    upstream
}

/// How long a response's body may take in all, however steadily it comes, and the reason of the failure past that.
#[derive(Clone, Copy)]
struct BodyTime {
    max: Duration,
    reason: &'static str,
}

impl BodyTime {
    /// Returns the time that the pool allows, or what is left until the last of the items' deadlines.
    fn of(pool: Option<&Pool>, items: &[&BatchItem]) -> Self {
        let max = pool.map_or(Duration::MAX, Pool::body_time);
        match time_for_all(items).map(|us| Duration::from_micros(us.into())).filter(|left| *left < max) {
            Some(left) => Self { max: left, reason: DEADLINE },
            None => Self { max, reason: "body-timeout" },
        }
    }
}

/// Reads the response to these items, which is from this pool.
async fn read(first: &BatchItem, items: &[&Item], arrived: Arrived, pool: Option<&Pool>, time: BodyTime) -> Brought {
    let (protocol, count) = (first.protocol, items.len());
    let Arrived { fetched, cost_micro, candidate, .. } = arrived;
    let (mut parts, body) = fetched.response.into_parts();
    let (status, shareable) = (parts.status, is_shareable(&parts.headers));
    // One response, many clients: a cookie would go to all of them, and a validator is the batch's.
    for name in [header::SET_COOKIE, header::ETAG, header::LAST_MODIFIED] {
        parts.headers.remove(name);
    }
    let codings = take_codings(&mut parts.headers);
    let head = Arc::new(parts.headers);
    let base = ItemResult {
        outcome: Err(protocol.failure(502, "no response", None)),
        headers: protocol.for_clients(&head).map_or_else(|| Arc::clone(&head), Arc::new),
        endpoint: Some(fetched.endpoint),
        attempts: fetched.attempts,
        status: Some(status.as_u16()),
        batch: count,
        stored: false,
        shareable,
        reason: None,
        remark: None,
        // One request's cost, shared by its items.
        cost_micro: cost_micro / (count as u64).max(1),
        purgeable: None,
    };
    let unusable = |reason, detail: &str| Box::new(base.unreadable(Err(protocol.failure(502, detail, None)), reason));
    let limit = first.response_bytes_max.saturating_mul(count as u64);
    let (bytes, trailers) = match timeout(time.max, body.collect_with_trailers(limit)).await {
        Ok(Ok(collected)) => collected,
        // An endpoint that ends in the middle is dead, or an item of the batch is what it died of; in parts it may be met
        // by another one.
        Ok(Err(error @ BodyError::Broken(_))) => {
            return Brought::SuspectFailure(unusable("response-body", &error.to_string()));
        }
        Ok(Err(error)) => return Brought::Failure(unusable("response-body", &error.to_string())),
        Err(_) => {
            let detail = format!("the response wasn't whole {} ms after its head", clock::millis(time.max));
            let outcome = Err(protocol.failure(StatusCode::GATEWAY_TIMEOUT.as_u16(), &detail, None));
            let late = base.unreadable(outcome, time.reason);
            return Brought::Failure(Box::new(ItemResult {
                shareable: late.shareable && time.reason != DEADLINE,
                ..late
            }));
        }
    };
    // Even if none was asked for, the model or an intermediary may have added one.
    let bytes = match decoded(pool, &codings, bytes, limit).await {
        Ok(bytes) => bytes,
        Err(error) => return Brought::Failure(unusable("response-coding", &error.to_string())),
    };
    let arrival = Arrival { status: status.as_u16(), headers: &head, trailers: &trailers, body: &bytes };
    if let Some(error) = protocol.failed(&arrival, items) {
        return failed_as_a_whole(error, base);
    }
    let split = split(first, items, candidate, Message { headers: &head, body: &bytes });
    Brought::SuspectFailure(match split {
        Ok(outcomes) if outcomes.len() == count => {
            return Brought::Each(outcomes.into_iter().map(|outcome| base.with_outcome(outcome)).collect());
        }
        Ok(outcomes) => unusable("bad-response", &format!("{} results for {count} items", outcomes.len())),
        // Nobody else has a part of it: it is what the model says to this item.
        Err(BadResponse::Unreadable { .. }) if count == 1 => Box::new(base.as_it_is(status, bytes, "bad-response")),
        Err(error) => unusable("bad-response", &error.to_string()),
    })
}

/// Splits a successful response of this candidate, by what its results usually are like.
fn split(
    first: &BatchItem,
    items: &[&Item],
    candidate: usize,
    response: Message<'_>,
) -> Result<Vec<Outcome>, BadResponse> {
    let (Some(usual), [one, others @ ..]) = (first.usual(Some(candidate)), items) else {
        return first.protocol.split_response(response, items);
    };
    let one = (*one).clone().expecting(Some(usual));
    let items: Vec<&Item> = std::iter::once(&one).chain(others.iter().copied()).collect();
    first.protocol.split_response(response, &items)
}

/// Returns what a failure of all items of a request says about them. Its status needn't be that of the response.
fn failed_as_a_whole(error: ItemError, base: ItemResult) -> Brought {
    let status = error.status;
    let reaction = StatusCode::from_u16(status).map(Reaction::to);
    let result =
        Box::new(ItemResult { outcome: Err(error), reason: Some("origin-error"), status: Some(status), ..base });
    if reaction.is_ok_and(|reaction| reaction.may_blame_item) {
        Brought::SuspectFailure(result)
    } else {
        Brought::Failure(result)
    }
}

/// Returns a body without its codings, and counts what they saved the pool that it is from.
async fn decoded(pool: Option<&Pool>, codings: &HeaderMap, coded: Bytes, limit: u64) -> Result<Bytes, Undecodable> {
    let bytes = coded.len();
    let plain = decompress(codings, coded, limit).await?;
    if let Some(pool) = pool.filter(|_| coding::is_encoded(codings)) {
        pool.decoded(coding::label(codings), bytes, plain.len());
    }
    Ok(plain)
}

/// Returns the items' common order, the earliest hedge of any, and the time until the last deadline. One client's haste
/// ends its own wait, and breaks off nothing that others wait for.
fn agreed(items: &[&BatchItem]) -> Choice {
    Choice {
        order: items.first().map(|first| first.choice.order.clone()).unwrap_or_default(),
        hedge_after_us: items.iter().filter_map(|batch_item| batch_item.choice.hedge_after_us).min(),
        deadline_us: time_for_all(items),
    }
}

/// Returns the microseconds until the last of the items' deadlines; `None` if one has none.
fn time_for_all(items: &[&BatchItem]) -> Option<u32> {
    items.iter().map(|batch_item| time_left(batch_item)).collect::<Option<Vec<u32>>>()?.into_iter().max()
}

/// Returns the microseconds until an item's deadline; `None` if it has none, or others may wait for it.
fn time_left(batch_item: &BatchItem) -> Option<u32> {
    if batch_item.is_shared {
        return None;
    }
    let waited = u32::try_from(batch_item.arrived_at.elapsed().as_micros()).unwrap_or(u32::MAX);
    batch_item.choice.deadline_us.map(|deadline| deadline.saturating_sub(waited))
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
    first.loops.mark(&mut headers, &first.head.headers);
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
/// that was sent is in the key, so that it doesn't matter what it varies by; and a cookie that it sets reaches nobody.
fn is_shareable(response: &HeaderMap) -> bool {
    let directives = Directives::read(response);
    !directives.private && !directives.no_store && vary::read(response) != Vary::Any
}
