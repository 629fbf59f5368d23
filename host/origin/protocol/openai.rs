//! OpenAI's `/v1/embeddings`. `input` is a string, an array of strings, an array of token ids (one item), or an array
//! of such arrays; the members beside it (`model`, `dimensions`, `encoding_format`, `user`, …) apply to all.
//!
//! Servers take more than that: `messages`, objects as inputs, text and tokens in one list, members by which the inputs
//! of a request belong together. What can't be split with certainty is one whole item.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use http::uri::PathAndQuery;
use serde_json::value::RawValue;

use super::{
    contract::Protocol,
    fault::{BadResponse, Malformed},
    item::{
        Item, ItemError, ItemResponse, JoinedReply, JoinedRequest, Message, Outcome, OutcomeRef, Received, ReplyForm,
        Shape, Split, SplitRules, majority, may_repeat,
    },
    json::{self, Node},
    lenient::Text,
};

#[cfg(test)]
mod tests;

/// The beginning of every item's body.
const HEAD: &str = "{\"input\":";

/// Values of `encoding_format` for which the response is no JSON (vLLM).
const BINARY_FORMATS: [&str; 2] = ["bytes", "bytes_only"];

/// OpenAI's embeddings. It has no errors per item, so that the first is the whole reply.
#[derive(Debug)]
pub(super) struct OpenAi;

impl Protocol for OpenAi {
    fn split(&self, request: &Received<'_>, rules: &SplitRules<'_>) -> Result<Split, Malformed> {
        split(request, rules)
    }

    fn join(&self, target: &PathAndQuery, items: &[&Item]) -> JoinedRequest {
        let headers = items.first().map_or_else(json::headers, |first| first.fields(json::headers()));
        JoinedRequest { target: target.clone(), headers, body: join_items(items) }
    }

    fn split_response(&self, response: Message<'_>, items: &[&Item]) -> Result<Vec<Outcome>, BadResponse> {
        split_results(response, items)
    }

    fn join_outcomes(&self, form: ReplyForm, outcomes: &[OutcomeRef<'_>]) -> JoinedReply {
        match (form, outcomes) {
            (ReplyForm::Whole, _) => json::unsplit(self, outcomes),
            (ReplyForm::Single, _) | (_, [_]) => json::alone(self, outcomes),
            (ReplyForm::Many | ReplyForm::Rows { .. }, _) => join_results(outcomes),
        }
    }

    fn usage(&self, result: Message<'_>) -> Vec<(String, u64)> {
        counts(result.body)
    }

    fn model(&self, _: &PathAndQuery, item: &Item) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Named {
            model: Option<String>,
        }
        serde_json::from_slice::<Named>(&item.body).ok()?.model
    }

    fn failure(&self, status: u16, message: &str, param: Option<&str>) -> ItemError {
        failure(status, message, param)
    }
}

fn failure(status: u16, message: &str, param: Option<&str>) -> ItemError {
    let kind = error_type(status);
    let body = serde_json::json!({ "error": { "message": message, "type": kind, "param": param, "code": null } });
    ItemError::new(status, Bytes::from(body.to_string()))
}

/// Returns OpenAI's type of an error with this status.
const fn error_type(status: u16) -> &'static str {
    match status {
        401 | 403 => "authentication_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

fn split(request: &Received<'_>, rules: &SplitRules<'_>) -> Result<Split, Malformed> {
    let text = json::text(request.body)?;
    let members = match json::parse(text, 0)?.node {
        Node::Object(members) => members,
        other => return Err(Malformed::NotAnObject { found: other.kind() }),
    };
    match divided(&members, rules)? {
        Some(split) => Ok(split),
        None => {
            let item = json::whole(request.body, text)?.called(request.headers, json::MEDIA_TYPE);
            Ok(Split { form: ReplyForm::Whole, items: vec![item] })
        }
    }
}

/// Returns the items of a request; `None` if it can't be divided.
fn divided(members: &Object<'_>, rules: &SplitRules<'_>) -> Result<Option<Split>, Malformed> {
    let Some((form, kind, inputs)) = members.get("input").and_then(inputs) else { return Ok(None) };
    if is_indivisible(members, rules) {
        return Ok(None);
    }
    if inputs.len() > rules.items_max {
        return Err(Malformed::TooMany { count: inputs.len(), max: rules.items_max });
    }
    let mut tail = String::new();
    for (name, value) in members.iter().filter(|(name, _)| *name != "input") {
        tail.push(',');
        json::write_member(name, value, &mut tail);
    }
    if !may_repeat(tail.len(), inputs.len()) {
        return Ok(None);
    }
    tail.push('}');
    // A list must not mix text and token ids, so the kind of the input belongs to the group.
    let group = Bytes::from(format!("{HEAD}\"{kind}\"{tail}"));
    let items = inputs.into_iter().map(|input| item_of(input, &tail, &group)).collect();
    Ok(Some(Split { form, items }))
}

/// The members of a request.
type Object<'t> = BTreeMap<Cow<'t, str>, Node<'t>>;

/// Whether a member says that the response can't be taken apart, or that an input's depends on the others.
fn is_indivisible(members: &Object<'_>, rules: &SplitRules<'_>) -> bool {
    let is_on =
        |name: &String| members.get(name.as_str()).is_some_and(|value| !matches!(value, Node::Word("false" | "null")));
    let format = members.get("encoding_format");
    let is_binary =
        format.is_some_and(|format| matches!(format, Node::Text(word) if BINARY_FORMATS.contains(&&**word)));
    is_binary || rules.indivisible.iter().any(is_on)
}

/// Returns the item of one input. Its body is canonical already: nothing beside `input` depends on the order of
/// members.
fn item_of(input: &Node<'_>, tail: &str, group: &Bytes) -> Item {
    let mut body = String::from(HEAD);
    input.write(&mut body);
    let span = HEAD.len()..body.len();
    body.push_str(tail);
    let body = Bytes::from(body);
    Item { span, ..Item::new(body.clone(), body, group.clone()) }
}

/// The form of the reply, whether the inputs are text or tokens, and the inputs.
type Inputs<'n, 't> = (ReplyForm, &'static str, Vec<&'n Node<'t>>);

/// Returns the inputs, one node for each item; `None` if they are none that OpenAI takes.
fn inputs<'n, 't>(input: &'n Node<'t>) -> Option<Inputs<'n, 't>> {
    let items = match input {
        Node::Text(_) => return Some((ReplyForm::Single, "text", vec![input])),
        Node::List(items) => items,
        Node::Word(_) | Node::Object(_) => return None,
    };
    let all = |holds: fn(&Node<'_>) -> bool| items.iter().all(holds);
    match items.first()? {
        Node::Text(_) if all(is_text) => Some((ReplyForm::Many, "text", items.iter().collect())),
        Node::List(_) if all(is_tokens) => Some((ReplyForm::Many, "tokens", items.iter().collect())),
        Node::Word(_) if all(is_token) => Some((ReplyForm::Single, "tokens", vec![input])),
        _ => None,
    }
}

fn is_text(node: &Node<'_>) -> bool {
    matches!(node, Node::Text(_))
}

fn is_tokens(node: &Node<'_>) -> bool {
    matches!(node, Node::List(tokens) if !tokens.is_empty() && tokens.iter().all(is_token))
}

fn is_token(node: &Node<'_>) -> bool {
    matches!(node, Node::Word(word) if word.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Joins items: a single one is sent as if the client had sent it; more become a list.
fn join_items(items: &[&Item]) -> Bytes {
    let [first, _, ..] = items else {
        return items.first().map(|only| only.body.clone()).unwrap_or_default();
    };
    let tail = first.body.get(first.span.end..).unwrap_or_default();
    let bytes: usize = items.iter().map(|item| item.weight() + 1).sum();
    let mut body = Vec::with_capacity(HEAD.len() + bytes + tail.len() + 2);
    body.extend_from_slice(HEAD.as_bytes());
    json::write_list(items.iter().map(|item| item.listed()), &mut body);
    body.extend_from_slice(tail);
    body.into()
}

/// Splits a response; one to a single item stays as the model wrote it, but for its index.
fn split_results(response: Message<'_>, items: &[&Item]) -> Result<Vec<Outcome>, BadResponse> {
    match items {
        [item] if item.whole => return Ok(vec![json::whole_outcome(response)]),
        _ if items.iter().any(|item| item.whole) => {
            return Err(BadResponse::Count { asked: items.len(), found: 1 });
        }
        _ => {}
    }
    let text = Text::of(response.body);
    let List { rest, data, usage, strays } = List::parse(&text)?;
    let entries = in_order(data, items.len())?;
    let base64 = asks_for_base64(items);
    let shapes: Vec<Option<Shape>> = entries.iter().map(|entry| entry.kind(base64).shape()).collect();
    let usual = items.first().and_then(|first| first.usual);
    if let ([entry], [shape]) = (&entries[..], &shapes[..]) {
        let body = if shape.is_some() { numbered(response.body, &text, entry) } else { response.body.clone() };
        let tokens = usage.as_ref().map_or(0, Usage::prompt_tokens);
        let joinable = shape.is_some() && usual.is_none_or(|usual| *shape == Some(usual));
        let (storable, shape) = (joinable && !strays, *shape);
        return Ok(vec![Ok(ItemResponse { storable, joinable, tokens, shape, ..ItemResponse::from(body) })]);
    }
    let usual = usual.or_else(|| most(&shapes));
    let weights: Vec<u64> = items.iter().map(|item| length(item.listed())).collect();
    let usages: Vec<Option<Usage<'_>>> = match &usage {
        Some(usage) => usage.divide(&weights).into_iter().map(Some).collect(),
        None => vec![None; entries.len()],
    };
    let outcome = |((entry, shape), usage): ((&Entry<'_>, Option<Shape>), &Option<Usage<'_>>)| {
        if shape.is_none() || shape != usual {
            let error = failure(502, "the embedding of this input can't be read", None).alone();
            return Err(error.differing(shape.is_some()));
        }
        let tokens = usage.as_ref().map_or(0, Usage::prompt_tokens);
        let body = write_reply(&rest, &[entry], usage.as_ref());
        Ok(ItemResponse { storable: !strays, tokens, shape, ..ItemResponse::from(body) })
    };
    Ok(entries.iter().zip(shapes).zip(&usages).map(outcome).collect())
}

/// Whether items ask for base64, by any of the names that models have for that: members and texts of a group have their
/// quotes, which a text within doesn't have.
fn asks_for_base64(items: &[&Item]) -> bool {
    const WORD: &[u8] = b"\"base64\"";
    items.first().is_some_and(|item| item.group.windows(WORD.len()).any(|window| window == WORD))
}

/// Returns the response to a single item with the only index that is right, which is 0, and else as it is.
fn numbered(response: &Bytes, text: &Text<'_>, entry: &Entry<'_>) -> Bytes {
    match entry.written_index {
        Some("0") => response.clone(),
        Some(index) => text.with(index.as_bytes(), b"0").into(),
        None => match only_entry(text).and_then(|entry| entry.get(entry.len().checked_sub(1)?..)) {
            Some(brace) => text.with(&brace.as_bytes()[..0], b",\"index\":0").into(),
            None => response.clone(),
        },
    }
}

/// Returns the text of the only entry of a response that has been read; it isn't empty.
fn only_entry<'t>(text: &'t Text<'_>) -> Option<&'t str> {
    let mut members: BTreeMap<String, &'t RawValue> = serde_json::from_slice(text.readable()).ok()?;
    let data: Vec<&'t RawValue> = serde_json::from_str(members.remove("data")?.get()).ok()?;
    data.first().map(|entry| entry.get())
}

fn join_results(outcomes: &[OutcomeRef<'_>]) -> JoinedReply {
    let responses: Result<Vec<Message<'_>>, _> = outcomes.iter().copied().collect();
    match responses.map(|responses| join(&responses)) {
        Ok(Ok(body)) => json::reply(200, body),
        Ok(Err(bad)) => json::of_error(&failure(502, &bad.to_string(), None)),
        Err(first) => json::first_error(&OpenAi, first),
    }
}

/// The members of an object, their values as written; of members of the same name the last counts.
type Members<'t> = BTreeMap<String, &'t [u8]>;

/// A reply of the model.
struct List<'t> {
    /// `model`, `object` and whatever else there is and is JSON.
    rest: Members<'t>,
    data: Vec<Entry<'t>>,
    usage: Option<Usage<'t>>,
    /// Whether words that aren't JSON stand beside the embeddings. The members that have them are left out.
    strays: bool,
}

/// The entry of one embedding. Its numbers are never read, only carried.
struct Entry<'t> {
    /// Without `index`.
    members: Members<'t>,
    index: Index,
    /// Its `index` as the model wrote it.
    written_index: Option<&'t str>,
    /// The text of its embedding; `None` if there is none, or it has words that aren't JSON.
    embedding: Option<&'t str>,
}

/// The item that an entry is for, by its `index`.
enum Index {
    /// There is none, or it is `null`.
    Missing,
    At(usize),
    /// Not a number, or none of an item.
    Bad,
}

/// What an embedding is, as far as those of one model are alike.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Embedding {
    /// A list of so many numbers.
    Numbers(usize),
    /// Base64 of so many characters.
    Text(usize),
    /// Several vectors, or a sparse one: lists of lists of numbers, or an object of lists.
    Other,
    /// There is none, or something in it is no number.
    Bad,
}

impl<'t> List<'t> {
    /// Reads a reply.
    fn parse(text: &'t Text<'_>) -> Result<Self, BadResponse> {
        const WANTED: &str = "an object with a list of embeddings in `data`";
        let mut rest: BTreeMap<String, &'t RawValue> = json::read(text.readable(), WANTED)?;
        let Some(data) = rest.remove("data") else {
            return Err(BadResponse::Unreadable { wanted: WANTED, why: "`data` is missing".to_owned() });
        };
        let strays = text.words_in(data.get().as_bytes()) < text.words();
        let data: Vec<BTreeMap<String, &'t RawValue>> = json::read(data.get().as_bytes(), WANTED)?;
        let data = data.into_iter().map(|members| Entry::of(text, members)).collect();
        rest.retain(|_, value| text.words_in(value.get().as_bytes()) == 0);
        let usage = rest.get("usage").copied().and_then(Usage::parse);
        if usage.is_some() {
            rest.remove("usage");
        }
        Ok(Self { rest: as_written(text, rest), data, usage, strays })
    }
}

impl<'t> Entry<'t> {
    fn of(text: &'t Text<'_>, mut members: BTreeMap<String, &'t RawValue>) -> Self {
        let is_json = members.values().all(|value| text.words_in(value.get().as_bytes()) == 0);
        let written_index = members.remove("index").map(RawValue::get);
        let index = Index::of(written_index);
        // Models of several vectors for an input call them `embeddings`.
        let embedding = members.get("embedding").or_else(|| members.get("embeddings"));
        let embedding = embedding.copied().filter(|_| is_json).map(RawValue::get);
        Self { members: as_written(text, members), index, written_index, embedding }
    }

    /// Returns the kind of its embedding. A text is one only if `base64` was asked for.
    fn kind(&self, base64: bool) -> Embedding {
        self.embedding.map_or(Embedding::Bad, |text| Embedding::of(text, base64))
    }
}

fn as_written<'t>(text: &'t Text<'_>, members: BTreeMap<String, &'t RawValue>) -> Members<'t> {
    members.into_iter().map(|(name, value)| (name, text.written(value.get().as_bytes()))).collect()
}

impl Index {
    fn of(index: Option<&str>) -> Self {
        let Some(text) = index.filter(|text| *text != "null") else { return Self::Missing };
        let whole = match text.split_once('.') {
            Some((whole, fraction)) if fraction.bytes().all(|digit| digit == b'0') => whole,
            _ => text,
        };
        whole.parse::<usize>().map_or(Self::Bad, Self::At)
    }
}

impl Embedding {
    /// Returns what it is like; `None` if it is none.
    const fn shape(self) -> Option<Shape> {
        match self {
            Self::Numbers(numbers) => Some(Shape::Numbers(numbers)),
            Self::Text(characters) => Some(Shape::Text(characters)),
            Self::Other => Some(Shape::Other),
            Self::Bad => None,
        }
    }

    fn of(text: &str, base64: bool) -> Self {
        match text.as_bytes() {
            [b'[', ..] => Self::of_list(text.as_bytes()),
            [b'"', ..] if base64 => base64_length(text.trim_matches('"')).map_or(Self::Bad, Self::Text),
            [b'{', ..] => Self::of_object(text, base64),
            _ => Self::Bad,
        }
    }

    fn of_list(list: &[u8]) -> Self {
        let of_numbers = |byte: u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let of_lists = |byte: u8| matches!(byte, b',' | b'[' | b']' | b' ' | b'\t' | b'\n' | b'\r');
        let is_of_numbers = list.iter().all(|byte| of_numbers(*byte) || of_lists(*byte));
        if !is_of_numbers || !list.iter().any(u8::is_ascii_digit) {
            return Self::Bad;
        }
        match list {
            [_, inner @ ..] if inner.contains(&b'[') => Self::Other,
            _ => Self::Numbers(list.iter().filter(|byte| **byte == b',').count() + 1),
        }
    }

    fn of_object(object: &str, base64: bool) -> Self {
        let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(object) else { return Self::Bad };
        let is_vector = |value: &&RawValue| !value.get().starts_with('{') && Self::of(value.get(), base64) != Self::Bad;
        if !members.is_empty() && members.values().all(is_vector) { Self::Other } else { Self::Bad }
    }
}

/// Returns the characters of a text in base64 (RFC 4648, section 4), as JSON without its quotes; `None` if it is none, or
/// empty.
fn base64_length(written: &str) -> Option<usize> {
    // Writers may escape its slashes and pluses.
    let text = if written.contains('\\') { json::shortest(written) } else { Cow::Borrowed(written) };
    let digits = text.trim_end_matches('=');
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let is_padded = text.len().is_multiple_of(4) && text.len() - digits.len() <= 2;
    (is_padded && !digits.is_empty() && digits.bytes().all(is_digit)).then_some(text.len())
}

/// Returns what most of these embeddings, which come from one model, are like, of those that can be read. If no shape
/// is that of most, it can't be told which are wrong, and none passes.
fn most(shapes: &[Option<Shape>]) -> Option<Shape> {
    majority(&shapes.iter().copied().flatten().collect::<Vec<_>>())
}

/// Returns the entries in the order of their items: by their `index`, or as they came if none has one. If one lacks it,
/// its place is the one that is left: encoders that leave out zeros leave out the first's.
fn in_order(data: Vec<Entry<'_>>, asked: usize) -> Result<Vec<Entry<'_>>, BadResponse> {
    if data.len() != asked {
        return Err(BadResponse::Count { asked, found: data.len() });
    }
    if asked == 1 || data.iter().all(|entry| matches!(entry.index, Index::Missing)) {
        return Ok(data);
    }
    let mut slots: Vec<Option<Entry<'_>>> = data.iter().map(|_| None).collect();
    let mut left = None;
    for (position, entry) in data.into_iter().enumerate() {
        let slot = match entry.index {
            Index::At(index) => slots.get_mut(index),
            Index::Missing => Some(&mut left),
            Index::Bad => None,
        };
        match slot {
            Some(slot) if slot.is_none() => *slot = Some(entry),
            _ => return Err(BadResponse::Index { position }),
        }
    }
    // As many entries as slots and none taken twice: one slot at most is empty, for the one that is left.
    Ok(slots.into_iter().filter_map(|slot| slot.or_else(|| left.take())).collect())
}

/// The model's `usage`. Counts are divided among items and summed up. Other numbers, and what has parts, can't be, and
/// are left out then; the rest is copied to each.
#[derive(Clone)]
struct Usage<'t>(BTreeMap<String, Tally<'t>>);

#[derive(Clone, Copy)]
enum Tally<'t> {
    Count(u64),
    Other(&'t str),
}

impl Tally<'_> {
    /// Whether it holds of a part as well, or can be divided and summed up.
    fn is_divisible(&self) -> bool {
        let is_of_parts = |c: char| c.is_ascii_digit() || matches!(c, '-' | '{' | '[');
        match self {
            Self::Count(_) => true,
            Self::Other(text) => !text.starts_with(is_of_parts),
        }
    }
}

impl<'t> Usage<'t> {
    /// `None` if it isn't an object.
    fn parse(usage: &'t RawValue) -> Option<Self> {
        let members: BTreeMap<String, &'t RawValue> = serde_json::from_str(usage.get()).ok()?;
        let tally = |value: &'t RawValue| value.get().parse::<u64>().map_or(Tally::Other(value.get()), Tally::Count);
        Some(Self(members.into_iter().map(|(name, value)| (name, tally(value))).collect()))
    }

    /// Returns the tokens that were read; 0 if it doesn't say.
    fn prompt_tokens(&self) -> u64 {
        match self.0.get("prompt_tokens") {
            Some(Tally::Count(count)) => *count,
            _ => 0,
        }
    }

    fn divide(&self, weights: &[u64]) -> Vec<Self> {
        let mut parts = vec![Self(BTreeMap::new()); weights.len()];
        for (name, tally) in self.0.iter().filter(|(_, tally)| tally.is_divisible()) {
            let shares: Vec<Tally<'t>> = match *tally {
                Tally::Count(total) => shares(total, weights).into_iter().map(Tally::Count).collect(),
                Tally::Other(_) => vec![*tally; weights.len()],
            };
            for (part, share) in parts.iter_mut().zip(shares) {
                part.0.insert(name.clone(), share);
            }
        }
        parts
    }

    fn plus(mut self, other: Self) -> Self {
        self.0.retain(|_, tally| tally.is_divisible());
        for (name, tally) in other.0.into_iter().filter(|(_, tally)| tally.is_divisible()) {
            match (self.0.get_mut(&name), tally) {
                (Some(Tally::Count(sum)), Tally::Count(count)) => *sum = sum.saturating_add(count),
                (Some(_), _) => {}
                (None, tally) => {
                    self.0.insert(name, tally);
                }
            }
        }
        self
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (place, (name, tally)) in self.0.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            match tally {
                Tally::Count(count) => json::write_raw_member(name, count.to_string().as_bytes(), out),
                Tally::Other(text) => json::write_raw_member(name, text.as_bytes(), out),
            }
        }
        out.push(b'}');
    }
}

/// Divides `total` in proportion to `weights`, which are at least 1. The shares add up to it exactly: of what rounding
/// down leaves, those get one each that it took most from (the largest remainders).
fn shares(total: u64, weights: &[u64]) -> Vec<u64> {
    let whole = weights.iter().map(|weight| u128::from(*weight)).sum::<u128>().max(1);
    let due = |weight: &u64| u128::from(total) * u128::from(*weight);
    // A share is at most the total, which is a u64.
    let rounded_down = |weight: &u64| u64::try_from(due(weight) / whole).unwrap_or(u64::MAX);
    let mut shares: Vec<u64> = weights.iter().map(rounded_down).collect();
    let left = shares.iter().fold(total, |left, share| left.saturating_sub(*share));
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|at| std::cmp::Reverse(due(&weights[*at]) % whole));
    // Less than one of each is left.
    for at in by_remainder.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        shares[at] += 1;
    }
    shares
}

/// Returns how much of a batch's usage an input stands for: its tokens if it is token ids, else the bytes of its text.
/// At least 1.
fn length(item: &[u8]) -> u64 {
    let length = match item {
        [b'[', ..] => item.iter().filter(|byte| **byte == b',').count() + 1,
        [b'"', text @ .., b'"'] => text.len(),
        _ => item.len(),
    };
    length.max(1) as u64
}

/// Returns the counts in the `usage` of a result.
fn counts(body: &[u8]) -> Vec<(String, u64)> {
    const NAME: &[u8] = b"\"usage\"";
    let Some(at) = body.windows(NAME.len()).rposition(|window| window == NAME) else { return Vec::new() };
    // Embeddings are long. If what begins here ends the body and is the rest of an object, then of the outermost.
    let (before, rest) = body.split_at(at);
    let is_member = matches!(before.trim_ascii_end(), [.., b',' | b'{']);
    let rest = [&b"{"[..], rest].concat();
    let usage = is_member.then(|| usage_in(&rest)).flatten().or_else(|| usage_in(body));
    let counts = usage.into_iter().flat_map(|usage| usage.0).filter_map(|(name, tally)| match tally {
        Tally::Count(count) => Some((name, count)),
        Tally::Other(_) => None,
    });
    counts.collect()
}

/// Returns the `usage` of an object.
fn usage_in(object: &[u8]) -> Option<Usage<'_>> {
    #[derive(serde::Deserialize)]
    struct Reported<'t> {
        #[serde(borrow)]
        usage: Option<&'t RawValue>,
    }
    serde_json::from_slice::<Reported<'_>>(object).ok()?.usage.and_then(Usage::parse)
}

/// Joins single results. Their usage is summed up as it was when they were made, even if some come from the cache now.
fn join(responses: &[Message<'_>]) -> Result<Bytes, BadResponse> {
    let texts: Vec<Text<'_>> = responses.iter().map(|response| Text::of(response.body)).collect();
    let lists = texts.iter().map(List::parse).collect::<Result<Vec<_>, _>>()?;
    if let Some(list) = lists.iter().find(|list| list.data.len() != 1) {
        return Err(BadResponse::Count { asked: 1, found: list.data.len() });
    }
    let Some(first) = lists.first() else { return Err(BadResponse::Count { asked: 1, found: 0 }) };
    let entries: Vec<&Entry<'_>> = lists.iter().flat_map(|list| &list.data).collect();
    let usage = lists.iter().filter_map(|list| list.usage.clone()).reduce(Usage::plus);
    let mut rest = first.rest.clone();
    if usage.is_some() {
        // One whose `usage` is none may come first.
        rest.remove("usage");
    }
    Ok(write_reply(&rest, &entries, usage.as_ref()))
}

/// Returns a reply with these entries, numbered from zero.
fn write_reply(rest: &Members<'_>, entries: &[&Entry<'_>], usage: Option<&Usage<'_>>) -> Bytes {
    let mut out = vec![b'{'];
    for (name, value) in rest {
        json::write_raw_member(name, value, &mut out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"data\":[");
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_entry(index, entry, &mut out);
    }
    out.push(b']');
    if let Some(usage) = usage {
        out.extend_from_slice(b",\"usage\":");
        usage.write(&mut out);
    }
    out.push(b'}');
    out.into()
}

fn write_entry(index: usize, entry: &Entry<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (name, value) in &entry.members {
        json::write_raw_member(name, value, out);
        out.push(b',');
    }
    json::write_raw_member("index", index.to_string().as_bytes(), out);
    out.push(b'}');
}
