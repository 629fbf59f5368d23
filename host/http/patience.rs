//! How long a client that reads one response is waited for: by `timeouts.send` and the minimum rate.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    end::Reason,
    pace::{Credit, Pace, SETTLING},
};

/// The least time between two checks, whatever the timeouts are.
pub(super) const CHECK_MIN: Duration = Duration::from_millis(10);

/// How often at least a client that takes no bytes is looked at before it is cut for that.
const LOOKS: u32 = 4;

/// Returns how long after a look at a client the next one is, if it may be waited for so long.
pub(super) fn look(allowed: Duration) -> Duration {
    (allowed / LOOKS).max(CHECK_MIN)
}

/// The time that the client of one response is waited for.
pub(super) struct Patience {
    send: Duration,
    credit: Credit,
    /// Since when nothing was taken of what waits.
    since: Option<Instant>,
    /// When the client was waited for the first time.
    first: Option<Instant>,
    /// Made at the first wait; a client that has room needs none.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(super) const fn new(send: Duration, pace: Pace) -> Self {
        Self { send, credit: Credit::new(pace), since: None, first: None, alarm: None }
    }

    /// Books bytes that the client has taken since the last look, and the time that it took. `waits` says whether it is
    /// waited for still.
    pub(super) fn book(&mut self, taken: u64, waits: bool) {
        // Before the first wait the credit is whole, and nothing can be booked on it.
        let Some(first) = self.first else { return };
        if taken > 0 || !waits {
            let waited = self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
            // What comes at once lies in the windows that the client had opened ahead, and in this side's buffers.
            self.credit.book(taken, waited, first.elapsed() >= SETTLING);
        }
    }

    /// Ready when the client, which is waited for and of which all is booked, has been waited for long enough.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.first.get_or_insert(since);
        let (allowed, reason) = self.credit.allowed(self.send);
        ready!(self.poll_until(since + allowed, allowed, cx));
        Poll::Ready(reason)
    }

    /// Ready at the deadline. Wakes the task now and then before, because what is written doesn't.
    fn poll_until(&mut self, deadline: Instant, allowed: Duration, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Poll::Ready(());
            }
            let next = deadline.min(now + look(allowed));
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(next)));
            if alarm.is_elapsed() || alarm.deadline() > next {
                alarm.as_mut().reset(next);
            }
            ready!(alarm.as_mut().poll(cx));
        }
    }
}
