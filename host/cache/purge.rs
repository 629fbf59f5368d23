//! Purging. Not by finding entries: a purge is appended to a log, and an entry is good only if none of its tags was purged
//! after its fetch began. The log is a Redis Stream shared by the region's nodes, or, on a node without Redis, this node's
//! own counter; either way the resulting table is stored on disk where there is a disk tier. A node may follow a second
//! log, that of the world, in an etcd that regions share: then an entry is good only if both say so ([`Purges`]).

pub mod busy;
mod error;
pub mod etcd;
mod extent;
pub mod fence;
pub mod follow;
pub mod heard;
mod hearing;
mod heed;
pub mod invalidations;
pub mod journal;
mod listing;
pub mod local;
pub mod log;
pub mod membership;
pub mod notice;
mod own;
pub mod pace;
pub mod pending;
mod purger;
mod purges;
pub mod receipt;
pub mod redis;
mod region;
pub mod roll;
pub mod seen;
mod succession;
pub mod table;

pub use self::{
    error::Error,
    extent::Extent,
    purger::{Moment, Purger, Scope},
    purges::{Arrived, Checked, Lives, Purges, World},
    receipt::{Receipt, SignedOff},
    succession::Bequest,
    table::{Cursor, Incarnation, Kind, Mark, Point, Position, Purgeable, Reach, Record, Standing, Subject},
};

#[cfg(test)]
mod tests;
