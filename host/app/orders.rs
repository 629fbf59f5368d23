//! What the nodes of a region are asked to do: for which processes it is, and which of them have read it. Pure.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

/// Orders that a process remembers to have read; more than can count at one time by far.
const REMEMBERED: usize = 16;

/// An order to the nodes of a region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    /// Tells it from any other.
    pub(super) id: String,
    /// Calls off the drain.
    pub(super) cancel: bool,
    /// The processes that it is for, which are those that were known when it was given: none that begins later.
    pub(super) whom: Vec<String>,
    /// Orders that were given before it, and hold no more, whoever reads them later.
    pub(super) former: Vec<String>,
}

/// The orders that a process has read.
#[derive(Debug, Default)]
pub(super) struct Orders(VecDeque<String>);

impl Orders {
    /// Takes an order that `process` has read, and remembers it together with those that were given before it.
    pub(super) fn take(&mut self, order: &Order, process: &str) -> Taken {
        if self.0.contains(&order.id) {
            return Taken::Known;
        }
        order.former.iter().for_each(|former| self.remember(former));
        self.remember(&order.id);
        if order.whom.iter().any(|meant| meant == process) { Taken::Meant } else { Taken::ForOthers }
    }

    /// Returns those that are remembered, the last one last.
    pub(super) fn known(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }

    /// Returns the last one.
    pub(super) fn last(&self) -> Option<&String> {
        self.0.back()
    }

    fn remember(&mut self, id: &str) {
        if self.0.iter().any(|known| known == id) {
            return;
        }
        self.0.push_back(id.to_owned());
        if self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
    }
}

/// What an order is to a process that has read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It has read it before, or a later one.
    Known,
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

    fn order(id: &str, whom: &[&str], former: &[&str]) -> Order {
        let texts = |of: &[&str]| of.iter().map(|text| (*text).to_owned()).collect();
        Order { id: id.to_owned(), cancel: false, whom: texts(whom), former: texts(former) }
    }

    #[test]
    fn an_order_is_carried_out_once_by_those_who_were_there_when_it_was_given() {
        let mut orders = Orders::default();
        for (order, wanted) in [
            (order("1", &["a", "b"], &[]), Taken::Meant),
            (order("1", &["a", "b"], &[]), Taken::Known),
            (order("2", &["b"], &["1"]), Taken::ForOthers),
            (order("1", &["a", "b"], &[]), Taken::Known),
            (order("4", &["a"], &["3", "2"]), Taken::Meant),
            (order("3", &["a"], &["2"]), Taken::Known),
            (order("5", &[], &[]), Taken::ForOthers),
        ] {
            assert_eq!(orders.take(&order, "a"), wanted, "{order:?}");
        }
        assert_eq!((orders.last().map(String::as_str), orders.known().len()), (Some("5"), 5));
        for number in 6..40 {
            orders.take(&order(&number.to_string(), &[], &[]), "a");
        }
        assert_eq!(orders.known().len(), REMEMBERED);
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
