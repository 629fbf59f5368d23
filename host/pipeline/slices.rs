//! Ranges of what isn't stored as a whole, put together from slices: each is looked up, fetched and stored by itself, by
//! one flight for all that want it.
//!
//! A reply is of one version from its first byte to its last: a slice of another one is fetched again, and if the origin
//! has that other version by now, the body breaks off.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use tracing::debug;

use super::{
    fetch::{self, Arrival, Fetcher, KeyedRequest, Landing},
    joining::{self, Stored, Turn},
    reply::{Replies, Reply, found, note},
    rest, trace,
    trail::{Lookup, Trail},
};
use crate::{
    cache::{
        Cache,
        body::{Resumed, cut::passing, of_pieces},
        collapse::{Flights, Follower},
        conditional::Strictness,
        entry::Object,
        key::Key,
        lookup::Outcome,
        purge::Arrived,
        range::{Candidate, Extent, Ranges, Sections},
        slice::{Slice, Version},
        status::CACHE_STATUS,
        store::Tier,
        tag, vary,
    },
    clock::{self, Timestamp},
    message::{Body, BodyError, Response},
};

/// How often a slice is looked for: by its key, by its variant's, and once more if what came was purged meanwhile.
const ATTEMPTS_MAX: usize = 3;

/// Serves ranges from slices.
#[derive(Debug)]
pub(super) struct Slicer {
    pub(super) cache: Arc<Cache>,
    pub(super) flights: Arc<Flights<Landing>>,
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) replies: Arc<Replies>,
}

/// A slice that can be read.
struct Found {
    slice: Slice,
    version: Version,
    /// Under which it is, or will be, stored.
    key: Key,
    source: Source,
}

enum Source {
    Stored(Arc<Object>, Tier),
    /// It still arrives; whether by a fetch that this request began.
    Arriving(Box<Arrival>, bool),
}

impl Found {
    fn headers(&self) -> &HeaderMap {
        match &self.source {
            Source::Stored(object, _) => &object.head.headers,
            Source::Arriving(arrival, _) => &arrival.headers,
        }
    }
}

impl Slicer {
    /// Returns the reply to a request for a range. `None` if the request is to be passed on: it names several ranges, or
    /// the whole is to be sent, or its origin has no slices.
    pub(super) async fn serve(self: &Arc<Self>, request: &KeyedRequest, trail: Trail) -> Option<Reply> {
        let headers = &request.head.headers;
        let first = Ranges::of(headers)?.first_of_one()?;
        if has_other_conditions(headers) || self.cache.is_unsliced(&request.primary) {
            return None;
        }
        let size = self.cache.config().part_bytes;
        let mut found = self.find(request, Slice::at(first, size), None).await?;
        let candidate = Candidate {
            status: StatusCode::OK,
            headers: found.headers(),
            length: Some(found.version.length()),
            is_arriving: false,
        };
        let Extent::Partial(partial) = Extent::of(headers, &candidate, || 0) else { return None };
        let Sections::One(range) = partial.sections().clone() else { return None };
        if found.slice != Slice::at(range.start, size) {
            // The end of a body, whose length is known only now.
            let version = found.version;
            found = self.find(request, Slice::at(range.start, size), Some(&version)).await?;
            if found.version != version {
                return None;
            }
        }
        let body = self.open(&found, &range).await?;
        let (mut fields, mut trail) = described(&found, trail, clock::now());
        partial.describe(&mut fields);
        self.replies.note_cut_off(&mut trail);
        fields.append(CACHE_STATUS, trail.cache_status(&self.replies.node_name));
        let left = range.end - range.start;
        let reading = Reading {
            slicer: Arc::clone(self),
            request: request.clone(),
            size,
            version: found.version,
            begun_with: found.key,
            left: range,
            current: Some(body),
        };
        let mut response = Response::new(reading.into_body(left));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        *response.headers_mut() = fields;
        Some(Reply { response, trail })
    }

    /// Returns a slice, stored or fetched. One that is stored must be of the version that is wanted, if any is; what is
    /// fetched is what the origin has.
    async fn find(&self, whole: &KeyedRequest, slice: Slice, wanted: Option<&Version>) -> Option<Found> {
        let mut request = whole.of_slice(slice);
        let url = Arc::clone(&request.url);
        let by_url = move |prefixes| tag::of_url(&url, prefixes);
        for _ in 0..ATTEMPTS_MAX {
            let now = clock::now();
            let found_here = self.cache.look_up(&request.query(&by_url, now)).await;
            // Of a variant that isn't stored yet only its flight knows.
            if found_here.varied {
                request.key = found_here.key;
            }
            if let Outcome::Hit(object) = found_here.outcome
                && let Some(found) = usable(slice, found_here.key, object, found_here.tier, wanted, now)
            {
                return Some(found);
            }
            if found_here.uncacheable {
                return None;
            }
            let joined = self.cache.purger().arrived();
            let look = || self.cache.peek(&request.query(&by_url, now));
            let (follower, is_own) = match joining::join(&self.flights, &request.flight_key(), look) {
                Turn::Full => return None,
                Turn::Follow(follower) => (follower, false),
                Turn::Lead(lead, stored) => {
                    let stored =
                        stored.and_then(|Stored { object, key, tier }| usable(slice, key, object, tier, wanted, now));
                    if stored.is_some() {
                        return stored;
                    }
                    let (follower, span) = (lead.follower(), request.advice.span());
                    trace::leads(span, lead.number());
                    let own = oneshot::channel().0;
                    trace::spawn(span, fetch::lead(Arc::clone(&self.fetcher), request.clone(), lead, own));
                    (follower, true)
                }
            };
            match self.land(&mut request, slice, &joined, follower, is_own).await {
                Landed::Found(found) => return Some(*found),
                Landed::Again => {}
                Landed::Nothing => return None,
            }
        }
        None
    }

    async fn land(
        &self,
        request: &mut KeyedRequest,
        slice: Slice,
        joined: &Arrived,
        follower: Follower<Landing>,
        is_own: bool,
    ) -> Landed {
        let (flight, url) = (follower.number(), Arc::clone(&request.url));
        let arrival = match follower.landed().await {
            Some(Landing::Shared(arrival)) => arrival,
            None | Some(Landing::Renewed(..) | Landing::Elsewhere) => return Landed::Again,
            Some(Landing::Private(_) | Landing::Failed(_)) => return Landed::Nothing,
        };
        // What isn't stored is no slice. What is never fresh is for the one that fetched it.
        if arrival.ttl_ms.is_none() || !is_own && arrival.ttl_ms == Some(0) {
            return Landed::Nothing;
        }
        let is_outdated =
            self.cache.purger().is_outdated(&arrival.tags, &arrival.mark, joined, || tag::of_url(&url, true));
        if is_outdated || !is_own && arrival.is_over(clock::uptime()) {
            self.flights.retire(&request.flight_key(), flight);
            return Landed::Again;
        }
        if let Some(names) = &arrival.keys.names {
            let variant = vary::variant(&request.primary, names, &request.head);
            if variant != arrival.keys.key {
                request.key = variant;
                return Landed::Again;
            }
        }
        let key = arrival.keys.key;
        match slice.version(&arrival.headers, arrival.body.length()) {
            Some(version) => {
                let source = Source::Arriving(Box::new(arrival), is_own);
                Landed::Found(Box::new(Found { slice, version, key, source }))
            }
            None => Landed::Nothing,
        }
    }

    /// Opens the bytes of a range that a slice has.
    async fn open(&self, found: &Found, range: &Range<u64>) -> Option<Body> {
        let sections = Sections::One(found.slice.cut(range));
        match &found.source {
            Source::Stored(object, _) => self.cache.body(found.key, object, sections, || None).await,
            Source::Arriving(arrival, _) => self.cache.arriving(&arrival.body, sections, || None).await,
        }
    }
}

/// What a flight brought.
enum Landed {
    Found(Box<Found>),
    /// It was another variant, or it was purged meanwhile: look again.
    Again,
    /// No slice.
    Nothing,
}

/// Whether conditions beside `If-Range` have to be evaluated, which the origin does.
fn has_other_conditions(headers: &HeaderMap) -> bool {
    [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE]
        .iter()
        .any(|name| headers.contains_key(name))
}

/// Returns a stored slice, if it is fresh, whole and of the version that is wanted.
fn usable(
    slice: Slice,
    key: Key,
    object: Arc<Object>,
    tier: Tier,
    wanted: Option<&Version>,
    now: Timestamp,
) -> Option<Found> {
    let version = slice.version(&object.head.headers, Some(object.head.length))?;
    let is_usable = object.head.is_fresh(now) && wanted.is_none_or(|wanted| *wanted == version);
    is_usable.then(|| Found { slice, version, key, source: Source::Stored(object, tier) })
}

/// Returns the header fields of a reply that begins with this slice, and the trail that says where it is from.
fn described(found_here: &Found, mut trail: Trail, now: Timestamp) -> (HeaderMap, Trail) {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    match &found_here.source {
        Source::Stored(object, tier) => {
            trail.forward = None;
            found(&mut trail, Lookup::Hit, *tier);
            let head = &object.head;
            trail.ttl_ms = Some(signed(head.lifetimes.ttl_ms).saturating_sub(signed(head.age_ms(now))));
            (object.aged_headers(now), trail)
        }
        Source::Arriving(arrival, is_own) => {
            note(&mut trail, &arrival.report);
            (trail.stored, trail.collapsed) = (true, !is_own);
            trail.ttl_ms = arrival.ttl_ms.map(signed);
            ((*arrival.headers).clone(), trail)
        }
    }
}

/// A range that is being read, slice by slice.
struct Reading {
    slicer: Arc<Slicer>,
    request: KeyedRequest,
    /// Bytes of a slice.
    size: usize,
    version: Version,
    /// The key of the slice that the reply began with.
    begun_with: Key,
    /// What is left of the range.
    left: Range<u64>,
    /// The bytes of it that the slice at its beginning has.
    current: Option<Body>,
}

impl Reading {
    /// The body, `left` bytes of it.
    fn into_body(self, left: u64) -> Body {
        let pieces = stream::unfold(Some(self), |reading| async move {
            let mut reading = reading?;
            match reading.next().await? {
                Ok(piece) => Some((Ok(piece), Some(reading))),
                Err(error) => Some((Err(error), None)),
            }
        });
        of_pieces(pieces.boxed(), Some(left))
    }

    async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        while !self.left.is_empty() {
            let frame = match &mut self.current {
                Some(body) => body.frame().await,
                None => None,
            };
            match frame {
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    self.left.start += data.len() as u64;
                    if !data.is_empty() {
                        return Some(Ok(data));
                    }
                }
                Some(Err(error)) => return Some(Err(error)),
                // All of a slice has been sent.
                None => match Box::pin(self.turn()).await {
                    Ok(body) => self.current = Some(body),
                    Err(reason) => {
                        self.slicer.cache.metrics().bodies_cut.inc();
                        debug!(reason, "a range of slices broke off");
                        return Some(Err(BodyError::Broken(reason.to_owned())));
                    }
                },
            }
        }
        None
    }

    /// Opens the next slice. Takes `&mut`, because a body can't be shared between threads while it is waited for.
    async fn turn(&mut self) -> Result<Body, &'static str> {
        let slice = Slice::at(self.left.start, self.size);
        if !slice.begins_at(self.left.start) {
            return Err("a slice of it ended early");
        }
        let found = self.slicer.find(&self.request, slice, Some(&self.version)).await;
        let Some(found) = found else { return self.rest().await };
        if found.version != self.version {
            // The next request begins with what the origin has.
            self.slicer.cache.remove_slice(&self.begun_with);
            return Err("its origin has another version by now");
        }
        match self.slicer.open(&found, &self.left).await {
            Some(body) => Ok(body),
            None => self.rest().await,
        }
    }

    /// Fetches the rest of the range for this client alone, and stores nothing of it: a slice that isn't for all, or isn't
    /// one any more, is no reason to cut what has begun.
    async fn rest(&mut self) -> Result<Body, &'static str> {
        let headers = HeaderMap::from_iter([(header::ETAG, self.version.tag().clone())]);
        let length = Some(self.version.length());
        let rest = rest::of(&self.slicer.fetcher, &self.request, StatusCode::OK, &headers, length, Strictness::Tag);
        let resumed = match rest {
            Some(rest) => rest.resume(self.left.start, Some(self.left.end)).await,
            None => None,
        };
        let Some(Resumed { offset, body }) = resumed else {
            self.slicer.cache.remove_slice(&self.begun_with);
            return Err("the rest of it can't be had");
        };
        Ok(passing(body, &(self.left.start - offset..self.left.end - offset)))
    }
}
