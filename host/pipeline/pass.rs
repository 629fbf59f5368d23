//! Requests that are passed on to the origin, past the cache, and what they invalidate there.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{
    HeaderMap,
    header::{CONTENT_LOCATION, LOCATION},
};
use tracing::warn;

use super::{
    advice::{Advice, PolicyContext},
    fetch::UpstreamReport,
    forwarding::Proxies,
    plan::Why,
    reply::{Replies, Reply},
    route::Route,
    trail::{Lookup, Trail},
    upstream::UpstreamRequest,
};
use crate::{
    cache::{groups, purge::Purges, status::Forward, tag::Tag},
    message::{Body, Request, RequestHead, incremental::is_incremental, url},
};

/// Invalidating after an unsafe method must not hold up its response for longer than this.
const INVALIDATE_TIME: Duration = Duration::from_millis(250);

/// The parts of the node that passing on needs.
#[derive(Debug)]
pub(super) struct Passer {
    pub(super) policy_context: Arc<PolicyContext>,
    pub(super) proxies: Arc<Proxies>,
    pub(super) purger: Arc<Purges>,
    pub(super) replies: Arc<Replies>,
}

/// A request that is passed on, and why.
pub(super) struct Passed<'a> {
    pub(super) route: &'a Route,
    pub(super) advice: &'a Advice,
    pub(super) head: RequestHead,
    pub(super) body: Body,
    pub(super) why: Why,
}

impl Passer {
    /// Passes on a request whose plan says so as soon as its head is there.
    pub(super) async fn take(&self, route: &Arc<Route>, advice: &Advice, request: Request, why: Why) -> Reply {
        let Request { head, body } = request;
        let trail = Trail { detail: why.detail().map(Into::into), ..Trail::on(route, advice) };
        let body = if http_body::Body::is_end_stream(&body) {
            Body::Empty
        } else if reads_body(advice, why) && is_incremental(&head.headers) {
            let detail = "the route's policy reads bodies as a whole, and this one is to be sent on while it arrives";
            return self.replies.incremental_refused(detail, trail);
        } else if reads_body(advice, why) {
            match body.collect(self.policy_context.body_bytes_max).await {
                Ok(bytes) => Body::from(bytes),
                Err(error) => return self.replies.bad_body(&error, trail),
            }
        } else {
            body
        };
        self.pass(Passed { route, advice, head, body, why }, trail).await
    }

    /// Passes it on with the policy's edits, to the candidates that the policy chooses. An unsafe method that succeeds
    /// invalidates what is stored for its URL (RFC 9111, section 4.4).
    pub(super) async fn pass(&self, passed: Passed<'_>, mut trail: Trail) -> Reply {
        let Passed { route, advice, head, body, why } = passed;
        let forward = why.forward();
        trail.lookup = if forward == Forward::Method { Lookup::Pass } else { Lookup::Bypass };
        trail.forward = Some(forward);
        let bytes = match &body {
            Body::Empty => Some(Bytes::new()),
            Body::Full(bytes) => Some(bytes.clone()),
            Body::Stream(_) => None,
        };
        let facts = advice.facts(&self.policy_context, &head, bytes.as_ref());
        advice.draw(&facts);
        let mut headers = self.proxies.of_request(route, advice, &head);
        self.policy_context.loops.mark(&mut headers, &head.headers);
        let mut upstream = UpstreamRequest {
            method: head.method.clone(),
            authority: head.authority.clone(),
            target: route.target_sent(&head),
            headers,
            body: body.into(),
            client: Some(head.client.ip),
            home: None,
            expected: None,
            is_refused: false,
            recodes: false,
            span: advice.span().clone(),
        };
        // From here on the request may have an effect, whether or not its client waits for the response.
        let changing = (!head.method.is_safe() && !route.infers()).then(|| Changing::new(&self.purger, &head));
        let prepared = upstream.prepare(route, advice, &facts);
        trail.credit(advice);
        let choice = match prepared {
            Ok(choice) => choice,
            Err(fault) => return self.replies.fault_reply(route, &fault, trail),
        };
        let arrived = match upstream.send(route, &choice).await {
            Ok(arrived) => arrived,
            Err(failed) => return self.replies.failed_reply(&failed, trail),
        };
        let status = arrived.fetched.response.status();
        if let Some(changing) = changing {
            changing.over();
            let is_changed = status.is_success() || status.is_redirection();
            self.invalidate(route, &head, is_changed, arrived.fetched.response.headers()).await;
        }
        let report = UpstreamReport::of(&arrived, advice);
        self.replies.passed_reply(arrived.fetched.response, &report, trail)
    }

    /// Invalidates what an unsafe method has changed, on this node at once. If it was successful, that is the request's URL,
    /// and those of the same origin that the response says were made or changed with it; in any case the groups that the
    /// response names (RFC 9875, section 3).
    ///
    /// A URL is left out if nothing can be stored for it nor be on its way: most writes of an API need no line in the log.
    /// Where a policy makes the keys, what was fetched for one URL may be the response to another.
    async fn invalidate(&self, route: &Route, head: &RequestHead, is_changed: bool, response: &HeaderMap) {
        let url = head.url();
        let mut tags = Vec::new();
        if is_changed {
            let named = [LOCATION, CONTENT_LOCATION].into_iter().filter_map(|name| {
                let reference = response.get(name)?.to_str().ok()?;
                url::of_same_origin(head.scheme, head.authority(), &head.target, reference)
            });
            let others: Vec<String> = named.filter(|other| *other != url).collect();
            for changed in others.iter().chain([&url]) {
                tags.extend(search(changed).into_iter().chain([Tag::url(changed)]));
            }
            tags.retain(|tag| route.policy.is_some() || self.purger.may_hold(tag));
        }
        if route.groups() {
            tags.extend(groups::invalidated(&url, response));
        }
        if tags.is_empty() {
            return;
        }
        // All of them begin at once, so that a client that leaves leaves none of them out.
        let all = join_all(tags.into_iter().map(|tag| self.purger.invalidate(tag)));
        if tokio::time::timeout(INVALIDATE_TIME, all).await.is_err() {
            warn!(
                url,
                "an unsafe method has invalidated what it changed on this node; neither the purge log nor the disk has \
                 taken all of it for the others yet"
            );
        }
    }
}

/// Whether the body of a request that is passed on is read as a whole before, for its policy.
pub(super) fn reads_body(advice: &Advice, why: Why) -> bool {
    why != Why::Switch && advice.needs_body(true)
}

/// Returns the tag by which responses are invalidated that are served for several queries, of which this URL has one.
/// Without a query its own tag is one of theirs.
fn search(url: &str) -> Option<Tag> {
    url.contains('?').then(|| Tag::search(url))
}

/// An unsafe request whose effect isn't known yet. Dropped before its response is there (the client left, or the
/// origin failed), it invalidates its URL.
struct Changing {
    purger: Arc<Purges>,
    url: Tag,
    search: Option<Tag>,
    is_over: bool,
}

impl Changing {
    fn new(purger: &Arc<Purges>, head: &RequestHead) -> Self {
        let url = head.url();
        Self { purger: Arc::clone(purger), url: Tag::url(&url), search: search(&url), is_over: false }
    }

    /// Its response is there.
    fn over(mut self) {
        self.is_over = true;
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        if !self.is_over {
            let (purger, url, search) = (Arc::clone(&self.purger), self.url, self.search);
            tokio::spawn(async move {
                purger.invalidate(url).await;
                if let Some(search) = search {
                    purger.invalidate(search).await;
                }
            });
        }
    }
}
