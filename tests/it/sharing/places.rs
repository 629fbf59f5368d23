//! The routes that the table goes through: both modes and each protocol, without a policy and with each that is shipped
//! and makes sense there.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::harness::{
    node::{Builder, Node},
    origin::Origin,
    repository,
};

/// Names the directory of `plugins/build --out DIR`, which has the policies that the repository doesn't carry compiled.
const FRESH: &str = "HOLM_PLUGINS_FRESH";

/// A busy machine must not make a policy overrun, and what faults in one row must not be held against it in another.
const LIMITS: &str = "call_us = 5000000\nload_ms = 60000\nwait_us = 1000000\ninstances_max = 4\n\
                      breaker = { failures = 1000000 }";

/// A policy, its component and its configuration. Those of `tenant-key` differ in how keys are made: by a recipe or by a
/// call, and of the whole body or of some members.
const POLICIES: [(&str, &str, &str); 10] = [
    ("tenant-key", "tenant-key", "{}"),
    ("tenant-key-call", "tenant-key", "{ require_tenant = true, body = [\"\"] }"),
    ("tenant-key-body", "tenant-key", "{ body = [\"/model\", \"/input\"] }"),
    ("tenant-key-whole", "tenant-key", "{ body = [\"\"] }"),
    ("lane", "lane-rust", "{}"),
    ("language-key", "language-key", "{ languages = [\"en\", \"de\"] }"),
    ("hot-prefetch", "hot-prefetch", "{ follow = [{ path = \"/item/{n}\" }], on = \"always\" }"),
    ("model-router", "model-router", "{ sizes = { m = 1 } }"),
    ("prompt-features", "prompt-features", "{ drop = [\"/user\"], headers = [\"x-tenant\"] }"),
    ("prompt-window", "prompt-window", "{ ignore = [\"/user\"], headers = [\"x-tenant\"] }"),
];

/// Protocol and policy of each route.
const PLACES: [(&str, &str); 22] = [
    (HTTP, ""),
    (HTTP, "tenant-key"),
    (HTTP, "tenant-key-call"),
    (HTTP, "lane"),
    (HTTP, "language-key"),
    (HTTP, "hot-prefetch"),
    (HTTP, "model-router"),
    (PLAIN, ""),
    (PLAIN, "tenant-key-whole"),
    (PLAIN, "tenant-key-call"),
    (PLAIN, "tenant-key-body"),
    (PLAIN, "lane"),
    (PLAIN, "prompt-features"),
    (PLAIN, "prompt-window"),
    (PLAIN, "model-router"),
    (ARRAY, ""),
    (ARRAY, "tenant-key-body"),
    (ARRAY, "lane"),
    (EMBEDDINGS, ""),
    (EMBEDDINGS, "tenant-key-whole"),
    (EMBEDDINGS, "lane"),
    (EMBEDDINGS, "prompt-features"),
];

/// The routes of mode `http`.
pub(super) const HTTP: &str = "http";
/// The routes of mode `infer` by protocol.
pub(super) const PLAIN: &str = "plain";
/// See [`PLAIN`].
pub(super) const ARRAY: &str = "json-array";
/// See [`PLAIN`].
pub(super) const EMBEDDINGS: &str = "openai-embeddings";

/// A route.
#[derive(Clone, Debug)]
pub(super) struct Place {
    name: String,
    pub(super) protocol: &'static str,
    /// Empty if it has none.
    pub(super) policy: &'static str,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, if self.policy.is_empty() { "without a policy" } else { self.policy })
    }
}

impl Place {
    /// Returns the prefix of a row's paths, in one direction.
    pub(super) fn target(&self, row: usize, direction: char) -> String {
        format!("/{}/{row}{direction}", self.name)
    }

    fn route(&self) -> String {
        let Self { name, protocol, policy } = self;
        let mode = match *protocol {
            HTTP => "mode = \"http\"".to_owned(),
            // Calls of the table have `messages` for other protocols, and are to be split all the same.
            EMBEDDINGS => format!("mode = \"infer\"\nprotocol = \"{EMBEDDINGS}\"\nindivisible = []"),
            protocol => format!("mode = \"infer\"\nprotocol = \"{protocol}\""),
        };
        let policy = if policy.is_empty() { String::new() } else { format!("policy = \"{policy}\"") };
        format!("name = \"{name}\"\npath = \"/{name}\"\npool = \"web\"\n{mode}\n{policy}")
    }
}

/// The routes whose policies there are.
pub(super) fn all() -> Vec<Place> {
    let is_here = |policy: &str| policy.is_empty() || file(policy).is_some();
    let places = PLACES.into_iter().enumerate().filter(|(_, (_, policy))| is_here(policy));
    places
        .map(|(number, (protocol, policy))| Place { name: format!("{}{number}", letter(protocol)), protocol, policy })
        .collect()
}

/// The letter by which the origin knows the form of a request.
const fn letter(protocol: &str) -> char {
    match protocol.as_bytes() {
        [b'h', ..] => 'h',
        [b'j', ..] => 'j',
        [b'o', ..] => 'e',
        _ => 'p',
    }
}

/// A node that has these routes before this origin.
pub(super) fn node(origin: &Origin, places: &[Place]) -> Builder {
    let mut builder = Node::builder().origin(&origin.url()).memory("256MiB");
    for (name, _, config) in POLICIES {
        if places.iter().any(|place| place.policy == name) {
            let file = file(name).unwrap();
            builder = builder.policy(name, &file, config).set(&format!("policy.{name}.limits"), LIMITS);
        }
    }
    places.iter().fold(builder, |builder, place| builder.route_before(&place.route()))
}

/// The component of a policy, if it has been built.
fn file(policy: &str) -> Option<PathBuf> {
    let (_, component, _) = POLICIES.iter().find(|(name, ..)| *name == policy)?;
    let carried = repository("plugins/dist").join(format!("{component}.wasm"));
    let fresh = std::env::var_os(FRESH).map(|dir| Path::new(&dir).join(format!("{component}.wasm")));
    [Some(carried), fresh].into_iter().flatten().find(|file| file.exists())
}
