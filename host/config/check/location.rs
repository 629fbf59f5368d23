//! The targets of redirects. What a client chooses, its host and its path, can't make a URL of another kind than the
//! operator wrote: the host stays where hosts stand, and no path begins with `//`.

use std::mem;

use crate::{
    config::Piece,
    message::{Scheme, authority},
};

/// Bytes of a target as it is written.
const BYTES_MAX: usize = 2_048;

/// Reads the pieces of a redirect's target: a URL with scheme and host, or a path.
///
/// # Errors
/// Why it is none.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, &'static str> {
    if text.len() > BYTES_MAX {
        return Err("it has more than 2048 bytes");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("it has spaces, line breaks or characters outside ASCII");
    }
    if text.contains('\\') {
        return Err("browsers take `\\` for `/`");
    }
    let is_local = text.starts_with('/') || text.starts_with("{path}");
    let local = match text.split_once("://") {
        _ if is_local => text,
        Some((scheme @ ("http" | "https" | "{scheme}"), rest)) => {
            let end = authority_end(rest);
            check_authority(&rest[..end], scheme)?;
            &rest[end..]
        }
        Some(_) => return Err("its scheme is none of `http`, `https` and `{scheme}`"),
        None => return Err("it begins with neither a scheme and a host nor `/`"),
    };
    check_local(local)?;
    read(text)
}

/// Returns where the path, the query or the fragment begins.
fn authority_end(rest: &str) -> usize {
    let ends = ["/", "?", "#", "{path}", "{query}"].into_iter().filter_map(|end| rest.find(end));
    ends.min().unwrap_or(rest.len())
}

/// Checks that there is a host and perhaps a port, whatever the request's are.
fn check_authority(text: &str, scheme: &str) -> Result<(), &'static str> {
    let scheme = if scheme == "http" { Scheme::Http } else { Scheme::Https };
    let sample = text.replace("{authority}", "h.example:8080").replace("{host}", "h.example");
    authority::normal(sample.as_bytes(), scheme).map(drop).ok_or("it has no host, or one that is none")
}

/// Checks what follows the host, or stands alone.
fn check_local(text: &str) -> Result<(), &'static str> {
    if text.starts_with("//") {
        return Err("it begins with `//`, behind which browsers look for a host");
    }
    if ["{scheme}", "{host}", "{authority}"].into_iter().any(|name| text.contains(name)) {
        return Err("`{scheme}`, `{host}` and `{authority}` stand only where a URL has them");
    }
    let path = text.split(['?', '#']).next().unwrap_or_default();
    if text.matches("{path}").count() != path.matches("{path}").count() || path.contains("/{path}") {
        return Err("`{path}` begins with `/`, and stands before a query, not behind another `/`");
    }
    if path.matches("{path}").count() > 1 {
        return Err("`{path}` stands in it twice");
    }
    match text.find("{query}") {
        Some(at) if text.len() > at + "{query}".len() || text.contains(['?', '#']) => {
            Err("`{query}` has its `?`, and stands at the end")
        }
        _ => Ok(()),
    }
}

fn read(text: &str) -> Result<Vec<Piece>, &'static str> {
    let (mut pieces, mut literal, mut rest) = (Vec::new(), String::new(), text);
    while let Some(first) = rest.chars().next() {
        let named = [
            ("{scheme}", Piece::Scheme),
            ("{host}", Piece::Host),
            ("{authority}", Piece::Authority),
            ("{path}", Piece::Path),
            ("{query}", Piece::Query),
        ];
        if let Some((name, piece)) = named.into_iter().find(|(name, _)| rest.starts_with(name)) {
            if !literal.is_empty() {
                pieces.push(Piece::Text(mem::take(&mut literal)));
            }
            pieces.push(piece);
            rest = &rest[name.len()..];
        } else if matches!(first, '{' | '}') {
            return Err("it has a name in braces that isn't known");
        } else {
            literal.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_are_one() {
        let text = |text: &str| Piece::Text(text.to_owned());
        for (target, wanted) in [
            ("https://{host}{path}{query}", vec![text("https://"), Piece::Host, Piece::Path, Piece::Query]),
            ("{scheme}://{authority}/", vec![Piece::Scheme, text("://"), Piece::Authority, text("/")]),
            ("https://www.{host}:8443/x{path}", vec![text("https://www."), Piece::Host, text(":8443/x"), Piece::Path]),
            ("https://new.example", vec![text("https://new.example")]),
            ("/moved{path}?from=old", vec![text("/moved"), Piece::Path, text("?from=old")]),
            ("{path}/", vec![Piece::Path, text("/")]),
            ("/x?of=https://a", vec![text("/x?of=https://a")]),
        ] {
            assert_eq!(pieces(target), Ok(wanted), "{target}");
        }
    }

    #[test]
    fn targets_by_which_clients_could_choose_the_host() {
        for target in [
            "",
            "//{host}/",
            "/{path}",
            "https://new.example/{path}",
            "https://{path}",
            "https://{query}",
            "https://user@{host}/",
            "https://{host}@new.example/",
            "https://{authority}:1/",
            "{host}/x",
            "{path}{path}",
            "/x?next={path}",
            "/x?a{query}",
            "{query}",
            "/x{query}/y",
            "/x/{host}",
            "javascript://x",
            "ftp://{host}/",
            "/\\new.example",
            "/a b",
            "/a\r\nset-cookie: x",
            "/{name}",
            "/a}",
            "/é",
        ] {
            assert!(pieces(target).is_err(), "{target}: {:?}", pieces(target));
        }
    }
}
