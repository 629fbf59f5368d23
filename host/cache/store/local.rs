//! Memory and disk, both foyer's. It stores; validity is ours, because it may bring a removed or overwritten value back.

use std::{
    fmt::Display,
    io::{self, Read},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use foyer::{
    BlockEngineConfig, Code, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy,
    HybridCacheProperties, Load, Location, PsyncIoEngineConfig, RecoverMode, S3FifoConfig, Spawner,
};
use fs4::fs_std::FileExt;
use parking_lot::Mutex;
use tracing::warn;

use super::{
    Error,
    queue::{DiskRoom, ReadQueue, WriteQueue},
    seldom::Seldom,
};
use crate::{
    cache::{
        Metrics,
        codec::{decode, encode},
        entry::Value,
        key::{Key, KeyHash},
    },
    clock, config,
};

/// Locks in memory at most. More than cores: a hit holds one only for a pointer's copy.
const SHARDS_MAX: usize = 64;

/// A shard holds at least this many of the largest values, or a few of them would push everything else out.
const VALUES_PER_SHARD: usize = 8;

/// Threads that do the disk's blocking reads and writes; requests never wait on their own thread.
const DISK_THREADS: usize = 2;

/// Bytes that may wait to be written; what comes on top is dropped, which costs a later miss.
const WRITE_BUFFER_BYTES: usize = 64 << 20;

/// Bytes of a block of the store. A value must fit into one, beside its index and its key.
const BLOCK_BYTES: usize = 16 << 20;

/// Bytes of the largest parts that leave room for that.
const BLOCK_PART_BYTES_MAX: usize = BLOCK_BYTES - (1 << 20);

/// No value is longer than the largest of these blocks.
const VALUE_BYTES_MAX: u64 = 2 * BLOCK_BYTES as u64;

/// This node's tiers.
pub(super) struct Local {
    cache: HybridCache<Key, Value, KeyHash>,
    has_disk: bool,
    /// The disk is no longer this process's.
    is_closed: AtomicBool,
    value_bytes_max: usize,
    queue: WriteQueue,
    reads: ReadQueue,
    metrics: Metrics,
    failed: Mutex<Seldom>,
    lost: Mutex<Seldom>,
}

impl Local {
    pub(super) async fn open(config: &config::Cache, metrics: &Metrics) -> Result<Self, Error> {
        let builder = HybridCacheBuilder::new()
            .with_name("holm")
            // Written when stored, so that a killed node still has what it had; reads never write.
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            .with_flush_on_close(false)
            .memory(config.memory.bytes)
            .with_shards(shards(&config.memory))
            .with_hash_builder(KeyHash::default())
            .with_eviction_config(S3FifoConfig::default())
            .with_weighter(|_: &Key, value: &Value| 181 + value.weight())
            .storage();
        let built = match &config.disk {
            None => builder.build().await.map_err(|error| disk(Path::new("(none)"), error)),
            Some(tier) => {
                std::fs::create_dir_all(&tier.dir).map_err(|error| disk(&tier.dir, error))?;
                let device = FsDeviceBuilder::new(tier.dir.join("objects"))
                    .with_capacity(tier.bytes)
                    .build()
                    .map_err(|error| disk(&tier.dir, error))?;
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(DISK_THREADS)
                    .thread_name("holm-disk")
                    .enable_all()
                    .build()
                    .map_err(|error| disk(&tier.dir, error))?;
                let built = builder
                    .with_io_engine_config(PsyncIoEngineConfig::new())
                    .with_engine_config(
                        BlockEngineConfig::new(device)
                            .with_block_size(block_bytes(config.part_bytes))
                            .with_buffer_pool_size(WRITE_BUFFER_BYTES)
                            .with_submit_queue_size_threshold(WRITE_BUFFER_BYTES),
                    )
                    .with_recover_mode(RecoverMode::Quiet)
                    .with_spawner(Spawner::from(runtime))
                    .build()
                    .await
                    .map_err(|error| disk(&tier.dir, error))?;
                // Not before: it is the store that makes its files and gives them their length. Nothing is written yet.
                reserve(&tier.dir.join("objects")).map_err(|error| disk(&tier.dir, error))?;
                Ok(built)
            }
        };
        Ok(Self {
            cache: built?,
            has_disk: config.disk.is_some(),
            is_closed: AtomicBool::new(false),
            value_bytes_max: config.memory.value_bytes_max,
            queue: WriteQueue::new(),
            reads: ReadQueue::new(),
            metrics: metrics.clone(),
            failed: Mutex::default(),
            lost: Mutex::default(),
        })
    }

    pub(super) fn memory(&self, key: &Key) -> Option<Value> {
        Some(self.cache.memory().get(key)?.value().clone())
    }

    pub(super) async fn disk(&self, key: &Key) -> Option<Value> {
        // A look-up on disk spawns.
        if !self.may_be_on_disk(key) {
            return None;
        }
        match self.cache.get(key).await {
            Ok(Some(found)) => Some(found.value().clone()),
            Ok(None) => {
                // The store takes what is damaged out of its index, and says of it only that it isn't there.
                if !self.cache.storage().may_contains(key) {
                    self.note_lost();
                }
                None
            }
            Err(error) => {
                self.metrics.disk_errors.inc();
                if let Some(others) = self.failed.lock().admit(clock::uptime()) {
                    warn!(%error, others, "a read from the disk tier failed; such reads count as misses");
                }
                None
            }
        }
    }

    /// Looks for a part of `bytes`, in turn with those that others read.
    pub(super) async fn disk_part(&self, key: &Key, bytes: usize) -> Option<Value> {
        if !self.may_be_on_disk(key) {
            return None;
        }
        let _turn = self.reads.turn(bytes).await;
        self.disk(key).await
    }

    /// Whether the disk is this process's and may have it: the index knows most misses for nothing.
    fn may_be_on_disk(&self, key: &Key) -> bool {
        self.has_disk && !self.is_closed.load(Ordering::Relaxed) && self.cache.storage().may_contains(key)
    }

    /// Reads from disk without bringing what is found into memory, and counts nothing.
    pub(super) async fn glance(&self, key: &Key) -> Option<Value> {
        if !self.may_be_on_disk(key) {
            return None;
        }
        match self.cache.storage().load(key).await {
            Ok(Load::Entry { value, .. }) => Some(value),
            // It waits to be written.
            Ok(Load::Piece { piece, .. }) => Some(piece.value().clone()),
            Ok(Load::Throttled | Load::Miss) | Err(_) => None,
        }
    }

    fn note_lost(&self) {
        self.metrics.disk_lost.inc();
        if let Some(others) = self.lost.lock().admit(clock::uptime()) {
            warn!(
                others,
                "a value on disk was gone when it was read: damaged, or replaced meanwhile; it counts as a miss"
            );
        }
    }

    pub(super) async fn disk_room(&self, bytes: usize, limit: Duration) -> Option<DiskRoom> {
        if self.has_disk { self.queue.room(bytes, limit).await } else { None }
    }

    pub(super) fn give_back(&self, room: DiskRoom) {
        let store = self.cache.storage().clone();
        tokio::spawn(async move {
            store.wait().await;
            drop(room);
        });
    }

    pub(super) const fn has_disk(&self) -> bool {
        self.has_disk
    }

    pub(super) fn may_have(&self, key: &Key) -> bool {
        self.cache.contains(key)
    }

    pub(super) fn insert(&self, key: Key, value: Value) {
        if matches!(value, Value::Uncacheable(_)) || self.is_closed.load(Ordering::Relaxed) {
            let memory_only = HybridCacheProperties::default().with_location(Location::InMem);
            self.cache.insert_with_properties(key, value, memory_only);
        } else if self.has_disk && value.weight() > self.value_bytes_max {
            self.cache.storage_writer(key).insert(value);
        } else {
            self.cache.insert(key, value);
        }
    }

    pub(super) fn remove(&self, key: &Key) {
        if self.is_closed.load(Ordering::Relaxed) {
            self.cache.memory().remove(key);
            return;
        }
        self.cache.remove(key);
    }

    /// Writes out what is still to be written, and closes the disk; memory goes on.
    pub(super) async fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        if let Err(error) = self.cache.close().await {
            warn!(%error, "the disk tier did not close cleanly; it will be recovered at the next start");
        }
    }
}

const fn block_bytes(part_bytes: usize) -> usize {
    if part_bytes <= BLOCK_PART_BYTES_MAX { BLOCK_BYTES } else { 2 * BLOCK_BYTES }
}

fn shards(memory: &config::Memory) -> usize {
    (memory.bytes / memory.value_bytes_max.saturating_mul(VALUES_PER_SHARD).max(1)).clamp(1, SHARDS_MAX)
}

/// Takes the space of the store's files now, where the file system can: a disk that fills up later fails other programs,
/// not this tier, whose writer doesn't survive a failed write.
fn reserve(objects: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(objects)? {
        let file = std::fs::OpenOptions::new().write(true).open(entry?.path())?;
        match FileExt::allocate(&file, file.metadata()?.len()) {
            Err(error) if error.kind() != io::ErrorKind::Unsupported => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn disk(dir: &Path, reason: impl Display) -> Error {
    Error::Disk { dir: dir.display().to_string(), reason: reason.to_string() }
}

impl Code for Key {
    fn encode(&self, writer: &mut impl std::io::Write) -> foyer::Result<()> {
        writer.write_all(self.as_bytes()).map_err(foyer::Error::io_error)
    }

    fn decode(reader: &mut impl std::io::Read) -> foyer::Result<Self> {
        let mut bytes = [0; 32];
        reader.read_exact(&mut bytes).map_err(foyer::Error::io_error)?;
        Ok(Self::from_bytes(bytes))
    }

    fn estimated_size(&self) -> usize {
        32
    }
}

impl Code for Value {
    fn encode(&self, writer: &mut impl std::io::Write) -> foyer::Result<()> {
        let Some((head, body)) = encode(self) else {
            return Err(foyer::Error::io_error(std::io::Error::other("a value that never leaves memory")));
        };
        let length = (head.len() + body.len()) as u64;
        for piece in [&length.to_le_bytes()[..], &head, &body] {
            writer.write_all(piece).map_err(foyer::Error::io_error)?;
        }
        Ok(())
    }

    fn decode(reader: &mut impl std::io::Read) -> foyer::Result<Self> {
        let mut length = [0; 8];
        reader.read_exact(&mut length).map_err(foyer::Error::io_error)?;
        let length = u64::from_le_bytes(length);
        // Grown piece by piece it would take up to twice its length, uncounted, for as long as it is in memory. A damaged
        // length makes us allocate no more than a value can have, and `take` bounds it to what is really there.
        let mut bytes = Vec::with_capacity(usize::try_from(length.min(VALUE_BYTES_MAX)).unwrap_or_default());
        reader.take(length).read_to_end(&mut bytes).map_err(foyer::Error::io_error)?;
        decode(&bytes.into()).ok_or_else(|| foyer::Error::io_error(std::io::Error::other("an unknown or torn value")))
    }

    fn estimated_size(&self) -> usize {
        8 + self.weight()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_space_is_taken_at_the_first_start() {
        let dir = tempfile::tempdir().unwrap();
        let probe = fs::File::create(dir.path().join("probe")).unwrap();
        if FileExt::allocate(&probe, 1 << 20).is_err() {
            eprintln!("skipped: this file system can't reserve space");
            return;
        }
        let config = config::Cache {
            memory: config::Memory { bytes: 1 << 20, value_bytes_max: 1 << 16 },
            disk: Some(config::Disk { dir: dir.path().to_owned(), bytes: 64 << 20 }),
            ..config::Cache::default()
        };
        let local = Local::open(&config, &Metrics::default()).await.unwrap();
        let files = fs::read_dir(dir.path().join("objects")).unwrap();
        let files: Vec<_> = files.map(|entry| entry.unwrap().metadata().unwrap()).collect();
        let length: u64 = files.iter().map(fs::Metadata::len).sum();
        // `blocks` counts 512 bytes each, whatever the file system's own blocks are.
        let taken: u64 = files.iter().map(|file| file.blocks() * 512).sum();
        assert!(length >= 48 << 20, "the store has files of {length} bytes");
        assert!(taken >= length, "{taken} of {length} bytes are taken");
        local.close().await;
    }
}
