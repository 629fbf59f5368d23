//! JSON as policies read it: exact, and no value where a reader might see another one.
//!
//! `serde_json::Value` won't do: it refuses half a surrogate pair, which JavaScript makes by cutting an emoji, takes
//! the last of two members of one name, and with `arbitrary_precision` reads an object of a certain name as a number.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    str::Chars,
};

use serde_json::value::RawValue;

/// Deepest nesting: that of serde_json's own values, so that edits reach whatever is read here.
const DEPTH_MAX: usize = 127;

/// A JSON value. Displayed in its canonical form: no insignificant white space, members sorted, escapes in their
/// shortest form, numbers as written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Json {
    /// A number, `true`, `false` or `null`, as written.
    Word(Box<str>),
    /// A string without its quotes, its escapes in their shortest form; half a surrogate pair stays an escape.
    Text(Box<str>),
    /// An array.
    List(Vec<Json>),
    /// An object; its names are like [`Json::Text`].
    Object(BTreeMap<Box<str>, Json>),
}

/// What is at a pointer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'j> {
    /// The value there, if there is one.
    pub(super) value: Option<&'j Json>,
    /// Whether every reader of the document finds the same there. One that ignores the case of names (Go's does), or
    /// their `_` and `-`, takes `INPUT` for `/input`; and where a text stands instead of an object, the document has
    /// another form than the pointer expects.
    pub(super) clear: bool,
}

impl Json {
    /// Reads a document. `None` if it isn't JSON (RFC 8259), is nested deeper than 127 levels, or names a member twice:
    /// which of the two counts is the reader's choice.
    pub(super) fn read(document: &[u8]) -> Option<Self> {
        let text: &RawValue = serde_json::from_slice(document).ok()?;
        Scanner { rest: text.get() }.value(0)
    }

    /// Returns what a pointer (RFC 6901) leads to. The empty one leads to the whole.
    pub(super) fn at(&self, pointer: &str) -> Place<'_> {
        let mut place = Place { value: Some(self), clear: true };
        for step in pointer.split('/').skip(1) {
            let Some(value) = place.value else { break };
            place = value.step(&step.replace("~1", "/").replace("~0", "~"), place.clear);
        }
        place
    }

    fn step(&self, step: &str, clear: bool) -> Place<'_> {
        match self {
            Self::Object(members) => {
                let name = text_of(step.chars().map(Ok));
                let twin = members.keys().any(|other| *other != name && resembles(other, &name));
                Place { value: members.get(&name), clear: clear && !twin }
            }
            Self::List(items) => {
                // An element has one name: neither a sign nor a leading zero.
                let index = step == "0" || step.starts_with(|first: char| matches!(first, '1'..='9'));
                let index = step.parse::<usize>().ok().filter(|_| index);
                Place { value: index.and_then(|index| items.get(index)), clear: clear && index.is_some() }
            }
            Self::Word(word) if **word == *"null" => Place { value: None, clear },
            Self::Word(_) | Self::Text(_) => Place { value: None, clear: false },
        }
    }

    /// Returns the characters of a string; half a surrogate pair stands as U+FFFD. `None` if it is something else.
    pub(super) fn characters(&self) -> Option<String> {
        match self {
            Self::Text(text) => {
                Some(Characters(text.chars()).map(|read| read.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
            }
            Self::Word(_) | Self::List(_) | Self::Object(_) => None,
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => f.write_str(word),
            Self::Text(text) => write!(f, "\"{text}\""),
            Self::List(items) => {
                f.write_char('[')?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if at > 0 { "," } else { "" })?;
                }
                f.write_char(']')
            }
            Self::Object(members) => {
                f.write_char('{')?;
                for (at, (name, value)) in members.iter().enumerate() {
                    write!(f, "{}\"{name}\":{value}", if at > 0 { "," } else { "" })?;
                }
                f.write_char('}')
            }
        }
    }
}

/// Whether a reader may take one name for the other: they differ in case, in `_` or in `-` only.
fn resembles(name: &str, other: &str) -> bool {
    fn folded(name: &str) -> impl Iterator<Item = char> {
        let letters = name.chars().filter(|letter| !matches!(letter, '_' | '-'));
        letters.flat_map(char::to_uppercase).flat_map(char::to_lowercase)
    }
    folded(name).eq(folded(other))
}

/// Walks over a text that serde_json has found valid ([`RawValue`] can't hold another); what it doesn't expect is
/// `None`.
struct Scanner<'t> {
    rest: &'t str,
}

impl Scanner<'_> {
    /// Reads a value within so many lists and objects.
    fn value(&mut self, depth: usize) -> Option<Json> {
        match self.peek()? {
            b'{' | b'[' if depth >= DEPTH_MAX => None,
            b'{' => self.object(depth + 1),
            b'[' => self.list(depth + 1),
            b'"' => Some(Json::Text(self.string()?)),
            _ => {
                let end = self.rest.find([',', ']', '}', ' ', '\t', '\n', '\r']).unwrap_or(self.rest.len());
                Some(Json::Word(self.take(end)?.into()))
            }
        }
    }

    fn object(&mut self, depth: usize) -> Option<Json> {
        let mut members = BTreeMap::new();
        self.take(1)?;
        while !self.closes(b'}')? {
            let name = self.string()?;
            self.peek()?;
            self.take(1)?; // the colon
            let value = self.value(depth)?;
            if members.insert(name, value).is_some() {
                return None;
            }
        }
        Some(Json::Object(members))
    }

    fn list(&mut self, depth: usize) -> Option<Json> {
        let mut items = Vec::new();
        self.take(1)?;
        while !self.closes(b']')? {
            items.push(self.value(depth)?);
        }
        Some(Json::List(items))
    }

    /// Steps to the next element, or over the closing bracket.
    fn closes(&mut self, bracket: u8) -> Option<bool> {
        if self.peek()? == b',' {
            self.take(1)?;
        }
        let closes = self.peek()? == bracket;
        if closes {
            self.take(1)?;
        }
        Some(closes)
    }

    /// Steps over a string.
    fn string(&mut self) -> Option<Box<str>> {
        self.take(1)?;
        let bytes = self.rest.as_bytes();
        let mut end = 0;
        let mut escaped = false;
        loop {
            match bytes.get(end)? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    end += 2;
                }
                _ => end += 1,
            }
        }
        let inner = self.take(end)?;
        let text = if escaped { text_of(Characters(inner.chars())) } else { inner.into() };
        self.take(1)?;
        Some(text)
    }

    /// Steps over white space and shows what follows.
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
        self.rest.bytes().next()
    }
}

impl<'t> Scanner<'t> {
    /// Steps over so many bytes.
    fn take(&mut self, bytes: usize) -> Option<&'t str> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }
}

/// The characters between the quotes of a string. An error is half a surrogate pair, which stands for no character.
struct Characters<'t>(Chars<'t>);

impl Iterator for Characters<'_> {
    type Item = Result<char, u16>;

    fn next(&mut self) -> Option<Self::Item> {
        let character = self.0.next()?;
        if character != '\\' {
            return Some(Ok(character));
        }
        Some(match self.0.next()? {
            'b' => Ok('\u{8}'),
            'f' => Ok('\u{c}'),
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'u' => return self.unicode(),
            // A quote, a slash or a backslash.
            itself => Ok(itself),
        })
    }
}

impl Characters<'_> {
    fn unicode(&mut self) -> Option<Result<char, u16>> {
        let first = hex(&mut self.0)?;
        let mut ahead = self.0.clone();
        if matches!(first, 0xd800..=0xdbff)
            && ahead.next() == Some('\\')
            && ahead.next() == Some('u')
            && let Some(second @ 0xdc00..=0xdfff) = hex(&mut ahead)
            && let Some(Ok(character)) = char::decode_utf16([first, second]).next()
        {
            self.0 = ahead;
            return Some(Ok(character));
        }
        Some(char::from_u32(first.into()).ok_or(first))
    }
}

fn hex(chars: &mut Chars<'_>) -> Option<u16> {
    (0..4).try_fold(0, |code: u16, _| Some((code << 4) | u16::try_from(chars.next()?.to_digit(16)?).ok()?))
}

/// Returns the characters as they stand between quotes, with the shortest escapes.
fn text_of(characters: impl Iterator<Item = Result<char, u16>>) -> Box<str> {
    let mut text = String::new();
    for character in characters {
        // Writing to a String can't fail.
        let _ = match character {
            Ok('"') => text.write_str("\\\""),
            Ok('\\') => text.write_str("\\\\"),
            Ok('\u{8}') => text.write_str("\\b"),
            Ok('\u{c}') => text.write_str("\\f"),
            Ok('\n') => text.write_str("\\n"),
            Ok('\r') => text.write_str("\\r"),
            Ok('\t') => text.write_str("\\t"),
            Ok(control) if control < ' ' => write!(text, "\\u{:04x}", u32::from(control)),
            Ok(character) => text.write_char(character),
            Err(half) => write!(text, "\\u{half:04x}"),
        };
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn canonical(document: &str) -> Option<String> {
        Json::read(document.as_bytes()).map(|json| json.to_string())
    }

    #[test]
    fn one_text_for_one_meaning() {
        for (written, wanted) in [
            (" { \"b\" : 1 ,\n\t\"a\" : [ true , null ] } ", r#"{"a":[true,null],"b":1}"#),
            ("{}", "{}"),
            ("[ ]", "[]"),
            ("[[],{ }]", "[[],{}]"),
            (r#"{"\u0061":1}"#, r#"{"a":1}"#),
            (r#""\u00e9\/\n\u000a\u0001\u007f""#, "\"é/\\n\\n\\u0001\u{7f}\""),
            (r#""\"\\""#, r#""\"\\""#),
            (r#""a, b] } : c""#, r#""a, b] } : c""#),
            (r#""\ud83d\ude00""#, "\"😀\""),
            (
                r#"["\uD83D", "\ud83d\ud83d\ude00", "\ude00\ud83d", "\ud83dx"]"#,
                r#"["\ud83d","\ud83d😀","\ude00\ud83d","\ud83dx"]"#,
            ),
            (r#"{"\uD83D":1}"#, r#"{"\ud83d":1}"#),
            ("1.0", "1.0"),
            ("1E400", "1E400"),
            ("-0", "-0"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            (r#"{"$serde_json::private::Number":"1"}"#, r#"{"$serde_json::private::Number":"1"}"#),
        ] {
            assert_eq!(canonical(written).as_deref(), Some(wanted), "{written}");
        }
    }

    #[test]
    fn what_a_reader_might_see_otherwise_is_not_read() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(canonical(&deep(DEPTH_MAX)).is_some());
        for document in [
            "",
            " ",
            "{",
            "\u{feff}{}",
            r#"{"a":1,}"#,
            "[NaN]",
            "[Infinity]",
            "{'a':1}",
            r#"{"a":1}{"a":1}"#,
            "// c\n{}",
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"[{"x":[{"\ud83d":1,"\uD83D":2}]}]"#,
            "question=hi",
            &deep(DEPTH_MAX + 1),
            &deep(100_000),
        ] {
            assert_eq!(canonical(document), None, "{document:.40}");
        }
        for document in [&b"\"\xff\""[..], b"\xff\xfe{\0}\0", b"\x1f\x8b\x08"] {
            assert_eq!(Json::read(document), None, "{document:?}");
        }
    }

    #[test]
    fn pointers_lead_to_values_and_tell_where_others_may_find_something_else() {
        const DOCUMENT: &str = r#"{"a":{"b":[1,"x"]},"max_tokens":5,"maxTokens":6,"INPUT":7,"n":null,"t":"x","~/":8,
            "é":9,"\u0000":10,"straſe":11}"#;
        let json = Json::read(DOCUMENT.as_bytes()).unwrap();
        for (pointer, value, clear) in [
            ("/a/b/0", Some("1"), true),
            ("/a/b/1", Some("\"x\""), true),
            ("/a/b/2", None, true),
            ("/a/b/00", None, false),
            ("/a/b/x", None, false),
            ("/a/c", None, true),
            ("/a/B", None, false),
            ("/A/b/0", None, false),
            ("/max_tokens", Some("5"), false),
            ("/input", None, false),
            ("/INPUT", Some("7"), true),
            ("/n/x", None, true),
            ("/t/x", None, false),
            ("/none/x", None, true),
            ("/~0~1", Some("8"), true),
            ("/é", Some("9"), true),
            ("/É", None, false),
            ("/\0", Some("10"), true),
            ("/strase", None, false),
        ] {
            let place = json.at(pointer);
            let found = place.value.map(ToString::to_string);
            assert_eq!((found.as_deref(), place.clear), (value, clear), "{pointer}");
        }
        assert_eq!(json.at(""), Place { value: Some(&json), clear: true });
        let scalar = Json::read(b"12").unwrap();
        assert_eq!(scalar.at("/a"), Place { value: None, clear: false });
    }

    #[test]
    fn characters_are_what_a_string_stands_for() {
        let characters = |document: &str| Json::read(document.as_bytes()).unwrap().characters();
        assert_eq!(characters(r#""a\n\u00e9\ud83d""#).as_deref(), Some("a\né\u{fffd}"));
        assert_eq!(characters("1"), None);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a-c\"\\\\é]{0,3}", inner, 0..5)
                    .prop_map(|members| members.into_iter().collect::<Value>()),
            ]
        })
    }

    proptest! {
        #[test]
        fn spelling_makes_no_difference_and_content_does(one in any_json(), other in any_json()) {
            let (compact, pretty) = (one.to_string(), serde_json::to_string_pretty(&one).unwrap());
            let read = canonical(&compact).unwrap();
            prop_assert_eq!(canonical(&pretty), Some(read.clone()));
            prop_assert_eq!(canonical(&read), Some(read.clone()), "it is its own canonical form");
            prop_assert_eq!(parsed(&read), parsed(&compact));
            prop_assert_eq!(one == other, canonical(&other.to_string()).unwrap() == read);
        }

        /// Strings of any UTF-16, as JavaScript writes them: units that differ are texts that differ.
        #[test]
        fn no_two_strings_are_one(a in prop::collection::vec(units(), 0..5), b in prop::collection::vec(units(), 0..5)) {
            let written = |units: &[u16]| {
                let escapes: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
                canonical(&format!("\"{escapes}\"")).unwrap()
            };
            prop_assert_eq!(a == b, written(&a) == written(&b));
        }

        #[test]
        fn no_document_is_too_odd(document in r#"[\[\]{}",:\\u0-9a \t]{0,40}"#) {
            let _ = canonical(&document);
        }
    }

    fn parsed(document: &str) -> Value {
        serde_json::from_str(document).unwrap()
    }

    fn units() -> impl Strategy<Value = u16> {
        prop_oneof![Just(0xd83d), Just(0xde00), Just(0x5c), Just(0x22), Just(0x61), any::<u16>()]
    }
}
