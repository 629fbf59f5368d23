//! One fetch per region: which node fetches what all lack, what the others do meanwhile, and which of two responses
//! replaces the other in Redis. Pure; `store::Leases` and `Cache::join_region` are its edges.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::header::DATE;

use super::{entry::Head, freshness};
use crate::clock::{Timestamp, Uptime, millis};

/// The least and the longest pause between two questions of a node that waits, as long as few keys are waited for.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));

/// Of each key that a node waits for; so that it asks at most 2,000 times a second, however many there are.
const PAUSE_EACH: Duration = Duration::from_micros(500);

/// No pause is longer.
const PAUSE_MAX: Duration = Duration::from_millis(1_000);

/// How long it is known that a lease has ended: every node that waits for it asks once more within that.
const ENDED: Duration = Duration::from_millis(2_000);

/// A fencing token: of two leases for a key the later one has the higher token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// A region's reply to a node that is about to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The node has the lease.
    Granted(Token),
    /// Another node has it.
    Held(Token),
    /// A fetch of this node has it, which its own requests would have joined if it were of use to them; or the node that
    /// has sent the request on to this one, and waits for the response.
    Own,
    /// Another node has stored something: under the lease with this token, if that is known.
    Landed(Option<Token>),
    /// The lease that was waited for has ended without anything stored.
    Ended,
    /// Responses for this key are not to be stored for so long.
    Uncacheable(Duration),
    /// Redis didn't reply in time, or isn't used at present.
    None,
}

/// A node's question for the lease of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The lease whose outcome the node has looked at already.
    pub seen: Option<Token>,
    /// The lease that the node waits for.
    pub waits_for: Option<Token>,
    /// When the request for what this node has stored was sent; zero if that doesn't matter.
    pub has: Timestamp,
}

/// The next step of a node that is about to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It fetches under the lease with this token.
    Lead(Token),
    /// It asks again after so long.
    Pause(Duration),
    /// It looks at what Redis has, then [`Turn::missed`] if that is of no use.
    Look,
    /// It fetches without a lease; if a time is given, so do all requests for the key within that.
    Alone(Option<Duration>),
}

/// One node's attempt at the lease for a key.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    begun: Uptime,
    wait_max: Duration,
    ask: Ask,
    has_looked: bool,
}

impl Turn {
    /// Begins at `now`. It waits at most for `wait_max`; `has` is when the request for what this node has stored was
    /// sent, zero if it has nothing.
    #[must_use]
    pub const fn new(has: Timestamp, wait_max: Duration, now: Uptime) -> Self {
        let ask = Ask { seen: None, waits_for: None, has };
        Self { begun: now, wait_max, ask, has_looked: false }
    }

    /// Returns the next question.
    #[must_use]
    pub const fn ask(&self) -> Ask {
        self.ask
    }

    /// Whether another node's lease has been waited for.
    #[must_use]
    pub const fn has_waited(&self) -> bool {
        self.ask.waits_for.is_some()
    }

    /// Returns what follows a reply at `now`, while this node waits for so many keys.
    pub fn next(&mut self, reply: Reply, waiting: usize, now: Uptime) -> Step {
        match reply {
            Reply::Granted(token) => Step::Lead(token),
            Reply::Held(token) => {
                let waited = now.since(self.begun);
                if waited >= self.wait_max {
                    return Step::Alone(None);
                }
                self.ask.waits_for = Some(token);
                // What was looked at was there before this lease.
                self.has_looked = false;
                Step::Pause(pause(waited, waiting).min(self.wait_max.saturating_sub(waited)))
            }
            Reply::Landed(_) if self.has_looked => Step::Alone(None),
            Reply::Landed(token) => {
                self.has_looked = true;
                self.ask.seen = token;
                self.ask.has = Timestamp(0);
                Step::Look
            }
            Reply::Uncacheable(left) => Step::Alone(Some(left)),
            Reply::Own | Reply::Ended | Reply::None => Step::Alone(None),
        }
    }

    /// Whether the node asks again after it has looked and found nothing of use. One that has waited for that fetches at
    /// once: nodes for which what is stored is of no use must not queue up.
    #[must_use]
    pub const fn missed(&self) -> bool {
        !self.has_waited()
    }
}

/// Returns the time between two questions, after so long a wait, while this node waits for so many keys: longer the
/// longer it has lasted already, so that it adds little to any wait.
fn pause(waited: Duration, waiting: usize) -> Duration {
    let each = PAUSE_EACH * u32::try_from(waiting).unwrap_or(u32::MAX).min(100_000);
    (waited / 4).clamp(PAUSE.0, PAUSE.1).max(each).min(PAUSE_MAX)
}

/// How a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// What was fetched is stored.
    Landed,
    /// Nothing is stored, or not before its readers have most of it: others fetch for themselves.
    Ended,
    /// Responses for the key are not to be stored for so long.
    Uncacheable(Duration),
}

impl End {
    /// Returns its word in Redis.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Landed => "landed",
            Self::Ended => "ended",
            Self::Uncacheable(_) => "uncacheable",
        }
    }

    /// Returns how long it is known in Redis, in milliseconds.
    #[must_use]
    pub fn known_ms(self) -> u64 {
        let known = match self {
            Self::Landed | Self::Ended => ENDED,
            Self::Uncacheable(time) => time,
        };
        millis(known).max(1)
    }
}

/// The rank of a response among others for the same key, by which it replaces one in Redis or doesn't: the token of its
/// lease if both have one, else the times of their requests as far as clocks agree, else their `Date`s (RFC 9111,
/// section 4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The token of the lease under which it was fetched; zero without one.
    pub token: u64,
    /// When its request was sent, in milliseconds since the Unix epoch.
    pub requested_at: u64,
    /// Its `Date` in the same unit; zero without one.
    pub made: u64,
    /// The name of the lease, if the response isn't to be stored any more once another node has that.
    pub lease: Option<Arc<[u8]>>,
}

/// The first byte of a value in Redis that has an [`Order`] in front. The format of a value without one begins with a
/// small number.
const ORDERED: u8 = b'o';

/// Digits of each number of an order.
const DIGITS: usize = 16;

/// No number of an order is larger: a script reads it as a float.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Bytes of an order in front of a value.
pub const ORDER_BYTES: usize = 1 + 3 * DIGITS;

impl Order {
    /// Returns the order of a response that was fetched without a lease.
    #[must_use]
    pub fn of(head: &Head) -> Self {
        let made = freshness::date(&head.headers, DATE).map_or(0, |date| date.0);
        Self { token: 0, requested_at: head.requested_at.0, made, lease: None }
    }

    /// Returns its numbers.
    #[must_use]
    pub fn numbers(&self) -> [u64; 3] {
        [self.token, self.requested_at, self.made].map(|number| number.min(NUMBER_MAX))
    }

    /// Writes it in front of a value.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        let [token, requested_at, made] = self.numbers();
        bytes.extend_from_slice(format!("o{token:016}{requested_at:016}{made:016}").as_bytes());
    }
}

/// Returns a value from Redis without the order in front of it.
#[must_use]
pub fn without_order(bytes: Bytes) -> Bytes {
    if bytes.first() == Some(&ORDERED) && bytes.len() >= ORDER_BYTES { bytes.slice(ORDER_BYTES..) } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::codec;

    const WAIT_MAX: Duration = Duration::from_millis(1_000);

    fn turn() -> Turn {
        Turn::new(Timestamp(7), WAIT_MAX, Uptime(10_000))
    }

    #[test]
    fn what_follows_the_first_reply() {
        let ms = Duration::from_millis;
        for (reply, wanted) in [
            (Reply::Granted(Token(3)), Step::Lead(Token(3))),
            (Reply::Held(Token(3)), Step::Pause(PAUSE.0)),
            (Reply::Own, Step::Alone(None)),
            (Reply::Landed(Some(Token(3))), Step::Look),
            (Reply::Landed(None), Step::Look),
            (Reply::Ended, Step::Alone(None)),
            (Reply::Uncacheable(ms(9)), Step::Alone(Some(ms(9)))),
            (Reply::None, Step::Alone(None)),
        ] {
            assert_eq!(turn().next(reply, 1, Uptime(10_000)), wanted, "{reply:?}");
        }
    }

    #[test]
    fn a_wait_has_an_end_and_a_lease_that_ends_is_taken_over() {
        let mut turn = turn();
        for (now, wanted) in [
            (10_000, Step::Pause(PAUSE.0)),
            (10_100, Step::Pause(Duration::from_millis(25))),
            (10_400, Step::Pause(PAUSE.1)),
            (10_970, Step::Pause(Duration::from_millis(30))),
            (11_000, Step::Alone(None)),
        ] {
            assert_eq!(turn.next(Reply::Held(Token(3)), 1, Uptime(now)), wanted, "at {now}");
        }
        assert!(turn.has_waited());
        assert_eq!(turn.ask().waits_for, Some(Token(3)));
        assert_eq!(turn.next(Reply::Granted(Token(4)), 1, Uptime(11_000)), Step::Lead(Token(4)));
    }

    #[test]
    fn a_node_looks_once_and_asks_again_only_if_it_has_not_waited() {
        let mut first = turn();
        assert_eq!(first.next(Reply::Landed(Some(Token(3))), 1, Uptime(10_000)), Step::Look);
        assert!(first.missed());
        assert_eq!(first.ask(), Ask { seen: Some(Token(3)), waits_for: None, has: Timestamp(0) });
        assert_eq!(first.next(Reply::Landed(Some(Token(4))), 1, Uptime(10_000)), Step::Alone(None));

        let mut waited = turn();
        let _ = waited.next(Reply::Held(Token(3)), 1, Uptime(10_000));
        assert_eq!(waited.next(Reply::Landed(Some(Token(3))), 1, Uptime(10_100)), Step::Look);
        assert!(!waited.missed());

        // What it waited for isn't what it had looked at before.
        let _ = first.next(Reply::Held(Token(4)), 1, Uptime(10_000));
        assert_eq!(first.next(Reply::Landed(Some(Token(4))), 1, Uptime(10_100)), Step::Look);
        assert!(!first.missed());
    }

    #[test]
    fn many_waits_together_ask_no_more_often_than_a_few() {
        for waiting in [1_u32, 10, 100, 1_000, 2_000] {
            for waited in [0, 100, 5_000] {
                let pause = pause(Duration::from_millis(waited), waiting as usize);
                assert!(pause * 2_000 >= Duration::from_secs(1) * waiting, "{pause:?}: {waiting} after {waited} ms");
            }
        }
        assert_eq!(pause(Duration::ZERO, usize::MAX), PAUSE_MAX);
    }

    #[test]
    fn an_order_is_taken_off_again_and_other_values_are_left_alone() {
        let head = codec::tests::head(0);
        let order = Order { token: u64::MAX, ..Order::of(&head) };
        assert_eq!(order.numbers(), [NUMBER_MAX, 997_500, 0]);
        let mut bytes = Vec::new();
        order.write(&mut bytes);
        assert_eq!(bytes.len(), ORDER_BYTES);
        bytes.extend_from_slice(b"\x04value");
        assert_eq!(without_order(bytes.into()), &b"\x04value"[..]);
        for plain in [&b""[..], b"o", b"\x04value"] {
            assert_eq!(without_order(Bytes::from_static(plain)), plain);
        }
    }

    #[test]
    fn an_end_is_known_until_every_node_that_waits_has_asked_again() {
        let ms = Duration::from_millis;
        assert!(ENDED >= PAUSE_MAX * 2);
        for (end, wanted) in
            [(End::Landed, 2_000), (End::Ended, 2_000), (End::Uncacheable(ms(30)), 30), (End::Uncacheable(ms(0)), 1)]
        {
            assert_eq!(end.known_ms(), wanted, "{end:?}");
        }
    }
}
