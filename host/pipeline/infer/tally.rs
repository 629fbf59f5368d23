//! Where the results of one request's items came from, for its trail, and what they cost.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::model::ItemResult;
use crate::{
    cache::{entry::Object, status::Forward, store::Tier},
    clock,
    message::proxy_status::ProxyStatus,
    origin::protocol::{ItemError, Message, OutcomeRef, Protocol},
    pipeline::{
        proxy,
        trail::{Lookup, Trail},
    },
};

/// The header field that says what a request with items cost, as a dictionary (RFC 9651, section 3.2).
pub(super) const USAGE: HeaderName = HeaderName::from_static("holm-usage");

/// Counts of a model that the field has. Further ones are left out.
const COUNTS_MAX: usize = 16;

/// Bytes of the name of such a count. One with a longer name is left out.
const KEY_BYTES_MAX: usize = 64;

/// The largest number in a structured field (RFC 9651, section 3.3.1).
const INTEGER_MAX: u64 = 999_999_999_999_999;

/// The reason of a failure where a result can't be read.
const BAD_RESPONSE: &str = "bad-response";

/// The reasons of failures in spite of a response.
const UNREAD: [&str; 4] = [BAD_RESPONSE, "body-timeout", "response-body", "response-coding"];

/// The reply to one item, by where it came from.
#[derive(Clone)]
pub(super) enum ItemReply {
    /// From a tier.
    Stored { object: Arc<Object>, tier: Tier, stale: bool },
    /// From a tier, because the model failed in this way.
    Fallback { object: Arc<Object>, tier: Tier, result: Arc<ItemResult> },
    /// From the model; through the fetch of another request or of an earlier item if `collapsed`.
    Fetched { result: Arc<ItemResult>, collapsed: bool },
}

impl ItemReply {
    /// Whether it is a result of the model that can't stand beside others.
    pub(super) fn is_for_one_alone(&self) -> bool {
        matches!(self, Self::Fetched { result, .. } if result.is_for_one_alone())
    }

    /// Returns the reply to a further item that is the same.
    pub(super) fn repeated(&self) -> Self {
        match self {
            Self::Fetched { result, .. } => Self::Fetched { result: Arc::clone(result), collapsed: true },
            Self::Stored { .. } | Self::Fallback { .. } => self.clone(),
        }
    }

    /// Returns the model's status, if it responded to this request.
    pub(super) fn upstream_status(&self) -> Option<u16> {
        match self {
            Self::Fetched { result, .. } => result.status,
            Self::Stored { .. } | Self::Fallback { .. } => None,
        }
    }

    /// Returns the header fields that describe its body.
    pub(super) fn fields(&self) -> &HeaderMap {
        match self {
            Self::Stored { object, .. } | Self::Fallback { object, .. } => &object.head.headers,
            Self::Fetched { result, .. } => &result.headers,
        }
    }

    /// Returns its outcome, with the header fields that describe it.
    pub(super) fn outcome(&self) -> OutcomeRef<'_> {
        match self {
            Self::Stored { object, .. } | Self::Fallback { object, .. } => {
                Ok(Message { headers: &object.head.headers, body: &object.body })
            }
            Self::Fetched { result, .. } => {
                result.outcome.as_ref().map(|answer| Message { headers: &result.headers, body: &answer.body })
            }
        }
    }

    /// Returns the error by which the queue refused the item, and its request with it.
    pub(super) fn refusal(&self) -> Option<&ItemError> {
        match self {
            Self::Fetched { result, .. } => result.refusal(),
            Self::Stored { .. } | Self::Fallback { .. } => None,
        }
    }

    /// Returns the header fields of a reply that is this one alone.
    pub(super) fn headers(&self) -> HeaderMap {
        match self {
            Self::Stored { object, .. } | Self::Fallback { object, .. } => object.aged_headers(clock::now()),
            Self::Fetched { result, .. } => (*result.headers).clone(),
        }
    }
}

/// Returns the errors of those of several items whose results can't stand beside others: the reply as a whole couldn't
/// be read, or lacked something. An item that is the only one has the model's own response. Empty if there are none.
pub(super) fn spoiled(protocol: &dyn Protocol, item_replies: &[ItemReply]) -> Vec<Option<ItemError>> {
    if item_replies.len() <= 1 || !item_replies.iter().any(ItemReply::is_for_one_alone) {
        return Vec::new();
    }
    let status = StatusCode::BAD_GATEWAY.as_u16();
    let error = |(index, reply): (usize, &ItemReply)| {
        reply.is_for_one_alone().then(|| {
            let detail = format!("the model's result for the input at index {index} can't be read");
            protocol.failure(status, &detail, Some(&format!("input[{index}]")))
        })
    };
    item_replies.iter().enumerate().map(error).collect()
}

/// Returns what stands in the place of each item: its error in place of its outcome, if it has one.
pub(super) fn outcomes<'o>(item_replies: &'o [ItemReply], spoiled: &'o [Option<ItemError>]) -> Vec<OutcomeRef<'o>> {
    let outcome = |(index, reply): (usize, &'o ItemReply)| {
        let error = spoiled.get(index).and_then(Option::as_ref);
        error.map_or_else(|| reply.outcome(), Err)
    };
    item_replies.iter().enumerate().map(outcome).collect()
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
    /// Why a response that came was of no use.
    unread: Option<&'static str>,
    remark: Option<Arc<str>>,
    cost_micro: u64,
    /// The model's counts for what was fetched for this request.
    usage: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn of(protocol: &dyn Protocol, item_replies: &[ItemReply]) -> Self {
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
                // Nothing of it was sent.
                ItemReply::Fetched { result, .. } if result.refusal().is_some() => tally.credit(result),
                ItemReply::Fetched { result, collapsed } => {
                    if !collapsed {
                        tally.charge(protocol, result);
                    }
                    tally.add(result, *collapsed);
                }
            }
            if item_replies.len() > 1 && answer.is_for_one_alone() {
                tally.reason = tally.reason.or(Some(BAD_RESPONSE));
                tally.unread = tally.unread.or(Some(BAD_RESPONSE));
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

    /// Adds what the model counted for a result.
    fn charge(&mut self, protocol: &dyn Protocol, result: &ItemResult) {
        let Ok(response) = &result.outcome else { return };
        for (name, count) in protocol.usage(Message { headers: &result.headers, body: &response.body }) {
            let sum = self.usage.entry(name).or_default();
            *sum = sum.saturating_add(count);
        }
    }

    /// Returns the value of [`USAGE`]: the request's items, how many of them were sent to the model for it, and what the
    /// model counted for these. The reply itself says what all of them cost when they were sent.
    pub(super) fn usage(&self) -> Option<HeaderValue> {
        let mut text = format!("items={}, sent={}", self.items, self.batched);
        for (name, count) in self.usage.iter().filter(|(name, _)| is_key(name)).take(COUNTS_MAX) {
            text.push_str(", ");
            text.push_str(name);
            text.push('=');
            text.push_str(&(*count).min(INTEGER_MAX).to_string());
        }
        HeaderValue::try_from(text).ok()
    }

    /// Notes the endpoint, the attempts and the outcome of a result.
    fn credit(&mut self, result: &ItemResult) {
        self.batch = self.batch.max(result.batch);
        self.attempts = self.attempts.max(result.attempts);
        self.status = self.status.or(result.status);
        self.reason = self.reason.or(result.reason);
        // Unless its client gets it as it is.
        if result.outcome.as_ref().is_err_and(|error| !error.is_response) {
            self.unread = self.unread.or(result.reason.filter(|reason| UNREAD.contains(reason)));
        }
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
        } else if let Some(reason) = self.unread {
            trail.proxy_status = Some(ProxyStatus::Error(proxy::error_of(reason)));
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

/// Whether a model's name of a count can be a dictionary's key, and is none of this node's.
fn is_key(name: &str) -> bool {
    let follows = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'.');
    let is_spelled_so = name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(follows);
    is_spelled_so && name.len() <= KEY_BYTES_MAX && !matches!(name, "items" | "sent")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_cost_is_a_dictionary() {
        let usage_of = |counts: &[(&str, u64)]| -> BTreeMap<String, u64> {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let long = "x".repeat(KEY_BYTES_MAX + 1);
        let many: Vec<String> = (0..=COUNTS_MAX).map(|n| format!("n{n:02}")).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|name| (name.as_str(), 1)).collect();
        for (usage, wanted) in [
            (&[("total_tokens", 7), ("prompt_tokens", 7)][..], "items=3, sent=2, prompt_tokens=7, total_tokens=7"),
            (&[], "items=3, sent=2"),
            (&[("a.b-c_9", u64::MAX)], "items=3, sent=2, a.b-c_9=999999999999999"),
            (
                &[("sent", 1), ("items", 1), ("", 1), ("9", 1), ("Big", 1), ("a=1, b", 1), ("ä", 1), ("a\n", 1)],
                "items=3, sent=2",
            ),
            (&[(long.as_str(), 1), ("a", 0)], "items=3, sent=2, a=0"),
        ] {
            let tally = Tally { items: 3, batched: 2, usage: usage_of(usage), ..Tally::default() };
            assert_eq!(tally.usage().unwrap(), wanted, "{usage:?}");
        }
        let tally = Tally { usage: usage_of(&many), ..Tally::default() };
        assert_eq!(tally.usage().unwrap().to_str().unwrap().split(", ").count(), 2 + COUNTS_MAX);
    }
}
