//! Answers as clients get them: from a stored object, from an answer on its way in, or passed through.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{
    Pipeline, Served, Trail,
    fetch::{self, Arrival, Ask},
};
use crate::{
    cache::{conditional, entry::Object, key::Key, status::CACHE_STATUS, store::Tier},
    clock::{self, Timestamp},
    message::{Body, RequestHead, Response},
};

/// What of a request shapes the reply.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// GET, HEAD or POST.
    pub method: &'a Method,
    /// Its header fields, for conditions.
    pub headers: &'a HeaderMap,
}

impl Wanted<'_> {
    /// Would the client rather hear 304? Only GET and HEAD ask so (RFC 9110, section 13.2.1).
    fn not_modified(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let asks = self.method == Method::GET || self.method == Method::HEAD;
        asks && conditional::not_modified(self.headers, status, headers)
    }
}

impl<'a> From<&'a RequestHead> for Wanted<'a> {
    fn from(head: &'a RequestHead) -> Self {
        Self { method: &head.method, headers: &head.headers }
    }
}

impl Pipeline {
    /// The reply of a fresh memory hit: the prepared headers and the stored bytes, nothing formatted, nothing copied.
    /// `None` if it isn't that simple, or there is no room for a large body beside those that are read already.
    pub(super) fn hit_reply(
        &self,
        object: &Object,
        policy: Option<&Arc<str>>,
        wanted: Wanted<'_>,
        now: Timestamp,
    ) -> Option<Response> {
        if !object.is_whole() {
            return None;
        }
        let not_modified = wanted.not_modified(object.head.status, &object.head.headers);
        let body = if not_modified || wanted.method == Method::HEAD {
            Body::Empty
        } else {
            Body::Full(self.cache.lend(&object.body)?)
        };
        let headers = object.hit_headers(&self.node, policy, now);
        Some(shaped(object.head.status, headers, body, Some(object.head.length), wanted, not_modified))
    }

    /// The reply from a stored object, whatever tier it was in. `None` if its body isn't there.
    pub(super) async fn object_reply(
        self: &Arc<Self>,
        ask: &Ask,
        key: Key,
        object: &Arc<Object>,
        mut trail: Trail,
        now: Timestamp,
    ) -> Option<Served> {
        let wanted = Wanted::from(&ask.head);
        trail.ttl_ms = Some(signed(object.head.lifetimes.ttl_ms).saturating_sub(signed(object.head.age_ms(now))));
        let mut headers = object.aged_headers(now);
        headers.append(CACHE_STATUS, trail.cache_status(&self.node));
        let not_modified = wanted.not_modified(object.head.status, &object.head.headers);
        let body = if not_modified || wanted.method == Method::HEAD {
            Body::Empty
        } else {
            let head = &object.head;
            self.cache.body(key, object, || self.rest(ask, head.status, &head.headers, Some(head.length))).await?
        };
        let response = shaped(object.head.status, headers, body, Some(object.head.length), wanted, not_modified);
        Some(Served { response, trail })
    }

    /// The reply from an answer that is still coming in. `None` if its beginning is gone.
    pub(super) async fn arrival_reply(
        self: &Arc<Self>,
        ask: &Ask,
        arrival: &Arrival,
        mut trail: Trail,
    ) -> Option<Served> {
        let wanted = Wanted::from(&ask.head);
        let status = arrival.served.status;
        let length = arrival.body.length();
        let not_modified = wanted.not_modified(status, &arrival.headers);
        let body = if not_modified || wanted.method == Method::HEAD {
            Body::Empty
        } else {
            self.cache.arriving(&arrival.body, || self.rest(ask, status, &arrival.headers, length)).await?
        };
        note(&mut trail, &arrival.served);
        trail.stored = arrival.ttl_ms.is_some();
        trail.ttl_ms = arrival.ttl_ms.map(signed);
        let mut headers = (*arrival.headers).clone();
        let waited_ms = clock::millis(clock::uptime().since(arrival.at));
        if arrival.ttl_ms.is_some() && waited_ms >= 1_000 {
            // One that joined late gets what has been on its way for as long (RFC 9111, section 5.1).
            headers.insert(header::AGE, HeaderValue::from(arrival.age_ms.saturating_add(waited_ms) / 1_000));
        }
        headers.append(CACHE_STATUS, trail.cache_status(&self.node));
        let response = shaped(status, headers, body, length, wanted, not_modified);
        Some(Served { response, trail })
    }

    /// The reply from an answer that isn't stored; one that the client has already is cut down to a 304.
    pub(super) fn refused_answer(
        &self,
        response: Response,
        served: &fetch::Served,
        wanted: Wanted<'_>,
        trail: Trail,
    ) -> Served {
        let (parts, body) = response.into_parts();
        let not_modified = wanted.not_modified(parts.status, &parts.headers);
        let length = http_body::Body::size_hint(&body).exact();
        let response = shaped(parts.status, parts.headers, body, length, wanted, not_modified);
        self.passed_reply(response, served, trail)
    }

    /// The reply passed through from the origin.
    pub(super) fn passed_reply(&self, mut response: Response, served: &fetch::Served, mut trail: Trail) -> Served {
        note(&mut trail, served);
        response.headers_mut().append(CACHE_STATUS, trail.cache_status(&self.node));
        Served { response, trail }
    }

    /// The reply when no answer came.
    pub(super) fn failed_reply(&self, failed: &fetch::Failed, mut trail: Trail) -> Served {
        trail.endpoint.clone_from(&failed.endpoint);
        trail.note_failure(failed.reason);
        trail.detail = Some(failed.reason.into());
        let title = failed.status.canonical_reason().unwrap_or("Origin error");
        let mut served = self.own(failed.status, title, &failed.detail, trail);
        if failed.status == StatusCode::TOO_MANY_REQUESTS {
            served.response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        served
    }
}

/// Who answered, on the trail.
pub(super) fn note(trail: &mut Trail, served: &fetch::Served) {
    trail.forward_status = Some(served.status.as_u16());
    trail.endpoint = Some(Arc::clone(&served.endpoint));
    trail.attempts = served.attempts;
    trail.cost_micro = served.cost_micro;
    if let (None, Some(remark)) = (&trail.detail, &served.remark) {
        trail.detail = Some(remark.to_string().into());
    }
}

/// A whole answer, its head alone (HEAD), or "you have it" (304), as the client wants.
fn shaped(
    status: StatusCode,
    mut headers: HeaderMap,
    body: Body,
    length: Option<u64>,
    wanted: Wanted<'_>,
    not_modified: bool,
) -> Response {
    let (status, body) = if not_modified {
        conditional::strip_for_not_modified(&mut headers);
        (StatusCode::NOT_MODIFIED, Body::Empty)
    } else if wanted.method == Method::HEAD {
        if let Some(length) = length {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        (status, Body::Empty)
    } else {
        (status, body)
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The trail of a stored answer.
pub(super) fn found(trail: &mut Trail, lookup: super::Lookup, tier: Tier) {
    trail.lookup = lookup;
    trail.tier = Some(tier);
}
