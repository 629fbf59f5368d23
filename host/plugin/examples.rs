//! The differences that a trial has shown: one example of each kind, for the operator.

use parking_lot::Mutex;
use serde_json::Value;
use tracing::info;

use crate::{
    policy::{Decision, Hook, difference::differences, partition::Change},
    report::Example,
};

/// Kinds of which an example is kept.
const KINDS_MAX: usize = 24;
/// Characters of a kind's name.
const KIND_CHARS_MAX: usize = 100;
/// Characters of a value in JSON; a longer one is kept as text that is cut.
const VALUE_CHARS_MAX: usize = 1_000;
/// Characters of a request's line.
const REQUEST_CHARS_MAX: usize = 300;

/// A request whose keys are known, to be shown as one of a pair.
#[derive(Debug)]
pub(super) struct Keyed {
    pub(super) request: String,
    pub(super) active: Value,
    pub(super) trial: Value,
}

/// The examples of one trial.
#[derive(Debug, Default)]
pub(super) struct Examples(Mutex<Vec<Example>>);

impl Examples {
    /// Takes a decision that differs.
    pub(super) fn differs(&self, hook: Hook, request: &str, active: &Decision, trial: &Decision) {
        let (active, trial) = (active.to_readable(), trial.to_readable());
        let places = pointers(&active, &trial);
        let kind = if places.iter().any(String::is_empty) {
            format!("{} became {}", word(&active), word(&trial))
        } else {
            let mut members: Vec<String> = places.iter().map(|place| member(place)).collect();
            members.dedup();
            members.join(", ")
        };
        self.note(hook, cut(kind, KIND_CHARS_MAX), |kind| Example {
            hook: hook.name().to_owned(),
            kind,
            times: 1,
            request: request.to_owned(),
            with: None,
            active: bounded(active),
            trial: bounded(trial),
            differs: places,
        });
    }

    /// Takes a request that shares responses otherwise.
    pub(super) fn shares(&self, change: Change, this: &Keyed, with: Option<&Keyed>) {
        self.note(Hook::Key, change.name().to_owned(), |kind| {
            let pair = |with: &Value, this: &Value| Value::Array(vec![this.clone(), with.clone()]);
            let (mut active, mut trial) = (this.active.clone(), this.trial.clone());
            let differs = match (change, with) {
                (Change::NewlyShared, Some(with)) => {
                    active = pair(&with.active, &this.active);
                    pointers(&this.active, &with.active)
                }
                (Change::NoLongerShared, Some(with)) => {
                    trial = pair(&with.trial, &this.trial);
                    pointers(&this.trial, &with.trial)
                }
                _ => pointers(&active, &trial),
            };
            let with = with.map(|with| with.request.clone());
            Example {
                hook: Hook::Key.name().to_owned(),
                kind,
                times: 1,
                request: this.request.clone(),
                with,
                active,
                trial,
                differs,
            }
        });
    }

    /// Takes a fault of the generation on trial.
    pub(super) fn faulted(&self, hook: Hook, request: &str, kind: &str, trial: Value) {
        self.note(hook, format!("fault: {kind}"), |kind| Example {
            hook: hook.name().to_owned(),
            kind,
            times: 1,
            request: request.to_owned(),
            with: None,
            active: Value::Null,
            trial: bounded(trial),
            differs: Vec::new(),
        });
    }

    /// Counts a kind that is known, and keeps the first of one that isn't.
    fn note(&self, hook: Hook, kind: String, make: impl FnOnce(String) -> Example) {
        let mut examples = self.0.lock();
        if let Some(known) = examples.iter_mut().find(|known| known.hook == hook.name() && known.kind == kind) {
            known.times += 1;
        } else if examples.len() < KINDS_MAX {
            examples.push(make(kind));
        }
    }

    /// Returns the examples so far.
    pub(super) fn list(&self) -> Vec<Example> {
        self.0.lock().clone()
    }
}

/// Writes an example to the log.
pub(super) fn log(example: &Example, policy: &str) {
    let Example { hook, kind, times, request, with, active, trial, differs } = example;
    let (with, differs) = (with.as_deref().unwrap_or(""), differs.join(" "));
    info!(target: "policy", policy, hook, kind, times, request, with, %active, %trial, differs, "seen on trial");
}

/// Returns a request's line.
pub(super) fn title(method: &str, url: &str) -> String {
    cut(format!("{method} {url}"), REQUEST_CHARS_MAX)
}

/// Returns a value that is cut to the limit.
pub(super) fn bounded(value: Value) -> Value {
    let text = value.to_string();
    if text.len() <= VALUE_CHARS_MAX { value } else { Value::String(cut(text, VALUE_CHARS_MAX)) }
}

fn cut(text: String, chars_max: usize) -> String {
    let end = text.char_indices().nth(chars_max).map(|(end, _)| end);
    end.map(|end| format!("{}…", &text[..end])).unwrap_or(text)
}

fn pointers(one: &Value, other: &Value) -> Vec<String> {
    differences(one, other).into_iter().take(KINDS_MAX).map(|difference| difference.path).collect()
}

/// Returns the first member of a decision, which says what it is: `store`, `pass`, `lookup`.
fn word(decision: &Value) -> &str {
    match decision {
        Value::Object(members) => members.keys().next().map_or("nothing", String::as_str),
        Value::Array(_) => "a list",
        Value::String(text) => text,
        _ => "another value",
    }
}

/// Returns a pointer without indices of lists, which differ between examples of one kind.
fn member(pointer: &str) -> String {
    let steps = pointer.split('/').skip(1);
    let named: Vec<&str> =
        steps.map(|step| if step.bytes().all(|byte| byte.is_ascii_digit()) { "*" } else { step }).collect();
    named.join("/")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::{Admission, Storage};

    fn store(ttl_ms: u64, tags: &[&str]) -> Decision {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        Decision::Admit(Admission::Store(Storage { ttl_ms, tags, ..Storage::default() }))
    }

    #[test]
    fn there_is_one_of_each_kind() {
        let examples = Examples::default();
        let admit = |active: &Decision, trial: &Decision| examples.differs(Hook::Admit, "GET /", active, trial);
        admit(&store(1, &["a"]), &store(2, &["a"]));
        admit(&store(1, &["a"]), &store(3, &["a"]));
        admit(&store(1, &["a", "b"]), &store(1, &["c", "d"]));
        admit(&store(1, &[]), &Decision::Admit(Admission::Pass("no".into())));
        examples.faulted(Hook::Route, "GET /", "trap", json!("why"));
        let kinds: Vec<(String, u64)> =
            examples.list().into_iter().map(|it| (format!("{} {}", it.hook, it.kind), it.times)).collect();
        let wanted = [
            ("admit store/ttl_ms", 2),
            ("admit store/tags/*", 1),
            ("admit store became pass", 1),
            ("route fault: trap", 1),
        ];
        assert_eq!(kinds, wanted.map(|(kind, times)| (kind.to_owned(), times)));
        assert_eq!(examples.list()[1].differs, ["/store/tags/0", "/store/tags/1"]);
    }

    #[test]
    fn pairs_show_which_keys_differ() {
        let examples = Examples::default();
        let keyed = |request: &str, active: Value, trial: Value| Keyed { request: request.into(), active, trial };
        let first = keyed("GET /a", json!({"lookup": ["t", "/a"]}), json!({"lookup": ["t"]}));
        let this = keyed("GET /b", json!({"lookup": ["t", "/b"]}), json!({"lookup": ["t"]}));
        examples.shares(Change::NewlyShared, &this, Some(&first));
        examples.shares(Change::NewlyBypassed, &this, None);
        let list = serde_json::to_value(examples.list()).unwrap();
        assert_eq!(
            list[0],
            json!({"hook": "key", "kind": "newly shared", "times": 1, "request": "GET /b", "with": "GET /a",
                "active": [{"lookup": ["t", "/b"]}, {"lookup": ["t", "/a"]}], "trial": {"lookup": ["t"]},
                "differs": ["/lookup/1"]})
        );
        assert!(list[1].get("with").is_none());
    }

    #[test]
    fn neither_kinds_nor_values_grow_without_end() {
        let examples = Examples::default();
        for n in 0..100 {
            examples.faulted(Hook::Key, "GET /", &n.to_string(), json!("x".repeat(5_000)));
        }
        let list = examples.list();
        assert_eq!(list.len(), KINDS_MAX);
        assert!(list[0].trial.to_string().chars().count() < VALUE_CHARS_MAX + 10);
        assert_eq!(title("GET", &"ü".repeat(400)).chars().count(), REQUEST_CHARS_MAX + 1);
    }
}
