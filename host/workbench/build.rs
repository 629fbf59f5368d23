//! From a policy's folder to a component: bindings are generated, the language's own compiler is run, and what comes out
//! is packed and checked.

mod bindings;
mod c;
mod go;
mod js;
mod python;
mod rust;
mod tool;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use super::{
    check::{self, Checked},
    error::Error,
    load::Subject,
    project::{Language, Project},
};
use crate::policy::Hook;

pub(super) use bindings::CONTRACT;

/// A component that was built.
#[derive(Debug)]
pub struct Built {
    /// What it is.
    pub checked: Checked,
}

impl fmt::Display for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.checked.fmt(f)
    }
}

/// Builds the policy of a folder, and checks it as a node would. Without `out` it becomes `NAME.wasm` there.
///
/// # Errors
/// `policy.toml` is wrong, a tool is missing or fails, or a node would refuse the component.
pub fn build(dir: &Path, out: Option<&Path>, subject: impl FnOnce(PathBuf) -> Subject) -> Result<Built, Error> {
    let project = Project::read(dir)?;
    let component = match project.language {
        Language::Rust => rust::build(&project)?,
        Language::C => c::build(&project)?,
        Language::Go => go::build(&project)?,
        Language::Js => js::build(&project)?,
        Language::Python => python::build(&project)?,
    };
    let file = out.map_or_else(|| project.component(), Path::to_owned);
    replace(&file, &component)?;
    let checked = check::check(&subject(file))?;
    agree(&project, &checked.hooks())?;
    Ok(Built { checked })
}

/// Writes the file whole or not at all: a node that watches it loads what it finds.
fn replace(file: &Path, component: &[u8]) -> Result<(), Error> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    fs::write(&part, component).map_err(Error::unwritable(&part))?;
    fs::rename(&part, file).map_err(Error::unwritable(file))
}

/// What the folder says and what the component exports is the same.
fn agree(project: &Project, exported: &[Hook]) -> Result<(), Error> {
    if exported == project.hooks {
        return Ok(());
    }
    let list = |hooks: &[Hook]| hooks.iter().map(|hook| format!("\"{}\"", hook.name())).collect::<Vec<_>>().join(", ");
    let what = format!(
        "`hooks = [{}]`, but the component that was built exports [{}]; make them agree",
        list(&project.hooks),
        list(exported)
    );
    Err(Error::File { path: project.dir.join("policy.toml"), what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_takes_the_place_of_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.wasm");
        for component in [b"one", b"two"] {
            replace(&file, component).unwrap();
            assert_eq!(fs::read(&file).unwrap(), component);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let nowhere = replace(Path::new("/nowhere/p.wasm"), b"").unwrap_err().to_string();
        assert!(nowhere.starts_with("/nowhere/p.wasm.part can't be written"), "{nowhere}");
    }

    #[test]
    fn hooks_that_are_not_those_of_the_folder_are_named() {
        let project = Project {
            dir: "d".into(),
            name: "p".into(),
            language: Language::Rust,
            hooks: vec![Hook::Key, Hook::Batch],
        };
        assert!(agree(&project, &[Hook::Key, Hook::Batch]).is_ok());
        let wrong = agree(&project, &[Hook::Key]).unwrap_err().to_string();
        assert!(wrong.starts_with("d/policy.toml: `hooks = [\"key\", \"batch\"]`, but"), "{wrong}");
        assert!(wrong.contains("exports [\"key\"]"), "{wrong}");
    }
}
