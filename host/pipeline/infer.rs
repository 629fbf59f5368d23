//! Requests that are split into questions: each is keyed, looked up, collapsed, batched and stored by itself, and the
//! reply joins the answers.

mod model;
mod tally;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{
    Pipeline, Route, Served, Trail,
    keying::{self, Keyed},
};
use crate::{
    batch::{Class, Pending},
    cache::{
        Found, Query,
        admit::{self, Admission},
        collapse::{Follower, Joined, Lead},
        entry::Object,
        key::Key,
        lookup::{Demand, Outcome},
        purge::Mark,
        record::{Origins, Place, Recorder, head},
        status::CACHE_STATUS,
        store::Tier,
        tag::{self, Tag},
    },
    clock::{self, Timestamp},
    config::Protocol,
    message::{Body, Request, RequestHead, Response},
    origin::protocol::{self, Answer, Question, Shape},
    policy::{Facts, Fault},
};

pub use model::{Asked, Batches, Told, sender};
use model::{class, enlist, seat, told};
use tally::Tally;

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
