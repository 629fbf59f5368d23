//! What a request makes of the landing of a flight in which it has waited for an item. Pure.

use super::model::ItemResult;

/// How often a request joins a further flight of an item before it asks by itself.
const JOINS_MAX: usize = 3;

/// What a flight has landed with, for one of those that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Landing {
    /// A result or a failure of the item: it is this request's, too.
    ForAll,
    /// What was refused to the request that led, or took it too long: it says nothing of the item.
    ForItsLeader,
    /// A result that has been purged, of a flight that began before this request came.
    Purged,
    /// Nothing: the leader has gone, or another node has stored the result.
    Lost,
    /// A result for the request that led: those of others are their own.
    Private,
}

impl Landing {
    /// Returns what a flight has landed with, for one that led it itself or followed.
    pub(super) fn of(result: Option<&ItemResult>, follows: bool, is_purged: impl Fn(&ItemResult) -> bool) -> Self {
        match result {
            None => Self::Lost,
            Some(result) if is_purged(result) => Self::Purged,
            Some(result) if result.shareable || !follows => Self::ForAll,
            Some(result) if result.is_of_one_request() => Self::ForItsLeader,
            Some(_) => Self::Private,
        }
    }

    /// Whether all that waited want the same again, so that one further flight is for all of them; `joins` counts the
    /// further flights that the request has joined. Of results that are private each would wait for the one before it.
    pub(super) const fn is_joined_again(self, joins: usize) -> bool {
        matches!(self, Self::ForItsLeader | Self::Purged | Self::Lost) && joins < JOINS_MAX
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;

    use super::*;
    use crate::{
        config,
        origin::protocol::{self, ItemResponse},
        pipeline::infer::model::failed,
    };

    #[test]
    fn what_is_no_word_on_the_item_is_asked_for_again_together() {
        let protocol = protocol::of(config::Protocol::JsonArray);
        let failure = |reason, shareable| {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            ItemResult { shareable, ..failed(protocol, status, reason, "", 1) }
        };
        let response = |shareable| ItemResult {
            outcome: Ok(ItemResponse::from(Bytes::from_static(b"1"))),
            reason: None,
            ..failure("", shareable)
        };
        // The result, whether the request followed, whether it was purged; then the first and the last time.
        for (result, follows, is_purged, wanted, again) in [
            (Some(response(true)), true, false, Landing::ForAll, false),
            (Some(response(true)), false, false, Landing::ForAll, false),
            (Some(response(false)), false, false, Landing::ForAll, false),
            (Some(response(false)), true, false, Landing::Private, false),
            (Some(failure("origin-error", false)), true, false, Landing::Private, false),
            (Some(failure("origin-error", true)), true, false, Landing::ForAll, false),
            (Some(failure("batch-lost", true)), true, false, Landing::ForAll, false),
            (Some(failure("queue-full", false)), true, false, Landing::ForItsLeader, true),
            (Some(failure("deadline", false)), true, false, Landing::ForItsLeader, true),
            (Some(failure("deadline", false)), false, false, Landing::ForAll, false),
            (Some(response(true)), true, true, Landing::Purged, true),
            (Some(response(false)), true, true, Landing::Purged, true),
            (None, true, false, Landing::Lost, true),
            (None, false, false, Landing::Lost, true),
        ] {
            let landing = Landing::of(result.as_ref(), follows, |_| is_purged);
            assert_eq!(landing, wanted, "{result:?} {follows}");
            assert_eq!(landing.is_joined_again(0), again, "{landing:?}");
            assert!(!landing.is_joined_again(JOINS_MAX), "{landing:?}");
        }
    }
}
