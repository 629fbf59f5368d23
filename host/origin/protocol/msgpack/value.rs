//! MessagePack values as bytes: where one ends, and its canonical form. Nothing is allocated for what a length claims,
//! only for what is there.

use std::ops::Range;

use crate::origin::protocol::{fault::Malformed, json::DEPTH_MAX};

/// The beginning of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    Nil,
    Bool(bool),
    Unsigned(u64),
    /// Below zero.
    Negative(i64),
    /// The bits of a float of 4 bytes.
    Float32(u32),
    /// The bits of a float of 8 bytes.
    Float64(u64),
    /// So many bytes follow.
    Text(usize),
    /// So many bytes follow.
    Binary(usize),
    /// A type, and so many bytes that follow.
    Extension(u8, usize),
    /// So many values follow.
    Array(usize),
    /// So many pairs of values follow.
    Map(usize),
}

/// Reads values one after the other.
pub(super) struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    pub(super) const fn of(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the length of the array that begins here, and steps inside; `None` for another value, which comes next.
    pub(super) fn array(&mut self) -> Result<Option<usize>, Malformed> {
        let start = self.at;
        match self.head()? {
            Head::Array(count) => Ok(Some(count)),
            _ => {
                self.at = start;
                Ok(None)
            }
        }
    }

    /// Returns the number of members of the map that begins here, and steps inside; `None` for another value, which
    /// comes next.
    pub(super) fn map(&mut self) -> Result<Option<usize>, Malformed> {
        let start = self.at;
        match self.head()? {
            Head::Map(count) => Ok(Some(count)),
            _ => {
                self.at = start;
                Ok(None)
            }
        }
    }

    /// Returns the number that comes next, if it is a whole one and not negative, and steps over it.
    pub(super) fn unsigned(&mut self) -> Option<u64> {
        let start = self.at;
        match self.head() {
            Ok(Head::Unsigned(number)) => Some(number),
            _ => {
                self.at = start;
                None
            }
        }
    }

    /// Whether this text comes next; if so, it is stepped over.
    pub(super) fn is_text(&mut self, text: &[u8]) -> bool {
        let start = self.at;
        let is_it = match self.head() {
            Ok(Head::Text(length)) => self.take(length).is_ok_and(|found| found == text),
            _ => false,
        };
        if !is_it {
            self.at = start;
        }
        is_it
    }

    /// Steps over a value and returns where it is.
    pub(super) fn skip(&mut self) -> Result<Range<usize>, Malformed> {
        let start = self.at;
        let mut values = 1_usize;
        while values > 0 {
            let inner = match self.head()? {
                Head::Array(count) => count,
                // Twice as many can't be there, so saturating is as good.
                Head::Map(count) => count.saturating_mul(2),
                head => {
                    self.take(following(head))?;
                    0
                }
            };
            values = (values - 1).saturating_add(inner);
        }
        Ok(start..self.at)
    }

    /// Steps over a value, writes its canonical form, and returns where it is and whether one of its maps has a member
    /// twice; then the last counts.
    pub(super) fn canonical(&mut self, out: &mut Vec<u8>) -> Result<(Range<usize>, bool), Malformed> {
        let start = self.at;
        let mut repeated = false;
        self.write(0, out, &mut repeated)?;
        Ok((start..self.at, repeated))
    }

    /// Fails if anything follows.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.fault("something follows the value")) }
    }

    fn write(&mut self, depth: usize, out: &mut Vec<u8>, repeated: &mut bool) -> Result<(), Malformed> {
        if depth > DEPTH_MAX {
            return Err(Malformed::TooDeep { max: DEPTH_MAX });
        }
        match self.head()? {
            Head::Array(count) => {
                write_head(Head::Array(count), out);
                for _ in 0..count {
                    self.write(depth + 1, out, repeated)?;
                }
            }
            Head::Map(count) => self.write_map(count, depth, out, repeated)?,
            head => {
                write_head(head, out);
                out.extend_from_slice(self.take(following(head))?);
            }
        }
        Ok(())
    }

    fn write_map(
        &mut self,
        count: usize,
        depth: usize,
        out: &mut Vec<u8>,
        repeated: &mut bool,
    ) -> Result<(), Malformed> {
        let start = out.len();
        // Where each key and its value begin, in a text without the map's own head.
        let mut members: Vec<(usize, usize)> = Vec::new();
        for _ in 0..count {
            let key = out.len();
            self.write(depth + 1, out, repeated)?;
            members.push((key, out.len()));
            self.write(depth + 1, out, repeated)?;
        }
        let written = out.split_off(start);
        let mut parts: Vec<(&[u8], &[u8])> = Vec::with_capacity(members.len());
        for (place, (key, value)) in members.iter().enumerate() {
            let end = members.get(place + 1).map_or(start + written.len(), |(next, _)| *next);
            let part = |from: usize, to: usize| written.get(from - start..to - start).unwrap_or_default();
            parts.push((part(*key, *value), part(*value, end)));
        }
        // A stable sort: of members of the same name the last stays last.
        parts.sort_by_key(|(key, _)| *key);
        let last_of_name = |place: usize| {
            parts.get(place + 1).is_none_or(|(next, _)| parts.get(place).is_some_and(|(key, _)| key != next))
        };
        let kept: Vec<usize> = (0..parts.len()).filter(|place| last_of_name(*place)).collect();
        *repeated |= kept.len() < parts.len();
        write_head(Head::Map(kept.len()), out);
        for (key, value) in kept.into_iter().filter_map(|place| parts.get(place)) {
            out.extend_from_slice(key);
            out.extend_from_slice(value);
        }
        Ok(())
    }

    /// Reads the beginning of a value.
    pub(super) fn head(&mut self) -> Result<Head, Malformed> {
        let marker = self.number::<1>()? as u8;
        Ok(match marker {
            0x00..=0x7f => Head::Unsigned(marker.into()),
            0x80..=0x8f => Head::Map(usize::from(marker & 0x0f)),
            0x90..=0x9f => Head::Array(usize::from(marker & 0x0f)),
            0xa0..=0xbf => Head::Text(usize::from(marker & 0x1f)),
            0xc0 => Head::Nil,
            0xc1 => {
                self.at -= 1;
                return Err(self.fault("there is no such type"));
            }
            0xc2 | 0xc3 => Head::Bool(marker == 0xc3),
            0xc4 => Head::Binary(self.length::<1>()?),
            0xc5 => Head::Binary(self.length::<2>()?),
            0xc6 => Head::Binary(self.length::<4>()?),
            0xc7 => self.extension::<1>()?,
            0xc8 => self.extension::<2>()?,
            0xc9 => self.extension::<4>()?,
            0xca => Head::Float32(self.number::<4>()? as u32),
            0xcb => Head::Float64(self.number::<8>()?),
            0xcc => Head::Unsigned(self.number::<1>()?),
            0xcd => Head::Unsigned(self.number::<2>()?),
            0xce => Head::Unsigned(self.number::<4>()?),
            0xcf => Head::Unsigned(self.number::<8>()?),
            0xd0 => self.signed::<1>()?,
            0xd1 => self.signed::<2>()?,
            0xd2 => self.signed::<4>()?,
            0xd3 => self.signed::<8>()?,
            0xd4..=0xd8 => Head::Extension(self.number::<1>()? as u8, 1 << (marker - 0xd4)),
            0xd9 => Head::Text(self.length::<1>()?),
            0xda => Head::Text(self.length::<2>()?),
            0xdb => Head::Text(self.length::<4>()?),
            0xdc => Head::Array(self.length::<2>()?),
            0xdd => Head::Array(self.length::<4>()?),
            0xde => Head::Map(self.length::<2>()?),
            0xdf => Head::Map(self.length::<4>()?),
            0xe0..=0xff => Head::Negative(i64::from(marker as i8)),
        })
    }

    fn extension<const BYTES: usize>(&mut self) -> Result<Head, Malformed> {
        let length = self.length::<BYTES>()?;
        Ok(Head::Extension(self.number::<1>()? as u8, length))
    }

    fn length<const BYTES: usize>(&mut self) -> Result<usize, Malformed> {
        let length = self.number::<BYTES>()?;
        usize::try_from(length).map_err(|_| self.fault("a length is out of range"))
    }

    /// Reads a number with a sign. It is in the upper bits first, so that the shift back carries the sign.
    fn signed<const BYTES: usize>(&mut self) -> Result<Head, Malformed> {
        let shift = 64 - 8 * BYTES;
        let number = (self.number::<BYTES>()? << shift).cast_signed() >> shift;
        Ok(u64::try_from(number).map_or(Head::Negative(number), Head::Unsigned))
    }

    /// Reads a number, the highest byte first.
    fn number<const BYTES: usize>(&mut self) -> Result<u64, Malformed> {
        Ok(self.take(BYTES)?.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    /// Steps over so many bytes and returns them.
    pub(super) fn take(&mut self, count: usize) -> Result<&'b [u8], Malformed> {
        let bytes = self.bytes;
        let end = self.at.checked_add(count);
        match end.and_then(|end| bytes.get(self.at..end)) {
            Some(taken) => {
                self.at += count;
                Ok(taken)
            }
            None => Err(self.fault("it ends too early")),
        }
    }

    const fn fault(&self, why: &'static str) -> Malformed {
        Malformed::NotMessagePack { at: self.at, why }
    }
}

/// Returns the number of bytes that belong to a value beside its head.
const fn following(head: Head) -> usize {
    match head {
        Head::Text(length) | Head::Binary(length) | Head::Extension(_, length) => length,
        _ => 0,
    }
}

/// Writes the beginning of a value in its shortest form.
pub(super) fn write_head(head: Head, out: &mut Vec<u8>) {
    match head {
        Head::Nil => out.push(0xc0),
        Head::Bool(value) => out.push(0xc2 | u8::from(value)),
        Head::Unsigned(number @ 0..0x80) => out.push(number as u8),
        Head::Unsigned(number) => write_sized([0xcc, 0xcd, 0xce, 0xcf], number, out),
        Head::Negative(number) => write_negative(number, out),
        Head::Float32(bits) => write_number(0xca, bits.into(), 4, out),
        Head::Float64(bits) => write_number(0xcb, bits, 8, out),
        Head::Text(length @ 0..0x20) => out.push(0xa0 | length as u8),
        Head::Text(length) => write_sized([0xd9, 0xda, 0xdb, 0xdb], length as u64, out),
        Head::Binary(length) => write_sized([0xc4, 0xc5, 0xc6, 0xc6], length as u64, out),
        Head::Extension(kind, length) => {
            match length {
                1 | 2 | 4 | 8 | 16 => out.push(0xd4 + length.ilog2() as u8),
                _ => write_sized([0xc7, 0xc8, 0xc9, 0xc9], length as u64, out),
            }
            out.push(kind);
        }
        Head::Array(count @ 0..0x10) => out.push(0x90 | count as u8),
        Head::Array(count) => write_wide([0xdc, 0xdd], count as u64, out),
        Head::Map(count @ 0..0x10) => out.push(0x80 | count as u8),
        Head::Map(count) => write_wide([0xde, 0xdf], count as u64, out),
    }
}

/// Writes a number in 1, 2, 4 or 8 bytes, each with its marker. A length is at most one of 4: it was read as such.
fn write_sized(markers: [u8; 4], number: u64, out: &mut Vec<u8>) {
    match number {
        0..=0xff => write_number(markers[0], number, 1, out),
        0x100..=0xffff => write_number(markers[1], number, 2, out),
        0x1_0000..=0xffff_ffff => write_number(markers[2], number, 4, out),
        _ => write_number(markers[3], number, 8, out),
    }
}

/// Writes a count in 2 or 4 bytes, each with its marker.
fn write_wide(markers: [u8; 2], count: u64, out: &mut Vec<u8>) {
    match count {
        0..=0xffff => write_number(markers[0], count, 2, out),
        _ => write_number(markers[1], count, 4, out),
    }
}

fn write_negative(number: i64, out: &mut Vec<u8>) {
    let bits = number.cast_unsigned();
    match number {
        -0x20.. => out.push(bits as u8),
        -0x80.. => write_number(0xd0, bits, 1, out),
        -0x8000.. => write_number(0xd1, bits, 2, out),
        -0x8000_0000.. => write_number(0xd2, bits, 4, out),
        _ => write_number(0xd3, bits, 8, out),
    }
}

/// Writes a marker and the low bytes of a number, the highest first.
fn write_number(marker: u8, number: u64, bytes: usize, out: &mut Vec<u8>) {
    out.push(marker);
    out.extend_from_slice(&number.to_be_bytes()[8 - bytes..]);
}
