//! Responses as clients get them: from a stored object, from a response on its way in, passed through, or of this
//! node's own.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{
    coding::{self, Coder, Said, add_to_vary},
    fetch::{Arrival, Fetcher, KeyedRequest, ORIGIN_ERROR, UpstreamReport},
    loops, rest,
    rewriting::Unwritable,
    route::Route,
    trail::{Lookup, Trail},
    upstream::Failed,
};
use crate::{
    cache::{
        Cache,
        body::cut,
        conditional::{self, Strictness},
        entry::Object,
        key::Key,
        range::{self, Candidate, Extent, Sections},
        status::{CACHE_STATUS, CUT_OFF},
        store::Tier,
        tag::UrlTags,
        targeted,
    },
    clock::{self, Timestamp},
    message::{
        Body, BodyError, RequestHead, Response,
        problem::problem,
        proxy_status::{PROXY_STATUS, ProxyError, ProxyStatus},
    },
    policy::Fault,
};

/// The response to a request, and the trail of decisions that led to it.
#[derive(Debug)]
pub struct Reply {
    /// The response.
    pub response: Response,
    /// The decisions on its way.
    pub trail: Trail,
}

impl Reply {
    /// Edits its header fields on their way to the client, as its route says, unless it is a refusal of the node's own;
    /// whatever is stored stays as the origin sent it. `varies_by` are the request header fields that its route was chosen
    /// by. A node that asks this one as its parent, not `is_for_client`, edits them itself.
    pub(super) fn edit(&mut self, varies_by: &[HeaderName], is_for_client: bool) {
        let (headers, trail) = (self.response.headers_mut(), &self.trail);
        for name in varies_by {
            add_to_vary(headers, name);
        }
        let is_edited = is_for_client && !trail.is_refusal;
        let edits = trail.route.as_ref().filter(|_| is_edited).map(|route| &route.config.response_headers);
        if let Some(edits) = edits.filter(|edits| !edits.is_empty()) {
            // It names the border of the parts.
            let multipart = headers.get(header::CONTENT_TYPE).filter(|value| value.as_bytes().starts_with(MULTIPART));
            let multipart = multipart.cloned();
            edits.apply(headers);
            if let Some(multipart) = multipart {
                headers.insert(header::CONTENT_TYPE, multipart);
            }
        }
    }
}

/// The media type of several ranges.
const MULTIPART: &[u8] = b"multipart/byteranges";

/// The parts of a request that the reply depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// GET, HEAD, QUERY or POST.
    method: &'a Method,
    /// Its header fields, for conditions.
    headers: &'a HeaderMap,
}

impl Wanted<'_> {
    /// Returns what the client is sent of a response: conditions come first, and a range is for GET alone (RFC 9110,
    /// section 13.2.2).
    fn form(&self, candidate: &Candidate<'_>) -> Form {
        // What is said of GET here holds for QUERY (RFC 10008, sections 2.6 and 2.8).
        let is_get = self.method == Method::GET || self.method == Method::QUERY;
        let is_head = self.method == Method::HEAD;
        if (is_get || is_head) && conditional::not_modified(self.headers, candidate.status, candidate.headers) {
            Form::NotModified
        } else if is_head {
            Form::Head
        } else if is_get {
            Form::Content(Extent::of(self.headers, candidate, || fastrand::u128(..)))
        } else {
            Form::Content(Extent::Whole)
        }
    }
}

/// What a client is sent of a response.
#[derive(Debug)]
enum Form {
    /// 304: it has the response already. Only GET, HEAD and QUERY can ask for that (RFC 9110, section 13.2.1; RFC 10008,
    /// section 2.6).
    NotModified,
    /// The head alone.
    Head,
    /// Its content, or a part of it.
    Content(Extent),
}

impl Form {
    /// Returns the sections of the body that are sent, if any are.
    fn sections(&self) -> Option<Sections> {
        match self {
            Self::Content(Extent::Whole) => Some(Sections::Whole),
            Self::Content(Extent::Partial(partial)) => Some(partial.sections().clone()),
            Self::NotModified | Self::Head | Self::Content(Extent::Unsatisfiable(_)) => None,
        }
    }
}

impl<'a> From<&'a RequestHead> for Wanted<'a> {
    fn from(head: &'a RequestHead) -> Self {
        Self { method: &head.method, headers: &head.headers }
    }
}

/// Makes replies, each with its trail's `Cache-Status`.
#[derive(Debug)]
pub(super) struct Replies {
    /// The node's name.
    pub(super) node_name: String,
    pub(super) cache: Arc<Cache>,
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) coder: Arc<Coder>,
}

impl Replies {
    /// Returns the reply of a fresh memory hit: the prepared headers and the stored bytes, nothing formatted, nothing
    /// copied. `None` if it isn't that simple, or there is no room for a large body beside those that are read already.
    /// `said` is what it says of the codings in which other clients may get it.
    pub(super) fn hit_reply(
        &self,
        object: &Object,
        said: &Said,
        policy: Option<&Arc<str>>,
        wanted: Wanted<'_>,
        now: Timestamp,
    ) -> Option<Response> {
        if !object.is_whole() {
            return None;
        }
        let form = wanted.form(&stored(object));
        let body = match form.sections() {
            Some(sections) => cut::slices(self.cache.lend(&object.body)?, sections),
            None => Body::Empty,
        };
        let is_cut_off = self.cache.purger().is_serving_cut_off();
        let mut headers = object.hit_headers(&self.node_name, policy, is_cut_off, now);
        said.write(&mut headers);
        Some(response_for(object.head.status, headers, body, Some(object.head.length), &form))
    }

    /// Returns the reply from a stored object, whatever tier it was in. `None` if its body isn't there.
    pub(super) async fn object_reply(
        &self,
        request: &KeyedRequest,
        key: Key,
        object: &Arc<Object>,
        mut trail: Trail,
        now: Timestamp,
    ) -> Option<Reply> {
        let wanted = Wanted::from(&request.head);
        let coding = self.coder.form_in_time(&request.coding(), key, object).await;
        let (key, object) = coding.of(key, object);
        let left_ms = signed(object.head.lifetimes.ttl_ms).saturating_sub(signed(object.head.age_ms(now)));
        // What was purged softly is stale before its time is over.
        trail.ttl_ms = Some(if trail.lookup == Lookup::Stale { left_ms.min(0) } else { left_ms });
        let mut headers = object.aged_headers(now);
        coding.said().write(&mut headers);
        self.note_cut_off(&mut trail);
        headers.append(CACHE_STATUS, trail.cache_status(&self.node_name));
        // It is served in place of a response that didn't come.
        if let Some(proxy_status) = trail.proxy_status(&self.node_name) {
            headers.append(PROXY_STATUS, proxy_status);
        }
        let (head, form) = (&object.head, wanted.form(&stored(object)));
        let body = match form.sections() {
            Some(sections) => {
                let rest = || {
                    if coding.is_coded() {
                        // The origin doesn't have it.
                        return None;
                    }
                    rest::of(&self.fetcher, request, head.status, &head.headers, Some(head.length), Strictness::Nothing)
                };
                self.cache.body(key, object, sections, rest).await?
            }
            None => Body::Empty,
        };
        let response = response_for(head.status, headers, body, Some(head.length), &form);
        Some(Reply { response, trail })
    }

    /// Notes if the node serves what is stored although it is past a fence.
    pub(super) fn note_cut_off(&self, trail: &mut Trail) {
        if trail.is_hit() && self.cache.purger().is_serving_cut_off() {
            trail.detail.get_or_insert(CUT_OFF.into());
        }
    }

    /// Returns the reply from a response that is still arriving. `None` if its beginning is gone.
    pub(super) async fn arrival_reply(
        &self,
        request: &KeyedRequest,
        arrival: &Arrival,
        mut trail: Trail,
    ) -> Option<Reply> {
        let wanted = Wanted::from(&request.head);
        let status = arrival.report.status;
        let length = arrival.body.length();
        let form = wanted.form(&Candidate { status, headers: &arrival.headers, length, is_arriving: true });
        let body = match form.sections() {
            Some(sections) => {
                let rest = || rest::of(&self.fetcher, request, status, &arrival.headers, length, Strictness::Nothing);
                self.cache.arriving(&arrival.body, sections, rest).await?
            }
            None => Body::Empty,
        };
        note(&mut trail, &arrival.report);
        // What was purged before its head came isn't stored. What is purged while its body comes isn't known yet.
        let is_gone = || self.cache.purger().is_gone(&arrival.subject(), &UrlTags::default());
        trail.stored = arrival.ttl_ms.is_some() && !is_gone();
        trail.ttl_ms = arrival.ttl_ms.map(signed);
        let mut headers = (*arrival.headers).clone();
        let waited_ms = clock::millis(clock::uptime().since(arrival.at));
        // A node whose parent this is takes what has no age for fetched since it asked.
        let is_of_another = trail.collapsed && loops::depth(&request.head.headers) > 0;
        if arrival.ttl_ms.is_some() && (waited_ms >= 1_000 || is_of_another) {
            // A request that joined late gets a response that has been arriving for as long (RFC 9111, section 5.1).
            headers.insert(header::AGE, HeaderValue::from(arrival.age_ms.saturating_add(waited_ms) / 1_000));
        }
        if arrival.ttl_ms.is_some() {
            coding::said_in_advance(&request.coding(), status, &headers, length).write(&mut headers);
        }
        headers.append(CACHE_STATUS, trail.cache_status(&self.node_name));
        let response = response_for(status, headers, body, length, &form);
        Some(Reply { response, trail })
    }

    /// Returns the reply from a response that isn't stored; one that the client has already is cut down to a 304, and one
    /// of which it wants a range to that. Several ranges would have to be read in their order: it gets the whole.
    pub(super) fn unstored_reply(
        &self,
        response: Response,
        report: &UpstreamReport,
        wanted: Wanted<'_>,
        trail: Trail,
    ) -> Reply {
        let (parts, body) = response.into_parts();
        let length = http_body::Body::size_hint(&body).exact();
        let candidate = Candidate { status: parts.status, headers: &parts.headers, length, is_arriving: true };
        let (body, form) = match wanted.form(&candidate) {
            Form::Content(Extent::Partial(partial)) => match partial.sections() {
                Sections::One(range) => (cut::passing(body, range), Form::Content(Extent::Partial(partial))),
                Sections::Whole | Sections::Several(_) => (body, Form::Content(Extent::Whole)),
            },
            form => (body, form),
        };
        let response = response_for(parts.status, parts.headers, body, length, &form);
        self.passed_reply(response, report, trail)
    }

    /// Returns the reply passed through from the origin.
    pub(super) fn passed_reply(&self, mut response: Response, report: &UpstreamReport, mut trail: Trail) -> Reply {
        note(&mut trail, report);
        if let Some(route) = &trail.route {
            targeted::take_own(response.headers_mut(), route.targeted());
        }
        response.headers_mut().append(CACHE_STATUS, trail.cache_status(&self.node_name));
        Reply { response, trail }
    }

    /// Returns the reply when no response came.
    pub(super) fn failed_reply(&self, failed: &Failed, mut trail: Trail) -> Reply {
        trail.endpoint.clone_from(&failed.endpoint);
        note_failed(&mut trail, failed);
        trail.detail = Some(failed.reason.into());
        let title = failed.status.canonical_reason().unwrap_or("Origin error");
        let mut reply = self.own(failed.status, title, &failed.detail, trail);
        if failed.status == StatusCode::TOO_MANY_REQUESTS {
            reply.response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        reply
    }

    /// Returns the reply when the policy faulted and the route refuses the request then.
    pub(super) fn fault_reply(&self, route: &Route, fault: &Fault, mut trail: Trail) -> Reply {
        trail.detail.get_or_insert(fault.kind().into());
        trail.proxy_status = Some(ProxyStatus::Error(ProxyError::ProxyInternalError));
        let failed = Failed::of_fault(route, fault);
        self.own(failed.status, "Policy fault", &failed.detail, trail)
    }

    /// Returns the reply to a request beyond those that its route has places for.
    pub(super) fn route_full(&self, mut trail: Trail) -> Reply {
        trail.detail = Some("route-full".into());
        let detail = "the route has as many requests under way as it may; see its `requests_max`";
        let mut reply = self.own(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable", detail, trail);
        reply.response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        reply
    }

    /// Returns the reply to a request whose path can't be rewritten as its route says.
    pub(super) fn unwritable(&self, fault: Unwritable, mut trail: Trail) -> Reply {
        let (status, word, detail) = fault.told();
        trail.detail = Some(word.into());
        self.own(status, status.canonical_reason().unwrap_or("Bad Request"), detail, trail)
    }

    /// Returns the refusal of a request whose body can't be sent on as it comes (RFC 10036, section 4.1).
    pub(super) fn incremental_refused(&self, detail: &str, trail: Trail) -> Reply {
        let mut reply = self.own(StatusCode::NOT_IMPLEMENTED, "Not Implemented", detail, trail);
        let error = ProxyStatus::Error(ProxyError::IncrementalRefused).render(&self.node_name, None);
        reply.response.headers_mut().insert(PROXY_STATUS, error);
        reply
    }

    /// Returns the reply to a request whose body could not be read.
    pub(super) fn bad_body(&self, error: &BodyError, trail: Trail) -> Reply {
        let status = match error {
            BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Stalled { .. } | BodyError::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            BodyError::Broken(_) => StatusCode::BAD_REQUEST,
        };
        let title = status.canonical_reason().unwrap_or("Bad body");
        self.own(status, title, &error.to_string(), trail)
    }

    /// Returns a response of this node's own: a refusal or a failure, as problem+json (RFC 9457).
    pub(super) fn own(&self, status: StatusCode, title: &str, detail: &str, mut trail: Trail) -> Reply {
        (trail.failed, trail.is_refusal) = (status.is_server_error(), true);
        trail.proxy_status.get_or_insert_with(|| ProxyStatus::of_own(status));
        let mut response = self.completed(problem(status, title, detail), &trail);
        // Some of these statuses may be stored by default (RFC 9110, section 15.1).
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Reply { response, trail }
    }

    /// Returns a response of this node's own with its `Cache-Status` and `Proxy-Status`.
    pub(super) fn completed(&self, mut response: Response, trail: &Trail) -> Response {
        response.headers_mut().insert(CACHE_STATUS, trail.cache_status(&self.node_name));
        if let Some(proxy_status) = trail.proxy_status(&self.node_name) {
            response.headers_mut().insert(PROXY_STATUS, proxy_status);
        }
        response
    }
}

/// Notes on the trail where a response came from.
pub(super) fn note(trail: &mut Trail, report: &UpstreamReport) {
    trail.forward_status = Some(report.status.as_u16());
    trail.endpoint = Some(Arc::clone(&report.endpoint));
    trail.attempts = report.attempts;
    trail.cost_micro = report.cost_micro;
    if let (None, Some(remark)) = (&trail.detail, &report.remark) {
        trail.detail = Some(remark.to_string().into());
    }
}

/// Notes on the trail that no response came, or none that is served.
pub(super) fn note_failed(trail: &mut Trail, failed: &Failed) {
    trail.note_failure(failed.reason);
    if failed.reason == ORIGIN_ERROR {
        let status = failed.status.as_u16();
        (trail.forward_status, trail.proxy_status) = (Some(status), Some(ProxyStatus::Received(status)));
    }
}

/// A stored response, as ranges are selected in it.
fn stored(object: &Object) -> Candidate<'_> {
    let head = &object.head;
    Candidate { status: head.status, headers: &head.headers, length: Some(head.length), is_arriving: false }
}

/// Returns the response in the form that the client is sent. `body` is cut to that already, `length` is that of the whole.
fn response_for(status: StatusCode, mut headers: HeaderMap, body: Body, length: Option<u64>, form: &Form) -> Response {
    let (status, body) = match form {
        Form::NotModified => {
            conditional::strip_for_not_modified(&mut headers);
            (StatusCode::NOT_MODIFIED, Body::Empty)
        }
        Form::Head => {
            // The length of a 304 would be that of the 200 (RFC 9110, section 8.6).
            if let Some(length) = length.filter(|_| status != StatusCode::NOT_MODIFIED) {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            }
            (status, Body::Empty)
        }
        Form::Content(Extent::Whole) => (status, body),
        Form::Content(Extent::Partial(partial)) => {
            partial.describe(&mut headers);
            (StatusCode::PARTIAL_CONTENT, body)
        }
        Form::Content(Extent::Unsatisfiable(length)) => return unsatisfiable(*length, &headers),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Returns 416: the response with these header fields has none of the bytes that the client wants.
fn unsatisfiable(length: u64, headers: &HeaderMap) -> Response {
    let detail = format!("it has {length} bytes, and none of those that are asked for");
    let mut response = problem(StatusCode::RANGE_NOT_SATISFIABLE, "Range Not Satisfiable", &detail);
    response.headers_mut().insert(header::CONTENT_RANGE, range::unsatisfied(length));
    for name in [header::ETAG, header::VARY, CACHE_STATUS] {
        for value in headers.get_all(&name) {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    response
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Notes on the trail where a stored response was found.
pub(super) fn found(trail: &mut Trail, lookup: Lookup, tier: Tier) {
    trail.lookup = lookup;
    trail.tier = Some(tier);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_to_head_has_the_length_of_the_content_unless_it_is_a_304() {
        for (status, wanted) in [(StatusCode::OK, Some("7")), (StatusCode::NOT_MODIFIED, None)] {
            let response = response_for(status, HeaderMap::new(), Body::Empty, Some(7), &Form::Head);
            let length = response.headers().get(header::CONTENT_LENGTH).map(|value| value.to_str().unwrap());
            assert_eq!((response.status(), length), (status, wanted));
        }
    }
}
