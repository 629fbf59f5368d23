//! One fetch for all requests that wait for the same response. The table holds the leader and the followers of each;
//! what a flight lands with is the caller's.

pub mod shared;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::key::{Key, KeyHash};

/// Flights under way, by key.
#[derive(Debug)]
pub struct Flights<T> {
    shards: Vec<Mutex<Shard<T>>>,
    open: AtomicUsize,
    flights_max: usize,
}

type Shard<T> = HashMap<Key, Flight<T>, KeyHash>;

#[derive(Debug)]
struct Flight<T> {
    /// Distinguishes it from an earlier flight of the same key.
    number: u64,
    sender: Arc<watch::Sender<Option<T>>>,
}

impl<T> Flight<T> {
    fn follower(&self) -> Follower<T> {
        Follower { number: self.number, receiver: self.sender.subscribe() }
    }
}

/// Flights that have begun, of all tables: so that a number in the log means one flight.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// Keys spread over this many locks.
const SHARDS: usize = 64;

/// What a request is to a flight.
#[derive(Debug)]
pub enum Joined<T> {
    /// It starts one: fetch, then [`Lead::land`].
    Lead(Lead<T>),
    /// One is under way: wait.
    Follow(Follower<T>),
    /// Too many are under way: fetch alone.
    Full,
}

impl<T> Flights<T> {
    /// A table for at most so many flights.
    #[must_use]
    pub fn new(flights_max: usize) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::new(HashMap::default())).collect();
        Arc::new(Self { shards, open: AtomicUsize::new(0), flights_max })
    }

    /// Joins the flight for `key`, or starts it.
    #[must_use]
    pub fn join(self: &Arc<Self>, key: &Key) -> Joined<T> {
        let mut shard = self.shard(key).lock();
        match shard.entry(*key) {
            Entry::Occupied(flight) => Joined::Follow(flight.get().follower()),
            Entry::Vacant(_) if self.open() >= self.flights_max => Joined::Full,
            Entry::Vacant(place) => {
                let number = BEGUN.fetch_add(1, Ordering::Relaxed);
                let sender = Arc::new(watch::Sender::new(None));
                place.insert(Flight { number, sender: Arc::clone(&sender) });
                self.open.fetch_add(1, Ordering::Relaxed);
                Joined::Lead(Lead { flights: Arc::clone(self), key: *key, number, sender })
            }
        }
    }

    /// Takes a flight off the table, if it's still there: who comes now starts another.
    pub fn retire(&self, key: &Key, number: u64) {
        self.remove(&mut self.shard(key).lock(), key, number);
    }

    /// Flights under way.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard<T>> {
        &self.shards[usize::from(key.as_bytes()[31]) % SHARDS]
    }

    fn remove(&self, shard: &mut Shard<T>, key: &Key, number: u64) {
        if shard.get(key).is_some_and(|flight| flight.number == number) {
            shard.remove(key);
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The part of the leader, which fetches. Dropped without landing, the flight is lost for its followers.
#[derive(Debug)]
pub struct Lead<T> {
    flights: Arc<Flights<T>>,
    key: Key,
    number: u64,
    sender: Arc<watch::Sender<Option<T>>>,
}

impl<T> Lead<T> {
    /// The number of the flight; no other one of the process has it.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// A follower, for the client whose request started the flight.
    #[must_use]
    pub fn follower(&self) -> Follower<T> {
        Follower { number: self.number, receiver: self.sender.subscribe() }
    }

    /// Takes the flight off the table: who comes from now on starts another. Those that follow already still do.
    pub fn close(&self) {
        self.flights.retire(&self.key, self.number);
    }

    /// Lands the flight for all followers: those that wait now, and those that join until this is dropped.
    pub fn land(&self, landing: T) {
        self.sender.send_replace(Some(landing));
    }

    /// Returns when nobody follows any more. The flight is then off the table, so nobody can, unless it `goes_on`: whether
    /// it is off.
    pub async fn abandoned(&self, goes_on: impl Fn() -> bool) -> bool {
        loop {
            self.sender.closed().await;
            let mut shard = self.flights.shard(&self.key).lock();
            if self.sender.receiver_count() == 0 {
                if goes_on() {
                    return false;
                }
                self.flights.remove(&mut shard, &self.key, self.number);
                return true;
            }
        }
    }
}

impl<T> Drop for Lead<T> {
    fn drop(&mut self) {
        self.flights.retire(&self.key, self.number);
    }
}

/// One who waits.
#[derive(Debug)]
pub struct Follower<T> {
    number: u64,
    receiver: watch::Receiver<Option<T>>,
}

impl<T: Clone> Follower<T> {
    /// The number of the flight, for [`Flights::retire`].
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// How the flight went; `None` if its leader vanished.
    pub async fn landed(mut self) -> Option<T> {
        self.receiver.wait_for(Option::is_some).await.ok()?.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::from_bytes([byte; 32])
    }

    fn lead(joined: Joined<u8>) -> Lead<u8> {
        let Joined::Lead(lead) = joined else { panic!("{joined:?}") };
        lead
    }

    fn follow(joined: Joined<u8>) -> Follower<u8> {
        let Joined::Follow(follower) = joined else { panic!("{joined:?}") };
        follower
    }

    #[tokio::test]
    async fn followers_hear_what_the_leader_lands_with() {
        let flights = Flights::new(10);
        let lead = lead(flights.join(&key(1)));
        let early = follow(flights.join(&key(1)));
        lead.land(7);
        let late = follow(flights.join(&key(1)));
        drop(lead);
        assert_eq!((early.landed().await, late.landed().await), (Some(7), Some(7)));
        assert_eq!(flights.open(), 0);
        assert!(matches!(flights.join(&key(1)), Joined::Lead(_)));
    }

    #[tokio::test]
    async fn a_lost_leader_is_noticed() {
        let flights = Flights::new(10);
        let lead = lead(flights.join(&key(1)));
        let follower = follow(flights.join(&key(1)));
        drop(lead);
        assert_eq!(follower.landed().await, None);
    }

    #[tokio::test]
    async fn a_flight_that_nobody_follows_is_abandoned_and_off_the_table() {
        let flights = Flights::new(10);
        let lead = lead(flights.join(&key(1)));
        let own = lead.follower();
        let other = follow(flights.join(&key(1)));
        let waiting = tokio::spawn(async move { lead.abandoned(|| false).await });
        drop((own, other));
        assert!(waiting.await.unwrap(), "it is off");
        assert_eq!(flights.open(), 0);
    }

    #[tokio::test]
    async fn a_flight_that_goes_on_without_its_followers_can_be_joined() {
        let flights = Flights::new(10);
        let lead = lead(flights.join(&key(1)));
        drop(lead.follower());
        assert!(!lead.abandoned(|| true).await);
        let late = follow(flights.join(&key(1)));
        lead.land(7);
        assert_eq!(late.landed().await, Some(7));
    }

    #[tokio::test]
    async fn a_closed_flight_lands_for_those_who_follow_and_takes_no_others() {
        let flights = Flights::new(10);
        let first = lead(flights.join(&key(1)));
        let early = follow(flights.join(&key(1)));
        first.close();
        assert_eq!(flights.open(), 0);
        let second = lead(flights.join(&key(1)));
        first.land(7);
        drop(first);
        assert_eq!(early.landed().await, Some(7));
        assert_eq!(flights.open(), 1, "the second one is another's");
        drop(second);
    }

    #[test]
    fn a_retired_flight_makes_room_for_another_and_does_not_take_it_down() {
        let flights = Flights::new(10);
        let outdated = lead(flights.join(&key(1)));
        flights.retire(&key(1), outdated.follower().number());
        let current = lead(flights.join(&key(1)));
        drop(outdated);
        assert!(matches!(flights.join(&key(1)), Joined::Follow(_)));
        drop(current);
        assert_eq!(flights.open(), 0);
    }

    #[test]
    fn the_table_is_bounded_and_frees_its_places() {
        let flights = Flights::new(1);
        let first = lead(flights.join(&key(1)));
        assert!(matches!(flights.join(&key(2)), Joined::Full));
        assert!(matches!(flights.join(&key(1)), Joined::Follow(_)));
        drop(first);
        assert!(matches!(flights.join(&key(2)), Joined::Lead(_)));
    }
}
