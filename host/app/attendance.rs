//! Which nodes of the region are live, by what each says of itself. Pure.
//!
//! A process says something new all the time it lives; clocks of different machines are not compared. So a process
//! counts from the moment when this node heard something new of it.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{
    clock::{self, Uptime},
    report::{NodeFacts, NodeInfo},
};

/// Between two words of a process.
pub(super) const BEAT: Duration = Duration::from_secs(2);

/// Past it a silent process is suspected.
const SUSPECTED: Duration = Duration::from_secs(7);

/// Past it a silent process is no longer listed.
const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// Processes that are listed; of more, those that have been silent for longest are removed.
const PROCESSES_MAX: usize = 4_096;

/// Bytes of a word. Longer ones are none.
pub(super) const WORD_BYTES_MAX: usize = 64 << 10;

/// The states of a node, as text.
pub(super) const STATES: [&str; 5] = ["live", "draining", "unknown", "suspected", "gone"];

/// The processes that have been heard.
#[derive(Debug)]
pub(super) struct Attendance {
    heard: HashMap<String, Heard>,
    /// Past it purges no longer wait for a silent node.
    lost: Duration,
}

#[derive(Debug)]
struct Heard {
    facts: NodeFacts,
    /// When it said something new.
    at: Uptime,
    /// It has done so since this node knows it.
    is_live: bool,
}

impl Heard {
    fn state(&self, lost: Duration, now: Uptime) -> &'static str {
        match now.since(self.at) {
            silent if silent >= lost.max(SUSPECTED) => "gone",
            silent if silent >= SUSPECTED => "suspected",
            _ if !self.is_live => "unknown",
            _ if self.facts.draining => "draining",
            _ => "live",
        }
    }
}

impl Attendance {
    /// Begins with nobody. `lost` is how long purges wait for a silent node.
    pub(super) fn new(lost: Duration) -> Self {
        Self { heard: HashMap::new(), lost }
    }

    /// Takes this process's own word.
    pub(super) fn hear_own(&mut self, facts: NodeFacts, now: Uptime) {
        self.heard.insert(facts.process.clone(), Heard { facts, at: now, is_live: true });
    }

    /// Takes the words of all others that are listed, by their processes. What is no longer listed has signed off.
    /// Returns the processes that are to be removed from the list: those silent for too long, those that nobody can
    /// read, and those that had this node's name and have gone silent, since this process has it now.
    pub(super) fn hear(&mut self, own: &str, listed: &HashMap<String, String>, now: Uptime) -> Vec<String> {
        let mut removed = Vec::new();
        self.heard.retain(|process, _| process == own || listed.contains_key(process));
        for (process, word) in listed.iter().filter(|(process, _)| *process != own) {
            let facts = (word.len() <= WORD_BYTES_MAX).then(|| serde_json::from_str::<NodeFacts>(word).ok()).flatten();
            let Some(facts) = facts.filter(|facts| facts.process == *process) else {
                removed.push(process.clone());
                continue;
            };
            match self.heard.get_mut(process) {
                Some(heard) if heard.facts.beat == facts.beat => {}
                Some(heard) => *heard = Heard { facts, at: now, is_live: true },
                None => drop(self.heard.insert(process.clone(), Heard { facts, at: now, is_live: false })),
            }
        }
        let mut silent: Vec<(Duration, &String)> =
            self.heard.iter().map(|(process, heard)| (now.since(heard.at), process)).collect();
        silent.sort_unstable();
        let name = self.heard.get(own).map(|heard| heard.facts.name.as_str());
        let is_succeeded = |process: &String| {
            let heard = self.heard.get(process).filter(|_| process != own);
            heard.is_some_and(|heard| Some(heard.facts.name.as_str()) == name)
        };
        let is_over = |(place, (silent, process)): &(usize, &(Duration, &String))| {
            *silent >= FORGOTTEN || *place >= PROCESSES_MAX || *silent >= SUSPECTED && is_succeeded(process)
        };
        let over: Vec<String> =
            silent.iter().enumerate().filter(is_over).map(|(_, (_, process))| (*process).clone()).collect();
        self.heard.retain(|process, _| !over.contains(process));
        removed.extend(over);
        removed
    }

    /// Returns all processes, by the names of their nodes.
    pub(super) fn nodes(&self, own: &str, now: Uptime) -> Vec<NodeInfo> {
        let state = |heard: &Heard| heard.state(self.lost, now);
        let is_up = |heard: &Heard| matches!(state(heard), "live" | "draining");
        let mut up: BTreeMap<&str, usize> = BTreeMap::new();
        for heard in self.heard.values().filter(|heard| is_up(heard)) {
            *up.entry(&heard.facts.name).or_default() += 1;
        }
        let info = |heard: &Heard| NodeInfo {
            name: heard.facts.name.clone(),
            state: state(heard).to_owned(),
            silent_ms: clock::millis(now.since(heard.at)),
            own: heard.facts.process == own,
            namesake: is_up(heard) && up.get(heard.facts.name.as_str()).is_some_and(|count| *count > 1),
            said: heard.facts.clone(),
        };
        let mut nodes: Vec<NodeInfo> = self.heard.values().map(info).collect();
        nodes.sort_unstable_by(|a, b| (&a.name, &a.said.process).cmp(&(&b.name, &b.said.process)));
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Duration = Duration::from_secs(60);

    fn facts(name: &str, process: &str, beat: u64) -> NodeFacts {
        NodeFacts { name: name.to_owned(), process: process.to_owned(), beat, ..NodeFacts::default() }
    }

    fn words(facts: &[NodeFacts]) -> HashMap<String, String> {
        facts.iter().map(|facts| (facts.process.clone(), serde_json::to_string(facts).unwrap())).collect()
    }

    fn states(attendance: &Attendance, now: Uptime) -> Vec<(String, String, bool)> {
        let nodes = attendance.nodes("own", now).into_iter();
        nodes.map(|node| (node.name, node.state, node.namesake)).collect()
    }

    fn state(name: &str, state: &str, namesake: bool) -> (String, String, bool) {
        (name.to_owned(), state.to_owned(), namesake)
    }

    #[test]
    fn a_node_is_live_as_long_as_it_says_something_new() {
        let mut attendance = Attendance::new(LOST);
        let at = |seconds: u64| Uptime(1_000_000 + 1_000 * seconds);
        attendance.hear_own(facts("a", "own", 1), at(0));
        assert!(attendance.hear("own", &words(&[facts("b", "1", 7)]), at(0)).is_empty());
        assert_eq!(states(&attendance, at(0)), [state("a", "live", false), state("b", "unknown", false)]);
        attendance.hear("own", &words(&[facts("b", "1", 8)]), at(2));
        assert_eq!(states(&attendance, at(2))[1], state("b", "live", false));
        for (second, wanted) in [(8, "live"), (9, "suspected"), (61, "suspected"), (62, "gone")] {
            attendance.hear_own(facts("a", "own", second), at(second));
            attendance.hear("own", &words(&[facts("b", "1", 8)]), at(second));
            assert_eq!(states(&attendance, at(second))[1], state("b", wanted, false), "{second}");
        }
        attendance.hear("own", &words(&[NodeFacts { draining: true, ..facts("b", "1", 9) }]), at(70));
        assert_eq!(states(&attendance, at(70))[1], state("b", "draining", false));
        attendance.hear("own", &HashMap::new(), at(71));
        assert_eq!(states(&attendance, at(71)).len(), 1, "it has signed off, and the own word isn't on the list yet");
    }

    #[test]
    fn two_live_processes_of_one_name_are_namesakes() {
        let mut attendance = Attendance::new(LOST);
        attendance.hear_own(facts("a", "own", 1), Uptime(0));
        attendance.hear("own", &words(&[facts("a", "1", 1)]), Uptime(0));
        assert_eq!(states(&attendance, Uptime(0)), [state("a", "unknown", false), state("a", "live", false)]);
        attendance.hear("own", &words(&[facts("a", "1", 2)]), Uptime(1));
        assert_eq!(states(&attendance, Uptime(1)), [state("a", "live", true), state("a", "live", true)]);
    }

    #[test]
    fn a_former_process_of_the_own_name_is_removed_once_it_is_silent() {
        let mut attendance = Attendance::new(LOST);
        let listed = words(&[facts("a", "former", 1), facts("b", "1", 1)]);
        for (second, wanted) in [(0, &[][..]), (6, &[]), (7, &["former"])] {
            let now = Uptime(1_000 * second);
            attendance.hear_own(facts("a", "own", second), now);
            assert_eq!(attendance.hear("own", &listed, now), *wanted, "{second}");
        }
        assert_eq!(states(&attendance, Uptime(7_000)), [state("a", "live", false), state("b", "suspected", false)]);
    }

    #[test]
    fn what_cannot_be_read_and_what_is_silent_for_long_is_removed() {
        let mut attendance = Attendance::new(LOST);
        let mut listed = words(&[facts("b", "1", 1), facts("c", "2", 1)]);
        listed.insert("3".to_owned(), "{".to_owned());
        listed.insert("4".to_owned(), serde_json::to_string(&facts("d", "other", 1)).unwrap());
        let mut removed = attendance.hear("own", &listed, Uptime(0));
        removed.sort();
        assert_eq!(removed, ["3", "4"]);
        let later = Uptime(clock::millis(FORGOTTEN));
        let listed = words(&[facts("b", "1", 1), facts("c", "2", 2)]);
        assert_eq!(attendance.hear("own", &listed, later), ["1"]);
        assert_eq!(states(&attendance, later), [state("c", "live", false)]);
        let many: Vec<NodeFacts> = (0..PROCESSES_MAX + 5).map(|number| facts("n", &format!("p{number}"), 1)).collect();
        assert_eq!(attendance.hear("own", &words(&many), later).len(), 5);
    }
}
