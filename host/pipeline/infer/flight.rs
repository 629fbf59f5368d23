//! One item's flight to the model and into the tiers.

use std::{
    pin::pin,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use http::{HeaderMap, Method, StatusCode};

use super::{
    Infer, SplitRequest,
    model::{AdvisedItem, ItemResult, PendingResult, await_result},
    places::{Row, Wishes},
    tenant::Account,
};
use crate::{
    batch::Pending,
    cache::{
        admit::{Admission, Refusal},
        collapse::Lead,
        fetches::Fetch,
        key::Key,
        lookup::Demand,
        purge::{Mark, Purgeable},
        record::{Origins, Recorder, StorageKeys, TooLarge, head},
        store::leases::Lease,
        tag::{self, Tag, Urls},
    },
    clock::{self, Timestamp},
    message::RequestHead,
    origin::protocol::{ItemResponse, Protocol},
    pipeline::{
        admission::{self, Case, Responded, Times},
        inputs, momentary,
        route::Route,
    },
};

/// One item's flight to the model and into the tiers.
pub(super) struct Flight {
    pub(super) infer: Arc<Infer>,
    pub(super) route: Arc<Route>,
    pub(super) url: String,
    pub(super) head: Arc<RequestHead>,
    pub(super) demand: Demand,
    pub(super) account: Account,
    /// Until when the client that began it waits.
    pub(super) due: Option<Instant>,
    /// When the deadlines of that request's items began, and whether a queue has taken in something of it.
    pub(super) request_began: Instant,
    pub(super) admitted: Arc<AtomicBool>,
    pub(super) advised: AdvisedItem,
    pub(super) protocol: &'static dyn Protocol,
    pub(super) key: Key,
    pub(super) fetch: Arc<Fetch>,
    pub(super) mark: Mark,
    pub(super) requested: Timestamp,
    pub(super) begun: Instant,
    pub(super) lead: Lead<Arc<ItemResult>>,
    pub(super) pending: Option<PendingResult>,
    /// The item's place in the queue, for requests that join.
    pub(super) _row: Option<Row>,
}

impl SplitRequest {
    /// Returns the flight that this request leads; the purge log stood at `mark` before anything of it was submitted.
    pub(super) fn flight(
        &self,
        advised: &AdvisedItem,
        key: Key,
        lead: Lead<Arc<ItemResult>>,
        (pending, lease): (PendingResult, Option<Lease>),
        mark: Mark,
        wishes: &mut Wishes,
    ) -> Flight {
        Flight {
            _row: self.infer.places.row(lead.number(), &pending, wishes),
            infer: Arc::clone(&self.infer),
            route: Arc::clone(&self.route),
            url: self.url.clone(),
            head: Arc::clone(&self.head),
            demand: self.demand.clone(),
            account: self.account,
            due: self.due,
            request_began: self.began,
            admitted: Arc::clone(&self.admitted),
            advised: advised.clone(),
            protocol: self.protocol,
            key,
            fetch: self.infer.cache.begin_leased(&key, lease),
            mark,
            requested: clock::now(),
            lead,
            pending: Some(pending),
            begun: Instant::now(),
        }
    }
}

impl Flight {
    pub(super) async fn run(mut self) {
        let pending = self.pending.take().unwrap_or(Ok(None));
        let result = await_result(self.protocol, pending).await;
        self.settle(result);
    }

    /// Ends early if all that wait have left before the item was sent: dropping what is pending withdraws it. If its
    /// batch was sent already, the result is paid for, and stored.
    pub(super) async fn run_while_wanted(mut self) {
        let pending = self.pending.take().unwrap_or(Ok(None));
        let queued = pending.as_ref().ok().and_then(|pending| pending.as_ref().map(Pending::queued));
        let mut awaiting = pin!(await_result(self.protocol, pending));
        let result = tokio::select! {
            result = &mut awaiting => result,
            is_off = self.lead.abandoned(|| queued.as_ref().is_some_and(|queued| queued.has_left())) => {
                if is_off {
                    return;
                }
                awaiting.await
            }
        };
        self.settle(result);
    }

    /// Stores the result if it may be, then lands the flight; in this order, so that a request that comes too late for
    /// the flight finds it.
    fn settle(self, mut result: ItemResult) {
        if let Ok(answer) = &result.outcome {
            let Kept { refusal, reason, tags, is_stored } = self.store(&result.headers, answer);
            result.stored = is_stored;
            result.shareable = refusal.is_none_or(Refusal::is_shareable);
            result.remark = reason.or_else(|| self.advised.advice.remarked().cloned());
            let tags = tags.unwrap_or_else(|| {
                let mut tags = tag::named(&result.headers, &self.route.config.tag_headers);
                tags.extend(tag::of_url(&self.url, true));
                tags.push(Tag::key(&self.key));
                tags
            });
            result.purgeable = Some(Purgeable { tags, urls: Urls::one(&self.url), mark: self.mark });
        }
        // First off the table: a request that comes after a failure was replied makes an attempt of its own.
        self.lead.close();
        self.lead.land(Arc::new(result));
    }

    /// Stores a result if it may be.
    fn store(&self, headers: &HeaderMap, answer: &ItemResponse) -> Kept {
        let body = &answer.body;
        let AdvisedItem { item, advice } = &self.advised;
        let (received, fetch) = (clock::now(), self.begun.elapsed());
        let times = Times { mark: self.mark, requested: self.requested, received, fetch };
        let response = Responded { status: StatusCode::OK, headers, length: Some(body.len() as u64) };
        let cache = &self.infer.cache;
        let facts = advice.facts(&self.infer.policy_context, &self.head, Some(&item.body));
        let case = Case::new(&self.route, &Method::POST, &self.head.headers, advice, response, &times);
        let ruling = admission::rule(cache, &self.route, advice, &facts, &case);
        let storage = match ruling.admission {
            Admission::Store(storage) => storage,
            Admission::Refuse(refusal) => {
                let holds = refusal.holds_for_key() || ruling.uncacheable.is_some();
                if holds && !self.fetch.is_overtaken(&self.key) {
                    cache.mark_uncacheable_by(&self.fetch, self.key, clock::uptime(), ruling.uncacheable);
                }
                return Kept { reason: ruling.reason, ..Kept::refused(refusal) };
            }
        };
        if !answer.storable {
            return Kept::refused(Refusal::Unreadable);
        }
        if body.len() > cache.config().part_bytes {
            // A result is joined with others from one piece.
            return Kept::refused(Refusal::TooLarge);
        }
        self.infer.recent.note(&self.key, clock::uptime(), || {
            let facts = advice.facts(&self.infer.policy_context, &self.head, Some(&item.body));
            inputs::of(&self.route, advice, &facts, Some(&item.canonical))
        });
        // Everything of the client's that reaches the model is in the key, or the policy has decided.
        let keys = StorageKeys { primary: self.key, key: self.key, names: None };
        let origins = Origins {
            url: &self.url,
            key: &self.key,
            mark: self.mark,
            requested: self.requested,
            received,
            tag_headers: &self.route.config.tag_headers,
            targeted: self.route.targeted(),
            groups: false,
            by_rule: None,
        };
        let mut head = head(StatusCode::OK, headers, &storage, &origins);
        momentary::strip(&mut head.headers);
        match Recorder::new(Arc::clone(cache), Arc::clone(&self.fetch), keys, head).whole(body) {
            Ok((object, is_stored)) => {
                Kept { refusal: None, reason: None, tags: Some(object.head.tags.clone()), is_stored }
            }
            Err(TooLarge) => Kept::refused(Refusal::TooLarge),
        }
    }
}

/// What became of a result that was to be stored.
struct Kept {
    /// Why it may not be stored, with the policy's reason if that is its decision.
    refusal: Option<Refusal>,
    reason: Option<Arc<str>>,
    /// The tags of what may be.
    tags: Option<Vec<Tag>>,
    /// Whether it is. What was purged on its way isn't, although it may be.
    is_stored: bool,
}

impl Kept {
    const fn refused(refusal: Refusal) -> Self {
        Self { refusal: Some(refusal), reason: None, tags: None, is_stored: false }
    }
}
