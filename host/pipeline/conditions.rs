//! Whether a request meets the conditions of a route beside host and path. What could be read in more than one way
//! doesn't meet them: of several lines of a header field, and of several parameters of one name, each has to.

use http::HeaderName;

use crate::{
    config::{Conditions, Wanted},
    message::{RequestHead, target},
};

/// Whether a request meets all of them.
pub(super) fn are_met(conditions: &Conditions, head: &RequestHead) -> bool {
    let Conditions { methods, headers, query } = conditions;
    (methods.is_empty() || methods.contains(&head.method))
        && headers.iter().all(|(name, wanted)| has_header(head, name, wanted))
        && query.iter().all(|(name, wanted)| has_parameter(head, name, wanted))
}

fn has_header(head: &RequestHead, name: &HeaderName, wanted: &Wanted) -> bool {
    let mut lines = head.headers.get_all(name).iter().peekable();
    lines.peek().is_some()
        && match wanted {
            Wanted::Present => true,
            Wanted::Exactly(value) => lines.all(|line| line.as_bytes() == value.as_bytes()),
        }
}

fn has_parameter(head: &RequestHead, name: &str, wanted: &Wanted) -> bool {
    let pairs = head.target.query().unwrap_or_default().split('&');
    let mut values = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(other, _)| target::is_same_parameter(other, name))
        .map(|(_, value)| value)
        .peekable();
    values.peek().is_some()
        && match wanted {
            Wanted::Present => true,
            Wanted::Exactly(wanted) => values.all(|value| target::is_same_parameter(value, wanted)),
        }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::policy::facts::tests::request;

    fn exactly(value: &str) -> Wanted {
        Wanted::Exactly(value.to_owned())
    }

    #[test]
    fn methods_and_header_fields() {
        let version = |wanted: Wanted| Conditions {
            methods: vec![Method::GET],
            headers: vec![(HeaderName::from_static("x-version"), wanted)],
            query: Vec::new(),
        };
        for (method, lines, present, two) in [
            (Method::GET, &[("x-version", "2")][..], true, true),
            (Method::HEAD, &[("x-version", "2")], false, false),
            (Method::GET, &[("x-version", "1")], true, false),
            (Method::GET, &[("x-version", "")], true, false),
            (Method::GET, &[("x-version", "2"), ("x-version", "2")], true, true),
            (Method::GET, &[("x-version", "2"), ("x-version", "1")], true, false),
            (Method::GET, &[("x-version", "2, 1")], true, false),
            (Method::GET, &[("x-versions", "2")], false, false),
        ] {
            let head = request(method, "/", lines);
            assert_eq!(are_met(&version(Wanted::Present), &head), present, "{head:?}");
            assert_eq!(are_met(&version(exactly("2")), &head), two, "{head:?}");
        }
        assert!(are_met(&Conditions::default(), &request(Method::POST, "/", &[])));
    }

    #[test]
    fn parameters_are_compared_decoded() {
        let query =
            |wanted: Wanted| Conditions { query: vec![("user id".to_owned(), wanted)], ..Conditions::default() };
        for (target, present, exact) in [
            ("/", false, false),
            ("/?", false, false),
            ("/?user+id=a/b", true, true),
            ("/?x&us%65r%20id=a%2Fb&y", true, true),
            ("/?user+id", true, false),
            ("/?user+id=", true, false),
            ("/?user+id=a/b&user+id=c", true, false),
            ("/?user+id=a/b&user%20id=%61/b", true, true),
            ("/?user+id=A/b", true, false),
            ("/?user+idx=a/b", false, false),
            ("/?x=user+id=a/b", false, false),
        ] {
            let head = request(Method::GET, target, &[]);
            assert_eq!(are_met(&query(Wanted::Present), &head), present, "{target}");
            assert_eq!(are_met(&query(exactly("a/b")), &head), exact, "{target}");
        }
    }
}
