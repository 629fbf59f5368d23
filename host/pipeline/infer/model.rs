//! Asking a model: what travels together, one batch's way to the origin and back.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::{
    batch::{Batcher, Class, Pending, Rejected},
    cache::{purge::Mark, tag::Tag},
    config::Protocol,
    message::RequestHead,
    origin::{
        Outbound, OutboundBody,
        protocol::{self, Question},
    },
    pipeline::Route,
    policy::key::{CONTEXT, CREDENTIALS},
};

/// The former of one pool's questions.
pub type Batches = Batcher<Asked, Told>;

/// One question on its way to a model.
#[derive(Clone, Debug)]
pub struct Asked {
    pub(super) protocol: Protocol,
    pub(super) question: Question,
    pub(super) head: Arc<RequestHead>,
    pub(super) route: Arc<Route>,
    pub(super) answer_bytes_max: u64,
}

/// What a model, or its failure, told about one question.
#[derive(Clone, Debug)]
pub struct Told {
    /// The answer, as if asked alone.
    pub(super) outcome: protocol::Outcome,
    /// The header fields of the response that brought it.
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
    /// What it can be purged by, and where the purge log stood when its flight began.
    pub(super) purgeable: Option<(Vec<Tag>, Mark)>,
}

/// Makes the function that a batcher sends with.
#[must_use]
pub fn sender() -> crate::batch::SendBatch<Asked, Told> {
    Arc::new(|_class, asked| Box::pin(send(asked)))
}

/// Request header fields that reach the model with a batch: those that are in its members' keys. All members agree on
/// them.
fn travelling(route: &Route) -> impl Iterator<Item = &HeaderName> {
    let read = route.policy.iter().flat_map(|policy| policy.key_plan().headers());
    CREDENTIALS.iter().chain(&CONTEXT).chain(read)
}

/// Finds the party that a question travels with.
pub(super) fn seat(parties: &mut Vec<(Class, Vec<(Asked, usize)>)>, asked: Asked) -> usize {
    let (class, weight) = (class(&asked), asked.question.weight());
    let party = parties.iter().position(|(other, _)| *other == class).unwrap_or_else(|| {
        parties.push((class, Vec::new()));
        parties.len() - 1
    });
    parties[party].1.push((asked, weight));
    party
}

/// Hands questions to their former; `None` where the route has none, which `app` rules out.
pub(super) fn enlist(route: &Route, class: Class, items: Vec<(Asked, usize)>) -> Vec<Option<Pending<Told>>> {
    match &route.batches {
        Some(batches) => batches.enlist(class, items).into_iter().map(Some).collect(),
        None => items.iter().map(|_| None).collect(),
    }
}

/// Waits for the answer, and puts a rejection into the protocol's words.
pub(super) async fn told(protocol: Protocol, pending: Option<Pending<Told>>) -> Told {
    let Some(pending) = pending else {
        return failed(protocol, StatusCode::INTERNAL_SERVER_ERROR, "no-former", "the route has no former", 1);
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

pub(super) fn class(asked: &Asked) -> Class {
    Class { pool: asked.route.config.pool.as_str().into(), group: group(asked) }
}

/// What questions must agree on to travel together: where to, by whose right, and what the protocol says.
fn group(asked: &Asked) -> Bytes {
    let mut group = blake3::Hasher::new();
    let head = &asked.head;
    let mut part = |bytes: Option<&[u8]>| {
        group.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
        group.update(bytes.unwrap_or_default());
    };
    for text in [asked.route.config.name.as_str(), head.authority(), head.target.as_str()] {
        part(Some(text.as_bytes()));
    }
    for name in travelling(&asked.route) {
        let lines: Vec<&[u8]> = head.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        part((!lines.is_empty()).then(|| lines.join(&b'\n')).as_deref());
    }
    part(Some(&asked.question.group));
    // A digest: the batcher keeps it for a while, and credentials are not to lie about.
    Bytes::copy_from_slice(group.finalize().as_bytes())
}

/// Sends one batch; every question gets its answer or its failure.
async fn send(asked: Vec<Asked>) -> Vec<Told> {
    let count = asked.len();
    let Some(first) = asked.first() else { return Vec::new() };
    let protocol = first.protocol;
    let questions: Vec<&Question> = asked.iter().map(|asked| &asked.question).collect();
    let body = OutboundBody::Replayable(protocol::join_questions(protocol, &questions));
    let outbound = Outbound {
        method: Method::POST,
        authority: first.head.authority.clone(),
        target: first.head.target.clone(),
        headers: header_fields(first),
        body,
    };
    let everybody = |told: Told| vec![told; count];
    let fetched = match first.route.pool.fetch(outbound).await {
        Ok(fetched) => fetched,
        Err(failure) => {
            return everybody(failed(protocol, failure.status(), failure.reason(), &failure.to_string(), count));
        }
    };
    let (mut parts, body) = fetched.response.into_parts();
    // One response, many clients: a cookie would be everybody's, and a validator is the batch's.
    for name in [header::SET_COOKIE, header::ETAG, header::LAST_MODIFIED] {
        parts.headers.remove(name);
    }
    let base = Told {
        outcome: Err(protocol::failure(protocol, 502, "no answer")),
        headers: Arc::new(parts.headers),
        endpoint: Some(fetched.endpoint),
        attempts: fetched.attempts,
        status: Some(parts.status.as_u16()),
        batch: count,
        stored: false,
        shareable: true,
        reason: None,
        purgeable: None,
    };
    let limit = first.answer_bytes_max.saturating_mul(count as u64);
    let bytes = match body.collect(limit).await {
        Ok(bytes) => bytes,
        Err(error) => return everybody(unusable(&base, protocol, "answer-body", &error.to_string())),
    };
    if !parts.status.is_success() {
        let error = protocol::ItemError { status: parts.status.as_u16(), body: bytes };
        return everybody(Told { outcome: Err(error), reason: Some("origin-error"), ..base });
    }
    match protocol::split_answers(protocol, &bytes, &questions) {
        Ok(outcomes) => outcomes.into_iter().map(|outcome| Told { outcome, ..base.clone() }).collect(),
        Err(error) => everybody(unusable(&base, protocol, "bad-answer", &error.to_string())),
    }
}

/// A batch's header fields.
fn header_fields(first: &Asked) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in travelling(&first.route) {
        if headers.contains_key(name) {
            continue;
        }
        for value in first.head.headers.get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.append(header::VIA, HeaderValue::from_static("1.1 holm"));
    headers
}

fn unusable(base: &Told, protocol: Protocol, reason: &'static str, detail: &str) -> Told {
    Told { outcome: Err(protocol::failure(protocol, 502, detail)), reason: Some(reason), ..base.clone() }
}

fn failed(protocol: Protocol, status: StatusCode, reason: &'static str, detail: &str, batch: usize) -> Told {
    Told {
        outcome: Err(protocol::failure(protocol, status.as_u16(), detail)),
        headers: Arc::default(),
        endpoint: None,
        attempts: 0,
        status: None,
        batch,
        stored: false,
        shareable: true,
        reason: Some(reason),
        purgeable: None,
    }
}
