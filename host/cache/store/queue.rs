//! How far bodies in parts may run ahead of the disk, and how many of their parts are read from it at once. The store
//! drops what its write buffers have no room for: a body that arrives faster than it is written would lose parts that its
//! origin has to send again. And it reads each part into a buffer of its own before it makes a value of it, of which
//! nobody would keep count.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::timeout,
};

/// Bytes of parts that wait to be written, of all bodies together. They are in memory as values and once more in the
/// store's two write buffers, which keep what was ever touched of them. A few parts of the default size: one is written
/// while others arrive, and more wouldn't make the disk faster.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// Bytes of parts that are read at once. More than one disk needs to be busy with.
const READING_BYTES_MAX: usize = 8 << 20;

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
        let permits = permits(bytes, WAITING_BYTES_MAX);
        let permit = timeout(limit, Arc::clone(&self.0).acquire_many_owned(permits)).await.ok()?.ok()?;
        Some(DiskRoom { _permit: permit })
    }
}

/// The parts that are read.
#[derive(Debug)]
pub(super) struct ReadQueue(Semaphore);

impl ReadQueue {
    /// Nothing is read yet.
    pub(super) fn new() -> Self {
        Self(Semaphore::new(READING_BYTES_MAX))
    }

    /// Waits until a part of `bytes` may be read, in turn with others; it is read until what is returned is dropped.
    pub(super) async fn turn(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        self.0.acquire_many(permits(bytes, READING_BYTES_MAX)).await.ok()
    }
}

/// How many of `all` permits a part of `bytes` takes. One that is larger than all the room has it alone.
fn permits(bytes: usize, all: usize) -> u32 {
    u32::try_from(bytes.clamp(1, all)).unwrap_or(u32::MAX)
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

    #[tokio::test]
    async fn no_more_parts_are_read_at_once_than_there_is_room_for() {
        let queue = ReadQueue::new();
        let half = queue.turn(READING_BYTES_MAX / 2).await;
        assert!(half.is_some());
        let too_many = queue.turn(READING_BYTES_MAX / 2 + 1);
        assert!(timeout(Duration::from_millis(1), too_many).await.is_err());
        let rest = queue.turn(READING_BYTES_MAX / 2).await;
        drop((half, rest));
        let large = queue.turn(2 * READING_BYTES_MAX).await;
        assert!(timeout(Duration::from_millis(1), queue.turn(1)).await.is_err(), "one that is too large is read alone");
        drop(large);
        assert!(queue.turn(READING_BYTES_MAX).await.is_some());
    }
}
