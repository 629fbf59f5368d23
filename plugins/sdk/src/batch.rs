//! The `batch` hook: which items share a batch.

use crate::{Fault, Input, Policy, Values, bindings::batch::exports::holm::policy::batch};

pub use batch::Class;

/// A policy that decides which items share a batch.
///
/// ```
/// use holm_sdk::{Batch, Class, Fault, Input, Policy, Values};
///
/// /// Tenants don't share batches.
/// struct Apart;
///
/// impl Policy for Apart {
///     fn configure(_config: &str) -> Result<Self, Fault> {
///         Ok(Self)
///     }
/// }
///
/// impl Batch for Apart {
///     fn reads(&self) -> Vec<Input> {
///         vec![Input::Header("x-tenant".into())]
///     }
///
///     fn classify(&self, mut values: Values) -> Result<Class, Fault> {
///         let tenant = values.pop().flatten().unwrap_or_default();
///         Ok(Class { group: tenant, ..Class::default() })
///     }
/// }
///
/// holm_sdk::policy!(Apart: batch);
/// # fn main() {}
/// ```
pub trait Batch: Policy {
    /// Returns the inputs of [`Batch::classify`], at most 64, in their order.
    fn reads(&self) -> Vec<Input>;

    /// Decides what one item may share a batch with.
    ///
    /// # Errors
    /// A [`Fault`] leaves the item without the policy's opinion: the route decides what happens then.
    fn classify(&self, values: Values) -> Result<Class, Fault>;
}

/// The host's own class: one group, no priority, its own count and bounds.
impl Default for Class {
    fn default() -> Self {
        Self { group: Vec::new(), priority: 0, weight: 0, max_wait_us: None, max_size: None }
    }
}
