//! What [`policy!`](crate::policy) is made of. Not for use by hand.

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

/// Where the instance's policy lives, and what its manifest says.
pub trait Loaded: Policy {
    const NAME: &'static str;
    const VERSION: &'static str;
    fn cell() -> &'static LocalKey<OnceCell<Self>>;
}

/// A policy as a component.
pub struct Component<P>(PhantomData<P>);

impl<P: Loaded> plugin::Guest for Component<P> {
    fn configure(config: String) -> Result<Manifest, Fault> {
        tell_of_panics();
        let policy = P::configure(&config)?;
        let experiments = policy.experiments().into_iter().map(Into::into).collect();
        P::cell().with(|cell| cell.set(policy)).map_err(|_| Fault::new(0, "configured twice"))?;
        Ok(Manifest { name: P::NAME.into(), version: P::VERSION.into(), experiments })
    }
}

impl<P: Loaded + Key> key::Guest for Component<P> {
    fn plan() -> Result<Keying, Fault> {
        asked(|policy: &P| {
            Ok(match policy.plan() {
                Plan::Recipe(parts) => Keying::Recipe(parts.into_iter().map(Into::into).collect()),
                Plan::Call(_) => Keying::Call,
            })
        })
    }

    /// A recipe names its inputs itself.
    fn reads() -> Result<Inputs, Fault> {
        asked(|policy: &P| {
            Ok(match policy.plan() {
                Plan::Recipe(_) => Inputs::new(),
                Plan::Call(inputs) => words(inputs),
            })
        })
    }

    fn derive(values: Values) -> Result<Verdict, Fault> {
        asked(|policy: &P| policy.derive(values))
    }
}

impl<P: Loaded + Features> features::Guest for Component<P> {
    fn reads() -> Result<Inputs, Fault> {
        asked(|policy: &P| Ok(words(policy.reads())))
    }

    fn extract(values: Values) -> Result<Shape, Fault> {
        asked(|policy: &P| policy.extract(values))
    }
}

impl<P: Loaded + Admit> admit::Guest for Component<P> {
    fn reads() -> Result<Inputs, Fault> {
        asked(|policy: &P| Ok(words(policy.reads())))
    }

    fn decide(values: Values, suggested: Admission) -> Result<Admission, Fault> {
        asked(|policy: &P| policy.decide(values, suggested))
    }
}

impl<P: Loaded + Route> route::Guest for Component<P> {
    fn reads() -> Result<Inputs, Fault> {
        asked(|policy: &P| Ok(words(policy.reads())))
    }

    fn choose(values: Values, candidates: Vec<Candidate>) -> Result<Choice, Fault> {
        asked(|policy: &P| policy.choose(values, &candidates))
    }
}

impl<P: Loaded + Batch> batch::Guest for Component<P> {
    fn reads() -> Result<Inputs, Fault> {
        asked(|policy: &P| Ok(words(policy.reads())))
    }

    fn classify(values: Values) -> Result<Class, Fault> {
        asked(|policy: &P| policy.classify(values))
    }
}

impl<P: Loaded + Prefetch> prefetch::Guest for Component<P> {
    fn reads() -> Result<Inputs, Fault> {
        asked(|policy: &P| Ok(words(policy.reads())))
    }

    fn suggest(values: Values, hit: bool) -> Result<Vec<Hint>, Fault> {
        asked(|policy: &P| policy.suggest(values, hit))
    }
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
