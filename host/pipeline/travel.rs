//! Who answers what the cache can't: the candidates in the order that the policy chose, the next one when one fails or
//! takes too long.

use std::{future::Future, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header::CONTENT_ENCODING, uri::PathAndQuery};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{Advice, Pipeline, Route, fetch::Failed, route::Destination};
use crate::{
    clock,
    message::{Body, coding},
    origin::{Fetched, Outbound, OutboundBody},
    policy::{
        Candidate, Choice, Decision, Facts, Fault, Hook, Question, Shape,
        edit::{self, Edit, Pointer},
    },
};

/// A request to whoever will answer it.
pub(super) struct Parcel {
    pub(super) method: Method,
    pub(super) authority: HeaderValue,
    pub(super) target: PathAndQuery,
    pub(super) headers: HeaderMap,
    pub(super) body: Load,
    /// Whose limit of places it counts in.
    pub(super) client: Option<IpAddr>,
}

/// A body, by whether it can be sent again.
pub(super) enum Load {
    Bytes(Bytes),
    /// Taken by the first who is asked.
    Once(Option<Body>),
}

impl From<Body> for Load {
    fn from(body: Body) -> Self {
        match body {
            Body::Empty => Self::Bytes(Bytes::new()),
            Body::Full(bytes) => Self::Bytes(bytes),
            Body::Stream(_) => Self::Once(Some(body)),
        }
    }
}

/// An answer, and what it costs.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) fetched: Fetched,
    pub(super) cost_micro: u64,
}

/// Which candidates are asked, in which order.
///
/// # Errors
/// The policy faulted, and the route wants no answer then.
pub(super) fn choose(route: &Route, advice: &Advice, facts: &Facts<'_>) -> Result<Choice, Fault> {
    if route.destinations.len() == 1 && !advice.has(Hook::Route) {
        return Ok(Choice { order: vec![0], hedge_after_us: None, deadline_us: None });
    }
    let candidates: Vec<Candidate> = route.destinations.iter().map(Destination::candidate).collect();
    match advice.opinion(route, &Question::Route(&candidates), facts)?.as_deref() {
        Some(Decision::Route(choice)) => Ok(choice.clone()),
        _ => Ok(Choice::native(&candidates)),
    }
}

impl Parcel {
    /// Applies what a policy changes. A body that isn't JSON, or comes as a stream, stays as it is.
    pub(super) fn apply(&mut self, shape: &Shape) {
        for (name, value) in &shape.headers {
            match value {
                Some(value) => drop(self.headers.insert(name.clone(), value.clone())),
                None => drop(self.headers.remove(name)),
            }
        }
        if let Load::Bytes(bytes) = &mut self.body
            && !shape.edits.is_empty()
            && let Some(edited) = edit::edited(bytes, &shape.edits)
        {
            *bytes = edited;
        }
    }

    /// Takes the body's content codings off if it is to be changed on its way, by these edits or by a candidate's
    /// model: what can't be read can't be changed, and the key is that of the body as it reads.
    pub(super) fn open(&mut self, route: &Route, shape: Option<&Shape>, facts: &Facts<'_>) {
        let edits = shape.is_some_and(|shape| !shape.edits.is_empty());
        let changes = edits || route.destinations.iter().any(|destination| destination.model.is_some());
        if changes
            && coding::is_encoded(&self.headers)
            && let (Load::Bytes(bytes), Some(content)) = (&mut self.body, facts.content())
        {
            bytes.clone_from(content);
            self.headers.remove(CONTENT_ENCODING);
        }
    }

    /// Sends it, to one after the other until one answers.
    pub(super) async fn send(mut self, route: &Route, choice: &Choice) -> Result<Arrived, Failed> {
        let Some(deadline) = choice.deadline_us else { return self.ask_all(route, choice).await };
        let asking = Box::pin(self.ask_all(route, choice));
        match timeout(Duration::from_micros(deadline.into()), asking).await {
            Ok(arrived) => arrived,
            Err(_) => Err(Failed {
                status: StatusCode::GATEWAY_TIMEOUT,
                reason: "deadline",
                detail: format!("no answer within the {deadline} µs that the policy gave").into(),
                endpoint: None,
            }),
        }
    }

    async fn ask_all(&mut self, route: &Route, choice: &Choice) -> Result<Arrived, Failed> {
        let repeatable = self.is_repeatable(route);
        // Two at once only where there is nothing that the later one could undo.
        let hedgeable = repeatable && (self.method.is_safe() || self.method == Method::POST);
        let hedge = choice.hedge_after_us.filter(|_| hedgeable).map(|us| Duration::from_micros(us.into()));
        let mut left = choice.order.as_slice();
        let mut outcome = Err(nobody());
        while let [first, rest @ ..] = left {
            let (Some(destination), Some(outbound)) = (route.destinations.get(*first), self.outbound(route, *first))
            else {
                break;
            };
            left = rest;
            let asked = ask(destination, outbound);
            let next = hedge.and_then(|after| {
                let next = *rest.first()?;
                Some((after, route.destinations.get(next)?, self.outbound(route, next)?))
            });
            outcome = match next {
                Some((after, next, outbound)) => {
                    let (outcome, both) = Box::pin(hedged(asked, after, ask(next, outbound))).await;
                    if both {
                        left = &rest[1..];
                    }
                    outcome
                }
                None => asked.await,
            };
            if left.is_empty() || !may_ask_next(&outcome, repeatable) {
                break;
            }
        }
        outcome.map_err(|missed| missed.0)
    }

    /// Sent twice it does no more than sent once, and it can be sent twice.
    fn is_repeatable(&self, route: &Route) -> bool {
        let harmless = self.method.is_idempotent() || route.infers() && self.method == Method::POST;
        harmless && matches!(self.body, Load::Bytes(_))
    }

    /// The request as one candidate gets it; none if its body has been taken.
    fn outbound(&mut self, route: &Route, index: usize) -> Option<Outbound> {
        let destination = route.destinations.get(index)?;
        let body = match &mut self.body {
            Load::Bytes(bytes) if bytes.is_empty() => OutboundBody::Empty,
            Load::Bytes(bytes) => OutboundBody::Replayable(for_model(bytes, destination.model.as_deref())),
            Load::Once(body) => OutboundBody::Once(body.take()?),
        };
        Some(Outbound {
            method: self.method.clone(),
            authority: self.authority.clone(),
            target: self.target.clone(),
            headers: self.headers.clone(),
            body,
            client: self.client,
        })
    }
}

/// The body with the candidate's model in it, if it names one and the body is a JSON object.
fn for_model(body: &Bytes, model: Option<&str>) -> Bytes {
    let edit = |model: &str| {
        let pointer = Pointer::parse("/model").ok()?;
        edit::edited(body, &[Edit { pointer, value: Some(Value::from(model)) }])
    };
    model.and_then(edit).unwrap_or_else(|| body.clone())
}

/// A failure, and what it says about asking another.
struct Missed(Failed, Sequel);

/// May another be asked after a failure?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sequel {
    /// Nothing was sent, so nothing can happen twice.
    Always,
    /// If the request may be repeated.
    IfRepeatable,
    /// The client has waited as long as the operator allows, and the endpoint may still be at work.
    Never,
}

/// What is said if there is nobody to ask, which a checked choice rules out.
fn nobody() -> Missed {
    let (status, detail) = (StatusCode::BAD_GATEWAY, "no candidate was chosen");
    Missed(Failed { status, reason: "no-candidate", detail: detail.into(), endpoint: None }, Sequel::Never)
}

async fn ask(destination: &Destination, outbound: Outbound) -> Result<Arrived, Missed> {
    match destination.pool.fetch(outbound).await {
        Ok(fetched) => Ok(Arrived { fetched, cost_micro: destination.cost_micro }),
        Err(failure) => {
            let sequel = match (failure.is_unsent(), failure.is_timeout()) {
                (true, _) => Sequel::Always,
                (false, true) => Sequel::Never,
                (false, false) => Sequel::IfRepeatable,
            };
            Err(Missed(failure.into(), sequel))
        }
    }
}

/// Asks a second one if the first hasn't answered in time, and takes the first good answer. True if it was asked.
async fn hedged(
    first: impl Future<Output = Result<Arrived, Missed>>,
    after: Duration,
    second: impl Future<Output = Result<Arrived, Missed>>,
) -> (Result<Arrived, Missed>, bool) {
    let mut first = pin!(first);
    tokio::select! {
        outcome = &mut first => return (outcome, false),
        () = sleep(after) => {}
    }
    let outcome = match select(first, pin!(second)).await {
        Either::Left((outcome, second)) => {
            if is_good(&outcome) {
                outcome
            } else {
                second.await
            }
        }
        Either::Right((outcome, first)) => {
            if is_good(&outcome) {
                outcome
            } else {
                first.await
            }
        }
    };
    (outcome, true)
}

fn is_good(outcome: &Result<Arrived, Missed>) -> bool {
    outcome.as_ref().is_ok_and(|arrived| !is_refusal(arrived.fetched.response.status()))
}

fn may_ask_next(outcome: &Result<Arrived, Missed>, repeatable: bool) -> bool {
    match outcome {
        Ok(arrived) => repeatable && is_refusal(arrived.fetched.response.status()),
        Err(Missed(_, sequel)) => *sequel == Sequel::Always || repeatable && *sequel == Sequel::IfRepeatable,
    }
}

/// The statuses by which one says that another might do better.
fn is_refusal(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504)
}

impl Destination {
    fn candidate(&self) -> Candidate {
        Candidate {
            pool: Arc::clone(&self.name),
            model: self.model.clone(),
            stats: self.pool.stats(clock::uptime()),
            cost_micro: self.cost_micro,
        }
    }
}

impl Pipeline {
    /// The answer when the policy faulted while the request was on its way, and the route wants none then.
    pub(super) fn faulted(route: &Route, fault: &Fault) -> Failed {
        Failed {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: fault.kind(),
            detail: format!("the policy of route {} gave no verdict: {fault}", route.config.name).into(),
            endpoint: None,
        }
    }
}
