//! Purges of this node alone, on a node whose log others follow as well. They are in a table beside the log's, which no
//! read of the log, and no loss of it, ever takes anything from.

use std::sync::{Arc, atomic::Ordering};

use super::{
    Error, Purger,
    journal::{self, Snapshot},
    listing::lower_bits,
    log::Append,
    purger::Scope,
    receipt::Receipt,
    table::{Cursor, Incarnation, Kind, Link, Position, Reach, Record, Table, note_pattern},
};
use crate::cache::tag::Tag;

impl Purger {
    /// Whether purges of this node alone outlive the process, as far as what they purge does: others may have stored it
    /// where this node reads it, and then only a disk can keep them.
    #[must_use]
    pub const fn keeps_own(&self) -> bool {
        self.region.is_none() || self.journal.is_some()
    }

    /// Whether others follow the same log.
    #[must_use]
    pub const fn has_log(&self) -> bool {
        self.region.is_some()
    }

    /// Purges on this node alone. To be called only if it [keeps such purges](Purger::keeps_own).
    ///
    /// # Errors
    /// [`Error`]: it isn't purged.
    pub async fn purge_here(&self, scope: &Scope, kind: Kind) -> Result<Receipt, Error> {
        if self.succeeded.load(Ordering::Acquire) {
            return Err(Error::Succeeded);
        }
        let appends = scope.appends(kind)?;
        if !self.has_log() {
            return self.purge_alone(&appends).await;
        }
        let position = self.append_own(&appends).await?;
        Ok(self.done_here(position))
    }

    /// Writes purges down first, and applies them then: no entry has a mark of a position that the disk doesn't know, so
    /// that none is given a second time after a restart.
    async fn append_own(&self, appends: &[Append]) -> Result<Position, Error> {
        let mut writing = self.writing.lock().await;
        let (Cursor { log, mut position, .. }, floor, mut patterns) = {
            let state = self.state.read();
            let own = state.own.as_ref().map(|own| (own.cursor(), own.floor(), Arc::clone(own.patterns())));
            let begun = || Cursor { log: Incarnation(lower_bits()), ..Cursor::default() };
            own.unwrap_or_else(|| (begun(), Position::default(), Arc::default()))
        };
        let records: Vec<Record> = appends
            .iter()
            .map(|append| {
                position.0 += 1;
                Record { position, tag: append.tag, kind: append.kind, reach: append.reach.clone() }
            })
            .collect();
        for record in &records {
            if let Reach::Pattern(pattern) = &record.reach {
                note_pattern(Arc::make_mut(&mut patterns), pattern, record.kind, record.position);
            }
        }
        if let Some(journal) = self.journal.clone() {
            let snapshot = Snapshot { cursor: Cursor { log, position, link: Link::default() }, floor, patterns };
            // A tag that was folded and is purged again has a row.
            let is_back = |tag: &Tag| records.iter().any(|record| record.tag == *tag);
            writing.own_folded.retain(|tag| !is_back(tag));
            let (records, folded) = (records.clone(), writing.own_folded.clone());
            journal::blocking(move || journal.write_own(&snapshot, &records, &folded)).await?;
            writing.own_folded.clear();
        }
        {
            let mut state = self.state.write();
            let own = state.own.get_or_insert_with(|| Table::new(log, self.room));
            let dropped = own.patterns_dropped();
            writing.own_folded.extend(records.iter().flat_map(|record| own.apply(record)));
            self.metrics.purge_patterns_dropped.inc_by(own.patterns_dropped() - dropped);
        }
        self.republish();
        Ok(position)
    }
}
