//! What a component is: loaded as a node loads it, or refused with the node's reason.

use std::{fmt, fs};

use wit_bindgen_core::wit_parser::{WorldItem, WorldKey};
use wit_component::DecodedWasm;

use super::{
    error::Error,
    load::{Bench, Clock, Subject},
    show::{Table, bytes, count},
};
use crate::{
    config::Memo,
    policy::{Hook, Policy},
    report::GenerationInfo,
};

/// What a component says of itself, and what it takes.
#[derive(Debug)]
pub struct Checked {
    subject: Subject,
    size: u64,
    /// Names, each with a word if it has no functions.
    imports: Vec<String>,
    exports: Vec<String>,
    info: GenerationInfo,
    experiments: Vec<String>,
}

/// Loads a component with the limits of a node.
///
/// # Errors
/// The file can't be read, or the node would refuse it.
pub fn check(subject: &Subject) -> Result<Checked, Error> {
    let plugin = Bench::new(subject.memory_bytes_max, false)?.load(subject, Clock::Node, Memo::default())?;
    let wasm = fs::read(&subject.file).map_err(Error::unreadable(&subject.file))?;
    let (imports, exports) =
        interfaces(&wasm).map_err(|cause| Error::Step { step: "its imports and exports can't be read", cause })?;
    let experiments = plugin.experiments().iter().map(|experiment| {
        let arms: Vec<String> = experiment.arms.iter().map(|arm| format!("{} {}", arm.name, arm.weight)).collect();
        format!("{} by {}: {}", experiment.name, experiment.unit, arms.join(", "))
    });
    Ok(Checked {
        subject: subject.clone(),
        size: wasm.len() as u64,
        imports,
        exports,
        experiments: experiments.collect(),
        info: plugin.info("loaded"),
    })
}

impl Checked {
    /// The hooks that it exports.
    #[must_use]
    pub fn hooks(&self) -> Vec<Hook> {
        self.info.hooks.iter().filter_map(|hook| Hook::named(&hook.name)).collect()
    }
}

/// The names of imports and of exports.
fn interfaces(wasm: &[u8]) -> Result<(Vec<String>, Vec<String>), String> {
    let (resolve, world) = match wit_component::decode(wasm).map_err(|error| format!("{error:#}"))? {
        DecodedWasm::Component(resolve, world) => (resolve, world),
        DecodedWasm::WitPackage(..) => return Ok((Vec::new(), Vec::new())),
    };
    let world = &resolve.worlds[world];
    let name = |(key, item): (&WorldKey, &WorldItem)| {
        let name = resolve.name_world_key(key);
        match item {
            WorldItem::Interface { id, .. } if resolve.interfaces[*id].functions.is_empty() => {
                format!("{name} (types only)")
            }
            _ => name,
        }
    };
    Ok((world.imports.iter().map(name).collect(), world.exports.iter().map(name).collect()))
}

/// The contract's interfaces in one line for each version, anything else in a line of its own.
fn listed(exports: &[String]) -> String {
    let mut versions: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut others: Vec<String> = Vec::new();
    for export in exports {
        match export.strip_prefix("holm:policy/").and_then(|rest| rest.split_once('@')) {
            None => others.push(export.clone()),
            Some((name, version)) => match versions.iter_mut().find(|(known, _)| *known == version) {
                Some((_, names)) => names.push(name),
                None => versions.push((version, vec![name])),
            },
        }
    }
    let contract = versions.iter().map(|(version, names)| format!("of holm:policy@{version}: {}", names.join(", ")));
    contract.chain(others).collect::<Vec<_>>().join("\n")
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, size, imports, exports, info, experiments } = self;
        writeln!(f, "{}: {} bytes, a policy that a node takes", subject.file.display(), count(*size))?;
        let memory = u64::try_from(info.memory_bytes).unwrap_or(0);
        let limit = bytes(subject.memory_bytes_max as u64);
        let mut rows = vec![
            ("manifest", format!("{} {}", info.component, info.version)),
            ("imports", if imports.is_empty() { "nothing".to_owned() } else { imports.join("\n") }),
            ("exports", listed(exports)),
            ("keys", info.plan.clone()),
            ("memory", format!("{} an instance, of {limit} that it may have", bytes(memory))),
        ];
        rows.extend(experiments.iter().map(|experiment| ("experiment", experiment.clone())));
        for (what, words) in rows {
            for (at, line) in words.lines().enumerate() {
                writeln!(f, "  {:10}  {line}", if at == 0 { what } else { "" })?;
            }
        }
        let mut table = Table::new(&["hook", "reads"], &[]).indented(2);
        for hook in &info.hooks {
            let reads = if hook.reads.is_empty() { "nothing".to_owned() } else { hook.reads.join(", ") };
            table.row([hook.name.clone(), reads]);
        }
        write!(f, "\n{}", table.to_string().trim_end())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn component(name: &str) -> Subject {
        Subject::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/dist").join(name))
    }

    #[test]
    fn a_component_is_described() {
        let checked = check(&component("tenant-key.wasm")).unwrap();
        let text = checked.to_string();
        for words in [
            "manifest    tenant-key 0.1.0",
            "imports     holm:policy/",
            "exports     of holm:policy@0.1.0: key, plugin\n",
            "keys        recipe: header(x-tenant) lowercase, authority, path",
            "an instance, of 16.0 MiB that it may have",
            "\n\n  hook  reads\n  key   header(x-tenant), authority, path, query-all",
        ] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
        assert_eq!(checked.hooks(), [Hook::Key]);
    }

    #[test]
    fn exports_are_listed_by_version() {
        let exports =
            ["init", "holm:policy/plugin@0.1.0", "holm:policy/key@0.1.0", "holm:policy/key@0.2.0", "a:b/c@1.0.0"];
        let exports = exports.map(str::to_owned);
        let wanted = "of holm:policy@0.1.0: plugin, key\nof holm:policy@0.2.0: key\ninit\na:b/c@1.0.0";
        assert_eq!(listed(&exports), wanted);
    }

    #[test]
    fn what_a_node_refuses_is_refused_with_its_reason() {
        let refused = |subject: &Subject| check(subject).unwrap_err().to_string();
        assert!(refused(&component("nosy.wasm")).contains("imports `"));
        assert!(refused(&component("none.wasm")).contains("can't be read"));
        let configured = Subject { config: r#"{"x":1}"#.into(), ..component("tenant-key.wasm") };
        assert!(refused(&configured).contains("unknown field"));
        let small = Subject { memory_bytes_max: 64, ..component("tenant-key.wasm") };
        assert!(refused(&small).contains("doesn't start"));
    }
}
