//! Where two decisions differ.

use std::fmt::Write;

use serde_json::Value;

/// Characters of a value that are shown.
const SHOWN_CHARS_MAX: usize = 160;

/// One place where two values differ.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    /// A pointer (RFC 6901); empty for the whole.
    path: String,
    one: Option<Value>,
    other: Option<Value>,
}

/// All places where two values differ, as deep down as they can be told.
pub(super) fn differences(one: &Value, other: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(String::new(), Some(one), Some(other), &mut found);
    found
}

fn compare(path: String, one: Option<&Value>, other: Option<&Value>, found: &mut Vec<Difference>) {
    match (one, other) {
        (Some(one), Some(other)) if one == other => {}
        // Objects that have nothing in common are two things, not one that was changed.
        (Some(Value::Object(a)), Some(Value::Object(b))) if a.keys().any(|name| b.contains_key(name)) => {
            for name in a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))) {
                let step = name.replace('~', "~0").replace('/', "~1");
                compare(format!("{path}/{step}"), a.get(name), b.get(name), found);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if !a.is_empty() && !b.is_empty() => {
            for at in 0..a.len().max(b.len()) {
                compare(format!("{path}/{at}"), a.get(at), b.get(at), found);
            }
        }
        _ => found.push(Difference { path, one: one.cloned(), other: other.cloned() }),
    }
}

/// Differences as lines: each place, and what either side has there.
pub(super) fn render(differences: &[Difference], [one, other]: [&str; 2], indent: usize) -> String {
    let width = one.len().max(other.len());
    let mut text = String::new();
    for difference in differences {
        let [left, right] = shown(difference.one.as_ref(), difference.other.as_ref());
        let path = if difference.path.is_empty() { String::new() } else { format!("{}  ", difference.path) };
        // Writing to a String can't fail.
        let _ = writeln!(text, "{:indent$}{path}{one:width$}  {left}", "");
        let gap = path.chars().count();
        let _ = writeln!(text, "{:indent$}{:gap$}{other:width$}  {right}", "", "");
    }
    text
}

/// Both values, long ones cut to what is around the first difference.
fn shown(one: Option<&Value>, other: Option<&Value>) -> [String; 2] {
    let texts = [one, other].map(|value| value.map_or_else(|| "nothing".to_owned(), Value::to_string));
    let same = texts[0].chars().zip(texts[1].chars()).take_while(|(a, b)| a == b).count();
    // Some of what they have in common tells where one is.
    let from = same.saturating_sub(SHOWN_CHARS_MAX / 4);
    texts.map(|text| {
        let length = text.chars().count();
        if length <= SHOWN_CHARS_MAX {
            return text;
        }
        let from = from.min(length - SHOWN_CHARS_MAX);
        let cut: String = text.chars().skip(from).take(SHOWN_CHARS_MAX).collect();
        let [before, after] = [from > 0, from + SHOWN_CHARS_MAX < length].map(|cut| if cut { "…" } else { "" });
        format!("{before}{cut}{after}")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(one: &Value, other: &Value) -> String {
        render(&differences(one, other), ["expected", "got"], 2)
    }

    #[test]
    fn differences_are_found_as_deep_as_they_are() {
        for (one, other, wanted) in [
            (json!({"a": [1, {"b": 2}]}), json!({"a": [1, {"b": 2}]}), vec![]),
            (json!({"a": [1, {"b": 2}]}), json!({"a": [1, {"b": 3}]}), vec!["/a/1/b"]),
            (json!({"a": [1]}), json!({"a": [2, 3]}), vec!["/a/0", "/a/1"]),
            (json!({"a": 1, "b": 2}), json!({"b": 3, "c": 4}), vec!["/a", "/b", "/c"]),
            (json!({"x/y": {"~": 1}}), json!({"x/y": {"~": 2}}), vec!["/x~1y/~0"]),
            (json!({"lookup": ["a"]}), json!({"bypass": "no"}), vec![""]),
            (json!([]), json!([1]), vec![""]),
            (json!(1), json!("1"), vec![""]),
        ] {
            let paths: Vec<String> = differences(&one, &other).into_iter().map(|difference| difference.path).collect();
            assert_eq!(paths, wanted, "{one} {other}");
        }
    }

    #[test]
    fn each_side_has_a_line() {
        let wanted = "  /lookup/0  expected  \"a\"\n             got       \"b\"\n";
        assert_eq!(rendered(&json!({"lookup": ["a"]}), &json!({"lookup": ["b"]})), wanted);
        let wanted = "  expected  {\"lookup\":[\"a\"]}\n  got       {\"bypass\":\"no\"}\n";
        assert_eq!(rendered(&json!({"lookup": ["a"]}), &json!({"bypass": "no"})), wanted);
        assert!(rendered(&json!({"a": 1, "b": 1}), &json!({"a": 1})).contains("got       nothing"));
    }

    #[test]
    fn long_values_are_cut_around_what_differs() {
        let [one, other] = ["x", "y"].map(|middle| format!("{}{middle}{}", "ä".repeat(500), "b".repeat(500)));
        let text = rendered(&json!(one), &json!(other));
        assert!(text.contains("expected  …ä") && text.contains("xb") && text.contains("yb"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() < 200), "{text}");
    }
}
