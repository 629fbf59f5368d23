//! The parts of a request that the form of its response depends on.

use http::{HeaderMap, Method, header::RANGE};

use crate::{
    cache::lookup::Demand,
    message::{
        RequestHead, Scheme,
        compression::prefers,
        delta::{DCZ, DictionaryHash, Pattern, is_readable},
    },
    pipeline::route::Route,
    policy::key,
};

/// A request, as the form of its response depends on it.
#[derive(Clone, Copy)]
pub(in crate::pipeline) struct CodingRequest<'a> {
    pub(in crate::pipeline) route: &'a Route,
    /// Whether its key is the native one, so that what it finds is for all that name its URL.
    pub(in crate::pipeline) keys_natively: bool,
    pub(in crate::pipeline) demand: &'a Demand,
    pub(in crate::pipeline) head: &'a RequestHead,
}

impl<'a> CodingRequest<'a> {
    /// Whether it is for the response as it is stored.
    pub(super) fn wants_plain(&self) -> bool {
        self.demand.directives.no_transform || self.head.headers.contains_key(RANGE)
    }

    /// Returns the pattern of deltas that its path has, if it may get any: by HTTPS alone (RFC 9842, section 8), and not
    /// what a policy keeps apart.
    pub(super) fn pattern(&self) -> Option<&'a Pattern> {
        let deltas = &self.route.config.deltas;
        // The response to a QUERY is for those who ask the same, not for all who name its URL.
        let is_of_url = || key::shared_method(&self.head.method) == Method::GET;
        if deltas.patterns.is_empty() || !self.keys_natively || self.head.scheme != Scheme::Https || !is_of_url() {
            return None;
        }
        deltas.pattern(self.head.target.path())
    }

    /// Returns the dictionary that its client has, if it wants that to be used for the response with these header fields,
    /// and may read it.
    pub(super) fn dictionary(&self, response: &HeaderMap) -> Option<DictionaryHash> {
        let headers = &self.head.headers;
        let hash = DictionaryHash::available(headers)?;
        let is_wanted = prefers(headers, DCZ, &self.route.config.compress.codings);
        (is_wanted && is_readable(headers, response)).then_some(hash)
    }
}
