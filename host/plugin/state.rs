//! The host's state for an instance, and the functions that the instance may call.

use std::sync::Arc;

use holm_bindings::holm::policy::{
    diagnostics::{self, Level},
    facts,
};

use super::{
    diagnostics::{Voice, enabled},
    limits::Allowance,
};

/// The host's state for an instance.
pub(super) struct State {
    pub(super) allowance: Allowance,
    pub(super) voice: Arc<Voice>,
}

impl facts::Host for State {}

impl diagnostics::Host for State {
    fn enabled(&mut self, level: Level) -> bool {
        enabled(level)
    }

    fn log(&mut self, level: Level, message: String) {
        if enabled(level) {
            self.voice.say(level, &message);
        }
    }
}
