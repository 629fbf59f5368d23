//! Configuration and policies from one place: generations of them in etcd, which nodes follow and operators push.
//!
//! `record` has what is written there, and which nodes a generation is for. `store` reads and writes it, `saved` is what a
//! node has of it on its disk, `follow` has the node take it on, `judge` says whether it does worse by it, and what
//! becomes of a trial, and `declined` when what it couldn't take is tried again.

mod declined;
mod follow;
mod judge;
mod record;
mod saved;
mod store;

pub(super) use self::{
    follow::{Page, follow},
    saved::resumed,
};

pub use self::{
    record::{Component, FORMAT, Head, NodeState, Outcome, Pointer, Reach, Record, RecordError, Trial},
    store::{Error, Seen, Store, Written},
};
