//! Room for bodies that wait, so that none holds a place at an origin while its client takes its time: memory first, then
//! files that have no name (`scratch`). Both are bounded for the node as a whole, and for each client address (`room`). A
//! body takes room as it comes and not as it is announced, so that announcing much and sending little fills nothing.

mod room;
mod scratch;

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;

use self::room::{Budget, Grant, Medium, Share, Shares};
pub(super) use self::scratch::Scratch;
use super::{
    lagging::Lagging,
    metrics::{Metrics, SpoolMeters},
};
use crate::{config, message::network::ClientNetwork};

/// Bytes that are read from a file at once.
pub(super) const READ_BYTES: usize = 16 * 1024;

/// Pieces up to this size are joined, so that many small ones don't cost more than they hold.
const JOINED_BYTES: usize = 4 * 1024;

/// Bodies that are taken in at full speed at the same time. Few, so that one after the other is done and frees its place,
/// instead of all at the very end.
const TURNS: usize = 8;

/// The node's room for bodies that wait.
pub(super) struct Spool {
    /// Bytes of one request body that are read into memory.
    pub(super) buffered_max: usize,
    pub(super) meters: SpoolMeters,
    /// Taking in a response whose client is slow.
    pub(super) turns: Semaphore,
    /// Responses whose clients are watched.
    pub(super) lagging: Arc<Lagging>,
    memory: Arc<Budget>,
    disk: Arc<Budget>,
    shares: Arc<Shares>,
    dir: PathBuf,
    /// The last use of a file failed; said once, until one succeeds.
    broken: AtomicBool,
}

impl Spool {
    pub(super) fn new(limits: &config::Limits, metrics: &Metrics) -> Arc<Self> {
        let meters = metrics.of_spool();
        let (memory, disk) = (limits.spool_memory_bytes_max as u64, limits.spool_bytes_max);
        Arc::new(Self {
            buffered_max: limits.body_buffered_bytes_max,
            turns: Semaphore::new(TURNS),
            lagging: Arc::default(),
            memory: Arc::new(Budget::new(memory, Some(meters.memory_bytes.clone()))),
            disk: Arc::new(Budget::new(disk, Some(meters.disk_bytes.clone()))),
            shares: Shares::new(memory, disk, limits.client_spool_bytes_max),
            dir: limits.spool_dir.clone().unwrap_or_else(std::env::temp_dir),
            broken: AtomicBool::new(false),
            meters,
        })
    }

    /// The room that a client's bodies have; one without a network isn't limited by itself.
    pub(super) fn room(self: &Arc<Self>, client: Option<ClientNetwork>) -> Room {
        Room { spool: Arc::clone(self), share: client.map(|network| self.shares.of(network)) }
    }

    /// Takes the outcome of a use of a file. Of several failures in a row the first is logged.
    fn note(&self, failed: Option<&io::Error>) {
        match failed {
            None => self.broken.store(false, Ordering::Relaxed),
            Some(error) => {
                self.meters.errors.inc();
                if !self.broken.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, dir = %self.dir.display(), "the spool's files can't be used; bodies stream");
                }
            }
        }
    }
}

/// The spool as the bodies of one client have it. Clones are the same.
#[derive(Clone)]
pub(super) struct Room {
    spool: Arc<Spool>,
    share: Option<Arc<Share>>,
}

impl Room {
    pub(super) const fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    fn grant(&self, medium: Medium) -> Grant {
        let whole = match medium {
            Medium::Memory => &self.spool.memory,
            Medium::Disk => &self.spool.disk,
        };
        Grant::new(Arc::clone(whole), self.share.clone(), medium)
    }
}

/// A piece of a body that waits.
pub(super) enum Segment {
    /// In memory.
    Memory(Bytes),
    /// In the body's file.
    Filed {
        /// Where it begins.
        at: u64,
        /// Its bytes; not none.
        len: u64,
    },
}

/// The pieces of a body that wait, in their order.
pub(super) struct Stash {
    segments: VecDeque<Segment>,
    /// Small pieces, behind the segments.
    tail: BytesMut,
    memory: Grant,
}

impl Stash {
    pub(super) fn new(room: &Room) -> Self {
        Self { segments: VecDeque::new(), tail: BytesMut::new(), memory: room.grant(Medium::Memory) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.tail.is_empty()
    }

    /// Adds a piece if memory has room for it, else returns it.
    pub(super) fn push(&mut self, piece: Bytes) -> Result<(), Bytes> {
        if !self.memory.grow(piece.len() as u64) {
            return Err(piece);
        }
        self.add(&piece);
        Ok(())
    }

    /// Adds a piece whether or not memory has room for it.
    pub(super) fn force(&mut self, piece: &[u8]) {
        self.memory.force(piece.len() as u64);
        self.add(piece);
    }

    fn add(&mut self, piece: &[u8]) {
        if piece.len() > JOINED_BYTES {
            self.join();
            // A copy, because the piece may be a small part of the buffer that it was read into.
            self.segments.push_back(Segment::Memory(Bytes::copy_from_slice(piece)));
            return;
        }
        self.tail.extend_from_slice(piece);
        if self.tail.len() > JOINED_BYTES {
            self.join();
        }
    }

    /// Adds what has been written to the body's file.
    pub(super) fn push_filed(&mut self, at: u64, len: u64) {
        self.join();
        if let Some(Segment::Filed { at: before, len: known }) = self.segments.back_mut()
            && *before + *known == at
        {
            *known += len;
        } else if len > 0 {
            self.segments.push_back(Segment::Filed { at, len });
        }
    }

    fn join(&mut self) {
        if !self.tail.is_empty() {
            self.segments.push_back(Segment::Memory(std::mem::take(&mut self.tail).freeze()));
        }
    }

    /// The next piece: bytes, which leave the stash, or at most [`READ_BYTES`] of the file, which stay there until they
    /// are [`Stash::read`].
    pub(super) fn next(&mut self) -> Option<Segment> {
        if self.segments.is_empty() {
            self.join();
        }
        if let Some(Segment::Filed { at, len }) = self.segments.front() {
            return Some(Segment::Filed { at: *at, len: (*len).min(READ_BYTES as u64) });
        }
        let next = self.segments.pop_front();
        if let Some(Segment::Memory(bytes)) = &next {
            self.memory.shrink(bytes.len() as u64);
        }
        next
    }

    /// Forgets all of it.
    pub(super) fn clear(&mut self) {
        self.segments.clear();
        self.tail.clear();
        self.memory.shrink(self.memory.bytes());
    }

    /// Takes what has been read from the file off the front.
    pub(super) fn read(&mut self, bytes: u64) {
        if let Some(Segment::Filed { at, len }) = self.segments.front_mut() {
            *at += bytes;
            *len = len.saturating_sub(bytes);
            if *len == 0 {
                self.segments.pop_front();
            }
        }
    }

    /// Where the next write to the file goes: behind what is yet to be read, or to the beginning if nothing is.
    pub(super) fn file_end(&self) -> u64 {
        let end = |segment: &Segment| match segment {
            Segment::Filed { at, len } => Some(at + len),
            Segment::Memory(_) => None,
        };
        self.segments.iter().rev().find_map(end).unwrap_or(0)
    }

    /// The whole body, to be read any number of times.
    pub(super) fn finish(mut self) -> Stored {
        self.join();
        let bytes = |segment: &Segment| match segment {
            Segment::Memory(bytes) => bytes.len() as u64,
            Segment::Filed { len, .. } => *len,
        };
        let len = self.segments.iter().map(bytes).sum();
        Stored { segments: self.segments.into(), len, _memory: self.memory }
    }
}

/// A body that is there as a whole.
pub(super) struct Stored {
    pub(super) segments: Vec<Segment>,
    pub(super) len: u64,
    _memory: Grant,
}

#[cfg(test)]
impl Spool {
    /// Bytes in memory and on disk.
    pub(super) fn used(&self) -> (u64, u64) {
        (self.memory.used(), self.disk.used())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spool(memory: usize, disk: u64) -> Arc<Spool> {
        let limits =
            config::Limits { spool_memory_bytes_max: memory, spool_bytes_max: disk, ..config::Limits::default() };
        Spool::new(&limits, &Metrics::new())
    }

    /// All that waits, in its order.
    async fn drained(stash: &mut Stash, scratch: &Scratch) -> Vec<u8> {
        let mut whole = Vec::new();
        while let Some(segment) = stash.next() {
            match segment {
                Segment::Memory(bytes) => whole.extend_from_slice(&bytes),
                Segment::Filed { at, len } => {
                    let piece = scratch.take(at, len).await.unwrap().unwrap();
                    assert_eq!(piece.len() as u64, len);
                    whole.extend_from_slice(&piece);
                    stash.read(len);
                }
            }
        }
        whole
    }

    #[tokio::test]
    async fn memory_first_then_a_file_then_nothing_and_all_is_given_back() {
        let spool = spool(10_000, 10_000);
        let room = spool.room(None);
        let (mut stash, scratch) = (Stash::new(&room), Scratch::new(&room));
        let piece = |byte: u8| Bytes::from(vec![byte; 6_000]);
        stash.push(piece(b'a')).unwrap();
        let second = stash.push(piece(b'b')).unwrap_err();
        assert!(scratch.write(&second, 0).await);
        stash.push_filed(0, 6_000);
        assert!(!scratch.write(&piece(b'c'), 6_000).await, "neither has room");
        stash.push(Bytes::from_static(b"d")).unwrap();
        assert_eq!(spool.used(), (6_001, 8_192));

        let whole = drained(&mut stash, &scratch).await;
        assert_eq!(whole, [vec![b'a'; 6_000], vec![b'b'; 6_000], vec![b'd']].concat());
        assert!(stash.is_empty());
        assert_eq!(spool.used(), (0, 8_192), "so little stays in the file");
        drop(scratch);
        assert_eq!(spool.used(), (0, 0));
    }

    proptest! {
        /// Whatever goes to memory and whatever to the file, the order stays.
        #[test]
        fn the_order_stays(pieces in prop::collection::vec((1_usize..9_000, any::<bool>()), 0..30)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let spool = spool(1 << 20, 1 << 20);
                let room = spool.room(None);
                let (mut stash, scratch, mut at) = (Stash::new(&room), Scratch::new(&room), 0);
                let mut expected = Vec::new();
                for (number, (len, filed)) in pieces.into_iter().enumerate() {
                    let piece = Bytes::from(vec![u8::try_from(number).unwrap(); len]);
                    expected.extend_from_slice(&piece);
                    if filed {
                        assert!(scratch.write(&piece, at).await);
                        stash.push_filed(at, len as u64);
                        at += len as u64;
                    } else {
                        stash.push(piece).unwrap();
                    }
                }
                assert_eq!(drained(&mut stash, &scratch).await, expected);
                assert_eq!(spool.used().0, 0);
            });
        }
    }
}
