//! Transactions: comparisons, and what is done if they all hold or if one doesn't. One step for the store.

use bytes::Bytes;

use super::message::{
    CompareRequest, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RequestOp, ResponseOp, TxnRequest,
    TxnResponse,
};

/// A transaction. A server refuses one with more than 128 comparisons or operations in one list, or that writes a key twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must hold.
    pub when: Vec<Compare>,
    /// What is done if all of it does.
    pub then: Vec<Op>,
    /// What is done otherwise.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// Whether it changes nothing, whichever way it goes.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.then.iter().chain(&self.otherwise).all(|op| matches!(op, Op::Get { .. }))
    }

    pub(super) fn into_request(self) -> TxnRequest {
        TxnRequest {
            compare: self.when.into_iter().map(Compare::into_request).collect(),
            success: self.then.into_iter().map(Op::into_request).collect(),
            failure: self.otherwise.into_iter().map(Op::into_request).collect(),
        }
    }
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key has this value. One that isn't there has none.
    Value(Bytes, Bytes),
    /// The key was written this often since it was created; 0 if it isn't there.
    Version(Bytes, i64),
    /// The key was last changed at this revision; 0 if it isn't there.
    ModRevision(Bytes, i64),
    /// The key is there.
    Exists(Bytes),
    /// The key isn't there.
    Absent(Bytes),
}

const EQUAL: i32 = 0;
const GREATER: i32 = 1;
const OF_VERSION: i32 = 0;
const OF_MOD_REVISION: i32 = 2;
const OF_VALUE: i32 = 3;

impl Compare {
    fn into_request(self) -> CompareRequest {
        let of = |key, target, result| CompareRequest { key, target, result, ..CompareRequest::default() };
        match self {
            Self::Value(key, value) => CompareRequest { value: Some(value), ..of(key, OF_VALUE, EQUAL) },
            Self::Version(key, version) => CompareRequest { version: Some(version), ..of(key, OF_VERSION, EQUAL) },
            Self::ModRevision(key, revision) => {
                CompareRequest { mod_revision: Some(revision), ..of(key, OF_MOD_REVISION, EQUAL) }
            }
            Self::Exists(key) => CompareRequest { version: Some(0), ..of(key, OF_VERSION, GREATER) },
            Self::Absent(key) => CompareRequest { version: Some(0), ..of(key, OF_VERSION, EQUAL) },
        }
    }
}

/// In which order keys are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By key.
    #[default]
    Ascending,
    /// By the revision of their last change, the oldest first.
    Oldest,
}

/// An operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads.
    Get {
        /// The key, or the first of a range.
        key: Bytes,
        /// The key after the last of a range.
        end: Option<Bytes>,
        /// Keys that are read at most; 0 for all.
        limit: usize,
        /// In which order.
        order: Order,
        /// Whether the values are left out.
        keys_only: bool,
    },
    /// Writes.
    Put {
        /// The key.
        key: Bytes,
        /// Its value.
        value: Bytes,
        /// The lease with which it goes.
        lease: Option<LeaseId>,
    },
    /// Deletes.
    Delete {
        /// The key, or the first of a range.
        key: Bytes,
        /// The key after the last of a range.
        end: Option<Bytes>,
    },
}

impl Op {
    /// Reads a key.
    #[must_use]
    pub fn get(key: impl Into<Bytes>) -> Self {
        Self::Get { key: key.into(), end: None, limit: 0, order: Order::Ascending, keys_only: false }
    }

    /// Reads up to `limit` keys from `key` to the one before `end`, by key; 0 for all.
    #[must_use]
    pub fn range(key: impl Into<Bytes>, end: impl Into<Bytes>, limit: usize) -> Self {
        Self::Get { key: key.into(), end: Some(end.into()), limit, order: Order::Ascending, keys_only: false }
    }

    /// Writes a key without a lease.
    #[must_use]
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: None }
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { key: key.into(), end: None }
    }

    /// Deletes the keys from `key` to the one before `end`.
    #[must_use]
    pub fn delete_range(key: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self::Delete { key: key.into(), end: Some(end.into()) }
    }

    fn into_request(self) -> RequestOp {
        match self {
            Self::Get { key, end, limit, order, keys_only } => {
                let (sort_order, sort_target) = match order {
                    // Without an order the server reads by key, and needn't sort.
                    Order::Ascending => (0, 0),
                    Order::Oldest => (1, 3),
                };
                let range = RangeRequest {
                    key,
                    range_end: end.unwrap_or_default(),
                    limit: i64::try_from(limit).unwrap_or(i64::MAX),
                    sort_order,
                    sort_target,
                    keys_only,
                };
                RequestOp { range: Some(range), ..RequestOp::default() }
            }
            Self::Put { key, value, lease } => {
                let lease = lease.map_or(0, |LeaseId(id)| id);
                RequestOp { put: Some(PutRequest { key, value, lease }), ..RequestOp::default() }
            }
            Self::Delete { key, end } => {
                let range = DeleteRangeRequest { key, range_end: end.unwrap_or_default() };
                RequestOp { delete_range: Some(range), ..RequestOp::default() }
            }
        }
    }
}

/// A lease: keys that have it go when it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub i64);

/// A key with its value, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: Bytes,
    /// Its value; empty if only keys were read.
    pub value: Bytes,
    /// How often it was written since it was created.
    pub version: i64,
    /// The revision of its last change.
    pub mod_revision: i64,
}

impl From<KeyValue> for Pair {
    fn from(of: KeyValue) -> Self {
        Self { key: of.key, value: of.value, version: of.version, mod_revision: of.mod_revision }
    }
}

/// The result of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpReply {
    /// What was read.
    Got {
        /// The keys, in the order that was asked for.
        pairs: Vec<Pair>,
        /// Whether there are more than the limit.
        more: bool,
        /// How many keys there are, beyond the limit as well.
        count: u64,
    },
    /// A key was written.
    Put,
    /// How many keys were deleted.
    Deleted(u64),
}

impl OpReply {
    /// Returns what was read; nothing if this is the result of something else.
    #[must_use]
    pub fn into_pairs(self) -> Vec<Pair> {
        match self {
            Self::Got { pairs, .. } => pairs,
            Self::Put | Self::Deleted(_) => Vec::new(),
        }
    }
}

/// The result of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnReply {
    /// Whether all comparisons held.
    pub succeeded: bool,
    /// The store's revision after it.
    pub revision: i64,
    /// The cluster's number. A cluster that was restored from a snapshot has another one only if it was given another
    /// `--initial-cluster-token`.
    pub cluster: u64,
    /// A result for each operation of the list that was done, in its order.
    pub replies: Vec<OpReply>,
}

impl TxnReply {
    /// Returns `None` if the reply isn't that of a transaction with so many operations.
    pub(super) fn read(reply: TxnResponse, (then, otherwise): (usize, usize)) -> Option<Self> {
        let header = reply.header?;
        let replies: Vec<OpReply> = reply.responses.into_iter().map(read_op).collect::<Option<_>>()?;
        let wanted = if reply.succeeded { then } else { otherwise };
        let is_whole = replies.len() == wanted;
        let (revision, cluster) = (header.revision, header.cluster_id);
        is_whole.then_some(Self { succeeded: reply.succeeded, revision, cluster, replies })
    }
}

fn read_op(reply: ResponseOp) -> Option<OpReply> {
    let count = |count: i64| u64::try_from(count).unwrap_or_default();
    match (reply.range, reply.put, reply.delete_range) {
        (Some(range), None, None) => Some(OpReply::Got {
            pairs: range.kvs.into_iter().map(Pair::from).collect(),
            more: range.more,
            count: count(range.count),
        }),
        (None, Some(_), None) => Some(OpReply::Put),
        (None, None, Some(deleted)) => Some(OpReply::Deleted(count(deleted.deleted))),
        _ => None,
    }
}

/// Returns the first key after all that begin with `prefix`.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end.into();
        }
    }
    // To etcd a zero byte is the end of all keys.
    Bytes::from_static(&[0])
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key_that_does_not_begin_with_it() {
        for (prefix, end) in [(&b"a/"[..], &b"a0"[..]), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")] {
            assert_eq!(&after_prefix(prefix)[..], end, "{prefix:?}");
        }
    }

    /// The bytes are those of etcd's own description of the messages.
    #[test]
    fn a_comparison_is_written_as_etcd_reads_it() {
        let key = || Bytes::from_static(b"k");
        let table: [(Compare, &[u8]); 5] = [
            (Compare::Exists(key()), &[0x08, 1, 0x1a, 1, b'k', 0x20, 0]),
            (Compare::Absent(key()), &[0x1a, 1, b'k', 0x20, 0]),
            (Compare::Version(key(), 3), &[0x1a, 1, b'k', 0x20, 3]),
            (Compare::ModRevision(key(), 9), &[0x10, 2, 0x1a, 1, b'k', 0x30, 9]),
            (Compare::Value(key(), Bytes::new()), &[0x10, 3, 0x1a, 1, b'k', 0x3a, 0]),
        ];
        for (compare, wanted) in table {
            assert_eq!(compare.clone().into_request().encode_to_vec(), wanted, "{compare:?}");
        }
    }

    #[test]
    fn a_transaction_that_writes_on_either_side_is_no_read() {
        let txn = |then: Vec<Op>, otherwise: Vec<Op>| Txn { when: Vec::new(), then, otherwise };
        for (txn, is_read) in [
            (txn(vec![Op::get("a")], vec![Op::range("a", "b", 0)]), true),
            (txn(vec![Op::get("a")], vec![Op::delete("a")]), false),
            (txn(vec![Op::put("a", "b")], vec![]), false),
        ] {
            assert_eq!(txn.is_read(), is_read, "{txn:?}");
        }
    }

    #[test]
    fn a_reply_is_whole_or_none() {
        let reply = |header: bool, responses: Vec<ResponseOp>| TxnResponse {
            header: header.then(Default::default),
            succeeded: true,
            responses,
        };
        let put = ResponseOp { put: Some(super::super::message::PutResponse {}), ..ResponseOp::default() };
        assert!(TxnReply::read(reply(true, vec![put.clone()]), (1, 0)).is_some());
        assert!(TxnReply::read(reply(true, vec![put.clone()]), (2, 1)).is_none(), "one is missing");
        assert!(TxnReply::read(reply(false, vec![put]), (1, 0)).is_none());
        assert!(TxnReply::read(reply(true, vec![ResponseOp::default()]), (1, 0)).is_none());
    }
}
