//! The tensors of a request or a response: read from JSON, with or without binary data behind it, and written again.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::tensor::{Shape, flat};
use crate::origin::protocol::{json, lenient::Text};

/// The members of an object, each value as text.
pub(super) type Members<'t> = BTreeMap<String, Cow<'t, [u8]>>;

/// The members of an object; of members of the same name the last counts.
type RawMembers<'t> = BTreeMap<String, &'t RawValue>;

/// The parameter that says how many of the bytes behind the JSON are a tensor's.
pub(super) const BINARY_SIZE: &str = "binary_data_size";

/// A request or a response.
pub(super) struct Message<'t> {
    /// The members beside the tensors and the `id`, but for those in which words stand that aren't JSON.
    pub(super) rest: Members<'t>,
    pub(super) tensors: Vec<Tensor<'t>>,
    /// Rows of each tensor.
    pub(super) rows: usize,
    /// The rows in which words stand that aren't JSON.
    unreadable: Vec<bool>,
    /// Whether such words stand elsewhere.
    pub(super) strays: bool,
    /// Whether the rows and what they have in common are JSON, but for the rows that are unreadable.
    pub(super) joinable: bool,
}

/// A tensor: what its rows have in common, and the rows as they were written.
pub(super) struct Tensor<'t> {
    pub(super) head: Head<'t>,
    pub(super) rows: Vec<&'t [u8]>,
}

/// What the rows of a tensor have in common.
#[derive(Clone)]
pub(super) struct Head<'t> {
    /// `name`, `datatype` and whatever there is that doesn't depend on the rows.
    members: Members<'t>,
    /// Its `parameters`, without the size of its data.
    parameters: Members<'t>,
    /// The dimensions of a row.
    row: Vec<usize>,
    pub(super) form: Form,
}

/// How the rows of a tensor are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As stretches of one flat JSON list.
    Flat,
    /// As a JSON list each.
    Nested,
    /// As bytes behind the JSON.
    Binary,
}

/// How members are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    AsWritten,
    /// In the form to compare by; rows are stretches of flat lists.
    Canonical,
}

/// Why tensors can't be cut into rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Uncut {
    /// There are more rows than there may be.
    TooMany(usize),
    /// Something isn't as it should be.
    Form(&'static str),
}

/// A message as bytes.
pub(super) struct Written {
    pub(super) bytes: Vec<u8>,
    /// Where its JSON is, then the rows of each tensor.
    pub(super) parts: Vec<Range<usize>>,
}

impl<'t> Message<'t> {
    /// Reads a message whose tensors are in `list`. `binary` is what follows its JSON.
    pub(super) fn read(
        text: &'t Text<'_>,
        binary: &'t [u8],
        list: &'static str,
        rows_max: usize,
        spelling: Spelling,
    ) -> Result<Self, Uncut> {
        let mut reader = Reader { text, binary, rows_max, spelling, unreadable: Vec::new(), words: 0 };
        let mut rest: RawMembers<'t> = object(text.readable()).ok_or(Uncut::Form("it is no JSON object"))?;
        rest.remove("id");
        let raw = rest.remove(list).ok_or(Uncut::Form("it has no tensors"))?;
        let raw: Vec<&'t RawValue> = from_raw(raw).ok_or(Uncut::Form("its tensors are no list"))?;
        let mut tensors: Vec<Tensor<'t>> = Vec::new();
        let mut rows = None;
        for raw in raw {
            let tensor = reader.tensor(raw)?;
            if *rows.get_or_insert(tensor.rows.len()) != tensor.rows.len() {
                return Err(Uncut::Form("its tensors differ in their first dimension"));
            }
            tensors.push(tensor);
        }
        let rows = rows.ok_or(Uncut::Form("it has no tensors"))?;
        if !reader.binary.is_empty() {
            return Err(Uncut::Form("it has more binary data than its tensors"));
        }
        let words = |value: &&RawValue| text.words_in(value.get().as_bytes());
        let left_out: usize = rest.values().map(words).sum();
        rest.retain(|_, value| words(value) == 0);
        let rest = reader.members(rest)?;
        let (strays, joinable) = (reader.words < text.words(), reader.words + left_out == text.words());
        Ok(Self { rest, tensors, rows, strays, joinable, unreadable: reader.unreadable })
    }

    /// Whether words stand in a row that aren't JSON.
    pub(super) fn is_unreadable(&self, row: usize) -> bool {
        self.unreadable.get(row).copied().unwrap_or(false)
    }
}

/// Reads tensors one after the other.
struct Reader<'t, 'w> {
    text: &'t Text<'w>,
    /// What is left of the binary data.
    binary: &'t [u8],
    rows_max: usize,
    spelling: Spelling,
    unreadable: Vec<bool>,
    /// Words in rows that aren't JSON.
    words: usize,
}

impl<'t> Reader<'t, '_> {
    fn tensor(&mut self, raw: &'t RawValue) -> Result<Tensor<'t>, Uncut> {
        let mut members: RawMembers<'t> =
            object(raw.get().as_bytes()).ok_or(Uncut::Form("one of its tensors is no object"))?;
        let dims = members.remove("shape").and_then(from_raw::<Vec<usize>>);
        let shape = dims.and_then(|dims| Shape::of(&dims)).ok_or(Uncut::Form("a tensor has no usable `shape`"))?;
        if shape.rows > self.rows_max {
            return Err(Uncut::TooMany(shape.rows));
        }
        let parameters = members.remove("parameters").filter(|parameters| parameters.get() != "null");
        let parameters = parameters.map_or_else(|| Some(RawMembers::new()), |raw| object(raw.get().as_bytes()));
        let mut parameters = parameters.ok_or(Uncut::Form("the `parameters` of a tensor are no object"))?;
        let (form, rows) = match (parameters.remove(BINARY_SIZE), members.remove("data")) {
            (Some(size), None) => (Form::Binary, self.binary_rows(&shape, &members, size)),
            (None, Some(data)) => {
                self.json_rows(&shape, data).map_or((Form::Flat, None), |(form, rows)| (form, Some(rows)))
            }
            _ => return Err(Uncut::Form("a tensor has no data, or two kinds of it")),
        };
        let rows = rows.ok_or(Uncut::Form("the data of a tensor doesn't fit its `shape` and `datatype`"))?;
        let (members, parameters) = (self.members(members)?, self.members(parameters)?);
        Ok(Tensor { head: Head { members, parameters, row: shape.row, form }, rows })
    }

    fn binary_rows(&mut self, shape: &Shape, members: &RawMembers<'t>, size: &RawValue) -> Option<Vec<&'t [u8]>> {
        let (own, after) = self.binary.split_at_checked(size.get().parse().ok()?)?;
        self.binary = after;
        let datatype = from_raw::<String>(members.get("datatype").copied()?)?;
        shape.cut_binary(&datatype, own)
    }

    fn json_rows(&mut self, shape: &Shape, data: &'t RawValue) -> Option<(Form, Vec<&'t [u8]>)> {
        let cut = shape.cut_json(data.get().as_bytes())?;
        self.unreadable.resize(self.unreadable.len().max(cut.rows.len()), false);
        for (row, unreadable) in cut.rows.iter().zip(&mut self.unreadable) {
            let words = self.text.words_in(row);
            self.words += words;
            *unreadable |= words > 0;
        }
        let is_nested = cut.nested && self.spelling == Spelling::AsWritten;
        let rows = cut.rows.into_iter().map(|row| self.text.written(row)).collect();
        Some((if is_nested { Form::Nested } else { Form::Flat }, rows))
    }

    fn members(&self, raw: RawMembers<'t>) -> Result<Members<'t>, Uncut> {
        let spelled = |(name, value): (String, &'t RawValue)| match self.spelling {
            Spelling::AsWritten => Ok((name, Cow::Borrowed(self.text.written(value.get().as_bytes())))),
            // What is deeper than that stands in no such message.
            Spelling::Canonical => match json::canonical(value, 4) {
                Ok(canonical) => Ok((name, Cow::Owned(canonical.text.to_vec()))),
                Err(_) => Err(Uncut::Form("it nests too deep")),
            },
        };
        raw.into_iter().map(spelled).collect()
    }
}

/// Reads an object.
fn object<'t>(text: &'t [u8]) -> Option<RawMembers<'t>> {
    serde_json::from_slice(text).ok()
}

fn from_raw<'t, T: Deserialize<'t>>(raw: &'t RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

impl<'t> Head<'t> {
    /// Returns what the rows of a tensor with nothing but a name, a type and dimensions have in common.
    pub(super) fn new(name: &str, datatype: &str, row: &[usize], form: Form) -> Self {
        let member = |value: &str| Cow::Owned(Value::from(value).to_string().into_bytes());
        let members = [("name", name), ("datatype", datatype)].map(|(name, value)| (name.to_owned(), member(value)));
        Self { members: members.into(), parameters: Members::new(), row: row.to_vec(), form }
    }

    /// Returns this head of a tensor with these parameters.
    pub(super) fn with_parameters(self, parameters: Members<'t>) -> Self {
        Self { parameters, ..self }
    }

    /// Returns what the rows of several tensors like this one have in common: those of its parameters that all of them
    /// have.
    pub(super) fn in_common(&self, others: &[&Self]) -> Self {
        let mut head = self.clone();
        head.parameters.retain(|name, value| others.iter().all(|other| other.parameters.get(name) == Some(&*value)));
        head
    }

    /// Returns a member that is a text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        serde_json::from_slice(self.members.get(name)?).ok()
    }

    /// Returns the dimensions of a row.
    pub(super) fn dims(&self) -> &[usize] {
        &self.row
    }

    /// Whether it has nothing but a name, a type and dimensions.
    pub(super) fn is_plain(&self) -> bool {
        self.parameters.is_empty() && self.members.keys().all(|name| matches!(name.as_str(), "name" | "datatype"))
    }

    /// Whether the rows of both can stand in one tensor.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let is_binary = |head: &Self| head.form == Form::Binary;
        self.members == other.members && self.row == other.row && is_binary(self) == is_binary(other)
    }

    /// Returns a row as it has to be written in a tensor of another form.
    pub(super) fn in_form<'r>(&self, form: Form, row: &'r [u8]) -> Cow<'r, [u8]> {
        match (self.form, form) {
            (Form::Nested, Form::Flat) => flat(row).map_or(Cow::Borrowed(row), Cow::Owned),
            _ => Cow::Borrowed(row),
        }
    }

    /// Writes the tensor with these rows and notes where they are; those that are binary stay out.
    fn write(&self, rows: &[&[u8]], out: &mut Vec<u8>) -> Option<Range<usize>> {
        out.push(b'{');
        for (name, value) in &self.members {
            json::write_raw_member(name, value, out);
            out.push(b',');
        }
        let bytes = rows.iter().map(|row| row.len()).sum::<usize>().to_string();
        let is_binary = self.form == Form::Binary;
        if is_binary || !self.parameters.is_empty() {
            out.extend_from_slice(b"\"parameters\":{");
            let size = is_binary.then_some((BINARY_SIZE, bytes.as_bytes()));
            let others = self.parameters.iter().map(|(name, value)| (name.as_str(), &**value));
            for (place, (name, value)) in size.into_iter().chain(others).enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                json::write_raw_member(name, value, out);
            }
            out.extend_from_slice(b"},");
        }
        let dims: Vec<String> = [rows.len()].iter().chain(&self.row).map(usize::to_string).collect();
        json::write_raw_member("shape", format!("[{}]", dims.join(",")).as_bytes(), out);
        let mut place = None;
        if !is_binary {
            out.extend_from_slice(b",\"data\":[");
            let start = out.len();
            for row in rows.iter().filter(|row| !row.is_empty()) {
                if out.len() > start {
                    out.push(b',');
                }
                out.extend_from_slice(row);
            }
            place = Some(start..out.len());
            out.push(b']');
        }
        out.push(b'}');
        place
    }
}

/// Returns the members of which all of these messages have the same. Which of several holds for all, nobody can tell.
pub(super) fn agreed<'m>(messages: &'m [Message<'_>]) -> Members<'m> {
    let Some((first, others)) = messages.split_first() else { return Members::new() };
    let is_common =
        |name: &str, value: &[u8]| others.iter().all(|other| other.rest.get(name).is_some_and(|own| **own == *value));
    let common = first.rest.iter().filter(|(name, value)| is_common(name, value));
    common.map(|(name, value)| (name.clone(), Cow::Borrowed(&**value))).collect()
}

/// Writes a message whose tensors have these rows.
pub(super) fn write(list: &str, id: Option<&[u8]>, rest: &Members<'_>, tensors: &[(&Head<'_>, Vec<&[u8]>)]) -> Written {
    let bytes: usize = tensors.iter().flat_map(|(_, rows)| rows).map(|row| row.len() + 1).sum();
    let mut out = Vec::with_capacity(bytes + 256);
    out.push(b'{');
    if let Some(id) = id {
        json::write_raw_member("id", id, &mut out);
        out.push(b',');
    }
    for (name, value) in rest {
        json::write_raw_member(name, value, &mut out);
        out.push(b',');
    }
    json::write_raw_member(list, b"[", &mut out);
    let mut places = Vec::with_capacity(tensors.len());
    for (place, (head, rows)) in tensors.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        places.push(head.write(rows, &mut out));
    }
    out.extend_from_slice(b"]}");
    let mut parts = Vec::with_capacity(tensors.len() + 1);
    parts.push(0..out.len());
    for (place, (_, rows)) in places.into_iter().zip(tensors) {
        let start = out.len();
        parts.push(place.unwrap_or_else(|| {
            rows.iter().for_each(|row| out.extend_from_slice(row));
            start..out.len()
        }));
    }
    Written { bytes: out, parts }
}

/// Returns the JSON of a message with another `id`; `None` if it is no object.
pub(super) fn with_id(text: &Text<'_>, id: &[u8]) -> Option<Vec<u8>> {
    let mut members = object(text.readable())?;
    members.remove("id");
    Some(rewritten(text, Some(id), members))
}

/// Returns the JSON of a message with tensors in `list` without its `id`; `None` if it has none, or is no such message.
pub(super) fn without_id(text: &Text<'_>, list: &str) -> Option<Vec<u8>> {
    let mut members = object(text.readable()).filter(|members| members.contains_key(list))?;
    members.remove("id")?;
    Some(rewritten(text, None, members))
}

fn rewritten(text: &Text<'_>, id: Option<&[u8]>, members: RawMembers<'_>) -> Vec<u8> {
    let mut out = vec![b'{'];
    if let Some(id) = id {
        json::write_raw_member("id", id, &mut out);
    }
    for (name, value) in members {
        if out.len() > 1 {
            out.push(b',');
        }
        json::write_raw_member(&name, text.written(value.get().as_bytes()), &mut out);
    }
    out.push(b'}');
    out
}
