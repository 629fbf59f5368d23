//! `Incremental` (RFC 10036): a message whose sender wants each piece of its content forwarded as it comes.

use http::{HeaderMap, HeaderName};
use sfv::{Item, Parser};

use super::structured::joined;

/// The header field.
pub const INCREMENTAL: HeaderName = HeaderName::from_static("incremental");

/// Whether a message is to be forwarded while it arrives, by its own header fields. What isn't a Boolean says nothing,
/// and unknown parameters are ignored (section 3).
#[must_use]
pub fn is_incremental(headers: &HeaderMap) -> bool {
    let Some(text) = joined(headers, &INCREMENTAL) else { return false };
    let item = Parser::new(&text).parse::<Item>();
    item.is_ok_and(|item| item.bare_item.as_boolean() == Some(true))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_true_boolean_asks_for_it() {
        for (lines, wanted) in [
            (&[][..], false),
            (&["?1"], true),
            (&[" ?1 "], true),
            // "Receivers MUST ignore unknown parameters."
            (&["?1;a=1;b"], true),
            (&["?0"], false),
            // "Only Boolean values are valid; a recipient ignores the field if it contains any other type."
            (&["1"], false),
            (&["true"], false),
            (&["\"?1\""], false),
            (&["?1, ?1"], false),
            (&["?1", "?1"], false),
            (&["?2"], false),
            (&[""], false),
        ] {
            let line = |line: &&'static str| (INCREMENTAL, HeaderValue::from_static(line));
            let headers: HeaderMap = lines.iter().map(line).collect();
            assert_eq!(is_incremental(&headers), wanted, "{lines:?}");
        }
    }
}
