//! Origins: pools of endpoints, over HTTP/1.1 and HTTP/2. The only room that depends on an HTTP client.
//!
//! A [`Pool`] reads the request's body (`read_ahead`), picks an endpoint (`balance` and `congestion`, pure), waits for
//! a place at it, exchanges one request for one response head (`endpoint`, over `single` or `multiplex`), decides
//! whether another attempt may help (`retry`, pure; whether the request may be repeated is said by who sends it), and
//! hands out the body as it arrives (`download`), once its beginning has been looked at (`opening`). A connection that
//! switches protocols is a `tunnel`. `reading_on` reads what a peer said before it closed. `dial` opens connections
//! over the sockets of `reach`, which knows the addresses of `names`; these come from the system's resolver or from
//! `records`, are tried in the order of `targets` (pure), and are looked up again by `following`. What a pool takes
//! over from a former one is said by `succession` (pure). A client that doesn't keep up (`lagging`) reads from the
//! `spool`, so that the place is free when the response has arrived (`relay`). What became of each request feeds
//! `health` (pure), which tells `balance` whom to leave out.

mod balance;
mod clients;
mod congestion;
mod dial;
mod download;
mod endpoint;
mod failure;
mod fetch;
mod following;
mod health;
mod keep_alive;
mod lagging;
mod ledger;
mod metrics;
mod multiplex;
mod names;
mod opening;
mod outbound;
mod places;
mod pool;
mod probe;
pub mod protocol;
mod reach;
mod reaction;
mod read_ahead;
mod reading_on;
mod recoding;
mod records;
mod relay;
mod retry;
mod single;
mod spool;
mod stats;
mod succession;
mod targets;
#[cfg(test)]
mod tests;
mod trace;
mod trailers;
mod trust;
mod tunnel;
mod upload;

pub use failure::{Failure, Reason};
pub use metrics::Metrics;
pub use outbound::{Fetched, Outbound, OutboundBody};
pub use pool::{Bounds, Error, Pool};
pub use reaction::Reaction;
pub use relay::{SpoolOff, SpoolSwitch};
