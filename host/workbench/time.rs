//! Times as logs write them (RFC 3339).

use crate::clock::Timestamp;

const DAY_MS: i64 = 86_400_000;

/// Reads `2025-11-21T02:16:00.007Z` or `2025-11-21T03:16:00+01:00`. None if it isn't one, or before 1970.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_at_checked(10)?;
    let [year, month, day] = numbers(date, b'-', [4, 2, 2])?;
    let (time, rest) = rest.strip_prefix(['T', 't', ' '])?.split_at_checked(8)?;
    let [hour, minute, second] = numbers(time, b':', [2, 2, 2])?;
    let fits = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !fits {
        return None;
    }
    let digits = rest.strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let (fraction, offset) = if digits > 0 { rest.split_at_checked(digits + 1)? } else { ("", rest) };
    let millis: i64 = format!("{:0<3}", fraction.trim_start_matches('.')).get(..3)?.parse().ok()?;
    let seconds = hour * 3_600 + minute * 60 + second;
    let at = days(year, month, day) * DAY_MS + seconds * 1_000 + millis - offset_ms(offset)?;
    u64::try_from(at).ok().map(Timestamp)
}

/// As `2025-11-21T02:16:00Z`.
pub(super) fn format(time: Timestamp) -> String {
    let seconds = time.seconds();
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = date(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Three numbers of so many digits each.
fn numbers(text: &str, separator: u8, digits: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(char::from(separator));
    let mut numbers = [0; 3];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part =
            parts.next().filter(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

fn offset_ms(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let [hours, minutes, _] = numbers(&format!("{rest}:00"), b':', [2, 2, 2])?;
    Some(sign * (hours * 60 + minutes) * 60_000)
}

/// Days from 1970-01-01 in the Gregorian calendar. Years begin in March here, so that a leap day is their last.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468
}

fn date(days_since: u64) -> (i64, i64, i64) {
    let wanted = i64::try_from(days_since).unwrap_or(i64::MAX / 2);
    // A guess that is never late, put right by a step or two.
    let mut year = 1970 + wanted / 366;
    while days(year + 1, 1, 1) <= wanted {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| days(year, *month, 1) <= wanted).unwrap_or(1);
    (year, month, wanted - days(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read() {
        for (text, wanted) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2025-11-21T02:16:00.007Z", Some(1_763_691_360_007)),
            ("2025-11-21T03:16:00.0079+01:00", Some(1_763_691_360_007)),
            ("2025-11-20t21:46:00.5-04:30", Some(1_763_691_360_500)),
            ("2000-02-29T00:00:00Z", Some(951_782_400_000)),
            ("2000-03-01T00:00:00.001Z", Some(951_868_800_001)),
            ("1969-12-31T23:59:59Z", None),
            ("2025-11-21T02:16:00", None),
            ("2025-11-21", None),
            ("2025-13-21T02:16:00Z", None),
            ("2025-11-21T24:16:00Z", None),
            ("2025-1-21T02:16:000Z", None),
            ("2025-11-21T02:16:00+1:00", None),
            ("Fri, 21 Nov 2025 02:16:00 GMT", None),
            ("äöüßäöüß", None),
            ("", None),
        ] {
            assert_eq!(parse(text), wanted.map(Timestamp), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in 0_u64..253_402_300_800) {
            let time = Timestamp(seconds * 1_000);
            prop_assert_eq!(parse(&format(time)), Some(time));
        }

        #[test]
        fn no_text_is_too_odd(text in "[0-9TZ:+.\\-ä ]{0,30}") {
            let _ = parse(&text);
        }
    }
}
