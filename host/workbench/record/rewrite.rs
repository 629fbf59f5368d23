//! Writing an expectation into a line that otherwise stays as it is.

use std::fmt;

use serde::{
    Deserializer as _,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::policy::Hook;

/// The line with this expectation in place of its own. A line that is no object comes back as it is.
pub(in crate::workbench) fn with_expectation(line: &str, expect: &[(Hook, Value)]) -> String {
    let Ok(mut members) = serde_json::Deserializer::from_str(line).deserialize_map(Members) else {
        return line.to_owned();
    };
    let decisions: Vec<String> = expect.iter().map(|(hook, value)| format!("\"{}\":{value}", hook.name())).collect();
    let decisions = format!("{{{}}}", decisions.join(","));
    match members.iter_mut().find(|(name, _)| name == "expect") {
        Some((_, value)) => *value = decisions,
        None => members.push(("expect".to_owned(), decisions)),
    }
    let members: Vec<String> =
        members.iter().map(|(name, value)| format!("{}:{value}", Value::from(&**name))).collect();
    format!("{{{}}}", members.join(","))
}

/// An object's members in their order, each as it is written.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            members.push((name, value.get().to_owned()));
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_rest_of_a_line_keeps_its_words() {
        let expect = [(Hook::Key, json!({"bypass": "no"})), (Hook::Prefetch, json!([]))];
        let wanted = r#""expect":{"key":{"bypass":"no"},"prefetch":[]}"#;
        for (line, after) in [
            (
                r#"{"request": {"url": "http://a/", "json": {"b": 1.0}}}"#,
                r#"{"request":{"url": "http://a/", "json": {"b": 1.0}},EXPECT}"#,
            ),
            (r#"{"z":1,"expect":{"key":1},"na\"me":"x"}"#, r#"{"z":1,EXPECT,"na\"me":"x"}"#),
            ("[1]", "[1]"),
        ] {
            assert_eq!(with_expectation(line, &expect), after.replace("EXPECT", wanted), "{line}");
        }
    }
}
