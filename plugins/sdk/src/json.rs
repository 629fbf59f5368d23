//! JSON values: what the operator's table consists of, and what `body-json` and `body-tokens` hand over.
//!
//! ```
//! use holm_sdk::json::Value;
//!
//! let body = Value::parse(r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#).unwrap();
//! assert_eq!(body.at("/messages/0/role").and_then(Value::as_text), Some("user"));
//! assert_eq!(body.at("/messages").unwrap().to_string(), r#"[{"role":"user","content":"hi"}]"#);
//! ```
//!
//! A component with this is half the size of one with a JSON crate; those work as well.

use std::{
    fmt::{self, Display, Formatter, Write},
    str::FromStr,
};

/// A JSON value. [`Display`] writes it without white space, members in their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, which TOML doesn't have.
    Null,
    /// `true` or `false`.
    Flag(bool),
    /// A number, as written: it is never rounded.
    Number(String),
    /// A string; TOML's dates are strings, too.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// An object, TOML's table.
    Table(Table),
}

/// An object: members by name, in their order. [`crate::config`] describes what takes an operator's table apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub(crate) fields: Vec<(String, Value)>,
}

impl Value {
    /// Reads one JSON text. `None` if it isn't JSON, or nested more than 128 deep, which the host doesn't hand over.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.token().is_none().then_some(value)
    }

    /// The value at a pointer (RFC 6901); the empty one is this value.
    #[must_use]
    pub fn at(&self, pointer: &str) -> Option<&Self> {
        names(pointer).iter().try_fold(self, |value, name| match value {
            Self::Table(table) => table.get(name),
            Self::List(values) => values.get(index(name)?),
            _ => None,
        })
    }

    /// Takes out what is at a pointer. Nothing happens if nothing is there; the whole value can't be taken.
    pub fn remove(&mut self, pointer: &str) -> Option<Self> {
        let path = names(pointer);
        let (last, way) = path.split_last()?;
        let place = way.iter().try_fold(self, |value, name| match value {
            Self::Table(table) => table.get_mut(name),
            Self::List(values) => values.get_mut(index(name)?),
            _ => None,
        })?;
        match place {
            Self::Table(table) => table.take(last),
            Self::List(values) => index(last).filter(|at| *at < values.len()).map(|at| values.remove(at)),
            _ => None,
        }
    }

    /// The characters of a string.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// A number that the type holds.
    #[must_use]
    pub fn as_number<T: FromStr>(&self) -> Option<T> {
        if let Self::Number(number) = self { number.parse().ok() } else { None }
    }

    /// The elements of an array.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(values) = self { Some(values) } else { None }
    }
}

impl Table {
    /// The member of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    /// The member of this name, to change it.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.fields.iter_mut().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    /// The members, in their order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Sets a member; a new one comes last.
    pub fn set(&mut self, name: &str, value: Value) {
        match self.get_mut(name) {
            Some(field) => *field = value,
            None => self.fields.push((name.to_owned(), value)),
        }
    }

    /// Takes a member out, whatever it is.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.fields.iter().position(|(field, _)| field == name)?;
        Some(self.fields.remove(at).1)
    }

    /// Keeps the members of which this is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &mut Value) -> bool) {
        self.fields.retain_mut(|(name, value)| keep(name, value));
    }
}

/// The names that a pointer (RFC 6901) consists of, with `~1` and `~0` read as `/` and `~`.
#[must_use]
pub fn names(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|name| name.replace("~1", "/").replace("~0", "~")).collect()
}

/// A pointer's name as a place in an array, which has no leading zeros and no sign.
fn index(name: &str) -> Option<usize> {
    let plain = name == "0" || !name.starts_with(['0', '+']);
    if plain { name.parse().ok() } else { None }
}

impl Display for Value {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => out.write_str("null"),
            Self::Flag(flag) => out.write_str(if *flag { "true" } else { "false" }),
            Self::Number(number) => out.write_str(number),
            Self::Text(text) => quoted(text, out),
            Self::List(values) => {
                out.write_char('[')?;
                for (i, value) in values.iter().enumerate() {
                    separated(i, out)?;
                    value.fmt(out)?;
                }
                out.write_char(']')
            }
            Self::Table(table) => table.fmt(out),
        }
    }
}

impl Display for Table {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_char('{')?;
        for (i, (name, value)) in self.fields().enumerate() {
            separated(i, out)?;
            quoted(name, out)?;
            out.write_char(':')?;
            value.fmt(out)?;
        }
        out.write_char('}')
    }
}

fn separated(place: usize, out: &mut Formatter<'_>) -> fmt::Result {
    if place == 0 { Ok(()) } else { out.write_char(',') }
}

/// Escapes what must be, in its shortest form, as the host does: equal strings are equal texts.
fn quoted(text: &str, out: &mut Formatter<'_>) -> fmt::Result {
    out.write_char('"')?;
    let mut rest = text;
    while let Some(at) = rest.bytes().position(must_escape) {
        out.write_str(&rest[..at])?;
        escaped(rest.as_bytes()[at], out)?;
        rest = &rest[at + 1..];
    }
    out.write_str(rest)?;
    out.write_char('"')
}

const fn must_escape(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..=0x1f)
}

fn escaped(byte: u8, out: &mut Formatter<'_>) -> fmt::Result {
    match byte {
        b'\n' => out.write_str("\\n"),
        b'\t' => out.write_str("\\t"),
        b'\r' => out.write_str("\\r"),
        0x8 => out.write_str("\\b"),
        0xc => out.write_str("\\f"),
        0..=0x1f => write!(out, "\\u{byte:04x}"),
        itself => write!(out, "\\{}", char::from(itself)),
    }
}

/// Values in values, at most: as deep as the host reads, and little enough for the stack of a call.
const DEPTH_MAX: usize = 128;

/// Stands behind whole characters only, since it stops at ASCII.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        match self.token()? {
            b'{' => self.table(depth),
            b'[' => self.list(depth),
            b'"' => self.string().map(Value::Text),
            b't' => self.word("rue", Value::Flag(true)),
            b'f' => self.word("alse", Value::Flag(false)),
            b'n' => self.word("ull", Value::Null),
            b'-' | b'0'..=b'9' => self.number(),
            _ => None,
        }
    }

    fn table(&mut self, depth: usize) -> Option<Value> {
        let mut fields = Vec::new();
        let mut next = self.token()?;
        while next != b'}' {
            let name = if next == b'"' { self.string()? } else { return None };
            if self.token()? != b':' {
                return None;
            }
            fields.push((name, self.value(depth + 1)?));
            next = match self.token()? {
                b',' => self.token().filter(|token| *token == b'"')?,
                end => Some(end).filter(|token| *token == b'}')?,
            };
        }
        Some(Value::Table(Table { fields }))
    }

    fn list(&mut self, depth: usize) -> Option<Value> {
        let mut values = Vec::new();
        self.skip_space();
        if self.peek()? == b']' {
            self.at += 1;
            return Some(Value::List(values));
        }
        loop {
            values.push(self.value(depth + 1)?);
            match self.token()? {
                b',' => {}
                b']' => return Some(Value::List(values)),
                _ => return None,
            }
        }
    }

    /// The rest of a string. What lies between two escapes is copied in one piece.
    fn string(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            let rest = &self.text[self.at..];
            let end = rest.bytes().position(must_escape)?;
            text.push_str(&rest[..end]);
            self.at += end + 1;
            match rest.as_bytes()[end] {
                b'"' => return Some(text),
                b'\\' => text.push(self.escape()?),
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        Some(match self.next()? {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'u' => return self.code_point(),
            itself @ (b'"' | b'\\' | b'/') => char::from(itself),
            _ => return None,
        })
    }

    /// Four digits, or two times four for what lies beyond (UTF-16 surrogates).
    fn code_point(&mut self) -> Option<char> {
        let first = self.four_digits()?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first);
        }
        if self.next()? != b'\\' || self.next()? != b'u' {
            return None;
        }
        let second = self.four_digits()?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
        char::from_u32(0x10000 + ((first - 0xd800) << 10) + second)
    }

    fn four_digits(&mut self) -> Option<u32> {
        (0..4).try_fold(0, |sum, _| Some(sum * 16 + char::from(self.next()?).to_digit(16)?))
    }

    /// The number whose first character has been read.
    fn number(&mut self) -> Option<Value> {
        let from = self.at - 1;
        while self.peek().is_some_and(|next| matches!(next, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) {
            self.at += 1;
        }
        let number = &self.text[from..self.at];
        is_number(number).then(|| Value::Number(number.to_owned()))
    }

    fn word(&mut self, rest: &str, value: Value) -> Option<Value> {
        rest.bytes().all(|wanted| self.next() == Some(wanted)).then_some(value)
    }

    fn token(&mut self) -> Option<u8> {
        self.skip_space();
        self.next()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// The next byte, if it is ASCII: strings are read whole, and nothing else has other characters.
    fn next(&mut self) -> Option<u8> {
        let next = self.peek().filter(u8::is_ascii)?;
        self.at += 1;
        Some(next)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

/// By the grammar of JSON: no leading zeros, digits on both sides of a point.
fn is_number(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, "0"),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let whole = whole.strip_prefix('-').unwrap_or(whole);
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    digits(whole) && (whole == "0" || !whole.starts_with('0')) && digits(fraction) && digits(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(text: &str) -> Option<String> {
        Value::parse(text).map(|value| value.to_string())
    }

    #[test]
    fn what_is_read_is_written_as_it_was() {
        for text in [
            r#"{"z":1,"a":[true,false,null,[],{}],"":{"b":"é😀\"\\\n\t\r\b\f\u0001\u001f/"}}"#,
            "[0,-1,0.50,1e3,-1.5E-10,12345678901234567890.123456789]",
            "\"\"",
            "null",
        ] {
            assert_eq!(rewritten(text).as_deref(), Some(text));
        }
        assert_eq!(rewritten(" { \"a\" : [ 1 , 2 ] } \n").as_deref(), Some(r#"{"a":[1,2]}"#));
        assert_eq!(rewritten(r#""\u00e9\ud83d\ude00\/\u000a""#).as_deref(), Some("\"é😀/\\n\""));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "",
            "{",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "{}}",
            "{} {}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":1 "b":2}"#,
            "{a:1}",
            "tru",
            "truE",
            "nul",
            "é",
            r#""open"#,
            r#""\x""#,
            r#""\é""#,
            r#""\u12"#,
            r#""\u00é0""#,
            r#""\ud83d""#,
            r#""\ud83d\u0020""#,
            r#""\udc00""#,
            "\"a\nb\"",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "1-2",
            "+1",
            "1.2.3",
        ] {
            assert_eq!(Value::parse(text), None, "{text}");
        }
    }

    #[test]
    fn nesting_has_a_limit() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Value::parse(&nested(128)).is_some());
        assert!(Value::parse(&nested(100_000)).is_none());
    }

    #[test]
    fn pointers_lead_to_values() {
        let mut value = Value::parse(r#"{"a/b":[{"m~n":1},2],"":3}"#).unwrap();
        for (pointer, found) in [
            ("/a~1b/0/m~0n", Some("1")),
            ("/a~1b/1", Some("2")),
            ("/", Some("3")),
            ("", Some(r#"{"a/b":[{"m~n":1},2],"":3}"#)),
            ("/a~1b/01", None),
            ("/a~1b/+1", None),
            ("/a~1b/-", None),
            ("/a~1b/2", None),
            ("/x", None),
            ("//x", None),
        ] {
            assert_eq!(value.at(pointer).map(ToString::to_string).as_deref(), found, "{pointer}");
        }
        for pointer in ["", "/x", "/x/y", "/a~1b/9", "/a~1b/x", "//x"] {
            assert_eq!(value.remove(pointer), None, "{pointer}");
        }
        assert_eq!(value.remove("/a~1b/0/m~0n"), Some(Value::Number("1".into())));
        assert_eq!(value.remove("/a~1b/1"), Some(Value::Number("2".into())));
        assert_eq!(value.to_string(), r#"{"a/b":[{}],"":3}"#);
    }

    #[test]
    fn members_are_set_taken_and_retained() {
        let Some(Value::Table(mut table)) = Value::parse(r#"{"a":1,"b":2,"c":3}"#) else { panic!("no table") };
        table.set("b", Value::Null);
        table.set("d", Value::Text("x".into()));
        assert_eq!(table.take("a"), Some(Value::Number("1".into())));
        assert_eq!(table.to_string(), r#"{"b":null,"c":3,"d":"x"}"#);
        table.retain(|name, value| name != "c" && *value != Value::Null);
        assert_eq!(table.fields().collect::<Vec<_>>(), [("d", &Value::Text("x".into()))]);
        assert_eq!(table.get("b"), None);
    }

    #[test]
    fn values_are_read_by_type() {
        let value = Value::parse(r#"["t",300]"#).unwrap();
        let values = value.as_list().unwrap();
        assert_eq!((values[0].as_text(), values[1].as_text()), (Some("t"), None));
        assert_eq!(
            (values[1].as_number::<u32>(), values[1].as_number::<u8>(), values[0].as_number::<u8>()),
            (Some(300), None, None)
        );
        assert_eq!(values[0].as_list(), None);
    }
}
