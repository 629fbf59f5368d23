//! The `prefetch` hook: which requests will follow.

use crate::{Fault, Input, Policy, Values, bindings::prefetch::exports::holm::policy::prefetch};

pub use prefetch::Hint;

/// A policy that suggests which requests will follow.
///
/// ```
/// use holm_sdk::{Fault, Hint, Input, Policy, Prefetch, Values, text};
///
/// /// A client that reads an article looks at its comments.
/// struct Comments;
///
/// impl Policy for Comments {
///     fn configure(_config: &str) -> Result<Self, Fault> {
///         Ok(Self)
///     }
/// }
///
/// impl Prefetch for Comments {
///     fn reads(&self) -> Vec<Input> {
///         vec![Input::Path]
///     }
///
///     fn suggest(&self, values: Values, _hit: bool) -> Result<Vec<Hint>, Fault> {
///         let article = text(&values, 0).filter(|path| path.starts_with("/articles/") && !path.ends_with("/comments"));
///         let comments = |path| Hint { path: format!("{path}/comments"), headers: vec![], confidence_ppm: 600_000 };
///         Ok(article.map(comments).into_iter().collect())
///     }
/// }
///
/// holm_sdk::policy!(Comments: prefetch);
/// # fn main() {}
/// ```
pub trait Prefetch: Policy {
    /// Returns the inputs of [`Prefetch::suggest`], at most 64, in their order.
    fn reads(&self) -> Vec<Input>;

    /// Suggests what will be requested next; `hit` is whether the response came from the cache. At most 16 hints.
    ///
    /// # Errors
    /// A [`Fault`] counts as no hints.
    fn suggest(&self, values: Values, hit: bool) -> Result<Vec<Hint>, Fault>;
}
