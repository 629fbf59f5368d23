//! The region's purge log: a Redis Stream that every node of the region follows and acknowledges.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, RedisResult, Value, aio::MultiplexedConnection,
    streams::StreamRangeReply, streams::StreamReadReply,
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Error, Purger, Receipt,
    table::{Kind, LogId, Position, Record},
};
use crate::{cache::tag::Tag, config};

/// How long one read of the log blocks in Redis; a node is counted as live for [`LIVE`] after its last word.
const BLOCK: Duration = Duration::from_millis(1_000);
const LIVE: Duration = Duration::from_millis(4_000);
/// Connecting, and any command but the blocking read.
const PATIENCE: Duration = Duration::from_millis(1_000);
/// Between two attempts to reach Redis.
const RETRY: Duration = Duration::from_millis(200);
/// Between two looks at who has acknowledged a purge.
const POLL: Duration = Duration::from_millis(10);
/// Records taken by one read.
const BATCH: usize = 512;

/// A client of the log.
#[derive(Debug)]
pub struct Stream {
    client: Client,
    node: String,
    names: Names,
    log_max: usize,
    in_step: AtomicBool,
}

/// The names in Redis; the braces keep them on one node of a cluster.
#[derive(Debug)]
struct Names {
    log: String,
    id: String,
    members: String,
    member: String,
}

impl Stream {
    /// Prepares; connects when followed.
    ///
    /// # Errors
    /// [`Error::Log`] if the URL is not one.
    pub fn new(node: &str, namespace: &str, redis: &config::Redis, purge: &config::Purge) -> Result<Self, Error> {
        let prefix = format!("{{{namespace}}}:purge");
        Ok(Self {
            client: Client::open(redis.url.as_str()).map_err(unreachable)?,
            node: node.to_owned(),
            names: Names {
                log: format!("{prefix}:log"),
                id: format!("{prefix}:id"),
                members: format!("{prefix}:nodes"),
                member: format!("{prefix}:node:"),
            },
            log_max: purge.log_max,
            in_step: AtomicBool::new(false),
        })
    }

    /// Has the log been caught up with, and is it being followed?
    #[must_use]
    pub fn in_step(&self) -> bool {
        self.in_step.load(Ordering::Acquire)
    }

    /// Appends a purge and returns its position.
    pub(super) async fn append(&self, tag: Tag, kind: Kind, url: bool) -> Result<Position, Error> {
        let mut connection = self.connect(PATIENCE).await?;
        let mut command = redis::cmd("XADD");
        command.arg(&self.names.log).arg("MAXLEN").arg("~").arg(self.log_max).arg("*");
        command.arg("tag").arg(&tag.as_bytes()[..]);
        command.arg("kind").arg(match kind {
            Kind::Hard => "hard",
            Kind::Soft => "soft",
        });
        command.arg("url").arg(u8::from(url));
        let id: String = command.query_async(&mut connection).await.map_err(unreachable)?;
        id.parse().map_err(|_| Error::Log(format!("unexpected stream ID {id:?}")))
    }

    /// Waits until every live node has applied `position`, or `ack` is over.
    pub(super) async fn acknowledged(&self, position: Position, ack: Duration) -> Receipt {
        let end = Instant::now() + ack;
        let mut receipt = Receipt { position, applied: Vec::new(), missing: vec![self.node.clone()] };
        loop {
            if let Ok(Ok(mut connection)) = timeout(PATIENCE, self.connect(PATIENCE)).await {
                while let Ok(members) = self.members(&mut connection).await {
                    let (applied, missing) = members.into_iter().partition(|(_, at)| *at >= position);
                    let names = |list: Vec<(String, Position)>| list.into_iter().map(|(name, _)| name).collect();
                    (receipt.applied, receipt.missing) = (names(applied), names(missing));
                    if receipt.missing.is_empty() && !receipt.applied.is_empty() || Instant::now() >= end {
                        return receipt;
                    }
                    sleep(POLL).await;
                }
            }
            if Instant::now() >= end {
                return receipt;
            }
            sleep(RETRY.min(end.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Follows the log until `stop`.
    pub(super) async fn follow(&self, purger: &Arc<Purger>, stop: CancellationToken) {
        let mut told = false;
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => break,
                ended = self.follow_once(purger) => ended,
            };
            let was_in_step = self.in_step.swap(false, Ordering::AcqRel);
            if let (Err(error), true) = (ended, was_in_step || !told) {
                warn!(%error, "the purge log is out of reach; the shared tier is left alone until it is caught up with");
                told = true;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(RETRY) => {}
            }
        }
        self.leave().await;
    }

    /// One connection's life: adopt or catch up, then read on.
    async fn follow_once(&self, purger: &Arc<Purger>) -> Result<(), Error> {
        let mut connection = self.connect(BLOCK + PATIENCE).await?;
        self.meet(purger, &mut connection).await?;
        loop {
            let from = purger.mark().position;
            let records = self.read(&mut connection, from).await?;
            let more = records.len() == BATCH;
            if !records.is_empty() {
                purger.deliver(records).await?;
            }
            self.report(&mut connection, purger.durable()).await.map_err(unreachable)?;
            if !more && !self.in_step.swap(true, Ordering::AcqRel) {
                info!(position = %purger.mark().position, "in step with the region's purge log");
            }
            // Redis may have been replaced by an empty one behind the same address.
            if self.log_id(&mut connection).await? != purger.mark().log {
                return Err(Error::Log("the log was replaced by another".to_owned()));
            }
        }
    }

    /// Makes sure that what the node has applied is a prefix of this log, or says what can't be known any more.
    async fn meet(&self, purger: &Arc<Purger>, connection: &mut MultiplexedConnection) -> Result<(), Error> {
        let id = self.log_id(connection).await?;
        if purger.mark().log != id {
            purger.adopt(id).await?;
        }
        let known = purger.mark().position;
        if known == Position::default() {
            return self.meet_first(purger, connection).await;
        }
        // If the last record we applied is still there, nothing after it can have been trimmed.
        if self.edge(connection, "XRANGE", &known.to_string()).await?.is_some() {
            return Ok(());
        }
        let last = self.edge(connection, "XREVRANGE", "+").await?.unwrap_or(known);
        warn!(%known, %last, "the purge log was trimmed past this node: what it holds is revalidated before use");
        purger.lose(last).await
    }

    /// A node without a past reads the whole log; if that was trimmed, older entries of other nodes are doubtful.
    async fn meet_first(&self, purger: &Arc<Purger>, connection: &mut MultiplexedConnection) -> Result<(), Error> {
        let length: usize = query(connection, redis::cmd("XLEN").arg(&self.names.log)).await?;
        if length < self.log_max {
            return Ok(());
        }
        match self.edge(connection, "XRANGE", "-").await? {
            Some(first) => purger.lose(Position { major: first.major.saturating_sub(1), minor: 0 }).await,
            None => Ok(()),
        }
    }

    /// The position of one record: the one named, or the first or last (`-`, `+`).
    async fn edge(
        &self,
        connection: &mut MultiplexedConnection,
        command: &str,
        id: &str,
    ) -> Result<Option<Position>, Error> {
        let end = if id == "-" {
            "+"
        } else if id == "+" {
            "-"
        } else {
            id
        };
        let mut command = redis::cmd(command);
        command.arg(&self.names.log).arg(id).arg(end).arg("COUNT").arg(1);
        let reply: StreamRangeReply = query(connection, &command).await?;
        Ok(reply.ids.first().and_then(|entry| entry.id.parse().ok()))
    }

    async fn log_id(&self, connection: &mut MultiplexedConnection) -> Result<LogId, Error> {
        let proposal = fastrand::u64(1..=i64::MAX as u64);
        let mut set = redis::cmd("SET");
        let _: Value = query(connection, set.arg(&self.names.id).arg(proposal).arg("NX")).await?;
        let id: u64 = query(connection, redis::cmd("GET").arg(&self.names.id)).await?;
        Ok(LogId(id))
    }

    async fn read(&self, connection: &mut MultiplexedConnection, from: Position) -> Result<Vec<Record>, Error> {
        let block = if self.in_step() { BLOCK } else { Duration::from_millis(1) };
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(BATCH).arg("BLOCK").arg(crate::clock::millis(block));
        command.arg("STREAMS").arg(&self.names.log).arg(from.to_string());
        let reply: Option<StreamReadReply> = query(connection, &command).await?;
        let entries = reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids);
        Ok(entries.filter_map(|entry| record(&entry.id, &entry.map)).collect())
    }

    async fn report(&self, connection: &mut MultiplexedConnection, position: Position) -> RedisResult<()> {
        let mut pipeline = redis::pipe();
        let member = format!("{}{}", self.names.member, self.node);
        pipeline.cmd("SADD").arg(&self.names.members).arg(&self.node).ignore();
        let life = crate::clock::millis(LIVE);
        pipeline.cmd("SET").arg(member).arg(position.to_string()).arg("PX").arg(life).ignore();
        pipeline.query_async(connection).await
    }

    /// The live nodes and what they have applied; the dead are struck off.
    async fn members(&self, connection: &mut MultiplexedConnection) -> Result<Vec<(String, Position)>, Error> {
        let names: Vec<String> = query(connection, redis::cmd("SMEMBERS").arg(&self.names.members)).await?;
        let mut live = Vec::with_capacity(names.len());
        for name in names {
            let member = format!("{}{name}", self.names.member);
            let position: Option<String> = query(connection, redis::cmd("GET").arg(&member)).await?;
            match position.and_then(|text| text.parse().ok()) {
                Some(position) => live.push((name, position)),
                None => self.strike_off(connection, &member, &name).await?,
            }
        }
        Ok(live)
    }

    /// Forgets a node that is gone, in one step: it may be signing on again at this moment.
    async fn strike_off(&self, connection: &mut MultiplexedConnection, member: &str, name: &str) -> Result<(), Error> {
        const IF_GONE: &str =
            "if redis.call('EXISTS', KEYS[1]) == 0 then return redis.call('SREM', KEYS[2], ARGV[1]) end return 0";
        let mut command = redis::cmd("EVAL");
        command.arg(IF_GONE).arg(2).arg(member).arg(&self.names.members).arg(name);
        query::<Value>(connection, &command).await.map(drop)
    }

    /// Signs off, so that nobody waits for this node's acknowledgement. Best effort: it would be forgotten anyway.
    async fn leave(&self) {
        let Ok(Ok(mut connection)) = timeout(PATIENCE, self.connect(PATIENCE)).await else { return };
        let member = format!("{}{}", self.names.member, self.node);
        let _: Result<Value, Error> = query(&mut connection, redis::cmd("DEL").arg(member)).await;
    }

    async fn connect(&self, response: Duration) -> Result<MultiplexedConnection, Error> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(response));
        self.client.get_multiplexed_async_connection_with_config(&config).await.map_err(unreachable)
    }
}

async fn query<T: FromRedisValue>(connection: &mut MultiplexedConnection, command: &redis::Cmd) -> Result<T, Error> {
    command.query_async(connection).await.map_err(unreachable)
}

/// A record of the log; what can't be read (a newer node's) is left out rather than stopping the log.
fn record(id: &str, fields: &std::collections::HashMap<String, Value>) -> Option<Record> {
    let bytes = |name: &str| match fields.get(name)? {
        Value::BulkString(bytes) => Some(bytes.as_slice()),
        _ => None,
    };
    Some(Record {
        position: id.parse().ok()?,
        tag: Tag::from_bytes(bytes("tag")?.try_into().ok()?),
        kind: if bytes("kind")? == b"soft" { Kind::Soft } else { Kind::Hard },
        url: bytes("url")? == b"1",
    })
}

fn unreachable(error: impl std::fmt::Display) -> Error {
    Error::Log(error.to_string())
}
