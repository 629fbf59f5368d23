//! How long a client that reads a response is waited for: by `timeouts.send` and the minimum rate, as on the other
//! fronts. What its windows let through is what it has taken; what lies in this side's buffers hasn't cost it a wait.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use super::session::Marks;
use crate::{
    config::Timeouts,
    http::{end::Reason, pace::Pace, patience},
};

/// How many windows of the minimum rate the end of a response may take to be acknowledged.
const TAIL_WINDOWS: u32 = 20;

/// The time that the client of one response is waited for.
pub(super) struct Patience {
    client: patience::Patience,
    /// Bytes that had been let through at the last look.
    written: u64,
}

impl Patience {
    pub(super) const fn new(timeouts: &Timeouts) -> Self {
        Self { client: patience::Patience::new(timeouts.send, Pace::of(timeouts)), written: 0 }
    }

    /// Awaits a `step` that lasts until the client has made room.
    ///
    /// # Errors
    /// The limit that the client exceeds; the step is given up then.
    pub(super) async fn wait<F: Future>(&mut self, marks: &Marks, step: F) -> Result<F::Output, Reason> {
        let mut step = pin!(step);
        poll_fn(|cx| {
            let outcome = step.as_mut().poll(cx);
            self.book(marks, outcome.is_pending());
            match outcome {
                Poll::Ready(done) => Poll::Ready(Ok(done)),
                Poll::Pending => self.client.poll_over(cx).map(Err),
            }
        })
        .await
    }

    /// Books what has been let through since the last look.
    fn book(&mut self, marks: &Marks, waits: bool) {
        let written = marks.written();
        self.client.book(written - self.written, waits);
        self.written = written;
    }
}

/// The end of a response that lies in this side's buffers, and which its client is yet to acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    send: Duration,
    /// How long all of it may take, if there is a minimum rate.
    whole: Option<Duration>,
    /// How long it has taken so far.
    waited: Duration,
    /// How long nothing of it was sent.
    still: Duration,
    frames: u64,
}

impl Tail {
    /// Returns the end of a response of which at most `bytes_max` are held. `frames` is the number of frames that its
    /// connection has sent.
    pub(super) fn new(timeouts: &Timeouts, bytes_max: u64, frames: u64) -> Self {
        let window = timeouts.rate_window.saturating_mul(TAIL_WINDOWS);
        let seconds = bytes_max.checked_div(timeouts.rate_bytes_min);
        let whole = seconds.map(|seconds| Duration::from_secs(seconds).min(window).max(timeouts.send));
        Self { send: timeouts.send, whole, waited: Duration::ZERO, still: Duration::ZERO, frames }
    }

    /// Returns how long to wait until the next look.
    pub(super) fn look(&self) -> Duration {
        patience::look(self.send)
    }

    /// Books the time since the last look, and returns whether the client has been waited for long enough.
    pub(super) fn is_over(&mut self, passed: Duration, frames: u64) -> bool {
        self.waited += passed;
        self.still = if frames == self.frames { self.still + passed } else { Duration::ZERO };
        self.frames = frames;
        self.still >= self.send || self.whole.is_some_and(|whole| self.waited >= whole)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn timeouts(send: Duration, rate_bytes_min: u64, rate_window: Duration) -> Timeouts {
        Timeouts { send, rate_bytes_min, rate_window, ..Timeouts::default() }
    }

    /// Waits for a step that never ends; each of `gifts` is bytes that the client lets through and the pause after.
    async fn waited(timeouts: &Timeouts, gifts: &[(usize, Duration)]) -> Reason {
        let (marks, mut patience) = (Marks::default(), Patience::new(timeouts));
        let step = async {
            for (bytes, pause) in gifts {
                marks.wrote(*bytes);
                sleep(*pause).await;
            }
            std::future::pending::<()>().await;
        };
        timeout(LONG, patience.wait(&marks, step)).await.expect("in time").expect_err("it never ends")
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_more_is_cut_and_one_that_trickles_too() {
        let short = Duration::from_millis(50);
        assert_eq!(waited(&timeouts(short, 0, LONG), &[(1, Duration::ZERO)]).await, Reason::Send);
        let trickle = [(1, Duration::from_millis(20)); 100];
        assert_eq!(waited(&timeouts(LONG, 1_000_000, short), &trickle).await, Reason::Rate);
    }

    #[tokio::test]
    async fn time_between_steps_is_not_the_clients() {
        let short = Duration::from_millis(20);
        let (marks, mut patience) = (Marks::default(), Patience::new(&timeouts(short, 1_000_000, short)));
        for _ in 0..5 {
            assert_eq!(patience.wait(&marks, std::future::ready(7)).await, Ok(7));
            // The origin's pause.
            sleep(short * 2).await;
        }
    }

    #[test]
    fn a_tail_is_waited_for_as_long_as_it_moves_and_not_for_ever() {
        let secs = Duration::from_secs;
        let patient = timeouts(secs(30), 100, secs(10));
        let mut moving = Tail::new(&patient, 1_000_000, 0);
        let looks = (1..).take_while(|look| !moving.is_over(secs(10), *look)).count();
        assert_eq!(looks, 19, "twenty windows");
        let mut small = Tail::new(&patient, 5_000, 0);
        let looks = (1..).take_while(|look| !small.is_over(secs(10), *look)).count();
        assert_eq!(looks, 4, "as long as its bytes last at the rate");
        let mut still = Tail::new(&patient, 1_000_000, 7);
        assert_eq!([10, 20, 30].map(|_| still.is_over(secs(10), 7)), [false, false, true]);
        let mut unlimited = Tail::new(&timeouts(secs(30), 0, secs(10)), 1_000_000, 0);
        assert!((1..10_000).all(|look| !unlimited.is_over(secs(10), look)));
    }
}
