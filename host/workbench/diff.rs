//! Where two decisions differ, as lines for a person.

use std::fmt::Write;

use serde_json::Value;

use crate::policy::difference::Difference;

pub(super) use crate::policy::difference::differences;

/// Characters of a value that are shown.
const SHOWN_CHARS_MAX: usize = 160;

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
