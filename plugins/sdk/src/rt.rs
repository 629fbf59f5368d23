//! What [`policy!`](crate::policy) is made of. Not for use by hand.

use std::{cell::OnceCell, marker::PhantomData, thread::LocalKey};

use crate::{
    Fault, Input, Key, Plan, Policy, Values, Verdict,
    bindings::{
        base::exports::holm::policy::plugin::{self, Hook, Manifest},
        key::exports::holm::policy::key::{self, Keying},
    },
};

pub use plugin::Reads;

/// Where the instance's policy lives, and what its manifest says.
pub trait Loaded: Policy {
    const NAME: &'static str;
    const VERSION: &'static str;
    fn cell() -> &'static LocalKey<OnceCell<Self>>;
    fn reads(&self) -> Vec<Reads>;
}

/// A policy as a component.
pub struct Component<P>(PhantomData<P>);

impl<P: Loaded> plugin::Guest for Component<P> {
    fn configure(config: String) -> Result<Manifest, Fault> {
        tell_of_panics();
        let policy = P::configure(&config)?;
        let reads = policy.reads();
        P::cell().with(|cell| cell.set(policy)).map_err(|_| Fault::new(0, "configured twice"))?;
        Ok(Manifest { name: P::NAME.into(), version: P::VERSION.into(), reads, experiments: Vec::new() })
    }
}

impl<P: Loaded + Key> key::Guest for Component<P> {
    fn plan() -> Result<Keying, Fault> {
        asked(|policy: &P| {
            Ok(match policy.plan() {
                Plan::Recipe(parts) => Keying::Recipe(parts),
                Plan::Call(_) => Keying::Call,
            })
        })
    }

    fn derive(values: Values) -> Result<Verdict, Fault> {
        asked(|policy: &P| policy.derive(values))
    }
}

/// What the manifest says of the `key` hook.
pub fn key_reads(policy: &impl Key) -> Option<Reads> {
    match policy.plan() {
        Plan::Recipe(_) => None,
        Plan::Call(inputs) => Some(reads(Hook::Key, inputs)),
    }
}

fn reads(hook: Hook, inputs: Vec<Input>) -> Reads {
    Reads { hook, inputs }
}

fn asked<P: Loaded, T>(question: impl FnOnce(&P) -> Result<T, Fault>) -> Result<T, Fault> {
    P::cell().with(|cell| match cell.get() {
        Some(policy) => question(policy),
        None => Err(Fault::new(0, "not configured")),
    })
}

/// A panic ends as a trap, which has no words; so say them before.
fn tell_of_panics() {
    #[cfg(target_family = "wasm")]
    std::panic::set_hook(Box::new(|panic| crate::log::write(crate::log::Level::Error, &panic.to_string())));
}
