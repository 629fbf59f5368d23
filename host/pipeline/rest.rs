//! The rest of a stored body, from its origin: for a body that is being sent while a part of it is lost.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode, header};
use tracing::debug;

use super::fetch::{self, Fetcher, KeyedRequest};
use crate::{
    cache::{
        body::{Rest, Resumed},
        conditional::{self, Strictness, Whole},
    },
    policy::key,
};

/// Fetches the rest with the request of the client that gets it: with its credentials and its policy's edits.
#[derive(Debug)]
struct FromOrigin {
    fetcher: Arc<Fetcher>,
    request: KeyedRequest,
    whole: Whole,
}

/// Returns where the rest of a response's body comes from; `None` if another request might have an effect or a price.
pub(super) fn of(
    fetcher: &Arc<Fetcher>,
    request: &KeyedRequest,
    status: StatusCode,
    headers: &HeaderMap,
    length: Option<u64>,
    strictness: Strictness,
) -> Option<Arc<dyn Rest>> {
    if ![Method::GET, Method::QUERY].contains(key::shared_method(&request.head.method)) {
        return None;
    }
    let request = KeyedRequest { stale: None, if_error: false, if_unreachable: false, ..request.clone() };
    let whole = Whole { status, tag: headers.get(header::ETAG).cloned(), length, strictness };
    Some(Arc::new(FromOrigin { fetcher: Arc::clone(fetcher), request, whole }))
}

impl Rest for FromOrigin {
    fn resume(self: Arc<Self>, offset: u64, end: Option<u64>) -> BoxFuture<'static, Option<Resumed>> {
        Box::pin(async move { self.resumed(offset, end).await })
    }
}

impl FromOrigin {
    async fn resumed(&self, offset: u64, end: Option<u64>) -> Option<Resumed> {
        let mut upstream = fetch::outbound(&self.fetcher, &self.request, None);
        if (offset > 0 || end.is_some()) && self.whole.status == StatusCode::OK {
            conditional::ask_rest(&mut upstream.headers, &self.whole, offset, end);
        }
        let arrived = match fetch::send(&self.fetcher, &self.request, upstream).await {
            Ok(arrived) => arrived,
            Err(failed) => {
                debug!(reason = failed.reason, detail = %failed.detail, "the rest of a stored body can't be fetched");
                return None;
            }
        };
        let (parts, body) = arrived.fetched.response.into_parts();
        let offset = conditional::begins_at(&self.whole, offset, parts.status, &parts.headers)?;
        Some(Resumed { offset, body })
    }
}
