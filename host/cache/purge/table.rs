//! The purge table: which tag was purged last at which position of the log. Pure; it takes the records of the log.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    cache::tag::{Tag, Urls, without_query},
    clock::Uptime,
    message::pattern::Pattern,
    planted::{Plant, planted},
};

/// A position in a purge log: the running number of a record. The first record of an incarnation has 1, the next one
/// more, and no clock is involved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of a log. A log that lost records, or was put back to an older state, goes on as another incarnation.
/// Positions of different incarnations can't be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// Whether this one began after `other`. Two that began after the same one, in histories that parted, have no order.
    #[must_use]
    pub const fn is_after(self, other: Self) -> bool {
        self.0 >> INCARNATION_BITS > other.0 >> INCARNATION_BITS
    }

    /// Whether a node that has applied this incarnation up to `applied` has applied what stands at `position` of `log`:
    /// one of a later incarnation has begun anew, and what it had stored before is doubtful to it.
    #[must_use]
    pub fn covers(self, applied: Position, log: Self, position: Position) -> bool {
        self.is_after(log) || self == log && applied >= position
    }
}

/// The lower bits of an incarnation are random, the others its running number.
pub const INCARNATION_BITS: u32 = 32;

/// A random number that its writer gave to a record and that the next record repeats. Two records of the same number that
/// have different links are of two histories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link(pub u64);

/// How far a log has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The log's incarnation.
    pub log: Incarnation,
    /// The last record that was read; zero before the first.
    pub position: Position,
    /// That record's link; zero before the first.
    pub link: Link,
}

/// How far a log had been applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// The log's incarnation; zero, which no log has, if nothing is known.
    pub log: Incarnation,
    /// The position up to which it was applied.
    pub position: Position,
}

impl Point {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_nowhere(&self) -> bool {
        *self == Self::default()
    }

    /// Whether everything had been applied here that had been at `earlier`: the log is the same and as far at least, or
    /// there had been nothing.
    #[must_use]
    pub fn covers(&self, earlier: &Self) -> bool {
        earlier.is_nowhere() || self.log == earlier.log && self.position >= earlier.position
    }
}

impl From<Cursor> for Point {
    fn from(cursor: Cursor) -> Self {
        Self { log: cursor.log, position: cursor.position }
    }
}

/// Where things stood when a fetch began. An entry carries it.
///
/// Two marks are equal if no purge was applied between them, however much time has passed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Mark {
    /// The log.
    pub log: Incarnation,
    /// The position up to which it was applied.
    pub position: Position,
    /// The purges of one node alone that the node which fetched the entry had applied.
    #[serde(default, skip_serializing_if = "Point::is_nowhere")]
    pub own: Point,
    /// The world's log. Nowhere if the node that fetched the entry follows none, so that one which does never takes the
    /// entry for good without asking: no log has that incarnation.
    #[serde(default, skip_serializing_if = "Point::is_nowhere")]
    pub world: Point,
    /// Invalidations that this node had applied by itself. Means nothing to another process.
    #[serde(skip)]
    pub local: u64,
    /// The moment. Zero if another process fetched the entry.
    #[serde(skip)]
    pub at: Uptime,
}

impl PartialEq for Mark {
    fn eq(&self, other: &Self) -> bool {
        let applied = |mark: &Self| (mark.log, mark.position, mark.local, mark.own, mark.world);
        applied(self) == applied(other)
    }
}

impl Eq for Mark {}

impl Mark {
    /// Returns the mark as the table of the world's log judges it.
    #[must_use]
    pub fn of_world(&self) -> Self {
        Self { log: self.world.log, position: self.world.position, at: self.at, ..Self::default() }
    }

    /// Whether each purge had been applied here that had been at `earlier`, a mark of the same process; then what was
    /// fetched from here on is new to whoever came at that one. No clock is asked: what a parent had stored has the
    /// mark of its own fetch.
    #[must_use]
    pub fn covers(&self, earlier: &Self) -> bool {
        let of_log = |mark: &Self| Point { log: mark.log, position: mark.position };
        let has_all_of_log = of_log(self).covers(&of_log(earlier)) && self.local >= earlier.local;
        has_all_of_log && self.own.covers(&earlier.own) && self.world.covers(&earlier.world)
    }

    /// Returns the mark as it is without the world's log.
    #[must_use]
    pub fn of_region(&self) -> Self {
        Self { world: Point::default(), ..*self }
    }
}

/// What a purge may mean: a response that is stored, or on its way.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'s> {
    /// What it can be purged by.
    pub tags: &'s [Tag],
    /// The URLs that it is for.
    pub urls: &'s Urls,
    /// Where things stood when its fetch began.
    pub mark: &'s Mark,
}

/// The same of one that is handed on.
#[derive(Clone, Debug)]
pub struct Purgeable {
    /// What it can be purged by.
    pub tags: Vec<Tag>,
    /// The URLs that it is for.
    pub urls: Urls,
    /// Where things stood when its fetch began.
    pub mark: Mark,
}

impl Purgeable {
    /// Returns what a purge may mean.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject { tags: &self.tags, urls: &self.urls, mark: &self.mark }
    }
}

/// How a purge takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The entry is gone.
    Hard,
    /// The entry is stale.
    Soft,
}

/// What the tag of a purge stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Entries that carry it.
    Entries,
    /// A URL. Then requests are checked too, not only entries: several URLs may share an entry.
    Url,
    /// All URLs at or below a prefix. Requests are checked too.
    Prefix,
    /// All URLs that match this. Requests are checked too. The tag is that of the pattern, which no entry carries.
    Pattern(Pattern),
}

/// One purge of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub position: Position,
    /// What it purges.
    pub tag: Tag,
    /// How.
    pub kind: Kind,
    /// What the tag stands for.
    pub reach: Reach,
}

/// When a tag was last purged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Hard.
    pub hard: Position,
    /// Soft.
    pub soft: Position,
}

impl Row {
    /// Returns when it was purged in either way.
    #[must_use]
    pub fn latest(&self) -> Position {
        self.hard.max(self.soft)
    }

    fn note(&mut self, kind: Kind, position: Position) {
        let last = match kind {
            Kind::Hard => &mut self.hard,
            Kind::Soft => &mut self.soft,
        };
        *last = position.max(*last);
    }
}

/// When all URLs that match a pattern were last purged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternRow {
    /// The pattern.
    pub pattern: Pattern,
    /// What all have in common that are stored for a URL which it matches.
    above: Tag,
    /// When.
    pub row: Row,
}

impl PatternRow {
    fn new(pattern: &Pattern) -> Self {
        Self { pattern: pattern.clone(), above: Tag::above(pattern), row: Row::default() }
    }

    /// Judges what it may mean, for a request of the URL `asked`, if that counts. `is_of_log`: marks can be compared.
    fn judge(&self, subject: &Subject<'_>, asked: Option<&str>, is_of_log: bool) -> Standing {
        let mut urls = subject.urls.fetched().into_iter().chain(asked);
        if urls.any(|url| self.pattern.matches(url)) {
            let is_gone = !is_of_log || self.row.hard > subject.mark.position;
            return if is_gone { Standing::Gone } else { Standing::Stale };
        }
        let may_match = match subject.urls {
            Urls::Unknown => subject.tags.contains(&self.above),
            Urls::One(_) => false,
            Urls::Queries(url) => self.pattern.may_match_with_query(without_query(url)),
        };
        if may_match { Standing::Doubtful } else { Standing::Good }
    }
}

/// Notes in a list, the oldest first, that a pattern was purged. What it knows already changes nothing.
pub(super) fn note_pattern(rows: &mut Vec<PatternRow>, pattern: &Pattern, kind: Kind, position: Position) {
    let known = rows.iter().position(|row| row.pattern == *pattern);
    let mut row = known.map_or_else(|| PatternRow::new(pattern), |at| rows.remove(at));
    row.row.note(kind, position);
    let at = rows.partition_point(|other| other.row.latest() <= row.row.latest());
    rows.insert(at, row);
}

/// What a table may hold.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Rows of tags.
    pub rows: usize,
    /// Patterns.
    pub patterns: usize,
}

/// What the table says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing was purged since it was fetched.
    Good,
    /// Softly purged: stale.
    Stale,
    /// The node hasn't read a log that it follows for so long that others no longer wait for it: to be confirmed by the
    /// origin.
    Unconfirmed,
    /// It can't be known (another log, or older than the floor): of use only after asking the origin.
    Doubtful,
    /// Purged.
    Gone,
}

/// The table: bounded, its oldest rows fold into floors.
#[derive(Debug)]
pub struct Table {
    cursor: Cursor,
    /// Below this everything counts as purged.
    floor: Position,
    /// The same for the tags of each bucket whose rows were folded; empty until one was.
    folded: Vec<Position>,
    latest_url: Position,
    latest_prefix: Position,
    rows: HashMap<Tag, Row>,
    by_age: BTreeSet<(Position, Tag)>,
    /// The oldest first. Copied when it changes, so that writing it down needs no lock.
    patterns: Arc<Vec<PatternRow>>,
    patterns_dropped: u64,
    room: Room,
}

impl Table {
    /// An empty table of `log`.
    #[must_use]
    pub fn new(log: Incarnation, room: Room) -> Self {
        Self {
            cursor: Cursor { log, ..Cursor::default() },
            floor: Position::default(),
            folded: Vec::new(),
            latest_url: Position::default(),
            latest_prefix: Position::default(),
            rows: HashMap::new(),
            by_age: BTreeSet::new(),
            patterns: Arc::default(),
            patterns_dropped: 0,
            room,
        }
    }

    /// Returns how far the log has been read.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The last position at which a URL was purged, or a prefix or pattern of some.
    #[must_use]
    pub const fn latest_url(&self) -> Position {
        self.latest_url
    }

    /// The last position at which a prefix or pattern of URLs was purged.
    #[must_use]
    pub const fn latest_prefix(&self) -> Position {
        self.latest_prefix
    }

    /// The patterns that were purged last, the oldest first.
    #[must_use]
    pub const fn patterns(&self) -> &Arc<Vec<PatternRow>> {
        &self.patterns
    }

    /// How many patterns this table has had no room for.
    #[must_use]
    pub const fn patterns_dropped(&self) -> u64 {
        self.patterns_dropped
    }

    /// Below this something may count as purged that no row tells of.
    #[must_use]
    pub fn floor(&self) -> Position {
        self.folded.iter().copied().fold(self.floor, Position::max)
    }

    /// Whether the purge of `tag` at `position` is known, by its row or by a floor.
    #[must_use]
    pub fn knows(&self, tag: &Tag, position: Position) -> bool {
        self.floor >= position
            || self.folded_at(tag) >= position
            || self.row(tag).is_some_and(|row| row.hard >= position)
    }

    fn folded_at(&self, tag: &Tag) -> Position {
        self.folded.get(bucket(tag)).copied().unwrap_or_default()
    }

    /// Applies a record; one that was applied before changes nothing. Returns the tags whose rows were folded away.
    pub fn apply(&mut self, record: &Record) -> Vec<Tag> {
        self.advance(record.position);
        match &record.reach {
            Reach::Entries => {}
            Reach::Url => self.latest_url = self.latest_url.max(record.position),
            Reach::Prefix => self.note_many(record.position),
            Reach::Pattern(pattern) => {
                self.note_many(record.position);
                note_pattern(Arc::make_mut(&mut self.patterns), pattern, record.kind, record.position);
                self.drop_patterns();
                return Vec::new();
            }
        }
        let row = self.rows.entry(record.tag).or_default();
        self.by_age.remove(&(row.latest(), record.tag));
        row.note(record.kind, record.position);
        self.by_age.insert((row.latest(), record.tag));
        self.fold()
    }

    /// Notes that many URLs were purged: requests are checked by all that stands for theirs.
    fn note_many(&mut self, position: Position) {
        self.latest_url = self.latest_url.max(position);
        self.latest_prefix = self.latest_prefix.max(position);
    }

    /// Puts back a row from a durable copy.
    pub fn restore(&mut self, tag: Tag, row: Row) -> Vec<Tag> {
        self.rows.insert(tag, row);
        self.by_age.insert((row.latest(), tag));
        self.advance(row.latest());
        // A durable row doesn't say what it stands for; taking it for a URL and a prefix only costs a look-up.
        self.note_many(row.latest());
        self.fold()
    }

    /// Puts back a pattern from a durable copy. One that another version has written there, and that this one can't
    /// read, may have purged anything.
    pub fn restore_pattern(&mut self, text: &str, row: Row) {
        self.advance(row.latest());
        self.note_many(row.latest());
        let Some(pattern) = Pattern::stored(text) else { return self.raise_floor(row.latest()) };
        let rows = Arc::make_mut(&mut self.patterns);
        note_pattern(rows, &pattern, Kind::Hard, row.hard);
        note_pattern(rows, &pattern, Kind::Soft, row.soft);
        self.drop_patterns();
    }

    /// Notes that the log was read up to here, whether or not there was a record.
    pub fn advance(&mut self, position: Position) {
        self.cursor.position = self.cursor.position.max(position);
    }

    /// Notes the link of the record that was read last.
    pub const fn link(&mut self, link: Link) {
        self.cursor.link = link;
    }

    /// What lies before `floor` can no longer be known.
    pub fn raise_floor(&mut self, floor: Position) {
        self.floor = self.floor.max(floor);
        self.advance(floor);
    }

    /// The row of a tag.
    #[must_use]
    pub fn row(&self, tag: &Tag) -> Option<Row> {
        self.rows.get(tag).copied()
    }

    /// Judges what was fetched at `mark` and carries `tags`.
    #[must_use]
    pub fn check(&self, tags: impl IntoIterator<Item = Tag>, mark: &Mark) -> Standing {
        if planted(Plant::PurgeIgnored) {
            return Standing::Good;
        }
        let purged = tags.into_iter().map(|tag| match self.rows.get(&tag) {
            Some(row) if mark.log != self.cursor.log || row.hard > mark.position => Standing::Gone,
            Some(row) if row.soft > mark.position => Standing::Stale,
            _ if self.folded_at(&tag) > mark.position => Standing::Doubtful,
            _ => Standing::Good,
        });
        let by_tags = purged.max().unwrap_or(Standing::Good);
        let unknown = mark.log != self.cursor.log || mark.position < self.floor;
        by_tags.max(if unknown { Standing::Doubtful } else { Standing::Good })
    }

    /// Judges by the patterns, for a request of the URL `asked`, if that counts. Only those that were purged since are
    /// compared. What isn't known to be for one URL alone is doubtful by those that may match another.
    #[must_use]
    pub fn check_patterns(&self, subject: &Subject<'_>, asked: Option<&str>) -> Standing {
        let is_of_log = subject.mark.log == self.cursor.log;
        let is_newer = |row: &&PatternRow| !is_of_log || row.row.latest() > subject.mark.position;
        let newer = self.patterns.iter().rev().take_while(is_newer);
        newer.map(|row| row.judge(subject, asked, is_of_log)).max().unwrap_or(Standing::Good)
    }

    /// Judges what was fetched at `mark` and carries `tags`, if this is the table of the purges of one node alone. What
    /// another node has fetched, or this one before its first such purge, was fetched before all of them.
    #[must_use]
    pub fn check_own(&self, tags: impl IntoIterator<Item = Tag>, mark: &Mark) -> Standing {
        self.check(tags, &self.own_mark(mark))
    }

    /// The same by the patterns.
    #[must_use]
    pub fn check_own_patterns(&self, subject: &Subject<'_>, asked: Option<&str>) -> Standing {
        let mark = self.own_mark(subject.mark);
        self.check_patterns(&Subject { mark: &mark, ..*subject }, asked)
    }

    fn own_mark(&self, mark: &Mark) -> Mark {
        let position = if mark.own.log == self.cursor.log { mark.own.position } else { Position::default() };
        Mark { log: self.cursor.log, position, ..Mark::default() }
    }

    fn fold(&mut self) -> Vec<Tag> {
        let mut folded = Vec::new();
        while self.rows.len() > self.room.rows {
            let Some((position, tag)) = self.by_age.pop_first() else { break };
            self.rows.remove(&tag);
            self.fold_one(&tag, position);
            folded.push(tag);
        }
        folded
    }

    /// Takes the oldest patterns away for which there is no room. What is older and lies below the prefix that all URLs
    /// which one matches have in common is doubtful from now on.
    fn drop_patterns(&mut self) {
        while self.patterns.len() > self.room.patterns {
            let PatternRow { above, row, .. } = Arc::make_mut(&mut self.patterns).remove(0);
            self.fold_one(&above, row.latest());
            self.patterns_dropped += 1;
        }
    }

    /// Makes doubtful what carries a tag and is older.
    fn fold_one(&mut self, tag: &Tag, position: Position) {
        if self.folded.is_empty() {
            self.folded = vec![Position::default(); BUCKETS];
        }
        let floor = &mut self.folded[bucket(tag)];
        *floor = position.max(*floor);
    }
}

#[cfg(test)]
impl Room {
    /// Room for so many rows, and for patterns as by default.
    pub(crate) const fn rows(rows: usize) -> Self {
        Self { rows, patterns: 64 }
    }
}

/// Buckets of folded tags, 8 bytes each. One floor for all would let the writes of an API make the pages of a site
/// doubtful.
const BUCKETS: usize = 1 << 18;

/// A tag is a digest, so its first bytes are as good as a hash.
fn bucket(tag: &Tag) -> usize {
    let [a, b, c, d, ..] = *tag.as_bytes();
    u32::from_le_bytes([a, b, c, d]) as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOG: Incarnation = Incarnation(9);

    fn at(position: u64) -> Position {
        Position(position)
    }

    fn mark(position: u64) -> Mark {
        Mark { log: LOG, position: at(position), ..Mark::default() }
    }

    fn tag(name: u8) -> Tag {
        Tag::named(&[name])
    }

    fn record(major: u64, name: u8, kind: Kind) -> Record {
        Record { position: at(major), tag: tag(name), kind, reach: Reach::Entries }
    }

    #[test]
    fn a_mark_covers_those_at_which_nothing_more_had_been_applied() {
        let point = |log, position| Point { log: Incarnation(log), position: at(position) };
        let full = Mark { own: point(1, 5), world: point(2, 7), local: 3, at: Uptime(9), ..mark(4) };
        let earlier = Mark { own: point(1, 4), world: point(2, 6), local: 2, ..mark(3) };
        for (what, one, other, wanted) in [
            ("the same", full, full, true),
            ("a later one", full, earlier, true),
            ("an earlier one, whatever the clock says", Mark { at: Uptime(99), ..earlier }, full, false),
            ("the region's log", Mark { position: at(2), ..full }, earlier, false),
            ("another log", Mark { log: Incarnation(8), ..full }, earlier, false),
            ("the world's log", Mark { world: point(2, 5), ..full }, earlier, false),
            ("another log of the world", Mark { world: point(3, 99), ..full }, earlier, false),
            ("none of the world", Mark { world: Point::default(), ..full }, earlier, false),
            ("the node's own log", Mark { own: point(1, 3), ..full }, earlier, false),
            ("invalidations", Mark { local: 1, ..full }, earlier, false),
            ("a log that there was none of before", full, Mark { own: Point::default(), ..earlier }, true),
        ] {
            assert_eq!(one.covers(&other), wanted, "{what}");
        }
    }

    #[test]
    fn an_entry_is_judged_by_what_was_purged_after_its_fetch_began() {
        let mut table = Table::new(LOG, Room::rows(10));
        table.apply(&record(5, 1, Kind::Hard));
        table.apply(&record(6, 2, Kind::Soft));
        for (tags, fetched, wanted) in [
            (&[1][..], 4, Standing::Gone),
            (&[1], 5, Standing::Good),
            (&[2], 5, Standing::Stale),
            (&[1, 2], 4, Standing::Gone),
            (&[2, 3], 6, Standing::Good),
            (&[], 0, Standing::Good),
        ] {
            assert_eq!(table.check(tags.iter().map(|t| tag(*t)), &mark(fetched)), wanted, "{tags:?} at {fetched}");
        }
    }

    #[test]
    fn another_logs_entry_is_doubtful_and_a_purged_one_gone() {
        let mut table = Table::new(LOG, Room::rows(10));
        table.apply(&record(5, 1, Kind::Soft));
        let other = Mark { log: Incarnation(1), ..mark(99) };
        assert_eq!(table.check([tag(2)], &other), Standing::Doubtful);
        assert_eq!(table.check([tag(1)], &other), Standing::Gone);
    }

    #[test]
    fn a_row_that_folds_makes_older_entries_doubtful() {
        let mut table = Table::new(LOG, Room::rows(2));
        for position in 1..=3 {
            table.apply(&record(position, u8::try_from(position).unwrap(), Kind::Hard));
        }
        assert_eq!(table.floor(), at(1));
        assert_eq!(table.check([tag(1)], &mark(0)), Standing::Doubtful, "purged, but its row is gone");
        assert_eq!(table.check([tag(9)], &mark(0)), Standing::Good, "which says nothing about others");
        assert_eq!(table.check([tag(1)], &mark(1)), Standing::Good);
        assert!(table.knows(&tag(1), at(1)) && table.knows(&tag(3), at(3)) && !table.knows(&tag(9), at(1)));
    }

    #[test]
    fn what_another_node_fetched_was_fetched_before_all_purges_of_this_one_alone() {
        let mut table = Table::new(LOG, Room::rows(2));
        table.apply(&record(5, 1, Kind::Hard));
        table.apply(&record(6, 2, Kind::Soft));
        let own = |position| Mark { own: Point { log: LOG, position: at(position) }, ..Mark::default() };
        let foreign = Mark { own: Point { log: Incarnation(1), position: at(99) }, ..Mark::default() };
        for (name, fetched, wanted) in [
            (1, own(4), Standing::Gone),
            (1, own(5), Standing::Good),
            (1, foreign, Standing::Gone),
            (1, Mark::default(), Standing::Gone),
            (2, foreign, Standing::Stale),
            (3, foreign, Standing::Good),
        ] {
            assert_eq!(table.check_own([tag(name)], &fetched), wanted, "{name} {fetched:?}");
        }
        table.apply(&record(7, 3, Kind::Hard));
        assert_eq!(table.check_own([tag(1)], &foreign), Standing::Doubtful, "its row has been folded away");
        assert_eq!(table.check_own([tag(9)], &foreign), Standing::Good);
    }

    #[test]
    fn a_mark_takes_no_more_room_where_there_is_one_log() {
        let mark = Mark { log: LOG, position: at(6), ..Mark::default() };
        let json = serde_json::to_value(mark).unwrap();
        assert_eq!(json, serde_json::json!({"log": 9, "position": 6}));
        let both = Mark { world: Point { log: Incarnation(3), position: at(4) }, ..mark };
        let read: Mark = serde_json::from_value(serde_json::to_value(both).unwrap()).unwrap();
        assert_eq!(read, both);
        let before: Mark = serde_json::from_value(json).unwrap();
        let world = Table::new(Incarnation(3), Room::rows(10));
        assert_eq!(world.check([tag(1)], &before.of_world()), Standing::Doubtful, "stored without a world's log");
    }

    proptest! {
        /// However small the table: what was purged after its fetch is never good.
        #[test]
        fn a_purged_entry_is_never_good(
            purges in prop::collection::vec((0_u8..6, any::<bool>()), 1..40),
            rows_max in 1_usize..6,
            name in 0_u8..6,
            fetched in 0_u64..40,
        ) {
            let mut table = Table::new(LOG, Room::rows(rows_max));
            let mut purged_after = false;
            for (index, (purged, hard)) in purges.iter().enumerate() {
                let position = index as u64 + 1;
                let kind = if *hard { Kind::Hard } else { Kind::Soft };
                table.apply(&record(position, *purged, kind));
                purged_after |= *purged == name && position > fetched;
            }
            let standing = table.check([tag(name)], &mark(fetched));
            prop_assert!(!purged_after || standing != Standing::Good);
        }
    }
}
