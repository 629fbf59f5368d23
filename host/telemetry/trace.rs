//! The id of a request and the trace it belongs to, as its headers carry them (`x-request-id`, W3C Trace Context).

use http::{HeaderMap, HeaderName, HeaderValue};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of a client's own request id; a longer one is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Bytes of `traceparent` as far as version 00 defines it.
const TRACEPARENT_BYTES: usize = 55;

/// What a request is called in logs, here and at the origin.
#[derive(Clone, Debug)]
pub struct RequestTrace {
    /// The client's `x-request-id` if it is acceptable, else one made here.
    pub id: HeaderValue,
    /// The trace that the client named.
    pub trace_id: Option<[u8; 16]>,
    /// Whether the client says that it is sampled.
    pub is_sampled: bool,
}

/// A parsed `traceparent` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent {
    /// The whole trace; never all zeros.
    pub trace_id: [u8; 16],
    /// The span of the caller; never all zeros.
    pub parent_id: [u8; 8],
    /// Bit 0 says that the caller may have recorded its span.
    pub flags: u8,
}

/// The `flags` bit of a caller that may have recorded its span.
const SAMPLED: u8 = 1;

/// Picks the share of the requests that get a span. Pure: the same id is picked on every node and at every time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    ppm: u32,
}

impl Sampler {
    /// Returns a sampler that picks this share, in a million.
    #[must_use]
    pub const fn new(ppm: u32) -> Self {
        Self { ppm }
    }

    /// Whether the request is picked: by its id, or because its caller has picked it.
    #[must_use]
    pub fn picks(self, trace: &RequestTrace) -> bool {
        self.ppm >= MILLION || trace.is_sampled || (self.ppm > 0 && place(trace.id.as_bytes()) < self.ppm)
    }
}

const MILLION: u32 = 1_000_000;

/// Returns the place of an id among a million, each as likely. Clients choose ids, so they are hashed.
fn place(id: &[u8]) -> u32 {
    let [a, b, c, d, ..] = *blake3::hash(id).as_bytes();
    // Less than a million, since the factor is less than 2^32.
    ((u64::from(u32::from_le_bytes([a, b, c, d])) * u64::from(MILLION)) >> 32) as u32
}

impl Traceparent {
    /// Parses a header value by the rules of version 00; of later versions only what 00 knows is read, as the
    /// specification asks.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(TRACEPARENT_BYTES)?;
        if [known[2], known[35], known[52]] != *b"---" {
            return None;
        }
        let [version] = unhex(&known[..2])?;
        let complete = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let trace_id: [u8; 16] = unhex(&known[3..35])?;
        let parent_id: [u8; 8] = unhex(&known[36..52])?;
        let [flags] = unhex(&known[53..])?;
        let named = trace_id != [0; 16] && parent_id != [0; 8];
        (complete && named).then_some(Self { trace_id, parent_id, flags })
    }
}

/// Settles the id and the trace of a request, and makes its headers say so to the origin: an id that isn't acceptable
/// is replaced, an invalid `traceparent` is removed together with `tracestate`, a valid pair is sent on unchanged.
pub fn prepare(headers: &mut HeaderMap) -> RequestTrace {
    let accepted = only(headers, &REQUEST_ID).filter(|value| is_acceptable(value.as_bytes())).cloned();
    let id = accepted.unwrap_or_else(|| {
        let id = fresh_id();
        headers.insert(&REQUEST_ID, id.clone());
        id
    });
    let parent = only(headers, &TRACEPARENT).and_then(|value| Traceparent::parse(value.as_bytes()));
    if parent.is_none() {
        headers.remove(&TRACEPARENT);
        headers.remove(&TRACESTATE);
    }
    RequestTrace {
        id,
        trace_id: parent.map(|parent| parent.trace_id),
        is_sampled: parent.is_some_and(|parent| parent.flags & SAMPLED != 0),
    }
}

/// The value of a header that occurs exactly once: of two, neither can be trusted to be what others saw.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

fn is_acceptable(id: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._~+/=:-".contains(byte);
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(allowed)
}

/// 128 random bits in hex. An id is a name, not a secret, so the cheap generator will do.
fn fresh_id() -> HeaderValue {
    let random = fastrand::u128(..).to_be_bytes();
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(random) {
        pair[0] = hex_digit(byte >> 4);
        pair[1] = hex_digit(byte & 0x0f);
    }
    // Can't fail: every byte is a hex digit.
    HeaderValue::from_bytes(&text).expect("hex digits are valid in a header")
}

const fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

/// Decodes lower-case hex of exactly `N` bytes; Trace Context allows no upper case.
fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
    }
    Some(bytes)
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn traceparent_follows_the_specification() {
        let table = [
            (VALID, true),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", true),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff", true),
            ("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-09", true),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes-later", true),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-", true),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.what-comes-later", false),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", false),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false),
            ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-.0", false),
            (".0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331_01", false),
            ("0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("", false),
        ];
        for (value, valid) in table {
            assert_eq!(Traceparent::parse(value.as_bytes()).is_some(), valid, "{value:?}");
        }
    }

    #[test]
    fn traceparent_yields_its_parts() {
        let parsed = Traceparent::parse(VALID.as_bytes()).unwrap();
        assert_eq!(parsed.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
        assert_eq!(parsed.parent_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
        assert_eq!(parsed.flags, 1);
    }

    #[test]
    fn an_acceptable_id_is_used_and_any_other_is_replaced() {
        let (longest, too_long) = ("x".repeat(128), "x".repeat(129));
        let table = [
            ("7f3c", true),
            ("Root=1-67891233:abc/def+g.h_i~j-k", true),
            (longest.as_str(), true),
            (too_long.as_str(), false),
            ("", false),
            ("two words", false),
            ("quo\"te", false),
            ("semi;colon", false),
        ];
        for (sent, kept) in table {
            let mut headers = headers(&[("x-request-id", sent)]);
            let trace = prepare(&mut headers);
            assert_eq!(trace.id == sent, kept, "{sent:?}");
            assert_eq!(headers.get_all("x-request-id").iter().collect::<Vec<_>>(), [&trace.id], "{sent:?}");
        }
    }

    #[test]
    fn a_made_id_is_128_bits_in_hex_and_differs_from_the_next() {
        let (first, second) = (prepare(&mut HeaderMap::new()).id, prepare(&mut HeaderMap::new()).id);
        assert_ne!(first, second);
        assert_eq!(first.len(), 32);
        assert!(unhex::<16>(first.as_bytes()).is_some(), "{first:?}");
    }

    #[test]
    fn two_ids_are_none() {
        let mut headers = headers(&[("x-request-id", "a"), ("x-request-id", "b")]);
        let trace = prepare(&mut headers);
        assert_eq!(trace.id.len(), 32);
        assert_eq!(headers.get_all("x-request-id").iter().count(), 1);
    }

    #[test]
    fn a_valid_trace_is_passed_on_and_an_invalid_one_is_not() {
        let mut valid = headers(&[("traceparent", VALID), ("tracestate", "a=1"), ("tracestate", "b=2")]);
        assert!(prepare(&mut valid).trace_id.is_some());
        assert_eq!(valid["traceparent"], VALID);
        assert_eq!(valid.get_all("tracestate").iter().count(), 2);

        for mut invalid in [
            headers(&[("traceparent", "00-bad"), ("tracestate", "a=1")]),
            headers(&[("traceparent", VALID), ("traceparent", VALID), ("tracestate", "a=1")]),
            headers(&[("tracestate", "a=1")]),
        ] {
            assert_eq!(prepare(&mut invalid).trace_id, None);
            assert!(!invalid.contains_key("traceparent") && !invalid.contains_key("tracestate"), "{invalid:?}");
        }
    }

    fn traced(id: &str, is_sampled: bool) -> RequestTrace {
        RequestTrace { id: HeaderValue::from_str(id).unwrap(), trace_id: None, is_sampled }
    }

    #[test]
    fn a_caller_that_has_sampled_its_request_has_it_sampled_here() {
        for (flags, wanted) in [("00", false), ("01", true), ("02", false), ("03", true)] {
            let value = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
            assert_eq!(prepare(&mut headers(&[("traceparent", &value)])).is_sampled, wanted, "{flags}");
        }
        assert!(!prepare(&mut headers(&[("traceparent", "00-bad-01")])).is_sampled);
        for ppm in [0, 1, 999_999] {
            assert!(Sampler::new(ppm).picks(&traced("a", true)), "{ppm}");
        }
    }

    #[test]
    fn the_sampler_picks_its_share() {
        let picked = |ppm| {
            let sampler = Sampler::new(ppm);
            (0..100_000).filter(|n| sampler.picks(&traced(&n.to_string(), false))).count()
        };
        assert_eq!((picked(0), picked(1_000_000)), (0, 100_000));
        // Within six standard deviations: the draw is fixed by the ids, so this passes always or never.
        for (ppm, wanted, off) in [(10_000, 1_000, 190), (250_000, 25_000, 830), (990_000, 99_000, 190)] {
            let picked = picked(ppm);
            assert!(picked.abs_diff(wanted) <= off, "{ppm}: {picked}");
        }
    }

    proptest! {
        #[test]
        fn an_id_is_picked_always_or_never_and_by_a_larger_share_as_well(
            id in "[a-z0-9]{1,40}",
            one in 0_u32..1_000_001,
            other in 0_u32..1_000_001,
        ) {
            let (less, more) = (one.min(other), one.max(other));
            let picks = |ppm| Sampler::new(ppm).picks(&traced(&id, false));
            prop_assert_eq!(picks(less), picks(less));
            prop_assert!(!picks(less) || picks(more));
            prop_assert!(picks(1_000_000) && !picks(0));
        }

        #[test]
        fn what_is_written_by_the_rules_is_read_back(trace_id in 1_u128.., parent_id in 1_u64.., flags in any::<u8>()) {
            let text = format!("00-{trace_id:032x}-{parent_id:016x}-{flags:02x}");
            let expected = Traceparent {
                trace_id: trace_id.to_be_bytes(),
                parent_id: parent_id.to_be_bytes(),
                flags,
            };
            prop_assert_eq!(Traceparent::parse(text.as_bytes()), Some(expected));
        }

        #[test]
        fn any_bytes_are_parsed_without_a_panic(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(Traceparent::parse(&value).is_none() || value.len() >= TRACEPARENT_BYTES);
        }
    }
}
