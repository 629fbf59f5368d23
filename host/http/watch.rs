//! How long a client may take. A connection's sockets and requests leave marks in its [`Activity`] (a few relaxed
//! atomics, a clock reading per request); now and then its driver asks [`verdict`], a pure function of these marks,
//! whether to go on and when to ask again. hyper's own timers would be set and cleared for every request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus_client::metrics::counter::Counter;

use super::pace::Pace;
use crate::{clock::millis, config::Timeouts};

/// The mark of something that isn't going on.
const NEVER: u64 = u64::MAX;

/// Bounds of the time between two checks, whatever the timeouts are.
const CHECK_MIN: Duration = Duration::from_millis(10);
const CHECK_MAX: Duration = Duration::from_secs(3600);

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Nothing came at all.
    FirstByte,
    /// A request began and its header section didn't end.
    Headers,
    /// No further request came.
    Idle,
    /// The client didn't take what it had asked for.
    Send,
    /// The client took it more slowly than it may.
    Rate,
}

impl Reason {
    /// The reason as metrics name it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::FirstByte => "first-byte",
            Self::Headers => "headers",
            Self::Idle => "idle",
            Self::Send => "send",
            Self::Rate => "rate",
        }
    }
}

/// Whether a connection may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may; no timeout can strike before `check_at`.
    Fine {
        /// When to ask again.
        check_at: Duration,
    },
    /// It may not.
    Close(Reason),
}

/// The marks of a connection at one moment. Times count from the connection's acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Requests whose answer isn't finished.
    pub(super) in_flight: u32,
    /// Whether anything came since HTTP began on the connection.
    pub(super) heard: bool,
    /// Since when no request is in flight; meaningless while one is.
    pub(super) idle_since: Duration,
    /// When the first bytes of a request came whose header section isn't complete. Means something in HTTP/1 only:
    /// in HTTP/2 any frame brings bytes, and a header block that doesn't end counts as idleness.
    pub(super) head_since: Option<Duration>,
    /// Since when the socket takes no bytes.
    pub(super) blocked_since: Option<Duration>,
    /// How long it took none before that, within the window of the minimum rate.
    pub(super) waited: Duration,
}

/// Decides about a connection. The order of the checks matters: who doesn't take an answer isn't idle.
pub(super) fn verdict(marks: &Snapshot, protocol: Protocol, now: Duration, timeouts: &Timeouts) -> Verdict {
    // What begins right after now can't be over before the shortest of the timeouts that might then run.
    let send = timeouts.send.min(Pace::of(timeouts).window().unwrap_or(CHECK_MAX));
    let shortest = timeouts.headers.min(timeouts.idle).min(send).clamp(CHECK_MIN, CHECK_MAX);
    let next = now.saturating_add(shortest);
    let Some((since, allowed, reason)) = running(marks, protocol, timeouts) else {
        return Verdict::Fine { check_at: next };
    };
    let deadline = since.saturating_add(allowed);
    if now >= deadline { Verdict::Close(reason) } else { Verdict::Fine { check_at: deadline.min(next) } }
}

/// The timeout that is running: since when, how long, and what it means.
fn running(marks: &Snapshot, protocol: Protocol, timeouts: &Timeouts) -> Option<(Duration, Duration, Reason)> {
    if let Some(since) = marks.blocked_since {
        let left = Pace::of(timeouts).window().map(|window| window.saturating_sub(marks.waited));
        return Some(match left {
            Some(left) if left < timeouts.send => (since, left, Reason::Rate),
            _ => (since, timeouts.send, Reason::Send),
        });
    }
    if marks.in_flight > 0 {
        return None;
    }
    if !marks.heard {
        return Some((marks.idle_since, timeouts.first_byte, Reason::FirstByte));
    }
    match (protocol, marks.head_since) {
        (Protocol::Http1, Some(since)) => Some((since, timeouts.headers, Reason::Headers)),
        _ => Some((marks.idle_since, timeouts.idle, Reason::Idle)),
    }
}

/// Where the parts of a connection leave their marks. Times are milliseconds since `opened`.
pub(super) struct Activity {
    opened: Instant,
    heard: AtomicBool,
    in_flight: AtomicU32,
    idle_since: AtomicU64,
    head_since: AtomicU64,
    blocked_since: AtomicU64,
    /// Of the window of the minimum rate: how long the socket took no bytes, and how many it took in between. Written by
    /// the connection's own task alone.
    waited: AtomicU64,
    taken: AtomicU64,
    pace: Pace,
    panics: Counter,
}

impl Activity {
    /// A connection that has just been accepted; a panic while it answers is counted in `panics`.
    pub(super) fn new(panics: Counter, pace: Pace) -> Self {
        Self {
            opened: Instant::now(),
            heard: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(NEVER),
            blocked_since: AtomicU64::new(NEVER),
            waited: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            pace,
            panics,
        }
    }

    /// HTTP begins: the handshake, if there was one, is over.
    pub(super) fn begin(&self) {
        self.idle_since.store(self.millis(), Ordering::Relaxed);
        self.blocked_since.store(NEVER, Ordering::Relaxed);
    }

    /// Time since the connection was accepted.
    pub(super) fn now(&self) -> Duration {
        Duration::from_millis(self.millis())
    }

    /// The instant that lies `at` after acceptance.
    pub(super) fn instant(&self, at: Duration) -> Instant {
        self.opened + at
    }

    /// Bytes came. Reads the clock only for the first ones of a request.
    pub(super) fn heard(&self) {
        if self.head_since.load(Ordering::Relaxed) == NEVER && self.in_flight.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.millis(), Ordering::Relaxed);
            self.heard.store(true, Ordering::Relaxed);
        }
    }

    /// The socket was offered bytes and took so many, or had no room (`None`). A socket that always has room costs two
    /// loads.
    pub(super) fn wrote(&self, taken: Option<usize>) {
        let blocked = self.blocked_since.load(Ordering::Relaxed);
        match taken {
            None if blocked == NEVER => self.blocked_since.store(self.millis(), Ordering::Relaxed),
            None => {}
            Some(_) if blocked == NEVER && self.waited.load(Ordering::Relaxed) == 0 => {}
            Some(bytes) => self.progress(blocked, bytes as u64),
        }
    }

    /// Books bytes that the socket took, after it had none since `blocked`; once enough came the window begins anew.
    fn progress(&self, blocked: u64, bytes: u64) {
        let now = self.millis();
        let taken = self.taken.load(Ordering::Relaxed).saturating_add(bytes);
        // The time before the first refusal counts for nothing, so a wait that is too short to be seen is one of 1 ms.
        let waited = if blocked == NEVER { 0 } else { now.saturating_sub(blocked).max(1) };
        let enough = taken >= self.pace.bytes_min();
        self.taken.store(if enough { 0 } else { taken }, Ordering::Relaxed);
        let waited = if enough { 0 } else { self.waited.load(Ordering::Relaxed).saturating_add(waited) };
        self.waited.store(waited, Ordering::Relaxed);
        if blocked != NEVER {
            // The last answer may be out of hyper's hands long before the socket has taken it.
            self.idle_since.store(now, Ordering::Relaxed);
            self.blocked_since.store(NEVER, Ordering::Release);
        }
    }

    /// The marks as they are now. The count is read before the times that were stored ahead of it.
    pub(super) fn snapshot(&self) -> Snapshot {
        let in_flight = self.in_flight.load(Ordering::Acquire);
        let blocked_since = time(&self.blocked_since);
        Snapshot {
            in_flight,
            blocked_since,
            waited: Duration::from_millis(self.waited.load(Ordering::Relaxed)),
            heard: self.heard.load(Ordering::Relaxed),
            idle_since: Duration::from_millis(self.idle_since.load(Ordering::Relaxed)),
            head_since: time(&self.head_since),
        }
    }

    fn millis(&self) -> u64 {
        millis(self.opened.elapsed())
    }
}

fn time(mark: &AtomicU64) -> Option<Duration> {
    let millis = mark.load(Ordering::Acquire);
    (millis != NEVER).then(|| Duration::from_millis(millis))
}

/// Lives as long as a request is being answered, to the last piece of its body.
pub(super) struct InFlight {
    activity: Arc<Activity>,
}

impl InFlight {
    /// A request's header section is complete.
    pub(super) fn begin(activity: &Arc<Activity>) -> Self {
        activity.in_flight.fetch_add(1, Ordering::Relaxed);
        activity.head_since.store(NEVER, Ordering::Relaxed);
        Self { activity: activity.clone() }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Every front's tasks unwind through here, so that no front has to look for panics itself.
        if std::thread::panicking() {
            self.activity.panics.inc();
        }
        // Stored ahead of the count: who sees no request in flight must not see the idleness of before.
        self.activity.idle_since.store(self.activity.millis(), Ordering::Relaxed);
        self.activity.in_flight.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    const TIMEOUTS: Timeouts = Timeouts {
        first_byte: secs(5),
        headers: secs(10),
        body: secs(15),
        send: secs(30),
        rate_bytes_min: 100,
        rate_window: secs(40),
        idle: secs(60),
        drain: secs(20),
    };

    /// An idle connection that has been heard, since second 100.
    const QUIET: Snapshot = Snapshot {
        in_flight: 0,
        heard: true,
        idle_since: secs(100),
        head_since: None,
        blocked_since: None,
        waited: Duration::ZERO,
    };

    #[test]
    fn the_verdict_follows_the_timeout_that_runs() {
        use Protocol::{Http1, Http2};
        use Reason::{FirstByte, Headers, Idle, Rate, Send};
        let fine = |at| Verdict::Fine { check_at: secs(at) };
        let close = Verdict::Close;
        let silent = Snapshot { heard: false, ..QUIET };
        let head = Snapshot { head_since: Some(secs(130)), ..QUIET };
        let busy = Snapshot { in_flight: 1, ..QUIET };
        let blocked = Snapshot { blocked_since: Some(secs(140)), ..busy };
        let rest_blocked = Snapshot { blocked_since: Some(secs(140)), ..QUIET };
        let trickling = Snapshot { waited: secs(15), ..blocked };
        let cases = [
            ("silent, early", silent, Http1, 101, fine(105)),
            ("silent, late", silent, Http1, 105, close(FirstByte)),
            ("silent, late, h2", silent, Http2, 105, close(FirstByte)),
            ("idle, far from its end", QUIET, Http1, 101, fine(111)),
            ("idle, near its end", QUIET, Http1, 155, fine(160)),
            ("idle, at its end", QUIET, Http1, 160, close(Idle)),
            ("head, early", head, Http1, 131, fine(140)),
            ("head, late", head, Http1, 140, close(Headers)),
            ("frames without a request", head, Http2, 140, fine(150)),
            ("frames without a request, late", head, Http2, 160, close(Idle)),
            ("busy for long", busy, Http1, 1000, fine(1010)),
            ("blocked, early", blocked, Http1, 165, fine(170)),
            ("blocked, late", blocked, Http1, 170, close(Send)),
            ("the tail of an answer isn't idleness", rest_blocked, Http1, 165, fine(170)),
            ("trickling, early", trickling, Http1, 164, fine(165)),
            ("trickling, late", trickling, Http2, 165, close(Rate)),
        ];
        for (name, marks, protocol, now, expected) in cases {
            assert_eq!(verdict(&marks, protocol, secs(now), &TIMEOUTS), expected, "{name}");
        }
    }

    #[test]
    fn tiny_timeouts_make_no_busy_loop() {
        let timeouts = Timeouts { send: Duration::ZERO, ..TIMEOUTS };
        let busy = Snapshot { in_flight: 1, ..QUIET };
        let expected = Verdict::Fine { check_at: secs(100) + CHECK_MIN };
        assert_eq!(verdict(&busy, Protocol::Http1, secs(100), &timeouts), expected);
    }

    #[test]
    fn marks_of_a_request() {
        let activity = Arc::new(Activity::new(Counter::default(), Pace::of(&TIMEOUTS)));
        activity.begin();
        assert!(!activity.snapshot().heard);
        activity.heard();
        assert!(activity.snapshot().heard && activity.snapshot().head_since.is_some());

        let first = InFlight::begin(&activity);
        let second = InFlight::begin(&activity);
        activity.heard();
        assert_eq!((activity.snapshot().in_flight, activity.snapshot().head_since), (2, None), "a body isn't a head");
        drop((first, second));
        assert_eq!(activity.snapshot().in_flight, 0);
    }

    #[test]
    fn marks_of_a_slow_reader() {
        let activity = Activity::new(Counter::default(), Pace::of(&TIMEOUTS));
        activity.wrote(Some(10));
        assert_eq!(activity.snapshot().blocked_since, None);
        activity.wrote(None);
        assert!(activity.snapshot().blocked_since.is_some());
        activity.wrote(Some(10));
        assert_eq!(activity.snapshot().blocked_since, None);
        assert!(!activity.snapshot().waited.is_zero(), "ten bytes don't start the window anew");

        activity.wrote(Some(4_000));
        assert!(activity.snapshot().waited.is_zero(), "enough has been taken");
    }

    #[test]
    fn a_panic_is_counted_once() {
        let panics = Counter::default();
        let activity = Arc::new(Activity::new(panics.clone(), Pace::of(&TIMEOUTS)));
        let in_flight = InFlight::begin(&activity);
        let unwound: std::thread::Result<()> = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _in_flight = in_flight;
            panic!("on purpose");
        }));
        assert!(unwound.is_err());
        assert_eq!(panics.get(), 1);
    }
}
