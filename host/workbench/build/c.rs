//! C, by clang and wasi-libc.

use std::{fs, path::PathBuf};

use super::{
    super::{error::Error, pack, project::Project},
    bindings,
    tool::{self, Tool},
};

const CLANG: Tool = Tool {
    program: "clang",
    purpose: "policies in C are compiled by it",
    install: &[
        "apt-get install clang lld wasi-libc libclang-rt-dev-wasm32    (Debian, Ubuntu)",
        "or the wasi-sdk, with its bin/ on the PATH",
    ],
};

/// The SDK.
const SDK: [(&str, &str); 2] = [
    ("holm.h", include_str!("../../../plugins/sdk-c/holm.h")),
    ("holm.c", include_str!("../../../plugins/sdk-c/holm.c")),
];

pub(super) fn build(project: &Project) -> Result<Vec<u8>, Error> {
    let dir = project.generated();
    let (mut resolve, world) = bindings::resolved(&project.hooks)?;
    for (name, contents) in bindings::generated(wit_bindgen_c::Opts::default().build(), &mut resolve, world)?.iter() {
        bindings::write(&dir, name, contents)?;
    }
    for (name, contents) in SDK {
        bindings::write(&dir, name, contents.as_bytes())?;
    }
    let mut clang = CLANG.command(&project.dir, &[])?;
    clang.args(["--target=wasm32-wasi", "-O2", "-std=c11", "-Wall", "-Wextra", "-mexec-model=reactor", "-Igen"]);
    clang.args(["-Werror=implicit-function-declaration"]);
    clang.args(sources(project)?);
    clang.args(["gen/holm.c", "gen/policy.c", "gen/policy_component_type.o"]);
    clang.args(["-Wl,--strip-debug", "-o", "gen/core.wasm"]);
    CLANG.run(clang)?;
    pack::pack(tool::made(&dir.join("core.wasm"))?, None)
}

/// The folder's own sources, in a fixed order, so that the same sources make the same component.
fn sources(project: &Project) -> Result<Vec<PathBuf>, Error> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(&project.dir).map_err(Error::unreadable(&project.dir))? {
        let path = entry.map_err(Error::unreadable(&project.dir))?.path();
        if path.extension().is_some_and(|extension| extension == "c") {
            // `./` keeps a name that begins with `-` from being an option.
            sources.extend(path.file_name().map(|name| PathBuf::from(".").join(name)));
        }
    }
    if sources.is_empty() {
        let what = "has no `.c` file, and a policy in C is made of those".to_owned();
        return Err(Error::File { path: project.dir.clone(), what });
    }
    sources.sort();
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::Hook, workbench::project::Language};

    #[test]
    fn the_sources_are_the_c_files_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let project =
            Project { dir: dir.path().into(), name: "p".into(), language: Language::C, hooks: vec![Hook::Key] };
        assert!(sources(&project).unwrap_err().to_string().contains("has no `.c` file"));
        for name in ["b.c", "a.c", "a.h", "notes.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(sources(&project).unwrap(), [PathBuf::from("./a.c"), PathBuf::from("./b.c")]);
    }
}
