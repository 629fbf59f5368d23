//! The memory in which frames are gathered that have begun to come and aren't whole, of all streams of a connection: the
//! HTTP/3 library reads them as they come, so that QUIC's own limits don't count them any more. Pure.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// What the streams of a connection have gathered, in bytes.
pub(super) struct Gathering {
    bytes: AtomicU64,
    bytes_max: u64,
}

impl Gathering {
    /// Returns the memory of a connection that may have so many bytes of it.
    pub(super) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicU64::new(0), bytes_max })
    }
}

/// The part of it that one stream has.
pub(super) struct Share {
    of: Arc<Gathering>,
    bytes: u64,
}

impl Share {
    pub(super) const fn new(of: Arc<Gathering>) -> Self {
        Self { of, bytes: 0 }
    }

    /// Notes how much the stream has gathered. Whether it may: less than before is always allowed.
    pub(super) fn set(&mut self, bytes: u64) -> bool {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes <= before {
            if bytes < before {
                self.of.bytes.fetch_sub(before - bytes, Ordering::Relaxed);
            }
            return true;
        }
        let more = bytes - before;
        self.of.bytes.fetch_add(more, Ordering::Relaxed) + more <= self.of.bytes_max
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_streams_together_may_gather_so_much() {
        let all = Gathering::new(100);
        let [mut one, mut other] = [0, 1].map(|_| Share::new(Arc::clone(&all)));
        assert!(one.set(60) && other.set(40));
        assert!(!other.set(41), "one byte more than there may be");
        assert!(one.set(0) && other.set(100), "a frame was whole");
        assert!(!one.set(1));
        drop(other);
        assert!(one.set(100), "a stream that is gone has nothing");
        drop(one);
        assert_eq!(all.bytes.load(Ordering::Relaxed), 0);
    }
}
