//! Values of structured fields (RFC 9651) as this node writes them, and the lines of a field as one value.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Returns all lines of a field as one value (RFC 9110, section 5.3; RFC 9651, section 4.2); `None` if it isn't there.
#[must_use]
pub fn joined<'h>(headers: &'h HeaderMap, field: &HeaderName) -> Option<Cow<'h, [u8]>> {
    joined_by(headers.get_all(field).iter().map(HeaderValue::as_bytes), b", ")
}

/// Joins values; a single one, the usual case, stays borrowed.
pub fn joined_by<'v>(mut values: impl Iterator<Item = &'v [u8]>, separator: &[u8]) -> Option<Cow<'v, [u8]>> {
    let mut whole = Cow::Borrowed(values.next()?);
    for value in values {
        let owned = whole.to_mut();
        owned.extend_from_slice(separator);
        owned.extend_from_slice(value);
    }
    Some(whole)
}

/// Writes a token if it is one (section 3.3.4), else a string.
pub fn item(text: &mut String, value: &str) {
    let tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte);
    let token = value.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'*');
    if token && value.bytes().all(tchar) {
        text.push_str(value);
    } else {
        string(text, value);
    }
}

/// Writes a string (section 3.3.3), with what it can't hold replaced.
pub fn string(text: &mut String, value: &str) {
    text.push('"');
    for character in value.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            ' '..='~' => text.push(character),
            _ => text.push('?'),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_token_is_a_string() {
        for (value, as_item, as_string) in [
            ("holm", "holm", "\"holm\""),
            ("*a/b", "*a/b", "\"*a/b\""),
            ("1st", "\"1st\"", "\"1st\""),
            ("a \"b\" é", "\"a \\\"b\\\" ?\"", "\"a \\\"b\\\" ?\""),
            ("", "\"\"", "\"\""),
        ] {
            let (mut one, mut other) = (String::new(), String::new());
            item(&mut one, value);
            string(&mut other, value);
            assert_eq!((one.as_str(), other.as_str()), (as_item, as_string));
        }
    }
}
