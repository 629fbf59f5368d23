//! An exchange with the parents of a route, in place of one with the origin.

use std::sync::Arc;

use http::StatusCode;

use super::{
    super::{
        admission::Times,
        parents::{self, Asking, Outcome},
        replicate::{Announcement, announce},
        route::Parents,
    },
    Exchanged, Fetcher, KeyedRequest, UpstreamReport, outbound, renew, settle,
};
use crate::cache::{
    entry::Object,
    fetches::Fetch,
    purge::{Mark, Subject},
    tag::{self, Tag, Urls},
};

impl Fetcher {
    /// Returns the parents that a request is sent to first, if any are. What the policy edits is found out all the same:
    /// the parent edits what it sends, and by what is edited a response may not vary here either.
    pub(super) fn parents_of<'r>(&self, request: &'r KeyedRequest) -> Option<&'r Parents> {
        let KeyedRequest { route, advice, head, .. } = request;
        let parents = route.parents.as_ref()?;
        let is_reload = request.is_reload || request.demand.directives.no_cache;
        let in_step = self.cache.purger().in_step();
        let case = Asking { headers: &head.headers, infers: route.infers(), is_reload, in_step };
        let is_edited = || advice.request_edits(route, &request.facts(&self.policy_context)).is_ok();
        (case.asks() && is_edited() && !advice.is_unedited()).then_some(parents)
    }

    /// Asks the parents of the route. `None` if the origin is to be asked: they gave no response that counts, or what they
    /// have may have been purged here since they fetched it. `times` are those of a response that is just in.
    pub(super) async fn ask_parents(
        &self,
        request: &KeyedRequest,
        fetch: &Arc<Fetch>,
        parents: &Parents,
        renewable: Option<&Arc<Object>>,
        (begun, times): (Mark, impl Fn(Mark) -> Times),
    ) -> Option<Exchanged> {
        let KeyedRequest { route, advice, head, .. } = request;
        let (purger, ties) = (self.cache.purger(), &self.ties);
        let mut upstream = outbound(self, request, renewable.map(AsRef::as_ref));
        // The parent's own route rewrites it.
        upstream.target = route.received(head).unwrap_or(&head.target).clone();
        self.policy_context.loops.mark(&mut upstream.headers, &head.headers);
        let arrived = ties.ask(parents, upstream, &parents::terms(route, advice.policy(), &head.near)).await?;
        let response = &arrived.fetched.response;
        let times = times(ties.mark(parents, response.headers(), begun)?);
        let mut tags = tag::named(response.headers(), &route.config.tag_headers);
        tags.push(Tag::key(&request.purge_key));
        let by_url = || tag::of_url(&request.url, true);
        let is_current = |subject: Subject<'_>| !purger.is_outdated(&subject, &purger.arrived(), by_url);
        let urls = Urls::One(Arc::clone(&request.url));
        let is_older = request.stale.as_ref().is_some_and(|stale| stale.head.mark.at > times.mark.at);
        if is_older || !is_current(Subject { tags: &tags, urls: &urls, mark: &times.mark }) {
            ties.count(Outcome::Outdated);
            return None;
        }
        // They have it themselves.
        let beside = |announcement: Option<Announcement>| announcement?.except(&parents.pool);
        let mut announced = None;
        let mut exchanged = match (renewable, response.status()) {
            (Some(object), StatusCode::NOT_MODIFIED) => {
                let report = UpstreamReport::of(&arrived, advice);
                let (renewed, announcement) = renew(self, request, fetch, object, response.headers(), &times)?;
                announced = beside(announcement);
                Exchanged::Renewed(renewed, report)
            }
            (None, StatusCode::NOT_MODIFIED) => return None,
            _ => settle(self, request, fetch, arrived, &times).await,
        };
        // With all tags: a policy may have named others.
        let is_usable = match &mut exchanged {
            Exchanged::Renewed(object, _) => is_current(object.head.subject()),
            Exchanged::Stored(arrival, pump) => {
                pump.announcement = beside(pump.announcement.take());
                is_current(arrival.subject())
            }
            Exchanged::Error(_) | Exchanged::Refused(..) | Exchanged::Failed(_) => true,
        };
        ties.count(if is_usable { Outcome::Used } else { Outcome::Outdated });
        if let (true, Exchanged::Renewed(object, _)) = (is_usable, &exchanged) {
            announce(announced, object);
        }
        is_usable.then_some(exchanged)
    }
}
