//! Recorded requests, one JSON object a line: the calls of a policy, and the decisions that are expected.
//! `docs/PLUGINS.md` has the format.

mod raw;
mod recorded;
mod rewrite;

use std::fmt;

pub use recorded::Record;
pub(super) use {raw::place, recorded::RecordedResponse, rewrite::with_expectation};

/// Records that are evaluated under one configuration.
#[derive(Clone, Debug)]
pub struct Group {
    /// The line that states it; 0 for what stands before the first such line.
    pub line: usize,
    /// The operator's table, as JSON.
    pub config: Option<String>,
    /// The records.
    pub records: Vec<Record>,
}

/// A line that is no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Which, counted from 1.
    pub line: usize,
    /// What is wrong with it, and what is allowed.
    pub what: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// Reads records. Empty lines are passed over.
///
/// # Errors
/// The first line that is neither a record nor a configuration.
pub fn parse(text: &str) -> Result<Vec<Group>, Flaw> {
    let mut groups = vec![Group { line: 0, config: None, records: Vec::new() }];
    for (line, text) in text.lines().enumerate().map(|(at, text)| (at + 1, text)) {
        if text.trim().is_empty() {
            continue;
        }
        match raw::read(text, line).map_err(|what| Flaw { line, what })? {
            raw::Read::Config(config) => groups.push(Group { line, config: Some(config), records: Vec::new() }),
            raw::Read::Record(record) => {
                if let Some(group) = groups.last_mut() {
                    group.records.push(*record);
                }
            }
        }
    }
    groups.retain(|group| group.line > 0 || !group.records.is_empty());
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Admission, Hook, Pools};

    fn one(text: &str) -> Record {
        parse(text).unwrap().remove(0).records.remove(0)
    }

    #[test]
    fn a_record_says_as_little_as_it_can() {
        let record = one(r#"{"request":{"url":"HTTPS://Shop.Example:8443/p?b=2"}}"#);
        assert_eq!(
            (record.head.method.as_str(), record.head.url().as_str()),
            ("GET", "https://shop.example:8443/p?b=2")
        );
        assert_eq!((record.head.client.ip.to_string().as_str(), record.at.0), ("127.0.0.1", 0));
        assert!(record.body.is_none() && record.expect.is_empty());
        assert_eq!(record.title(), "line 1, GET https://shop.example:8443/p?b=2");
        let asked: Vec<&str> =
            Hook::ALL.into_iter().filter(|hook| record.hook_call(*hook).is_some()).map(Hook::name).collect();
        assert_eq!(asked, ["key", "features", "batch"]);
    }

    #[test]
    fn a_record_says_all_that_a_hook_can_be_asked() {
        let record = one(concat!(
            r#"{"name":"all","at":61,"arms":{"size":"large"},"features":{"urgent":"true"},"hit":true,"#,
            r#""request":{"method":"POST","url":"http://a/","client":"203.0.113.7","client_region":"eu","#,
            r#""headers":{"x-a":["1","2"],"X-B":"ü"},"#,
            r#""json":{"b": [1.0, 2],  "a":"x y\" z"}},"#,
            r#""response":{"status":404,"headers":{"x":"y"},"length":3,"fetch_us":9},"#,
            r#""suggested":{"store":{"ttl_ms":1,"tags":["t"],"vary":["accept"]}},"#,
            r#""candidates":[{"pool":"a","model":"m","p50_us":5,"draining":true},{"pool":"b"}],"#,
            r#""pools":{"models":{"endpoints":2,"healthy":1}},"expect":{"key":{"bypass":"no"},"route":null}}"#
        ));
        assert_eq!(record.body.as_deref(), Some(&br#"{"b":[1.0,2],"a":"x y\" z"}"#[..]), "compact, in its order");
        assert_eq!(record.head.headers.get_all("x-a").iter().count(), 2);
        assert_eq!((record.head.near.client.as_deref(), record.head.near.node.as_deref()), (Some("eu"), None));
        assert_eq!(record.head.headers["x-b"].as_bytes(), "ü".as_bytes());
        assert_eq!((record.at.0, record.title().as_str()), (61_000, "line 1, all"));
        assert!(Hook::ALL.into_iter().all(|hook| record.hook_call(hook).is_some()));
        let answered = record.responded.unwrap();
        assert_eq!((answered.status.as_u16(), answered.length, answered.fetch_us), (404, Some(3), 9));
        assert!(
            matches!(answered.suggested, Admission::Store(storage) if storage.ttl_ms == 1 && storage.vary.len() == 1)
        );
        let [first, second] = record.candidates.as_slice() else { panic!("{:?}", record.candidates) };
        assert_eq!((first.model.as_deref(), first.stats.healthy, first.stats.p50_us), (Some("m"), 0, 5));
        assert_eq!((second.model.as_deref(), second.stats.healthy), (None, 1));
        assert_eq!(record.pools.stats("models").map(|stats| stats.healthy), Some(1));
        assert_eq!(record.expect.iter().map(|(hook, _)| hook.name()).collect::<Vec<_>>(), ["key", "route"]);
    }

    #[test]
    fn bodies_are_json_text_or_hex() {
        for (body, wanted) in [
            (r#""json":null"#, &b"null"[..]),
            (r#""text":"a\nb""#, b"a\nb"),
            (r#""text":"""#, b""),
            (r#""hex":"00fF""#, b"\x00\xff"),
        ] {
            let record = one(&format!(r#"{{"request":{{"url":"http://a/",{body}}}}}"#));
            assert_eq!(record.body.as_deref(), Some(wanted), "{body}");
        }
    }

    #[test]
    fn lines_belong_to_the_configuration_before_them() {
        let record = r#"{"request":{"url":"http://a/"}}"#;
        let groups =
            parse(&format!("{record}\n\n{{\"config\": {{\"a\": 1}}}}\n{record}\n{record}\n{{\"config\":{{}}}}\n"));
        let shape: Vec<_> =
            groups.unwrap().into_iter().map(|group| (group.line, group.config, group.records.len())).collect();
        assert_eq!(shape, [(0, None, 1), (3, Some(r#"{"a": 1}"#.into()), 2), (6, Some("{}".into()), 0)]);
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_record_is_named_with_its_line() {
        let with = |rest: &str| format!(r#"{{"request":{{"url":"http://a/"}},{rest}}}"#);
        for (text, words) in [
            ("[]".to_owned(), "a line is a JSON object"),
            ("{".to_owned(), "at column 1"),
            ("{}".to_owned(), "a record has a `request`"),
            (r#"{"config":{},"name":"x"}"#.to_owned(), "`config` stands alone"),
            (r#"{"config":[]}"#.to_owned(), "`config` is a JSON object"),
            (r#"{"requests":{}}"#.to_owned(), "unknown field `requests`, expected one of"),
            (r#"{"request":{}}"#.to_owned(), "missing field `url`"),
            (
                r#"{"request":{"url":"/p"}}"#.to_owned(),
                "`request.url` `/p` is not http://host/path or https://host/path: it isn't absolute",
            ),
            (r#"{"request":{"url":"ftp://a/"}}"#.to_owned(), "its scheme is neither"),
            (r#"{"request":{"url":"http://me@a/"}}"#.to_owned(), "it has a user name"),
            (r#"{"request":{"url":"http://a/","method":"A B"}}"#.to_owned(), "`request.method` `A B`"),
            (
                r#"{"request":{"url":"http://a/","headers":{"a b":"c"}}}"#.to_owned(),
                "`a b` is not the name of a header field",
            ),
            (r#"{"request":{"url":"http://a/","headers":{"a":"b\nc"}}}"#.to_owned(), "the header field `a`"),
            (r#"{"request":{"url":"http://a/","headers":{"host":"b"}}}"#.to_owned(), "`host` is said by `request.url`"),
            (r#"{"request":{"url":"http://a/","json":1,"text":"a"}}"#.to_owned(), "one of `json`, `text` and `hex`"),
            (r#"{"request":{"url":"http://a/","hex":"0"}}"#.to_owned(), "`request.hex` is not pairs of hex digits"),
            (r#"{"request":{"url":"http://a/","client":"x"}}"#.to_owned(), "`request.client` `x`"),
            (with(r#""response":{"status":99}"#), "`response.status` 99"),
            (with(r#""suggested":{"keep":1}"#), "unknown variant `keep`, expected one of"),
            (with(r#""suggested":{"pass":"x"}"#), "`suggested` needs `response`"),
            (with(r#""response":{"status":200},"suggested":{"store":{"vary":["a b"]}}"#), "`a b` is not the name"),
            (with(r#""candidates":[]"#), "`candidates` is empty"),
            (
                with(r#""expect":{"keys":{}}"#),
                "`expect.keys`: allowed are key, features, admit, route, batch, prefetch",
            ),
            (with(r#""expect":{"admit":{}}"#), "`expect.admit` needs `response`"),
            (with(r#""expect":{"route":{}}"#), "`expect.route` needs `candidates`"),
            (with(r#""expect":{"prefetch":{}}"#), "`expect.prefetch` needs `hit`"),
        ] {
            let flaw = parse(&format!("\n{text}")).unwrap_err();
            assert!(flaw.line == 2 && flaw.what.contains(words), "{text}: {flaw}");
        }
    }
}
