//! What is written in etcd: records of a known format, each within its bounds, and which nodes a generation is for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{clock::Timestamp, config, plugin::COMPONENT_BYTES_MAX};

/// The format of all records.
pub const FORMAT: u32 = 1;

/// Policies of a generation: each is a comparison of the transaction that writes it.
const POLICIES_MAX: usize = 100;

/// Bytes of the record of a generation: below what etcd takes as one request.
const RECORD_BYTES_MAX: usize = 1_400_000;

/// Bytes of any other record.
const SMALL_BYTES_MAX: usize = 64 << 10;

/// Regions that a rollout may name.
const REGIONS_MAX: usize = 1_000;

/// Why a record isn't used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// It is longer than its kind may be.
    #[error("{what} has {length} bytes; allowed are up to {max}")]
    TooLarge {
        /// The kind of record.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// It was written by a version with another format.
    #[error("{what} has the format {found}; this version knows {FORMAT}")]
    Format {
        /// The kind of record.
        what: &'static str,
        /// Its format.
        found: u32,
    },
    /// It isn't what it should be.
    #[error("{what} is wrong: {reason}")]
    Wrong {
        /// The kind of record.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// A generation by its number and the digest of its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pointer {
    /// The number.
    pub number: u64,
    /// blake3 of the record's bytes, in hex.
    pub digest: String,
}

/// The nodes that a generation is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reach {
    /// Their regions; all if there is none.
    pub regions: Vec<String>,
    /// The share of the nodes of these, in percent; 0 for none of them.
    pub percent: u8,
}

impl Reach {
    /// Returns the reach that every node is in.
    #[must_use]
    pub const fn all() -> Self {
        Self { regions: Vec::new(), percent: 100 }
    }

    /// Returns the reach that no node is in.
    #[must_use]
    pub const fn nobody() -> Self {
        Self { regions: Vec::new(), percent: 0 }
    }

    /// Whether no node is in it.
    #[must_use]
    pub const fn is_nobody(&self) -> bool {
        self.percent == 0
    }

    /// Whether every node is in it.
    #[must_use]
    pub const fn is_all(&self) -> bool {
        self.regions.is_empty() && self.percent >= 100
    }

    /// Whether the node is in it. A node that is in the reach of a share is in that of each larger one.
    #[must_use]
    pub fn includes(&self, region: &str, node: &str) -> bool {
        let is_of_region = self.regions.is_empty() || self.regions.iter().any(|known| known == region);
        is_of_region && place(region, node) < self.percent
    }
}

/// Returns the place of a node among a hundred, by its name alone.
fn place(region: &str, node: &str) -> u8 {
    let digest = blake3::hash(format!("holm rollout\n{region}\n{node}").as_bytes());
    let [first, second, third, fourth, ..] = *digest.as_bytes();
    let number = u32::from_be_bytes([first, second, third, fourth]) % 100;
    u8::try_from(number).unwrap_or(0)
}

/// When a node that has taken a generation does worse by it and goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// How long it watches itself, in seconds.
    pub seconds: u32,
    /// To how many percent of what they were before failures and latency may rise.
    pub percent: u32,
}

/// Which generation holds for which node. The one record that changes; nodes watch it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// [`FORMAT`].
    pub format: u32,
    /// The generation of the nodes within `reach`.
    pub generation: Pointer,
    /// That of the others; `None` if these run by their own files alone.
    pub former: Option<Pointer>,
    /// The nodes that `generation` is for.
    pub reach: Reach,
    /// How nodes judge it, if they do.
    pub trial: Option<Trial>,
}

impl Head {
    /// Returns the generation of this node, if it has one.
    #[must_use]
    pub fn of_node(&self, region: &str, node: &str) -> Option<&Pointer> {
        if self.reach.includes(region, node) { Some(&self.generation) } else { self.former.as_ref() }
    }

    /// Whether no rollout is under way: all nodes run by the same generation, or all by their own files.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.reach.is_all() || self.reach.is_nobody()
    }

    /// Returns what nodes run by that the next generation isn't for, once this one is settled; `None` if that is their own
    /// files alone.
    #[must_use]
    pub fn base(&self) -> Option<&Pointer> {
        if self.reach.is_nobody() { self.former.as_ref() } else { Some(&self.generation) }
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`RecordError`]; then it says nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let what = "the record of the generation that holds";
        let head: Self = decode(what, bytes, SMALL_BYTES_MAX)?;
        let wrong = |reason: &str| Err(RecordError::Wrong { what, reason: reason.to_owned() });
        if head.generation.number == 0 {
            return wrong("generations are numbered from 1");
        }
        if head.former.as_ref().is_some_and(|former| former.number >= head.generation.number) {
            return wrong("the former generation isn't before the one that follows it");
        }
        if head.reach.percent > 100 || head.reach.regions.len() > REGIONS_MAX {
            return wrong("a share is 0 to 100 percent, of up to 1000 regions");
        }
        Ok(head)
    }
}

/// A component by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// blake3 of its bytes, in hex.
    pub digest: String,
    /// Its length.
    pub bytes: u64,
}

/// A generation: the central part as TOML, and its components.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// Its number.
    pub generation: u64,
    /// When it was pushed.
    pub pushed: Timestamp,
    /// The central part.
    pub text: String,
    /// The components of its policies, by their names.
    pub components: BTreeMap<String, Component>,
}

impl Record {
    /// Reads it.
    ///
    /// # Errors
    /// [`RecordError`]; then no node takes it.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: Self = decode(GENERATION, bytes, RECORD_BYTES_MAX)?;
        record.check()?;
        Ok(record)
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`RecordError`], if it couldn't be read again.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        self.check()?;
        let bytes = encode(self);
        within(GENERATION, bytes.len(), RECORD_BYTES_MAX)?;
        Ok(bytes)
    }

    fn check(&self) -> Result<(), RecordError> {
        let wrong = |reason: String| Err(RecordError::Wrong { what: GENERATION, reason });
        let text_max = usize::try_from(config::CENTRAL_BYTES_MAX.0).unwrap_or(usize::MAX);
        within("its text", self.text.len(), text_max)?;
        if self.generation == 0 || self.components.len() > POLICIES_MAX {
            return wrong(format!("it has the number {} and {} policies", self.generation, self.components.len()));
        }
        for (policy, component) in &self.components {
            if !is_digest(&component.digest) || component.bytes > COMPONENT_BYTES_MAX {
                return wrong(format!("the component of policy `{policy}` has no digest, or more than 64 MiB"));
            }
        }
        Ok(())
    }
}

const GENERATION: &str = "the record of the generation";

/// Whether a text is a digest as it is written here. It becomes the name of a file.
fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What a node has made of the generation that is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It runs by it.
    Taken,
    /// It runs by it, and hasn't done worse for as long as it was to watch itself.
    Steady,
    /// It runs by it, and didn't watch itself: it had taken it before it was to, or began anew since.
    Unwatched,
    /// It can't, and runs by what it had.
    Refused,
    /// It did worse by it, and has gone back to what it had.
    Worse,
}

impl Outcome {
    /// Returns its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Steady => "steady",
            Self::Unwatched => "unwatched",
            Self::Refused => "refused",
            Self::Worse => "worse",
        }
    }
}

/// What a node says of itself. Gone with its lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeState {
    /// [`FORMAT`].
    pub format: u32,
    /// Its region.
    pub region: String,
    /// Its name.
    pub node: String,
    /// The revision of the head by which it says this. What it made of a later one isn't known yet.
    pub head: i64,
    /// The generation that it was to take last.
    pub wanted: Option<Pointer>,
    /// The generation that it runs by.
    pub holds: Option<Pointer>,
    /// What became of the wanted one.
    pub outcome: Outcome,
    /// Why, unless it was taken.
    pub reason: Option<String>,
    /// The digests of the components that it runs by, by the names of their policies.
    pub components: BTreeMap<String, String>,
}

impl NodeState {
    /// Reads it.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        decode("the state of a node", bytes, SMALL_BYTES_MAX)
    }

    /// Whether it says what became of this generation.
    #[must_use]
    pub fn is_of(&self, generation: &Pointer) -> bool {
        self.wanted.as_ref() == Some(generation)
    }
}

/// Writes a record.
pub(super) fn encode(record: &impl Serialize) -> Vec<u8> {
    // Maps have keys of text, and nothing else can fail.
    serde_json::to_vec(record).unwrap_or_default()
}

fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8], max: usize) -> Result<T, RecordError> {
    /// The one member that all formats have.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    within(what, bytes.len(), max)?;
    let wrong = |error: serde_json::Error| RecordError::Wrong { what, reason: error.to_string() };
    let Format { format } = serde_json::from_slice(bytes).map_err(wrong)?;
    if format != FORMAT {
        return Err(RecordError::Format { what, found: format });
    }
    serde_json::from_slice(bytes).map_err(wrong)
}

fn within(what: &'static str, length: usize, max: usize) -> Result<(), RecordError> {
    if length > max { Err(RecordError::TooLarge { what, length, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(number: u64) -> Pointer {
        Pointer { number, digest: "d".repeat(64) }
    }

    fn head() -> Head {
        Head { format: FORMAT, generation: pointer(2), former: Some(pointer(1)), reach: Reach::all(), trial: None }
    }

    fn record() -> Record {
        let component = Component { digest: "a".repeat(64), bytes: 9 };
        Record {
            format: FORMAT,
            generation: 1,
            pushed: Timestamp(1),
            text: "[pool.web]".to_owned(),
            components: BTreeMap::from([("p".to_owned(), component)]),
        }
    }

    #[test]
    fn a_rollout_reaches_the_regions_and_the_share_that_it_names_and_no_others() {
        let names: Vec<String> = (0..1_000).map(|number| format!("n{number}")).collect();
        let reached = |reach: &Reach, region: &str| names.iter().filter(|name| reach.includes(region, name)).count();
        let of = |regions: &[&str], percent: u8| Reach {
            regions: regions.iter().map(|region| (*region).to_owned()).collect(),
            percent,
        };
        assert_eq!(reached(&Reach::all(), "eu"), 1_000);
        assert_eq!((reached(&of(&["eu"], 100), "eu"), reached(&of(&["eu"], 100), "us")), (1_000, 0));
        assert_eq!(reached(&of(&["eu", "us"], 100), "us"), 1_000);
        for percent in [1, 10, 50, 99] {
            let found = reached(&of(&[], percent), "eu");
            let wanted = usize::from(percent) * 10;
            assert!(found.abs_diff(wanted) <= 60, "{percent}: {found}");
        }
        assert_eq!(reached(&of(&["eu"], 10), "us"), 0);
        // A larger share takes none away.
        for name in &names {
            let first = (1..=100).find(|percent| of(&[], *percent).includes("eu", name)).expect("at 100 percent");
            assert!((first..=100).all(|percent| of(&[], percent).includes("eu", name)), "{name}");
        }
    }

    #[test]
    fn nodes_outside_a_rollout_have_the_former_generation() {
        let eu = Reach { regions: vec!["eu".to_owned()], percent: 100 };
        let some = Head { reach: eu.clone(), ..head() };
        assert_eq!(some.of_node("eu", "n"), Some(&pointer(2)));
        assert_eq!(some.of_node("us", "n"), Some(&pointer(1)));
        let first = Head { reach: eu, former: None, ..head() };
        assert_eq!(first.of_node("us", "n"), None);
        assert_eq!(head().of_node("us", "n"), Some(&pointer(2)));
    }

    #[test]
    fn a_generation_that_is_for_nobody_leaves_what_was_before_it() {
        let some = Reach { regions: Vec::new(), percent: 99 };
        for (reach, former, of_node, base, is_settled) in [
            (Reach::all(), Some(1), Some(2), Some(2), true),
            (Reach::all(), None, Some(2), Some(2), true),
            (Reach::nobody(), Some(1), Some(1), Some(1), true),
            (Reach::nobody(), None, None, None, true),
            (Reach { percent: 0, regions: vec!["eu".to_owned()] }, None, None, None, true),
            (some, None, Some(2), Some(2), false),
        ] {
            let head = Head { reach, former: former.map(pointer), ..head() };
            // A node that is in the reach of 99 percent.
            let node = (0..100).map(|number| format!("n{number}")).find(|node| place("eu", node) < 99).expect("one");
            assert_eq!(head.of_node("eu", &node), of_node.map(pointer).as_ref(), "{head:?}");
            assert_eq!((head.base(), head.is_settled()), (base.map(pointer).as_ref(), is_settled), "{head:?}");
            assert_eq!(Head::decode(&encode(&head)), Ok(head));
        }
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        assert_eq!(Head::decode(&encode(&head())), Ok(head()));
        assert_eq!(Record::decode(&record().encode().unwrap()), Ok(record()));
        let state = NodeState {
            format: FORMAT,
            region: "eu".to_owned(),
            node: "n1".to_owned(),
            head: 7,
            wanted: Some(pointer(2)),
            holds: None,
            outcome: Outcome::Refused,
            reason: Some("why".to_owned()),
            components: BTreeMap::new(),
        };
        assert_eq!(NodeState::decode(&encode(&state)), Ok(state.clone()));
        assert!(state.is_of(&pointer(2)) && !state.is_of(&pointer(1)));
        let another = Pointer { digest: "e".repeat(64), ..pointer(2) };
        assert!(!state.is_of(&another), "another store's");
    }

    #[test]
    fn what_is_not_understood_is_not_used() {
        let head_with = |from: &str, to: &str| {
            let text = String::from_utf8(encode(&head())).unwrap();
            assert!(text.contains(from), "{text}");
            Head::decode(text.replacen(from, to, 1).as_bytes()).map_err(|error| error.to_string())
        };
        for (from, to, reason) in [
            ("\"format\":1", "\"format\":2", "the format 2; this version knows 1"),
            ("\"format\":1", "\"format\":1,\"further\":1", "unknown field `further`"),
            ("\"number\":2", "\"number\":0", "numbered from 1"),
            ("\"number\":2", "\"number\":1", "isn't before"),
            ("\"percent\":100", "\"percent\":-1", "is wrong"),
            ("\"percent\":100", "\"percent\":101", "0 to 100 percent"),
            ("{", "", "is wrong"),
        ] {
            let refused = head_with(from, to).unwrap_err();
            assert!(refused.contains(reason), "{to}: {refused}");
        }
        let wrong = |change: fn(&mut Record)| {
            let mut record = record();
            change(&mut record);
            (record.encode().unwrap_err(), Record::decode(&encode(&record)).unwrap_err())
        };
        let changes: [fn(&mut Record); 4] = [
            |record| record.generation = 0,
            |record| record.text = "#".repeat((512 << 10) + 1),
            |record| record.components.values_mut().for_each(|component| component.digest = "../x".to_owned()),
            |record| record.components.values_mut().for_each(|component| component.bytes = COMPONENT_BYTES_MAX + 1),
        ];
        for change in changes {
            let (written, read) = wrong(change);
            assert_eq!(written, read);
        }
        assert!(matches!(Head::decode(&vec![b' '; SMALL_BYTES_MAX + 1]), Err(RecordError::TooLarge { .. })));
    }
}
