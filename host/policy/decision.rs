//! Calls and decisions, hook by hook, in plain values.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::{Fault, Hook, PoolStats, edit::Edit};

/// A call of a hook, with its arguments beside the inputs it reads.
#[derive(Clone, Debug)]
pub enum HookCall<'a> {
    /// `key`: what the response depends on.
    Key,
    /// `features`: what matters in the request.
    Features,
    /// `admit`: whether the response is stored; the host would do this.
    Admit(&'a Admission),
    /// `route`: the order of these candidates.
    Route(&'a [Candidate]),
    /// `batch`: what the item may share a batch with.
    Batch,
    /// `prefetch`: what will be requested next.
    Prefetch {
        /// Whether the request was served from the cache.
        hit: bool,
    },
}

impl HookCall<'_> {
    /// Returns the native decision; `None` for the key, which is made elsewhere.
    #[must_use]
    pub fn native(&self) -> Option<Decision> {
        Some(match self {
            Self::Key => return None,
            Self::Features => Decision::Features(RequestEdits::default()),
            Self::Admit(suggested) => Decision::Admit((*suggested).clone()),
            Self::Route(candidates) => Decision::Route(Choice::native(candidates)),
            Self::Batch => Decision::Batch(Grouping::default()),
            Self::Prefetch { .. } => Decision::Prefetch(Vec::new()),
        })
    }

    /// Returns the hook that is called.
    #[must_use]
    pub const fn hook(&self) -> Hook {
        match self {
            Self::Key => Hook::Key,
            Self::Features => Hook::Features,
            Self::Admit(_) => Hook::Admit,
            Self::Route(_) => Hook::Route,
            Self::Batch => Hook::Batch,
            Self::Prefetch { .. } => Hook::Prefetch,
        }
    }
}

/// A verdict of a hook. Shared, because it may be a remembered one.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Of `key`.
    Key(KeyVerdict),
    /// Of `features`.
    Features(RequestEdits),
    /// Of `admit`.
    Admit(Admission),
    /// Of `route`.
    Route(Choice),
    /// Of `batch`.
    Batch(Grouping),
    /// Of `prefetch`.
    Prefetch(Vec<Hint>),
}

/// What a policy says of a request's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyVerdict {
    /// Look up the key made of these parts. Only a recipe's may be missing.
    Lookup(Vec<Option<Vec<u8>>>),
    /// Don't use the cache, for this reason.
    Bypass(String),
}

/// What matters in a request, and what changes before it is sent upstream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestEdits {
    /// Values by name, as other hooks read them.
    pub features: Vec<(String, Bytes)>,
    /// Edits of a JSON body, in their order.
    pub edits: Vec<Edit>,
    /// Header fields that are set, or removed where there is no value.
    pub headers: Vec<(HeaderName, Option<HeaderValue>)>,
}

impl RequestEdits {
    /// Returns the feature of this name.
    #[must_use]
    pub fn feature(&self, name: &str) -> Option<&[u8]> {
        self.features.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

/// Whether a response is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Store it.
    Store(Storage),
    /// Don't, and let requests for its key go on without queueing for one another, for so many milliseconds.
    MarkUncacheable {
        /// How long.
        ms: u64,
    },
    /// Don't, for this reason.
    Pass(String),
}

/// How a response is stored. Times in milliseconds from its arrival.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// Fresh for this long.
    pub ttl_ms: u64,
    /// Served stale for this long after, while it's refreshed.
    pub grace_ms: u64,
    /// Served stale for this long after if the origin fails.
    pub stale_if_error_ms: u64,
    /// Stored for this long after, for revalidation only.
    pub keep_ms: u64,
    /// The tags that it can be purged by, beside its URL and its key.
    pub tags: Vec<String>,
    /// Header fields of the request that tell variants apart.
    pub vary: Vec<HeaderName>,
}

/// One of a route's candidates, and its current state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// The pool.
    pub pool: Arc<str>,
    /// The model, if the operator named one.
    pub model: Option<Arc<str>>,
    /// The state of the pool.
    pub stats: PoolStats,
    /// What a request costs there, in millionths of whatever the operator counts in.
    pub cost_micro: u64,
}

/// The order in which candidates are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Indices of candidates, best first, each once.
    pub order: Vec<usize>,
    /// Try the next one as well if no response has come by then.
    pub hedge_after_us: Option<u32>,
    /// Give up after so long.
    pub deadline_us: Option<u32>,
}

impl Choice {
    /// Returns the candidates in the operator's order, those without a healthy member last.
    #[must_use]
    pub fn native(candidates: &[Candidate]) -> Self {
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by_key(|index| candidates[*index].stats.healthy == 0);
        Self { order, hedge_after_us: None, deadline_us: None }
    }
}

/// What an item may share a batch with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grouping {
    /// What must be equal in a batch, beside what the host demands.
    pub group: Bytes,
    /// Higher ones are sent first.
    pub priority: u8,
    /// The bytes that the item counts for in `batch.bytes_max`; 0 leaves the host's count.
    pub weight: u32,
    /// Bounds its wait beside the pool's `batch.wait_us_max`.
    pub max_wait_us: Option<u32>,
    /// Bounds its batch beside the pool's `batch.size_max`.
    pub max_size: Option<u32>,
}

/// A request that is likely to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Path and query.
    pub path: String,
    /// Its header fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How likely it is, in millionths.
    pub confidence_ppm: u32,
}

impl Decision {
    /// Returns the hook whose verdict it is.
    #[must_use]
    pub const fn hook(&self) -> Hook {
        match self {
            Self::Key(_) => Hook::Key,
            Self::Features(_) => Hook::Features,
            Self::Admit(_) => Hook::Admit,
            Self::Route(_) => Hook::Route,
            Self::Batch(_) => Hook::Batch,
            Self::Prefetch(_) => Hook::Prefetch,
        }
    }

    /// Returns the form in golden files and in the admin API.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Key(KeyVerdict::Lookup(parts)) => {
                let part = |part: &Option<Vec<u8>>| part.as_deref().map_or(Value::Null, bytes_to_json);
                json!({"lookup": parts.iter().map(part).collect::<Vec<_>>()})
            }
            Self::Key(KeyVerdict::Bypass(reason)) => json!({"bypass": reason}),
            Self::Features(request_edits) => request_edits.to_json(),
            Self::Admit(admission) => admission.to_json(),
            Self::Route(Choice { order, hedge_after_us, deadline_us }) => {
                json!({"order": order, "hedge_after_us": hedge_after_us, "deadline_us": deadline_us})
            }
            Self::Batch(Grouping { group, priority, weight, max_wait_us, max_size }) => json!({
                "group": bytes_to_json(group), "priority": priority, "weight": weight,
                "max_wait_us": max_wait_us, "max_size": max_size,
            }),
            Self::Prefetch(hints) => hints.iter().map(Hint::to_json).collect(),
        }
    }

    /// Returns the form for the operator: a key's parts, without the byte by which `slot` of the SDKs keeps a missing
    /// value apart from an empty one.
    #[must_use]
    pub fn to_readable(&self) -> Value {
        let Self::Key(KeyVerdict::Lookup(parts)) = self else { return self.to_json() };
        let plain = |part: &Option<Vec<u8>>| match part.as_deref() {
            None | Some([0]) => None,
            Some([1, value @ ..]) => Some(value.to_vec()),
            Some(part) => Some(part.to_vec()),
        };
        Self::Key(KeyVerdict::Lookup(parts.iter().map(plain).collect())).to_json()
    }
}

impl RequestEdits {
    fn to_json(&self) -> Value {
        let features: Map<_, _> =
            self.features.iter().map(|(name, value)| (name.clone(), bytes_to_json(value))).collect();
        let edit = |edit: &Edit| match &edit.value {
            Some(value) => json!({"pointer": edit.pointer.to_string(), "value": value}),
            None => json!({"pointer": edit.pointer.to_string()}),
        };
        let header = |(name, value): &(HeaderName, Option<HeaderValue>)| {
            (name.to_string(), value.as_ref().map_or(Value::Null, |value| bytes_to_json(value.as_bytes())))
        };
        json!({
            "features": features,
            "edits": self.edits.iter().map(edit).collect::<Vec<_>>(),
            "headers": self.headers.iter().map(header).collect::<Map<_, _>>(),
        })
    }
}

impl Admission {
    fn to_json(&self) -> Value {
        match self {
            Self::Store(Storage { ttl_ms, grace_ms, stale_if_error_ms, keep_ms, tags, vary }) => json!({"store": {
                "ttl_ms": ttl_ms, "grace_ms": grace_ms, "stale_if_error_ms": stale_if_error_ms, "keep_ms": keep_ms,
                "tags": tags, "vary": vary.iter().map(HeaderName::as_str).collect::<Vec<_>>(),
            }}),
            Self::MarkUncacheable { ms } => json!({"mark_uncacheable_ms": ms}),
            Self::Pass(reason) => json!({"pass": reason}),
        }
    }
}

impl Hint {
    fn to_json(&self) -> Value {
        let headers: Map<_, _> =
            self.headers.iter().map(|(name, value)| (name.to_string(), bytes_to_json(value.as_bytes()))).collect();
        json!({"path": self.path, "headers": headers, "confidence_ppm": self.confidence_ppm})
    }
}

impl Fault {
    /// Returns the form in golden files.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Own { code, detail } => json!({"fault": {"code": code, "detail": detail}}),
            other => json!({"fault": {"kind": other.kind(), "detail": other.to_string()}}),
        }
    }

    /// Returns the fault of a verdict on another hook's call; implementations rule it out.
    #[must_use]
    pub fn mismatch(asked: Hook, responded: &Decision) -> Self {
        Self::Malformed(format!("{} was called, the verdict is of {}", asked.name(), responded.hook().name()))
    }
}

/// Returns text as it is, anything else in hex.
fn bytes_to_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => Value::from(text),
        _ => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({"hex": hex})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_read_well() {
        let lookup = vec![Some(b"a".to_vec()), None, Some(vec![1, b'b']), Some(vec![0xff])];
        for (decision, wanted) in [
            (Decision::Key(KeyVerdict::Lookup(lookup)), json!({"lookup": ["a", null, {"hex": "0162"}, {"hex": "ff"}]})),
            (Decision::Key(KeyVerdict::Bypass("no".into())), json!({"bypass": "no"})),
            (Decision::Admit(Admission::MarkUncacheable { ms: 5 }), json!({"mark_uncacheable_ms": 5})),
            (
                Decision::Route(Choice { order: vec![1, 0], hedge_after_us: Some(9), deadline_us: None }),
                json!({"order": [1, 0], "hedge_after_us": 9, "deadline_us": null}),
            ),
            (Decision::Prefetch(vec![]), json!([])),
        ] {
            assert_eq!(decision.to_json(), wanted);
        }
        let slots = Decision::Key(KeyVerdict::Lookup(
            [&b"a"[..], b"\x01b", b"\x01", b"\0", b"\x01\xff", b"\0\0"].map(|part| Some(part.to_vec())).to_vec(),
        ));
        let wanted = json!({"lookup": ["a", "b", "", null, {"hex": "ff"}, {"hex": "0000"}]});
        assert_eq!(slots.to_readable(), wanted);
        assert_eq!(slots.to_json()["lookup"][1], json!({"hex": "0162"}));
        let fault = Fault::Own { code: 7, detail: "no".into() };
        assert_eq!(fault.to_json(), json!({"fault": {"code": 7, "detail": "no"}}));
    }
}
