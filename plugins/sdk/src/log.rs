//! Messages for the node's log, for diagnosis: the host writes them at its level `debug`, target `policy`.
//! A recipe and a remembered verdict make no call, so they log nothing.
//!
//! Outside of WebAssembly, that is in tests, messages go to standard error.

pub use crate::bindings::base::holm::policy::diagnostics::Level;

/// Whether a message of this level would be written.
pub fn enabled(level: Level) -> bool {
    #[cfg(target_family = "wasm")]
    return crate::bindings::base::holm::policy::diagnostics::enabled(level);
    #[cfg(not(target_family = "wasm"))]
    return level != Level::Trace;
}

/// Writes a message. [`crate::log!`] composes one only if it is wanted.
pub fn write(level: Level, message: &str) {
    #[cfg(target_family = "wasm")]
    crate::bindings::base::holm::policy::diagnostics::log(level, message);
    #[cfg(not(target_family = "wasm"))]
    eprintln!("{level:?}: {message}");
}

/// Composes and writes a message if its level is enabled: `log!(Level::Debug, "tenant {tenant}")`.
#[macro_export]
macro_rules! log {
    ($level:expr, $($message:tt)+) => {
        if $crate::log::enabled($level) {
            $crate::log::write($level, &::std::format!($($message)+));
        }
    };
}
