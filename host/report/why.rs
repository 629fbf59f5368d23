//! What would be done with a request now, and why: `POST /why`.

use serde::{Deserialize, Serialize};

/// What would be done with a request now, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyReport {
    /// The node's name.
    pub node: String,
    /// The request's method.
    pub method: String,
    /// Its URL in the normal form, by which it is purged.
    pub url: String,
    /// The route that takes it; `None` if none does.
    pub route: Option<WhyRoute>,
    /// The generation of the policy that decides, and `None` without a policy.
    pub policy: Option<String>,
    /// The plan by the request's head: `look-up`, `bypass` (passed on, although requests of its kind are served from the
    /// cache), `pass` (passed on, as all of its kind), `refuse`, or `none` without a route.
    pub plan: String,
    /// The plan's reason, in a word.
    pub reason: Option<String>,
    /// The rule that decided the plan.
    pub rule: WhyRule,
    /// The look-up; one for each item where the route splits bodies; none if there is none.
    pub lookups: Vec<WhyLookup>,
    /// Items whose look-ups are left out of the report.
    pub left_out: usize,
}

/// A route, and what of it takes the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyRoute {
    /// Its name.
    pub name: String,
    /// Its place among the routes, from 1 on: the first that matches takes a request.
    pub place: usize,
    /// How many routes there are.
    pub routes: usize,
    /// The host pattern that matches; `None` if the route takes any host.
    pub host: Option<String>,
    /// The path at or below which the request is.
    pub path: String,
    /// How it is found: `index`, or `walk` where there are few routes.
    pub found_by: String,
    /// Whether origins may take the path for one of another route, so that the request bypasses the cache.
    pub ambiguous: bool,
}

/// A rule that decided something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyRule {
    /// What it says.
    pub text: String,
    /// The section of the RFC that it is from; `None` if it is a policy's or this node's own.
    pub section: Option<String>,
    /// The generation of the policy that decided; `None` if no policy did.
    pub policy: Option<String>,
    /// The hook by which it decided.
    pub hook: Option<String>,
}

/// One look-up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyLookup {
    /// The item's place in the request's body, from 0 on; `None` where bodies aren't split.
    pub item: Option<usize>,
    /// The key, in hex; `None` if there is none.
    pub key: Option<String>,
    /// The key of the variant that the request selects (`Vary`), if one is known.
    pub variant: Option<String>,
    /// What made the key: `native`, or the generation of a policy.
    pub made_by: String,
    /// The kind of the policy's fault, if it faulted, or the reason for which it keeps the request out of the cache.
    pub remark: Option<String>,
    /// What the key is made of.
    pub inputs: Vec<WhyInput>,
    /// `hit`, `grace` (stale, served while it is refreshed), `stale`, `miss`, `bypass` or `refuse`.
    pub outcome: String,
    /// What is done: `serve`, `serve-and-refresh`, `collapse` (one fetch for all that wait), `slices` (its range is put
    /// together from parts, some of which are fetched), `fetch-alone`, `bypass` or `refuse`.
    pub next: String,
    /// The reason of that, in a word.
    pub reason: Option<String>,
    /// The rule that decided.
    pub rule: WhyRule,
    /// What is stored for it, whether or not it may be used.
    pub stored: Option<WhyStored>,
    /// The stored entry that differs least, if nothing is stored for the request.
    pub nearest: Option<WhyNearest>,
}

/// One input of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyInput {
    /// Its name: as the contract of policies has it, or `vary(NAME)` for a field that the stored response varies by.
    pub name: String,
    /// Its value; `None` if it is missing, hidden or long.
    pub value: Option<String>,
    /// The beginning of the value's blake3 in hex, and its length, if it is long or of a body.
    pub digest: Option<String>,
    /// Whether it is a credential, whose value isn't shown.
    pub hidden: bool,
}

/// A stored response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyStored {
    /// `memory`, `disk` or `redis`.
    pub tier: String,
    /// Its status.
    pub status: u16,
    /// Its length in bytes.
    pub length: u64,
    /// Its age in milliseconds.
    pub age_ms: u64,
    /// The lifetime from its creation at the origin, in milliseconds.
    pub lifetime_ms: u64,
    /// The lifetime that is left in milliseconds; negative if it is stale.
    pub left_ms: i64,
    /// Where the lifetime is from: a field and directive, or the route's default, a heuristic or a policy.
    pub lifetime_from: String,
    /// How long it is served stale while it is refreshed, in milliseconds.
    pub grace_ms: u64,
    /// How long it is served stale if the origin fails, in milliseconds.
    pub stale_if_error_ms: u64,
    /// How long it is served stale if the origin can't be reached, in milliseconds.
    pub stale_if_unreachable_ms: u64,
    /// The fields it varies by.
    pub vary: Vec<String>,
    /// Tags as its origin names them.
    pub tags: Vec<String>,
    /// `no`, `soft`, `hard`, `unconfirmed` (out of touch with the purge log) or `unknown`.
    pub purged: String,
    /// Whether it may be served to a request with `Authorization`.
    pub for_authorized: bool,
}

/// The stored entry that differs least from what is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyNearest {
    /// Its key in hex.
    pub key: String,
    /// `memory` or `disk`.
    pub tier: String,
    /// Its age in milliseconds.
    pub age_ms: u64,
    /// The inputs that differ; mostly one.
    pub differs: Vec<WhyDifference>,
}

/// An input that is another in a stored entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyDifference {
    /// The input's name.
    pub name: String,
    /// The request's.
    pub here: WhyInput,
    /// The entry's.
    pub there: WhyInput,
}
