//! Sending a request upstream: to the candidates in the order that the policy chose, to the next one when one fails or
//! takes too long. Whether a request may be repeated is decided here, once ([`may_repeat`]); the pools obey.

use std::{
    fmt,
    future::Future,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header::CONTENT_ENCODING, uri::PathAndQuery};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{
    advice::Advice,
    momentary,
    route::{Destination, Route},
    trace,
};
use crate::{
    batch::SlotPermit,
    clock,
    message::{Body, RequestSpan, coding},
    origin::{Failure, Fetched, Outbound, OutboundBody, Reaction},
    policy::{
        Candidate, Choice, Decision, Facts, Fault, Hook, HookCall, RequestEdits,
        edit::{self, Edit, Pointer},
    },
};

/// A request to whichever candidate responds first.
pub(super) struct UpstreamRequest {
    pub(super) method: Method,
    pub(super) authority: HeaderValue,
    pub(super) target: PathAndQuery,
    pub(super) headers: HeaderMap,
    pub(super) body: UpstreamBody,
    /// The client whose limit of places it counts in.
    pub(super) client: Option<IpAddr>,
    /// The candidate in whose pool it has a slot, if it is a batch.
    pub(super) home: Option<usize>,
    /// How long it takes there by what was measured, if it is a batch and that is known.
    pub(super) expected: Option<Duration>,
    /// Whether that pool said that it has too many requests (429, 503), whichever candidate responded in the end.
    pub(super) is_refused: bool,
    /// Whether its body may be sent in a content coding and its response may come in one: its sender decodes that.
    pub(super) recodes: bool,
    /// The span that its attempts are logged in.
    pub(super) span: RequestSpan,
}

/// A body, by whether it can be sent again.
pub(super) enum UpstreamBody {
    Bytes(Bytes),
    /// Taken by the first candidate that is tried.
    Once(Option<Body>),
}

impl From<Body> for UpstreamBody {
    fn from(body: Body) -> Self {
        match body {
            Body::Empty => Self::Bytes(Bytes::new()),
            Body::Full(bytes) => Self::Bytes(bytes),
            Body::Stream(_) => Self::Once(Some(body)),
        }
    }
}

/// A response, which candidate it is from, and what it costs.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) fetched: Fetched,
    /// The place of the candidate among the route's destinations.
    pub(super) candidate: usize,
    pub(super) cost_micro: u64,
    /// The slot that a batch has in another pool than the one where it gathered, until its body has been read.
    pub(super) slot: Option<SlotPermit>,
}

/// No response came, or one that is as good as none.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    /// The status of the client's response.
    pub(super) status: StatusCode,
    /// A word for `Cache-Status` and the access log.
    pub(super) reason: &'static str,
    /// A sentence for the client.
    pub(super) detail: Arc<str>,
    /// The endpoint, if one was tried.
    pub(super) endpoint: Option<Arc<str>>,
    /// The origin can't be reached, so that what is stored may be served although it is stale.
    pub(super) is_unreachable: bool,
}

/// The reason of a failure to respond within a policy's deadline, which is one request's.
pub(super) const DEADLINE: &str = "deadline";

impl Failed {
    /// Returns the failure for a policy's fault where the route refuses the request then.
    pub(super) fn of_fault(route: &Route, fault: &Fault) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: fault.kind(),
            detail: format!("the policy of route {} gave no verdict: {fault}", route.config.name).into(),
            endpoint: None,
            is_unreachable: false,
        }
    }

    /// Returns the failure when no response came in time.
    fn of_deadline(deadline: Deadline) -> Self {
        let (reason, detail) = match deadline {
            Deadline::Policy(us) => (DEADLINE, format!("no answer within the {us} µs that the policy gave")),
            Deadline::Route(time) => {
                ("route-timeout", format!("no response within the {} ms that the route gives", clock::millis(time)))
            }
        };
        let status = StatusCode::GATEWAY_TIMEOUT;
        Self { status, reason, detail: detail.into(), endpoint: None, is_unreachable: false }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self {
            status: failure.status(),
            reason: failure.reason(),
            detail: failure.to_string().into(),
            endpoint: failure.endpoint().map(Arc::from),
            is_unreachable: failure.is_unreachable(),
        }
    }
}

/// How long candidates may take together, and by whose word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deadline {
    /// The policy's, in microseconds.
    Policy(u32),
    /// The route's.
    Route(Duration),
}

impl Deadline {
    /// Returns the earlier one of those that there are.
    fn of(route: &Route, choice: &Choice) -> Option<Self> {
        let both = [choice.deadline_us.map(Self::Policy), route.config.response.map(Self::Route)];
        both.into_iter().flatten().min_by_key(|deadline| deadline.time())
    }

    fn time(self) -> Duration {
        match self {
            Self::Policy(us) => Duration::from_micros(us.into()),
            Self::Route(time) => time,
        }
    }
}

/// Whether a request may be sent again although an origin may have acted on it. Doing it twice is as good as doing it
/// once if its method is idempotent (RFC 9110, section 9.2.2), and if a model is asked: its response has no effect but
/// itself.
fn may_repeat(method: &Method, infers: bool) -> bool {
    method.is_idempotent() || infers && *method == Method::POST
}

/// Whether a second candidate may be tried while the first one is still at work: only where there is nothing that the
/// later one could undo.
fn may_hedge(method: &Method, infers: bool) -> bool {
    method.is_safe() || infers && *method == Method::POST
}

/// Returns which candidates are tried, in which order.
///
/// # Errors
/// The policy faulted, and the route refuses the request then.
pub(super) fn choose(route: &Route, advice: &Advice, facts: &Facts<'_>) -> Result<Choice, Fault> {
    if route.destinations.len() == 1 && !advice.has(Hook::Route) {
        return Ok(Choice { order: vec![0], hedge_after_us: None, deadline_us: None });
    }
    let candidates: Vec<Candidate> = route.destinations.iter().map(candidate).collect();
    match advice.opinion(route, &HookCall::Route(&candidates), facts)?.as_deref() {
        Some(Decision::Route(choice)) => Ok(choice.clone()),
        _ => Ok(Choice::native(&candidates)),
    }
}

fn candidate(destination: &Destination) -> Candidate {
    Candidate {
        pool: Arc::clone(&destination.name),
        model: destination.model.clone(),
        stats: destination.pool.stats(clock::uptime()),
        cost_micro: destination.cost_micro,
    }
}

impl UpstreamRequest {
    /// Edits it as the policy says, and returns the candidates that the policy chooses.
    ///
    /// # Errors
    /// The policy faulted, and the route refuses the request then.
    pub(super) fn prepare(&mut self, route: &Route, advice: &Advice, facts: &Facts<'_>) -> Result<Choice, Fault> {
        let request_edits = advice.request_edits(route, facts)?;
        self.decode(route, request_edits.as_ref(), facts);
        if let Some(request_edits) = &request_edits {
            self.apply(request_edits);
        }
        choose(route, advice, facts)
    }

    /// Applies what a policy changes. A body that isn't JSON, or comes as a stream, stays as it is.
    pub(super) fn apply(&mut self, request_edits: &RequestEdits) {
        for (name, value) in &request_edits.headers {
            match value {
                Some(value) => drop(self.headers.insert(name.clone(), value.clone())),
                None => drop(self.headers.remove(name)),
            }
        }
        if let UpstreamBody::Bytes(bytes) = &mut self.body
            && !request_edits.edits.is_empty()
            && let Some(edited) = edit::edited(bytes, &request_edits.edits)
        {
            *bytes = edited;
        }
    }

    /// Takes the body's content codings off if it is to be changed on its way, by these edits or by a candidate's
    /// model: what can't be read can't be changed, and the key is that of the decoded body.
    fn decode(&mut self, route: &Route, request_edits: Option<&RequestEdits>, facts: &Facts<'_>) {
        let edits = request_edits.is_some_and(|request_edits| !request_edits.edits.is_empty());
        let changes = edits || route.destinations.iter().any(|destination| destination.model.is_some());
        if changes
            && coding::is_encoded(&self.headers)
            && let (UpstreamBody::Bytes(bytes), Some(content)) = (&mut self.body, facts.content())
        {
            bytes.clone_from(content);
            self.headers.remove(CONTENT_ENCODING);
        }
    }

    /// Sends it to one candidate after the other until one responds.
    ///
    /// # Errors
    /// [`Failed`], if none did, or none within the policy's deadline or the time of the route.
    pub(super) async fn send(&mut self, route: &Route, choice: &Choice) -> Result<Arrived, Failed> {
        let span = self.span.clone();
        // The operator's word comes last.
        route.config.request_headers.apply(&mut self.headers);
        let arrived = match Deadline::of(route, choice) {
            None => self.ask_all(route, choice).await,
            Some(deadline) => {
                let asking = Box::pin(self.ask_all(route, choice));
                match timeout(deadline.time(), asking).await {
                    Ok(arrived) => arrived,
                    Err(_) => Err(Failed::of_deadline(deadline)),
                }
            }
        };
        if let Err(failed) = &arrived {
            trace::no_response(&span, failed.reason, &failed.detail);
        }
        arrived
    }

    async fn ask_all(&mut self, route: &Route, choice: &Choice) -> Result<Arrived, Failed> {
        let at_hand = matches!(self.body, UpstreamBody::Bytes(_));
        let repeatable = may_repeat(&self.method, route.infers()) && at_hand;
        let hedgeable = may_hedge(&self.method, route.infers()) && at_hand;
        let hedge = choice.hedge_after_us.filter(|_| hedgeable).map(|us| Duration::from_micros(us.into()));
        let home = self.home.and_then(|home| route.destinations.get(home)).map(Home::of);
        let home = home.as_ref();
        let mut left = choice.order.as_slice();
        let mut result = Err(no_candidate());
        while let [first, rest @ ..] = left {
            let (Some(destination), Some(outbound)) = (route.destinations.get(*first), self.outbound(route, *first))
            else {
                break;
            };
            left = rest;
            let asked = ask(home, *first, destination, outbound);
            let next = hedge.and_then(|after| {
                let next = *rest.first()?;
                Some((after, next, route.destinations.get(next)?, self.outbound(route, next)?))
            });
            result = match next {
                Some((after, index, next, outbound)) => {
                    let second = ask_beside(&self.span, after, ask(home, index, next, outbound), next);
                    let (result, both) = Box::pin(hedged(asked, after, second)).await;
                    if both {
                        left = &rest[1..];
                    }
                    result
                }
                None => asked.await,
            };
            let outcome = Outcome::of(&result);
            if !outcome.tries_next(repeatable) {
                break;
            }
            if let Some(next) = left.first().and_then(|next| route.destinations.get(*next)) {
                trace::next_candidate(&self.span, &next.name, format_args!("{outcome}"));
            }
            if let Ok(arrived) = &mut result {
                drop(arrived.slot.take());
            }
        }
        self.is_refused = home.is_some_and(|home| home.has_refused.load(Ordering::Relaxed));
        let mut arrived = result.map_err(|missed| missed.failed)?;
        if route.infers() {
            momentary::set_id_aside(arrived.fetched.response.headers_mut());
        }
        Ok(arrived)
    }

    /// Returns the request as one candidate gets it; `None` if its body has been taken.
    fn outbound(&mut self, route: &Route, index: usize) -> Option<Outbound> {
        let destination = route.destinations.get(index)?;
        let body = match &mut self.body {
            UpstreamBody::Bytes(bytes) if bytes.is_empty() => OutboundBody::Empty,
            UpstreamBody::Bytes(bytes) => OutboundBody::Replayable(for_model(bytes, destination.model.as_deref())),
            UpstreamBody::Once(body) => OutboundBody::Once(body.take()?),
        };
        Some(Outbound {
            repeatable: may_repeat(&self.method, route.infers()),
            method: self.method.clone(),
            authority: self.authority.clone(),
            target: self.target.clone(),
            headers: self.headers.clone(),
            body,
            client: self.client,
            recodes: self.recodes,
            // Of another pool nothing is known here.
            expected: self.expected.filter(|_| self.home == Some(index)),
            span: self.span.clone(),
        })
    }
}

/// Returns the body with the candidate's model in it, if it names one and the body is a JSON object.
fn for_model(body: &Bytes, model: Option<&str>) -> Bytes {
    let edit = |model: &str| {
        let pointer = Pointer::parse("/model").ok()?;
        edit::edited(body, &[Edit { pointer, value: Some(Value::from(model)) }])
    };
    model.and_then(edit).unwrap_or_else(|| body.clone())
}

/// The candidate in whose pool a batch gathered.
struct Home<'r> {
    destination: &'r Destination,
    /// Whether it has said that it has too many requests.
    has_refused: AtomicBool,
}

impl<'r> Home<'r> {
    const fn of(destination: &'r Destination) -> Self {
        Self { destination, has_refused: AtomicBool::new(false) }
    }
}

/// A candidate gave no response.
#[derive(Debug)]
struct CandidateFailure {
    failed: Failed,
    outcome: Outcome,
}

/// The outcome of one candidate, as far as it matters to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// A response with this status.
    Responded(StatusCode),
    /// Nothing was sent, so nothing can happen twice.
    Unsent,
    /// No response, although the request, or a part of it, may have been sent.
    Failed,
    /// The client has waited as long as the operator allows, and the endpoint may still be at work.
    TimedOut,
    /// There was no candidate to try.
    NoCandidate,
}

impl Outcome {
    fn of(result: &Result<Arrived, CandidateFailure>) -> Self {
        match result {
            Ok(arrived) => Self::Responded(arrived.fetched.response.status()),
            Err(missed) => missed.outcome,
        }
    }

    /// Whether it is a response that no other candidate could better.
    const fn is_good(self) -> bool {
        matches!(self, Self::Responded(status) if !Reaction::to(status).tries_next_candidate)
    }

    /// Whether the next candidate is tried.
    const fn tries_next(self, repeatable: bool) -> bool {
        match self {
            Self::Responded(status) => repeatable && Reaction::to(status).tries_next_candidate,
            Self::Unsent => true,
            Self::Failed => repeatable,
            Self::TimedOut | Self::NoCandidate => false,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Responded(status) => write!(f, "status-{}", status.as_u16()),
            Self::Unsent => f.write_str("unsent"),
            Self::Failed => f.write_str("failed"),
            Self::TimedOut => f.write_str("timed-out"),
            Self::NoCandidate => f.write_str("no-candidate"),
        }
    }
}

/// Returns the failure if there is no candidate to try, which a checked choice rules out.
fn no_candidate() -> CandidateFailure {
    let (status, detail) = (StatusCode::BAD_GATEWAY, "no candidate was chosen");
    let (reason, detail, endpoint) = ("no-candidate", detail.into(), None);
    let failed = Failed { status, reason, detail, endpoint, is_unreachable: false };
    CandidateFailure { failed, outcome: Outcome::NoCandidate }
}

/// Asks one candidate, the one of this place among the route's destinations. A batch that gathered at `home` takes a
/// slot of any other pool first.
async fn ask(
    home: Option<&Home<'_>>,
    candidate: usize,
    destination: &Destination,
    outbound: Outbound,
) -> Result<Arrived, CandidateFailure> {
    let is_guest = home.is_some_and(|home| home.destination.name != destination.name);
    let slot = if is_guest { guest_slot(destination).await? } else { None };
    match destination.pool.fetch(outbound).await {
        Ok(fetched) => {
            if let Some(home) = home.filter(|_| !is_guest)
                && Reaction::is_overload(fetched.response.status())
            {
                home.has_refused.store(true, Ordering::Relaxed);
            }
            Ok(Arrived { fetched, candidate, cost_micro: destination.cost_micro, slot })
        }
        Err(failure) => {
            let outcome = match (failure.is_unsent(), failure.is_timeout()) {
                (true, _) => Outcome::Unsent,
                (false, true) => Outcome::TimedOut,
                (false, false) => Outcome::Failed,
            };
            Err(CandidateFailure { failed: failure.into(), outcome })
        }
    }
}

/// Asks the second candidate of a hedge. It is polled only when the time of the first one is over.
async fn ask_beside(
    span: &RequestSpan,
    after: Duration,
    asked: impl Future<Output = Result<Arrived, CandidateFailure>>,
    destination: &Destination,
) -> Result<Arrived, CandidateFailure> {
    trace::hedged(span, &destination.name, after);
    asked.await
}

/// Waits for a slot of a pool, as long as for a connection: two pools that fail may each wait for the other's.
async fn guest_slot(destination: &Destination) -> Result<Option<SlotPermit>, CandidateFailure> {
    let Some((slots, wait_max)) = &destination.slots else { return Ok(None) };
    timeout(*wait_max, slots.slot()).await.map_err(|_| {
        let detail = format!("no slot for a batch of the pool {} was free in time", destination.name);
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let (reason, detail, endpoint) = ("wait-timeout", detail.into(), None);
        let failed = Failed { status, reason, detail, endpoint, is_unreachable: false };
        CandidateFailure { failed, outcome: Outcome::Unsent }
    })
}

/// Tries a second candidate if the first hasn't responded in time, and takes the first good response. Returns true with
/// it if the second was tried.
async fn hedged(
    first: impl Future<Output = Result<Arrived, CandidateFailure>>,
    after: Duration,
    second: impl Future<Output = Result<Arrived, CandidateFailure>>,
) -> (Result<Arrived, CandidateFailure>, bool) {
    let mut first = pin!(first);
    tokio::select! {
        result = &mut first => return (result, false),
        () = sleep(after) => {}
    }
    let result = match select(first, pin!(second)).await {
        Either::Left((result, second)) => {
            if Outcome::of(&result).is_good() {
                result
            } else {
                second.await
            }
        }
        Either::Right((result, first)) => {
            if Outcome::of(&result).is_good() {
                result
            } else {
                first.await
            }
        }
    };
    (result, true)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::oneshot;

    use super::*;
    use crate::{message::Response, policy::PoolStats};

    #[test]
    fn which_requests_may_be_repeated_and_which_hedged() {
        // method, whether a model is asked, may be repeated, may be hedged
        for (method, infers, repeated, hedges) in [
            (Method::GET, false, true, true),
            (Method::HEAD, false, true, true),
            (Method::OPTIONS, false, true, true),
            (Method::QUERY, false, true, true),
            (Method::PUT, false, true, false),
            (Method::DELETE, false, true, false),
            (Method::POST, false, false, false),
            (Method::PATCH, false, false, false),
            (Method::CONNECT, false, false, false),
            (Method::GET, true, true, true),
            (Method::POST, true, true, true),
            (Method::PUT, true, true, false),
            (Method::PATCH, true, false, false),
        ] {
            let found = (may_repeat(&method, infers), may_hedge(&method, infers));
            assert_eq!(found, (repeated, hedges), "{method}, infers: {infers}");
        }
    }

    #[test]
    fn after_which_outcomes_the_next_candidate_is_asked() {
        let responded = |status| Outcome::Responded(StatusCode::from_u16(status).unwrap());
        // outcome, next if the request may be repeated, next if it may not, good enough to end a hedge
        for (outcome, repeatable, once, good) in [
            (responded(200), false, false, true),
            (responded(404), false, false, true),
            (responded(429), true, false, false),
            (responded(500), true, false, false),
            (responded(501), false, false, true),
            (responded(503), true, false, false),
            (Outcome::Unsent, true, true, false),
            (Outcome::Failed, true, false, false),
            (Outcome::TimedOut, false, false, false),
            (Outcome::NoCandidate, false, false, false),
        ] {
            let found = (outcome.tries_next(true), outcome.tries_next(false), outcome.is_good());
            assert_eq!(found, (repeatable, once, good), "{outcome:?}");
        }
    }

    #[test]
    fn candidates_are_asked_in_the_order_of_the_file_and_those_without_a_healthy_member_last() {
        for (healthy, wanted) in [
            (&[1][..], &[0][..]),
            (&[1, 1, 1], &[0, 1, 2]),
            (&[0, 1, 2], &[1, 2, 0]),
            (&[0, 3, 0, 1], &[1, 3, 0, 2]),
            (&[0, 0], &[0, 1]),
        ] {
            let candidate = |healthy: &u32| Candidate {
                stats: PoolStats { healthy: *healthy, ..PoolStats::default() },
                ..Candidate::default()
            };
            let candidates: Vec<Candidate> = healthy.iter().map(candidate).collect();
            assert_eq!(Choice::native(&candidates).order, wanted, "{healthy:?}");
        }
    }

    /// The response of the candidate whose cost tells it from the other.
    fn arrived(status: u16, cost_micro: u64) -> Result<Arrived, CandidateFailure> {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        let fetched = Fetched { response, endpoint: "e".into(), attempts: 1 };
        Ok(Arrived { fetched, candidate: 0, cost_micro, slot: None })
    }

    fn seen(result: (Result<Arrived, CandidateFailure>, bool)) -> (Option<(u16, u64)>, bool) {
        let status = |arrived: Arrived| (arrived.fetched.response.status().as_u16(), arrived.cost_micro);
        (result.0.ok().map(status), result.1)
    }

    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn a_hedge_takes_the_first_good_response() {
        let in_time = hedged(async { arrived(503, 1) }, LONG, pending()).await;
        assert_eq!(seen(in_time), (Some((503, 1)), false), "the second wasn't asked");
        let slow = hedged(pending(), Duration::ZERO, async { arrived(200, 2) }).await;
        assert_eq!(seen(slow), (Some((200, 2)), true));
        // The second has responded when the first does.
        for (second, first, wanted) in [
            (arrived(503, 2), arrived(200, 1), Some((200, 1))),
            (Err(no_candidate()), arrived(200, 1), Some((200, 1))),
            (arrived(429, 2), arrived(503, 1), Some((503, 1))),
            (arrived(429, 2), Err(no_candidate()), None),
            (arrived(200, 2), arrived(200, 1), Some((200, 2))),
        ] {
            let (asked, begun) = oneshot::channel();
            let late = async {
                begun.await.unwrap();
                first
            };
            let early = async {
                asked.send(()).unwrap();
                second
            };
            let outcome = hedged(late, Duration::ZERO, early).await;
            assert_eq!(seen(outcome), (wanted, true));
        }
        // The first fails after the second was asked.
        let (asked, begun) = oneshot::channel();
        let (failed, over) = oneshot::channel();
        let first = async {
            begun.await.unwrap();
            failed.send(()).unwrap();
            Err(no_candidate())
        };
        let second = async {
            asked.send(()).unwrap();
            over.await.unwrap();
            arrived(200, 2)
        };
        assert_eq!(seen(hedged(first, Duration::ZERO, second).await), (Some((200, 2)), true));
    }
}
