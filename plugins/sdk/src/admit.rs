//! The `admit` hook: whether a response is stored, and for how long.

use crate::{Fault, Input, Policy, Values, bindings::admit::exports::holm::policy::admit};

pub use admit::{Admission, Storage};

/// A policy that decides whether a response is stored. It alone may read the response.
///
/// ```
/// use holm_sdk::{Admission, Admit, Fault, Input, Policy, Values, text};
///
/// /// Pages that weren't found are not stored; all others can be purged by their kind.
/// struct ByKind;
///
/// impl Policy for ByKind {
///     fn configure(_config: &str) -> Result<Self, Fault> {
///         Ok(Self)
///     }
/// }
///
/// impl Admit for ByKind {
///     fn reads(&self) -> Vec<Input> {
///         vec![Input::ResponseStatus, Input::ResponseHeader("content-type".into())]
///     }
///
///     fn decide(&self, values: Values, suggested: Admission) -> Result<Admission, Fault> {
///         Ok(match (text(&values, 0), suggested) {
///             (Some("404"), _) => Admission::Pass("not found".into()),
///             (_, Admission::Store(mut storage)) => {
///                 storage.tags.extend(text(&values, 1).map(str::to_owned));
///                 Admission::Store(storage)
///             }
///             (_, other) => other,
///         })
///     }
/// }
///
/// holm_sdk::policy!(ByKind: admit);
/// # fn main() {}
/// ```
pub trait Admit: Policy {
    /// Returns the inputs of [`Admit::decide`], at most 64, in their order.
    fn reads(&self) -> Vec<Input>;

    /// Decides about one response. `suggested` is what the host would do; returned unchanged, it is what happens.
    ///
    /// # Errors
    /// A [`Fault`] leaves the response without the policy's opinion: the route decides what happens then.
    fn decide(&self, values: Values, suggested: Admission) -> Result<Admission, Fault>;
}
