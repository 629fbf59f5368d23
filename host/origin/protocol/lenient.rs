//! JSON as servers write it that don't mind numbers which JSON has no word for: Python's `json` writes `NaN`,
//! `Infinity` and `-Infinity`. Where they stand has to be found, so that one result that can't be read doesn't cost the
//! others of its batch theirs.
//!
//! Such a text is read through a stand-in of the same length, in which each of these words is a number as long. So
//! places in the one are places in the other, and what else is wrong with the text is found by the JSON reader itself.

use std::{borrow::Cow, ops::Range};

/// The words, and numbers of the same length.
const WORDS: [(&[u8], &[u8]); 3] = [(b"NaN", b"0.0"), (b"Infinity", b"0.000000"), (b"-Infinity", b"-0.000000")];

/// A text, and what a JSON reader is given for it.
pub(super) struct Text<'t> {
    written: &'t [u8],
    readable: Cow<'t, [u8]>,
    /// Where the words begin, in ascending order.
    words: Vec<usize>,
}

impl<'t> Text<'t> {
    pub(super) fn of(written: &'t [u8]) -> Self {
        let mut text = Self { written, readable: Cow::Borrowed(written), words: Vec::new() };
        let mut at = 0;
        while let Some(byte) = written.get(at) {
            at = match byte {
                b'"' => string_end(written, at),
                b'N' | b'I' | b'-' => text.replace(at),
                _ => at + 1,
            };
        }
        text
    }

    /// Returns the text for a JSON reader. It needn't be valid, either.
    pub(super) fn readable(&self) -> &[u8] {
        &self.readable
    }

    /// Returns a part of [`Text::readable`] as it was written.
    pub(super) fn written(&self, part: &[u8]) -> &'t [u8] {
        self.written.get(self.place(part)).unwrap_or_default()
    }

    /// Returns the whole text as it was written, with these bytes in the place of a part of [`Text::readable`].
    pub(super) fn with(&self, part: &[u8], bytes: &[u8]) -> Vec<u8> {
        let Range { start, end } = self.place(part);
        let (before, after) = (self.written.get(..start), self.written.get(end..));
        [before.unwrap_or_default(), bytes, after.unwrap_or_default()].concat()
    }

    /// Returns how many of the words there are.
    pub(super) fn words(&self) -> usize {
        self.words.len()
    }

    /// Returns how many of the words there are in a part of [`Text::readable`].
    pub(super) fn words_in(&self, part: &[u8]) -> usize {
        if self.words.is_empty() {
            return 0;
        }
        let Range { start, end } = self.place(part);
        let before = |place: usize| self.words.partition_point(|word| *word < place);
        before(end) - before(start)
    }

    /// Puts a number into the place of the word that begins there, if one does, and returns what follows.
    fn replace(&mut self, at: usize) -> usize {
        let rest = self.written.get(at..).unwrap_or_default();
        let Some((word, number)) = WORDS.iter().find(|(word, _)| rest.starts_with(word)) else { return at + 1 };
        let end = at + word.len();
        // Within a number the word would become digits of it.
        let before = at.checked_sub(1).and_then(|before| self.written.get(before));
        if !ends_value(before) || !ends_value(self.written.get(end)) {
            return end;
        }
        if let Some(place) = self.readable.to_mut().get_mut(at..end) {
            place.copy_from_slice(number);
        }
        self.words.push(at);
        end
    }

    fn place(&self, part: &[u8]) -> Range<usize> {
        let start = part.as_ptr().addr().saturating_sub(self.readable.as_ptr().addr());
        start..start.saturating_add(part.len())
    }
}

/// Whether no value goes on at this byte; `None` is the text's beginning or end.
fn ends_value(byte: Option<&u8>) -> bool {
    byte.is_none_or(|byte| matches!(byte, b'[' | b']' | b'{' | b'}' | b',' | b':' | b' ' | b'\t' | b'\r' | b'\n'))
}

/// Returns what follows the string whose opening quote is at `at`; the end of the text if it has no closing one.
pub(super) fn string_end(text: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(byte) = text.get(end) {
        match byte {
            b'"' => return end + 1,
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn words_are_numbers_of_their_length_and_strings_stay() {
        for (written, readable, words) in [
            ("[NaN, 1]", "[0.0, 1]", 1),
            ("[Infinity,-Infinity]", "[0.000000,-0.000000]", 2),
            (r#"{"NaN":"a \" NaN","b":NaN}"#, r#"{"NaN":"a \" NaN","b":0.0}"#, 1),
            ("[-1, None]", "[-1, None]", 0),
            ("\"NaN", "\"NaN", 0),
            ("\"\\", "\"\\", 0),
            ("", "", 0),
        ] {
            let text = Text::of(written.as_bytes());
            assert_eq!((text.readable(), text.words()), (readable.as_bytes(), words), "{written}");
        }
        // Not every text that has such a word becomes JSON.
        for broken in ["1NaN", "NaNNaN", "NaN1", "-NaN-", "[1 NaN]"] {
            assert!(serde_json::from_slice::<&RawValue>(Text::of(broken.as_bytes()).readable()).is_err(), "{broken}");
        }
    }

    #[test]
    fn parts_are_found_as_they_were_written() {
        let text = Text::of(b"[[1, NaN], -Infinity, \"x\"]");
        let parts: Vec<&RawValue> = serde_json::from_slice(text.readable()).unwrap();
        let found: Vec<(&[u8], usize)> = parts
            .iter()
            .map(|part| (text.written(part.get().as_bytes()), text.words_in(part.get().as_bytes())))
            .collect();
        assert_eq!(found, [(&b"[1, NaN]"[..], 1), (&b"-Infinity"[..], 1), (&b"\"x\""[..], 0)]);
        assert_eq!(text.with(parts[1].get().as_bytes(), b"7"), b"[[1, NaN], 7, \"x\"]");
        assert_eq!(text.with(&parts[2].get().as_bytes()[1..1], b"y"), b"[[1, NaN], -Infinity, \"yx\"]");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_as_long_as_it_was(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let text = Text::of(&bytes);
            prop_assert_eq!(text.readable().len(), bytes.len());
            prop_assert_eq!(text.written(text.readable()), &bytes[..]);
        }

        #[test]
        fn json_is_read_as_it_is(words in prop::collection::vec("[\\[\\],:NaInfty\"\\\\0-9. -]{0,9}", 0..6)) {
            let written = words.concat();
            if serde_json::from_str::<&RawValue>(&written).is_ok() {
                let text = Text::of(written.as_bytes());
                prop_assert_eq!((text.readable(), text.words()), (written.as_bytes(), 0));
            }
        }
    }
}
