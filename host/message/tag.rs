//! Names of tags and of cache groups: what a response can be purged by.

/// Bytes of a tag's name.
pub const NAME_BYTES_MAX: usize = 1024;

/// Whether a purge can name this tag: text of 1 to [`NAME_BYTES_MAX`] bytes, without control characters but tabs, and
/// without white space at its ends, which no header field keeps.
#[must_use]
pub fn is_nameable(name: &[u8]) -> bool {
    let is_text = |text: &str| !text.contains(|each: char| each.is_control() && each != '\t');
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.trim_ascii().len() == name.len()
        && str::from_utf8(name).is_ok_and(is_text)
}

/// Characters of a cache group's name; RFC 9875 wants at least 32.
pub const GROUP_CHARS_MAX: usize = 256;

/// Whether a stored response may belong to a cache group of this name: a String (RFC 9651, section 3.3.3) of at most
/// [`GROUP_CHARS_MAX`] characters, which are printable ASCII. The empty name is one.
#[must_use]
pub fn is_group(name: &str) -> bool {
    name.len() <= GROUP_CHARS_MAX && name.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_the_names_that_a_field_can_say() {
        for (name, wanted) in [
            ("shop", true),
            ("", true),
            (" two words \"quoted\" ~", true),
            ("a\tb", false),
            ("gr\u{f6}\u{df}e", false),
            ("\u{7f}", false),
        ] {
            assert_eq!(is_group(name), wanted, "{name:?}");
        }
        assert!(is_group(&"x".repeat(GROUP_CHARS_MAX)) && !is_group(&"x".repeat(GROUP_CHARS_MAX + 1)));
    }

    #[test]
    fn names_that_a_purge_can_say() {
        let (longest, longer) = ("x".repeat(NAME_BYTES_MAX), "x".repeat(NAME_BYTES_MAX + 1));
        for (name, wanted) in [
            (&b"news"[..], true),
            (b"two words, a\ttab", true),
            ("größe".as_bytes(), true),
            (longest.as_bytes(), true),
            (longer.as_bytes(), false),
            (b"", false),
            (b" a", false),
            (b"a\t", false),
            (b"a\nb", false),
            (b"a\x7f", false),
            (b"\xc2\x85", false),
            (b"gr\xf6\xdfe", false),
        ] {
            assert_eq!(is_nameable(name), wanted, "{}", name.escape_ascii());
        }
    }
}
