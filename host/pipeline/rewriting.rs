//! Rewriting: the path that an origin gets for a client's. What is rewritten is the normal form, and a path that some
//! server might take for one outside of the prefix isn't.

use http::{StatusCode, uri::PathAndQuery};

use crate::{
    config::Rewrite,
    message::{RequestHead, target},
};

/// Why a request's path can't be rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwritable {
    /// Dot segments behind escapes or parameters might lead out of the prefix.
    HidesDots,
    /// It would be longer than a target can be, or the route doesn't take it.
    NoTarget,
}

impl Unwritable {
    /// Returns the status of the refusal, the reason in a word, and what its client is told.
    pub(super) const fn told(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::HidesDots => {
                let detail =
                    "dot segments behind escapes or parameters might lead out of the path that the route writes";
                (StatusCode::BAD_REQUEST, "unsafe-path", detail)
            }
            Self::NoTarget => {
                (StatusCode::URI_TOO_LONG, "path-too-long", "the target would be too long once it is rewritten")
            }
        }
    }
}

/// Returns the path of a request as an origin, or the `{path}` of a redirect, gets it.
///
/// # Errors
/// [`Unwritable`].
pub(super) fn path(rewrite: &Rewrite, path: &str) -> Result<String, Unwritable> {
    if target::hides_dots(path) {
        return Err(Unwritable::HidesDots);
    }
    let rest = match &rewrite.strip_prefix {
        None => path,
        Some(prefix) => target::below(prefix, path).ok_or(Unwritable::NoTarget)?,
    };
    let prefix = rewrite.prefix.as_deref().unwrap_or_default().trim_end_matches('/');
    // What is left of `/api;x` is a parameter of no segment.
    let slash = if prefix.is_empty() && !rest.starts_with('/') { "/" } else { "" };
    Ok(format!("{prefix}{slash}{rest}"))
}

/// Returns the target that an origin gets; the query stays as it came. `None` if there is none.
pub(super) fn target(rewrite: &Rewrite, target: &PathAndQuery) -> Option<PathAndQuery> {
    let mut text = path(rewrite, target.path()).ok()?;
    if let Some(query) = target.query() {
        text.push('?');
        text.push_str(query);
    }
    PathAndQuery::try_from(text).ok()
}

/// Returns why a request can't be sent on under another path, if it can't.
pub(super) fn fault(rewrite: &Rewrite, head: &RequestHead) -> Option<Unwritable> {
    match path(rewrite, head.target.path()) {
        Err(fault) => Some(fault),
        Ok(_) => target(rewrite, &head.target).is_none().then_some(Unwritable::NoTarget),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rewrite(strip_prefix: &str, prefix: &str) -> Rewrite {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Rewrite { strip_prefix: given(strip_prefix), prefix: given(prefix) }
    }

    #[test]
    fn paths_and_queries() {
        for (strip, prefix, target, wanted) in [
            ("/api", "/v2", "/api/x?y=/api", Some("/v2/x?y=/api")),
            ("/api", "/v2", "/api", Some("/v2")),
            ("/api", "/v2", "/api/", Some("/v2/")),
            ("/api", "/v2", "/api?", Some("/v2?")),
            ("/api", "/v2", "/api;x/y", Some("/v2;x/y")),
            ("/api", "", "/api/x", Some("/x")),
            ("/api", "", "/api", Some("/")),
            ("/api", "/", "/api/x", Some("/x")),
            ("/api", "", "/api;x", Some("/;x")),
            ("", "/v2", "/x", Some("/v2/x")),
            ("", "/v2", "/", Some("/v2/")),
            ("/@me", "/u", "/%40me/x%2Fy", Some("/u/x%2Fy")),
            ("/%40me", "/u", "/@me/%40", Some("/u/%40")),
            ("/api", "/v2", "/apix", None),
            ("/api", "/v2", "/api%2Fx", None),
            ("/api", "/v2", "/api/..%2Fx", None),
            ("/api", "/v2", "/api/..%5Cx", None),
            ("/api", "/v2", "/api/..;/x", None),
            ("/api", "/v2", "/api/..%3Bx/y", None),
        ] {
            let target: PathAndQuery = target.parse().unwrap();
            let sent = super::target(&rewrite(strip, prefix), &target);
            assert_eq!(sent.as_ref().map(PathAndQuery::as_str), wanted, "{strip} {prefix} {target}");
        }
        let long: PathAndQuery = format!("/{}", "x".repeat(65_000)).parse().unwrap();
        assert_eq!(super::target(&rewrite("", &format!("/{}", "y".repeat(1_000))), &long), None);
    }

    proptest! {
        /// Whatever a client sends stays below the prefix, for the laxest server as well.
        #[test]
        fn no_path_leaves_the_prefix(path in "(/([ab.;]|%2F|%2E|%5C|%3B|%2e){0,4}){1,5}") {
            let Ok(normal) = target::normal_path(&path) else { return Ok(()) };
            let Ok(sent) = super::path(&rewrite("", "/v2"), &normal) else { return Ok(()) };
            prop_assert_eq!(target::normal_path(&sent).unwrap().into_owned(), sent.clone());
            for reading in target::readings(&sent).iter().chain([&sent]) {
                prop_assert!(target::reaches("/v2", reading), "{} is read as {}", sent, reading);
            }
        }
    }
}
