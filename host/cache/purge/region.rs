//! This node among those that follow one log: its region's, or the world's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{
    Error,
    hearing::Hearing,
    journal::Journal,
    log::{Appended, Listed, Log, Member, RETRY, Report},
    membership::{Membership, Terms},
    notice::Trail,
    pace::Pace,
    receipt::{self, Receipt, Standpoint},
    roll::Roll,
    table::{Cursor, Position},
};
use crate::{
    cache::tag::Tag,
    clock::{self, Uptime},
    config,
};

/// [`Region::last`] before the log has replied.
pub(super) const UNREACHED: u64 = u64::MAX;

/// Stands for nodes that this one can't know yet, in a purge that came too soon after the log began anew.
const UNKNOWN: &str = "(nodes that have not reported yet)";

/// This node's place in its region.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) log: Arc<dyn Log>,
    pub(super) roll: parking_lot::Mutex<Roll>,
    pub(super) fence: Duration,
    pub(super) lost: Duration,
    cut_off: config::CutOff,
    /// One life of this process.
    pub(super) instance: u64,
    /// The lives before that have certainly ended, because this one holds their directory: the last one, and the last one
    /// that was a member. None of those that a copy of a directory tells of.
    pub(super) before: Vec<u64>,
    /// The terms of this process, if the disk can tell them from those of others.
    terms: Option<Tag>,
    /// The last word of a member that has ended and whose place this process may take until it has one of its own.
    pub(super) inherited: Option<Uptime>,
    /// The log's last position, as it was last read.
    pub(super) last: AtomicU64,
    /// When the log replied last, in milliseconds of [`Uptime`].
    pub(super) reached: AtomicU64,
    /// What members report while a purge of this node waits for them.
    pub(super) hearing: Hearing,
    /// The log says by itself what is appended.
    pub(super) is_told: AtomicBool,
    /// What it said has to be read: it doesn't follow what this node has.
    pub(super) doubt: Notify,
    /// What the table took last.
    pub(super) trail: parking_lot::Mutex<Trail>,
}

/// What a purge that waits has seen of the members.
struct Sight {
    members: Vec<Member>,
    /// When the list was last looked at; `None` before it was read since the purge was appended.
    at: Option<Uptime>,
}

impl Region {
    pub(super) fn new(
        node: &str,
        log: Arc<dyn Log>,
        config: &config::Purge,
        journal: Option<&Journal>,
    ) -> Result<Self, Error> {
        let (instance, now) = (fastrand::u64(1..1 << 53), clock::uptime());
        let mut roll = Roll::new(config.fence, config.lost);
        let (mut before, mut terms, mut inherited) = (Vec::new(), None, None);
        if let Some(journal) = journal {
            roll.restore(journal.roster()?, now);
            let clock = journal.clock();
            terms = clock.as_deref().map(|clock| self::terms(node, log.as_ref(), config, clock).digest());
            // First: it leaves nothing of a member that was none on this very file.
            let signed = journal.sign(instance, clock.as_deref())?;
            let member = journal.membership()?;
            inherited = member.zip(terms).and_then(|(member, terms)| member.last_word(terms, now));
            before.extend(member.map(|member| member.instance));
            before.extend(signed);
            before.dedup();
        }
        before.iter().for_each(|before| roll.ended(*before));
        Ok(Self {
            log,
            roll: parking_lot::Mutex::new(roll),
            fence: config.fence,
            lost: config.lost,
            cut_off: config.cut_off,
            instance,
            before,
            terms,
            inherited,
            last: AtomicU64::new(UNREACHED),
            reached: AtomicU64::new(0),
            hearing: Hearing::default(),
            is_told: AtomicBool::new(false),
            doubt: Notify::new(),
            trail: parking_lot::Mutex::default(),
        })
    }

    /// Waits until a purge is complete, or `ack` is over. `own` is how far the log is applied and durable on this node.
    ///
    /// The list is read at least once after the append: whoever has signed on by then is on it, and whoever signs on later
    /// reads the purge. That somebody on it has applied the purge may be heard (`heard.rs`); that a fence is over, or that
    /// somebody has left, is for another look.
    pub(super) async fn acknowledged(
        &self,
        purge: &Appended,
        ack: Duration,
        mut own: watch::Receiver<Cursor>,
    ) -> Result<Receipt, Error> {
        let appended = clock::uptime();
        let known_from = self.roll.lock().known_from(purge, appended);
        let point = Standpoint { appended, known_from };
        let mut sight = Sight { members: self.roll.lock().look_back(), at: None };
        let (end, mut pace, mut news) = (appended.plus(ack), Pace::default(), self.hearing.news());
        let mut changes = self.hearing.changes();
        let mut look: BoxFuture<'_, Result<Listed, Error>> = Box::pin(self.listed(Some(purge)));
        let (mut is_looking, mut next) = (true, end);
        loop {
            tokio::select! {
                listed = &mut look, if is_looking => {
                    is_looking = false;
                    next = self.looked(&mut sight, listed, purge, &point, &mut pace).await?;
                }
                () = sleep(next.min(end).since(clock::uptime())), if !is_looking => {
                    changes = self.hearing.changes();
                    look = Box::pin(self.listed(Some(purge)));
                    is_looking = true;
                    continue;
                }
                Ok(()) = news.changed() => {}
                Ok(()) = own.changed() => {}
            }
            let now = clock::uptime();
            if self.hearing.changes() != changes {
                // Only a look tells what it means, that has begun since.
                next = now;
            }
            let at = sight.at.unwrap_or(appended);
            if sight.at.is_some() {
                self.hearing.note(purge, &mut sight.members);
                self.note_own(purge, &mut sight.members, *own.borrow());
            }
            let (mut receipt, complete) = receipt::judge(&sight.members, purge, &point, at);
            if complete && sight.at.is_some() {
                return Ok(receipt);
            }
            if now >= end && !is_looking {
                if receipt.missing.is_empty() {
                    receipt.missing.push(UNKNOWN.to_owned());
                }
                return Ok(receipt);
            }
        }
    }

    /// Takes what a look at the list has brought. Returns when to look again.
    async fn looked(
        &self,
        sight: &mut Sight,
        listed: Result<Listed, Error>,
        purge: &Appended,
        point: &Standpoint,
        pace: &mut Pace,
    ) -> Result<Uptime, Error> {
        let is_reached = listed.is_ok();
        if let Ok(listed) = listed {
            if listed.lost {
                // Nobody may have read it, so nobody else would notice.
                self.log.begin_anew(purge.log, &self.known()).await?;
                return Err(Error::Log("it has lost the purge".to_owned()));
            }
            sight.members = self.roll.lock().look(listed, clock::uptime());
            sight.at = Some(clock::uptime());
        }
        let now = clock::uptime();
        // Who isn't on the list that was read after the append has read the purge. Without any such list somebody may have
        // signed on whom this node has never seen.
        sight.at = sight.at.map(|_| now);
        if !is_reached {
            return Ok(now.plus(RETRY));
        }
        let due = receipt::due(&sight.members, purge, point, now);
        Ok(pace.next(now, self.hearing.has(purge), due))
    }

    /// Notes in a list of members how far this node is by itself: what it has applied and made durable needs no report. It
    /// must be this very purge: after a log was put back, another one may have had its position.
    fn note_own(&self, purge: &Appended, members: &mut [Member], own: Cursor) {
        let is_as_far = own.log == purge.log && own.position >= purge.position;
        let is_this = is_as_far && self.trail.lock().has(purge.log, purge.position, purge.link);
        if !is_this && !own.log.is_after(purge.log) {
            return;
        }
        for member in members.iter_mut().filter(|member| member.instance == self.instance) {
            member.log = own.log;
            member.report.applied = own.position;
        }
    }

    /// Returns the log's list, with what became of those that this node knows.
    ///
    /// # Errors
    /// [`Error::Log`]: the log can't be reached.
    pub(super) async fn listed(&self, purge: Option<&Appended>) -> Result<Listed, Error> {
        let known = self.roll.lock().look_back();
        self.log.members(purge, &known).await
    }

    /// Returns the members that a log which begins now is to count with.
    pub(super) fn known(&self) -> Vec<Member> {
        self.roll.lock().known()
    }

    /// Returns what this node reports. `live` is of the table by which it judges what it has stored.
    pub(super) fn member(&self, node: &str, live: Cursor, applied: Position, now: Uptime) -> Member {
        let fence_ms = fence_ms(self.fence, self.cut_off);
        let report = Report { applied, fence_ms, lost_ms: clock::millis(self.lost), beat: now.0 };
        Member { node: node.to_owned(), instance: self.instance, log: live.log, report }
    }

    /// Returns what a disk is to have of this process, which is on the log's list and gave its last word at `word`. `None`
    /// if it couldn't be told from what another start of the machine has left there.
    pub(super) fn membership(&self, word: Uptime) -> Option<Membership> {
        self.terms.map(|terms| Membership { instance: self.instance, word, terms })
    }
}

/// What the others wait for; `None` if it is this node itself.
fn fence_ms(fence: Duration, cut_off: config::CutOff) -> Option<u64> {
    match cut_off {
        config::CutOff::Ask => Some(clock::millis(fence)),
        config::CutOff::Serve => None,
    }
}

fn terms<'t>(node: &'t str, log: &dyn Log, config: &config::Purge, clock: &'t str) -> Terms<'t> {
    let (fence_ms, lost_ms) = (fence_ms(config.fence, config.cut_off), clock::millis(config.lost));
    Terms { node, fence_ms, lost_ms, log: log.identity(), clock }
}
