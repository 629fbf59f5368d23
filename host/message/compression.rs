//! Compression of bodies (RFC 9110, section 8.4): which content coding a client wants, which media types are worth one,
//! and encoding and decoding without holding up other tasks.

use std::{
    io::{self, Write},
    sync::LazyLock,
    thread,
};

use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::write::GzEncoder;
use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING},
};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::coding::{self, Undecodable};

/// The level of zstd, which is its own default: a higher one takes several times as long for a few percent.
const ZSTD_LEVEL: i32 = 3;

/// The level of gzip, which is its own default, for the same reason.
const GZIP_LEVEL: u32 = 6;

/// The quality of brotli that takes about as long as gzip does; the higher ones are meant for files that are compressed
/// once.
const BROTLI_QUALITY: i32 = 4;

/// Bytes up to which a body is encoded or decoded by the task that needs it: it takes a few milliseconds at most.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// How many times as large a body is taken to be as it is in its coding, where it isn't known yet.
const EXPANSION: usize = 8;

/// The weight of a member that states none, in thousandths.
const WEIGHT_MAX: u16 = 1_000;

/// A content coding that this node applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Zstandard (RFC 8878).
    Zstd,
    /// Brotli (RFC 7932).
    Brotli,
    /// gzip (RFC 1952).
    Gzip,
}

impl Compression {
    /// Returns its name in `Content-Encoding`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// Returns its name as a header field's value.
    #[must_use]
    pub fn field(self) -> HeaderValue {
        HeaderValue::from_static(self.as_str())
    }

    /// Returns the names by which clients ask for it.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Zstd => &["zstd"],
            Self::Brotli => &["br"],
            Self::Gzip => &["gzip", "x-gzip"],
        }
    }

    fn encode(self, body: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL),
            Self::Brotli => {
                let size_hint = body.len();
                let params =
                    BrotliEncoderParams { quality: BROTLI_QUALITY, size_hint, ..BrotliEncoderParams::default() };
                let (mut unread, mut encoded) = (body, Vec::new());
                brotli::BrotliCompress(&mut unread, &mut encoded, &params)?;
                Ok(encoded)
            }
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
                encoder.write_all(body)?;
                encoder.finish()
            }
        }
    }
}

/// Returns the body in a coding; `None` if it can't be encoded. A large one is encoded on another thread.
pub async fn compress(coding: Compression, body: Bytes) -> Option<Bytes> {
    let encoded = off_worker(body.len(), move || coding.encode(&body)).await?;
    // The encoder's buffer may be larger than what is in it, and what is held is counted by its length.
    encoded.ok().map(|encoded| encoded.into_boxed_slice().into())
}

/// Returns a message's body without its codings, as [`coding::decode_all`] does. A large one is decoded on another thread.
///
/// # Errors
/// [`Undecodable`] says why it can't be read.
pub async fn decompress(headers: &HeaderMap, body: Bytes, bytes_max: u64) -> Result<Bytes, Undecodable> {
    if !coding::is_encoded(headers) {
        return Ok(body);
    }
    let lines = headers.get_all(CONTENT_ENCODING).iter().cloned();
    let codings: HeaderMap = lines.map(|line| (CONTENT_ENCODING, line)).collect();
    let bytes = body.len().saturating_mul(EXPANSION);
    let decoded = off_worker(bytes, move || coding::decode_all(&codings, &body, bytes_max)).await;
    decoded.unwrap_or(Err(Undecodable::Broken))
}

/// Encodings and decodings under way on other threads: one for each core. More would only take turns, and occupy the
/// threads that wait for the disk.
static PLACES: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(thread::available_parallelism().map_or(1, usize::from)));

/// Does work on so many bytes: at once if they are few, else on a thread where it holds up no other task. `None` if the
/// work panics.
pub(super) async fn off_worker<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if bytes <= INLINE_BYTES_MAX {
        return Some(work());
    }
    let place = PLACES.acquire().await.ok()?;
    let work = move || {
        let done = work();
        drop(place);
        done
    };
    spawn_blocking(work).await.ok()
}

/// What a request's `Accept-Encoding` says (RFC 9110, section 12.5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The coding that the client likes best, at least as much as none.
    pub coding: Option<Compression>,
    /// Whether a body without a coding is acceptable.
    pub identity: bool,
}

/// Returns which of these codings a client wants; of equal weights the first one offered. A client that doesn't say
/// anything gets none. A member whose weight can't be read isn't acceptable.
#[must_use]
pub fn accepted(request: &HeaderMap, offered: &[Compression]) -> Accepted {
    if !request.contains_key(ACCEPT_ENCODING) {
        return Accepted { coding: None, identity: true };
    }
    let weights = Weights::read(request);
    // Not listed it is acceptable, and liked less than what is.
    let identity = weights.of(&["identity"]);
    let mut best = (None, identity.unwrap_or(0).max(1));
    for coding in offered {
        let weight = weights.of(coding.names()).unwrap_or(0);
        // At least as much as none, and more than the one before.
        if weight > best.1 || weight == best.1 && best.0.is_none() {
            best = (Some(*coding), weight);
        }
    }
    Accepted { coding: best.0, identity: identity != Some(0) }
}

/// Whether a client names a coding that isn't among these, and likes it at least as much as each of them and as none.
/// `*` doesn't name it: what needs more than a decoder is for clients that say so.
#[must_use]
pub fn prefers(request: &HeaderMap, name: &str, offered: &[Compression]) -> bool {
    let weights = Weights::read(request);
    let Some(weight) = weights.named(&[name]) else { return false };
    let identity = weights.of(&["identity"]).unwrap_or(0).max(1);
    let others = offered.iter().map(|coding| weights.of(coding.names()).unwrap_or(0));
    others.chain([identity]).all(|other| other <= weight)
}

/// The members of an `Accept-Encoding` with their weights in thousandths.
#[derive(Default)]
struct Weights<'r> {
    named: Vec<(&'r [u8], u16)>,
    /// The weight of those that aren't named (`*`).
    others: Option<u16>,
}

impl<'r> Weights<'r> {
    fn read(request: &'r HeaderMap) -> Self {
        let mut weights = Self::default();
        for line in request.get_all(ACCEPT_ENCODING) {
            for member in line.as_bytes().split(|byte| *byte == b',') {
                let mut pieces = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
                let name = pieces.next().unwrap_or_default();
                let weight = pieces.find_map(stated).unwrap_or(WEIGHT_MAX);
                match name {
                    b"" => {}
                    b"*" => weights.others = weights.others.or(Some(weight)),
                    name => weights.named.push((name, weight)),
                }
            }
        }
        weights
    }

    /// Returns the weight of a coding by any of its names; `None` if the client says nothing of it.
    fn of(&self, names: &[&str]) -> Option<u16> {
        self.named(names).or(self.others)
    }

    /// Returns the weight of a coding that the client names.
    fn named(&self, names: &[&str]) -> Option<u16> {
        let mut named = self.named.iter();
        let found = named.find(|(known, _)| names.iter().any(|name| known.eq_ignore_ascii_case(name.as_bytes())));
        found.map(|(_, weight)| *weight)
    }
}

/// Returns the weight if this parameter is one, 0 if it can't be read.
fn stated(parameter: &[u8]) -> Option<u16> {
    let at = parameter.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (parameter[..at].trim_ascii(), parameter[at + 1..].trim_ascii());
    name.eq_ignore_ascii_case(b"q").then(|| weight(value).unwrap_or(0))
}

/// Reads a weight (RFC 9110, section 12.4.2): 0 to 1 with at most three decimals.
fn weight(value: &[u8]) -> Option<u16> {
    let (whole, decimals) = match value {
        [whole @ (b'0' | b'1')] => (whole, &b""[..]),
        [whole @ (b'0' | b'1'), b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return None,
    };
    let mut thousandths = u16::from(*whole - b'0') * WEIGHT_MAX;
    for (digit, unit) in decimals.iter().zip([100, 10, 1]) {
        thousandths += u16::from(digit.is_ascii_digit().then(|| digit - b'0')?) * unit;
    }
    (thousandths <= WEIGHT_MAX).then_some(thousandths)
}

/// Whether this is a range of media types: one, in lower case (`text/html`), all of a kind (`text/*`), or all with a
/// structured suffix (`*+json`).
#[must_use]
pub fn is_media_range(range: &str) -> bool {
    let is_name = |name: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$&-^_.+".contains(&byte);
        !name.is_empty() && name.bytes().all(is_allowed)
    };
    match range.strip_prefix("*+") {
        Some(suffix) => is_name(suffix),
        None => range.split_once('/').is_some_and(|(kind, name)| is_name(kind) && (name == "*" || is_name(name))),
    }
}

/// Whether a media type, in lower case and without parameters, is in this range.
#[must_use]
pub fn is_in_range(media_type: &str, range: &str) -> bool {
    match (range.strip_prefix("*+"), range.strip_suffix('*')) {
        (Some(suffix), _) => media_type.rsplit_once('+').is_some_and(|(_, own)| own == suffix),
        (None, Some(kind)) => media_type.starts_with(kind),
        (None, None) => media_type == range,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        Compression::{Brotli, Gzip, Zstd},
        *,
    };

    const ALL: [Compression; 3] = [Zstd, Brotli, Gzip];

    fn says(lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (ACCEPT_ENCODING, HeaderValue::from_static(line))).collect()
    }

    #[test]
    fn a_client_gets_what_it_likes_best_of_what_is_offered() {
        // Accept-Encoding, the coding, whether none is acceptable
        for (lines, coding, identity) in [
            (&[][..], None, true),
            (&[""], None, true),
            (&["gzip"], Some(Gzip), true),
            (&["GZip"], Some(Gzip), true),
            (&["x-gzip"], Some(Gzip), true),
            (&["gzip, deflate, br, zstd"], Some(Zstd), true),
            (&["gzip", "br"], Some(Brotli), true),
            (&["gzip;q=1.0, br;q=0.9"], Some(Gzip), true),
            (&["gzip;q=0.001, br ; Q=0.002"], Some(Brotli), true),
            (&["gzip;q=0"], None, true),
            (&["gzip;q=0.000, br"], Some(Brotli), true),
            (&["compress, dcb"], None, true),
            (&["*"], Some(Zstd), true),
            (&["*;q=0.1, gzip;q=0.1"], Some(Zstd), true),
            (&["zstd;q=0, *"], Some(Brotli), true),
            (&["identity"], None, true),
            (&["identity, gzip"], Some(Gzip), true),
            (&["identity;q=1, gzip;q=0.5"], None, true),
            (&["identity;q=0.5, gzip;q=0.5"], Some(Gzip), true),
            (&["identity;q=0"], None, false),
            (&["*;q=0"], None, false),
            (&["identity;q=0, gzip;q=0.1"], Some(Gzip), false),
            (&["*;q=0, br"], Some(Brotli), false),
            (&["*;q=0, identity"], None, true),
            (&["*;q=0, identity;q=0.2, gzip;q=0.3"], Some(Gzip), true),
            // A weight that can't be read.
            (&["gzip;q=2"], None, true),
            (&["gzip;q=1.001"], None, true),
            (&["gzip;q=0.0001"], None, true),
            (&["gzip;q=.5"], None, true),
            (&["gzip;q="], None, true),
            (&["gzip;q=0.x, br"], Some(Brotli), true),
            (&["identity;q=x"], None, false),
            // Parameters that mean nothing, and empty members.
            (&["gzip;level=9;q=0"], None, true),
            (&[", ,gzip,"], Some(Gzip), true),
            // The first of two counts.
            (&["gzip;q=0, gzip"], None, true),
        ] {
            assert_eq!(accepted(&says(lines), &ALL), Accepted { coding, identity }, "{lines:?}");
        }
    }

    #[test]
    fn what_is_not_offered_is_not_chosen_and_the_order_is_the_offers() {
        for (offered, wanted) in
            [(&[][..], None), (&[Gzip], Some(Gzip)), (&[Gzip, Zstd], Some(Gzip)), (&[Brotli, Gzip], Some(Brotli))]
        {
            assert_eq!(accepted(&says(&["gzip, br, zstd"]), offered).coding, wanted, "{offered:?}");
        }
        assert_eq!(accepted(&says(&["zstd"]), &[Gzip]), Accepted { coding: None, identity: true });
    }

    #[test]
    fn a_coding_that_needs_more_must_be_named_and_liked_best() {
        for (lines, wanted) in [
            (&["dcz"][..], true),
            (&["gzip, deflate, br, zstd, dcb, DCZ"], true),
            (&["br;q=0.5, dcz;q=0.5"], true),
            (&["gzip", "dcz"], true),
            (&[][..], false),
            (&[""], false),
            (&["*"], false),
            (&["gzip, br, zstd"], false),
            (&["dcb"], false),
            (&["dcz;q=0"], false),
            (&["dcz;q=x"], false),
            (&["br, dcz;q=0.9"], false),
            (&["*, dcz;q=0.9"], false),
            (&["identity, dcz;q=0.9"], false),
        ] {
            assert_eq!(prefers(&says(lines), "dcz", &ALL), wanted, "{lines:?}");
        }
        assert!(prefers(&says(&["br, dcz;q=0.9"]), "dcz", &[]), "what isn't offered doesn't count");
    }

    #[test]
    fn ranges_of_media_types() {
        for (range, inside, outside) in [
            ("text/*", &["text/html", "text/csv"][..], &["texts/html", "application/text"][..]),
            ("application/json", &["application/json"], &["application/json5", "text/json"]),
            ("*+json", &["application/problem+json", "a/b+c+json"], &["application/json", "a/b+json5"]),
            ("*+xml", &["image/svg+xml"], &["image/png"]),
        ] {
            assert!(is_media_range(range), "{range}");
            assert!(inside.iter().all(|media_type| is_in_range(media_type, range)), "{range}");
            assert!(!outside.iter().any(|media_type| is_in_range(media_type, range)), "{range}");
        }
        for wrong in ["", "*", "text", "text/", "/html", "*/*", "*/html", "Text/html", "text/html; a=b", "*+", "a b/c"]
        {
            assert!(!is_media_range(wrong), "{wrong}");
        }
    }

    fn decoded(coding: Compression, encoded: &Bytes, bytes_max: u64) -> Bytes {
        let headers = [(CONTENT_ENCODING, coding.field())].into_iter().collect();
        coding::decode(&headers, encoded, bytes_max).unwrap()
    }

    #[tokio::test]
    async fn a_large_body_comes_back_from_another_thread_and_smaller() {
        let body = Bytes::from("the same words again and again ".repeat(100_000));
        assert!(body.len() > INLINE_BYTES_MAX);
        for coding in ALL {
            let encoded = compress(coding, body.clone()).await.unwrap();
            assert!(encoded.len() < body.len() / 20, "{coding:?}: {}", encoded.len());
            let headers = [(CONTENT_ENCODING, coding.field())].into_iter().collect();
            let length = body.len() as u64;
            assert_eq!(decompress(&headers, encoded.clone(), length).await.as_ref(), Ok(&body), "{coding:?}");
            let bomb = decompress(&headers, encoded, length - 1).await;
            assert_eq!(bomb, Err(Undecodable::TooLarge { bytes_max: length - 1 }), "{coding:?}");
        }
        assert_eq!(decompress(&HeaderMap::new(), body.clone(), 0).await, Ok(body), "it has none");
        assert_eq!(off_worker(INLINE_BYTES_MAX + 1, || -> u32 { panic!("a defect") }).await, None);
    }

    proptest! {
        #[test]
        fn every_body_comes_back(body in prop::collection::vec(any::<u8>(), 0..2_000)) {
            for coding in ALL {
                let encoded = Bytes::from(coding.encode(&body).unwrap());
                let read = decoded(coding, &encoded, 2_000);
                prop_assert_eq!(&read[..], &body[..], "{:?}", coding);
            }
        }

        #[test]
        fn no_field_is_too_odd(line in "[ -~]{0,60}") {
            let headers = [(ACCEPT_ENCODING, HeaderValue::from_str(&line).unwrap())].into_iter().collect();
            let accepted = accepted(&headers, &[Gzip]);
            prop_assert!(accepted.coding.is_none() || line.contains('*') || line.to_ascii_lowercase().contains("gzip"));
        }
    }
}
