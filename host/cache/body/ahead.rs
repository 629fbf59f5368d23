//! Reading ahead: parts of a body that are in Redis alone are read several at a time, by one command.
//!
//! Whatever goes wrong with that, each part is looked up by itself when its turn comes.

use std::{ops::Range, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{budget::Held, lending::LentPart, part::PartRef};
use crate::cache::{
    Cache,
    entry::{Object, Value},
    key::Key,
};

/// Parts that are read by one command, however small they are.
const PARTS_MAX: u32 = 64;

/// The share of a part's time in which those read at once should be there: one in so many.
const TIME_SHARE: u32 = 4;

/// The parts of one body that are here before their turn. While this has them, `Lending` knows them.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Each with its place in the body.
    parts: Vec<(Range<u64>, Arc<LentPart>)>,
    /// How long one part took to come, the last time that was measured.
    pace: Duration,
    /// Redis didn't reply to a command for several.
    has_failed: bool,
}

impl Ahead {
    /// Nothing has been read ahead of a body whose first part took this long.
    pub(super) fn after(pace: Duration) -> Self {
        Self { pace, ..Self::default() }
    }

    /// Reads the part at the beginning of `section` and those after it, if there are several that this node has to get
    /// from Redis and there is ample room for them. Takes at most half of the time that is left until `deadline`.
    pub(super) async fn fill(
        &mut self,
        cache: &Cache,
        key: &Key,
        object: &Object,
        section: &Range<u64>,
        deadline: Instant,
    ) {
        // What was sent is of no use any more, nor is what lies outside of the section by now.
        self.parts.retain(|(place, _)| place.end > section.start && place.start < section.end);
        let wanted = self.wanted(cache, key, object, section);
        let Some(count) = u32::try_from(wanted.len()).ok().filter(|count| *count > 1) else { return };
        let keys: Vec<Key> = wanted.iter().map(|(part, _)| part.key).collect();
        let begun = Instant::now();
        let limit = deadline.saturating_duration_since(begun) / 2;
        let Some(values) = cache.tiers.redis_parts(&keys, limit).await else {
            self.has_failed = true;
            return;
        };
        self.pace = begun.elapsed() / count;
        for ((part, held), value) in wanted.into_iter().zip(values) {
            if let Some(bytes) = value.and_then(Value::into_part).filter(|bytes| part.is(bytes)) {
                cache.tiers.insert_local(part.key, Value::Part(bytes.clone()));
                let place = part.start..part.start + part.length as u64;
                self.parts.push((place, cache.lending.lend(part.key, bytes, held)));
            }
        }
    }

    /// The parts to be read at once, from the beginning of `section` on, with room for each.
    fn wanted(&self, cache: &Cache, key: &Key, object: &Object, section: &Range<u64>) -> Vec<(PartRef, Held)> {
        let Some(redis) = cache.config.redis.as_ref().filter(|_| !self.has_failed) else { return Vec::new() };
        let (mut wanted, mut bytes, mut at) = (Vec::new(), 0, section.start);
        for _ in 0..at_once(self.pace, cache.config.part_time) {
            let Some(part) = PartRef::in_object(key, object, at).filter(|_| at < section.end) else { break };
            bytes += part.length;
            let is_here = cache.lending.get(&part.key).is_some() || cache.tiers.may_have(&part.key);
            if is_here || bytes > redis.parts_at_once_bytes_max {
                break;
            }
            let Some(held) = cache.lending.budget().take_ahead(part.length) else { break };
            at = part.start + part.length as u64;
            wanted.push((part, held));
        }
        wanted
    }
}

/// How many parts may be read at once when one takes `pace`: where a part is nearly as slow as it may be, several would be
/// too slow.
fn at_once(pace: Duration, part_time: Duration) -> u32 {
    let fitting = (part_time / TIME_SHARE).as_nanos().checked_div(pace.as_nanos());
    fitting.map_or(PARTS_MAX, |count| u32::try_from(count).unwrap_or(PARTS_MAX).clamp(1, PARTS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_redis_is_asked_for_one_part_at_a_time() {
        let ms = Duration::from_millis;
        for (pace, wanted) in [
            (Duration::ZERO, PARTS_MAX),
            (Duration::from_nanos(1), PARTS_MAX),
            (ms(3), PARTS_MAX),
            (ms(50), 5),
            (ms(125), 2),
            (ms(126), 1),
            (ms(900), 1),
            (Duration::MAX, 1),
        ] {
            assert_eq!(at_once(pace, ms(1_000)), wanted, "{pace:?} a part");
        }
    }
}
