//! A recorded request, and what a hook can be asked about it.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::{
    clock::Timestamp,
    message::RequestHead,
    policy::{Admission, Answer, Candidate, Hook, PoolStats, Pools, Question},
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
    /// Features that are stated instead of asked for.
    pub features: Option<Vec<(String, Bytes)>>,
    /// What the origin answered.
    pub answered: Option<Answered>,
    /// Who may answer; nobody if that isn't asked.
    pub candidates: Vec<Candidate>,
    /// How pools did.
    pub pools: KnownPools,
    /// Was it answered from the cache?
    pub hit: Option<bool>,
    /// What the hooks decide.
    pub expect: Vec<(Hook, Value)>,
}

/// An answer of the origin.
#[derive(Clone, Debug)]
pub struct Answered {
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
            answered: None,
            candidates: Vec::new(),
            pools: KnownPools::default(),
            hit: None,
            expect: Vec::new(),
        }
    }

    /// What a hook is asked; `None` if the record doesn't say enough for it.
    #[must_use]
    pub fn question(&self, hook: Hook) -> Option<Question<'_>> {
        match hook {
            Hook::Key => Some(Question::Key),
            Hook::Features => Some(Question::Features),
            Hook::Admit => self.answered.as_ref().map(|answered| Question::Admit(&answered.suggested)),
            Hook::Route => (!self.candidates.is_empty()).then_some(Question::Route(&self.candidates)),
            Hook::Batch => Some(Question::Batch),
            Hook::Prefetch => self.hit.map(|hit| Question::Prefetch { hit }),
        }
    }

    /// The member that a hook can't be asked without.
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

impl Answered {
    /// As policies see it.
    #[must_use]
    pub const fn answer(&self) -> Answer<'_> {
        Answer { status: self.status, headers: &self.headers, length: self.length, fetch_us: self.fetch_us }
    }
}
