//! Where the results of one request's items came from, for its trail.

use std::sync::Arc;

use super::model::ItemResult;
use crate::{
    cache::{entry::Object, status::Forward, store::Tier},
    pipeline::trail::{Lookup, Trail},
};

/// The reply to one item, by where it came from.
pub(super) enum ItemReply {
    /// From a tier.
    Stored { object: Arc<Object>, tier: Tier, stale: bool },
    /// From a tier, because the model failed in this way.
    Fallback { object: Arc<Object>, tier: Tier, result: Arc<ItemResult> },
    /// From the model; through another request's fetch if `collapsed`.
    Fetched { result: Arc<ItemResult>, collapsed: bool },
}

/// A count of where the results of one request's items came from.
#[derive(Default)]
pub(super) struct Tally {
    items: usize,
    by_tier: [usize; 3],
    stale: bool,
    fell_back: bool,
    collapsed: usize,
    batched: usize,
    stored: usize,
    batch: usize,
    endpoint: Option<Arc<str>>,
    attempts: u32,
    status: Option<u16>,
    reason: Option<&'static str>,
    remark: Option<Arc<str>>,
    cost_micro: u64,
}

impl Tally {
    pub(super) fn of(item_replies: &[ItemReply]) -> Self {
        let mut tally = Self { items: item_replies.len(), ..Self::default() };
        for answer in item_replies {
            match answer {
                ItemReply::Stored { tier, stale, .. } => {
                    tally.by_tier[*tier as usize] += 1;
                    tally.stale |= stale;
                }
                ItemReply::Fallback { tier, result, .. } => {
                    tally.by_tier[*tier as usize] += 1;
                    tally.fell_back = true;
                    tally.credit(result);
                }
                ItemReply::Fetched { result, collapsed } => tally.add(result, *collapsed),
            }
        }
        tally
    }

    fn add(&mut self, result: &ItemResult, collapsed: bool) {
        if collapsed {
            self.collapsed += 1;
        } else {
            self.batched += 1;
            self.cost_micro = self.cost_micro.saturating_add(result.cost_micro);
        }
        self.stored += usize::from(result.stored);
        self.credit(result);
    }

    /// Notes the endpoint, the attempts and the outcome of a result.
    fn credit(&mut self, result: &ItemResult) {
        self.batch = self.batch.max(result.batch);
        self.attempts = self.attempts.max(result.attempts);
        self.status = self.status.or(result.status);
        self.reason = self.reason.or(result.reason);
        if self.remark.is_none() {
            self.remark.clone_from(&result.remark);
        }
        if self.endpoint.is_none() {
            self.endpoint.clone_from(&result.endpoint);
        }
    }

    pub(super) fn note(&self, trail: &mut Trail) {
        let hits: usize = self.by_tier.iter().sum();
        trail.lookup = match (hits == self.items, self.stale || self.fell_back) {
            (true, false) => Lookup::Hit,
            (true, true) => Lookup::Stale,
            (false, _) => Lookup::Miss,
        };
        trail.forward = match (self.fell_back, hits < self.items) {
            (true, _) => Some(Forward::Stale),
            (false, true) => Some(Forward::UriMiss),
            (false, false) => None,
        };
        trail.collapsed = self.collapsed > 0 && self.batched == 0;
        trail.stored = self.stored > 0;
        trail.batch = (self.batch > 0).then_some(self.batch);
        (trail.endpoint, trail.attempts, trail.forward_status) = (self.endpoint.clone(), self.attempts, self.status);
        if let (None, Some(reason)) = (self.status, self.reason) {
            trail.note_failure(reason);
        }
        trail.tier = [Tier::Memory, Tier::Disk, Tier::Redis].into_iter().find(|tier| self.by_tier[*tier as usize] > 0);
        // A failure says most; then what the policy did; then where the results came from.
        let remark = || self.remark.as_ref().map(|remark| remark.to_string().into());
        let detail = self.reason.map(Into::into).or_else(|| trail.detail.take()).or_else(remark);
        trail.cost_micro = self.cost_micro;
        trail.detail = detail.or_else(|| (self.items != 1).then(|| self.summary(hits).into()));
    }

    fn summary(&self, hits: usize) -> String {
        let [memory, disk, redis] = self.by_tier;
        format!(
            "items={} hit={hits} memory={memory} disk={disk} redis={redis} collapsed={} batched={}",
            self.items, self.collapsed, self.batched
        )
    }
}
