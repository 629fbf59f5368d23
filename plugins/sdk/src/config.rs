//! The operator's table, read field by field.
//!
//! ```
//! use holm_sdk::config::Table;
//!
//! let mut table = Table::parse(r#"{"tenants": ["acme"], "strict": true}"#)?;
//! let tenants = table.texts("tenants")?.unwrap_or_default();
//! let strict = table.flag("strict")?.unwrap_or(false);
//! table.finish()?;
//! # assert_eq!((tenants, strict), (vec!["acme".to_owned()], true));
//! # Ok::<(), holm_sdk::Fault>(())
//! ```

pub use crate::json::{Table, Value};

use crate::{Encoding, Fault};

/// Fields are taken out by name; [`Table::finish`] refuses what was not taken, so that a misspelt name is an error and
/// not a default.
impl Table {
    /// Reads the JSON that `configure` is given.
    ///
    /// # Errors
    /// It isn't the JSON of a table.
    pub fn parse(json: &str) -> Result<Self, Fault> {
        match Value::parse(json) {
            Some(Value::Table(table)) => Ok(table),
            _ => Err(wrong("the configuration isn't the JSON of a table")),
        }
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
        self.typed(name, "a number in range", |value| value.as_number())
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

    /// Takes a table.
    ///
    /// # Errors
    /// The field is something else.
    pub fn table(&mut self, name: &str) -> Result<Option<Self>, Fault> {
        self.typed(name, "a table", table)
    }

    /// Takes a list of tables.
    ///
    /// # Errors
    /// The field is something else.
    pub fn tables(&mut self, name: &str) -> Result<Option<Vec<Self>>, Fault> {
        self.typed(name, "a list of tables", |value| match value {
            Value::List(values) => values.into_iter().map(table).collect(),
            _ => None,
        })
    }

    /// Takes the name of an encoding: `cl100k-base` or `o200k-base`.
    ///
    /// # Errors
    /// The field is something else.
    pub fn encoding(&mut self, name: &str) -> Result<Option<Encoding>, Fault> {
        self.typed(name, "cl100k-base or o200k-base", |value| match value.as_text() {
            Some("cl100k-base") => Some(Encoding::Cl100kBase),
            Some("o200k-base") => Some(Encoding::O200kBase),
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
            Some((name, _)) => Err(wrong(&["unknown field \"", name, "\""].concat())),
        }
    }

    fn typed<T>(&mut self, name: &str, what: &str, take: impl FnOnce(Value) -> Option<T>) -> Result<Option<T>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => take(value).map(Some).ok_or_else(|| wrong(&["\"", name, "\" isn't ", what].concat())),
        }
    }
}

fn table(value: Value) -> Option<Table> {
    if let Value::Table(table) = value { Some(table) } else { None }
}

fn wrong(detail: &str) -> Fault {
    Fault::new(1, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_by_name_and_type() {
        let json = r#"{"t": "a\n", "f": false, "n": -12, "x": 1.5e3, "l": ["a", "b"], "e": [], "d": {"z": null}, "r": [{}], "v": "cl100k-base"}"#;
        let mut table = Table::parse(json).unwrap();
        assert_eq!(table.text("t").unwrap().as_deref(), Some("a\n"));
        assert_eq!(table.flag("f").unwrap(), Some(false));
        assert_eq!(table.number::<i8>("n").unwrap(), Some(-12));
        assert_eq!(table.number::<f64>("x").unwrap(), Some(1500.0));
        assert_eq!(table.texts("l").unwrap(), Some(vec!["a".into(), "b".into()]));
        assert_eq!(table.texts("e").unwrap(), Some(vec![]));
        assert_eq!(table.table("d").unwrap().unwrap().take("z"), Some(Value::Null));
        assert_eq!(table.tables("r").unwrap(), Some(vec![Table::default()]));
        assert_eq!(table.encoding("v").unwrap(), Some(Encoding::Cl100kBase));
        assert_eq!(table.text("absent").unwrap(), None);
        table.finish().unwrap();
    }

    #[test]
    fn a_wrong_type_and_an_unknown_field_are_reported_by_name() {
        let mut table =
            Table::parse(r#"{"flag": 1, "list": ["a", 2], "more": 300, "rules": [1], "words": "p50k"}"#).unwrap();
        assert_eq!(table.flag("flag").unwrap_err(), Fault::new(1, "\"flag\" isn't true or false"));
        assert_eq!(table.texts("list").unwrap_err().detail, "\"list\" isn't a list of strings");
        assert_eq!(table.number::<u8>("more").unwrap_err().detail, "\"more\" isn't a number in range");
        assert_eq!(table.tables("rules").unwrap_err().detail, "\"rules\" isn't a list of tables");
        assert_eq!(table.encoding("words").unwrap_err().detail, "\"words\" isn't cl100k-base or o200k-base");
        let unknown = Table::parse(r#"{"x": 1}"#).unwrap().finish().unwrap_err();
        assert_eq!(unknown, Fault::new(1, "unknown field \"x\""));
    }

    #[test]
    fn what_is_not_a_table_is_refused() {
        for json in ["", "[]", "1", "{", "{} {}", r#"{"a": 1,}"#] {
            assert_eq!(Table::parse(json).unwrap_err().code, 1, "{json}");
        }
        assert_eq!(Table::parse("{}").unwrap(), Table::default());
    }
}
