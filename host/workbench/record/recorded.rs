//! A recorded request, and the hook calls that it allows.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::{
    clock::Timestamp,
    message::RequestHead,
    policy::{Admission, Candidate, Hook, HookCall, PoolStats, Pools, ResponseFacts},
};

/// A request that was recorded, and what else is known about it.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where it stands in its file, counted from 1; 0 if that has no lines.
    pub line: usize,
    /// Words for messages.
    pub name: Option<String>,
    /// All of the request but its body.
    pub head: RequestHead,
    /// The body, if one was read.
    pub body: Option<Bytes>,
    /// When it came.
    pub at: Timestamp,
    /// Arms that are stated instead of drawn.
    pub arms: BTreeMap<String, String>,
    /// Features that are stated instead of extracted.
    pub features: Option<Vec<(String, Bytes)>>,
    /// The origin's response.
    pub responded: Option<RecordedResponse>,
    /// The candidates; empty if `route` isn't called.
    pub candidates: Vec<Candidate>,
    /// How pools did.
    pub pools: KnownPools,
    /// Whether it was served from the cache.
    pub hit: Option<bool>,
    /// What the hooks decide.
    pub expect: Vec<(Hook, Value)>,
}

/// A response of the origin.
#[derive(Clone, Debug)]
pub struct RecordedResponse {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body's length, if it is known.
    pub length: Option<u64>,
    /// Microseconds until its head came.
    pub fetch_us: u64,
    /// What the host would do with it.
    pub suggested: Admission,
}

/// How pools did, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownPools(pub BTreeMap<String, PoolStats>);

impl Pools for KnownPools {
    fn stats(&self, pool: &str) -> Option<PoolStats> {
        self.0.get(pool).copied()
    }
}

impl Record {
    /// A request of which nothing else is known.
    pub(in crate::workbench) fn new(line: usize, head: RequestHead) -> Self {
        Self {
            line,
            name: None,
            head,
            body: None,
            at: Timestamp::default(),
            arms: BTreeMap::new(),
            features: None,
            responded: None,
            candidates: Vec::new(),
            pools: KnownPools::default(),
            hit: None,
            expect: Vec::new(),
        }
    }

    /// Returns the call of a hook; `None` if the record lacks what it takes.
    #[must_use]
    pub fn hook_call(&self, hook: Hook) -> Option<HookCall<'_>> {
        match hook {
            Hook::Key => Some(HookCall::Key),
            Hook::Features => Some(HookCall::Features),
            Hook::Admit => self.responded.as_ref().map(|responded| HookCall::Admit(&responded.suggested)),
            Hook::Route => (!self.candidates.is_empty()).then_some(HookCall::Route(&self.candidates)),
            Hook::Batch => Some(HookCall::Batch),
            Hook::Prefetch => self.hit.map(|hit| HookCall::Prefetch { hit }),
        }
    }

    /// Returns the member that a hook can't be called without.
    #[must_use]
    pub const fn needs(hook: Hook) -> Option<&'static str> {
        match hook {
            Hook::Admit => Some("response"),
            Hook::Route => Some("candidates"),
            Hook::Prefetch => Some("hit"),
            Hook::Key | Hook::Features | Hook::Batch => None,
        }
    }

    /// Where it is and what it is about, for messages.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.name {
            // Not of a file that has lines.
            Some(name) if self.line == 0 => name.clone(),
            Some(name) => format!("line {}, {name}", self.line),
            None => format!("line {}, {} {}", self.line, self.head.method, self.head.url()),
        }
    }
}

impl RecordedResponse {
    /// As policies see it.
    #[must_use]
    pub const fn facts(&self) -> ResponseFacts<'_> {
        ResponseFacts { status: self.status, headers: &self.headers, length: self.length, fetch_us: self.fetch_us }
    }
}
