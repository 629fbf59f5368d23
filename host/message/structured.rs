//! Values of structured fields (RFC 9651) as this node writes them.

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
