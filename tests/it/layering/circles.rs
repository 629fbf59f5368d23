//! Circles of files inside a room. Files that use each other, at once or by way of others, can only be understood and
//! changed together.
//!
//! An arrow runs from a file to the one that defines what it names. A name that another file only hands on, by a `use`
//! of its own, counts as that of the file which defines it. A file's declarations of its modules and what it hands on
//! of them in a `pub use` are no arrows; nor is anything that only tests have.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

use super::{collect, is_word, tokens};
use crate::harness::repository;

/// Names of names that are followed to the file which defines what is meant.
const FOLLOWED_MAX: usize = 8;

/// How an item begins that only tests have.
const TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

#[test]
fn there_are_no_circles() {
    let host = repository("host");
    let mut sources = Vec::new();
    collect(&host, &host, &mut sources);
    let found: Vec<String> = circles(&sources).iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// Sources, each with its path.
type Sources = &'static [(&'static str, &'static str)];

/// Sources with a circle, and the circle as it is shown.
const CIRCLES: &[(Sources, &str)] = &[
    (
        &[("cache/a.rs", "use super::b::B;"), ("cache/b.rs", "fn f() { crate::cache::a::f() }")],
        "circle: cache/a.rs -> cache/b.rs -> cache/a.rs",
    ),
    (
        &[
            ("cache/a.rs", "use crate::{clock, cache::{b::{self, B}, x}};"),
            ("cache/b.rs", "use super::{c::C as _};"),
            ("cache/c.rs", "pub(super) fn f(_: super::a::A) {}"),
        ],
        "circle: cache/a.rs -> cache/b.rs -> cache/c.rs -> cache/a.rs",
    ),
    // A parent that uses its child, which uses it.
    (
        &[("cache.rs", "mod a;\nuse self::a::A;\npub struct C;"), ("cache/a.rs", "use super::C;")],
        "circle: cache.rs -> cache/a.rs -> cache.rs",
    ),
    (
        &[("cache.rs", "mod a;\nfn f() { a::g() }\nfn h() {}"), ("cache/a.rs", "fn g() { super::h() }")],
        "circle: cache.rs -> cache/a.rs -> cache.rs",
    ),
    // What a parent hands on is its child's.
    (
        &[
            ("cache.rs", "mod a; mod b;\npub use a::A;"),
            ("cache/a.rs", "use super::b;"),
            ("cache/b.rs", "use super::A;"),
        ],
        "circle: cache/a.rs -> cache/b.rs -> cache/a.rs",
    ),
    (
        &[
            ("cache.rs", "mod a; mod b;\nuse self::a::inner::A as Known;"),
            ("cache/a/inner.rs", "use crate::cache::b::B;"),
            ("cache/b.rs", "fn f(_: super::Known) {}"),
        ],
        "circle: cache/a/inner.rs -> cache/b.rs -> cache/a/inner.rs",
    ),
    // A path that begins with what a `use` names.
    (
        &[
            ("plugin/ask.rs", "use super::hook;\nfn f() { hook::key::plan() }"),
            ("plugin/hook.rs", "pub mod key;"),
            ("plugin/hook/key.rs", "use super::super::ask::Ask;"),
        ],
        "circle: plugin/ask.rs -> plugin/hook/key.rs -> plugin/ask.rs",
    ),
    (
        &[("cache/a.rs", "mod inner { use super::super::b::B; }"), ("cache/b.rs", "pub use super::a::inner::f;")],
        "circle: cache/a.rs -> cache/b.rs -> cache/a.rs",
    ),
    (
        &[
            ("cache/a.rs", "use super::{b::B, c::C};"),
            ("cache/b.rs", "use super::a::A;"),
            ("cache/c.rs", "use super::a::A;"),
        ],
        "circle: cache/a.rs -> cache/b.rs -> cache/a.rs, and with them cache/c.rs",
    ),
];

/// Sources without a circle.
const NO_CIRCLES: &[Sources] = &[
    &[
        ("cache.rs", "mod a;\npub use a::A;\npub(crate) use self::a::{B, c::C};\npub struct D;"),
        ("cache/a.rs", "use super::D;"),
    ],
    &[("cache.rs", "mod a;\nuse a::A;"), ("cache/a.rs", "use super::b::B;"), ("cache/b.rs", "use crate::clock;")],
    &[("cache.rs", "use self::a::A;"), ("cache/a.rs", "pub(in crate::cache) struct A;")],
    // Only tests.
    &[
        ("cache/a.rs", "use super::b::B;"),
        ("cache/b.rs", "#[cfg(test)]\nmod tests { use super::super::a::A; fn f() {} }"),
    ],
    &[
        ("cache/a.rs", "use super::b::B;"),
        (
            "cache/b.rs",
            "#[cfg(test)] use super::a::{A, C}; #[cfg(test)] #[inline] fn f(_: [u8; 2]) { super::a::f() } fn g() {}",
        ),
    ],
    &[
        ("cache/a.rs", "use super::b::B;"),
        ("cache/b/tests.rs", "use super::super::a;"),
        ("cache/tests/c.rs", "use crate::cache::b;"),
    ],
    // Other rooms are another rule's.
    &[("cache/a.rs", "use crate::config::x::X;"), ("config/x.rs", "use crate::cache::a::A;")],
    // Libraries, comments, text and methods.
    &[
        ("cache/store.rs", "use super::redis::R;"),
        ("cache/redis.rs", "use redis::store::Client;\nfn f() { ::redis::store::g() }"),
    ],
    &[
        ("cache/a.rs", "use super::b::B;"),
        (
            "cache/b.rs",
            "/// [`super::a::A`]\nconst C: &str = \"super::a\"; fn f(x: X) -> impl T + use<'_> { x.super_::<u8>() }",
        ),
    ],
    &[
        ("main.rs", "mod cli;\nuse cli::policy::run;"),
        ("cli.rs", "pub(crate) mod policy;"),
        ("cli/policy.rs", "use holm::cli;"),
    ],
];

#[test]
fn circles_are_found() {
    for (sources, wanted) in CIRCLES {
        let found: Vec<String> = circles(&owned(sources)).iter().map(ToString::to_string).collect();
        assert_eq!(found, [*wanted], "{sources:?}");
    }
}

#[test]
fn what_is_no_circle_is_let_be() {
    for sources in NO_CIRCLES {
        let found: Vec<String> = circles(&owned(sources)).iter().map(ToString::to_string).collect();
        assert_eq!(found, Vec::<String>::new(), "{sources:?}");
    }
}

fn owned(sources: &[(&str, &str)]) -> Vec<(String, String)> {
    sources.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

/// Files of which each uses each other one, at once or by way of others.
struct Circle<'t> {
    /// In alphabetical order.
    files: Vec<&'t str>,
    /// The shortest way from the first one back to it.
    way: Vec<&'t str>,
}

impl fmt::Display for Circle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "circle: {}", self.way.join(" -> "))?;
        let others: Vec<&str> = self.files.iter().filter(|file| !self.way.contains(file)).copied().collect();
        if others.is_empty() { Ok(()) } else { write!(f, ", and with them {}", others.join(", ")) }
    }
}

/// The files that each file uses.
type Arrows<'t> = BTreeMap<&'t str, BTreeSet<&'t str>>;

/// All circles of files inside the rooms.
fn circles(sources: &[(String, String)]) -> Vec<Circle<'_>> {
    let arrows = House::new(sources).arrows();
    let reached: BTreeMap<&str, BTreeSet<&str>> = arrows.keys().map(|file| (*file, reached(&arrows, file))).collect();
    let mut circles: Vec<Circle<'_>> = Vec::new();
    for (file, ahead) in &reached {
        if !ahead.contains(file) || circles.iter().any(|circle| circle.files.contains(file)) {
            continue;
        }
        let files = ahead.iter().filter(|other| reached[**other].contains(file)).copied().collect();
        circles.push(Circle { files, way: way_back(&arrows, file) });
    }
    circles
}

/// The files that `from` uses, at once or by way of others.
fn reached<'t>(arrows: &Arrows<'t>, from: &str) -> BTreeSet<&'t str> {
    let mut reached = BTreeSet::new();
    let mut ahead: Vec<&'t str> = arrows[from].iter().copied().collect();
    while let Some(file) = ahead.pop() {
        if reached.insert(file) {
            ahead.extend(&arrows[file]);
        }
    }
    reached
}

/// The shortest way from a file back to itself; empty if there is none.
fn way_back<'t>(arrows: &Arrows<'t>, from: &'t str) -> Vec<&'t str> {
    let mut ways = VecDeque::from([vec![from]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        for next in &arrows[way[way.len() - 1]] {
            let mut longer = way.clone();
            longer.push(*next);
            if *next == from {
                return longer;
            }
            if seen.insert(*next) {
                ways.push_back(longer);
            }
        }
    }
    Vec::new()
}

/// All files by the path of their module from the crate's root.
struct House<'t> {
    files: BTreeMap<Vec<&'t str>, File<'t>>,
}

struct File<'t> {
    path: &'t str,
    module: Vec<&'t str>,
    mentions: Vec<Mention<'t>>,
    /// The paths that its `use` declarations bring into scope, paths from the crate's root.
    bound: BTreeMap<&'t str, Vec<&'t str>>,
}

/// A path that a file names.
struct Mention<'t> {
    segments: Vec<&'t str>,
    /// The modules inside of the file that it stands in.
    within: Vec<&'t str>,
    /// The name that a `use` gives it.
    name: Option<&'t str>,
    /// Whether that `use` hands it on.
    is_public: bool,
}

impl<'t> House<'t> {
    fn new(sources: &'t [(String, String)]) -> Self {
        let mut house = Self { files: BTreeMap::new() };
        for (path, text) in sources {
            let module: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
            // The roots of the crates declare everything and are used by nobody.
            if module.contains(&"tests") || matches!(module[..], ["main" | "lib"]) {
                continue;
            }
            let mentions = mentions(&without_tests(&tokens(text)));
            house.files.insert(module.clone(), File { path, module, mentions, bound: BTreeMap::new() });
        }
        // Twice, because a `use` may begin with what another one names.
        for _ in 0..2 {
            let bound: Vec<_> = house.files.values().map(|file| (file.module.clone(), house.bound(file))).collect();
            for (module, bound) in bound {
                if let Some(file) = house.files.get_mut(&module) {
                    file.bound = bound;
                }
            }
        }
        house
    }

    fn bound(&self, file: &File<'t>) -> BTreeMap<&'t str, Vec<&'t str>> {
        let named = |mention: &Mention<'t>| Some((mention.name?, self.absolute(file, mention)?));
        file.mentions.iter().filter_map(named).collect()
    }

    fn arrows(&self) -> Arrows<'t> {
        let used = |file: &File<'t>, mention: &Mention<'t>| {
            let home = self.home(&self.absolute(file, mention)?, FOLLOWED_MAX)?;
            let hands_on = mention.is_public && home.module.starts_with(&file.module);
            let is_arrow = home.module[0] == file.module[0] && home.path != file.path && !hands_on;
            is_arrow.then_some(home.path)
        };
        let of = |file: &File<'t>| {
            let files: BTreeSet<&'t str> = file.mentions.iter().filter_map(|mention| used(file, mention)).collect();
            (file.path, files)
        };
        self.files.values().map(of).collect()
    }

    /// A path from the crate's root; none if it is another crate's.
    fn absolute(&self, file: &File<'t>, mention: &Mention<'t>) -> Option<Vec<&'t str>> {
        let mut module = [file.module.as_slice(), mention.within.as_slice()].concat();
        let mut rest = mention.segments.as_slice();
        let first = *rest.first()?;
        if first == "crate" {
            return Some(rest[1..].to_vec());
        }
        if !matches!(first, "self" | "super") {
            module.push(first);
            let begins = if self.files.contains_key(&module) { &module } else { file.bound.get(first)? };
            return Some([begins.as_slice(), &rest[1..]].concat());
        }
        while let Some(step @ ("self" | "super")) = rest.first().copied() {
            if step == "super" {
                module.pop();
            }
            rest = &rest[1..];
        }
        Some([module.as_slice(), rest].concat())
    }

    /// The file that defines what a path names.
    fn home(&self, path: &[&'t str], follow: usize) -> Option<&File<'t>> {
        let mut depths = (1..=path.len()).rev();
        let (depth, file) = depths.find_map(|depth| Some((depth, self.files.get(&path[..depth])?)))?;
        match path.get(depth).and_then(|name| file.bound.get(name)) {
            Some(bound) if follow > 0 => self.home(&[bound.as_slice(), &path[depth + 1..]].concat(), follow - 1),
            _ => Some(file),
        }
    }
}

/// Every path of at least two segments, and all that is named in a `use`.
fn mentions<'t>(tokens: &[&'t str]) -> Vec<Mention<'t>> {
    let mut mentions = Vec::new();
    // Open braces, and the module that each belongs to.
    let mut braces: Vec<Option<&'t str>> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at).copied() {
        let next = tokens.get(at + 1).copied().unwrap_or_default();
        // `pub(in path)` limits the users of something, and uses nothing.
        let is_visibility = tokens[..at].ends_with(&["pub", "(", "in"]);
        let begins = at == 0 || !matches!(tokens[at - 1], "::" | ".") && !is_visibility;
        if token == "{" {
            braces.push((at >= 2 && tokens[at - 2] == "mod").then(|| tokens[at - 1]));
        } else if token == "}" {
            braces.pop();
        }
        let within: Vec<&str> = braces.iter().flatten().copied().collect();
        if token == "use" && next != "<" {
            let is_public = is_public(&tokens[..at]);
            let mut leaves = Vec::new();
            at = take_leaves(tokens, at + 1, &[], &mut leaves);
            let leaf = |(segments, name)| Mention { segments, within: within.clone(), name: Some(name), is_public };
            mentions.extend(leaves.into_iter().map(leaf));
        } else if next == "::" && begins && token.starts_with(is_word) {
            let mut segments = vec![token];
            at += 1;
            while let [Some("::"), Some(name)] = [tokens.get(at).copied(), tokens.get(at + 1).copied()]
                && name.starts_with(is_word)
            {
                segments.push(name);
                at += 2;
            }
            mentions.push(Mention { segments, within, name: None, is_public: false });
        } else {
            at += 1;
        }
    }
    mentions
}

/// Whether what follows `before` is `pub`, `pub(crate)` and the like.
fn is_public(before: &[&str]) -> bool {
    match before {
        [.., "pub"] => true,
        [.., ")"] => before.iter().rposition(|token| *token == "(").is_some_and(|at| at > 0 && before[at - 1] == "pub"),
        _ => false,
    }
}

/// Takes the leaves of the use tree at `at`, each with the name it gets; returns where the tree ends.
fn take_leaves<'t>(
    tokens: &[&'t str],
    mut at: usize,
    prefix: &[&'t str],
    leaves: &mut Vec<(Vec<&'t str>, &'t str)>,
) -> usize {
    let mut segments = prefix.to_vec();
    while let Some(token) = tokens.get(at).copied() {
        at += 1;
        match token {
            "{" => {
                while let Some(token) = tokens.get(at).copied() {
                    at = match token {
                        "}" => return at + 1,
                        "," => at + 1,
                        _ => take_leaves(tokens, at, &segments, leaves),
                    };
                }
                return at;
            }
            // In a group it is the module itself; two colons may come first.
            "self" if !segments.is_empty() => {}
            "::" => continue,
            name => segments.push(name),
        }
        if tokens.get(at) == Some(&"::") {
            at += 1;
            continue;
        }
        let Some(mut name) = segments.last().copied() else { return at };
        if tokens.get(at) == Some(&"as") {
            name = tokens.get(at + 1).copied().unwrap_or(name);
            at += 2;
        }
        leaves.push((segments, name));
        return at;
    }
    at
}

/// The tokens of a source that are compiled without tests, too.
fn without_tests<'t>(tokens: &[&'t str]) -> Vec<&'t str> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at..].starts_with(&TEST) {
            at = item_end(tokens, at + TEST.len());
        } else {
            kept.push(tokens[at]);
            at += 1;
        }
    }
    kept
}

/// Returns the end of the item that begins at `at`.
fn item_end(tokens: &[&str], mut at: usize) -> usize {
    let mut open = 0_usize;
    while let Some(token) = tokens.get(at) {
        match *token {
            "(" | "[" | "{" => open += 1,
            ")" | "]" => open = open.saturating_sub(1),
            "}" if open == 0 => return at,
            "}" => {
                open -= 1;
                if open == 0 {
                    return at + 1;
                }
            }
            ";" if open == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}
