//! Variants that are being made, each once however many requests want it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};

use crate::cache::key::Key;

/// Variants that are made at the same time. Of further ones the response is served as it is stored.
const MAKING_MAX: usize = 64;

/// The variants that are being made, by their keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Makings(Arc<Mutex<HashMap<Key, watch::Receiver<()>>>>);

/// What comes of the wish that a variant is made.
pub(super) enum Joined {
    /// It is to be made now, until the first is dropped; the second is for requests that wait.
    Begun(Making, Ended),
    /// It is being made.
    UnderWay(Ended),
    /// Too many are being made.
    Full,
}

impl Makings {
    /// Begins to make the variant with this key, unless it is being made.
    pub(super) fn join(&self, key: Key) -> Joined {
        let mut makings = self.0.lock();
        if let Some(ended) = makings.get(&key) {
            return Joined::UnderWay(Ended(ended.clone()));
        }
        if makings.len() >= MAKING_MAX {
            return Joined::Full;
        }
        let (ends, ended) = watch::channel(());
        makings.insert(key, ended.clone());
        Joined::Begun(Making { makings: self.clone(), key, _ends: ends }, Ended(ended))
    }

    /// Begins to make the variant with this key; `None` if nobody else is to.
    pub(super) fn begin(&self, key: Key) -> Option<Making> {
        match self.join(key) {
            Joined::Begun(making, _) => Some(making),
            Joined::UnderWay(_) | Joined::Full => None,
        }
    }
}

/// The making of a variant; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Making {
    makings: Makings,
    key: Key,
    /// Closed after the key has been taken out.
    _ends: watch::Sender<()>,
}

impl Drop for Making {
    fn drop(&mut self) {
        self.makings.0.lock().remove(&self.key);
    }
}

/// The end of a making.
#[derive(Debug)]
pub(super) struct Ended(watch::Receiver<()>);

impl Ended {
    /// Waits for it; whether it came in time.
    pub(super) async fn within(mut self, limit: Duration) -> bool {
        // Nothing is ever sent: the sender is dropped.
        timeout(limit, self.0.changed()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn key(number: usize) -> Key {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Key::from_bytes(bytes)
    }

    #[tokio::test]
    async fn one_makes_it_and_all_hear_of_the_end() {
        let makings = Makings::default();
        let Joined::Begun(making, ended) = makings.join(key(1)) else { panic!("it isn't being made") };
        let Joined::UnderWay(other) = makings.join(key(1)) else { panic!("it is being made") };
        assert!(makings.begin(key(1)).is_none());
        let Joined::UnderWay(late) = makings.join(key(1)) else { panic!("it is being made") };
        assert!(!late.within(Duration::ZERO).await);
        drop(making);
        assert!(ended.within(LONG).await && other.within(LONG).await);
        assert!(makings.begin(key(1)).is_some(), "it may be made again");
    }

    #[test]
    fn so_many_are_made_at_once_and_no_more() {
        let makings = Makings::default();
        let mut begun: Vec<Making> = (0..MAKING_MAX).filter_map(|number| makings.begin(key(number))).collect();
        assert_eq!(begun.len(), MAKING_MAX);
        assert!(matches!(makings.join(key(MAKING_MAX)), Joined::Full));
        begun.pop();
        assert!(makings.begin(key(MAKING_MAX)).is_some());
    }
}
