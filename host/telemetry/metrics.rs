//! The registry that a scrape reads, the metrics of requests as a whole, and those of the process.
//! Every other metric belongs to the room that counts it and is only registered here.

use std::{array, fmt, sync::Arc, time::Duration};

use http::StatusCode;
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram, info::Info},
    registry::{self, Unit},
};

use crate::clock;

/// Upper bounds of the duration buckets in seconds: from a hit in memory to a slow model.
const DURATION_BUCKETS: [f64; 17] =
    [50e-6, 100e-6, 250e-6, 500e-6, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const STATUS_CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];

/// All metrics of the node. Names start with `holm_`, except those that Prometheus itself names (`process_…`).
pub struct Registry {
    node: Mutex<registry::Registry>,
    process: registry::Registry,
}

impl Registry {
    /// A registry that knows the process and the build; its making counts as the start of the process.
    #[must_use]
    pub fn new() -> Self {
        let mut node = registry::Registry::with_prefix("holm");
        node.register("build", "What is running", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let mut process = registry::Registry::default();
        process.register_with_unit(
            "process_start_time",
            "When the process started, since the Unix epoch",
            Unit::Seconds,
            ConstGauge::new(clock::now().seconds()),
        );
        process.register_collector(Box::new(ResidentMemory));
        Self { node: Mutex::new(node), process }
    }

    /// Lets a room register its handles.
    pub fn register_with(&self, register: impl FnOnce(&mut registry::Registry)) {
        register(&mut self.node.lock());
    }

    /// Everything in OpenMetrics text, version 1.0.0.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        // Without its end mark a scraper refuses the text as a whole, so a failure can't pass for "no such metrics".
        if self.write(&mut out).is_err() {
            tracing::error!("the metrics could not be encoded");
        }
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        text::encode_registry(out, &self.process)?;
        text::encode_registry(out, &self.node.lock())?;
        text::encode_eof(out)
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

/// What the node made of a request, as far as metrics tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Served from memory.
    HitMemory,
    /// Served from disk.
    HitDisk,
    /// Served from Redis.
    HitRedis,
    /// Served with a stale entry.
    Stale,
    /// Fetched.
    Miss,
    /// Served by a fetch that another request began.
    Collapsed,
    /// The request or its route wants no look-up.
    Bypass,
    /// Fetched by itself because the response isn't to be stored.
    Pass,
    /// Served by the route itself: a redirect or a fixed response.
    Own,
    /// The node responded with an error of its own.
    Error,
}

impl Verdict {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 10] = [
        Self::HitMemory,
        Self::HitDisk,
        Self::HitRedis,
        Self::Stale,
        Self::Miss,
        Self::Collapsed,
        Self::Bypass,
        Self::Pass,
        Self::Own,
        Self::Error,
    ];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HitMemory => "hit-memory",
            Self::HitDisk => "hit-disk",
            Self::HitRedis => "hit-redis",
            Self::Stale => "stale",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::Bypass => "bypass",
            Self::Pass => "pass",
            Self::Own => "own",
            Self::Error => "error",
        }
    }
}

/// Requests of the node as a whole, by route.
#[derive(Clone, Debug)]
pub struct Requests {
    verdicts: Family<VerdictLabels, Counter>,
    responses: Family<StatusLabels, Counter>,
    duration: Family<RouteLabels, Histogram, fn() -> Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    route: Arc<str>,
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    route: Arc<str>,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: Arc<str>,
}

impl Requests {
    /// Metrics without a route yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            verdicts: Family::default(),
            responses: Family::default(),
            duration: Family::new_with_constructor(duration_histogram as fn() -> Histogram),
        }
    }

    /// Registers the families; routes that are resolved later appear by themselves.
    pub fn register(&self, registry: &mut registry::Registry) {
        registry.register("requests", "Requests by what the cache made of them", self.verdicts.clone());
        registry.register("responses", "Responses by class of status", self.responses.clone());
        registry.register_with_unit(
            "request_duration",
            "From the head of a request to the end of its response",
            Unit::Seconds,
            self.duration.clone(),
        );
    }

    /// Resolves the handles of a route, so that a request looks up no label.
    #[must_use]
    pub fn for_route(&self, name: &str) -> RouteMetrics {
        let route: Arc<str> = Arc::from(name);
        RouteMetrics {
            verdicts: Verdict::ALL.map(|verdict| {
                let labels = VerdictLabels { route: Arc::clone(&route), verdict: verdict.as_str() };
                self.verdicts.get_or_create_owned(&labels)
            }),
            responses: array::from_fn(|class| {
                let labels = StatusLabels { route: Arc::clone(&route), status: STATUS_CLASSES[class] };
                self.responses.get_or_create_owned(&labels)
            }),
            duration: self.duration.get_or_create_owned(&RouteLabels { route }),
        }
    }

    /// Removes the rows of a route that is no more. Handles that were resolved before count on, and nobody sees it.
    pub fn forget(&self, name: &str) {
        let route: Arc<str> = Arc::from(name);
        for verdict in Verdict::ALL {
            self.verdicts.remove(&VerdictLabels { route: Arc::clone(&route), verdict: verdict.as_str() });
        }
        for status in STATUS_CLASSES {
            self.responses.remove(&StatusLabels { route: Arc::clone(&route), status });
        }
        self.duration.remove(&RouteLabels { route });
    }
}

impl Default for Requests {
    fn default() -> Self {
        Self::new()
    }
}

/// The resolved handles of one route.
#[derive(Clone, Debug)]
pub struct RouteMetrics {
    verdicts: [Counter; Verdict::ALL.len()],
    responses: [Counter; STATUS_CLASSES.len()],
    duration: Histogram,
}

impl RouteMetrics {
    /// Counts one finished request.
    pub fn record(&self, verdict: Verdict, status: StatusCode, duration: Duration) {
        self.verdicts[verdict as usize].inc();
        self.responses[status_class(status)].inc();
        self.duration.observe(duration.as_secs_f64());
    }
}

/// The index into [`STATUS_CLASSES`].
fn status_class(status: StatusCode) -> usize {
    match status.as_u16() / 100 {
        class @ 1..=5 => usize::from(class) - 1,
        _ => STATUS_CLASSES.len() - 1,
    }
}

fn duration_histogram() -> Histogram {
    Histogram::new(DURATION_BUCKETS)
}

/// Read when metrics are scraped, not before.
#[derive(Debug)]
struct ResidentMemory;

impl Collector for ResidentMemory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // `status` and not `statm`: it is in KiB, so the size of a page need not be known.
        let Some(bytes) = std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes) else {
            return Ok(());
        };
        let (gauge, unit) = (ConstGauge::new(bytes), Unit::Bytes);
        let metric = encoder.encode_descriptor(
            "process_resident_memory",
            "Resident memory.",
            Some(&unit),
            gauge.metric_type(),
        )?;
        gauge.encode(metric)
    }
}

/// The resident set in the text of `/proc/self/status`.
fn resident_bytes(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = value.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_once_under_its_route_verdict_and_status() {
        let (registry, requests) = (Registry::new(), Requests::new());
        registry.register_with(|inner| requests.register(inner));
        let route = requests.for_route("api");
        route.record(Verdict::HitDisk, StatusCode::NOT_FOUND, Duration::from_micros(700));
        requests.for_route("api").record(Verdict::HitDisk, StatusCode::OK, Duration::from_secs(60));

        let text = registry.encode();
        for expected in [
            "holm_requests_total{route=\"api\",verdict=\"hit-disk\"} 2\n",
            "holm_requests_total{route=\"api\",verdict=\"hit-memory\"} 0\n",
            "holm_responses_total{route=\"api\",status=\"4xx\"} 1\n",
            "holm_responses_total{route=\"api\",status=\"2xx\"} 1\n",
            "holm_request_duration_seconds_bucket{le=\"0.0005\",route=\"api\"} 0\n",
            "holm_request_duration_seconds_bucket{le=\"0.001\",route=\"api\"} 1\n",
            "holm_request_duration_seconds_bucket{le=\"+Inf\",route=\"api\"} 2\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is missing in\n{text}");
        }
    }

    #[test]
    fn a_route_that_is_no_more_has_no_rows() {
        let (registry, requests) = (Registry::new(), Requests::new());
        registry.register_with(|inner| requests.register(inner));
        let (gone, stays) = (requests.for_route("gone"), requests.for_route("stays"));
        stays.record(Verdict::Miss, StatusCode::OK, Duration::from_millis(1));
        requests.forget("gone");
        // Of a request that was under way.
        gone.record(Verdict::Miss, StatusCode::OK, Duration::from_millis(1));
        let text = registry.encode();
        assert!(!text.contains("route=\"gone\""), "{text}");
        assert!(text.contains("holm_requests_total{route=\"stays\",verdict=\"miss\"} 1\n"), "{text}");
    }

    #[test]
    fn every_verdict_has_the_index_and_the_name_of_its_own() {
        for (index, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict as usize, index);
            assert_eq!(Verdict::ALL.iter().filter(|other| other.as_str() == verdict.as_str()).count(), 1);
        }
    }

    #[test]
    fn statuses_fall_into_their_class() {
        for (status, class) in [(100, "1xx"), (200, "2xx"), (304, "3xx"), (499, "4xx"), (599, "5xx"), (600, "other")] {
            assert_eq!(STATUS_CLASSES[status_class(StatusCode::from_u16(status).unwrap())], class, "{status}");
        }
    }

    #[test]
    fn the_process_is_described_under_the_names_that_prometheus_gives() {
        let text = Registry::new().encode();
        assert!(text.contains("holm_build_info{version=\""), "{text}");
        assert!(text.contains("\nprocess_start_time_seconds "), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        if cfg!(target_os = "linux") {
            assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
        }
    }

    #[test]
    fn resident_memory_is_read_from_its_line_only() {
        for (status, bytes) in [
            ("Name:\tholm\nVmHWM:\t  9 kB\nVmRSS:\t   12 kB\nThreads:\t4\n", Some(12 * 1024)),
            ("Name:\tVmRSS: 5\n", None),
            ("VmRSS:\tmany kB\n", None),
            ("VmRSS:\t18446744073709551615 kB\n", None),
            ("", None),
        ] {
            assert_eq!(resident_bytes(status), bytes, "{status:?}");
        }
    }
}
