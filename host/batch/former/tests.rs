use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const RULE: FormerRule =
    FormerRule { size_max: 3, bytes_max: 100, wait_max: Duration::from_millis(10), queue_max: 9, concurrency: 2 };

/// What happens to a former. Items are numbered in the order of their arrival.
#[derive(Clone, Copy, Debug)]
enum Happens {
    /// An item of so many bytes arrives.
    Arrives(usize),
    /// A batch comes back.
    Finishes,
    /// The item's asker goes away.
    Leaves(u32),
    /// Time passes.
    Nothing,
}

use Happens::*;

/// Plays a script of (millisecond, event, what the former says to it).
fn play(name: &str, rule: FormerRule, script: &[(u64, Happens, &str)]) {
    let start = Instant::now();
    let mut former = Former::new(rule);
    let (mut arrived, mut gone) = (0, HashSet::new());
    for (line, (at, happens, wanted)) in script.iter().enumerate() {
        let now = start + Duration::from_millis(*at);
        let mut said = Vec::new();
        match *happens {
            Arrives(bytes) => {
                if let Err(Full(item)) = former.arrive(arrived, of(bytes), now) {
                    said.push(format!("refused[{item}]"));
                }
                arrived += 1;
            }
            Finishes => former.finished(),
            Leaves(item) => {
                gone.insert(item);
            }
            Nothing => {}
        }
        loop {
            match former.next(now, |item| !gone.contains(item)) {
                Step::Send { items, why } => said.push(format!("{}{items:?}", why.as_str())),
                Step::WaitUntil(time) => {
                    said.push(format!("until {}", (time - start).as_millis()));
                    break;
                }
                Step::Idle => break,
            }
        }
        assert_eq!(said.join(" "), *wanted, "{name}, line {line}");
    }
}

#[test]
fn when_a_batch_leaves() {
    let alone = FormerRule { concurrency: 1, ..RULE };
    let tight = FormerRule { queue_max: 2, ..RULE };
    let wide = FormerRule { concurrency: 3, ..RULE };
    let zero = FormerRule { size_max: 0, concurrency: 0, ..RULE };
    let table: &[(&str, FormerRule, &[(u64, Happens, &str)])] = &[
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
            wide,
            &[
                (0, Arrives(1), "idle[0]"),
                (1, Arrives(60), "until 11"),
                (2, Arrives(60), "full[1] until 12"),
                (12, Nothing, "due[2]"),
            ],
        ),
        (
            "what is too large for any batch travels alone, in its turn",
            alone,
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
            wide,
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
            alone,
            &[(0, Arrives(1), "idle[0]"), (1, Arrives(1), ""), (2, Leaves(1), ""), (3, Finishes, "")],
        ),
        (
            "the queue has a limit",
            FormerRule { concurrency: 1, ..tight },
            &[
                (0, Arrives(1), "idle[0]"),
                (1, Arrives(1), ""),
                (2, Arrives(1), ""),
                (3, Arrives(1), "refused[3]"),
                (4, Finishes, "full[1, 2]"),
            ],
        ),
        (
            "a queue that can't grow isn't waited for",
            tight,
            &[(0, Arrives(1), "idle[0]"), (1, Arrives(1), "until 11"), (2, Arrives(1), "full[1, 2]")],
        ),
        ("a zero holds nothing up", zero, &[(0, Arrives(1), "full[0]"), (1, Arrives(1), ""), (2, Finishes, "full[1]")]),
    ];
    for (name, rule, script) in table {
        play(name, *rule, script);
    }
}

#[test]
fn a_sweep_finds_the_gone_wherever_they_stand() {
    let now = Instant::now();
    let mut former = Former::new(FormerRule { concurrency: 1, size_max: 2, ..RULE });
    for item in 0..6 {
        former.arrive(item, of(1), now).unwrap();
    }
    assert_eq!(former.sweep(|item| item % 2 == 0), 3);
    assert_eq!(former.next(now, |_| true), Step::Send { items: vec![0, 2], why: Why::Full });
    former.finished();
    assert_eq!(former.next(now, |_| true), Step::Send { items: vec![4], why: Why::Idle });
}

/// A former, and what it must remember, kept in the plainest way.
struct World {
    rule: FormerRule,
    former: Former<u32>,
    now: Instant,
    arrived: u32,
    waiting: VecDeque<(u32, usize, Instant)>,
    gone: HashSet<u32>,
    sent: Vec<u32>,
    under_way: usize,
}

impl World {
    fn new(rule: FormerRule) -> Self {
        Self {
            rule,
            former: Former::new(rule),
            now: Instant::now(),
            arrived: 0,
            waiting: VecDeque::new(),
            gone: HashSet::new(),
            sent: Vec::new(),
            under_way: 0,
        }
    }

    fn arrives(&mut self, bytes: usize) {
        let item = self.arrived;
        self.arrived += 1;
        match self.former.arrive(item, of(bytes), self.now) {
            Ok(()) => self.waiting.push_back((item, bytes, self.now)),
            Err(Full(refused)) => {
                assert_eq!(refused, item);
                assert!(self.waiting.len() >= self.rule.queue_max, "refused before the queue was full");
                self.gone.insert(item);
            }
        }
        assert!(self.live().count() <= self.rule.queue_max, "more than the queue may hold");
    }

    fn finishes(&mut self) {
        if self.under_way > 0 {
            self.under_way -= 1;
            self.former.finished();
        }
    }

    /// Lets time pass, asking the former whenever it wanted to be asked.
    fn passes(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while let Some(wake) = self.settle().filter(|wake| *wake <= end) {
            self.now = wake;
        }
        self.now = end;
    }

    /// Asks until the former has nothing to send, checks what it says, and gives the time it wants to be asked again.
    fn settle(&mut self) -> Option<Instant> {
        loop {
            match self.former.next(self.now, |item| !self.gone.contains(item)) {
                Step::Send { items, .. } => self.leaves(&items),
                Step::WaitUntil(time) => {
                    assert!(self.under_way > 0 && self.under_way < self.rule.concurrency);
                    assert!(time > self.now, "woken for nothing");
                    let mut due = self.live().map(|(_, _, since)| *since + self.rule.wait_max);
                    assert!(due.all(|due| time <= due), "woken too late");
                    return Some(time);
                }
                Step::Idle => {
                    let free = self.under_way < self.rule.concurrency;
                    assert!(!free || self.live().count() == 0, "idle with a slot free and items waiting");
                    return None;
                }
            }
        }
    }

    fn leaves(&mut self, items: &[u32]) {
        assert!(!items.is_empty() && items.len() <= self.rule.size_max, "{} items", items.len());
        let mut bytes = 0;
        for item in items {
            let (oldest, size, _) = loop {
                let oldest = self.waiting.pop_front().expect("nothing leaves that hasn't arrived, and nothing twice");
                if !self.gone.contains(&oldest.0) {
                    break oldest;
                }
            };
            assert_eq!(oldest, *item, "out of turn, or lost");
            bytes += size;
        }
        assert!(items.len() == 1 || bytes <= self.rule.bytes_max, "{bytes} bytes");
        self.under_way += 1;
        assert!(self.under_way <= self.rule.concurrency);
        self.sent.extend(items);
    }

    fn live(&self) -> impl Iterator<Item = &(u32, usize, Instant)> {
        self.waiting.iter().filter(|(item, ..)| !self.gone.contains(item))
    }
}

fn rule() -> impl Strategy<Value = FormerRule> {
    (1_usize..6, 1_usize..120, 0_u64..20, 1_usize..12, 1_usize..4).prop_map(
        |(size_max, bytes_max, wait, queue_max, concurrency)| FormerRule {
            size_max,
            bytes_max,
            wait_max: Duration::from_millis(wait),
            queue_max,
            concurrency,
        },
    )
}

/// An event and the milliseconds after it.
fn event() -> impl Strategy<Value = (Happens, u64)> {
    let happens = prop_oneof![
        6 => (0_usize..150).prop_map(Arrives),
        3 => Just(Finishes),
        1 => (0_u32..80).prop_map(Leaves),
        1 => Just(Nothing),
    ];
    (happens, prop_oneof![3 => Just(0_u64), 1 => 0_u64..30])
}

proptest! {
    #[test]
    fn nothing_is_lost_doubled_overtaken_or_late(
        rule in rule(),
        events in prop::collection::vec(event(), 0..80),
    ) {
        let mut world = World::new(rule);
        for (happens, millis) in events {
            match happens {
                Arrives(bytes) => world.arrives(bytes),
                Finishes => world.finishes(),
                Leaves(item) if item < world.arrived && !world.sent.contains(&item) => {
                    world.gone.insert(item);
                }
                Leaves(_) | Nothing => {}
            }
            world.settle();
            world.passes(millis);
        }
        while world.under_way > 0 {
            world.finishes();
            world.settle();
        }
        // Everything came back, so everything that waited has left: each once, all but the gone.
        let expected: Vec<u32> = (0..world.arrived).filter(|item| !world.gone.contains(item)).collect();
        prop_assert_eq!(world.sent, expected);
        prop_assert!(world.former.is_idle());
    }
}

/// The terms of an item without wishes of its own.
fn of(bytes: usize) -> Terms {
    Terms { bytes, ..Terms::default() }
}

fn patient(size_max: usize) -> FormerRule {
    let wait_max = Duration::from_millis(10);
    FormerRule { size_max, bytes_max: 1_000, wait_max, queue_max: 100, concurrency: 1 }
}

/// A former whose one slot is taken, so that items gather.
fn busy(size_max: usize, start: Instant) -> Former<&'static str> {
    let mut former = Former::new(patient(size_max));
    former.arrive("first", of(1), start).unwrap();
    assert!(matches!(former.next(start, |_| true), Step::Send { .. }));
    former
}

fn sent(former: &mut Former<&'static str>, now: Instant) -> Vec<&'static str> {
    former.finished();
    match former.next(now, |_| true) {
        Step::Send { items, .. } => items,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_higher_priority_leaves_first_but_overtakes_nobody_who_has_waited_for_a_second() {
    let start = Instant::now();
    let with = |priority| Terms { priority, ..of(1) };
    let mut former = busy(2, start);
    for (item, priority) in [("low", 0), ("high", 9), ("low too", 0), ("high too", 9), ("middle", 5)] {
        former.arrive(item, with(priority), start).unwrap();
    }
    assert_eq!(sent(&mut former, start), ["high", "high too"]);
    assert_eq!(sent(&mut former, start), ["middle", "low"]);
    former.arrive("late", with(9), start + Duration::from_secs(1)).unwrap();
    assert_eq!(sent(&mut former, start), ["low too", "late"]);
}

#[test]
fn an_items_own_bounds_narrow_those_of_its_batch() {
    let start = Instant::now();
    let mut former = busy(10, start);
    for (item, size_max) in [("a", None), ("b", Some(3)), ("c", None), ("d", None), ("e", Some(0)), ("f", None)] {
        former.arrive(item, Terms { size_max, ..of(1) }, start).unwrap();
    }
    assert_eq!(sent(&mut former, start), ["a", "b", "c"]);
    assert_eq!(sent(&mut former, start), ["d"], "the next one wants to be alone");
    assert_eq!(sent(&mut former, start), ["e"]);
    assert_eq!(sent(&mut former, start), ["f"]);
}

#[test]
fn an_items_own_wait_ends_that_of_its_batch() {
    let start = Instant::now();
    let mut former = Former::new(FormerRule { concurrency: 2, ..patient(10) });
    former.arrive("first", of(1), start).unwrap();
    assert!(matches!(former.next(start, |_| true), Step::Send { .. }));
    former.arrive("patient", of(1), start).unwrap();
    assert_eq!(former.next(start, |_| true), Step::WaitUntil(start + Duration::from_millis(10)));
    let hasty = Terms { wait_max: Some(Duration::from_millis(2)), ..of(1) };
    former.arrive("hasty", hasty, start + Duration::from_millis(1)).unwrap();
    assert_eq!(former.next(start, |_| true), Step::WaitUntil(start + Duration::from_millis(3)));
    let due = former.next(start + Duration::from_millis(3), |_| true);
    assert_eq!(due, Step::Send { items: vec!["patient", "hasty"], why: Why::Due });
}
