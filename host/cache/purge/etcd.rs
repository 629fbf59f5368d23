//! The purge log that regions share, in etcd. What must be one step is one transaction.
//!
//! etcd acknowledges what a majority has on disk, and replies with the latest. Nothing rests on that alone: a cluster may be
//! restored from a snapshot, which is an older state under the same numbers. So revisions are used to wait for what comes,
//! and what a log contains is judged by the links of its records, as in Redis.

mod keys;
mod notices;
mod place;
mod queue;
mod turns;
mod watched;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    sync::oneshot::error::TryRecvError,
    time::{Instant, sleep, timeout_at},
};

use self::{
    keys::{Keys, id_text, read_id, read_state, record_text, state_text},
    place::{Found, Proof, proof},
    queue::{Job, Queue},
    turns::{HOLD_MAX, Turns, late_text},
};
use super::{
    Error,
    listing::{field, lower_bits, member, random, said},
    log::{Append, Appended, Followed, Listed, Log, Member, RETRY, Report, Tied, Words, chained},
    table::{Cursor, INCARNATION_BITS, Incarnation, Link, Position},
};
use crate::{
    cache::tag::Tag,
    clock, config,
    etcd::{self, Compare, Etcd, Op, OpReply, Order, Pair, Txn, TxnReply, after_prefix},
};

/// Records taken by one read.
const BATCH: usize = 512;

/// Records appended by one transaction. etcd takes 128 operations, and the state and the bound are some as well.
const RECORDS_MAX: usize = 100;

/// Members that are put on the list by one transaction, with an operation or two for each.
const MEMBERS_MAX: usize = 48;

/// Notes that are kept of members that were signed off. Without one those that have yet to see it wait for the member's
/// fence until it is lost.
const NOTES_MAX: usize = 1_024;

/// Notes that are deleted at once when there are more.
const NOTES_DELETED_MAX: usize = 64;

/// Attempts to read a log that changes meanwhile.
const READS_MAX: usize = 8;

/// Between two looks whether another one has appended that is let go first.
const TURN: Duration = Duration::from_millis(2);

/// A client of the log.
#[derive(Debug)]
pub struct EtcdLog {
    etcd: Etcd,
    keys: Keys,
    identity: Tag,
    log_max: u64,
    fence: Duration,
    lost: Duration,
    /// The highest running number of an incarnation that is known. One that begins from nothing goes on from there.
    highest: AtomicU64,
    queue: Queue,
    /// The end of the log as this node last knew it, which the next append begins with.
    end: Mutex<Option<End>>,
    turns: Mutex<Turns>,
    seen: Mutex<Seen>,
    /// The revision of the last read.
    followed: AtomicI64,
    /// What the last call took, in milliseconds.
    round_trip_ms: AtomicU64,
}

/// The end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    log: Incarnation,
    position: Position,
    link: Link,
}

/// What is known of the store.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    cluster: u64,
    revision: i64,
    /// A random number for each time that the store went back.
    epoch: u64,
}

/// What stands under the keys of a log.
struct View {
    id: Option<Bytes>,
    state: Option<Bytes>,
    /// The end of the log, if it is whole.
    end: Option<End>,
}

impl EtcdLog {
    /// Prepares; connects when it is used.
    #[must_use]
    pub fn new(etcd: Etcd, namespace: &str, purge: &config::Purge) -> Self {
        let endpoints: BTreeSet<&str> = etcd.endpoints().collect();
        let identity = Tag::named(format!("etcd {endpoints:?} {namespace:?}").as_bytes());
        Self {
            keys: Keys::new(namespace),
            identity,
            log_max: purge.log_max.max(1) as u64,
            fence: purge.fence,
            lost: purge.lost,
            highest: AtomicU64::new(0),
            queue: Queue::default(),
            end: Mutex::default(),
            turns: Mutex::default(),
            seen: Mutex::default(),
            followed: AtomicI64::new(0),
            round_trip_ms: AtomicU64::new(0),
            etcd,
        }
    }

    /// Does a transaction. Returns the server as in [`Appended::server`] as well: the cluster's number, and a mark for each
    /// time that this node has seen the store go back.
    ///
    /// A restored cluster has another number only if it was given another token; without one, a node that has called it
    /// before the restoration notices by the revision, and one that hasn't doesn't.
    async fn txn(&self, txn: Txn) -> Result<(TxnReply, Option<String>), etcd::Error> {
        // What was seen before the call, since replies may overtake each other.
        let (before, sent) = (*self.seen.lock(), Instant::now());
        let reply = self.etcd.txn(txn).await?;
        self.round_trip_ms.store(clock::millis(sent.elapsed()), Ordering::Relaxed);
        let server = {
            let mut seen = self.seen.lock();
            let is_back = seen.epoch == before.epoch && reply.cluster == before.cluster;
            if is_back && reply.revision < before.revision {
                *seen = Seen { epoch: random(), revision: reply.revision, ..before };
            } else if reply.cluster != seen.cluster {
                *seen = Seen { cluster: reply.cluster, revision: reply.revision, ..*seen };
            } else {
                seen.revision = seen.revision.max(reply.revision);
            }
            format!("{:016x}/{:x}", seen.cluster, seen.epoch)
        };
        Ok((reply, Some(server)))
    }

    /// Reads, in one step. Returns what each operation brought.
    async fn read(&self, gets: Vec<Op>) -> Result<(std::vec::IntoIter<OpReply>, Option<String>), Error> {
        let (reply, server) = self.txn(Txn { then: gets, ..Txn::default() }).await.map_err(unreachable)?;
        Ok((reply.replies.into_iter(), server))
    }

    /// Returns when a change that has to be tried again is given up.
    fn deadline(&self) -> Instant {
        Instant::now() + self.etcd.timeout() * 2
    }

    async fn append(&self, purges: &[Append], known: &[Member]) -> Result<Appended, Error> {
        let unknown = |reason: &str| Err(Error::Log(format!("it isn't known whether it has the purge: {reason}")));
        let mut outcome = self.queue.push(purges, known)?;
        let wait = timeout_at(self.deadline() + self.etcd.timeout(), self.queue.turn.lock());
        let Ok(_turn) = wait.await else { return unknown("those before it take too long") };
        loop {
            // It may have been done with others by now. Else it still waits, and so do those that came meanwhile.
            match outcome.try_recv() {
                Ok(outcome) => return outcome,
                Err(TryRecvError::Closed) => return unknown("the attempt was given up"),
                Err(TryRecvError::Empty) => {}
            }
            let jobs = self.queue.take(RECORDS_MAX);
            if jobs.is_empty() {
                return unknown("the attempt was given up");
            }
            self.append_jobs(jobs).await;
        }
    }

    async fn append_jobs(&self, jobs: Vec<Job>) {
        let purges: Vec<Append> = jobs.iter().flat_map(|job| job.purges.iter().cloned()).collect();
        let known: Vec<Member> = jobs.iter().flat_map(|job| job.known.iter().cloned()).collect();
        let mut appended: Vec<Appended> = Vec::with_capacity(purges.len());
        let mut reason = "there was nothing to append".to_owned();
        for records in purges.chunks(RECORDS_MAX) {
            match self.append_records(records, &known).await {
                Ok(more) => appended.extend(more),
                Err(error) => {
                    reason = error;
                    break;
                }
            }
        }
        let mut count = 0;
        for Job { purges, done, .. } in jobs {
            count += purges.len();
            let last = Some(count).filter(|_| !purges.is_empty()).and_then(|count| appended.get(count - 1));
            let outcome = last.cloned().ok_or_else(|| Error::Log(reason.clone()));
            // Whoever waited for it may have given up.
            let _ = done.send(outcome);
        }
    }

    /// Appends up to [`RECORDS_MAX`] records. While it isn't known what became of an attempt, the same is tried again:
    /// either the first took effect, and then its record is there, or the log has gone on from where it was to follow, and
    /// then it never will.
    async fn append_records(&self, purges: &[Append], known: &[Member]) -> Result<Vec<Appended>, String> {
        let links: Vec<Link> = purges.iter().map(|_| Link(random())).collect();
        let deadline = self.deadline();
        self.give_way().await;
        let mut end = self.end.lock().take();
        loop {
            let from = match end.take() {
                Some(end) => end,
                None => self.begun(known, deadline).await.map_err(reason)?,
            };
            let (txn, mut appended) = self.appending(from, purges, &links);
            let failed = match self.txn(txn).await {
                Ok((reply, server)) => {
                    let (has_succeeded, mut replies) = (reply.succeeded, reply.replies.into_iter());
                    if has_succeeded || only(replies.next()).is_some() {
                        *self.end.lock() = appended.last().filter(|_| has_succeeded).map(End::of);
                        links.iter().for_each(|link| self.turns.lock().appended(*link));
                        appended.iter_mut().for_each(|appended| appended.server.clone_from(&server));
                        return Ok(appended);
                    }
                    // Where it stands now, so that no read is needed before the next attempt.
                    let mut value = || only(replies.next()).map(|pair| pair.value);
                    let view = View { id: value(), state: value(), end: None };
                    end = view.told_end().filter(|end| *end != from);
                    "it changes faster than it can be appended to".to_owned()
                }
                Err(error @ (etcd::Error::Unknown { .. } | etcd::Error::Unreachable { .. })) => {
                    end = Some(from);
                    sleep(RETRY / 4).await;
                    error.to_string()
                }
                Err(error) => return Err(error.to_string()),
            };
            if Instant::now() >= deadline {
                return Err(failed);
            }
        }
    }

    /// Lets one that has lost a race append first.
    async fn give_way(&self) {
        let end = Instant::now() + HOLD_MAX;
        loop {
            let now = Instant::now();
            let pause = self.turns.lock().pause(now);
            let Some(pause) = pause.filter(|_| now < end) else { return };
            sleep(pause.min(TURN)).await;
        }
    }

    /// Returns the transaction that appends records, and where they stand then. If it doesn't take place, it reads the last
    /// of them, and where the log ends, and tells the others that this node has lost.
    fn appending(&self, from: End, purges: &[Append], links: &[Link]) -> (Txn, Vec<Appended>) {
        let mut when = vec![
            Compare::Value(self.keys.id().into(), id_text(from.log).into()),
            Compare::Value(self.keys.state().into(), state_text(from.position, from.link).into()),
        ];
        if from.position > Position(0) {
            when.push(Compare::Exists(self.keys.record(from.log, from.position, from.link).into()));
        }
        let (mut end, mut then, mut appended) = (from, Vec::new(), Vec::new());
        for (purge, link) in purges.iter().zip(links) {
            let text = record_text(end.link, purge);
            end = End { position: Position(end.position.0 + 1), link: *link, ..end };
            then.push(Op::put(self.keys.record(end.log, end.position, end.link), text));
            appended.push(Appended { log: end.log, position: end.position, link: end.link, server: None });
        }
        then.push(Op::put(self.keys.state(), state_text(end.position, end.link)));
        // A transaction can't delete what it writes, so a few more may stay.
        let oldest = (end.position.0 + 1).saturating_sub(self.log_max).min(from.position.0 + 1);
        if oldest > 1 {
            then.push(Op::delete_range(self.keys.log(end.log), self.keys.at(end.log, Position(oldest))));
        }
        let mut otherwise = vec![
            Op::get(self.keys.record(end.log, end.position, end.link)),
            Op::get(self.keys.id()),
            Op::get(self.keys.state()),
        ];
        let round_trip_ms = self.round_trip_ms.load(Ordering::Relaxed);
        otherwise.extend(links.first().map(|link| Op::put(self.keys.late(), late_text(*link, round_trip_ms))));
        (Txn { when, then, otherwise }, appended)
    }

    /// Returns the end of the log. One that isn't there, or isn't whole, begins.
    async fn begun(&self, known: &[Member], deadline: Instant) -> Result<End, Error> {
        loop {
            let view = self.look().await?;
            if let Some(end) = view.end {
                return Ok(end);
            }
            if let Some(end) = self.begin(&view, known).await? {
                return Ok(end);
            }
            if Instant::now() >= deadline {
                return Err(Error::Log("others begin it at the same time".to_owned()));
            }
        }
    }

    /// Looks whether there is a log, and whether it is whole: its last record is there, and none after it.
    async fn look(&self) -> Result<View, Error> {
        let mut view = View { id: None, state: None, end: None };
        for _ in 0..READS_MAX {
            let (mut replies, _) = self.read(vec![Op::get(self.keys.id()), Op::get(self.keys.state())]).await?;
            view.id = only(replies.next()).map(|pair| pair.value);
            view.state = only(replies.next()).map(|pair| pair.value);
            let Some(end) = view.told_end() else { return Ok(view) };
            let next = self.keys.at(end.log, Position(end.position.0.saturating_add(1)));
            let after = after_prefix(self.keys.log(end.log).as_bytes());
            let txn = Txn {
                when: vec![same(self.keys.id(), view.id.as_ref()), same(self.keys.state(), view.state.as_ref())],
                then: vec![Op::get(self.keys.record(end.log, end.position, end.link)), Op::range(next, after, 1)],
                otherwise: Vec::new(),
            };
            let (reply, _) = self.txn(txn).await.map_err(unreachable)?;
            if reply.succeeded {
                let mut replies = reply.replies.into_iter();
                let is_there = only(replies.next()).is_some() || end.position == Position(0);
                view.end = Some(end).filter(|_| is_there && only(replies.next()).is_none());
                return Ok(view);
            }
        }
        Err(Error::Log("it changes faster than it can be read".to_owned()))
    }

    /// Begins a log in place of what was looked at. Those who have signed on stay on the list, and `known` members that
    /// aren't on it are put there in the same step, or before if they are many. Returns `None` if something has changed since.
    async fn begin(&self, view: &View, known: &[Member]) -> Result<Option<End>, Error> {
        let listed = self.listed().await?;
        let missing: BTreeMap<String, &Member> = known.iter().map(|member| (field(member), member)).collect();
        let missing: Vec<&Member> =
            missing.into_iter().filter(|(field, _)| !listed.contains_key(field)).map(|(_, member)| member).collect();
        let (now, before) = missing.split_at(missing.len().min(MEMBERS_MAX));
        for members in before.chunks(MEMBERS_MAX) {
            let (reply, _) = self.txn(self.putting(members)).await.map_err(unreachable)?;
            if !reply.succeeded {
                return Ok(None);
            }
        }
        let id = view.id.as_deref().and_then(read_id).map_or(0, |id| id.0 >> INCARNATION_BITS);
        let number = id.max(self.highest.load(Ordering::Relaxed)) + 1;
        let log = Incarnation((number << INCARNATION_BITS) | lower_bits());
        let mut txn = self.putting(now);
        txn.when.extend([same(self.keys.id(), view.id.as_ref()), same(self.keys.state(), view.state.as_ref())]);
        txn.then.extend([
            Op::put(self.keys.id(), id_text(log)),
            Op::put(self.keys.state(), state_text(Position(0), Link(0))),
            prefix_deleted(&self.keys.logs()),
            prefix_deleted(&self.keys.all_off()),
        ]);
        let (reply, _) = self.txn(txn).await.map_err(unreachable)?;
        if !reply.succeeded {
            return Ok(None);
        }
        self.highest.fetch_max(number, Ordering::Relaxed);
        Ok(Some(End { log, position: Position(0), link: Link(0) }))
    }

    /// Returns what puts members on the list that aren't on it.
    fn putting(&self, members: &[&Member]) -> Txn {
        let mut txn = Txn::default();
        for member in members {
            let key = self.keys.member(&field(member));
            txn.when.push(Compare::Absent(key.clone().into()));
            txn.then.push(Op::put(key, said(member)));
        }
        txn
    }

    /// Returns what is listed of each member, by its field.
    async fn listed(&self) -> Result<BTreeMap<String, String>, Error> {
        let (mut replies, _) = self.read(vec![prefix_read(&self.keys.members(), 0)]).await?;
        Ok(texts(&self.keys.members(), replies.next()))
    }

    async fn begin_anew(&self, from: Incarnation, known: &[Member]) -> Result<(), Error> {
        self.highest.fetch_max(from.0 >> INCARNATION_BITS, Ordering::Relaxed);
        let deadline = self.deadline();
        loop {
            let view = self.look().await?;
            if view.present() != from || self.begin(&view, known).await?.is_some() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::Log("it changes faster than it can begin anew".to_owned()));
            }
        }
    }

    async fn follow(&self, member: &Member, from: Cursor) -> Result<Followed, Error> {
        self.highest.fetch_max(from.log.0 >> INCARNATION_BITS, Ordering::Relaxed);
        let mut shown = if from.position == Position(0) { Proof::Start } else { Proof::Record };
        let mut first: Option<Pair> = None;
        for _ in 0..READS_MAX {
            let txn = self.following(member, from, shown, first.as_ref());
            let (reply, server) = self.txn(txn).await.map_err(unreachable)?;
            let (succeeded, revision) = (reply.succeeded, reply.revision);
            let mut replies = reply.replies.into_iter();
            if succeeded {
                self.followed.store(revision, Ordering::Relaxed);
                return Ok(self.read_on(from, replies, server));
            }
            let id = only(replies.next()).and_then(|pair| read_id(&pair.value));
            let state = only(replies.next()).and_then(|pair| read_state(&pair.value));
            let here = replies.next().map(OpReply::into_pairs).unwrap_or_default();
            let here =
                here.iter().filter_map(|pair| self.keys.tied(from.log, pair)).map(|tied| tied.entry.link).collect();
            first = only(replies.next());
            let oldest = first.as_ref().and_then(|pair| self.keys.tied(from.log, pair));
            let oldest = oldest.map(|tied| (tied.entry.position, tied.before));
            match proof(from, &Found { id, state, here, first: oldest }) {
                Ok(proof) => shown = proof,
                Err(followed) => return Ok(followed),
            }
        }
        Err(Error::Log("it changes faster than it can be read".to_owned()))
    }

    /// Returns the transaction that signs a reader on, takes its report, and reads on, if its cursor is shown to be a point
    /// of the log. Otherwise it reads what tells whether it is one. That a member left once is forgotten when it comes back:
    /// if the list were lost, it would count as signed off to those who know no later word of it.
    fn following(&self, member: &Member, from: Cursor, shown: Proof, first: Option<&Pair>) -> Txn {
        let (log, keys) = (self.keys.log(from.log), &self.keys);
        let shows = match (shown, first) {
            (Proof::Start | Proof::Missing, _) | (Proof::First, None) => None,
            (Proof::Record, _) => Some(Compare::Exists(keys.record(from.log, from.position, from.link).into())),
            (Proof::State, _) => Some(Compare::Value(keys.state().into(), state_text(from.position, from.link).into())),
            (Proof::First, Some(first)) => Some(Compare::Value(first.key.clone(), first.value.clone())),
        };
        let is_believed = shown == Proof::Start || shows.is_some();
        let applied = if is_believed { member.report.applied } else { Position(0) };
        let believed = Member { report: Report { applied, ..member.report }, ..member.clone() };
        let is_this = Compare::Value(keys.id().into(), id_text(from.log).into());
        let is_whole = Compare::Exists(keys.state().into());
        let here = keys.at(from.log, from.position);
        let next = keys.at(from.log, Position(from.position.0.saturating_add(1)));
        let oldest = Op::range(log.clone(), after_prefix(log.as_bytes()), 1);
        let name = field(member);
        Txn {
            when: [is_this, is_whole].into_iter().chain(shows).collect(),
            then: vec![
                Op::put(keys.member(&name), said(&believed)),
                Op::delete(keys.off(&name)),
                Op::get(keys.state()),
                oldest.clone(),
                Op::range(next, after_prefix(log.as_bytes()), BATCH),
            ],
            otherwise: vec![Op::get(keys.id()), Op::get(keys.state()), prefix_read(&here, 2), oldest],
        }
    }

    /// Returns what the reader is told of what [`EtcdLog::following`] has read.
    fn read_on(&self, from: Cursor, mut replies: std::vec::IntoIter<OpReply>, server: Option<String>) -> Followed {
        let state = only(replies.nth(2)).and_then(|pair| read_state(&pair.value));
        let oldest = only(replies.next());
        let entries = replies.next().map(OpReply::into_pairs).unwrap_or_default();
        let trimmed = entries.first().is_some_and(|entry| oldest.is_some_and(|oldest| oldest.key == entry.key));
        let records: Option<Vec<Tied>> = entries.iter().map(|pair| self.keys.tied(from.log, pair)).collect();
        // What can't be read, or isn't even a record of this log, shows that somebody else wrote there.
        let (Some(last), Some(records)) = (state, records) else { return Followed::Forked };
        if from.position > last.0 || (from.position == last.0 && from.position > Position(0) && from.link != last.1) {
            return Followed::Forked;
        }
        chained(from, records, last, trimmed, server)
    }

    async fn report(&self, member: Member, at: Cursor) -> Result<bool, Error> {
        let key = self.keys.member(&field(&member));
        // One that was signed off meanwhile signs on by reading.
        let when = vec![
            Compare::Value(self.keys.id().into(), id_text(at.log).into()),
            Compare::Exists(self.keys.record(at.log, at.position, at.link).into()),
            Compare::Exists(key.clone().into()),
        ];
        let then = vec![Op::put(key, said(&member))];
        let (reply, _) = self.txn(Txn { when, then, otherwise: Vec::new() }).await.map_err(unreachable)?;
        Ok(reply.succeeded)
    }

    async fn members(&self, purge: Option<&Appended>, known: &[Member]) -> Result<Listed, Error> {
        let mut gets = vec![Op::get(self.keys.id()), prefix_read(&self.keys.members(), 0)];
        if !known.is_empty() {
            gets.push(prefix_read(&self.keys.all_off(), 0));
        }
        if let Some(purge) = purge {
            gets.push(prefix_read(&self.keys.at(purge.log, purge.position), 2));
            gets.push(prefix_read(&self.keys.log(purge.log), 1));
        }
        let (mut replies, server) = self.read(gets).await?;
        let log = only(replies.next()).and_then(|pair| read_id(&pair.value)).unwrap_or_default();
        let listed = texts(&self.keys.members(), replies.next());
        let left = if known.is_empty() { BTreeMap::new() } else { texts(&self.keys.all_off(), replies.next()) };
        let has_left = |known: &&Member| {
            let name = field(known);
            let last: Option<u64> = left.get(&name).and_then(|beat| beat.parse().ok());
            last.is_some_and(|last| last >= known.report.beat) && !listed.contains_key(&name)
        };
        let left = known.iter().filter(has_left).cloned().collect();
        let members = listed.iter().map(|(field, said)| {
            // A node that speaks otherwise is waited for like one that is out of touch.
            let unknown = || Member { node: field.clone(), ..Member::strangers(self.fence, self.lost) };
            member(field, said).unwrap_or_else(unknown)
        });
        let lost = purge.is_some_and(|purge| {
            let here = replies.next().map(OpReply::into_pairs).unwrap_or_default();
            log == purge.log && self.is_lost(purge, &here, only(replies.next()).as_ref())
        });
        Ok(Listed { log, server, members: members.collect(), left, lost })
    }

    /// Whether a purge is no longer in the incarnation that took it. It may have left at the oldest end, as the log's bound
    /// has it; anywhere else it was lost.
    fn is_lost(&self, purge: &Appended, here: &[Pair], oldest: Option<&Pair>) -> bool {
        let tied = |pair: &Pair| self.keys.tied(purge.log, pair);
        if !here.is_empty() {
            return !here.iter().filter_map(tied).any(|tied| tied.entry.link == purge.link);
        }
        oldest.and_then(tied).is_none_or(|oldest| oldest.entry.position <= purge.position)
    }

    async fn sign_on(&self, known: &[Member]) -> Result<(), Error> {
        let deadline = self.deadline();
        for members in known.chunks(MEMBERS_MAX) {
            while !self.sign_some_on(members).await? {
                if Instant::now() >= deadline {
                    return Err(Error::Log("its list changes faster than it can be written to".to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Signs members on. A member that has left since is not put back. Returns whether nothing has changed meanwhile.
    async fn sign_some_on(&self, members: &[Member]) -> Result<bool, Error> {
        let keys = |member: &Member| {
            let name = field(member);
            (self.keys.member(&name), self.keys.off(&name))
        };
        let gets = members.iter().map(keys).flat_map(|(here, off)| [Op::get(here), Op::get(off)]).collect();
        let (mut replies, _) = self.read(gets).await?;
        let mut txn = Txn::default();
        for member in members {
            let (here, off) = (only(replies.next()), only(replies.next()));
            let (key, note) = keys(member);
            if off.as_ref().and_then(beat).is_some_and(|beat| beat >= member.report.beat) {
                continue;
            }
            if here.is_none() {
                txn.when.push(Compare::Absent(key.clone().into()));
                txn.then.push(Op::put(key, said(member)));
            }
            if here.is_none() || off.is_some() {
                txn.when.push(same(note.clone(), off.as_ref().map(|pair| &pair.value)));
                txn.then.push(Op::delete(note));
            }
        }
        if txn.then.is_empty() {
            return Ok(true);
        }
        let (reply, _) = self.txn(txn).await.map_err(unreachable)?;
        Ok(reply.succeeded)
    }

    async fn sign_off(&self, member: &Member, unless_changed: bool) -> Result<(), Error> {
        let deadline = self.deadline();
        while !self.sign_one_off(member, unless_changed).await? {
            if Instant::now() >= deadline {
                return Err(Error::Log("its list changes faster than it can be written to".to_owned()));
            }
        }
        Ok(())
    }

    /// Signs a member off. That it is missing on the list may be a loss, so that it has left is written down, with its last
    /// word. Returns whether nothing has changed meanwhile.
    async fn sign_one_off(&self, member: &Member, unless_changed: bool) -> Result<bool, Error> {
        let name = field(member);
        let (key, note) = (self.keys.member(&name), self.keys.off(&name));
        let all = self.keys.all_off();
        let oldest = Op::Get {
            end: Some(after_prefix(all.as_bytes())),
            key: all.into(),
            limit: NOTES_DELETED_MAX,
            order: Order::Oldest,
            keys_only: true,
        };
        let (mut replies, _) = self.read(vec![Op::get(key.clone()), oldest]).await?;
        let here = only(replies.next());
        if unless_changed && here.as_ref().is_none_or(|pair| pair.value != said(member)) {
            return Ok(true);
        }
        let last = here.as_ref().and_then(|pair| self::member(&name, std::str::from_utf8(&pair.value).ok()?));
        let beat = last.map_or(0, |last| last.report.beat).max(member.report.beat);
        let mut then = vec![Op::delete(key.clone()), Op::put(note.clone(), beat.to_string())];
        if let Some(OpReply::Got { pairs, count, .. }) = replies.next() {
            let too_many = usize::try_from(count).unwrap_or(usize::MAX).saturating_sub(NOTES_MAX - 1);
            let others = pairs.into_iter().filter(|pair| pair.key != note).take(too_many);
            then.extend(others.map(|pair| Op::delete(pair.key)));
        }
        let when = vec![same(key, here.as_ref().map(|pair| &pair.value))];
        let (reply, _) = self.txn(Txn { when, then, otherwise: Vec::new() }).await.map_err(unreachable)?;
        Ok(reply.succeeded)
    }
}

impl Log for EtcdLog {
    fn identity(&self) -> Tag {
        self.identity
    }

    fn append<'a>(&'a self, purges: &'a [Append], known: &'a [Member]) -> BoxFuture<'a, Result<Appended, Error>> {
        Box::pin(self.append(purges, known))
    }

    fn follow<'a>(&'a self, member: &'a Member, from: Cursor) -> BoxFuture<'a, Result<Followed, Error>> {
        Box::pin(self.follow(member, from))
    }

    fn wait(&self, from: Cursor, time: Duration) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.wait(from, time))
    }

    fn begin_anew<'a>(&'a self, from: Incarnation, known: &'a [Member]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.begin_anew(from, known))
    }

    fn sign_on<'a>(&'a self, known: &'a [Member]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.sign_on(known))
    }

    fn members<'a>(&'a self, purge: Option<&'a Appended>, known: &'a [Member]) -> BoxFuture<'a, Result<Listed, Error>> {
        Box::pin(self.members(purge, known))
    }

    fn sign_off<'a>(&'a self, member: &'a Member, unless_changed: bool) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.sign_off(member, unless_changed))
    }

    fn notices(&self) -> Option<Words<'_>> {
        Some(self.words(self.keys.watched(), 0))
    }

    fn reports(&self) -> Option<Words<'_>> {
        Some(self.words(self.keys.heard(), 0))
    }

    fn report(&self, member: Member, at: Cursor) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(self.report(member, at))
    }
}

impl End {
    const fn of(appended: &Appended) -> Self {
        Self { log: appended.log, position: appended.position, link: appended.link }
    }
}

impl View {
    /// Returns the incarnation, zero if there is none that could be followed.
    fn present(&self) -> Incarnation {
        self.told_end().map(|end| end.log).unwrap_or_default()
    }

    /// Returns the end of the log as its state has it.
    fn told_end(&self) -> Option<End> {
        let log = self.id.as_deref().and_then(read_id)?;
        let (position, link) = self.state.as_deref().and_then(read_state)?;
        Some(End { log, position, link })
    }
}

/// Returns the only key that was read, if it is there.
fn only(reply: Option<OpReply>) -> Option<Pair> {
    reply?.into_pairs().into_iter().next()
}

/// Returns what was read below a prefix, as text, by what follows the prefix. What isn't text is nothing that a node says.
fn texts(prefix: &str, reply: Option<OpReply>) -> BTreeMap<String, String> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let pairs = reply.map(OpReply::into_pairs).unwrap_or_default();
    let field = |pair: &Pair| text(&pair.key).strip_prefix(prefix).map(str::to_owned);
    pairs.iter().filter_map(|pair| Some((field(pair)?, text(&pair.value)))).collect()
}

/// Returns the last word of a member that was signed off.
fn beat(note: &Pair) -> Option<u64> {
    std::str::from_utf8(&note.value).ok()?.parse().ok()
}

/// Returns the condition that a key is as it was read.
fn same(key: String, value: Option<&Bytes>) -> Compare {
    match value {
        Some(value) => Compare::Value(key.into(), value.clone()),
        None => Compare::Absent(key.into()),
    }
}

fn prefix_read(prefix: &str, limit: usize) -> Op {
    Op::range(prefix.to_owned(), after_prefix(prefix.as_bytes()), limit)
}

fn prefix_deleted(prefix: &str) -> Op {
    Op::delete_range(prefix.to_owned(), after_prefix(prefix.as_bytes()))
}

fn unreachable(error: impl std::fmt::Display) -> Error {
    Error::Log(error.to_string())
}

fn reason(error: Error) -> String {
    match error {
        Error::Log(reason) => reason,
        other => other.to_string(),
    }
}
