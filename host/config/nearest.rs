//! "Did you mean": the known name closest to a mistyped one.

/// Longer texts are no slips of a name, and the comparison is quadratic.
const CHARS_MAX: usize = 64;

/// Returns the known name that is at most a third of its letters away from `given`.
pub(super) fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    if given.chars().count() > CHARS_MAX {
        return None;
    }
    known
        .iter()
        .map(|&name| (distance(given, name), name))
        .filter(|(distance, name)| *distance <= (name.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// `lead` and all names, quoted, and the nearest one if there is any: what is allowed in place of `given`.
pub(super) fn choices(lead: &str, names: &[&str], given: &str) -> String {
    let all = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match nearest(given, names) {
        Some(name) => format!("{lead} {all}; did you mean `{name}`?"),
        None => format!("{lead} {all}"),
    }
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for (i, x) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in right.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == right[j - 1] && left[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn distances() {
        let table =
            [("", "", 0), ("", "abc", 3), ("http", "http", 0), ("htpt", "http", 1), ("htp", "http", 1), ("a", "b", 1)];
        for (left, right, expected) in table {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
    }

    #[test]
    fn only_near_names_are_offered() {
        let known = ["plain", "json-array", "openai-embeddings"];
        let table = [
            ("jsonarray", Some("json-array")),
            ("openai-embedding", Some("openai-embeddings")),
            ("plian", Some("plain")),
            ("tensor", None),
        ];
        for (given, expected) in table {
            assert_eq!(nearest(given, &known), expected, "{given}");
        }
        assert_eq!(nearest(&"x".repeat(65), &["x"]), None);
        assert_eq!(
            choices("known are", &["web", "models"], "modles"),
            "known are `web`, `models`; did you mean `models`?"
        );
    }

    proptest! {
        #[test]
        fn the_distance_is_symmetric_and_zero_only_to_itself(left in "[abc]{0,6}", right in "[abc]{0,6}") {
            prop_assert_eq!(distance(&left, &right), distance(&right, &left));
            prop_assert_eq!(distance(&left, &right) == 0, left == right);
        }
    }
}
