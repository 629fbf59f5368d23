//! Gathers questions that one request to a model can carry together.
//!
//! A [`Class`] says what may travel together and has one [`Former`]: a pure core that is told "item arrived", "slot
//! free" and "time is now", and answers "send these" or "wake me at". A [`Batcher`] is the edge around the formers: a
//! task and a bounded inbox for each class. Neither knows what an item is or how it is sent.

mod class;
mod dispatch;
mod former;
mod metrics;

pub use class::Class;
pub use dispatch::{Answers, Batcher, Departure, Pending, Rejected, SendBatch};
pub use former::{Former, FormerRule, Full, Step, Terms, Why};
pub use metrics::Metrics;
