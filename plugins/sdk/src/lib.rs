//! Write a policy for holm in Rust.
//!
//! A policy is a type that is made of the operator's configuration ([`Policy`]) and implements one trait per hook
//! ([`Key`] is the first). [`policy!`] turns it into a WebAssembly component that exports just these hooks:
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
//! [`Policy::configure`], [`Key::plan`] and [`Key::derive`] are ordinary functions.

#[doc(hidden)]
pub mod bindings;
pub mod config;
mod key;
pub mod log;
#[doc(hidden)]
pub mod rt;

pub use bindings::{
    base::holm::policy::facts::{Fault, Input, Values},
    key::exports::holm::policy::key::{Part, Transform, Verdict},
};
pub use key::{Key, Plan, slot};

/// A policy, made once in every instance.
pub trait Policy: Sized + 'static {
    /// Takes the operator's table as JSON (`{}` if there is none); [`config::Table`] reads it.
    ///
    /// # Errors
    /// A [`Fault`] refuses the policy; its detail is what the operator reads.
    fn configure(config: &str) -> Result<Self, Fault>;
}

impl Fault {
    /// A fault with a code of the policy's own.
    pub fn new(code: u16, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// Exports a type as a component, with the hooks that are named: `policy!(TenantKey: key)`. Once in a crate.
///
/// The type implements [`Policy`] and the trait of each hook: [`Key`] for `key`.
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
                fn reads(&self) -> ::std::vec::Vec<$crate::rt::Reads> {
                    let mut reads = ::std::vec::Vec::new();
                    $(reads.extend($crate::__hook!($hook reads self));)+
                    reads
                }
            }
            type Exported = $crate::rt::Component<$policy>;
            $crate::bindings::base::export_base!(Exported with_types_in $crate::bindings::base);
            $($crate::__hook!($hook export Exported);)+
        };
    };
}

/// What [`policy!`] does for each hook; a further hook is a further pair of rules.
#[doc(hidden)]
#[macro_export]
macro_rules! __hook {
    (key reads $policy:ident) => {
        $crate::rt::key_reads($policy)
    };
    (key export $exported:ident) => {
        $crate::bindings::key::export_key!($exported with_types_in $crate::bindings::key);
    };
}
