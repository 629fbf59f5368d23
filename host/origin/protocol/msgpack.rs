//! MessagePack arrays: as JSON arrays, in MessagePack. An array is many items, any other value is one; an array is sent
//! to the model in any case, and the response is an array of the same length in the same order.
//!
//! The canonical form has each number, text and length in its shortest form and the members of maps in order. A float
//! stays as wide as it was, and is another value than the integer.

mod transcode;
mod value;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::{
    HeaderMap,
    header::{CONTENT_TYPE, HeaderValue},
    uri::PathAndQuery,
};

use super::{
    contract::Protocol,
    fault::{BadResponse, Malformed},
    item::{
        EMBEDDED_BYTES_MAX, Item, ItemError, ItemResponse, JoinedReply, JoinedRequest, Message, Outcome, OutcomeRef,
        Received, ReplyForm, Split, SplitRules, response_to_all,
    },
    json,
};
pub(super) use transcode::{of_json, of_tensor, to_json};
use value::{Head, Reader, write_head};

/// The status of an error that states none.
const STATUS_DEFAULT: u16 = 502;

/// The name of this format where neither client nor model have another.
pub(super) const MEDIA_TYPE: &str = "application/msgpack";

/// Arrays of any MessagePack values. An error keeps its place among the results.
#[derive(Debug)]
pub(super) struct MsgPackArray;

impl Protocol for MsgPackArray {
    fn split(&self, request: &Received<'_>, rules: &SplitRules<'_>) -> Result<Split, Malformed> {
        split(request.body, &media_type(request.headers), rules.items_max)
    }

    fn join(&self, target: &PathAndQuery, items: &[&Item]) -> JoinedRequest {
        let media_type = items.first().and_then(|item| HeaderValue::from_bytes(&item.group).ok());
        let headers = fields(media_type.unwrap_or(HeaderValue::from_static(MEDIA_TYPE)));
        let body = list(items.iter().map(|item| item.listed()), items.len());
        JoinedRequest { target: target.clone(), headers, body }
    }

    fn split_response(&self, response: Message<'_>, items: &[&Item]) -> Result<Vec<Outcome>, BadResponse> {
        split_results(response.body, items.len())
    }

    /// Joins results. The media type is that of the model's responses; a single one keeps its header fields.
    fn join_outcomes(&self, form: ReplyForm, outcomes: &[OutcomeRef<'_>]) -> JoinedReply {
        if form != ReplyForm::Many {
            let alone = json::alone(self, outcomes);
            let is_own = alone.status != 200 && error_status(&alone.body).is_some();
            let headers = if is_own { fields(HeaderValue::from_static(MEDIA_TYPE)) } else { HeaderMap::new() };
            return JoinedReply { headers, ..alone };
        }
        if let Some(error) = response_to_all(outcomes) {
            return json::of_error(error);
        }
        let given = outcomes.iter().find_map(|outcome| outcome.as_ref().ok()?.headers.get(CONTENT_TYPE));
        let headers = fields(given.cloned().unwrap_or(HeaderValue::from_static(MEDIA_TYPE)));
        let mut room = EMBEDDED_BYTES_MAX;
        let elements: Vec<Bytes> = outcomes.iter().map(|outcome| element(*outcome, &mut room)).collect();
        let body = list(elements.iter().map(|element| &element[..]), elements.len());
        JoinedReply { status: 200, headers, body }
    }

    fn failure(&self, status: u16, message: &str, _: Option<&str>) -> ItemError {
        failure(status, message)
    }
}

fn fields(media_type: HeaderValue) -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, media_type)])
}

/// Returns `{"error": {"status": …, "message": …}}`.
fn failure(status: u16, message: &str) -> ItemError {
    let mut body = Vec::new();
    write_error(status, message, 2, &mut body);
    ItemError::new(status, body.into())
}

/// Writes the beginning of an error that has so many members: these two, and those that follow.
fn write_error(status: u16, message: &str, members: usize, out: &mut Vec<u8>) {
    write_head(Head::Map(1), out);
    write_text("error", out);
    write_head(Head::Map(members), out);
    write_text("status", out);
    write_head(Head::Unsigned(status.into()), out);
    write_text("message", out);
    write_text(message, out);
}

/// Returns an error that isn't recognisable as one in its place: with the model's own words in `body`, as a value if
/// they are a map or an array, else as text. `body` is missing where the model has said nothing, or there is no room.
fn worded(error: &ItemError, room: &mut usize) -> Bytes {
    let (status, message) =
        if error.is_unread() { (STATUS_DEFAULT, json::UNREAD.to_owned()) } else { (error.status, error.to_string()) };
    let left = room.checked_sub(error.body.len()).filter(|_| error.is_response);
    let Some(left) = left else { return failure(status, &message).body };
    *room = left;
    let mut body = Vec::with_capacity(error.body.len() + 128);
    write_error(status, &message, 3, &mut body);
    write_text("body", &mut body);
    if is_collection(&error.body) {
        body.extend_from_slice(&error.body);
    } else {
        write_text(&String::from_utf8_lossy(&error.body), &mut body);
    }
    body.into()
}

/// Whether this is one map or array, and nothing else.
fn is_collection(body: &[u8]) -> bool {
    let begins = |reader: &mut Reader<'_>| {
        let is_map = matches!(reader.map(), Ok(Some(_)));
        is_map || matches!(reader.array(), Ok(Some(_)))
    };
    let mut reader = Reader::of(body);
    begins(&mut Reader::of(body)) && reader.skip().and_then(|_| reader.end()).is_ok()
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write_head(Head::Text(text.len()), out);
    out.extend_from_slice(text.as_bytes());
}

/// Returns the media type that the client calls this format by, without parameters: models may know only one of them.
fn media_type(headers: &HeaderMap) -> Bytes {
    let given = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let essence = given.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    if essence.ends_with(b"msgpack") { essence.into() } else { Bytes::from_static(MEDIA_TYPE.as_bytes()) }
}

fn split(body: &Bytes, media_type: &Bytes, items_max: usize) -> Result<Split, Malformed> {
    let mut reader = Reader::of(body);
    let (form, count) = match reader.array()? {
        Some(count) => (ReplyForm::Many, count),
        None => (ReplyForm::Single, 1),
    };
    if count > items_max && form == ReplyForm::Many {
        return Err(Malformed::TooMany { count, max: items_max });
    }
    let mut items = Vec::with_capacity(count.min(body.len()));
    for _ in 0..count {
        let mut canonical = Vec::new();
        let (place, repeated) = reader.canonical(&mut canonical)?;
        let canonical = Bytes::from(canonical);
        let body = if repeated { canonical.clone() } else { body.slice(place) };
        items.push(Item::new(body, canonical, media_type.clone()));
    }
    reader.end()?;
    Ok(Split { form, items })
}

/// Returns an array of elements.
fn list<'e>(elements: impl Iterator<Item = &'e [u8]>, count: usize) -> Bytes {
    let mut body = Vec::new();
    write_head(Head::Array(count), &mut body);
    elements.for_each(|element| body.extend_from_slice(element));
    body.into()
}

fn split_results(body: &Bytes, asked: usize) -> Result<Vec<Outcome>, BadResponse> {
    const WANTED: &str = "a MessagePack array";
    let unreadable = |fault: Malformed| BadResponse::Unreadable { wanted: WANTED, why: fault.to_string() };
    let mut reader = Reader::of(body);
    match reader.array().map_err(unreadable)? {
        Some(found) if found == asked => {}
        Some(found) => return Err(BadResponse::Count { asked, found }),
        None => return Err(BadResponse::Unreadable { wanted: WANTED, why: "it is another value".to_owned() }),
    }
    let mut outcomes = Vec::with_capacity(asked);
    for _ in 0..asked {
        let place = reader.skip().map_err(unreadable)?;
        outcomes.push(outcome(body.get(place).unwrap_or_default()));
    }
    reader.end().map_err(unreadable)?;
    Ok(outcomes)
}

/// Returns the outcome in an element. The bytes are copied: a result that is stored must not keep its whole batch in
/// memory.
fn outcome(element: &[u8]) -> Outcome {
    let body = Bytes::copy_from_slice(element);
    match error_status(element) {
        Some(status) => Err(ItemError::new(status, body)),
        None => Ok(ItemResponse::from(body)),
    }
}

/// Returns an outcome as an element. `room` is how many bytes of the model's words may still be embedded.
fn element(outcome: OutcomeRef<'_>, room: &mut usize) -> Bytes {
    match outcome {
        Ok(response) => response.body.clone(),
        Err(error) if error_status(&error.body).is_some() => error.body.clone(),
        Err(error) => worded(error, room),
    }
}

/// Returns the status of an element that is a map of `error` and nothing else; `None` for a result.
fn error_status(element: &[u8]) -> Option<u16> {
    let mut whole = Reader::of(element);
    whole.skip().and_then(|_| whole.end()).ok()?;
    let mut reader = Reader::of(element);
    let is_only = reader.map().ok()? == Some(1) && reader.is_text(b"error");
    if !is_only {
        return None;
    }
    Some(stated(&mut reader).filter(|status| (400..=599).contains(status)).unwrap_or(STATUS_DEFAULT))
}

/// Returns the `status` of the map that comes next; the last one, if it has several.
fn stated(reader: &mut Reader<'_>) -> Option<u16> {
    let members = reader.map().ok()??;
    let mut status = None;
    for _ in 0..members {
        if reader.is_text(b"status") {
            let number = reader.unsigned();
            status = number.and_then(|number| u16::try_from(number).ok());
            if number.is_some() {
                continue;
            }
        } else {
            reader.skip().ok()?;
        }
        reader.skip().ok()?;
    }
    status
}
