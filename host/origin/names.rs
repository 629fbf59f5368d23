//! The addresses of an endpoint's name, as the system's resolver or its records have them. What is known of them is
//! pure.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{net::lookup_host, time::timeout};

use super::{
    records::Resolver,
    targets::{Found, Target, in_order},
};

/// Addresses of a name that are used. Names with more have more than anybody connects to.
const ADDRESSES_MAX: usize = 64;

/// Look-ups in a row that must lack an address until it is gone: some servers name a few of many addresses each time.
const MISSES_MAX: u32 = 3;

/// Where the addresses of a name come from.
pub(super) enum Source {
    /// The system's resolver.
    System,
    /// The name's records.
    Records(Resolver),
    /// SRV records of the name, which have hosts and ports.
    Service(Resolver),
}

/// A name and its port.
pub(super) struct Name {
    host: String,
    port: u16,
    source: Source,
    known: Mutex<Known>,
    /// Held by the connection that looks the name up, so that others wait instead of looking it up as well.
    looking: tokio::sync::Mutex<()>,
    /// The connections so far: each begins with another address.
    connections: AtomicUsize,
}

/// The addresses of a name.
#[derive(Debug, Default)]
struct Known {
    /// What the last look-up found.
    targets: Vec<Target>,
    listed: Vec<Listed>,
    /// Whether connections may go by it without looking the name up.
    is_current: bool,
    /// The last look-up failed.
    is_failing: bool,
}

#[derive(Clone, Copy, Debug)]
struct Listed {
    address: SocketAddr,
    /// Look-ups since the last one that had it.
    misses: u32,
}

/// What a look-up changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Addresses that are no longer among the name's.
    pub(super) gone: Vec<SocketAddr>,
    /// The look-up is the first that succeeds after one that failed.
    pub(super) has_recovered: bool,
}

impl Name {
    /// Returns a name of which nothing is known yet. A service has the ports of its records, whatever `port`.
    pub(super) fn new(host: &str, port: u16, source: Source) -> Self {
        Self {
            host: host.to_owned(),
            port,
            source,
            known: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            connections: AtomicUsize::new(0),
        }
    }

    /// Returns the name.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Returns the addresses as the last look-ups found them, and none before the first.
    pub(super) fn known(&self) -> Vec<SocketAddr> {
        self.known.lock().present()
    }

    /// Returns the addresses in the order in which they are to be tried. They are looked up if none is known, or if
    /// none of those that are could be connected to; where that fails or takes half of `limit`, those are returned.
    ///
    /// # Errors
    /// No address is known, and the look-up failed; or the service's records say that it isn't there.
    pub(super) async fn addresses(&self, limit: Duration) -> io::Result<Vec<SocketAddr>> {
        if !self.known.lock().is_current {
            let is_known = !self.known().is_empty();
            let patience = if is_known { limit / 2 } else { limit };
            match timeout(patience, self.look_up_once()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) if is_known => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the name wasn't resolved in time")),
            }
        }
        let turn = self.connections.fetch_add(1, Ordering::Relaxed);
        let order = in_order(&self.known.lock().targets, turn, |max| fastrand::u32(..=max));
        if order.is_empty() { Err(io::Error::other("the service isn't there, by its records")) } else { Ok(order) }
    }

    async fn look_up_once(&self) -> io::Result<()> {
        let _looking = self.looking.lock().await;
        if self.known.lock().is_current {
            return Ok(());
        }
        let found = self.look_up().await?;
        // What is gone is noticed by the look-ups that recur.
        self.known.lock().take(found.targets, false);
        Ok(())
    }

    /// Looks the name up.
    ///
    /// # Errors
    /// The resolver's, or that there is no address.
    pub(super) async fn look_up(&self) -> io::Result<Found> {
        match &self.source {
            Source::System => system(&self.host, self.port).await,
            Source::Records(resolver) => resolver.addresses(&self.host, self.port).await,
            Source::Service(resolver) => resolver.service(&self.host).await,
        }
    }

    /// Takes what a look-up has found. Nothing is gone that is only missing because a part of it failed.
    pub(super) fn take(&self, found: Found) -> Change {
        self.known.lock().take(found.targets, !found.is_partial)
    }

    /// Notes that a look-up failed; returns whether it is the first that does.
    pub(super) fn fail(&self) -> bool {
        !std::mem::replace(&mut self.known.lock().is_failing, true)
    }

    /// Has the next connection look the name up, since no address took one.
    pub(super) fn expire(&self) {
        self.known.lock().is_current = false;
    }
}

async fn system(host: &str, port: u16) -> io::Result<Found> {
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    if addresses.is_empty() {
        return Err(io::Error::other("the name has no address"));
    }
    Ok(Found { targets: vec![Target::only(addresses)], ttl: None, is_partial: false })
}

impl Known {
    fn present(&self) -> Vec<SocketAddr> {
        self.listed.iter().filter(|listed| listed.misses == 0).map(|listed| listed.address).collect()
    }

    /// Takes the targets that were found. Addresses that they lack are gone after a few times, of which this is one if
    /// it `counts`; at once if there is no target, since that is no excerpt of many.
    fn take(&mut self, mut targets: Vec<Target>, counts: bool) -> Change {
        let mut listed: Vec<Listed> = Vec::new();
        for target in &mut targets {
            target.addresses.retain(|address| {
                let is_listed = listed.iter().any(|listed| listed.address == *address);
                let is_room = listed.len() < ADDRESSES_MAX;
                if !is_listed && is_room {
                    listed.push(Listed { address: *address, misses: 0 });
                }
                // Another record may have the same address.
                is_listed || is_room
            });
        }
        let are_all_gone = counts && targets.is_empty();
        let mut gone = Vec::new();
        for former in std::mem::take(&mut self.listed) {
            if listed.iter().any(|listed| listed.address == former.address) {
                continue;
            }
            let misses = if counts { former.misses + 1 } else { former.misses.max(1) };
            if are_all_gone || misses >= MISSES_MAX || listed.len() >= 2 * ADDRESSES_MAX {
                gone.push(former.address);
            } else {
                listed.push(Listed { misses, ..former });
            }
        }
        self.targets = targets;
        self.listed = listed;
        self.is_current = true;
        // Who looks up for a connection tells nobody.
        Change { gone, has_recovered: counts && std::mem::replace(&mut self.is_failing, false) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(numbers: &[u8]) -> Vec<SocketAddr> {
        numbers.iter().map(|number| SocketAddr::from(([192, 0, 2, *number], 80))).collect()
    }

    fn only(addresses: Vec<SocketAddr>) -> Vec<Target> {
        vec![Target::only(addresses)]
    }

    fn just_found(addresses: Vec<SocketAddr>) -> Found {
        Found { targets: only(addresses), ttl: None, is_partial: false }
    }

    #[test]
    fn an_address_is_gone_when_look_ups_in_a_row_lack_it() {
        let mut known = Known::default();
        for (step, (found, present, gone)) in [
            (v4(&[1, 2, 2]), v4(&[1, 2]), v4(&[])),
            (v4(&[2, 3]), v4(&[2, 3]), v4(&[])),
            (v4(&[2]), v4(&[2]), v4(&[])),
            (v4(&[2]), v4(&[2]), v4(&[1])),
            (v4(&[3, 2]), v4(&[3, 2]), v4(&[])),
            (v4(&[4]), v4(&[4]), v4(&[])),
            (v4(&[4]), v4(&[4]), v4(&[])),
            (v4(&[4]), v4(&[4]), v4(&[3, 2])),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(known.take(only(found), true), Change { gone, has_recovered: false }, "step {step}");
            assert_eq!(known.present(), present, "step {step}");
        }
    }

    #[test]
    fn all_addresses_of_a_service_that_is_not_there_are_gone() {
        let service = |weight: u16, numbers: &[u8]| Target { priority: 1, weight, addresses: v4(numbers) };
        let mut known = Known::default();
        known.take(vec![service(2, &[1, 2]), service(3, &[2, 3])], true);
        assert_eq!(known.present(), v4(&[1, 2, 3]));
        assert_eq!(known.targets, [service(2, &[1, 2]), service(3, &[2, 3])]);
        // The look-ups that recur have to see it.
        assert_eq!(known.take(Vec::new(), false).gone, v4(&[]));
        assert!(known.present().is_empty() && known.targets.is_empty());
        assert_eq!(known.take(Vec::new(), true).gone, v4(&[1, 2, 3]));
        assert_eq!(known.take(vec![service(1, &[1])], true).gone, v4(&[]));
        assert_eq!(known.present(), v4(&[1]));
    }

    #[test]
    fn nothing_is_gone_because_a_part_of_the_look_ups_failed() {
        let name = Name::new("origin.example", 80, Source::System);
        name.take(just_found(v4(&[1, 2])));
        for _ in 0..5 {
            assert_eq!(name.take(Found { is_partial: true, ..just_found(v4(&[2])) }).gone, v4(&[]));
        }
    }

    #[test]
    fn a_failure_is_told_once_and_so_is_its_end() {
        let name = Name::new("origin.example", 80, Source::System);
        let take = || name.take(just_found(v4(&[1])));
        assert!(name.fail() && !name.fail());
        assert!(take().has_recovered && !take().has_recovered);
        assert!(name.fail());
    }

    #[tokio::test]
    async fn a_name_is_looked_up_for_the_first_connection_and_when_no_address_takes_one() {
        let limit = Duration::from_secs(20);
        let name = Name::new("localhost", 7, Source::System);
        let found = name.addresses(limit).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback() && address.port() == 7));
        // What is known holds.
        name.take(just_found(v4(&[1])));
        assert_eq!(name.addresses(limit).await.unwrap(), v4(&[1]));
        name.expire();
        assert!(name.addresses(limit).await.unwrap().iter().all(|address| address.ip().is_loopback()));

        let nobody = Name::new("no\0name", 7, Source::System);
        assert!(nobody.addresses(limit).await.is_err());
        // A look-up that fails leaves what is known.
        nobody.take(just_found(v4(&[1])));
        nobody.expire();
        assert_eq!(nobody.addresses(limit).await.unwrap(), v4(&[1]));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_on_the_way(
            numbers in prop::collection::vec(any::<u8>(), 0..200),
            more in prop::collection::vec(any::<u8>(), 0..200),
            turn in any::<usize>(),
        ) {
            let mut known = Known::default();
            known.take(only(v4(&numbers)), true);
            let change = known.take(only(v4(&more)), true);
            prop_assert!(known.listed.len() <= 2 * ADDRESSES_MAX);
            prop_assert!(known.present().iter().all(|address| v4(&more).contains(address)));
            prop_assert!(change.gone.iter().all(|address| !v4(&more).contains(address)));
            let (mut tried, mut present) = (in_order(&known.targets, turn, |_| 0), known.present());
            tried.sort_unstable();
            present.sort_unstable();
            prop_assert_eq!(tried, present);
        }
    }
}
