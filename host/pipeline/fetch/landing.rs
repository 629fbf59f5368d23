//! What comes of a flight, for the requests that wait for it.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::super::{
    advice::Advice,
    upstream::{Arrived, Failed},
};
use crate::{
    cache::{
        admit::Refusal,
        collapse::shared::SharedBody,
        entry::Object,
        purge::{Mark, Subject},
        record::StorageKeys,
        search::Rule,
        tag::{Tag, Urls},
    },
    clock::{self, Uptime},
};

/// How a flight landed, for the requests that wait for it.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each flight, and most are of this kind")]
pub(in crate::pipeline) enum Landing {
    /// A response that all may have.
    Shared(Arrival),
    /// What was stored is good again.
    Renewed(Arc<Object>, UpstreamReport),
    /// Another node of the region has stored one: it is in the tiers of this node.
    Elsewhere,
    /// A response for one only: the others fetch by themselves.
    Private(Refusal),
    /// No response.
    Failed(Failed),
}

impl Landing {
    /// Returns how it landed, in a word.
    pub(in crate::pipeline) const fn as_str(&self) -> &'static str {
        match self {
            Self::Shared(Arrival { ttl_ms: Some(_), .. }) => "stored-response",
            Self::Shared(_) => "shared-error",
            Self::Renewed(..) => "renewed",
            Self::Elsewhere => "stored-by-another-node",
            Self::Private(refusal) => refusal.as_str(),
            Self::Failed(failed) => failed.reason,
        }
    }
}

/// Where a response came from, and at what cost.
#[derive(Clone, Debug)]
pub(in crate::pipeline) struct UpstreamReport {
    pub(in crate::pipeline) endpoint: Arc<str>,
    /// Attempts it took.
    pub(in crate::pipeline) attempts: u32,
    /// The origin's status.
    pub(in crate::pipeline) status: StatusCode,
    /// What the candidate that responded costs.
    pub(in crate::pipeline) cost_micro: u64,
    /// A word on what the policy did out of the ordinary.
    pub(in crate::pipeline) remark: Option<Arc<str>>,
}

impl UpstreamReport {
    pub(in crate::pipeline) fn of(arrived: &Arrived, advice: &Advice) -> Self {
        let fetched = &arrived.fetched;
        Self {
            endpoint: Arc::clone(&fetched.endpoint),
            attempts: fetched.attempts,
            status: fetched.response.status(),
            cost_micro: arrived.cost_micro,
            remark: advice.remarked().cloned(),
        }
    }
}

/// A response on its way in.
#[derive(Clone, Debug)]
pub(in crate::pipeline) struct Arrival {
    /// Its end-to-end header fields.
    pub(in crate::pipeline) headers: Arc<HeaderMap>,
    pub(in crate::pipeline) body: SharedBody,
    /// Where it is stored, and so which variant it is.
    pub(in crate::pipeline) keys: StorageKeys,
    /// Which other URLs it is for.
    pub(in crate::pipeline) rule: Option<Arc<Rule>>,
    /// What it can be purged by.
    pub(in crate::pipeline) tags: Arc<[Tag]>,
    /// The URLs that it is for.
    pub(in crate::pipeline) urls: Urls,
    /// Where the purge log stood when its fetch began.
    pub(in crate::pipeline) mark: Mark,
    /// Its freshness at arrival in milliseconds; `None` if it's shared but not stored.
    pub(in crate::pipeline) ttl_ms: Option<u64>,
    /// Its age at arrival in milliseconds.
    pub(in crate::pipeline) age_ms: u64,
    /// When its head arrived.
    pub(in crate::pipeline) at: Uptime,
    pub(in crate::pipeline) report: UpstreamReport,
}

impl Arrival {
    /// Returns what a purge may mean.
    pub(in crate::pipeline) fn subject(&self) -> Subject<'_> {
        Subject { tags: &self.tags, urls: &self.urls, mark: &self.mark }
    }

    /// Whether its lifetime has passed since its head arrived.
    pub(in crate::pipeline) fn is_over(&self, now: Uptime) -> bool {
        self.ttl_ms.is_some_and(|ttl_ms| clock::millis(now.since(self.at)) >= ttl_ms)
    }
}
