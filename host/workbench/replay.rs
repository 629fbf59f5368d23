//! Replay: two policies, or a policy and the native default, are called with the same recorded traffic. Keys
//! are compared by which requests share a response, anything else by what is decided.

mod har;
mod keys;
mod log;

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use self::keys::{Keys, SIDES};
use super::{
    diff,
    error::Error,
    evaluate::{self, Evaluated},
    load::{Bench, Clock, Subject},
    record::Record,
    show::{Table, count, counted},
};
use crate::{
    config::Memo,
    plugin::Plugin,
    policy::{Hook, Input, Policy, partition},
};

/// What the component is compared with.
#[derive(Clone, Debug)]
pub enum Against {
    /// Another component, or the same with another configuration.
    Component(Subject),
    /// What the host decides by itself.
    Native,
}

/// A comparison.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The component.
    pub subject: Subject,
    /// What it is compared with.
    pub against: Against,
    /// An access log of a node, or a HAR file (`.har`) of a browser or proxy.
    pub traffic: PathBuf,
    /// Changed decisions that are shown.
    pub examples_max: usize,
}

/// What came of a comparison.
#[derive(Debug, Default)]
pub struct Replayed {
    requests: usize,
    /// Lines or entries that are no requests.
    unreadable: usize,
    hooks: BTreeMap<Hook, Counts>,
    keys: Keys,
    examples: Vec<String>,
    notes: Vec<String>,
}

/// Decisions of one hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    same: u64,
    changed: u64,
    faulted: u64,
}

impl Replayed {
    /// Whether any hook decided otherwise, or faulted, or any requests share a response otherwise.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.hooks.values().any(|counts| counts.changed + counts.faulted > 0)
    }
}

/// Calls both for all requests of a file.
///
/// # Errors
/// A component or the file can't be had, the file is neither of the two kinds, or nothing in it is a request.
pub fn replay(replay: &Replay) -> Result<Replayed, Error> {
    let old = match &replay.against {
        Against::Component(subject) => Some(subject),
        Against::Native => None,
    };
    let memory = old.map_or(0, |old| old.memory_bytes_max).max(replay.subject.memory_bytes_max);
    let bench = Bench::new(memory, false)?;
    let load = |subject: &Subject| bench.load(subject, Clock::Patient, Memo::default());
    let sides = Sides { new: load(&replay.subject)?, old: old.map(load).transpose()? };
    let kind = Traffic::of(&replay.traffic);
    let mut replayed = Replayed::default();
    replayed.notes.extend(missing(&sides.new, &replay.subject.title(), kind));
    if let (Some(plugin), Some(subject)) = (&sides.old, old) {
        replayed.notes.extend(missing(plugin, &subject.title(), kind));
    }
    let mut ask = |record: Result<Record, ()>| match record {
        Ok(record) => replayed.ask(&sides, &record, replay.examples_max),
        Err(()) => replayed.unreadable += 1,
    };
    match kind {
        Traffic::Log => log::each(&replay.traffic, &mut ask)?,
        Traffic::Har => har::each(&replay.traffic, &mut ask)?,
    }
    if replayed.requests == 0 {
        return Err(nothing_read(&replay.traffic, kind, replayed.unreadable));
    }
    Ok(replayed)
}

/// A comparison of nothing finds no change, and must not be taken for one of something.
fn nothing_read(traffic: &Path, kind: Traffic, unreadable: usize) -> Error {
    let (items, form) = match kind {
        Traffic::Log => {
            ("line", "a request as a node's access log writes it: a JSON object with `method`, `target`, …")
        }
        Traffic::Har => ("entry", "a request for an absolute `http` or `https` URL"),
    };
    let what = match unreadable {
        0 => format!("it has no {items}, so nothing was compared"),
        1 => format!("its one {items} is not {form}; nothing was compared"),
        _ => format!("none of its {} {} is {form}; nothing was compared", count(unreadable as u64), plural(items)),
    };
    Error::File { path: traffic.to_owned(), what }
}

fn plural(items: &str) -> String {
    items.strip_suffix('y').map_or_else(|| format!("{items}s"), |stem| format!("{stem}ies"))
}

/// The endpoint.
struct Sides {
    new: Arc<Plugin>,
    old: Option<Arc<Plugin>>,
}

impl Replayed {
    fn ask(&mut self, sides: &Sides, record: &Record, examples_max: usize) {
        self.requests += 1;
        let new = evaluate::ask(&*sides.new, record);
        let old = sides.old.as_ref().map(|old| evaluate::ask(&**old, record)).unwrap_or_default();
        for hook in Hook::ALL {
            if hook == Hook::Key {
                self.compare_keys(record, &old, &new, examples_max);
                continue;
            }
            let Some((was, is)) = compared(record, hook, &old, &new) else { continue };
            let faulted = [&was, &is].into_iter().any(|said| said.get("fault").is_some());
            let counts = self.hooks.entry(hook).or_default();
            match (faulted, was == is) {
                (true, _) => counts.faulted += 1,
                (false, true) => counts.same += 1,
                (false, false) => counts.changed += 1,
            }
            if (faulted || was != is) && self.examples.len() < examples_max {
                self.examples.push(example(hook, record, &was, &is));
            }
        }
    }

    fn compare_keys(&mut self, record: &Record, old: &Evaluated, new: &Evaluated, examples_max: usize) {
        let (was, is) = (old.of(Hook::Key), new.of(Hook::Key));
        let says_nothing = was.is_none() && is.is_none();
        // Of other methods nothing is ever looked up, whatever a policy says.
        if says_nothing || !partition::is_keyed(&record.head.method) {
            return;
        }
        let counts = self.hooks.entry(Hook::Key).or_default();
        match self.keys.compare(record, was, is, examples_max) {
            Some(true) => counts.changed += 1,
            Some(false) => counts.same += 1,
            None => {
                counts.faulted += 1;
                if self.examples.len() < examples_max {
                    let [was, is] = [was, is].map(keys::shown);
                    self.examples.push(example(Hook::Key, record, &was, &is));
                }
            }
        }
    }
}

/// A record and what either side says about it.
fn example(hook: Hook, record: &Record, was: &Value, is: &Value) -> String {
    let differences = match diff::differences(was, is) {
        same if same.is_empty() => format!("    {is}\n"),
        differences => diff::render(&differences, SIDES, 4),
    };
    format!("{}: {}\n{differences}", hook.name(), record.title())
}

/// What either side decides, as JSON; `None` if neither has a verdict. A side without one leaves it to the host.
fn compared(record: &Record, hook: Hook, old: &Evaluated, new: &Evaluated) -> Option<(Value, Value)> {
    match (old.of(hook), new.of(hook)) {
        (None, None) => None,
        (Some(was), Some(is)) => Some((evaluate::to_json(was), evaluate::to_json(is))),
        (was, is) => {
            let said = evaluate::to_json(was.or(is)?);
            let native = record.hook_call(hook)?.native()?.to_json();
            Some(if was.is_some() { (said, native) } else { (native, said) })
        }
    }
}

/// What kind of file has the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traffic {
    Log,
    Har,
}

impl Traffic {
    fn of(path: &Path) -> Self {
        let har = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("har"));
        if har { Self::Har } else { Self::Log }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Log => "an access log",
            Self::Har => "a HAR file",
        }
    }

    /// Whether a file of this kind has all inputs of the hook.
    const fn asks(self, hook: Hook) -> bool {
        match hook {
            Hook::Key | Hook::Features | Hook::Batch => true,
            Hook::Admit => matches!(self, Self::Har),
            Hook::Prefetch => matches!(self, Self::Log),
            Hook::Route => false,
        }
    }

    /// Whether a file of this kind lacks the input.
    const fn lacks(self, input: &Input) -> bool {
        match self {
            Self::Log => {
                input.needs_body()
                    || input.needs_response()
                    || matches!(
                        input,
                        Input::Header(_)
                            | Input::Cookie(_)
                            | Input::ClientRegion
                            | Input::NodeRegion
                            | Input::PoolStats(_)
                    )
            }
            Self::Har => {
                matches!(input, Input::ClientPrefix(_) | Input::ClientRegion | Input::NodeRegion | Input::PoolStats(_))
            }
        }
    }
}

/// What a policy reads that the file hasn't, in words.
fn missing(plugin: &Plugin, title: &str, kind: Traffic) -> Option<String> {
    let mut inputs: Vec<&Input> = Vec::new();
    let units = plugin.experiments().iter().map(|experiment| &experiment.unit);
    let asked = Hook::ALL.into_iter().filter(|hook| kind.asks(*hook));
    for input in asked.filter_map(|hook| plugin.reads(hook)).flatten().chain(units) {
        if !inputs.contains(&input) {
            inputs.push(input);
        }
    }
    let lacking: Vec<String> = inputs.iter().filter(|input| kind.lacks(input)).map(|input| input.to_string()).collect();
    let (number, of) = (lacking.len(), counted(inputs.len(), "input"));
    (number > 0).then(|| {
        let name = kind.name();
        format!("{title}: {number} of {of} not in {name}, so taken as missing: {}", lacking.join(", "))
    })
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(warning) = self.keys.warning() {
            writeln!(f, "{warning}\n")?;
        }
        for example in self.examples.iter().chain(self.keys.examples()) {
            writeln!(f, "{example}")?;
        }
        let differing: u64 = self.hooks.values().map(|counts| counts.changed + counts.faulted).sum();
        let shown = (self.examples.len() + self.keys.examples().len()) as u64;
        if differing > shown {
            writeln!(f, "{} more are not shown\n", count(differing - shown))?;
        }
        let mut table = Table::new(&["hook", "same", "changed", "faulted"], &[1, 2, 3]);
        for (hook, Counts { same, changed, faulted }) in &self.hooks {
            table.row([hook.name().to_owned(), count(*same), count(*changed), count(*faulted)]);
        }
        write!(f, "{table}{}", self.keys)?;
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        let mut last = counted(self.requests, "request");
        if self.unreadable > 0 {
            let _ = write!(last, ", and {} that could not be read", count(self.unreadable as u64));
        }
        f.write_str(&last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::{Decision, Fault, Grouping},
        workbench::record,
    };

    #[test]
    fn what_a_side_leaves_to_the_host_is_native() {
        let record = record::parse(r#"{"request":{"url":"http://a/"}}"#).unwrap().remove(0).records.remove(0);
        let said = |hook: Hook, said: evaluate::Said| Evaluated::stub(hook, said);
        let none = Evaluated::default();
        let same =
            |old: &Evaluated, new: &Evaluated, hook| compared(&record, hook, old, new).map(|(was, is)| was == is);
        assert_eq!(same(&none, &none, Hook::Batch), None);
        let batch = |priority| Ok(Arc::new(Decision::Batch(Grouping { priority, ..Grouping::default() })));
        assert_eq!(same(&none, &said(Hook::Batch, batch(0)), Hook::Batch), Some(true));
        assert_eq!(same(&none, &said(Hook::Batch, batch(1)), Hook::Batch), Some(false));
        assert_eq!(same(&none, &said(Hook::Batch, Err(Fault::Open)), Hook::Batch), Some(false));
    }

    #[test]
    fn a_file_of_which_nothing_can_be_read_is_an_error() {
        for (kind, unreadable, words) in [
            (Traffic::Log, 0, "a.log: it has no line, so nothing was compared"),
            (Traffic::Log, 1, "a.log: its one line is not a request as a node's access log"),
            (Traffic::Log, 1_234, "a.log: none of its 1,234 lines is a request as a node's access log"),
            (Traffic::Har, 2, "a.log: none of its 2 entries is a request for an absolute"),
        ] {
            let error = nothing_read(Path::new("a.log"), kind, unreadable).to_string();
            assert!(error.starts_with(words), "{error}");
        }
    }

    #[test]
    fn a_kind_of_file_knows_some_inputs() {
        for (input, log, har) in [
            (Input::Path, false, false),
            (Input::ClientPrefix(24), false, true),
            (Input::ClientRegion, true, true),
            (Input::NodeRegion, true, true),
            (Input::BodyLength, true, false),
            (Input::ResponseStatus, true, false),
            (Input::Cookie("a".into()), true, false),
            (Input::PoolStats("a".into()), true, true),
            (Input::Feature("a".into()), false, false),
        ] {
            assert_eq!((Traffic::Log.lacks(&input), Traffic::Har.lacks(&input)), (log, har), "{input}");
        }
        let kinds = ["a.har", "b/a.HAR", "access.jsonl", "har"].map(|path| Traffic::of(Path::new(path)));
        assert_eq!(kinds, [Traffic::Har, Traffic::Har, Traffic::Log, Traffic::Log]);
    }

    #[test]
    fn the_outcome_reads_well() {
        let counts = Counts { same: 1_000, changed: 2, faulted: 1 };
        let replayed = Replayed {
            requests: 1_003,
            unreadable: 4,
            hooks: BTreeMap::from([(Hook::Key, counts)]),
            keys: Keys::default(),
            examples: vec!["key: line 1, x\n    against  1\n    now      2\n".into()],
            notes: vec!["a note".into()],
        };
        assert!(replayed.changed() && !Replayed::default().changed());
        let text = replayed.to_string();
        for words in
            ["2 more are not shown", "hook   same  changed  faulted\nkey   1,000", "a note\n1,003 requests, and 4"]
        {
            assert!(text.contains(words), "{text}");
        }
    }
}
