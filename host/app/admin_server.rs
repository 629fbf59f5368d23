//! The listener of the admin API, and who may use it.

use std::{env, ffi::OsStr, net::SocketAddr, path::Path, time::Duration};

use super::error::{AdminError, Error};
use crate::{
    admin::{Gate, TOKEN_VARIABLE, Token},
    config::{self, Config},
    http::{self, Sockets},
};

/// The admin API's listener, bound.
pub(super) struct AdminServer {
    pub(super) server: http::Server,
    pub(super) address: SocketAddr,
    pub(super) gate: Gate,
}

impl AdminServer {
    /// Binds it, if there is to be one, or takes one of `sockets`.
    ///
    /// # Errors
    /// The address can't be bound, the token or a certificate can't be used, or everyone could use it.
    pub(super) async fn bind(config: &Config, sockets: Sockets) -> Result<Option<Self>, Error> {
        let Some(admin) = &config.admin else { return Ok(None) };
        let token = token(admin.token_file.as_deref(), env::var_os(TOKEN_VARIABLE).as_deref())?;
        if is_open(admin, token.as_ref()) {
            return Err(AdminError::Open(admin.address).into());
        }
        let listen = config::Listen { tls: admin.tls.clone(), ..config::Listen::new(admin.address) };
        let timeouts = config::Timeouts { drain: Duration::from_secs(1), ..config.timeouts.clone() };
        let server =
            http::Server::inherit(&[listen], &config.limits, &timeouts, sockets).await.map_err(Error::Admin)?;
        server.listeners().close_unused();
        let address = server.addresses().first().copied().unwrap_or(admin.address);
        Ok(Some(Self { server, address, gate: Gate::new(token, admin.hosts.clone()) }))
    }
}

/// Whether everyone who reaches the address could use the API, and the operator hasn't said that this is meant.
fn is_open(admin: &config::Admin, token: Option<&Token>) -> bool {
    let asks = token.is_some() || admin.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    !asks && !admin.unprotected && !admin.address.ip().to_canonical().is_loopback()
}

/// Returns the token of the file, else that of the environment, if either has one.
fn token(file: Option<&Path>, variable: Option<&OsStr>) -> Result<Option<Token>, AdminError> {
    if let Some(file) = file {
        let bytes = config::read_file(file).map_err(|cause| AdminError::TokenFile { file: file.to_owned(), cause })?;
        let token = String::from_utf8(bytes).ok().and_then(|text| Token::parse(&text).ok());
        return token.map(Some).ok_or_else(|| AdminError::Token(file.display().to_string()));
    }
    let Some(variable) = variable.filter(|text| !text.is_empty()) else { return Ok(None) };
    let token = variable.to_str().and_then(|text| Token::parse(text).ok());
    token.map(Some).ok_or_else(|| AdminError::Token(TOKEN_VARIABLE.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SECRET: &str = "0123456789abcdef";

    #[test]
    fn a_file_goes_before_the_environment_and_a_token_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            fs::write(dir.path().join(name), bytes).unwrap();
            dir.path().join(name)
        };
        let (good, short, odd) = (file("good", SECRET.as_bytes()), file("short", b"secret"), file("odd", b"\xff"));
        let has_token = |file: Option<&Path>, variable: Option<&str>| {
            token(file, variable.map(OsStr::new)).map(|token| token.is_some()).map_err(|error| error.to_string())
        };
        assert_eq!(has_token(None, None), Ok(false));
        assert_eq!(has_token(None, Some("")), Ok(false));
        assert_eq!(has_token(None, Some(SECRET)), Ok(true));
        assert_eq!(has_token(Some(&good), Some("short")), Ok(true), "the variable doesn't count then");
        for (file, variable, words) in [
            (None, Some("secret"), "HOLM_ADMIN_TOKEN"),
            (Some(&short), Some(SECRET), "short"),
            (Some(&odd), None, "odd"),
            (Some(&dir.path().join("gone")), None, "gone"),
        ] {
            let said = has_token(file.map(|file| file.as_path()), variable).unwrap_err();
            assert!(said.contains(words) && !said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn beyond_loopback_it_asks_for_something_or_is_meant_to_be_open() {
        let admin = |address: &str| config::Admin::new(address.parse().unwrap());
        let token = Token::parse(SECRET).unwrap();
        for (address, wanted) in [
            ("127.0.0.1:1", false),
            ("[::1]:1", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("0.0.0.0:1", true),
            ("[::]:1", true),
            ("10.0.0.1:1", true),
        ] {
            let admin = admin(address);
            assert_eq!(is_open(&admin, None), wanted, "{address}");
            assert!(!is_open(&admin, Some(&token)), "{address}");
            let client_ca = Some("ca.pem".into());
            let tls = Some(config::ListenTls { client_ca, ..config::ListenTls::new(Vec::new()) });
            assert!(!is_open(&config::Admin { tls, ..admin.clone() }, None), "{address}");
            assert!(!is_open(&config::Admin { unprotected: true, ..admin }, None), "{address}");
        }
    }
}
