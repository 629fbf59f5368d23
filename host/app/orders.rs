//! What the nodes of a region are asked to do: for which processes it is, and which of them have read it. Pure.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// How far the clocks of two nodes may be apart.
const SKEW: Duration = Duration::from_secs(60);

/// An order to the nodes of a region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    /// Tells it from any other, and begins with when it was given: see [`given`].
    pub(super) id: String,
    /// Calls off the drain.
    pub(super) cancel: bool,
    /// The processes that it is for, which are those that were known when it was given: none that begins later.
    pub(super) whom: Vec<String>,
    /// Until when it counts, whatever is still there of it then; `None` in one of a version that knew no such time.
    #[serde(default)]
    pub(super) until: Option<Timestamp>,
}

impl Order {
    /// Returns an order that is given `now`, for so long, and that is later than all those of `before`, whatever clock
    /// they went by. `number` tells it from one that another node gives at the same time.
    pub(super) fn new<'b>(
        cancel: bool,
        whom: Vec<String>,
        before: impl Iterator<Item = &'b String>,
        (now, time, number): (Timestamp, Duration, u64),
    ) -> Self {
        let last = before.filter_map(|id| given(id)).max();
        let at = last.map_or(now, |last| now.max(last.plus(Duration::from_millis(1))));
        Self { id: format!("{:016x}-{number:016x}", at.0), cancel, whom, until: Some(at.plus(time).plus(SKEW)) }
    }
}

/// Returns when an order was given, or after which one, by its id; `None` for one of a version that said no time.
fn given(id: &str) -> Option<Timestamp> {
    let (at, _) = id.split_once('-')?;
    u64::from_str_radix(at, 16).ok().map(Timestamp)
}

/// Whether an order was given after another one, by their ids.
fn is_later(id: &str, last: &str) -> bool {
    match (given(id), given(last)) {
        (Some(at), Some(before)) => (at, id) > (before, last),
        (None, None) => id != last,
        // One that says no time isn't known to be later than one that does.
        (None, Some(_)) => false,
        (Some(_), None) => true,
    }
}

/// The last order that a process has read. None before it counts, wherever it is found.
#[derive(Debug, Default)]
pub(super) struct Orders(Option<String>);

impl Orders {
    /// Takes an order that `process` has read.
    pub(super) fn take(&mut self, order: &Order, process: &str, now: Timestamp) -> Taken {
        if self.0.as_ref().is_some_and(|last| !is_later(&order.id, last)) {
            return Taken::Known;
        }
        if order.until.is_some_and(|until| now > until) {
            return Taken::Over;
        }
        self.0 = Some(order.id.clone());
        if order.whom.iter().any(|meant| meant == process) { Taken::Meant } else { Taken::ForOthers }
    }

    /// Returns its id.
    pub(super) fn last(&self) -> Option<&String> {
        self.0.as_ref()
    }
}

/// What an order is to a process that has read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It has read it before, or a later one.
    Known,
    /// It counts no more, by this process's clock.
    Over,
    /// It is to carry it out.
    Meant,
    /// It isn't meant.
    ForOthers,
}

/// Which nodes have read an order, by their names: a node has if any process of its name has, since the one that was
/// meant may have been restarted.
#[derive(Clone, Debug)]
pub(super) struct Receipt(BTreeMap<String, bool>);

impl Receipt {
    /// Begins with these nodes.
    pub(super) fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| (name, false)).collect())
    }

    /// Notes that a node has read it.
    pub(super) fn note(&mut self, name: &str) {
        if let Some(has_read) = self.0.get_mut(name) {
            *has_read = true;
        }
    }

    /// Whether all of them have.
    pub(super) fn is_complete(&self) -> bool {
        self.0.values().all(|has_read| *has_read)
    }

    /// Returns the names of those that have, and of the others.
    pub(super) fn into_names(self) -> (Vec<String>, Vec<String>) {
        let (read, unread): (Vec<_>, Vec<_>) = self.0.into_iter().partition(|(_, has_read)| *has_read);
        let names = |nodes: Vec<(String, bool)>| nodes.into_iter().map(|(name, _)| name).collect();
        (names(read), names(unread))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);
    const TIME: Duration = Duration::from_secs(600);

    fn texts(of: &[&str]) -> Vec<String> {
        of.iter().map(|text| (*text).to_owned()).collect()
    }

    /// One that is given at a time, by the number of a node, after others.
    fn order(at: Timestamp, number: u64, whom: &[&str], before: &[&Order]) -> Order {
        Order::new(false, texts(whom), before.iter().map(|order| &order.id), (at, TIME, number))
    }

    /// One of a version that said no time.
    fn timeless(id: &str, whom: &[&str]) -> Order {
        Order { id: id.to_owned(), cancel: false, whom: texts(whom), until: None }
    }

    #[test]
    fn an_order_is_carried_out_once_by_those_who_were_there_when_it_was_given() {
        let first = order(NOW, 9, &["a", "b"], &[]);
        // The clock of its giver is behind.
        let second = order(Timestamp(7), 1, &["b"], &[&first]);
        let third = order(NOW, 5, &["a"], &[&second, &first]);
        let at_once = order(NOW, 6, &["a"], &[&second, &first]);
        let mut orders = Orders::default();
        for (order, wanted) in [
            (&timeless("0", &["a"]), Taken::Meant),
            (&timeless("0", &["a"]), Taken::Known),
            (&timeless("x", &[]), Taken::ForOthers),
            (&first, Taken::Meant),
            (&first, Taken::Known),
            (&timeless("y", &["a"]), Taken::Known),
            (&second, Taken::ForOthers),
            (&first, Taken::Known),
            (&at_once, Taken::Meant),
            (&third, Taken::Known),
        ] {
            assert_eq!(orders.take(order, "a", NOW), wanted, "{order:?}");
        }
        assert_eq!(orders.last(), Some(&at_once.id));
        let mut last = at_once;
        for _ in 0..40 {
            let next = order(NOW, 0, &["a"], &[&last]);
            assert_eq!(orders.take(&next, "a", NOW), Taken::Meant);
            last = next;
        }
        assert_eq!(orders.take(&first, "a", NOW), Taken::Known, "however many came since");
    }

    #[test]
    fn an_order_that_etcd_has_for_longer_than_it_counts_is_not_obeyed() {
        let order = order(NOW, 1, &["a"], &[]);
        let until = order.until.unwrap();
        assert_eq!(until, NOW.plus(TIME).plus(SKEW));
        let (mut orders, late) = (Orders::default(), until.plus(Duration::from_millis(1)));
        assert_eq!((orders.take(&order, "a", late), orders.last()), (Taken::Over, None), "nobody has read it");
        assert_eq!(orders.take(&order, "a", until), Taken::Meant);
        assert_eq!(orders.take(&order, "a", late), Taken::Known);
    }

    #[test]
    fn an_order_of_a_version_that_said_no_time_can_be_read() {
        let text = r#"{"id":"00f1","cancel":true,"whom":["a"],"former":["00f0"]}"#;
        let order: Order = serde_json::from_str(text).unwrap();
        assert_eq!((order.id.as_str(), order.cancel, order.until), ("00f1", true, None));
        for (id, wanted) in [("00f1", None), ("00f1-0", Some(Timestamp(0xf1))), ("-", None), ("x-1", None)] {
            assert_eq!(given(id), wanted, "{id}");
        }
    }

    #[test]
    fn a_receipt_names_those_who_have_read_it_and_the_others() {
        let mut receipt = Receipt::new(["b", "a", "c", "a"].map(str::to_owned));
        receipt.note("a");
        receipt.note("d");
        assert!(!receipt.is_complete());
        assert_eq!(receipt.clone().into_names(), (vec!["a".to_owned()], vec!["b".to_owned(), "c".to_owned()]));
        receipt.note("b");
        receipt.note("c");
        assert!(receipt.is_complete() && Receipt::new([]).is_complete());
    }
}
