//! Purges that wait to be appended. Each transaction costs a write to the disks of a majority, so those that come while
//! one is under way are appended together by the next.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::cache::purge::{
    Error,
    log::{Append, Appended, Member},
};

/// Purges that may wait; with more one is refused.
const WAITING_MAX: usize = 100_000;

/// Purges of one caller, to be appended in their order.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) purges: Vec<Append>,
    pub(super) known: Vec<Member>,
    pub(super) done: oneshot::Sender<Result<Appended, Error>>,
}

/// The jobs that wait, and whose turn it is to do them.
#[derive(Debug, Default)]
pub(super) struct Queue {
    jobs: Mutex<VecDeque<Job>>,
    /// Held by the caller that does the jobs of all.
    pub(super) turn: tokio::sync::Mutex<()>,
}

impl Queue {
    /// Adds a job. What becomes of it is sent; nothing is, if the caller that did it was dropped meanwhile.
    pub(super) fn push(
        &self,
        purges: &[Append],
        known: &[Member],
    ) -> Result<oneshot::Receiver<Result<Appended, Error>>, Error> {
        let (done, outcome) = oneshot::channel();
        let mut jobs = self.jobs.lock();
        let waiting: usize = jobs.iter().map(|job| job.purges.len()).sum();
        if waiting + purges.len() > WAITING_MAX && !jobs.is_empty() {
            return Err(Error::Log(format!("{waiting} purges wait for it already")));
        }
        jobs.push_back(Job { purges: purges.to_vec(), known: known.to_vec(), done });
        Ok(outcome)
    }

    /// Takes the oldest jobs: as many as have `max` purges together, but one in any case.
    pub(super) fn take(&self, max: usize) -> Vec<Job> {
        let mut jobs = self.jobs.lock();
        let (mut count, mut taken) = (0, Vec::new());
        while let Some(job) = jobs.pop_front() {
            count += job.purges.len();
            if count > max && !taken.is_empty() {
                jobs.push_front(job);
                break;
            }
            taken.push(job);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{
        purge::table::{Kind, Reach},
        tag::Tag,
    };

    fn purges(count: usize) -> Vec<Append> {
        vec![Append { tag: Tag::named(b"t"), kind: Kind::Hard, reach: Reach::Entries }; count]
    }

    #[test]
    fn jobs_are_taken_whole_in_their_order_and_never_none() {
        let queue = Queue::default();
        let waiting: Vec<_> = [3, 4, 9, 1].map(|count| queue.push(&purges(count), &[]).unwrap()).into();
        let taken = |max| queue.take(max).iter().map(|job| job.purges.len()).collect::<Vec<_>>();
        assert_eq!([taken(7), taken(7), taken(7), taken(7)], [vec![3, 4], vec![9], vec![1], vec![]]);
        drop(waiting);
    }

    #[test]
    fn more_than_may_wait_are_refused() {
        let queue = Queue::default();
        let first = queue.push(&purges(WAITING_MAX + 1), &[]);
        assert!(first.is_ok(), "one caller's are taken in any case");
        assert!(queue.push(&purges(1), &[]).is_err());
    }
}
