//! Gathers items that one request to a model can carry together.
//!
//! A [`Class`] says what may share a batch and has one former, its queue. A pool's [`Scheduler`] stands above its
//! classes: it owns the pool's slots and decides whose turn it is, of the classes and of the tenants; its [`Pace`]
//! decides when a batch leaves. All of them are pure: their input is "items arrived", "batch came back" and "time is
//! now", their output "send these" or "wake me at". A [`Batcher`] is the edge around a scheduler: one task for each pool.
//! Nothing here depends on what an item is or how it is sent.
//!
//! A batch that fails for one of its items is divided: [`Bisection`] says which of them are sent again together, and
//! [`Quarantine`] which are sent alone from then on, for a while.

mod apart;
mod backlog;
mod bisect;
mod class;
mod concurrency;
mod dispatch;
mod former;
mod line;
mod measured;
mod metrics;
mod models;
mod overdue;
mod pace;
mod quarantine;
mod scheduler;
mod shares;
mod surcharge;
mod ticket;
mod usual;

pub use apart::Apart;
pub use bisect::Bisection;
pub use class::Class;
pub use dispatch::{BatchResult, Batcher, Progress, Results, SendBatch, Sending, SlotFuture, SlotPermit, Slots};
pub use former::{FormerRule, Terms};
pub use metrics::Metrics;
pub use models::{ModelBatch, Models};
pub use overdue::OverdueRule;
pub use pace::{Adaptive, Estimate, Offer, Outcome, Outlook, Pace, Returned, Verdict, Why};
pub use quarantine::{Digest, Quarantine};
pub use scheduler::{Batch, Load, Next, QueueId, Refusal, Refused, Scheduler, SchedulerRule};
pub use shares::{Tenant, Weight};
pub use surcharge::Further;
pub use ticket::{Interest, Interested, Pending, Queued, Rejected};
pub use usual::Usual;
