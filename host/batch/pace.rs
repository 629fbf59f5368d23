//! When a batch is sent: the rule, and its input. Pure: the time is an argument.

mod adaptive;
mod cost;
mod echo;
#[cfg(test)]
mod gather;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

pub use adaptive::Adaptive;
#[cfg(test)]
pub(super) use gather::Gather;

/// Decides whether a class that may use a free slot of its pool does so now. One pace serves all classes of a pool, so
/// that what one of them measures helps the others. A class is known to it by a number, which stays the same.
pub trait Pace: fmt::Debug + Send {
    /// Notes that items of a class arrived at the same time.
    fn on_arrival(&mut self, class: u64, at: Instant, items: usize);

    /// Notes that a batch of a class has come back, and how long it took.
    fn on_batch(&mut self, class: u64, returned: &Returned, at: Instant);

    /// Returns whether the class sends now, while a slot is free. It is called again whenever anything happens. A wait
    /// ends when a member has waited for as long as the operator or the policy allows, whatever is returned.
    fn next(&mut self, outlook: &Outlook) -> Verdict;

    /// Returns what was measured; `None` if nothing was.
    fn estimate(&self) -> Option<Estimate> {
        None
    }

    /// Returns how long a batch of so many items of a class takes at an endpoint; `None` if too few came back to say.
    fn expected(&self, _: u64, _: Option<&Arc<str>>, _: usize) -> Option<Duration> {
        None
    }

    /// Returns how long a batch of so many items of a class takes, wherever it is sent; `None` if none came back to say.
    fn typical(&self, _: u64, _: usize) -> Option<Duration> {
        None
    }
}

/// A batch that has come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    /// Items in it.
    pub items: usize,
    /// From its sending until its responses were there.
    pub took: Duration,
    /// How it went.
    pub outcome: Outcome,
    /// The endpoint that responded, if it is known.
    pub endpoint: Option<Arc<str>>,
}

/// How a batch went, for a pace: only [`Outcome::Responded`] shows how long the model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The model responded.
    Responded,
    /// The model refused it, failed or wasn't reached.
    Failed,
    /// The endpoint said that it has too many requests (429, 503).
    Overloaded,
    /// It came to nothing on this node: not one response an item, or a panic.
    Lost,
}

/// A slot that is offered to a class.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// The class.
    pub class: u64,
    /// Since when a slot of the pool has been free.
    pub since: Instant,
    /// Slots that are free, this one among them; at least one.
    pub free: usize,
    /// The pool's slots; at least as many.
    pub slots: usize,
    /// Whether a batch of the pool came back while items were waiting, and none was sent since.
    pub freed: bool,
}

/// The input of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Outlook {
    /// Items that would be sent together now; at least one.
    pub items: usize,
    /// How many there may be.
    pub size_max: usize,
    /// Since when the first of them could have been sent: since it came, or since a slot has been free.
    pub since: Instant,
    /// When the first of them has waited long enough.
    pub due: Instant,
    /// Whether waiting longer can't make the batch larger.
    pub full: bool,
    /// Batches of the class that are under way.
    pub under_way: usize,
    /// When the first of the members' responses must be there, if there is such a time.
    pub deadline: Option<Instant>,
    /// The slot.
    pub offer: Offer,
    /// The current time.
    pub now: Instant,
}

/// Whether a batch is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Now.
    Send(Why),
    /// Not before then, unless something happens.
    WaitUntil(Instant),
}

/// Why a batch is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A slot would stay empty while it waits, and nothing is expected that would pay for that.
    Idle,
    /// No further item fits into it, or into the queue.
    Full,
    /// A batch came back; this one has been gathering in the meantime.
    Freed,
    /// The items that were expected to follow a batch have been waited for, as far as that pays.
    Echo,
    /// A member's response would be late if it waited longer.
    Deadline,
    /// One of its members has waited as long as the operator or the policy allows.
    Due,
}

impl Why {
    /// Returns the label for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Full => "full",
            Self::Freed => "freed",
            Self::Echo => "echo",
            Self::Deadline => "deadline",
            Self::Due => "due",
        }
    }
}

/// What a pace has measured of its pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// What a batch takes however few items are in it.
    pub fixed: Duration,
    /// What each item adds to it.
    pub per_item: Duration,
    /// How long the last batch was held for items that were expected to follow another.
    pub held: Duration,
}

#[cfg(test)]
mod tests;
