use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::batch::pace::{Gather, Outcome};

const RULE: SchedulerRule = SchedulerRule {
    former: FormerRule { size_max: 3, bytes_max: 100, wait_max: Duration::from_millis(10), queue_max: 9 },
    concurrency: 2,
    classes_max: 100,
};

const fn slots(concurrency: usize) -> SchedulerRule {
    SchedulerRule { concurrency, ..RULE }
}

const RETURNED: Returned = Returned { items: 1, took: Duration::from_millis(5), outcome: Outcome::Answered };

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
            if let Err(Full(item)) = scheduler.arrive(&class, arrived, terms, now, |item| !gone.contains(item)) {
                said.push(format!("refused[{item}]"));
            }
            arrived += 1;
        }
        match *happens {
            Finishes => scheduler.finished(&out.pop_front().expect("a batch is out"), &RETURNED),
            Leaves(item) => {
                gone.insert(item);
            }
            Arrives(_) | Comes(..) | Nothing => {}
        }
        loop {
            match scheduler.next(now, |item| !gone.contains(item)) {
                Next::Send(Batch { queue_id, items, why }) => {
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
        classes_max: 0,
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
fn items_without_a_class_have_a_limit_and_make_room_when_they_are_gone() {
    let now = Instant::now();
    let rule = SchedulerRule { former: FormerRule { queue_max: 2, ..RULE.former }, classes_max: 1, concurrency: 1 };
    let mut scheduler = Scheduler::new(rule, Box::new(Gather));
    scheduler.arrive(&'a', 0, of(1), now, |_| true).unwrap();
    assert!(matches!(scheduler.next(now, |_| true), Next::Send(_)));
    for item in [1, 2] {
        scheduler.arrive(&'b', item, of(1), now, |_| true).unwrap();
    }
    assert_eq!(scheduler.arrive(&'c', 3, of(1), now, |_| true), Err(Full(3)));
    assert_eq!(scheduler.arrive(&'c', 4, of(1), now, |item| *item != 1), Err(Full(4)), "it was swept just now");
    let later = now + Duration::from_millis(10);
    assert_eq!(scheduler.arrive(&'c', 5, of(1), later, |item| *item != 1), Ok(()));
    assert_eq!(scheduler.classes(), 1);
    let mut left = Vec::new();
    let mut out = QueueId { class: 'a', alone: None };
    loop {
        scheduler.finished(&out, &RETURNED);
        let Next::Send(batch) = scheduler.next(later, |_| true) else { break };
        left.push((batch.queue_id.class, batch.items));
        out = batch.queue_id;
    }
    assert_eq!(left, [('b', vec![2]), ('c', vec![5])]);
    assert!(scheduler.is_idle() && scheduler.classes() == 0);
}

type Class = u8;

const CLASSES: Class = 4;

/// What stands in a class, kept in the plainest way.
#[derive(Default)]
struct Known {
    /// Items in the order of their arrival, with their bytes.
    waiting: VecDeque<(u32, usize, Instant)>,
    under_way: usize,
    /// Since when it could use a slot, and how often each other class has got one since.
    since: Option<Instant>,
    passed: BTreeMap<Class, u32>,
}

/// A scheduler, and what it must remember.
struct World {
    rule: SchedulerRule,
    scheduler: Scheduler<Class, u32>,
    now: Instant,
    arrived: u32,
    known: BTreeMap<Class, Known>,
    gone: HashSet<u32>,
    sent: Vec<u32>,
    out: Vec<QueueId<Class>>,
    wakes: u32,
}

impl World {
    fn new(rule: SchedulerRule) -> Self {
        Self {
            rule,
            scheduler: Scheduler::new(rule, Box::new(Gather)),
            now: Instant::now(),
            arrived: 0,
            known: (0..CLASSES).map(|class| (class, Known::default())).collect(),
            gone: HashSet::new(),
            sent: Vec::new(),
            out: Vec::new(),
            wakes: 0,
        }
    }

    fn arrives(&mut self, class: Class, terms: Terms) {
        let (item, now) = (self.arrived, self.now);
        self.arrived += 1;
        match self.scheduler.arrive(&class, item, terms, now, |item| !self.gone.contains(item)) {
            Ok(()) => self.of(class).waiting.push_back((item, terms.bytes, now)),
            Err(Full(refused)) => {
                assert_eq!(refused, item);
                // Those that have gone are looked for now and then only.
                let all: usize = self.known.values().map(|known| known.waiting.len()).sum();
                assert!(all >= self.rule.former.queue_max, "refused before any queue was full");
                self.gone.insert(item);
            }
        }
        assert!(self.scheduler.classes() <= self.rule.classes_max);
        let is_held = self.has_room() && self.live(class).count() > self.rule.former.queue_max;
        assert!(!is_held, "more than the queue may hold");
    }

    fn finishes(&mut self, which: usize) {
        if self.out.is_empty() {
            return;
        }
        let queue_id = self.out.remove(which % self.out.len());
        self.of(queue_id.class).under_way -= 1;
        self.scheduler.finished(&queue_id, &RETURNED);
    }

    /// Lets time pass, asking the scheduler whenever it wanted to be asked.
    fn passes(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while let Some(wake) = self.settle().filter(|wake| *wake <= end) {
            self.now = wake;
            self.wakes += 1;
            assert!(self.wakes <= self.arrived, "each time it is woken something leaves or has gone");
        }
        self.now = end;
    }

    /// Asks until there is nothing to send, checks what is said, and gives the time it wants to be asked again.
    fn settle(&mut self) -> Option<Instant> {
        loop {
            self.note_who_waits();
            let free = self.out.len() < self.rule.concurrency;
            match self.scheduler.next(self.now, |item| !self.gone.contains(item)) {
                Next::Send(batch) => self.leaves(batch),
                Next::WaitUntil(time) => {
                    assert!(free && time > self.now, "woken for nothing");
                    for class in 0..CLASSES {
                        let mut due = self.live(class).map(|(_, _, since)| *since + self.rule.former.wait_max);
                        assert!(due.all(|due| time <= due), "woken too late");
                        let is_held_up = self.known[&class].under_way == 0 && self.live(class).count() > 0;
                        assert!(!is_held_up, "class {class} waits for nothing");
                    }
                    return Some(time);
                }
                Next::Idle => {
                    let waiting = (0..CLASSES).map(|class| self.live(class).count()).sum::<usize>();
                    assert!(!free || waiting == 0, "idle with a slot free and {waiting} items waiting");
                    return None;
                }
            }
        }
    }

    /// From here on a class that waits with nothing under way must get its turn.
    fn note_who_waits(&mut self) {
        for class in 0..CLASSES {
            let could = self.live(class).count() > 0 && self.known[&class].under_way == 0;
            let now = self.now;
            let known = self.of(class);
            match (could, known.since) {
                (true, None) => known.since = Some(now),
                (false, Some(_)) => (known.since, known.passed) = (None, BTreeMap::new()),
                _ => {}
            }
        }
    }

    fn leaves(&mut self, batch: Batch<Class, u32>) {
        let Batch { queue_id, items, .. } = batch;
        let former = self.rule.former;
        assert!(!items.is_empty() && items.len() <= former.size_max, "{} items", items.len());
        assert!(!queue_id.is_alone() || items.len() == 1);
        let mut bytes = 0;
        for item in &items {
            let (oldest, size, _) = loop {
                let oldest = self.of(queue_id.class).waiting.pop_front();
                let oldest = oldest.expect("nothing leaves that hasn't arrived, and nothing twice");
                if !self.gone.contains(&oldest.0) {
                    break oldest;
                }
            };
            assert_eq!(oldest, *item, "out of turn, or lost");
            bytes += size;
        }
        assert!(items.len() == 1 || bytes <= former.bytes_max, "{bytes} bytes");
        self.of(queue_id.class).under_way += 1;
        self.passes_by(queue_id.class);
        self.out.push(queue_id);
        assert!(self.out.len() <= self.rule.concurrency, "more out than there are slots");
        self.sent.extend(items);
    }

    /// A class has got a slot: of those that could have used it, each is passed by it once at most.
    fn passes_by(&mut self, class: Class) {
        let has_room = self.has_room();
        let turn = self.of(class);
        (turn.since, turn.passed) = (None, BTreeMap::new());
        for (other, known) in self.known.iter_mut().filter(|(_, known)| known.since.is_some()) {
            let passed = known.passed.entry(class).or_default();
            *passed += 1;
            // An item that is sent alone is a class of its own.
            assert!(*passed <= 1 || !has_room, "class {other} was passed by {class} {passed} times");
        }
    }

    /// Whether no item is sent alone for lack of classes.
    fn has_room(&self) -> bool {
        self.rule.classes_max >= usize::from(CLASSES)
    }

    fn of(&mut self, class: Class) -> &mut Known {
        self.known.entry(class).or_default()
    }

    fn live(&self, class: Class) -> impl Iterator<Item = &(u32, usize, Instant)> {
        self.known[&class].waiting.iter().filter(|(item, ..)| !self.gone.contains(item))
    }
}

fn rule() -> impl Strategy<Value = SchedulerRule> {
    let former =
        (1_usize..6, 1_usize..120, 0_u64..20, 1_usize..12).prop_map(|(size_max, bytes_max, wait, queue_max)| {
            FormerRule { size_max, bytes_max, wait_max: Duration::from_millis(wait), queue_max }
        });
    let classes = prop_oneof![3 => Just(100_usize), 1 => 0_usize..4];
    (former, 1_usize..4, classes).prop_map(|(former, concurrency, classes_max)| SchedulerRule {
        former,
        concurrency,
        classes_max,
    })
}

/// What happens in a world.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// An item of this class and so many bytes arrives.
    Arrives(Class, usize),
    /// One of the batches that are out comes back.
    Finishes(usize),
    /// The request that waits for the item goes away.
    Leaves(u32),
    /// Time passes.
    Nothing,
}

/// Returns an event and the milliseconds after it.
fn event() -> impl Strategy<Value = (Event, u64)> {
    let happens = prop_oneof![
        6 => (0..CLASSES, 0_usize..150).prop_map(|(class, bytes)| Event::Arrives(class, bytes)),
        3 => (0_usize..4).prop_map(Event::Finishes),
        1 => (0_u32..80).prop_map(Event::Leaves),
        1 => Just(Event::Nothing),
    ];
    (happens, prop_oneof![3 => Just(0_u64), 1 => 0_u64..30])
}

proptest! {
    #[test]
    fn nothing_is_lost_doubled_overtaken_or_late_and_no_class_is_kept_waiting(
        rule in rule(),
        events in prop::collection::vec(event(), 0..100),
    ) {
        let mut world = World::new(rule);
        for (happens, millis) in events {
            match happens {
                Event::Arrives(class, bytes) => world.arrives(class, of(bytes)),
                Event::Finishes(which) => world.finishes(which),
                Event::Leaves(item) if item < world.arrived && !world.sent.contains(&item) => {
                    world.gone.insert(item);
                }
                Event::Leaves(_) | Event::Nothing => {}
            }
            world.settle();
            world.passes(millis);
        }
        while !world.out.is_empty() {
            world.finishes(0);
            world.settle();
        }
        // Everything came back, so everything that waited has left: each once, all but the gone.
        let expected: Vec<u32> = (0..world.arrived).filter(|item| !world.gone.contains(item)).collect();
        world.sent.sort_unstable();
        prop_assert_eq!(world.sent, expected);
        prop_assert!(world.scheduler.is_idle() && world.scheduler.classes() == 0);
    }

    /// However the priorities are: a class that has been in line for a second is passed by each other one once at most,
    /// so that it gets a slot within as many batches as there are classes.
    #[test]
    fn no_class_starves_whatever_the_priorities(
        concurrency in 1_usize..3,
        events in prop::collection::vec((0..CLASSES, any::<u8>(), 0_u64..400), 1..200),
    ) {
        let mut scheduler = Scheduler::new(slots(concurrency), Box::new(Gather));
        let (mut now, mut out) = (Instant::now(), VecDeque::new());
        let mut waits: BTreeMap<Class, (usize, Instant, u32)> = BTreeMap::new();
        for (item, (class, priority, millis)) in events.into_iter().enumerate() {
            now += Duration::from_millis(millis);
            if scheduler.arrive(&class, item, Terms { priority, ..of(1) }, now, |_| true).is_ok() {
                waits.entry(class).or_insert((0, now, 0)).0 += 1;
            }
            if out.len() == concurrency {
                let queue_id: QueueId<Class> = out.pop_front().unwrap();
                scheduler.finished(&queue_id, &RETURNED);
            }
            while let Next::Send(batch) = scheduler.next(now, |_| true) {
                let Batch { queue_id, items, .. } = batch;
                for (other, (_, since, passed)) in &mut waits {
                    let is_under_way = out.iter().any(|queue_id: &QueueId<Class>| queue_id.class == *other);
                    if *other != queue_id.class && !is_under_way && now.duration_since(*since) >= Duration::from_secs(1) {
                        *passed += 1;
                        prop_assert!(*passed < u32::from(CLASSES), "class {} starves", other);
                    }
                }
                let (waiting, ..) = waits.remove(&queue_id.class).unwrap();
                if waiting > items.len() {
                    waits.insert(queue_id.class, (waiting - items.len(), now, 0));
                }
                out.push_back(queue_id);
                prop_assert!(out.len() <= concurrency);
            }
        }
    }
}
