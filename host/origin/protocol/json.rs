//! JSON as text: a canonical form to compare by, in which numbers stay as they were written.
//!
//! `serde_json::Value` won't do for that: it reads integers past 64 bits and long fractions as the nearest `f64`, so
//! that two items could share a key, and one be served the other's result.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use http::{
    HeaderMap,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    contract::Protocol,
    fault::{BadResponse, Malformed},
    item::{Item, ItemError, ItemResponse, JoinedReply, Message, Outcome, OutcomeRef},
};
use crate::policy::facts::may_be_json;

/// Deepest nesting. The same as serde_json's own, so that what is accepted here can be read for policies too.
pub(super) const DEPTH_MAX: usize = 127;

/// A JSON value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Node<'t> {
    /// A number, `true`, `false` or `null`, as written.
    Word(&'t str),
    /// A string without its quotes, its escapes in their shortest form.
    Text(Cow<'t, str>),
    /// An array.
    List(Vec<Node<'t>>),
    /// An object; its names are like [`Node::Text`].
    Object(BTreeMap<Cow<'t, str>, Node<'t>>),
}

/// A value and whether one of its objects names a member twice.
pub(super) struct Parsed<'t> {
    pub(super) node: Node<'t>,
    pub(super) repeated: bool,
}

/// A canonical text and whether the original names a member twice.
pub(super) struct Canonical {
    pub(super) text: Bytes,
    pub(super) repeated: bool,
}

/// Returns the one JSON value that `body` must be, without the white space around it.
pub(super) fn text(body: &[u8]) -> Result<&RawValue, Malformed> {
    serde_json::from_slice(body).map_err(|error| Malformed::NotJson(error.to_string()))
}

/// Reads a response, or a part of one.
pub(super) fn read<'t, T: Deserialize<'t>>(text: &'t [u8], wanted: &'static str) -> Result<T, BadResponse> {
    serde_json::from_slice(text).map_err(|error| BadResponse::Unreadable { wanted, why: error.to_string() })
}

/// Returns the header fields of a JSON body.
pub(super) fn headers() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))])
}

/// The media type of JSON.
pub(super) const MEDIA_TYPE: &str = "application/json";

/// Returns a reply of JSON.
pub(super) fn reply(status: u16, body: Bytes) -> JoinedReply {
    JoinedReply { status, headers: headers(), body }
}

/// Returns the reply to one item: its result or its error, byte for byte.
pub(super) fn alone(protocol: &dyn Protocol, outcomes: &[OutcomeRef<'_>]) -> JoinedReply {
    match outcomes.first() {
        Some(Ok(response)) => reply(200, response.body.clone()),
        Some(Err(error)) => of_error(error),
        None => {
            let error = protocol.failure(502, "there is no result for the item", None);
            reply(error.status, error.body)
        }
    }
}

/// Returns the reply that is an error, byte for byte. A response of the model's has its own header fields.
pub(super) fn of_error(error: &ItemError) -> JoinedReply {
    let headers = if error.is_response { HeaderMap::new() } else { headers() };
    JoinedReply { status: error.status, headers, body: error.body.clone() }
}

/// Returns the reply to several items of which this is the first one's error, for protocols without a place for the
/// errors of single items. A response to one item that can't be read is no reply to all of them.
pub(super) fn first_error(protocol: &dyn Protocol, first: &ItemError) -> JoinedReply {
    if first.is_unread() { of_error(&protocol.failure(502, UNREAD, None)) } else { of_error(first) }
}

/// Returns the reply to a request that wasn't split: the model's response with its own header fields.
pub(super) fn unsplit(protocol: &dyn Protocol, outcomes: &[OutcomeRef<'_>]) -> JoinedReply {
    match outcomes.first() {
        Some(Ok(response)) => JoinedReply { status: 200, headers: HeaderMap::new(), body: response.body.clone() },
        Some(Err(_)) | None => alone(protocol, outcomes),
    }
}

/// Returns a JSON body as an item that can't be split. One that names a member twice isn't shared: the key has the last
/// of the two, and the model may read the first.
///
/// # Errors
/// [`Malformed::TooDeep`]
pub(super) fn whole(body: &Bytes, text: &RawValue) -> Result<Item, Malformed> {
    let canonical = canonical(text, 0)?;
    Ok(Item { shareable: !canonical.repeated, ..Item::unsplit(body.clone(), canonical.text) })
}

/// Returns the outcome of an item that is a whole request: the model's response as it is. One that calls itself JSON,
/// or nothing at all, and isn't JSON, may not be stored.
pub(super) fn whole_outcome(response: Message<'_>) -> Outcome {
    let storable = !may_be_json(response.headers) || text(response.body).is_ok();
    Ok(ItemResponse { storable, ..ItemResponse::from(response.body.clone()) })
}

/// The failure of an item whose response can't be read.
pub(super) const UNREAD: &str = "the model's response to one of the items can't be read";

/// Returns a failure in the format of models that take plain JSON.
pub(super) fn failure(status: u16, message: &str) -> ItemError {
    let body = serde_json::json!({ "error": { "status": status, "message": message } });
    ItemError::new(status, Bytes::from(body.to_string()))
}

/// Parses a value that lies `depth` levels deep in its document.
pub(super) fn parse(text: &RawValue, depth: usize) -> Result<Parsed<'_>, Malformed> {
    let mut scanner = Scanner { text: text.get(), at: 0, repeated: false };
    let node = scanner.node(depth)?;
    Ok(Parsed { node, repeated: scanner.repeated })
}

/// Returns the canonical form of a value that lies `depth` levels deep in its document.
pub(super) fn canonical(text: &RawValue, depth: usize) -> Result<Canonical, Malformed> {
    let parsed = parse(text, depth)?;
    let mut canonical = String::with_capacity(text.get().len());
    parsed.node.write(&mut canonical);
    Ok(Canonical { text: Bytes::from(canonical), repeated: parsed.repeated })
}

/// Writes `"name":value`.
pub(super) fn write_member(name: &str, value: &Node<'_>, out: &mut String) {
    write_text(name, out);
    out.push(':');
    value.write(out);
}

/// Writes `"name":value`, the value as written.
pub(super) fn write_raw_member(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(Value::from(name).to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(value);
}

/// Writes `[a,b,c]`.
pub(super) fn write_list<'b>(items: impl Iterator<Item = &'b [u8]>, out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item);
    }
    out.push(b']');
}

impl Node<'_> {
    /// Writes the canonical form.
    pub(super) fn write(&self, out: &mut String) {
        match self {
            Self::Word(word) => out.push_str(word),
            Self::Text(text) => write_text(text, out),
            Self::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_member(name, value, out);
                }
                out.push('}');
            }
        }
    }

    /// What it is, for an error message.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Word("null") => "null",
            Self::Word("true" | "false") => "a boolean",
            Self::Word(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

fn write_text(text: &str, out: &mut String) {
    out.push('"');
    out.push_str(text);
    out.push('"');
}

/// Walks over a text that serde_json has found valid ([`RawValue`] can't hold another), so it checks the depth only.
struct Scanner<'t> {
    text: &'t str,
    at: usize,
    repeated: bool,
}

impl<'t> Scanner<'t> {
    fn node(&mut self, depth: usize) -> Result<Node<'t>, Malformed> {
        match self.peek() {
            Some(b'{') => self.object(depth + 1).map(Node::Object),
            Some(b'[') => self.list(depth + 1).map(Node::List),
            Some(b'"') => Ok(Node::Text(self.string())),
            _ => Ok(Node::Word(self.word())),
        }
    }

    fn object(&mut self, depth: usize) -> Result<BTreeMap<Cow<'t, str>, Node<'t>>, Malformed> {
        self.enter(depth)?;
        let mut members = BTreeMap::new();
        while !self.closes(b'}') {
            let name = self.string();
            self.peek();
            self.at += 1; // the colon
            let value = self.node(depth)?;
            self.repeated |= members.insert(name, value).is_some();
        }
        Ok(members)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node<'t>>, Malformed> {
        self.enter(depth)?;
        let mut items = Vec::new();
        while !self.closes(b']') {
            items.push(self.node(depth)?);
        }
        Ok(items)
    }

    /// Steps over the opening bracket.
    fn enter(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth > DEPTH_MAX {
            return Err(Malformed::TooDeep { max: DEPTH_MAX });
        }
        self.at += 1;
        Ok(())
    }

    /// Steps to the next element, or over the closing bracket.
    fn closes(&mut self, bracket: u8) -> bool {
        if self.peek() == Some(b',') {
            self.at += 1;
        }
        match self.peek() {
            Some(byte) if byte != bracket => false,
            _ => {
                self.at += 1;
                true
            }
        }
    }

    /// Steps over a string, whose opening quote is next.
    fn string(&mut self) -> Cow<'t, str> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut end = start;
        let mut escaped = false;
        while let Some(byte) = bytes.get(end) {
            match byte {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    end += 2;
                }
                _ => end += 1,
            }
        }
        self.at = end + 1;
        let inner = self.text.get(start..end).unwrap_or_default();
        if escaped { shortest(inner) } else { Cow::Borrowed(inner) }
    }

    fn word(&mut self) -> &'t str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.find([',', ']', '}', ' ', '\t', '\n', '\r']).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// Steps over white space and shows what follows.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }
}

/// Returns the shortest escapes for the same characters. A lone surrogate, which stands for no character, stays as
/// written.
pub(super) fn shortest(inner: &str) -> Cow<'_, str> {
    let read = serde_json::from_str::<String>(&format!("\"{inner}\""));
    match read.and_then(|characters| serde_json::to_string(&characters)) {
        Ok(quoted) => Cow::Owned(quoted[1..quoted.len() - 1].to_owned()),
        Err(_) => Cow::Borrowed(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical_of(body: &str) -> String {
        let canonical = canonical(text(body.as_bytes()).unwrap(), 0).unwrap();
        String::from_utf8(canonical.text.to_vec()).unwrap()
    }

    #[test]
    fn one_text_for_one_meaning() {
        for (written, wanted) in [
            (" { \"b\" : 1 ,\n\t\"a\" : [ true , null ] } ", r#"{"a":[true,null],"b":1}"#),
            ("{}", "{}"),
            ("[ ]", "[]"),
            ("[[],{ }]", "[[],{}]"),
            (r#"{"a":{"z":1,"y":2}}"#, r#"{"a":{"y":2,"z":1}}"#),
            (r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#),
            (r#"{"\u0061":1}"#, r#"{"a":1}"#),
            (r#"{"a!":1,"a":2}"#, r#"{"a":2,"a!":1}"#),
            (r#""\u00e9\/\n\u000a\u0001""#, "\"é/\\n\\n\\u0001\""),
            (r#""\"\\""#, r#""\"\\""#),
            (r#""a, b] } : c""#, r#""a, b] } : c""#),
            (r#""\ud83d\ude00""#, "\"😀\""),
            (r#"["\ud83d"]"#, r#"["\ud83d"]"#),
            ("1", "1"),
            ("1.0", "1.0"),
            ("1e1", "1e1"),
            ("-0", "-0"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        ] {
            assert_eq!(canonical_of(written), wanted, "{written}");
        }
    }

    #[test]
    fn a_repeated_name_is_noticed_wherever_it_is() {
        for (written, wanted) in [
            (r#"{"a":1,"b":1}"#, false),
            (r#"{"a":{"b":1},"b":{"b":1}}"#, false),
            (r#"{"a":1,"a":1}"#, true),
            (r#"{"a":1,"\u0061":1}"#, true),
            (r#"[{"x":[{"a":1,"a":2}]}]"#, true),
        ] {
            let parsed = parse(text(written.as_bytes()).unwrap(), 0).unwrap();
            assert_eq!(parsed.repeated, wanted, "{written}");
        }
    }

    #[test]
    fn the_depth_limit_is_that_of_serde_json() {
        for depth in [1, DEPTH_MAX, DEPTH_MAX + 1, 100_000] {
            let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let ours = canonical(text(nested.as_bytes()).unwrap(), 0).is_ok();
            assert_eq!(ours, serde_json::from_str::<Value>(&nested).is_ok(), "{depth} levels");
        }
        let outer = parse(text(b"[]").unwrap(), DEPTH_MAX).err();
        assert_eq!(outer, Some(Malformed::TooDeep { max: DEPTH_MAX }));
    }
}
