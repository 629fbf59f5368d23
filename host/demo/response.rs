//! A response as a client reads it: its meaning, whatever its bytes look like, and where holm says it came from.

use std::ops::AddAssign;

use blake3::{Hash, Hasher};
use serde_json::Value;

/// Where responses came from, in page views and items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// From memory.
    pub(super) memory: u64,
    /// From disk.
    pub(super) disk: u64,
    /// From Redis.
    pub(super) redis: u64,
    /// From a fetch that another request had begun.
    pub(super) collapsed: u64,
    /// From the origin.
    pub(super) fetched: u64,
    /// Unknown: the response has no `Cache-Status` that says.
    pub(super) unsaid: u64,
}

impl Tally {
    /// Reads the `Cache-Status` (RFC 9211) of a response to `units` page views or items.
    pub(super) fn read(cache_status: Option<&str>, units: u64) -> Self {
        // The cache nearest to the client adds itself last; that is holm.
        let Some(member) = cache_status.and_then(|value| pieces(value, ',').pop()) else {
            return Self { unsaid: units, ..Self::default() };
        };
        let parameters = pieces(member, ';');
        let detail = parameters.iter().find_map(|it| it.strip_prefix("detail=")).unwrap_or_default().trim_matches('"');
        if number(detail, "items").is_some() {
            return Self::of_joined(detail, units);
        }
        if parameters.contains(&"hit") {
            Self::of_hit(detail, units)
        } else if parameters.iter().any(|it| *it == "collapsed" || *it == "collapsed=?1") {
            Self { collapsed: units, ..Self::default() }
        } else {
            Self { fetched: units, ..Self::default() }
        }
    }

    /// All of it.
    pub(super) const fn total(&self) -> u64 {
        self.memory + self.disk + self.redis + self.collapsed + self.fetched + self.unsaid
    }

    fn of_hit(detail: &str, units: u64) -> Self {
        let mut tally = Self::default();
        let tier = match detail.split_whitespace().next() {
            Some("memory") => &mut tally.memory,
            Some("disk") => &mut tally.disk,
            Some("redis") => &mut tally.redis,
            _ => &mut tally.unsaid,
        };
        *tier = units;
        tally
    }

    /// `items=32 hit=20 memory=19 disk=1 redis=0 collapsed=2 batched=10`; what is neither was fetched.
    fn of_joined(detail: &str, units: u64) -> Self {
        let count = |name| number(detail, name).unwrap_or_default();
        let (memory, disk, redis) = (count("memory"), count("disk"), count("redis"));
        let hit = (memory + disk + redis).min(units);
        let collapsed = count("collapsed").min(units - hit);
        Self { memory, disk, redis, collapsed, fetched: units - hit - collapsed, unsaid: 0 }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.memory += other.memory;
        self.disk += other.disk;
        self.redis += other.redis;
        self.collapsed += other.collapsed;
        self.fetched += other.fetched;
        self.unsaid += other.unsaid;
    }
}

/// A digest of what a page is: its bytes.
pub(super) fn page_meaning(body: &[u8]) -> Hash {
    blake3::hash(body)
}

/// A digest of what an embeddings response means: its model and its embeddings, value by value and in their order.
/// White space, the order of members and the spelling of numbers don't count. Of any other body the bytes count.
pub(super) fn embeddings_meaning(body: &[u8]) -> Hash {
    serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|response| meaning(&response))
        .unwrap_or_else(|| page_meaning(body))
}

fn meaning(response: &Value) -> Option<Hash> {
    let mut hasher = Hasher::new();
    hasher.update(response["model"].as_str()?.as_bytes());
    for (position, item) in response["data"].as_array()?.iter().enumerate() {
        let values = item["embedding"].as_array()?;
        if item["index"].as_u64()? != position as u64 {
            return None;
        }
        hasher.update(&(values.len() as u64).to_le_bytes());
        for value in values {
            hasher.update(&value.as_f64()?.to_bits().to_le_bytes());
        }
    }
    Some(hasher.finalize())
}

/// The number that follows `name=` in a list of words.
fn number(detail: &str, name: &str) -> Option<u64> {
    detail.split([' ', ',', ';']).find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Splits outside quoted strings (RFC 9651) and trims.
fn pieces(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|c: char| {
        let literal = std::mem::take(&mut escaped);
        match c {
            _ if literal => false,
            '\\' if quoted => {
                escaped = true;
                false
            }
            '"' => {
                quoted = !quoted;
                false
            }
            _ => c == separator && !quoted,
        }
    })
    .map(str::trim)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_status_is_read_as_it_is_written() {
        let none = Tally::default;
        for (status, units, wanted) in [
            (Some("holm; hit; ttl=598; detail=memory"), 1, Tally { memory: 1, ..none() }),
            (Some("holm; hit; ttl=598; detail=disk"), 1, Tally { disk: 1, ..none() }),
            (Some("holm; hit; detail=redis"), 1, Tally { redis: 1, ..none() }),
            (Some("holm; hit"), 1, Tally { unsaid: 1, ..none() }),
            (Some("holm; fwd=uri-miss; fwd-status=200; stored"), 1, Tally { fetched: 1, ..none() }),
            (Some("holm; fwd=uri-miss; fwd-status=200; collapsed; stored"), 1, Tally { collapsed: 1, ..none() }),
            (Some("other; hit; detail=memory, holm; fwd=miss"), 1, Tally { fetched: 1, ..none() }),
            (Some("holm; fwd=miss; detail=\"a, b; hit; \\\" c\"; collapsed"), 1, Tally { collapsed: 1, ..none() }),
            (
                Some("holm; fwd=partial; detail=\"items=32 hit=20 memory=20 collapsed=2 batched=10\""),
                32,
                Tally { memory: 20, collapsed: 2, fetched: 10, ..none() },
            ),
            (
                Some("holm; hit; detail=\"items=4 hit=4 memory=3 disk=1 collapsed=0 batched=0\""),
                4,
                Tally { memory: 3, disk: 1, ..none() },
            ),
            (None, 3, Tally { unsaid: 3, ..none() }),
        ] {
            let tally = Tally::read(status, units);
            assert_eq!(tally, wanted, "{status:?}");
            assert_eq!(tally.total(), units, "{status:?}");
        }
    }

    #[test]
    fn spelling_does_not_change_what_a_response_means_and_values_do() {
        let meaning = |text: &str| embeddings_meaning(text.as_bytes());
        let plain = meaning(r#"{"model":"m","data":[{"index":0,"embedding":[0.5,-1]}]}"#);
        assert_eq!(meaning(r#"{ "data": [{"embedding": [5e-1, -1.0], "index": 0}], "model": "m" }"#), plain);
        for other in [
            r#"{"model":"n","data":[{"index":0,"embedding":[0.5,-1]}]}"#,
            r#"{"model":"m","data":[{"index":1,"embedding":[0.5,-1]}]}"#,
            r#"{"model":"m","data":[{"index":0,"embedding":[-1,0.5]}]}"#,
            r#"{"model":"m","data":[{"index":0,"embedding":[0.5]},{"index":1,"embedding":[-1]}]}"#,
            r#"{"model":"m","data":[]}"#,
            r#"{"error":{}}"#,
        ] {
            assert_ne!(meaning(other), plain, "{other}");
        }
    }
}
