//! A log that says by itself what happens to it, and says it wrongly.

use std::path::Path;

use futures_util::stream;
use proptest::prelude::*;

use super::{
    super::log::{Word, Words},
    *,
};

/// What is done to what a log says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mischief {
    #[default]
    None,
    Silence,
    Twice,
    Backwards,
    /// Each other record is left out.
    Gaps,
    /// Records have other links than those in the log.
    Foreign,
}

const ALL: [Mischief; 6] =
    [Mischief::None, Mischief::Silence, Mischief::Twice, Mischief::Backwards, Mischief::Gaps, Mischief::Foreign];

impl Mischief {
    fn done_to(self, words: Vec<Word>) -> Vec<Word> {
        let is_odd = |word: &Word| matches!(word, Word::Record(_, tied) if tied.entry.position.0 % 2 == 1);
        match self {
            Self::None => words,
            Self::Silence => Vec::new(),
            Self::Twice => words.into_iter().flat_map(|word| [word.clone(), word]).collect(),
            Self::Backwards => words.into_iter().rev().collect(),
            Self::Gaps => words.into_iter().filter(|word| !is_odd(word)).collect(),
            Self::Foreign => words.into_iter().map(foreign).collect(),
        }
    }
}

fn foreign(word: Word) -> Word {
    match word {
        Word::Record(log, mut tied) => {
            tied.entry.link.0 ^= 1;
            Word::Record(log, tied)
        }
        other => other,
    }
}

/// A [`FakeLog`] that says by itself what happens to it.
#[derive(Debug, Default)]
struct TellingLog {
    log: Arc<FakeLog>,
    mischief: parking_lot::Mutex<Mischief>,
}

/// How far a listener was told.
struct Ear {
    name: u64,
    id: u64,
    told: Position,
    members: BTreeMap<u64, Member>,
}

impl TellingLog {
    /// Another way to the same server.
    fn line(&self) -> Arc<Self> {
        Arc::new(Self { log: self.log.line(), ..Self::default() })
    }

    fn open(&self) -> Result<Ear, Error> {
        let server = self.log.reach()?;
        Ok(Ear { name: server.name, id: server.id, told: server.last().0, members: server.members.clone() })
    }

    /// Returns what happened since. A server that was restored breaks off.
    fn heard(&self, ear: &mut Ear, with_reports: bool) -> Result<Vec<Word>, Error> {
        let server = self.log.reach()?;
        if server.name != ear.name {
            return Err(Error::Log("restored".to_owned()));
        }
        let mut words = Vec::new();
        if server.id != ear.id {
            words.push(Word::Change);
            (ear.id, ear.told) = (server.id, Position(0));
        }
        let told = ear.told;
        let new = server.records.iter().filter(|tied| tied.entry.position > told);
        words.extend(new.map(|tied| Word::Record(Incarnation(server.id), tied.clone())));
        ear.told = server.last().0;
        if with_reports {
            let before = std::mem::replace(&mut ear.members, server.members.clone());
            let new = server.members.iter().filter(|(instance, member)| before.get(instance) != Some(member));
            words.extend(new.map(|(_, member)| Word::Report(member.clone())));
            if before.keys().any(|instance| !server.members.contains_key(instance)) {
                words.push(Word::Change);
            }
        }
        Ok(words)
    }

    fn words(&self, with_reports: bool) -> Words<'_> {
        let words = stream::try_unfold(None, move |ear: Option<Ear>| async move {
            let Some(mut ear) = ear else { return Ok(Some((Vec::new(), Some(self.open()?)))) };
            loop {
                sleep(Duration::from_millis(2)).await;
                let heard = self.heard(&mut ear, with_reports)?;
                let words = self.mischief.lock().done_to(heard);
                if !words.is_empty() {
                    return Ok::<_, Error>(Some((words, Some(ear))));
                }
            }
        });
        Box::pin(words)
    }
}

impl Log for TellingLog {
    fn identity(&self) -> Tag {
        self.log.identity()
    }

    fn append<'a>(&'a self, purges: &'a [Append], known: &'a [Member]) -> BoxFuture<'a, Result<Appended, Error>> {
        self.log.append(purges, known)
    }

    fn follow<'a>(&'a self, member: &'a Member, from: Cursor) -> BoxFuture<'a, Result<Followed, Error>> {
        self.log.follow(member, from)
    }

    fn wait(&self, from: Cursor, time: Duration) -> BoxFuture<'_, Result<(), Error>> {
        self.log.wait(from, time)
    }

    fn begin_anew<'a>(&'a self, from: Incarnation, known: &'a [Member]) -> BoxFuture<'a, Result<(), Error>> {
        self.log.begin_anew(from, known)
    }

    fn sign_on<'a>(&'a self, known: &'a [Member]) -> BoxFuture<'a, Result<(), Error>> {
        self.log.sign_on(known)
    }

    fn members<'a>(&'a self, purge: Option<&'a Appended>, known: &'a [Member]) -> BoxFuture<'a, Result<Listed, Error>> {
        self.log.members(purge, known)
    }

    fn sign_off<'a>(&'a self, member: &'a Member, unless_changed: bool) -> BoxFuture<'a, Result<(), Error>> {
        self.log.sign_off(member, unless_changed)
    }

    fn notices(&self) -> Option<Words<'_>> {
        Some(self.words(false))
    }

    fn reports(&self) -> Option<Words<'_>> {
        Some(self.words(true))
    }

    fn report(&self, member: Member, at: Cursor) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(async move {
            let mut server = self.log.reach()?;
            let is_it = |tied: &Tied| tied.entry.position == at.position && tied.entry.link == at.link;
            let is_point = server.id == at.log.0 && server.records.iter().any(is_it);
            let is_believed = is_point && server.members.contains_key(&member.instance);
            if is_believed {
                server.members.insert(member.instance, member);
            }
            Ok(is_believed)
        })
    }
}

fn follower_of(name: &str, log: &Arc<TellingLog>, dir: Option<&Path>, config: &config::Purge) -> Arc<Purger> {
    let log = Arc::clone(log) as Arc<dyn Log>;
    Purger::open(name, config, dir, Some(log), Metrics::default()).unwrap()
}

/// Starts a node, and waits until it is in step and is told what is appended.
async fn started(name: &str, log: &Arc<TellingLog>, dir: Option<&Path>, config: &config::Purge) -> Running {
    let node = run(&follower_of(name, log, dir, config));
    until("step", || node.in_step() && node.region.as_ref().unwrap().is_told.load(Ordering::Relaxed)).await;
    node
}

/// How far the node has reported.
fn reported(log: &TellingLog, node: &Purger) -> Position {
    let instance = node.region.as_ref().unwrap().instance;
    log.log.server.lock().members[&instance].report.applied
}

#[tokio::test]
async fn a_record_is_applied_and_reported_by_its_notice_and_moves_no_fence() {
    let log = Arc::new(TellingLog::default());
    let node = started("n", &log, None, &config()).await;
    let stored = Stored::new(&node, "t");
    *log.log.stuck.lock() = "follow";
    until("the end of the last read's fence", || !node.in_step()).await;
    log.log.add(Some((Tag::named(b"t"), Kind::Hard)));
    until("its being applied", || stored.judged(&node) == Standing::Gone).await;
    until("its being reported", || reported(&log, &node) == Position(1)).await;
    assert!(!node.in_step(), "that takes a read");
    *log.log.stuck.lock() = "";
    until("step", || node.in_step()).await;
    assert_eq!(stored.judged(&node), Standing::Gone);
}

#[tokio::test]
async fn what_the_disk_refuses_is_applied_and_not_reported() {
    let (log, dir) = (Arc::new(TellingLog::default()), tempfile::tempdir().unwrap());
    let node = started("n", &log, Some(dir.path()), &config()).await;
    let stored = Stored::new(&node, "t");
    node.journal.as_ref().unwrap().close();
    log.log.add(Some((Tag::named(b"t"), Kind::Hard)));
    until("its being applied", || stored.judged(&node) == Standing::Gone).await;
    until("the fence's end", || node.unsaved.load(Ordering::Relaxed) && !node.in_step()).await;
    assert_eq!(reported(&log, &node), Position(0));
}

/// The other's reads don't come back: that it has applied the purge is known by its notice and its report.
#[tokio::test]
async fn a_purge_is_applied_and_reported_by_a_node_that_reads_nothing() {
    let config = config::Purge { fence: Duration::from_secs(2), ..config() };
    let log = Arc::new(TellingLog::default());
    let line = log.line();
    let one = started("one", &log, None, &config).await;
    assert_eq!(one.sign_off("*", ACK).await.unwrap().done, 1, "nodes of which nothing is known");
    let two = started("two", &line, None, &config).await;
    one.purge(&tag("x"), Kind::Hard, ACK).await.unwrap();
    *line.log.stuck.lock() = "follow";
    let stored = Stored::new(&two, "t");
    let receipt = one.purge(&tag("t"), Kind::Hard, ACK).await.unwrap();
    assert_eq!((receipt.applied, receipt.expired), (vec!["one".to_owned(), "two".to_owned()], vec![]));
    assert_eq!(stored.judged(&two), Standing::Gone);
}

#[tokio::test]
async fn however_wrong_the_notices_are_a_purge_is_complete_when_it_is_applied() {
    for mischief in ALL {
        let log = Arc::new(TellingLog::default());
        let nodes = [started("a", &log, None, &config()).await, started("b", &log, None, &config()).await];
        *log.mischief.lock() = mischief;
        for name in ["t", "u", "v"] {
            let stored = nodes.each_ref().map(|node| Stored::new(node, name));
            let receipt = nodes[0].purge(&tag(name), Kind::Hard, ACK).await.unwrap();
            assert!(receipt.missing.is_empty(), "{mischief:?}: {receipt:?}");
            for (node, stored) in nodes.iter().zip(&stored) {
                assert_ne!(stored.judged(node), Standing::Good, "{mischief:?}: {name}");
            }
        }
    }
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Purge(usize),
    Mischief(Mischief),
    /// The log's server is put back to what it was when this happened last.
    Lose,
    Down(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..2_usize).prop_map(Step::Purge),
        2 => prop::sample::select(ALL.to_vec()).prop_map(Step::Mischief),
        1 => Just(Step::Lose),
        1 => any::<bool>().prop_map(Step::Down),
    ]
}

/// Returns what is good on a node although it was purged.
async fn wrong(steps: &[Step]) -> Option<String> {
    let (fence, brief) = (Duration::from_millis(60), Duration::from_millis(400));
    let config = config::Purge { fence, ..config() };
    let log = Arc::new(TellingLog::default());
    let nodes = ["a", "b"].map(|name| run(&follower_of(name, &log, None, &config)));
    let mut copy = Server::default();
    let (mut stored, mut purged) = (Vec::new(), Vec::new());
    for (at, step) in steps.iter().enumerate() {
        match *step {
            Step::Purge(by) => {
                stored.extend(nodes.iter().enumerate().map(|(number, node)| (number, Stored::new(node, "t"))));
                let done = nodes[by].purge(&tag("t"), Kind::Hard, brief).await;
                if done.is_ok_and(|receipt| receipt.missing.is_empty()) {
                    purged.append(&mut stored);
                }
            }
            Step::Mischief(mischief) => *log.mischief.lock() = mischief,
            Step::Lose => {
                let now = log.log.server.lock().clone();
                log.log.restore(std::mem::replace(&mut copy, now));
            }
            Step::Down(down) => log.log.set_down(down),
        }
        let is_good = |(number, stored): &&(usize, Stored)| stored.judged(&nodes[*number]) == Standing::Good;
        if let Some((number, _)) = purged.iter().find(is_good) {
            return Some(format!("after step {at} on node {number}"));
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 16, ..ProptestConfig::default() })]

    /// Whatever a log says, doesn't say, says twice or out of order, and whatever becomes of it: what was stored before a
    /// purge that is complete is good nowhere.
    #[test]
    fn what_a_complete_purge_took_is_good_nowhere(steps in prop::collection::vec(step(), 4..16)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let wrong = runtime.block_on(wrong(&steps));
        prop_assert_eq!(wrong, None);
    }
}
