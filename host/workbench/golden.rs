//! Golden tests: what a policy decides about recorded requests is what it is expected to decide.

mod measure;

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use self::measure::Costs;
use super::{
    diff,
    error::Error,
    evaluate::{Evaluated, evaluate},
    load::{Bench, Clock, FORGETFUL, Subject},
    project::Project,
    record::{self, Group, Record},
    show::{Table, count, counted, nanoseconds},
};
use crate::policy::{Hook, KeyPlan, Policy};

/// Where records lie if nobody says otherwise.
const RECORDS: &str = "golden.jsonl";

/// What is to be tested by what.
#[derive(Clone, Debug)]
pub struct Golden {
    /// The component. Its configuration holds for records that no line with another one precedes.
    pub subject: Subject,
    /// The file of records.
    pub records: PathBuf,
}

impl Golden {
    /// Of a component or of a policy's folder. Without a file of records it is `golden.jsonl` beside it.
    ///
    /// # Errors
    /// The folder isn't a policy's.
    pub fn of(path: &Path, records: Option<PathBuf>) -> Result<Self, Error> {
        let (file, dir) = if path.is_dir() {
            let project = Project::read(path)?;
            let component = project.component();
            if !component.exists() {
                let what = format!("isn't there; `holm policy build {}` makes it", path.display());
                return Err(Error::File { path: component, what });
            }
            (component, path)
        } else {
            (path.to_owned(), path.parent().unwrap_or(Path::new("")))
        };
        Ok(Self { subject: Subject::new(file), records: records.unwrap_or_else(|| dir.join(RECORDS)) })
    }

    fn read(&self) -> Result<(String, Vec<Group>), Error> {
        let text = fs::read_to_string(&self.records).map_err(Error::unreadable(&self.records))?;
        let groups = record::parse(&text);
        let groups =
            groups.map_err(|flaw| Error::Line { path: self.records.clone(), line: flaw.line, what: flaw.what })?;
        Ok((text, groups))
    }

    /// The component as a group of records configures it.
    fn subject(&self, group: &Group) -> Subject {
        let config = group.config.clone().unwrap_or_else(|| self.subject.config.clone());
        Subject { config, ..self.subject.clone() }
    }

    /// What is wrong when a group's configuration is refused.
    fn at(&self, group: &Group, error: Error) -> Error {
        if group.line == 0 {
            return error;
        }
        Error::Line { path: self.records.clone(), line: group.line, what: error.to_string() }
    }
}

/// What came of a test.
#[derive(Debug, Default)]
pub struct Tested {
    /// Records that are as expected.
    pub passed: usize,
    /// Records that aren't.
    pub failed: usize,
    /// Those without an expectation.
    unexpecting: usize,
    failures: Vec<String>,
    costs: BTreeMap<Hook, Costs>,
    /// Keys are made by the host.
    recipe: bool,
}

/// Calls the component for all records, compares, and measures.
///
/// # Errors
/// The component or the records can't be had, or a line of them isn't one. A decision that is not as expected is no
/// error: the response tells.
pub fn test(golden: &Golden) -> Result<Tested, Error> {
    let (_, groups) = golden.read()?;
    let [bench, counting] = [false, true].map(|fuel| Bench::new(golden.subject.memory_bytes_max, fuel));
    let (bench, counting) = (bench?, counting?);
    let mut tested = Tested::default();
    for group in &groups {
        let subject = golden.subject(group);
        let load =
            |bench: &Bench| bench.load(&subject, Clock::Patient, FORGETFUL).map_err(|error| golden.at(group, error));
        let plugin = load(&bench)?;
        plugin.time_every_call();
        tested.recipe |= matches!(plugin.key_plan(), KeyPlan::Recipe(_));
        for (record, evaluated) in group.records.iter().zip(evaluate(&plugin, &group.records)) {
            tested.compare(record, &evaluated);
        }
        measure::time(&plugin, &group.records, &mut tested.costs);
        measure::fuel(&*load(&counting)?, &group.records, &mut tested.costs);
    }
    Ok(tested)
}

impl Tested {
    fn compare(&mut self, record: &Record, evaluated: &Evaluated) {
        let mut wrong = String::new();
        for (hook, expected) in &record.expect {
            match evaluated.json(*hook) {
                Some(got) if got == *expected => {}
                Some(got) => {
                    let differences = diff::differences(expected, &got);
                    wrong += &format!("  {}\n{}", hook.name(), diff::render(&differences, ["expected", "got"], 4));
                }
                None => wrong += &format!("  {}: the component doesn't export this hook\n", hook.name()),
            }
        }
        if record.expect.is_empty() {
            self.unexpecting += 1;
        } else if wrong.is_empty() {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.failures.push(format!("{}\n{wrong}", record.title()));
        }
    }
}

impl fmt::Display for Tested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "{failure}")?;
        }
        let mut table = Table::new(&["hook", "records", "time a call", "fuel a call"], &[1, 2, 3]);
        let mut by_host = false;
        for (hook, costs) in &self.costs {
            let none = || "-".to_owned();
            let time = costs.call_ns().map_or_else(none, nanoseconds);
            let fuel = costs.call_fuel().map_or_else(none, count);
            by_host |= *hook == Hook::Key && self.recipe && costs.call_ns().is_none();
            table.row([hook.name().to_owned(), count(costs.records), time, fuel]);
        }
        write!(f, "{table}")?;
        if by_host {
            writeln!(f, "keys are a recipe: the host makes them without a call")?;
        }
        if cfg!(debug_assertions) {
            writeln!(f, "this holm isn't optimized, so times are several times those of a node's")?;
        }
        if self.unexpecting > 0 {
            writeln!(f, "{} without `expect`; --update writes it", counted(self.unexpecting, "record"))?;
        }
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Writes what the component decides now into the file of records, for all its hooks. Gives back how many records there
/// are.
///
/// # Errors
/// The component or the records can't be had, or the file can't be written.
pub fn update(golden: &Golden) -> Result<usize, Error> {
    let (text, groups) = golden.read()?;
    let bench = Bench::new(golden.subject.memory_bytes_max, false)?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut records = 0;
    for group in &groups {
        let plugin = bench.load(&golden.subject(group), Clock::Patient, FORGETFUL);
        let plugin = plugin.map_err(|error| golden.at(group, error))?;
        for (record, evaluated) in group.records.iter().zip(evaluate(&plugin, &group.records)) {
            let decisions: Vec<_> =
                Hook::ALL.into_iter().filter_map(|hook| Some((hook, evaluated.json(hook)?))).collect();
            let line = &mut lines[record.line - 1];
            *line = record::with_expectation(line, &decisions);
            records += 1;
        }
    }
    let text = lines.join("\n") + "\n";
    fs::write(&golden.records, text).map_err(Error::unwritable(&golden.records))?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: &str = r#"{"name":"a","request":{"url":"http://h/p","headers":{"x-tenant":"A"}},"expect":EXPECT}"#;

    fn golden(dir: &Path, lines: &[String]) -> Golden {
        let records = dir.join("r.jsonl");
        fs::write(&records, lines.join("\n")).unwrap();
        let component = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/dist/tenant-key.wasm");
        Golden { subject: Subject::new(component), records }
    }

    fn expecting(expect: &str) -> String {
        TENANT.replace("EXPECT", expect)
    }

    #[test]
    fn decisions_are_compared_and_measured() {
        let dir = tempfile::tempdir().unwrap();
        let right = r#"{"key":{"lookup":["a","h","/p",null]}}"#;
        let lines = [
            expecting(right),
            expecting(r#"{"key":{"lookup":["b","h","/p",null]}}"#),
            expecting(r#"{"batch":{}}"#),
            expecting("{}"),
            r#"{"config":{"require_tenant":true}}"#.to_owned(),
            expecting(r#"{"key":{"bypass":"no tenant"}}"#),
        ];
        let tested = test(&golden(dir.path(), &lines)).unwrap();
        assert_eq!((tested.passed, tested.failed, tested.unexpecting), (1, 3, 1), "{tested}");
        let text = tested.to_string();
        for words in [
            "line 2, a\n  key\n    /lookup/0  expected  \"b\"\n               got       \"a\"\n",
            "line 3, a\n  batch: the component doesn't export this hook\n",
            "line 6, a\n  key\n    expected  {\"bypass\":\"no tenant\"}\n",
            "hook  records",
            "1 record without `expect`; --update writes it\n1 passed, 3 failed",
        ] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
        assert!(tested.costs[&Hook::Key].call_ns().is_some_and(|ns| ns > 0.0), "with a tenant required it is a call");
        assert!(tested.costs[&Hook::Key].call_fuel().is_some_and(|fuel| fuel > 0));
    }

    #[test]
    fn what_is_written_down_is_what_is_expected_then() {
        let dir = tempfile::tempdir().unwrap();
        let lines = [expecting(r#"{"key":1}"#), r#"{"config": {"require_tenant": true}}"#.to_owned(), String::new()];
        let golden = golden(dir.path(), &lines);
        assert_eq!(update(&golden).unwrap(), 1);
        let text = fs::read_to_string(&golden.records).unwrap();
        let wanted = expecting(r#"{"key":{"lookup":["a","h","/p",null]}}"#);
        assert_eq!(text, format!("{wanted}\n{}\n", lines[1]));
        let tested = test(&golden).unwrap();
        assert_eq!((tested.passed, tested.failed), (1, 0), "{tested}");
        assert!(tested.to_string().contains("keys are a recipe: the host makes them without a call"), "{tested}");
    }

    #[test]
    fn what_is_wrong_is_reported_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        for (lines, words) in [
            (vec![r#"{"config":{"x":1}}"#.to_owned(), expecting("{}")], "r.jsonl:1: policy `tenant-key`"),
            (vec![String::new(), "{}".to_owned()], "r.jsonl:2: a record has a `request`"),
        ] {
            let wrong = test(&golden(dir.path(), &lines)).unwrap_err().to_string();
            assert!(wrong.contains(words), "{wrong}");
        }
        let project = "name = \"p\"\nlanguage = \"c\"\nhooks = [\"key\"]\n";
        fs::write(dir.path().join("policy.toml"), project).unwrap();
        let unbuilt = Golden::of(dir.path(), None).unwrap_err().to_string();
        assert!(unbuilt.contains("p.wasm: isn't there; `holm policy build"), "{unbuilt}");
        fs::write(dir.path().join("p.wasm"), "").unwrap();
        for of in [dir.path().to_owned(), dir.path().join("p.wasm")] {
            let golden = Golden::of(&of, None).unwrap();
            assert_eq!((golden.subject.file, golden.records), (dir.path().join("p.wasm"), dir.path().join(RECORDS)));
        }
    }
}
