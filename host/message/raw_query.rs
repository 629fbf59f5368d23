//! Characters that clients send raw in a query although no URI can have them: `"`, `<` and `>`, as in JSON. Origins that
//! are asked directly get them, and may have signed them; the types of URIs don't take them. So between the listener and
//! the connection to an origin each is *marked*: a character of Unicode's private use area stands for it. A request that
//! has such a character itself is refused, so that a mark always stands for a raw one: the listener knows how many it has
//! marked. Only HTTP/1.1 can have them raw; where it can't be, they are percent-encoded.

use std::borrow::Cow;

/// What leads the mark of a character in UTF-8; the character itself with the highest bit set ends it: U+E022, U+E03C,
/// U+E03E.
const LEAD: [u8; 2] = [0xEE, 0x80];

/// Bytes of a mark.
const MARK: usize = 3;

const fn is_raw(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>')
}

/// Returns the character that the mark at the beginning stands for, if there is one.
const fn meant(text: &[u8]) -> Option<u8> {
    match text {
        [lead, next, last, ..] if *lead == LEAD[0] && *next == LEAD[1] && is_raw(*last & 0x7F) && *last & 0x80 != 0 => {
            Some(*last & 0x7F)
        }
        _ => None,
    }
}

/// Returns where the query of a request line lies, without its `?`: from there to the last space. `None` if it has none,
/// or isn't a line of `METHOD target HTTP/…`.
fn query(line: &[u8]) -> Option<(usize, usize)> {
    let method = line.iter().position(|byte| *byte == b' ')?;
    let end = method + 1 + line[method + 1..].iter().position(|byte| *byte == b' ')?;
    let is_token = line[..method].iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    if method == 0 || !is_token || !line[end + 1..].starts_with(b"HTTP/1.") {
        return None;
    }
    let begin = method + 1 + line[method + 1..end].iter().position(|byte| *byte == b'?')? + 1;
    Some((begin, end))
}

/// Returns a request line with the raw characters of its query marked; `None` if there are none.
#[must_use]
pub fn marked(line: &[u8]) -> Option<Vec<u8>> {
    if !line.iter().any(|byte| is_raw(*byte)) {
        return None;
    }
    let (begin, end) = query(line)?;
    let mut whole = line[..begin].to_vec();
    for byte in &line[begin..end] {
        if is_raw(*byte) {
            whole.extend_from_slice(&LEAD);
            whole.push(byte | 0x80);
        } else {
            whole.push(*byte);
        }
    }
    if whole.len() == end {
        return None;
    }
    whole.extend_from_slice(&line[end..]);
    Some(whole)
}

/// Returns a request line with the marks of its query raw again; `None` if there are none.
#[must_use]
pub fn unmarked(line: &[u8]) -> Option<Vec<u8>> {
    if !line.contains(&LEAD[0]) {
        return None;
    }
    let (begin, end) = query(line)?;
    let (mut whole, mut at) = (line[..begin].to_vec(), begin);
    while at < end {
        match meant(&line[at..end]) {
            Some(byte) => {
                whole.push(byte);
                at += MARK;
            }
            None => {
                whole.push(line[at]);
                at += 1;
            }
        }
    }
    if whole.len() == end {
        return None;
    }
    whole.extend_from_slice(&line[end..]);
    Some(whole)
}

/// Returns how many marks a target's query has.
#[must_use]
pub fn marks(query: Option<&str>) -> usize {
    match query.map(str::as_bytes) {
        Some(text) if text.contains(&LEAD[0]) => (0..text.len()).filter(|at| meant(&text[*at..]).is_some()).count(),
        _ => 0,
    }
}

/// Returns how many characters were marked to make a request line of `marked` bytes of one of `len`.
#[must_use]
pub const fn marked_in(len: usize, marked: usize) -> usize {
    marked.saturating_sub(len) / (MARK - 1)
}

/// Whether a target's query has marks.
#[must_use]
pub fn is_marked(query: Option<&str>) -> bool {
    marks(query) > 0
}

/// Returns a query with its marks percent-encoded, as what they stand for.
#[must_use]
pub fn encoded(query: &str) -> Cow<'_, str> {
    if !is_marked(Some(query)) {
        return Cow::Borrowed(query);
    }
    // The marks as characters.
    let marks = [('\u{E022}', "%22"), ('\u{E03C}', "%3C"), ('\u{E03E}', "%3E")];
    let text = marks.iter().fold(query.to_owned(), |text, (mark, escape)| text.replace(*mark, escape));
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_query_of_a_request_line_is_marked() {
        let cases = [
            ("GET /x?q={\"a\":1} HTTP/1.1\r\n", Some("GET /x?q={\u{E022}a\u{E022}:1} HTTP/1.1\r\n")),
            ("POST http://a/?<b> HTTP/1.0\r\n", Some("POST http://a/?\u{E03C}b\u{E03E} HTTP/1.0\r\n")),
            ("GET /x?q=1 HTTP/1.1\r\n", None),
            ("GET /\"x HTTP/1.1\r\n", None),
            ("GET /\"x\"?q HTTP/1.1\r\n", None),
            ("X-A: \"b\" HTTP/1.1\r\n", None),
            ("a \"?\"\r\n", None),
            (" /?\" HTTP/1.1\r\n", None),
            ("GET /?\" HTTP/2.0\r\n", None),
            ("GET /?\" x HTTP/1.1\r\n", None),
            ("", None),
        ];
        for (line, wanted) in cases {
            let marked = marked(line.as_bytes());
            assert_eq!(marked.as_deref(), wanted.map(str::as_bytes), "{line}");
            if let Some(marked) = marked {
                assert_eq!(unmarked(&marked).unwrap(), line.as_bytes());
                let raw = line.bytes().filter(|byte| is_raw(*byte)).count();
                assert_eq!(marked_in(line.len(), marked.len()), raw, "{line}");
                assert_eq!(marks(std::str::from_utf8(&marked).ok()), raw, "{line}");
            }
        }
    }

    #[test]
    fn marks_are_what_they_stand_for() {
        assert_eq!(encoded("a=\u{E022}\u{E03C}\u{E03E}&b=%22"), "a=%22%3C%3E&b=%22");
        assert!(matches!(encoded("a=\u{E021}é"), Cow::Borrowed(_)));
        for (query, wanted) in [(None, false), (Some("a"), false), (Some("\u{E021}"), false), (Some("\u{E03E}"), true)]
        {
            assert_eq!(is_marked(query), wanted, "{query:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_marked_comes_back(query in "[ -~é]{0,20}") {
            let line = format!("GET /?{query} HTTP/1.1\r\n").into_bytes();
            if let Some(marked) = marked(&line) {
                prop_assert_eq!(unmarked(&marked), Some(line));
            }
        }
    }
}
