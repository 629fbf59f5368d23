//! Limits per client address: open connections and concurrent requests, all connections of an address together. The
//! table has a row for each address that has a connection open, so it is never longer than `connections_max`.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{
    config::Limits,
    message::network::{Cidr, ClientNetwork},
};

/// The client addresses that have connections open, and what they have open.
pub(super) struct Guests {
    connections_max: usize,
    requests_max: usize,
    trusted: Vec<Cidr>,
    rows: Arc<Mutex<HashMap<ClientNetwork, Row>>>,
}

struct Row {
    connections: usize,
    requests: Arc<AtomicUsize>,
}

/// The error of an address that has as many connections open as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl Guests {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            connections_max: limits.client_connections_max,
            requests_max: limits.client_streams_max,
            trusted: limits.trusted_proxies.clone(),
            rows: Arc::default(),
        })
    }

    /// Returns other limits for the same guests.
    pub(super) fn under(&self, limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            connections_max: limits.client_connections_max,
            requests_max: limits.client_streams_max,
            trusted: limits.trusted_proxies.clone(),
            rows: Arc::clone(&self.rows),
        })
    }

    /// Counts a connection of this address, until the guest is dropped; for a trusted one `None`: it isn't counted.
    ///
    /// # Errors
    /// [`TooMany`], if the address has as many open as it may.
    pub(super) fn admit(self: &Arc<Self>, ip: IpAddr) -> Result<Option<Guest>, TooMany> {
        if self.trusted.iter().any(|network| network.contains(ip)) {
            return Ok(None);
        }
        let network = ClientNetwork::from(ip);
        let mut rows = self.rows.lock();
        let row = rows.entry(network).or_insert_with(|| Row { connections: 0, requests: Arc::default() });
        if row.connections >= self.connections_max {
            return Err(TooMany);
        }
        row.connections += 1;
        Ok(Some(Guest { guests: Arc::clone(self), network, requests: Arc::clone(&row.requests) }))
    }

    fn leave(&self, network: ClientNetwork) {
        let mut rows = self.rows.lock();
        if let Some(row) = rows.get_mut(&network) {
            row.connections -= 1;
            if row.connections == 0 {
                rows.remove(&network);
            }
        }
    }
}

/// A connection of an address that is limited.
pub(super) struct Guest {
    guests: Arc<Guests>,
    network: ClientNetwork,
    requests: Arc<AtomicUsize>,
}

impl Guest {
    /// Counts a request until the ticket is dropped; `None` if the address has as many in flight as it may.
    pub(super) fn begin(&self) -> Option<Ticket> {
        // Taken first and looked at then: of two that come at once, at most one too many is turned away.
        let ticket = Ticket(Arc::clone(&self.requests));
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        (before < self.guests.requests_max).then_some(ticket)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.leave(self.network);
    }
}

/// A request of an address that is limited.
pub(super) struct Ticket(Arc<AtomicUsize>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guests() -> Arc<Guests> {
        let limits = Limits { client_connections_max: 2, client_streams_max: 2, ..Limits::default() };
        Guests::new(&limits)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_connections_and_leaves_no_row_behind() {
        let guests = guests();
        let first = guests.admit(ip("2001:db8::1")).ok().flatten();
        let second = guests.admit(ip("2001:db8::2")).ok().flatten();
        assert!(first.is_some() && second.is_some());
        assert!(guests.admit(ip("2001:db8::3")).is_err(), "one /64 is one client");
        assert!(guests.admit(ip("2001:db8:0:1::3")).is_ok());
        drop(first);
        assert!(guests.admit(ip("2001:db8::3")).is_ok());
        drop(second);
        assert!(guests.rows.lock().is_empty());
        for _ in 0..10 {
            assert!(matches!(guests.admit(ip("127.0.0.1")), Ok(None)), "a trusted one isn't counted");
        }
    }

    #[test]
    fn an_address_has_so_many_requests_over_all_its_connections() {
        let guests = guests();
        let connections = [guests.admit(ip("192.0.2.1")).ok().flatten(), guests.admit(ip("192.0.2.1")).ok().flatten()];
        let [Some(one), Some(other)] = &connections else { panic!("admitted") };
        let tickets = [one.begin(), other.begin()];
        assert!(tickets.iter().all(Option::is_some));
        assert!(one.begin().is_none() && other.begin().is_none());
        drop(tickets);
        assert!(other.begin().is_some());
    }
}
