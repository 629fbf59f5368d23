//! KServe's REST protocol, version 2, which is also Triton's: `POST /v2/models/NAME/infer` with tensors as JSON or as
//! binary data behind it. An item is a row of all inputs, along their first dimension.
//!
//! The `id` of a request is the client's name for it: it is neither sent nor part of a key, and the reply repeats it. A
//! model's own `id` reaches nobody: its response may be that to several requests.

pub(super) mod grpc;
mod message;
pub(super) mod rows;
mod tensor;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName,
    header::{CONTENT_TYPE, HeaderValue},
    uri::PathAndQuery,
};
use serde_json::value::RawValue;

use super::{
    contract::Protocol,
    fault::{BadResponse, Malformed},
    item::{
        Item, ItemError, ItemResponse, JoinedReply, JoinedRequest, Message, Outcome, OutcomeRef, Received, ReplyForm,
        Split, SplitRules, WHOLE, may_repeat,
    },
    json,
    lenient::Text,
};
use message::{Form, Head, Message as Tensors, Spelling, Uncut, Written};
use tensor::flat;

/// The field with the length of the JSON before binary data.
const HEADER_LENGTH: &str = "inference-header-content-length";

/// The media type of a message with binary data.
const BINARY: &str = "application/octet-stream";

const INPUTS: &str = "inputs";
const OUTPUTS: &str = "outputs";

/// What a response may depend on beside the request: the steps of a sequence before it, and memory that it shares with
/// the client. As members are written in canonical JSON.
const DEPENDS_ON_MORE: [&str; 4] =
    ["\"sequence_id\":", "\"sequence_start\":", "\"sequence_end\":", "\"shared_memory_region\":"];

/// KServe's tensors. It has no errors per item, so that the first is the whole reply.
#[derive(Debug)]
pub(super) struct KServe;

impl Protocol for KServe {
    fn describes_body(&self, name: &HeaderName) -> bool {
        name == HEADER_LENGTH
    }

    fn split(&self, request: &Received<'_>, rules: &SplitRules<'_>) -> Result<Split, Malformed> {
        let body = request.body;
        let json_bytes = json_bytes(request.headers, body.len())?;
        let usual = if json_bytes.is_some() { BINARY } else { json::MEDIA_TYPE };
        let whole = |item: Item| Ok(Split { form: ReplyForm::Whole, items: vec![item.called(request.headers, usual)] });
        if !request.target.path().ends_with("/infer") {
            return whole(Item { shareable: false, ..opaque(body, json_bytes) });
        }
        if json_bytes == Some(0) {
            return whole(opaque(body, json_bytes));
        }
        let (head, binary) = body.split_at(json_bytes.unwrap_or(body.len()).min(body.len()));
        let text = json::text(head)?;
        if !text.get().starts_with('{') {
            return Err(Malformed::NotAnObject { found: json::parse(text, 0)?.node.kind() });
        }
        match divided(head, binary, rules)? {
            Some(split) => Ok(split),
            None => whole(undivided(body, binary, text)?),
        }
    }

    fn join(&self, target: &PathAndQuery, items: &[&Item]) -> JoinedRequest {
        let (headers, body) = match items {
            [first, _, ..] if !first.whole => join_items(items).unwrap_or_else(|| alone(first)),
            [first, ..] => alone(first),
            [] => (json::headers(), Bytes::new()),
        };
        JoinedRequest { target: target.clone(), headers, body }
    }

    fn model(&self, target: &PathAndQuery, _: &Item) -> Option<String> {
        target.path().split('/').skip_while(|part| *part != "models").nth(1).map(str::to_owned)
    }

    fn split_response(&self, response: Message<'_>, items: &[&Item]) -> Result<Vec<Outcome>, BadResponse> {
        match items {
            [item] if item.whole => Ok(vec![json::whole_outcome(response)]),
            [_] => Ok(vec![Ok(one_result(response))]),
            _ if items.iter().any(|item| item.whole) => Err(BadResponse::Count { asked: items.len(), found: 1 }),
            _ => split_results(response, items.len()),
        }
    }

    fn join_outcomes(&self, form: ReplyForm, outcomes: &[OutcomeRef<'_>]) -> JoinedReply {
        match form {
            ReplyForm::Whole => json::unsplit(self, outcomes),
            ReplyForm::Single | ReplyForm::Many => json::alone(self, outcomes),
            ReplyForm::Rows { .. } if matches!(outcomes, [Err(_)]) => json::alone(self, outcomes),
            ReplyForm::Rows { id } => join_results(id.as_deref(), outcomes),
        }
    }

    fn failure(&self, status: u16, message: &str, _: Option<&str>) -> ItemError {
        failure(status, message)
    }
}

fn failure(status: u16, message: &str) -> ItemError {
    ItemError::new(status, Bytes::from(serde_json::json!({ "error": message }).to_string()))
}

/// Returns the length of the JSON before binary data, if the header fields announce it.
fn json_bytes(headers: &HeaderMap, max: usize) -> Result<Option<usize>, Malformed> {
    let mut lines = headers.get_all(HEADER_LENGTH).iter();
    let Some(first) = lines.next() else { return Ok(None) };
    let length = first.to_str().ok().and_then(|text| text.trim().parse::<usize>().ok());
    match length.filter(|length| *length <= max && lines.next().is_none()) {
        Some(length) => Ok(Some(length)),
        None => Err(Malformed::HeaderLength { max }),
    }
}

/// Returns the header fields of a body; `json_bytes` if there is binary data.
fn headers(json_bytes: Option<usize>) -> HeaderMap {
    let Some(length) = json_bytes else { return json::headers() };
    HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static(BINARY)),
        (HeaderName::from_static(HEADER_LENGTH), HeaderValue::from(length)),
    ])
}

/// Returns the rows of a request as items; `None` if it can't be divided.
fn divided(head: &[u8], binary: &[u8], rules: &SplitRules<'_>) -> Result<Option<Split>, Malformed> {
    let text = Text::of(head);
    let Tensors { rest, tensors, rows, .. } =
        match Tensors::read(&text, binary, INPUTS, rules.items_max, Spelling::Canonical) {
            Ok(tensors) => tensors,
            Err(Uncut::TooMany(count)) => return Err(Malformed::TooMany { count, max: rules.items_max }),
            Err(Uncut::Form(_)) => return Ok(None),
        };
    let none: Vec<(&Head<'_>, Vec<&[u8]>)> = tensors.iter().map(|tensor| (&tensor.head, Vec::new())).collect();
    let group = Bytes::from(message::write(INPUTS, None, &rest, &none).bytes);
    let is_indivisible = rules.indivisible.iter().any(|name| is_on(&rest, name));
    if rows == 0 || !may_repeat(group.len(), rows) || is_indivisible || depends_on_more(&group) {
        return Ok(None);
    }
    let mut items = Vec::with_capacity(rows);
    for row in 0..rows {
        let mut flat_rows: Vec<Cow<'_, [u8]>> = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            let written = tensor.rows.get(row).copied().unwrap_or_default();
            flat_rows.push(match tensor.head.form {
                Form::Binary => Cow::Borrowed(written),
                Form::Flat | Form::Nested => match flat(written) {
                    Some(flat) => Cow::Owned(flat),
                    None => return Ok(None),
                },
            });
        }
        let one: Vec<(&Head<'_>, Vec<&[u8]>)> =
            tensors.iter().zip(&flat_rows).map(|(tensor, row)| (&tensor.head, vec![&**row])).collect();
        let Written { bytes, parts } = message::write(INPUTS, None, &rest, &one);
        let body = Bytes::from(bytes);
        items.push(Item { parts, ..Item::new(body.clone(), body, group.clone()) });
    }
    Ok(Some(Split { form: ReplyForm::Rows { id: id(&text) }, items }))
}

/// Returns the name that the client gave its request.
fn id(text: &Text<'_>) -> Option<Bytes> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(text.readable()).ok()?;
    let id = members.get("id").map(|id| id.get()).filter(|id| *id != "null")?;
    Some(Bytes::copy_from_slice(id.as_bytes()))
}

/// Whether a member of the request, or of its `parameters`, is there and neither `false` nor `null`.
fn is_on(rest: &message::Members<'_>, name: &str) -> bool {
    let is_set = |value: &[u8]| !matches!(value, b"false" | b"null");
    let parameter = || {
        let members: BTreeMap<String, &RawValue> = serde_json::from_slice(rest.get("parameters")?).ok()?;
        members.get(name).map(|value| is_set(value.get().as_bytes()))
    };
    rest.get(name).is_some_and(|value| is_set(value)) || parameter().unwrap_or(false)
}

fn depends_on_more(canonical: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(canonical) else { return true };
    DEPENDS_ON_MORE.iter().any(|member| text.contains(member))
}

/// Returns a request that can be read and not be divided as one item.
fn undivided(body: &Bytes, binary: &[u8], text: &RawValue) -> Result<Item, Malformed> {
    let canonical = json::canonical(text, 0)?;
    // Of a member that stands twice the model may read either.
    let shareable = !canonical.repeated && !depends_on_more(&canonical.text);
    if binary.is_empty() {
        return Ok(Item { shareable, ..Item::unsplit(body.clone(), canonical.text) });
    }
    let json_bytes = body.len() - binary.len();
    let key = [&b"binary\n"[..], &canonical.text[..], binary].concat();
    Ok(Item { shareable, group: whole_group(json_bytes), ..Item::unsplit(body.clone(), key.into()) })
}

/// Returns a request that isn't read as one item.
fn opaque(body: &Bytes, json_bytes: Option<usize>) -> Item {
    let key = [format!("opaque {json_bytes:?}\n").as_bytes(), &body[..]].concat();
    let item = Item::unsplit(body.clone(), key.into());
    match json_bytes {
        Some(length) => Item { group: whole_group(length), ..item },
        None => item,
    }
}

/// Returns the group of a whole request with so much JSON before its binary data.
fn whole_group(json_bytes: usize) -> Bytes {
    Bytes::from([WHOLE, format!(" {json_bytes}").as_bytes()].concat())
}

/// Returns header fields and body of a request for a single item.
fn alone(item: &Item) -> (HeaderMap, Bytes) {
    let json_bytes: Option<usize> = if item.whole {
        let length = item.group.strip_prefix(WHOLE).and_then(|rest| rest.strip_prefix(b" "));
        length.and_then(|length| str::from_utf8(length).ok()?.parse().ok())
    } else {
        let end = item.parts.first().map_or(item.body.len(), |json| json.end);
        item.parts.iter().skip(1).any(|part| part.start >= end).then_some(end)
    };
    (item.fields(headers(json_bytes)), item.body.clone())
}

/// Returns header fields and body of a request for several items.
fn join_items(items: &[&Item]) -> Option<(HeaderMap, Bytes)> {
    let group = &items.first()?.group;
    let text = Text::of(group);
    let Tensors { rest, tensors, .. } = Tensors::read(&text, &[], INPUTS, 0, Spelling::AsWritten).ok()?;
    let mut inputs = Vec::with_capacity(tensors.len());
    for (place, tensor) in tensors.iter().enumerate() {
        let rows = items.iter().map(|item| item.body.get(item.parts.get(place + 1)?.clone()));
        inputs.push((&tensor.head, rows.collect::<Option<Vec<_>>>()?));
    }
    let written = message::write(INPUTS, None, &rest, &inputs);
    Some(finished(written, &inputs))
}

/// Returns header fields and body of a message.
fn finished(written: Written, tensors: &[(&Head<'_>, Vec<&[u8]>)]) -> (HeaderMap, Bytes) {
    let is_binary = tensors.iter().any(|(head, _)| head.form == Form::Binary);
    let json_bytes = written.parts.first().map(|json| json.end).filter(|_| is_binary);
    (headers(json_bytes), Bytes::from(written.bytes))
}

/// Returns the JSON of a response, and the binary data behind it.
fn taken_apart(response: Message<'_>) -> Result<(&[u8], &[u8]), BadResponse> {
    let json_bytes =
        json_bytes(response.headers, response.body.len()).map_err(|fault| unreadable(&fault.to_string()))?;
    let length = json_bytes.unwrap_or(response.body.len());
    response.body.split_at_checked(length).ok_or_else(|| unreadable("it is too short"))
}

fn unreadable(why: &str) -> BadResponse {
    BadResponse::Unreadable { wanted: "an object with a list of tensors in `outputs`", why: why.to_owned() }
}

/// Returns the response to a single item as the model wrote it, without an `id`: that is another request's, or one that
/// the model made up. It is stored if it is JSON and could stand beside others.
fn one_result(response: Message<'_>) -> ItemResponse {
    let as_it_is = |storable, joinable| {
        let body = ItemResponse::from(response.body.clone());
        ItemResponse { storable, joinable, ..body }
    };
    let Ok((head, binary)) = taken_apart(response) else { return as_it_is(false, false) };
    let text = Text::of(head);
    let tensors = Tensors::read(&text, binary, OUTPUTS, 1, Spelling::AsWritten);
    let fits = |tensors: &Tensors<'_>| tensors.rows == 1 && tensors.joinable && !tensors.is_unreadable(0);
    let joinable = tensors.is_ok_and(|tensors| fits(&tensors));
    let storable = joinable && text.words() == 0;
    let Some(json) = message::without_id(&text, OUTPUTS) else { return as_it_is(storable, joinable) };
    let json_bytes = response.headers.contains_key(HEADER_LENGTH).then_some(json.len());
    let body = ItemResponse::from(Bytes::from([&json[..], binary].concat()));
    ItemResponse { headers: headers(json_bytes), storable, joinable, ..body }
}

fn split_results(response: Message<'_>, asked: usize) -> Result<Vec<Outcome>, BadResponse> {
    let (head, binary) = taken_apart(response)?;
    let text = Text::of(head);
    let outputs = match Tensors::read(&text, binary, OUTPUTS, asked, Spelling::AsWritten) {
        Ok(outputs) if outputs.rows == asked => outputs,
        Ok(Tensors { rows: found, .. }) | Err(Uncut::TooMany(found)) => {
            return Err(BadResponse::Count { asked, found });
        }
        Err(Uncut::Form(why)) => return Err(unreadable(why)),
    };
    let outcome = |row: usize| {
        if outputs.is_unreadable(row) {
            return Err(failure(502, "the outputs for this row are not JSON").alone());
        }
        let tensors: Vec<(&Head<'_>, Vec<&[u8]>)> = outputs
            .tensors
            .iter()
            .map(|tensor| (&tensor.head, tensor.rows.get(row).copied().into_iter().collect()))
            .collect();
        let (headers, body) = finished(message::write(OUTPUTS, None, &outputs.rest, &tensors), &tensors);
        let (storable, joinable) = (!outputs.strays, outputs.joinable);
        Ok(ItemResponse { headers, storable, joinable, ..ItemResponse::from(body) })
    };
    Ok((0..asked).map(outcome).collect())
}

fn join_results(id: Option<&[u8]>, outcomes: &[OutcomeRef<'_>]) -> JoinedReply {
    let responses: Result<Vec<Message<'_>>, _> = outcomes.iter().copied().collect();
    let joined = match responses.as_deref() {
        Ok([response]) => Ok(with_id(id, *response)),
        Ok(responses) => join_rows(id, responses),
        Err(first) => return json::first_error(&KServe, first),
    };
    match joined {
        Ok((headers, body)) => JoinedReply { status: 200, headers, body },
        Err(bad) => json::of_error(&failure(502, &bad.to_string())),
    }
}

/// Returns a single result with the client's own `id`; as it is, if the client gave none.
fn with_id(id: Option<&[u8]>, response: Message<'_>) -> (HeaderMap, Bytes) {
    let length = json_bytes(response.headers, response.body.len()).ok().flatten();
    let (head, binary) = response.body.split_at(length.unwrap_or(response.body.len()));
    let json = id.and_then(|id| message::with_id(&Text::of(head), id));
    match json {
        Some(json) => (headers(length.map(|_| json.len())), Bytes::from([&json[..], binary].concat())),
        None => (headers(length), response.body.clone()),
    }
}

/// Joins results of one row each.
fn join_rows(id: Option<&[u8]>, responses: &[Message<'_>]) -> Result<(HeaderMap, Bytes), BadResponse> {
    let parts = responses.iter().map(|response| taken_apart(*response)).collect::<Result<Vec<_>, _>>()?;
    let texts: Vec<Text<'_>> = parts.iter().map(|(head, _)| Text::of(head)).collect();
    let mut results = Vec::with_capacity(texts.len());
    for (text, (_, binary)) in texts.iter().zip(&parts) {
        match Tensors::read(text, binary, OUTPUTS, 1, Spelling::AsWritten) {
            Ok(result) if result.rows == 1 => results.push(result),
            Ok(Tensors { rows: found, .. }) | Err(Uncut::TooMany(found)) => {
                return Err(BadResponse::Count { asked: 1, found });
            }
            Err(Uncut::Form(why)) => return Err(unreadable(why)),
        }
    }
    let Some(first) = results.first() else { return Err(BadResponse::Count { asked: 1, found: 0 }) };
    let mut outputs = Vec::with_capacity(first.tensors.len());
    for place in 0..first.tensors.len() {
        outputs.push(column(&results, place)?);
    }
    let outputs: Vec<(&Head<'_>, Vec<&[u8]>)> =
        outputs.iter().map(|(head, rows)| (head, rows.iter().map(|row| &**row).collect())).collect();
    Ok(finished(message::write(OUTPUTS, id, &message::agreed(&results), &outputs), &outputs))
}

/// An output, and its row in each result.
type Column<'m> = (Head<'m>, Vec<Cow<'m, [u8]>>);

/// Returns one output of all results.
fn column<'m>(results: &'m [Tensors<'_>], place: usize) -> Result<Column<'m>, BadResponse> {
    let differ = || unreadable("the outputs of its rows differ in number, name, type or shape");
    let mut tensors = Vec::with_capacity(results.len());
    for result in results {
        let is_like_first = results.first().is_some_and(|first| first.tensors.len() == result.tensors.len());
        tensors.push(result.tensors.get(place).filter(|_| is_like_first).ok_or_else(differ)?);
    }
    let head = &tensors.first().ok_or_else(differ)?.head;
    if !tensors.iter().all(|tensor| tensor.head.is_like(head)) {
        return Err(differ());
    }
    let is_one_form = tensors.iter().all(|tensor| tensor.head.form == head.form);
    let form = if is_one_form { head.form } else { Form::Flat };
    let rows = tensors.iter().flat_map(|tensor| tensor.rows.iter().map(move |row| tensor.head.in_form(form, row)));
    let rows = rows.collect();
    Ok((head.in_common(&tensors.iter().map(|tensor| &tensor.head).collect::<Vec<_>>()), rows))
}
