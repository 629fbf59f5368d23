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
    batch::{Batcher, Class, Pending, Rejected},
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
        tag::{self, Tag},
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
    /// What it can be purged by, and where the purge log stood when its flight began.
    purgeable: Option<(Vec<Tag>, Mark)>,
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
        mark: node.cache.purger().mark(),
        head: Arc::new(request.head),
        route: Arc::clone(&route),
        protocol,
    };
    let answers = match asking.keys(&split.questions) {
        Ok(marked) => asking.answers(marked).await,
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
    /// Where the purge log stood when the request came.
    mark: Mark,
}

/// How one question's key came out.
enum Marked {
    Key(Key),
    Around,
}

/// What is to be done about one question.
enum Sorted {
    /// It's in a tier.
    Known(Arc<Object>, Tier),
    /// It's in a tier, stale, and to be asked anew in the background.
    Refresh(Arc<Object>, Tier, Key, Lead<Arc<Told>>),
    /// Another request is asking it.
    Follow(Key, Follower<Arc<Told>>),
    /// This request asks it, for all.
    Lead(Key, Lead<Arc<Told>>),
    /// This request asks it, for itself; nothing is kept.
    Alone,
}

impl Sorted {
    const fn is_asked(&self) -> bool {
        matches!(self, Self::Refresh(..) | Self::Lead(..) | Self::Alone)
    }
}

/// What one question waits for.
enum Waiting {
    Done(Answered),
    Flight { key: Key, follower: Follower<Arc<Told>>, collapsed: bool },
    Alone(Option<Pending<Told>>),
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

    /// Answers all questions: what is known from the tiers, the rest by asking, together.
    async fn answers(&self, marked: Vec<(&Question, Marked)>) -> Vec<Answered> {
        let sorted = join_all(marked.into_iter().map(|(question, marked)| self.sort(question, marked))).await;
        let waiting = self.ask(sorted);
        join_all(waiting.into_iter().map(|(question, waiting)| self.finish(question, waiting))).await
    }

    /// Looks one question up, and joins or starts its flight if it must be asked.
    async fn sort<'q>(&self, question: &'q Question, marked: Marked) -> (&'q Question, Sorted) {
        let Marked::Key(key) = marked else { return (question, Sorted::Alone) };
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
        let sorted = match found {
            Found { outcome: Outcome::Hit(object), tier, .. } => Sorted::Known(object, tier),
            Found { outcome: Outcome::Grace(object), tier, .. } => match self.node.questions.join(&key) {
                Joined::Lead(lead) => Sorted::Refresh(object, tier, key, lead),
                Joined::Follow(_) | Joined::Full => Sorted::Known(object, tier),
            },
            _ if uncacheable || self.demand.directives.no_cache => Sorted::Alone,
            _ => match self.node.questions.join(&key) {
                Joined::Full => Sorted::Alone,
                Joined::Follow(follower) => Sorted::Follow(key, follower),
                // Between our look-up and this flight an earlier one may have landed and stored what we want.
                Joined::Lead(lead) => match self.node.cache.peek(&query) {
                    Some(Found { outcome: Outcome::Hit(object), tier, .. }) => Sorted::Known(object, tier),
                    _ => Sorted::Lead(key, lead),
                },
            },
        };
        (question, sorted)
    }

    /// Hands everything that must be asked to the formers at once, so that it can travel together.
    fn ask<'q>(&self, sorted: Vec<(&'q Question, Sorted)>) -> Vec<(&'q Question, Waiting)> {
        let mut parties: Vec<(Class, Vec<(Asked, usize)>)> = Vec::new();
        let mut seats = Vec::with_capacity(sorted.len());
        for (question, sorted) in &sorted {
            seats.push(sorted.is_asked().then(|| seat(&mut parties, &self.route, self.asked(question))));
        }
        let mut pending: Vec<_> =
            parties.into_iter().map(|(class, items)| enlist(&self.route, class, items).into_iter()).collect();
        let waiting = sorted.into_iter().zip(seats).map(|((question, sorted), seat)| {
            // Seats were given in this order, so each party's next answer is this question's.
            let pending = seat.and_then(|party| pending[party].next()).flatten();
            (question, self.wait(question, sorted, pending))
        });
        waiting.collect()
    }

    fn wait(&self, question: &Question, sorted: Sorted, pending: Option<Pending<Told>>) -> Waiting {
        match sorted {
            Sorted::Known(object, tier) => Waiting::Done(Answered::Stored(object, tier)),
            Sorted::Alone => Waiting::Alone(pending),
            Sorted::Follow(key, follower) => Waiting::Flight { key, follower, collapsed: true },
            Sorted::Lead(key, lead) => {
                let follower = lead.follower();
                tokio::spawn(self.flight(question, key, lead, pending).run_while_wanted());
                Waiting::Flight { key, follower, collapsed: false }
            }
            Sorted::Refresh(object, tier, key, lead) => {
                // Nobody waits for the refresh, and still it is wanted.
                tokio::spawn(self.flight(question, key, lead, pending).run());
                Waiting::Done(Answered::Stored(object, tier))
            }
        }
    }

    async fn finish(&self, question: &Question, waiting: Waiting) -> Answered {
        let told = match waiting {
            Waiting::Done(answered) => return answered,
            Waiting::Alone(pending) => told(self.protocol, pending).await,
            Waiting::Flight { key, follower, collapsed } => {
                let flight = follower.number();
                match follower.landed().await {
                    Some(told) if self.was_purged(&told) => self.node.questions.retire(&key, flight),
                    Some(told) => return Answered::Told { told, collapsed },
                    None => {}
                }
                let asked = self.asked(question);
                let (class, weight) = (class(&self.route, &asked), asked.question.weight());
                let pending = enlist(&self.route, class, vec![(asked, weight)]).pop().flatten();
                told(self.protocol, pending).await
            }
        };
        Answered::Told { told: Arc::new(told), collapsed: false }
    }

    /// Was the answer purged after its flight had begun, and before this request came?
    fn was_purged(&self, told: &Told) -> bool {
        let purger = self.node.cache.purger();
        told.purgeable.as_ref().is_some_and(|(tags, mark)| *mark != self.mark && purger.is_outdated(tags, mark))
    }

    fn flight(&self, question: &Question, key: Key, lead: Lead<Arc<Told>>, pending: Option<Pending<Told>>) -> Flight {
        Flight {
            node: Arc::clone(&self.node),
            route: Arc::clone(&self.route),
            url: self.url.clone(),
            asked: self.asked(question),
            key,
            mark: self.mark,
            requested: clock::now(),
            lead,
            pending,
        }
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
    pending: Option<Pending<Told>>,
}

impl Flight {
    async fn run(mut self) {
        let pending = self.pending.take();
        let told = told(self.asked.protocol, pending).await;
        self.settle(told);
    }

    /// Ends early if everybody who waits has left before the question has: dropping what is pending withdraws it. If
    /// its batch has left already, the answer is kept.
    async fn run_while_wanted(mut self) {
        let pending = self.pending.take();
        let told = tokio::select! {
            told = told(self.asked.protocol, pending) => told,
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
            let mut tags = tag::named(&told.headers, &self.route.config.tag_headers);
            tags.extend([Tag::url(&self.url), Tag::key(&self.key)]);
            told.purgeable = Some((tags, self.mark));
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

/// Finds the party that a question travels with.
fn seat(parties: &mut Vec<(Class, Vec<(Asked, usize)>)>, route: &Route, asked: Asked) -> usize {
    let (class, weight) = (class(route, &asked), asked.question.weight());
    let party = parties.iter().position(|(other, _)| *other == class).unwrap_or_else(|| {
        parties.push((class, Vec::new()));
        parties.len() - 1
    });
    parties[party].1.push((asked, weight));
    party
}

/// Hands questions to their former; `None` where the route has none, which `app` rules out.
fn enlist(route: &Route, class: Class, items: Vec<(Asked, usize)>) -> Vec<Option<Pending<Told>>> {
    match &route.batches {
        Some(batches) => batches.enlist(class, items).into_iter().map(Some).collect(),
        None => items.iter().map(|_| None).collect(),
    }
}

/// Waits for the answer, and puts a rejection into the protocol's words.
async fn told(protocol: Protocol, pending: Option<Pending<Told>>) -> Told {
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

fn class(route: &Route, asked: &Asked) -> Class {
    Class { pool: route.config.pool.as_str().into(), group: group(route, asked) }
}

/// What questions must agree on to travel together: where to, by whose right, and what the protocol says.
fn group(route: &Route, asked: &Asked) -> Bytes {
    let mut group = blake3::Hasher::new();
    let head = &asked.head;
    let mut part = |bytes: Option<&[u8]>| {
        group.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
        group.update(bytes.unwrap_or_default());
    };
    for text in [route.config.name.as_str(), head.authority(), head.target.as_str()] {
        part(Some(text.as_bytes()));
    }
    for name in CREDENTIALS.iter().chain(&TRAVELLING) {
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
        purgeable: None,
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
