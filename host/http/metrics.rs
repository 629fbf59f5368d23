//! The metrics of the server.

use std::time::Duration;

use ::http::{StatusCode, Version};
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::tls;

type ByName = Family<[(&'static str, &'static str); 1], Counter>;
type ByStatus = Family<[(&'static str, u16); 1], Counter>;

/// Upper bounds in seconds: from a request that is there at once to a client that takes its time.
const SECONDS: [f64; 14] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Handles of a server's metrics; clones count into the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) accepted: Counter,
    pub(super) accept_errors: Counter,
    pub(super) open: Gauge,
    pub(super) handshakes_failed: Counter,
    pub(super) panics: Counter,
    pub(super) tls: tls::Metrics,
    /// Clients of QUIC that were asked to show that their address is theirs.
    pub(super) retries: Counter,
    /// Reads of the UDP socket that an earlier process, whose packets they were, had no room for.
    pub(super) datagrams_dropped: Counter,
    /// Requests in early data.
    pub(super) early: Counter,
    accept_to_head: Histogram,
    closes: ByName,
    resets: ByName,
    rejects: ByStatus,
    requests: ByName,
    // Looked up once, because every request counts into one of them.
    requests_http_10: Counter,
    requests_http_11: Counter,
    requests_http_2: Counter,
    requests_http_3: Counter,
}

impl Metrics {
    /// Returns metrics that are all zero.
    #[must_use]
    pub fn new() -> Self {
        let requests = ByName::default();
        let version = |name| requests.get_or_create_owned(&[("version", name)]);
        Self {
            accepted: Counter::default(),
            accept_errors: Counter::default(),
            open: Gauge::default(),
            handshakes_failed: Counter::default(),
            panics: Counter::default(),
            tls: tls::Metrics::default(),
            retries: Counter::default(),
            datagrams_dropped: Counter::default(),
            early: Counter::default(),
            accept_to_head: Histogram::new(SECONDS),
            closes: ByName::default(),
            resets: ByName::default(),
            rejects: ByStatus::default(),
            requests_http_10: version("1.0"),
            requests_http_11: version("1.1"),
            requests_http_2: version("2"),
            requests_http_3: version("3"),
            requests,
        }
    }

    /// Puts the handles into `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("http_connections_accepted", "Connections accepted", self.accepted.clone());
        registry.register("http_connections_open", "Connections open now", self.open.clone());
        registry.register(
            "http_accept_to_head_seconds",
            "From the accept of a connection to the complete head of its first request",
            self.accept_to_head.clone(),
        );
        registry.register("http_connections_closed", "Connections closed, by reason", self.closes.clone());
        registry.register(
            "http_streams_reset",
            "HTTP/2 and HTTP/3 streams reset because their client took too long, by reason",
            self.resets.clone(),
        );
        registry.register("http_accept_errors", "Failed attempts to accept a connection", self.accept_errors.clone());
        registry.register("http_handshakes_failed", "TLS handshakes that failed", self.handshakes_failed.clone());
        registry.register(
            "http_quic_retries",
            "QUIC handshakes that began anew, so that the client shows that its address is its own",
            self.retries.clone(),
        );
        registry.register(
            "http_quic_datagrams_dropped",
            "Reads of packets for connections of an earlier process that it had no room for",
            self.datagrams_dropped.clone(),
        );
        registry.register("http_early_requests", "Requests that came in early data", self.early.clone());
        registry.register("http_requests", "Requests, by HTTP version", self.requests.clone());
        registry.register("http_rejects", "Requests refused before the handler, by status", self.rejects.clone());
        registry.register("http_panics", "Panics while a request was being served", self.panics.clone());
        self.tls.register(registry);
    }

    pub(super) fn request(&self, version: Version) {
        match version {
            Version::HTTP_3 => self.requests_http_3.inc(),
            Version::HTTP_2 => self.requests_http_2.inc(),
            Version::HTTP_11 => self.requests_http_11.inc(),
            _ => self.requests_http_10.inc(),
        };
    }

    pub(super) fn head_complete(&self, since_accept: Duration) {
        self.accept_to_head.observe(since_accept.as_secs_f64());
    }

    pub(super) fn rejected(&self, status: StatusCode) {
        self.rejects.get_or_create(&[("status", status.as_u16())]).inc();
    }

    pub(super) fn reset(&self, reason: &'static str) {
        self.resets.get_or_create(&[("reason", reason)]).inc();
    }

    pub(super) fn closed(&self, reason: &'static str) {
        self.closes.get_or_create(&[("reason", reason)]).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
impl Metrics {
    pub(super) fn closes(&self, reason: &'static str) -> u64 {
        self.closes.get_or_create(&[("reason", reason)]).get()
    }

    pub(super) fn resets(&self, reason: &'static str) -> u64 {
        self.resets.get_or_create(&[("reason", reason)]).get()
    }

    pub(super) fn rejects(&self, status: u16) -> u64 {
        self.rejects.get_or_create(&[("status", status)]).get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposition_shows_what_was_counted() {
        let metrics = Metrics::new();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        metrics.request(Version::HTTP_2);
        metrics.request(Version::HTTP_3);
        metrics.closed("idle");
        metrics.head_complete(Duration::from_millis(2));
        metrics.rejected(StatusCode::BAD_REQUEST);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "http_requests_total{version=\"2\"} 1",
            "http_requests_total{version=\"3\"} 1",
            "http_requests_total{version=\"1.1\"} 0",
            "http_connections_closed_total{reason=\"idle\"} 1",
            "http_rejects_total{status=\"400\"} 1",
            "http_accept_to_head_seconds_bucket{le=\"0.0025\"} 1",
            "http_accept_to_head_seconds_bucket{le=\"0.001\"} 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
