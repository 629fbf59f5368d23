//! The keys of a log in etcd, and what stands under them. Pure.
//!
//! A record's key has the log's incarnation, its position and its link, so that one comparison tells whether a cursor is a
//! point of the log. The keys that a reader waits for, `id`, `late` and those of records, are neighbours: no other is
//! between them. Those of members come next.

use bytes::Bytes;

use crate::{
    cache::{
        purge::{
            log::{Append, Entry, Tied},
            table::{Incarnation, Kind, Link, Position, Reach, Record},
        },
        tag::Tag,
    },
    etcd::{Pair, after_prefix},
    message::pattern::Pattern,
};

/// The version of a record's text. A node that doesn't know it confirms all that it has.
const VERSION: &str = "1";

/// What the text of a record says that has a pattern in place of a tag. A node that knows none can't read it.
const PATTERN: &str = "pattern";

/// The keys of one log.
#[derive(Debug)]
pub(super) struct Keys {
    root: String,
}

impl Keys {
    pub(super) fn new(namespace: &str) -> Self {
        Self { root: format!("{namespace}/purge/") }
    }

    /// Returns the key of the incarnation.
    pub(super) fn id(&self) -> String {
        format!("{}id", self.root)
    }

    /// Returns the key of the last record's position and link.
    pub(super) fn state(&self) -> String {
        format!("{}state", self.root)
    }

    /// Returns what the keys of all records begin with.
    pub(super) fn logs(&self) -> String {
        format!("{}log/", self.root)
    }

    /// Returns what the keys of the records of one incarnation begin with.
    pub(super) fn log(&self, log: Incarnation) -> String {
        format!("{}log/{:016x}/", self.root, log.0)
    }

    /// Returns what the keys of the records at this position and no other begin with. There is one of them at most, unless
    /// somebody else has written there.
    pub(super) fn at(&self, log: Incarnation, position: Position) -> String {
        format!("{}{:016x}/", self.log(log), position.0)
    }

    /// Returns the key of a record.
    pub(super) fn record(&self, log: Incarnation, position: Position, link: Link) -> String {
        format!("{}{:016x}", self.at(log, position), link.0)
    }

    /// Returns the key under which whoever lost a race to append says so. It is among those that are watched.
    pub(super) fn late(&self) -> String {
        format!("{}late", self.root)
    }

    /// Returns what the keys of members begin with.
    pub(super) fn members(&self) -> String {
        format!("{}members/", self.root)
    }

    /// Returns the key of a member.
    pub(super) fn member(&self, field: &str) -> String {
        format!("{}members/{field}", self.root)
    }

    /// Returns what the keys of members that were signed off begin with.
    pub(super) fn all_off(&self) -> String {
        format!("{}off/", self.root)
    }

    /// Returns the key of a member that was signed off.
    pub(super) fn off(&self, field: &str) -> String {
        format!("{}off/{field}", self.root)
    }

    /// Returns the range of keys that a reader waits for: the first one, and the one after the last.
    pub(super) fn watched(&self) -> (Bytes, Bytes) {
        (self.id().into(), after_prefix(self.logs().as_bytes()))
    }

    /// Returns the range of keys that a purge waits for: those of a reader, and their neighbours, those of members.
    pub(super) fn heard(&self) -> (Bytes, Bytes) {
        (self.id().into(), after_prefix(self.members().as_bytes()))
    }

    /// Reads a record of any incarnation; `None` if it isn't one.
    pub(super) fn tied_anywhere(&self, pair: &Pair) -> Option<(Incarnation, Tied)> {
        let rest = std::str::from_utf8(&pair.key).ok()?.strip_prefix(&self.logs())?;
        let log = Incarnation(hex(rest.split_once('/')?.0)?);
        Some((log, self.tied(log, pair)?))
    }

    /// Reads a record of this incarnation; `None` if it isn't one.
    pub(super) fn tied(&self, log: Incarnation, pair: &Pair) -> Option<Tied> {
        let key = std::str::from_utf8(&pair.key).ok()?.strip_prefix(&self.log(log))?;
        let (position, link) = key.split_once('/')?;
        let (position, link) = (Position(hex(position)?), Link(hex(link)?));
        let text = std::str::from_utf8(&pair.value).ok()?;
        let (before, rest) = text.split_once(' ')?;
        let entry = Entry { position, link, record: record(position, rest) };
        Some(Tied { entry, before: Link(hex(before)?) })
    }
}

/// Returns what stands under the key of a record that follows the one with the link `before`.
pub(super) fn record_text(before: Link, purge: &Append) -> String {
    let kind = match purge.kind {
        Kind::Hard => "hard",
        Kind::Soft => "soft",
    };
    let reach = match &purge.reach {
        Reach::Entries => "entries",
        Reach::Url => "url",
        Reach::Prefix => "prefix",
        Reach::Pattern(pattern) => return format!("{:016x} {VERSION} {kind} {PATTERN} {pattern}", before.0),
    };
    format!("{:016x} {VERSION} {kind} {reach} {:032x}", before.0, u128::from_be_bytes(*purge.tag.as_bytes()))
}

/// Returns what a record purges; `None` if this node can't understand it.
fn record(position: Position, text: &str) -> Option<Record> {
    let [VERSION, kind, reach, what] = <[&str; 4]>::try_from(text.split(' ').collect::<Vec<_>>()).ok()? else {
        return None;
    };
    let kind = match kind {
        "hard" => Kind::Hard,
        "soft" => Kind::Soft,
        _ => return None,
    };
    let reach = match reach {
        "entries" => Reach::Entries,
        "url" => Reach::Url,
        "prefix" => Reach::Prefix,
        PATTERN => Reach::Pattern(Pattern::stored(what)?),
        _ => return None,
    };
    let tag = match &reach {
        Reach::Pattern(pattern) => Tag::pattern(pattern),
        Reach::Entries | Reach::Url | Reach::Prefix => {
            let digits = Some(what).filter(|digits| digits.len() == 32)?;
            Tag::from_bytes(u128::from_str_radix(digits, 16).ok()?.to_be_bytes())
        }
    };
    Some(Record { position, tag, kind, reach })
}

/// Returns what stands under the key of the incarnation.
pub(super) fn id_text(log: Incarnation) -> String {
    log.0.to_string()
}

/// Reads it; `None` if it is anything else, written in any other way.
pub(super) fn read_id(text: &[u8]) -> Option<Incarnation> {
    let log = Incarnation(std::str::from_utf8(text).ok()?.parse().ok()?);
    (id_text(log).as_bytes() == text && log.0 != 0).then_some(log)
}

/// Returns what stands under the key of the last record's position and link.
pub(super) fn state_text(position: Position, link: Link) -> String {
    format!("{} {}", position.0, link.0)
}

/// Reads it; `None` if it is anything else, written in any other way.
pub(super) fn read_state(text: &[u8]) -> Option<(Position, Link)> {
    let (position, link) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    let (position, link) = (Position(position.parse().ok()?), Link(link.parse().ok()?));
    (state_text(position, link).as_bytes() == text).then_some((position, link))
}

/// Reads a number of 16 hexadecimal digits.
fn hex(digits: &str) -> Option<u64> {
    let is_hex = digits.len() == 16 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex { u64::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOG: Incarnation = Incarnation(0x1_0000_0005);

    fn keys() -> Keys {
        Keys::new("holm")
    }

    fn pair(key: String, value: &str) -> Pair {
        Pair { key: key.into(), value: value.to_owned().into(), version: 1, mod_revision: 1 }
    }

    #[test]
    fn a_reader_waits_for_the_incarnation_and_for_records_and_a_purge_for_members_as_well() {
        let keys = keys();
        let (from, end) = keys.watched();
        let is_watched = |key: &str| key.as_bytes() >= &from[..] && key.as_bytes() < &end[..];
        assert!(is_watched(&keys.id()) && is_watched(&keys.record(LOG, Position(9), Link(1))));
        assert!(is_watched(&keys.late()), "whoever appends reads, too");
        let (from, end) = keys.heard();
        let is_heard = |key: &str| key.as_bytes() >= &from[..] && key.as_bytes() < &end[..];
        assert!(is_heard(&keys.id()) && is_heard(&keys.record(LOG, Position(9), Link(1))));
        assert!(is_heard(&keys.member("a/1")) && !is_heard(&keys.off("a/1")) && !is_heard(&keys.state()));
        for key in [keys.state(), keys.member("a/1"), keys.off("a/1"), Keys::new("other").id()] {
            assert!(!is_watched(&key), "{key}");
        }
    }

    #[test]
    fn what_is_not_understood_is_a_record_without_meaning_and_what_has_no_ties_is_none() {
        let keys = keys();
        let purge = Append { tag: Tag::named(b"t"), kind: Kind::Soft, reach: Reach::Prefix };
        let text = record_text(Link(7), &purge);
        let key = || keys.record(LOG, Position(9), Link(8));
        let tied = keys.tied(LOG, &pair(key(), &text)).unwrap();
        let record = Record { position: Position(9), tag: purge.tag, kind: purge.kind, reach: purge.reach.clone() };
        assert_eq!(tied.entry, Entry { position: Position(9), link: Link(8), record: Some(record) });
        assert_eq!(tied.before, Link(7));
        let tied = |key: String, text: &str| keys.tied(LOG, &pair(key, text)).map(|tied| tied.entry.record.is_some());
        let changed = |from: &str, to: &str| text.replace(from, to);
        for unknown in [changed(" 1 ", " 2 "), changed("soft", "mild"), changed("prefix", "all"), format!("{text} x")] {
            assert_eq!(tied(key(), &unknown), Some(false), "{unknown}");
        }
        assert_eq!(tied(key(), "x"), None);
        assert_eq!(tied(key().replace("log/", "log/x"), &text), None);
        assert_eq!(tied(format!("{}0", key()), &text), None);
        assert_eq!(tied(keys.record(Incarnation(1), Position(9), Link(8)), &text), None, "of another incarnation");
    }

    #[test]
    fn a_record_of_a_pattern_has_its_text() {
        let pattern = Pattern::parse("http://a/b c/*?d").unwrap();
        let (tag, reach) = (Tag::pattern(&pattern), Reach::Pattern(pattern));
        let text = record_text(Link(7), &Append { tag, kind: Kind::Hard, reach: reach.clone() });
        assert_eq!(text, "0000000000000007 1 hard pattern http://a/b%20c/*?d");
        let pair = |text: &str| pair(keys().record(LOG, Position(9), Link(8)), text);
        let record = keys().tied(LOG, &pair(&text)).unwrap().entry.record;
        assert_eq!(record, Some(Record { position: Position(9), tag, kind: Kind::Hard, reach }));
        let unknown = keys().tied(LOG, &pair("0000000000000007 1 hard pattern http://A/*")).unwrap().entry.record;
        assert_eq!(unknown, None, "another version may mean anything by it");
    }

    #[test]
    fn a_state_is_read_as_it_was_written_only() {
        for (text, wanted) in [("5 7", Some((Position(5), Link(7)))), ("05 7", None), ("5", None), ("5 7 ", None)] {
            assert_eq!(read_state(text.as_bytes()), wanted, "{text:?}");
        }
        for (text, wanted) in [("5", Some(Incarnation(5))), ("0", None), ("+5", None), ("", None)] {
            assert_eq!(read_id(text.as_bytes()), wanted, "{text:?}");
        }
    }

    proptest! {
        /// The order of keys is that of positions, so that a range is what follows a cursor.
        #[test]
        fn keys_have_the_order_of_positions(
            one in any::<u64>(),
            other in any::<u64>(),
            link in 1_u64..,
            another in 1_u64..,
        ) {
            let key = |position, link| keys().record(LOG, Position(position), Link(link));
            if one != other {
                prop_assert_eq!(key(one, link) < key(other, another), one < other);
            }
            prop_assert!(key(one, link).starts_with(&keys().at(LOG, Position(one))));
        }
    }
}
