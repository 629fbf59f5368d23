//! Ranges of what isn't stored as a whole, put together from slices: each is looked up, fetched and stored by itself, by
//! one flight for all that want it.
//!
//! A reply is of one version from its first byte to its last: a slice of another one is fetched again, and if the origin
//! has that other version by now, the body breaks off.
//!
//! A stale slice is renewed, served while it is refreshed, or served in place of a response that didn't come, as a whole
//! is. A reply begins with one only if all of its range is stored in that version: what is missing would have to come
//! from an origin that fails, or that has another version by now.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use tracing::debug;

use super::{
    fetch::{self, Arrival, Fetcher, KeyedRequest, Landing, UpstreamReport},
    joining::{self, Stored, Turn},
    reply::{Replies, Reply, found, note, note_failed},
    rest, trace,
    trail::{Lookup, Trail},
    upstream::{DEADLINE, Failed},
};
use crate::{
    cache::{
        self, Cache, Query,
        body::{Resumed, cut::passing, of_pieces},
        collapse::{Flights, Follower, Joined},
        conditional::Strictness,
        entry::Object,
        key::Key,
        lookup::Outcome,
        purge::{Arrived, Subject},
        range::{Candidate, Extent, Partial, Ranges, Sections},
        slice::{Slice, Version},
        status::{CACHE_STATUS, Forward},
        store::Tier,
        tag, vary,
    },
    clock::{self, Timestamp},
    message::{Body, BodyError, Response, proxy_status::PROXY_STATUS},
};

/// How often a slice is looked for: by its key, by its variant's, and once more if what came was purged meanwhile.
const ATTEMPTS_MAX: usize = 3;

/// Slices of a range at most that are looked at before a reply begins that may not ask the origin for any of them. A
/// longer range is never served without it.
const STORED_SLICES_MAX: u32 = 64;

/// Serves ranges from slices.
#[derive(Debug)]
pub(super) struct Slicer {
    pub(super) cache: Arc<Cache>,
    pub(super) flights: Arc<Flights<Landing>>,
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) replies: Arc<Replies>,
}

/// Why a range isn't served from slices.
#[derive(Debug)]
pub(super) enum Unserved {
    /// There are none, or none for this request.
    NoSlices,
    /// No response came for one that is needed.
    Failed(Box<Failed>),
}

/// Whether a slice may be stale.
#[derive(Clone, Copy, Debug)]
enum Staleness<'a> {
    /// As far as its lifetimes and the origin's failures allow.
    Allowed,
    /// It may not: its origin is to be asked.
    Refused,
    /// Its origin was asked for another one of the same range, and has failed in this way.
    InPlaceOf(&'a Failed),
}

/// A slice that can be read.
#[derive(Debug)]
struct Found {
    slice: Slice,
    version: Version,
    /// Under which it is, or will be, stored.
    key: Key,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Stored(Arc<Object>, Via),
    /// It still arrives; whether by a fetch that this request began.
    Arriving(Box<Arrival>, bool),
}

/// How a stored slice came to be usable.
#[derive(Debug)]
enum Via {
    /// It is fresh, or the client accepts that it is stale.
    Hit(Tier),
    /// It is stale, and refreshed in the background.
    Grace(Tier),
    /// The origin says that it is good; whether to a request that this one began.
    Renewed(Box<UpstreamReport>, bool),
    /// It is stale, and no other response came.
    InPlaceOf(Box<Failed>),
}

impl Found {
    fn headers(&self) -> &HeaderMap {
        match &self.source {
            Source::Stored(object, _) => &object.head.headers,
            Source::Arriving(arrival, _) => &arrival.headers,
        }
    }
}

/// A stored slice that isn't to be served before its origin was asked.
#[derive(Debug)]
struct Stale {
    object: Arc<Object>,
    key: Key,
    if_error: bool,
    if_unreachable: bool,
}

/// What a look-up of a slice leads to.
#[derive(Debug)]
enum Held {
    Usable(Found),
    Stale(Stale),
    Nothing,
}

/// The beginning of a reply.
struct Begun {
    found: Found,
    partial: Partial,
    range: Range<u64>,
}

impl Slicer {
    /// Returns the reply to a request for a range.
    ///
    /// # Errors
    /// [`Unserved`] if the request is to be passed on: it names several ranges, or the whole is to be sent, or its origin
    /// has no slices or fails; or if it is to be refused, because the client wants nothing from the origin.
    pub(super) async fn serve(self: &Arc<Self>, request: &KeyedRequest, trail: Trail) -> Result<Reply, Unserved> {
        let first = first_byte(&self.cache, &request.head.headers, &request.primary);
        let Some(first) = first else { return Err(Unserved::NoSlices) };
        let mut begun = Box::pin(self.begin(request, first, Staleness::Allowed)).await?;
        if !self.is_enough(request, &begun).await {
            match begun.found.source {
                Source::Stored(_, Via::InPlaceOf(failed)) => return Err(Unserved::Failed(failed)),
                Source::Stored(_, Via::Grace(_)) if !is_offline(request) => {
                    begun = Box::pin(self.begin(request, first, Staleness::Refused)).await?;
                }
                Source::Stored(..) | Source::Arriving(..) => return Err(Unserved::NoSlices),
            }
        }
        self.reply(request, begun, trail).await.ok_or(Unserved::NoSlices)
    }

    /// Finds the slice that a reply begins with.
    async fn begin(&self, request: &KeyedRequest, first: u64, staleness: Staleness<'_>) -> Result<Begun, Unserved> {
        let size = self.cache.config().part_bytes;
        let mut found = self.find(request, Slice::at(first, size), None, staleness).await?;
        let selected = selected(&request.head.headers, &found);
        let Some((partial, range)) = selected else { return Err(Unserved::NoSlices) };
        let slice = Slice::at(range.start, size);
        if found.slice != slice {
            // The end of a body, whose length is known only now.
            let version = found.version;
            found = self.find(request, slice, Some(&version), staleness).await?;
            if found.version != version {
                return Err(Unserved::NoSlices);
            }
        }
        Ok(Begun { found, partial, range })
    }

    /// Whether a reply may begin so: if it begins with a stale slice, or the client wants nothing from the origin, all the
    /// others have to be stored, in the same version.
    async fn is_enough(&self, request: &KeyedRequest, begun: &Begun) -> bool {
        let failed = match &begun.found.source {
            Source::Stored(_, Via::InPlaceOf(failed)) => Some(&**failed),
            Source::Stored(_, Via::Grace(_)) => None,
            Source::Stored(_, Via::Hit(_)) if is_offline(request) => None,
            Source::Stored(..) | Source::Arriving(..) => return true,
        };
        let (size, version) = (self.cache.config().part_bytes, &begun.found.version);
        let (mut at, mut slices) = (begun.found.slice.end(), 1);
        while at < begun.range.end {
            let slice = Slice::at(at, size);
            slices += 1;
            if slices > STORED_SLICES_MAX || !self.is_stored(request, slice, version, failed).await {
                return false;
            }
            at = slice.end();
        }
        true
    }

    /// Whether a slice of this version is stored that may be served without its origin, or in place of this failure.
    async fn is_stored(&self, whole: &KeyedRequest, slice: Slice, version: &Version, failed: Option<&Failed>) -> bool {
        let request = whole.of_slice(slice);
        let url = Arc::clone(&request.url);
        let by_url = move |prefixes| tag::of_url(&url, prefixes);
        let found_here = self.cache.look_up(&request.query(&by_url, clock::now())).await;
        let staleness = failed.map_or(Staleness::Allowed, Staleness::InPlaceOf);
        matches!(held(slice, found_here, Some(version), staleness), Held::Usable(_))
    }

    /// Returns the reply that begins with this slice. `None` if that can't be read any more.
    async fn reply(self: &Arc<Self>, request: &KeyedRequest, begun: Begun, trail: Trail) -> Option<Reply> {
        let Begun { found, partial, range } = begun;
        let body = self.open(&found, &range).await?;
        let (mut fields, mut trail) = described(&found, trail, clock::now());
        partial.describe(&mut fields);
        self.replies.note_cut_off(&mut trail);
        fields.append(CACHE_STATUS, trail.cache_status(&self.replies.node_name));
        // It is served in place of a response that didn't come.
        if let Some(proxy_status) = trail.proxy_status(&self.replies.node_name) {
            fields.append(PROXY_STATUS, proxy_status);
        }
        let failed = match found.source {
            Source::Stored(_, Via::InPlaceOf(failed)) => Some(failed),
            Source::Stored(..) | Source::Arriving(..) => None,
        };
        let left = range.end - range.start;
        let reading = Reading {
            slicer: Arc::clone(self),
            request: request.clone(),
            size: self.cache.config().part_bytes,
            version: found.version,
            begun_with: found.key,
            failed,
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
    async fn find(
        &self,
        whole: &KeyedRequest,
        slice: Slice,
        wanted: Option<&Version>,
        staleness: Staleness<'_>,
    ) -> Result<Found, Unserved> {
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
            let is_uncacheable = found_here.uncacheable;
            let stale = match held(slice, found_here, wanted, staleness) {
                Held::Usable(found) => {
                    self.refresh_if_stale(&request, &found);
                    return Ok(found);
                }
                Held::Stale(stale) => Some(stale),
                Held::Nothing => None,
            };
            if is_uncacheable || is_offline(&request) {
                return Err(Unserved::NoSlices);
            }
            request.stale = stale.as_ref().map(|stale| Arc::clone(&stale.object));
            // A response of 5xx is a failure where a slice, or the whole, may be served in its place.
            request.if_error = whole.if_error || stale.as_ref().is_some_and(|stale| stale.if_error);
            request.key = stale.as_ref().map_or(request.key, |stale| stale.key);
            let joined = self.cache.purger().arrived();
            let look = || self.cache.peek(&request.query(&by_url, now));
            let (follower, is_own) = match joining::join(&self.flights, &request.flight_key(), look) {
                Turn::Full => return Err(Unserved::NoSlices),
                Turn::Follow(follower) => (follower, false),
                Turn::Lead(lead, stored) => {
                    let stored = stored
                        .and_then(|Stored { object, key, tier }| usable(slice, key, object, Via::Hit(tier), wanted));
                    if let Some(found) = stored {
                        return Ok(found);
                    }
                    let (follower, span) = (lead.follower(), request.advice.span());
                    trace::leads(span, lead.number());
                    let own = oneshot::channel().0;
                    trace::spawn(span, fetch::lead(Arc::clone(&self.fetcher), request.clone(), lead, own));
                    (follower, true)
                }
            };
            let flight = Flight { slice, joined, follower, is_own };
            match self.land(&mut request, flight, stale).await {
                Landed::Found(found) => return Ok(*found),
                Landed::Again => {}
                Landed::Nothing(unserved) => return Err(unserved),
            }
        }
        Err(Unserved::NoSlices)
    }

    /// Refreshes a slice that is served although it is stale, in the background, unless a fetch is under way already.
    fn refresh_if_stale(&self, request: &KeyedRequest, found: &Found) {
        let Source::Stored(object, Via::Grace(_)) = &found.source else { return };
        let request = KeyedRequest { stale: Some(Arc::clone(object)), key: found.key, ..request.clone() };
        if self.cache.is_marked_for_cookie(&request.key, &request.head) {
            // What it would bring isn't stored.
            return;
        }
        if let Joined::Lead(lead) = self.flights.join(&request.flight_key()) {
            let span = request.advice.span().clone();
            trace::leads(&span, lead.number());
            let own = oneshot::channel().0;
            trace::spawn(&span, fetch::lead(Arc::clone(&self.fetcher), request, lead, own));
        }
    }

    async fn land(&self, request: &mut KeyedRequest, flight: Flight, stale: Option<Stale>) -> Landed {
        let Flight { slice, joined, follower, is_own } = flight;
        let (flight, url) = (follower.number(), Arc::clone(&request.url));
        let is_outdated =
            |subject: Subject<'_>| self.cache.purger().is_outdated(&subject, &joined, || tag::of_url(&url, true));
        let arrival = match follower.landed().await {
            Some(Landing::Shared(arrival)) => arrival,
            Some(Landing::Renewed(object, _)) if is_outdated(object.head.subject()) => {
                self.flights.retire(&request.flight_key(), flight);
                return Landed::Again;
            }
            Some(Landing::Renewed(object, report)) => return renewed(request.key, slice, object, report, is_own),
            // The time that a policy gave to one request says nothing of the others.
            Some(Landing::Failed(failed)) if is_own || failed.reason != DEADLINE => {
                return self.in_place_of(&request.url, slice, failed, stale);
            }
            Some(Landing::Private(_) | Landing::Failed(_)) => return Landed::Nothing(Unserved::NoSlices),
            None | Some(Landing::Elsewhere) => return Landed::Again,
        };
        // What isn't stored is no slice. What is never fresh is for the one that fetched it.
        if arrival.ttl_ms.is_none() || !is_own && arrival.ttl_ms == Some(0) {
            return Landed::Nothing(Unserved::NoSlices);
        }
        if is_outdated(arrival.subject()) || !is_own && arrival.is_over(clock::uptime()) {
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
            None => Landed::Nothing(Unserved::NoSlices),
        }
    }

    /// Returns what is stored, if it may be served where its origin fails in this way.
    fn in_place_of(&self, url: &str, slice: Slice, failed: Failed, stale: Option<Stale>) -> Landed {
        let failed = Box::new(failed);
        let Some(Stale { object, key, if_error, if_unreachable }) = stale else {
            return Landed::Nothing(Unserved::Failed(failed));
        };
        if !self.cache.may_stand_in(&object, url, if_error, if_unreachable && failed.is_unreachable) {
            return Landed::Nothing(Unserved::Failed(failed));
        }
        match usable(slice, key, object, Via::InPlaceOf(failed), None) {
            Some(found) => Landed::Found(Box::new(found)),
            None => Landed::Nothing(Unserved::NoSlices),
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

/// A flight that is waited for.
struct Flight {
    slice: Slice,
    /// When it was joined.
    joined: Arrived,
    follower: Follower<Landing>,
    /// Whether this request began it.
    is_own: bool,
}

/// What a flight brought.
enum Landed {
    Found(Box<Found>),
    /// It was another variant, or it was purged meanwhile: look again.
    Again,
    /// No slice.
    Nothing(Unserved),
}

/// Whether the client wants nothing from the origin.
const fn is_offline(request: &KeyedRequest) -> bool {
    request.demand.directives.only_if_cached
}

/// Returns the offset of the first byte that a request wants. `None` if what it wants isn't put together from slices.
fn first_byte(cache: &Cache, headers: &HeaderMap, primary: &Key) -> Option<u64> {
    let first = Ranges::of(headers)?.first_of_one()?;
    (!has_other_conditions(headers) && !cache.is_unsliced(primary)).then_some(first)
}

/// Returns the range that a request selects in what a slice is of, and how it is described. `None` if it is to be sent the
/// whole, or none of it.
fn selected(headers: &HeaderMap, found: &Found) -> Option<(Partial, Range<u64>)> {
    let (status, length) = (StatusCode::OK, Some(found.version.length()));
    let candidate = Candidate { status, headers: found.headers(), length, is_arriving: false };
    let Extent::Partial(partial) = Extent::of(headers, &candidate, || 0) else { return None };
    let Sections::One(range) = partial.sections().clone() else { return None };
    Some((partial, range))
}

/// What a range would be put together from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preview {
    /// Nothing: the request is passed on.
    NoSlices,
    /// Its first slice isn't stored, or the origin is to be asked about it, because it `is_stale`.
    Fetched { is_stale: bool },
    /// It begins with a stored slice, which is refreshed if it `is_stale`; whether all of it is stored.
    Stored { is_stale: bool, is_whole: bool },
}

/// Returns what would be done for a range, by the rules by which it is done. Nothing is fetched, counted or brought into
/// another tier.
pub(super) async fn preview(cache: &Cache, query: &Query<'_>) -> Preview {
    let headers = &query.head.headers;
    let Some(first) = first_byte(cache, headers, &query.key) else { return Preview::NoSlices };
    let size = cache.config().part_bytes;
    let held = inspected(cache, query, Slice::at(first, size), None).await;
    let mut found = match held {
        None => return Preview::NoSlices,
        Some(Held::Usable(found)) => found,
        Some(Held::Stale(_)) => return Preview::Fetched { is_stale: true },
        Some(Held::Nothing) => return Preview::Fetched { is_stale: false },
    };
    let Some((_, range)) = selected(headers, &found) else { return Preview::NoSlices };
    let slice = Slice::at(range.start, size);
    if found.slice != slice {
        let held = inspected(cache, query, slice, Some(&found.version)).await;
        found = match held {
            None => return Preview::NoSlices,
            Some(Held::Usable(last)) => last,
            Some(Held::Stale(_) | Held::Nothing) => return Preview::Fetched { is_stale: false },
        };
    }
    let is_stale = matches!(found.source, Source::Stored(_, Via::Grace(_)));
    let (mut at, mut slices) = (found.slice.end(), 1);
    while at < range.end {
        let slice = Slice::at(at, size);
        slices += 1;
        let held = inspected(cache, query, slice, Some(&found.version)).await;
        if slices > STORED_SLICES_MAX || !matches!(held, Some(Held::Usable(_))) {
            return Preview::Stored { is_stale, is_whole: false };
        }
        at = slice.end();
    }
    Preview::Stored { is_stale, is_whole: true }
}

/// Returns what is stored of a slice; `None` if none of it is stored at present (`uncacheable`).
async fn inspected(cache: &Cache, query: &Query<'_>, slice: Slice, wanted: Option<&Version>) -> Option<Held> {
    let inspected = cache.inspect(&Query { key: slice.key(&query.key), ..*query }).await;
    let (key, outcome) = (inspected.key, inspected.outcome);
    let tier = inspected.stored.map_or(Tier::Memory, |stored| stored.tier);
    let found = cache::Found { key, outcome, tier, varied: inspected.names.is_some(), uncacheable: false };
    (!inspected.uncacheable).then(|| held(slice, found, wanted, Staleness::Allowed))
}

/// Whether conditions beside `If-Range` have to be evaluated, which the origin does.
fn has_other_conditions(headers: &HeaderMap) -> bool {
    [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE]
        .iter()
        .any(|name| headers.contains_key(name))
}

/// Returns what was found of a slice, of the version that is wanted, as far as it may be served.
fn held(slice: Slice, found_here: cache::Found, wanted: Option<&Version>, staleness: Staleness<'_>) -> Held {
    let cache::Found { key, outcome, tier, .. } = found_here;
    let stale = |object: Arc<Object>, if_error, if_unreachable| {
        // Of another version it is only good for being renewed.
        let is_wanted = is_of(slice, &object, wanted) && !matches!(staleness, Staleness::Refused);
        let (if_error, if_unreachable) = (if_error && is_wanted, if_unreachable && is_wanted);
        Held::Stale(Stale { object, key, if_error, if_unreachable })
    };
    let (object, via) = match outcome {
        Outcome::Hit(object) => (object, Via::Hit(tier)),
        Outcome::Grace(object) if !matches!(staleness, Staleness::Refused) && is_of(slice, &object, wanted) => {
            (object, Via::Grace(tier))
        }
        Outcome::Grace(object) => return stale(object, false, false),
        Outcome::Stale { object, if_error, if_unreachable, .. } => match staleness {
            Staleness::InPlaceOf(failed)
                if is_of(slice, &object, wanted) && (if_error || if_unreachable && failed.is_unreachable) =>
            {
                (object, Via::InPlaceOf(Box::new(failed.clone())))
            }
            Staleness::InPlaceOf(_) | Staleness::Allowed | Staleness::Refused => {
                return stale(object, if_error, if_unreachable);
            }
        },
        Outcome::Miss => return Held::Nothing,
    };
    usable(slice, key, object, via, wanted).map_or(Held::Nothing, Held::Usable)
}

/// Whether a stored response is this slice, of the version that is wanted.
fn is_of(slice: Slice, object: &Object, wanted: Option<&Version>) -> bool {
    let version = slice.version(&object.head.headers, Some(object.head.length));
    version.is_some_and(|version| wanted.is_none_or(|wanted| *wanted == version))
}

/// Returns a stored slice, if it is whole and of the version that is wanted.
fn usable(slice: Slice, key: Key, object: Arc<Object>, via: Via, wanted: Option<&Version>) -> Option<Found> {
    let version = slice.version(&object.head.headers, Some(object.head.length))?;
    let is_wanted = wanted.is_none_or(|wanted| *wanted == version);
    is_wanted.then(|| Found { slice, version, key, source: Source::Stored(object, via) })
}

/// Returns a slice that its origin has found good. What is stale again is good for the request that asked.
fn renewed(key: Key, slice: Slice, object: Arc<Object>, report: UpstreamReport, is_own: bool) -> Landed {
    if !is_own && !object.head.is_fresh(clock::now()) {
        return Landed::Nothing(Unserved::NoSlices);
    }
    match usable(slice, key, object, Via::Renewed(Box::new(report), is_own), None) {
        Some(found) => Landed::Found(Box::new(found)),
        None => Landed::Nothing(Unserved::NoSlices),
    }
}

/// Returns the header fields of a reply that begins with this slice, and the trail that says where it is from.
fn described(found_here: &Found, mut trail: Trail, now: Timestamp) -> (HeaderMap, Trail) {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    match &found_here.source {
        Source::Stored(object, via) => {
            let head = &object.head;
            match via {
                Via::Hit(tier) | Via::Grace(tier) => {
                    trail.forward = None;
                    found(&mut trail, if head.is_fresh(now) { Lookup::Hit } else { Lookup::Stale }, *tier);
                }
                Via::Renewed(report, is_own) => {
                    note(&mut trail, report);
                    (trail.forward, trail.hint) = (Some(Forward::Stale), None);
                    (trail.stored, trail.collapsed) = (true, !is_own);
                }
                Via::InPlaceOf(failed) => {
                    (trail.forward, trail.hint) = (Some(Forward::Stale), None);
                    trail.detail = Some(failed.reason.into());
                    note_failed(&mut trail, failed);
                    trail.lookup = Lookup::Stale;
                }
            }
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
    /// The failure in whose place it is served.
    failed: Option<Box<Failed>>,
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
        let staleness = self.failed.as_deref().map_or(Staleness::Allowed, Staleness::InPlaceOf);
        let found = self.slicer.find(&self.request, slice, Some(&self.version), staleness).await;
        let Ok(found) = found else { return self.rest().await };
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
        if is_offline(&self.request) {
            return Err("a slice of it isn't stored any more");
        }
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
