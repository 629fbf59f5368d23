//! The events that the stages log for a sampled request, at `debug`, in the request's span. For a request that isn't
//! sampled each of these is one comparison, and nothing is formatted.

use std::{
    fmt,
    time::{Duration, Instant},
};

use tracing::{Instrument, debug};

use crate::{
    cache::{Found, admit::Admission, key::Key, lookup::Outcome},
    message::{RequestSpan, SPAN_TARGET as TARGET},
    policy::{self, Choice, Decision, Fault, KeyVerdict},
};

/// Spawns a task, within the request's span if the request is sampled.
pub(super) fn spawn<F>(span: &RequestSpan, task: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    match span.get() {
        None => drop(tokio::spawn(task)),
        Some(span) => drop(tokio::spawn(task.instrument(span.clone()))),
    }
}

/// Logs which route takes the request; `None` if none does.
pub(super) fn routed(span: &RequestSpan, route: Option<&str>) {
    let Some(span) = span.get() else { return };
    match route {
        Some(route) => debug!(target: TARGET, parent: span, route, "routed"),
        None => debug!(target: TARGET, parent: span, "no route takes it"),
    }
}

/// Logs what is done with the request now that more is known of it, and why, if that needs a reason.
pub(super) fn planned(span: &RequestSpan, plan: &str, why: Option<&str>) {
    let Some(span) = span.get() else { return };
    debug!(target: TARGET, parent: span, plan, why, "planned");
}

/// Logs that the body was split into items.
pub(super) fn split(span: &RequestSpan, items: usize) {
    let Some(span) = span.get() else { return };
    debug!(target: TARGET, parent: span, items, "split");
}

/// Logs that an item has the key of an earlier one of its request, whose result it gets.
pub(super) fn repeated(span: &RequestSpan) {
    let Some(span) = span.get() else { return };
    debug!(target: TARGET, parent: span, "the same as an earlier item of its request");
}

/// Logs which key was made, and by which generation of a policy unless the native default made it; `remark` is what the
/// policy did out of the ordinary.
pub(super) fn keyed(span: &RequestSpan, key: Option<&Key>, by: Option<&str>, remark: Option<&str>, begun: Instant) {
    let Some(span) = span.get() else { return };
    let (by, took_us) = (by.unwrap_or("native"), micros(begun));
    match key {
        Some(key) => debug!(target: TARGET, parent: span, %key, by, remark, took_us, "key made"),
        None => debug!(target: TARGET, parent: span, by, remark, took_us, "no key"),
    }
}

/// Logs what a hook decided.
pub(super) fn decided(span: &RequestSpan, hook: &str, by: &str, said: Result<&Decision, &Fault>, begun: Instant) {
    let Some(span) = span.get() else { return };
    let (verdict, took_us) = (Verdict(said).to_string(), micros(begun));
    debug!(target: TARGET, parent: span, hook, by, verdict = verdict.as_str(), took_us, "policy decided");
}

/// Logs what was found, where, and how long looking for it took.
pub(super) fn looked_up(span: &RequestSpan, found: &Found, begun: Option<Instant>) {
    let (Some(span), Some(begun)) = (span.get(), begun) else { return };
    let outcome = match &found.outcome {
        Outcome::Hit(_) => "hit",
        Outcome::Grace(_) => "grace",
        Outcome::Stale { .. } => "stale",
        Outcome::Miss => "miss",
    };
    let tier = (!matches!(found.outcome, Outcome::Miss)).then(|| found.tier.as_str());
    let (uncacheable, varied, took_us) = (found.uncacheable, found.varied, micros(begun));
    debug!(target: TARGET, parent: span, outcome, tier, varied, uncacheable, took_us, "looked up");
}

/// Logs that the request leads a flight, the fetch for all that wait for the same.
pub(super) fn leads(span: &RequestSpan, flight: u64) {
    let Some(span) = span.get() else { return };
    debug!(target: TARGET, parent: span, flight, "leads a flight");
}

/// Logs that the request follows a flight that another one leads.
pub(super) fn follows(span: &RequestSpan, flight: u64) {
    let Some(span) = span.get() else { return };
    debug!(target: TARGET, parent: span, flight, "follows a flight");
}

/// Logs that what is wanted had been stored when the request would have led a flight.
pub(super) fn found_meanwhile(span: &RequestSpan, tier: &str) {
    let Some(span) = span.get() else { return };
    debug!(target: TARGET, parent: span, tier, "stored meanwhile");
}

/// Logs what a flight brought, and how long the request waited for it.
pub(super) fn landed(span: &RequestSpan, flight: u64, with: &str, begun: Option<Instant>) {
    let (Some(span), Some(begun)) = (span.get(), begun) else { return };
    let waited_us = micros(begun);
    debug!(target: TARGET, parent: span, flight, with, waited_us, "flight landed");
}

/// Logs that what a flight brought isn't for this request, and what is done then.
pub(super) fn not_for_it(span: &RequestSpan, then: &str) {
    let Some(span) = span.get() else { return };
    debug!(target: TARGET, parent: span, then, "what the flight brought is not for this request");
}

/// Logs that an item was sent in a batch, with how many in all, why then, and how long it had waited.
pub(super) fn batched(span: &RequestSpan, batch: u64, items: usize, why: &str, waited: Duration) {
    let Some(span) = span.get() else { return };
    debug!(target: TARGET, parent: span, batch, items, why, waited_us = micros_of(waited), "batch sent");
}

/// Logs what became of an item that had to be fetched: the status of its result, the reason of a failure.
pub(super) fn item_fetched(span: &RequestSpan, status: u16, reason: Option<&str>, collapsed: bool, stored: bool) {
    let Some(span) = span.get() else { return };
    debug!(target: TARGET, parent: span, status, reason, collapsed, stored, "item fetched");
}

/// Logs that the next candidate is tried, and why.
pub(super) fn next_candidate(span: &RequestSpan, pool: &str, why: fmt::Arguments<'_>) {
    let Some(span) = span.get() else { return };
    debug!(target: TARGET, parent: span, pool, %why, "next candidate");
}

/// Logs that the next candidate is tried beside one that hasn't responded in time.
pub(super) fn hedged(span: &RequestSpan, pool: &str, after: Duration) {
    let Some(span) = span.get() else { return };
    debug!(target: TARGET, parent: span, pool, after_us = micros_of(after), "hedged");
}

/// Logs why no response came from any candidate.
pub(super) fn no_response(span: &RequestSpan, reason: &str, detail: &str) {
    let Some(span) = span.get() else { return };
    debug!(target: TARGET, parent: span, reason, detail, "no response");
}

/// Logs that the origin was asked whether what is stored is still good, and that it is.
pub(super) fn renewed(span: &RequestSpan) {
    let Some(span) = span.get() else { return };
    debug!(target: TARGET, parent: span, "the origin says that what is stored is good");
}

/// Logs whether a response is stored, and for how long, or why not. `reason` is the policy's, if it decided so.
pub(super) fn admitted(span: &RequestSpan, admission: &Admission, reason: Option<&str>) {
    let Some(span) = span.get() else { return };
    match admission {
        Admission::Store(storage) => {
            let lifetimes = &storage.lifetimes;
            let (ttl_ms, grace_ms) = (lifetimes.ttl_ms, lifetimes.grace_ms);
            let varies = storage.vary.is_some();
            debug!(target: TARGET, parent: span, stored = true, ttl_ms, grace_ms, varies, "admission");
        }
        Admission::Refuse(refusal) => {
            debug!(target: TARGET, parent: span, stored = false, why = refusal.as_str(), reason, "admission");
        }
    }
}

/// Returns how long it is since `begun`, in microseconds.
fn micros(begun: Instant) -> u64 {
    micros_of(begun.elapsed())
}

fn micros_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A verdict in a few words. Values that a policy made of a request aren't among them: they may be credentials.
struct Verdict<'a>(Result<&'a Decision, &'a Fault>);

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decision = match self.0 {
            Ok(decision) => decision,
            Err(fault) => return write!(f, "fault: {}", fault.kind()),
        };
        match decision {
            Decision::Key(KeyVerdict::Lookup(parts)) => write!(f, "look up: {} parts", parts.len()),
            Decision::Key(KeyVerdict::Bypass(reason)) => write!(f, "bypass: {reason}"),
            Decision::Features(edits) => {
                let (features, edits, headers) = (edits.features.len(), edits.edits.len(), edits.headers.len());
                write!(f, "{features} features, {edits} edits, {headers} header fields")
            }
            Decision::Admit(policy::Admission::Store(storage)) => {
                write!(f, "store: ttl {} ms, grace {} ms", storage.ttl_ms, storage.grace_ms)
            }
            Decision::Admit(policy::Admission::MarkUncacheable { ms }) => write!(f, "uncacheable for {ms} ms"),
            Decision::Admit(policy::Admission::Pass(reason)) => write!(f, "pass: {reason}"),
            Decision::Route(Choice { order, hedge_after_us, deadline_us }) => {
                write!(f, "candidates {order:?}")?;
                hedge_after_us.map_or(Ok(()), |us| write!(f, ", hedge after {us} µs"))?;
                deadline_us.map_or(Ok(()), |us| write!(f, ", deadline {us} µs"))
            }
            Decision::Batch(grouping) => {
                write!(f, "priority {}, weight {}", grouping.priority, grouping.weight)?;
                grouping.max_wait_us.map_or(Ok(()), |us| write!(f, ", at most {us} µs"))?;
                grouping.max_size.map_or(Ok(()), |size| write!(f, ", at most {size} items"))
            }
            Decision::Prefetch(hints) => write!(f, "{} hints", hints.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::policy::{Grouping, RequestEdits, Storage};

    #[test]
    fn verdicts_are_logged_in_a_few_words_and_without_the_values_in_them() {
        let secret = HeaderValue::from_static("secret");
        let edits = RequestEdits {
            features: vec![("user".to_owned(), Bytes::from_static(b"secret"))],
            headers: vec![(HeaderName::from_static("authorization"), Some(secret))],
            ..RequestEdits::default()
        };
        let parts = vec![Some(b"secret".to_vec()), None];
        let choice = |hedge_after_us, deadline_us| Choice { order: vec![1, 0], hedge_after_us, deadline_us };
        let grouping = Grouping { group: Bytes::from_static(b"secret"), max_size: Some(4), ..Grouping::default() };
        let storage = Storage { ttl_ms: 60_000, tags: vec!["secret".to_owned()], ..Storage::default() };
        for (decision, wanted) in [
            (Decision::Key(KeyVerdict::Lookup(parts)), "look up: 2 parts"),
            (Decision::Key(KeyVerdict::Bypass("no tenant".to_owned())), "bypass: no tenant"),
            (Decision::Features(edits), "1 features, 0 edits, 1 header fields"),
            (Decision::Admit(policy::Admission::Store(storage)), "store: ttl 60000 ms, grace 0 ms"),
            (Decision::Admit(policy::Admission::MarkUncacheable { ms: 5 }), "uncacheable for 5 ms"),
            (Decision::Admit(policy::Admission::Pass("odd".to_owned())), "pass: odd"),
            (Decision::Route(choice(None, None)), "candidates [1, 0]"),
            (Decision::Route(choice(Some(9), Some(99))), "candidates [1, 0], hedge after 9 µs, deadline 99 µs"),
            (Decision::Batch(grouping), "priority 0, weight 0, at most 4 items"),
            (Decision::Prefetch(Vec::new()), "0 hints"),
        ] {
            assert_eq!(Verdict(Ok(&decision)).to_string(), wanted);
        }
        assert_eq!(Verdict(Err(&Fault::Open)).to_string(), "fault: breaker-open");
    }
}
