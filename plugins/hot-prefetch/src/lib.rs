//! Fetches the page after this one: whoever reads a numbered page is likely to turn it.

use holm_sdk::{Fault, Hint, Input, Policy, Prefetch, Values, config::Table, text};

/// The operator's table.
#[derive(Debug)]
struct HotPrefetch {
    follow: Vec<Rule>,
    /// Only after a hit: what has not been requested before isn't followed either.
    only_hits: bool,
    /// Header fields that the next request has as well, in the order of the inputs.
    headers: Vec<String>,
}

/// A pattern of paths, and the paths that follow.
#[derive(Debug)]
struct Rule {
    place: Place,
    confidence_ppm: u32,
}

/// The place of the number in a page's path.
#[derive(Debug)]
enum Place {
    /// In the path, between these two; the next is at the same distance from other two.
    Path { now: (String, String), next: (String, String), step: u32 },
    /// In a parameter of this path.
    Query { path: String, name: String },
}

impl Policy for HotPrefetch {
    fn configure(config: &str) -> Result<Self, Fault> {
        let mut table = Table::parse(config)?;
        let follow =
            table.tables("follow")?.unwrap_or_default().into_iter().map(Rule::read).collect::<Result<_, _>>()?;
        let only_hits = match table.text("on")?.as_deref() {
            None | Some("hit") => true,
            Some("always") => false,
            Some(_) => return Err(Fault::new(1, "\"on\" isn't hit or always")),
        };
        let headers = table.texts("headers")?.unwrap_or_default();
        table.finish()?;
        Ok(Self { follow, only_hits, headers })
    }
}

impl Rule {
    fn read(mut table: Table) -> Result<Self, Fault> {
        let path = table.text("path")?.filter(|path| path.starts_with('/'));
        let path = path.ok_or_else(|| Fault::new(1, "a rule's \"path\" begins with a slash"))?;
        let place = match table.text("query")? {
            Some(name) => Place::Query { path, name },
            None => {
                let next = table.text("next")?.unwrap_or_else(|| path.replace("{n}", "{n+1}"));
                numbered(&path, &next).ok_or_else(|| {
                    Fault::new(1, format!("no \"{{n}}\" in \"{path}\", or no \"{{n+1}}\" in what is next"))
                })?
            }
        };
        let confidence = table.number::<f64>("confidence")?.unwrap_or(0.5);
        table.finish()?;
        if !(0.0..=1.0).contains(&confidence) {
            return Err(Fault::new(1, "a \"confidence\" is from 0 to 1"));
        }
        Ok(Self { place, confidence_ppm: (confidence * 1_000_000.0).round() as u32 })
    }

    /// The path that follows a request, if this rule applies to it.
    fn next(&self, path: &str, query: Option<&str>) -> Option<String> {
        match &self.place {
            Place::Path { now, next, step } => {
                let number = path.strip_prefix(now.0.as_str())?.strip_suffix(now.1.as_str())?;
                let path = [&next.0, increased(number, *step)?.as_str(), &next.1].concat();
                Some([path.as_str(), if query.is_some() { "?" } else { "" }, query.unwrap_or_default()].concat())
            }
            Place::Query { path: page, name } => {
                let query = turned(query.filter(|_| path == page)?, name)?;
                Some([path, "?", &query].concat())
            }
        }
    }
}

/// A query with the number of this parameter increased, all others as they are.
fn turned(query: &str, name: &str) -> Option<String> {
    let name = [name, "="].concat();
    let number = query.split('&').find_map(|parameter| parameter.strip_prefix(&name))?;
    let (now, next) = ([&name, number].concat(), [name.as_str(), &increased(number, 1)?].concat());
    let parameters = query.split('&').map(|parameter| if parameter == now { &next } else { parameter });
    Some(parameters.collect::<Vec<&str>>().join("&"))
}

/// The parts of `/articles/{n}` and `/articles/{n+1}`.
fn numbered(now: &str, next: &str) -> Option<Place> {
    let (before, after) = now.split_once("{n}")?;
    let (next_before, rest) = next.split_once("{n+")?;
    let (step, next_after) = rest.split_once('}')?;
    let parts = |before: &str, after: &str| (before.to_owned(), after.to_owned());
    let (now, next) = (parts(before, after), parts(next_before, next_after));
    Some(Place::Path { now, next, step: step.parse().ok()? }).filter(|_| next_before.starts_with('/'))
}

/// A number of at most nine digits and what is added, as wide as before.
fn increased(number: &str, step: u32) -> Option<String> {
    let width = number.len();
    let digits = matches!(width, 1..=9) && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse::<u64>().ok().filter(|_| digits)? + u64::from(step);
    Some(format!("{number:0width$}"))
}

/// Hints that the host takes.
const HINTS_MAX: usize = 16;

impl Prefetch for HotPrefetch {
    fn reads(&self) -> Vec<Input> {
        let headers = self.headers.iter().map(|name| Input::Header(name.clone()));
        [Input::Path, Input::QueryAll].into_iter().chain(headers).collect()
    }

    fn suggest(&self, values: Values, hit: bool) -> Result<Vec<Hint>, Fault> {
        let Some(path) = text(&values, 0).filter(|_| hit || !self.only_hits) else { return Ok(vec![]) };
        let header = |(name, n): (&String, usize)| Some((name.clone(), text(&values, n)?.to_owned()));
        let headers: Vec<(String, String)> = self.headers.iter().zip(2..).filter_map(header).collect();
        let hints = self.follow.iter().filter_map(|rule| {
            let path = rule.next(path, text(&values, 1))?;
            Some(Hint { path, headers: headers.clone(), confidence_ppm: rule.confidence_ppm })
        });
        Ok(hints.take(HINTS_MAX).collect())
    }
}

holm_sdk::policy!(HotPrefetch: prefetch);

#[cfg(test)]
mod tests {
    use super::*;

    fn suggested(config: &str, path: &str, query: Option<&str>, hit: bool) -> Vec<(String, u32)> {
        let values = [Some(path), query].map(|value| value.map(|text| text.as_bytes().to_vec())).into();
        let hints = HotPrefetch::configure(config).unwrap().suggest(values, hit).unwrap();
        hints.into_iter().map(|hint| (hint.path, hint.confidence_ppm)).collect()
    }

    #[test]
    fn numbers_in_the_path_go_on() {
        let config =
            r#"{"follow": [{"path": "/a/{n}/x", "confidence": 0.9}, {"path": "/a/{n}/x", "next": "/b/{n+10}"}]}"#;
        for (path, query, next) in [
            ("/a/7/x", None, Some(["/a/8/x", "/b/17"])),
            ("/a/099/x", Some("q=1"), Some(["/a/100/x?q=1", "/b/109?q=1"])),
            ("/a/999999999/x", Some(""), Some(["/a/1000000000/x?", "/b/1000000009?"])),
            ("/a/1000000000/x", None, None),
            ("/a//x", None, None),
            ("/a/7b/x", None, None),
            ("/a/-7/x", None, None),
            ("/a/7/y", None, None),
            ("/c/7/x", None, None),
        ] {
            let wanted = next.map(|[one, two]| vec![(one.to_owned(), 900_000), (two.to_owned(), 500_000)]);
            assert_eq!(suggested(config, path, query, true), wanted.unwrap_or_default(), "{path}");
        }
    }

    #[test]
    fn numbers_in_the_query_go_on() {
        let config = r#"{"follow": [{"path": "/list", "query": "page", "confidence": 1}]}"#;
        for (path, query, next) in [
            ("/list", Some("page=1"), Some("/list?page=2")),
            ("/list", Some("sort=new&page=09&page=1&x"), Some("/list?sort=new&page=10&page=1&x")),
            ("/list", Some("pages=1"), None),
            ("/list", Some("page"), None),
            ("/list", Some("page=two"), None),
            ("/list", None, None),
            ("/list/", Some("page=1"), None),
        ] {
            let wanted: Vec<_> = next.map(|next| (next.to_owned(), 1_000_000)).into_iter().collect();
            assert_eq!(suggested(config, path, query, true), wanted, "{path} {query:?}");
        }
    }

    #[test]
    fn a_miss_is_followed_only_if_the_table_says_so() {
        let config = |on: &str| format!("{{\"follow\": [{{\"path\": \"/{{n}}\"}}]{on}}}");
        for (on, hit, hints) in
            [("", true, 1), ("", false, 0), (", \"on\": \"hit\"", false, 0), (", \"on\": \"always\"", false, 1)]
        {
            assert_eq!(suggested(&config(on), "/1", None, hit).len(), hints, "{on} {hit}");
        }
    }

    #[test]
    fn headers_go_along_and_there_are_not_too_many_hints() {
        let rules = vec![r#"{"path": "/{n}"}"#; 20].join(",");
        let config = format!("{{\"follow\": [{rules}], \"headers\": [\"x-a\", \"x-b\"]}}");
        let values = ["/1", "", "a"].map(|text| Some(text.as_bytes().to_vec())).into_iter().chain([None]).collect();
        let hints = HotPrefetch::configure(&config).unwrap().suggest(values, true).unwrap();
        assert_eq!((hints.len(), &hints[0].headers), (16, &vec![("x-a".to_owned(), "a".to_owned())]));
    }

    #[test]
    fn a_wrong_table_is_refused() {
        for (rules, words) in [
            ("[{}]", "begins with a slash"),
            (r#"[{"path": "a/{n}"}]"#, "begins with a slash"),
            (r#"[{"path": "/a"}]"#, "no \"{n}\" in \"/a\""),
            (r#"[{"path": "/{n}", "next": "/x"}]"#, "no \"{n}\" in \"/{n}\", or"),
            (r#"[{"path": "/{n}", "next": "/{n+x}"}]"#, "or no"),
            (r#"[{"path": "/{n}", "next": "{n+1}"}]"#, "or no"),
            (r#"[{"path": "/{n}", "confidence": 1.5}]"#, "from 0 to 1"),
            (r#"[{"path": "/a", "query": "p", "next": "/{n+1}"}]"#, "unknown field \"next\""),
            (r#"[], "on": "miss""#, "hit or always"),
        ] {
            let fault = HotPrefetch::configure(&format!("{{\"follow\": {rules}}}")).unwrap_err();
            assert!(fault.detail.contains(words), "{rules}: {fault:?}");
        }
    }
}
