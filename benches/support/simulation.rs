//! Batching in simulated time: clients and a model of known cost around the real scheduler and its pace. Nothing waits
//! here, so that minutes pass in milliseconds, and the same seed gives the same figures. The bench `batching` and the
//! tests of the pace share it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::{Duration, Instant},
};

use fastrand::Rng;

use super::batch::{
    Batch, FormerRule, Next, Outcome, Outlook, OverdueRule, Pace, QueueId, Returned, Scheduler, SchedulerRule, Terms,
    Verdict, Why,
};

/// Items of one batch at most.
const SIZE_MAX: usize = 32;

/// A model that takes this many seconds for a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    pub(crate) fixed: f64,
    pub(crate) per_item: f64,
}

impl Model {
    fn seconds(&self, items: usize) -> f64 {
        self.fixed + self.per_item * items as f64
    }

    /// Returns items a second, if all batches are full.
    fn capacity(&self) -> f64 {
        SIZE_MAX as f64 / self.seconds(SIZE_MAX)
    }
}

/// The load of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) name: &'static str,
    pub(crate) demand: Demand,
    /// The part by which the model's time varies, to both sides.
    pub(crate) jitter: f64,
}

/// How items come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Demand {
    /// In bursts of so many within `spread` seconds, whatever becomes of the others: one item each makes a Poisson
    /// process. `share` is that of the model's capacity.
    Open { share: f64, burst: usize, spread: f64 },
    /// From so many clients, each of which sends its next request a while after the response to the last.
    Looping { clients: usize, turnaround: Turnaround, list: usize, classes: usize },
}

/// Seconds between a client's response and its next request: a fixed part, and the mean of an exponential one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turnaround {
    pub(crate) least: f64,
    pub(crate) mean: f64,
}

const QUICK: Turnaround = Turnaround { least: 0.0003, mean: 0.0007 };
const SLOW: Turnaround = Turnaround { least: 0.001, mean: 0.004 };

const fn open(name: &'static str, share: f64) -> Load {
    Load { name, demand: Demand::Open { share, burst: 1, spread: 0.0 }, jitter: 0.0 }
}

const fn looping(name: &'static str, clients: usize, turnaround: Turnaround) -> Load {
    Load { name, demand: Demand::Looping { clients, turnaround, list: 1, classes: 1 }, jitter: 0.0 }
}

/// The loads that are compared.
pub(crate) const LOADS: [Load; 11] = [
    open("Poisson at 30 %", 0.3),
    open("Poisson at 60 %", 0.6),
    open("Poisson at 90 %", 0.9),
    looping("1 looping", 1, QUICK),
    looping("4 looping", 4, QUICK),
    looping("8 looping", 8, QUICK),
    looping("24 looping", 24, QUICK),
    looping("64 looping", 64, QUICK),
    Load { name: "bursts of 20", demand: Demand::Open { share: 0.4, burst: 20, spread: 0.002 }, jitter: 0.0 },
    Load { jitter: 0.5, ..looping("8 looping, service ± 50 %", 8, QUICK) },
    Load { jitter: 0.1, ..looping("12 looping, slowly", 12, SLOW) },
];

/// Further loads that no wait may harm, and that it doesn't always help.
pub(crate) const FURTHER: [Load; 8] = [
    looping("8 after just 10 ms", 8, Turnaround { least: 0.01, mean: 0.0 }),
    looping("16 after about 20 ms", 16, Turnaround { least: 0.0, mean: 0.02 }),
    looping("40 after 5 to 25 ms", 40, Turnaround { least: 0.005, mean: 0.02 }),
    looping("16 after about 100 ms", 16, Turnaround { least: 0.0, mean: 0.1 }),
    looping("40 looping", 40, QUICK),
    Load {
        demand: Demand::Looping { clients: 8, turnaround: QUICK, list: 1, classes: 8 },
        ..looping("8 classes", 8, QUICK)
    },
    Load {
        demand: Demand::Looping { clients: 12, turnaround: QUICK, list: 1, classes: 3 },
        ..looping("3 classes of 4", 12, QUICK)
    },
    Load {
        demand: Demand::Looping { clients: 6, turnaround: QUICK, list: 4, classes: 1 },
        ..looping("6 with lists of 4", 6, QUICK)
    },
];

/// One run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) model: Model,
    pub(crate) load: Load,
    pub(crate) slots: usize,
    pub(crate) wait_max: Duration,
    pub(crate) seed: u64,
    /// Items that are counted; a fifth of as many comes before.
    pub(crate) items: usize,
}

/// What came of it: items a second, their median and 99th percentile in seconds, and the mean size of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) rate: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) size: f64,
}

/// Sends whenever a slot is free.
#[derive(Debug)]
pub(crate) struct Greedy;

impl Pace for Greedy {
    fn on_arrival(&mut self, _: u64, _: Instant, _: usize) {}

    fn on_batch(&mut self, _: u64, _: &Returned, _: Instant) {}

    fn next(&mut self, outlook: &Outlook) -> Verdict {
        Verdict::Send(if outlook.full { Why::Full } else { Why::Idle })
    }
}

/// Sends when a batch is full or has waited as long as it may.
#[derive(Debug)]
pub(crate) struct FixedWait;

impl Pace for FixedWait {
    fn on_arrival(&mut self, _: u64, _: Instant, _: usize) {}

    fn on_batch(&mut self, _: u64, _: &Returned, _: Instant) {}

    fn next(&mut self, outlook: &Outlook) -> Verdict {
        if outlook.full { Verdict::Send(Why::Full) } else { Verdict::WaitUntil(outlook.due) }
    }
}

impl Run {
    /// Returns the rate that the load could come to with one slot, if all clients were in one batch in each round;
    /// `None` for loads whose rate is given.
    pub(crate) fn ideal(&self) -> Option<f64> {
        let Demand::Looping { clients, turnaround, list, classes } = self.load.demand else { return None };
        let items = clients * list;
        let pause = turnaround.least + turnaround.mean;
        let each = (items / classes).min(SIZE_MAX);
        let one = self.model.seconds(each) * classes as f64;
        Some((items as f64 / (one + pause)).min(each as f64 / self.model.seconds(each)))
    }

    /// Lets time pass until enough items have come back.
    pub(crate) fn figures(&self, pace: Box<dyn Pace>) -> Figures {
        let mut world = World::new(*self, pace);
        world.begin();
        world.pass(self.items / 5);
        let (from, batches) = (world.now, world.batches);
        world.latencies.clear();
        world.pass(self.items);
        let items = world.latencies.len();
        world.latencies.sort_unstable();
        let at = |percent: usize| world.latencies[items * percent / 100].as_secs_f64();
        Figures {
            rate: items as f64 / world.now.duration_since(from).as_secs_f64(),
            p50: at(50),
            p99: at(99),
            size: items as f64 / (world.batches - batches) as f64,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client, or none that waits for it, sends so many items.
    Asks { client: usize, items: usize },
    /// The next burst begins.
    Bursts,
    /// A batch is back.
    Returns(usize),
    /// The scheduler wanted to be asked again; the latest of such wishes counts.
    Wakes(usize),
}

/// An item: when it came, and whose it is.
#[derive(Clone, Copy, Debug)]
struct Item {
    since: Instant,
    client: usize,
}

struct World {
    run: Run,
    /// Of what is asked, and of how long the model takes: so that different paces get the same requests.
    random: Rng,
    service: Rng,
    now: Instant,
    scheduler: Scheduler<usize, Item>,
    events: BinaryHeap<Reverse<(Instant, usize, Event)>>,
    planned: usize,
    wakes: usize,
    /// Batches that are under way, by their number.
    out: BTreeMap<usize, (QueueId<usize>, Vec<Item>, Duration)>,
    batches: usize,
    /// What each client still waits for.
    pending: Vec<usize>,
    latencies: Vec<Duration>,
}

impl World {
    fn new(run: Run, pace: Box<dyn Pace>) -> Self {
        let former = FormerRule {
            size_max: SIZE_MAX,
            bytes_max: usize::MAX,
            padded: false,
            wait_max: run.wait_max,
            queue_max: usize::MAX,
        };
        let rule = SchedulerRule {
            former,
            concurrency: run.slots,
            concurrency_min: 1,
            classes_max: usize::MAX,
            tenants_max: 1,
            overdue: OverdueRule::default(),
            guard: 0,
        };
        Self {
            run,
            random: Rng::with_seed(run.seed),
            service: Rng::with_seed(!run.seed),
            now: Instant::now(),
            scheduler: Scheduler::new(rule, pace),
            events: BinaryHeap::new(),
            planned: 0,
            wakes: 0,
            out: BTreeMap::new(),
            batches: 0,
            pending: Vec::new(),
            latencies: Vec::new(),
        }
    }

    fn begin(&mut self) {
        match self.run.load.demand {
            Demand::Open { .. } => self.plan(0.0, Event::Bursts),
            Demand::Looping { clients, list, .. } => {
                self.pending = vec![0; clients];
                for client in 0..clients {
                    let after = 0.005 * self.random.f64();
                    self.plan(after, Event::Asks { client, items: list });
                }
            }
        }
    }

    /// Lets things happen until so many items have come back.
    fn pass(&mut self, items: usize) {
        while self.latencies.len() < items
            && let Some(Reverse((at, _, event))) = self.events.pop()
        {
            self.now = at;
            self.happens(event);
        }
    }

    fn plan(&mut self, after: f64, event: Event) {
        self.planned += 1;
        self.events.push(Reverse((self.now + Duration::from_secs_f64(after), self.planned, event)));
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Wakes(wish) if wish != self.wakes => return,
            Event::Wakes(_) => {}
            Event::Bursts => self.burst(),
            Event::Asks { client, items } => self.ask(client, items),
            Event::Returns(batch) => self.come_back(batch),
        }
        self.settle();
    }

    fn burst(&mut self) {
        let Demand::Open { share, burst, spread } = self.run.load.demand else { return };
        for _ in 0..burst {
            let after = spread * self.random.f64();
            self.plan(after, Event::Asks { client: 0, items: 1 });
        }
        let pause = exponential(&mut self.random, burst as f64 / (share * self.run.model.capacity()));
        self.plan(pause, Event::Bursts);
    }

    fn ask(&mut self, client: usize, items: usize) {
        let classes = if let Demand::Looping { classes, .. } = self.run.load.demand { classes } else { 1 };
        if let Some(pending) = self.pending.get_mut(client) {
            *pending = items;
        }
        for _ in 0..items {
            let item = Item { since: self.now, client };
            let taken = self.scheduler.arrive(&(client % classes), item, Terms::default(), self.now, |_| true);
            assert!(taken.is_ok(), "the queue has no limit");
        }
    }

    fn come_back(&mut self, batch: usize) {
        let Some((queue_id, items, took)) = self.out.remove(&batch) else { return };
        let returned = Returned { items: items.len(), took, outcome: Outcome::Responded, endpoint: None };
        self.scheduler.finished(&queue_id, &returned, self.now);
        for item in items {
            self.latencies.push(self.now.duration_since(item.since));
            if let (Demand::Looping { turnaround, list, .. }, Some(pending)) =
                (self.run.load.demand, self.pending.get_mut(item.client))
            {
                *pending -= 1;
                if *pending == 0 {
                    let after = turnaround.least + exponential(&mut self.random, turnaround.mean);
                    self.plan(after, Event::Asks { client: item.client, items: list });
                }
            }
        }
    }

    /// Sends what the scheduler wants sent.
    fn settle(&mut self) {
        self.wakes += 1;
        loop {
            match self.scheduler.next(self.now, |_| true) {
                Next::Send(Batch { queue_id, items, .. }) => {
                    let varied = 1.0 + self.run.load.jitter * (2.0 * self.service.f64() - 1.0);
                    let took = self.run.model.seconds(items.len()) * varied;
                    self.batches += 1;
                    self.out.insert(self.batches, (queue_id, items, Duration::from_secs_f64(took)));
                    self.plan(took, Event::Returns(self.batches));
                }
                Next::WaitUntil(time) => {
                    let wish = self.wakes;
                    return self.plan(time.duration_since(self.now).as_secs_f64(), Event::Wakes(wish));
                }
                Next::Idle => return,
            }
        }
    }
}

/// Returns a random time of an exponential distribution.
fn exponential(random: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - random.f64()).ln()
}
