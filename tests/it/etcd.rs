//! The purge logs against real servers: one table of behaviours for Redis and etcd, and what etcd has of its own.

mod client;

use std::time::Duration;

use futures_util::StreamExt;
use holm::{
    cache::{
        purge::{
            Error, Kind, Reach, Record,
            etcd::EtcdLog,
            log::{Append, Appended, Entry, Followed, Listed, Log, Member, Report, Tied, Word, Words},
            redis::RedisLog,
            table::{Cursor, Incarnation, Link, Position},
        },
        tag::Tag,
    },
    config,
    message::pattern::Pattern,
};

use crate::harness::{
    LIMIT,
    etcd::{Etcd, is_there},
    eventually,
    redis::Redis,
    within,
};

const NAMESPACE: &str = "holm";

fn append(name: &str) -> Append {
    Append { tag: Tag::named(name.as_bytes()), kind: Kind::Hard, reach: Reach::Entries }
}

fn member(instance: u64, log: Incarnation, applied: Position, beat: u64) -> Member {
    let report = Report { applied, fence_ms: Some(4_000), lost_ms: 60_000, beat };
    Member { node: "n".to_owned(), instance, log, report }
}

fn at(appended: &Appended) -> Cursor {
    Cursor { log: appended.log, position: appended.position, link: appended.link }
}

fn start(log: Incarnation) -> Cursor {
    Cursor { log, ..Cursor::default() }
}

/// Follows as a process of this number that has applied what it has read.
async fn follow(log: &dyn Log, instance: u64, from: Cursor) -> Followed {
    log.follow(&member(instance, from.log, from.position, 1), from).await.unwrap()
}

fn records(followed: Followed) -> Vec<Option<Record>> {
    match followed {
        Followed::Records { entries, .. } => entries.into_iter().map(|entry| entry.record).collect(),
        other => panic!("no records: {other:?}"),
    }
}

/// Begins a log, and returns its incarnation.
async fn begun(log: &dyn Log, known: &[Member]) -> Incarnation {
    let before = match follow(log, 1, start(Incarnation(0))).await {
        Followed::Other(log) => log,
        other => panic!("nobody has followed it: {other:?}"),
    };
    log.begin_anew(before, known).await.unwrap();
    match follow(log, 1, start(Incarnation(0))).await {
        Followed::Other(log) if log.is_after(before) => log,
        other => panic!("it didn't begin anew after {before:?}: {other:?}"),
    }
}

fn applied(listed: &Listed, instance: u64) -> Option<u64> {
    let found = listed.members.iter().find(|member| member.instance == instance);
    found.map(|member| member.report.applied.0)
}

async fn records_are_read_as_they_were_appended(one: &dyn Log, other: &dyn Log) {
    let log = begun(one, &[]).await;
    assert_eq!(records(follow(one, 1, start(log)).await).len(), 0);
    one.begin_anew(Incarnation(0), &[]).await.unwrap();
    assert_eq!(follow(one, 1, start(Incarnation(0))).await, Followed::Other(log), "only the one that was meant");
    let pattern = Pattern::parse("http://shop.test/*/x?*").unwrap();
    let purges = [
        Append { kind: Kind::Soft, reach: Reach::Url, ..append("a") },
        Append { reach: Reach::Prefix, ..append("b") },
        append("c"),
        Append { tag: Tag::pattern(&pattern), reach: Reach::Pattern(pattern), ..append("") },
    ];
    let first = one.append(&purges[..1], &[]).await.unwrap();
    let last = other.append(&purges[1..], &[]).await.unwrap();
    assert_eq!((first.log, first.position, last.log, last.position), (log, Position(1), log, Position(4)));
    let record = |(at, purge): (usize, &Append)| {
        Some(Record { position: Position(at as u64 + 1), tag: purge.tag, kind: purge.kind, reach: purge.reach.clone() })
    };
    let wanted: Vec<Option<Record>> = purges.iter().enumerate().map(record).collect();
    assert_eq!(records(follow(other, 2, start(log)).await), wanted);
    assert_eq!(records(follow(one, 1, at(&first)).await), wanted[1..]);
    assert_eq!(records(follow(one, 1, at(&last)).await).len(), 0);
}

async fn a_cursor_that_is_no_point_of_the_log_is_forked_and_not_believed(one: &dyn Log, other: &dyn Log) {
    let log = begun(one, &[]).await;
    let first = one.append(&[append("a")], &[]).await.unwrap();
    let last = one.append(&[append("b")], &[]).await.unwrap();
    let wrong = |cursor: Cursor| Cursor { link: Link(cursor.link.0 + 1), ..cursor };
    let beyond = Cursor { position: Position(3), ..at(&last) };
    for from in [wrong(at(&first)), wrong(at(&last)), beyond] {
        assert_eq!(follow(other, 7, from).await, Followed::Forked, "{from:?}");
        assert_eq!(applied(&other.members(None, &[]).await.unwrap(), 7), None, "{from:?}");
    }
    let another = Cursor { log: Incarnation(log.0 + 1), ..at(&last) };
    assert_eq!(follow(other, 7, another).await, Followed::Other(log));
    assert_eq!(applied(&other.members(None, &[]).await.unwrap(), 7), None);
    assert_eq!(records(follow(other, 7, at(&first)).await).len(), 1);
    assert_eq!(applied(&one.members(None, &[]).await.unwrap(), 7), Some(1));
}

async fn a_purge_that_is_gone_is_lost(one: &dyn Log, other: &dyn Log) {
    let log = begun(one, &[]).await;
    let purge = one.append(&[append("a")], &[]).await.unwrap();
    let lost = async |purge: &Appended| other.members(Some(purge), &[]).await.unwrap().lost;
    assert!(!lost(&purge).await);
    assert!(lost(&Appended { link: Link(purge.link.0 + 1), ..purge.clone() }).await, "another one is there");
    assert!(lost(&Appended { position: Position(9), ..purge.clone() }).await, "none is there");
    one.begin_anew(log, &[]).await.unwrap();
    assert!(!lost(&purge).await, "another incarnation covers it");
}

async fn members_stay_on_the_list_until_they_are_signed_off(one: &dyn Log, other: &dyn Log) {
    let strangers = Member::strangers(Duration::from_secs(4), Duration::from_secs(60));
    let log = begun(one, std::slice::from_ref(&strangers)).await;
    let (a, b) = (member(11, log, Position(0), 5), member(12, log, Position(0), 6));
    for member in [&a, &b] {
        one.follow(member, start(log)).await.unwrap();
    }
    let names = |listed: &Listed| {
        let mut listed: Vec<u64> = listed.members.iter().map(|member| member.instance).collect();
        listed.sort_unstable();
        listed
    };
    let listed = other.members(None, &[]).await.unwrap();
    assert_eq!((listed.log, names(&listed)), (log, vec![0, 11, 12]));
    assert!(listed.members.contains(&a) && listed.members.contains(&strangers), "{listed:?}");
    // What was said meanwhile counts.
    let later = member(11, log, Position(0), 7);
    one.follow(&later, start(log)).await.unwrap();
    other.sign_off(&a, true).await.unwrap();
    other.sign_off(&b, true).await.unwrap();
    let listed = other.members(None, &[later.clone(), b.clone()]).await.unwrap();
    assert_eq!((names(&listed), listed.left), (vec![0, 11], vec![b.clone()]));
    other.sign_off(&a, false).await.unwrap();
    let spoken = member(12, log, Position(0), 9);
    let listed = one.members(None, &[later.clone(), spoken.clone()]).await.unwrap();
    assert_eq!((names(&listed), listed.left), (vec![0], vec![later.clone()]), "one has spoken since it was signed off");
    one.sign_on(&[later.clone(), spoken.clone()]).await.unwrap();
    let listed = one.members(None, std::slice::from_ref(&later)).await.unwrap();
    assert_eq!((names(&listed), listed.left), (vec![0, 12], vec![later.clone()]));
    // A log that begins anew keeps its list, and has those that are known.
    one.begin_anew(log, &[later.clone(), b]).await.unwrap();
    let listed = one.members(None, &[]).await.unwrap();
    assert_eq!(names(&listed), [0, 11, 12]);
    assert!(listed.log.is_after(log) && listed.members.contains(&spoken), "{listed:?}");
    // One that comes back hasn't left.
    other.sign_off(&later, false).await.unwrap();
    other.follow(&later, start(listed.log)).await.unwrap();
    assert!(one.members(None, std::slice::from_ref(&later)).await.unwrap().left.is_empty());
}

async fn whoever_waits_is_woken_by_a_record(one: &dyn Log, other: &dyn Log) {
    let log = begun(one, &[]).await;
    assert_eq!(records(follow(one, 1, start(log)).await).len(), 0);
    let mut from = start(log);
    // Once with what it takes to begin to wait, once without.
    for _ in 0..2 {
        let purges = [append("a")];
        let (waited, appended) = tokio::join!(one.wait(from, LIMIT * 2), other.append(&purges, &[]));
        waited.unwrap();
        let appended = appended.unwrap();
        assert_eq!(records(follow(one, 1, from).await).len(), 1);
        from = at(&appended);
    }
    one.wait(from, Duration::from_millis(1)).await.unwrap();
}

/// Two clients of one log.
type Pair = [Box<dyn Log>; 2];

/// The table: each server does the same.
async fn behaves([one, other]: Pair, of_members: Pair) {
    within("records", records_are_read_as_they_were_appended(&*one, &*other)).await;
    within("cursors", a_cursor_that_is_no_point_of_the_log_is_forked_and_not_believed(&*one, &*other)).await;
    within("losses", a_purge_that_is_gone_is_lost(&*one, &*other)).await;
    within("waiting", whoever_waits_is_woken_by_a_record(&*one, &*other)).await;
    let [one, other] = of_members;
    within("members", members_stay_on_the_list_until_they_are_signed_off(&*one, &*other)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_redis_behaves_as_a_log() {
    let redis = Redis::start().await;
    let log = |namespace: &str| -> Box<dyn Log> {
        let redis = config::Redis::new(redis.url());
        Box::new(RedisLog::new(namespace, &redis, &config::Purge::default()).unwrap())
    };
    behaves([log("a"), log("a")], [log("b"), log("b")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_etcd_behaves_as_a_log() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start().await;
    let log = |namespace: &str| -> Box<dyn Log> {
        Box::new(EtcdLog::new(etcd.connected(), namespace, &config::Purge::default()))
    };
    behaves([log("a"), log("a")], [log("b"), log("b")]).await;
}

fn etcd_log(etcd: &Etcd) -> Box<dyn Log> {
    Box::new(EtcdLog::new(etcd.connected(), NAMESPACE, &config::Purge::default()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purges_of_many_writers_have_one_order_without_a_gap() {
    const EACH: usize = 60;
    if !is_there() {
        return;
    }
    let etcd = Etcd::start().await;
    let logs = [etcd_log(&etcd), etcd_log(&etcd)];
    let names: Vec<String> = (0..EACH * 2).map(|at| format!("t{at}")).collect();
    let one = |at: usize| {
        let (log, purge) = (&logs[at % 2], append(&names[at]));
        async move { log.append(&[purge], &[]).await.unwrap() }
    };
    let appended = futures_util::future::join_all((0..EACH * 2).map(one));
    let appended = within("all appended", appended).await;
    let log = appended[0].log;
    let mut positions: Vec<u64> = appended.iter().map(|appended| appended.position.0).collect();
    positions.sort_unstable();
    assert_eq!(positions, (1..=EACH as u64 * 2).collect::<Vec<_>>());
    let records = records(follow(&*logs[0], 1, start(log)).await);
    for (name, appended) in names.iter().zip(&appended) {
        let at = usize::try_from(appended.position.0).unwrap() - 1;
        let record = records[at].clone().expect("a record");
        assert_eq!(record.tag, Tag::named(name.as_bytes()));
    }
}

/// Each part of a log is written by others, or no longer there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_etcd_that_is_trimmed_or_written_to_by_others_misses_nothing() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start().await;
    let purge = config::Purge { log_max: 3, ..config::Purge::default() };
    let log: Box<dyn Log> = Box::new(EtcdLog::new(etcd.connected(), NAMESPACE, &purge));
    let mut appended = Vec::new();
    for at in 0..9 {
        appended.push(log.append(&[append(&format!("t{at}"))], &[]).await.unwrap());
    }
    let id = appended[0].log;
    // The last three are there: 7, 8 and 9. The one before names itself by the link that 7 repeats.
    assert_eq!(follow(&*log, 1, at(&appended[2])).await, Followed::Trimmed(Position(6), appended[5].link));
    assert_eq!(applied(&log.members(None, &[]).await.unwrap(), 1), Some(0), "it can't be believed");
    assert_eq!(records(follow(&*log, 1, at(&appended[5])).await).len(), 3);
    assert_eq!(applied(&log.members(None, &[]).await.unwrap(), 1), Some(6), "it can");
    assert!(!log.members(Some(&appended[2]), &[]).await.unwrap().lost, "the bound explains it");
    let key = |at: u64, link: u64| format!("{NAMESPACE}/purge/log/{:016x}/{at:016x}/{link:016x}", id.0);
    // A later version's record is one that may have purged anything.
    let client = etcd.connected();
    let last = &appended[8];
    client.put(key(10, 77), format!("{:016x} 9 what is this", last.link.0), None).await.unwrap();
    client.put(format!("{NAMESPACE}/purge/state"), "10 77", None).await.unwrap();
    assert_eq!(records(follow(&*log, 1, at(last)).await), vec![None::<Record>]);
    // What is no record at all, one that is missing in the middle, or no state, ends the incarnation.
    client.put(key(11, 78), "?", None).await.unwrap();
    client.put(format!("{NAMESPACE}/purge/state"), "11 78", None).await.unwrap();
    assert_eq!(follow(&*log, 1, at(last)).await, Followed::Forked);
    client.delete(key(11, 78)).await.unwrap();
    client.delete(key(9, last.link.0)).await.unwrap();
    assert_eq!(follow(&*log, 1, at(last)).await, Followed::Forked);
    client.delete(format!("{NAMESPACE}/purge/state")).await.unwrap();
    assert_eq!(follow(&*log, 1, at(&appended[7])).await, Followed::Other(Incarnation(0)));
    log.begin_anew(Incarnation(0), &[]).await.unwrap();
    let anew = log.append(&[append("anew")], &[]).await.unwrap();
    assert!(anew.log.is_after(id) && anew.position == Position(1), "{anew:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_etcd_that_is_restored_from_a_snapshot_is_forked() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start().await;
    let (log, dir) = (etcd_log(&etcd), tempfile::tempdir().unwrap());
    let first = log.append(&[append("a")], &[]).await.unwrap();
    let snapshot = dir.path().join("snapshot");
    etcd.control(&["snapshot", "save", snapshot.to_str().unwrap()]);
    let last = log.append(&[append("b")], &[]).await.unwrap();
    assert_eq!(records(follow(&*log, 1, at(&last)).await).len(), 0);
    etcd.kill();
    etcd.restore(&snapshot);
    etcd.start_again().await;
    let forked =
        async || matches!(log.follow(&member(1, last.log, last.position, 2), at(&last)).await, Ok(Followed::Forked));
    eventually("the log being forked", forked).await;
    assert!(log.members(Some(&last), &[]).await.unwrap().lost);
    // Another history goes on from the same place.
    let other = log.append(&[append("c")], &[]).await.unwrap();
    assert_eq!((other.log, other.position), (first.log, last.position));
    assert_ne!(other.server, first.server, "it is seen that the store went back");
    assert_eq!(follow(&*log, 1, at(&last)).await, Followed::Forked);
    assert_eq!(records(follow(&*log, 1, at(&first)).await).len(), 1);
}

/// Returns what a log says next.
async fn next_word(words: &mut Words<'_>) -> Word {
    loop {
        let said = within("a word", words.next()).await.expect("it goes on").unwrap();
        if let Some(word) = said.into_iter().next() {
            return word;
        }
    }
}

/// Opens a watch, and returns it when the server has it.
async fn opened(words: Option<Words<'_>>) -> Words<'_> {
    let mut words = words.expect("etcd tells by itself");
    assert!(within("a watch", words.next()).await.expect("it is open").unwrap().is_empty());
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_etcd_says_by_itself_what_is_appended_and_reported() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start().await;
    let (one, other) = (etcd_log(&etcd), etcd_log(&etcd));
    let log = begun(&*one, &[]).await;
    let (mut notices, mut reports) = (opened(other.notices()).await, opened(other.reports()).await);
    let appended = one.append(&[append("a")], &[]).await.unwrap();
    let record = Record { position: Position(1), tag: Tag::named(b"a"), kind: Kind::Hard, reach: Reach::Entries };
    let entry = Entry { position: Position(1), link: appended.link, record: Some(record) };
    let told = Word::Record(log, Tied { entry, before: Link(0) });
    assert_eq!((next_word(&mut notices).await, next_word(&mut reports).await), (told.clone(), told));
    // Whoever isn't on the list signs on by reading.
    let said = member(7, log, Position(1), 3);
    assert!(!one.report(said.clone(), at(&appended)).await.unwrap());
    let signed_on = member(7, log, Position(0), 2);
    one.follow(&signed_on, start(log)).await.unwrap();
    assert_eq!(next_word(&mut reports).await, Word::Report(signed_on));
    let elsewhere = Cursor { link: Link(appended.link.0 + 1), ..at(&appended) };
    assert!(!one.report(said.clone(), elsewhere).await.unwrap(), "another history");
    assert_eq!(applied(&one.members(None, &[]).await.unwrap(), 7), Some(0));
    assert!(one.report(said.clone(), at(&appended)).await.unwrap());
    assert_eq!(next_word(&mut reports).await, Word::Report(said.clone()));
    assert_eq!(applied(&one.members(None, &[]).await.unwrap(), 7), Some(1));
    one.sign_off(&said, false).await.unwrap();
    assert_eq!(next_word(&mut reports).await, Word::Change);
    assert!(!one.report(said, at(&appended)).await.unwrap(), "it was signed off");
    one.begin_anew(log, &[]).await.unwrap();
    assert_eq!((next_word(&mut notices).await, next_word(&mut reports).await), (Word::Change, Word::Change));
    etcd.kill();
    for words in [&mut notices, &mut reports] {
        assert!(within("the end", words.next()).await.is_some_and(|said| said.is_err()), "that is a gap");
        assert!(words.next().await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_etcd_that_cannot_be_reached_says_so_and_keeps_what_it_has() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start().await;
    let log = etcd_log(&etcd);
    let first = log.append(&[append("a")], &[]).await.unwrap();
    etcd.stop();
    let one = member(1, first.log, first.position, 1);
    let refused = |outcome: Result<(), Error>| assert!(matches!(outcome, Err(Error::Log(_))), "{outcome:?}");
    refused(within("reading", log.follow(&one, at(&first))).await.map(drop));
    refused(within("appending", log.append(&[append("b")], &[])).await.map(drop));
    etcd.cont();
    eventually("reading", async || log.follow(&one, at(&first)).await.is_ok()).await;
    // What wasn't acknowledged may have taken effect, once.
    assert!(records(follow(&*log, 1, at(&first)).await).len() <= 1);
    let last = log.append(&[append("c")], &[]).await.unwrap();
    etcd.kill();
    refused(within("waiting", log.wait(at(&last), LIMIT)).await);
    etcd.start_again().await;
    eventually("reading", async || log.follow(&one, at(&last)).await.is_ok()).await;
    assert_eq!(records(follow(&*log, 1, at(&last)).await).len(), 0, "it is on its disk");
}
