//! Writes to Redis: a bounded queue, and one task that sends what waits there in one pipeline.
//!
//! Pipelines are sent one after the other, so commands for one key reach Redis in the order in which they were queued.
//! Those of other nodes come in between: a response is stored by a script that looks which is the newer one (`ordered`).
//! Whether a stored response is valid depends neither on that order nor on when it is written: an entry carries the mark
//! that its fetch took when it began, and is encoded with that mark however late it leaves. One that is written after a
//! purge is as purged as one that was there before it.

use std::{sync::Arc, time::Duration};

use prometheus_client::metrics::gauge::Gauge;
use redis::{Cmd, Pipeline, RedisResult, aio::ConnectionManager};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tracing::warn;

use super::{
    health::Health,
    ordered::{self, PipedScript},
};
use crate::{
    cache::{
        body::budget::{Budget, Held},
        codec::encode,
        entry::Value,
        lease::{End, Order, Token},
    },
    clock, config,
};

/// A pipeline may take this long; no request waits for it.
pub(super) const WRITE_TIME: Duration = Duration::from_millis(500);
/// What a stopping node waits for its last writes.
const FLUSH_TIME: Duration = Duration::from_millis(1_000);
/// The share of `bodies_bytes_max` that values may take while they wait to be written: one in so many.
const WRITES_SHARE: u64 = 4;

/// The queue of writes. Its task ends when it is dropped.
pub(super) struct Writes {
    queue: mpsc::Sender<Write>,
    /// What the values that wait to be written hold: of their own share, and of what all bodies may hold.
    queued: Arc<Budget>,
    bodies: Arc<Budget>,
    health: Arc<Health>,
}

enum Write {
    Set { name: Vec<u8>, value: Value, life_ms: u64, order: Option<Order>, _held: [Held; 2] },
    Delete { name: Vec<u8> },
    End { name: Arc<[u8]>, token: Option<Token>, owner: Arc<str>, how: End },
    Flush(oneshot::Sender<()>),
}

impl Writes {
    pub(super) fn start(
        connection: ConnectionManager,
        redis: &config::Redis,
        cache: &config::Cache,
        bodies: &Arc<Budget>,
        health: &Arc<Health>,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(redis.writes_queued_max);
        let writer = Writer {
            connection,
            waiting: Waiting {
                queue: waiting,
                next: None,
                count_max: redis.writes_at_once_max,
                bytes_max: redis.writes_at_once_bytes_max,
            },
            budget: redis.budget,
            skew: cache.clock_skew,
            health: Arc::clone(health),
        };
        tokio::spawn(writer.run());
        Self {
            queue,
            queued: Budget::new(cache.bodies_bytes_max / WRITES_SHARE, Gauge::default()),
            bodies: Arc::clone(bodies),
            health: Arc::clone(health),
        }
    }

    /// Queues a value, and returns whether there was room for it. One with an order replaces no newer one.
    pub(super) fn set(&self, name: Vec<u8>, value: &Value, life_ms: u64, order: Option<Order>) -> bool {
        let bytes = value.weight();
        let write = self.queued.take(bytes).zip(self.bodies.take(bytes)).map(|(queued, bodies)| Write::Set {
            name,
            // Not a copy: the bytes are those that the memory tier has.
            value: value.clone(),
            life_ms,
            order,
            _held: [queued, bodies],
        });
        self.put(write)
    }

    pub(super) fn delete(&self, name: Vec<u8>) {
        self.put(Some(Write::Delete { name }));
    }

    /// Ends the lease of this name: the one with `token`, or whichever `owner` has. If that finds no room, the lease ends
    /// when its time is over.
    pub(super) fn end(&self, name: Arc<[u8]>, token: Option<Token>, owner: &Arc<str>, how: End) {
        if !self.health.is_open() {
            let _ = self.queue.try_send(Write::End { name, token, owner: Arc::clone(owner), how });
        }
    }

    /// Queues it, if there is room for it and Redis is used at present.
    fn put(&self, write: Option<Write>) -> bool {
        let write = write.filter(|_| !self.health.is_open());
        let is_queued = write.is_some_and(|write| self.queue.try_send(write).is_ok());
        if !is_queued {
            self.health.metrics.redis_writes_dropped.inc();
        }
        is_queued
    }

    /// Waits until what was queued before has been sent.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let flush = async {
            if self.queue.send(Write::Flush(done)).await.is_ok() {
                let _ = flushed.await;
            }
        };
        if timeout(FLUSH_TIME, flush).await.is_err() {
            warn!("stopped before all values were written to Redis");
        }
    }
}

impl Write {
    /// About as many bytes as it takes in a pipeline.
    fn bytes(&self) -> usize {
        match self {
            Self::Set { name, value, .. } => name.len() + value.weight(),
            Self::Delete { name } => name.len(),
            Self::End { name, .. } => name.len(),
            Self::Flush(_) => 0,
        }
    }

    /// The command that does it, where clocks may differ by `skew`; none for what is no command, or never leaves memory.
    fn command(&self, skew: Duration) -> Option<Cmd> {
        match self {
            Self::Set { name, value, life_ms, order: Some(order), .. } => {
                let (head, body) = encode(value)?;
                Some(ordered::put(name, &head, &body, *life_ms, order, skew, clock::now()))
            }
            Self::Set { name, value, life_ms, order: None, .. } => {
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
            Self::End { name, token, owner, how } => Some(ordered::end(name, *token, owner, *how)),
            Self::Flush(_) => None,
        }
    }
}

/// Returns the scripts that these writes call.
fn scripts(writes: &[Write]) -> Vec<&'static PipedScript> {
    let puts = writes.iter().any(|write| matches!(write, Write::Set { order: Some(_), .. }));
    let ends = writes.iter().any(|write| matches!(write, Write::End { .. }));
    [puts.then(|| &*ordered::PUT), ends.then(|| &*ordered::END)].into_iter().flatten().collect()
}

/// The end of the queue from which writes are taken.
struct Waiting {
    queue: mpsc::Receiver<Write>,
    /// Taken already, but for the next pipeline.
    next: Option<Write>,
    count_max: usize,
    bytes_max: usize,
}

/// The writes of one pipeline.
#[derive(Default)]
struct Batch {
    writes: Vec<Write>,
    bytes: usize,
    /// Is told when they have been sent.
    flushed: Option<oneshot::Sender<()>>,
}

impl Waiting {
    /// Waits for a write, and takes what else waits by then, up to the limits of a pipeline; one write is always taken.
    /// `None` when the queue was dropped.
    async fn batch(&mut self) -> Option<Batch> {
        let mut write = match self.next.take() {
            Some(write) => write,
            None => self.queue.recv().await?,
        };
        let mut batch = Batch::default();
        loop {
            let bytes = batch.bytes + write.bytes();
            let fits = batch.writes.len() < self.count_max && bytes <= self.bytes_max;
            if let Write::Flush(done) = write {
                batch.flushed = Some(done);
                return Some(batch);
            }
            if !batch.writes.is_empty() && !fits {
                self.next = Some(write);
                return Some(batch);
            }
            batch.bytes = bytes;
            batch.writes.push(write);
            match self.queue.try_recv() {
                Ok(next) => write = next,
                Err(_) => return Some(batch),
            }
        }
    }
}

struct Writer {
    connection: ConnectionManager,
    waiting: Waiting,
    /// What a look-up may take.
    budget: Duration,
    /// By how much clocks may differ.
    skew: Duration,
    health: Arc<Health>,
}

impl Writer {
    async fn run(mut self) {
        while let Some(Batch { writes, flushed, .. }) = self.waiting.batch().await {
            if self.health.is_open() {
                self.health.metrics.redis_writes_dropped.inc_by(writes.len() as u64);
            } else {
                let scripts = scripts(&writes);
                let mut pipeline = Pipeline::with_capacity(scripts.len() + writes.len());
                for command in scripts.iter().map(|script| script.load()) {
                    pipeline.add_command(command);
                }
                for command in writes.iter().filter_map(|write| write.command(self.skew)) {
                    pipeline.add_command(command);
                }
                if pipeline.len() > scripts.len() {
                    self.send(&pipeline, scripts.len()).await;
                }
            }
            // Until here they count as held.
            drop(writes);
            if let Some(done) = flushed {
                let _ = done.send(());
            }
        }
    }

    /// Sends a pipeline, whose first commands load so many scripts. If one of these fails, so does each of its calls.
    async fn send(&mut self, pipeline: &Pipeline, scripts: usize) {
        let (begun, count) = (Instant::now(), pipeline.len() - scripts);
        let sending = self.connection.send_packed_commands(pipeline, scripts, count);
        let replies: Result<RedisResult<Vec<redis::Value>>, _> = timeout(WRITE_TIME, sending).await;
        let (failed, reason) = match replies {
            Ok(Ok(replies)) => {
                self.health.metrics.redis_writes_older.inc_by(older(&replies) as u64);
                refusals(&replies)
            }
            Ok(Err(error)) => (count, error.to_string()),
            Err(_) => (count, "writes took too long".to_owned()),
        };
        self.health.metrics.redis_errors.inc_by(failed as u64);
        match judge(count, failed, begun.elapsed(), self.budget) {
            Verdict::Well => self.health.succeeded(),
            Verdict::Slow => {}
            Verdict::Fails => self.health.failed(&reason),
        }
    }
}

/// How many responses weren't stored because Redis has a newer one, or another node fetches one.
fn older(replies: &[redis::Value]) -> usize {
    replies.iter().filter(|reply| matches!(reply, redis::Value::BulkString(word) if word == ordered::OLDER)).count()
}

/// How many commands Redis refused (out of memory, read-only), and what it said first.
fn refusals(replies: &[redis::Value]) -> (usize, String) {
    let errors = replies.iter().filter_map(|reply| match reply {
        redis::Value::ServerError(error) => Some(error),
        _ => None,
    });
    let first = errors.clone().next().map(ToString::to_string);
    (errors.count(), first.unwrap_or_default())
}

/// What the outcome of a pipeline says of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It works.
    Well,
    /// It took longer than a look-up may. That is no failure, since a pipeline may be large; but neither is it a success
    /// that would make up for look-ups which were late.
    Slow,
    /// It doesn't.
    Fails,
}

fn judge(commands: usize, failed: usize, took: Duration, budget: Duration) -> Verdict {
    if failed > 0 && failed == commands {
        Verdict::Fails
    } else if took > budget {
        Verdict::Slow
    } else {
        Verdict::Well
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn waiting(count_max: usize, bytes_max: usize) -> (mpsc::Sender<Write>, Waiting) {
        let (sender, queue) = mpsc::channel(100);
        (sender, Waiting { queue, next: None, count_max, bytes_max })
    }

    /// A write under this name of about this many bytes, name and all.
    fn set(name: u8, bytes: usize) -> Write {
        let budget = Budget::new(u64::MAX, Gauge::default());
        let value = Value::Part(Bytes::from(vec![0; bytes - 65]));
        Write::Set { name: vec![name], value, life_ms: 1, order: None, _held: [budget.force(1), budget.force(1)] }
    }

    /// The names of a batch's writes.
    fn names(batch: &Batch) -> Vec<u8> {
        let name = |write: &Write| match write {
            Write::Set { name, .. } | Write::Delete { name } => name[0],
            Write::End { .. } | Write::Flush(_) => panic!("it writes no value"),
        };
        batch.writes.iter().map(name).collect()
    }

    #[tokio::test]
    async fn what_waits_leaves_in_its_order_and_within_the_limits() {
        let (sender, mut waiting) = waiting(3, 1000);
        for write in [set(1, 400), Write::Delete { name: vec![1] }, set(1, 400), set(2, 100), set(3, 5000), set(4, 100)]
        {
            assert!(sender.try_send(write).is_ok());
        }
        drop(sender);
        let mut batches = Vec::new();
        while let Some(batch) = waiting.batch().await {
            batches.push(names(&batch));
        }
        // Full by count; full by bytes, with the next being too large for any; that one alone; the rest.
        assert_eq!(batches, [vec![1, 1, 1], vec![2], vec![3], vec![4]]);
    }

    #[tokio::test]
    async fn a_flush_ends_a_batch_and_is_answered_after_it() {
        let (sender, mut waiting) = waiting(2, 1000);
        let (done, mut flushed) = oneshot::channel();
        for write in [set(1, 100), set(2, 100), Write::Flush(done), set(3, 100)] {
            assert!(sender.try_send(write).is_ok());
        }
        let first = waiting.batch().await.unwrap();
        assert_eq!(names(&first), [1, 2]);
        assert!(first.flushed.is_some() && flushed.try_recv().is_err());
        assert_eq!(names(&waiting.batch().await.unwrap()), [3]);
    }

    #[test]
    fn what_a_pipeline_says_of_redis() {
        let ms = Duration::from_millis;
        for (commands, failed, took, wanted) in [
            (3, 0, 20, Verdict::Well),
            (3, 0, 21, Verdict::Slow),
            (3, 3, 1, Verdict::Fails),
            (3, 3, 500, Verdict::Fails),
            (3, 2, 1, Verdict::Well),
            (3, 2, 30, Verdict::Slow),
            (1, 1, 1, Verdict::Fails),
        ] {
            assert_eq!(judge(commands, failed, ms(took), ms(20)), wanted, "{failed} of {commands} in {took} ms");
        }
    }
}
