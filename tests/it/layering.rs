//! The rules of the house, checked on the sources: which module may use which, which may know which library, and how
//! long a file may grow; [`circles`] has which files may use which, [`clocks`] which may read the wall clock.
//! `docs/ARCHITECTURE.md` has the picture.

mod circles;
mod clocks;

use std::{fs, path::Path};

use crate::harness::repository;

/// From top to bottom. A module uses those of lower rows, and none of its own row.
const ROWS: [&[&str]; 7] = [
    &["main", "cli", "lib"],
    &["demo"],
    &["app", "workbench", "registry"],
    &["http", "pipeline", "plugin", "jobs", "admin", "telemetry"],
    &["cache", "batch", "origin"],
    &["policy"],
    &["config", "error", "clock", "message", "breaker", "figures", "planted", "report", "etcd"],
];

/// The bottom row holds plain values that are made of each other.
const BOTTOM: usize = ROWS.len() - 1;

/// Libraries that only these modules may know, so that they can be exchanged without the others noticing.
const LIBRARIES: [(&[&str], &[&str]); 12] = [
    (&["hyper", "hyper_util", "hyper_rustls"], &["http", "origin", "admin", "demo", "registry"]),
    (&["h2"], &["http", "origin"]),
    (&["h3", "h3_quinn", "quinn"], &["http"]),
    (&["prost"], &["origin", "etcd"]),
    (&["tonic", "tonic_prost"], &["etcd"]),
    (&["hickory_resolver"], &["origin"]),
    (&["wasmtime", "holm_bindings"], &["plugin"]),
    (&["axum"], &["admin"]),
    (&["foyer", "redis", "redb"], &["cache", "jobs"]),
    (&["sfv"], &["cache", "message"]),
    (&["wit_component", "wit_bindgen_core", "wit_bindgen_c", "wit_bindgen_go", "wat"], &["workbench"]),
    (&["clap"], &["main", "cli"]),
];

const LINES_MAX: usize = 800;

#[test]
fn the_sources_keep_the_rules() {
    let host = repository("host");
    let mut sources = Vec::new();
    collect(&host, &host, &mut sources);
    assert!(sources.len() > 40, "only {} sources found", sources.len());
    let faults: Vec<String> = sources.iter().flat_map(|(path, text)| faults(path, text)).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn what_breaks_the_rules_is_found() {
    for (path, text, wanted) in [
        ("cache/key.rs", "use crate::pipeline::Trail;", "cache uses pipeline"),
        ("cache/key.rs", "use crate::{\n    clock,\n    origin::{Pool, x::y},\n};", "cache uses origin"),
        ("cache/key.rs", "fn f() { crate::batch::f() }", "cache uses batch"),
        ("cache.rs", "use super::http::Server;", "cache uses http"),
        ("cache/store/disk.rs", "use super::super::super::batch;", "cache uses batch"),
        ("cache.rs", "mod tests { use super::super::batch::x; }", "cache uses batch"),
        ("cache.rs", "use super::{key::{self, Key}, super::x};\nuse super::{batch, config};", "cache uses batch"),
        ("policy.rs", "use crate::cache;", "policy uses cache"),
        ("config/check.rs", "use crate::policy::Facts;", "config uses policy"),
        ("http/service.rs", "use crate::pipeline::Pipeline;", "http uses pipeline"),
        ("pipeline/web.rs", "use crate::app::App;", "pipeline uses app"),
        ("telemetry.rs", "type T = Box<dyn Fn(crate::plugin::Engine)>;", "telemetry uses plugin"),
        ("main.rs", "use holm::utils::x;", "utils is on no map"),
        ("cli/policy.rs", "use holm::utils::x;", "utils is on no map"),
        ("workbench/build.rs", "use crate::app::App;", "workbench uses app"),
        ("workbench/check.rs", "use wasmtime::Engine;", "workbench knows wasmtime"),
        ("utils.rs", "use crate::clock;", "utils is on no map"),
        ("cache/key.rs", "use crate::*;", "cache uses *"),
        ("pipeline/web.rs", "use hyper::body::Incoming;", "pipeline knows hyper"),
        ("app.rs", "fn f(_: wasmtime::Engine) {}", "app knows wasmtime"),
        ("origin/dial.rs", "use quinn::Endpoint;", "origin knows quinn"),
        ("config/dns.rs", "use hickory_resolver::config::ResolverConfig;", "config knows hickory_resolver"),
        ("app/control.rs", "struct Handler(axum::Router);", "app knows axum"),
        ("cache/purge/etcd.rs", "use tonic::Status;", "cache knows tonic"),
        ("etcd/client.rs", "use crate::cache::tag::Tag;", "etcd uses cache"),
        ("telemetry/access.rs", "use hyper::Error;", "telemetry knows hyper"),
        ("admin/control.rs", "use crate::app::App;", "admin uses app"),
        ("admin/api.rs", "use crate::telemetry::Registry;", "admin uses telemetry"),
        ("report/pool.rs", "use crate::origin::Pool;", "report uses origin"),
        ("cache/mod.rs", "", "mod.rs"),
        ("cache/long.rs", &"\n".repeat(LINES_MAX + 1), "lines"),
    ] {
        let found = faults(path, text);
        assert!(found.iter().any(|fault| fault.contains(wanted)), "{path}: {text}: {found:?} and not {wanted:?}");
    }
}

#[test]
fn what_keeps_the_rules_is_let_be() {
    for (path, text) in [
        ("main.rs", "use holm::{app::App, config, demo};"),
        ("cli/policy.rs", "use clap::Args;\nuse holm::{config, workbench};"),
        ("workbench/check.rs", "use crate::{cache::admit, plugin::Plugin};\nuse wit_component::DecodedWasm;"),
        ("app.rs", "use crate::{cache::Cache, http::Server, pipeline, plugin::Engine};"),
        ("pipeline/web.rs", "use super::{Pipeline, fetch::{self, Ask}};\nuse crate::{cache, origin::Pool, policy};"),
        ("cache/key.rs", "use super::super::clock;\nuse crate::cache::tag::Tag;\n/// [`crate::app::App`]"),
        (
            "cache/key.rs",
            "// use crate::app;\n/* crate::app /* nested */ crate::app */ const A: &str = \"crate::app\";",
        ),
        (
            "cache/key.rs",
            "const B: &str = r#\"crate::app \"quoted\" \"#; const C: char = '\"'; fn f<'a>(_: &'a str) {}",
        ),
        ("cache/store/shared.rs", "use redis::Client;\nmod inner { use super::super::super::tag::Tag; }"),
        ("breaker.rs", "use crate::{clock::Timestamp, config};"),
        ("admin/api.rs", "use axum::Router;\nuse crate::{message::Body, report::PoolInfo};"),
        ("policy/experiment.rs", "use crate::report::Estimate;"),
        ("origin/dial.rs", "use hyper_util::rt::TokioIo;"),
        ("plugin/hook.rs", "use holm_bindings::{exports::holm::pipeline::x, holm::app::y};"),
        ("config/raw.rs", "pub(in crate::config) struct Raw; use self::x::redis::y;"),
    ] {
        assert_eq!(faults(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

/// Every source below `dir` with its path from `host`, except the crate of generated bindings.
fn collect(host: &Path, dir: &Path, sources: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("bindings") {
            collect(host, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(host).unwrap().to_str().unwrap().replace('\\', "/");
            sources.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// All that a source does wrong.
fn faults(path: &str, text: &str) -> Vec<String> {
    let modules: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    let module = modules[0];
    let mut faults = Vec::new();
    if path.ends_with("/mod.rs") {
        faults.push(format!("{path}: no mod.rs; {module}.rs stands beside its folder"));
    }
    if text.lines().count() > LINES_MAX {
        faults.push(format!("{path}: more than {LINES_MAX} lines"));
    }
    let tokens = tokens(text);
    // The files at the top are the crate's root themselves.
    let depth = if module == "main" || module == "lib" { modules.len() - 1 } else { modules.len() };
    let program = module == "main" || module == "cli";
    let uses = Paths { tokens: &tokens, depth, program }.used();
    faults.extend(uses.iter().filter_map(|used| arrow(module, used)).map(|fault| format!("{path}: {fault}")));
    for (libraries, allowed) in LIBRARIES {
        let known = tokens
            .windows(2)
            .enumerate()
            .find(|(at, pair)| libraries.contains(&pair[0]) && pair[1] == "::" && (*at == 0 || tokens[at - 1] != "::"));
        if let Some((_, pair)) = known.filter(|_| !allowed.contains(&module)) {
            faults.push(format!("{path}: {module} knows {}; only {} may", pair[0], allowed.join(", ")));
        }
    }
    faults
}

/// Returns what is wrong with `module` using `used`, if anything is.
fn arrow(module: &str, used: &str) -> Option<String> {
    if module == used {
        return None;
    }
    if used == "*" {
        return Some(format!("{module} uses *, and so everything"));
    }
    let row = |name: &str| ROWS.iter().position(|row| row.contains(&name));
    match (row(module), row(used)) {
        (Some(from), Some(to)) if from < to || (from == BOTTOM && to == BOTTOM) => None,
        // The library's root declares everything and uses nothing.
        (Some(0), Some(_)) => None,
        (Some(_), Some(_)) => Some(format!("{module} uses {used}, which is not below it")),
        (None, _) => Some(format!("{module} is on no map")),
        (_, None) => Some(format!("{used} is on no map")),
    }
}

/// Finds the modules at the crate's root that a source names.
struct Paths<'t> {
    tokens: &'t [&'t str],
    /// Modules that the source's own is deep.
    depth: usize,
    /// Whether it is a part of the program, which uses the library as others do.
    program: bool,
}

impl<'t> Paths<'t> {
    fn used(&self) -> Vec<&'t str> {
        let mut used = Vec::new();
        // Open braces, and whether each belongs to a module.
        let mut braces = Vec::new();
        for (at, token) in self.tokens.iter().enumerate() {
            let begins = at == 0 || self.tokens[at - 1] != "::";
            let depth = self.depth + braces.iter().filter(|is_module| **is_module).count();
            match *token {
                "{" => braces.push(at >= 2 && self.tokens[at - 2] == "mod"),
                "}" => {
                    braces.pop();
                }
                word if begins && (word == "super" || self.is_root(word)) && self.next_is_path(at) => {
                    self.tree(at, depth, &mut used);
                }
                _ => {}
            }
        }
        used
    }

    /// The program names the library as others do; elsewhere `holm` is the package of the plugins' contract.
    fn is_root(&self, word: &str) -> bool {
        word == "crate" || (word == "holm" && self.program)
    }

    fn next_is_path(&self, at: usize) -> bool {
        self.tokens.get(at + 1) == Some(&"::")
    }

    /// Walks the path or use tree at `at`, seen from a module `level` deep; returns where it ends.
    fn tree(&self, mut at: usize, mut level: usize, used: &mut Vec<&'t str>) -> usize {
        loop {
            match self.tokens.get(at).copied() {
                Some(word) if self.is_root(word) && self.next_is_path(at) => level = 0,
                Some("super") => level = level.saturating_sub(1),
                Some("self") => {}
                Some("{") => return self.group(at + 1, level, used),
                Some(name) => {
                    if level == 0 {
                        used.push(name);
                    }
                    return self.skip(at);
                }
                None => return at,
            }
            if !self.next_is_path(at) {
                return at + 1;
            }
            at += 2;
        }
    }

    /// Walks the branches of a group whose brace is before `at`.
    fn group(&self, mut at: usize, level: usize, used: &mut Vec<&'t str>) -> usize {
        while let Some(token) = self.tokens.get(at) {
            at = match *token {
                "}" => return at + 1,
                "," => at + 1,
                _ => self.tree(at, level, used).max(at + 1),
            };
        }
        at
    }

    /// To the end of a branch of which nothing more is of interest.
    fn skip(&self, mut at: usize) -> usize {
        let mut open = 0_usize;
        while let Some(token) = self.tokens.get(at) {
            match *token {
                "{" => open += 1,
                "}" if open == 0 => return at,
                "}" => open -= 1,
                "," | ";" if open == 0 => return at,
                _ => {}
            }
            at += 1;
        }
        at
    }
}

/// Words and marks of a source, without comments, strings, characters and lifetimes.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = ignored(rest).unwrap_or_else(|| {
            let length = match first {
                c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                c => c.len_utf8(),
            };
            if !first.is_whitespace() {
                tokens.push(&rest[..length]);
            }
            length
        });
        rest = &rest[length..];
    }
    tokens
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Bytes of the comment, string, character or lifetime that `text` begins with.
fn ignored(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    match (bytes[0], bytes.get(1)) {
        (b'/', Some(b'/')) => Some(text.find('\n').unwrap_or(text.len())),
        (b'/', Some(b'*')) => Some(block_comment(bytes)),
        (b'"', _) => Some(string(bytes)),
        (b'b' | b'c', Some(b'"')) => Some(1 + string(&bytes[1..])),
        (b'r', Some(b'"' | b'#')) => raw_string(text, 1),
        (b'b' | b'c', Some(b'r')) => raw_string(text, 2),
        (b'\'', Some(b'\\')) => Some(3 + text[3..].find('\'')? + 1),
        (b'\'', Some(_)) => {
            let mut characters = text[1..].char_indices();
            let (_, first) = characters.next()?;
            // A character is closed at once; a lifetime isn't.
            Some(if characters.next().is_some_and(|(_, c)| c == '\'') { first.len_utf8() + 2 } else { 1 })
        }
        _ => None,
    }
}

fn block_comment(bytes: &[u8]) -> usize {
    let (mut at, mut open) = (0, 0_usize);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (at, open) = (at + 2, open + 1),
            [b'*', b'/', ..] => (at, open) = (at + 2, open - 1),
            _ => at += 1,
        }
        if open == 0 {
            break;
        }
    }
    at
}

fn string(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// `r"…"`, `r#"…"#`; `None` if it is a raw identifier or a word.
fn raw_string(text: &str, prefix: usize) -> Option<usize> {
    let hashes = text[prefix..].bytes().take_while(|byte| *byte == b'#').count();
    let body = prefix + hashes + 1;
    if text.as_bytes().get(body - 1) != Some(&b'"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text[body..].find(&end).map_or(text.len(), |at| body + at + end.len()))
}
