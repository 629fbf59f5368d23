//! What a policy decides about recorded requests.

use std::sync::Arc;

use serde_json::Value;

use super::record::Record;
use crate::{
    plugin::Plugin,
    policy::{Arm, Decision, Facts, Fault, Hook, Notes, Policy, consult},
};

/// What a hook said.
pub type Said = Result<Arc<Decision>, Fault>;

/// What the hooks of a policy said about one record: those that it has and that the record says enough for.
#[derive(Clone, Debug, Default)]
pub struct Evaluated {
    said: [Option<Said>; Hook::ALL.len()],
}

impl Evaluated {
    /// What one of them said.
    #[must_use]
    pub const fn of(&self, hook: Hook) -> Option<&Said> {
        self.said[hook.index()].as_ref()
    }

    #[cfg(test)]
    pub(super) fn stub(hook: Hook, said: Said) -> Self {
        let mut evaluated = Self::default();
        evaluated.said[hook.index()] = Some(said);
        evaluated
    }

    /// The same, as golden files write it.
    #[must_use]
    pub fn json(&self, hook: Hook) -> Option<Value> {
        self.of(hook).map(to_json)
    }
}

/// A decision or a fault, as golden files write it.
pub(super) fn to_json(said: &Said) -> Value {
    match said {
        Ok(decision) => decision.to_json(),
        Err(fault) => fault.to_json(),
    }
}

/// Calls every hook for every record.
#[must_use]
pub fn evaluate(plugin: &Plugin, records: &[Record]) -> Vec<Evaluated> {
    records.iter().map(|record| ask(plugin, record)).collect()
}

/// Calls every hook for one record.
pub(super) fn ask(policy: &dyn Policy, record: &Record) -> Evaluated {
    let arms = stated_arms(policy, record);
    let notes = Notes::stated(arms.clone(), record.features.clone());
    // Where the record states features for the other hooks, the hook that makes them is called all the same.
    let own = record.features.is_some().then(|| Notes::stated(arms, None));
    let mut evaluated = Evaluated::default();
    for hook in Hook::ALL {
        let notes = own.as_ref().filter(|_| hook == Hook::Features).unwrap_or(&notes);
        evaluated.said[hook.index()] = ask_hook(policy, record, hook, notes);
    }
    evaluated
}

fn ask_hook(policy: &dyn Policy, record: &Record, hook: Hook, notes: &Notes) -> Option<Said> {
    let call = record.hook_call(hook)?;
    let mut facts = facts(record, notes);
    match hook {
        Hook::Key => consult::key(policy, &facts).map(|said| said.map(Arc::new)),
        Hook::Admit => {
            facts = facts.with_response(record.responded.as_ref()?.facts());
            consult::ask(policy, &call, &facts)
        }
        _ => consult::ask(policy, &call, &facts),
    }
}

fn facts<'a>(record: &'a Record, notes: &'a Notes) -> Facts<'a> {
    Facts::new(&record.head, record.body.as_ref(), notes).beside(&record.pools).at(record.at)
}

/// The arms that are drawn, those that the record states in their place.
fn stated_arms(policy: &dyn Policy, record: &Record) -> Option<Vec<Arm>> {
    if record.arms.is_empty() {
        return None;
    }
    let scratch = Notes::default();
    let mut arms = consult::draw(policy, &facts(record, &scratch)).to_vec();
    arms.retain(|arm| !record.arms.contains_key(&*arm.experiment));
    // Their place is for reports of how arms do, which nobody asks for here.
    let place = (usize::MAX, usize::MAX);
    arms.extend(record.arms.iter().map(|(experiment, name)| Arm {
        experiment: experiment.as_str().into(),
        place,
        name: name.as_str().into(),
    }));
    Some(arms)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::workbench::{
        Subject,
        load::{Bench, Clock, FORGETFUL},
        parse_records,
    };

    /// What `lane` says of records.
    fn said(records: &str) -> Vec<Evaluated> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/dist/lane-rust.wasm");
        let bench = Bench::new(16 << 20, false).unwrap();
        let plugin = bench.load(&Subject::new(file), Clock::Patient, FORGETFUL).unwrap();
        evaluate(&plugin, &parse_records(records).unwrap()[0].records)
    }

    #[test]
    fn what_a_record_states_is_what_other_hooks_read() {
        let request =
            r#""request":{"url":"http://a/","headers":{"x-tenant":"t","x-user":"u"},"json":{"priority":"high"}}"#;
        let candidates = r#""candidates":[{"pool":"a","model":"small","cost_micro":1,"p50_us":9},
            {"pool":"b","model":"large","cost_micro":2,"p50_us":8}]"#
            .replace('\n', "");
        let lines = [
            format!("{{{request},{candidates}}}"),
            format!(r#"{{{request},{candidates},"features":{{"urgent":"false"}}}}"#),
            format!(r#"{{{request},{candidates},"features":{{"urgent":"false"}},"arms":{{"size":"large"}}}}"#),
        ];
        let said = said(&lines.join("\n"));
        let order = |at: usize| said[at].json(Hook::Route).map(|choice| choice["order"].clone());
        assert_eq!(order(0), Some(json!([1, 0])), "urgent by its own features: the faster one first");
        assert_eq!(order(1), Some(json!([0, 1])), "the cheaper one first");
        assert_eq!(order(2), Some(json!([1, 0])), "the large one first");
        for evaluated in &said {
            assert_eq!(evaluated.json(Hook::Features).unwrap()["features"]["urgent"], "true", "asked all the same");
            assert!(evaluated.of(Hook::Admit).is_none() && evaluated.of(Hook::Prefetch).is_none());
        }
    }
}
