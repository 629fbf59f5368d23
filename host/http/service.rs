//! One request: checked, passed to the handler, and its response framed. The same for every front; a front brings a
//! request with a body of its own kind, and takes the response.

use std::{fmt::Display, sync::Arc};

use ::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, request::Parts, uri::PathAndQuery};
use bytes::Bytes;
use http_body::Body as HttpBody;

use super::{
    activity::{Activity, InFlight},
    body::{self, Ends, Trailers},
    guests::Guest,
    handler::{Arrival, Handler, Refused},
    pace::Pace,
    rejection::Rejection,
    reply::Reply,
    request::{self, Checked, Early},
    shared::{Peer, Shared},
};
use crate::message::{Body, Client, Request, Response, body::Sender, problem::problem, raw_query};

/// Pieces that a client may be ahead of the other side once it has switched to another protocol.
const PIECES: usize = 4;

/// The state that the requests of one connection share.
pub(super) struct Conversation<H> {
    shared: Arc<Shared<H>>,
    activity: Arc<Activity>,
    peer: Peer,
}

impl<H: Handler> Conversation<H> {
    pub(super) fn new(shared: Arc<Shared<H>>, activity: Arc<Activity>, peer: Peer) -> Self {
        Self { shared, activity, peer }
    }

    /// Serves one request, whatever it is.
    pub(super) async fn answer<B>(&self, request: ::http::Request<B>) -> ::http::Response<Reply<Body>>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Display,
    {
        self.respond(request, None).await
    }

    /// Serves one request of HTTP/1.1, or an extended CONNECT, with which its client may switch to another protocol. If
    /// the response is 101, its body is what the client is sent from then on, and what the client sends is put into the
    /// sender.
    pub(super) async fn answer_or_switch<B>(
        &self,
        request: ::http::Request<B>,
    ) -> (::http::Response<Reply<Body>>, Option<Sender>)
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Display,
    {
        let mut from_client = None;
        let response = self.respond(request, Some(&mut from_client)).await;
        let has_switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        (response, from_client.filter(|_| has_switched))
    }

    async fn respond<B>(
        &self,
        request: ::http::Request<B>,
        from_client: Option<&mut Option<Sender>>,
    ) -> ::http::Response<Reply<Body>>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Display,
    {
        let in_flight = InFlight::begin(&self.activity);
        let marked = self.activity.take_marked();
        let (mut parts, body) = request.into_parts();
        let (version, is_head) = (parts.version, parts.method == Method::HEAD);
        self.shared.metrics.request(version);
        let arrival = self.arrival(&in_flight);
        let ticket = self.peer.guest.as_ref().map(Guest::begin);
        let trailers = if body.is_end_stream() { Trailers::Any } else { Trailers::of(&parts) };
        let framing = (trailers, Ends::of(&parts));
        let mut response = if matches!(ticket, Some(None)) {
            self.refuse(too_many(), &parts, arrival)
        } else {
            match self.admit(&mut parts, marked, body, framing, from_client) {
                Ok(request) => {
                    // What is left of it isn't to be held while the request is served.
                    drop(parts);
                    self.shared.handler.handle(request, arrival).await
                }
                Err(rejection) => self.refuse(rejection.response(version), &parts, arrival),
            }
        };
        if trailers == Trailers::Announced {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        finish(response, is_head).map(|body| Reply::new(body, in_flight, ticket.flatten()))
    }

    /// Returns the response to what HTTP/1's parser has refused.
    pub(super) fn unparsed(&self, rejection: Rejection) -> Response {
        self.shared.metrics.rejected(rejection.status());
        let request = Refused {
            client: Client { ip: self.peer.ip, version: Version::HTTP_11 },
            scheme: self.peer.scheme,
            method: None,
            authority: b"",
            target: "",
            arrival: Arrival::default(),
        };
        self.shared.handler.refused(rejection.response(Version::HTTP_11), &request)
    }

    /// Measures how long the connection's first request took to come; a later one costs no look at the clock.
    fn arrival(&self, in_flight: &InFlight) -> Arrival {
        let since_accept = in_flight.is_first().then(|| self.peer.accepted.elapsed());
        if let Some(time) = since_accept {
            self.shared.metrics.head_complete(time);
        }
        Arrival { since_accept }
    }

    fn refuse(&self, response: Response, parts: &Parts, arrival: Arrival) -> Response {
        self.shared.metrics.rejected(response.status());
        let named = || parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
        let request = Refused {
            client: Client { ip: self.peer.ip, version: parts.version },
            scheme: self.peer.scheme,
            method: Some(&parts.method),
            authority: parts.uri.authority().map(|named| named.as_str().as_bytes()).or_else(named).unwrap_or_default(),
            target: parts.uri.path_and_query().map_or("", PathAndQuery::as_str),
            arrival,
        };
        self.shared.handler.refused(response, &request)
    }

    /// Checks a request, in whose target its front has marked so many characters. What is left of `parts` after a refusal
    /// says what it was for.
    fn admit<B>(
        &self,
        parts: &mut Parts,
        marked: usize,
        body: B,
        framing: (Trailers, Ends),
        from_client: Option<&mut Option<Sender>>,
    ) -> Result<Request, Rejection>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Display,
    {
        if raw_query::marks(parts.uri.query()) > marked {
            return Err(Rejection::TargetReserved);
        }
        let client = Client { ip: self.peer.ip, version: parts.version };
        let (scheme, local) = (self.peer.scheme, self.peer.local);
        let Checked { mut head, switches } = request::normalise(parts, scheme, local, client, &self.shared.limits)?;
        if parts.extensions.get::<Early>().is_some() {
            self.shared.metrics.early.inc();
            head.mark_early();
        }
        if let Some(from_client) = from_client.filter(|_| switches) {
            let (sender, body) = Body::channel(PIECES, None);
            *from_client = Some(sender);
            return Ok(Request { head, body });
        }
        let timeouts = &self.shared.timeouts;
        let body = body::admit(body, self.shared.limits.body_bytes_max, timeouts.body, Pace::of(timeouts), framing)?;
        Ok(Request { head, body })
    }
}

/// Returns the response to a request beyond those that its client's address may have in flight.
fn too_many() -> Response {
    let detail = "this client's address has as many requests under way as it may; see `limits.client_streams_max`";
    let mut response = problem(StatusCode::TOO_MANY_REQUESTS, "Too Many Requests", detail);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Makes a response's framing true, wherever its header fields came from.
fn finish(mut response: Response, is_head: bool) -> Response {
    // The version of an origin's response says nothing about this connection.
    *response.version_mut() = Version::HTTP_11;
    response.headers_mut().remove(header::TRANSFER_ENCODING);
    let exact = response.body().size_hint().exact();
    if response.status() == StatusCode::NO_CONTENT {
        // There it has none (RFC 9110, section 8.6).
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    if is_head || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        // An empty body doesn't show the length that GET would have got; any other one does.
        let exact = exact.filter(|_| is_head && !response.body().is_end_stream());
        if let Some(exact) = exact {
            response.headers_mut().entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(exact));
        }
        *response.body_mut() = Body::Empty;
    } else if let Some(exact) = exact {
        remove_wrong_length(response.headers_mut(), exact);
    }
    response
}

/// Removes a wrong length, which would make the client wait, or take the rest for the next response. hyper writes the
/// true one.
fn remove_wrong_length(headers: &mut HeaderMap, exact: u64) {
    let is_right = |value: &HeaderValue| value.to_str().ok().and_then(|text| text.parse().ok()) == Some(exact);
    if headers.get(header::CONTENT_LENGTH).is_some_and(|value| !is_right(value)) {
        headers.remove(header::CONTENT_LENGTH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a response of `body` whose header says `length`.
    fn response(status: u16, length: Option<&str>, body: &'static str) -> Response {
        let mut builder = ::http::Response::builder().status(status).version(Version::HTTP_2);
        if let Some(length) = length {
            builder = builder.header(header::CONTENT_LENGTH, length);
        }
        builder.body(Body::Full(Bytes::from_static(body.as_bytes()))).unwrap()
    }

    #[test]
    fn framing_is_made_true() {
        let cases = [
            ("kept", response(200, Some("5"), "hello"), false, Some("5"), 5),
            ("absent, left to hyper", response(200, None, "hello"), false, None, 5),
            ("wrong", response(200, Some("6"), "hello"), false, None, 5),
            ("no number", response(200, Some("five"), "hello"), false, None, 5),
            ("empty but not", response(200, Some("5"), ""), false, None, 0),
            ("a HEAD whose response is like GET's", response(200, None, "hello"), true, Some("5"), 0),
            ("HEAD with the origin's length", response(200, Some("700"), ""), true, Some("700"), 0),
            ("HEAD of unknown length", response(200, None, ""), true, None, 0),
            ("204 with a body", response(204, None, "hello"), false, None, 0),
            ("204 with a length", response(204, Some("5"), "hello"), false, None, 0),
            ("304 with the length of 200", response(304, Some("700"), ""), false, Some("700"), 0),
        ];
        for (name, response, is_head, length, bytes) in cases {
            let finished = finish(response, is_head);
            let stated = finished.headers().get(header::CONTENT_LENGTH).map(|value| value.to_str().unwrap());
            assert_eq!(stated, length, "{name}");
            assert_eq!(finished.body().size_hint().exact(), Some(bytes), "{name}");
            assert_eq!(finished.version(), Version::HTTP_11, "{name}");
        }
    }

    #[test]
    fn framing_is_not_the_handlers_business() {
        let mut chunked = response(200, None, "hello");
        chunked.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("gzip, chunked"));
        assert!(finish(chunked, false).headers().is_empty());
    }
}
