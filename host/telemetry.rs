//! The node's telemetry: metrics, the access log, request ids and trace context.
//!
//! The room depends on no other: the other rooms register their metric handles with [`Registry`], and hand plain values
//! to [`AccessLog`].

pub mod access;
pub mod metrics;
pub mod trace;

use std::{
    io::{self, IsTerminal as _},
    sync::OnceLock,
};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

pub use access::{AccessLog, Line};
pub use metrics::{Registry, Requests, RouteMetrics, Verdict};
pub use trace::{RequestTrace, Sampler};

/// The environment variable with filter directives for the node's own log, such as `debug` or `info,holm::cache=debug`.
pub const LOG_VARIABLE: &str = "HOLM_LOG";

/// Sets the filter of the log that [`init_logging`] has set up.
type SetFilter = Box<dyn Fn(EnvFilter) + Send + Sync>;

static SET_FILTER: OnceLock<SetFilter> = OnceLock::new();

/// Sends the node's own log to standard error, filtered by [`LOG_VARIABLE`]. A second call changes nothing.
pub fn init_logging() {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&directives_of_environment()))
        .with_ansi(io::stderr().is_terminal())
        // Otherwise a closed standard error would turn every logged line into a panic of the thread that logs it.
        .log_internal_errors(false)
        .with_writer(io::stderr)
        .compact()
        .with_filter_reloading();
    let handle = builder.reload_handle();
    if builder.try_init().is_err() {
        tracing::debug!("logging was set up before");
        return;
    }
    let set = move |filter: EnvFilter| {
        if let Err(error) = handle.reload(filter) {
            tracing::warn!(%error, "the log's filter can't be changed");
        }
    };
    // Nobody else sets it: the log is set up once.
    let _ = SET_FILTER.set(Box::new(set));
}

/// Filters the log that [`init_logging`] has set up by these directives of a configuration, unless the environment has
/// some. Without that log it does nothing.
pub fn set_filter(directives: &str) {
    if let Some(set) = SET_FILTER.get()
        && directives_of_environment().is_empty()
    {
        set(filter(directives));
    }
}

fn directives_of_environment() -> String {
    std::env::var(LOG_VARIABLE).unwrap_or_default()
}

fn filter(directives: &str) -> EnvFilter {
    // The store tells of every start and stop at `info`, and of each failed read in many lines; what matters of that the
    // cache says itself.
    const QUIET: &str = "info,foyer=warn,foyer_storage=warn,foyer_storage::engine::block::engine=off";
    let quieter = if directives.is_empty() { QUIET } else { directives };
    EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse_lossy(quieter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_what_was_asked_for_and_info_otherwise() {
        for (directives, expected) in [
            ("", "foyer_storage::engine::block::engine=off,foyer_storage=warn,foyer=warn,info"),
            ("debug", "debug"),
            ("holm=trace", "holm=trace"),
            ("holm=loud", "info"),
        ] {
            assert_eq!(filter(directives).to_string(), expected, "{directives:?}");
        }
    }
}
