//! Who lets whom append first. Pure.
//!
//! An append names the record that it follows, so of two that are under way at once one fails. It has been decided when it
//! reaches etcd, half a round trip after it was sent, by what was known half a round trip before: a node that is far away
//! loses to those that are near, again and again. So whoever loses says so in the same step, and how long its next attempt
//! takes; those that hear it hold back that long. It is a courtesy: nobody is kept from appending, and nothing else hangs
//! on it.

use std::time::Duration;

use tokio::time::Instant;

use crate::cache::purge::table::Link;

/// How long others hold back at most, for one that is far away and for several together.
pub(super) const HOLD_MAX: Duration = Duration::from_millis(200);

/// What an attempt takes beyond the round trip.
const MARGIN_MS: u64 = 15;

/// Who is let go first.
#[derive(Debug, Default)]
pub(super) struct Turns(Option<Late>);

/// One that has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Late {
    /// Of the first record that it appends.
    link: Link,
    until: Instant,
}

impl Turns {
    /// Takes in that somebody has lost, as that was written down.
    pub(super) fn call(&mut self, text: &[u8], now: Instant) {
        let Some((link, time)) = read(text) else { return };
        self.0 = Some(Late { link, until: now + time.min(HOLD_MAX) });
    }

    /// Takes in that a record was appended.
    pub(super) fn appended(&mut self, link: Link) {
        if self.0.is_some_and(|late| late.link == link) {
            self.0 = None;
        }
    }

    /// Returns how long whoever begins to append is to hold back.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        self.0.map(|late| late.until.saturating_duration_since(now)).filter(|pause| !pause.is_zero())
    }
}

/// Returns what one that loses writes down, whose first record has this link and whose calls take so long.
pub(super) fn late_text(link: Link, round_trip_ms: u64) -> String {
    format!("{} {}", link.0, round_trip_ms.saturating_add(MARGIN_MS))
}

fn read(text: &[u8]) -> Option<(Link, Duration)> {
    let (link, ms) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    Some((Link(link.parse().ok()?), Duration::from_millis(ms.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_that_lost_is_let_go_first_until_it_is_done_or_had_its_time() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        assert_eq!(turns.pause(now), None);
        turns.call(late_text(Link(7), 40).as_bytes(), now);
        assert_eq!((turns.pause(now), turns.pause(now + ms(50))), (Some(ms(55)), Some(ms(5))));
        assert_eq!(turns.pause(now + ms(55)), None, "it had its time");
        turns.appended(Link(8));
        assert_eq!(turns.pause(now), Some(ms(55)), "that was another one");
        turns.appended(Link(7));
        assert_eq!(turns.pause(now), None);
    }

    #[test]
    fn nobody_is_held_back_for_long_or_by_what_nobody_wrote() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        for text in ["", "7", "7 x", "x 7", "7 40 "] {
            turns.call(text.as_bytes(), now);
            assert_eq!(turns.pause(now), None, "{text:?}");
        }
        turns.call(b"7 18446744073709551615", now);
        assert_eq!(turns.pause(now), Some(HOLD_MAX));
    }
}
