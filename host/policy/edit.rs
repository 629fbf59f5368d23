//! Edits of a JSON body by pointers (RFC 6901). What no edit changes is sent as the client wrote it, because a model
//! may depend on the order of members, and an origin on how a number is written.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    fmt::{self, Write},
    mem,
    str::FromStr,
};

use bytes::Bytes;
use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use thiserror::Error;

/// Steps of a pointer that are followed. Bodies that are nested deeper are not read elsewhere either.
const STEPS_MAX: usize = 127;

/// A place in a JSON document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

/// Why a text is not a pointer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BadPointer {
    /// It is neither empty nor begins with `/`.
    #[error("a pointer is empty or begins with `/`")]
    NoSlash,
    /// A `~` stands for something only as `~0` or `~1`.
    #[error("in a pointer `~` is written `~0` and `/` is written `~1`")]
    Escape,
}

/// One change of a JSON body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Where.
    pub pointer: Pointer,
    /// The value that is set there; `None` removes what is there.
    pub value: Option<Value>,
}

impl Pointer {
    /// Reads a pointer. The empty one is the whole document.
    ///
    /// # Errors
    /// It isn't one.
    pub fn parse(text: &str) -> Result<Self, BadPointer> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let steps = text.strip_prefix('/').ok_or(BadPointer::NoSlash)?;
        steps.split('/').map(unescape).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Pointer {
    type Err = BadPointer;

    fn from_str(text: &str) -> Result<Self, BadPointer> {
        Self::parse(text)
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| write!(f, "/{}", step.replace('~', "~0").replace('/', "~1")))
    }
}

/// Applies edits in their order. One whose place isn't there does nothing; removing the whole leaves `null`.
pub fn apply(body: &mut Value, edits: &[Edit]) {
    for edit in edits.iter().filter(|edit| edit.in_reach()) {
        change(body, &edit.pointer.0, edit.value.as_ref());
    }
}

/// Returns the body after edits; what they don't touch keeps its bytes. None if it isn't JSON.
#[must_use]
pub fn edited(body: &[u8], edits: &[Edit]) -> Option<Bytes> {
    let text: &RawValue = serde_json::from_slice(body).ok()?;
    let mut root = Node::Text(text.get());
    for edit in edits.iter().filter(|edit| edit.in_reach()) {
        root.change(&edit.pointer.0, edit.value.as_ref());
    }
    let mut out = String::with_capacity(body.len());
    root.write(&mut out);
    Some(Bytes::from(out))
}

impl Edit {
    /// Bounds the depth of what comes out, which is written by recursion.
    fn in_reach(&self) -> bool {
        self.pointer.0.len() <= STEPS_MAX
    }
}

fn unescape(step: &str) -> Result<String, BadPointer> {
    let mut parts = step.split('~');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (meant, rest) = match part.as_bytes().first() {
            Some(b'0') => ('~', &part[1..]),
            Some(b'1') => ('/', &part[1..]),
            _ => return Err(BadPointer::Escape),
        };
        name.push(meant);
        name.push_str(rest);
    }
    Ok(name)
}

fn change(at: &mut Value, steps: &[String], value: Option<&Value>) {
    match (steps, at) {
        ([], at) => *at = value.cloned().unwrap_or_default(),
        ([last], Value::Array(items)) => {
            let mut list = VecDeque::from(mem::take(items));
            change_list(&mut list, last, value.cloned());
            *items = list.into();
        }
        ([last], Value::Object(members)) => match value {
            Some(value) => drop(members.insert(last.clone(), value.clone())),
            None => drop(members.remove(last)),
        },
        ([step, rest @ ..], Value::Array(items)) => {
            if let Some(at) = index(step, items.len()) {
                change(&mut items[at], rest, value);
            }
        }
        ([step, rest @ ..], Value::Object(members)) => {
            if let Some(member) = members.get_mut(step) {
                change(member, rest, value);
            }
        }
        _ => {}
    }
}

fn change_list<T>(items: &mut VecDeque<T>, step: &str, value: Option<T>) {
    match (value, index(step, items.len())) {
        (Some(value), Some(at)) => items[at] = value,
        (Some(value), None) if step == "-" => items.push_back(value),
        (None, Some(at)) => drop(items.remove(at)),
        (_, None) => {}
    }
}

/// Returns the element that a step means. Neither a sign nor a leading zero: an element has one name.
fn index(step: &str, length: usize) -> Option<usize> {
    let plain = step == "0" || step.starts_with(|first| matches!(first, '1'..='9'));
    step.parse().ok().filter(|at| plain && *at < length)
}

/// A JSON text that is taken apart only where an edit leads.
enum Node<'a> {
    /// As it came.
    Text(&'a str),
    /// What an edit has set.
    Set(Cow<'a, Value>),
    /// A long conversation is cut at its beginning, element by element: that must not move all the others each time.
    List(VecDeque<Node<'a>>),
    /// In a box, because a list may have many nodes and few of them are objects that were taken apart.
    Object(Box<Members<'a>>),
}

impl<'a> Node<'a> {
    fn change(&mut self, steps: &[String], value: Option<&'a Value>) {
        if !steps.is_empty() {
            self.open();
        }
        match (steps, self) {
            ([], at) => *at = value.map_or(Node::Text("null"), Node::set),
            (_, Node::Set(set)) => change(set.to_mut(), steps, value),
            ([last], Node::List(items)) => change_list(items, last, value.map(Node::set)),
            ([last], Node::Object(members)) => members.change(last, value.map(Node::set)),
            ([step, rest @ ..], Node::List(items)) => {
                if let Some(at) = index(step, items.len()) {
                    items[at].change(rest, value);
                }
            }
            ([step, rest @ ..], Node::Object(members)) => {
                if let Some(member) = members.get_mut(step) {
                    member.change(rest, value);
                }
            }
            (_, Node::Text(_)) => {}
        }
    }

    fn set(value: &'a Value) -> Self {
        Self::Set(Cow::Borrowed(value))
    }

    /// Takes an array or an object apart. The text has been found valid, so that it can't fail.
    fn open(&mut self) {
        let Self::Text(text) = *self else { return };
        let opened = match text.as_bytes().first() {
            Some(b'{') => {
                serde_json::Deserializer::from_str(text).deserialize_map(MembersVisitor).map(Box::new).map(Self::Object)
            }
            Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(text)
                .map(|items| Self::List(items.into_iter().map(|item| Self::Text(item.get())).collect())),
            _ => return,
        };
        if let Ok(opened) = opened {
            *self = opened;
        }
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Text(text) => out.push_str(text),
            Self::Set(value) => write_value(value, out),
            Self::List(items) => {
                out.push('[');
                separated(items.iter(), out, |item, out| item.write(out));
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                separated(members.list.iter().flatten(), out, |(name, value), out| {
                    out.push_str(name);
                    out.push(':');
                    value.write(out);
                });
                out.push('}');
            }
        }
    }
}

fn write_value(value: &Value, out: &mut String) {
    // Writing to a String can't fail.
    let _ = write!(out, "{value}");
}

fn separated<T>(items: impl Iterator<Item = T>, out: &mut String, mut write: impl FnMut(T, &mut String)) {
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(item, out);
    }
}

/// An object in the order of its members.
#[derive(Default)]
struct Members<'a> {
    /// Names as written, with their quotes; what was removed leaves a hole.
    list: Vec<Option<(Cow<'a, str>, Node<'a>)>>,
    /// Where the member of a name is.
    places: HashMap<Cow<'a, str>, usize>,
}

impl<'a> Members<'a> {
    /// Of a name that comes twice the last counts, as it does for readers of the body: were the first one kept, a
    /// client could write a member twice to have it survive its removal.
    fn push(&mut self, written: &'a str, value: &'a str) {
        // A name with half a surrogate pair is no text, so that no pointer can mean it.
        if let Some(name) = name(written)
            && let Some(earlier) = self.places.insert(name, self.list.len())
        {
            self.list[earlier] = None;
        }
        self.list.push(Some((Cow::Borrowed(written), Node::Text(value))));
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Node<'a>> {
        let place = *self.places.get(name)?;
        self.list[place].as_mut().map(|(_, value)| value)
    }

    fn change(&mut self, name: &str, value: Option<Node<'a>>) {
        match (value, self.get_mut(name)) {
            (Some(value), Some(member)) => *member = value,
            (Some(value), None) => {
                self.places.insert(Cow::Owned(name.to_owned()), self.list.len());
                self.list.push(Some((Cow::Owned(Value::from(name).to_string()), value)));
            }
            (None, _) => {
                if let Some(place) = self.places.remove(name) {
                    self.list[place] = None;
                }
            }
        }
    }
}

/// Returns the characters of a name in quotes.
fn name(written: &str) -> Option<Cow<'_, str>> {
    if written.contains('\\') {
        return serde_json::from_str(written).ok().map(Cow::Owned);
    }
    written.strip_prefix('"')?.strip_suffix('"').map(Cow::Borrowed)
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members::default();
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            members.push(name.get(), value.get());
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};
    use serde_json::json;

    use super::*;

    fn edit(pointer: &str, value: Option<&str>) -> Edit {
        let value = value.map(|text| serde_json::from_str(text).unwrap());
        Edit { pointer: Pointer::parse(pointer).unwrap(), value }
    }

    /// The body after edits, by both ways.
    fn check(body: &str, edits: &[Edit], wanted: &str) {
        let after = edited(body.as_bytes(), edits).unwrap();
        assert_eq!(String::from_utf8_lossy(&after), wanted, "{body} after {edits:?}");
        let mut value: Value = serde_json::from_str(body).unwrap();
        apply(&mut value, edits);
        assert_eq!(value, serde_json::from_str::<Value>(wanted).unwrap(), "{body} after {edits:?}");
    }

    #[test]
    fn pointers_are_read_and_written_or_refused() {
        for (text, steps) in [
            ("", vec![]),
            ("/", vec![""]),
            ("/a/b", vec!["a", "b"]),
            ("/a//", vec!["a", "", ""]),
            ("/~01", vec!["~1"]),
            ("/~10~0~1x", vec!["/0~/x"]),
            ("/ü/-/01", vec!["ü", "-", "01"]),
        ] {
            let pointer: Pointer = text.parse().unwrap();
            assert_eq!(pointer.0, steps, "{text}");
            assert_eq!(pointer.to_string(), text);
        }
        for (text, wanted) in [
            ("a", BadPointer::NoSlash),
            ("#/a", BadPointer::NoSlash),
            (" /a", BadPointer::NoSlash),
            ("/~", BadPointer::Escape),
            ("/a~/b", BadPointer::Escape),
            ("/~2", BadPointer::Escape),
            ("/~~0", BadPointer::Escape),
            ("/~ü", BadPointer::Escape),
        ] {
            assert_eq!(Pointer::parse(text), Err(wanted), "{text}");
        }
    }

    #[test]
    fn an_edit_sets_adds_appends_removes_or_does_nothing() {
        for (body, pointer, value, wanted) in [
            (r#"{"b":1,"a":2}"#, "/b", Some("true"), r#"{"b":true,"a":2}"#),
            (r#"{"b":1,"a":2}"#, "/c", Some("[]"), r#"{"b":1,"a":2,"c":[]}"#),
            (r#"{"b":1,"a":2}"#, "/b", None, r#"{"a":2}"#),
            (r#"{"b":1}"#, "/b", None, "{}"),
            (r#"{"b":1}"#, "/c", None, r#"{"b":1}"#),
            (r#"{"b":1}"#, "/c/d", Some("1"), r#"{"b":1}"#),
            (r#"{"b":1}"#, "/b/d", Some("1"), r#"{"b":1}"#),
            (r#"{"b":{"c":{"d":1}}}"#, "/b/c/d", Some("2"), r#"{"b":{"c":{"d":2}}}"#),
            (r#"{"":1,"~":2,"/":3}"#, "/", None, r#"{"~":2,"/":3}"#),
            (r#"{"":1,"~":2,"/":3}"#, "/~0", None, r#"{"":1,"/":3}"#),
            (r#"{"":1,"~":2,"/":3}"#, "/~1", None, r#"{"":1,"~":2}"#),
            (r#"{"-":1,"01":2}"#, "/-", Some("3"), r#"{"-":3,"01":2}"#),
            (r#"{"-":1,"01":2}"#, "/01", Some("3"), r#"{"-":1,"01":3}"#),
            ("[1,2,3]", "/1", Some("null"), "[1,null,3]"),
            ("[1,2,3]", "/1", None, "[1,3]"),
            ("[1,2,3]", "/-", Some("4"), "[1,2,3,4]"),
            ("[]", "/-", Some("4"), "[4]"),
            ("[1]", "/-", None, "[1]"),
            ("[[1]]", "/-/0", Some("2"), "[[1]]"),
            ("[[1]]", "/0/-", Some("2"), "[[1,2]]"),
            ("[1]", "/1", Some("2"), "[1]"),
            ("[1,2]", "/01", Some("3"), "[1,2]"),
            ("[1,2]", "/+1", Some("3"), "[1,2]"),
            ("[1,2]", "/-1", Some("3"), "[1,2]"),
            ("[1,2]", "/", Some("3"), "[1,2]"),
            ("[1,2]", "/99999999999999999999999", Some("3"), "[1,2]"),
            ("7", "/a", Some("1"), "7"),
            ("7", "", Some(r#"{"a":1}"#), r#"{"a":1}"#),
            (r#"{"a":1}"#, "", None, "null"),
        ] {
            check(body, &[edit(pointer, value)], wanted);
        }
    }

    #[test]
    fn edits_build_on_one_another() {
        let edits = [
            edit("/a", Some(r#"{"x":[1]}"#)),
            edit("/a/x/-", Some("2")),
            edit("/a/x/0", None),
            edit("/b", None),
            edit("/b", Some("0")),
        ];
        check(r#"{"b":1,"c":2}"#, &edits, r#"{"c":2,"a":{"x":[2]},"b":0}"#);
        check("1", &[edit("", Some("[]")), edit("/-", Some("1")), edit("/-", Some("2"))], "[1,2]");
    }

    #[test]
    fn what_is_not_touched_keeps_its_bytes() {
        check(" [1] ", &[], "[1]");
        let body = r#"{ "z": [ 1.0, 1E400 ], "us\u0065r": "me", "t": {"b" : "\u00e9", "a": 1, "a": 2}, "n": 0.10 }"#;
        let wanted = r#"{"z":[ 1.0, 1E400 ],"t":{"b" : "\u00e9", "a": 1, "a": 2},"n":0.10}"#;
        check(body, &[edit("/user", None)], wanted);
    }

    #[test]
    fn a_member_that_comes_twice_is_one() {
        check(r#"{"user":1,"a":0,"\u0075ser":2}"#, &[edit("/user", None)], r#"{"a":0}"#);
        check(r#"{"user":1,"a":0,"user":{"x":1}}"#, &[edit("/user/x", Some("2"))], r#"{"a":0,"user":{"x":2}}"#);
    }

    #[test]
    fn what_is_no_text_is_not_in_the_way() {
        let body = br#"{"\ud83d":1,"t":"\ud83d","user":2}"#;
        assert_eq!(edited(body, &[edit("/user", None)]).unwrap(), r#"{"\ud83d":1,"t":"\ud83d"}"#);
    }

    #[test]
    fn what_is_not_json_is_left_alone() {
        for body in [&b""[..], b"{", b"{\"a\":1}x", b"[1,]", b"\"\xff\"", b"NaN"] {
            assert_eq!(edited(body, &[edit("", Some("1"))]), None);
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = 20_000;
        let nested = format!("{}{}", "[".repeat(deep), "]".repeat(deep));
        let pointer = |steps| Pointer(vec!["0".to_owned(); steps]);
        let too_deep = Edit { pointer: pointer(deep - 1), value: Some(json!(1)) };
        assert_eq!(edited(nested.as_bytes(), &[too_deep]).unwrap(), nested);
        let last = Edit { pointer: pointer(STEPS_MAX), value: Some(json!(1)) };
        let wanted = format!("{}1{}", "[".repeat(STEPS_MAX), "]".repeat(STEPS_MAX));
        assert_eq!(edited(nested.as_bytes(), &[last]).unwrap(), wanted);
    }

    /// Names and steps come from one short list, so that edits often find their place.
    const NAMES: [&str; 9] = ["a", "b", "0", "1", "-", "01", "", "~", "/"];

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            let members = vec((select(&NAMES[..]), inner.clone()), 0..5);
            prop_oneof![
                vec(inner, 0..5).prop_map(Value::from),
                members.prop_map(|members| members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            ]
        })
    }

    fn any_pointer() -> impl Strategy<Value = Pointer> {
        vec(select(&NAMES[..]), 0..5).prop_map(|steps| Pointer(steps.into_iter().map(str::to_owned).collect()))
    }

    fn any_edit() -> impl Strategy<Value = Edit> {
        (any_pointer(), proptest::option::of(any_json())).prop_map(|(pointer, value)| Edit { pointer, value })
    }

    proptest! {
        #[test]
        fn the_text_and_the_value_agree(body in any_json(), edits in vec(any_edit(), 0..6)) {
            let text = serde_json::to_vec_pretty(&body).unwrap();
            let after: Value = serde_json::from_slice(&edited(&text, &edits).unwrap()).unwrap();
            let mut value = body;
            apply(&mut value, &edits);
            prop_assert_eq!(after, value);
        }

        #[test]
        fn what_was_set_is_read(mut body in any_json(), pointer in any_pointer(), value in any_json()) {
            let text = pointer.to_string();
            let there = body.pointer(&text).is_some();
            let adds = text.rfind('/').and_then(|end| body.pointer(&text[..end])).is_some_and(Value::is_object);
            let before = body.clone();
            let appends = pointer.0.last().is_some_and(|step| step == "-");
            apply(&mut body, &[Edit { pointer, value: Some(value.clone()) }]);
            if there || adds {
                prop_assert_eq!(body.pointer(&text), Some(&value));
            } else if !appends {
                prop_assert_eq!(body, before);
            }
        }

        #[test]
        fn removing_twice_is_removing_once(mut body in any_json(), pointer in any_pointer()) {
            let text = pointer.to_string();
            let in_list = text.rfind('/').and_then(|end| body.pointer(&text[..end])).is_some_and(Value::is_array);
            prop_assume!(!in_list);
            let edit = [Edit { pointer, value: None }];
            apply(&mut body, &edit);
            let once = body.clone();
            prop_assert!(once.pointer(&text).is_none_or(Value::is_null), "nothing is left there");
            apply(&mut body, &edit);
            prop_assert_eq!(body, once);
        }

        #[test]
        fn a_pointer_is_read_as_it_is_written(steps in vec("[~/01a-]{0,4}", 0..5)) {
            let pointer = Pointer(steps);
            prop_assert_eq!(Pointer::parse(&pointer.to_string()), Ok(pointer));
        }

        #[test]
        fn no_text_is_too_odd(body in "\\PC{0,40}", odd in r#"[\[\]{}",:\\u0-9a ]{0,40}"#, pointer in "[/~01a-]{0,9}") {
            if let Ok(pointer) = Pointer::parse(&pointer) {
                let edits = [Edit { pointer: pointer.clone(), value: None }, Edit { pointer, value: Some(json!([1])) }];
                for body in [body, odd] {
                    let read = serde_json::from_str::<&RawValue>(&body).is_ok();
                    let after = edited(body.as_bytes(), &edits);
                    prop_assert_eq!(after.is_some(), read);
                    prop_assert!(after.is_none_or(|after| serde_json::from_slice::<&RawValue>(&after).is_ok()));
                }
            }
        }
    }
}
