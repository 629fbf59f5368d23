//! Why a server can't start.

use std::{io, path::PathBuf};

/// Why a server can't start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address can't be bound.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address as configured.
        address: String,
        /// The error of the system.
        reason: io::Error,
    },
    /// A PEM file can't be read.
    #[error("cannot read {}: {reason}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The error of the system.
        reason: io::Error,
    },
    /// A PEM file holds something else than it should.
    #[error("{}: {reason}", .file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No certificate can be made.
    #[error("no self-signed certificate can be made: {0}")]
    SelfSigned(String),
    /// Client certificates can't be asked for.
    #[error("client certificates of {}: {reason}", .authorities.display())]
    ClientCertificates {
        /// The authorities' file.
        authorities: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS can't be set up.
    #[error("TLS can't be set up: {0}")]
    Settings(Box<rustls::Error>),
    /// Certificate and key can't be used.
    #[error("certificate {} with key {}: {reason}", .certificate.display(), .key.display())]
    Tls {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong with them.
        reason: Box<rustls::Error>,
    },
}
