//! An endpoint that stops with the pool's slots.

use super::*;
use crate::batch::pace::{Outlook, Verdict};

/// Sends at once, and expects 20 ms of each batch.
#[derive(Debug)]
struct Expecting;

impl Pace for Expecting {
    fn on_arrival(&mut self, _: u64, _: Instant, _: usize) {}

    fn on_batch(&mut self, _: u64, _: &Returned, _: Instant) {}

    fn next(&mut self, _: &Outlook) -> Verdict {
        Verdict::Send(Why::Idle)
    }

    fn typical(&self, _: u64, _: usize) -> Option<Duration> {
        Some(Duration::from_millis(20))
    }
}

/// A pool with one slot in which four batches of one item each want it at once. A batch is overdue after 100 ms.
struct Bench {
    scheduler: Scheduler<char, u32>,
    start: Instant,
}

impl Bench {
    fn new(overlooked_max: usize) -> Self {
        let former = FormerRule { size_max: 1, ..RULE.former };
        let overdue = OverdueRule { factor: 4, least: Duration::from_millis(100), overlooked_max };
        let rule = SchedulerRule { former, overdue, ..slots(1) };
        let (start, mut scheduler) = (Instant::now(), Scheduler::new(rule, Box::new(Expecting)));
        for item in 0..4 {
            scheduler.arrive(&'a', item, of(1), start, |_| true).expect("the queue has room");
        }
        Self { scheduler, start }
    }

    /// Returns what is sent at this millisecond, with its queue, or until when the scheduler waits.
    fn next(&mut self, millis: u64) -> Result<(u32, QueueId<char>), Option<u64>> {
        match self.scheduler.next(self.start + Duration::from_millis(millis), |_| true) {
            Next::Send(batch) => Ok((batch.items[0], batch.queue_id)),
            Next::WaitUntil(time) => Err(Some((time - self.start).as_millis() as u64)),
            Next::Idle => Err(None),
        }
    }

    fn sent(&mut self, millis: u64) -> Result<u32, Option<u64>> {
        self.next(millis).map(|(item, _)| item)
    }

    /// Has a batch come back now that was sent then.
    fn finishes(&mut self, queue_id: &QueueId<char>, sent: u64, millis: u64) {
        let took = Duration::from_millis(millis - sent);
        let returned = Returned { took, ..RETURNED };
        self.scheduler.finished(queue_id, &returned, self.start + Duration::from_millis(millis));
    }
}

#[test]
fn a_batch_that_is_overdue_leaves_its_slot_to_another_endpoint() {
    let mut bench = Bench::new(1);
    let (item, stuck) = bench.next(0).unwrap();
    assert_eq!((item, bench.sent(0), bench.sent(99)), (0, Err(Some(100)), Err(Some(100))));
    let (item, second) = bench.next(100).unwrap();
    assert_eq!((item, bench.sent(100)), (1, Err(None)), "one slot more, and no further one for another that is stuck");
    bench.finishes(&second, 100, 120);
    let (item, third) = bench.next(120).unwrap();
    assert_eq!((item, bench.sent(500)), (2, Err(None)));
    // The stuck one has come back: there is one slot, which the third one has, and that is overdue.
    bench.finishes(&stuck, 0, 600);
    assert_eq!(bench.sent(600), Ok(3));
    assert_eq!(bench.sent(600), Err(None), "nothing waits any more");
    bench.finishes(&third, 120, 610);
    assert_eq!(bench.scheduler.load().items, 0);
}

#[test]
fn the_only_endpoint_gets_no_further_batch() {
    let mut bench = Bench::new(0);
    let (_, stuck) = bench.next(0).unwrap();
    assert_eq!((bench.sent(0), bench.sent(60_000)), (Err(None), Err(None)));
    bench.finishes(&stuck, 0, 60_001);
    assert_eq!(bench.sent(60_001), Ok(1));
}
