//! The list of a region's nodes in its Redis: what each says of itself, for people; which names are taken; and what all
//! are asked to do. No promise rests on it: the nodes that purges wait for are on the purge log's own list.

use std::{collections::HashMap, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError, RedisResult, aio::MultiplexedConnection,
};
use thiserror::Error;
use tokio::{sync::Mutex, time::timeout};

use crate::{clock, config};

/// Connecting, and any call.
const PATIENCE: Duration = Duration::from_millis(1_000);

/// How long a claim on a name lasts that isn't renewed.
pub const NAME_TIME: Duration = Duration::from_secs(6);

/// Puts a claim in the place of the expected one, or where there is none, and has it expire. Returns the one that is
/// there instead, or nothing. `GET` and `SET` are what look-ups and writes of values are counted for in Redis's figures.
const SWAP: &str = "local held = redis.call('GETRANGE', KEYS[1], 0, -1)
    if held ~= '' and held ~= ARGV[1] then return held end
    redis.call('PSETEX', KEYS[1], ARGV[3], ARGV[2])
    return ''";

/// Removes a claim, if it is the expected one.
const FREE: &str = "if redis.call('GETRANGE', KEYS[1], 0, -1) ~= ARGV[1] then return 0 end
    return redis.call('DEL', KEYS[1])";

/// The list can't be read or written.
#[derive(Debug, Error)]
pub enum NodeListError {
    /// Redis said so, or can't be reached.
    #[error("the list of nodes can't be reached: {0}")]
    Redis(#[from] RedisError),
    /// It didn't reply in time.
    #[error("the list of nodes can't be reached: no reply within {} ms", clock::millis(PATIENCE))]
    Time,
    /// What all are asked to do wouldn't be forgotten in time, so that it was removed.
    #[error("the order to the nodes wouldn't have expired, so that it was withdrawn")]
    Lasting,
}

/// What is in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The words of all processes, by the process.
    pub nodes: HashMap<String, String>,
    /// What was last asked of all nodes, as long as that counts.
    pub order: Option<String>,
}

/// A client of the list. It connects when it is used, and again after an error.
pub struct NodeList {
    client: Client,
    connection: Mutex<Option<MultiplexedConnection>>,
    nodes: String,
    order: String,
    /// Before the name of a node.
    names: String,
}

impl std::fmt::Debug for NodeList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeList").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

impl NodeList {
    /// Prepares the list of the nodes that share this Redis and namespace.
    ///
    /// # Errors
    /// [`NodeListError::Redis`] if the URL is not one.
    pub fn new(namespace: &str, redis: &config::Redis) -> Result<Self, NodeListError> {
        Ok(Self {
            client: Client::open(redis.url.as_str())?,
            connection: Mutex::default(),
            nodes: format!("{{{namespace}}}:nodes"),
            order: format!("{{{namespace}}}:nodes:order"),
            names: format!("{{{namespace}}}:nodes:name:"),
        })
    }

    /// Writes what this process says, and reads what all say.
    ///
    /// # Errors
    /// [`NodeListError`].
    pub async fn say(&self, process: &str, word: &str) -> Result<Listed, NodeListError> {
        let mut pipe = redis::pipe();
        pipe.cmd("HSET").arg(&self.nodes).arg(process).arg(word).ignore();
        pipe.cmd("HGETALL").arg(&self.nodes);
        // Without an order it is empty. Look-ups of values are what `GET` is counted for in Redis's figures.
        pipe.cmd("GETRANGE").arg(&self.order).arg(0).arg(-1);
        self.listed(&pipe).await
    }

    /// Reads what all say.
    ///
    /// # Errors
    /// [`NodeListError`].
    pub async fn read(&self) -> Result<Listed, NodeListError> {
        let mut pipe = redis::pipe();
        pipe.cmd("HGETALL").arg(&self.nodes);
        pipe.cmd("GETRANGE").arg(&self.order).arg(0).arg(-1);
        self.listed(&pipe).await
    }

    async fn listed(&self, pipe: &Pipeline) -> Result<Listed, NodeListError> {
        let (nodes, order): (_, String) = self.call(pipe).await?;
        Ok(Listed { nodes, order: Some(order).filter(|order| !order.is_empty()) })
    }

    /// Claims a name for [`NAME_TIME`], if nobody has, or the one that has says just `expected`. Returns what the one
    /// says that has it otherwise.
    ///
    /// # Errors
    /// [`NodeListError`]: it isn't known whose it is.
    pub async fn claim(&self, name: &str, expected: &str, word: &str) -> Result<Option<String>, NodeListError> {
        let mut pipe = redis::pipe();
        let call = pipe.cmd("EVAL").arg(SWAP).arg(1).arg(format!("{}{name}", self.names));
        call.arg(expected).arg(word).arg(clock::millis(NAME_TIME));
        let (held,): (String,) = self.call(&pipe).await?;
        Ok(Some(held).filter(|held| !held.is_empty()))
    }

    /// Returns what the one says that has a name, if anyone has.
    ///
    /// # Errors
    /// [`NodeListError`]: it isn't known whose it is.
    pub async fn holder(&self, name: &str) -> Result<Option<String>, NodeListError> {
        let mut pipe = redis::pipe();
        pipe.cmd("GETRANGE").arg(format!("{}{name}", self.names)).arg(0).arg(-1);
        let (held,): (String,) = self.call(&pipe).await?;
        Ok(Some(held).filter(|held| !held.is_empty()))
    }

    /// Gives a name up, if the one that has it says just `word`.
    ///
    /// # Errors
    /// [`NodeListError`]: it expires by itself.
    pub async fn free(&self, name: &str, word: &str) -> Result<(), NodeListError> {
        let mut pipe = redis::pipe();
        pipe.cmd("EVAL").arg(FREE).arg(1).arg(format!("{}{name}", self.names)).arg(word).ignore();
        self.call(&pipe).await
    }

    /// Removes processes from the list.
    ///
    /// # Errors
    /// [`NodeListError`].
    pub async fn remove(&self, processes: &[String]) -> Result<(), NodeListError> {
        if processes.is_empty() {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        pipe.cmd("HDEL").arg(&self.nodes).arg(processes).ignore();
        self.call(&pipe).await
    }

    /// Asks something of all nodes, which counts for so long. What Redis has of it is read back: an order that doesn't
    /// expire would stop nodes for ever.
    ///
    /// # Errors
    /// [`NodeListError::Lasting`]: nobody is asked any more. Any other: it isn't known whether they are.
    pub async fn order(&self, order: &str, time: Duration) -> Result<(), NodeListError> {
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg(&self.order).arg(order).arg("PX").arg(clock::millis(time)).ignore();
        pipe.cmd("PTTL").arg(&self.order);
        let (left,): (i64,) = self.call(&pipe).await?;
        if u64::try_from(left).is_ok_and(|left| left <= clock::millis(time)) {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        pipe.cmd("DEL").arg(&self.order).ignore();
        self.call::<()>(&pipe).await?;
        Err(NodeListError::Lasting)
    }

    /// Uses the connection. One that failed is not used again: what it still brings would be the reply to another call.
    async fn call<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, NodeListError> {
        let mut held = self.connection.lock().await;
        let mut connection = match held.take() {
            Some(connection) => connection,
            None => timeout(PATIENCE, self.connect()).await.map_err(|_| NodeListError::Time)??,
        };
        let called = timeout(PATIENCE, pipe.query_async(&mut connection)).await;
        let value = called.map_err(|_| NodeListError::Time)??;
        *held = Some(connection);
        Ok(value)
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(None);
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }
}
