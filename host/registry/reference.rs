//! Which component of which registry is meant.

use std::{
    fmt::{self, Display},
    net::IpAddr,
    str::FromStr,
};

use http::{Uri, uri::Authority};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// How a reference begins.
pub const SCHEME: &str = "oci://";

/// Bytes of the name of a repository.
const REPOSITORY_BYTES_MAX: usize = 255;

/// A text isn't a reference.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{given}` names no component: {reason}; allowed is oci://HOST[:PORT]/REPOSITORY@sha256:DIGEST")]
pub struct ReferenceInvalid {
    given: String,
    reason: &'static str,
}

/// A component in a registry, by the digest of its manifest: `oci://HOST[:PORT]/REPOSITORY@sha256:DIGEST`. Tags aren't
/// allowed, since what they name may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    authority: Authority,
    repository: String,
    digest: Digest,
}

impl Reference {
    /// Returns the URL of something in the repository.
    pub(super) fn url(&self, rest: &str) -> String {
        let scheme = if self.is_plain() { "http" } else { "https" };
        format!("{scheme}://{}/v2/{}/{rest}", self.authority, self.repository)
    }

    /// Whether it is asked without TLS: it is on this machine.
    pub(super) fn is_plain(&self) -> bool {
        is_loopback(self.authority.host())
    }

    pub(super) const fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(super) const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns what a token has to allow.
    pub(super) fn scope(&self) -> String {
        format!("repository:{}:pull", self.repository)
    }

    /// Whether a URL to which the registry leads may be asked: by TLS, or on this machine if the registry is.
    pub(super) fn allows(&self, url: &Uri) -> bool {
        let Some(authority) = url.authority() else { return false };
        let is_safe = match url.scheme_str() {
            Some("https") => true,
            Some("http") => self.is_plain() && is_loopback(authority.host()),
            _ => false,
        };
        is_safe && !authority.as_str().contains('@')
    }
}

impl FromStr for Reference {
    type Err = ReferenceInvalid;

    fn from_str(given: &str) -> Result<Self, ReferenceInvalid> {
        let invalid = |reason: &'static str| ReferenceInvalid { given: given.to_owned(), reason };
        let rest = given.strip_prefix(SCHEME).ok_or_else(|| invalid("it doesn't begin with oci://"))?;
        let (authority, rest) = rest.split_once('/').ok_or_else(|| invalid("it has no repository"))?;
        let authority = authority.parse::<Authority>().ok().filter(|authority| !authority.as_str().contains('@'));
        let authority = authority.ok_or_else(|| invalid("the host isn't one"))?;
        let (repository, digest) = rest.split_once('@').ok_or_else(|| invalid("it has no digest"))?;
        if !is_repository(repository) {
            return Err(invalid("the repository isn't one, or has a tag"));
        }
        let digest = Digest::parse(digest).ok_or_else(|| invalid("the digest isn't one"))?;
        Ok(Self { authority, repository: repository.to_owned(), digest })
    }
}

/// Whether a text names a repository: parts of lower-case letters, digits, `.`, `_` and `-` within them.
fn is_repository(text: &str) -> bool {
    let is_inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    let is_outer = |byte: Option<u8>| byte.is_some_and(|byte| is_inner(byte) && byte.is_ascii_alphanumeric());
    let is_part =
        |part: &str| part.bytes().all(is_inner) && is_outer(part.bytes().next()) && is_outer(part.bytes().next_back());
    text.len() <= REPOSITORY_BYTES_MAX && text.split('/').all(is_part)
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The sha256 of something, as registries write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digest(String);

impl Digest {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?;
        let is_hex = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_hex.then(|| Self(text.to_owned()))
    }

    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(format!("sha256:{:x}", Sha256::digest(bytes)))
    }
}

impl Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(host: &str) -> Reference {
        format!("oci://{host}/team/a@{}", Digest::of(b"x")).parse().unwrap()
    }

    #[test]
    fn a_reference_has_a_host_a_repository_and_a_digest() {
        let hex = "a".repeat(64);
        let at = |host: &str, repository: &str| format!("oci://{host}/{repository}@sha256:{hex}");
        for (given, url) in [
            (at("registry.example", "policy"), "https://registry.example/v2/policy/x"),
            (at("registry.example:5000", "team/a-b_c.d"), "https://registry.example:5000/v2/team/a-b_c.d/x"),
            (at("localhost:5000", "a"), "http://localhost:5000/v2/a/x"),
            (at("127.0.0.1:5000", "a"), "http://127.0.0.1:5000/v2/a/x"),
            (at("[::1]:5000", "a"), "http://[::1]:5000/v2/a/x"),
            (at("10.0.0.1", "a"), "https://10.0.0.1/v2/a/x"),
        ] {
            assert_eq!(given.parse::<Reference>().unwrap().url("x"), url);
        }
        for (given, reason) in [
            (at("h", "a").replace("oci:", "https:"), "doesn't begin"),
            (format!("oci://h@sha256:{hex}"), "no repository"),
            (at("me:secret@h", "a"), "the host"),
            (at("", "a"), "the host"),
            (at("h", ""), "the repository"),
            (at("h", "A"), "the repository"),
            (at("h", "../a"), "the repository"),
            (at("h", "a//b"), "the repository"),
            (at("h", "a?b"), "the repository"),
            (at("h", "a:tag"), "has a tag"),
            (at("h", &"a".repeat(256)), "the repository"),
            ("oci://h/a:tag".to_owned(), "no digest"),
            ("oci://h/a@sha256:abc".to_owned(), "the digest"),
            (at("h", "a").to_uppercase().replace("OCI:", "oci:"), "the repository"),
            (at("h", "a").replace("sha256", "sha512"), "the digest"),
        ] {
            let refused = given.parse::<Reference>().unwrap_err().to_string();
            assert!(refused.contains(reason), "{given}: {refused}");
        }
    }

    #[test]
    fn only_what_is_protected_is_asked() {
        for (host, url, wanted) in [
            ("registry.example", "https://store.example/x", true),
            ("registry.example", "http://store.example/x", false),
            ("registry.example", "http://127.0.0.1/x", false),
            ("registry.example", "https://me@store.example/x", false),
            ("registry.example", "/x", false),
            ("localhost:1", "http://127.0.0.1:2/x", true),
            ("localhost:1", "http://store.example/x", false),
            ("localhost:1", "https://store.example/x", true),
        ] {
            assert_eq!(reference(host).allows(&url.parse().unwrap()), wanted, "{host} {url}");
        }
    }

    #[test]
    fn a_digest_is_written_as_registries_do() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        assert_eq!(Digest::parse(empty), Some(Digest::of(b"")));
    }
}
