//! The host that a request is for (RFC 9110, section 7.2; RFC 9112, section 3.2; RFC 9113, section 8.3.1).

use std::{borrow::Cow, net::SocketAddr};

use ::http::{HeaderMap, HeaderValue, Uri, Version, header};

use super::rejection::Rejection;
use crate::message::{Scheme, authority};

/// Takes `Host` out of the header fields and determines, with the target's authority, the host that the request is for. A
/// request of HTTP/1.0 needs to name none, as balancers' checks don't: it is for the address that it came to (`local`),
/// which is no other than that of a request that names it.
pub(super) fn resolve(
    uri: &Uri,
    headers: &mut HeaderMap,
    version: Version,
    scheme: Scheme,
    local: Option<SocketAddr>,
) -> Result<HeaderValue, Rejection> {
    let host = take_host(headers)?.map(|value| normal_value(value, scheme)).transpose()?;
    let named = match uri.authority() {
        Some(named) => Some(normal_text(named.as_str(), scheme)?),
        None => None,
    };
    match (named, host) {
        (Some(named), Some(host)) if version >= Version::HTTP_2 && named != host => Err(Rejection::HostDiffers),
        (Some(_), None) if version == Version::HTTP_11 => Err(Rejection::HostMissing),
        (Some(named), _) => Ok(named),
        (None, Some(host)) => Ok(host),
        (None, None) => match local.filter(|_| version <= Version::HTTP_10) {
            Some(local) => {
                let ip = local.ip().to_canonical();
                normal_text(&SocketAddr::new(ip, local.port()).to_string(), scheme)
            }
            None => Err(Rejection::HostMissing),
        },
    }
}

fn take_host(headers: &mut HeaderMap) -> Result<Option<HeaderValue>, Rejection> {
    if headers.get_all(header::HOST).iter().nth(1).is_some() {
        return Err(Rejection::HostRepeated);
    }
    Ok(headers.remove(header::HOST))
}

/// Leaves a value alone, and so uncopied, that is in its normal form already.
fn normal_value(value: HeaderValue, scheme: Scheme) -> Result<HeaderValue, Rejection> {
    let changed = match authority::normal(value.as_bytes(), scheme).ok_or(Rejection::HostMalformed)? {
        Cow::Borrowed(same) if same.len() == value.len() => None,
        other => Some(to_value(&other)?),
    };
    Ok(changed.unwrap_or(value))
}

fn normal_text(text: &str, scheme: Scheme) -> Result<HeaderValue, Rejection> {
    to_value(&authority::normal(text.as_bytes(), scheme).ok_or(Rejection::HostMalformed)?)
}

fn to_value(text: &[u8]) -> Result<HeaderValue, Rejection> {
    HeaderValue::from_bytes(text).map_err(|_| Rejection::HostMalformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_normal_value_is_not_copied() {
        let value = HeaderValue::from_maybe_shared(bytes::Bytes::from_static(b"example.org:8080")).unwrap();
        let before = value.as_bytes().as_ptr();
        assert_eq!(normal_value(value, Scheme::Http).unwrap().as_bytes().as_ptr(), before);
        let value = HeaderValue::from_static("Example.org.:80");
        assert_eq!(normal_value(value, Scheme::Http).unwrap(), "example.org");
    }
}
