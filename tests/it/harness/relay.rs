//! A relay of datagrams between a client and a server, by which a client vanishes, is held up, or is repeated.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;
use tokio::{net::UdpSocket, sync::Notify, task::JoinHandle};

/// Bytes of the largest datagram.
const DATAGRAM: usize = 65_535;

#[derive(Default)]
struct State {
    loses: AtomicBool,
    holds: AtomicBool,
    /// Datagrams of the server that are held back.
    held: Mutex<Vec<Vec<u8>>>,
    /// All that the client has sent.
    sent: Mutex<Vec<Vec<u8>>>,
    released: Notify,
}

/// A relay in front of a server, for one client at a time.
pub(crate) struct Relay {
    address: SocketAddr,
    server: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Starts a relay in front of the server at this address.
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let (near, far) = (socket().await, socket().await);
        far.connect(server).await.unwrap();
        let (address, state) = (near.local_addr().unwrap(), Arc::new(State::default()));
        let task = tokio::spawn(pass(near, far, Arc::clone(&state)));
        Self { address, server, state, task }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Loses everything from now on, both ways.
    pub(crate) fn lose(&self) {
        self.state.loses.store(true, SeqCst);
    }

    /// Holds back what the server sends until [`Relay::release`].
    pub(crate) fn hold(&self) {
        self.state.holds.store(true, SeqCst);
    }

    pub(crate) fn release(&self) {
        self.state.holds.store(false, SeqCst);
        self.state.released.notify_one();
    }

    /// Sends the server all that the client has sent so far, from another port.
    pub(crate) async fn repeat(&self) {
        let (another, sent) = (socket().await, self.state.sent.lock().clone());
        for datagram in sent {
            another.send_to(&datagram, self.server).await.unwrap();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

async fn pass(near: UdpSocket, far: UdpSocket, state: Arc<State>) {
    let (mut up, mut down) = (vec![0; DATAGRAM], vec![0; DATAGRAM]);
    let mut client = None;
    loop {
        tokio::select! {
            received = near.recv_from(&mut up) => {
                // An error is about a datagram that was sent to nobody.
                let Ok((length, from)) = received else { continue };
                client = Some(from);
                state.sent.lock().push(up[..length].to_vec());
                if !state.loses.load(SeqCst) {
                    let _ = far.send(&up[..length]).await;
                }
            }
            received = far.recv(&mut down) => {
                let Ok(length) = received else { continue };
                if state.holds.load(SeqCst) {
                    state.held.lock().push(down[..length].to_vec());
                } else if let Some(client) = client.filter(|_| !state.loses.load(SeqCst)) {
                    let _ = near.send_to(&down[..length], client).await;
                }
            }
            () = state.released.notified() => {
                let held = std::mem::take(&mut *state.held.lock());
                for datagram in held {
                    if let Some(client) = client {
                        let _ = near.send_to(&datagram, client).await;
                    }
                }
            }
        }
    }
}
