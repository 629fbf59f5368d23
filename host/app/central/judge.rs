//! Whether a node does worse by a generation than it did before, by the figures of its own metrics, and what becomes of
//! its trial when the head says something else of that.

use std::time::Duration;

use super::record::{Outcome, Trial};
use crate::clock::Uptime;

/// Requests, or calls of policies, without which a share says nothing.
const COUNT_MIN: u64 = 50;

/// Requests without which the slowest hundredth says nothing.
const LATENCY_COUNT_MIN: u64 = 200;

/// A share of failures, in a million, that is no reason to go back, whatever it was before.
const SHARE_PPM_MIN: u64 = 10_000;

/// A difference of latency, in seconds, that is no reason to go back.
const LATENCY_MIN: f64 = 0.005;

/// What a node has counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    responses: u64,
    /// Those with a status of 500 and more.
    failed: u64,
    /// Calls of policies.
    calls: u64,
    /// Those without a verdict.
    faults: u64,
    /// Upper bounds of latency in seconds, ascending, each with the requests that took no longer.
    latency: Vec<(f64, u64)>,
}

impl Figures {
    /// Reads the page of the node's metrics. What isn't there counts as nothing.
    pub(super) fn read(page: &str) -> Self {
        let mut figures = Self::default();
        for line in page.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Some((name, labels)) = series.split_once('{') else { continue };
            let count = || value.parse::<f64>().ok().map_or(0, whole);
            match name {
                "holm_responses_total" => {
                    figures.responses += count();
                    if labels.contains("status=\"5xx\"") {
                        figures.failed += count();
                    }
                }
                "holm_plugin_calls_total" => figures.calls += count(),
                "holm_plugin_faults_total" => figures.faults += count(),
                "holm_request_duration_seconds_bucket" => {
                    if let Some(bound) = bound(labels) {
                        figures.add(bound, count());
                    }
                }
                _ => {}
            }
        }
        figures
    }

    fn add(&mut self, bound: f64, count: u64) {
        match self.latency.binary_search_by(|(known, _)| known.total_cmp(&bound)) {
            Ok(at) => self.latency[at].1 += count,
            Err(at) => self.latency.insert(at, (bound, count)),
        }
    }

    /// Returns what was counted since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let before =
            |bound: f64| earlier.latency.iter().find(|(known, _)| *known == bound).map_or(0, |(_, count)| *count);
        Self {
            responses: self.responses.saturating_sub(earlier.responses),
            failed: self.failed.saturating_sub(earlier.failed),
            calls: self.calls.saturating_sub(earlier.calls),
            faults: self.faults.saturating_sub(earlier.faults),
            latency: self.latency.iter().map(|(bound, count)| (*bound, count.saturating_sub(before(*bound)))).collect(),
        }
    }

    /// Returns the time within which 99 of 100 requests were served, in seconds, as far as the bounds tell; `None` if there
    /// were too few.
    fn p99(&self) -> Option<f64> {
        let (_, all) = *self.latency.last()?;
        if all < LATENCY_COUNT_MIN {
            return None;
        }
        let wanted = all - all / 100;
        let at = self.latency.iter().position(|(_, count)| *count >= wanted)?;
        let (upper, count) = self.latency[at];
        let (lower, below) = at.checked_sub(1).map_or((0.0, 0), |before| self.latency[before]);
        if upper.is_infinite() {
            return Some(lower);
        }
        let inside = share(wanted - below.min(wanted), count - below.min(count));
        Some(lower + (upper - lower) * inside)
    }
}

/// Returns the upper bound of a bucket.
fn bound(labels: &str) -> Option<f64> {
    let text = labels.split_once("le=\"")?.1.split_once('"')?.0;
    if text == "+Inf" { Some(f64::INFINITY) } else { text.parse().ok() }
}

fn whole(number: f64) -> u64 {
    number as u64
}

fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

/// What becomes of a generation on trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is watched on.
    Pending,
    /// It hasn't done worse for as long as it was to be watched.
    Steady,
    /// It does worse, and why.
    Worse(String),
}

/// Judges a generation by what was counted before it and `since` it was taken at `began`. Too little traffic is no reason to
/// go back.
pub(super) fn judge(rule: Trial, before: &Figures, since: &Figures, began: Uptime, now: Uptime) -> Verdict {
    let factor = u64::from(rule.percent);
    let rises = [
        ("responses with a status of 5xx", (before.failed, before.responses), (since.failed, since.responses)),
        ("calls of policies without a verdict", (before.faults, before.calls), (since.faults, since.calls)),
    ];
    for (what, before, since) in rises {
        if let Some((before, since)) = risen(before, since, factor) {
            return Verdict::Worse(format!("{what}: {before} in a million before, {since} since"));
        }
    }
    if let (Some(before), Some(since)) = (before.p99(), since.p99()) {
        let allowed = before * share(factor, 100);
        if since > allowed && since - before > LATENCY_MIN {
            let ms = |seconds: f64| whole(seconds * 1_000.0);
            return Verdict::Worse(format!("the slowest hundredth: {} ms before, {} ms since", ms(before), ms(since)));
        }
    }
    let is_over = now.since(began) >= Duration::from_secs(u64::from(rule.seconds));
    if is_over { Verdict::Steady } else { Verdict::Pending }
}

/// Returns the rule by which a node goes on watching itself, and what it says of the generation that it runs by, when
/// `watched` is the rule by which it does so now, `asked` the one that the head has, and `said` what it has said of this
/// generation.
pub(super) const fn course(
    watched: Option<Trial>,
    asked: Option<Trial>,
    said: Option<Outcome>,
) -> (Option<Trial>, Outcome) {
    match (watched, asked, said) {
        // Its time is counted from when the generation was taken, whatever the rule was then.
        (Some(_), Some(rule), _) => (Some(rule), Outcome::Taken),
        (Some(_), None, _) => (None, Outcome::Taken),
        // It couldn't go back, and nothing watches it.
        (None, _, Some(Outcome::Worse | Outcome::Refused)) => (None, Outcome::Taken),
        (None, _, Some(Outcome::Steady)) => (None, Outcome::Steady),
        // What it was like before this generation isn't known any more.
        (None, Some(_), Some(Outcome::Taken | Outcome::Unwatched) | None) => (None, Outcome::Unwatched),
        (None, None, Some(Outcome::Taken | Outcome::Unwatched) | None) => (None, Outcome::Taken),
    }
}

/// Returns both shares in a million, if the second is higher than the first allows.
fn risen(before: (u64, u64), since: (u64, u64), percent: u64) -> Option<(u64, u64)> {
    let ppm = |(part, all): (u64, u64)| if all < COUNT_MIN { 0 } else { part.saturating_mul(1_000_000) / all };
    let (before, since) = (ppm(before), ppm(since));
    let allowed = (before.saturating_mul(percent) / 100).max(SHARE_PPM_MIN);
    (since > allowed).then_some((before, since))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Trial = Trial { seconds: 60, percent: 200 };

    fn figures(responses: u64, failed: u64) -> Figures {
        Figures { responses, failed, ..Figures::default() }
    }

    fn latency(counts: [u64; 3]) -> Figures {
        let [fast, slow, all] = counts;
        Figures { latency: vec![(0.01, fast), (0.1, slow), (f64::INFINITY, all)], ..Figures::default() }
    }

    fn judged(before: &Figures, since: &Figures) -> &'static str {
        match judge(RULE, before, since, Uptime(0), Uptime(1_000)) {
            Verdict::Pending => "pending",
            Verdict::Steady => "steady",
            Verdict::Worse(_) => "worse",
        }
    }

    #[test]
    fn a_generation_is_worse_when_failures_rise_beyond_the_factor() {
        for (before, since, wanted) in [
            (figures(1_000, 0), figures(1_000, 0), "pending"),
            (figures(1_000, 0), figures(1_000, 10), "pending"),
            (figures(1_000, 0), figures(1_000, 11), "worse"),
            (figures(1_000, 100), figures(1_000, 200), "pending"),
            (figures(1_000, 100), figures(1_000, 201), "worse"),
            (figures(0, 0), figures(49, 49), "pending"),
            (figures(0, 0), figures(50, 1), "worse"),
        ] {
            assert_eq!(judged(&before, &since), wanted, "{before:?} {since:?}");
        }
        let faults = |calls: u64, faults: u64| Figures { calls, faults, ..Figures::default() };
        assert_eq!(judged(&faults(1_000, 0), &faults(1_000, 500)), "worse");
        assert_eq!(judged(&faults(1_000, 400), &faults(1_000, 500)), "pending");
    }

    #[test]
    fn a_generation_is_worse_when_the_slowest_hundredth_is_slower_beyond_the_factor() {
        for (before, since, wanted) in [
            (latency([1_000, 1_000, 1_000]), latency([1_000, 1_000, 1_000]), "pending"),
            (latency([1_000, 1_000, 1_000]), latency([900, 1_000, 1_000]), "worse"),
            (latency([900, 1_000, 1_000]), latency([800, 1_000, 1_000]), "pending"),
            (latency([100, 100, 100]), latency([0, 1_000, 1_000]), "pending"),
            (latency([1_000, 1_000, 1_000]), latency([0, 100, 100]), "pending"),
        ] {
            assert_eq!(judged(&before, &since), wanted, "{before:?} {since:?}");
        }
    }

    #[test]
    fn a_trial_ends_when_its_time_is_over() {
        let idle = Figures::default();
        for (now, wanted) in [(59_999, Verdict::Pending), (60_000, Verdict::Steady)] {
            assert_eq!(judge(RULE, &idle, &idle, Uptime(0), Uptime(now)), wanted);
        }
        let verdict = judge(RULE, &figures(100, 0), &figures(100, 50), Uptime(0), Uptime(60_000));
        assert!(matches!(verdict, Verdict::Worse(reason) if reason.ends_with("500000 since")));
    }

    #[test]
    fn a_trial_is_what_the_head_says_of_it() {
        use Outcome::{Refused, Steady, Taken, Unwatched, Worse};
        let other = Trial { seconds: 600, percent: 150 };
        for (watched, asked, said, wanted) in [
            (Some(RULE), Some(RULE), Some(Taken), (Some(RULE), Taken)),
            (Some(RULE), Some(other), Some(Taken), (Some(other), Taken)),
            (Some(RULE), Some(other), None, (Some(other), Taken)),
            (Some(RULE), None, Some(Taken), (None, Taken)),
            (None, Some(RULE), Some(Taken), (None, Unwatched)),
            (None, Some(other), Some(Unwatched), (None, Unwatched)),
            (None, None, Some(Unwatched), (None, Taken)),
            (None, Some(RULE), Some(Steady), (None, Steady)),
            (None, Some(RULE), None, (None, Unwatched)),
            (None, Some(RULE), Some(Worse), (None, Taken)),
            (None, None, Some(Worse), (None, Taken)),
            (None, None, Some(Refused), (None, Taken)),
            (None, None, Some(Steady), (None, Steady)),
            (None, None, Some(Taken), (None, Taken)),
            (None, None, None, (None, Taken)),
        ] {
            assert_eq!(course(watched, asked, said), wanted, "{watched:?} {asked:?} {said:?}");
        }
    }

    #[test]
    fn figures_are_those_of_the_metrics_page() {
        let page = "# HELP holm_responses_total x\n\
                    holm_responses_total{route=\"a\",status=\"2xx\"} 7\n\
                    holm_responses_total{route=\"b\",status=\"5xx\"} 2\n\
                    holm_plugin_calls_total{policy=\"p\",hook=\"key\"} 5\n\
                    holm_plugin_faults_total{policy=\"p\",hook=\"key\",kind=\"trap\"} 1\n\
                    holm_request_duration_seconds_bucket{le=\"0.1\",route=\"a\"} 3\n\
                    holm_request_duration_seconds_bucket{le=\"+Inf\",route=\"a\"} 7\n\
                    holm_request_duration_seconds_bucket{le=\"0.1\",route=\"b\"} 2\n\
                    holm_request_duration_seconds_count{route=\"a\"} 7\n\
                    holm_other{x=\"y\"} nonsense\n# EOF\n";
        let found = Figures::read(page);
        let latency = vec![(0.1, 5), (f64::INFINITY, 7)];
        assert_eq!(found, Figures { responses: 9, failed: 2, calls: 5, faults: 1, latency });
        let later = Figures { responses: 12, failed: 3, ..found.clone() };
        assert_eq!((later.since(&found).responses, later.since(&found).failed), (3, 1));
        assert!(later.since(&found).latency.iter().all(|(_, count)| *count == 0));
    }
}
