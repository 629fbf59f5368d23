//! Requests that are split into questions: each is keyed, looked up, collapsed, batched and stored by itself, and the
//! reply joins the answers.

mod model;
mod tally;

use std::{borrow::Cow, pin::pin, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{
    admission::{self, Case, Responded, Times},
    advice::{Advice, Beside},
    joining::{self, Turn},
    keying,
    plan::KeyedPlan,
    reply::{Replies, Served},
    route::{Kind, Route},
    trail::Trail,
};
use crate::{
    batch::{Class, Pending, Terms},
    cache::{
        Cache, Query,
        admit::{Admission, Refusal},
        collapse::{Flights, Follower, Joined, Lead},
        entry::Object,
        key::Key,
        lookup::{Demand, Outcome},
        purge::{Arrived, Mark},
        record::{Origins, Place, Recorder, TooLarge, head},
        status::CACHE_STATUS,
        store::Tier,
        tag::{self, Tag},
    },
    clock::{self, Timestamp},
    config,
    message::{
        Body, Request, RequestHead, Response,
        coding::{self, Undecodable},
    },
    origin::protocol::{Message, Protocol, Question, Received, Reply, Reported, Shape},
    policy::Fault,
};

pub use model::{Asked, Batchers, Batches, Told, sender};
use model::{Awaited, Posed, enlist, seat, told};
use tally::{Answered, Tally};

/// What these requests need of the node.
#[derive(Debug)]
pub(super) struct Infer {
    pub(super) cache: Arc<Cache>,
    pub(super) flights: Arc<Flights<Arc<Told>>>,
    pub(super) replies: Arc<Replies>,
    pub(super) beside: Arc<Beside>,
    pub(super) batchers: Batchers,
    pub(super) limits: config::Limits,
}

/// Answers a request that is to be looked up, of a route whose bodies are split.
pub(super) async fn serve(
    node: &Arc<Infer>,
    route: Arc<Route>,
    protocol: &'static dyn Protocol,
    advice: Arc<Advice>,
    request: Request,
) -> Served {
    let trail = Trail::on(&route, &advice);
    let Request { mut head, body } = request;
    let body = match body.collect(node.limits.body_bytes_max).await {
        Ok(body) => body,
        Err(error) => return node.replies.bad_body(&error, trail),
    };
    let body = match coding::decode(&head.headers, &body, node.limits.body_bytes_max) {
        Ok(body) => body,
        Err(error) => return undecodable(node, protocol, &error, trail),
    };
    // Its questions are sent as they read.
    head.headers.remove(header::CONTENT_ENCODING);
    let received = Received { target: &head.target, headers: &head.headers, body: &body };
    let split = match protocol.split(&received, node.limits.questions_max) {
        Ok(split) => split,
        Err(malformed) => {
            let reply = protocol.refusal(&malformed);
            return joined(node, reply, Trail { detail: Some("malformed".into()), ..trail }, None);
        }
    };
    let url = head.url();
    let asking = Asking {
        node: Arc::clone(node),
        demand: route.demand(&head.headers),
        url_tag: Tag::url(&url),
        url,
        arrived: node.cache.purger().arrived(),
        mark: node.cache.purger().mark(),
        head: Arc::new(head),
        route: Arc::clone(&route),
        advice,
        protocol,
    };
    let mut trail = trail;
    let questions: Vec<Posed> = split.questions.into_iter().map(|question| asking.pose(question)).collect();
    trail.arms = questions.first().map(|posed| posed.advice.arms().to_vec()).unwrap_or_default();
    let answers = match asking.keys(&questions, &mut trail).await {
        Ok(keyed) => asking.answers(keyed).await,
        Err(fault) => return node.replies.fault_reply(&route, &fault, trail),
    };
    counted(node, protocol, asking.reply(split.shape, &answers, trail)).await
}

/// The reply, counted in the memory that bodies may take until its client has it; a refusal if there is no room for it.
async fn counted(node: &Infer, protocol: &dyn Protocol, mut served: Served) -> Served {
    let body = match served.response.body() {
        Body::Full(body) => body.clone(),
        Body::Empty | Body::Stream(_) => return served,
    };
    if let Some(held) = node.cache.hold(&body).await {
        *served.response.body_mut() = Body::Full(held);
        return served;
    }
    let detail = "the bodies of other responses take all the memory they may; see `cache.bodies_bytes_max`";
    let reply = protocol.reply_to_all(&protocol.failure(StatusCode::SERVICE_UNAVAILABLE.as_u16(), detail, None));
    let mut refused = joined(node, reply, Trail { detail: Some("bodies-full".into()), ..served.trail }, None);
    refused.response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    refused
}

/// The reply to a body that can't be decoded, in the protocol's words (RFC 9110, section 15.5.16).
fn undecodable(node: &Infer, protocol: &dyn Protocol, error: &Undecodable, trail: Trail) -> Served {
    let status = match error {
        Undecodable::Unknown(_) | Undecodable::TooMany => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Undecodable::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Undecodable::Broken => StatusCode::BAD_REQUEST,
    };
    let reply = protocol.reply_to_all(&protocol.failure(status.as_u16(), &error.to_string(), None));
    let mut served = joined(node, reply, Trail { detail: Some("content-coding".into()), ..trail }, None);
    if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        let known = HeaderValue::from_static("gzip, deflate, br, zstd");
        served.response.headers_mut().insert(header::ACCEPT_ENCODING, known);
    }
    served
}

/// Questions whose keys are made in one go.
const QUESTIONS_AT_ONCE: usize = 64;

/// What all questions of one request share.
struct Asking {
    node: Arc<Infer>,
    route: Arc<Route>,
    advice: Arc<Advice>,
    protocol: &'static dyn Protocol,
    head: Arc<RequestHead>,
    demand: Demand,
    url: String,
    url_tag: Tag,
    /// Where the purge log stood when the request came.
    arrived: Arrived,
    mark: Mark,
}

/// What is to be done about one question.
enum Disposition {
    /// It's in a tier.
    Known { object: Arc<Object>, tier: Tier, stale: bool },
    /// It's in a tier, stale, and to be asked anew in the background.
    Refresh(Arc<Object>, Tier, Key, Lead<Arc<Told>>),
    /// Another request is asking it.
    Follow(Key, Follower<Arc<Told>>),
    /// This request asks it, for all.
    Lead(Key, Lead<Arc<Told>>),
    /// This request asks it, for itself; nothing is kept.
    Alone,
}

/// A stale answer that may be given if the model fails.
type Fallback = Option<(Arc<Object>, Tier)>;

impl Disposition {
    const fn is_asked(&self) -> bool {
        matches!(self, Self::Refresh(..) | Self::Lead(..) | Self::Alone)
    }
}

/// What one question waits for.
enum Waiting {
    Done(Answered),
    Flight { key: Key, follower: Follower<Arc<Told>>, collapsed: bool },
    Alone(Awaited),
}

impl Asking {
    /// To a policy each question looks as if it had come alone.
    fn pose(&self, question: Question) -> Posed {
        let advice = self.advice.afresh();
        advice.draw(&advice.facts(&self.node.beside, &self.head, Some(&question.body)));
        Posed { question, advice: Arc::new(advice) }
    }

    /// The key under which each is looked up; none for what is to be asked without storing anything.
    async fn keys<'q>(
        &self,
        questions: &'q [Posed],
        trail: &mut Trail,
    ) -> Result<Vec<(&'q Posed, Option<Key>)>, Fault> {
        let mut keys = Vec::with_capacity(questions.len());
        for (n, posed) in questions.iter().enumerate() {
            if n % QUESTIONS_AT_ONCE == QUESTIONS_AT_ONCE - 1 {
                // A policy that is called for each of many questions must not keep others waiting.
                tokio::task::yield_now().await;
            }
            let Posed { question, advice } = posed;
            let facts = advice.facts(&self.node.beside, &self.head, Some(&question.body));
            let keyed = keying::derive(&self.route, advice, &facts, Some(&question.canonical));
            if trail.detail.is_none() {
                trail.detail = keyed.remark().map(Cow::Owned);
            }
            let plan = KeyedPlan::of(&keyed, Kind::Items, true, &self.demand);
            trail.key = plan.key().filter(|_| questions.len() == 1);
            keys.push(match plan {
                KeyedPlan::LookUp(key) => (posed, Some(key)),
                KeyedPlan::Bypass(..) => (posed, None),
                KeyedPlan::Refuse(fault) => return Err(fault.clone()),
            });
        }
        Ok(keys)
    }

    /// Answers all questions: what is known from the tiers, the rest by asking, together.
    async fn answers(&self, keyed: Vec<(&Posed, Option<Key>)>) -> Vec<Answered> {
        let sorted = join_all(keyed.into_iter().map(|(posed, key)| self.sort(posed, key))).await;
        let waiting = self.ask(sorted);
        join_all(waiting.into_iter().map(|(posed, waiting, last)| self.finish(posed, waiting, last))).await
    }

    /// Looks one question up, and joins or starts its flight if it must be asked.
    async fn sort<'q>(&self, posed: &'q Posed, key: Option<Key>) -> (&'q Posed, Disposition, Fallback) {
        let Some(key) = key else { return (posed, Disposition::Alone, None) };
        let now = clock::now();
        let tag = self.url_tag;
        let query = Query { key, head: &self.head, demand: &self.demand, url: Some(&move || tag), now };
        let found = self.node.cache.look_up(&query).await;
        let (uncacheable, tier) = (found.uncacheable, found.tier);
        let mut fallback = None;
        let sorted = match found.outcome {
            Outcome::Hit(object) if object.is_whole() => {
                // Past its lifetime it is a hit only because the client accepts that (`max-stale`).
                let stale = object.head.age_ms(now) >= object.head.lifetimes.ttl_ms;
                Disposition::Known { object, tier, stale }
            }
            Outcome::Grace(object) if object.is_whole() => match self.node.flights.join(&key) {
                Joined::Lead(lead) => Disposition::Refresh(object, tier, key, lead),
                Joined::Follow(_) | Joined::Full => Disposition::Known { object, tier, stale: true },
            },
            _ if uncacheable => Disposition::Alone,
            // Asked anew, and renewed for all; but not shared with a flight that began before.
            _ if self.demand.directives.no_cache => match self.node.flights.join(&key) {
                Joined::Lead(lead) => Disposition::Lead(key, lead),
                Joined::Follow(_) | Joined::Full => Disposition::Alone,
            },
            outcome => {
                if let Outcome::Stale { object, if_error: true, .. } = outcome {
                    fallback = object.is_whole().then_some((object, tier));
                }
                self.join(&query)
            }
        };
        (posed, sorted, fallback)
    }

    fn join(&self, query: &Query<'_>) -> Disposition {
        let key = query.key;
        match joining::join(&self.node.flights, &key, || self.node.cache.peek(query)) {
            Turn::Full => Disposition::Alone,
            Turn::Follow(follower) => Disposition::Follow(key, follower),
            Turn::Lead(_, Some(stored)) if stored.object.is_whole() => {
                Disposition::Known { object: stored.object, tier: stored.tier, stale: false }
            }
            Turn::Lead(lead, _) => Disposition::Lead(key, lead),
        }
    }

    /// Hands everything that must be asked to the formers at once, so that it can travel together.
    fn ask<'q>(&self, sorted: Vec<(&'q Posed, Disposition, Fallback)>) -> Vec<(&'q Posed, Waiting, Fallback)> {
        let mut parties: Vec<(Class, Vec<(Asked, Terms)>)> = Vec::new();
        let mut seats = Vec::with_capacity(sorted.len());
        for (posed, sorted, _) in &sorted {
            let seat = || self.asked(posed).map(|asked| seat(&mut parties, asked));
            seats.push(sorted.is_asked().then(seat).transpose());
        }
        let mut pending: Vec<_> =
            parties.into_iter().map(|(class, items)| enlist(&self.node.batchers, &class, items).into_iter()).collect();
        let waiting = sorted.into_iter().zip(seats).map(|((posed, sorted, fallback), seat)| {
            // Seats were given in this order, so each party's next answer is this question's.
            let pending = match seat {
                Ok(seat) => Ok(seat.and_then(|party| pending[party].next()).flatten()),
                Err(told) => Err(told),
            };
            (posed, self.wait(posed, sorted, pending), fallback)
        });
        waiting.collect()
    }

    fn wait(&self, posed: &Posed, sorted: Disposition, pending: Awaited) -> Waiting {
        match sorted {
            Disposition::Known { object, tier, stale } => Waiting::Done(Answered::Stored { object, tier, stale }),
            Disposition::Alone => Waiting::Alone(pending),
            Disposition::Follow(key, follower) => Waiting::Flight { key, follower, collapsed: true },
            Disposition::Lead(key, lead) => {
                let follower = lead.follower();
                tokio::spawn(self.flight(posed, key, lead, pending).run_while_wanted());
                Waiting::Flight { key, follower, collapsed: false }
            }
            Disposition::Refresh(object, tier, key, lead) => {
                // Nobody waits for the refresh, and still it is wanted.
                tokio::spawn(self.flight(posed, key, lead, pending).run());
                Waiting::Done(Answered::Stored { object, tier, stale: true })
            }
        }
    }

    async fn finish(&self, posed: &Posed, waiting: Waiting, fallback: Fallback) -> Answered {
        let (told, collapsed) = match waiting {
            Waiting::Done(answered) => return answered,
            Waiting::Alone(pending) => (Arc::new(told(self.protocol, pending).await), false),
            Waiting::Flight { key, follower, collapsed } => self.land(posed, key, follower, collapsed).await,
        };
        let failed = told.outcome.as_ref().is_err_and(|error| error.status >= 500);
        match fallback.filter(|(object, _)| failed && !self.node.cache.is_gone(object, &self.url)) {
            Some((object, tier)) => Answered::Fallback { object, tier, told },
            None => Answered::Told { told, collapsed },
        }
    }

    /// Waits for the flight; asks alone if what it brings is not for this request.
    async fn land(&self, posed: &Posed, key: Key, follower: Follower<Arc<Told>>, collapsed: bool) -> (Arc<Told>, bool) {
        let flight = follower.number();
        match follower.landed().await {
            Some(told) if self.was_purged(&told) => self.node.flights.retire(&key, flight),
            Some(told) if told.shareable || !collapsed => return (told, collapsed),
            Some(_) | None => {}
        }
        let pending = self.asked(posed).map(|asked| {
            let mut parties = Vec::new();
            seat(&mut parties, asked);
            let (class, items) = parties.pop()?;
            enlist(&self.node.batchers, &class, items).pop().flatten()
        });
        (Arc::new(told(self.protocol, pending).await), false)
    }

    /// Was the answer purged after its flight had begun, and before this request came?
    fn was_purged(&self, told: &Told) -> bool {
        let purger = self.node.cache.purger();
        told.purgeable
            .as_ref()
            .is_some_and(|(tags, mark)| purger.is_outdated(tags, mark, &self.arrived, || self.url_tag))
    }

    fn flight(&self, posed: &Posed, key: Key, lead: Lead<Arc<Told>>, pending: Awaited) -> Flight {
        Flight {
            node: Arc::clone(&self.node),
            route: Arc::clone(&self.route),
            url: self.url.clone(),
            head: Arc::clone(&self.head),
            posed: posed.clone(),
            protocol: self.protocol,
            key,
            mark: self.mark,
            requested: clock::now(),
            lead,
            pending: Some(pending),
            begun: Instant::now(),
        }
    }

    /// The question as the policy shapes it, to whom it goes and on what terms; or what is told if the policy faults
    /// and the route wants no answer then.
    fn asked(&self, posed: &Posed) -> Result<Asked, Box<Told>> {
        let answer_bytes_max = self.node.cache.config().object_bytes_max;
        model::shaped(&self.node.beside, &self.route, &self.head, self.protocol, posed, answer_bytes_max)
    }

    fn reply(&self, shape: Shape, answers: &[Answered], mut trail: Trail) -> Served {
        let tally = Tally::of(answers);
        tally.note(&mut trail);
        let outcomes: Vec<Reported<'_>> = answers.iter().map(Answered::outcome).collect();
        let reply = self.protocol.join_outcomes(shape, &outcomes);
        let headers = answers.first().filter(|_| shape == Shape::Single).map(Answered::headers);
        joined(&self.node, reply, trail, headers)
    }
}

impl Answered {
    fn outcome(&self) -> Reported<'_> {
        match self {
            Self::Stored { object, .. } | Self::Fallback { object, .. } => {
                Ok(Message { headers: &object.head.headers, body: &object.body })
            }
            Self::Told { told, .. } => {
                told.outcome.as_ref().map(|answer| Message { headers: &told.headers, body: &answer.body })
            }
        }
    }

    fn headers(&self) -> HeaderMap {
        match self {
            Self::Stored { object, .. } | Self::Fallback { object, .. } => object.aged_headers(clock::now()),
            Self::Told { told, .. } => (*told.headers).clone(),
        }
    }
}

/// One question's flight to the model and into the tiers.
struct Flight {
    node: Arc<Infer>,
    route: Arc<Route>,
    url: String,
    head: Arc<RequestHead>,
    posed: Posed,
    protocol: &'static dyn Protocol,
    key: Key,
    mark: Mark,
    requested: Timestamp,
    begun: Instant,
    lead: Lead<Arc<Told>>,
    pending: Option<Awaited>,
}

impl Flight {
    async fn run(mut self) {
        let pending = self.pending.take().unwrap_or(Ok(None));
        let told = told(self.protocol, pending).await;
        self.settle(told);
    }

    /// Ends early if everybody who waits has left before the question has: dropping what is pending withdraws it. If
    /// its batch has left already, the answer is paid for, and kept.
    async fn run_while_wanted(mut self) {
        let pending = self.pending.take().unwrap_or(Ok(None));
        let departure = pending.as_ref().ok().and_then(|pending| pending.as_ref().map(Pending::departure));
        let mut asking = pin!(told(self.protocol, pending));
        let told = tokio::select! {
            told = &mut asking => told,
            () = self.lead.abandoned() => {
                if !departure.is_some_and(|departure| departure.has_left()) {
                    return;
                }
                asking.await
            }
        };
        self.settle(told);
    }

    /// Stores the answer if it may be, then tells everybody who waits; in this order, so that one who comes too late
    /// for the flight finds it.
    fn settle(self, mut told: Told) {
        if let Ok(answer) = &told.outcome {
            let body = answer.body.clone();
            let (refusal, reason, tags) = self.store(&told.headers, &body);
            told.stored = refusal.is_none();
            told.shareable = refusal.is_none_or(Refusal::is_shareable);
            told.remark = reason.or_else(|| self.posed.advice.remarked().cloned());
            let tags = tags.unwrap_or_else(|| {
                let mut tags = tag::named(&told.headers, &self.route.config.tag_headers);
                tags.extend([Tag::url(&self.url), Tag::key(&self.key)]);
                tags
            });
            told.purgeable = Some((tags, self.mark));
        }
        self.lead.land(Arc::new(told));
    }

    /// Stores it, or says why not, in the policy's words if it is the policy's doing. With what it can be purged by.
    fn store(&self, headers: &HeaderMap, body: &Bytes) -> (Option<Refusal>, Option<Arc<str>>, Option<Vec<Tag>>) {
        let Posed { question, advice } = &self.posed;
        let (received, fetch) = (clock::now(), self.begun.elapsed());
        let times = Times { mark: self.mark, requested: self.requested, received, fetch };
        let response = Responded { status: StatusCode::OK, headers, length: Some(body.len() as u64) };
        let cache = &self.node.cache;
        let facts = advice.facts(&self.node.beside, &self.head, Some(&question.body));
        let case = Case::new(&Method::POST, &self.head.headers, advice, response, &times);
        let ruling = admission::rule(cache, &self.route, advice, &facts, &case);
        let storage = match ruling.admission {
            Admission::Store(storage) => storage,
            Admission::Refuse(refusal) => {
                if refusal.holds_for_key() || ruling.uncacheable.is_some() {
                    cache.mark_uncacheable(self.key, clock::uptime(), ruling.uncacheable);
                }
                return (Some(refusal), ruling.reason, None);
            }
        };
        if body.len() > cache.config().part_bytes {
            // An answer is joined with others from one piece.
            return (Some(Refusal::TooLarge), None, None);
        }
        // Everything of the client's that reaches the model is in the key, or the policy has the say.
        let place = Place { primary: self.key, key: self.key, names: None };
        let origins = Origins {
            url: &self.url,
            mark: self.mark,
            requested: self.requested,
            received,
            tag_headers: &self.route.config.tag_headers,
        };
        let head = head(StatusCode::OK, headers, &storage, &place, &origins);
        match Recorder::new(Arc::clone(cache), place, head).whole(body) {
            Ok(object) => (None, None, Some(object.head.tags.clone())),
            Err(TooLarge) => (Some(Refusal::TooLarge), None, None),
        }
    }
}

/// The reply; `headers` are those of the one answer, if it's one.
fn joined(node: &Infer, reply: Reply, trail: Trail, headers: Option<HeaderMap>) -> Served {
    let mut response = Response::new(Body::Full(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
    if let Some(headers) = headers {
        *response.headers_mut() = headers;
        // The answer may be one of a batch: the length is its own.
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    let headers = response.headers_mut();
    headers.extend(reply.headers);
    if reply.status == StatusCode::TOO_MANY_REQUESTS.as_u16() {
        headers.entry(header::RETRY_AFTER).or_insert(HeaderValue::from_static("1"));
    }
    headers.append(CACHE_STATUS, trail.cache_status(&node.replies.node));
    let trail = Trail { failed: reply.status >= 500, ..trail };
    Served { response, trail }
}
