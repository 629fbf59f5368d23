//! Which requests may use the admin API: those that call it by a name of its own and show its token, if it has one.

use std::{fmt, net::IpAddr};

use blake3::Hash;
use http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use thiserror::Error;

use super::reply::Refusal;
use crate::message::RequestHead;

/// The variable of the environment that has the token, for the node as for the commands that reach it.
pub const TOKEN_VARIABLE: &str = "HOLM_ADMIN_TOKEN";

/// Characters of the shortest token that is taken.
const TOKEN_CHARS_MIN: usize = 16;

/// The paths that balancers and supervisors ask for. They change nothing and tell nothing worth hiding, and such clients
/// have no token and call a node by any name.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// The rule of which requests may use the admin API.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    token: Option<Token>,
    hosts: Vec<String>,
}

/// A secret that requests show. Only its digest is held, and no output has it.
#[derive(Clone)]
pub struct Token(Hash);

/// Why a text is no token.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a token has {TOKEN_CHARS_MIN} or more characters, all of them visible ASCII")]
pub struct TokenInvalid;

impl Token {
    /// Reads a token; white space around it doesn't count.
    ///
    /// # Errors
    /// [`TokenInvalid`] if it is too short, or can't be sent in a header field.
    pub fn parse(text: &str) -> Result<Self, TokenInvalid> {
        let text = text.trim();
        let is_token = text.len() >= TOKEN_CHARS_MIN && text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_token { Ok(Self(blake3::hash(text.as_bytes()))) } else { Err(TokenInvalid) }
    }

    /// Whether these are its bytes. Takes the same time for all that aren't: digests are compared, and in constant time.
    fn is(&self, given: &[u8]) -> bool {
        self.0 == blake3::hash(given)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Gate {
    /// Lets requests in that show `token`, if there is one, and call the API by an IP address, `localhost`, or one of
    /// `hosts`, which are in lower case and have no port.
    #[must_use]
    pub const fn new(token: Option<Token>, hosts: Vec<String>) -> Self {
        Self { token, hosts }
    }

    /// Whether a request may use the API.
    ///
    /// # Errors
    /// The response that refuses it: 421 or 401.
    pub(super) fn check(&self, head: &RequestHead) -> Result<(), Refusal> {
        if OPEN.contains(&head.target.path()) {
            return Ok(());
        }
        if !self.is_own(head.authority.as_bytes()) {
            let detail = "the admin API isn't called by this name; `admin.hosts` lists names beside IP addresses";
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        match &self.token {
            Some(token) if bearer(&head.headers).is_none_or(|given| !token.is(given)) => {
                let detail = "the admin API wants its token: `Authorization: Bearer …`";
                Err(Refusal::new(StatusCode::UNAUTHORIZED, detail))
            }
            _ => Ok(()),
        }
    }

    /// Whether an authority in its normal form is this API's. By DNS rebinding a page has its own name resolve to this
    /// address, and so calls it by that name; it can't give an IP address or `localhost` another meaning.
    fn is_own(&self, authority: &[u8]) -> bool {
        // A client without a host is no browser.
        let Ok(authority) = str::from_utf8(authority) else { return false };
        if authority.is_empty() || authority.starts_with('[') {
            return true;
        }
        let host = authority.split_once(':').map_or(authority, |(host, _)| host);
        host.parse::<IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || self.hosts.iter().any(|own| own == host)
    }
}

/// Returns the token of a request (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method, Version, uri::PathAndQuery};

    use super::*;
    use crate::message::{Client, Near, Scheme};

    const TOKEN: &str = "0123456789abcdef";

    fn head(authority: &'static str, target: &'static str, credentials: Option<&str>) -> RequestHead {
        let mut headers = HeaderMap::new();
        if let Some(credentials) = credentials {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(credentials).unwrap());
        }
        RequestHead {
            method: Method::GET,
            scheme: Scheme::Http,
            authority: HeaderValue::from_static(authority),
            target: PathAndQuery::from_static(target),
            received: None,
            headers,
            client: Client { ip: [127, 0, 0, 1].into(), version: Version::HTTP_11 },
            near: Near::default(),
        }
    }

    fn refusal(gate: &Gate, head: &RequestHead) -> Option<u16> {
        gate.check(head).err().map(|refusal| refusal.status().as_u16())
    }

    #[test]
    fn only_its_own_names_reach_it() {
        let gate = Gate::new(None, vec!["edge-1.example".to_owned()]);
        for (authority, status) in [
            ("127.0.0.1:9901", None),
            ("192.0.2.1", None),
            ("[::1]:9901", None),
            ("localhost:9901", None),
            ("a.localhost", None),
            ("edge-1.example:9901", None),
            ("edge-1.example", None),
            ("", None),
            ("evil.example", Some(421)),
            ("evil.example:9901", Some(421)),
            ("localhost.evil.example", Some(421)),
            ("127.0.0.1.evil.example", Some(421)),
            ("notlocalhost", Some(421)),
            ("sub.edge-1.example", Some(421)),
        ] {
            assert_eq!(refusal(&gate, &head(authority, "/metrics", None)), status, "{authority}");
        }
        assert_eq!(refusal(&gate, &head("evil.example", "/readyz", None)), None);
        assert_eq!(refusal(&gate, &head("evil.example", "/readyz/x", None)), Some(421));
    }

    #[test]
    fn only_the_token_opens_it() {
        let gate = Gate::new(Some(Token::parse(&format!(" {TOKEN}\n")).unwrap()), Vec::new());
        for (credentials, status) in [
            (Some("Bearer 0123456789abcdef"), None),
            (Some("bearer  0123456789abcdef"), None),
            (None, Some(401)),
            (Some("Bearer 0123456789abcdeF"), Some(401)),
            (Some("Bearer 0123456789abcde"), Some(401)),
            (Some("Bearer 0123456789abcdef0"), Some(401)),
            (Some("Bearer "), Some(401)),
            (Some("Bearer"), Some(401)),
            (Some("Basic 0123456789abcdef"), Some(401)),
            (Some("0123456789abcdef"), Some(401)),
        ] {
            assert_eq!(refusal(&gate, &head("localhost", "/pools", credentials)), status, "{credentials:?}");
        }
        assert_eq!(refusal(&gate, &head("localhost", "/healthz", None)), None);
        assert!(!format!("{gate:?}").contains(TOKEN));
    }

    #[test]
    fn a_token_is_long_and_can_be_sent() {
        for text in ["", "0123456789abcde", "0123456789 abcdef", "0123456789abcdéf", "\n0123456789abcde\n"] {
            assert_eq!(Token::parse(text).map(drop), Err(TokenInvalid), "{text:?}");
        }
    }
}
