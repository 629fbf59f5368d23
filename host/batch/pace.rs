//! When a batch is sent: the rule, and its input. Pure: the time is an argument.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// Decides whether a class that may use a free slot of its pool does so now. One pace serves all classes of a pool, so
/// that what one of them measures helps the others.
pub trait Pace: fmt::Debug + Send {
    /// Notes how long a batch took, when it has come back.
    fn on_batch(&mut self, returned: &Returned);

    /// Returns whether the class sends now, while a slot is free. It is called again whenever anything happens. A wait
    /// ends when a member has waited for as long as the operator or the policy allows, whatever is returned.
    fn next(&self, outlook: &Outlook) -> Verdict;
}

/// A batch that has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned {
    /// Items in it.
    pub items: usize,
    /// From its sending until its responses were there.
    pub took: Duration,
    /// How it went.
    pub outcome: Outcome,
}

/// How a batch went, for a pace: only [`Outcome::Answered`] shows how long the model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The model responded.
    Answered,
    /// The model refused it, failed or wasn't reached.
    Failed,
    /// It came to nothing on this node: not one response an item, or a panic.
    Lost,
}

/// The input of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Outlook {
    /// Items that would be sent together now; at least one.
    pub items: usize,
    /// When the first of them has waited long enough.
    pub due: Instant,
    /// Whether waiting longer can't make the batch larger.
    pub full: bool,
    /// Batches of the class that are under way.
    pub under_way: usize,
    /// Whether a batch of the pool came back while items were waiting, and none was sent since.
    pub freed: bool,
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
    /// Nothing of its class is under way: a slot would stay empty while it waits.
    Idle,
    /// No further item fits into it, or into the queue.
    Full,
    /// A batch came back; this one has been gathering in the meantime.
    Freed,
    /// One of its members has waited long enough.
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
            Self::Due => "due",
        }
    }
}

/// Gathers while the model is busy, and measures nothing. With nothing of a class under way waiting can't pay: a slot
/// would stay empty meanwhile. With something under way items gather at no cost until the model is free again, so the
/// model's own pace makes the batches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gather;

impl Pace for Gather {
    fn on_batch(&mut self, _: &Returned) {}

    fn next(&self, outlook: &Outlook) -> Verdict {
        match *outlook {
            Outlook { full: true, .. } => Verdict::Send(Why::Full),
            Outlook { under_way: 0, .. } => Verdict::Send(Why::Idle),
            Outlook { freed: true, .. } => Verdict::Send(Why::Freed),
            Outlook { now, due, .. } if now >= due => Verdict::Send(Why::Due),
            Outlook { due, .. } => Verdict::WaitUntil(due),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathering_waits_only_beside_a_batch_of_its_own() {
        let now = Instant::now();
        let due = now + Duration::from_millis(2);
        for (full, under_way, freed, due, wanted) in [
            (true, 3, false, due, Verdict::Send(Why::Full)),
            (false, 0, false, due, Verdict::Send(Why::Idle)),
            (false, 0, true, now, Verdict::Send(Why::Idle)),
            (false, 1, true, due, Verdict::Send(Why::Freed)),
            (false, 1, false, now, Verdict::Send(Why::Due)),
            (false, 1, false, due, Verdict::WaitUntil(due)),
        ] {
            let outlook = Outlook { items: 1, due, full, under_way, freed, now };
            assert_eq!(Gather.next(&outlook), wanted, "{outlook:?}");
        }
    }
}
