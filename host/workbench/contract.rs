//! Components of other ages of the contract, made here of worlds that are written out: what was built against an older
//! contract, or a later patch of it, loads and decides; what asks for something newer is refused by its name, and what
//! was built against another version by that.

use std::{borrow::Cow, fs, sync::Arc};

use wit_bindgen_core::wit_parser::Resolve;

use super::{
    error::Error,
    load::{Bench, Clock, FORGETFUL, Subject},
    pack,
};
use crate::{
    plugin::Plugin,
    policy::{Decision, Grouping, Hook, HookCall, Input, Policy},
};

/// The contract when `batch` was its only hook. A text of its own and not a piece of `wit/policy.wit`, because such
/// components exist: where the two no longer fit, they no longer load.
const OLD: &str = r"
package holm:policy@0.1.0;
interface facts {
  record input { kind: string, arguments: list<string> }
  type inputs = list<input>;
  type values = list<option<list<u8>>>;
  record fault { code: u16, detail: string }
}
interface plugin {
  use facts.{input, fault};
  record experiment { name: string, %unit: input, arms: list<tuple<string, u32>> }
  record manifest { name: string, version: string, experiments: list<experiment> }
  configure: func(config: string) -> result<manifest, fault>;
}
interface batch {
  use facts.{inputs, values, fault};
  record class { group: list<u8>, priority: u8, weight: u32, max-wait-us: option<u32>, max-size: option<u32> }
  reads: func() -> result<inputs, fault>;
  classify: func(values: values) -> result<class, fault>;
}
";
const OLD_WORLD: &str = "world policy { export plugin; export batch; }";

/// The same with a hook that this node doesn't have.
const NEW_WORLD: &str =
    "interface rank { score: func() -> u32; } world policy { export plugin; export batch; export rank; }";
const NEW_HOOK: &str = r#"(func (export "holm:policy/rank@0.1.0#score") (result i32) i32.const 1)"#;

/// The same with an import.
const IMPORTING_WORLD: &str = "interface diagnostics { log: func(level: u32); } \
     world policy { import diagnostics; export plugin; export batch; }";
const IMPORT: &str = r#"(import "holm:policy/diagnostics@0.1.0" "log" (func (param i32)))"#;

type Inputs<'a> = &'a [(&'a str, &'a [&'a str])];

/// What such components know: a kind that takes an argument, and one that takes none.
const INPUTS: Inputs<'static> = &[("header", &["X-Tenant"]), ("path", &[])];

/// What the canonical ABI wants of a module that is handed lists.
const REALLOC: &str = include_str!("realloc.wat");

/// Where a component's constants are in its memory; a multiple of any alignment.
const BASE: usize = 1_024;

/// The constants of a component, as the canonical ABI lays them out.
#[derive(Default)]
struct Constants(Vec<u8>);

impl Constants {
    /// Returns where it is.
    fn put(&mut self, bytes: &[u8]) -> usize {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        let at = BASE + self.0.len();
        self.0.extend_from_slice(bytes);
        at
    }

    fn words(&mut self, words: &[usize]) -> usize {
        let bytes: Vec<u8> = words.iter().flat_map(|word| u32::try_from(*word).unwrap().to_le_bytes()).collect();
        self.put(&bytes)
    }

    /// Returns where it is and its length.
    fn text(&mut self, text: &str) -> [usize; 2] {
        [self.put(text.as_bytes()), text.len()]
    }

    fn input(&mut self, kind: &str, arguments: &[&str]) -> [usize; 4] {
        let texts: Vec<usize> = arguments.iter().flat_map(|argument| self.text(argument)).collect();
        let (list, [kind, length]) = (self.words(&texts), self.text(kind));
        [kind, length, list, arguments.len()]
    }
}

/// A core module with these imports whose `batch` reads these inputs, and groups by the value of the first.
fn module(imports: &str, inputs: Inputs<'_>, more: &str) -> String {
    let mut constants = Constants::default();
    let rows: Vec<usize> = inputs.iter().flat_map(|(kind, arguments)| constants.input(kind, arguments)).collect();
    let rows = constants.words(&rows);
    // In a result a word 0 comes first: it is no error.
    let reads = constants.words(&[0, rows, inputs.len()]);
    let ([name, name_length], [version, version_length]) = (constants.text("old"), constants.text("0.0.1"));
    let manifest = constants.words(&[0, name, name_length, version, version_length, 0, 0]);
    // Group (filled in), priority, weight, the longest wait, no largest size.
    let class = constants.words(&[0, 0, 0, 7, 3, 1, 250, 0, 0]);
    let (group, length) = (class + 4, class + 8);
    let data: String = constants.0.iter().map(|byte| format!("\\{byte:02x}")).collect();
    format!(
        r#"(module
            {imports}
            (memory (export "memory") 2)
            (data (i32.const {BASE}) "{data}")
            {REALLOC}
            (func (export "holm:policy/plugin@0.1.0#configure") (param i32 i32) (result i32) (i32.const {manifest}))
            (func (export "holm:policy/batch@0.1.0#reads") (result i32) (i32.const {reads}))
            (func (export "holm:policy/batch@0.1.0#classify") (param $values i32) (param $count i32) (result i32)
                (i32.store (i32.const {group}) (i32.load offset=4 (local.get $values)))
                (i32.store (i32.const {length}) (i32.load offset=8 (local.get $values)))
                (i32.const {class}))
            {more})"#
    )
}

/// Loads a component of the old contract in this world, as a node does.
fn load(world: &str, inputs: Inputs<'_>, more: &str) -> Result<Arc<Plugin>, Error> {
    load_of("0.1.0", world, &module("", inputs, more))
}

/// Loads a component of this module in this world, both of another version of the contract.
fn load_of(version: &str, world: &str, module: &str) -> Result<Arc<Plugin>, Error> {
    let versioned = |text: &str| text.replace("@0.1.0", &format!("@{version}"));
    let mut resolve = Resolve::default();
    let package = resolve.push_str("policy.wit", &versioned(&format!("{OLD}{world}"))).unwrap();
    let world = resolve.select_world(&[package], Some("policy")).unwrap();
    let core = wat::parse_str(versioned(module)).unwrap();
    let component = pack::pack(core, Some((&resolve, world))).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let subject = Subject::new(dir.path().join("old.wasm"));
    fs::write(&subject.file, component).unwrap();
    Bench::new(subject.memory_bytes_max, false)?.load(&subject, Clock::Patient, FORGETFUL)
}

#[test]
fn a_component_built_before_other_hooks_and_inputs_loads_and_decides() {
    let plugin = load(OLD_WORLD, INPUTS, "").unwrap();
    let tenant = http::HeaderName::from_static("x-tenant");
    assert_eq!(plugin.reads(Hook::Batch), Some(&[Input::Header(tenant), Input::Path][..]));
    for hook in Hook::ALL.into_iter().filter(|hook| *hook != Hook::Batch) {
        assert_eq!(plugin.reads(hook), None, "{hook:?}");
    }
    for group in ["acme", "umbrella"] {
        let values = [Some(Cow::Borrowed(group.as_bytes())), None];
        let decided = plugin.decide(&HookCall::Batch, &values, None).unwrap();
        let wanted =
            Grouping { group: group.into(), priority: 7, weight: 3, max_wait_us: Some(250), ..Grouping::default() };
        assert_eq!(*decided, Decision::Batch(wanted));
    }
}

#[test]
fn a_component_built_against_a_later_patch_of_the_contract_loads_and_decides() {
    let plugin = load_of("0.1.9", OLD_WORLD, &module("", INPUTS, "")).unwrap();
    let values = [Some(Cow::Borrowed(b"acme".as_slice())), None];
    let decided = plugin.decide(&HookCall::Batch, &values, None).unwrap();
    let Decision::Batch(grouping) = &*decided else { panic!("{decided:?}") };
    assert_eq!((&grouping.group[..], grouping.priority), (b"acme".as_slice(), 7));
}

#[test]
fn a_component_of_another_version_is_refused_in_words_that_say_what_to_do() {
    for (version, world, imports, wanted) in [
        ("0.2.0", OLD_WORLD, "", "ports `holm:policy/"),
        ("1.0.0", OLD_WORLD, "", "ports `holm:policy/"),
        ("0.2.0", IMPORTING_WORLD, IMPORT, "imports `holm:policy/"),
    ] {
        let refused = load_of(version, world, &module(imports, INPUTS, "")).unwrap_err().to_string();
        let versions = format!("@{version}`, but this node has `holm:policy@0.1.0`");
        for words in [
            wanted,
            versions.as_str(),
            "loads components that were built against 0.1.x: build it again for this node (`holm policy build`",
        ] {
            assert!(refused.contains(words), "{version}: {words:?} is missing in {refused}");
        }
    }
}

#[test]
fn what_a_newer_contract_has_is_refused_by_its_name() {
    let moon: Inputs<'_> = &[("path", &[]), ("moon-phase", &["full"])];
    let more: Inputs<'_> = &[("header", &["accept", "gzip"])];
    for (world, inputs, hook, words) in [
        (OLD_WORLD, moon, "", "is refused: input moon-phase(full) is none that this node knows: method, scheme, "),
        (OLD_WORLD, more, "", "is refused: input header(accept, gzip): it takes one argument"),
        (NEW_WORLD, INPUTS, NEW_HOOK, "exports `holm:policy/rank@0.1.0`, which this node doesn't know; the hooks "),
    ] {
        let refused = load(world, inputs, hook).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
}
