//! Write a policy for holm in Rust.
//!
//! A policy is a type that is made of the operator's configuration ([`Policy`]) and implements a trait for each hook that
//! it has an opinion in: [`Key`], [`Features`], [`Admit`], [`Route`], [`Batch`], [`Prefetch`]. [`policy!`] turns it into a
//! WebAssembly component that exports just these:
//!
//! ```
//! use holm_sdk::{Fault, Input, Key, Part, Plan, Policy, Transform};
//!
//! struct PerLanguage;
//!
//! impl Policy for PerLanguage {
//!     fn configure(_config: &str) -> Result<Self, Fault> {
//!         Ok(Self)
//!     }
//! }
//!
//! impl Key for PerLanguage {
//!     fn plan(&self) -> Plan {
//!         Plan::Recipe(vec![
//!             Part::new(Input::Authority, Transform::Identity),
//!             Part::new(Input::Path, Transform::Identity),
//!             Part::new(Input::Header("accept-language".into()), Transform::Lowercase),
//!         ])
//!     }
//! }
//!
//! holm_sdk::policy!(PerLanguage: key);
//! # fn main() {}
//! ```
//!
//! The crate needs `crate-type = ["cdylib"]`, the target `wasm32-unknown-unknown`, and `wasm-component-ld` as that
//! target's linker. Its name and version become the policy's. Logic is tested on the host with plain `cargo test`:
//! [`Policy::configure`], [`Key::plan`], [`Key::derive`] and the functions of the other traits are ordinary ones.

mod admit;
mod batch;
#[doc(hidden)]
pub mod bindings;
pub mod config;
mod features;
mod input;
pub mod json;
mod key;
pub mod log;
mod prefetch;
mod route;
#[doc(hidden)]
pub mod rt;
mod values;

pub use admit::{Admission, Admit, Storage};
pub use batch::{Batch, Class};
pub use bindings::base::holm::policy::facts::{Fault, Values};
pub use features::{Edit, Feature, Features, Header, Shape, TENANT, TENANT_WEIGHT};
pub use input::{Encoding, Experiment, Input, Tokens};
pub use key::{Key, Part, Plan, Transform, Verdict, slot};
pub use prefetch::{Hint, Prefetch};
pub use route::{Candidate, Choice, Route, ranked};
pub use values::{bytes, parsed, text};

/// A policy, made once in every instance.
pub trait Policy: Sized + 'static {
    /// Takes the operator's table as JSON (`{}` if there is none); [`config::Table`] reads it.
    ///
    /// # Errors
    /// A [`Fault`] refuses the policy; its detail is what the operator reads.
    fn configure(config: &str) -> Result<Self, Fault>;

    /// The experiments whose arms the host draws; the hooks read them as [`Input::Arm`]. At most 8 of at most 16 arms.
    ///
    /// ```
    /// # use holm_sdk::{Experiment, Fault, Input, Policy};
    /// # struct Sizes;
    /// impl Policy for Sizes {
    ///     fn configure(_config: &str) -> Result<Self, Fault> {
    ///         Ok(Self)
    ///     }
    ///
    ///     /// One user in ten has the large model, and keeps it.
    ///     fn experiments(&self) -> Vec<Experiment> {
    ///         let arms = vec![("small".into(), 9), ("large".into(), 1)];
    ///         vec![Experiment { name: "size".into(), unit: Input::Header("x-user".into()), arms }]
    ///     }
    /// }
    /// ```
    fn experiments(&self) -> Vec<Experiment> {
        Vec::new()
    }
}

impl Fault {
    /// A fault with a code of the policy's own.
    pub fn new(code: u16, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// Exports a type as a component, with the hooks that are named: `policy!(Lane: key, features, route)`. Once in a crate.
///
/// The type implements [`Policy`] and the trait of each hook: [`Key`] for `key`, [`Features`] for `features`, [`Admit`]
/// for `admit`, [`Route`] for `route`, [`Batch`] for `batch`, [`Prefetch`] for `prefetch`.
#[macro_export]
macro_rules! policy {
    ($policy:ty: $($hook:ident),+ $(,)?) => {
        const _: () = {
            ::std::thread_local! {
                static LOADED: ::std::cell::OnceCell<$policy> = const { ::std::cell::OnceCell::new() };
            }
            impl $crate::rt::Loaded for $policy {
                const NAME: &'static str = env!("CARGO_PKG_NAME");
                const VERSION: &'static str = env!("CARGO_PKG_VERSION");
                fn cell() -> &'static ::std::thread::LocalKey<::std::cell::OnceCell<Self>> {
                    &LOADED
                }
            }
            type Exported = $crate::rt::Component<$policy>;
            $crate::bindings::base::export_base!(Exported with_types_in $crate::bindings::base);
            $($crate::__export!($hook Exported);)+
        };
    };
}

/// The exports of [`policy!`] for each hook.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    (key $exported:ident) => {
        $crate::bindings::key::export_key!($exported with_types_in $crate::bindings::key);
    };
    (features $exported:ident) => {
        $crate::bindings::features::export_features!($exported with_types_in $crate::bindings::features);
    };
    (admit $exported:ident) => {
        $crate::bindings::admit::export_admit!($exported with_types_in $crate::bindings::admit);
    };
    (route $exported:ident) => {
        $crate::bindings::route::export_route!($exported with_types_in $crate::bindings::route);
    };
    (batch $exported:ident) => {
        $crate::bindings::batch::export_batch!($exported with_types_in $crate::bindings::batch);
    };
    (prefetch $exported:ident) => {
        $crate::bindings::prefetch::export_prefetch!($exported with_types_in $crate::bindings::prefetch);
    };
}
