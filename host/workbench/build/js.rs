//! JavaScript, by componentize-qjs, which puts QuickJS and the source into a component.

use super::{
    super::{error::Error, project::Project},
    bindings,
    tool::{self, Tool},
};

const COMPONENTIZE: Tool = Tool {
    program: "componentize-qjs",
    purpose: "policies in JavaScript are built by it",
    install: &["npm install --global componentize-qjs@0.4.5    (Node 18 or later)"],
};

const SDK: [(&str, &str); 2] = [
    ("holm.js", include_str!("../../../plugins/sdk-js/holm.js")),
    ("holm.d.ts", include_str!("../../../plugins/sdk-js/holm.d.ts")),
];

pub(super) fn build(project: &Project) -> Result<Vec<u8>, Error> {
    bindings::write_wit(project)?;
    let dir = project.generated();
    for (name, contents) in SDK {
        bindings::write(&dir, name, contents.as_bytes())?;
    }
    let mut componentize = COMPONENTIZE.command(&project.dir, &[project.dir.join("node_modules/.bin")])?;
    componentize.args(["-w", "gen/wit", "-n", "policy", "-j", "policy.js", "-o", "gen/component.wasm"]);
    // Without WASI, and with the ABI that isn't asynchronous.
    componentize.args(["--sync", "--stub-wasi"]);
    COMPONENTIZE.run(componentize)?;
    tool::made(&dir.join("component.wasm"))
}
