//! The timeouts of a client. A connection's requests leave marks in its [`Activity`], its sockets in its
//! [`SocketActivity`] (a few relaxed atomics, a clock reading per read); now and then its driver calls [`verdict`],
//! a pure function of these marks, which returns whether to go on and when to check again. hyper's own timers would be
//! set and cleared for every request.

use std::{
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::http::Version;
use parking_lot::Mutex;

use crate::{
    config::Timeouts,
    http::{
        activity::Activity,
        driver::Verdict,
        end::Reason,
        pace::{Credit, Pace, SETTLING},
        patience::{self, CHECK_MIN},
    },
};

/// The mark of a state that doesn't hold.
const NEVER: u64 = u64::MAX;

/// The most time between two checks, whatever the timeouts are.
const CHECK_MAX: Duration = Duration::from_secs(3600);

/// How long after the last byte of a request the end of what its client sends is the end of its requests alone, and the
/// client reads on. One that comes later is that of a client which has gone: to TCP both look the same.
const HALF_CLOSE: Duration = Duration::from_secs(1);

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// Returns the protocol as the log names it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1",
            Self::Http2 => "http/2",
        }
    }
}

/// The marks of a connection at one moment. Times count from the connection's acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Requests whose response isn't finished.
    pub(super) in_flight: u32,
    /// Whether anything came since HTTP began on the connection.
    pub(super) heard: bool,
    /// When the last request ended; meaningless while one is in flight.
    pub(super) idle_since: Duration,
    /// When the first bytes of a request came whose header section isn't complete. Meaningful in HTTP/1 only:
    /// in HTTP/2 any frame brings bytes, and a header block that doesn't end counts as idleness.
    pub(super) head_since: Option<Duration>,
    /// Since when the socket takes no bytes and the client acknowledges none.
    pub(super) blocked_since: Option<Duration>,
    /// How long the client may be waited for from then on.
    pub(super) credit: Credit,
}

/// Decides about a connection. The order of the checks matters: a client that doesn't take a response isn't idle.
pub(super) fn verdict(marks: &Snapshot, protocol: Protocol, now: Duration, timeouts: &Timeouts) -> Verdict {
    // What begins right after now can't be over before the shortest of the timeouts that might then run.
    let send = timeouts.send.min(Pace::of(timeouts).window().unwrap_or(CHECK_MAX));
    let shortest = timeouts.headers.min(timeouts.idle).min(send).clamp(CHECK_MIN, CHECK_MAX);
    let next = now.saturating_add(shortest);
    let Some((since, allowed, reason)) = running(marks, protocol, timeouts) else {
        return Verdict::Fine { check_at: next };
    };
    // Meanwhile the client may acknowledge bytes, which only a check shows.
    let look = now.saturating_add(patience::look(allowed));
    let next = if marks.blocked_since.is_some() { next.min(look) } else { next };
    let deadline = since.saturating_add(allowed);
    if now >= deadline { Verdict::Close(reason) } else { Verdict::Fine { check_at: deadline.min(next) } }
}

/// Returns the timeout that is running: since when, how long, and what it means.
fn running(marks: &Snapshot, protocol: Protocol, timeouts: &Timeouts) -> Option<(Duration, Duration, Reason)> {
    if let Some(since) = marks.blocked_since {
        let (allowed, reason) = marks.credit.allowed(timeouts.send);
        return Some((since, allowed, reason));
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

/// The state of a connection's socket, beside that of its requests. Times are milliseconds since it
/// was accepted.
pub(super) struct SocketActivity {
    activity: Arc<Activity>,
    heard: AtomicBool,
    /// When the last bytes came.
    last_heard: AtomicU64,
    head_since: AtomicU64,
    /// Whether the request under way has come whole. Only noted on HTTP/1.
    is_whole: AtomicBool,
    blocked_since: AtomicU64,
    /// When the socket had no room for the first time.
    first_blocked: AtomicU64,
    /// Bytes that the socket has taken, and those of them that the client had acknowledged at the last look. Written by
    /// the connection's own task alone, as are all that follow but the last two.
    sent: AtomicU64,
    acknowledged: AtomicU64,
    /// Bytes that the client has acknowledged while the socket had no room, in all.
    progressed: AtomicU64,
    /// Whether the client owes progress, and so is looked at although its socket has room.
    owes: AtomicBool,
    credit: Mutex<Credit>,
    /// Whether a reset is the way to say that the response under way breaks off.
    may_reset: AtomicBool,
    /// Whether a response has failed on this side.
    failed: AtomicBool,
}

impl SocketActivity {
    /// Returns a connection that has just been accepted, and has to keep `pace`.
    pub(super) fn new(activity: Arc<Activity>, pace: Pace) -> Self {
        Self {
            activity,
            heard: AtomicBool::new(false),
            last_heard: AtomicU64::new(0),
            head_since: AtomicU64::new(NEVER),
            is_whole: AtomicBool::new(false),
            blocked_since: AtomicU64::new(NEVER),
            first_blocked: AtomicU64::new(NEVER),
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            progressed: AtomicU64::new(0),
            owes: AtomicBool::new(false),
            credit: Mutex::new(Credit::new(pace)),
            may_reset: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }

    /// Notes that HTTP begins: the handshake, if there was one, is over.
    pub(super) fn begin(&self) {
        self.activity.idle_from(self.activity.millis());
        self.blocked_since.store(NEVER, Ordering::Relaxed);
    }

    /// The header section of a request of this version is complete. Called in the very poll in which the request is
    /// counted as in flight, and ahead of that: so bytes of its body are never taken for those of another head.
    pub(super) fn head_complete(&self, version: Version) {
        self.head_since.store(NEVER, Ordering::Relaxed);
        self.is_whole.store(false, Ordering::Relaxed);
        // A reset is plainer than an end before the stated length or the last chunk, but takes complete responses with
        // it that are still on their way.
        let may_reset = self.activity.begun() == 0 && version < Version::HTTP_2;
        self.may_reset.store(may_reset, Ordering::Relaxed);
    }

    /// Whether the bytes that come next begin a request's head: nothing of one has come, and the request before has come
    /// whole and has its response. Only known on HTTP/1.
    pub(super) fn awaits_head(&self) -> bool {
        self.head_since.load(Ordering::Relaxed) == NEVER
            && self.activity.is_idle()
            && (self.is_whole.load(Ordering::Relaxed) || self.activity.begun() == 0)
    }

    /// Notes how many characters were marked in the target of the request to come.
    pub(super) fn mark(&self, characters: usize) {
        self.activity.mark(characters);
    }

    /// Whether no request is being served.
    pub(super) fn is_idle(&self) -> bool {
        self.activity.is_idle()
    }

    /// The connection has switched to another protocol: from now on it is read by whoever runs that.
    pub(super) fn switched(&self) {
        self.is_whole.store(false, Ordering::Relaxed);
    }

    /// The request under way has come whole.
    pub(super) fn request_whole(&self) {
        self.is_whole.store(true, Ordering::Relaxed);
    }

    /// Whether a client's request has come whole and its response isn't finished, so that nobody reads what the client
    /// sends. Only known on HTTP/1.
    pub(super) fn is_served(&self) -> bool {
        self.is_whole.load(Ordering::Relaxed) && !self.activity.is_idle()
    }

    /// Whether the end of what the client sends, if it came up to `late` ago, may be that of its requests alone.
    pub(super) fn half_closes(&self, late: Duration) -> bool {
        let last = Duration::from_millis(self.last_heard.load(Ordering::Relaxed));
        self.activity.now().saturating_sub(last) <= HALF_CLOSE + late
    }

    /// The response under way states no length and has no chunks: to its client the end of the connection is its end,
    /// so only a reset says that it breaks off.
    pub(super) fn ends_with_connection(&self) {
        self.may_reset.store(true, Ordering::Relaxed);
    }

    /// Whether complete responses were sent before the last one, which a reset could take with it.
    pub(super) fn has_earlier(&self) -> bool {
        self.activity.begun() > 1
    }

    /// HTTP on the connection is over. The requests under way go next, and whether there were any shows only now.
    pub(super) fn over(&self) {
        if !self.activity.is_idle() {
            self.fail();
        }
    }

    /// A response has failed on this side, and its connection ends.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Whether the connection, if it ended at this moment, would have to be reset, because it would leave a response
    /// unfinished: one whose body hasn't been handed over, or that the socket had no room for. What the socket has
    /// taken of a complete response is sent after a close, and would be lost by a reset.
    pub(super) fn breaks_off(&self) -> bool {
        let is_blocked = || self.blocked_since.load(Ordering::Relaxed) != NEVER;
        let is_unfinished = || !self.activity.is_idle() || is_blocked() || std::thread::panicking();
        self.may_reset.load(Ordering::Relaxed) && (self.failed.load(Ordering::Relaxed) || is_unfinished())
    }

    /// Bytes of a response went to the socket. Those of one that is out of hyper's hands keep its connection from being
    /// idle.
    pub(super) fn passed(&self) {
        if self.activity.is_idle() {
            self.activity.idle_from(self.activity.millis());
        }
    }

    /// Notes that bytes came.
    pub(super) fn heard(&self) {
        let now = self.activity.millis();
        self.last_heard.store(now, Ordering::Relaxed);
        if self.head_since.load(Ordering::Relaxed) == NEVER && self.activity.is_idle() {
            self.head_since.store(now, Ordering::Relaxed);
            self.heard.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that the socket was offered bytes and took so many, or had no room (`None`). `queued` says how many of all
    /// that it has taken the client hasn't acknowledged; where it can't, what the socket takes counts as acknowledged.
    /// A socket that always has room costs three loads and a store.
    pub(super) fn wrote(&self, taken: Option<usize>, queued: impl FnOnce() -> Option<u64>) {
        let sent = self.sent.load(Ordering::Relaxed) + taken.unwrap_or(0) as u64;
        self.sent.store(sent, Ordering::Relaxed);
        let blocked = self.blocked_since.load(Ordering::Relaxed);
        if taken.is_some() && blocked == NEVER && !self.owes.load(Ordering::Relaxed) {
            return;
        }
        let acknowledged = sent.saturating_sub(queued().unwrap_or(0));
        let before = self.acknowledged.swap(acknowledged, Ordering::Relaxed);
        if self.first_blocked.load(Ordering::Relaxed) == NEVER {
            // Nobody knows how much of what has gone before lies unread in buffers.
            let now = self.activity.millis();
            self.first_blocked.store(now, Ordering::Relaxed);
            self.blocked_since.store(now, Ordering::Relaxed);
        } else {
            self.progress(blocked, acknowledged.saturating_sub(before), taken.is_some());
        }
    }

    /// Books bytes that the client acknowledged since the last look; the socket has had no room since `blocked`. A
    /// client that goes on taking bytes isn't waited for any longer than until the last ones, although the socket,
    /// which takes more only by the tens of thousands, may still have no room.
    fn progress(&self, blocked: u64, bytes: u64, has_room: bool) {
        if bytes == 0 && !has_room && blocked != NEVER {
            return;
        }
        let now = self.activity.millis();
        // A wait that is too short to be seen is one of 1 ms.
        let waited = if blocked == NEVER { 0 } else { now.saturating_sub(blocked).max(1) };
        let first = self.first_blocked.load(Ordering::Relaxed);
        let reads = Duration::from_millis(now.saturating_sub(first)) >= SETTLING;
        {
            let mut credit = self.credit.lock();
            credit.book(bytes, Duration::from_millis(waited), reads);
            self.owes.store(!credit.is_full(), Ordering::Relaxed);
        }
        if blocked != NEVER {
            self.progressed.store(self.progressed.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
            // hyper may have written the last response long before the client has taken it.
            self.activity.idle_from(now);
        }
        self.blocked_since.store(if has_room { NEVER } else { now }, Ordering::Release);
    }

    /// Returns the bytes that the client has acknowledged while the socket had no room, since the connection was
    /// accepted, and the number of requests that share them.
    pub(super) fn progressed(&self) -> (u64, u32) {
        (self.progressed.load(Ordering::Relaxed), self.activity.in_flight())
    }

    /// Returns the marks as they are now. The count is read before the times that were stored ahead of it.
    pub(super) fn snapshot(&self) -> Snapshot {
        let in_flight = self.activity.in_flight();
        let blocked_since = time(&self.blocked_since);
        Snapshot {
            in_flight,
            blocked_since,
            credit: *self.credit.lock(),
            heard: self.heard.load(Ordering::Relaxed),
            idle_since: self.activity.idle_since(),
            head_since: time(&self.head_since),
        }
    }
}

/// Returns the bytes that a TCP socket has taken and its peer hasn't acknowledged; `None` if the system can't tell.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
pub(super) fn unacknowledged(socket: &impl AsFd) -> Option<u64> {
    use rustix::ioctl::{Getter, Opcode, ioctl};

    /// `SIOCOUTQ`, by its number on these architectures.
    const UNACKNOWLEDGED: Opcode = 0x5411;
    // SAFETY: on a socket the kernel writes an `int` for this request, and that is what the getter has room for.
    let queued = unsafe { ioctl(socket, Getter::<UNACKNOWLEDGED, i32>::new()) };
    queued.ok().and_then(|bytes| u64::try_from(bytes).ok())
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))))]
pub(super) fn unacknowledged(_socket: &impl AsFd) -> Option<u64> {
    None
}

fn time(mark: &AtomicU64) -> Option<Duration> {
    let millis = mark.load(Ordering::Acquire);
    (millis != NEVER).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::http::activity::InFlight;

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
        linger: secs(30),
        drain: secs(20),
        drain_delay: secs(0),
    };

    const PACE: Pace = Pace::of(&TIMEOUTS);

    /// What is left to a client after such a step.
    fn after(bytes: u64, waited: Duration, reads: bool) -> Credit {
        let mut credit = Credit::new(PACE);
        credit.book(bytes, waited, reads);
        credit
    }

    /// An idle connection on which bytes came, since second 100.
    const QUIET: Snapshot = Snapshot {
        in_flight: 0,
        heard: true,
        idle_since: secs(100),
        head_since: None,
        blocked_since: None,
        credit: Credit::new(PACE),
    };

    #[test]
    fn the_verdict_follows_the_timeout_that_runs() {
        use Protocol::{Http1, Http2};
        use Reason::{FirstByte, Headers, Idle, Rate, Send};
        let fine = |at| Verdict::Fine { check_at: secs(at) };
        let close = Verdict::Close;
        let soon = Verdict::Fine { check_at: Duration::from_millis(175_500) };
        let silent = Snapshot { heard: false, ..QUIET };
        let head = Snapshot { head_since: Some(secs(130)), ..QUIET };
        let busy = Snapshot { in_flight: 1, ..QUIET };
        let blocked = Snapshot { blocked_since: Some(secs(140)), ..busy };
        let rest_blocked = Snapshot { blocked_since: Some(secs(140)), ..QUIET };
        let trickling = Snapshot { credit: after(0, secs(15), false), ..blocked };
        let stepping = Snapshot { credit: after(6_000, secs(15), true), ..blocked };
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
            ("blocked, just now", Snapshot { blocked_since: Some(secs(168)), ..blocked }, Http1, 168, soon),
            ("blocked, early", blocked, Http1, 165, fine(170)),
            ("blocked, late", blocked, Http1, 170, close(Send)),
            ("the tail of a response isn't idleness", rest_blocked, Http1, 165, fine(170)),
            ("trickling, early", trickling, Http1, 164, fine(165)),
            ("trickling, late", trickling, Http2, 165, close(Rate)),
            ("in large steps, after a pause that would be too long", stepping, Http1, 170, fine(180)),
            ("in large steps, near the end of what the last one earned", stepping, Http1, 195, fine(200)),
            ("in large steps, late", stepping, Http1, 200, close(Rate)),
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
        let requests = Arc::new(Activity::new(Counter::default()));
        let activity = SocketActivity::new(requests.clone(), Pace::of(&TIMEOUTS));
        activity.begin();
        assert!(!activity.snapshot().heard);
        activity.heard();
        assert!(activity.snapshot().heard && activity.snapshot().head_since.is_some());

        activity.head_complete(Version::HTTP_2);
        let first = InFlight::begin(&requests);
        let second = InFlight::begin(&requests);
        activity.heard();
        assert_eq!((activity.snapshot().in_flight, activity.snapshot().head_since), (2, None), "a body isn't a head");
        drop((first, second));
        assert_eq!(activity.snapshot().in_flight, 0);
    }

    fn activity() -> SocketActivity {
        SocketActivity::new(Arc::new(Activity::new(Counter::default())), Pace::of(&TIMEOUTS))
    }

    #[test]
    fn marks_of_a_slow_reader() {
        // With acknowledgements, and without: then what the socket takes counts.
        for queued in [Some(0), None] {
            let activity = activity();
            activity.wrote(Some(10), || panic!("needless"));
            assert_eq!(activity.snapshot().blocked_since, None);
            activity.wrote(None, || queued);
            assert!(activity.snapshot().blocked_since.is_some());
            activity.wrote(Some(4_000), || queued);
            assert_eq!(activity.snapshot().blocked_since, None);
            assert_eq!(
                activity.snapshot().credit,
                Credit::new(PACE),
                "it makes up for the wait, and earns nothing yet"
            );
        }
    }

    #[test]
    fn what_is_acknowledged_is_progress_although_the_socket_takes_nothing() {
        let activity = activity();
        activity.wrote(Some(100_000), || None);
        activity.wrote(None, || Some(90_000));
        let begun = activity.snapshot().blocked_since;
        activity.wrote(None, || Some(90_000));
        assert_eq!(activity.snapshot().blocked_since, begun);
        assert_eq!(activity.progressed(), (0, 0), "nothing came");

        activity.wrote(None, || Some(89_000));
        assert!(activity.snapshot().blocked_since >= begun && begun.is_some(), "it still has no room");
        assert_eq!(activity.progressed(), (1_000, 0));
        activity.wrote(Some(50_000), || Some(139_000));
        assert_eq!(activity.progressed(), (1_000, 0), "what the socket takes and nobody acknowledges is no progress");
        assert_eq!(activity.snapshot().blocked_since, None);
    }

    #[tokio::test]
    async fn only_a_client_that_reads_earns_more_time() {
        let activity = activity();
        activity.wrote(Some(1_000_000), || None);
        activity.wrote(None, || Some(900_000));
        activity.wrote(None, || Some(500_000));
        assert_eq!(activity.snapshot().credit, Credit::new(PACE), "its buffers were filled");
        let first = activity.snapshot().blocked_since.unwrap();
        while activity.activity.now() < first + SETTLING {
            tokio::time::sleep(CHECK_MIN).await;
        }
        activity.wrote(None, || Some(490_000));
        assert_eq!(activity.snapshot().credit.allowed(TIMEOUTS.send), (secs(100), Reason::Rate));
        activity.wrote(Some(100_000), || Some(590_000));
        activity.wrote(Some(100_000), || panic!("needless: it owes nothing"));
        activity.wrote(None, || Some(680_000));
        let (allowed, _) = activity.snapshot().credit.allowed(TIMEOUTS.send);
        assert!(allowed > secs(190) && allowed <= secs(200), "what came while there was room counts: {allowed:?}");
    }

    #[test]
    fn a_connection_is_reset_only_in_the_middle_of_a_response() {
        // The versions of the requests, and whether a response that breaks off then is told by a reset.
        let cases: [(&[Version], bool); 6] = [
            (&[], false),
            (&[Version::HTTP_10], true),
            (&[Version::HTTP_10, Version::HTTP_10], false),
            (&[Version::HTTP_11], true),
            (&[Version::HTTP_11, Version::HTTP_11], false),
            (&[Version::HTTP_2], false),
        ];
        for (versions, resets) in cases {
            let requests = Arc::new(Activity::new(Counter::default()));
            let activity = SocketActivity::new(requests.clone(), PACE);
            for version in versions {
                assert!(!activity.breaks_off());
                activity.head_complete(*version);
                let under_way = InFlight::begin(&requests);
                let is_first_of_two = versions.len() > requests.begun() as usize;
                assert_eq!(activity.breaks_off(), resets || is_first_of_two, "{versions:?}");
                drop(under_way);
            }
            assert!(!activity.breaks_off(), "{versions:?}: complete");
            activity.wrote(Some(10), || None);
            activity.wrote(None, || Some(10));
            assert_eq!(activity.breaks_off(), resets, "{versions:?}: its tail has found no room");
            activity.wrote(Some(10), || Some(20));
            assert!(!activity.breaks_off(), "{versions:?}: what the socket has taken is sent");
            activity.fail();
            assert_eq!(activity.breaks_off(), resets, "{versions:?}: its body failed");
        }
    }

    #[test]
    fn after_others_only_a_response_that_ends_with_its_connection_is_reset() {
        let requests = Arc::new(Activity::new(Counter::default()));
        let activity = SocketActivity::new(requests.clone(), PACE);
        for _ in 0..2 {
            activity.head_complete(Version::HTTP_10);
            drop(InFlight::begin(&requests));
        }
        activity.over();
        activity.ends_with_connection();
        assert!(activity.has_earlier() && !activity.breaks_off(), "complete");
        let under_way = InFlight::begin(&requests);
        activity.over();
        drop(under_way);
        assert!(activity.breaks_off(), "it was under way when HTTP ended");
    }

    #[test]
    fn nobody_reads_while_a_whole_request_is_served() {
        let requests = Arc::new(Activity::new(Counter::default()));
        let activity = SocketActivity::new(requests.clone(), PACE);
        activity.head_complete(Version::HTTP_11);
        let first = InFlight::begin(&requests);
        assert!(!activity.is_served(), "its body is yet to come");
        activity.request_whole();
        assert!(activity.is_served());
        drop(first);
        assert!(!activity.is_served());
        activity.head_complete(Version::HTTP_11);
        let _second = InFlight::begin(&requests);
        assert!(!activity.is_served(), "what holds of one request says nothing about the next");
    }

    #[tokio::test]
    async fn an_end_soon_after_the_last_byte_is_that_of_the_requests_alone() {
        let activity = activity();
        let seconds_after = async |count: u32| {
            while activity.activity.now()
                <= Duration::from_millis(activity.last_heard.load(Ordering::Relaxed)) + HALF_CLOSE * count
            {
                tokio::time::sleep(CHECK_MIN).await;
            }
        };
        activity.heard();
        assert!(activity.half_closes(Duration::ZERO));
        seconds_after(1).await;
        assert!(!activity.half_closes(Duration::ZERO));
        assert!(activity.half_closes(HALF_CLOSE * 9), "it may have come before it was noticed");
        seconds_after(2).await;
        assert!(!activity.half_closes(HALF_CLOSE), "even then it came too late");
        activity.heard();
        assert!(activity.half_closes(Duration::ZERO), "more has come");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_socket_tells_what_has_not_been_acknowledged() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert_eq!(unacknowledged(&stream), Some(0));
        let (mut sent, mut space) = (0, vec![0; 65_536]);
        // Until neither side's kernel has room any more: what the other has taken is acknowledged, and the rest isn't.
        let waiting = async {
            loop {
                while let Ok(bytes) = stream.try_write(&space) {
                    sent += bytes as u64;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                let unread = unacknowledged(&stream).unwrap();
                if unread > 0 && unread < sent {
                    return unread;
                }
            }
        };
        let unread = tokio::time::timeout(secs(20), waiting).await.expect("the sockets have no room");
        let reading = async {
            while unacknowledged(&stream).unwrap() >= unread {
                let _ = client.read(&mut space).await.unwrap();
            }
        };
        tokio::time::timeout(secs(20), reading).await.expect("what is read makes room, and so is acknowledged");
    }
}
