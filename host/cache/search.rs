//! `No-Vary-Search` (draft-ietf-httpbis-no-vary-search-10): which URLs of one path a response says are equivalent. Pure,
//! but for the table of what the last response for a path has said.
//!
//! Such a response is stored under a key that is made of its own rule and of what that leaves of its URL. A request finds
//! it by the rule in the table; so whatever the table says, no request meets a response whose own rule doesn't have both
//! URLs equivalent. What can't be read is no rule, and then each URL is for itself.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{HeaderMap, HeaderName};
use parking_lot::RwLock;
use sfv::{Dictionary, ListEntry, Parser};

use super::key::{Key, KeyHash};
use crate::{
    message::{structured::joined, target::decoded_name},
    policy::Material,
};

/// The header field.
const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");

/// Bytes of a field that is read.
const FIELD_BYTES_MAX: usize = 2_048;

/// Which differences of queries mean nothing ("URL variation config", section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The order of parameters of different names.
    ignores_order: bool,
    parameters: Parameters,
}

/// Names of parameters, decoded, sorted, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Parameters {
    /// All count but these.
    Ignored(Vec<Vec<u8>>),
    /// None count but these.
    Counted(Vec<Vec<u8>>),
}

impl Rule {
    /// Reads the rule of a response (section 5). `None` if it has none, one that can't be read, or one by which every
    /// difference counts.
    #[must_use]
    pub fn of(response: &HeaderMap) -> Option<Self> {
        let text = joined(response, &NO_VARY_SEARCH)?;
        if text.len() > FIELD_BYTES_MAX {
            return None;
        }
        let members = Parser::new(&text).parse::<Dictionary>().ok()?;
        let ignores_order = match members.get("key-order") {
            None => false,
            Some(ListEntry::Item(item)) => item.bare_item.as_boolean()?,
            Some(ListEntry::InnerList(_)) => return None,
        };
        let parameters = match (members.get("params"), members.get("except")) {
            (None, None) => Parameters::Ignored(Vec::new()),
            (Some(ignored), None) => Parameters::Ignored(names(ignored)?),
            (None, Some(counted)) => Parameters::Counted(names(counted)?),
            (Some(_), Some(_)) => return None,
        };
        let rule = Self { ignores_order, parameters };
        (rule != Self { ignores_order: false, parameters: Parameters::Ignored(Vec::new()) }).then_some(rule)
    }

    /// Writes the rule, and what it leaves of a query (section 6): equal for two queries if and only if they are
    /// equivalent by it.
    pub fn write(&self, query: Option<&str>, material: &mut impl Material) {
        let (kind, names) = match &self.parameters {
            Parameters::Ignored(names) => (0, names),
            Parameters::Counted(names) => (1, names),
        };
        material.part(Some(&[u8::from(self.ignores_order), kind]));
        names.iter().for_each(|name| material.part(Some(name)));
        // No name is missing: here the names end.
        material.part(None);
        for (name, value) in self.left_of(query) {
            material.part(Some(&name));
            material.part(Some(&value));
        }
    }

    /// Returns the parameters of a query that count, decoded, in the order in which they are compared.
    fn left_of(&self, query: Option<&str>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        });
        let mut left: Vec<_> = pairs.filter(|(name, _)| self.counts(name)).collect();
        if self.ignores_order {
            // Stable: the order of equal names counts.
            left.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        left
    }

    fn counts(&self, name: &[u8]) -> bool {
        let is_in = |names: &[Vec<u8>]| names.binary_search_by(|known| known.as_slice().cmp(name)).is_ok();
        match &self.parameters {
            Parameters::Ignored(names) => !is_in(names),
            Parameters::Counted(names) => is_in(names),
        }
    }
}

/// Reads an inner list of strings (sections 5.1 and 5.3). `None` if it is something else.
fn names(entry: &ListEntry) -> Option<Vec<Vec<u8>>> {
    let ListEntry::InnerList(list) = entry else { return None };
    let name = |item: &sfv::Item| {
        let name = decoded(item.bare_item.as_string()?.as_str());
        // What isn't text would be another name to another reader.
        str::from_utf8(&name).is_ok().then_some(name)
    };
    let mut names = list.items.iter().map(name).collect::<Option<Vec<Vec<u8>>>>()?;
    names.sort_unstable();
    names.dedup();
    Some(names)
}

/// Decodes a piece of a query as `application/x-www-form-urlencoded` is, but for bytes that aren't UTF-8, which stay
/// apart instead of all becoming U+FFFD.
fn decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    decoded.extend(decoded_name(text));
    decoded
}

/// What the last response for each path has declared, of so many paths at most.
#[derive(Debug)]
pub struct Rules {
    known: RwLock<HashMap<Key, Arc<Rule>, KeyHash>>,
    /// Whether it ever had one: until then a request costs no look.
    is_used: AtomicBool,
    paths_max: usize,
}

impl Rules {
    /// An empty table for so many paths.
    #[must_use]
    pub fn new(paths_max: usize) -> Self {
        Self { known: RwLock::default(), is_used: AtomicBool::new(false), paths_max }
    }

    /// Whether no response has declared anything yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.is_used.load(Ordering::Relaxed)
    }

    /// Returns what the last response for a path has declared.
    #[must_use]
    pub fn get(&self, path: &Key) -> Option<Arc<Rule>> {
        self.known.read().get(path).cloned()
    }

    /// Notes what a response for a path declares. If there is no room, another path is forgotten.
    pub fn note(&self, path: Key, rule: &Arc<Rule>) {
        if self.paths_max == 0 || self.known.read().get(&path) == Some(rule) {
            return;
        }
        let mut known = self.known.write();
        if known.len() >= self.paths_max
            && !known.contains_key(&path)
            && let Some(other) = known.keys().next().copied()
        {
            known.remove(&other);
        }
        known.insert(path, Arc::clone(rule));
        self.is_used.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn rule(lines: &[&str]) -> Option<Rule> {
        let line = |line: &&str| (NO_VARY_SEARCH, HeaderValue::from_str(line).unwrap());
        Rule::of(&lines.iter().map(line).collect())
    }

    fn of(line: &str) -> Rule {
        rule(&[line]).unwrap_or_else(|| panic!("{line} is no rule"))
    }

    #[derive(Default, PartialEq, Eq, Debug)]
    struct List(Vec<Option<Vec<u8>>>);

    impl Material for List {
        fn part(&mut self, part: Option<&[u8]>) {
            self.0.push(part.map(<[u8]>::to_vec));
        }
    }

    fn written(rule: &Rule, query: Option<&str>) -> List {
        let mut list = List::default();
        rule.write(query, &mut list);
        list
    }

    /// Rows of the draft's sentences; what isn't named there is the closed side.
    #[test]
    fn what_is_a_rule() {
        for (lines, wanted) in [
            (&[][..], false),
            (&["key-order"], true),
            (&["params=(\"a\")"], true),
            (&["except=(\"x\")"], true),
            (&["except=()"], true),
            (&["key-order, params=(\"a\" \"b\")"], true),
            (&["key-order", "params=(\"a\")"], true),
            // "The dictionary MAY contain entries whose keys are not one of" these; they are ignored.
            (&["params=(\"a\"), unknown=1"], true),
            // "The following inputs are all invalid and will cause the default config to be returned".
            (&["key-order=\"not a boolean\""], false),
            (&["key-order=(\"a\")"], false),
            (&["params=\"not an inner list\""], false),
            (&["params=(not-a-string)"], false),
            (&["params=?0"], false),
            (&["params=?1"], false),
            (&["params"], false),
            (&["params=?1, except=(\"x\")"], false),
            (&["params=(\"a\"), except=(\"x\")"], false),
            (&["params=(), except=()"], false),
            (&["except=\"not an inner list\""], false),
            (&["except=(not-a-string)"], false),
            (&["except=?1"], false),
            // "key-order=?0" and "params=()" are the default in other words.
            (&["key-order=?0"], false),
            (&["params=()"], false),
            (&["key-order=?0, params=()"], false),
            // Whatever can't be read.
            (&["Key-Order"], false),
            (&["key-order,"], false),
            (&["params=(\"%ff\")"], false),
            (&["params=(\"a\""], false),
            (&[""], false),
        ] {
            assert_eq!(rule(lines).is_some(), wanted, "{lines:?}");
        }
        assert_eq!(rule(&[&format!("params=(\"{}\")", "x".repeat(FIELD_BYTES_MAX))]), None);
        assert_eq!(of("params=(\"b\" \"a\" \"%61\")"), of("params=(\"a\" \"b\")"));
    }

    #[test]
    fn which_queries_are_equivalent() {
        // rule, one query, another one, whether they are equivalent
        for (line, one, other, wanted) in [
            ("key-order", Some("a=1&b=2"), Some("b=2&a=1"), true),
            ("key-order", Some("a=1&a=2"), Some("a=2&a=1"), false),
            ("key-order", Some("a=1&b=2&a=3"), Some("b=2&a=1&a=3"), true),
            ("key-order", Some("a=1"), Some("a=2"), false),
            ("key-order", Some("a=1"), Some("a=1&b"), false),
            // "given any non-default value", spellings of the same parameters are equivalent.
            ("key-order", None, Some(""), true),
            ("key-order", Some("a=b&&&&c"), Some("a=b&c="), true),
            ("key-order", Some("a=x%20y"), Some("a=x+y"), true),
            ("key-order", Some("%61=b"), Some("a=b"), true),
            ("key-order", Some("a=%3D"), Some("a=="), true),
            ("key-order", Some("a=1%26b=2"), Some("a=1&b=2"), false),
            ("key-order", Some("a=%2b"), Some("a=+"), false),
            ("key-order", Some("a=%zz"), Some("a=%ZZ"), false),
            // Both would be U+FFFD.
            ("key-order", Some("a=%fe"), Some("a=%ff"), false),
            ("params=(\"utm\")", Some("utm=1&a=1"), Some("a=1&utm=2"), true),
            ("params=(\"utm\")", Some("utm=1&utm=2"), None, true),
            ("params=(\"utm\")", Some("%75tm=1"), None, true),
            ("params=(\"utm\")", Some("UTM=1"), None, false),
            ("params=(\"utm\")", Some("a=1&b=2"), Some("b=2&a=1"), false),
            ("params=(\"utm\")", Some("utm=1&a=1"), Some("utm=1&a=2"), false),
            ("params=(\"%C3%A9+%E6%B0%97\")", Some("é%20気=1"), Some("%C3%A9+%E6%B0%97=2"), true),
            ("params=(\"\")", Some("=1"), Some("=2"), true),
            ("except=(\"id\")", Some("id=1&x=2"), Some("y=3&id=1"), true),
            ("except=(\"id\")", Some("id=1"), Some("id=2"), false),
            ("except=(\"id\")", Some("id=1"), Some("id=1&id=1"), false),
            ("except=(\"a\" \"b\")", Some("a=1&b=2"), Some("b=2&a=1"), false),
            ("except=(\"a\" \"b\"), key-order", Some("a=1&b=2&c"), Some("b=2&a=1"), true),
            ("except=()", Some("a=1"), None, true),
        ] {
            let rule = of(line);
            assert_eq!(written(&rule, one) == written(&rule, other), wanted, "{line}: {one:?} {other:?}");
        }
    }

    #[test]
    fn different_rules_have_nothing_in_common() {
        let rules = [
            "key-order",
            "params=(\"a\")",
            "params=(\"b\")",
            "params=(\"a\" \"b\")",
            "except=(\"a\")",
            "except=()",
            "key-order, except=()",
            "key-order, params=(\"a\")",
        ];
        for query in [None, Some("a=1"), Some("a=1&b=2")] {
            let written: Vec<List> = rules.iter().map(|line| written(&of(line), query)).collect();
            assert!((1..written.len()).all(|at| !written[..at].contains(&written[at])), "{query:?}");
        }
    }

    #[test]
    fn the_last_rule_of_a_path_counts_and_the_table_has_a_limit() {
        let key = |number| Key::from_bytes([number; 32]);
        let (one, other) = (Arc::new(of("key-order")), Arc::new(of("except=()")));
        let rules = Rules::new(2);
        assert!(rules.is_empty() && rules.get(&key(1)).is_none());
        rules.note(key(1), &one);
        rules.note(key(1), &other);
        assert_eq!(rules.get(&key(1)), Some(Arc::clone(&other)));
        (2..9).for_each(|number| rules.note(key(number), &one));
        assert_eq!((1..9).filter(|number| rules.get(&key(*number)).is_some()).count(), 2);
        assert!(rules.get(&key(8)).is_some() && !rules.is_empty());
        let none = Rules::new(0);
        none.note(key(1), &one);
        assert!(none.is_empty());
    }

    proptest! {
        /// By another way of comparing: pairs without those that don't count, as multisets if the order doesn't.
        #[test]
        fn what_is_written_is_equal_if_and_only_if_the_queries_are_equivalent(
            one in "([ab]=?[12]?&?){0,4}",
            other in "([ab]=?[12]?&?){0,4}",
            line in "(key-order, )?(params=\\(\"a\"\\)|except=\\(\"a\"\\))",
        ) {
            fn pairs<'q>(rule: &str, query: &'q str) -> Vec<(&'q str, &'q str)> {
                let is_left = |name: &str| (name == "a") == rule.contains("except");
                let pairs = query.split('&').filter(|pair| !pair.is_empty());
                let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                let mut left: Vec<_> = pairs.filter(|(name, _)| is_left(name)).collect();
                if rule.contains("key-order") {
                    // Insertion by name, behind its equals.
                    let given = std::mem::take(&mut left);
                    for pair in given {
                        let at = left.iter().position(|(name, _)| *name > pair.0).unwrap_or(left.len());
                        left.insert(at, pair);
                    }
                }
                left
            }
            let rule = of(&line);
            let equal = written(&rule, Some(&one)) == written(&rule, Some(&other));
            prop_assert_eq!(equal, pairs(&line, &one) == pairs(&line, &other), "{}: {} {}", line, one, other);
        }
    }
}
