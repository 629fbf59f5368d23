//! Purging. Not by finding entries: a purge is appended to a log, and an entry is good only if none of its tags was purged
//! after its fetch began. The log is a Redis Stream shared by the region's nodes, keys of an etcd that regions share, or, on a
//! node without either, this node's own counter; either way the resulting table is stored on disk where there is a disk tier.

pub mod busy;
mod error;
pub mod etcd;
pub mod fence;
pub mod follow;
pub mod invalidations;
pub mod journal;
mod listing;
pub mod local;
pub mod log;
pub mod membership;
pub mod pending;
mod purger;
pub mod receipt;
pub mod redis;
mod region;
pub mod roll;
pub mod seen;
mod succession;
pub mod table;

pub use self::{
    error::Error,
    purger::{Arrived, Purger, Scope},
    receipt::{Receipt, SignedOff},
    succession::Bequest,
    table::{Cursor, Incarnation, Kind, Mark, Position, Reach, Record, Standing},
};

#[cfg(test)]
mod tests;
