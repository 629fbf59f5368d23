//! The scheduler by tables of scripts, by properties, and in simulated time.

mod fairness;
mod overdue;
mod properties;
mod refusals;

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use super::*;
use crate::batch::pace::{Gather, Outcome};

const RULE: SchedulerRule = SchedulerRule {
    former: FormerRule {
        size_max: 3,
        bytes_max: 100,
        padded: false,
        wait_max: Duration::from_millis(10),
        queue_max: 9,
    },
    concurrency: 2,
    concurrency_min: 1,
    classes_max: 100,
    tenants_max: 100,
    overdue: OverdueRule { factor: 0, least: Duration::ZERO, overlooked_max: 0 },
    guard: 0,
};

const fn slots(concurrency: usize) -> SchedulerRule {
    SchedulerRule { concurrency, ..RULE }
}

const RETURNED: Returned =
    Returned { items: 1, took: Duration::from_millis(5), outcome: Outcome::Responded, endpoint: None };

/// Returns the terms of an item without bounds of its own.
fn of(bytes: usize) -> Terms {
    Terms { bytes, ..Terms::default() }
}

/// What happens to a scheduler. Items are numbered in the order of their arrival.
#[derive(Clone, Copy, Debug)]
enum Happens {
    /// An item of so many bytes arrives, of the class `a`.
    Arrives(usize),
    /// A small item of this class and priority arrives.
    Comes(char, u8),
    /// The batch that has been out for longest comes back.
    Finishes,
    /// The request that waits for the item goes away.
    Leaves(u32),
    /// Time passes.
    Nothing,
}

use Happens::*;

/// Plays a script of (millisecond, event, what the scheduler says to it). A batch is told with its class if that isn't
/// `a`.
fn play(name: &str, rule: SchedulerRule, script: &[(u64, Happens, &str)]) {
    let start = Instant::now();
    let mut scheduler = Scheduler::new(rule, Box::new(Gather));
    let (mut arrived, mut gone, mut out) = (0_u32, HashSet::new(), VecDeque::new());
    for (line, (at, happens, wanted)) in script.iter().enumerate() {
        let now = start + Duration::from_millis(*at);
        let mut said = Vec::new();
        let arrives = match *happens {
            Arrives(bytes) => Some(('a', of(bytes))),
            Comes(class, priority) => Some((class, Terms { priority, ..of(1) })),
            Finishes | Leaves(_) | Nothing => None,
        };
        if let Some((class, terms)) = arrives {
            if let Err(refused) = scheduler.arrive(&class, arrived, terms, now, |item| !gone.contains(item)) {
                said.push(format!("refused{:?}", refused.items));
            }
            arrived += 1;
        }
        match *happens {
            Finishes => scheduler.finished(&out.pop_front().expect("a batch is out"), &RETURNED, now),
            Leaves(item) => {
                gone.insert(item);
            }
            Arrives(_) | Comes(..) | Nothing => {}
        }
        loop {
            match scheduler.next(now, |item| !gone.contains(item)) {
                Next::Send(Batch { queue_id, items, why, .. }) => {
                    let class = if queue_id.class == 'a' { String::new() } else { format!("{} ", queue_id.class) };
                    said.push(format!("{class}{}{items:?}", why.as_str()));
                    out.push_back(queue_id);
                }
                Next::WaitUntil(time) => {
                    said.push(format!("until {}", (time - start).as_millis()));
                    break;
                }
                Next::Idle => break,
            }
        }
        assert_eq!(said.join(" "), *wanted, "{name}, line {line}");
    }
}

#[test]
fn when_a_batch_leaves() {
    let tight = |concurrency| SchedulerRule { former: FormerRule { queue_max: 2, ..RULE.former }, concurrency, ..RULE };
    let zero = SchedulerRule {
        former: FormerRule { size_max: 0, queue_max: 0, ..RULE.former },
        concurrency: 0,
        concurrency_min: 0,
        classes_max: 0,
        tenants_max: 0,
        overdue: OverdueRule::default(),
        guard: 0,
    };
    let table: &[(&str, SchedulerRule, &[(u64, Happens, &str)])] = &[
        (
            "with nothing under way it leaves at once, else when it has waited long enough",
            RULE,
            &[
                (0, Arrives(1), "idle[0]"),
                (1, Arrives(1), "until 11"),
                (5, Arrives(1), "until 11"),
                (11, Nothing, "due[1, 2]"),
            ],
        ),
        (
            "full in items; without a slot it waits however long that takes",
            RULE,
            &[
                (0, Arrives(1), "idle[0]"),
                (1, Arrives(1), "until 11"),
                (1, Arrives(1), "until 11"),
                (2, Arrives(1), "full[1, 2, 3]"),
                (3, Arrives(1), ""),
                (50, Nothing, ""),
                (51, Arrives(1), ""),
                (60, Finishes, "freed[4, 5]"),
            ],
        ),
        (
            "full in bytes",
            RULE,
            &[(0, Arrives(1), "idle[0]"), (1, Arrives(60), "until 11"), (2, Arrives(40), "full[1, 2]")],
        ),
        (
            "the item that doesn't fit is left for the next",
            slots(3),
            &[
                (0, Arrives(1), "idle[0]"),
                (1, Arrives(60), "until 11"),
                (2, Arrives(60), "full[1] until 12"),
                (12, Nothing, "due[2]"),
            ],
        ),
        (
            "what is too large for any batch is sent alone, in its turn",
            slots(1),
            &[
                (0, Arrives(500), "full[0]"),
                (1, Arrives(5), ""),
                (2, Arrives(500), ""),
                (3, Arrives(5), ""),
                (4, Finishes, "full[1]"),
                (5, Finishes, "full[2]"),
                (6, Finishes, "idle[3]"),
            ],
        ),
        (
            "a slot that gets free while nothing waits is no reason for later",
            slots(3),
            &[
                (0, Arrives(1), "idle[0]"),
                (1, Arrives(1), "until 11"),
                (11, Nothing, "due[1]"),
                (12, Finishes, ""),
                (13, Arrives(1), "until 23"),
                (14, Finishes, "idle[2]"),
            ],
        ),
        (
            "a slot that gets free is a reason for one batch",
            RULE,
            &[
                (0, Arrives(1), "idle[0]"),
                (1, Arrives(100), "full[1]"),
                (2, Arrives(1), ""),
                (3, Finishes, "freed[2]"),
                (4, Arrives(1), ""),
                (5, Finishes, "freed[3]"),
                (6, Finishes, ""),
                (7, Arrives(1), "until 17"),
            ],
        ),
        (
            "who has gone doesn't leave, and makes nobody else leave early",
            RULE,
            &[
                (0, Arrives(1), "idle[0]"),
                (1, Arrives(1), "until 11"),
                (2, Arrives(1), "until 11"),
                (3, Leaves(1), "until 11"),
                (11, Nothing, "until 12"),
                (12, Nothing, "due[2]"),
            ],
        ),
        (
            "if all have gone nothing leaves",
            slots(1),
            &[(0, Arrives(1), "idle[0]"), (1, Arrives(1), ""), (2, Leaves(1), ""), (3, Finishes, "")],
        ),
        (
            "the queue has a limit",
            tight(1),
            &[
                (0, Arrives(1), "idle[0]"),
                (1, Arrives(1), ""),
                (2, Arrives(1), ""),
                (3, Arrives(1), "refused[3]"),
                (4, Finishes, "full[1, 2]"),
            ],
        ),
        (
            "a full queue makes room where somebody has gone",
            tight(1),
            &[
                (0, Arrives(1), "idle[0]"),
                (1, Arrives(1), ""),
                (2, Arrives(1), ""),
                (3, Leaves(1), ""),
                (4, Arrives(1), ""),
                (5, Finishes, "full[2, 3]"),
            ],
        ),
        (
            "a queue that can't grow isn't waited for",
            tight(2),
            &[(0, Arrives(1), "idle[0]"), (1, Arrives(1), "until 11"), (2, Arrives(1), "full[1, 2]")],
        ),
        ("a zero holds nothing up", zero, &[(0, Arrives(1), "full[0]"), (1, Arrives(1), ""), (2, Finishes, "full[1]")]),
    ];
    for (name, rule, script) in table {
        play(name, *rule, script);
    }
}

#[test]
fn whose_turn_it_is() {
    let few = SchedulerRule { classes_max: 2, ..slots(1) };
    let table: &[(&str, SchedulerRule, &[(u64, Happens, &str)])] = &[
        (
            "the slots are for all classes together",
            RULE,
            &[
                (0, Comes('a', 0), "idle[0]"),
                (0, Comes('b', 0), "b idle[1]"),
                (0, Comes('c', 0), ""),
                (50, Nothing, ""),
                (51, Finishes, "c idle[2]"),
            ],
        ),
        (
            "each class in its turn, however much one of them asks",
            slots(1),
            &[
                (0, Comes('a', 0), "idle[0]"),
                (1, Comes('a', 0), ""),
                (1, Comes('a', 0), ""),
                (1, Comes('a', 0), ""),
                (1, Comes('a', 0), ""),
                (2, Comes('b', 0), ""),
                (3, Comes('c', 0), ""),
                (4, Finishes, "full[1, 2, 3]"),
                (5, Comes('a', 0), ""),
                (6, Finishes, "b idle[5]"),
                (7, Comes('b', 0), ""),
                (8, Finishes, "c idle[6]"),
                (9, Finishes, "idle[4, 7]"),
                (10, Finishes, "b idle[8]"),
            ],
        ),
        (
            "a class that gathers beside a batch of its own keeps no other from a free slot",
            slots(3),
            &[
                (0, Comes('a', 0), "idle[0]"),
                (1, Comes('a', 0), "until 11"),
                (2, Comes('b', 0), "b idle[2] until 11"),
                (3, Comes('b', 0), "until 11"),
                (11, Nothing, "due[1]"),
                (12, Finishes, "b freed[3]"),
            ],
        ),
        (
            "a higher priority goes first",
            slots(1),
            &[
                (0, Comes('a', 0), "idle[0]"),
                (1, Comes('a', 0), ""),
                (2, Comes('b', 5), ""),
                (3, Comes('c', 9), ""),
                (4, Finishes, "c idle[3]"),
                (5, Finishes, "b idle[2]"),
                (6, Finishes, "idle[1]"),
            ],
        ),
        (
            "but not past what has been in line for a second",
            slots(1),
            &[
                (0, Comes('a', 0), "idle[0]"),
                (0, Comes('b', 0), ""),
                (999, Comes('c', 9), ""),
                (1000, Comes('d', 9), ""),
                (1001, Finishes, "c idle[2]"),
                (1002, Finishes, "b idle[1]"),
                (1003, Finishes, "d idle[3]"),
            ],
        ),
        (
            "an urgent item brings its class forward",
            slots(1),
            &[
                (0, Comes('a', 0), "idle[0]"),
                (1, Comes('b', 0), ""),
                (2, Comes('c', 0), ""),
                (3, Comes('c', 7), ""),
                (4, Finishes, "c idle[3, 2]"),
                (5, Finishes, "b idle[1]"),
            ],
        ),
        (
            "what is left of a class stands in line by its own priority",
            slots(1),
            &[
                (0, Comes('a', 0), "idle[0]"),
                (1, Comes('b', 9), ""),
                (1, Comes('b', 9), ""),
                (1, Comes('b', 9), ""),
                (1, Comes('b', 0), ""),
                (2, Comes('c', 5), ""),
                (3, Finishes, "b full[1, 2, 3]"),
                (4, Finishes, "c idle[5]"),
                (5, Finishes, "b idle[4]"),
            ],
        ),
        (
            "items of further classes are sent alone, in their turn, and a class without work makes room",
            few,
            &[
                (0, Comes('a', 0), "idle[0]"),
                (1, Comes('b', 0), ""),
                (2, Comes('c', 0), ""),
                (3, Comes('c', 0), ""),
                (4, Comes('b', 0), ""),
                (5, Finishes, "b idle[1, 4]"),
                (6, Comes('d', 0), ""),
                (7, Comes('d', 0), ""),
                (8, Finishes, "c full[2]"),
                (9, Finishes, "c full[3]"),
                (10, Finishes, "d idle[5, 6]"),
            ],
        ),
    ];
    for (name, rule, script) in table {
        play(name, *rule, script);
    }
}

#[test]
fn items_without_a_class_make_room_when_they_are_gone() {
    let now = Instant::now();
    let former = FormerRule { queue_max: 2, ..RULE.former };
    let rule = SchedulerRule { former, classes_max: 1, concurrency: 1, ..RULE };
    let mut scheduler = Scheduler::new(rule, Box::new(Gather));
    scheduler.arrive(&'a', 0, of(1), now, |_| true).unwrap();
    assert!(matches!(scheduler.next(now, |_| true), Next::Send(_)));
    for item in [1, 2] {
        scheduler.arrive(&'b', item, of(1), now, |_| true).unwrap();
    }
    assert_eq!(scheduler.arrive(&'c', 3, of(1), now, |_| true).unwrap_err().items, [3]);
    let refused = scheduler.arrive(&'c', 4, of(1), now, |item| *item != 1).unwrap_err();
    assert_eq!((refused.items, refused.why), (vec![4], Refusal::Full), "it was swept just now");
    let later = now + Duration::from_millis(10);
    assert_eq!(scheduler.arrive(&'c', 5, of(1), later, |item| *item != 1), Ok(()));
    assert_eq!(scheduler.classes(), 1);
    let mut left = Vec::new();
    let mut out = QueueId { class: 'a', alone: None };
    loop {
        scheduler.finished(&out, &RETURNED, now);
        let Next::Send(batch) = scheduler.next(later, |_| true) else { break };
        left.push((batch.queue_id.class, batch.items));
        out = batch.queue_id;
    }
    assert_eq!(left, [('b', vec![2]), ('c', vec![5])]);
    assert!(scheduler.is_idle() && scheduler.classes() == 0);
}

#[test]
fn a_list_without_a_class_is_sent_one_by_one() {
    let now = Instant::now();
    let mut scheduler = Scheduler::new(SchedulerRule { classes_max: 0, ..slots(1) }, Box::new(Gather));
    let list = (0..3).map(|item| (item, of(1))).collect();
    scheduler.arrive_together(vec![('a', list)], now, |_| true).unwrap();
    for item in 0..3 {
        let Next::Send(Batch { queue_id, items, .. }) = scheduler.next(now, |_| true) else { panic!("{item} waits") };
        assert_eq!((items, queue_id.is_alone()), (vec![item], true));
        scheduler.finished(&queue_id, &RETURNED, now);
    }
    assert!(scheduler.is_idle() && scheduler.classes() == 0);
}

#[test]
fn guests_and_the_pools_own_batches_take_turns() {
    let now = Instant::now();
    let mut scheduler = Scheduler::new(slots(1), Box::new(Gather));
    assert!(!scheduler.admit_guest(), "none is there");
    for item in 0..2 {
        scheduler.arrive(&'a', item, Terms { size_max: Some(1), ..of(1) }, now, |_| true).unwrap();
    }
    for _ in 0..3 {
        scheduler.guest_arrives();
    }
    let mut said = Vec::new();
    for _ in 0..5 {
        if scheduler.admit_guest() {
            assert!(!scheduler.admit_guest() && scheduler.next(now, |_| true) == Next::Idle, "the slot is taken");
            scheduler.guest_left();
            said.push("guest".to_owned());
        } else if let Next::Send(batch) = scheduler.next(now, |_| true) {
            scheduler.finished(&batch.queue_id, &RETURNED, now);
            said.push(format!("{:?}", batch.items));
        }
    }
    assert_eq!(said, ["guest", "[0]", "guest", "[1]", "guest"]);
    assert!(scheduler.is_idle());
}
