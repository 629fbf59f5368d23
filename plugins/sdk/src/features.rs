//! The `features` hook: what matters in a request, and what of it is sent to the origin.

use crate::{Fault, Input, Policy, Values, bindings::features::exports::holm::policy::features};

pub use features::{Edit, Header, Shape, Value as Feature};

/// The feature that names the tenant which a request's items are served for, instead of what its route says; a text of 1
/// to 256 bytes.
pub const TENANT: &str = "holm:tenant";

/// The feature that says what the tenant counts for beside others in a pool, instead of what the route gives it: 1 to
/// 1,000.
pub const TENANT_WEIGHT: &str = "holm:tenant-weight";

/// A policy that extracts what matters in a request. Other hooks read the features as [`Input::Feature`]; the edits are
/// applied to what is sent to the origin.
///
/// ```
/// use holm_sdk::{Edit, Fault, Feature, Features, Header, Input, Policy, Shape, Values, bytes};
///
/// /// Urgent requests are sent in a lane of their own, and nobody's name is sent at all.
/// struct Lanes;
///
/// impl Policy for Lanes {
///     fn configure(_config: &str) -> Result<Self, Fault> {
///         Ok(Self)
///     }
/// }
///
/// impl Features for Lanes {
///     fn reads(&self) -> Vec<Input> {
///         vec![Input::BodyJson("/priority".into())]
///     }
///
///     fn extract(&self, values: Values) -> Result<Shape, Fault> {
///         let urgent = bytes(&values, 0) == Some(b"\"high\"");
///         Ok(Shape {
///             features: vec![("urgent".into(), Feature::Flag(urgent))],
///             edits: vec![Edit::remove("/user")],
///             headers: vec![Header::set("x-lane", if urgent { "fast" } else { "slow" })],
///         })
///     }
/// }
///
/// holm_sdk::policy!(Lanes: features);
/// # fn main() {}
/// ```
pub trait Features: Policy {
    /// Returns the inputs of [`Features::extract`], at most 64, in their order.
    fn reads(&self) -> Vec<Input>;

    /// Extracts what matters in one request.
    ///
    /// # Errors
    /// A [`Fault`] leaves the request without features and edits: the route decides what happens then.
    fn extract(&self, values: Values) -> Result<Shape, Fault>;
}

impl Edit {
    /// Sets what is at a pointer (RFC 6901) to a JSON text.
    pub fn set(pointer: &str, json: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), value: Some(json.into()) }
    }

    /// Removes what is at a pointer (RFC 6901).
    pub fn remove(pointer: &str) -> Self {
        Self { pointer: pointer.into(), value: None }
    }
}

impl Header {
    /// Sets a header field.
    pub fn set(name: &str, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: Some(value.into()) }
    }

    /// Removes a header field.
    pub fn remove(name: &str) -> Self {
        Self { name: name.into(), value: None }
    }
}

/// Nothing matters, and the request is sent as it is.
impl Default for Shape {
    fn default() -> Self {
        Self { features: Vec::new(), edits: Vec::new(), headers: Vec::new() }
    }
}
