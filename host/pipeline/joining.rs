//! Joining a flight, and looking once more: between a look-up and the flight that it leads to, an earlier flight may
//! have landed and stored what is wanted.

use std::sync::Arc;

use crate::cache::{
    Found,
    collapse::{Flights, Follower, Joined, Lead},
    entry::Object,
    key::Key,
    lookup::Outcome,
    store::Tier,
};

/// A request's part in a flight.
#[derive(Debug)]
pub(super) enum Turn<T> {
    /// It leads one: fetch, then [`Lead::land`]. If what it wants has been stored meanwhile, that may be served
    /// instead; dropping the lead ends the flight.
    Lead(Lead<T>, Option<Stored>),
    /// One is under way: wait.
    Follow(Follower<T>),
    /// Too many are under way: fetch alone.
    Full,
}

/// A stored response that may be served.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) object: Arc<Object>,
    /// The key under which it was found.
    pub(super) key: Key,
    pub(super) tier: Tier,
}

/// Joins the flight for `key`, or starts it; then `look` is called once more, for what can be found without waiting.
pub(super) fn join<T>(flights: &Arc<Flights<T>>, key: &Key, look: impl FnOnce() -> Option<Found>) -> Turn<T> {
    match flights.join(key) {
        Joined::Full => Turn::Full,
        Joined::Follow(follower) => Turn::Follow(follower),
        Joined::Lead(lead) => match look() {
            Some(Found { outcome: Outcome::Hit(object), key, tier, .. }) => {
                Turn::Lead(lead, Some(Stored { object, key, tier }))
            }
            _ => Turn::Lead(lead, None),
        },
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::cache::codec;

    #[test]
    fn only_who_would_lead_looks_again() {
        let (key, other) = (Key::from_bytes([1; 32]), Key::from_bytes([2; 32]));
        let flights: Arc<Flights<u8>> = Flights::new(1);
        let found = |outcome| Some(Found { key: other, outcome, tier: Tier::Memory, varied: true, uncacheable: false });
        let hit = || found(Outcome::Hit(Object::new(codec::tests::head(0), Bytes::new())));
        let never = || -> Option<Found> { panic!("it has nothing to look for") };

        let Turn::Lead(lead, None) = join(&flights, &key, || None) else { panic!("nothing is under way") };
        assert!(matches!(join(&flights, &key, never), Turn::Follow(_)));
        assert!(matches!(join(&flights, &other, never), Turn::Full));
        drop(lead);
        let Turn::Lead(lead, None) = join(&flights, &key, || found(Outcome::Miss)) else { panic!("nothing is stored") };
        drop(lead);
        let Turn::Lead(lead, Some(stored)) = join(&flights, &key, hit) else { panic!("it is stored") };
        assert!(stored.key == other && stored.tier == Tier::Memory);
        drop(lead);
        assert_eq!(flights.open(), 0, "nobody waits for a flight that isn't needed");
    }
}
