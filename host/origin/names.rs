//! The addresses of an endpoint's name, as the system's resolver finds them. What is known of them is pure.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{net::lookup_host, time::timeout};

/// Addresses of a name that are used. Names with more have more than anybody connects to.
const ADDRESSES_MAX: usize = 64;

/// Look-ups in a row that must lack an address until it is gone: some servers name a few of many addresses each time.
const MISSES_MAX: u32 = 3;

/// A name and its port.
pub(super) struct Name {
    host: String,
    port: u16,
    known: Mutex<Known>,
    /// Held by the connection that looks the name up, so that others wait instead of looking it up as well.
    looking: tokio::sync::Mutex<()>,
    /// The connections so far: each begins with another address.
    connections: AtomicUsize,
}

/// The addresses of a name.
#[derive(Debug, Default)]
struct Known {
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
    /// Returns a name of which nothing is known yet.
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
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
    /// No address is known, and the look-up failed.
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
        Ok(in_turn(&self.known(), self.connections.fetch_add(1, Ordering::Relaxed)))
    }

    async fn look_up_once(&self) -> io::Result<()> {
        let _looking = self.looking.lock().await;
        if self.known.lock().is_current {
            return Ok(());
        }
        let found = self.look_up().await?;
        // What is gone is noticed by the look-ups that recur.
        self.known.lock().take(&found, false);
        Ok(())
    }

    /// Looks the name up.
    ///
    /// # Errors
    /// The system's, or that there is no address.
    pub(super) async fn look_up(&self) -> io::Result<Vec<SocketAddr>> {
        let found: Vec<SocketAddr> = lookup_host((self.host.as_str(), self.port)).await?.collect();
        if found.is_empty() { Err(io::Error::other("the name has no address")) } else { Ok(found) }
    }

    /// Takes what a look-up has found.
    pub(super) fn take(&self, found: &[SocketAddr]) -> Change {
        self.known.lock().take(found, true)
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

impl Known {
    fn present(&self) -> Vec<SocketAddr> {
        self.listed.iter().filter(|listed| listed.misses == 0).map(|listed| listed.address).collect()
    }

    /// Takes the addresses that were found, in their order. Those that weren't are gone after a few times, of which
    /// this is one if it `counts`.
    fn take(&mut self, found: &[SocketAddr], counts: bool) -> Change {
        let mut listed: Vec<Listed> = Vec::with_capacity(found.len());
        for address in found {
            if listed.len() < ADDRESSES_MAX && listed.iter().all(|listed| listed.address != *address) {
                listed.push(Listed { address: *address, misses: 0 });
            }
        }
        let mut gone = Vec::new();
        for former in std::mem::take(&mut self.listed) {
            if listed.iter().any(|listed| listed.address == former.address) {
                continue;
            }
            let misses = if counts { former.misses + 1 } else { former.misses.max(1) };
            if misses >= MISSES_MAX || listed.len() >= 2 * ADDRESSES_MAX {
                gone.push(former.address);
            } else {
                listed.push(Listed { misses, ..former });
            }
        }
        self.listed = listed;
        self.is_current = true;
        // Who looks up for a connection tells nobody.
        Change { gone, has_recovered: counts && std::mem::replace(&mut self.is_failing, false) }
    }
}

/// Returns the addresses in the order in which a connection tries them: of both families in turns, that of the first
/// one first (RFC 8305, section 4), and each connection begins with another one of a family.
fn in_turn(addresses: &[SocketAddr], turn: usize) -> Vec<SocketAddr> {
    let is_v6_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == is_v6_first);
    let rotated = |mut family: Vec<SocketAddr>| {
        if !family.is_empty() {
            let by = turn % family.len();
            family.rotate_left(by);
        }
        family.into_iter()
    };
    let (mut first, mut second) = (rotated(first), rotated(second));
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len() {
        order.extend(first.next());
        order.extend(second.next());
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn v4(numbers: &[u8]) -> Vec<SocketAddr> {
        numbers.iter().map(|number| SocketAddr::from(([192, 0, 2, *number], 80))).collect()
    }

    #[test]
    fn families_take_turns_and_connections_begin_with_another_address() {
        let both = addresses(&["[2001:db8::1]:80", "[2001:db8::2]:80", "192.0.2.1:80"]);
        for (turn, wanted) in [
            (0, ["[2001:db8::1]:80", "192.0.2.1:80", "[2001:db8::2]:80"]),
            (1, ["[2001:db8::2]:80", "192.0.2.1:80", "[2001:db8::1]:80"]),
            (2, ["[2001:db8::1]:80", "192.0.2.1:80", "[2001:db8::2]:80"]),
        ] {
            assert_eq!(in_turn(&both, turn), addresses(&wanted), "{turn}");
        }
        assert_eq!(in_turn(&v4(&[1, 2, 3]), 5), v4(&[3, 1, 2]));
        assert!(in_turn(&[], 1).is_empty());
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
            assert_eq!(known.take(&found, true), Change { gone, has_recovered: false }, "step {step}");
            assert_eq!(known.present(), present, "step {step}");
        }
    }

    #[test]
    fn a_failure_is_told_once_and_so_is_its_end() {
        let name = Name::new("origin.example", 80);
        assert!(name.fail() && !name.fail());
        assert!(name.take(&v4(&[1])).has_recovered && !name.take(&v4(&[1])).has_recovered);
        assert!(name.fail());
    }

    #[tokio::test]
    async fn a_name_is_looked_up_for_the_first_connection_and_when_no_address_takes_one() {
        let limit = Duration::from_secs(20);
        let name = Name::new("localhost", 7);
        let found = name.addresses(limit).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback() && address.port() == 7));
        // What is known holds.
        name.take(&v4(&[1]));
        assert_eq!(name.addresses(limit).await.unwrap(), v4(&[1]));
        name.expire();
        assert!(name.addresses(limit).await.unwrap().iter().all(|address| address.ip().is_loopback()));

        let nobody = Name::new("no\0name", 7);
        assert!(nobody.addresses(limit).await.is_err());
        // A look-up that fails leaves what is known.
        nobody.take(&v4(&[1]));
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
            known.take(&v4(&numbers), true);
            let change = known.take(&v4(&more), true);
            prop_assert!(known.listed.len() <= 2 * ADDRESSES_MAX);
            prop_assert!(known.present().iter().all(|address| v4(&more).contains(address)));
            prop_assert!(change.gone.iter().all(|address| !v4(&more).contains(address)));
            let (mut tried, mut present) = (in_turn(&known.present(), turn), known.present());
            tried.sort_unstable();
            present.sort_unstable();
            prop_assert_eq!(tried, present);
        }
    }
}
