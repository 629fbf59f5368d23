//! What a route's responses are stored for, and in which form they are served: lifetimes, reloads, cookies, ranges,
//! codings, and what was added to HTTP caching since RFC 9111.

use std::time::Duration;

use crate::message::{compression::Compression, delta::Pattern};

/// Lifetimes for responses that state none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Freshness of a cacheable response without explicit lifetime; `None` leaves it to `heuristic_max`.
    pub ttl: Option<Duration>,
    /// The most that a tenth of the time since `Last-Modified` counts as freshness (RFC 9111, section 4.2.2); zero
    /// leaves a response unstored that states no lifetime.
    pub heuristic_max: Duration,
    /// `stale-while-revalidate` where the response states none.
    pub grace: Duration,
    /// `stale-if-error` where the response states none.
    pub stale_if_error: Duration,
    /// How long a response that was fresh is served stale when the origin can't be reached (RFC 9111, section 4.2.4).
    pub stale_if_unreachable: Duration,
    /// How long a stale response is stored for revalidation only.
    pub keep: Duration,
}

/// What a request leads to that wants something newer than what is stored (`no-cache`, `max-age`, `min-fresh`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reload {
    /// A fetch of its own.
    Honour,
    /// One fetch for all such requests that come until its response begins.
    #[default]
    Coalesce,
    /// Nothing: it is served as if it didn't want that.
    Ignore,
}

/// Which responses that set a cookie may be stored, with the cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreSetCookie {
    /// Those that speak to shared caches: `public`, `s-maxage`, or a lifetime in a targeted field.
    #[default]
    Shared,
    /// Those that state any lifetime.
    Explicit,
    /// None.
    Never,
}

/// What is fetched when a client asks for a range of what isn't stored, or of what is stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RangeMiss {
    /// The whole, which is stored; the client gets its range of it.
    #[default]
    Whole,
    /// The slices that have it, each of which is stored; the range alone where there are none.
    Parts,
    /// The range alone: the request is passed on, and its response isn't stored.
    Pass,
}

/// What the key of a QUERY (RFC 10008) is made of beside its URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueryKey {
    /// Its content without content codings, JSON in its canonical form, and the fields that describe it.
    #[default]
    Canonical,
    /// Its content as it was sent, and the fields that describe it.
    Exact,
    /// Nothing: it is passed on, and its response isn't stored.
    Pass,
}

/// What an `http` route honours of the standards that extend HTTP caching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extensions {
    /// What the key of a QUERY is made of.
    pub query_key: QueryKey,
    /// Bytes of the largest content that a QUERY is looked up with, as it was sent and without its content codings.
    pub query_body_bytes_max: u64,
    /// Whether responses are invalidated by their `Cache-Groups` (RFC 9875).
    pub cache_groups: bool,
    /// Whether a response with `No-Vary-Search` is served for all URLs that it says are equivalent.
    pub no_vary_search: bool,
}

/// Which replies are compressed, for clients that accept it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compress {
    /// The codings that are offered; of those that a client likes equally the first one is used. None if nothing is
    /// compressed.
    pub codings: Vec<Compression>,
    /// Bytes of the smallest body that is compressed.
    pub bytes_min: usize,
    /// The media types that are compressed.
    pub types: Vec<String>,
}

/// Which stored responses are sent as deltas to earlier ones, to clients that have these (RFC 9842).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deltas {
    /// The paths of the responses, and for which paths each is a dictionary. None if there are no deltas.
    pub patterns: Vec<Pattern>,
    /// Dictionaries of one pattern and host.
    pub dictionaries_max: usize,
    /// Bytes of the largest body that is a dictionary or is sent as a delta.
    pub bytes_max: usize,
    /// How long a request waits for a delta that is being made.
    pub wait: Duration,
}

impl Deltas {
    /// Returns the first pattern that matches a path.
    #[must_use]
    pub fn pattern(&self, path: &str) -> Option<&Pattern> {
        self.patterns.iter().find(|pattern| pattern.matches(path))
    }
}
