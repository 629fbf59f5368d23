//! This node among those that follow one log: its region's, or the world's.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    Error,
    journal::Journal,
    log::{Appended, Listed, Log, Member, RETRY, Report},
    membership::{Membership, Terms},
    receipt::{self, Receipt, Standpoint},
    roll::Roll,
    table::{Cursor, Position},
};
use crate::{
    cache::tag::Tag,
    clock::{self, Uptime},
    config,
};

/// Between the first two looks at which nodes have applied a purge; then twice as long each time, up to the other.
const POLL: Duration = Duration::from_millis(2);
const POLL_MAX: Duration = Duration::from_millis(64);

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
        })
    }

    /// Waits until a purge is complete, or `ack` is over.
    pub(super) async fn acknowledged(&self, purge: &Appended, ack: Duration) -> Result<Receipt, Error> {
        let appended = clock::uptime();
        let known_from = self.roll.lock().known_from(purge, appended);
        let point = Standpoint { appended, known_from };
        let mut members = self.roll.lock().look_back();
        let mut poll = POLL;
        loop {
            let pause = match self.listed(Some(purge)).await {
                Ok(listed) if listed.lost => {
                    // Nobody may have read it, so nobody else would notice.
                    self.log.begin_anew(purge.log, &self.known()).await?;
                    return Err(Error::Log("it has lost the purge".to_owned()));
                }
                Ok(listed) => {
                    members = self.roll.lock().look(listed, clock::uptime());
                    poll
                }
                Err(_) => RETRY,
            };
            poll = POLL_MAX.min(poll * 2);
            let now = clock::uptime();
            let (mut receipt, complete) = receipt::judge(&members, purge, &point, now);
            if complete {
                return Ok(receipt);
            }
            if now.since(appended) >= ack {
                if receipt.missing.is_empty() {
                    receipt.missing.push(UNKNOWN.to_owned());
                }
                return Ok(receipt);
            }
            sleep(pause.min(ack.saturating_sub(now.since(appended)))).await;
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
