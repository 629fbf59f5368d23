//! The files of the spool. A file takes room block by block, and gives it back from its beginning as it is read, so that
//! a body that comes and goes for long takes no more than what of it waits.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    READ_BYTES, Room, Spool,
    room::{Grant, Medium},
};

/// What file systems give out and take back at the least.
const BLOCK: u64 = 4096;

/// Bytes that have been read before they are given back to the file system: less would cost more than it is worth.
const FREE_BYTES: u64 = 256 * 1024;

/// A body's file. Made when first written to, removed when it is no longer used. Clones are the same.
#[derive(Clone)]
pub(in crate::origin) struct Scratch(Arc<Inner>);

struct Inner {
    spool: Arc<Spool>,
    file: OnceLock<File>,
    held: Mutex<Held>,
}

/// The room that the file takes.
struct Held {
    extent: Extent,
    /// For at least the extent.
    disk: Grant,
}

/// The blocks of a file that take room, from the first byte of one to the last byte of one. Pure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extent {
    from: u64,
    to: u64,
}

impl Extent {
    const fn bytes(self) -> u64 {
        self.to - self.from
    }

    /// The extent once a piece has been written.
    fn written(self, at: u64, len: u64) -> Self {
        let (from, to) = (at / BLOCK * BLOCK, (at + len).div_ceil(BLOCK) * BLOCK);
        if self.bytes() == 0 { Self { from, to } } else { Self { from: self.from.min(from), to: self.to.max(to) } }
    }

    /// The extent without the blocks of which everything lies before `until`.
    fn read(self, until: u64) -> Self {
        Self { from: (until / BLOCK * BLOCK).clamp(self.from, self.to), ..self }
    }
}

impl Scratch {
    pub(in crate::origin) fn new(room: &Room) -> Self {
        let held = Held { extent: Extent::default(), disk: room.grant(Medium::Disk) };
        Self(Arc::new(Inner { spool: Arc::clone(room.spool()), file: OnceLock::new(), held: Mutex::new(held) }))
    }

    /// Writes a piece behind all others that wait, or at the beginning if none does. False if there is no room, or the
    /// file system doesn't do it.
    pub(in crate::origin) async fn write(&self, piece: &Bytes, at: u64) -> bool {
        let Some(anew) = self.0.reserve(at, piece.len() as u64) else { return false };
        let (inner, piece) = (Arc::clone(&self.0), piece.clone());
        let writing = spawn_blocking(move || inner.write(&piece, at, anew));
        let written = writing.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        self.0.spool.note(written.as_ref().err());
        written.is_ok()
    }

    /// Reads a piece, at most [`READ_BYTES`], which may be read again.
    pub(in crate::origin) fn read(&self, at: u64, len: u64) -> JoinHandle<io::Result<Bytes>> {
        let inner = Arc::clone(&self.0);
        spawn_blocking(move || inner.read(at, len))
    }

    /// Reads a piece, at most [`READ_BYTES`], for the last time, and all that lies before it has been read, too: its room
    /// is given back.
    pub(in crate::origin) fn take(&self, at: u64, len: u64) -> JoinHandle<io::Result<Bytes>> {
        let inner = Arc::clone(&self.0);
        spawn_blocking(move || {
            let piece = inner.read(at, len)?;
            inner.free(at + piece.len() as u64);
            Ok(piece)
        })
    }
}

impl Inner {
    /// Takes the room for a piece: whether the file begins anew with it, or `None` if there is none.
    fn reserve(&self, at: u64, len: u64) -> Option<bool> {
        let held = &mut *self.held.lock();
        // At the beginning again: nothing of what was written before waits any more.
        let anew = at == 0 && held.extent.bytes() > 0;
        let before = if anew { Extent::default() } else { held.extent };
        let after = before.written(at, len);
        let more = after.bytes().saturating_sub(held.disk.bytes());
        if more > 0 && !held.disk.grow(more) {
            return None;
        }
        held.extent = after;
        Some(anew)
    }

    fn write(&self, piece: &[u8], at: u64, anew: bool) -> io::Result<()> {
        let file = self.open()?;
        if anew {
            file.set_len(0)?;
        }
        file.write_all_at(piece, at)?;
        let held = &mut *self.held.lock();
        held.disk.shrink(held.disk.bytes().saturating_sub(held.extent.bytes()));
        Ok(())
    }

    fn open(&self) -> io::Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = nameless(&self.spool.dir)?;
        Ok(self.file.get_or_init(|| file))
    }

    fn read(&self, at: u64, len: u64) -> io::Result<Bytes> {
        let file = self.file.get().ok_or_else(|| io::Error::other("nothing has been written"))?;
        let mut piece = vec![0; usize::try_from(len).unwrap_or(READ_BYTES).min(READ_BYTES)];
        file.read_exact_at(&mut piece, at)?;
        Ok(Bytes::from(piece))
    }

    /// Gives the blocks before `until` back, once they are enough. A file system that can't do it keeps them until the
    /// file begins anew or is gone, and so they stay counted.
    fn free(&self, until: u64) {
        let before = self.held.lock().extent;
        let after = before.read(until);
        let freed = after.from - before.from;
        if freed < FREE_BYTES {
            return;
        }
        let Some(file) = self.file.get() else { return };
        // Not under the lock. A body has one reader, and whoever writes adds to the end.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(file, flags, before.from, freed).is_ok() {
            let held = &mut *self.held.lock();
            held.extent.from = after.from;
            held.disk.shrink(freed);
        }
    }
}

/// A file without a name, readable by this process alone.
fn nameless(dir: &Path) -> io::Result<File> {
    let options = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        options
    };
    if let Ok(file) = options().custom_flags(OFlags::TMPFILE.bits().cast_signed()).open(dir) {
        return Ok(file);
    }
    // Not every file system knows files that never had a name.
    let path = dir.join(format!("holm-{}-{:016x}", std::process::id(), fastrand::u64(..)));
    let file = options().create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
impl Scratch {
    /// Bytes that the file takes on its disk.
    fn blocks(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        self.0.file.get().map_or(0, |file| file.metadata().unwrap().blocks() * 512)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, origin::metrics::Metrics};

    const MIB: u64 = 1 << 20;
    const PIECE: u64 = READ_BYTES as u64;

    fn spool(limits: config::Limits) -> Arc<Spool> {
        Spool::new(&config::Limits { spool_bytes_max: 2 * MIB, ..limits }, &Metrics::new())
    }

    #[test]
    fn blocks_are_taken_as_a_whole_and_given_back_as_a_whole() {
        let none = Extent::default();
        let first = none.written(10, 10);
        assert_eq!(first, Extent { from: 0, to: BLOCK });
        let grown = first.written(20, BLOCK);
        assert_eq!(grown, Extent { from: 0, to: 2 * BLOCK });
        assert_eq!(grown.written(30, 10), grown, "within what is taken");
        assert_eq!(grown.read(BLOCK - 1), grown, "a byte of the first waits");
        assert_eq!(grown.read(BLOCK), Extent { from: BLOCK, to: 2 * BLOCK });
        assert_eq!(grown.read(9 * BLOCK).bytes(), 0);
        assert_eq!(grown.read(BLOCK).read(0), Extent { from: BLOCK, to: 2 * BLOCK }, "nothing comes back");
        assert_eq!(grown.read(2 * BLOCK).written(5 * BLOCK, 1), Extent { from: 5 * BLOCK, to: 6 * BLOCK });
    }

    /// Whether the file system that the spool would use can give back the beginning of a file.
    fn frees(spool: &Spool) -> bool {
        let file = nameless(&spool.dir).unwrap();
        file.write_all_at(&[1; 8192], 0).unwrap();
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, BLOCK).is_ok()
    }

    #[tokio::test]
    async fn what_has_been_read_is_given_back_and_the_count_is_what_the_disk_holds() {
        let spool = spool(config::Limits::default());
        if !frees(&spool) {
            return;
        }
        let scratch = Scratch::new(&spool.room(None));
        let piece = Bytes::from(vec![7; READ_BYTES]);
        let (mut written, mut read) = (0, 0);
        // Far more than there is room for, since never more than a mebibyte of it waits.
        while written < 8 * MIB {
            if written - read >= MIB {
                assert_eq!(scratch.take(read, PIECE).await.unwrap().unwrap(), piece);
                read += PIECE;
            } else {
                assert!(scratch.write(&piece, written).await);
                written += PIECE;
            }
            let (_, counted) = spool.used();
            assert!(counted >= written - read && counted <= MIB + FREE_BYTES, "{counted} counted");
            // Some file systems take a little more, for the file's map or ahead of what comes.
            assert!(scratch.blocks() <= counted + MIB, "{} taken and {counted} counted", scratch.blocks());
        }
        drop(scratch);
        assert_eq!(spool.used(), (0, 0));
    }

    #[tokio::test]
    async fn a_file_that_begins_anew_takes_room_for_what_is_new() {
        let spool = spool(config::Limits::default());
        let scratch = Scratch::new(&spool.room(None));
        assert!(scratch.write(&Bytes::from(vec![1; 100_000]), 0).await);
        assert_eq!(spool.used(), (0, 25 * BLOCK));
        assert!(scratch.write(&Bytes::from_static(b"new"), 0).await);
        assert_eq!(spool.used(), (0, BLOCK));
        assert!(scratch.blocks() < 100_000);
        assert_eq!(scratch.read(0, 3).await.unwrap().unwrap(), "new");
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_no_room_and_is_counted() {
        let spool = spool(config::Limits { spool_dir: Some("/nonexistent/holm".into()), ..config::Limits::default() });
        let scratch = Scratch::new(&spool.room(None));
        assert!(!scratch.write(&Bytes::from_static(b"a"), 0).await);
        assert_eq!(spool.meters.errors.get(), 1);
        assert!(scratch.read(0, 1).await.unwrap().is_err());
        drop(scratch);
        assert_eq!(spool.used(), (0, 0));
    }

    #[tokio::test]
    async fn the_file_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(config::Limits { spool_dir: Some(dir.path().into()), ..config::Limits::default() });
        let scratch = Scratch::new(&spool.room(None));
        assert!(scratch.write(&Bytes::from_static(b"abc"), 5).await);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(scratch.read(6, 2).await.unwrap().unwrap(), "bc");
    }
}
