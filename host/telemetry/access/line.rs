//! One line of the access log: its fields, and how they become JSON without an allocation.

use std::{io::Write as _, net::IpAddr};

use http::Version;

use crate::clock::Timestamp;

/// Bytes of one text field that reach the log; of a longer one the rest is cut off and marked with `…`.
const FIELD_BYTES_MAX: usize = 4096;
/// A buffer that a long line has blown up is given back.
const BUFFER_BYTES_KEPT: usize = 16 * 1024;
/// The last millisecond of the year 9999, the end of RFC 3339.
const LATEST_MS: u64 = 253_402_300_799_999;

/// What the access log says about a request. Fields that are `None` are left out.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// When the request arrived.
    pub time: Timestamp,
    /// The request's id, as it is sent on.
    pub id: &'a [u8],
    /// The trace that the client named.
    pub trace_id: Option<[u8; 16]>,
    /// The address of the connection's other end.
    pub client: IpAddr,
    /// The HTTP version that the client spoke.
    pub version: Version,
    /// The request method.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host and port, as bytes because a client chose them.
    pub authority: &'a [u8],
    /// Path and query, as bytes because a client chose them.
    pub target: &'a [u8],
    /// The status of the response.
    pub status: u16,
    /// Bytes of the response body that were sent.
    pub bytes_out: u64,
    /// From the head of the request to the end of the response.
    pub duration_us: u64,
    /// Of the first request of a connection: from its accept to the head of the request.
    pub accept_us: Option<u64>,
    /// The route that took the request.
    pub route: &'a str,
    /// Name and generation of the policy.
    pub policy: Option<&'a str>,
    /// The cache key.
    pub key: Option<[u8; 32]>,
    /// The outcome of the look-up: `hit`, `stale`, `miss`, `bypass`, `pass`, …
    pub lookup: &'a str,
    /// The tier that had the response.
    pub tier: Option<&'a str>,
    /// Why the request was forwarded, in the words of RFC 9211.
    pub fwd: Option<&'a str>,
    /// The response was stored.
    pub stored: bool,
    /// The response came from a fetch that another request began.
    pub collapsed: bool,
    /// The endpoint that responded.
    pub endpoint: Option<&'a str>,
    /// Requests that the origin had.
    pub attempts: u32,
    /// Items of the batch that the request's item was part of.
    pub batch_size: Option<u32>,
    /// What else is worth knowing, such as why the request failed.
    pub detail: Option<&'a str>,
}

/// Turns lines into JSON in a buffer of its own.
#[derive(Debug)]
pub(super) struct Formatter {
    json: Vec<u8>,
    stamp: Stamp,
}

impl Formatter {
    pub(super) const fn new() -> Self {
        Self { json: Vec::new(), stamp: Stamp::new() }
    }

    /// The line as JSON with its line feed, until the next one is formatted.
    pub(super) fn format(&mut self, line: &Line<'_>) -> &[u8] {
        self.json.clear();
        self.json.shrink_to(BUFFER_BYTES_KEPT);
        self.json.extend_from_slice(b"{\"time\":\"");
        self.stamp.push(&mut self.json, line.time);
        self.json.push(b'"');
        let mut members = Members(&mut self.json);
        members.request(line);
        members.response(line);
        members.cache(line);
        members.origin(line);
        self.json.extend_from_slice(b"}\n");
        &self.json
    }
}

/// The members of an object that has one already.
struct Members<'a>(&'a mut Vec<u8>);

impl Members<'_> {
    fn request(&mut self, line: &Line<'_>) {
        self.text("id", line.id);
        if let Some(trace_id) = line.trace_id {
            self.hex("trace_id", &trace_id);
        }
        self.name("client");
        // Writing to a vector can't fail.
        let _ = write!(self.0, "\"{}\"", line.client);
        self.text("version", version(line.version).as_bytes());
        self.text("method", line.method.as_bytes());
        self.text("scheme", line.scheme.as_bytes());
        self.text("authority", line.authority);
        self.text("target", line.target);
    }

    fn response(&mut self, line: &Line<'_>) {
        self.number("status", line.status.into());
        self.number("bytes_out", line.bytes_out);
        self.number("duration_us", line.duration_us);
        if let Some(accept_us) = line.accept_us {
            self.number("accept_us", accept_us);
        }
    }

    fn cache(&mut self, line: &Line<'_>) {
        self.text("route", line.route.as_bytes());
        self.text_if_any("policy", line.policy);
        if let Some(key) = line.key {
            self.hex("key", &key);
        }
        self.text("lookup", line.lookup.as_bytes());
        self.text_if_any("tier", line.tier);
        self.text_if_any("fwd", line.fwd);
        self.flag("stored", line.stored);
        self.flag("collapsed", line.collapsed);
    }

    fn origin(&mut self, line: &Line<'_>) {
        self.text_if_any("endpoint", line.endpoint);
        self.number("attempts", line.attempts.into());
        if let Some(size) = line.batch_size {
            self.number("batch_size", size.into());
        }
        self.text_if_any("detail", line.detail);
    }

    fn name(&mut self, name: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        push_string(self.0, value);
    }

    fn text_if_any(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value.as_bytes());
        }
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        self.0.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.name(name);
        self.0.extend_from_slice(if value { "true" } else { "false" }.as_bytes());
    }

    fn hex(&mut self, name: &str, bytes: &[u8]) {
        self.name(name);
        self.0.push(b'"');
        for byte in bytes {
            push_hex(self.0, *byte);
        }
        self.0.push(b'"');
    }
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP",
    }
}

/// A JSON string of what need not be UTF-8; what isn't is replaced by U+FFFD.
fn push_string(out: &mut Vec<u8>, value: &[u8]) {
    let kept = clipped(value);
    out.push(b'"');
    // Nearly every field is plain ASCII and goes in as it is.
    if kept.iter().all(|byte| matches!(byte, b' '..=b'~') && !is_special(*byte)) {
        out.extend_from_slice(kept);
    } else {
        for chunk in kept.utf8_chunks() {
            push_escaped(out, chunk.valid().as_bytes());
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
    }
    if kept.len() < value.len() {
        out.extend_from_slice("…".as_bytes());
    }
    out.push(b'"');
}

/// As much of a field as reaches the log, not cut inside a character.
fn clipped(value: &[u8]) -> &[u8] {
    if value.len() <= FIELD_BYTES_MAX {
        return value;
    }
    let mut end = FIELD_BYTES_MAX;
    while end > FIELD_BYTES_MAX - 3 && value[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    &value[..end]
}

fn push_escaped(out: &mut Vec<u8>, mut text: &[u8]) {
    while let Some(at) = text.iter().position(|byte| is_special(*byte)) {
        out.extend_from_slice(&text[..at]);
        push_escape(out, text[at]);
        text = &text[at + 1..];
    }
    out.extend_from_slice(text);
}

/// What JSON wants escaped, and DEL, which a terminal would act upon.
const fn is_special(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\' || byte == 0x7f
}

fn push_escape(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(b"\\u00");
            push_hex(out, byte);
        }
    }
}

fn push_hex(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0x0f)]]);
}

/// The text of the second that was formatted last: most lines fall into the same one as the line before.
#[derive(Debug)]
struct Stamp {
    second: u64,
    text: [u8; 20],
}

impl Stamp {
    const fn new() -> Self {
        // No timestamp has this second, so the text is made before it is used.
        Self { second: u64::MAX, text: *b"0000-00-00T00:00:00." }
    }

    /// Appends the time as RFC 3339 in UTC with milliseconds.
    fn push(&mut self, out: &mut Vec<u8>, time: Timestamp) {
        let time = Timestamp(time.0.min(LATEST_MS));
        if time.seconds() != self.second {
            self.second = time.seconds();
            self.write();
        }
        let mut millis = *b"000Z";
        digits(&mut millis[..3], time.0 % 1000);
        out.extend_from_slice(&self.text);
        out.extend_from_slice(&millis);
    }

    fn write(&mut self) {
        let (year, month, day) = date(self.second / 86_400);
        digits(&mut self.text[..4], year);
        digits(&mut self.text[5..7], month);
        digits(&mut self.text[8..10], day);
        digits(&mut self.text[11..13], self.second / 3600 % 24);
        digits(&mut self.text[14..16], self.second / 60 % 60);
        digits(&mut self.text[17..19], self.second % 60);
    }
}

/// Fills the places with the decimal digits of a number, zeros in front.
fn digits(places: &mut [u8], mut number: u64) {
    for place in places.iter_mut().rev() {
        // A remainder of ten fits into a byte.
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day, so many days after 1970-01-01, in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    /// Days from the first of March to the first of each month: years that begin in March end with their leap day.
    const MONTHS: [u64; 12] = [0, 31, 61, 92, 122, 153, 184, 214, 245, 275, 306, 337];
    const FROM_YEAR_ZERO: u64 = 719_468;
    let days = days + FROM_YEAR_ZERO;
    let (cycle, days) = (days / 146_097, days % 146_097);
    // The last century of a cycle, and the last year of four, is a day longer than the others: hence the `min`.
    let century = (days / 36_524).min(3);
    let days = days - century * 36_524;
    let (quad, days) = (days / 1461, days % 1461);
    let single = (days / 365).min(3);
    let days = days - single * 365;
    let year = cycle * 400 + century * 100 + quad * 4 + single;
    let month = MONTHS.partition_point(|first| *first <= days);
    let day = days - MONTHS[month - 1] + 1;
    if month <= 10 { (year, month as u64 + 2, day) } else { (year + 1, month as u64 - 10, day) }
}

#[cfg(test)]
pub(super) fn sample() -> Line<'static> {
    Line {
        time: Timestamp(1_763_691_360_007),
        id: b"r-1",
        trace_id: None,
        client: IpAddr::from([192, 0, 2, 7]),
        version: Version::HTTP_2,
        method: "GET",
        scheme: "https",
        authority: b"example.org",
        target: b"/a?b=c",
        status: 200,
        bytes_out: 1234,
        duration_us: 56,
        accept_us: None,
        route: "web",
        policy: None,
        key: None,
        lookup: "hit",
        tier: Some("memory"),
        fwd: None,
        stored: false,
        collapsed: false,
        endpoint: None,
        attempts: 0,
        batch_size: None,
        detail: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn json(line: &Line<'_>) -> String {
        String::from_utf8(Formatter::new().format(line).to_vec()).unwrap()
    }

    fn string(value: &[u8]) -> String {
        let mut out = Vec::new();
        push_string(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    fn stamped(time: Timestamp) -> String {
        let mut out = Vec::new();
        Stamp::new().push(&mut out, time);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_hit_is_a_short_line() {
        let expected = concat!(
            r#"{"time":"2025-11-21T02:16:00.007Z","id":"r-1","client":"192.0.2.7","version":"HTTP/2","#,
            r#""method":"GET","scheme":"https","authority":"example.org","target":"/a?b=c","#,
            r#""status":200,"bytes_out":1234,"duration_us":56,"route":"web","lookup":"hit","tier":"memory","#,
            r#""stored":false,"collapsed":false,"attempts":0}"#,
            "\n"
        );
        assert_eq!(json(&sample()), expected);
    }

    #[test]
    fn a_fetch_tells_all_there_is() {
        let line = Line {
            trace_id: Some([0xab; 16]),
            client: "2001:db8::1".parse().unwrap(),
            accept_us: Some(340),
            policy: Some("tenant@1a2b"),
            key: Some([0x07; 32]),
            lookup: "miss",
            tier: None,
            fwd: Some("uri-miss"),
            stored: true,
            collapsed: true,
            endpoint: Some("http://10.0.0.1:8000"),
            attempts: 2,
            batch_size: Some(32),
            detail: Some("retried: \"reset\""),
            ..sample()
        };
        let text = json(&line);
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "time": "2025-11-21T02:16:00.007Z", "id": "r-1", "trace_id": "ab".repeat(16), "client": "2001:db8::1",
            "version": "HTTP/2", "method": "GET", "scheme": "https", "authority": "example.org", "target": "/a?b=c",
            "status": 200, "bytes_out": 1234, "duration_us": 56, "accept_us": 340, "route": "web",
            "policy": "tenant@1a2b", "key": "07".repeat(32), "lookup": "miss", "fwd": "uri-miss", "stored": true, "collapsed": true,
            "endpoint": "http://10.0.0.1:8000", "attempts": 2, "batch_size": 32, "detail": "retried: \"reset\"",
        });
        assert_eq!(parsed, expected);
        assert_eq!(text.matches('\n').count(), 1);
    }

    #[test]
    fn strings_are_escaped() {
        let table: [(&[u8], &str); 8] = [
            (b"plain", r#""plain""#),
            (b"a\"b\\c", r#""a\"b\\c""#),
            (b"line\nbreak\r\ttab", r#""line\nbreak\r\ttab""#),
            (b"\x00\x1f\x7f", r#""\u0000\u001f\u007f""#),
            ("größe".as_bytes(), r#""größe""#),
            (b"bad\xff\"", "\"bad\u{fffd}\\\"\""),
            (b"cut \xe2\x82", "\"cut \u{fffd}\""),
            (b"", r#""""#),
        ];
        for (value, expected) in table {
            assert_eq!(string(value), expected);
        }
    }

    #[test]
    fn a_long_field_is_cut_between_characters_and_says_so() {
        assert_eq!(string(&[b'x'; FIELD_BYTES_MAX]).len(), FIELD_BYTES_MAX + 2);
        let cut = string(&[b'x'; FIELD_BYTES_MAX + 1]);
        assert_eq!(cut.len(), FIELD_BYTES_MAX + "\"…\"".len());
        for shift in 0..4 {
            let long = format!("{}{}", "x".repeat(shift), "🜁".repeat(FIELD_BYTES_MAX));
            let cut = string(long.as_bytes());
            assert!(cut.ends_with("🜁…\"") && !cut.contains('\u{fffd}'), "shift {shift}");
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (68_169_599_999, "1972-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_001, "2000-03-01T00:00:00.001Z"),
            (1_078_012_800_000, "2004-02-29T00:00:00.000Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (LATEST_MS, "9999-12-31T23:59:59.999Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(stamped(Timestamp(millis)), expected);
        }
    }

    #[test]
    fn a_new_second_is_noticed() {
        let (mut stamp, mut out) = (Stamp::new(), Vec::new());
        for millis in [1999, 2000, 1999] {
            stamp.push(&mut out, Timestamp(millis));
        }
        let expected = "1970-01-01T00:00:01.999Z1970-01-01T00:00:02.000Z1970-01-01T00:00:01.999Z";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_json_string_of_what_they_mean(
            value in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let parsed: String = serde_json::from_str(&string(&value)).unwrap();
            prop_assert_eq!(parsed, String::from_utf8_lossy(&value));
        }

        #[test]
        fn any_second_is_the_one_that_httpdate_names(second in 0..=LATEST_MS / 1000) {
            const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
            // `Fri, 21 Nov 2025 02:16:00 GMT`
            let imf = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            let month = MONTHS.find(&imf[8..11]).unwrap() / 3 + 1;
            let expected = format!("{}-{month:02}-{}T{}.000Z", &imf[12..16], &imf[5..7], &imf[17..25]);
            prop_assert_eq!(stamped(Timestamp(second * 1000)), expected);
        }
    }
}
