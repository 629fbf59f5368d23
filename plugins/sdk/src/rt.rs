//! The parts of [`policy!`](crate::policy). Not for use by hand.

use std::{cell::OnceCell, marker::PhantomData, thread::LocalKey};

use crate::{
    Admission, Admit, Batch, Candidate, Choice, Class, Fault, Features, Hint, Key, Plan, Policy, Prefetch, Route,
    Shape, Values, Verdict,
    bindings::{
        admit::exports::holm::policy::admit,
        base::{
            exports::holm::policy::plugin::{self, Manifest},
            holm::policy::facts::Inputs,
        },
        batch::exports::holm::policy::batch,
        features::exports::holm::policy::features,
        key::exports::holm::policy::key::{self, Keying},
        prefetch::exports::holm::policy::prefetch,
        route::exports::holm::policy::route,
    },
    input::words,
};

/// The place of the instance's policy, and its manifest.
pub trait Loaded: Policy {
    const NAME: &'static str;
    const VERSION: &'static str;
    fn cell() -> &'static LocalKey<OnceCell<Self>>;
}

/// A policy as a component.
pub struct Component<P>(PhantomData<P>);

impl<P: Loaded> plugin::Guest for Component<P> {
    fn configure(config: String) -> Result<Manifest, Fault> {
        report_panics();
        let policy = P::configure(&config)?;
        let experiments = policy.experiments().into_iter().map(Into::into).collect();
        P::cell().with(|cell| cell.set(policy)).map_err(|_| Fault::new(0, "configured twice"))?;
        Ok(Manifest { name: P::NAME.into(), version: P::VERSION.into(), experiments })
    }
}

impl<P: Loaded + Key> key::Guest for Component<P> {
    fn plan() -> Result<Keying, Fault> {
        with_policy(|policy: &P| {
            Ok(match policy.plan() {
                Plan::Recipe(parts) => Keying::Recipe(parts.into_iter().map(Into::into).collect()),
                Plan::Call(_) => Keying::Call,
            })
        })
    }

    /// A recipe names its inputs itself.
    fn reads() -> Result<Inputs, Fault> {
        with_policy(|policy: &P| {
            Ok(match policy.plan() {
                Plan::Recipe(_) => Inputs::new(),
                Plan::Call(inputs) => words(inputs),
            })
        })
    }

    fn derive(values: Values) -> Result<Verdict, Fault> {
        with_policy(|policy: &P| policy.derive(values))
    }
}

impl<P: Loaded + Features> features::Guest for Component<P> {
    fn reads() -> Result<Inputs, Fault> {
        with_policy(|policy: &P| Ok(words(policy.reads())))
    }

    fn extract(values: Values) -> Result<Shape, Fault> {
        with_policy(|policy: &P| policy.extract(values))
    }
}

impl<P: Loaded + Admit> admit::Guest for Component<P> {
    fn reads() -> Result<Inputs, Fault> {
        with_policy(|policy: &P| Ok(words(policy.reads())))
    }

    fn decide(values: Values, suggested: Admission) -> Result<Admission, Fault> {
        with_policy(|policy: &P| policy.decide(values, suggested))
    }
}

impl<P: Loaded + Route> route::Guest for Component<P> {
    fn reads() -> Result<Inputs, Fault> {
        with_policy(|policy: &P| Ok(words(policy.reads())))
    }

    fn choose(values: Values, candidates: Vec<Candidate>) -> Result<Choice, Fault> {
        with_policy(|policy: &P| policy.choose(values, &candidates))
    }
}

impl<P: Loaded + Batch> batch::Guest for Component<P> {
    fn reads() -> Result<Inputs, Fault> {
        with_policy(|policy: &P| Ok(words(policy.reads())))
    }

    fn classify(values: Values) -> Result<Class, Fault> {
        with_policy(|policy: &P| policy.classify(values))
    }
}

impl<P: Loaded + Prefetch> prefetch::Guest for Component<P> {
    fn reads() -> Result<Inputs, Fault> {
        with_policy(|policy: &P| Ok(words(policy.reads())))
    }

    fn suggest(values: Values, hit: bool) -> Result<Vec<Hint>, Fault> {
        with_policy(|policy: &P| policy.suggest(values, hit))
    }
}

fn with_policy<P: Loaded, T>(call: impl FnOnce(&P) -> Result<T, Fault>) -> Result<T, Fault> {
    P::cell().with(|cell| match cell.get() {
        Some(policy) => call(policy),
        None => Err(Fault::new(0, "not configured")),
    })
}

/// Writes the message of a panic to the log, because the trap that ends it has none.
fn report_panics() {
    #[cfg(target_family = "wasm")]
    std::panic::set_hook(Box::new(|panic| crate::log::write(crate::log::Level::Error, &panic.to_string())));
}
