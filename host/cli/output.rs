//! What commands print.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

/// Prints what there is to say. A reader of only the beginning closes the pipe, and that is no reason to panic.
pub(super) fn print(words: impl Display) {
    let _unread = writeln!(io::stdout().lock(), "{words}");
}
