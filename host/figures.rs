//! Formats of numbers for people.

/// Formats a number with thousands separated by a comma.
pub(crate) fn count(number: u64) -> String {
    grouped(number, ',')
}

/// Formats a number with thousands separated by `separator`.
pub(crate) fn grouped(number: u64, separator: char) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(separator);
        }
        text.push(digit);
    }
    text
}
