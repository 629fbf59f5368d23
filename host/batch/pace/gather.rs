//! A pace that measures nothing, so that what a scheduler does in tests follows from their scripts alone.

use std::time::Instant;

use super::{Outlook, Pace, Returned, Verdict, Why};

/// Sends at once with nothing of the class under way, and gathers beside a batch of its own until one comes back.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::batch) struct Gather;

impl Pace for Gather {
    fn on_arrival(&mut self, _: u64, _: Instant, _: usize) {}

    fn on_batch(&mut self, _: u64, _: &Returned, _: Instant) {}

    fn next(&mut self, outlook: &Outlook) -> Verdict {
        match *outlook {
            Outlook { full: true, .. } => Verdict::Send(Why::Full),
            Outlook { under_way: 0, .. } => Verdict::Send(Why::Idle),
            Outlook { offer, .. } if offer.freed => Verdict::Send(Why::Freed),
            Outlook { now, due, .. } if now >= due => Verdict::Send(Why::Due),
            Outlook { due, .. } => Verdict::WaitUntil(due),
        }
    }
}
