//! Deltas from what a client has to what is stored (RFC 9842): which responses are dictionaries, and the variants that are
//! made with them.
//!
//! A stored response is a dictionary as soon as it is stored, for the one that will take its place. A delta is made when
//! the first client that has a dictionary wants it, once for each response and dictionary, and is found like any variant
//! from then on. The origin has no part in it.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use http::{
    HeaderMap, StatusCode,
    header::{ACCEPT_ENCODING, SET_COOKIE},
};

use super::{
    making::{Ended, Joined, Makings},
    request::CodingRequest,
    variant::{Said, name_dictionary_in_vary, variant_head},
};
use crate::{
    cache::{
        Cache,
        coded::{self, Coded},
        dictionary::{self, DictionaryStanding},
        entry::{Head, Object},
        key::Key,
        range::Sections,
        vary::{self, Vary},
    },
    message::delta::{self, AVAILABLE_DICTIONARY, DCZ, Designation, DictionaryHash, Pattern},
    pipeline::metrics::ReplyCodings,
};

/// A response that takes part in deltas: it is a dictionary for later ones, and may be sent as a delta to earlier ones.
pub(super) struct Offer<'a> {
    pattern: &'a Pattern,
    /// Whether its origin doesn't say itself how it is a dictionary.
    is_unsaid: bool,
}

impl<'a> Offer<'a> {
    /// Returns how a response takes part, if it does, beyond what holds for any coding. `length` is that of its body, if
    /// it is known.
    ///
    /// It is one that all get who name its URL: it sets no cookie, and varies by nothing but its coding. So no client
    /// learns by a delta's length what another one got.
    pub(super) fn of(
        request: &CodingRequest<'a>,
        status: StatusCode,
        headers: &HeaderMap,
        length: Option<u64>,
    ) -> Option<Self> {
        let pattern = request.pattern()?;
        let config = &request.route.config;
        let fitting = config.compress.bytes_min as u64..=config.deltas.bytes_max as u64;
        let fits = length.is_none_or(|length| fitting.contains(&length));
        let is_for_all = status == StatusCode::OK && !headers.contains_key(SET_COOKIE) && varies_by_coding(headers);
        if !fits || !is_for_all {
            return None;
        }
        match Designation::read(headers) {
            Designation::Other => None,
            designation => Some(Self { pattern, is_unsaid: designation == Designation::Unsaid }),
        }
    }

    /// Returns what replies say of it, in whatever form it is sent.
    pub(super) fn said(&self) -> Said {
        let use_as = self.is_unsaid.then(|| self.pattern.field().clone());
        Said { by_coding: true, by_dictionary: true, use_as }
    }
}

/// Whether a response is the same for all, but for its coding.
fn varies_by_coding(headers: &HeaderMap) -> bool {
    match vary::read(headers) {
        Vary::No => true,
        Vary::By(names) => names.iter().all(|name| *name == ACCEPT_ENCODING || *name == AVAILABLE_DICTIONARY),
        Vary::Any => false,
    }
}

/// A delta that a client wants.
pub(super) struct Wanted {
    key: Key,
    hash: DictionaryHash,
}

/// The outcome of a look-up of a delta.
pub(super) enum Found {
    /// It is there.
    Stored(Key, Arc<Object>),
    /// It may be made.
    Missing(Wanted),
    /// It can't be used.
    Unusable,
}

/// Finds and makes deltas, and stores dictionaries.
#[derive(Debug)]
pub(super) struct Deltas {
    cache: Arc<Cache>,
    codings: ReplyCodings,
    makings: Makings,
}

impl Deltas {
    pub(super) fn new(cache: Arc<Cache>, codings: ReplyCodings, makings: Makings) -> Self {
        Self { cache, codings, makings }
    }

    /// Looks in memory for the delta from the dictionary with this hash to a stored response that has this key.
    pub(super) fn find(&self, key: &Key, object: &Object, hash: DictionaryHash) -> Found {
        let key = coded::delta_key(key, &object.head, &hash);
        match self.cache.coded(&key) {
            Coded::Stored(delta) => match self.cache.dictionary_standing(&key, &delta) {
                DictionaryStanding::Usable => Found::Stored(key, delta),
                DictionaryStanding::Unknown => Found::Unusable,
                // The same bytes may have been published again since.
                DictionaryStanding::Purged => Found::Missing(Wanted { key, hash }),
            },
            Coded::Missing => Found::Missing(Wanted { key, hash }),
            Coded::Useless => Found::Unusable,
        }
    }

    /// Has a delta made in the background, unless it is being made. Returns the end of that; `None` if it isn't made.
    pub(super) fn make(
        &self,
        request: &CodingRequest<'_>,
        wanted: &Wanted,
        key: Key,
        object: &Arc<Object>,
    ) -> Option<Ended> {
        let dictionary = dictionary::key_of(&request.route.keys, request.head.authority(), &wanted.hash);
        if !self.cache.may_have_dictionary(&dictionary) {
            return None;
        }
        let (making, ended) = match self.makings.join(wanted.key) {
            Joined::Begun(making, ended) => (making, ended),
            Joined::UnderWay(ended) => return Some(ended),
            Joined::Full => return None,
        };
        let (cache, codings, object) = (Arc::clone(&self.cache), self.codings.clone(), Arc::clone(object));
        let (delta, hash, bytes_max) = (wanted.key, wanted.hash, request.route.config.deltas.bytes_max);
        tokio::spawn(async move {
            let _making = making;
            if !matches!(cache.coded_on_disk(&delta).await, Coded::Missing) {
                return;
            }
            let Some(dictionary) = cache.dictionary(&dictionary).await else { return };
            let Some(body) = whole(&cache, key, &object, bytes_max).await else { return };
            let plain = body.len();
            match delta::compress(body, dictionary.body.clone(), hash).await {
                Some(body) if body.len() < plain => {
                    codings.count(DCZ, body.len(), plain);
                    cache.store_coded(delta, variant(&object.head, &dictionary.head, body));
                }
                Some(_) | None => cache.mark_useless(delta),
            }
        });
        Some(ended)
    }

    /// Stores the body of a stored response that has this key as a dictionary, in the background, if that wasn't done.
    pub(super) fn remember(&self, request: &CodingRequest<'_>, offer: &Offer<'_>, key: Key, object: &Arc<Object>) {
        if object.is_dictionary.load(Ordering::Relaxed) {
            return;
        }
        let Some(making) = self.makings.begin(coded::key_of(&key, &object.head, "dictionary")) else { return };
        object.is_dictionary.store(true, Ordering::Relaxed);
        let (keys, authority) = (&request.route.keys, request.head.authority());
        let line = dictionary::line_of(keys, authority, offer.pattern.as_str());
        let (route, authority) = (*keys, authority.to_owned());
        let (cache, object, config) = (Arc::clone(&self.cache), Arc::clone(object), &request.route.config.deltas);
        let (count_max, bytes_max) = (config.dictionaries_max, config.bytes_max);
        tokio::spawn(async move {
            let _making = making;
            let Some(body) = whole(&cache, key, &object, bytes_max).await else { return };
            let Some(hash) = DictionaryHash::of(body.clone()).await else { return };
            let key = dictionary::key_of(&route, &authority, &hash);
            cache.store_dictionary(line, key, &object.head, body, count_max);
        });
    }
}

/// Returns the whole body of a stored response that has this key; `None` if a part of it is gone, or it is too large.
async fn whole(cache: &Arc<Cache>, key: Key, object: &Arc<Object>, bytes_max: usize) -> Option<Bytes> {
    if object.is_whole() {
        return Some(object.body.clone()).filter(|body| body.len() <= bytes_max);
    }
    let body = cache.body(key, object, Sections::Whole, || None).await?;
    let body = body.collect(bytes_max as u64).await.ok()?;
    (body.len() as u64 == object.head.length).then_some(body)
}

/// Returns a delta of a stored response. Whether its original may be served is decided by that; it has the tags of its
/// dictionary, so that what was purged isn't used any more.
fn variant(original: &Head, dictionary: &Head, body: Bytes) -> Arc<Object> {
    let mut head = variant_head(original, DCZ, &body);
    name_dictionary_in_vary(&mut head.headers);
    head.tags.clone_from(&dictionary.tags);
    head.urls.clone_from(&dictionary.urls);
    head.mark = dictionary.mark;
    Object::new(head, body)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Method};

    use super::*;
    use crate::{
        cache::lookup::Demand, config, message::Scheme, pipeline::route::Route, policy::facts::tests::request,
    };

    fn route() -> Route {
        let mut config = config::Route::new("r", "web");
        config.deltas.patterns = vec![Pattern::read("/app/*.js").unwrap()];
        Route::nowhere(config)
    }

    #[test]
    fn only_what_is_for_all_takes_part() {
        let (route, demand) = (route(), Demand::default());
        let mut head = request(Method::GET, "/app/1.js", &[]);
        head.scheme = Scheme::Https;
        let of = |keys_natively,
                  head: &crate::message::RequestHead,
                  status,
                  fields: &[(&'static str, &'static str)],
                  length| {
            let headers: HeaderMap = fields
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect();
            let request = CodingRequest { route: &route, keys_natively, demand: &demand, head };
            Offer::of(&request, status, &headers, length).map(|offer| offer.said().use_as.is_some())
        };
        let (ok, length) = (StatusCode::OK, Some(50_000));
        let said = ("use-as-dictionary", "match=\"/x\"");
        for (fields, wanted) in [
            (&[][..], Some(true)),
            (&[("vary", "Accept-Encoding")], Some(true)),
            (&[("vary", "available-dictionary, accept-encoding")], Some(true)),
            (&[said], Some(false)),
            (&[("use-as-dictionary", "?")], None),
            (&[("vary", "cookie")], None),
            (&[("vary", "origin, accept-encoding")], None),
            (&[("vary", "*")], None),
            (&[("set-cookie", "a=b")], None),
        ] {
            assert_eq!(of(true, &head, ok, fields, length), wanted, "{fields:?}");
        }
        assert_eq!(of(true, &head, ok, &[], None), Some(true), "its length isn't known yet");
        assert_eq!(of(true, &head, ok, &[], Some(10)), None, "too small");
        assert_eq!(of(true, &head, ok, &[], Some(1 << 30)), None, "too large");
        assert_eq!(of(true, &head, StatusCode::NOT_FOUND, &[], length), None);
        assert_eq!(of(false, &head, ok, &[], length), None, "a policy keeps it apart");
        let mut cleartext = head.clone();
        cleartext.scheme = Scheme::Http;
        assert_eq!(of(true, &cleartext, ok, &[], length), None);
        let mut other = request(Method::GET, "/app/1.css", &[]);
        other.scheme = Scheme::Https;
        assert_eq!(of(true, &other, ok, &[], length), None);
    }
}
