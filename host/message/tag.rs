//! Names of tags: what a response can be purged by.

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

#[cfg(test)]
mod tests {
    use super::*;

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
