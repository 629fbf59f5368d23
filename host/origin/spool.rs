//! Room for bodies that wait, so that none holds a place at an origin while its client takes its time: memory first, then
//! files that have no name. Both are bounded for the node as a whole. A body takes room as it comes and not as it is
//! announced, so that announcing much and sending little fills nothing.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, spawn_blocking},
};

use super::{
    metrics::{Metrics, SpoolMeters},
    relay::Lagging,
};
use crate::config;

/// Bytes that are read from a file at once.
pub(super) const READ_BYTES: usize = 64 * 1024;

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
    pub(super) lagging: Lagging,
    memory: Arc<Budget>,
    disk: Arc<Budget>,
    dir: PathBuf,
    /// The last use of a file failed; said once, until one succeeds.
    broken: AtomicBool,
}

impl Spool {
    pub(super) fn new(limits: &config::Limits, metrics: &Metrics) -> Arc<Self> {
        let meters = metrics.of_spool();
        Arc::new(Self {
            buffered_max: limits.body_buffered_bytes_max,
            turns: Semaphore::new(TURNS),
            lagging: Lagging::default(),
            memory: Budget::new(limits.spool_memory_bytes_max as u64, meters.memory_bytes.clone()),
            disk: Budget::new(limits.spool_bytes_max, meters.disk_bytes.clone()),
            dir: limits.spool_dir.clone().unwrap_or_else(std::env::temp_dir),
            broken: AtomicBool::new(false),
            meters,
        })
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

/// Bytes that may be taken, all bodies together.
struct Budget {
    used: AtomicU64,
    max: u64,
    gauge: Gauge,
}

impl Budget {
    fn new(max: u64, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), max, gauge })
    }

    fn take(&self, bytes: u64) -> bool {
        // Taken first and looked at then: of two that come at once, at most one too many finds no room.
        let fits = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= self.max;
        if fits {
            self.show(bytes, 1);
        } else {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    fn show(&self, bytes: u64, sign: i64) {
        self.gauge.inc_by(i64::try_from(bytes).unwrap_or(i64::MAX) * sign);
    }
}

/// What one body has taken of a budget; given back when it is dropped.
struct Grant {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Grant {
    fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    /// Takes more; false if there is no more.
    fn grow(&mut self, bytes: u64) -> bool {
        let fits = self.budget.take(bytes);
        if fits {
            self.bytes += bytes;
        }
        fits
    }

    /// Takes more whether or not there is more.
    fn force(&mut self, bytes: u64) {
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.budget.show(bytes, 1);
        self.bytes += bytes;
    }

    fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.show(bytes, -1);
        self.bytes -= bytes;
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.shrink(self.bytes);
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
    pub(super) fn new(spool: &Spool) -> Self {
        Self { segments: VecDeque::new(), tail: BytesMut::new(), memory: Grant::new(&spool.memory) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.tail.is_empty()
    }

    /// Adds a piece if memory has room for it, else returns it.
    pub(super) fn push(&mut self, piece: Bytes) -> Result<(), Bytes> {
        if !self.memory.grow(piece.len() as u64) {
            return Err(piece);
        }
        self.add(piece);
        Ok(())
    }

    /// Adds a piece whether or not memory has room for it.
    pub(super) fn force(&mut self, piece: Bytes) {
        self.memory.force(piece.len() as u64);
        self.add(piece);
    }

    fn add(&mut self, piece: Bytes) {
        if piece.len() > JOINED_BYTES {
            self.join();
            self.segments.push_back(Segment::Memory(piece));
            return;
        }
        self.tail.extend_from_slice(&piece);
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
        self.memory.shrink(self.memory.bytes);
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

/// A body's file. Made when first written to, gone when nobody uses it any more.
pub(super) struct Scratch {
    spool: Arc<Spool>,
    file: Option<Arc<File>>,
    /// For as much as the file has ever held: what has been read isn't given back to the file system.
    disk: Grant,
}

impl Scratch {
    pub(super) fn new(spool: &Arc<Spool>) -> Self {
        Self { spool: Arc::clone(spool), file: None, disk: Grant::new(&spool.disk) }
    }

    /// The file, once something has been written.
    pub(super) fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }

    /// Writes a piece. False if there is no room, or the file system doesn't do it.
    pub(super) async fn write(&mut self, piece: &Bytes, at: u64) -> bool {
        let more = (at + piece.len() as u64).saturating_sub(self.disk.bytes);
        if more > 0 && !self.disk.grow(more) {
            return false;
        }
        let (file, dir, piece) = (self.file.clone(), self.spool.dir.clone(), piece.clone());
        let writing = spawn_blocking(move || -> io::Result<Arc<File>> {
            let file = match file {
                Some(file) => file,
                None => Arc::new(nameless(&dir)?),
            };
            file.write_all_at(&piece, at)?;
            Ok(file)
        });
        match writing.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked))) {
            Ok(file) => {
                self.file = Some(file);
                self.spool.note(None);
                true
            }
            Err(error) => {
                self.spool.note(Some(&error));
                false
            }
        }
    }
}

/// Reads a piece of a file.
pub(super) fn read(file: &Arc<File>, at: u64, len: u64) -> JoinHandle<io::Result<Bytes>> {
    let file = Arc::clone(file);
    spawn_blocking(move || {
        let mut piece = vec![0; usize::try_from(len).unwrap_or(READ_BYTES).min(READ_BYTES)];
        file.read_exact_at(&mut piece, at)?;
        Ok(Bytes::from(piece))
    })
}

/// A file without a name, readable by this process alone.
fn nameless(dir: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::TMPFILE.bits().cast_signed();
    let options = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        options
    };
    if let Ok(file) = options().custom_flags(flags).open(dir) {
        return Ok(file);
    }
    // Not every file system knows files that never had a name.
    let path = dir.join(format!("holm-{}-{:016x}", std::process::id(), fastrand::u64(..)));
    let file = options().create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
impl Spool {
    /// Bytes in memory and on disk.
    pub(super) fn used(&self) -> (u64, u64) {
        (self.memory.used.load(Ordering::Relaxed), self.disk.used.load(Ordering::Relaxed))
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
                    let piece = read(scratch.file().unwrap(), at, len).await.unwrap().unwrap();
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
        let (mut stash, mut scratch) = (Stash::new(&spool), Scratch::new(&spool));
        let piece = |byte: u8| Bytes::from(vec![byte; 6_000]);
        stash.push(piece(b'a')).unwrap();
        let second = stash.push(piece(b'b')).unwrap_err();
        assert!(scratch.write(&second, 0).await);
        stash.push_filed(0, 6_000);
        assert!(!scratch.write(&piece(b'c'), 6_000).await, "neither has room");
        stash.push(Bytes::from_static(b"d")).unwrap();
        assert_eq!(spool.used(), (6_001, 6_000));

        let whole = drained(&mut stash, &scratch).await;
        assert_eq!(whole, [vec![b'a'; 6_000], vec![b'b'; 6_000], vec![b'd']].concat());
        assert!(stash.is_empty());
        assert_eq!(spool.used(), (0, 6_000), "what has been written stays in the file");
        drop(scratch);
        assert_eq!(spool.used(), (0, 0));
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_no_room_and_is_counted() {
        let limits = config::Limits { spool_dir: Some("/nonexistent/holm".into()), ..config::Limits::default() };
        let spool = Spool::new(&limits, &Metrics::new());
        let mut scratch = Scratch::new(&spool);
        assert!(!scratch.write(&Bytes::from_static(b"a"), 0).await);
        assert_eq!(spool.meters.errors.get(), 1);
        drop(scratch);
        assert_eq!(spool.used(), (0, 0));
    }

    #[tokio::test]
    async fn the_file_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let limits = config::Limits { spool_dir: Some(dir.path().into()), ..config::Limits::default() };
        let mut scratch = Scratch::new(&Spool::new(&limits, &Metrics::new()));
        assert!(scratch.write(&Bytes::from_static(b"abc"), 5).await);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let piece = read(scratch.file().unwrap(), 6, 2).await.unwrap().unwrap();
        assert_eq!(piece, "bc");
    }

    proptest! {
        /// Whatever goes to memory and whatever to the file, the order stays.
        #[test]
        fn the_order_stays(pieces in prop::collection::vec((1_usize..9_000, any::<bool>()), 0..30)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let spool = spool(1 << 20, 1 << 20);
                let (mut stash, mut scratch, mut at) = (Stash::new(&spool), Scratch::new(&spool), 0);
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
