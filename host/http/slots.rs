//! The slots of open connections. Their number may change while they are taken.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The slots of open connections; clones are the same.
#[derive(Clone)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    count: Arc<Mutex<Count>>,
}

struct Count {
    max: usize,
    /// Slots that are taken beyond `max`, since there are fewer than there were: as many that are given back are gone.
    owed: usize,
}

impl Slots {
    pub(super) fn new(max: usize) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(max)), count: Arc::new(Mutex::new(Count { max, owed: 0 })) }
    }

    /// Waits until one is free, and takes it.
    pub(super) async fn take(&self) -> io::Result<Slot> {
        let permit = Arc::clone(&self.free).acquire_owned().await.map_err(io::Error::other)?;
        Ok(Slot { permit: Some(permit), count: Arc::clone(&self.count) })
    }

    /// Changes their number. Fewer than are taken close no connection: none is free until so many were given back.
    pub(super) fn resize(&self, max: usize) {
        let max = max.min(Semaphore::MAX_PERMITS);
        let mut count = self.count.lock();
        if max >= count.max {
            let more = max - count.max;
            let forgiven = more.min(count.owed);
            count.owed -= forgiven;
            self.free.add_permits(more - forgiven);
        } else {
            let fewer = count.max - max;
            count.owed += fewer - self.free.forget_permits(fewer);
        }
        count.max = max;
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.free.available_permits()
    }
}

/// A slot that is taken. It is given back when it is dropped.
pub(super) struct Slot {
    /// There until then.
    permit: Option<OwnedSemaphorePermit>,
    count: Arc<Mutex<Count>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut count = self.count.lock();
        if let Some(permit) = self.permit.take()
            && count.owed > 0
        {
            count.owed -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fewer_slots_are_paid_back_by_connections_that_end() {
        let slots = Slots::new(3);
        let (one, two) = (slots.take().await.unwrap(), slots.take().await.unwrap());
        slots.resize(1);
        assert_eq!(slots.free(), 0, "the free one is gone, and one is owed");
        drop(one);
        assert_eq!(slots.free(), 0, "that was it");
        drop(two);
        assert_eq!(slots.free(), 1);
    }

    #[tokio::test]
    async fn more_slots_forgive_first_what_is_owed() {
        let slots = Slots::new(2);
        let (one, two) = (slots.take().await.unwrap(), slots.take().await.unwrap());
        slots.resize(1);
        slots.resize(4);
        assert_eq!(slots.free(), 2);
        drop(one);
        drop(two);
        assert_eq!(slots.free(), 4);
        slots.resize(usize::MAX);
        assert_eq!(slots.free(), Semaphore::MAX_PERMITS);
    }
}
