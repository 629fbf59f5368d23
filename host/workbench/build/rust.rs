//! Rust, by cargo.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    super::{error::Error, pack, project::Project},
    tool::{self, Tool},
};

const CARGO: Tool =
    Tool { program: "cargo", purpose: "policies in Rust are compiled by it", install: &["see https://rustup.rs"] };

const RUSTC: Tool =
    Tool { program: "rustc", purpose: "policies in Rust are compiled by it", install: &["see https://rustup.rs"] };

const TARGET: &str = "wasm32-unknown-unknown";

/// Where the target's standard library is, if not in the toolchain.
const SYSROOT: &str = "HOLM_WASM_SYSROOT";

pub(super) fn build(project: &Project) -> Result<Vec<u8>, Error> {
    let sysroot = env::var_os(SYSROOT).filter(|sysroot| !sysroot.is_empty());
    if sysroot.is_none() {
        find_target(project)?;
    }
    let mut cargo = CARGO.command(&project.dir, &[])?;
    cargo.args(["build", "--quiet", "--release", "--target", TARGET, "--message-format=json-render-diagnostics"]);
    cargo.args(["--config", &flags(&project.dir, sysroot.as_deref().map(Path::new))]);
    let messages = CARGO.run(cargo)?;
    let file = artifact(&messages).ok_or_else(|| Error::File {
        path: project.dir.join("Cargo.toml"),
        what: "makes no `.wasm` file; a policy is a library with `crate-type = [\"cdylib\"]`".to_owned(),
    })?;
    let wasm = tool::made(&file)?;
    // With `wasm-component-ld` as its linker it is a component already.
    if pack::is_core_module(&wasm) { pack::pack(wasm, None) } else { Ok(wasm) }
}

/// Whether the standard library of the target is there.
fn find_target(project: &Project) -> Result<(), Error> {
    let mut rustc = RUSTC.command(&project.dir, &[])?;
    rustc.args(["--print", "target-libdir", "--target", TARGET]);
    let dir = RUSTC.run(rustc)?;
    if Path::new(dir.trim()).is_dir() {
        return Ok(());
    }
    Err(Error::Asked(format!(
        "Rust's target {TARGET} isn't installed. To install it:\n    rustup target add {TARGET}\n\
         or, if its standard library is elsewhere, name that sysroot in the variable {SYSROOT}"
    )))
}

/// Flags for the compiler, as a setting of cargo's, so that they are added to those of the folder.
/// No path of the machine goes into a component: panics name their files.
fn flags(dir: &Path, sysroot: Option<&Path>) -> String {
    let home = |name| env::var_os(name).map(PathBuf::from);
    let cargo = home("CARGO_HOME").or_else(|| home("HOME").map(|home| home.join(".cargo")));
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let remap = |from: &Path, to: &str| {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from);
        flag.push("=");
        flag.push(to);
        flag.to_string_lossy().into_owned()
    };
    let mut flags = vec![remap(&dir, "/policy")];
    flags.extend(cargo.map(|cargo| remap(&cargo, "/cargo")));
    flags.extend(sysroot.map(|sysroot| format!("--sysroot={}", sysroot.display())));
    let flags: Vec<String> = flags.into_iter().map(|flag| toml::Value::String(flag).to_string()).collect();
    format!("target.{TARGET}.rustflags=[{}]", flags.join(","))
}

/// A message of cargo's, one a line.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// The `.wasm` file that was made last: dependencies come before what depends on them.
fn artifact(messages: &str) -> Option<PathBuf> {
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let mut artifacts = parsed.filter(|message| message.reason == "compiler-artifact").flat_map(|it| it.filenames);
    artifacts.rfind(|file| file.extension().is_some_and(|extension| extension == "wasm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_found_among_the_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","filenames":["/t/libsdk.rlib"],"fresh":true}"#,
            "\n",
            r#"{"reason":"compiler-artifact","filenames":["/t/lane.d","/t/lane.wasm"]}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\nno JSON\n",
        );
        assert_eq!(artifact(messages), Some("/t/lane.wasm".into()));
        assert_eq!(artifact(""), None);
    }

    #[test]
    fn flags_are_a_setting_of_cargo() {
        let setting = flags(Path::new("/a \"b\""), Some(Path::new("/s")));
        let parsed: toml::Table = toml::from_str(&setting).unwrap();
        let flags = parsed["target"][TARGET]["rustflags"].as_array().unwrap();
        assert_eq!(flags[0].as_str(), Some("--remap-path-prefix=/a \"b\"=/policy"));
        assert_eq!(flags.last().and_then(toml::Value::as_str), Some("--sysroot=/s"));
    }
}
