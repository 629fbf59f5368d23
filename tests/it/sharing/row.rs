//! A row of the table: two requests that differ in one thing, and whether one may be given the other's response.

use bytes::Bytes;
use http::Method;

use super::places::Place;
use crate::harness::{client::Ask, node::NodeHandle};

/// The rule for a pair on a route.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    /// One is never given the other's response.
    Apart,
    /// It may be given it, for this reason.
    Shared(&'static str),
    /// It may be given it where the origin is sent the same for both: what isn't sent can't have changed the response.
    SentAlike,
    /// It must be given it, for this reason: a cache that stores nothing doesn't pass.
    Must(&'static str),
}

impl Verdict {
    /// Why a pair may share, if it may.
    pub(super) const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Shared(why) | Self::Must(why) => Some(why),
            Self::Apart | Self::SentAlike => None,
        }
    }

    /// Returns what is wrong with the outcome of a pair, if anything is.
    pub(super) const fn fault(self, shared: bool, alike: bool) -> Option<&'static str> {
        match self {
            Self::Apart if shared => Some("it shares"),
            Self::SentAlike if shared && !alike => Some("it shares, and the origin is sent what differs"),
            Self::Must(_) if !shared => Some("it doesn't share"),
            _ => None,
        }
    }
}

/// One request. Its path begins with what is the row's own.
#[derive(Clone, Debug)]
pub(super) struct Req {
    method: Method,
    host: Option<&'static str>,
    rest: String,
    tenant: Option<&'static str>,
    fields: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Req {
    /// A request without a body; `rest` is the rest of its path, and its query.
    pub(super) fn new(method: &str, rest: &str) -> Self {
        Self {
            method: Method::from_bytes(method.as_bytes()).unwrap(),
            host: None,
            rest: rest.to_owned(),
            tenant: Some("acme"),
            fields: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// A further line of a header field.
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, value.to_owned()));
        self
    }

    /// The one line of a header field.
    pub(super) fn set(mut self, name: &'static str, value: &str) -> Self {
        self.fields.retain(|(known, _)| *known != name);
        self.with(name, value)
    }

    /// Another tenant, or none.
    pub(super) fn tenant(self, tenant: Option<&'static str>) -> Self {
        Self { tenant, ..self }
    }

    pub(super) fn host(self, host: &'static str) -> Self {
        Self { host: Some(host), ..self }
    }

    pub(super) fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// The request as it is sent to a node, under this path.
    pub(super) fn ask(&self, handle: &NodeHandle, target: &str) -> Ask {
        let mut ask = handle.ask(self.method.clone(), &format!("{target}{}", self.rest)).body(self.body.clone());
        if let Some(host) = self.host {
            ask = ask.host(host);
        }
        for (name, value) in &self.fields {
            ask = ask.header(name, value);
        }
        match self.tenant {
            Some(tenant) => ask.header("x-tenant", tenant),
            None => ask,
        }
    }
}

/// A row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    name: String,
    first: Req,
    second: Req,
    /// The protocols whose routes it goes through.
    on: &'static [&'static str],
    /// Header fields of the origin's responses.
    says: Vec<(&'static str, &'static str)>,
    there: Verdict,
    back: Verdict,
    /// Protocols and policies under which another verdict holds; the last one that fits decides.
    except: Vec<(&'static str, Verdict)>,
}

/// The origin's header fields, unless a row has others.
const SAYS: [(&str, &str); 1] = [("cache-control", "max-age=600")];

impl Row {
    /// A row on the routes of these protocols.
    pub(super) fn new(
        on: &'static [&'static str],
        name: impl Into<String>,
        verdict: Verdict,
        first: Req,
        second: Req,
    ) -> Self {
        let (there, back) = (verdict, verdict);
        Self { name: name.into(), first, second, on, says: SAYS.to_vec(), there, back, except: Vec::new() }
    }

    /// The same row on the routes of these protocols only.
    pub(super) fn on(self, on: &'static [&'static str]) -> Self {
        Self { on, ..self }
    }

    /// Another verdict where the second request is sent first.
    pub(super) fn back(self, back: Verdict) -> Self {
        Self { back, ..self }
    }

    /// Another verdict under these protocols or policies.
    pub(super) fn under(mut self, these: &[&'static str], verdict: Verdict) -> Self {
        self.except.extend(these.iter().map(|this| (*this, verdict)));
        self
    }

    /// The origin sends just this.
    pub(super) fn says(self, says: &[(&'static str, &'static str)]) -> Self {
        Self { says: says.to_vec(), ..self }
    }

    /// The origin says that its response varies by this.
    pub(super) fn varies(mut self, by: &'static str) -> Self {
        self.says.push(("vary", by));
        self
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn pair(&self) -> (&Req, &Req) {
        (&self.first, &self.second)
    }

    pub(super) fn says_of_origin(&self) -> &[(&'static str, &'static str)] {
        &self.says
    }

    pub(super) fn is_on(&self, place: &Place) -> bool {
        self.on.contains(&place.protocol)
    }

    pub(super) fn verdicts(&self) -> impl Iterator<Item = Verdict> {
        [self.there, self.back].into_iter().chain(self.except.iter().map(|(_, verdict)| *verdict))
    }

    /// Returns what holds on a route, in one direction.
    pub(super) fn verdict(&self, place: &Place, is_back: bool) -> Verdict {
        let fits = |(this, _): &&(&str, Verdict)| *this == place.protocol || *this == place.policy;
        let usual = if is_back { self.back } else { self.there };
        self.except.iter().rev().find(fits).map_or(usual, |(_, verdict)| *verdict)
    }
}
