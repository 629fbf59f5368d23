//! The workbench of policy authors and operators: `holm policy new|build|check|test|replay|list|load|promote|rollback`.
//!
//! Offline, policies run in the node's own engine ([`crate::plugin`]), so that what is seen here is what a node does.
//! Online, by the admin API of a node. What is printed comes back as a value with a [`std::fmt::Display`].

mod build;
mod check;
#[cfg(test)]
mod contract;
mod diff;
mod error;
mod evaluate;
mod golden;
mod load;
mod pack;
mod project;
mod record;
mod remote;
mod replay;
mod show;
mod template;
mod time;

pub use build::{Built, build};
pub use check::{Checked, check};
pub use error::Error;
pub use evaluate::{Evaluated, Said, evaluate};
pub use golden::{Golden, Tested, test, update};
pub use load::{Subject, config};
pub use project::{Language, Project};
pub use record::{Flaw, Group, Record, parse as parse_records};
pub use remote::{Introduce, Remote};
pub use replay::{Against, Replay, Replayed, replay};
pub use show::Table;
pub use template::{New, create};
