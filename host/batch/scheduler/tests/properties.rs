//! What holds for every load: random events against the plainest bookkeeping.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::batch::Weight;

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
            Err(refused) => {
                assert_eq!((refused.items, refused.why), (vec![item], Refusal::Full));
                // Those that have gone are looked for now and then only.
                let all: usize = self.known.values().map(|known| known.waiting.len()).sum();
                assert!(all >= self.rule.former.queue_max, "refused before any queue was full");
                self.gone.insert(item);
            }
        }
        assert!(self.scheduler.classes() <= self.rule.classes_max);
        assert!((0..CLASSES).map(|class| self.live(class).count()).sum::<usize>() <= self.rule.former.queue_max);
    }

    fn finishes(&mut self, which: usize) {
        if self.out.is_empty() {
            return;
        }
        let queue_id = self.out.remove(which % self.out.len());
        self.of(queue_id.class).under_way -= 1;
        self.scheduler.finished(&queue_id, &RETURNED, self.now);
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
            FormerRule { size_max, bytes_max, padded: false, wait_max: Duration::from_millis(wait), queue_max }
        });
    let classes = prop_oneof![3 => Just(100_usize), 1 => 0_usize..4];
    (former, 1_usize..4, classes).prop_map(|(former, concurrency, classes_max)| SchedulerRule {
        former,
        concurrency,
        concurrency_min: 1,
        classes_max,
        tenants_max: 8,
        overdue: OverdueRule::default(),
        guard: 0,
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
                scheduler.finished(&queue_id, &RETURNED, now);
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

/// What happens to a scheduler of several tenants.
#[derive(Clone, Debug)]
enum Happening {
    /// A request arrives: the classes of its items, and their terms.
    Arrives(Vec<Class>, Terms, Option<u64>),
    Finishes(usize),
    /// The request that waits for the item goes away.
    Leaves(u32),
    GuestArrives,
    GuestLeaves,
}

fn happening() -> impl Strategy<Value = (Happening, u64)> {
    let terms = (0_usize..150, 0_u8..3, 0_u64..5, 1_u32..9, prop::option::of(1_usize..4)).prop_map(
        |(bytes, priority, tenant, weight, size_max)| Terms {
            priority,
            tenant: Tenant::of_digest(tenant),
            weight: Weight::of(weight),
            size_max,
            ..of(bytes)
        },
    );
    let arrives = (prop::collection::vec(0..CLASSES, 1..12), terms, prop::option::of(0_u64..60));
    let happens = prop_oneof![
        6 => arrives.prop_map(|(classes, terms, within)| Happening::Arrives(classes, terms, within)),
        4 => (0_usize..4).prop_map(Happening::Finishes),
        1 => (0_u32..80).prop_map(Happening::Leaves),
        1 => Just(Happening::GuestArrives),
        1 => Just(Happening::GuestLeaves),
    ];
    (happens, prop_oneof![3 => Just(0_u64), 1 => 0_u64..30])
}

/// What must become of each item: it is refused, sent, expired or its request goes away, each of them once.
struct Ledger {
    scheduler: Scheduler<Class, u32>,
    rule: SchedulerRule,
    now: Instant,
    deadlines: Vec<Option<Instant>>,
    open: BTreeSet<u32>,
    gone: HashSet<u32>,
    out: Vec<QueueId<Class>>,
    guests: usize,
}

impl Ledger {
    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Arrives(classes, terms, within) => {
                let deadline = within.map(|millis| self.now + Duration::from_millis(millis));
                let mut groups: BTreeMap<Class, Vec<(u32, Terms)>> = BTreeMap::new();
                let first = self.deadlines.len();
                for (item, class) in (first as u32..).zip(classes) {
                    self.deadlines.push(deadline);
                    groups.entry(class).or_default().push((item, Terms { deadline, ..terms }));
                }
                let items: Vec<u32> = groups.values().flatten().map(|(item, _)| *item).collect();
                let gone = &self.gone;
                match self
                    .scheduler
                    .arrive_together(groups.into_iter().collect(), self.now, |item| !gone.contains(item))
                {
                    Ok(()) => self.open.extend(items),
                    Err(refused) => {
                        assert_eq!(refused.items, items, "as a whole");
                        assert!(refused.why == Refusal::Full || deadline.is_some());
                        assert!((1..=60).contains(&refused.retry_after.as_secs()));
                    }
                }
            }
            Happening::Finishes(which) if !self.out.is_empty() => {
                let queue_id = self.out.remove(which % self.out.len());
                self.scheduler.finished(&queue_id, &RETURNED, self.now);
            }
            Happening::Leaves(item) if self.open.remove(&item) => drop(self.gone.insert(item)),
            Happening::GuestArrives => self.scheduler.guest_arrives(),
            Happening::GuestLeaves if self.guests > 0 => {
                self.guests -= 1;
                self.scheduler.guest_left();
            }
            Happening::Finishes(_) | Happening::Leaves(_) | Happening::GuestLeaves => {}
        }
        self.settle();
    }

    fn settle(&mut self) {
        for item in self.scheduler.expire(self.now) {
            assert!(self.deadlines[item as usize].is_some_and(|deadline| deadline <= self.now), "before its time");
            assert!(self.open.remove(&item) || self.gone.contains(&item), "twice");
        }
        loop {
            if self.scheduler.admit_guest() {
                self.guests += 1;
                continue;
            }
            let gone = &self.gone;
            let Next::Send(batch) = self.scheduler.next(self.now, |item| !gone.contains(item)) else { break };
            assert!(!batch.items.is_empty() && batch.items.len() <= self.rule.former.size_max);
            for item in &batch.items {
                assert!(self.open.remove(item), "{item} is sent twice, or isn't waited for");
            }
            self.out.push(batch.queue_id);
            assert!(self.out.len() + self.guests <= self.rule.concurrency, "more out than there are slots");
        }
        let is_busy = self.out.len() + self.guests == self.rule.concurrency;
        assert!(is_busy || self.open.is_empty() || !self.out.is_empty(), "nothing is under way, and something waits");
    }
}

proptest! {
    #[test]
    fn each_item_has_one_fate_whatever_the_tenants_priorities_and_deadlines(
        rule in rule(),
        padded in any::<bool>(),
        tenants_max in 1_usize..6,
        events in prop::collection::vec(happening(), 0..80),
    ) {
        let rule = SchedulerRule { former: FormerRule { padded, ..rule.former }, tenants_max, ..rule };
        let mut ledger = Ledger {
            scheduler: Scheduler::new(rule, Box::new(Gather)),
            rule,
            now: Instant::now(),
            deadlines: Vec::new(),
            open: BTreeSet::new(),
            gone: HashSet::new(),
            out: Vec::new(),
            guests: 0,
        };
        for (happening, millis) in events {
            ledger.happens(happening);
            ledger.now += Duration::from_millis(millis);
        }
        for _ in 0..10_000 {
            if ledger.out.is_empty() && ledger.guests == 0 {
                break;
            }
            ledger.happens(Happening::GuestLeaves);
            ledger.happens(Happening::Finishes(0));
        }
        prop_assert!(ledger.open.is_empty(), "lost: {:?}", ledger.open);
        prop_assert!(ledger.scheduler.is_idle() && ledger.scheduler.classes() == 0);
    }
}
