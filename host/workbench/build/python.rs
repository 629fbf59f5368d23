//! Python, by componentize-py, which puts CPython and the sources into a component.

use super::{
    super::{error::Error, project::Project},
    bindings,
    tool::{self, Tool},
};

const COMPONENTIZE: Tool = Tool {
    program: "componentize-py",
    purpose: "policies in Python are built by it",
    install: &["pip install componentize-py==0.25.1    (Python 3.10 or later)"],
};

const SDK: (&str, &str) = ("holm.py", include_str!("../../../plugins/sdk-py/holm.py"));

pub(super) fn build(project: &Project) -> Result<Vec<u8>, Error> {
    bindings::write_wit(project)?;
    let dir = project.generated();
    bindings::write(&dir, SDK.0, SDK.1.as_bytes())?;
    let mut componentize = COMPONENTIZE.command(&project.dir, &[project.dir.join(".venv/bin")])?;
    componentize.args(["-d", "gen/wit", "-w", "policy", "componentize", "--stub-wasi", "-p", "src", "-p", "gen"]);
    componentize.args(["app", "-o", "gen/component.wasm"]);
    COMPONENTIZE.run(componentize)?;
    tool::made(&dir.join("component.wasm"))
}
