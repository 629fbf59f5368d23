//! The tiers: memory and disk of this node, Redis of its region. A tier that is slow, down or full is skipped.

mod error;
mod health;
pub mod leases;
pub mod local;
pub mod lock;
mod ordered;
mod queue;
mod seldom;
pub mod shared;
mod tier;
mod writes;

use std::{fmt, sync::Arc, time::Duration};

use super::{body::budget::Budget, entry::Value, key::Key, lease::Order};
use crate::config;

pub use error::Error;
pub use queue::DiskRoom;
pub use tier::{Tier, TierReply};

use leases::Leases;
use local::Local;
use shared::{RedisLookup, Shared};

/// All tiers.
pub struct Tiers {
    local: Local,
    shared: Option<Shared>,
}

impl Tiers {
    /// Opens what the config names. What waits to be written to Redis counts as held by `bodies`.
    ///
    /// # Errors
    /// [`Error`] if the disk tier can't be opened or the Redis URL is not one. A Redis that is down is no error.
    pub async fn open(config: &config::Cache, bodies: &Arc<Budget>, metrics: &super::Metrics) -> Result<Self, Error> {
        let local = Local::open(config, metrics).await?;
        let shared = match &config.redis {
            Some(redis) => Some(Shared::open(redis, config, bodies, metrics)?),
            None => None,
        };
        Ok(Self { local, shared })
    }

    /// Looks in memory only; never waits.
    #[must_use]
    pub fn memory(&self, key: &Key) -> Option<Value> {
        self.local.memory(key)
    }

    /// Looks on disk; what is found is in memory afterwards.
    pub async fn disk(&self, key: &Key) -> Option<Value> {
        self.local.disk(key).await
    }

    /// Looks on disk for a part of a body, of `bytes`; what is found is in memory afterwards. Waits while others read as
    /// many bytes as may be read at once.
    pub async fn disk_part(&self, key: &Key, bytes: usize) -> Option<Value> {
        self.local.disk_part(key, bytes).await
    }

    /// Begins a request's look-up in Redis. What is found isn't promoted: the caller does that once it's judged good.
    #[must_use]
    pub const fn redis_lookup(&self) -> RedisLookup<'_> {
        RedisLookup::new(self.shared.as_ref())
    }

    /// Looks in Redis for a part of a body. It may take `limit`, more than a look-up; with `patience` Redis is asked
    /// even while its breaker is open.
    pub async fn redis_part(&self, key: &Key, limit: Duration, patience: bool) -> TierReply {
        match &self.shared {
            Some(shared) => shared.part(key, limit, patience).await,
            None => TierReply::Missing,
        }
    }

    /// Looks in one tier, and brings what is found into no other.
    pub async fn glance(&self, tier: Tier, key: &Key) -> Option<Value> {
        match tier {
            Tier::Memory => self.local.memory(key),
            Tier::Disk => self.local.glance(key).await,
            Tier::Redis => {
                let mut redis = self.redis_lookup();
                let value = redis.get(key).await;
                redis.finish();
                value
            }
        }
    }

    /// Looks in Redis for several parts of a body by one command, which may take `limit`. They are in the order of their
    /// keys; `None` if there is no Redis, or it doesn't reply.
    pub async fn redis_parts(&self, keys: &[Key], limit: Duration) -> Option<Vec<Option<Value>>> {
        self.shared.as_ref()?.parts(keys, limit).await
    }

    /// Whether this node has a disk tier.
    #[must_use]
    pub const fn has_disk(&self) -> bool {
        self.local.has_disk()
    }

    /// Whether there is a tier beside memory.
    #[must_use]
    pub fn has_deeper(&self) -> bool {
        self.shared.is_some() || self.local.has_disk()
    }

    /// Whether the value may be on this node. Never waits; true may be wrong, false never is.
    #[must_use]
    pub fn may_have(&self, key: &Key) -> bool {
        self.local.may_have(key)
    }

    /// Waits until the disk may be given a part of `bytes`, at most for `limit`. `None` without a disk tier, or if that is
    /// still busy with what it was given.
    pub async fn disk_room(&self, bytes: usize, limit: Duration) -> Option<DiskRoom> {
        self.local.disk_room(bytes, limit).await
    }

    /// Gives room back as soon as all is written that the disk has been given by now.
    pub fn give_back(&self, room: DiskRoom) {
        self.local.give_back(room);
    }

    /// Puts a value in this node's tiers.
    pub fn insert_local(&self, key: Key, value: Value) {
        self.local.insert(key, value);
    }

    /// Whether there is a Redis.
    #[must_use]
    pub const fn has_redis(&self) -> bool {
        self.shared.is_some()
    }

    /// Puts a value in every tier; Redis forgets it after `left_ms`, and takes one with an order only if none is there that
    /// is newer. Returns whether it waits to be written there.
    pub fn insert(&self, key: Key, value: Value, left_ms: u64, order: Option<&Order>) -> bool {
        let is_sent = self.shared.as_ref().is_some_and(|shared| shared.put(&key, &value, left_ms, order));
        self.local.insert(key, value);
        is_sent
    }

    /// Returns the region's leases, if there is a Redis and they are used.
    #[must_use]
    pub fn leases(&self) -> Option<&Leases> {
        self.shared.as_ref().and_then(Shared::leases)
    }

    /// Removes a value from this node's memory and disk. Validity doesn't depend on it.
    pub fn remove(&self, key: &Key) {
        self.local.remove(key);
    }

    /// Removes a value from this node's memory and disk, and in the background from Redis.
    pub fn remove_everywhere(&self, key: &Key) {
        self.local.remove(key);
        if let Some(shared) = &self.shared {
            shared.remove(key);
        }
    }

    /// Writes out what is still to be written, and closes.
    pub async fn close(&self) {
        if let Some(shared) = &self.shared {
            shared.flush().await;
        }
        self.local.close().await;
    }
}

impl fmt::Debug for Tiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiers").field("disk", &self.local.has_disk()).field("redis", &self.shared.is_some()).finish()
    }
}
