//! The endpoints of a pool: where they are, and which of them takes what.

use std::{collections::HashSet, net::IpAddr, ops::Range, path::PathBuf};

use http::Uri;
use toml::Spanned;

use super::socket;
use crate::{
    config::{
        Endpoint,
        endpoint::{SRV, UNIX},
        findings::Findings,
        listing::without_userinfo,
        raw,
    },
    message::target::{hides_dots, normal_path},
};

pub(super) fn endpoints(name: &Spanned<String>, raw: &raw::Pool, findings: &mut Findings<'_>) -> Vec<Endpoint> {
    let given = raw.endpoints.as_ref().filter(|given| !given.get_ref().is_empty());
    let Some(given) = given else {
        let span = raw.endpoints.as_ref().map_or_else(|| name.span(), Spanned::span);
        let help = "write `endpoints = [\"http://127.0.0.1:9000\"]`";
        findings.refuse(span, format!("the pool `{}` has no endpoint", name.get_ref()), help);
        return Vec::new();
    };
    let mut places = HashSet::new();
    let mut out: Vec<Endpoint> = Vec::with_capacity(given.get_ref().len());
    for given in given.get_ref() {
        let Some(endpoint) = endpoint(given, findings) else { continue };
        if places.insert(endpoint.written()) {
            out.push(endpoint);
        } else {
            let message = format!("the endpoint `{}` is in this pool twice", given.get_ref().url());
            findings.refuse(given.span(), message, "name each endpoint once");
        }
    }
    out
}

fn endpoint(given: &Spanned<raw::Endpoint>, findings: &mut Findings<'_>) -> Option<Endpoint> {
    match given.get_ref() {
        raw::Endpoint::Url(url) => place(url, given.span(), findings),
        raw::Endpoint::Table(table) => {
            let place = place(table.url.get_ref(), table.url.span(), findings);
            let weight = findings.count("weight", &table.weight, 1, &(1..=1_000));
            let zone = table.zone.as_ref().map(|zone| findings.name(zone, "zone"));
            Some(Endpoint { weight, zone, backup: table.backup.unwrap_or(false), ..place? })
        }
    }
}

/// Reads where an endpoint is.
fn place(text: &str, span: Range<usize>, findings: &mut Findings<'_>) -> Option<Endpoint> {
    let read = match (text.strip_prefix(UNIX), text.strip_prefix(SRV)) {
        (Some(rest), _) => at_socket(rest, &span, findings),
        (None, Some(rest)) => service(rest),
        (None, None) => url(text).map(Endpoint::new),
    };
    match read {
        Ok(endpoint) => Some(endpoint),
        Err(fault) => {
            let message = format!("`{}` is no endpoint: {fault}", without_userinfo(text.to_owned()));
            findings.refuse(
                span,
                message,
                "write `http://host:port` or `https://host:port`, with a path in front of the requests' own if need \
                 be, `unix:/path/of/a.sock`, or `srv+http://_http._tcp.origin.example` for SRV records",
            );
            None
        }
    }
}

/// Reads the path of a Unix socket, and after a colon the path in front of the requests' own, as nginx has them.
fn at_socket(text: &str, span: &Range<usize>, findings: &mut Findings<'_>) -> Result<Endpoint, &'static str> {
    let (path, front) = text.split_once(':').unwrap_or((text, "/"));
    if path.is_empty() {
        return Err("it names no socket");
    }
    if !front.starts_with('/') {
        return Err("what follows the socket and a colon is a path, which begins with `/`");
    }
    if front.contains(['?', '#']) {
        return Err("it has a query, which comes from the client");
    }
    let path = findings.path(&Spanned::new(span.clone(), PathBuf::from(path)), "socket");
    if path.as_os_str().len() > socket::BYTES_MAX {
        return Err("its path has more than 107 bytes, which is as many as systems take");
    }
    if socket::has_colon(&path) {
        return Err("the folder that its path begins in has a colon in its name, which would end the path");
    }
    let url = format!("http://localhost{}", prefix(front)?).parse().map_err(|_| "it isn't a URL")?;
    Ok(Endpoint { socket: Some(path), ..Endpoint::new(url) })
}

/// Reads the URL of a service: its host is the name of SRV records, which have the hosts and ports. The endpoint is
/// called by the domain behind the labels of the service: the operator has written that, and nobody vouches for the
/// names in the records (RFC 9525, section 6.1).
fn service(text: &str) -> Result<Endpoint, &'static str> {
    let url = url(text)?;
    let name = url.host().unwrap_or_default();
    if url.port().is_some() {
        return Err("its ports are those of the SRV records");
    }
    if name.starts_with('[') || name.parse::<IpAddr>().is_ok() {
        return Err("an IP address has no SRV records");
    }
    let mut domain = name;
    while let Some((label, rest)) = domain.split_once('.')
        && label.starts_with('_')
    {
        domain = rest;
    }
    let domain = domain.trim_end_matches('.');
    if domain.is_empty() || domain.starts_with('_') {
        return Err("it names no domain behind the service, as `_http._tcp.origin.example` does");
    }
    let scheme = url.scheme_str().unwrap_or_default();
    let own = format!("{scheme}://{domain}{}", url.path().trim_end_matches('/'));
    let own = own.parse().map_err(|_| "it isn't a URL")?;
    Ok(Endpoint { service: Some(name.to_owned()), ..Endpoint::new(own) })
}

/// Reads a URL. The query is the client's, so it has none of its own.
fn url(text: &str) -> Result<Uri, &'static str> {
    let url: Uri = text.parse().map_err(|_| "it isn't a URL")?;
    let scheme = match url.scheme_str() {
        Some(scheme @ ("http" | "https")) => scheme,
        Some(_) => return Err("its scheme is neither `http` nor `https`"),
        None => return Err("it doesn't begin with `http://`, `https://` or `unix:`"),
    };
    let Some(authority) = url.authority().filter(|authority| !authority.host().is_empty()) else {
        return Err("it names no host");
    };
    if authority.as_str().contains('@') {
        return Err("it holds a user's name, which would be dropped");
    }
    if authority.as_str() == "unix:" {
        return Err("a socket is written without `http://`");
    }
    if authority.port().is_none() && authority.as_str() != authority.host() {
        return Err("its port isn't a number up to 65535");
    }
    if url.query().is_some() || text.contains('#') {
        return Err("it has a query or a fragment, and the query comes from the client");
    }
    format!("{scheme}://{authority}{}", prefix(url.path())?).parse().map_err(|_| "it isn't a URL")
}

/// Returns the path in front of the requests' own in its normal form, without a `/` at its end.
fn prefix(path: &str) -> Result<String, &'static str> {
    let normal = normal_path(path).map_err(|_| "`..` in its path leads above the root")?;
    if hides_dots(&normal) {
        return Err("some servers would find `..` in its path");
    }
    Ok(normal.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> Result<Endpoint, String> {
        let mut findings = Findings::new(Path::new("/etc/holm"));
        let given = Spanned::new(0..1, raw::Endpoint::Url(text.to_owned()));
        let read = endpoint(&given, &mut findings);
        read.ok_or_else(|| findings.problems.iter().map(|problem| problem.message.clone()).collect())
    }

    #[test]
    fn endpoints_are_read_and_written_in_one_form() {
        for (text, written) in [
            ("http://localhost", "http://localhost"),
            ("http://10.0.0.1:9000", "http://10.0.0.1:9000"),
            ("https://[::1]:8443/", "https://[::1]:8443"),
            ("HTTP://a.example:80", "http://a.example:80"),
            ("http://host/v1/", "http://host/v1"),
            ("http://host/a//b/../%63", "http://host/a/c"),
            ("http://host/%7Ea%2fb", "http://host/~a%2Fb"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("unix:app.sock", "unix:/etc/holm/app.sock"),
            ("unix:/run/app.sock:/", "unix:/run/app.sock"),
            ("unix:/run/app.sock:/v1//x/", "unix:/run/app.sock:/v1/x"),
            ("srv+http://_http._tcp.a.example", "srv+http://_http._tcp.a.example"),
            ("srv+https://_https._tcp.a.example./v1//x/", "srv+https://_https._tcp.a.example./v1/x"),
            ("srv+http://web.service.consul", "srv+http://web.service.consul"),
        ] {
            let endpoint = read(text);
            assert_eq!(endpoint.as_ref().map(Endpoint::written).as_deref(), Ok(written), "{text}");
            assert_eq!(read(written), endpoint, "{text}");
        }
    }

    #[test]
    fn a_service_is_called_by_the_domain_behind_its_labels() {
        for (text, service, url) in [
            ("srv+http://_http._tcp.a.example", "_http._tcp.a.example", "http://a.example/"),
            ("srv+https://_x._y._z.a.example./v1/", "_x._y._z.a.example.", "https://a.example/v1"),
            ("srv+http://web.service.consul", "web.service.consul", "http://web.service.consul/"),
            ("srv+http://web._x.consul", "web._x.consul", "http://web._x.consul/"),
        ] {
            let endpoint = read(text).unwrap();
            assert_eq!(endpoint.service.as_deref(), Some(service), "{text}");
            assert_eq!(endpoint.url.to_string(), url, "{text}");
        }
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        let long = format!("unix:/{}", "x".repeat(socket::BYTES_MAX));
        for (text, reason) in [
            ("", "isn't a URL"),
            ("http://", "isn't a URL"),
            ("localhost:9000", "doesn't begin"),
            ("/path", "doesn't begin"),
            ("ftp://host", "scheme"),
            ("http://user@host", "user's name"),
            ("http://host:99999", "port"),
            ("http://host?x=1", "a query"),
            ("http://host/v1?x=1", "a query"),
            ("http://host#x", "a fragment"),
            ("http://host/../v1", "above the root"),
            ("http://host/a/%2e%2e/../v1", "above the root"),
            ("http://host/a/..%2Fv1", "find `..`"),
            ("http://host/a/..;x/v1", "find `..`"),
            ("http://unix:/run/app.sock", "without `http://`"),
            ("unix:", "no socket"),
            ("unix:/run/app.sock:v1", "begins with `/`"),
            ("unix:/run/app.sock:/v1?x", "a query"),
            ("unix:/run/app.sock:/../v1", "above the root"),
            (&long, "more than 107 bytes"),
            ("srv+http://_http._tcp.a.example:80", "ports are those"),
            ("srv+http://10.0.0.1", "an IP address"),
            ("srv+http://[::1]", "an IP address"),
            ("srv+http://_http._tcp", "no domain"),
            ("srv+http://_http._tcp.", "no domain"),
            ("srv+ftp://_ftp._tcp.a.example", "scheme"),
            ("srv+unix:/run/app.sock", "isn't a URL"),
            ("srv+http://_http._tcp.a.example?x", "a query"),
        ] {
            let fault = read(text);
            assert!(fault.as_ref().is_err_and(|fault| fault.contains(reason)), "{text}: {fault:?}");
        }
    }
}
