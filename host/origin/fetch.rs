//! One request on its way: attempts, one after the other, until there is a response or none can be expected.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, EXPECT, UPGRADE},
    uri::PathAndQuery,
};
use tokio::sync::watch;

use super::{
    balance::NoEndpoint,
    endpoint::{Connect, Endpoint, Exchanged},
    failure::{Failure, Fault, Reason},
    ledger::Slot,
    opening::{Opening, opened},
    outbound::{Fetched, Outbound, OutboundBody, set_connection_fields, state_no_bytes},
    pool::Pool,
    protocol::status_of_head,
    reaction::Reaction,
    read_ahead::patience,
    recoding::REQUEST_BYTES_MIN,
    relay,
    retry::{self, Sequel, UNCOUNTED_MAX},
    stats::Recent,
    trace, tunnel,
    upload::{Payload, Upload, Word},
};
use crate::{
    clock,
    message::{
        Body, RequestSpan,
        compression::{Compression, compress},
        incremental::is_incremental,
        is_grpc,
    },
};

impl Pool {
    /// Sends a request to one endpoint, or if that fails in a way that allows it to another, and returns the response
    /// as soon as its head is there.
    ///
    /// Dropping the future, or later the response body, ends the exchange.
    ///
    /// # Errors
    /// [`Failure`], if no endpoint responded. A status of 502 to 504 that no other endpoint could better is a response.
    pub async fn fetch(&self, outbound: Outbound) -> Result<Fetched, Failure> {
        let outcome = Attempts::new(self, outbound).run().await;
        self.ledger.meters.count(&outcome);
        outcome
    }
}

/// An attempt that its caller abandons: it took at least that long, and it isn't known whose fault that is.
struct AbandonedAttempt<'a> {
    recent: &'a Recent,
    begun: Instant,
}

impl Drop for AbandonedAttempt<'_> {
    fn drop(&mut self) {
        self.recent.record(self.begun.elapsed().as_micros(), false);
    }
}

/// What an attempt brought.
type Attempted = Result<(Response<Opening>, Slot), Fault>;

/// Has the endpoint's word about a request's body passed on when it comes (100).
fn pass_word(request: &mut Request<Upload>, word: &Arc<watch::Sender<Word>>) {
    let word = Arc::clone(word);
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            word.send_replace(Word::Continue);
        }
    });
}

/// Returns an attempt's status, or the reason and the detail of its fault.
fn outcome(attempted: &Attempted) -> Result<u16, (&str, &str)> {
    match attempted {
        Ok((response, _)) => Ok(response.status().as_u16()),
        Err(fault) => Err((fault.reason.as_str(), fault.detail.as_str())),
    }
}

/// A request and what has been tried with it.
struct Attempts<'a> {
    pool: &'a Pool,
    method: Method,
    target: PathAndQuery,
    headers: HeaderMap,
    payload: Payload,
    /// What the client sends after a switch of protocols.
    upstream: Option<Body>,
    /// Whether the client sends its body only when it is told to.
    is_expected: bool,
    /// The coding that its body may be sent in, and the body in that coding once an attempt wanted it.
    coding: Option<Compression>,
    encoded: Option<Bytes>,
    /// Whether the last attempt's body was encoded.
    was_encoded: bool,
    client: Option<IpAddr>,
    repeatable: bool,
    /// Whether it is a call of gRPC that this node makes itself, so that it reads the response.
    is_call: bool,
    /// How long it is expected to take, if it is a batch.
    expected: Option<Duration>,
    span: RequestSpan,
    /// Endpoints that aren't tried again.
    tried: Vec<usize>,
    attempts: u32,
    /// Of the attempts, those that don't count in `attempts_max`.
    uncounted: u32,
    /// The next attempt takes a new connection.
    on_new_connection: bool,
}

impl<'a> Attempts<'a> {
    fn new(pool: &'a Pool, outbound: Outbound) -> Self {
        let Outbound { method, authority, target, mut headers, body, client, repeatable, recodes, expected, span } =
            outbound;
        // What gRPC codes it says in fields of its own.
        let is_call = recodes && is_grpc(&headers);
        let recodes = recodes && !is_call;
        let is_upgrade = headers.contains_key(UPGRADE);
        // What comes after the switch is no body of the request.
        let (payload, upstream) = match body {
            OutboundBody::Once(body) if is_upgrade => (Payload::new(OutboundBody::Empty), Some(body)),
            body => (Payload::new(body), None),
        };
        let is_expected = headers.remove(EXPECT).is_some() && payload.comes_in();
        set_connection_fields(&mut headers, &method, authority, payload.is_empty());
        if is_upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        if recodes {
            headers.entry(ACCEPT_ENCODING).or_insert_with(|| pool.codings.accepted.clone());
        }
        let coding = pool.codings.request.filter(|_| recodes && !headers.contains_key(CONTENT_ENCODING));
        Self {
            pool,
            method,
            target,
            headers,
            payload,
            upstream,
            is_expected,
            coding,
            encoded: None,
            was_encoded: false,
            client,
            repeatable,
            is_call,
            expected,
            span,
            tried: Vec::new(),
            attempts: 0,
            uncounted: 0,
            on_new_connection: false,
        }
    }

    async fn run(mut self) -> Result<Fetched, Failure> {
        let mut endpoint = self.first()?;
        // The endpoint may refuse one that is expected by its head alone, and before the client has sent it.
        if self.payload.comes_in() && !(self.is_expected && endpoint.speaks_http1()) {
            self.is_expected = false;
            // One that is to be sent on as it comes isn't held back (RFC 10036), whatever length it states.
            if !is_incremental(&self.headers) {
                self.read_ahead().await?;
                // That may have taken a while.
                endpoint = self.first()?;
            }
        }
        loop {
            let begun = self.span.timer();
            let attempted = self.attempt(&endpoint, begun).await;
            trace::attempted(&self.span, &endpoint.address, outcome(&attempted), begun);
            match self.next(&endpoint, &attempted) {
                Some(next) => endpoint = next,
                None => return self.finish(&endpoint, attempted),
            }
            trace::retried(&self.span, &endpoint.address);
            self.pool.ledger.meters.retries.inc();
        }
    }

    fn first(&self) -> Result<Arc<Endpoint>, Failure> {
        self.choose().map_err(|nobody| self.no_endpoint(nobody))
    }

    fn choose(&self) -> Result<Arc<Endpoint>, NoEndpoint> {
        self.pool.choose(&self.tried, self.expected.is_some())
    }

    /// Reads what can be read of the body while the request holds no place.
    async fn read_ahead(&mut self) -> Result<(), Failure> {
        let patience = patience(&self.headers);
        if let Err(error) = self.payload.read_ahead(&self.pool.bounds.room(self.client), patience).await {
            let detail = error.to_string();
            return Err(Failure::of_pool(&self.pool.name, Fault::new(Reason::RequestBody(error), detail)));
        }
        if self.payload.is_empty() {
            state_no_bytes(&mut self.headers, &self.method);
        }
        Ok(())
    }

    /// Returns the body of the next attempt in the pool's coding; `None` if it isn't to have one, or this endpoint
    /// refused one a short while ago.
    async fn encoded_for(&mut self, endpoint: &Endpoint) -> Option<(Compression, Bytes)> {
        let coding = self.coding?;
        let plain = match &self.payload {
            Payload::Whole(bytes) if bytes.len() >= REQUEST_BYTES_MIN => bytes.clone(),
            _ => return None,
        };
        if !endpoint.willingness.lock().takes_coded(clock::uptime()) {
            return None;
        }
        if self.encoded.is_none() {
            let bytes = plain.len();
            self.encoded = compress(coding, plain).await.filter(|encoded| encoded.len() < bytes);
            if self.encoded.is_none() {
                // Nor will it get smaller at the next attempt.
                self.coding = None;
            }
        }
        self.encoded.clone().map(|encoded| (coding, encoded))
    }

    /// Returns the body of an attempt with its header field, and counts what the coding saves.
    fn encode(&self, (coding, encoded): (Compression, Bytes), headers: &mut HeaderMap) -> Upload {
        headers.insert(CONTENT_ENCODING, coding.field());
        if let Payload::Whole(plain) = &self.payload {
            self.pool.ledger.meters.coded("request", coding.as_str(), encoded.len(), plain.len());
        }
        Upload::Whole(encoded)
    }

    async fn attempt(&mut self, endpoint: &Arc<Endpoint>, begun: Option<Instant>) -> Attempted {
        let encoded = self.encoded_for(endpoint).await;
        self.was_encoded = encoded.is_some();
        let mut slot = self.pool.place(endpoint, self.client, self.payload.comes_in()).await?;
        let at_once = endpoint.places.wanted();
        self.attempts += 1;
        self.pool.ledger.meters.attempt(endpoint.rank);
        trace::sending(&self.span, &self.pool.name, &endpoint.address, self.attempts, begun);
        let connect = if std::mem::take(&mut self.on_new_connection) { Connect::New } else { Connect::Any };
        let mut headers = self.headers.clone();
        let word = self.is_expected.then(|| Arc::new(watch::Sender::new(Word::Awaited)));
        let (upload, progress) = match (encoded, &word) {
            (Some(encoded), _) => (self.encode(encoded, &mut headers), None),
            (None, Some(word)) => {
                headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
                self.payload.lend_at_word(word.subscribe())
            }
            (None, None) => self.payload.lend(),
        };
        let mut request = endpoint.request(self.method.clone(), self.target.clone(), headers, upload)?;
        if let Some(word) = &word {
            pass_word(&mut request, word);
        }
        let begun = Instant::now();
        let ledger = &self.pool.ledger;
        let abandoned = AbandonedAttempt { recent: &ledger.recent, begun };
        // Large, as an HTTP/2 client's request is; an attempt waits for a network in any case.
        let exchanged = Box::pin(endpoint.exchange(request, progress, self.pool.limits.response, connect)).await;
        let took = begun.elapsed();
        if let Some(word) = word {
            word.send_if_modified(|word| std::mem::replace(word, Word::Responded) == Word::Awaited);
        }
        let opened = match exchanged {
            Ok(Exchanged { mut response, lease }) => {
                slot.carry(lease);
                // A call that isn't processed has its status in the head, where health and retries look for it.
                if let Some(status) = self.status_of_call(&response) {
                    *response.status_mut() = status;
                }
                opened(response).await.inspect_err(|_| slot.report_broken())
            }
            Err(fault) => Err(fault),
        };
        std::mem::forget(abandoned);
        match opened {
            Ok(response) => {
                let failing = Reaction::to(response.status()).retries_endpoint;
                ledger.meters.head_seconds.observe(took.as_secs_f64());
                ledger.recent.record(took.as_micros(), failing);
                if response.status().is_success() {
                    self.note_congestion(endpoint, at_once, took);
                }
                if failing {
                    slot.report(false);
                }
                Ok((response, slot))
            }
            Err(fault) => {
                let fault = self.told_apart(fault);
                // One that processes nothing isn't sound, even if it says so each time.
                let excused = fault.lapsed && self.uncounted < UNCOUNTED_MAX;
                if fault.reason.blames_endpoint() && !excused {
                    ledger.recent.record(begun.elapsed().as_micros(), true);
                    slot.report(false);
                }
                Err(fault)
            }
        }
    }

    /// Notes how long a batch took that was sent when the endpoint had so many requests, itself among them.
    fn note_congestion(&self, endpoint: &Endpoint, at_once: usize, took: Duration) {
        if let Some(expected) = self.expected.filter(|expected| !expected.is_zero()) {
            let latency = took.as_secs_f64() / expected.as_secs_f64();
            endpoint.congestion.lock().add(at_once, latency, clock::uptime());
        }
    }

    /// Returns HTTP's status for a call of gRPC that has failed, as far as its response's head says so.
    fn status_of_call(&self, response: &Response<hyper::body::Incoming>) -> Option<StatusCode> {
        let is_success = response.status() == StatusCode::OK;
        if self.is_call && is_success { status_of_head(response.headers()) } else { None }
    }

    /// Returns the fault, or that of the request's body where it is the cause: over HTTP/2 the client library says only
    /// that the stream was given up.
    fn told_apart(&self, fault: Fault) -> Fault {
        match self.payload.failure() {
            Some(error) => {
                let detail = error.to_string();
                Fault::new(Reason::RequestBody(error), detail)
            }
            None => fault,
        }
    }

    /// Returns the endpoint of the next attempt; `None`, if this one is the outcome.
    fn next(&mut self, endpoint: &Arc<Endpoint>, attempted: &Attempted) -> Option<Arc<Endpoint>> {
        if self.was_encoded
            && let Ok((response, _)) = attempted
            && response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE
        {
            // Refused for its coding, it has had no effect. The next attempt is at the same endpoint, and not encoded.
            endpoint.willingness.lock().refused(clock::uptime());
            let (pool, endpoint_at) = (&*self.pool.name, &*endpoint.address);
            tracing::info!(pool, endpoint = endpoint_at, "endpoint takes no coded bodies; it is sent none for a while");
            self.uncounted += 1;
            return Some(Arc::clone(endpoint));
        }
        let (repeatable, body) = (self.repeatable, self.payload.is_available());
        let sequel = match attempted {
            Ok((response, _)) => retry::after_status(response.status(), repeatable, body),
            Err(fault) => retry::after_fault(&fault.reason, fault.lapsed, repeatable, body),
        };
        match sequel {
            Sequel::OnNewConnection if self.uncounted < UNCOUNTED_MAX => {
                self.on_new_connection = true;
                self.uncounted += 1;
                Some(Arc::clone(endpoint))
            }
            Sequel::OnNewConnection | Sequel::Elsewhere if !self.is_over() => {
                self.tried.push(endpoint.index);
                self.choose().ok()
            }
            Sequel::OnNewConnection | Sequel::Elsewhere | Sequel::End => None,
        }
    }

    /// Whether it has had all the attempts that it may have.
    fn is_over(&self) -> bool {
        self.attempts.saturating_sub(self.uncounted) >= self.pool.limits.attempts_max
    }

    fn finish(&mut self, endpoint: &Endpoint, attempted: Attempted) -> Result<Fetched, Failure> {
        match attempted {
            Ok((response, slot)) => Ok(Fetched {
                response: match self.upstream.take() {
                    Some(from_client) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                        tunnel::receive(response, from_client, slot)
                    }
                    _ => relay::receive(response, slot, self.pool.limits.idle, || self.pool.bounds.room(self.client)),
                },
                endpoint: Arc::clone(&endpoint.address),
                attempts: self.attempts,
            }),
            Err(fault) if matches!(fault.reason, Reason::PoolFull | Reason::ClientLimit) => {
                Err(Failure::of_pool(&self.pool.name, fault))
            }
            Err(fault) => Err(Failure::of_endpoint(&self.pool.name, &endpoint.address, fault)),
        }
    }

    fn no_endpoint(&self, nobody: NoEndpoint) -> Failure {
        let detail = match nobody {
            NoEndpoint::Down => "all endpoints are down by their health checks",
            NoEndpoint::Tried => "all endpoints have been tried",
        };
        Failure::of_pool(&self.pool.name, Fault::new(Reason::NoEndpoint, detail))
    }
}
