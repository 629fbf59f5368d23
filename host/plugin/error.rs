//! Why there is no engine or no plugin.

use std::io;

use thiserror::Error;

use crate::policy::Fault;

/// Why an engine or a plugin wasn't made.
#[derive(Debug, Error)]
pub enum Error {
    /// wasmtime refuses.
    #[error("the WebAssembly engine doesn't start: {0}")]
    Engine(String),
    /// No thread for the clock.
    #[error("no thread for the clock of policies: {0}")]
    Ticker(io::Error),
    /// No place for compiled components.
    #[error("compiled policies can't be stored in {dir}: {reason}")]
    CacheDir {
        /// The directory.
        dir: String,
        /// The error of the system.
        reason: io::Error,
    },
    /// A policy is not loaded.
    #[error("policy `{policy}` ({file}) {refusal}")]
    Refused {
        /// Its name in the configuration.
        policy: String,
        /// The source of its component.
        file: String,
        /// What is wrong with it.
        refusal: Box<Refusal>,
    },
}

/// What is wrong with a component. Its text continues a sentence that begins with the component's name.
#[derive(Debug, Error)]
pub enum Refusal {
    /// No file, or no right to read it.
    #[error("can't be read: {0}")]
    Unreadable(io::Error),
    /// More than any policy needs.
    #[error("is larger than {limit} bytes")]
    TooLarge {
        /// Bytes that are allowed.
        limit: u64,
    },
    /// WebAssembly, but not a component.
    #[error("is a core module; pack it into a component (in Rust: `linker = \"wasm-component-ld\"` for the target)")]
    CoreModule,
    /// Not a component that this engine compiles.
    #[error("is not a component: {0}")]
    NotAComponent(String),
    /// It imports what no policy may import.
    #[error("imports `{0}`; a policy may import `holm:policy/diagnostics` and nothing else")]
    Import(String),
    /// It was built against a version of the contract that isn't compatible with this node's.
    #[error(
        "{does} `{interface}`, but this node has `holm:policy@{version}`, and loads components that were built against \
         {line}: build it again for this node (`holm policy build`, or against its `wit/policy.wit`), or load it on a \
         node that has its version"
    )]
    Version {
        /// `imports` or `exports`.
        does: &'static str,
        /// The interface, with its version.
        interface: String,
        /// The node's version.
        version: &'static str,
        /// The versions that the node loads.
        line: String,
    },
    /// It imports a function or a type that isn't there.
    #[error("doesn't fit its imports: {0}")]
    Unlinked(String),
    /// Isn't a policy.
    #[error("doesn't export `holm:policy/plugin@0.1.0`, which every policy does")]
    NoPlugin,
    /// A hook of another version.
    #[error("exports `{hook}` in another form than `holm:policy@0.1.0`: {detail}")]
    Hook {
        /// The hook.
        hook: &'static str,
        /// What is missing.
        detail: String,
    },
    /// An interface of the contract's package that this node has no hook for: a newer contract's, or a misspelt one.
    #[error("exports `{interface}`, which this node doesn't know; the hooks that it knows are {known}")]
    Interface {
        /// The interface.
        interface: String,
        /// The node's hooks.
        known: String,
    },
    /// No instance could be made.
    #[error("doesn't start: {0}")]
    Unmade(#[from] Unmade),
    /// `plan` gave none.
    #[error("has no plan for keys: {0}")]
    Plan(Fault),
    /// `reads` of a hook gave no inputs.
    #[error("doesn't say what its {hook} hook reads: {fault}")]
    Reads {
        /// The hook.
        hook: &'static str,
        /// Why not.
        fault: Fault,
    },
    /// Its key doesn't depend on an item's body.
    #[error(
        "makes keys without the body, so that all items of an `infer` route would share one result: have its key \
         read the body, or write `key_without_body = true` at the route"
    )]
    KeyWithoutBody,
    /// The manifest or the plan is invalid.
    #[error("is refused: {0}")]
    Flaw(#[from] Flaw),
}

/// Why no instance was made.
#[derive(Debug, Error)]
pub enum Unmade {
    /// Its memory or tables are over a limit, or the pool is empty.
    #[error("not instantiated: {0}")]
    Instance(String),
    /// An export is not of the type that the contract says.
    #[error("an export has another type than the contract's: {0}")]
    Exports(String),
    /// It doesn't accept its configuration.
    #[error("`configure` {0}")]
    Configure(Fault),
}

/// What is wrong with a manifest or a plan.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Flaw {
    /// A name or version that can't be printed.
    #[error("the manifest's {field} is not 1 to {limit} visible ASCII characters")]
    Name {
        /// `name` or `version`.
        field: &'static str,
        /// Characters that are allowed.
        limit: usize,
    },
    /// A pool that isn't there.
    #[error("the {hook} hook reads pool-stats({pool}), but there is no such pool; configured are: {known}")]
    Pool {
        /// The pool.
        pool: String,
        /// The hook.
        hook: &'static str,
        /// Those that there are.
        known: String,
    },
    /// Too many inputs.
    #[error("the {hook} hook declares {count} inputs; at most {limit} are allowed")]
    Inputs {
        /// The hook.
        hook: &'static str,
        /// How many.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// A key without material.
    #[error("its {what} reads nothing: every request would have the same key")]
    Nothing {
        /// Recipe or call.
        what: &'static str,
    },
    /// Too many parts.
    #[error("the recipe has {count} parts; at most {limit} are allowed")]
    Parts {
        /// How many.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// An input that isn't there when the hook is called.
    #[error("input {input} is not provided to the {hook} hook: {why}")]
    NotProvided {
        /// The input.
        input: String,
        /// The hook.
        hook: &'static str,
        /// Why it isn't there then.
        why: &'static str,
    },
    /// Too many experiments.
    #[error("the manifest declares {count} experiments; at most {limit} are allowed")]
    Experiments {
        /// How many.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// An experiment that can't be drawn.
    #[error("experiment `{name}`: {wrong}")]
    Experiment {
        /// Its name.
        name: String,
        /// What is wrong with it.
        wrong: &'static str,
    },
    /// An input of a kind that this node doesn't know: of a newer contract, or misspelt.
    #[error("input {input} is none that this node knows: {known}")]
    UnknownInput {
        /// The input.
        input: String,
        /// The kinds that the node knows.
        known: String,
    },
    /// A transform that this node doesn't know: of a newer contract, or misspelt.
    #[error("transform {transform} is none that this node knows: {known}")]
    UnknownTransform {
        /// The transform.
        transform: String,
        /// Those that the node knows.
        known: String,
    },
    /// An input with invalid arguments.
    #[error("input {input}: {wrong}")]
    Input {
        /// The input.
        input: String,
        /// What is wrong with it.
        wrong: &'static str,
    },
}

/// Returns an error of the engine in one line. Its own text may take several, and quote the first bytes of a file, one
/// in each.
pub(super) fn one_line(error: &wasmtime::Error) -> String {
    let words = format!("{error:#}");
    let line: Vec<&str> = words.split_whitespace().collect();
    line.join(" ").chars().take(TOLD_CHARS_MAX).collect()
}

const TOLD_CHARS_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_takes_one_line() {
        let error = wasmtime::Error::msg(format!("expected=[\n    0x0,\n    0x61,\n] {}", "x".repeat(600)));
        let line = one_line(&error);
        assert!(line.starts_with("expected=[ 0x0, 0x61, ] xxx") && line.len() == TOLD_CHARS_MAX, "{line}");
    }
}
