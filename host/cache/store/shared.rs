//! Redis: shared by a region's nodes, asked under a time budget behind a breaker, written in the background.

use std::{sync::Arc, time::Duration};

use redis::{
    Client, FromRedisValue, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::{Instant, timeout};

use super::{
    Error, TierReply,
    health::Health,
    leases::Leases,
    writes::{WRITE_TIME, Writes},
};
use crate::{
    cache::{
        Metrics,
        body::budget::Budget,
        codec::decode,
        entry::Value,
        key::Key,
        lease::{Order, without_order},
    },
    config,
};

/// The region's tier.
pub(super) struct Shared {
    reads: ConnectionManager,
    /// For parts of bodies, which may take longer than a look-up.
    parts: ConnectionManager,
    writes: Arc<Writes>,
    leases: Option<Leases>,
    health: Arc<Health>,
    prefix: Vec<u8>,
    budget: Duration,
    value_bytes_max: usize,
}

impl Shared {
    pub(super) fn open(
        redis: &config::Redis,
        cache: &config::Cache,
        bodies: &Arc<Budget>,
        metrics: &Metrics,
    ) -> Result<Self, Error> {
        // Look-ups, parts and writes have a connection each: a big value on its way must not hold up small replies.
        let reads = connection(redis, redis.budget)?;
        let parts = connection(redis, cache.part_time)?;
        let writer = connection(redis, WRITE_TIME)?;
        let health = Health::new(redis.breaker, metrics);
        let writes = Arc::new(Writes::start(writer, redis, cache, bodies, &health));
        Ok(Self {
            leases: Leases::new(&reads, redis, &cache.namespace, &writes, &health),
            reads,
            parts,
            writes,
            health,
            prefix: format!("{{{}}}:o:", cache.namespace).into_bytes(),
            budget: redis.budget,
            value_bytes_max: redis.value_bytes_max,
        })
    }

    /// The value under `key`, if Redis replies within `limit`; else the reason why it doesn't.
    async fn get(&self, key: &Key, limit: Duration) -> Result<Option<Value>, String> {
        let mut command = redis::cmd("GET");
        command.arg(self.name(key));
        match ask::<Option<Vec<u8>>>(&self.reads, &command, limit).await {
            Some(Ok(bytes)) => Ok(bytes.and_then(read)),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("over its budget".to_owned()),
        }
    }

    /// The part under `key`. Redis has `limit` to reply, and with `patience` even while the breaker is open.
    pub(super) async fn part(&self, key: &Key, limit: Duration, patience: bool) -> TierReply {
        if !patience && self.health.is_open() {
            self.health.metrics.redis_skipped.inc();
            return TierReply::NoReply;
        }
        let mut command = redis::cmd("GET");
        command.arg(self.name(key));
        match ask::<Option<Vec<u8>>>(&self.parts, &command, limit).await {
            Some(Ok(Some(bytes))) => read(bytes).map_or(TierReply::Missing, TierReply::Found),
            Some(Ok(None)) => TierReply::Missing,
            Some(Err(_)) | None => {
                // The breaker counts look-ups and writes: what is late by their measure may be in time by this one.
                self.health.metrics.redis_errors.inc();
                TierReply::NoReply
            }
        }
    }

    /// The parts under these keys, in their order, by one command. `None` if Redis isn't used at present, or doesn't
    /// reply within `limit`.
    pub(super) async fn parts(&self, keys: &[Key], limit: Duration) -> Option<Vec<Option<Value>>> {
        if self.health.is_open() {
            return None;
        }
        let mut command = redis::cmd("MGET");
        for key in keys {
            command.arg(self.name(key));
        }
        if let Some(Ok(values)) = ask::<Vec<Option<Vec<u8>>>>(&self.parts, &command, limit).await {
            return Some(values.into_iter().map(|bytes| read(bytes?)).collect());
        }
        self.health.metrics.redis_errors.inc();
        None
    }

    /// Queues a value, and returns whether it is one for Redis and there was room for it. One with an order replaces no
    /// newer one.
    pub(super) fn put(&self, key: &Key, value: &Value, life_ms: u64, order: Option<&Order>) -> bool {
        let stays_here = matches!(value, Value::Uncacheable(_));
        let is_sent = life_ms > 0 && value.weight() <= self.value_bytes_max && !stays_here;
        is_sent && self.writes.set(self.name(key), value, life_ms, order.cloned())
    }

    pub(super) const fn leases(&self) -> Option<&Leases> {
        self.leases.as_ref()
    }

    pub(super) fn remove(&self, key: &Key) {
        self.writes.delete(self.name(key));
    }

    pub(super) async fn flush(&self) {
        self.writes.flush().await;
    }

    fn name(&self, key: &Key) -> Vec<u8> {
        [self.prefix.as_slice(), key.as_bytes()].concat()
    }
}

/// One request's look-up in Redis. Its steps, one a key, share one budget, and the breaker counts them as one call: so
/// several steps don't take longer than one may, and a Redis that is late with the last of them is a slow one.
pub struct RedisLookup<'t> {
    shared: Option<&'t Shared>,
    stage: Stage,
}

/// How far a look-up is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has been asked.
    Begun,
    /// Redis has replied to each step; so much of the budget is left.
    Going { left: Duration },
    /// Redis isn't used at present, or a step has failed.
    Over,
}

impl<'t> RedisLookup<'t> {
    pub(super) const fn new(shared: Option<&'t Shared>) -> Self {
        Self { shared, stage: Stage::Begun }
    }

    /// The value under `key`, if Redis has it and replies within what is left of the budget.
    pub async fn get(&mut self, key: &Key) -> Option<Value> {
        let shared = self.shared?;
        // Should the request end before the reply is here, nothing is known of Redis: no later step, no success.
        let left = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Begun if shared.health.permits() => shared.budget,
            Stage::Going { left } => left,
            Stage::Begun | Stage::Over => return None,
        };
        let begun = Instant::now();
        match shared.get(key, left).await {
            Ok(value) => {
                self.stage = Stage::Going { left: left.saturating_sub(begun.elapsed()) };
                value
            }
            Err(reason) => {
                shared.health.metrics.redis_errors.inc();
                shared.health.failed(&reason);
                None
            }
        }
    }

    /// Ends it. If all of its steps were in time, the breaker learns that.
    pub fn finish(self) {
        let Self { shared, stage } = self;
        if let (Some(shared), Stage::Going { .. }) = (shared, stage) {
            shared.health.succeeded();
        }
    }
}

/// Returns a value as it was written; `None` if it can't be read.
fn read(bytes: Vec<u8>) -> Option<Value> {
    decode(&without_order(bytes.into()))
}

/// The reply to a command; `None` if there is none within `limit`.
async fn ask<T: FromRedisValue>(
    connection: &ConnectionManager,
    command: &redis::Cmd,
    limit: Duration,
) -> Option<RedisResult<T>> {
    let mut connection = connection.clone();
    timeout(limit, command.query_async(&mut connection)).await.ok()
}

fn connection(redis: &config::Redis, response: Duration) -> Result<ConnectionManager, Error> {
    let client = Client::open(redis.url.as_str()).map_err(|error| Error::Redis(error.to_string()))?;
    // No retries: a command that waits for a reconnect would hold up a request for seconds.
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_connection_timeout(Some(Duration::from_millis(100)))
        .set_response_timeout(Some(response));
    ConnectionManager::new_lazy_with_config(client, config).map_err(|error| Error::Redis(error.to_string()))
}
