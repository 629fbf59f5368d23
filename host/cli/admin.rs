//! How commands reach the admin API of a node.

use std::{env, fs, path::PathBuf};

use clap::Args;
use holm::admin::{TOKEN_VARIABLE, Trust, client::Access};

#[derive(Args)]
pub(crate) struct AdminFlags {
    /// The admin API of the node: host:port, or a URL
    #[arg(long, default_value = "127.0.0.1:9090")]
    admin: String,
    /// The file of its token [default: the environment's HOLM_ADMIN_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The PEM file of the authorities of its certificate, if it is an https:// URL [default: the public ones]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The PEM file of a certificate to show it
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// The PEM file of that certificate's private key
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
}

impl AdminFlags {
    /// Returns the address and the token. A token has no flag of its own, since others can read a command line.
    ///
    /// # Errors
    /// The file that can't be read, for a person to read.
    pub(crate) fn access(&self) -> Result<Access, String> {
        let token = match &self.token_file {
            Some(file) => {
                Some(fs::read_to_string(file).map_err(|error| format!("{} can't be read: {error}", file.display()))?)
            }
            None => env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty()),
        };
        let client = self.client_cert.clone().zip(self.client_key.clone());
        Ok(Access { address: self.admin.clone(), token, trust: Trust { ca: self.ca.clone(), client } })
    }
}
