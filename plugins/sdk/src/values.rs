//! The values that the host hands over, slot by slot.

use crate::json::Value;

/// The bytes in slot `n`, if the request has such a thing.
#[must_use]
pub fn bytes(values: &[Option<Vec<u8>>], n: usize) -> Option<&[u8]> {
    values.get(n)?.as_deref()
}

/// The text in slot `n`, if the request has such a thing and it is UTF-8.
#[must_use]
pub fn text(values: &[Option<Vec<u8>>], n: usize) -> Option<&str> {
    std::str::from_utf8(bytes(values, n)?).ok()
}

/// The JSON value in slot `n`: what `body-json` and `body-tokens` hand over.
///
/// ```
/// let values = vec![Some(b"[12,5]".to_vec()), None];
/// let counts = holm_sdk::parsed(&values, 0).unwrap();
/// assert_eq!(counts.at("/1").and_then(|count| count.as_number()), Some(5));
/// assert_eq!(holm_sdk::parsed(&values, 1), None);
/// ```
#[must_use]
pub fn parsed(values: &[Option<Vec<u8>>], n: usize) -> Option<Value> {
    Value::parse(text(values, n)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_read_as_what_it_holds() {
        let values = [Some(b"\"a\"".to_vec()), Some(vec![0xff]), Some(vec![]), None];
        assert_eq!((bytes(&values, 1), bytes(&values, 2), bytes(&values, 3)), (Some(&[0xff][..]), Some(&[][..]), None));
        assert_eq!((text(&values, 0), text(&values, 1), text(&values, 2)), (Some("\"a\""), None, Some("")));
        assert_eq!(parsed(&values, 0), Some(Value::Text("a".into())));
        assert_eq!((parsed(&values, 2), bytes(&values, 4)), (None, None));
    }
}
