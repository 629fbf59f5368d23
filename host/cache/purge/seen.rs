//! Which URLs may be stored: a filter that never says no wrongly.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::tag::Tag;

/// Words of 64 bits: 2 MiB. With a million URLs one in 230 is taken for stored wrongly; with many more all are, which
/// costs a row of the purge table each.
const WORDS: usize = 1 << 18;

/// URLs for which a fetch has begun since the node started.
pub struct Seen(Box<[AtomicU64]>);

impl Default for Seen {
    /// An empty filter.
    fn default() -> Self {
        Self((0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Seen {
    /// Notes a URL, by its tag.
    pub fn add(&self, url: &Tag) {
        for (word, bit) in places(url) {
            // A write to a shared line only where it changes something.
            if self.0[word].load(Ordering::Relaxed) & bit == 0 {
                self.0[word].fetch_or(bit, Ordering::AcqRel);
            }
        }
    }

    /// Whether the URL may have been noted. No is certain.
    #[must_use]
    pub fn may_have(&self, url: &Tag) -> bool {
        places(url).into_iter().all(|(word, bit)| self.0[word].load(Ordering::Acquire) & bit != 0)
    }
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seen")
    }
}

/// A tag is a digest already: its four quarters are as good as four hashes.
fn places(url: &Tag) -> [(usize, u64); 4] {
    let bytes = url.as_bytes();
    std::array::from_fn(|at| {
        let quarter = [bytes[4 * at], bytes[4 * at + 1], bytes[4 * at + 2], bytes[4 * at + 3]];
        let hash = u32::from_le_bytes(quarter) as usize;
        ((hash >> 6) % WORDS, 1 << (hash % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_is_certain_and_yes_is_rarely_wrong() {
        let seen = Seen::default();
        let url = |number: u32| Tag::url(&format!("http://a/{number}"));
        (0..10_000).for_each(|number| seen.add(&url(number)));
        assert!((0..10_000).all(|number| seen.may_have(&url(number))));
        let wrong = (10_000..20_000).filter(|number| seen.may_have(&url(*number))).count();
        assert!(wrong < 10, "{wrong} of 10,000");
    }
}
