//! This node among those that follow one log.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    Error,
    journal::Journal,
    log::{Appended, Log, Member, RETRY, Report},
    receipt::{self, Receipt, Standpoint},
    roll::Roll,
    table::{Cursor, Position},
};
use crate::{
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
    lost: Duration,
    cut_off: config::CutOff,
    /// One life of this process.
    pub(super) instance: u64,
    /// The life before, whose directory this one holds.
    pub(super) before: Option<u64>,
    /// The log's last position, as it was last read.
    pub(super) last: AtomicU64,
    /// When the log replied last, in milliseconds of [`Uptime`].
    pub(super) reached: AtomicU64,
}

impl Region {
    pub(super) fn new(log: Arc<dyn Log>, config: &config::Purge, journal: Option<&Journal>) -> Result<Self, Error> {
        let instance = fastrand::u64(1..1 << 53);
        let mut roll = Roll::new(config.fence, config.lost);
        let mut before = None;
        if let Some(journal) = journal {
            roll.restore(journal.roster()?, clock::uptime());
            before = journal.sign(instance)?;
        }
        if let Some(before) = before {
            roll.ended(before);
        }
        Ok(Self {
            log,
            roll: parking_lot::Mutex::new(roll),
            fence: config.fence,
            lost: config.lost,
            cut_off: config.cut_off,
            instance,
            before,
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
            let pause = match self.log.members(Some(purge)).await {
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

    /// Returns the members that a log which begins now is to count with.
    pub(super) fn known(&self) -> Vec<Member> {
        self.roll.lock().known()
    }

    pub(super) fn member(&self, node: &str, cursor: Cursor, applied: Position, now: Uptime) -> Member {
        let fence_ms = match self.cut_off {
            config::CutOff::Ask => Some(clock::millis(self.fence)),
            config::CutOff::Serve => None,
        };
        let report = Report { applied, fence_ms, lost_ms: clock::millis(self.lost), beat: now.0 };
        Member { node: node.to_owned(), instance: self.instance, log: cursor.log, report }
    }
}
