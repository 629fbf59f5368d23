//! Bodies that name themselves and prove that they are whole and unmixed: a line, filler, a checksum. All of it is
//! made from the stamp, so two bodies with one validator are equal byte for byte.

use serde::{Deserialize, Serialize};

/// The first word of a body.
const WORD: &str = "chaos";
/// Bytes of the checksum in hex that ends a body.
const SEAL: usize = 64;
/// Longest first line.
const LINE_MAX: usize = 200;
/// Shortest body: it has room for the longest line and the checksum.
pub(crate) const LENGTH_MIN: usize = 300;

/// The stamp of a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// The key that it is a response to.
    pub(crate) key: String,
    /// The version.
    pub(crate) version: u64,
    /// The only client that may see it; `-` if all may.
    pub(crate) to: String,
    /// Bytes of the whole body.
    pub(crate) length: usize,
}

impl Stamp {
    /// The body with this stamp.
    pub(crate) fn body(&self) -> Vec<u8> {
        let line = format!("{WORD} {} {} {} {}\n", self.key, self.version, self.to, self.length);
        assert!(line.len() <= LINE_MAX && self.length >= LENGTH_MIN, "a stamp that doesn't fit: {line}");
        let mut body = vec![0; self.length];
        let (text, seal) = body.split_at_mut(self.length - SEAL);
        let (first, filler) = text.split_at_mut(line.len());
        first.copy_from_slice(line.as_bytes());
        blake3::Hasher::new().update(line.as_bytes()).finalize_xof().fill(filler);
        seal.copy_from_slice(blake3::hash(text).to_hex().as_bytes());
        body
    }

    /// Reads the stamp of a body, or of the beginning of one.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let end = body.iter().take(LINE_MAX).position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&body[..end]).ok()?;
        let mut words = line.split(' ');
        if words.next() != Some(WORD) {
            return None;
        }
        let (key, version) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        let (to, length) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        words.next().is_none().then_some(Self { key, version, to, length })
    }

    /// Whether `body` is what this stamp was made for, from the first byte to the last.
    pub(crate) fn proves(&self, body: &[u8]) -> bool {
        if body.len() != self.length || body.len() < LENGTH_MIN {
            return false;
        }
        let (text, seal) = body.split_at(body.len() - SEAL);
        blake3::hash(text).to_hex().as_bytes() == seal
    }
}

#[test]
fn a_body_proves_itself_and_no_other_does() {
    let stamp = Stamp { key: "/v/3#de".to_owned(), version: 12, to: "-".to_owned(), length: 5000 };
    let body = stamp.body();
    assert_eq!((body.len(), Stamp::read(&body).as_ref(), stamp.proves(&body)), (5000, Some(&stamp), true));
    let other = Stamp { version: 13, ..stamp.clone() }.body();
    let mixed = [&body[..2500], &other[2500..]].concat();
    let mut flipped = body.clone();
    flipped[3000] ^= 1;
    let longer = [&body[..], &b"x"[..]].concat();
    for wrong in [&body[..4999], &body[..0], &mixed[..], &flipped[..], &longer[..]] {
        assert!(!stamp.proves(wrong));
    }
    assert!(stamp.proves(&other), "a seal is of the bytes; whose they are, the line says");
    assert_eq!(Stamp::read(&body[..100]).as_ref(), Some(&stamp), "a body that breaks off still says whose it was");
    assert_eq!(Stamp::read(b"chaos /p/1 1 -\n"), None);
    assert_eq!(Stamp::read(b"an error page\n"), None);
}
