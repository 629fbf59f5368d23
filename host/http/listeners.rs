//! What may be exchanged of a server while it runs: its addresses with their certificates, and the rules for its clients.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::{
    bound::{self, Bound},
    error::Error,
    retirement::Retirement,
    shared::Rules,
    slots::Slots,
    sockets::Socket,
    tls::CertificateFiles,
};
use crate::config;

/// The addresses of a server with their certificates, and the rules for connections that are opened from now on. Those
/// that are open keep the rules that they were opened by.
pub struct Listeners {
    bound: Bound,
    rules: Arc<ArcSwap<Rules>>,
    slots: Slots,
    retirement: Retirement,
}

/// Addresses that are bound and certificates that are loaded, to be put in the place of others. Dropped instead, it
/// leaves everything as it was.
pub struct Prepared {
    addresses: bound::Prepared,
    rules: Rules,
}

impl Listeners {
    pub(super) fn new(bound: Bound, rules: Rules) -> Self {
        let slots = Slots::new(slots(&rules, bound.sockets()));
        Self { bound, rules: Arc::new(ArcSwap::from_pointee(rules)), slots, retirement: Retirement::default() }
    }

    pub(super) const fn rules(&self) -> &Arc<ArcSwap<Rules>> {
        &self.rules
    }

    pub(super) const fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Whether another process accepts in this one's place.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retirement.has_begun()
    }

    pub(super) const fn retirement(&self) -> &Retirement {
        &self.retirement
    }

    /// Returns copies of all listening sockets, for another process.
    ///
    /// # Errors
    /// The system gives no copy.
    pub fn copies(&self) -> io::Result<Vec<Socket>> {
        self.bound.copies()
    }

    /// Leaves further connections to another process that has copies of the sockets, and the files of Unix sockets with
    /// them. Clients are told to send no more requests here. Those of HTTP/1 that are idle can't be told: they may send one
    /// for as long as `grace`. Then the server drains.
    pub fn retire(&self, grace: Duration) {
        self.bound.leave_files();
        self.bound.divert();
        self.retirement.begin(grace);
    }

    /// Waits until a server that was retired reads no UDP socket any more, so that another process may.
    pub async fn quic_closed(&self) {
        self.retirement.quic_closed().await;
    }

    /// Closes the inherited sockets that no address has taken, and returns what they are.
    pub fn close_unused(&self) -> Vec<String> {
        self.bound.close_unused()
    }

    /// Returns the bound addresses, in the order of the configuration, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.addresses()
    }

    /// Returns the certificates of the addresses that there are now, to have them read again.
    #[must_use]
    pub fn certificates(&self) -> CertificateFiles {
        self.bound.certificates()
    }

    /// Looks at the files of certificates as often as the configuration says, whichever there are, until it is stopped.
    pub(super) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        loop {
            // They end when it is cancelled, and not amid a look: what a look has seen, the next one doesn't serve.
            let until = stop.child_token();
            tokio::spawn(self.certificates().watch(until.clone()));
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.bound.renewed() => until.cancel(),
            }
        }
    }

    /// Binds the addresses that are new, and loads their certificates and those of which the configuration says something
    /// else. Others stay, and are read again by [`CertificateFiles::reload`]. Nothing is accepted there yet.
    ///
    /// # Errors
    /// The first address that can't be bound, or the first file that can't be used.
    pub async fn prepare(
        &self,
        listen: &[config::Listen],
        limits: &config::Limits,
        timeouts: &config::Timeouts,
    ) -> Result<Prepared, Error> {
        let addresses = self.bound.prepare(listen).await?;
        Ok(Prepared { addresses, rules: Rules { limits: limits.clone(), timeouts: timeouts.clone() } })
    }

    /// Puts what was prepared in the place of what there is. Addresses that are gone are closed, and their connections
    /// finish what is under way.
    pub fn commit(&self, prepared: Prepared) {
        let Prepared { addresses, rules } = prepared;
        // Unchanged ones stay the same value, so that nothing is made from them anew.
        if **self.rules.load() != rules {
            self.rules.store(Arc::new(rules));
        }
        self.bound.commit(addresses);
        self.slots.resize(slots(&self.rules.load(), self.bound.sockets()));
    }
}

/// A listener holds a slot while it waits for a connection, so each has one at least.
fn slots(rules: &Rules, listeners: usize) -> usize {
    rules.limits.connections_max.max(listeners)
}
