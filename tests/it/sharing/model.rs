//! The origin of the table: it numbers its responses, and returns a digest of what it was sent.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use http::HeaderName;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::harness::origin::{Origin, Reply, Seen};

/// Header fields of a response.
pub(super) type Says = Vec<(&'static str, &'static str)>;

/// The header field with the number of a response, of its first item.
pub(super) const SERIAL: &str = "x-serial";

/// The member with the number of an item, as it stands in a body.
pub(super) const MEMBER: &str = "\"serial\":";

/// The header field with the digest of what the origin was sent.
pub(super) const DIGEST: &str = "x-digest";

/// Header fields of a request that belong to the connection, that the node writes itself, or that number requests.
const NOT_THE_CLIENTS: [&str; 13] = [
    "cdn-loop",
    "connection",
    "content-length",
    "surrogate-capability",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

/// From now on the origin responds to everything below `/PLACE/ROW…`; row number `n` says `says[n]`.
pub(super) fn respond(origin: &Origin, says: Vec<Says>) {
    let serials = AtomicU64::new(1);
    origin.on("*", move |seen| {
        let path = seen.target.split('?').next().unwrap_or_default();
        let mut segments = path.split('/').skip(1);
        let (place, row) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
        let Some(says) = row_number(row).and_then(|number| says.get(number)) else { return Reply::status(404) };
        let Some(items) = items(place, &seen.body) else { return Reply::status(400) };
        let first = serials.fetch_add(items.max(1), SeqCst);
        let body = body(place, first, items);
        let mut reply = Reply::ok(body).header("content-type", "application/json");
        reply = reply.header(SERIAL, &first.to_string()).header(DIGEST, &digest(seen, place, row));
        for (name, value) in says {
            reply = reply.header(name, value);
        }
        reply
    });
}

/// The row's number; what follows the digits is the direction.
fn row_number(segment: &str) -> Option<usize> {
    segment.trim_end_matches(|c: char| c.is_ascii_lowercase()).parse().ok()
}

/// Returns the number of items in a body; `None` if it can't be read.
fn items(place: &str, body: &[u8]) -> Option<u64> {
    let list = |text: &[u8]| serde_json::from_slice::<Vec<Box<RawValue>>>(text).ok();
    match place.as_bytes().first() {
        Some(b'j') => Some(list(body)?.len() as u64),
        Some(b'e') => {
            let call: Call = serde_json::from_slice(body).ok()?;
            let inputs =
                list(call.input.get().as_bytes()).filter(|inputs| inputs.first().is_some_and(|first| is_input(first)));
            Some(inputs.map_or(1, |inputs| inputs.len() as u64))
        }
        _ => Some(1),
    }
}

/// A call for embeddings.
#[derive(Deserialize)]
struct Call {
    input: Box<RawValue>,
}

/// Whether an element of a list is an input of its own: text or a list of tokens, and not a token.
fn is_input(element: &RawValue) -> bool {
    element.get().starts_with(['"', '['])
}

/// The response's body in the form of the place's protocol, a number for each item.
fn body(place: &str, first: u64, items: u64) -> String {
    let listed = |one: fn((u64, u64)) -> String| (0..).zip(first..first + items).map(one).collect::<Vec<_>>().join(",");
    match place.as_bytes().first() {
        Some(b'j') => format!("[{}]", listed(|(_, serial)| format!("{{{MEMBER}{serial}}}"))),
        Some(b'e') => {
            let entry = |(index, serial): (u64, u64)| {
                format!("{{\"object\":\"embedding\",\"index\":{index},\"embedding\":[{serial}],{MEMBER}{serial}}}")
            };
            format!("{{\"object\":\"list\",\"model\":\"m\",\"data\":[{}]}}", listed(entry))
        }
        _ => format!("{{{MEMBER}{first}}}"),
    }
}

/// A digest of all that the origin was sent, apart from what tells one row and direction from another.
fn digest(seen: &Seen, place: &str, row: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    part(seen.method.as_str().as_bytes());
    part(seen.target.replacen(&format!("/{place}/{row}"), "", 1).as_bytes());
    let names = seen.headers.keys().map(HeaderName::as_str);
    let mut names: Vec<&str> = names.filter(|name| !NOT_THE_CLIENTS.contains(name)).collect();
    names.sort_unstable();
    for name in names {
        part(name.as_bytes());
        for value in seen.headers.get_all(name) {
            part(value.as_bytes());
        }
    }
    part(&seen.body);
    hasher.finalize().to_hex()[..32].to_owned()
}
