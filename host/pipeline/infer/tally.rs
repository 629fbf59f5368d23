//! How the questions of one request were answered, for its trail.

use std::sync::Arc;

use super::model::Told;
use crate::{
    cache::{entry::Object, status::Forward, store::Tier},
    pipeline::trail::{Lookup, Trail},
};

/// How one question was answered.
pub(super) enum Answered {
    /// From a tier.
    Stored { object: Arc<Object>, tier: Tier, stale: bool },
    /// From a tier, because the model failed in this way.
    Fallback { object: Arc<Object>, tier: Tier, told: Arc<Told> },
    /// From the model; with another request's question if `collapsed`.
    Told { told: Arc<Told>, collapsed: bool },
}

/// How the questions of one request were answered.
#[derive(Default)]
pub(super) struct Tally {
    questions: usize,
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
    pub(super) fn of(answers: &[Answered]) -> Self {
        let mut tally = Self { questions: answers.len(), ..Self::default() };
        for answer in answers {
            match answer {
                Answered::Stored { tier, stale, .. } => {
                    tally.by_tier[*tier as usize] += 1;
                    tally.stale |= stale;
                }
                Answered::Fallback { tier, told, .. } => {
                    tally.by_tier[*tier as usize] += 1;
                    tally.fell_back = true;
                    tally.credit(told);
                }
                Answered::Told { told, collapsed } => tally.add(told, *collapsed),
            }
        }
        tally
    }

    fn add(&mut self, told: &Told, collapsed: bool) {
        if collapsed {
            self.collapsed += 1;
        } else {
            self.batched += 1;
            self.cost_micro = self.cost_micro.saturating_add(told.cost_micro);
        }
        self.stored += usize::from(told.stored);
        self.credit(told);
    }

    /// Who was asked, and how it went.
    fn credit(&mut self, told: &Told) {
        self.batch = self.batch.max(told.batch);
        self.attempts = self.attempts.max(told.attempts);
        self.status = self.status.or(told.status);
        self.reason = self.reason.or(told.reason);
        if self.remark.is_none() {
            self.remark.clone_from(&told.remark);
        }
        if self.endpoint.is_none() {
            self.endpoint.clone_from(&told.endpoint);
        }
    }

    pub(super) fn note(&self, trail: &mut Trail) {
        let hits: usize = self.by_tier.iter().sum();
        trail.lookup = match (hits == self.questions, self.stale || self.fell_back) {
            (true, false) => Lookup::Hit,
            (true, true) => Lookup::Stale,
            (false, _) => Lookup::Miss,
        };
        trail.forward = match (self.fell_back, hits < self.questions) {
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
        // A failure says most; then what the policy did; then how the questions were answered.
        let remark = || self.remark.as_ref().map(|remark| remark.to_string().into());
        let told = self.reason.map(Into::into).or_else(|| trail.detail.take()).or_else(remark);
        trail.cost_micro = self.cost_micro;
        trail.detail = told.or_else(|| (self.questions != 1).then(|| self.summary(hits).into()));
    }

    fn summary(&self, hits: usize) -> String {
        let [memory, disk, redis] = self.by_tier;
        format!(
            "questions={} hit={hits} memory={memory} disk={disk} redis={redis} collapsed={} batched={}",
            self.questions, self.collapsed, self.batched
        )
    }
}
