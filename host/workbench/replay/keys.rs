//! Whose responses are shared otherwise: two makers of keys, compared on the requests of a file.

use std::{collections::BTreeSet, fmt, sync::Arc};

use serde_json::{Value, json};

use super::super::{
    diff,
    evaluate::{Said, to_json},
    record::Record,
    show::{count, counted},
};
use crate::policy::{
    Decision, Facts, Notes,
    key::shared_method,
    partition::{Change, Finding, Partition, Sharing},
};

/// What the two sides are called.
pub(super) const SIDES: [&str; 2] = ["against", "now"];

/// Keys of either side that are remembered at least.
const KEYS_MAX: usize = 100_000;

/// A request that others are compared with.
#[derive(Debug)]
struct Keyed {
    title: String,
    /// What either side says.
    keys: [Value; 2],
}

/// What has been found out about keys.
#[derive(Debug)]
pub(super) struct Keys {
    partition: Partition<Arc<Keyed>>,
    /// Requests that both sides look up.
    compared: usize,
    /// Their methods, which the host makes a part of every key.
    methods: BTreeSet<String>,
    /// By [`Change::ALL`].
    examples: [Vec<String>; Change::ALL.len()],
}

impl Default for Keys {
    fn default() -> Self {
        let partition = Partition::new(KEYS_MAX);
        Self { partition, compared: 0, methods: BTreeSet::new(), examples: Default::default() }
    }
}

impl Keys {
    /// Whether a request shares responses otherwise; `None` if a side faults. A side that says nothing leaves the key
    /// to the host.
    pub(super) fn compare(
        &mut self,
        record: &Record,
        was: Option<&Said>,
        is: Option<&Said>,
        examples_max: usize,
    ) -> Option<bool> {
        let (old, new) = (sharing(record, was)?, sharing(record, is)?);
        if let (Sharing::Key(_), Sharing::Key(_)) = (old, new) {
            self.compared += 1;
            self.methods.insert(shared_method(&record.head.method).to_string());
        }
        let keyed = Arc::new(Keyed { title: record.title(), keys: [was, is].map(shown) });
        let findings = self.partition.compare(old, new, &keyed);
        for Finding { change, with } in &findings {
            let examples = &mut self.examples[*change as usize];
            if examples.len() < examples_max {
                examples.push(example(*change, &keyed, with.as_deref()));
            }
        }
        Some(!findings.is_empty())
    }

    /// Some of what was found, the most dangerous first.
    pub(super) fn examples(&self) -> impl ExactSizeIterator<Item = &String> {
        let all: Vec<&String> = self.examples.iter().flatten().collect();
        all.into_iter()
    }

    /// What must not be overlooked: one key for everything.
    pub(super) fn warning(&self) -> Option<String> {
        let counts = self.partition.counts();
        let is_one = counts.new_keys <= self.methods.len() as u64 && counts.old_keys > counts.new_keys;
        is_one.then(|| {
            let (requests, keys) = (counted(self.compared, "request"), count(counts.old_keys));
            format!(
                "EVERY REQUEST HAS THE SAME KEY: {requests} that had {keys} keys would all be given one response, \
                 whoever asks for whatever"
            )
        })
    }
}

/// `None` if the side faults.
fn sharing(record: &Record, said: Option<&Said>) -> Option<Sharing> {
    match said {
        Some(Err(_)) => None,
        Some(Ok(decision)) => match &**decision {
            Decision::Key(verdict) => Some(Sharing::of(&record.head, verdict)),
            _ => None,
        },
        None => {
            let notes = Notes::default();
            Some(Sharing::native(&Facts::new(&record.head, record.body.as_ref(), &notes)))
        }
    }
}

/// A key for a person to read.
pub(super) fn shown(said: Option<&Said>) -> Value {
    match said {
        None => json!("the native key"),
        Some(Ok(decision)) => decision.to_readable(),
        Some(fault) => to_json(fault),
    }
}

/// One request, or a pair of them, and their keys.
fn example(change: Change, this: &Keyed, with: Option<&Keyed>) -> String {
    let title = format!("key, {}: {}", change.name(), this.title);
    let [against, now] = &this.keys;
    let Some(with) = with else {
        return format!("{title}\n{}", diff::render(&diff::differences(against, now), SIDES, 4));
    };
    // Of a pair one side's keys are equal and the other's are not.
    let (side, equal) = if change == Change::NewlyShared { (0, 1) } else { (1, 0) };
    let differences = diff::differences(&this.keys[side], &with.keys[side]);
    let differences = if differences.is_empty() {
        format!("    {}: two keys that the host makes of the two requests\n", SIDES[side])
    } else {
        diff::render(&differences, ["first", "other"], 4)
    };
    let other = format!("    and {}\n", with.title);
    format!(
        "{title}\n{other}    {}: both {}\n    {}, of the first and of the other:\n{differences}",
        SIDES[equal], this.keys[equal], SIDES[side]
    )
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.partition.counts();
        if counts.changes == [0; Change::ALL.len()] {
            return Ok(());
        }
        writeln!(f, "keys: {} before, {} now", count(counts.old_keys), count(counts.new_keys))?;
        for (change, requests) in Change::ALL.into_iter().zip(counts.changes).filter(|(_, requests)| *requests > 0) {
            let requests = counted(usize::try_from(requests).unwrap_or(usize::MAX), "request");
            writeln!(f, "  {}: {requests}", change.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::{Fault, KeyVerdict},
        workbench::record,
    };

    fn request(url: &str) -> Record {
        let text = json!({"request": {"url": url}}).to_string();
        record::parse(&text).unwrap().remove(0).records.remove(0)
    }

    fn lookup(parts: &[&str]) -> Said {
        let parts = parts.iter().map(|part| Some(part.as_bytes().to_vec())).collect();
        Ok(Arc::new(Decision::Key(KeyVerdict::Lookup(parts))))
    }

    /// Compares what each side says of requests for these paths.
    fn compared(requests: &[(&str, Option<Said>, Option<Said>)]) -> (Keys, Vec<Option<bool>>) {
        let mut keys = Keys::default();
        let changed = requests.iter().map(|(path, was, is)| {
            let record = request(&format!("http://a{path}"));
            keys.compare(&record, was.as_ref(), is.as_ref(), 9)
        });
        let changed = changed.collect();
        (keys, changed)
    }

    #[test]
    fn keys_that_are_only_spelled_otherwise_are_no_change() {
        let requests = ["/a", "/b", "/a"].map(|path| (path, None, Some(lookup(&["v2", path]))));
        let (keys, changed) = compared(&requests);
        assert_eq!(changed, [Some(false); 3]);
        assert!(keys.warning().is_none() && keys.to_string().is_empty());
    }

    #[test]
    fn one_key_for_everything_is_the_loudest_finding() {
        let requests = ["/a", "/b", "/c"].map(|path| (path, None, Some(lookup(&["all"]))));
        let (keys, changed) = compared(&requests);
        assert_eq!(changed, [Some(false), Some(true), Some(true)]);
        assert!(keys.warning().unwrap().contains("3 requests that had 3 keys would all be given one response"));
        assert_eq!(keys.to_string(), "keys: 3 before, 1 now\n  newly shared: 2 requests\n");
        let examples: Vec<&String> = keys.examples().collect();
        let first = examples[0];
        for words in [
            "key, newly shared: line 1, GET http://a/b\n    and line 1, GET http://a/a\n",
            "now: both {\"lookup\":[\"all\"]}",
        ] {
            assert!(first.contains(words), "{first}");
        }
    }

    #[test]
    fn pairs_show_which_part_tells_them_apart() {
        let said = |tenant: &str| Some(lookup(&[&format!("\x01{tenant}"), "/a"]));
        let (keys, changed) = compared(&[("/a", None, said("t")), ("/a", None, said("u"))]);
        assert_eq!(changed, [Some(false), Some(true)]);
        let examples: Vec<&String> = keys.examples().collect();
        let wanted = "against: both \"the native key\"\n    now, of the first and of the other:\n    \
                      /lookup/0  first  \"u\"\n               other  \"t\"\n";
        assert!(examples[0].contains(wanted), "{}", examples[0]);
    }

    #[test]
    fn faults_and_bypasses_are_classes_of_their_own() {
        let bypass = || Some(Ok(Arc::new(Decision::Key(KeyVerdict::Bypass("no tenant".into())))));
        let (keys, changed) = compared(&[
            ("/a", None, bypass()),
            ("/a", bypass(), None),
            ("/a", bypass(), bypass()),
            ("/a", None, Some(Err(Fault::Open))),
        ]);
        assert_eq!(changed, [Some(true), Some(true), Some(false), None]);
        assert!(keys.examples().any(|example| example.contains("no tenant")));
        assert!(keys.warning().is_none());
    }
}
