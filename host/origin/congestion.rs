//! How much more work an endpoint would do with one more batch. Pure.
//!
//! A batch that took `t`, and was expected to take `c` wherever it is sent, shows a *normalised latency* `t / c`. How that
//! grows with the requests that the endpoint has at once is fitted as a straight line. By Little's law an endpoint with
//! `n` of them does the work of `n / latency(n)`. One that is slow does little with each, one that works on a single
//! request at a time does no more with a second: a batch is better off elsewhere, if there is anywhere.

use crate::clock::Uptime;

#[cfg(test)]
mod tests;

/// What an older batch counts for beside the next one: about thirty count.
const DECAY: f64 = 0.97;

/// How much the spread of requests at once, squared, must be for the slope to be believed rather than the one before.
const SPREAD_MIN: f64 = 0.25;

/// Batches after which anything is known.
const KNOWN_AFTER: u32 = 5;

/// How many times as long as expected a batch counts for having taken at most: no outlier decides.
const LATENCY_MAX: f64 = 8.0;

/// Milliseconds without a batch after which what is known is forgotten: the endpoint may be another one by now.
const FORGOTTEN_AFTER: u64 = 60_000;

/// The normalised latency of an endpoint, as a line over the requests that it has at once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Congestion {
    /// Decayed sums: of ones, requests at once, latencies, requests squared, and requests times latencies.
    weight: f64,
    at_once: f64,
    latency: f64,
    squares: f64,
    products: f64,
    slope: f64,
    seen: u32,
    last: Uptime,
}

impl Congestion {
    /// Takes in a batch that was responded to, and was sent when the endpoint had so many requests, itself among them.
    pub(super) fn add(&mut self, at_once: usize, latency: f64, now: Uptime) {
        if self.is_forgotten(now) {
            *self = Self::default();
        }
        let at_once = at_once.max(1) as f64;
        let latency = latency.clamp(0.0, LATENCY_MAX * self.latency_at(at_once).max(1.0));
        for sum in [&mut self.weight, &mut self.at_once, &mut self.latency, &mut self.squares, &mut self.products] {
            *sum *= DECAY;
        }
        self.weight += 1.0;
        self.at_once += at_once;
        self.latency += latency;
        self.squares += at_once * at_once;
        self.products += at_once * latency;
        let (mean_at_once, mean_latency) = self.means();
        let spread = (self.squares / self.weight - mean_at_once * mean_at_once).max(0.0);
        let together = self.products / self.weight - mean_at_once * mean_latency;
        let slope = (together + SPREAD_MIN * self.slope) / (spread + SPREAD_MIN);
        // A request alone takes some time, and others make none quicker.
        self.slope = slope.clamp(0.0, mean_latency / mean_at_once);
        (self.seen, self.last) = (self.seen.saturating_add(1), now);
    }

    /// Returns how much more work it would do with one more request than with so many; 1 where it is as quick as expected
    /// and has room, and as long as nothing is known.
    pub(super) fn gain(&self, requests: usize, now: Uptime) -> f64 {
        if self.seen < KNOWN_AFTER || self.is_forgotten(now) {
            return 1.0;
        }
        let requests = requests as f64;
        self.work(requests + 1.0) - self.work(requests)
    }

    fn is_forgotten(&self, now: Uptime) -> bool {
        now.since(self.last).as_millis() > u128::from(FORGOTTEN_AFTER)
    }

    fn means(&self) -> (f64, f64) {
        (self.at_once / self.weight.max(f64::MIN_POSITIVE), self.latency / self.weight.max(f64::MIN_POSITIVE))
    }

    fn latency_at(&self, at_once: f64) -> f64 {
        let (mean_at_once, mean_latency) = self.means();
        (mean_latency + self.slope * (at_once - mean_at_once)).max(0.0)
    }

    fn work(&self, requests: f64) -> f64 {
        if requests > 0.0 { requests / self.latency_at(requests).max(1e-6) } else { 0.0 }
    }
}
