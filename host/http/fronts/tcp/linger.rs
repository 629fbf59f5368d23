//! The close of a socket after its HTTP is over, in stages (RFC 9112, section 9.6).
//!
//! A socket that is closed with bytes unread, or is sent some afterwards, makes the kernel answer with a reset, and a
//! reset destroys what its client has yet to read: the refusal of an upload that still comes, or the response ahead of
//! requests that were sent with it. So this side ends first, and what the client sends is read and discarded until it
//! ends as well, or has had its time.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::transport::Socket;
use crate::http::patience::CHECK_MIN;

/// How long a client that has acknowledged everything may send nothing.
const QUIET_MAX: Duration = Duration::from_secs(5);

/// How long at most a client is waited for once the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// Bytes that are discarded at most: many times what a client sends that looks for a response while it sends.
const DISCARDED_MAX: u64 = 256 << 20;

/// Bytes that are discarded at once.
const PIECE: usize = 8 * 1024;

/// The end of what is sent is acknowledged like a byte.
const FIN: u64 = 1;

/// The longest time between two looks at what has been acknowledged.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// The tokens by which a server stops.
#[derive(Clone, Copy)]
pub(super) struct Stops<'a> {
    /// Cancelled when connections shall finish what is under way.
    pub(super) drain: &'a CancellationToken,
    /// Cancelled when connections shall be cut.
    pub(super) cut: &'a CancellationToken,
}

/// Closes a socket whose HTTP is over and that was last used `since`, within `linger`.
///
/// A response that has broken off may have to end in a reset. If complete ones went before it, the reset is sent once
/// the client has acknowledged all that it was sent, or has had its time.
pub(super) async fn close(mut socket: Socket, since: Instant, linger: Duration, stops: Stops<'_>) {
    let resets = socket.activity().breaks_off();
    // A client that has ended its side sends nothing that could lead to a reset.
    let lingers =
        if resets { socket.activity().has_earlier() } else { !socket.has_ended() && socket.shutdown().await.is_ok() };
    if !lingers {
        return;
    }
    let mut patience = Patience::new(linger, since, socket.unacknowledged().unwrap_or(0), Instant::now());
    let mut alarm = pin!(sleep_until(patience.next_look(Instant::now())));
    let mut is_draining = false;
    while !patience.is_over(Instant::now()) {
        let is_done = if resets { socket.unacknowledged() == Some(0) } else { socket.has_ended() };
        if is_done {
            return;
        }
        let has_ended = socket.has_ended();
        tokio::select! {
            biased;
            () = stops.cut.cancelled() => return,
            () = stops.drain.cancelled(), if !is_draining => {
                is_draining = true;
                patience.hurry(Instant::now());
            }
            discarded = discard(&mut socket), if !has_ended => match discarded {
                Ok(bytes) => patience.discarded(bytes, Instant::now()),
                Err(_) => return,
            },
            () = alarm.as_mut() => patience.looked(socket.unacknowledged().unwrap_or(0), Instant::now()),
        }
        alarm.as_mut().reset(patience.next_look(Instant::now()));
    }
}

/// Reads some of what the client sends into nothing; returns how much, 0 at its end.
async fn discard(socket: &mut Socket) -> io::Result<usize> {
    poll_fn(|cx| {
        // Here and not in the task's state, of which there is one for each connection.
        let mut space = [MaybeUninit::<u8>::uninit(); PIECE];
        let mut piece = ReadBuf::uninit(&mut space);
        let outcome = Pin::new(&mut *socket).poll_read(cx, &mut piece);
        outcome.map_ok(|()| piece.filled().len())
    })
    .await
}

/// How long a client is waited for. Pure.
#[derive(Debug)]
struct Patience {
    ends: Instant,
    /// When the client was sent, sent or acknowledged something for the last time.
    quiet_since: Instant,
    unacknowledged: u64,
    discarded: u64,
    /// The time until the next look at what has been acknowledged, which nothing else shows.
    look: Duration,
}

impl Patience {
    /// Returns the patience with a client that was sent the last byte `since`, and has yet to acknowledge so many. One
    /// that has had everything for long isn't waited for.
    fn new(linger: Duration, since: Instant, unacknowledged: u64, now: Instant) -> Self {
        Self { ends: now + linger, quiet_since: since, unacknowledged, discarded: 0, look: CHECK_MIN }
    }

    /// Books bytes that the client sent.
    fn discarded(&mut self, bytes: usize, now: Instant) {
        self.discarded += bytes as u64;
        self.quiet_since = now;
    }

    /// Books what the client has yet to acknowledge.
    fn looked(&mut self, unacknowledged: u64, now: Instant) {
        if unacknowledged < self.unacknowledged {
            self.quiet_since = now;
        }
        self.unacknowledged = unacknowledged;
        self.look = (self.look * 2).min(LOOK_MAX);
    }

    /// The server stops.
    fn hurry(&mut self, now: Instant) {
        self.ends = self.ends.min(now + DRAIN_MAX);
    }

    /// Returns when it is over, unless something comes before.
    fn due(&self) -> Instant {
        // A client that has yet to acknowledge something may just read late.
        if self.unacknowledged > FIN { self.ends } else { self.ends.min(self.quiet_since + QUIET_MAX) }
    }

    /// Returns when to look next at what has been acknowledged, or whether it is over.
    fn next_look(&self, now: Instant) -> Instant {
        let due = self.due();
        if self.unacknowledged == 0 { due } else { due.min(now + self.look) }
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.due() || self.discarded > DISCARDED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_secs(30);

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_quiet_client_is_waited_for_shortly_and_one_that_goes_on_not_for_ever() {
        let begun = Instant::now();
        let at = |seconds| begun + secs(seconds);
        let quiet = Patience::new(LINGER, begun, FIN, begun);
        assert!(!quiet.is_over(at(4)) && quiet.is_over(at(5)));

        let mut sending = Patience::new(LINGER, begun, 0, begun);
        for second in (4..30).step_by(4) {
            assert!(!sending.is_over(at(second)), "after {second} s");
            sending.discarded(1, at(second));
        }
        assert!(!sending.is_over(at(29)) && sending.is_over(at(30)));

        let mut reading = Patience::new(LINGER, begun, 10_000, begun);
        reading.looked(9_000, at(8));
        assert!(!reading.is_over(at(29)) && reading.is_over(at(30)), "it may read late");
        reading.looked(FIN, at(10));
        assert!(!reading.is_over(at(14)) && reading.is_over(at(15)), "it has everything");
    }

    #[test]
    fn a_client_that_sends_without_end_is_not_read_without_end() {
        let begun = Instant::now();
        let mut patience = Patience::new(LINGER, begun, 0, begun);
        patience.discarded(256 << 20, begun);
        assert!(!patience.is_over(begun));
        patience.discarded(1, begun);
        assert!(patience.is_over(begun));
    }

    #[test]
    fn a_client_that_has_had_everything_for_long_is_not_waited_for() {
        let begun = Instant::now();
        let now = begun + secs(60);
        assert!(Patience::new(LINGER, begun, FIN, now).is_over(now), "it was idle");
        assert!(!Patience::new(LINGER, begun, FIN + 1, now).is_over(now), "it is still reading");
        assert!(Patience::new(Duration::ZERO, now, 10, now).is_over(now), "nobody is waited for");
    }

    #[test]
    fn a_server_that_stops_waits_for_a_second() {
        let begun = Instant::now();
        let mut patience = Patience::new(LINGER, begun, 10, begun);
        patience.hurry(begun);
        assert!(!patience.is_over(begun) && patience.is_over(begun + DRAIN_MAX));
        let mut short = Patience::new(Duration::from_millis(10), begun, 10, begun);
        short.hurry(begun);
        assert!(short.is_over(begun + Duration::from_millis(10)), "no longer than otherwise");
    }

    #[test]
    fn looks_become_rarer_and_end_when_all_is_acknowledged() {
        let begun = Instant::now();
        let mut patience = Patience::new(LINGER, begun, 10, begun);
        assert_eq!(patience.next_look(begun), begun + CHECK_MIN);
        patience.looked(10, begun);
        assert_eq!(patience.next_look(begun), begun + CHECK_MIN * 2);
        for _ in 0..20 {
            patience.looked(10, begun);
        }
        assert_eq!(patience.next_look(begun), begun + LOOK_MAX);
        patience.looked(0, begun);
        assert_eq!(patience.next_look(begun), begun + QUIET_MAX);
    }
}
