//! The notation of values in files and in flags: sizes, durations, counts, the access log's destination.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, de};
use thiserror::Error;

use super::AccessLog;
use crate::figures;

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;

pub(super) const MINUTE_MS: u64 = 60_000;
pub(super) const HOUR_MS: u64 = 60 * MINUTE_MS;
pub(super) const DAY_MS: u64 = 24 * HOUR_MS;
pub(super) const YEAR_MS: u64 = 365 * DAY_MS;

/// Powers of 1024 come first, so that a size is shown in them where they divide it.
const UNITS: [(&str, u64); 9] = [
    ("TiB", TIB),
    ("GiB", GIB),
    ("MiB", MIB),
    ("KiB", KIB),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A number of bytes, written as an integer or as text with a unit: `"256MiB"`, `"1GB"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Why a text is no size.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ByteSizeError {
    /// It doesn't begin with a digit.
    #[error("a size begins with a whole number, as in `256MiB` or `1GB`")]
    NoNumber,
    /// What follows the digits is no unit.
    #[error("`{0}` is no unit: write a whole number and B, kB, MB, GB, TB, KiB, MiB, GiB or TiB")]
    UnknownUnit(String),
    /// More than 2^64 - 1 bytes.
    #[error("this size is beyond what can be counted")]
    TooLarge,
}

/// Why a text is no destination of the access log.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{0}` is neither `off` nor `stdout`, nor a path: a file in the working directory is written `./{0}`")]
pub struct AccessLogError(String);

impl ByteSize {
    /// Returns so many times 1024 bytes.
    #[must_use]
    pub const fn kib(count: u64) -> Self {
        Self(count * KIB)
    }

    /// Returns so many times 1024² bytes.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count * MIB)
    }

    /// Returns so many times 1024³ bytes.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count * GIB)
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(ByteSizeError::NoNumber);
        }
        let number: u64 = number.parse().map_err(|_| ByteSizeError::TooLarge)?;
        number.checked_mul(factor(unit.trim_start())?).map(Self).ok_or(ByteSizeError::TooLarge)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) =
            UNITS.into_iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor)).unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Size)
    }
}

impl FromStr for AccessLog {
    type Err = AccessLogError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "stdout" => Ok(Self::Stdout),
            // A bare word is more likely a mistake than a file's name.
            path if path.contains(['/', '.']) => Ok(Self::File(PathBuf::from(path))),
            word => Err(AccessLogError(word.to_owned())),
        }
    }
}

impl fmt::Display for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A number whose key gives it its unit.
pub(super) trait Quantity: Copy + fmt::Display + From<u64> {
    fn number(self) -> u64;
}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $suffix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name(u64);

        impl From<u64> for $name {
            fn from(number: u64) -> Self {
                Self(number)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", grouped(self.0), $suffix)
            }
        }

        impl Quantity for $name {
            fn number(self) -> u64 {
                self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_u64(Whole($expected)).map(Self)
            }
        }
    };
}

quantity!(
    /// How many.
    Count, "a whole number, 0 or more", ""
);
quantity!(
    /// Milliseconds.
    Millis, "a whole number of milliseconds, 0 or more", " ms"
);
quantity!(
    /// Microseconds.
    Micros, "a whole number of microseconds, 0 or more", " µs"
);

impl From<u64> for ByteSize {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl Quantity for ByteSize {
    fn number(self) -> u64 {
        self.0
    }
}

fn factor(unit: &str) -> Result<u64, ByteSizeError> {
    if unit.is_empty() {
        return Ok(1);
    }
    UNITS
        .into_iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .map(|(_, factor)| factor)
        .ok_or_else(|| ByteSizeError::UnknownUnit(unit.to_owned()))
}

/// Formats `10000` as `10_000`, as the file may have it.
fn grouped(number: u64) -> String {
    figures::grouped(number, '_')
}

/// A visitor of whole numbers, with what is expected instead of anything else.
struct Whole(&'static str);

impl<'de> de::Visitor<'de> for Whole {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
        u64::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
    }
}

struct Size;

impl<'de> de::Visitor<'de> for Size {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size: whole bytes, or text such as \"256MiB\"")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<ByteSize, E> {
        Ok(ByteSize(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<ByteSize, E> {
        u64::try_from(number).map(ByteSize).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read() {
        let table = [
            ("0", 0),
            ("1024", 1024),
            ("17B", 17),
            ("64KiB", 64 * 1024),
            ("64kib", 64 * 1024),
            ("1kB", 1000),
            ("1KB", 1000),
            ("256MiB", 256 * 1024 * 1024),
            (" 256 MiB ", 256 * 1024 * 1024),
            ("1GB", 1_000_000_000),
            ("3TiB", 3 * 1024 * 1024 * 1024 * 1024),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in table {
            assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_its_reason() {
        let unit = |it: &str| ByteSizeError::UnknownUnit(it.to_owned());
        let table = [
            ("", ByteSizeError::NoNumber),
            ("MiB", ByteSizeError::NoNumber),
            ("-1", ByteSizeError::NoNumber),
            ("1.5GiB", unit(".5GiB")),
            ("1M", unit("M")),
            ("1 mebibyte", unit("mebibyte")),
            ("1é", unit("é")),
            ("18446744073709551616", ByteSizeError::TooLarge),
            ("99999999TiB", ByteSizeError::TooLarge),
        ];
        for (text, reason) in table {
            assert_eq!(text.parse::<ByteSize>(), Err(reason), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_divides_them() {
        let table = [(0, "0B"), (1, "1B"), (1024, "1KiB"), (1000, "1kB"), (1 << 30, "1GiB"), (1_000_000_000, "1GB")];
        for (bytes, text) in table {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }

    #[test]
    fn numbers_are_shown_as_the_file_may_write_them() {
        let table = [(0, "0"), (999, "999"), (1000, "1_000"), (86_400_000, "86_400_000")];
        for (number, text) in table {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(Millis(1500).to_string(), "1_500 ms");
        assert_eq!(Micros(7).to_string(), "7 µs");
    }

    #[test]
    fn access_log_destinations() {
        assert_eq!("off".parse::<AccessLog>(), Ok(AccessLog::Off));
        assert_eq!("stdout".parse::<AccessLog>(), Ok(AccessLog::Stdout));
        for path in ["./log", "access.log", "/var/log/holm"] {
            assert_eq!(path.parse::<AccessLog>(), Ok(AccessLog::File(PathBuf::from(path))));
        }
        for word in ["", "stdot", "none"] {
            assert_eq!(word.parse::<AccessLog>(), Err(AccessLogError(word.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn a_size_reads_back_as_shown(bytes in any::<u64>()) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse::<ByteSize>(), Ok(ByteSize(bytes)));
        }
    }
}
