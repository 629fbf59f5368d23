//! What a route says beside its host, its path and its pool: further conditions, edits on the way to the origin and to
//! the client, and responses that need no origin.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// Conditions of a route beside host and path. A request has to meet all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Methods, of which it has one; empty means any.
    pub methods: Vec<Method>,
    /// Header fields, sorted by name.
    pub headers: Vec<(HeaderName, Wanted)>,
    /// Query parameters, sorted by name.
    pub query: Vec<(String, Wanted)>,
}

/// Which spelling of a request's path is sent to origins. Routes are matched by the normal form in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardPath {
    /// The one that was received.
    #[default]
    AsReceived,
    /// The normal form: the origin sees what was matched.
    Normalized,
}

/// What a header field or a query parameter has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// There, with whatever value.
    Present,
    /// There with this value; of several lines or parameters of the name, each.
    Exactly(String),
}

impl Wanted {
    /// Whether whatever is `other` is this as well.
    fn is_implied_by(&self, other: &Self) -> bool {
        *self == Self::Present || self == other
    }
}

impl Conditions {
    /// Returns their number: the methods together count as one.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(!self.methods.is_empty()) + self.headers.len() + self.query.len()
    }

    /// Whether every request that meets `other` meets these.
    #[must_use]
    pub fn is_implied_by(&self, other: &Self) -> bool {
        let takes_methods = self.methods.is_empty()
            || !other.methods.is_empty() && other.methods.iter().all(|method| self.methods.contains(method));
        takes_methods && all_implied(&self.headers, &other.headers) && all_implied(&self.query, &other.query)
    }
}

fn all_implied<N: PartialEq>(these: &[(N, Wanted)], others: &[(N, Wanted)]) -> bool {
    let is_implied =
        |(name, wanted): &(N, Wanted)| others.iter().any(|(other, given)| other == name && wanted.is_implied_by(given));
    these.iter().all(is_implied)
}

/// Another path for the origin than the client's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Taken off the beginning of the path, in its normal form; the route's own path lies at or below it.
    pub strip_prefix: Option<String>,
    /// Put in front of what is left, in its normal form; `/` for nothing.
    pub prefix: Option<String>,
}

/// Header fields that are set and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldEdits {
    /// Set to this value, whatever was there before.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Removed.
    pub remove: Vec<HeaderName>,
}

impl FieldEdits {
    /// Whether they change nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    /// Makes the edits.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
    }
}

/// A response that a route gives by itself, without an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnResponse {
    /// To another URL.
    Redirect(Redirect),
    /// Always the same.
    Fixed(Fixed),
}

/// A redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// As the operator wrote it.
    pub to: String,
    /// What its `Location` is put together of.
    pub pieces: Vec<Piece>,
}

/// A piece of a `Location`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Itself.
    Text(String),
    /// `{scheme}`: that of the request.
    Scheme,
    /// `{host}`: that of the request, without its port.
    Host,
    /// `{authority}`: host and port of the request.
    Authority,
    /// `{path}`: that of the request in its normal form, rewritten if the route says so.
    Path,
    /// `{query}`: that of the request with its `?`, or nothing.
    Query,
}

/// A fixed response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// Its status.
    pub status: StatusCode,
    /// Its body; text.
    pub body: Bytes,
    /// The media type of the body.
    pub content_type: HeaderValue,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(methods: &[Method], headers: &[(&'static str, Option<&str>)]) -> Conditions {
        let wanted = |value: &Option<&str>| value.map_or(Wanted::Present, |value| Wanted::Exactly(value.to_owned()));
        let header = |(name, value): &(&'static str, Option<&str>)| (HeaderName::from_static(name), wanted(value));
        Conditions { methods: methods.to_vec(), headers: headers.iter().map(header).collect(), query: Vec::new() }
    }

    #[test]
    fn which_conditions_are_met_whenever_others_are() {
        let (get, both) = (&[Method::GET][..], &[Method::GET, Method::HEAD][..]);
        for (these, others, wanted) in [
            (conditions(&[], &[]), conditions(get, &[]), true),
            (conditions(get, &[]), conditions(&[], &[]), false),
            (conditions(both, &[]), conditions(get, &[]), true),
            (conditions(get, &[]), conditions(both, &[]), false),
            (conditions(&[], &[("a", None)]), conditions(&[], &[("a", Some("1"))]), true),
            (conditions(&[], &[("a", Some("1"))]), conditions(&[], &[("a", None)]), false),
            (conditions(&[], &[("a", Some("1"))]), conditions(&[], &[("a", Some("2"))]), false),
            (conditions(&[], &[("a", None)]), conditions(&[], &[("b", None)]), false),
        ] {
            assert_eq!(these.is_implied_by(&others), wanted, "{these:?} {others:?}");
        }
        assert_eq!(conditions(both, &[("a", None)]).count(), 2);
    }
}
