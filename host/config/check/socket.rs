//! The paths of Unix sockets.

use std::path::{Path, PathBuf};

use toml::Spanned;

use crate::config::findings::Findings;

/// Bytes of a socket's path that systems take.
pub(super) const BYTES_MAX: usize = 107;

/// Bytes by which the path is longer under which a node binds a socket, before the file has its name: a dot and the
/// number of the process.
const BESIDE: usize = 8;

/// Whether a path can't be told from a socket's path and a path of requests: in an endpoint's URL a colon ends the first.
pub(super) fn has_colon(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().contains(&b':')
}

/// Reads the path of a Unix socket that the node binds.
pub(super) fn bound(given: &Spanned<PathBuf>, role: &str, findings: &mut Findings<'_>) -> PathBuf {
    let path = findings.path(given, role);
    let (bytes, allowed) = (path.as_os_str().len(), BYTES_MAX - BESIDE);
    if bytes > allowed {
        let message = format!("the path of the {role} has {bytes} bytes");
        let help = format!(
            "allowed are {allowed}: systems take {BYTES_MAX}, and at first it ends with the number of the process"
        );
        findings.refuse(given.span(), message, help);
    }
    path
}
