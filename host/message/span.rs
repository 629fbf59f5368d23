//! The span of a sampled request: with it each stage logs what it does for that request, also in tasks that outlive it.

use std::{sync::Arc, time::Instant};

use tracing::{Span, debug_span};

/// The target of a request's span and of the events in it, as filters of the log name it.
pub const SPAN_TARGET: &str = "holm::request";

/// The span of a request; empty if the request isn't sampled, and then as cheap as a null pointer. A clone is the same
/// span.
#[derive(Clone, Debug, Default)]
pub struct RequestSpan(Option<Arc<Span>>);

impl RequestSpan {
    /// Returns the span of a request that isn't sampled.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Returns the span of a sampled request; empty if the log's level doesn't need it.
    #[must_use]
    pub fn new(span: Span) -> Self {
        Self((!span.is_disabled()).then(|| Arc::new(span)))
    }

    /// Returns the span to log in; `None` if the request isn't sampled.
    #[must_use]
    pub fn get(&self) -> Option<&Span> {
        self.0.as_deref()
    }

    /// Returns the current time if the request is sampled, to say later how long something took.
    #[must_use]
    pub fn timer(&self) -> Option<Instant> {
        self.0.as_ref().map(|_| Instant::now())
    }

    /// Returns a span within this one for one of the request's items, numbered in the request's order from 0.
    #[must_use]
    pub fn item(&self, number: usize) -> Self {
        let span = self.get().map(|span| debug_span!(target: SPAN_TARGET, parent: span, "item", item = number));
        span.map_or(Self(None), Self::new)
    }

    /// Returns a span within this one for a batch that one of the request's items is in.
    #[must_use]
    pub fn batch(&self, number: u64) -> Self {
        let span = self.get().map(|span| debug_span!(target: SPAN_TARGET, parent: span, "batch", batch = number));
        span.map_or(Self(None), Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_span_nothing_is_logged_and_nothing_is_timed() {
        // No subscriber needs it, so it is disabled.
        for span in [RequestSpan::none(), RequestSpan::new(Span::none()), RequestSpan::default()] {
            assert!(span.get().is_none() && span.timer().is_none());
            assert!(span.item(1).get().is_none() && span.batch(1).get().is_none());
        }
    }

    #[test]
    fn the_spans_of_items_and_batches_lie_within_the_requests() {
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::sink);
        tracing::subscriber::with_default(subscriber.finish(), || {
            let request = RequestSpan::new(debug_span!(target: SPAN_TARGET, "request"));
            for (inner, name) in [(request.item(3), "item"), (request.batch(7), "batch")] {
                let metadata = inner.get().and_then(Span::metadata).unwrap();
                assert_eq!((metadata.name(), metadata.target()), (name, SPAN_TARGET));
            }
            assert!(request.timer().is_some());
        });
    }
}
