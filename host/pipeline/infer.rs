//! Requests that are split into questions: each is keyed, looked up, collapsed, batched and stored by itself, and the
//! reply joins the answers.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{
    Lookup, Pipeline, Route, Served, Trail,
    keying::{self, Keyed},
};
use crate::{
    batch::{Batcher, Class, Rejected},
    cache::{
        Found, Query,
        admit::{self, Admission},
        collapse::{Follower, Joined, Lead},
        entry::Object,
        key::Key,
        lookup::{Demand, Outcome},
        purge::Mark,
        record::{Origins, Place, Recorder, head},
        status::{CACHE_STATUS, Forward},
        store::Tier,
        tag::Tag,
    },
    clock::{self, Timestamp},
    config::Protocol,
    message::{Body, Request, RequestHead, Response},
    origin::{
        Outbound, OutboundBody, Pool,
        protocol::{self, Answer, Question, Shape},
    },
    policy::{Facts, Fault, key::CREDENTIALS},
};

/// The former of one pool's questions.
pub type Batches = Batcher<Asked, Told>;

/// One question on its way to a model.
#[derive(Clone, Debug)]
pub struct Asked {
    protocol: Protocol,
    question: Question,
    head: Arc<RequestHead>,
    pool: Arc<Pool>,
    answer_bytes_max: u64,
}

/// What a model, or its failure, told about one question.
#[derive(Clone, Debug)]
pub struct Told {
    /// The answer, as if asked alone.
    outcome: protocol::Outcome,
    /// The header fields of the response that brought it.
    headers: Arc<HeaderMap>,
    /// The endpoint, and how often it took to get there.
    endpoint: Option<Arc<str>>,
    attempts: u32,
    /// The origin's status, if there was one.
    status: Option<u16>,
    /// Questions in its batch.
    batch: usize,
    /// Is it being stored?
    stored: bool,
    /// A word on a failure.
    reason: Option<&'static str>,
}

/// Makes the function that a batcher sends with.
#[must_use]
pub fn sender() -> crate::batch::SendBatch<Asked, Told> {
    Arc::new(|_class, asked| Box::pin(send(asked)))
}

/// Request header fields that reach the model with a batch. All members of a batch agree on them.
const TRAVELLING: [HeaderName; 3] =
    [header::ACCEPT, HeaderName::from_static("openai-organization"), HeaderName::from_static("openai-project")];

/// Answers a request of a route whose bodies are split.
pub(super) async fn serve(node: &Arc<Pipeline>, route: Arc<Route>, protocol: Protocol, request: Request) -> Served {
    let trail = Trail::on(&route);
    if request.head.method != Method::POST {
        return node.pass(&route, request, trail).await;
    }
    let body = match request.body.collect(node.limits.body_bytes_max).await {
        Ok(body) => body,
        Err(error) => return node.bad_body(&error, trail),
    };
    let split = match protocol::split(protocol, &body, node.limits.questions_max) {
        Ok(split) => split,
        Err(malformed) => {
            let reply = malformed.reply(protocol);
            return joined(node, reply, Trail { detail: Some("malformed".into()), ..trail }, None);
        }
    };
    let asking = Asking {
        node: Arc::clone(node),
        demand: Demand::of(&request.head.headers),
        url: request.head.url(),
        head: Arc::new(request.head),
        route: Arc::clone(&route),
        protocol,
    };
    let answers = match asking.keys(&split.questions) {
        Ok(keyed) => join_all(keyed.into_iter().map(|(question, keyed)| asking.resolve(question, keyed))).await,
        Err(fault) => return node.refused_reply(&route, &fault, trail),
    };
    asking.reply(split.shape, answers, trail)
}

/// What all questions of one request share.
struct Asking {
    node: Arc<Pipeline>,
    route: Arc<Route>,
    protocol: Protocol,
    head: Arc<RequestHead>,
    demand: Demand,
    url: String,
}

/// How one question's key came out.
enum Marked {
    Key(Key),
    Around,
}

/// How one question was answered.
enum Answered {
    /// From a tier.
    Stored(Arc<Object>, Tier),
    /// From the model; with another request's question if `collapsed`.
    Told { told: Arc<Told>, collapsed: bool },
}

impl Asking {
    fn keys<'q>(&self, questions: &'q [Question]) -> Result<Vec<(&'q Question, Marked)>, Fault> {
        questions
            .iter()
            .map(|question| {
                let facts = Facts::new(&self.head, Some(&question.body));
                match keying::derive(&self.route, &facts, Some(&question.canonical)) {
                    Keyed::Refused(fault) => Err(fault),
                    Keyed::Bypass(_) => Ok((question, Marked::Around)),
                    // A client may refuse to have its question kept, or answered from what is kept.
                    Keyed::Key { .. } if self.demand.directives.no_store => Ok((question, Marked::Around)),
                    Keyed::Key { key, .. } => Ok((question, Marked::Key(key))),
                }
            })
            .collect()
    }

    async fn resolve(&self, question: &Question, marked: Marked) -> Answered {
        let Marked::Key(key) = marked else { return self.alone(question).await };
        let now = clock::now();
        let url = Tag::url(&self.url);
        // Questions don't vary by header: what matters beside the question is in its key.
        let demand = Demand { authorized: false, ..self.demand.clone() };
        let query = Query { key, headers: &self.head.headers, demand: &demand, url: &move || url, now };
        let found = match self.node.cache.peek(&query) {
            Some(found) => found,
            None => self.node.cache.look_up(&query).await,
        };
        let uncacheable = found.uncacheable;
        match found {
            Found { outcome: Outcome::Hit(object), tier, .. } => Answered::Stored(object, tier),
            Found { outcome: Outcome::Grace(object), tier, .. } => {
                if let Joined::Lead(lead) = self.node.questions.join(&key) {
                    // The refresh has nobody who waits for it, and still is wanted.
                    let flight = self.flight(question, key, lead);
                    tokio::spawn(async move { flight.run().await });
                }
                Answered::Stored(object, tier)
            }
            _ if uncacheable || self.demand.directives.no_cache => self.alone(question).await,
            _ => self.collapse(question, key).await,
        }
    }

    async fn collapse(&self, question: &Question, key: Key) -> Answered {
        let (follower, collapsed) = match self.node.questions.join(&key) {
            Joined::Full => return self.alone(question).await,
            Joined::Follow(follower) => (follower, true),
            Joined::Lead(lead) => (self.lead(question, key, lead), false),
        };
        match follower.landed().await {
            Some(told) => Answered::Told { told, collapsed },
            None => self.alone(question).await,
        }
    }

    /// Starts the flight; it ends early if everybody who waits for it has left before it is sent.
    fn lead(&self, question: &Question, key: Key, lead: Lead<Arc<Told>>) -> Follower<Arc<Told>> {
        let follower = lead.follower();
        let flight = self.flight(question, key, lead);
        tokio::spawn(flight.run_while_wanted());
        follower
    }

    fn flight(&self, question: &Question, key: Key, lead: Lead<Arc<Told>>) -> Flight {
        Flight {
            node: Arc::clone(&self.node),
            route: Arc::clone(&self.route),
            url: self.url.clone(),
            asked: self.asked(question),
            key,
            mark: self.node.cache.purger().mark(),
            requested: clock::now(),
            lead,
        }
    }

    /// Asks for one client only; nothing is kept.
    async fn alone(&self, question: &Question) -> Answered {
        let told = submit(&self.route, self.asked(question)).await;
        Answered::Told { told: Arc::new(told), collapsed: false }
    }

    fn asked(&self, question: &Question) -> Asked {
        Asked {
            protocol: self.protocol,
            question: question.clone(),
            head: Arc::clone(&self.head),
            pool: Arc::clone(&self.route.pool),
            answer_bytes_max: self.node.cache.config().object_bytes_max,
        }
    }

    fn reply(&self, shape: Shape, answers: Vec<Answered>, mut trail: Trail) -> Served {
        let tally = Tally::of(&answers);
        tally.note(&mut trail);
        let first = answers.first().map(Answered::headers).cloned();
        let outcomes: Vec<protocol::Outcome> = answers.into_iter().map(Answered::outcome).collect();
        let reply = protocol::join_answers(self.protocol, shape, &outcomes);
        let headers = (shape == Shape::Single).then_some(first).flatten();
        joined(&self.node, reply, trail, headers)
    }
}

impl Answered {
    fn outcome(self) -> protocol::Outcome {
        match self {
            Self::Stored(object, _) => Ok(Answer { body: object.body.clone() }),
            Self::Told { told, .. } => told.outcome.clone(),
        }
    }

    fn headers(&self) -> &HeaderMap {
        match self {
            Self::Stored(object, _) => &object.head.headers,
            Self::Told { told, .. } => &told.headers,
        }
    }
}

/// One question's flight to the model and into the tiers.
struct Flight {
    node: Arc<Pipeline>,
    route: Arc<Route>,
    url: String,
    asked: Asked,
    key: Key,
    mark: Mark,
    requested: Timestamp,
    lead: Lead<Arc<Told>>,
}

impl Flight {
    async fn run(self) {
        let told = submit(&self.route, self.asked.clone()).await;
        self.settle(told);
    }

    async fn run_while_wanted(mut self) {
        let asked = self.asked.clone();
        let route = Arc::clone(&self.route);
        let told = tokio::select! {
            // Dropping the submission withdraws the question, unless its batch has left: then the answer is kept.
            told = submit(&route, asked) => told,
            () = self.lead.abandoned() => return,
        };
        self.settle(told);
    }

    /// Stores the answer if it may be, then tells everybody who waits; in this order, so that one who comes too late
    /// for the flight finds it.
    fn settle(self, mut told: Told) {
        if let Ok(answer) = &told.outcome {
            let body = answer.body.clone();
            told.stored = self.store(&told.headers, &body);
        }
        self.lead.land(Arc::new(told));
    }

    fn store(&self, headers: &HeaderMap, body: &Bytes) -> bool {
        let received = clock::now();
        let exchange = admit::Exchange {
            method: &Method::POST,
            request: &self.asked.head.headers,
            status: StatusCode::OK,
            response: headers,
            length: Some(body.len() as u64),
            received,
        };
        let cache = &self.node.cache;
        let decision = admit::decide(&exchange, true, &self.route.config.freshness, cache.config().object_bytes_max);
        let storage = match decision {
            Admission::Store(storage) => storage,
            Admission::Refuse(refusal) => {
                if refusal.holds_for_key() {
                    cache.mark_uncacheable(self.key, received);
                }
                return false;
            }
        };
        // A question is stored under its own key whatever the answer says it varies by: see `resolve`.
        let place = Place { primary: self.key, key: self.key, names: None };
        let origins = Origins {
            url: &self.url,
            mark: self.mark,
            requested: self.requested,
            received,
            tag_headers: &self.route.config.tag_headers,
        };
        let head = head(StatusCode::OK, headers, &storage, &place, &origins);
        let mut recorder = Recorder::new(Arc::clone(cache), place, head, Some(body.len() as u64));
        let fits = recorder.push(body).is_ok();
        if fits {
            recorder.finish();
        }
        fits
    }
}

/// Hands a question to its former, and puts a rejection into the protocol's words.
async fn submit(route: &Route, asked: Asked) -> Told {
    let Some(batches) = &route.batches else {
        return failed(asked.protocol, StatusCode::INTERNAL_SERVER_ERROR, "no-former", "the route has no former", 1);
    };
    let class = Class { pool: route.config.pool.as_str().into(), group: group(route, &asked) };
    let (protocol, weight) = (asked.protocol, asked.question.weight());
    match batches.submit(class, asked, weight).await {
        Ok(told) => told,
        Err(rejected @ Rejected::QueueFull { .. }) => {
            failed(protocol, StatusCode::TOO_MANY_REQUESTS, "queue-full", &rejected.to_string(), 1)
        }
        Err(rejected @ Rejected::Lost) => {
            failed(protocol, StatusCode::BAD_GATEWAY, "batch-lost", &rejected.to_string(), 1)
        }
    }
}

/// What questions must agree on to travel together: where to, by whose right, and what the protocol says.
fn group(route: &Route, asked: &Asked) -> Bytes {
    let mut group = Vec::with_capacity(128);
    let head = &asked.head;
    let mut part = |bytes: Option<&[u8]>| {
        group.extend_from_slice(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
        group.extend_from_slice(bytes.unwrap_or_default());
    };
    for text in [route.config.name.as_str(), head.authority(), head.target.as_str()] {
        part(Some(text.as_bytes()));
    }
    for name in CREDENTIALS.iter().chain(&TRAVELLING) {
        let lines: Vec<&[u8]> = head.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        part((!lines.is_empty()).then(|| lines.join(&b'\n')).as_deref());
    }
    part(Some(&asked.question.group));
    group.into()
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
        headers: travelling(&first.head),
        body,
    };
    let everybody = |told: Told| vec![told; count];
    let fetched = match first.pool.fetch(outbound).await {
        Ok(fetched) => fetched,
        Err(failure) => {
            return everybody(failed(protocol, failure.status(), failure.reason(), &failure.to_string(), count));
        }
    };
    let (parts, body) = fetched.response.into_parts();
    let base = Told {
        outcome: Err(protocol::failure(protocol, 502, "no answer")),
        headers: Arc::new(parts.headers),
        endpoint: Some(fetched.endpoint),
        attempts: fetched.attempts,
        status: Some(parts.status.as_u16()),
        batch: count,
        stored: false,
        reason: None,
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

/// A batch's header fields: those that all its members agree on.
fn travelling(head: &RequestHead) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in CREDENTIALS.iter().chain(&TRAVELLING) {
        for value in head.headers.get_all(name) {
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
        reason: Some(reason),
    }
}

/// How the questions of one request were answered.
#[derive(Default)]
struct Tally {
    questions: usize,
    by_tier: [usize; 3],
    collapsed: usize,
    batched: usize,
    stored: usize,
    batch: usize,
    endpoint: Option<Arc<str>>,
    attempts: u32,
    status: Option<u16>,
    reason: Option<&'static str>,
}

impl Tally {
    fn of(answers: &[Answered]) -> Self {
        let mut tally = Self { questions: answers.len(), ..Self::default() };
        for answer in answers {
            match answer {
                Answered::Stored(_, tier) => tally.by_tier[*tier as usize] += 1,
                Answered::Told { told, collapsed } => tally.add(told, *collapsed),
            }
        }
        tally
    }

    fn add(&mut self, told: &Told, collapsed: bool) {
        if collapsed {
            self.collapsed += 1;
        } else {
            self.batched += 1;
        }
        self.stored += usize::from(told.stored);
        self.batch = self.batch.max(told.batch);
        self.attempts = self.attempts.max(told.attempts);
        self.status = self.status.or(told.status);
        self.reason = self.reason.or(told.reason);
        if self.endpoint.is_none() {
            self.endpoint.clone_from(&told.endpoint);
        }
    }

    fn note(self, trail: &mut Trail) {
        let hits: usize = self.by_tier.iter().sum();
        trail.lookup = if hits == self.questions { Lookup::Hit } else { Lookup::Miss };
        trail.forward = (hits < self.questions).then_some(Forward::UriMiss);
        trail.collapsed = self.collapsed > 0 && self.batched == 0;
        trail.stored = self.stored > 0;
        trail.batch = (self.batch > 0).then_some(self.batch);
        (trail.endpoint, trail.attempts, trail.forward_status) = (self.endpoint, self.attempts, self.status);
        trail.tier = [Tier::Memory, Tier::Disk, Tier::Redis].into_iter().find(|tier| self.by_tier[*tier as usize] > 0);
        trail.detail = match (self.reason, self.questions) {
            (Some(reason), _) => Some(reason.into()),
            (None, 1) => None,
            (None, questions) => {
                let [memory, disk, redis] = self.by_tier;
                let (collapsed, batched) = (self.collapsed, self.batched);
                Some(
                    format!(
                        "questions={questions} hit={hits} memory={memory} disk={disk} redis={redis} \
                         collapsed={collapsed} batched={batched}"
                    )
                    .into(),
                )
            }
        };
    }
}

/// The reply; `headers` are those of the one answer, if it's one.
fn joined(node: &Pipeline, reply: protocol::Reply, trail: Trail, headers: Option<HeaderMap>) -> Served {
    let mut response = Response::new(Body::Full(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
    if let Some(headers) = headers {
        *response.headers_mut() = headers;
        // The answer may be one of a batch: the length is its own.
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if reply.status == StatusCode::TOO_MANY_REQUESTS.as_u16() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    headers.append(CACHE_STATUS, trail.cache_status(&node.node));
    let trail = Trail { failed: reply.status >= 500, ..trail };
    Served { response, trail }
}
