//! Where two values differ.

use serde_json::Value;

/// One place where two values differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// A pointer (RFC 6901); empty for the whole.
    pub path: String,
    /// The one value there, if there is any.
    pub one: Option<Value>,
    /// The other.
    pub other: Option<Value>,
}

/// Returns all places where two values differ, as deep down as they can be told.
#[must_use]
pub fn differences(one: &Value, other: &Value) -> Vec<Difference> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
}
