//! Asking a model: what travels together, one batch's way to the origin and back.

use std::{
    collections::BTreeMap,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::{
    batch::{self, BatchResult, Batcher, Class, Pending, Rejected, Terms},
    cache::{
        control::Directives,
        purge::Mark,
        tag::Tag,
        vary::{self, Vary},
    },
    message::{RequestHead, coding},
    origin::protocol::{ItemError, Joined, Message, Outcome, Protocol, Question, Received},
    pipeline::{
        advice::{Advice, Beside},
        forwarding,
        route::Route,
        upstream::{self, Failed, UpstreamBody, UpstreamRequest},
    },
    policy::{Choice, Decision, Fault, Grouping, Hook, Question as Asks, Shape, edit},
};

/// Where the questions of one pool gather.
pub type Batches = Batcher<Asked, Told>;

/// Where questions gather, by the name of their pool.
pub type Batchers = BTreeMap<Arc<str>, Arc<Batches>>;

/// One question on its way to a model.
#[derive(Clone, Debug)]
pub struct Asked {
    pub(super) protocol: &'static dyn Protocol,
    pub(super) question: Question,
    pub(super) head: Arc<RequestHead>,
    pub(super) route: Arc<Route>,
    pub(super) answer_bytes_max: u64,
    /// Header fields of the request that are sent with it. They are in its key.
    sent: Arc<[HeaderName]>,
    /// Header fields that the policy sets or removes.
    set: Vec<(HeaderName, Option<HeaderValue>)>,
    /// When its deadline began.
    asked: Instant,
    choice: Choice,
    grouping: Grouping,
}

/// What a model, or its failure, told about one question.
#[derive(Clone, Debug)]
pub struct Told {
    /// The answer, as if asked alone.
    pub(super) outcome: Outcome,
    /// The header fields of the response that brought it, with those that are the answer's own.
    pub(super) headers: Arc<HeaderMap>,
    /// The endpoint, and how often it took to get there.
    pub(super) endpoint: Option<Arc<str>>,
    pub(super) attempts: u32,
    /// The origin's status, if there was one.
    pub(super) status: Option<u16>,
    /// Questions in its batch.
    pub(super) batch: usize,
    /// Is it being stored?
    pub(super) stored: bool,
    /// May others who asked the same be given it?
    pub(super) shareable: bool,
    /// A word on a failure.
    pub(super) reason: Option<&'static str>,
    /// A word on what the policy did out of the ordinary.
    pub(super) remark: Option<Arc<str>>,
    /// What the candidate that answered costs.
    pub(super) cost_micro: u64,
    /// What it can be purged by, and where the purge log stood when its flight began.
    pub(super) purgeable: Option<(Vec<Tag>, Mark)>,
}

/// A question and what its policy says of it.
#[derive(Clone)]
pub(super) struct Posed {
    pub(super) question: Question,
    pub(super) advice: Arc<Advice>,
}

/// An answer on its way, or none because the question wasn't asked.
pub(super) type Awaited = Result<Option<Pending<Told>>, Box<Told>>;

impl Told {
    /// What the response that this was made of tells about one of its questions.
    fn answered(&self, outcome: Outcome) -> Self {
        let mut told = Self { outcome, ..self.clone() };
        if let Ok(answer) = &mut told.outcome
            && !answer.headers.is_empty()
        {
            Arc::make_mut(&mut told.headers).extend(mem::take(&mut answer.headers));
        }
        told
    }
}

/// Makes the function that a batcher sends with.
#[must_use]
pub fn sender() -> batch::SendBatch<Asked, Told> {
    Arc::new(|_class, asked| Box::pin(send(asked).map(returned)))
}

/// What came back, and whether it was the model that took the time.
fn returned(results: Vec<Told>) -> BatchResult<Told> {
    let status = results.first().and_then(|told| told.status);
    let answered = status.is_some_and(|status| (200..300).contains(&status));
    let outcome = if answered { batch::Outcome::Answered } else { batch::Outcome::Failed };
    BatchResult { results, outcome }
}

/// A question as its policy shapes it, to whom it goes and on what terms.
///
/// # Errors
/// What is told instead, if the policy faulted and the route wants no answer then.
pub(super) fn shaped(
    beside: &Beside,
    route: &Arc<Route>,
    head: &Arc<RequestHead>,
    protocol: &'static dyn Protocol,
    posed: &Posed,
    answer_bytes_max: u64,
) -> Result<Asked, Box<Told>> {
    let Posed { question, advice } = posed;
    let facts = advice.facts(beside, head, Some(&question.body));
    let faulted = |fault: Fault| {
        let Failed { status, reason, detail, .. } = Failed::of_fault(route, &fault);
        Box::new(failed(protocol, status, reason, &detail, 1))
    };
    let shape = advice.shape(route, &facts).map_err(faulted)?.unwrap_or_default();
    let choice = upstream::choose(route, advice, &facts).map_err(faulted)?;
    let grouping = if advice.has(Hook::Batch) {
        match advice.opinion(route, &Asks::Batch, &facts).map_err(faulted)?.as_deref() {
            Some(Decision::Batch(grouping)) => grouping.clone(),
            _ => Grouping::default(),
        }
    } else {
        Grouping::default()
    };
    let maker = advice.key_maker().map(|policy| &**policy);
    Ok(Asked {
        protocol,
        question: edited(protocol, head, question, &shape),
        head: Arc::clone(head),
        route: Arc::clone(route),
        answer_bytes_max,
        sent: forwarding::sent(route, maker, &head.headers).into(),
        set: shape.headers,
        asked: Instant::now(),
        choice,
        grouping,
    })
}

/// The question after a policy's edits. What is no question of the protocol any more travels as the client asked it.
fn edited(protocol: &dyn Protocol, head: &RequestHead, question: &Question, shape: &Shape) -> Question {
    let body = (!shape.edits.is_empty()).then(|| edit::edited(&question.body, &shape.edits)).flatten();
    let split = body.and_then(|body| {
        let received = Received { target: &head.target, headers: &head.headers, body: &body };
        protocol.split(&received, 1).ok()
    });
    match split.map(|split| split.questions) {
        Some(mut questions) if questions.len() == 1 => questions.remove(0),
        _ => question.clone(),
    }
}

/// Finds the party that a question travels with.
pub(super) fn seat(parties: &mut Vec<(Class, Vec<(Asked, Terms)>)>, asked: Asked) -> usize {
    let (class, terms) = (class(&asked), terms(&asked));
    let party = parties.iter().position(|(other, _)| *other == class).unwrap_or_else(|| {
        parties.push((class, Vec::new()));
        parties.len() - 1
    });
    parties[party].1.push((asked, terms));
    party
}

fn terms(asked: &Asked) -> Terms {
    let Grouping { priority, weight, max_wait_us, max_size, .. } = asked.grouping;
    Terms {
        bytes: if weight == 0 { asked.question.weight() } else { usize::try_from(weight).unwrap_or(usize::MAX) },
        priority,
        wait_max: max_wait_us.map(|us| Duration::from_micros(us.into())),
        size_max: max_size.map(|size| usize::try_from(size).unwrap_or(usize::MAX)),
    }
}

/// Hands questions to their pool's batcher; `None` where there is none, which `app` rules out.
pub(super) fn enlist(batchers: &Batchers, class: &Class, items: Vec<(Asked, Terms)>) -> Vec<Option<Pending<Told>>> {
    match batchers.get(&class.pool) {
        Some(batches) => batches.enlist(class, items).into_iter().map(Some).collect(),
        None => items.iter().map(|_| None).collect(),
    }
}

/// Waits for the answer, and puts a rejection into the protocol's words.
pub(super) async fn told(protocol: &dyn Protocol, pending: Awaited) -> Told {
    let pending = match pending {
        Ok(Some(pending)) => pending,
        Ok(None) => {
            return failed(protocol, StatusCode::INTERNAL_SERVER_ERROR, "no-former", "the pool has no former", 1);
        }
        Err(told) => return *told,
    };
    match pending.answer().await {
        Ok(told) => told,
        Err(rejected @ Rejected::QueueFull { .. }) => {
            failed(protocol, StatusCode::TOO_MANY_REQUESTS, "queue-full", &rejected.to_string(), 1)
        }
        Err(rejected @ Rejected::Lost) => {
            failed(protocol, StatusCode::BAD_GATEWAY, "batch-lost", &rejected.to_string(), 1)
        }
    }
}

/// Questions gather at the pool that is asked first.
fn class(asked: &Asked) -> Class {
    let first = asked.choice.order.first().and_then(|index| asked.route.destinations.get(*index));
    let pool =
        first.map_or_else(|| asked.route.config.pool.as_str().into(), |destination| Arc::clone(&destination.name));
    Class { pool, group: group(asked) }
}

/// What questions must agree on to travel together: where to, by whose right, and what the protocol says.
fn group(asked: &Asked) -> Bytes {
    let mut group = blake3::Hasher::new();
    let head = &asked.head;
    let mut part = |bytes: Option<&[u8]>| {
        group.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
        group.update(bytes.unwrap_or_default());
    };
    // The route itself and not its name: after an exchange of the configuration another one of that name may lead
    // elsewhere, while items of this one wait.
    part(Some(&Arc::as_ptr(&asked.route).addr().to_le_bytes()));
    for text in [head.authority(), asked.route.target_sent(head).as_str()] {
        part(Some(text.as_bytes()));
    }
    part(Some(&asked.sent.len().to_le_bytes()));
    for name in asked.sent.iter() {
        part(Some(name.as_str().as_bytes()));
        let lines: Vec<&[u8]> = head.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        part((!lines.is_empty()).then(|| lines.join(&b'\n')).as_deref());
    }
    part(Some(&asked.question.group));
    part(Some(&asked.grouping.group));
    part(Some(&asked.set.len().to_le_bytes()));
    for (name, value) in &asked.set {
        part(Some(name.as_str().as_bytes()));
        part(value.as_ref().map(HeaderValue::as_bytes));
    }
    // Times may change with every question: a batch keeps the strictest of its members'.
    for number in &asked.choice.order {
        part(Some(&number.to_le_bytes()));
    }
    // A digest: the batcher keeps it for a while, and credentials are not to lie about.
    Bytes::copy_from_slice(group.finalize().as_bytes())
}

/// Sends one batch; every question gets its answer or its failure.
async fn send(asked: Vec<Asked>) -> Vec<Told> {
    let count = asked.len();
    let Some(first) = asked.first() else { return Vec::new() };
    let protocol = first.protocol;
    let questions: Vec<&Question> = asked.iter().map(|asked| &asked.question).collect();
    let Joined { target, headers, body } = protocol.join(&first.route.target_sent(&first.head), &questions);
    let mut upstream = UpstreamRequest {
        method: Method::POST,
        authority: first.head.authority.clone(),
        target,
        headers: header_fields(first, headers),
        body: UpstreamBody::Bytes(body),
        // A batch is many clients'.
        client: None,
    };
    upstream.apply(&Shape { headers: first.set.clone(), ..Shape::default() });
    let everybody = |told: Told| vec![told; count];
    let arrived = match upstream.send(&first.route, &strictest(&asked)).await {
        Ok(arrived) => arrived,
        Err(missed) => return everybody(failed(protocol, missed.status, missed.reason, &missed.detail, count)),
    };
    // One request's cost, shared by those who travelled in it.
    let (fetched, cost_micro) = (arrived.fetched, arrived.cost_micro / (count as u64).max(1));
    let (mut parts, body) = fetched.response.into_parts();
    let shareable = is_shareable(&parts.headers);
    // One response, many clients: a cookie would be everybody's, and a validator is the batch's.
    for name in [header::SET_COOKIE, header::ETAG, header::LAST_MODIFIED] {
        parts.headers.remove(name);
    }
    let codings = take_codings(&mut parts.headers);
    let base = Told {
        outcome: Err(protocol.failure(502, "no answer", None)),
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
    let limit = first.answer_bytes_max.saturating_mul(count as u64);
    let bytes = match body.collect(limit).await {
        Ok(bytes) => bytes,
        Err(error) => return everybody(unusable(&base, protocol, "answer-body", &error.to_string())),
    };
    // Nobody asked for a coding, but something between may have put one on.
    let bytes = match coding::decode(&codings, &bytes, limit) {
        Ok(bytes) => bytes,
        Err(error) => return everybody(unusable(&base, protocol, "answer-coding", &error.to_string())),
    };
    if !parts.status.is_success() {
        let error = ItemError { status: parts.status.as_u16(), body: bytes };
        return everybody(Told { outcome: Err(error), reason: Some("origin-error"), ..base });
    }
    match protocol.split_response(Message { headers: &base.headers, body: &bytes }, &questions) {
        Ok(outcomes) => outcomes.into_iter().map(|outcome| base.answered(outcome)).collect(),
        Err(error) => everybody(unusable(&base, protocol, "bad-answer", &error.to_string())),
    }
}

/// The members' common order, the earliest hedge of any, and what is left until the first deadline.
fn strictest(asked: &[Asked]) -> Choice {
    let left = |asked: &Asked| {
        let waited = u32::try_from(asked.asked.elapsed().as_micros()).unwrap_or(u32::MAX);
        asked.choice.deadline_us.map(|deadline| deadline.saturating_sub(waited))
    };
    Choice {
        order: asked.first().map(|first| first.choice.order.clone()).unwrap_or_default(),
        hedge_after_us: asked.iter().filter_map(|asked| asked.choice.hedge_after_us).min(),
        deadline_us: asked.iter().filter_map(left).min(),
    }
}

/// A batch's header fields; `own` are those that describe its body.
fn header_fields(first: &Asked, own: HeaderMap) -> HeaderMap {
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

/// The fields that say how a body is encoded, out of a response's.
fn take_codings(headers: &mut HeaderMap) -> HeaderMap {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter().cloned();
    let codings = codings.map(|coding| (header::CONTENT_ENCODING, coding)).collect();
    headers.remove(header::CONTENT_ENCODING);
    codings
}

/// Whether a response that isn't a good answer may be told to others who wait for the same: it is made for nobody in
/// particular. All that was sent is in the key, so that it matters not what it varies by.
fn is_shareable(response: &HeaderMap) -> bool {
    let directives = Directives::read(response);
    let is_private = directives.private || directives.no_store || response.contains_key(header::SET_COOKIE);
    !is_private && vary::read(response) != Vary::Any
}

fn unusable(base: &Told, protocol: &dyn Protocol, reason: &'static str, detail: &str) -> Told {
    Told { outcome: Err(protocol.failure(502, detail, None)), reason: Some(reason), ..base.clone() }
}

fn failed(protocol: &dyn Protocol, status: StatusCode, reason: &'static str, detail: &str, batch: usize) -> Told {
    Told {
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
        origin::protocol::{self, Answer},
    };

    #[test]
    fn an_answers_own_header_fields_replace_those_of_its_response() {
        let fields = |media_type| HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))]);
        let mut headers = fields("application/json");
        headers.insert("x-model", HeaderValue::from_static("m"));
        let protocol = protocol::of(config::Protocol::JsonArray);
        let base = Told { headers: Arc::new(headers), ..failed(protocol, StatusCode::BAD_GATEWAY, "", "", 2) };

        let same = base.answered(Ok(Answer::from(Bytes::from_static(b"1"))));
        assert!(Arc::ptr_eq(&same.headers, &base.headers), "fields of the response are shared");
        let own = Answer { headers: fields("application/octet-stream"), body: Bytes::from_static(b"2") };
        let other = base.answered(Ok(own));
        assert_eq!(other.headers["content-type"], "application/octet-stream");
        assert_eq!(other.headers["x-model"], "m");
        assert_eq!(base.headers["content-type"], "application/json");
    }
}
