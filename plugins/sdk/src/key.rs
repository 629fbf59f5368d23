//! The `key` hook: what the response to a request depends on.

use crate::{Fault, Input, Policy, Values, bindings::key::exports::holm::policy::key};

pub use key::Verdict;

/// How keys are made.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Of these parts, 1 to 64. The host evaluates them: no call on the request path.
    Recipe(Vec<Part>),
    /// By [`Key::derive`], which is given these inputs, at most 64, in this order.
    Call(Vec<Input>),
}

/// A policy that decides what the response to a request depends on.
///
/// ```
/// use holm_sdk::{Fault, Input, Key, Plan, Policy, Values, Verdict, slot};
///
/// /// Previews are made anew; everything else depends on where it is.
/// struct NoPreviews;
///
/// impl Policy for NoPreviews {
///     fn configure(_config: &str) -> Result<Self, Fault> {
///         Ok(Self)
///     }
/// }
///
/// impl Key for NoPreviews {
///     fn plan(&self) -> Plan {
///         Plan::Call(vec![Input::Query("preview".into()), Input::Authority, Input::Path])
///     }
///
///     fn derive(&self, values: Values) -> Result<Verdict, Fault> {
///         Ok(match values.as_slice() {
///             [None, place @ ..] => Verdict::Lookup(place.iter().map(|value| slot(value.as_deref())).collect()),
///             _ => Verdict::Bypass("a preview".into()),
///         })
///     }
/// }
///
/// holm_sdk::policy!(NoPreviews: key);
/// # fn main() {}
/// ```
pub trait Key: Policy {
    /// Returns how keys are made. Called once a generation, after [`Policy::configure`].
    fn plan(&self) -> Plan;

    /// Makes the key of one request, if the plan is [`Plan::Call`]. `values` has a slot for each input of the plan.
    ///
    /// # Errors
    /// A [`Fault`] leaves the request without the policy's opinion: the route decides what happens then.
    fn derive(&self, values: Values) -> Result<Verdict, Fault> {
        let _ = values;
        Err(Fault::new(0, "this policy's plan is a recipe"))
    }
}

/// An input, and the host's transform of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The input.
    pub input: Input,
    /// The transform of its value.
    pub transform: Transform,
}

/// A transform of the host for a value of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// Nothing.
    Identity,
    /// ASCII letters become lower case.
    Lowercase,
    /// `b=2&&a=1` becomes `a=1&b=2`: parameters sorted by name, the order of equal names kept, empty ones dropped.
    SortQuery,
    /// Everything from the first `?` on is dropped.
    DropQuery,
    /// JSON without insignificant white space, members sorted; what isn't JSON, or names a member twice, stays as it is.
    JsonCanonical,
}

impl Transform {
    /// As the contract calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Lowercase => "lowercase",
            Self::SortQuery => "sort-query",
            Self::DropQuery => "drop-query",
            Self::JsonCanonical => "json-canonical",
        }
    }
}

impl From<Part> for key::Part {
    fn from(part: Part) -> Self {
        Self { input: part.input.into(), transform: part.transform.name().into() }
    }
}

impl Part {
    /// Makes a part of an input and a transform.
    pub fn new(input: Input, transform: Transform) -> Self {
        Self { input, transform }
    }
}

/// A value as a part of a key, so that a missing one stays apart from an empty one.
pub fn slot(value: Option<&[u8]>) -> Vec<u8> {
    match value {
        None => vec![0],
        Some(bytes) => [&[1], bytes].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_value_is_not_an_empty_one() {
        let slots = [slot(None), slot(Some(b"")), slot(Some(b"\0")), slot(Some(b"a"))];
        for (i, one) in slots.iter().enumerate() {
            assert!(slots[i + 1..].iter().all(|other| other != one), "{slots:?}");
        }
    }
}
