//! Which key a request has: by its policy if that has an opinion, else natively.

use std::borrow::Cow;

use super::route::Route;
use crate::{
    cache::key::{Decider, Key},
    config::OnFault,
    policy::{Facts, Fault, KeyPlan, KeyVerdict, Material, Policy, key},
};

/// What came of making a key.
#[derive(Debug)]
pub enum Keyed {
    /// Look this up. If the policy faulted, the native default made it, and `fault` says why.
    Key {
        /// The key.
        key: Key,
        /// Why the policy didn't.
        fault: Option<Fault>,
    },
    /// The policy wants it kept out of the cache.
    Bypass(String),
    /// The policy faulted, and the route wants no answer then.
    Refused(Fault),
}

impl Keyed {
    /// What the policy did out of the ordinary, for `Cache-Status` and the access log: `name@generation:word`.
    #[must_use]
    pub fn remark(&self, route: &Route) -> Option<String> {
        let label = route.policy.as_ref()?.label();
        match self {
            Self::Key { fault: None, .. } => None,
            Self::Key { fault: Some(fault), .. } | Self::Refused(fault) => Some(format!("{label}:{}", fault.kind())),
            Self::Bypass(reason) => Some(format!("{label}:{reason}")),
        }
    }
}

/// Makes the key of a request, or of one of its questions, whose canonical form is `canonical`.
#[must_use]
pub fn derive(route: &Route, facts: &Facts<'_>, canonical: Option<&[u8]>) -> Keyed {
    let fault = match route.policy.as_deref().map(|policy| by_policy(route, policy, facts)) {
        None | Some(Ok(None)) => None,
        Some(Ok(Some(keyed))) => return keyed,
        Some(Err(fault)) if route.config.on_fault == OnFault::Refuse => return Keyed::Refused(fault),
        Some(Err(fault)) => Some(fault),
    };
    Keyed::Key { key: natively(route, facts, canonical), fault }
}

/// The native key of a request.
#[must_use]
pub fn natively(route: &Route, facts: &Facts<'_>, canonical: Option<&[u8]>) -> Key {
    let mut hasher = route.keys.hasher(Decider::Native);
    match canonical {
        Some(canonical) => key::infer_default(facts, canonical, &mut hasher),
        None => key::http_default(facts, &mut hasher),
    }
    hasher.finish()
}

fn by_policy(route: &Route, policy: &dyn Policy, facts: &Facts<'_>) -> Result<Option<Keyed>, Fault> {
    let mut hasher = route.keys.hasher(Decider::Policy);
    // The method is the host's part: a policy may forget it, and a POST must never be answered with a GET's answer.
    hasher.part(Some(key::shared_method(&facts.request().method).as_str().as_bytes()));
    match policy.key_plan() {
        KeyPlan::Native => return Ok(None),
        KeyPlan::Recipe(parts) => key::evaluate(parts, facts, &mut hasher),
        KeyPlan::Call(inputs) => {
            let values: Vec<Option<Cow<'_, [u8]>>> = inputs.iter().map(|input| facts.read(input)).collect();
            match policy.derive_key(&values)? {
                KeyVerdict::Lookup(parts) => parts.iter().for_each(|part| hasher.part(Some(part))),
                KeyVerdict::Bypass(reason) => return Ok(Some(Keyed::Bypass(reason))),
            }
        }
    }
    Ok(Some(Keyed::Key { key: hasher.finish(), fault: None }))
}
