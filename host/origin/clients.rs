//! How many places each client address holds or waits for. The table has a row for each address that does, so it is never
//! longer than there are requests on their way to an origin.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;

use crate::{
    config,
    message::network::{Cidr, ClientNetwork},
};

/// The addresses that have requests on their way to an origin.
pub(super) struct Clients {
    places_max: usize,
    trusted: Vec<Cidr>,
    rows: Mutex<HashMap<ClientNetwork, usize>>,
}

/// An address holds as many places as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany {
    /// As many as these.
    pub(super) limit: usize,
}

impl Clients {
    pub(super) fn new(limits: &config::Limits) -> Arc<Self> {
        Arc::new(Self {
            places_max: limits.client_places_max,
            trusted: limits.trusted_proxies.clone(),
            rows: Mutex::default(),
        })
    }

    /// The client's network, if the limits per address hold for it: not for a trusted one, nor for a request that belongs to
    /// no client.
    pub(super) fn limited(&self, client: Option<IpAddr>) -> Option<ClientNetwork> {
        let ip = client.filter(|ip| !self.trusted.iter().any(|network| network.contains(*ip)))?;
        Some(ClientNetwork::from(ip))
    }

    /// Counts a place of this address, until the share is dropped, if it is limited.
    ///
    /// # Errors
    /// [`TooMany`], if the address holds or waits for as many as it may.
    pub(super) fn enter(self: &Arc<Self>, client: Option<IpAddr>) -> Result<Option<ClientShare>, TooMany> {
        let Some(network) = self.limited(client) else { return Ok(None) };
        let mut rows = self.rows.lock();
        let held = rows.entry(network).or_insert(0);
        if *held >= self.places_max {
            return Err(TooMany { limit: self.places_max });
        }
        *held += 1;
        Ok(Some(ClientShare { clients: Arc::clone(self), network }))
    }

    fn leave(&self, network: ClientNetwork) {
        let mut rows = self.rows.lock();
        if let Some(held) = rows.get_mut(&network) {
            *held -= 1;
            if *held == 0 {
                rows.remove(&network);
            }
        }
    }
}

/// A place that an address holds or waits for.
pub(super) struct ClientShare {
    clients: Arc<Clients>,
    network: ClientNetwork,
}

impl Drop for ClientShare {
    fn drop(&mut self) {
        self.clients.leave(self.network);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_so_many_and_leaves_no_row_behind() {
        let limits = config::Limits { client_places_max: 1, ..config::Limits::default() };
        let clients = Clients::new(&limits);
        let ip = |text: &str| Some(text.parse().unwrap());
        let first = clients.enter(ip("192.0.2.1")).ok().flatten();
        assert!(first.is_some());
        assert_eq!(clients.enter(ip("192.0.2.1")).err(), Some(TooMany { limit: 1 }));
        assert!(clients.enter(ip("192.0.2.2")).is_ok());
        for unlimited in [None, ip("127.0.0.1")] {
            assert!(matches!(clients.enter(unlimited), Ok(None)));
        }
        drop(first);
        assert!(clients.rows.lock().is_empty());
    }
}
