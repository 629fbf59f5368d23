//! One configuration out of two texts: that of the node's own file, and the central part that many nodes have in common.
//!
//! What belongs to one node is in its own file alone ([`OWN`]); the central part may not name it. `[[route]]`, `[pool]`
//! and `[policy]` are the central part's as a whole; those of the own file hold while there is none. The other tables
//! (`[tls]`, `[http3]`, `[limits]`, `[timeouts]`, `[dns]`, `[prefetch]`, `[replicate]`) are the own file's if it has
//! them, each as a whole, and the central part's otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use toml::Spanned;

use super::{central::Generation, error::Problem, raw::Raw};

/// Keys and tables that belong to one node: its names and addresses, its directories and files, and what only a restart
/// changes.
const OWN: [&str; 12] =
    ["node", "zone", "region", "global", "central", "watch", "listen", "admin", "takeover", "cache", "plugins", "log"];

/// What two texts say together.
#[derive(Debug)]
pub(super) struct Joint {
    /// What both say.
    pub(super) raw: Raw,
    /// What the central part has that it may not have.
    pub(super) problems: Vec<Problem>,
}

/// Returns the problem of a key at the top of the central part that belongs to one node.
fn misplaced(key: &Spanned<String>) -> Option<Problem> {
    OWN.contains(&key.get_ref().as_str()).then(|| refused(key.span(), key.get_ref()))
}

fn refused(span: Range<usize>, key: &str) -> Problem {
    Problem {
        span: Some(span),
        message: format!("`{key}` belongs to one node, and the central configuration can't say it"),
        help: Some("write it into the node's own file".to_owned()),
    }
}

/// Returns the keys at the top of a text.
fn keys(text: &str) -> Result<BTreeMap<Spanned<String>, toml::Value>, Problem> {
    toml::from_str(text).map_err(|error| Problem::from_toml(&error))
}

/// Moves a text so far that its places are those after `from` bytes.
fn moved(text: &str, from: usize) -> String {
    let mut moved = "\n".repeat(from);
    moved.push_str(text);
    moved
}

/// Merges the central part into what the own text says. Places in the central part are counted from `from` on. A part
/// that is complete has the component of each of its policies.
///
/// # Errors
/// The central part isn't what a configuration may be.
pub(super) fn merged(
    own: Raw,
    own_text: &str,
    central: &Generation,
    from: usize,
    is_complete: bool,
) -> Result<Joint, Problem> {
    let text = moved(&central.text, from);
    let part: Raw = toml::from_str(&text).map_err(|error| Problem::from_toml(&error))?;
    let mut problems: Vec<Problem> = keys(&text)?.keys().filter_map(misplaced).collect();
    if let Some(dir) = &part.limits.spool_dir {
        problems.push(refused(dir.span(), "spool_dir"));
    }
    let said: BTreeSet<String> = keys(own_text)?.into_keys().map(Spanned::into_inner).collect();
    let mut raw = Raw { policy: part.policy, pool: part.pool, route: part.route, ..own };
    for (name, policy) in &mut raw.policy {
        match central.components.get(name.get_ref()) {
            Some(file) => policy.file = Spanned::new(policy.file.span(), file.clone()),
            None if is_complete => problems.push(Problem {
                span: Some(policy.file.span()),
                message: format!("the generation has no component of policy `{}`", name.get_ref()),
                help: Some("push the configuration again with `holm config push`".to_owned()),
            }),
            None => {}
        }
    }
    let takes = |table: &str| !said.contains(table);
    if takes("tls") {
        raw.tls = part.tls;
    }
    if takes("http3") {
        raw.http3 = part.http3;
    }
    if takes("limits") {
        raw.limits = part.limits;
    }
    if takes("timeouts") {
        raw.timeouts = part.timeouts;
    }
    if takes("dns") {
        raw.dns = part.dns;
    }
    if takes("prefetch") {
        raw.prefetch = part.prefetch;
    }
    if takes("replicate") {
        raw.replicate = part.replicate;
    }
    Ok(Joint { raw, problems })
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use super::*;
    use crate::config::{Error, load, load_with, parse};

    const OWN_TEXT: &str = "node = \"n1\"\n[limits]\nheaders_max = 50\n[pool.own]\n[[route]]\nname = \"own\"\n";

    fn generation(text: &str) -> Generation {
        let components = BTreeMap::from([("p".to_owned(), PathBuf::from("/components/p.wasm"))]);
        Generation { number: 7, digest: String::new(), text: text.to_owned(), components, record: Arc::default() }
    }

    fn joint(text: &str) -> Joint {
        let own = toml::from_str(OWN_TEXT).unwrap();
        merged(own, OWN_TEXT, &generation(text), OWN_TEXT.len(), true).expect("TOML")
    }

    #[test]
    fn routes_pools_and_policies_are_central_and_other_tables_the_own_files_if_it_has_them() {
        let text = "[limits]\nheaders_max = 9\n[timeouts]\nidle_ms = 5\n[pool.web]\n[policy.p]\nfile = \"x.wasm\"\n\
                    [[route]]\nname = \"all\"\n";
        let Joint { raw, problems } = joint(text);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(raw.node.map(Spanned::into_inner).as_deref(), Some("n1"));
        assert_eq!(raw.pool.keys().map(|name| name.get_ref().as_str()).collect::<Vec<_>>(), ["web"]);
        assert_eq!(raw.route.iter().map(|route| route.name.get_ref().as_str()).collect::<Vec<_>>(), ["all"]);
        assert!(raw.limits.headers_max.is_some_and(|given| given.span().end <= OWN_TEXT.len()), "the own file's");
        let idle = raw.timeouts.idle_ms.expect("the central part's").span();
        assert_eq!(&text[idle.start - OWN_TEXT.len()..idle.end - OWN_TEXT.len()], "5");
        let policy = raw.policy.values().next().expect("a policy");
        assert_eq!(policy.file.get_ref(), &PathBuf::from("/components/p.wasm"), "the component, and not the file");
    }

    #[test]
    fn what_belongs_to_one_node_is_refused_where_it_stands() {
        for (text, key) in [
            ("node = \"n\"", "node"),
            ("zone = \"z\"", "zone"),
            ("watch = false", "watch"),
            ("listen = []", "listen"),
            ("[admin]\naddress = \"127.0.0.1:1\"", "admin"),
            ("[takeover]", "takeover"),
            ("[cache.memory]\nbytes = 1", "cache"),
            ("[plugins]", "plugins"),
            ("[central]\ndir = \"d\"", "central"),
            ("[log]", "log"),
            ("[limits]\nspool_dir = \"d\"", "spool_dir"),
        ] {
            let problems = joint(text).problems;
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert!(problems[0].message.contains(&format!("`{key}` belongs to one node")), "{text}: {problems:?}");
            assert!(problems[0].span.as_ref().is_some_and(|span| span.start >= OWN_TEXT.len()), "{text}: {problems:?}");
        }
    }

    #[test]
    fn a_policy_without_its_component_is_refused() {
        let problems = joint("[policy.other]\nfile = \"x.wasm\"").problems;
        assert!(problems.len() == 1 && problems[0].message.contains("no component of policy `other`"), "{problems:?}");
    }

    #[test]
    fn what_is_wrong_is_named_in_the_text_that_says_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("holm.toml");
        let own = "region.name = \"eu\"\nglobal.etcd = [\"http://h:1\"]\ncentral.dir = \"d\"\n\
                   listen = [{ address = \"127.0.0.1:0\" }]\npool.own.endpoints = [\"http://h:1\"]\n";
        let load = |own: &str, text: &str| {
            std::fs::write(&file, own).unwrap();
            let running = load(&file)?;
            let loaded = load_with(&file, Some(&Arc::new(generation(text))), &running)?;
            Ok::<_, Error>(loaded.pools.keys().cloned().collect::<Vec<String>>())
        };
        assert_eq!(load(own, "[pool.web]\nendpoints = [\"http://h:1\"]").unwrap(), ["web"]);
        for (text, wanted) in [
            ("[pool.web]\nnonsense = 1", ":2:1: unknown key `nonsense`"),
            ("[pool.web]\nendpoints = [\"http://h:1\"]\nattempts_max = 0", ":3:16: `attempts_max` can't be 0"),
            ("\n[admin]\naddress = \"127.0.0.1:1\"", ":2:2: `admin` belongs to one node"),
        ] {
            let said = load(own, text).unwrap_err().to_string();
            assert!(said.contains(&format!("generation 7 of the central configuration{wanted}")), "{text}: {said}");
        }
    }

    #[test]
    fn a_central_configuration_needs_an_etcd() {
        let text = "central.dir = \"d\"\nlisten = [{ address = \"127.0.0.1:0\" }]\npool.a.endpoints = [\"http://h:1\"]";
        let said = parse("t.toml", text).unwrap_err().to_string();
        assert!(said.starts_with("t.toml:1:15: `[central]` needs an etcd to follow"), "{said}");
    }

    #[test]
    fn each_key_of_a_file_has_its_place() {
        let error = toml::from_str::<Raw>("no-such-key = 0").unwrap_err();
        let known: BTreeSet<&str> = super::super::error::quoted(error.message()).skip(1).collect();
        let either = ["tls", "http3", "limits", "timeouts", "dns", "prefetch", "replicate"];
        let placed: BTreeSet<&str> = OWN.into_iter().chain(either).chain(["policy", "pool", "route"]).collect();
        assert_eq!(known, placed, "the keys of a file (left), and where each of them may be said (right)");
    }
}
