//! What a request wants of the items that others have asked for, and that it waits for.

use std::time::Instant;

use super::{
    AdvisedItem, Disposed, Disposition, SplitRequest, model,
    places::{Following, Wishes},
};
use crate::{batch::Terms, pipeline::upstream, policy::Hook};

impl SplitRequest {
    /// Notes on which terms this request would have submitted the items that it waits for, and until when it waits for
    /// each of them. It makes no difference if the policy can't say.
    pub(super) fn follow(
        &self,
        dispositions: &[Disposed<'_>],
        untils: &mut [Option<Instant>],
        wishes: &mut Wishes,
    ) -> Option<Following> {
        let places = &self.infer.places;
        let mut flights: Vec<(u64, Terms)> = Vec::new();
        for ((advised, disposition, _), until) in dispositions.iter().zip(untils) {
            match disposition {
                Disposition::Follow(_, follower) if places.may_wait(follower.number()) => {
                    let Ok(batch_item) = self.batch_item(advised, true) else { continue };
                    *until = batch_item.until();
                    flights.push((follower.number(), model::terms(&batch_item)));
                }
                Disposition::Follow(..) | Disposition::Elsewhere(_) => *until = self.until(advised),
                _ => {}
            }
        }
        (!flights.is_empty()).then(|| places.follow(flights, wishes))
    }

    /// Returns until when this request waits for an item that it doesn't submit itself, by its policy's word.
    fn until(&self, advised: &AdvisedItem) -> Option<Instant> {
        let AdvisedItem { item, advice } = advised;
        if !advice.has(Hook::Route) {
            return None;
        }
        let facts = advice.facts(&self.infer.policy_context, &self.head, Some(&item.body));
        model::until(self.began, &upstream::choose(&self.route, advice, &facts).ok()?)
    }
}
