//! OpenAI's `/v1/embeddings`. `input` is a string, an array of strings, an array of token ids (one item), or an array
//! of such arrays; the members beside it (`model`, `dimensions`, `encoding_format`, `user`, …) apply to all.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::uri::PathAndQuery;
use serde_json::{Value, value::RawValue};

use super::{
    contract::Protocol,
    fault::{BadResponse, Malformed},
    item::{
        Item, ItemError, ItemResponse, JoinedReply, JoinedRequest, Message, Outcome, OutcomeRef, Received, ReplyForm,
        Split,
    },
    json::{self, Node},
};

#[cfg(test)]
mod tests;

/// Bytes of the members beside `input`. Every item of a list repeats them, and so does the name of a batch's class,
/// so that without a limit a body could take many times its size in memory.
const SHARED_BYTES_MAX: usize = 16 * 1024;

/// The beginning of every item's body.
const HEAD: &str = "{\"input\":";

/// OpenAI's embeddings. It has no errors per item, so that the first is the whole reply.
#[derive(Debug)]
pub(super) struct OpenAi;

impl Protocol for OpenAi {
    fn split(&self, request: &Received<'_>, items_max: usize) -> Result<Split, Malformed> {
        split(request.body, items_max)
    }

    fn join(&self, target: &PathAndQuery, items: &[&Item]) -> JoinedRequest {
        JoinedRequest { target: target.clone(), headers: json::headers(), body: join_items(items) }
    }

    fn split_response(&self, response: Message<'_>, items: &[&Item]) -> Result<Vec<Outcome>, BadResponse> {
        split_results(response.body, items)
    }

    fn join_outcomes(&self, form: ReplyForm, outcomes: &[OutcomeRef<'_>]) -> JoinedReply {
        match (form, outcomes) {
            (ReplyForm::Single, _) | (ReplyForm::Many, [_]) => json::alone(self, outcomes),
            (ReplyForm::Many, _) => join_results(outcomes),
        }
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

fn split(body: &Bytes, items_max: usize) -> Result<Split, Malformed> {
    let mut shared = match json::parse(json::text(body)?, 0)?.node {
        Node::Object(members) => members,
        other => return Err(Malformed::NotAnObject { found: other.kind() }),
    };
    let input = shared.remove("input").ok_or(Malformed::InputMissing)?;
    let (form, kind, items) = inputs(input)?;
    if items.len() > items_max {
        return Err(Malformed::TooMany { count: items.len(), max: items_max });
    }
    let mut tail = String::new();
    for (name, value) in &shared {
        tail.push(',');
        json::write_member(name, value, &mut tail);
    }
    if tail.len() > SHARED_BYTES_MAX {
        return Err(Malformed::SharedTooLarge { bytes: tail.len(), max: SHARED_BYTES_MAX });
    }
    tail.push('}');
    // A list must not mix text and token ids, so the kind of the input belongs to the group.
    let group = Bytes::from(format!("{HEAD}\"{kind}\"{tail}"));
    Ok(Split { form, items: items.iter().map(|item| item_of(item, &tail, &group)).collect() })
}

/// Returns the item of one input. Its body is canonical already: nothing beside `input` depends on the order of
/// members.
fn item_of(item: &Node<'_>, tail: &str, group: &Bytes) -> Item {
    let mut body = String::from(HEAD);
    item.write(&mut body);
    let span = HEAD.len()..body.len();
    body.push_str(tail);
    let body = Bytes::from(body);
    Item { canonical: body.clone(), body, group: group.clone(), span }
}

/// Returns the inputs: the form of the reply, whether they are text or tokens, and one node for each item.
fn inputs(input: Node<'_>) -> Result<(ReplyForm, &'static str, Vec<Node<'_>>), Malformed> {
    const WANTED: &str = "a string, an array of strings, an array of token ids or an array of such arrays";
    let items = match input {
        Node::Text(_) => return Ok((ReplyForm::Single, "text", vec![input])),
        Node::List(items) => items,
        other => return Err(wrong("input".to_owned(), WANTED, &other)),
    };
    match items.first() {
        None => Err(Malformed::InputEmpty { at: "input".to_owned() }),
        Some(Node::Text(_)) => {
            check_texts(&items)?;
            Ok((ReplyForm::Many, "text", items))
        }
        Some(Node::List(_)) => {
            for (index, item) in items.iter().enumerate() {
                check_tokens(item, || format!("input[{index}]"))?;
            }
            Ok((ReplyForm::Many, "tokens", items))
        }
        Some(Node::Word(_)) => {
            let tokens = Node::List(items);
            check_tokens(&tokens, || "input".to_owned())?;
            Ok((ReplyForm::Single, "tokens", vec![tokens]))
        }
        Some(other) => Err(wrong("input[0]".to_owned(), "a string, a token id or an array of token ids", other)),
    }
}

fn check_texts(items: &[Node<'_>]) -> Result<(), Malformed> {
    match items.iter().enumerate().find(|(_, item)| !matches!(item, Node::Text(_))) {
        None => Ok(()),
        Some((index, item)) => Err(wrong(format!("input[{index}]"), "a string like the first", item)),
    }
}

fn check_tokens(node: &Node<'_>, at: impl Fn() -> String) -> Result<(), Malformed> {
    let Node::List(tokens) = node else { return Err(wrong(at(), "an array of token ids like the first", node)) };
    if tokens.is_empty() {
        return Err(Malformed::InputEmpty { at: at() });
    }
    match tokens.iter().enumerate().find(|(_, token)| !is_token(token)) {
        None => Ok(()),
        Some((index, token)) => Err(wrong(format!("{}[{index}]", at()), "a token id, digits only", token)),
    }
}

fn is_token(node: &Node<'_>) -> bool {
    matches!(node, Node::Word(word) if word.bytes().all(|byte| byte.is_ascii_digit()))
}

fn wrong(at: String, wanted: &'static str, found: &Node<'_>) -> Malformed {
    Malformed::InputType { at, wanted, found: found.kind() }
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

/// Splits a response; one to a single item stays as the model wrote it.
fn split_results(body: &Bytes, items: &[&Item]) -> Result<Vec<Outcome>, BadResponse> {
    let List { rest, data, usage } = List::parse(body)?;
    let entries = in_order(data, items.len())?;
    if entries.len() == 1 {
        return Ok(vec![Ok(ItemResponse::from(body.clone()))]);
    }
    let weights: Vec<u64> = items.iter().map(|item| length(item.listed())).collect();
    let usages: Vec<Option<Usage<'_>>> = match &usage {
        Some(usage) => usage.divide(&weights).into_iter().map(Some).collect(),
        None => vec![None; entries.len()],
    };
    let answer = |(entry, usage): (&Members<'_>, &Option<Usage<'_>>)| {
        Ok(ItemResponse::from(write_reply(&rest, &[entry], usage.as_ref())))
    };
    Ok(entries.iter().zip(&usages).map(answer).collect())
}

fn join_results(outcomes: &[OutcomeRef<'_>]) -> JoinedReply {
    let answers: Result<Vec<Message<'_>>, _> = outcomes.iter().copied().collect();
    match answers.map(|answers| join(&answers)) {
        Ok(Ok(body)) => json::reply(200, body),
        Ok(Err(bad)) => {
            let error = failure(502, &bad.to_string(), None);
            json::reply(error.status, error.body)
        }
        Err(first) => json::reply(first.status, first.body.clone()),
    }
}

/// The members of an object, their values as text; of members of the same name the last counts.
type Members<'t> = BTreeMap<String, &'t RawValue>;

/// A reply of the model. Embeddings are never read, only carried.
struct List<'t> {
    /// `model`, `object` and whatever else there is.
    rest: Members<'t>,
    data: Vec<Members<'t>>,
    usage: Option<Usage<'t>>,
}

impl<'t> List<'t> {
    fn parse(body: &'t [u8]) -> Result<Self, BadResponse> {
        const WANTED: &str = "an object with a list of embeddings in `data`";
        let mut rest: Members<'t> = json::read(body, WANTED)?;
        let Some(data) = rest.remove("data") else {
            return Err(BadResponse::Unreadable { wanted: WANTED, why: "`data` is missing".to_owned() });
        };
        let data: Vec<Members<'t>> = json::read(data.get().as_bytes(), WANTED)?;
        if let Some(position) = data.iter().position(|entry| !entry.contains_key("embedding")) {
            let why = format!("`data[{position}]` has no `embedding`");
            return Err(BadResponse::Unreadable { wanted: WANTED, why });
        }
        let usage = rest.get("usage").copied().and_then(Usage::parse);
        if usage.is_some() {
            rest.remove("usage");
        }
        Ok(Self { rest, data, usage })
    }
}

/// Returns the entries by their `index`; one without has its place in the list.
fn in_order(data: Vec<Members<'_>>, asked: usize) -> Result<Vec<Members<'_>>, BadResponse> {
    if data.len() != asked {
        return Err(BadResponse::Count { asked, found: data.len() });
    }
    let mut slots: Vec<Option<Members<'_>>> = vec![None; asked];
    for (position, entry) in data.into_iter().enumerate() {
        let index = entry.get("index").map_or(Some(position), |index| index.get().parse::<usize>().ok());
        match index.and_then(|index| slots.get_mut(index)) {
            Some(slot) if slot.is_none() => *slot = Some(entry),
            _ => return Err(BadResponse::Index { position }),
        }
    }
    // As many entries as slots and none taken twice: every slot is filled.
    Ok(slots.into_iter().flatten().collect())
}

/// The model's `usage`. Counts are divided among items and summed up; other members are copied to each.
#[derive(Clone)]
struct Usage<'t>(BTreeMap<String, Tally<'t>>);

#[derive(Clone, Copy)]
enum Tally<'t> {
    Count(u64),
    Other(&'t str),
}

impl<'t> Usage<'t> {
    /// `None` if it isn't an object.
    fn parse(usage: &'t RawValue) -> Option<Self> {
        let members: Members<'t> = serde_json::from_str(usage.get()).ok()?;
        let tally = |value: &'t RawValue| value.get().parse::<u64>().map_or(Tally::Other(value.get()), Tally::Count);
        Some(Self(members.into_iter().map(|(name, value)| (name, tally(value))).collect()))
    }

    fn divide(&self, weights: &[u64]) -> Vec<Self> {
        let mut parts = vec![Self(BTreeMap::new()); weights.len()];
        for (name, tally) in &self.0 {
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
        for (name, tally) in other.0 {
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
                Tally::Count(count) => write_member(name, &count.to_string(), out),
                Tally::Other(text) => write_member(name, text, out),
            }
        }
        out.push(b'}');
    }
}

/// `total` in proportion to `weights`; the shares add up to it exactly, because each is a step of a rounded-down sum.
fn shares(total: u64, weights: &[u64]) -> Vec<u64> {
    let whole = weights.iter().map(|weight| u128::from(*weight)).sum::<u128>().max(1);
    let (mut weighed, mut given) = (0_u128, 0_u128);
    let share = |weight: &u64| {
        weighed += u128::from(*weight);
        let due = u128::from(total) * weighed / whole;
        let share = due - given;
        given = due;
        // A share is at most the total, which is a u64.
        u64::try_from(share).unwrap_or(u64::MAX)
    };
    weights.iter().map(share).collect()
}

/// Returns how much of a batch's usage an input stands for: its tokens if it is token ids, else its bytes. At least 1.
fn length(item: &[u8]) -> u64 {
    let length = match item.first() {
        Some(b'[') => item.iter().filter(|byte| **byte == b',').count() + 1,
        _ => item.len(),
    };
    length.max(1) as u64
}

/// Joins single results. Their usage is summed up as it was when they were made, even if some come from the cache now.
fn join(answers: &[Message<'_>]) -> Result<Bytes, BadResponse> {
    let lists = answers.iter().map(|answer| List::parse(answer.body)).collect::<Result<Vec<_>, _>>()?;
    if let Some(list) = lists.iter().find(|list| list.data.len() != 1) {
        return Err(BadResponse::Count { asked: 1, found: list.data.len() });
    }
    let Some(first) = lists.first() else { return Err(BadResponse::Count { asked: 1, found: 0 }) };
    let entries: Vec<&Members<'_>> = lists.iter().flat_map(|list| &list.data).collect();
    let usage = lists.iter().filter_map(|list| list.usage.clone()).reduce(Usage::plus);
    Ok(write_reply(&first.rest, &entries, usage.as_ref()))
}

/// Returns a reply with these entries, numbered from zero.
fn write_reply(rest: &Members<'_>, entries: &[&Members<'_>], usage: Option<&Usage<'_>>) -> Bytes {
    let mut out = vec![b'{'];
    for (name, value) in rest {
        write_member(name, value.get(), &mut out);
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

fn write_entry(index: usize, entry: &Members<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (name, value) in entry.iter().filter(|(name, _)| *name != "index") {
        write_member(name, value.get(), out);
        out.push(b',');
    }
    write_member("index", &index.to_string(), out);
    out.push(b'}');
}

fn write_member(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(Value::from(name).to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(value.as_bytes());
}
