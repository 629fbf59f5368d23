//! A small client of etcd, version 3 of its API, over gRPC: transactions, watches and leases.
//!
//! Reads are linearizable. A call has a limit of time and goes to another endpoint when one can't be reached. A write
//! whose reply is lost is told apart from one that was never sent, because only the latter has certainly not happened.

mod client;
mod error;
mod message;
mod txn;
mod watch;

pub use self::{
    client::Etcd,
    error::Error,
    txn::{Compare, LeaseId, Op, OpReply, Order, Pair, Txn, TxnReply, after_prefix},
    watch::{Event, Watch, Watched},
};
