//! Redis: shared by a region's nodes, asked under a time budget behind a breaker, written in the background.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use redis::{
    Client, FromRedisValue, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::warn;

use super::{Error, TierReply};
use crate::{
    breaker::{Breaker, Permit},
    cache::{
        Metrics,
        body::budget::{Budget, Held},
        codec::{decode, encode},
        entry::Value,
        key::Key,
    },
    clock, config,
};

/// A write may take this long; no request waits for it.
const WRITE_TIME: Duration = Duration::from_millis(500);
/// What a stopping node waits for its last writes.
const FLUSH_TIME: Duration = Duration::from_millis(1_000);
/// The share of `bodies_bytes_max` that values may take while they wait to be written: one in so many.
const WRITES_SHARE: u64 = 4;

/// The region's tier.
pub(super) struct Shared {
    reads: ConnectionManager,
    /// For parts of bodies, which may take longer than a look-up.
    parts: ConnectionManager,
    writes: mpsc::Sender<Write>,
    /// What the values that wait to be written hold: of their own share, and of what all bodies may hold.
    queued: Arc<Budget>,
    bodies: Arc<Budget>,
    breaker: Arc<Mutex<Breaker>>,
    prefix: Vec<u8>,
    budget: Duration,
    value_bytes_max: usize,
    metrics: Metrics,
}

enum Write {
    Set { name: Vec<u8>, value: Value, life_ms: u64, _held: [Held; 2] },
    Delete { name: Vec<u8> },
    Flush(oneshot::Sender<()>),
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
        let breaker = Arc::new(Mutex::new(Breaker::new(redis.breaker)));
        let (writes, queue) = mpsc::channel(redis.writes_queued_max);
        tokio::spawn(write(writer, queue, Arc::clone(&breaker), metrics.clone()));
        Ok(Self {
            reads,
            parts,
            writes,
            queued: Budget::new(cache.bodies_bytes_max / WRITES_SHARE, Gauge::default()),
            bodies: Arc::clone(bodies),
            breaker,
            prefix: format!("{{{}}}:o:", cache.namespace).into_bytes(),
            budget: redis.budget,
            value_bytes_max: redis.value_bytes_max,
            metrics: metrics.clone(),
        })
    }

    pub(super) async fn get(&self, key: &Key) -> Option<Value> {
        let mut command = redis::cmd("GET");
        command.arg(self.name(key));
        let bytes: Option<Vec<u8>> = self.ask(&command).await?;
        decode(&Bytes::from(bytes?))
    }

    /// The part under `key`. Redis has `limit` to reply, and with `patience` even while the breaker is open.
    pub(super) async fn part(&self, key: &Key, limit: Duration, patience: bool) -> TierReply {
        if !patience && self.breaker.lock().is_open() {
            self.metrics.redis_skipped.inc();
            return TierReply::NoReply;
        }
        let mut command = redis::cmd("GET");
        command.arg(self.name(key));
        let mut connection = self.parts.clone();
        let reply: Result<RedisResult<Option<Vec<u8>>>, _> = timeout(limit, command.query_async(&mut connection)).await;
        match reply {
            Ok(Ok(Some(bytes))) => decode(&Bytes::from(bytes)).map_or(TierReply::Missing, TierReply::Found),
            Ok(Ok(None)) => TierReply::Missing,
            Ok(Err(_)) | Err(_) => {
                // The breaker counts look-ups and writes: what is late by their measure may be in time by this one.
                self.metrics.redis_errors.inc();
                TierReply::NoReply
            }
        }
    }

    /// Asks within the budget, unless the breaker is open.
    async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Option<T> {
        if self.breaker.lock().permit(clock::uptime()) == Permit::No {
            self.metrics.redis_skipped.inc();
            return None;
        }
        let mut connection = self.reads.clone();
        let reply: Result<RedisResult<T>, _> = timeout(self.budget, command.query_async(&mut connection)).await;
        let failure = match &reply {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("over its budget".to_owned()),
        };
        note(&self.breaker, &self.metrics, failure.as_deref());
        reply.ok()?.ok()
    }

    pub(super) fn put(&self, key: Key, value: &Value, life_ms: u64) {
        if life_ms == 0 || value.weight() > self.value_bytes_max || self.breaker.lock().is_open() {
            return;
        }
        if matches!(value, Value::Uncacheable(_)) {
            return;
        }
        let bytes = value.weight();
        let write = self.queued.take(bytes).zip(self.bodies.take(bytes)).map(|(queued, bodies)| Write::Set {
            name: self.name(&key),
            // Not a copy: the bytes are those that the memory tier has.
            value: value.clone(),
            life_ms,
            _held: [queued, bodies],
        });
        if write.is_none_or(|write| self.writes.try_send(write).is_err()) {
            self.metrics.redis_writes_dropped.inc();
        }
    }

    pub(super) fn remove(&self, key: &Key) {
        if self.breaker.lock().is_open() || self.writes.try_send(Write::Delete { name: self.name(key) }).is_err() {
            self.metrics.redis_writes_dropped.inc();
        }
    }

    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let flush = async {
            if self.writes.send(Write::Flush(done)).await.is_ok() {
                let _ = flushed.await;
            }
        };
        if timeout(FLUSH_TIME, flush).await.is_err() {
            warn!("stopped before all values were written to Redis");
        }
    }

    fn name(&self, key: &Key) -> Vec<u8> {
        [self.prefix.as_slice(), key.as_bytes()].concat()
    }
}

impl Write {
    /// The command that does it; none for what is no command, or never leaves memory.
    fn command(&self) -> Option<redis::Cmd> {
        match self {
            Self::Set { name, value, life_ms, .. } => {
                let (mut bytes, body) = encode(value)?;
                bytes.extend_from_slice(&body);
                let mut command = redis::cmd("SET");
                command.arg(name.as_slice()).arg(bytes).arg("PX").arg(*life_ms);
                Some(command)
            }
            Self::Delete { name } => {
                let mut command = redis::cmd("DEL");
                command.arg(name.as_slice());
                Some(command)
            }
            Self::Flush(_) => None,
        }
    }
}

/// Writes one after the other until the tier is dropped.
async fn write(
    connection: ConnectionManager,
    mut queue: mpsc::Receiver<Write>,
    breaker: Arc<Mutex<Breaker>>,
    metrics: Metrics,
) {
    while let Some(write) = queue.recv().await {
        if let Write::Flush(done) = write {
            let _ = done.send(());
            continue;
        }
        if breaker.lock().is_open() {
            metrics.redis_writes_dropped.inc();
            continue;
        }
        let Some(command) = write.command() else { continue };
        let mut connection = connection.clone();
        let result: Result<RedisResult<()>, _> = timeout(WRITE_TIME, command.query_async(&mut connection)).await;
        let failure = match result {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("a write took too long".to_owned()),
        };
        note(&breaker, &metrics, failure.as_deref());
    }
}

/// Reports the outcome of a call to the breaker; an opening is worth a line in the log, a single failure a count.
fn note(breaker: &Mutex<Breaker>, metrics: &Metrics, failure: Option<&str>) {
    if failure.is_some() {
        metrics.redis_errors.inc();
    }
    let opened = breaker.lock().record(failure.is_none(), clock::uptime());
    if opened {
        warn!(reason = failure, "the Redis tier fails; it is left alone for a while");
    }
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
