//! The UDP socket of an address as the QUIC library reads it: with packets of connections that earlier processes still
//! have, which are passed on, and itself read by another process once that has taken over.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use quinn::{
    AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use super::{
    connection_id::Key,
    forwarding::{self, Channel, Routes},
};

/// A UDP socket and what is passed on of it.
pub(super) struct Datagrams {
    udp: Arc<dyn AsyncUdpSocket>,
    /// The key of the connection IDs that are issued here.
    key: Key,
    /// Those of earlier processes, and whether there are any: most sockets have none.
    routes: Mutex<Routes>,
    has_routes: AtomicBool,
    /// By which this process gets its packets if another one takes over.
    prepared: Mutex<Option<Channel>>,
    /// By which it gets them now.
    diverted: OnceLock<Channel>,
    /// Whether nobody passes anything on any more.
    is_abandoned: AtomicBool,
    reader: AtomicWaker,
    /// Counts what is dropped on its way to an earlier process.
    dropped: OnceLock<Counter>,
}

impl Datagrams {
    /// Returns a socket that is read here, on which earlier processes with these keys may have connections.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn new(socket: UdpSocket, formers: Vec<(Key, OwnedFd)>) -> io::Result<Self> {
        Ok(Self {
            udp: TokioRuntime.wrap_udp_socket(socket)?,
            key: Key::random()?,
            has_routes: AtomicBool::new(!formers.is_empty()),
            routes: Mutex::new(Routes::new(formers)),
            prepared: Mutex::default(),
            diverted: OnceLock::new(),
            is_abandoned: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            dropped: OnceLock::new(),
        })
    }

    /// Returns the key of the connection IDs that are issued here.
    pub(super) const fn key(&self) -> Key {
        self.key
    }

    /// Counts by `dropped` what is lost from now on on its way to an earlier process.
    pub(super) fn count(&self, dropped: Counter) {
        let _ = self.dropped.set(dropped);
    }

    /// Returns what another process needs to pass packets on: to this one, by a socket whose buffer has `bytes`, and to
    /// the earlier ones.
    ///
    /// # Errors
    /// There are too many earlier ones, or what the system says.
    pub(super) fn prepare(&self, bytes: usize) -> io::Result<Vec<(Key, OwnedFd)>> {
        let mut formers = self.routes.lock().copies()?;
        let (channel, sending) = forwarding::pair(bytes)?;
        *self.prepared.lock() = Some(channel);
        formers.push((self.key, sending));
        Ok(formers)
    }

    /// Leaves the socket to the process that was prepared for, and reads what that passes on. Without one nothing changes.
    pub(super) fn divert(&self) {
        if let Some(channel) = self.prepared.lock().take() {
            let _ = self.diverted.set(channel);
            self.reader.wake();
        }
    }

    /// Whether another process reads the socket.
    pub(super) fn is_diverted(&self) -> bool {
        self.channel().is_some()
    }

    fn channel(&self) -> Option<&Channel> {
        self.diverted.get().filter(|_| !self.is_abandoned.load(Ordering::Relaxed))
    }

    fn sift(&self, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) {
        let mut routes = self.routes.lock();
        let dropped: u64 = buffers.iter_mut().zip(metas).map(|(buffer, meta)| routes.sift(buffer, meta)).sum();
        if let Some(counter) = self.dropped.get().filter(|_| dropped > 0) {
            counter.inc_by(dropped);
        }
        self.has_routes.store(!routes.is_empty(), Ordering::Relaxed);
    }
}

impl AsyncUdpSocket for Datagrams {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.udp).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.udp.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // In this order: who diverts it after the look wakes this task.
        self.reader.register(cx.waker());
        if let Some(channel) = self.channel() {
            if let Ok(Some(count)) = ready!(channel.poll_recv(cx, buffers, metas)) {
                return Poll::Ready(Ok(count));
            }
            // The process that passed them on has ended, or doesn't listen there: nobody else reads the socket.
            self.is_abandoned.store(true, Ordering::Relaxed);
        }
        let count = ready!(self.udp.poll_recv(cx, buffers, metas))?;
        if self.has_routes.load(Ordering::Relaxed) {
            self.sift(buffers, &mut metas[..count]);
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.udp.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.udp.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.udp.may_fragment()
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("udp", &self.udp).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use quinn::ConnectionIdGenerator;
    use tokio::time::timeout;

    use super::{super::connection_id::Ids, *};

    async fn read(socket: &Datagrams) -> Vec<u8> {
        let mut space = [0; 2_000];
        loop {
            let mut meta = [RecvMeta::default()];
            let read = poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(&mut space)], &mut meta));
            timeout(Duration::from_secs(20), read).await.expect("a packet in time").unwrap();
            // All that was read may have been another process's.
            if meta[0].len > 0 {
                return space[..meta[0].len].to_vec();
            }
        }
    }

    #[tokio::test]
    async fn after_a_takeover_each_process_gets_the_packets_of_its_own_connections() {
        let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (bound, client) = (bind(), bind());
        let address = bound.local_addr().unwrap();
        let copy = bound.try_clone().unwrap();
        let nonblocking = |socket: UdpSocket| {
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let old = Datagrams::new(nonblocking(bound), Vec::new()).unwrap();
        let send = |bytes: &[u8]| client.send_to(bytes, address).unwrap();
        let of = |key: Key, text: &[u8]| [&[0x40][..], &Ids::new(key).generate_cid()[..], text].concat();
        old.divert();
        assert!(!old.is_diverted(), "nobody was prepared for");

        let formers = old.prepare(64 * 1024).unwrap();
        let of_old = of(old.key(), b"before");
        send(&of_old);
        assert_eq!(read(&old).await, of_old, "it reads until it is told");
        old.divert();
        assert!(old.is_diverted());
        let new = Datagrams::new(nonblocking(copy), formers).unwrap();
        let (of_old, of_new) = (of(old.key(), b"after"), of(new.key(), b"after"));
        send(&of_old);
        send(&of_new);
        assert_eq!(read(&new).await, of_new);
        assert_eq!(read(&old).await, of_old);

        // The other one has ended, and nobody else reads.
        drop(new);
        send(&of_old);
        assert_eq!(read(&old).await, of_old);
        assert!(!old.is_diverted());
    }
}
