//! What other regions are told of a response that is being stored.

use super::{
    super::replicate::{Announcement, Storing},
    Fetcher, KeyedRequest,
};
use crate::cache::{record::StorageKeys, tag::Tag};

impl Fetcher {
    /// Returns what is to be announced of a response with these tags as soon as it can be found; `None` if nothing.
    pub(super) fn announcement(
        &self,
        request: &KeyedRequest,
        tags: &[Tag],
        keys: &StorageKeys,
    ) -> Option<Announcement> {
        if request.slice.is_some() {
            // It is a part that was fetched for a range alone.
            return None;
        }
        let KeyedRequest { route, advice, head, .. } = request;
        let (context, varies_by) = (&*self.policy_context, keys.names.as_deref().unwrap_or_default());
        let client_field = self.proxies.client_field();
        self.replicator.announcement(&Storing { route, advice, context, head, tags, varies_by, client_field })
    }
}
