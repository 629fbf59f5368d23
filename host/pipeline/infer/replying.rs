//! The reply to a request, joined of those to its items.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{
    SplitRequest, compress, joined,
    tally::{self, ItemReply, Tally, USAGE},
};
use crate::{
    cache::{control::Directives, status::CUT_OFF},
    clock,
    origin::protocol::{OutcomeRef, ReplyForm},
    pipeline::{
        momentary::{self, Part},
        reply::Reply,
        trail::Trail,
    },
};

impl SplitRequest {
    /// Returns the reply that joins those to all items.
    pub(super) fn reply(&self, form: ReplyForm, item_replies: &[ItemReply], mut trail: Trail) -> Reply {
        let tally = Tally::of(self.protocol, item_replies);
        tally.note(&mut trail);
        if trail.is_hit() && self.infer.cache.purger().is_serving_cut_off() {
            trail.detail = Some(CUT_OFF.into());
        }
        let spoiled = tally::spoiled(self.protocol, item_replies);
        let outcomes = tally::outcomes(item_replies, &spoiled);
        let is_one_result = form.is_one_result();
        // A request that is refused is refused as a whole, also where items could have errors of their own.
        let is_refused = item_replies.iter().all(|reply| reply.refusal().is_some());
        let mut joined_reply = match item_replies.first().and_then(ItemReply::refusal).filter(|_| is_refused) {
            Some(refusal) => self.protocol.reply_to_all(refusal),
            None => self.protocol.join_outcomes(form, &outcomes),
        };
        let mut headers = match item_replies.first().filter(|_| is_one_result) {
            Some(only) => only.headers(),
            None => said_of(item_replies),
        };
        let too_many = StatusCode::TOO_MANY_REQUESTS.as_u16();
        if joined_reply.status == too_many
            && !item_replies.iter().any(|reply| reply.upstream_status() == Some(too_many))
        {
            headers.entry(header::RETRY_AFTER).or_insert(HeaderValue::from_static("1"));
        }
        if let Some(usage) = tally.usage() {
            headers.insert(USAGE, usage);
        }
        if let Some(media_type) = media_type(item_replies, &outcomes, &joined_reply.body) {
            joined_reply.headers.insert(header::CONTENT_TYPE, media_type);
        }
        joined(&self.infer, joined_reply, trail, Some(headers))
    }

    /// Returns the reply in the coding that the client wants, unless its route offers none or a result of it forbids
    /// that.
    pub(super) async fn compressed(&self, item_replies: &[ItemReply], reply: Reply) -> Reply {
        let rule = &self.route.config.compress;
        let keeps_form = |item_reply: &ItemReply| Directives::read(item_reply.fields()).no_transform;
        if rule.codings.is_empty() || item_replies.iter().any(keeps_form) {
            return reply;
        }
        compress::compressed(rule, &self.infer.codings, &self.head.headers, reply).await
    }
}

/// Returns what the responses that a request's results came in say of the moment. What is stored says nothing of it.
fn said_of(item_replies: &[ItemReply]) -> HeaderMap {
    let mut parts: Vec<(&Arc<HeaderMap>, bool)> = Vec::new();
    for item_reply in item_replies {
        let ItemReply::Fetched { result, .. } = item_reply else { continue };
        let (headers, failed) = (&result.headers, result.outcome.is_err());
        // The results of one response share its fields.
        match parts.iter_mut().find(|(known, _)| Arc::ptr_eq(known, headers)) {
            Some((_, known)) => *known |= failed,
            None => parts.push((headers, failed)),
        }
    }
    let parts: Vec<Part<'_>> = parts.into_iter().map(|(headers, failed)| Part { headers, failed }).collect();
    momentary::merged(&parts, clock::now())
}

/// Returns the media type of a body that is one result's own, byte for byte, if the model has named it.
fn media_type(item_replies: &[ItemReply], outcomes: &[OutcomeRef<'_>], body: &Bytes) -> Option<HeaderValue> {
    let is_whole = |outcome: &OutcomeRef<'_>| {
        let own = outcome.as_ref().map_or_else(|error| &error.body, |answer| answer.body);
        (own.as_ptr(), own.len()) == (body.as_ptr(), body.len())
    };
    let at = outcomes.iter().position(is_whole)?;
    // Beside others the error of such a result is this node's.
    let own = item_replies.get(at).filter(|reply| item_replies.len() == 1 || !reply.is_for_one_alone());
    own?.fields().get(header::CONTENT_TYPE).cloned()
}
