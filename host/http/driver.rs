//! Drives a connection of any front: within its timeouts, and to a graceful end when the server stops.

use std::{
    pin::{Pin, pin},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    activity::Activity,
    end::{End, Reason},
};

/// How long an idle connection that was asked to close may take for it.
const LINGER: Duration = Duration::from_secs(5);

/// Whether a connection may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may; no timeout can expire before `check_at`.
    Fine {
        /// When to check again.
        check_at: Duration,
    },
    /// It may not.
    Close(Reason),
}

/// Whether a connection takes further requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It does.
    Open,
    /// It has been asked to close after having been idle.
    Closing,
    /// It has been asked to close because the server stops.
    Draining,
}

/// Drives one connection. `look` returns the verdict on it at a time, counted from its acceptance.
pub(super) struct Driver<'a, L> {
    pub(super) activity: &'a Activity,
    pub(super) look: L,
    pub(super) drain: &'a CancellationToken,
    pub(super) cut: &'a CancellationToken,
}

impl<L: Fn(Duration) -> Verdict> Driver<'_, L> {
    /// Polls `connection` to its end, or until it is closed for a timeout or a cut. `wind_up` makes it finish what is
    /// under way, and `end` classifies its own end.
    pub(super) async fn drive<C: Future>(
        &self,
        connection: C,
        wind_up: impl Fn(Pin<&mut C>),
        end: impl Fn(C::Output, Phase) -> End,
    ) -> End {
        let mut connection = pin!(connection);
        let mut check = pin!(sleep_until(self.instant(self.activity.now())));
        let mut phase = Phase::Open;
        loop {
            tokio::select! {
                // The connection first: a request that is already there is served, whatever else has happened.
                biased;
                outcome = connection.as_mut() => return end(outcome, phase),
                () = self.drain.cancelled(), if phase == Phase::Open => {
                    phase = Phase::Draining;
                    wind_up(connection.as_mut());
                }
                () = self.cut.cancelled(), if phase != Phase::Open => return End::Cut,
                () = check.as_mut() => match ((self.look)(self.activity.now()), phase) {
                    (Verdict::Fine { check_at }, _) => check.as_mut().reset(self.instant(check_at)),
                    (Verdict::Close(Reason::Idle), Phase::Open) => {
                        phase = Phase::Closing;
                        wind_up(connection.as_mut());
                        check.as_mut().reset(Instant::now() + LINGER);
                    }
                    (Verdict::Close(reason), _) => return End::Timeout(reason),
                },
            }
        }
    }

    fn instant(&self, at: Duration) -> Instant {
        Instant::from_std(self.activity.instant(at))
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use prometheus_client::metrics::counter::Counter;
    use tokio::time::timeout;

    use super::*;

    /// Far beyond what anything here takes; only a failure reaches it.
    const FOREVER: Duration = Duration::from_secs(20);

    /// Goes on until it is asked to wind up, or for ever if it is deaf.
    struct Fake {
        is_deaf: bool,
        is_told: bool,
    }

    impl Future for Fake {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            if self.is_told && !self.is_deaf { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    /// Drives a connection that is judged by `look`, with `drain` and `cut` cancelled or not.
    async fn driven(is_deaf: bool, [drain, cut]: [bool; 2], look: impl Fn(Duration) -> Verdict) -> End {
        let tokens = [CancellationToken::new(), CancellationToken::new()];
        for (token, is_cancelled) in tokens.iter().zip([drain, cut]) {
            if is_cancelled {
                token.cancel();
            }
        }
        let activity = Activity::new(Counter::default());
        let driver = Driver { activity: &activity, look, drain: &tokens[0], cut: &tokens[1] };
        let end = |(), phase| match phase {
            Phase::Open => End::Done,
            Phase::Closing => End::Timeout(Reason::Idle),
            Phase::Draining => End::Drained,
        };
        let connection = Fake { is_deaf, is_told: false };
        timeout(FOREVER, driver.drive(connection, |mut it| it.is_told = true, end)).await.expect("in time")
    }

    fn fine(_: Duration) -> Verdict {
        Verdict::Fine { check_at: FOREVER * 2 }
    }

    #[tokio::test]
    async fn a_drain_winds_up_and_cuts_what_does_not_listen() {
        assert_eq!(driven(false, [true, false], fine).await, End::Drained);
        assert_eq!(driven(false, [true, true], fine).await, End::Drained, "the connection has the first word");
        assert_eq!(driven(true, [true, true], fine).await, End::Cut);
    }

    #[tokio::test]
    async fn what_takes_too_long_is_closed_and_only_the_idle_in_good_order() {
        assert_eq!(driven(false, [false; 2], |_| Verdict::Close(Reason::Idle)).await, End::Timeout(Reason::Idle));
        for reason in [Reason::FirstByte, Reason::Headers, Reason::Send, Reason::Rate] {
            // One that ended by itself would be `Done`.
            let end = driven(false, [false; 2], |_| Verdict::Close(reason)).await;
            assert_eq!(end, End::Timeout(reason));
        }
    }

    #[tokio::test]
    async fn the_next_look_is_when_the_last_one_said() {
        let at = Duration::from_millis(20);
        let look = |now: Duration| if now < at { Verdict::Fine { check_at: at } } else { Verdict::Close(Reason::Send) };
        assert_eq!(driven(true, [false; 2], look).await, End::Timeout(Reason::Send));
    }

    #[tokio::test]
    async fn a_busy_drain_goes_on_being_judged() {
        let look = |_: Duration| Verdict::Close(Reason::Idle);
        assert_eq!(driven(true, [true, false], look).await, End::Timeout(Reason::Idle));
    }
}
