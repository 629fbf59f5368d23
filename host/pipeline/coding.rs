//! Responses in the content coding that their client wants (RFC 9110, sections 8.4 and 12.5.3): what may be coded at all,
//! and the coded variants of stored responses.
//!
//! A variant is made in the background when the first client that wants it meets the stored response, which it gets as
//! it is. Only what is stored is coded: it is the same for all, so that its length tells nothing of one client's secrets
//! beside another's words (BREACH). `deltas` has the variants that are made with what the client has.

mod deltas;
mod making;
mod request;
mod variant;

use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, TRANSFER_ENCODING},
};

use self::{
    deltas::{Deltas, Found, Offer},
    making::{Ended, Makings},
    variant::variant,
};
pub(super) use self::{
    request::CodingRequest,
    variant::{Said, add_to_vary, name_in_vary},
};
use super::metrics::ReplyCodings;
use crate::{
    cache::{
        Cache,
        coded::{self, Coded},
        control::Directives,
        entry::Object,
        key::Key,
        targeted,
    },
    config,
    message::compression::{Compression, accepted, compress, is_in_range},
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

/// Returns what the reply says of its forms while its response still arrives, which is to be stored.
pub(super) fn said_in_advance(
    request: &CodingRequest<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    length: Option<u64>,
) -> Said {
    let rule = &request.route.config.compress;
    let offers = !rule.codings.is_empty() || request.pattern().is_some();
    if !offers || !may_be_coded(rule, status, headers) {
        return Said::default();
    }
    let offer = Offer::of(request, status, headers, length);
    // Once it is stored, others may get it in a coding.
    let by_coding = Said { by_coding: !rule.codings.is_empty(), ..Said::default() };
    offer.map_or(by_coding, |offer| offer.said())
}

/// The form in which a stored response is served.
#[derive(Default)]
pub(super) struct Form {
    /// A variant and its key; none if the response is served as it is stored.
    coded: Option<(Key, Arc<Object>)>,
    said: Said,
    /// A delta that the client would rather have is being made.
    awaited: Option<Ended>,
}

impl Form {
    /// Returns what is served, and its key, where this is the form of a stored response.
    pub(super) fn of<'o>(&'o self, key: Key, stored: &'o Arc<Object>) -> (Key, &'o Arc<Object>) {
        match &self.coded {
            None => (key, stored),
            Some((key, coded)) => (*key, coded),
        }
    }

    /// Whether it is a variant, which the origin doesn't have.
    pub(super) const fn is_coded(&self) -> bool {
        self.coded.is_some()
    }

    /// Returns what the reply says of other forms.
    pub(super) const fn said(&self) -> &Said {
        &self.said
    }

    /// Whether the client may wait for a better one.
    pub(super) const fn is_provisional(&self) -> bool {
        self.awaited.is_some()
    }
}

/// Finds and makes coded variants.
#[derive(Debug)]
pub(super) struct Coder {
    cache: Arc<Cache>,
    codings: ReplyCodings,
    makings: Makings,
    deltas: Deltas,
}

impl Coder {
    pub(super) fn new(cache: Arc<Cache>, codings: ReplyCodings) -> Self {
        let makings = Makings::default();
        let deltas = Deltas::new(Arc::clone(&cache), codings.clone(), makings.clone());
        Self { cache, codings, makings, deltas }
    }

    /// Returns the form in which a client gets a stored response that has this key. If it wants a variant that isn't
    /// there, that is made in the background. Ranges are of the response as it is stored.
    pub(super) fn form(&self, request: &CodingRequest<'_>, key: Key, object: &Arc<Object>) -> Form {
        let rule = &request.route.config.compress;
        // Only a delta is made of more than one part.
        let codings = if object.is_whole() { rule.codings.as_slice() } else { &[] };
        if codings.is_empty() && request.pattern().is_none() {
            return Form::default();
        }
        let (head, wants_plain) = (&object.head, request.wants_plain());
        let offer = Offer::of(request, head.status, &head.headers, Some(head.length));
        let mut wanted_delta = None;
        if let Some(offer) = offer.as_ref().filter(|_| !wants_plain)
            && let Some(hash) = request.dictionary(&head.headers)
        {
            match self.deltas.find(&key, object, hash) {
                Found::Stored(key, delta) => {
                    return Form { coded: Some((key, delta)), said: offer.said(), awaited: None };
                }
                Found::Missing(wanted) => wanted_delta = Some(wanted),
                Found::Unusable => {}
            }
        }
        let wanted = accepted(&request.head.headers, codings).coding.filter(|_| !wants_plain);
        let found = wanted.map(|coding| (coding, coded::key_of(&key, head, coding.as_str())));
        let found = found.map(|(coding, key)| (coding, key, self.cache.coded(&key)));
        let coded = match &found {
            Some((_, key, Coded::Stored(coded))) if coded.head.mark == head.mark => Some((*key, Arc::clone(coded))),
            _ => None,
        };
        // Of what has a variant that was found before.
        let may_be_coded = coded.is_some()
            || may_be_coded(rule, head.status, &head.headers) && !targeted::forbids_transform(&head.headers, &head.own);
        if !may_be_coded {
            return Form::default();
        }
        if let Some((coding, key, Coded::Missing)) = found
            && object.body.len() >= rule.bytes_min
        {
            self.make(coding, key, Arc::clone(object));
        }
        let Some(offer) = offer else {
            // A variant says itself that it varies.
            let by_coding = !codings.is_empty() && coded.is_none();
            return Form { coded, said: Said { by_coding, ..Said::default() }, awaited: None };
        };
        self.deltas.remember(request, &offer, key, object);
        let awaited = wanted_delta.and_then(|wanted| self.deltas.make(request, &wanted, key, object));
        let awaited = awaited.filter(|_| !request.route.config.deltas.wait.is_zero());
        Form { coded, said: offer.said(), awaited }
    }

    /// Returns the same, and waits for a delta that is being made as long as the route lets a client wait.
    pub(super) async fn form_in_time(&self, request: &CodingRequest<'_>, key: Key, object: &Arc<Object>) -> Form {
        let mut form = self.form(request, key, object);
        let Some(made) = form.awaited.take() else { return form };
        if made.within(request.route.config.deltas.wait).await { self.form(request, key, object) } else { form }
    }

    /// Takes note of a response that was stored for a request under this key: it is a dictionary from now on, if it is
    /// to be one.
    pub(super) fn stored(&self, request: &CodingRequest<'_>, key: Key, object: &Arc<Object>) {
        if request.pattern().is_some() {
            drop(self.form(request, key, object));
        }
    }

    /// Makes a variant in the background, unless it is being made.
    fn make(&self, coding: Compression, key: Key, object: Arc<Object>) {
        let Some(making) = self.makings.begin(key) else { return };
        let (cache, codings) = (Arc::clone(&self.cache), self.codings.clone());
        tokio::spawn(async move {
            let _making = making;
            if !matches!(cache.coded_on_disk(&key).await, Coded::Missing) {
                return;
            }
            let plain = object.body.len();
            match compress(coding, object.body.clone()).await {
                Some(body) if body.len() < plain => {
                    codings.count(coding.as_str(), body.len(), plain);
                    cache.store_coded(key, variant(&object.head, coding.as_str(), body));
                }
                Some(_) | None => cache.mark_useless(key),
            }
        });
    }
}
