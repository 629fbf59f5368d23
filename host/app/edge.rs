//! Where listeners and the pipeline meet: ids in, metrics and the access log out.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, uri::PathAndQuery};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::{
    exchange::Exchange,
    sampling,
    serving::{NO_ROUTE, Serving},
};
use crate::{
    cache::store::Tier,
    clock::{self, Timestamp},
    http::{Arrival, Handler, Refused},
    message::{Body, BodyError, Request, RequestHead, RequestSpan, Response, Scheme},
    pipeline::{Lookup, Reply, Trail},
    policy::Outcome,
    telemetry::{Line, RequestTrace, Verdict, trace},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The handler that clients' requests reach.
#[derive(Clone)]
pub(super) struct Edge(Arc<Exchange>);

impl Edge {
    pub(super) const fn new(exchange: Arc<Exchange>) -> Self {
        Self(exchange)
    }
}

impl Handler for Edge {
    async fn handle(&self, mut request: Request, arrival: Arrival) -> Response {
        let began = Instant::now();
        // Whatever takes its place meanwhile: this request is served, counted and logged by what it began with.
        let serving = self.0.serving();
        let trace = trace::prepare(&mut request.head.headers);
        let about = serving.log.is_some().then(|| About::new(&request.head, &trace, arrival));
        let span = sampling::span(serving.sampler, &request.head, &trace);
        let reply = match span.get() {
            None => serving.pipeline.serve(request, RequestSpan::none()).await,
            // In a box, so that this future is no larger for the others.
            Some(within) => Box::pin(sampling::serve(&serving.pipeline, request, &span, within)).await,
        };
        let Reply { mut response, trail } = reply;
        response.headers_mut().insert(REQUEST_ID, trace.id);
        let mut account = Account { serving, began, about, trail, status: response.status(), bytes: 0, span };
        match std::mem::take(response.body_mut()) {
            Body::Stream(stream) => *response.body_mut() = Body::stream(Accounted { stream, account }),
            whole => {
                let bytes = whole.size_hint().exact().unwrap_or(0);
                *response.body_mut() = whole;
                // All bytes are at hand: that they are sent is a matter of microseconds, and nobody waits to say so.
                account.bytes = bytes;
                drop(account);
            }
        }
        response
    }

    fn refused(&self, response: Response, request: &Refused<'_>) -> Response {
        let serving = self.0.serving();
        let Reply { mut response, trail } = serving.pipeline.refused(response);
        let trace = trace::prepare(&mut HeaderMap::new());
        if let Some(metrics) = serving.route_metrics(None) {
            metrics.record(verdict(&trail), response.status(), Duration::ZERO);
        }
        if let Some(log) = &serving.log {
            let bytes = response.body().size_hint().exact().unwrap_or(0);
            log.record(&refused(request, &trace, &trail, response.status(), bytes));
        }
        response.headers_mut().insert(REQUEST_ID, trace.id);
        response
    }
}

/// What the access log says of a request beside its verdicts.
struct About {
    time: Timestamp,
    id: HeaderValue,
    trace_id: Option<[u8; 16]>,
    client: IpAddr,
    version: Version,
    method: Method,
    scheme: Scheme,
    authority: HeaderValue,
    target: PathAndQuery,
    arrival: Arrival,
}

impl About {
    fn new(head: &RequestHead, trace: &RequestTrace, arrival: Arrival) -> Self {
        Self {
            time: clock::now(),
            id: trace.id.clone(),
            trace_id: trace.trace_id,
            client: head.client.ip,
            version: head.client.version,
            method: head.method.clone(),
            scheme: head.scheme,
            authority: head.authority.clone(),
            target: head.target.clone(),
            arrival,
        }
    }
}

/// Accounts for a request when its response has been handed over, or the client has left.
struct Account {
    serving: Arc<Serving>,
    began: Instant,
    about: Option<About>,
    trail: Trail,
    status: StatusCode,
    bytes: u64,
    span: RequestSpan,
}

impl Drop for Account {
    fn drop(&mut self) {
        let duration = self.began.elapsed();
        let route = self.trail.route.as_ref().map(|route| route.config.name.as_str());
        if let Some(metrics) = self.serving.route_metrics(route) {
            metrics.record(verdict(&self.trail), self.status, duration);
        }
        let roster = self.trail.route.as_ref().and_then(|route| route.policy.as_ref());
        if let (Some(roster), Some(failed)) = (roster, self.trail.origin_outcome()) {
            roster.origin_responded(failed);
        }
        if let Some(policy) = self.trail.policy.as_ref().filter(|_| !self.trail.arms.is_empty()) {
            let outcome = Outcome { hit: self.trail.is_hit(), latency: duration, cost_micro: self.trail.cost_micro };
            policy.observe(&self.trail.arms, &outcome);
        }
        sampling::replied(&self.span, &self.trail, self.status, self.bytes, duration);
        if let (Some(log), Some(about)) = (&self.serving.log, &self.about) {
            log.record(&line(about, &self.trail, self.status, self.bytes, micros(duration)));
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn line<'a>(about: &'a About, trail: &'a Trail, status: StatusCode, bytes_out: u64, duration_us: u64) -> Line<'a> {
    let route = trail.route.as_deref();
    Line {
        time: about.time,
        id: about.id.as_bytes(),
        trace_id: about.trace_id,
        client: about.client,
        version: about.version,
        method: about.method.as_str(),
        scheme: about.scheme.as_str(),
        authority: about.authority.as_bytes(),
        target: about.target.as_str().as_bytes(),
        status: status.as_u16(),
        bytes_out,
        duration_us,
        accept_us: about.arrival.since_accept.map(micros),
        route: route.map_or(NO_ROUTE, |route| route.config.name.as_str()),
        policy: trail.policy.as_ref().map(|policy| &**policy.label()),
        key: trail.key.map(|key| *key.as_bytes()),
        lookup: trail.lookup.as_str(),
        tier: trail.tier.map(Tier::as_str),
        fwd: trail.forward.map(crate::cache::status::Forward::as_str),
        stored: trail.stored,
        collapsed: trail.collapsed,
        endpoint: trail.endpoint.as_deref(),
        attempts: trail.attempts,
        batch_size: trail.batch.and_then(|batch| u32::try_from(batch).ok()),
        detail: trail.detail.as_deref(),
    }
}

/// Returns the line of a request that the listener has refused.
fn refused<'a>(
    request: &'a Refused<'_>,
    trace: &'a RequestTrace,
    trail: &'a Trail,
    status: StatusCode,
    bytes_out: u64,
) -> Line<'a> {
    Line {
        time: clock::now(),
        id: trace.id.as_bytes(),
        trace_id: None,
        client: request.client.ip,
        version: request.client.version,
        method: request.method.map_or("", Method::as_str),
        scheme: request.scheme.as_str(),
        authority: request.authority,
        target: request.target.as_bytes(),
        status: status.as_u16(),
        bytes_out,
        duration_us: 0,
        accept_us: request.arrival.since_accept.map(micros),
        route: NO_ROUTE,
        policy: None,
        key: None,
        lookup: trail.lookup.as_str(),
        tier: None,
        fwd: None,
        stored: false,
        collapsed: false,
        endpoint: None,
        attempts: 0,
        batch_size: None,
        detail: trail.detail.as_deref(),
    }
}

fn verdict(trail: &Trail) -> Verdict {
    match (trail.failed, trail.lookup, trail.tier) {
        (true, ..) => Verdict::Error,
        (_, Lookup::Hit, Some(Tier::Disk)) => Verdict::HitDisk,
        (_, Lookup::Hit, Some(Tier::Redis)) => Verdict::HitRedis,
        (_, Lookup::Hit, _) => Verdict::HitMemory,
        (_, Lookup::Stale, _) => Verdict::Stale,
        (_, Lookup::Miss, _) if trail.collapsed => Verdict::Collapsed,
        (_, Lookup::Miss, _) => Verdict::Miss,
        (_, Lookup::Bypass, _) => Verdict::Bypass,
        (_, Lookup::Pass, _) => Verdict::Pass,
        (_, Lookup::Own, _) => Verdict::Own,
    }
}

/// A streamed body that is counted as it leaves.
struct Accounted {
    stream: crate::message::body::Stream,
    account: Account,
}

impl HttpBody for Accounted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = self.stream.as_mut().poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.account.bytes += data.len() as u64;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.stream.size_hint()
    }
}
