//! What a request wants of the items that others have asked for, and that it waits for.

use super::{
    AdvisedItem, Disposition, Fallback, SplitRequest, model,
    places::{Following, Wishes},
};
use crate::batch::Terms;

impl SplitRequest {
    /// Notes on which terms this request would have submitted the items that it waits for. It makes no difference if
    /// the policy can't say.
    pub(super) fn follow(
        &self,
        dispositions: &[(&AdvisedItem, Disposition, Fallback)],
        wishes: &mut Wishes,
    ) -> Option<Following> {
        let places = &self.infer.places;
        let own = |(advised, disposition, _): &(&AdvisedItem, Disposition, Fallback)| match disposition {
            Disposition::Follow(_, follower) if places.may_wait(follower.number()) => {
                let batch_item = self.batch_item(advised).ok()?;
                Some((follower.number(), model::terms(&batch_item)))
            }
            _ => None,
        };
        let flights: Vec<(u64, Terms)> = dispositions.iter().filter_map(own).collect();
        (!flights.is_empty()).then(|| places.follow(flights, wishes))
    }
}
