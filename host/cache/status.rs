//! `Cache-Status` (RFC 9211): what this node did with a request, in one line.

use std::{borrow::Cow, fmt::Write};

use http::{HeaderName, HeaderValue};

use crate::message::structured::item;

/// The header field.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The detail of a response that is served although the node hasn't read a purge log within its fence, because it is
/// configured to go on (`cut_off = "serve"`).
pub const CUT_OFF: &str = "cut-off";

/// Why a request went forward (RFC 9211, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The route, the policy or a missing body limit keeps it out of the cache.
    Bypass,
    /// The method isn't served from a cache.
    Method,
    /// Nothing is stored under its key.
    UriMiss,
    /// Something is stored, but not this variant.
    VaryMiss,
    /// The request's own directives.
    Request,
    /// What is stored is stale.
    Stale,
}

impl Forward {
    /// The token of RFC 9211.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Request => "request",
            Self::Stale => "stale",
        }
    }
}

/// Everything a line can say. What is `None` or false is left out.
#[derive(Clone, Debug, Default)]
pub struct Line<'a> {
    /// Served from the cache.
    pub hit: bool,
    /// Why it went forward.
    pub forward: Option<Forward>,
    /// The status that the origin gave.
    pub forward_status: Option<u16>,
    /// Remaining freshness in seconds; negative when stale.
    pub ttl: Option<i64>,
    /// The response was stored.
    pub stored: bool,
    /// It shared another request's fetch.
    pub collapsed: bool,
    /// The policy and its generation.
    pub policy: Option<&'a str>,
    /// Which tier, which fault, what the policy did.
    pub detail: Option<&'a str>,
}

impl Line<'_> {
    /// The header value.
    #[must_use]
    pub fn render(&self, node: &str) -> HeaderValue {
        let mut text = String::with_capacity(96);
        item(&mut text, node);
        if self.hit {
            text.push_str("; hit");
        }
        if let Some(forward) = self.forward {
            text.push_str("; fwd=");
            text.push_str(forward.as_str());
        }
        // Writing to a String can't fail.
        if let Some(status) = self.forward_status {
            let _ = write!(text, "; fwd-status={status}");
        }
        if let Some(ttl) = self.ttl {
            let _ = write!(text, "; ttl={ttl}");
        }
        if self.stored {
            text.push_str("; stored");
        }
        if self.collapsed {
            text.push_str("; collapsed");
        }
        let detail = match (self.policy, self.detail) {
            (Some(policy), Some(detail)) => Some(Cow::Owned(format!("{policy}:{detail}"))),
            (policy, detail) => policy.or(detail).map(Cow::Borrowed),
        };
        if let Some(detail) = detail {
            text.push_str("; detail=");
            item(&mut text, &detail);
        }
        HeaderValue::from_maybe_shared(bytes::Bytes::from(text))
            .unwrap_or_else(|_| HeaderValue::from_static("holm; detail=unprintable"))
    }
}

/// A fresh hit.
#[must_use]
pub fn hit(node: &str, left_ms: u64, policy: Option<&str>, detail: &str) -> HeaderValue {
    let ttl = i64::try_from(left_ms / 1000).ok();
    Line { hit: true, ttl, policy, detail: Some(detail), ..Line::default() }.render(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_as_the_rfc_writes_them() {
        for (line, wanted) in [
            (
                Line { hit: true, ttl: Some(57), detail: Some("memory"), ..Line::default() },
                "n; hit; ttl=57; detail=memory",
            ),
            (
                Line {
                    forward: Some(Forward::UriMiss),
                    forward_status: Some(200),
                    stored: true,
                    collapsed: true,
                    ..Line::default()
                },
                "n; fwd=uri-miss; fwd-status=200; stored; collapsed",
            ),
            (Line { hit: true, ttl: Some(-3), ..Line::default() }, "n; hit; ttl=-3"),
            (Line { policy: Some("p@1"), detail: Some("memory"), ..Line::default() }, "n; detail=\"p@1:memory\""),
            (Line { policy: Some("p@1"), ..Line::default() }, "n; detail=\"p@1\""),
            (Line { detail: Some("p@1:no \"x\" é"), ..Line::default() }, "n; detail=\"p@1:no \\\"x\\\" ?\""),
            (Line { detail: Some("1st"), ..Line::default() }, "n; detail=\"1st\""),
        ] {
            assert_eq!(line.render("n"), wanted);
        }
        assert_eq!(Line::default().render("a b"), "\"a b\"");
    }
}
