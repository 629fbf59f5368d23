//! The nodes of all regions in the etcd that they share: which names are taken, who has read what, and what the nodes
//! of a region are asked to do. Each node has one key, which goes with a lease that only a live process renews.

use std::time::Duration;

use bytes::Bytes;
use tokio::{sync::Mutex, time::timeout};

use crate::{
    config,
    etcd::{Compare, Error, Etcd, LeaseId, Op, OpReply, Pair, Txn, after_prefix},
};

/// How long a node's key lasts that isn't renewed.
const LEASE: Duration = Duration::from_secs(9);

/// How long it may be there in any case: etcd looks after leases now and then only, and lets all of them last anew when
/// it starts, or has another leader.
pub(super) const CLAIM_MAX: Duration = Duration::from_secs(13 + 9);

/// Between two renewals.
pub(super) const BEAT: Duration = Duration::from_secs(3);

/// Nodes of a region that are read.
const MEMBERS_MAX: usize = 10_000;

/// What leaving may take.
const LEAVE_TIME: Duration = Duration::from_secs(1);

/// A client of the nodes' keys, for one node of one region.
pub(super) struct WorldNodes {
    etcd: Etcd,
    /// What the keys of all nodes begin with.
    nodes: String,
    /// What the keys of orders begin with.
    orders: String,
    region: String,
    node: String,
    /// The lease of the node's key.
    lease: Mutex<Option<LeaseId>>,
}

impl WorldNodes {
    /// Prepares; connects when it is used.
    ///
    /// # Errors
    /// [`Error`]: etcd can't be used as it is configured.
    pub(super) fn new(global: &config::Global, region: &str, node: &str) -> Result<Self, Error> {
        Ok(Self {
            etcd: Etcd::new(&global.etcd)?,
            nodes: format!("{}/nodes/", global.namespace),
            orders: format!("{}/orders/", global.namespace),
            region: region.to_owned(),
            node: node.to_owned(),
            lease: Mutex::default(),
        })
    }

    /// Returns the name of the node's region.
    pub(super) fn region(&self) -> &str {
        &self.region
    }

    fn key(&self) -> Bytes {
        format!("{}{}/{}", self.nodes, self.region, self.node).into()
    }

    fn order_key(&self, region: &str) -> Bytes {
        format!("{}{region}", self.orders).into()
    }

    /// Claims the node's name, if nobody has, or the one that has says just `expected`. Returns what the one says that
    /// has it otherwise.
    ///
    /// # Errors
    /// [`Error`]: it isn't known whose it is.
    pub(super) async fn claim(&self, expected: &str, word: &str) -> Result<Option<String>, Error> {
        let lease = self.leased().await?;
        let claimed = self.claim_under(lease, expected, word).await;
        if claimed.is_err() {
            // It may have expired; the next one is granted anew.
            *self.lease.lock().await = None;
        }
        claimed
    }

    async fn claim_under(&self, lease: LeaseId, expected: &str, word: &str) -> Result<Option<String>, Error> {
        let put = Op::Put { key: self.key(), value: Bytes::from(word.to_owned()), lease: Some(lease) };
        let get = || vec![Op::get(self.key())];
        let absent = Compare::Absent(self.key());
        let where_none_is = Txn { when: vec![absent], then: vec![put.clone()], otherwise: get() };
        let Some(held) = self.attempt(where_none_is).await? else { return Ok(None) };
        if held != expected {
            return Ok(Some(held));
        }
        let same = Compare::Value(self.key(), Bytes::from(held));
        self.attempt(Txn { when: vec![same], then: vec![put], otherwise: get() }).await
    }

    /// Does a transaction that writes, or reads what stands in the way, which is empty if that is gone by now.
    async fn attempt(&self, txn: Txn) -> Result<Option<String>, Error> {
        let reply = self.etcd.txn(txn).await?;
        if reply.succeeded {
            return Ok(None);
        }
        let held = reply.replies.into_iter().flat_map(OpReply::into_pairs).next();
        Ok(Some(held.map(|pair| text(&pair.value)).unwrap_or_default()))
    }

    /// Returns the lease of the node's key, a new one if there is none.
    async fn leased(&self) -> Result<LeaseId, Error> {
        let mut held = self.lease.lock().await;
        if let Some(lease) = *held {
            return Ok(lease);
        }
        let lease = self.etcd.lease_grant(LEASE).await?;
        *held = Some(lease);
        Ok(lease)
    }

    /// Renews the lease of the node's key. Returns whether it has one: after a claim of which nothing was heard the key may
    /// be there under a lease that isn't known, and expire.
    ///
    /// # Errors
    /// [`Error`]: it isn't known whether it lasts.
    pub(super) async fn renew(&self) -> Result<bool, Error> {
        let mut held = self.lease.lock().await;
        let Some(lease) = *held else { return Ok(false) };
        match self.etcd.lease_keep_alive(lease).await {
            Ok(_) => Ok(true),
            Err(Error::Expired(_)) => {
                *held = None;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads what is said under the node's name, and what the nodes of its region are asked.
    ///
    /// # Errors
    /// [`Error`].
    pub(super) async fn look(&self) -> Result<(Option<String>, Option<String>), Error> {
        let then = vec![Op::get(self.key()), Op::get(self.order_key(&self.region))];
        let reply = self.etcd.txn(Txn { then, ..Txn::default() }).await?;
        let mut found = reply.replies.into_iter().map(|reply| first(&reply.into_pairs()));
        Ok((found.next().flatten(), found.next().flatten()))
    }

    /// Reads what all nodes of a region say, by their names, and what they are asked.
    ///
    /// # Errors
    /// [`Error`].
    pub(super) async fn members(&self, region: &str) -> Result<(Vec<(String, String)>, Option<String>), Error> {
        let prefix = format!("{}{region}/", self.nodes);
        let nodes = Op::range(prefix.clone(), after_prefix(prefix.as_bytes()), MEMBERS_MAX);
        let then = vec![nodes, Op::get(self.order_key(region))];
        let mut replies = self.etcd.txn(Txn { then, ..Txn::default() }).await?.replies.into_iter();
        let said = replies.next().map(OpReply::into_pairs).unwrap_or_default();
        let named = |pair: Pair| Some((text(&pair.key).strip_prefix(&prefix)?.to_owned(), text(&pair.value)));
        let order = replies.next().and_then(|reply| first(&reply.into_pairs()));
        Ok((said.into_iter().filter_map(named).collect(), order))
    }

    /// Asks something of all nodes of a region, which counts for so long.
    ///
    /// # Errors
    /// [`Error`]: it isn't known whether they are asked.
    pub(super) async fn order(&self, region: &str, order: &str, time: Duration) -> Result<(), Error> {
        // The order goes with it, whatever becomes of this node.
        let lease = self.etcd.lease_grant(time).await?;
        self.etcd.put(self.order_key(region), order.to_owned(), Some(lease)).await?;
        Ok(())
    }

    /// Gives the node's name up.
    pub(super) async fn leave(&self) {
        let lease = self.lease.lock().await.take();
        if let Some(lease) = lease {
            // It goes by itself otherwise.
            let _ = timeout(LEAVE_TIME, self.etcd.lease_revoke(lease)).await;
        }
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn first(pairs: &[Pair]) -> Option<String> {
    pairs.first().map(|pair| text(&pair.value))
}
