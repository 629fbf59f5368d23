//! What a watch of a log's keys has brought, as words. Pure.

use bytes::Bytes;

use super::keys::Keys;
use crate::{
    cache::purge::{listing::member, log::Word},
    etcd::{Event, Pair},
};

/// Returns what changes of keys mean to those who follow a log, in their order.
///
/// That a record was deleted means nothing: the log's bound takes the oldest, and what takes any other, or begins the log
/// anew, changes something else. A member's report that can't be read is a change, since the list has to be asked who that
/// is.
pub(super) fn words(keys: &Keys, events: Vec<Event>) -> Vec<Word> {
    events.into_iter().filter_map(|event| word(keys, event)).collect()
}

fn word(keys: &Keys, event: Event) -> Option<Word> {
    let Event { key, value, mod_revision } = event;
    let is_record = key.starts_with(keys.logs().as_bytes());
    if key == keys.late() {
        return None;
    }
    let Some(value) = value else { return (!is_record).then_some(Word::Change) };
    let pair = Pair { key, value, version: 0, mod_revision };
    let word = if is_record {
        keys.tied_anywhere(&pair).map(|(log, tied)| Word::Record(log, tied))
    } else {
        let field = text(&pair.key).and_then(|key| key.strip_prefix(&keys.members()));
        field.zip(text(&pair.value)).and_then(|(field, said)| member(field, said)).map(Word::Report)
    };
    // What is no record of a log, or was written otherwise.
    Some(word.unwrap_or(Word::Change))
}

fn text(bytes: &Bytes) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{
        purge::{
            etcd::keys::record_text,
            listing::{field, said},
            log::{Append, Entry, Member, Report, Tied},
            table::{Incarnation, Kind, Link, Position, Reach, Record},
        },
        tag::Tag,
    };

    const LOG: Incarnation = Incarnation(0x1_0000_0005);

    fn put(key: String, value: &str) -> Event {
        Event { key: key.into(), value: Some(Bytes::copy_from_slice(value.as_bytes())), mod_revision: 7 }
    }

    #[test]
    fn changes_of_keys_are_words_and_what_is_not_understood_is_to_be_read() {
        let keys = Keys::new("holm");
        let purge = Append { tag: Tag::named(b"t"), kind: Kind::Hard, reach: Reach::Url };
        let record = Record { position: Position(9), tag: purge.tag, kind: purge.kind, reach: purge.reach.clone() };
        let entry = Entry { position: Position(9), link: Link(8), record: Some(record) };
        let told = Word::Record(LOG, Tied { entry: entry.clone(), before: Link(7) });
        let report = Report { applied: Position(9), fence_ms: Some(4_000), lost_ms: 60_000, beat: 3 };
        let one = Member { node: "eu/n1".to_owned(), instance: 5, log: LOG, report };
        let key = || keys.record(LOG, Position(9), Link(8));
        let of_member = || keys.member(&field(&one));
        let deleted = |key: String| Event { key: key.into(), value: None, mod_revision: 7 };
        let unknown = Word::Record(LOG, Tied { entry: Entry { record: None, ..entry }, before: Link(7) });
        let later = record_text(Link(7), &purge).replace(" 1 ", " 2 ");
        let table = [
            ("a record", put(key(), &record_text(Link(7), &purge)), Some(told)),
            ("one of a later version", put(key(), &later), Some(unknown)),
            ("what is no record", put(key(), "?"), Some(Word::Change)),
            ("a record that is gone", deleted(key()), None),
            ("a report", put(of_member(), &said(&one)), Some(Word::Report(one.clone()))),
            ("a report of a later version", put(of_member(), "?"), Some(Word::Change)),
            ("a member that is gone", deleted(of_member()), Some(Word::Change)),
            ("the incarnation", put(keys.id(), "5"), Some(Word::Change)),
            ("the incarnation is gone", deleted(keys.id()), Some(Word::Change)),
            ("one that is late", put(keys.late(), "7 40"), None),
        ];
        for (name, event, wanted) in table {
            assert_eq!(words(&keys, vec![event]), wanted.into_iter().collect::<Vec<_>>(), "{name}");
        }
    }
}
