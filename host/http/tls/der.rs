//! The few fields of a certificate that serving it needs (RFC 5280, section 4.1), read from its DER. What is wrong with
//! the rest of it is a matter of the TLS library, which has read it by then.

/// Tags of DER (X.690, section 8.1.2).
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The version, which certificates of version 1 don't have.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// A `dNSName` among alternative names.
const DNS_NAME: u8 = 0x82;

/// The identifier 2.5.29.17: alternative names of the subject.
const ALTERNATIVE_NAMES: [u8; 3] = [0x55, 0x1d, 0x11];

/// The parts of a certificate that serving it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The names of hosts that it is for, in lower case; one may begin with `*.`.
    pub(super) names: Vec<String>,
    /// The last second at which it is valid, since 1970.
    pub(super) not_after: i64,
    /// Its serial number as DER has it, tag and length included.
    pub(super) serial: Vec<u8>,
}

/// Reads a certificate; `None` if it doesn't have the form of one.
pub(super) fn read(certificate: &[u8]) -> Option<Facts> {
    let mut certificate = Reader(Reader(certificate).take(SEQUENCE)?.contents);
    let mut fields = Reader(certificate.take(SEQUENCE)?.contents);
    if fields.0.first() == Some(&VERSION) {
        fields.next()?;
    }
    let serial = fields.take(INTEGER)?.whole.to_vec();
    let _signature = fields.take(SEQUENCE)?;
    let _issuer = fields.take(SEQUENCE)?;
    let mut validity = Reader(fields.take(SEQUENCE)?.contents);
    let _not_before = validity.next()?;
    let not_after = seconds(&validity.next()?)?;
    let _subject = fields.take(SEQUENCE)?;
    let _public_key = fields.take(SEQUENCE)?;
    let names = fields.find(EXTENSIONS).and_then(|extensions| names(extensions.contents)).unwrap_or_default();
    Some(Facts { names, not_after, serial })
}

/// Returns the names of hosts in a list of extensions.
fn names(extensions: &[u8]) -> Option<Vec<String>> {
    let mut extensions = Reader(Reader(extensions).take(SEQUENCE)?.contents);
    let mut found = Vec::new();
    while let Some(extension) = extensions.next() {
        let mut extension = Reader(extension.contents);
        if extension.take(OBJECT_IDENTIFIER)?.contents != ALTERNATIVE_NAMES {
            continue;
        }
        // Whether it is critical may stand in front of its value.
        let value = extension.find(OCTET_STRING)?;
        let mut names = Reader(Reader(value.contents).take(SEQUENCE)?.contents);
        while let Some(name) = names.next() {
            if name.tag == DNS_NAME
                && let Ok(name) = str::from_utf8(name.contents)
            {
                found.push(name.to_ascii_lowercase());
            }
        }
    }
    Some(found)
}

/// Returns a time in seconds since 1970 (RFC 5280, section 4.1.2.5).
fn seconds(time: &Element<'_>) -> Option<i64> {
    let text = str::from_utf8(time.contents).ok()?.strip_suffix('Z')?;
    let (year, rest) = match time.tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year = number(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    let mut parts = [0; 5];
    let mut rest = rest;
    for part in &mut parts {
        let (digits, more) = rest.split_at_checked(2)?;
        (*part, rest) = (number(digits)?, more);
    }
    let [month, day, hour, minute, second] = parts;
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day);
    (rest.is_empty() && is_date).then(|| days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn number(digits: &str) -> Option<i64> {
    // `parse` alone would let a sign pass.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Returns the days from 1970-01-01 to a date of the Gregorian calendar.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// One element of DER.
struct Element<'a> {
    tag: u8,
    contents: &'a [u8],
    /// The contents with their tag and length.
    whole: &'a [u8],
}

/// Elements that are still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Takes the next element; `None` at the end, and for what no certificate has: tags and lengths of many bytes.
    fn next(&mut self) -> Option<Element<'a>> {
        let [tag, first, rest @ ..] = self.0 else { return None };
        let (header, length) = match *first {
            short @ 0..=0x7f => (2, usize::from(short)),
            long @ 0x81..=0x83 => {
                let digits = rest.get(..usize::from(long & 0x7f))?;
                (2 + digits.len(), digits.iter().fold(0, |length, &byte| (length << 8) | usize::from(byte)))
            }
            _ => return None,
        };
        let (whole, rest) = self.0.split_at_checked(header + length)?;
        self.0 = rest;
        Some(Element { tag: *tag, contents: &whole[header..], whole })
    }

    /// Takes the next element, which must have this tag.
    fn take(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }

    /// Takes elements up to the first of this tag.
    fn find(&mut self, tag: u8) -> Option<Element<'a>> {
        loop {
            let element = self.next()?;
            if element.tag == tag {
                return Some(element);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, SerialNumber, date_time_ymd};

    use super::*;

    fn made(names: &[&str], year: i32) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(year, 1, 2);
        params.serial_number = Some(SerialNumber::from_slice(&[7; 9]));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_has_its_names_its_end_and_its_number() {
        let facts = read(&made(&["Shop.Example", "*.shop.example", "192.0.2.1"], 2030)).unwrap();
        assert_eq!(facts.names, ["shop.example", "*.shop.example"]);
        assert_eq!(facts.not_after, 1_893_542_400);
        assert_eq!(facts.serial, [&[INTEGER, 9][..], &[7; 9]].concat());
        // Years from 2050 on are written in another form.
        assert_eq!(read(&made(&[], 2100)).unwrap(), Facts { names: Vec::new(), not_after: 4_102_531_200, ..facts });
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for (tag, text, wanted) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (UTC_TIME, "500101000000Z", Some(-631_152_000)),
            (GENERALIZED_TIME, "20240229123456Z", Some(1_709_210_096)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (GENERALIZED_TIME, "20241329123456Z", None),
            (GENERALIZED_TIME, "2024022912345Z", None),
            (GENERALIZED_TIME, "202402291234567Z", None),
            (UTC_TIME, "+00101000000Z", None),
            (UTC_TIME, "700101000000", None),
            (INTEGER, "700101000000Z", None),
        ] {
            let element = Element { tag, contents: text.as_bytes(), whole: &[] };
            assert_eq!(seconds(&element), wanted, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes: Vec<u8>, at in 0_usize..400, byte: u8) {
            read(&bytes);
            let mut certificate = made(&["a.example"], 2030);
            if let Some(changed) = certificate.get_mut(at) {
                *changed = byte;
            }
            read(&certificate);
            read(&certificate[..at.min(certificate.len())]);
        }
    }
}
