//! The central configuration in etcd.
//!
//! Below `{namespace}/config/`: `head` is the one key that changes, by a transaction that compares it with what its writer
//! has read, so that of two pushes at once one is refused. `generation/` has the records, `component/` and `chunk/` the
//! components by their digests in pieces, written before the generation that names them, and `state/` what the nodes
//! say.

use std::collections::BTreeSet;

use bytes::Bytes;
use thiserror::Error;

use super::record::{Component, Head, NodeState, Pointer, Record, RecordError, encode};
use crate::{
    config,
    etcd::{self, Compare, Etcd, LeaseId, Op, OpReply, Order, Txn, Watch, after_prefix},
    plugin::COMPONENT_BYTES_MAX,
};

/// Bytes of a piece of a component. etcd takes requests of 1.5 MiB.
const CHUNK_BYTES: usize = 1 << 20;

/// Generations that are kept, to go back to.
const GENERATIONS_KEPT: u64 = 10;

/// Generations and components that are deleted by one push.
const DELETED_MAX: usize = 64;

/// Chunks among which components are looked for that nothing names.
const CHUNKS_LISTED: usize = 100_000;

/// Nodes that are read at once, and at most.
const STATES_READ: usize = 1_000;
const STATES_MAX: usize = 100_000;

/// Why the central configuration can't be read or written.
#[derive(Debug, Error)]
pub enum Error {
    /// etcd.
    #[error(transparent)]
    Etcd(#[from] etcd::Error),
    /// A record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Something is named that isn't there.
    #[error("{0} isn't in etcd")]
    Missing(String),
    /// Something isn't what its digest says.
    #[error("{0} doesn't have the digest by which it is named")]
    Digest(String),
    /// A component is too large.
    #[error("a component has {0} bytes; allowed are up to {COMPONENT_BYTES_MAX}")]
    TooLarge(usize),
    /// The node's disk.
    #[error("it can't be saved: {0}")]
    Disk(String),
    /// Somebody else has pushed since the head was read, or has deleted a component that isn't named yet.
    #[error("another push came first; nothing has changed. Look at `holm config status`, and push again")]
    Overtaken,
}

/// The head as it was read.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The store's revision.
    pub revision: i64,
    /// That of the head's last change; 0 if there is none.
    pub changed: i64,
    /// The head; `None` if nothing was pushed yet.
    pub head: Result<Option<Head>, RecordError>,
}

/// A head as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The revision of this change.
    pub changed: i64,
    /// The head.
    pub head: Head,
}

/// Where the central configuration is.
#[derive(Clone, Debug)]
pub struct Store {
    etcd: Etcd,
    /// What each key begins with.
    prefix: String,
}

impl Store {
    /// Prepares; connects when it is used.
    ///
    /// # Errors
    /// [`etcd::Error`]: it can't be used as it is configured.
    pub fn new(etcd: &config::Etcd, namespace: &str) -> Result<Self, etcd::Error> {
        Ok(Self { etcd: Etcd::new(etcd)?, prefix: format!("{namespace}/config/") })
    }

    fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    fn generation_key(&self, number: u64) -> String {
        self.key(&format!("generation/{number:020}"))
    }

    fn component_key(&self, digest: &str) -> String {
        self.key(&format!("component/{digest}"))
    }

    fn chunks_key(&self, digest: &str) -> String {
        self.key(&format!("chunk/{digest}/"))
    }

    fn chunk_key(&self, digest: &str, at: usize) -> String {
        format!("{}{at:04}", self.chunks_key(digest))
    }

    fn state_key(&self, region: &str, node: &str) -> String {
        self.key(&format!("state/{region}/{node}"))
    }

    /// Reads the head.
    ///
    /// # Errors
    /// Those of etcd.
    pub async fn seen(&self) -> Result<Seen, Error> {
        let key = self.key("head");
        let (revision, mut pairs, _) = self.etcd.range(key.clone(), after_key(key.as_bytes()), 1).await?;
        let Some(pair) = pairs.pop() else { return Ok(Seen { revision, changed: 0, head: Ok(None) }) };
        Ok(Seen { revision, changed: pair.mod_revision, head: Head::decode(&pair.value).map(Some) })
    }

    /// Watches the head, from a revision on.
    ///
    /// # Errors
    /// Those of etcd.
    pub async fn watch(&self, from: i64) -> Result<Watch, Error> {
        let key = self.key("head");
        let end = after_key(key.as_bytes());
        Ok(self.etcd.watch_range(key, end, from).await?)
    }

    /// Reads the record of a generation. Returns its bytes as well.
    ///
    /// # Errors
    /// It isn't there, isn't the one of this digest, or isn't understood.
    pub async fn generation(&self, pointer: &Pointer) -> Result<(Record, Bytes), Error> {
        let name = || format!("generation {}", pointer.number);
        let pair = self.etcd.get(self.generation_key(pointer.number)).await?.ok_or_else(|| Error::Missing(name()))?;
        if blake3::hash(&pair.value).to_hex().as_str() != pointer.digest {
            return Err(Error::Digest(name()));
        }
        Ok((Record::decode(&pair.value)?, pair.value))
    }

    /// Returns a generation that is kept, by its number.
    ///
    /// # Errors
    /// It isn't there.
    pub async fn pointer(&self, number: u64) -> Result<Pointer, Error> {
        let pair = self.etcd.get(self.generation_key(number)).await?;
        let pair = pair.ok_or_else(|| Error::Missing(format!("generation {number}")))?;
        Ok(Pointer { number, digest: blake3::hash(&pair.value).to_hex().to_string() })
    }

    /// Reads a component.
    ///
    /// # Errors
    /// It isn't there, or isn't the one of this digest.
    pub async fn component(&self, component: &Component) -> Result<Vec<u8>, Error> {
        let name = || format!("the component {}", component.digest);
        let length = usize::try_from(component.bytes.min(COMPONENT_BYTES_MAX)).unwrap_or(usize::MAX);
        let mut whole = Vec::with_capacity(length);
        for at in 0..length.div_ceil(CHUNK_BYTES) {
            let pair = self.etcd.get(self.chunk_key(&component.digest, at)).await?;
            let pair = pair.ok_or_else(|| Error::Missing(name()))?;
            if whole.len() + pair.value.len() > length {
                return Err(Error::Digest(name()));
            }
            whole.extend_from_slice(&pair.value);
        }
        if blake3::hash(&whole).to_hex().as_str() != component.digest {
            return Err(Error::Digest(name()));
        }
        Ok(whole)
    }

    /// Writes a component, unless it is there.
    ///
    /// # Errors
    /// It is too large, or it was deleted meanwhile, since no generation names it yet.
    pub async fn put_component(&self, bytes: &[u8]) -> Result<Component, Error> {
        if bytes.len() as u64 > COMPONENT_BYTES_MAX {
            return Err(Error::TooLarge(bytes.len()));
        }
        let digest = blake3::hash(bytes).to_hex().to_string();
        let component = Component { digest: digest.clone(), bytes: bytes.len() as u64 };
        let key = self.component_key(&digest);
        if self.etcd.get(key.clone()).await?.is_some() {
            return Ok(component);
        }
        let mut chunks = Vec::new();
        for (at, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
            let chunk_key = self.chunk_key(&digest, at);
            self.etcd.put(chunk_key.clone(), chunk.to_vec(), None).await?;
            chunks.push(chunk_key);
        }
        // Only what is there as a whole is said to be there.
        let when = chunks.into_iter().map(|chunk| Compare::Exists(chunk.into())).collect();
        let then = vec![Op::put(key, encode(&component))];
        let reply = self.etcd.txn(Txn { when, then, otherwise: Vec::new() }).await?;
        if reply.succeeded { Ok(component) } else { Err(Error::Overtaken) }
    }

    /// Writes a generation and the head that names it, unless the head has changed since it was seen.
    ///
    /// # Errors
    /// [`Error::Overtaken`]: nothing has changed. With [`etcd::Error::Unknown`] it may have.
    pub async fn push(&self, seen: &Seen, record: &Record, head: Head) -> Result<Written, Error> {
        let bytes = record.encode()?;
        let generation = Pointer { number: record.generation, digest: blake3::hash(&bytes).to_hex().to_string() };
        let head = Head { generation, ..head };
        let key = self.generation_key(record.generation);
        let mut when = vec![Compare::Absent(key.clone().into())];
        let digests: BTreeSet<&String> = record.components.values().map(|component| &component.digest).collect();
        when.extend(digests.into_iter().map(|digest| Compare::Exists(self.component_key(digest).into())));
        self.write(seen, when, vec![Op::put(key, bytes)], head).await
    }

    /// Writes a head that names a generation which is there, unless the head has changed since it was seen.
    ///
    /// # Errors
    /// As [`Store::push`].
    pub async fn point(&self, seen: &Seen, head: Head) -> Result<Written, Error> {
        let when = vec![Compare::Exists(self.generation_key(head.generation.number).into())];
        self.write(seen, when, Vec::new(), head).await
    }

    fn unchanged(&self, seen: &Seen) -> Compare {
        Compare::ModRevision(self.key("head").into(), seen.changed)
    }

    /// Writes a head, unless it has changed since it was seen, or something else isn't as it should be.
    async fn write(
        &self,
        seen: &Seen,
        mut when: Vec<Compare>,
        mut then: Vec<Op>,
        head: Head,
    ) -> Result<Written, Error> {
        when.push(self.unchanged(seen));
        then.push(Op::put(self.key("head"), encode(&head)));
        match self.etcd.txn(Txn { when, then, otherwise: Vec::new() }).await {
            Ok(reply) if reply.succeeded => Ok(Written { changed: reply.revision, head }),
            Ok(_) => Err(Error::Overtaken),
            Err(unknown @ etcd::Error::Unknown { .. }) => {
                // It may have taken effect, which the head tells.
                let now = self.seen().await.ok();
                let now = now.filter(|now| now.changed != seen.changed && now.head == Ok(Some(head.clone())));
                now.map(|now| Written { changed: now.changed, head }).ok_or_else(|| unknown.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes generations past those that are kept, and components that none of those names; a bounded number at once.
    /// Returns how many.
    ///
    /// # Errors
    /// Those of etcd. What wasn't deleted is by the next push.
    pub async fn collect(&self) -> Result<usize, Error> {
        let seen = self.seen().await?;
        let Ok(Some(head)) = &seen.head else { return Ok(0) };
        let first = head.generation.number.saturating_sub(GENERATIONS_KEPT - 1).max(1);
        let first = head.former.as_ref().map_or(first, |former| former.number.min(first));
        let mut named = BTreeSet::new();
        for number in first..=head.generation.number {
            let Some(pair) = self.etcd.get(self.generation_key(number)).await? else { continue };
            // One that isn't understood may name any component.
            let record = Record::decode(&pair.value)?;
            named.extend(record.components.into_values().map(|component| component.digest));
        }
        let old = self.keys(self.key("generation/"), self.generation_key(first), DELETED_MAX / 2).await?;
        let mut then: Vec<Op> = old.into_iter().map(Op::delete).collect();
        // By the chunks, since the component of a push that was given up has nothing else.
        let prefix = self.key("chunk/");
        let chunks = self.keys(prefix.clone(), after_prefix(prefix.as_bytes()), CHUNKS_LISTED).await?;
        let digest =
            |key: &Bytes| Some(std::str::from_utf8(key).ok()?.strip_prefix(&prefix)?.split_once('/')?.0.to_owned());
        let there: BTreeSet<String> = chunks.iter().filter_map(digest).collect();
        for digest in there.difference(&named).take((DELETED_MAX - then.len()) / 2) {
            let chunks = self.chunks_key(digest);
            let end = after_prefix(chunks.as_bytes());
            then.push(Op::delete_range(chunks, end));
            then.push(Op::delete(self.component_key(digest)));
        }
        let count = then.len();
        if count == 0 {
            return Ok(0);
        }
        // Not if another push has named some of it meanwhile.
        let reply = self.etcd.txn(Txn { when: vec![self.unchanged(&seen)], then, otherwise: Vec::new() }).await?;
        Ok(if reply.succeeded { count } else { 0 })
    }

    /// Returns the first keys of a range, without their values.
    async fn keys(&self, from: String, end: impl Into<Bytes>, limit: usize) -> Result<Vec<Bytes>, Error> {
        let op = Op::Get { key: from.into(), end: Some(end.into()), limit, order: Order::Ascending, keys_only: true };
        let reply = self.etcd.txn(Txn { then: vec![op], ..Txn::default() }).await?;
        let pairs = reply.replies.into_iter().flat_map(OpReply::into_pairs);
        Ok(pairs.map(|pair| pair.key).collect())
    }

    /// Returns what the nodes say that are live. Those that say what isn't understood are left out.
    ///
    /// # Errors
    /// Those of etcd.
    pub async fn states(&self) -> Result<Vec<NodeState>, Error> {
        let prefix = self.key("state/");
        let (mut from, end) = (Bytes::from(prefix.clone()), after_prefix(prefix.as_bytes()));
        let mut states = Vec::new();
        loop {
            let (_, pairs, more) = self.etcd.range(from, end.clone(), STATES_READ).await?;
            let last = pairs.last().map(|pair| after_key(&pair.key));
            states.extend(pairs.iter().filter_map(|pair| NodeState::decode(&pair.value).ok()));
            match last {
                Some(next) if more && states.len() < STATES_MAX => from = next,
                _ => return Ok(states),
            }
        }
    }

    /// Writes what a node says, for as long as the lease lasts.
    ///
    /// # Errors
    /// Those of etcd.
    pub async fn put_state(&self, state: &NodeState, lease: LeaseId) -> Result<(), Error> {
        self.etcd.put(self.state_key(&state.region, &state.node), encode(state), Some(lease)).await?;
        Ok(())
    }

    /// Returns the client, for leases.
    pub(super) const fn etcd(&self) -> &Etcd {
        &self.etcd
    }
}

/// Returns the key after this one.
fn after_key(key: &[u8]) -> Bytes {
    let mut after = key.to_vec();
    after.push(0);
    after.into()
}
