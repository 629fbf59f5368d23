//! Purgers over a log that loses, forgets and goes back as engines do.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    log::{Append, Appended, Entry, Followed, Listed, Log, Member, Tied, chained},
    *,
};
use crate::{
    cache::{
        Metrics,
        tag::{self, Tag, UrlTags, Urls},
    },
    clock, config,
};

mod loss;
mod membership;
mod notices;
mod own;
mod patterns;
mod world;

const ACK: Duration = Duration::from_secs(5);
const FENCE: Duration = Duration::from_millis(200);

/// A log's server in this process.
#[derive(Clone, Debug, Default)]
struct Server {
    id: u64,
    name: u64,
    records: Vec<Tied>,
    members: BTreeMap<u64, Member>,
    /// Processes that were signed off, with their last word.
    left: BTreeMap<u64, u64>,
}

#[derive(Debug, Default)]
struct FakeLog {
    server: Arc<parking_lot::Mutex<Server>>,
    down: std::sync::atomic::AtomicBool,
    /// Calls that didn't reach the server.
    failed: AtomicU64,
    /// The call that doesn't come back.
    stuck: parking_lot::Mutex<&'static str>,
}

impl FakeLog {
    /// Another way to the same server, which may be down by itself.
    fn line(&self) -> Arc<Self> {
        Arc::new(Self { server: Arc::clone(&self.server), ..Self::default() })
    }

    fn reach(&self) -> Result<parking_lot::MutexGuard<'_, Server>, Error> {
        if !self.down.load(Ordering::Relaxed) {
            return Ok(self.server.lock());
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        Err(Error::Log("down".to_owned()))
    }

    async fn is_passed(&self, call: &str) {
        while *self.stuck.lock() == call {
            sleep(Duration::from_millis(2)).await;
        }
    }

    fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    /// Puts the server back to an older state, under another name as after a restart.
    fn restore(&self, copy: Server) {
        *self.server.lock() = Server { name: fastrand::u64(..), ..copy };
    }

    fn add(&self, record: Option<(Tag, Kind)>) {
        self.server.lock().add(record);
    }

    /// How many processes have signed on and not off.
    fn nodes(&self) -> usize {
        self.server.lock().members.values().filter(|member| !member.is_strangers()).count()
    }
}

/// An incarnation after another.
fn after(id: u64) -> u64 {
    (((id >> 32) + 1) << 32) | fastrand::u64(1..1 << 32)
}

impl Server {
    fn add(&mut self, purge: Option<(Tag, Kind)>) {
        self.push(purge.map(|(tag, kind)| Append { tag, kind, reach: Reach::Entries }));
    }

    fn push(&mut self, purge: Option<Append>) {
        if self.id == 0 {
            self.begin(&[]);
        }
        let position = Position(self.last().0.0 + 1);
        let record = purge.map(|Append { tag, kind, reach }| Record { position, tag, kind, reach });
        let before = self.last().1;
        self.records.push(Tied { entry: Entry { position, link: table::Link(fastrand::u64(1..)), record }, before });
    }

    /// Begins anew, with those that had signed on and those that are known.
    fn begin(&mut self, known: &[Member]) {
        let members = std::mem::take(&mut self.members);
        *self = Self { id: after(self.id), name: self.name, members, ..Self::default() };
        self.sign_on(known);
    }

    fn sign_on(&mut self, known: &[Member]) {
        for member in known {
            self.members.entry(member.instance).or_insert_with(|| member.clone());
            self.left.remove(&member.instance);
        }
    }

    fn sign_off(&mut self, member: &Member) {
        let listed = self.members.remove(&member.instance).map_or(0, |listed| listed.report.beat);
        self.left.insert(member.instance, listed.max(member.report.beat));
    }

    fn has_left(&self, member: &Member) -> bool {
        self.left.get(&member.instance).is_some_and(|beat| *beat >= member.report.beat)
    }

    fn last(&self) -> (Position, table::Link) {
        self.records.last().map_or_else(Default::default, |tied| (tied.entry.position, tied.entry.link))
    }

    fn follow(&mut self, member: &Member, from: Cursor) -> Followed {
        if from.log.0 != self.id || self.id == 0 {
            return Followed::Other(Incarnation(self.id));
        }
        let trimmed = self.records.first().is_some_and(|tied| tied.entry.position.0 > from.position.0 + 1);
        let here = self.records.iter().find(|tied| tied.entry.position == from.position);
        if !trimmed && from.position.0 > 0 && here.is_none_or(|tied| tied.entry.link != from.link) {
            return Followed::Forked;
        }
        self.members.insert(member.instance, member.clone());
        self.left.remove(&member.instance);
        let after = self.records.iter().filter(|tied| tied.entry.position > from.position).take(7).cloned();
        chained(from, after.collect(), self.last(), trimmed, Some(self.name.to_string()))
    }
}

impl Log for FakeLog {
    fn identity(&self) -> Tag {
        Tag::named(b"log")
    }

    fn append<'a>(&'a self, purges: &'a [Append], known: &'a [Member]) -> BoxFuture<'a, Result<Appended, Error>> {
        Box::pin(async move {
            let mut server = self.reach()?;
            if server.id == 0 {
                server.begin(known);
            }
            for purge in purges {
                server.push(Some(purge.clone()));
            }
            let (position, link) = server.last();
            Ok(Appended { log: Incarnation(server.id), position, link, server: Some(server.name.to_string()) })
        })
    }

    fn follow<'a>(&'a self, member: &'a Member, from: Cursor) -> BoxFuture<'a, Result<Followed, Error>> {
        Box::pin(async move {
            self.is_passed("follow").await;
            let followed = self.reach()?.follow(member, from);
            if matches!(followed, Followed::Records { .. }) {
                self.is_passed("records").await;
            }
            Ok(followed)
        })
    }

    fn wait(&self, from: Cursor, time: Duration) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let end = clock::uptime().plus(time);
            while self.reach()?.last().0 <= from.position && clock::uptime() < end {
                sleep(Duration::from_millis(2)).await;
            }
            Ok(())
        })
    }

    fn begin_anew<'a>(&'a self, from: Incarnation, known: &'a [Member]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut server = self.reach()?;
            if server.id == from.0 {
                server.begin(known);
            }
            Ok(())
        })
    }

    fn sign_on<'a>(&'a self, known: &'a [Member]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut server = self.reach()?;
            let known: Vec<Member> = known.iter().filter(|member| !server.has_left(member)).cloned().collect();
            server.sign_on(&known);
            Ok(())
        })
    }

    fn members<'a>(&'a self, purge: Option<&'a Appended>, known: &'a [Member]) -> BoxFuture<'a, Result<Listed, Error>> {
        Box::pin(async move {
            self.is_passed("members").await;
            let server = self.reach()?;
            let members = server.members.values().cloned().collect();
            let is_gone = |member: &&Member| !server.members.contains_key(&member.instance) && server.has_left(member);
            let left = known.iter().filter(is_gone).cloned().collect();
            let is_it =
                |tied: &Tied, purge: &Appended| tied.entry.position == purge.position && tied.entry.link == purge.link;
            let lost = purge
                .is_some_and(|purge| purge.log.0 == server.id && !server.records.iter().any(|tied| is_it(tied, purge)));
            Ok(Listed { log: Incarnation(server.id), server: Some(server.name.to_string()), members, left, lost })
        })
    }

    fn sign_off<'a>(&'a self, member: &'a Member, unless_changed: bool) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.is_passed("sign_off").await;
            let mut server = self.reach()?;
            if !unless_changed || server.members.get(&member.instance) == Some(member) {
                server.sign_off(member);
            }
            Ok(())
        })
    }
}

fn config() -> config::Purge {
    config::Purge { tags_max: 1_000, fence: FENCE, ..config::Purge::default() }
}

fn alone(dir: Option<&std::path::Path>) -> Arc<Purger> {
    Purger::open("n", &config(), dir, None, Metrics::default()).unwrap()
}

fn follower(name: &str, log: &Arc<FakeLog>, dir: Option<&std::path::Path>) -> Arc<Purger> {
    follower_with(name, log, dir, &config())
}

fn follower_with(name: &str, log: &Arc<FakeLog>, dir: Option<&std::path::Path>, config: &config::Purge) -> Arc<Purger> {
    let log = Arc::clone(log) as Arc<dyn Log>;
    Purger::open(name, config, dir, Some(log), Metrics::default()).unwrap()
}

/// A purger that follows until it is dropped.
struct Running(Arc<Purger>, CancellationToken);

impl Drop for Running {
    fn drop(&mut self) {
        self.1.cancel();
    }
}

impl std::ops::Deref for Running {
    type Target = Arc<Purger>;

    fn deref(&self) -> &Arc<Purger> {
        &self.0
    }
}

fn run(purger: &Arc<Purger>) -> Running {
    let stop = CancellationToken::new();
    tokio::spawn(Arc::clone(purger).run(stop.clone()));
    Running(Arc::clone(purger), stop)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = clock::uptime().plus(Duration::from_secs(10));
    while !condition() {
        assert!(clock::uptime() < end, "no {what} in ten seconds");
        sleep(Duration::from_millis(2)).await;
    }
}

/// An entry as a hit judges it.
struct Stored {
    tags: Vec<Tag>,
    urls: Urls,
    mark: Mark,
    checked: AtomicU64,
}

impl Stored {
    fn new(purger: &Purger, tag: &str) -> Self {
        let (tags, mark) = (vec![Tag::named(tag.as_bytes())], purger.mark());
        Self { tags, urls: Urls::Unknown, mark, checked: AtomicU64::new(0) }
    }

    /// As another process, or this one after a restart, finds it in a tier.
    fn read_back(&self) -> Self {
        let mark = Mark { log: self.mark.log, position: self.mark.position, ..Mark::default() };
        Self { tags: self.tags.clone(), urls: self.urls.clone(), mark, checked: AtomicU64::new(0) }
    }

    fn judged(&self, purger: &Purger) -> Standing {
        let subject = Subject { tags: &self.tags, urls: &self.urls, mark: &self.mark };
        purger.check(&subject, &self.checked, None::<fn(bool) -> UrlTags>)
    }
}

fn tag(name: &str) -> Scope {
    Scope::Tag(name.to_owned())
}

fn check(purger: &Purger, url: &str, mark: &Mark, checked: &AtomicU64) -> Standing {
    let subject = Subject { tags: &[Tag::named(b"t")], urls: &Urls::Unknown, mark };
    purger.check(&subject, checked, Some(|prefixes| tag::of_url(url, prefixes)))
}

#[tokio::test]
async fn a_remembered_good_check_does_not_outlive_a_purge() {
    let purger = alone(None);
    let stored = Stored::new(&purger, "t");
    assert_eq!(stored.judged(&purger), Standing::Good);
    purger.purge(&tag("t"), Kind::Soft, ACK).await.unwrap();
    assert_eq!(stored.judged(&purger), Standing::Stale);
}

#[tokio::test]
async fn a_url_that_shares_its_entry_can_be_purged_by_itself() {
    let purger = alone(None);
    let (mark, checked) = (purger.mark(), AtomicU64::new(0));
    purger.purge(&Scope::Url("b".into()), Kind::Hard, ACK).await.unwrap();
    assert_eq!(check(&purger, "a", &mark, &checked), Standing::Good);
    assert_eq!(check(&purger, "b", &mark, &checked), Standing::Gone, "although the entry itself was just good");
}

#[tokio::test]
async fn a_prefix_takes_what_is_stored_and_what_is_asked_for_below_it() {
    let purger = alone(None);
    let (mark, checked) = (purger.mark(), AtomicU64::new(0));
    let below = Stored { tags: tag::of_url("http://a/x/y?z", true).to_vec(), ..Stored::new(&purger, "") };
    let beside = Stored { tags: tag::of_url("http://a/xy", true).to_vec(), ..Stored::new(&purger, "") };
    purger.purge(&Scope::Prefix("http://a/x".into()), Kind::Hard, ACK).await.unwrap();
    assert_eq!((below.judged(&purger), beside.judged(&purger)), (Standing::Gone, Standing::Good));
    // An entry that was stored for another URL, and may be served to requests for these.
    for (url, wanted) in
        [("http://a/x/y", Standing::Gone), ("http://a/xy", Standing::Good), ("http://a/x", Standing::Gone)]
    {
        assert_eq!(check(&purger, url, &mark, &checked), wanted, "{url}");
    }
    let renewed = Stored { tags: below.tags.clone(), ..Stored::new(&purger, "") };
    assert_eq!(renewed.judged(&purger), Standing::Good, "what was fetched since");
    assert_eq!(check(&purger, "http://a/x/y", &purger.mark(), &AtomicU64::new(0)), Standing::Good);
    let deep = Scope::Prefix(format!("http://a{}", "/x".repeat(16)));
    assert!(matches!(purger.purge(&deep, Kind::Hard, ACK).await, Err(Error::Prefix)), "nothing has a tag for it");
}

#[tokio::test]
async fn a_prefix_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let purger = alone(Some(dir.path()));
    let stored = Stored { tags: tag::of_url("http://a/x/y", true).to_vec(), ..Stored::new(&purger, "") };
    let mark = purger.mark();
    purger.purge(&Scope::Prefix("http://a/x".into()), Kind::Hard, ACK).await.unwrap();
    drop(purger);
    let purger = alone(Some(dir.path()));
    assert_eq!(stored.read_back().judged(&purger), Standing::Gone);
    let mark = Mark { log: mark.log, position: mark.position, ..Mark::default() };
    assert_eq!(check(&purger, "http://a/x/z", &mark, &AtomicU64::new(0)), Standing::Gone, "and for requests");
}

#[tokio::test]
async fn an_invalidation_holds_here_before_any_log_has_it() {
    let log = Arc::new(FakeLog::default());
    log.set_down(true);
    for purger in [alone(None), follower("n", &log, None)] {
        let (mark, checked) = (purger.begin(&Tag::url("a")), AtomicU64::new(0));
        let _ = tokio::time::timeout(Duration::from_millis(1), purger.invalidate(Tag::url("a"))).await;
        assert_eq!(check(&purger, "a", &mark, &checked), Standing::Gone);
        assert_ne!(check(&purger, "b", &mark, &AtomicU64::new(0)), Standing::Gone);
        let after = purger.mark();
        assert_ne!(check(&purger, "a", &after, &AtomicU64::new(0)), Standing::Gone, "what was fetched since");
    }
}

#[tokio::test]
async fn an_invalidation_reaches_the_others_once_the_log_is_back() {
    let log = Arc::new(FakeLog::default());
    let nodes = [run(&follower("a", &log, None)), run(&follower("b", &log, None))];
    until("step", || nodes.iter().all(|node| node.in_step())).await;
    let (mark, checked) = (nodes[1].mark(), AtomicU64::new(0));
    log.set_down(true);
    let _ = tokio::time::timeout(Duration::from_millis(1), nodes[0].invalidate(Tag::url("a"))).await;
    log.set_down(false);
    until("news", || {
        check(&nodes[1], "a", &mark, &checked) == Standing::Gone || {
            // The tag itself stands for the URL in the log.
            let subject = Subject { tags: &[Tag::url("a")], urls: &Urls::Unknown, mark: &mark };
            nodes[1].check(&subject, &AtomicU64::new(0), None::<fn(bool) -> UrlTags>) == Standing::Gone
        }
    })
    .await;
    until("settling", || nodes[0].state.read().local.check([Tag::url("a")], &Mark::default()) == Standing::Good).await;
}

/// Opens a purger once the one before has let go of its directory.
async fn reopened(log: &Arc<FakeLog>, dir: &std::path::Path, config: &config::Purge) -> Arc<Purger> {
    let end = clock::uptime().plus(Duration::from_secs(10));
    loop {
        match Purger::open("a", config, Some(dir), Some(Arc::clone(log) as Arc<dyn Log>), Metrics::default()) {
            Ok(purger) => return purger,
            Err(error) => assert!(clock::uptime() < end, "{error}"),
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// An entry of this URL.
fn stored_under(purger: &Purger, url: &str) -> Stored {
    Stored { tags: vec![Tag::url(url)], ..Stored::new(purger, url) }
}

#[tokio::test]
async fn what_the_log_did_not_take_outlives_the_node_and_reaches_the_others() {
    for gently in [false, true] {
        let (log, dir) = (Arc::new(FakeLog::default()), tempfile::tempdir().unwrap());
        let other = run(&follower("b", &log, None));
        let (node, stop) = (reopened(&log, dir.path(), &config()).await, CancellationToken::new());
        let task = tokio::spawn(Arc::clone(&node).run(stop.clone()));
        until("step", || node.in_step() && other.in_step()).await;
        let (here, there) = (stored_under(&node, "u"), stored_under(&other, "u"));
        log.set_down(true);
        if gently {
            let _ = timeout(Duration::from_millis(1), node.invalidate(Tag::url("u"))).await;
            stop.cancel();
        } else {
            // It returns although no log has it.
            timeout(ACK, node.invalidate(Tag::url("u"))).await.unwrap();
            assert_eq!(node.pending.count(), (1, 1));
            task.abort();
        }
        let _ = task.await;
        let here = here.read_back();
        drop(node);
        log.set_down(false);
        until("step of one that nobody has told", || there.judged(&other) == Standing::Good).await;
        let node = reopened(&log, dir.path(), &config()).await;
        assert_eq!(here.judged(&node), Standing::Gone, "gently: {gently}");
        let node = run(&node);
        until("news", || there.judged(&other) == Standing::Gone).await;
        until("the disk's release", || node.pending.count() == (0, 0) && node.pending.is_kept()).await;
        assert_eq!(node.journal.as_ref().unwrap().waiting().unwrap(), (vec![], false));
        assert_eq!(here.judged(&node), Standing::Gone);
    }
}

#[tokio::test]
async fn more_than_may_be_stored_make_all_nodes_confirm_what_they_have() {
    let (log, dir) = (Arc::new(FakeLog::default()), tempfile::tempdir().unwrap());
    let config = config::Purge { invalidations_max: 2, ..config() };
    let other = run(&follower("b", &log, None));
    let node = reopened(&log, dir.path(), &config).await;
    let task = tokio::spawn(Arc::clone(&node).run(CancellationToken::new()));
    until("step", || node.in_step() && other.in_step()).await;
    let (here, there) = (stored_under(&node, "3"), stored_under(&other, "3"));
    log.set_down(true);
    let all = ["0", "1", "2", "3"].map(|url| node.invalidate(Tag::url(url)));
    timeout(ACK, futures_util::future::join_all(all)).await.unwrap();
    task.abort();
    let _ = task.await;
    let here = here.read_back();
    drop(node);
    let node = reopened(&log, dir.path(), &config).await;
    assert_eq!(here.judged(&node), Standing::Doubtful);
    log.set_down(false);
    let node = run(&node);
    until("doubt", || {
        assert_ne!(here.judged(&node), Standing::Good);
        there.judged(&other) == Standing::Doubtful
    })
    .await;
    let has_floor = || node.state.read().local.check([], &Mark::default()) != Standing::Good;
    until("the end of the floor", || !has_floor()).await;
    assert_eq!(here.judged(&node), Standing::Doubtful, "the log has begun anew");
    until("the disk's release", || node.pending.is_kept()).await;
    assert_eq!(node.journal.as_ref().unwrap().waiting().unwrap(), (vec![], false));
}

#[tokio::test]
async fn signing_off_takes_no_longer_than_a_purge_may() {
    let log = Arc::new(FakeLog::default());
    let one = run(&follower("one", &log, None));
    until("step", || one.in_step()).await;
    let two = follower("two", &log, None);
    let member = two.region.as_ref().unwrap().member("two", *one.applied.borrow(), Position(0), clock::uptime());
    log.server.lock().members.insert(member.instance, member);
    let brief = Duration::from_millis(20);
    for (stuck, known) in [("members", SignedOff::unknown()), ("sign_off", SignedOff { done: 0, left: Some(1) })] {
        *log.stuck.lock() = stuck;
        assert_eq!(one.sign_off("two", brief).await.unwrap(), known, "{stuck}");
    }
    *log.stuck.lock() = "";
    assert_eq!(one.sign_off("two", ACK).await.unwrap(), SignedOff { done: 1, left: Some(0) });
    assert_eq!(one.sign_off("one", ACK).await.unwrap(), SignedOff { done: 0, left: Some(0) }, "it runs");
}

#[tokio::test]
async fn rows_that_fold_while_a_node_catches_up_do_not_stay_on_disk() {
    let (log, dir) = (Arc::new(FakeLog::default()), tempfile::tempdir().unwrap());
    let config = config::Purge { tags_max: 3, ..config() };
    let tags: Vec<Tag> = (0..10).map(|n| Tag::named(format!("{n}").as_bytes())).collect();
    for range in [0..3, 3..10] {
        tags[range].iter().for_each(|tag| log.add(Some((*tag, Kind::Hard))));
        let node = run(&reopened(&log, dir.path(), &config).await);
        until("catching up", || !node.is_catching_up()).await;
        let region = node.region.as_ref().unwrap();
        until("durability", || node.applied.borrow().position.0 == region.last.load(Ordering::Relaxed)).await;
    }
    // With room for all, whatever is on disk is in the table.
    let node = reopened(&log, dir.path(), &self::config()).await;
    let table = node.journal.as_ref().unwrap().load(table::Room::rows(1_000)).unwrap().unwrap();
    let on_disk: Vec<usize> = (0..10).filter(|n| table.row(&tags[*n]).is_some()).collect();
    assert_eq!((on_disk, table.floor()), (vec![7, 8, 9], Position(7)));
}

#[tokio::test]
async fn what_the_disk_refused_is_written_with_what_comes_next() {
    let dir = tempfile::tempdir().unwrap();
    let stored = {
        let purger = alone(Some(dir.path()));
        let stored = Stored::new(&purger, "t");
        {
            // As `commit` leaves it when the journal fails.
            let mut writing = purger.writing.lock().await;
            let position = Position(stored.mark.position.0 + 1);
            let record = Record { position, tag: Tag::named(b"t"), kind: Kind::Hard, reach: Reach::Entries };
            purger.state.write().table.apply(&record);
            writing.unsaved.push(record);
        }
        assert_eq!(purger.applied.borrow().position, stored.mark.position, "not acknowledged");
        purger.purge(&tag("other"), Kind::Hard, ACK).await.unwrap();
        stored
    };
    assert_eq!(stored.judged(&alone(Some(dir.path()))), Standing::Gone);
}

#[tokio::test]
async fn a_local_log_never_gives_a_position_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut unsaved = {
        let purger = alone(Some(dir.path()));
        Stored::new(&purger, "t")
    };
    // An entry fetched after purges that never reached the disk.
    unsaved.mark.position.0 += 5;
    let purger = alone(Some(dir.path()));
    purger.purge(&tag("t"), Kind::Hard, ACK).await.unwrap();
    assert_eq!(unsaved.judged(&purger), Standing::Gone);
}

#[tokio::test]
async fn local_purges_are_durable_before_they_are_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let stored = {
        let purger = alone(Some(dir.path()));
        let stored = Stored::new(&purger, "t");
        let receipt = purger.purge(&tag("t"), Kind::Hard, ACK).await.unwrap();
        assert_eq!(receipt.applied, ["n"]);
        stored
    };
    let purger = alone(Some(dir.path()));
    assert_eq!(stored.judged(&purger), Standing::Gone);
    assert_eq!(Stored::new(&purger, "t").judged(&purger), Standing::Good);
}

/// The way of a node that restarts: nothing counts before all that it missed has been applied.
#[tokio::test]
async fn a_node_that_was_away_trusts_nothing_before_it_has_caught_up() {
    let (log, dir) = (Arc::new(FakeLog::default()), tempfile::tempdir().unwrap());
    let (gone, stays) = {
        let node = run(&follower("n", &log, Some(dir.path())));
        until("step", || node.in_step()).await;
        (Stored::new(&node, "gone"), Stored::new(&node, "stays"))
    };
    until("signing off", || log.nodes() == 0).await;
    for n in 0..500 {
        log.add(Some((Tag::named(format!("{n}").as_bytes()), Kind::Hard)));
    }
    log.add(Some((Tag::named(b"gone"), Kind::Hard)));
    let (gone, stays) = (gone.read_back(), stays.read_back());
    let purger = follower("n", &log, Some(dir.path()));
    assert_eq!(stays.judged(&purger), Standing::Doubtful);
    let node = run(&purger);
    until("catching up", || {
        assert_ne!(gone.judged(&node), Standing::Good);
        !node.is_catching_up()
    })
    .await;
    assert_eq!((gone.judged(&node), stays.judged(&node)), (Standing::Gone, Standing::Good));
}

#[tokio::test]
async fn past_the_fence_what_was_stored_before_is_to_be_confirmed() {
    let log = Arc::new(FakeLog::default());
    let node = run(&follower("n", &log, None));
    until("step", || node.in_step()).await;
    let stored = Stored::new(&node, "t");
    assert_eq!(stored.judged(&node), Standing::Good);
    log.set_down(true);
    until("the fence's end", || stored.judged(&node) == Standing::Unconfirmed).await;
    let anew = Stored::new(&node, "t");
    assert_eq!(anew.judged(&node), Standing::Good, "fetched less than a fence ago");
    until("another fence's end", || anew.judged(&node) == Standing::Unconfirmed).await;
    log.set_down(false);
    until("step", || stored.judged(&node) == Standing::Good).await;
}

#[tokio::test]
async fn a_purge_waits_for_the_fence_of_those_that_are_cut_off() {
    let log = Arc::new(FakeLog::default());
    let one = run(&follower("one", &log, None));
    let two = follower("two", &log, None);
    let stopped = run(&two);
    until("step", || one.in_step() && two.in_step()).await;
    let stored = Stored::new(&two, "t");
    stopped.1.cancel();
    until("signing off", || log.nodes() == 1).await;
    // As if it had been stopped without signing off, at this moment.
    two.fence.renew(clock::uptime());
    let region = two.region.as_ref().unwrap();
    let member = region.member("two", *two.applied.borrow(), Position(0), clock::uptime());
    log.server.lock().members.insert(member.instance, member);
    let receipt = one.purge(&tag("t"), Kind::Hard, ACK).await.unwrap();
    assert_eq!((receipt.applied, receipt.expired, receipt.missing), (vec!["one".into()], vec!["two".into()], vec![]));
    assert_eq!(stored.judged(&two), Standing::Unconfirmed);
}

#[tokio::test]
async fn one_that_serves_when_cut_off_is_waited_for_until_it_is_signed_off() {
    let log = Arc::new(FakeLog::default());
    let one = run(&follower("one", &log, None));
    let serving = config::Purge { cut_off: config::CutOff::Serve, ..config() };
    let two = follower_with("two", &log, None, &serving);
    until("step", || one.in_step()).await;
    let member = two.region.as_ref().unwrap().member("two", *one.applied.borrow(), Position(0), clock::uptime());
    log.server.lock().members.insert(member.instance, member);
    let receipt = one.purge(&tag("t"), Kind::Hard, FENCE * 3).await.unwrap();
    assert_eq!(receipt.missing, ["two"]);
    let signed_off = |done| SignedOff { done, left: Some(0) };
    assert_eq!(one.sign_off("two", ACK).await.unwrap(), signed_off(1));
    assert_eq!(one.sign_off("two", ACK).await.unwrap(), signed_off(0));
    let receipt = one.purge(&tag("t"), Kind::Hard, FENCE * 3).await.unwrap();
    assert_eq!((receipt.applied, receipt.missing), (vec!["one".into()], vec![]));
}

/// An older copy, one with new purges on top, and none at all: whatever was stored before is asked about again, and
/// purges go on to be right.
#[tokio::test]
async fn a_log_that_went_back_makes_everything_doubtful_and_misses_no_purge() {
    for (name, added) in [("behind", 0), ("as far", 5), ("further", 9), ("empty", 0)] {
        let log = Arc::new(FakeLog::default());
        let nodes = [run(&follower("a", &log, None)), run(&follower("b", &log, None))];
        until("step", || nodes.iter().all(|node| node.in_step())).await;
        nodes[0].purge(&tag("x"), Kind::Hard, ACK).await.unwrap();
        let copy = if name == "empty" { Server::default() } else { log.server.lock().clone() };
        for n in 0..5 {
            nodes[0].purge(&tag(&format!("{n}")), Kind::Hard, ACK).await.unwrap();
        }
        let stored: Vec<_> = nodes.iter().map(|node| Stored::new(node, "t")).collect();
        log.restore(copy);
        for n in 0..added {
            log.add(Some((Tag::named(format!("new {n}").as_bytes()), Kind::Hard)));
        }
        let receipt = nodes[1].purge(&tag("t"), Kind::Hard, ACK).await.unwrap();
        assert!(receipt.missing.is_empty(), "{name}: {receipt:?}");
        for (node, stored) in nodes.iter().zip(&stored) {
            assert_ne!(stored.judged(node), Standing::Good, "{name}");
        }
        until("step", || nodes.iter().all(|node| node.in_step())).await;
        let receipt = nodes[0].purge(&tag("u"), Kind::Hard, ACK).await.unwrap();
        assert_eq!((receipt.applied, receipt.missing.len()), (vec!["a".to_owned(), "b".to_owned()], 0), "{name}");
    }
}

/// It was never read, so only its writer can miss it.
#[tokio::test]
async fn a_purge_that_the_log_lost_before_anybody_read_it_is_not_acknowledged() {
    for others in [0, 1] {
        let log = Arc::new(FakeLog::default());
        let node = run(&follower("n", &log, None));
        until("step", || node.in_step()).await;
        node.purge(&tag("x"), Kind::Hard, ACK).await.unwrap();
        let copy = log.server.lock().clone();
        let append = Append { tag: Tag::named(b"t"), kind: Kind::Hard, reach: Reach::Entries };
        let appended = {
            let mut server = log.server.lock();
            server.add(Some((append.tag, append.kind)));
            let (position, link) = server.last();
            // Back before the lock is given away.
            let appended = Appended { log: Incarnation(server.id), position, link, server: None };
            *server = Server { name: fastrand::u64(..), ..copy };
            (0..others).for_each(|_| server.add(Some((Tag::named(b"other"), Kind::Hard))));
            appended
        };
        let stored = Stored::new(&node, "t");
        let own = node.applied.subscribe();
        let refused = node.region.as_ref().unwrap().acknowledged(&appended, ACK, own).await;
        assert!(matches!(refused, Err(Error::Log(_))), "{refused:?}");
        until("doubt", || stored.judged(&node) == Standing::Doubtful).await;
    }
}

/// A node that was behind can't tell an older state of the log from the one it missed.
#[tokio::test]
async fn a_node_trusts_a_restored_log_only_when_the_others_do() {
    let log = Arc::new(FakeLog::default());
    let ahead = run(&follower("ahead", &log, None));
    until("step", || ahead.in_step()).await;
    ahead.purge(&tag("x"), Kind::Hard, ACK).await.unwrap();
    let copy = log.server.lock().clone();
    let behind = follower("behind", &log, None);
    let stored = {
        let behind = run(&behind);
        until("step", || behind.in_step()).await;
        Stored::new(&behind, "t")
    };
    until("signing off", || log.nodes() == 1).await;
    // As if it had been stopped without signing off.
    let member =
        behind.region.as_ref().unwrap().member("behind", *behind.applied.borrow(), Position(0), clock::uptime());
    log.server.lock().members.insert(member.instance, member);
    assert_eq!(ahead.purge(&tag("t"), Kind::Hard, ACK).await.unwrap().expired, ["behind"]);
    log.restore(copy);
    let behind = run(&behind);
    until("doubt", || {
        assert_ne!(stored.judged(&behind), Standing::Good);
        stored.judged(&behind) == Standing::Doubtful
    })
    .await;
}

#[tokio::test]
async fn a_record_that_cannot_be_read_makes_older_entries_doubtful_and_stops_nothing() {
    let log = Arc::new(FakeLog::default());
    let node = run(&follower("n", &log, None));
    until("step", || node.in_step()).await;
    let stored = Stored::new(&node, "t");
    log.add(None);
    until("doubt", || stored.judged(&node) == Standing::Doubtful).await;
    assert_eq!(node.metrics.purge_unreadable.get(), 1);
    let receipt = node.purge(&tag("u"), Kind::Hard, ACK).await.unwrap();
    assert_eq!(receipt.applied, ["n"]);
    assert_eq!(Stored::new(&node, "t").judged(&node), Standing::Good);
}

#[test]
fn whether_a_flight_is_for_a_request_is_judged_as_of_when_that_came() {
    let purger = alone(None);
    let (early, arrived) = (purger.mark(), purger.arrived());
    purger.state.write().local.add(Tag::named(b"t"));
    let (tags, late, then) = ([Tag::named(b"t")], purger.mark(), purger.arrived());
    let is_outdated = |mark: &Mark, arrived: &Moment| {
        let subject = Subject { tags: &tags, urls: &Urls::Unknown, mark };
        purger.is_outdated(&subject, arrived, || tag::of_url("u", true))
    };
    assert!(!is_outdated(&early, &arrived), "purged after the request came");
    assert!(is_outdated(&early, &purger.arrived()));
    assert!(!is_outdated(&late, &purger.arrived()));
    purger.state.write().local.add(Tag::named(b"other"));
    let since = purger.mark();
    purger.state.write().local.add(Tag::named(b"t"));
    assert!(!is_outdated(&since, &then), "it began after the request came, and was purged then");
    assert!(is_outdated(&since, &purger.arrived()) && is_outdated(&early, &then));
}
