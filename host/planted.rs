//! Bugs that can be planted in a debug build, so that a test shows that checks find them (`tests/chaos/meta.rs`).
//!
//! The variable [`VARIABLE`] names the one that is planted. A release build has none of this: there [`planted`] is a
//! constant `false`, so that what it guards is not compiled into the program, and the variable is not read.

#[cfg(debug_assertions)]
use std::{
    ffi::{OsStr, OsString},
    sync::OnceLock,
};

/// The environment variable that names the bug to be planted.
pub const VARIABLE: &str = "HOLM_PLANTED_BUG";

/// Declares the bugs, each with its name, so that none can be left out of their list.
macro_rules! plants {
    ($($(#[$doc:meta])* $plant:ident = $name:literal,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Plant {
            $($(#[$doc])* $plant,)*
        }

        impl Plant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$plant,)*];

            /// Returns the name that [`VARIABLE`] has for it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$plant => $name,)*
                }
            }
        }
    };
}

plants! {
    /// Purges are acknowledged, and what is stored is judged without them.
    PurgeIgnored = "purge-ignored",
    /// A node that is cut off from its region's log goes on serving.
    FenceIgnored = "fence-ignored",
    /// Unsafe methods invalidate nothing.
    WriteIgnored = "write-ignored",
    /// The native key doesn't have the query.
    KeyWithoutQuery = "key-without-query",
    /// All variants of a response have one key.
    VaryIgnored = "vary-ignored",
    /// `private` doesn't keep a response from being stored.
    PrivateShared = "private-shared",
    /// A body that is read from the tiers ends a byte early, with a framing that says so.
    BodyCutShort = "body-cut-short",
    /// Parts of two bodies of one key have the same places.
    PartsUnstamped = "parts-unstamped",
    /// What is stored is fresh for ever.
    FreshnessIgnored = "freshness-ignored",
    /// A fresh response is served although the request says `no-cache`.
    ReloadIgnored = "reload-ignored",
    /// Every `If-None-Match` gets 304, whatever validator it names.
    ConditionIgnored = "condition-ignored",
}

/// The variable names no bug that can be planted.
#[cfg(debug_assertions)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("HOLM_PLANTED_BUG is {name:?}, which is no bug that can be planted; allowed: {}", allowed())]
pub struct UnknownBug {
    name: OsString,
}

#[cfg(debug_assertions)]
fn allowed() -> String {
    let names: Vec<&str> = Plant::ALL.iter().map(|plant| plant.name()).collect();
    names.join(", ")
}

/// Returns the bug that is planted in this process, if one is.
///
/// # Errors
/// [`UnknownBug`] if [`VARIABLE`] has a name that stands for none.
#[cfg(debug_assertions)]
pub fn chosen() -> Result<Option<Plant>, UnknownBug> {
    static CHOSEN: OnceLock<Result<Option<Plant>, UnknownBug>> = OnceLock::new();
    CHOSEN.get_or_init(|| choose(std::env::var_os(VARIABLE).as_deref())).clone()
}

#[cfg(debug_assertions)]
fn choose(name: Option<&OsStr>) -> Result<Option<Plant>, UnknownBug> {
    let Some(name) = name else { return Ok(None) };
    let plant = Plant::ALL.iter().copied().find(|plant| name == plant.name());
    plant.map(Some).ok_or_else(|| UnknownBug { name: name.to_owned() })
}

/// Whether this bug is planted.
#[cfg(debug_assertions)]
#[must_use]
pub fn planted(plant: Plant) -> bool {
    // A name that stands for none has kept the node from starting.
    chosen() == Ok(Some(plant))
}

/// Whether this bug is planted: never in a release build.
#[cfg(not(debug_assertions))]
#[must_use]
#[inline]
pub const fn planted(_plant: Plant) -> bool {
    false
}

/// A release build doesn't compile unless each of them is known then not to be planted.
#[cfg(not(debug_assertions))]
const _: () = {
    let mut at = 0;
    while at < Plant::ALL.len() {
        assert!(!planted(Plant::ALL[at]), "a bug is planted in a release build");
        at += 1;
    }
};

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn a_bug_is_known_by_its_name_and_by_no_other() {
        assert_eq!(choose(None), Ok(None));
        for plant in Plant::ALL {
            assert_eq!(choose(Some(OsStr::new(plant.name()))), Ok(Some(*plant)));
        }
        for unknown in ["", "fence", "fence-ignored ", "Fence-Ignored"] {
            let error = choose(Some(OsStr::new(unknown))).unwrap_err().to_string();
            assert!(error.contains(VARIABLE) && error.contains(&format!("{unknown:?}")), "{error}");
            assert!(Plant::ALL.iter().all(|plant| error.contains(plant.name())), "{error}");
        }
    }

    #[test]
    fn none_is_planted_unless_it_is_named() {
        assert!(std::env::var_os(VARIABLE).is_some() || !Plant::ALL.iter().any(|plant| planted(*plant)));
    }
}
