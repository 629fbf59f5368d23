//! Taking an arriving body in: to all who read along, and into the tiers.

use std::sync::Arc;

use bytes::Bytes;
use tracing::debug;

use super::budget::SCARCE_BYTES;
use crate::{
    cache::{
        collapse::shared::{Refused, SharedBody, Unwanted},
        entry::Object,
        record::Recorder,
    },
    message::BodyError,
};

/// A body that is being taken in. `G` is whatever is to be dropped as soon as the body isn't stored any more, or can be
/// found.
///
/// Dropped before its end, it breaks the body off for all readers.
#[derive(Debug)]
pub struct Intake<G> {
    shared: SharedBody,
    recorder: Option<Recorder>,
    /// Bytes in the part that isn't finished yet.
    filled: usize,
    guard: Option<G>,
}

impl<G> Intake<G> {
    /// Nothing has arrived yet of a body that `recorder` stores and of which `shared` has been made.
    #[must_use]
    pub fn new(shared: SharedBody, recorder: Recorder) -> Self {
        Self { shared, recorder: Some(recorder), filled: 0, guard: None }
    }

    /// Keeps `guard` for as long as others may join.
    pub fn keep(&mut self, guard: Option<G>) {
        self.guard = guard;
    }

    /// Takes what has arrived; waits for readers and for the disk if need be.
    ///
    /// # Errors
    /// [`Unwanted`] if nobody reads it and it isn't stored.
    pub async fn take(&mut self, mut data: Bytes) -> Result<(), Unwanted> {
        while !data.is_empty() {
            let room = self.room().await;
            let piece = data.split_to(data.len().min(room));
            if self.recorder.as_mut().is_some_and(|recorder| recorder.grow(piece.len()).is_err()) {
                debug!("a response is larger than what can be stored; it is passed on");
                self.release();
            }
            while let Err(refused) = self.shared.push(&piece).await {
                if refused == Refused::Unwanted || self.recorder.is_none() {
                    return Err(Unwanted);
                }
                debug!("bodies_bytes_max is reached; a response is passed on but not stored");
                self.count_unstored();
                self.release();
            }
            self.filled += piece.len();
        }
        Ok(())
    }

    /// Bytes that the next piece may have. A full part is stored first, now that it's known not to be the whole body.
    async fn room(&mut self) -> usize {
        let Some(recorder) = &mut self.recorder else { return SCARCE_BYTES };
        if self.filled == recorder.part_bytes() {
            let room = recorder.disk_room().await;
            self.shared.spilled(recorder.part(&self.shared.open_pieces(), room));
            self.filled = 0;
        }
        SCARCE_BYTES.min(recorder.part_bytes() - self.filled)
    }

    fn count_unstored(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.metrics().bodies_unstored.inc();
        }
    }

    /// Stops storing it.
    fn release(&mut self) {
        (self.recorder, self.guard) = (None, None);
        self.shared.release();
    }

    /// The body is complete. Once it can be found in the tiers, no request needs to join any more. Returns what is
    /// stored.
    pub fn finish(mut self) -> Option<Arc<Object>> {
        let stored = self.recorder.take().map(|recorder| {
            let (object, last) = recorder.finish(&self.shared.open_pieces());
            if let Some(last) = last {
                self.shared.spilled(last);
            }
            object
        });
        self.shared.finish(Ok(()));
        stored
    }

    /// The body broke off.
    pub fn fail(mut self, error: BodyError) {
        self.break_off(error);
    }

    /// Ends it as broken, unless it has ended. None can join it by the time that a reader hears of it: a client that asks
    /// again at once gets another fetch.
    fn break_off(&mut self, error: BodyError) {
        self.guard = None;
        self.shared.finish(Err(error));
    }
}

impl<G> Drop for Intake<G> {
    fn drop(&mut self) {
        // After a regular end the body stays as it is.
        self.break_off(BodyError::Broken("the fetch ended early".to_owned()));
    }
}
