//! The limits of an instance: time, memory, tables, and the size of its results.

use std::time::Duration;

use wasmtime::ResourceLimiter;

use crate::config::PolicyLimits;

/// The resolution of a call's time limit.
pub(super) const TICK: Duration = Duration::from_millis(1);
/// Inputs of one hook.
pub(super) const INPUTS_MAX: usize = 64;
/// Parts of one key.
pub(super) const PARTS_MAX: usize = 64;
/// Features of one request.
pub(super) const FEATURES_MAX: usize = 64;
/// Edits of one body.
pub(super) const EDITS_MAX: usize = 1024;
/// Header fields of one edit, one hint or one `vary`.
pub(super) const HEADERS_MAX: usize = 16;
/// Bytes of a header field's name and of its value.
pub(super) const FIELD_NAME_BYTES_MAX: usize = 256;
pub(super) const FIELD_VALUE_BYTES_MAX: usize = 8 << 10;
/// Tags that a policy may give a response.
pub(super) const TAGS_MAX: usize = 64;
/// Bytes of a tag: what a purge can name.
pub(super) const TAG_BYTES_MAX: usize = 1024;
/// Hints of one request.
pub(super) const HINTS_MAX: usize = 16;
/// Experiments of one policy, and arms of one experiment.
pub(super) const EXPERIMENTS_MAX: usize = 8;
pub(super) const ARMS_MAX: usize = 16;
/// Elements of one table.
pub(super) const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Bytes of a manifest or a plan.
const MANIFEST_BYTES_MAX: usize = 1 << 20;
/// Bytes that the largest verdict takes beside its text: one with all its edits.
const FRAME_BYTES_MAX: usize = 128 << 10;
/// Core instances of a component: the runtime of a language comes as dozens of core modules, not as more than this.
const CORE_INSTANCES_MAX: usize = 200;
const TABLES_MAX: usize = 200;
const MEMORIES_MAX: usize = 8;

/// Limits of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// Time until it is ended, for messages.
    pub(super) time: Duration,
    /// The same in ticks.
    pub(super) ticks: u64,
    /// Bytes of its result.
    pub(super) result_bytes: usize,
    /// Items of any list in it.
    pub(super) result_items: usize,
}

impl Limit {
    /// Returns the limits of a hook's call.
    pub(super) fn of_call(limits: &PolicyLimits) -> Self {
        Self::new(limits.call, limits.result_bytes_max, limits.result_items_max)
    }

    /// Returns the limits of a call that is made once, at load.
    pub(super) fn of_load(limits: &PolicyLimits) -> Self {
        Self::new(limits.load, MANIFEST_BYTES_MAX, usize::MAX)
    }

    /// Returns the bytes that the engine may copy out of the guest in one go. It counts the lists and records around
    /// the text, too; how much the text has is checked afterwards, exactly.
    pub(super) const fn copied_bytes(&self) -> usize {
        self.result_bytes.saturating_add(FRAME_BYTES_MAX)
    }

    #[cfg(test)]
    pub(super) const fn of_bytes(result_bytes: usize) -> Self {
        Self { time: Duration::from_secs(1), ticks: 1000, result_bytes, result_items: 1024 }
    }

    fn new(time: Duration, result_bytes: usize, result_items: usize) -> Self {
        Self { time, ticks: ticks(time), result_bytes, result_items }
    }
}

/// Returns one tick more than the time has: the first may come at once, and no call is cut short.
fn ticks(time: Duration) -> u64 {
    let whole = time.as_nanos().div_ceil(TICK.as_nanos()).max(1) + 1;
    u64::try_from(whole).unwrap_or(u64::MAX).min(TICKS_MAX)
}

/// A deadline that is far away, but to which the engine can add.
const TICKS_MAX: u64 = 1 << 40;

/// The memory and tables that one instance has taken so far. wasmtime's own limits are per memory, so that a component
/// of many memories would have as many times the limit.
#[derive(Debug)]
pub(super) struct Allowance {
    memory_bytes_max: usize,
    memory_bytes: usize,
    refused: bool,
}

impl Allowance {
    pub(super) const fn new(memory_bytes_max: usize) -> Self {
        Self { memory_bytes_max, memory_bytes: 0, refused: false }
    }

    /// Returns the bytes of memory that it has taken.
    pub(super) const fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Returns the limit, if the instance has run into it: a trap after that is attributed to it.
    pub(super) fn exhausted(&self) -> Option<usize> {
        self.refused.then_some(self.memory_bytes_max)
    }
}

impl ResourceLimiter for Allowance {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if total > self.memory_bytes_max {
            self.refused = true;
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= maximum.unwrap_or(TABLE_ELEMENTS_MAX).min(TABLE_ELEMENTS_MAX))
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

/// Returns a component's text as it may appear in headers and in the log: visible ASCII and spaces, cut to a length.
pub(super) fn plain(text: &str, length_max: usize) -> String {
    text.chars().take(length_max).map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_its_time_and_at_most_two_ticks_more() {
        for (micros, wanted) in [(0, 2), (10, 2), (1_000, 2), (1_001, 3), (10_000, 11)] {
            assert_eq!(ticks(Duration::from_micros(micros)), wanted, "{micros} µs");
        }
        assert_eq!(ticks(Duration::MAX), TICKS_MAX);
    }

    #[test]
    fn memories_share_one_limit() {
        let mut allowance = Allowance::new(100);
        assert!(allowance.memory_growing(0, 60, None).unwrap());
        assert!(!allowance.memory_growing(0, 41, None).unwrap(), "a second memory");
        assert_eq!(allowance.exhausted(), Some(100));
        assert!(allowance.memory_growing(0, 40, None).unwrap());
        assert!(!allowance.memory_growing(40, 41, None).unwrap());
    }

    #[test]
    fn a_memory_of_limited_type_is_not_out_of_memory() {
        let mut allowance = Allowance::new(100);
        assert!(!allowance.memory_growing(10, 20, Some(15)).unwrap());
        assert_eq!(allowance.exhausted(), None);
        assert!(allowance.memory_growing(0, 100, None).unwrap(), "what was refused isn't counted");
    }

    #[test]
    fn text_is_made_plain() {
        assert_eq!(plain("no\ttenant\n\u{e9} \u{7f}~", 128), "no?tenant?? ?~");
        assert_eq!(plain(&"x".repeat(200), 128).len(), 128);
    }
}
