//! What is generated of the contract: a world with the hooks that a policy exports, and a language's bindings of it.

use std::{fs, path::Path};

use wit_bindgen_core::{
    Files, WorldGenerator,
    wit_parser::{Resolve, WorldId},
};

use super::super::{error::Error, project::Project};
use crate::policy::Hook;

/// The contract.
pub(in crate::workbench) const CONTRACT: &str = include_str!("../../../wit/policy.wit");

/// Its package and version, as interfaces are named.
const VERSION: &str = "0.1.0";

/// A world that exports these hooks and imports what any policy may.
fn world(hooks: &[Hook]) -> String {
    let exports: String =
        hooks.iter().map(|hook| format!("  export holm:policy/{}@{VERSION};\n", hook.name())).collect();
    format!(
        "package holm:build;\n\nworld policy {{\n  import holm:policy/diagnostics@{VERSION};\n  \
         export holm:policy/plugin@{VERSION};\n{exports}}}\n"
    )
}

/// The contract and that world, resolved.
pub(super) fn resolved(hooks: &[Hook]) -> Result<(Resolve, WorldId), Error> {
    let mut resolve = Resolve::default();
    let world = resolve
        .push_str("policy.wit", CONTRACT)
        .and_then(|_| resolve.push_str("world.wit", &world(hooks)))
        .and_then(|package| resolve.select_world(&[package], Some("policy")));
    match world {
        Ok(world) => Ok((resolve, world)),
        Err(error) => Err(Error::Step { step: "the contract can't be read", cause: format!("{error:#}") }),
    }
}

/// What a generator makes of the world.
pub(super) fn generated(
    mut generator: Box<dyn WorldGenerator>,
    resolve: &mut Resolve,
    world: WorldId,
) -> Result<Files, Error> {
    let mut files = Files::default();
    generator
        .generate(resolve, world, &mut files)
        .map_err(|error| Error::Step { step: "bindings can't be generated", cause: format!("{error:#}") })?;
    Ok(files)
}

/// Writes the contract and the world as a folder, as tools want it that generate by themselves.
pub(super) fn write_wit(project: &Project) -> Result<(), Error> {
    let dir = project.generated().join("wit");
    write(&dir, "world.wit", world(&project.hooks).as_bytes())?;
    write(&dir, "deps/holm-policy/policy.wit", CONTRACT.as_bytes())
}

/// Writes a file below a folder. One that is there with the same contents keeps its time, so that compilers that go by
/// that have less to do.
pub(super) fn write(dir: &Path, name: &str, contents: &[u8]) -> Result<(), Error> {
    let path = dir.join(name);
    if fs::read(&path).is_ok_and(|there| there == contents) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::unwritable(parent))?;
    }
    fs::write(&path, contents).map_err(Error::unwritable(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workbench::project::Language;

    #[test]
    fn a_world_exports_the_hooks_and_no_others() {
        let (resolve, id) = resolved(&[Hook::Key, Hook::Prefetch]).unwrap();
        let world = &resolve.worlds[id];
        let names: Vec<String> = world.exports.keys().map(|key| resolve.name_world_key(key)).collect();
        let hooks = ["plugin", "key", "prefetch"].map(|name| format!("holm:policy/{name}@0.1.0"));
        assert_eq!(names, hooks);
        assert!(CONTRACT.contains(&format!("package holm:policy@{VERSION};")));
    }

    #[test]
    fn every_hook_has_bindings() {
        for hook in Hook::ALL {
            let (mut resolve, world) = resolved(&[hook]).unwrap();
            let files = generated(wit_bindgen_c::Opts::default().build(), &mut resolve, world).unwrap();
            let names: Vec<&str> = files.iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["policy.c", "policy.h", "policy_component_type.o"], "{hook:?}");
        }
    }

    #[test]
    fn the_contract_is_written_as_a_folder_that_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let project =
            Project { dir: dir.path().into(), name: "p".into(), language: Language::Js, hooks: vec![Hook::Key] };
        write_wit(&project).unwrap();
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(dir.path().join("gen/wit")).unwrap();
        assert!(resolve.select_world(&[package], Some("policy")).is_ok());
    }

    #[test]
    fn what_is_the_same_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let time = || fs::metadata(dir.path().join("a/b")).unwrap().modified().unwrap();
        write(dir.path(), "a/b", b"1").unwrap();
        let first = time();
        write(dir.path(), "a/b", b"1").unwrap();
        assert_eq!(time(), first);
        write(dir.path(), "a/b", b"2").unwrap();
        assert_eq!(fs::read(dir.path().join("a/b")).unwrap(), b"2");
    }
}
