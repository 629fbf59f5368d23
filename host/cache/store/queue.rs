//! How far bodies in parts may run ahead of the disk. The store drops what its write buffers have no room for: a body
//! that arrives faster than it is written would lose parts that its origin has to send again.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Bytes of parts that wait to be written, of all bodies together. A quarter of a write buffer, of which the store has
/// two: other values find room beside them. More than a disk writes while the next part arrives.
const WAITING_BYTES_MAX: usize = 16 << 20;

/// The parts that wait to be written.
#[derive(Debug)]
pub(super) struct WriteQueue(Arc<Semaphore>);

/// Room for a part among those that wait to be written, until this is dropped.
#[derive(Debug)]
pub struct DiskRoom {
    _permit: OwnedSemaphorePermit,
}

impl WriteQueue {
    /// Nothing waits yet.
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(WAITING_BYTES_MAX)))
    }

    /// Waits until there is room for a part of `bytes`, in turn with others. `None` if there is none within `limit`.
    pub(super) async fn room(&self, bytes: usize, limit: Duration) -> Option<DiskRoom> {
        // One that is larger than all the room has it alone.
        let permits = u32::try_from(bytes.clamp(1, WAITING_BYTES_MAX)).ok()?;
        let permit = timeout(limit, Arc::clone(&self.0).acquire_many_owned(permits)).await.ok()?.ok()?;
        Some(DiskRoom { _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_wait_while_others_are_written_and_not_for_ever() {
        let queue = WriteQueue::new();
        let now = Duration::ZERO;
        let half = queue.room(WAITING_BYTES_MAX / 2, now).await.unwrap();
        let rest = queue.room(WAITING_BYTES_MAX / 2, now).await.unwrap();
        assert!(queue.room(1, now).await.is_none());
        drop(half);
        assert!(queue.room(WAITING_BYTES_MAX, Duration::from_millis(1)).await.is_none(), "it would need all of it");
        assert!(queue.room(1, now).await.is_some(), "who has given up stands in nobody's way");
        drop(rest);
        let large = queue.room(2 * WAITING_BYTES_MAX, now).await.unwrap();
        assert!(queue.room(1, now).await.is_none());
        drop(large);
        assert!(queue.room(WAITING_BYTES_MAX, now).await.is_some());
    }
}
