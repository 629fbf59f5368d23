//! What this room counts.

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::{parents, prefetch, replicate};

/// Handles of the room's metrics; clones count into the same.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(super) hints: prefetch::Metrics,
    pub(super) reply_codings: ReplyCodings,
    pub(super) parents: parents::Metrics,
    pub(super) replications: replicate::Metrics,
}

impl Metrics {
    /// Adds them to what the node reports.
    pub fn register(&self, registry: &mut Registry) {
        self.hints.register(registry);
        self.parents.register(registry);
        self.replications.register(registry);
        registry.register(
            "reply_coding_bytes",
            "Bytes of replies that were compressed for their client, in the content coding and without it",
            self.reply_codings.0.clone(),
        );
    }
}

/// Bytes of compressed replies, by coding and form.
#[derive(Clone, Debug, Default)]
pub(super) struct ReplyCodings(Family<[(&'static str, &'static str); 2], Counter>);

impl ReplyCodings {
    /// Counts the bytes of a reply in a coding, and without it.
    pub(super) fn count(&self, coding: &'static str, coded: usize, plain: usize) {
        for (form, bytes) in [("coded", coded), ("plain", plain)] {
            self.0.get_or_create(&[("coding", coding), ("form", form)]).inc_by(bytes as u64);
        }
    }
}
