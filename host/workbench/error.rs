//! What goes wrong at the workbench, for a person to read.

use std::{fmt, io, path::PathBuf};

use http::StatusCode;
use thiserror::Error;

use crate::{admin::client::ClientError, plugin};

/// Why something wasn't done.
#[derive(Debug, Error)]
pub enum Error {
    /// A file can't be read.
    #[error("{} can't be read: {cause}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// A file can't be written.
    #[error("{} can't be written: {cause}", path.display())]
    Unwritable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// A line of a file isn't what it should be.
    #[error("{}:{line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, and what is allowed.
        what: String,
    },
    /// A file isn't what it should be.
    #[error("{}: {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is allowed.
        what: String,
    },
    /// The request is invalid.
    #[error("{0}")]
    Asked(String),
    /// The engine or the component.
    #[error(transparent)]
    Plugin(#[from] plugin::Error),
    /// There is no response from a node.
    #[error(transparent)]
    Node(#[from] ClientError),
    /// A node refuses.
    #[error("the node at {admin} refuses ({status}): {detail}")]
    Refused {
        /// Its admin API.
        admin: String,
        /// The status of its response.
        status: StatusCode,
        /// Its words.
        detail: String,
    },
    /// A program isn't there.
    #[error("`{program}` isn't installed, and {purpose}. To install it:{}", Indented(install))]
    NoTool {
        /// Its name.
        program: &'static str,
        /// What it is needed for.
        purpose: &'static str,
        /// Commands that install it.
        install: &'static [&'static str],
    },
    /// A program ended with an error.
    #[error("`{program}` failed ({outcome}):\n{output}")]
    Tool {
        /// Its name.
        program: String,
        /// How it ended.
        outcome: String,
        /// What it wrote.
        output: String,
    },
    /// A step inside this program failed.
    #[error("{step}: {cause}")]
    Step {
        /// Which.
        step: &'static str,
        /// Why.
        cause: String,
    },
}

impl Error {
    pub(super) fn unreadable(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Unreadable { path, cause }
    }

    pub(super) fn unwritable(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Unwritable { path, cause }
    }
}

/// Each on a line of its own.
struct Indented<'a>(&'a [&'static str]);

impl fmt::Display for Indented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_its_purpose_and_its_remedy() {
        let error = Error::NoTool { program: "clang", purpose: "C policies are compiled by it", install: &["a", "b"] };
        let words = "`clang` isn't installed, and C policies are compiled by it. To install it:\n    a\n    b";
        assert_eq!(error.to_string(), words);
    }
}
