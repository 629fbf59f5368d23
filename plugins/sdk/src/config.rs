//! The operator's table, read field by field. A component with this is half the size of one with a JSON crate; those
//! work as well.

use std::{iter::Peekable, str::Chars};

use crate::Fault;

/// A table of the configuration. Fields are taken out by name; [`Table::finish`] refuses what nobody asked for, so that
/// a misspelt name is an error and not a default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    fields: Vec<(String, Value)>,
}

/// A value of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, which TOML doesn't have.
    Null,
    /// `true` or `false`.
    Flag(bool),
    /// A number, as written.
    Number(String),
    /// A string; dates are strings, too.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// A table.
    Table(Table),
}

impl Table {
    /// Reads the JSON that `configure` is given.
    ///
    /// # Errors
    /// It isn't the JSON of a table.
    pub fn parse(json: &str) -> Result<Self, Fault> {
        let mut reader = Reader { rest: json.chars().peekable() };
        let value = reader.value(0)?;
        match (value, reader.next_token()) {
            (Value::Table(table), None) => Ok(table),
            _ => Err(wrong("the configuration isn't one table")),
        }
    }

    /// Takes a field out, whatever it is.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.fields.iter().position(|(field, _)| field == name)?;
        Some(self.fields.swap_remove(at).1)
    }

    /// Takes a string.
    ///
    /// # Errors
    /// The field is something else.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Fault> {
        self.typed(name, "a string", |value| match value {
            Value::Text(text) => Some(text),
            _ => None,
        })
    }

    /// Takes a flag.
    ///
    /// # Errors
    /// The field is something else.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, Fault> {
        self.typed(name, "true or false", |value| match value {
            Value::Flag(flag) => Some(flag),
            _ => None,
        })
    }

    /// Takes a number.
    ///
    /// # Errors
    /// The field is something else, or a number that the type doesn't hold.
    pub fn number<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>, Fault> {
        self.typed(name, "a number in range", |value| match value {
            Value::Number(number) => number.parse().ok(),
            _ => None,
        })
    }

    /// Takes a list of strings.
    ///
    /// # Errors
    /// The field is something else.
    pub fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, Fault> {
        let text = |value| match value {
            Value::Text(text) => Some(text),
            _ => None,
        };
        self.typed(name, "a list of strings", |value| match value {
            Value::List(values) => values.into_iter().map(text).collect(),
            _ => None,
        })
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// There is a field that nobody took.
    pub fn finish(self) -> Result<(), Fault> {
        match self.fields.first() {
            None => Ok(()),
            Some((name, _)) => Err(wrong(&["unknown field `", name, "`"].concat())),
        }
    }

    fn typed<T>(&mut self, name: &str, what: &str, take: impl FnOnce(Value) -> Option<T>) -> Result<Option<T>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => take(value).map(Some).ok_or_else(|| wrong(&["`", name, "` isn't ", what].concat())),
        }
    }
}

/// Tables in tables, at most.
const DEPTH_MAX: usize = 32;

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        if depth > DEPTH_MAX {
            return Err(wrong("nested too deeply"));
        }
        match self.next_token() {
            Some('{') => self.table(depth),
            Some('[') => self.list(depth),
            Some('"') => self.string().map(Value::Text),
            Some('t') => self.word("rue", Value::Flag(true)),
            Some('f') => self.word("alse", Value::Flag(false)),
            Some('n') => self.word("ull", Value::Null),
            Some(first @ ('-' | '0'..='9')) => Ok(self.number(first)),
            _ => Err(malformed()),
        }
    }

    fn table(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut fields = Vec::new();
        let mut next = self.next_token();
        while next != Some('}') {
            if next != Some('"') {
                return Err(malformed());
            }
            let name = self.string()?;
            if self.next_token() != Some(':') {
                return Err(malformed());
            }
            fields.push((name, self.value(depth + 1)?));
            next = match self.next_token() {
                Some(',') => self.next_token().filter(|token| *token == '"'),
                end => end.filter(|token| *token == '}'),
            };
        }
        Ok(Value::Table(Table { fields }))
    }

    fn list(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut values = Vec::new();
        self.skip_space();
        if self.rest.next_if_eq(&']').is_some() {
            return Ok(Value::List(values));
        }
        loop {
            values.push(self.value(depth + 1)?);
            match self.next_token() {
                Some(',') => {}
                Some(']') => return Ok(Value::List(values)),
                _ => return Err(malformed()),
            }
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        let mut text = String::new();
        loop {
            match self.rest.next().ok_or_else(malformed)? {
                '"' => return Ok(text),
                '\\' => text.push(self.escaped()?),
                plain => text.push(plain),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, Fault> {
        Ok(match self.rest.next().ok_or_else(malformed)? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => return self.code_point(),
            itself @ ('"' | '\\' | '/') => itself,
            _ => return Err(malformed()),
        })
    }

    /// Four digits, or two times four for what lies beyond (UTF-16 surrogates).
    fn code_point(&mut self) -> Result<char, Fault> {
        let first = self.four_digits()?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first).ok_or_else(malformed);
        }
        if self.rest.next() != Some('\\') || self.rest.next() != Some('u') {
            return Err(malformed());
        }
        let second = self.four_digits()?.checked_sub(0xdc00).filter(|low| *low < 0x400).ok_or_else(malformed)?;
        char::from_u32(0x10000 + ((first - 0xd800) << 10) + second).ok_or_else(malformed)
    }

    fn four_digits(&mut self) -> Result<u32, Fault> {
        (0..4).try_fold(0, |sum, _| {
            let digit = self.rest.next().and_then(|digit| digit.to_digit(16)).ok_or_else(malformed)?;
            Ok(sum * 16 + digit)
        })
    }

    /// The digits are judged by whoever asks for the number.
    fn number(&mut self, first: char) -> Value {
        let mut text = String::from(first);
        while let Some(more) = self.rest.next_if(|next| matches!(next, '0'..='9' | '.' | 'e' | 'E' | '+' | '-')) {
            text.push(more);
        }
        Value::Number(text)
    }

    fn word(&mut self, rest: &str, value: Value) -> Result<Value, Fault> {
        if rest.chars().all(|wanted| self.rest.next() == Some(wanted)) { Ok(value) } else { Err(malformed()) }
    }

    fn next_token(&mut self) -> Option<char> {
        self.skip_space();
        self.rest.next()
    }

    fn skip_space(&mut self) {
        while self.rest.next_if(|next| matches!(next, ' ' | '\t' | '\r' | '\n')).is_some() {}
    }
}

fn wrong(detail: &str) -> Fault {
    Fault::new(1, detail)
}

fn malformed() -> Fault {
    wrong("the configuration isn't JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_by_name_and_type() {
        let json = r#" {"t": "a\"\u00e9\ud83d\ude00\n", "f": false, "n": -12, "x": 1.5e3, "l": ["a", "b"], "e": [], "d": {"z": null}} "#;
        let mut table = Table::parse(json).unwrap();
        assert_eq!(table.text("t").unwrap().as_deref(), Some("a\"é😀\n"));
        assert_eq!(table.flag("f").unwrap(), Some(false));
        assert_eq!(table.number::<i8>("n").unwrap(), Some(-12));
        assert_eq!(table.number::<f64>("x").unwrap(), Some(1500.0));
        assert_eq!(table.texts("l").unwrap(), Some(vec!["a".into(), "b".into()]));
        assert_eq!(table.texts("e").unwrap(), Some(vec![]));
        let Some(Value::Table(mut inner)) = table.take("d") else { panic!("no table") };
        assert_eq!(inner.take("z"), Some(Value::Null));
        assert_eq!(table.text("absent").unwrap(), None);
        table.finish().unwrap();
    }

    #[test]
    fn a_wrong_type_and_an_unknown_field_are_told_by_name() {
        let mut table = Table::parse(r#"{"flag": 1, "list": ["a", 2], "more": 300}"#).unwrap();
        assert_eq!(table.flag("flag").unwrap_err().detail, "`flag` isn't true or false");
        assert_eq!(table.texts("list").unwrap_err().detail, "`list` isn't a list of strings");
        assert_eq!(table.number::<u8>("more").unwrap_err().detail, "`more` isn't a number in range");
        assert_eq!(Table::parse(r#"{"x": 1}"#).unwrap().finish().unwrap_err().detail, "unknown field `x`");
    }

    #[test]
    fn what_is_not_a_table_is_refused() {
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(40), "]".repeat(40));
        for json in [
            "",
            "[]",
            "1",
            "{",
            "{}}",
            "{} {}",
            r#"{"a"}"#,
            r#"{"a": 1,}"#,
            r#"{"a": 1 "b": 2}"#,
            r#"{"a": [1,]}"#,
            r#"{"a": tru}"#,
            r#"{"a": "\x"}"#,
            r#"{"a": "\ud83d"}"#,
            r#"{"a": "open}"#,
            &deep,
        ] {
            assert!(Table::parse(json).is_err(), "{json}");
        }
        assert_eq!(Table::parse("{}").unwrap(), Table::default());
    }
}
