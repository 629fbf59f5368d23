//! Deltas: bodies in a content coding whose dictionary is an earlier body (RFC 9842, Compression Dictionary Transport).
//! Which dictionary a client has, to which requests one applies, and the coding `dcz`.

use std::io;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN},
};
use sfv::{DictSerializer, Dictionary, Item, ListEntry, Parser, StringRef, key_ref};
use sha2::{Digest as _, Sha256};
use zstd::{
    bulk::Compressor,
    zstd_safe::{CParameter, get_error_name},
};

use super::{compression::off_worker, structured::joined};

/// The name of the coding in `Content-Encoding`: Zstandard with a dictionary (section 5).
pub const DCZ: &str = "dcz";

/// The response field by which a response is a dictionary for later ones (section 2.1).
pub const USE_AS_DICTIONARY: HeaderName = HeaderName::from_static("use-as-dictionary");

/// The request field by which a client names a dictionary that it has (section 2.2).
pub const AVAILABLE_DICTIONARY: HeaderName = HeaderName::from_static("available-dictionary");

/// The request field by which a client repeats a dictionary's `id` (section 2.3).
pub const DICTIONARY_ID: HeaderName = HeaderName::from_static("dictionary-id");

/// Bytes of the largest body, and of the largest dictionary: each client can decode a window of that size (section 5).
pub const BYTES_MAX: usize = 8 << 20;

/// How a body in the coding begins: a frame that decoders of Zstandard skip, with the dictionary's hash in it.
const MAGIC: [u8; 8] = [0x5e, 0x2a, 0x4d, 0x18, 0x20, 0x00, 0x00, 0x00];

/// Bytes of a body and its dictionary up to which the best level is used: it takes half a second at most, once for each
/// pair.
const BEST_BYTES_MAX: usize = 2 << 20;

/// The levels for less than that, and for more, which is a tenth larger and takes a tenth of the time.
const LEVELS: (i32, i32) = (19, 12);

/// How many times as long a delta takes as the codings that are made at their quick levels.
const EFFORT: usize = 16;

/// The SHA-256 of a dictionary, by which clients and servers name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DictionaryHash([u8; 32]);

impl DictionaryHash {
    /// Returns the hash of a body without a content coding. A large one is hashed on another thread; `None` if that
    /// fails.
    pub async fn of(body: Bytes) -> Option<Self> {
        off_worker(body.len(), move || Self(Sha256::digest(&body).into())).await
    }

    /// Returns the hash of the dictionary that a client has. `None` if it has none, or what it says can't be read, or it
    /// says it twice.
    #[must_use]
    pub fn available(request: &HeaderMap) -> Option<Self> {
        let mut lines = request.get_all(AVAILABLE_DICTIONARY).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return None };
        let item: Item = Parser::new(line.as_bytes()).parse().ok()?;
        Some(Self(item.bare_item.as_byte_sequence()?.try_into().ok()?))
    }

    /// Returns its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The paths for which a response is a dictionary: a path in which each `*` stands for any characters. It is a pattern of
/// the URL Pattern standard as well, whose other signs it can't have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    field: HeaderValue,
}

/// Characters of a pattern.
const PATTERN_CHARS_MAX: usize = 256;

/// Stars of a pattern: each may have a path searched once more.
const STARS_MAX: usize = 4;

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn read(text: &str) -> Result<Self, &'static str> {
        if !text.starts_with('/') {
            return Err("it doesn't begin with `/`");
        }
        if text.len() > PATTERN_CHARS_MAX {
            return Err("it has more than 256 characters");
        }
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/*._-~@,=&!$;".contains(&byte);
        if !text.bytes().all(is_allowed) {
            return Err("it has others than letters, digits and `/ * . _ - ~ @ , = & ! $ ;`");
        }
        if text.contains("**") || text.split('*').count() > STARS_MAX + 1 {
            return Err("it has more than 4 `*`, or two that follow each other");
        }
        let field = field(text).ok_or("it can't be said in a header field")?;
        Ok(Self { text: text.to_owned(), field })
    }

    /// Returns it as it was read.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the `Use-As-Dictionary` of a response that is a dictionary for these paths.
    #[must_use]
    pub const fn field(&self) -> &HeaderValue {
        &self.field
    }

    /// Whether it matches a path.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let mut pieces = self.text.split('*');
        let Some(mut rest) = pieces.next().and_then(|first| path.strip_prefix(first)) else { return false };
        let Some(last) = pieces.next_back() else { return rest.is_empty() };
        for piece in pieces {
            let Some(at) = rest.find(piece) else { return false };
            rest = &rest[at + piece.len()..];
        }
        rest.ends_with(last)
    }
}

fn field(pattern: &str) -> Option<HeaderValue> {
    let mut serializer = DictSerializer::new();
    serializer.bare_item(key_ref("match"), StringRef::from_str(pattern).ok()?);
    HeaderValue::try_from(serializer.finish()?).ok()
}

/// What a response itself says of its use as a dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Designation {
    /// Nothing.
    Unsaid,
    /// It is one, of bytes without a format.
    Raw,
    /// Something that can't be read, or that means another format: clients don't use it.
    Other,
}

impl Designation {
    /// Reads a response's `Use-As-Dictionary`.
    #[must_use]
    pub fn read(response: &HeaderMap) -> Self {
        let Some(text) = joined(response, &USE_AS_DICTIONARY) else { return Self::Unsaid };
        let Ok(members) = Parser::new(&text).parse::<Dictionary>() else { return Self::Other };
        let member = |name: &str| match members.get(name) {
            Some(ListEntry::Item(item)) => Some(&item.bare_item),
            Some(ListEntry::InnerList(_)) | None => None,
        };
        let has_match = member("match").is_some_and(|value| value.as_string().is_some());
        let is_raw = !members.contains_key("type")
            || member("type").and_then(|value| value.as_token()).is_some_and(|token| token.as_str() == "raw");
        if has_match && is_raw { Self::Raw } else { Self::Other }
    }
}

/// Whether a client may read the response to its request, so that its length tells it nothing that it doesn't get to know
/// (section 9.3.3): a page's own requests, navigations, and those that CORS allows.
#[must_use]
pub fn is_readable(request: &HeaderMap, response: &HeaderMap) -> bool {
    let said = |name: &str| request.get(name).map(HeaderValue::as_bytes);
    if said("sec-fetch-site").is_none_or(|site| site == b"same-origin") {
        return true;
    }
    match said("sec-fetch-mode") {
        None | Some(b"navigate" | b"same-origin") => true,
        Some(b"cors") => {
            let both = request.get(ORIGIN).zip(response.get(ACCESS_CONTROL_ALLOW_ORIGIN));
            both.is_some_and(|(origin, allowed)| allowed == origin || allowed.as_bytes() == b"*")
        }
        Some(_) => false,
    }
}

/// Returns a body in the coding `dcz`; `None` if it can't be encoded. It is encoded on another thread unless it is small.
pub async fn compress(body: Bytes, dictionary: Bytes, hash: DictionaryHash) -> Option<Bytes> {
    let bytes = body.len().saturating_add(dictionary.len()).saturating_mul(EFFORT);
    let encoded = off_worker(bytes, move || encode(&body, &dictionary, &hash)).await?;
    encoded.ok().map(Bytes::from)
}

fn encode(body: &[u8], dictionary: &[u8], hash: &DictionaryHash) -> io::Result<Vec<u8>> {
    let is_small = body.len().saturating_add(dictionary.len()) <= BEST_BYTES_MAX;
    let level = if is_small { LEVELS.0 } else { LEVELS.1 };
    let mut compressor = Compressor::default();
    compressor.set_parameter(CParameter::CompressionLevel(level))?;
    // Most of a new version stands in the old one, far back.
    compressor.set_parameter(CParameter::EnableLongDistanceMatching(true))?;
    // As a prefix it is raw content, whatever it begins with, and is searched as the body's own past.
    let referred = compressor.context_mut().ref_prefix(dictionary);
    referred.map_err(|code| io::Error::other(get_error_name(code)))?;
    // In one piece its length is known, so that the window is that of the body and reaches the dictionary to its end.
    let frame = compressor.compress(body)?;
    Ok([&MAGIC[..], hash.as_bytes(), &frame].concat())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_a_client_has_is_read_or_it_has_nothing() {
        const GOOD: &str = ":pZGm1Av0IEBKARczz7exkNYsZb8LzaMrV7J32a2fFG4=:";
        let of = |lines: &[&'static str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("available-dictionary", *line)).collect();
            DictionaryHash::available(&headers(&lines))
        };
        assert_eq!(of(&[GOOD]).map(|hash| hash.0[..4].to_vec()), Some(vec![0xa5, 0x91, 0xa6, 0xd4]));
        for wrong in [
            &[][..],
            &[""],
            &[":pZGm1Av0IEBKARczz7exkNYsZb8LzaMrV7J32a2fFA==:"],
            &["::"],
            &["pZGm1Av0IEBKARczz7exkNYsZb8LzaMrV7J32a2fFG4="],
            &["\"pZGm1Av0IEBKARczz7exkNYsZb8LzaMrV7J32a2fFG4=\""],
            &["a5"],
            &[GOOD, GOOD],
        ] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
        assert_eq!(DictionaryHash::available(&headers(&[("available-dictionary", ":AA==:, :AA==:")])), None);
    }

    #[tokio::test]
    async fn a_hash_is_that_of_sha_256() {
        // FIPS 180-2, appendix B.1.
        let hash = DictionaryHash::of(Bytes::from_static(b"abc")).await.unwrap();
        assert_eq!(hash.0[..8], [0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea]);
        assert_eq!(hash.0[28..], [0xf2, 0x00, 0x15, 0xad]);
    }

    #[test]
    fn patterns_match_whole_paths() {
        for (pattern, inside, outside) in [
            ("/app.js", &["/app.js"][..], &["/app.jsx", "/xapp.js", "/app/app.js", "/"][..]),
            ("/app/*.js", &["/app/a.js", "/app/a/b.js", "/app/.js"], &["/app/a.css", "/app.js", "/x/app/a.js"]),
            ("/*", &["/", "/a", "/a/b"], &[""]),
            ("/a*b*c", &["/abc", "/axbxc", "/abbcc"], &["/acb", "/ab", "/abcd"]),
            ("/a*a", &["/aa", "/aba"], &["/a"]),
        ] {
            let read = Pattern::read(pattern).unwrap();
            assert_eq!(read.field(), &format!("match=\"{pattern}\""), "{pattern}");
            assert!(inside.iter().all(|path| read.matches(path)), "{pattern}");
            assert!(!outside.iter().any(|path| read.matches(path)), "{pattern}");
        }
        for wrong in
            ["", "*", "app.js", "/a b", "/a?b", "/a#b", "/:id", "/(a)", "/{a}", "/a+", "/a\\b", "/\"", "/%41", "/a**b"]
        {
            assert!(Pattern::read(wrong).is_err(), "{wrong}");
        }
        assert!(Pattern::read("/*a*b*c*").is_ok());
        assert!(Pattern::read("/*a*b*c*d*").is_err());
        assert!(Pattern::read(&format!("/{}", "a".repeat(256))).is_err());
    }

    #[test]
    fn what_an_origin_designates() {
        for (lines, wanted) in [
            (&[][..], Designation::Unsaid),
            (&["match=\"/a*\""], Designation::Raw),
            (&["match=\"/a*\", match-dest=(\"script\"), id=\"7\", type=raw"], Designation::Raw),
            (&["id=\"7\"", "match=\"/a\""], Designation::Raw),
            (&[""], Designation::Other),
            (&["match=/a*"], Designation::Other),
            (&["match=(\"/a\")"], Designation::Other),
            (&["id=\"7\""], Designation::Other),
            (&["match=\"/a\", type=zstd"], Designation::Other),
            (&["match=\"/a\", type=\"raw\""], Designation::Other),
            (&["match=\"/a"], Designation::Other),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("use-as-dictionary", *line)).collect();
            assert_eq!(Designation::read(&headers(&lines)), wanted, "{lines:?}");
        }
    }

    #[test]
    fn only_what_the_page_may_read() {
        let (site, mode, origin) = ("sec-fetch-site", "sec-fetch-mode", "origin");
        let allowed = "access-control-allow-origin";
        for (request, response, wanted) in [
            (&[][..], &[][..], true),
            (&[(site, "same-origin"), (mode, "no-cors")], &[], true),
            (&[(site, "cross-site")], &[], true),
            (&[(site, "cross-site"), (mode, "navigate")], &[], true),
            (&[(site, "same-site"), (mode, "same-origin")], &[], true),
            (&[(site, "none"), (mode, "navigate")], &[], true),
            (&[(site, "cross-site"), (mode, "no-cors")], &[(allowed, "*")], false),
            (&[(site, "same-site"), (mode, "no-cors")], &[], false),
            (&[(site, "cross-site"), (mode, "websocket")], &[], false),
            (&[(site, "cross-site"), (mode, "cors"), (origin, "https://a")], &[], false),
            (&[(site, "cross-site"), (mode, "cors")], &[(allowed, "*")], false),
            (&[(site, "cross-site"), (mode, "cors"), (origin, "https://a")], &[(allowed, "*")], true),
            (&[(site, "cross-site"), (mode, "cors"), (origin, "https://a")], &[(allowed, "https://a")], true),
            (&[(site, "cross-site"), (mode, "cors"), (origin, "https://a")], &[(allowed, "https://b")], false),
        ] {
            assert_eq!(is_readable(&headers(request), &headers(response)), wanted, "{request:?} {response:?}");
        }
    }

    /// Bytes before the frame of Zstandard.
    const PREFIX: usize = 40;

    /// Returns a body without the coding. A decoder uses a prefix for one frame alone, and the first is skipped.
    fn decoded(encoded: &[u8], dictionary: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        zstd::stream::read::Decoder::with_ref_prefix(&encoded[PREFIX..], dictionary)
            .unwrap()
            .read_to_end(&mut body)
            .unwrap();
        body
    }

    #[tokio::test]
    async fn a_delta_begins_as_the_rfc_says_and_is_small() {
        let old: String = (0..4_000).map(|n| format!("function f{n}(a){{return a*{}}}\n", n * 7_919)).collect();
        let new = old.replace("f1777(", "renamed(") + "end();";
        let hash = DictionaryHash::of(old.clone().into()).await.unwrap();
        let delta = compress(new.clone().into(), old.clone().into(), hash).await.unwrap();
        assert_eq!(delta[..8], MAGIC);
        assert_eq!(&delta[8..PREFIX], hash.as_bytes());
        assert!(delta.len() < 200, "{} of {}", delta.len(), new.len());
        assert_eq!(decoded(&delta, old.as_bytes()), new.as_bytes());
    }

    proptest! {
        #[test]
        fn every_body_comes_back(
            body in prop::collection::vec(0..4_u8, 0..2_000),
            dictionary in prop::collection::vec(0..4_u8, 0..2_000),
        ) {
            let encoded = encode(&body, &dictionary, &DictionaryHash([7; 32])).unwrap();
            prop_assert_eq!(decoded(&encoded, &dictionary), body);
        }

        #[test]
        fn a_pattern_matches_what_it_is_made_into(pieces in prop::collection::vec("[a-c/.]{0,3}", 1..5)) {
            let text = format!("/{}", pieces.join("*"));
            if let Ok(pattern) = Pattern::read(&text) {
                let path = format!("/{}", pieces.join("x/y"));
                prop_assert!(pattern.matches(&path), "{} {}", text, path);
            }
        }
    }
}
