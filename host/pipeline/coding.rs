//! Responses in the content coding that their client wants (RFC 9110, sections 8.4 and 12.5.3): what may be coded at all,
//! and the coded variants of stored responses.
//!
//! A variant is made in the background when the first client that wants it meets the stored response, which it gets as
//! it is. Only what is stored is coded: it is the same for all, so that its length tells nothing of one client's secrets
//! beside another's words (BREACH).

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE,
        TRANSFER_ENCODING, VARY,
    },
};
use parking_lot::Mutex;

use super::metrics::ReplyCodings;
use crate::{
    cache::{
        Cache,
        coded::{self, Coded},
        control::Directives,
        entry::Object,
        key::Key,
        lookup::Demand,
        targeted,
        vary::{self, Vary},
    },
    config,
    message::{
        RequestHead,
        compression::{Compression, accepted, compress, is_in_range},
    },
};

/// Fields of a body that can't be changed without them: it is a part, it has a coding, or it is known by its bytes.
const BOUND: [HeaderName; 7] = [
    CONTENT_ENCODING,
    CONTENT_RANGE,
    TRANSFER_ENCODING,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// Variants that are made at the same time. Of further ones the response is served as it is stored.
const MAKING_MAX: usize = 64;

/// Whether a response may have a coding at all, whatever a client accepts.
pub(super) fn may_be_coded(rule: &config::Compress, status: StatusCode, headers: &HeaderMap) -> bool {
    let has_content = !status.is_informational()
        && ![StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::PARTIAL_CONTENT, StatusCode::NOT_MODIFIED]
            .contains(&status);
    let is_fixed = || BOUND.iter().any(|name| headers.contains_key(name)) || Directives::read(headers).no_transform;
    has_content && has_type_of(rule, headers) && !is_fixed()
}

fn has_type_of(rule: &config::Compress, headers: &HeaderMap) -> bool {
    let Some(field) = headers.get(CONTENT_TYPE).and_then(|field| field.to_str().ok()) else { return false };
    let media_type = field.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    rule.types.iter().any(|range| is_in_range(&media_type, range))
}

/// Says that the response depends on what the client accepts, unless that is said.
pub(super) fn name_in_vary(headers: &mut HeaderMap) {
    add_to_vary(headers, &ACCEPT_ENCODING);
}

/// Says that a response depends on a request header field, unless it says so already.
pub(super) fn add_to_vary(headers: &mut HeaderMap, name: &HeaderName) {
    let is_named = match vary::read(headers) {
        Vary::Any => true,
        Vary::By(names) => names.contains(name),
        Vary::No => false,
    };
    if !is_named {
        headers.append(VARY, HeaderValue::from(name.clone()));
    }
}

/// The form in which a stored response is served.
pub(super) enum Form {
    /// As it is stored. If `varies`, other clients may get it in a coding.
    AsStored {
        /// Whether the reply has to say so.
        varies: bool,
    },
    /// In a coding; it says itself that it varies.
    Coded(Key, Arc<Object>),
}

impl Form {
    /// Returns what is served, and its key, where this is the form of a stored response.
    pub(super) fn of<'o>(&'o self, key: Key, stored: &'o Arc<Object>) -> (Key, &'o Arc<Object>) {
        match self {
            Self::AsStored { .. } => (key, stored),
            Self::Coded(key, coded) => (*key, coded),
        }
    }

    /// Whether the reply has to say that it varies.
    pub(super) const fn varies(&self) -> bool {
        matches!(self, Self::AsStored { varies: true })
    }
}

/// Finds and makes coded variants.
#[derive(Debug)]
pub(super) struct Coder {
    cache: Arc<Cache>,
    codings: ReplyCodings,
    /// The keys of the variants that are being made.
    making: Arc<Mutex<HashSet<Key>>>,
}

impl Coder {
    pub(super) fn new(cache: Arc<Cache>, codings: ReplyCodings) -> Self {
        Self { cache, codings, making: Arc::default() }
    }

    /// Returns the form in which a client gets a stored response that has this key. If it wants a variant that isn't
    /// there, that is made in the background. Ranges are of the response as it is stored.
    pub(super) fn form(
        &self,
        rule: &config::Compress,
        demand: &Demand,
        request: &RequestHead,
        key: Key,
        object: &Arc<Object>,
    ) -> Form {
        if rule.codings.is_empty() || !object.is_whole() {
            return Form::AsStored { varies: false };
        }
        let wants_plain = demand.directives.no_transform || request.headers.contains_key(RANGE);
        let wanted = accepted(&request.headers, &rule.codings).coding.filter(|_| !wants_plain);
        let found = wanted.map(|coding| (coding, coded::key_of(&key, &object.head, coding.as_str())));
        let found = found.map(|(coding, key)| (coding, key, self.cache.coded(&key)));
        if let Some((_, key, Coded::Stored(coded))) = &found
            && coded.head.mark == object.head.mark
        {
            return Form::Coded(*key, Arc::clone(coded));
        }
        let head = &object.head;
        let varies =
            may_be_coded(rule, head.status, &head.headers) && !targeted::forbids_transform(&head.headers, &head.own);
        if let Some((coding, key, Coded::Missing)) = found
            && varies
            && object.body.len() >= rule.bytes_min
        {
            self.make(coding, key, Arc::clone(object));
        }
        Form::AsStored { varies }
    }

    /// Makes a variant in the background, unless it is being made.
    fn make(&self, coding: Compression, key: Key, object: Arc<Object>) {
        let Some(making) = Making::begin(&self.making, key) else { return };
        let (cache, codings) = (Arc::clone(&self.cache), self.codings.clone());
        tokio::spawn(async move {
            let _making = making;
            if !matches!(cache.coded_on_disk(&key).await, Coded::Missing) {
                return;
            }
            let plain = object.body.len();
            match compress(coding, object.body.clone()).await {
                Some(body) if body.len() < plain => {
                    codings.count(coding, body.len(), plain);
                    cache.store_coded(key, variant(&object, coding, body));
                }
                Some(_) | None => cache.mark_useless(key),
            }
        });
    }
}

/// Returns a stored response in a coding, with a strong validator of its own (RFC 9110, section 8.8.3).
fn variant(object: &Object, coding: Compression, body: Bytes) -> Arc<Object> {
    let mut head = object.head.clone();
    head.length = body.len() as u64;
    let digest = blake3::hash(&body).to_hex();
    if let Ok(tag) = HeaderValue::try_from(format!("\"{}-{}\"", &digest[..32], coding.as_str())) {
        head.headers.insert(ETAG, tag);
    }
    head.headers.insert(CONTENT_ENCODING, coding.field());
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(ACCEPT_RANGES);
    name_in_vary(&mut head.headers);
    Object::new(head, body)
}

/// The making of a variant; it ends when this is dropped.
struct Making {
    making: Arc<Mutex<HashSet<Key>>>,
    key: Key,
}

impl Making {
    fn begin(making: &Arc<Mutex<HashSet<Key>>>, key: Key) -> Option<Self> {
        let mut keys = making.lock();
        let begins = keys.len() < MAKING_MAX && keys.insert(key);
        begins.then(|| Self { making: Arc::clone(making), key })
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.making.lock().remove(&self.key);
    }
}
