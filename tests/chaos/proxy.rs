//! A TCP proxy between a node and a server that delays, withholds and cuts.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// Pieces of one connection that are on their way at a time.
const PIECES_MAX: usize = 64;

/// The treatment of what passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It passes.
    #[default]
    Pass,
    /// Each piece takes so long to pass, however many are on their way.
    Delay(Duration),
    /// Nothing passes, and neither side is notified.
    Hold,
    /// Nothing passes that the node sends; what the server sends does.
    HoldThere,
    /// Nothing passes that the server sends; what the node sends does.
    HoldBack,
    /// Connections are cut, and no new one is let through.
    Cut,
}

/// The direction of what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From the node to the server.
    There,
    /// From the server to the node.
    Back,
}

impl Mode {
    /// Whether what goes this way waits.
    fn holds(self, way: Way) -> bool {
        match self {
            Self::Pass | Self::Delay(_) | Self::Cut => false,
            Self::Hold => true,
            Self::HoldThere => way == Way::There,
            Self::HoldBack => way == Way::Back,
        }
    }

    const fn delay(self) -> Duration {
        match self {
            Self::Delay(by) => by,
            _ => Duration::ZERO,
        }
    }
}

/// A running proxy.
pub(crate) struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Begins to pass what comes on to a port of this machine.
    pub(crate) async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = watch::Sender::new(Mode::Pass);
        let task = tokio::spawn(accept(listener, port, mode.subscribe()));
        Self { address, mode, task }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this is done.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, mode: watch::Receiver<Mode>) {
    while let Ok((near, _)) = listener.accept().await {
        let mode = mode.clone();
        tokio::spawn(join(near, port, mode));
    }
}

/// Passes both ways until one side closes or the connection is cut; then both are closed.
async fn join(near: TcpStream, port: u16, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Cut {
        return;
    }
    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    // What is small isn't to wait for more here: a link has the delay that it was given. If that fails it does wait.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let there = pass(Way::There, near_in, far_out, mode.clone());
    let back = pass(Way::Back, far_in, near_out, mode.clone());
    tokio::select! {
        () = there => {}
        () = back => {}
        () = until_cut(&mut mode) => {}
    }
}

/// Waits for a cut, or for the end of the proxy.
async fn until_cut(mode: &mut watch::Receiver<Mode>) {
    let _ = mode.wait_for(|mode| *mode == Mode::Cut).await;
}

/// Passes what comes one way until that ends, and all that came before with it.
async fn pass(way: Way, from: OwnedReadHalf, to: OwnedWriteHalf, mode: watch::Receiver<Mode>) {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let taken = take(from, sender, mode.clone());
    let taking = async {
        taken.await;
        // What was taken is still to be given.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = taking => {}
        () = give(way, to, pieces, mode) => {}
    }
}

/// Reads pieces, and notes when each is due at the other side.
async fn take(mut from: OwnedReadHalf, sender: mpsc::Sender<(Instant, Vec<u8>)>, mode: watch::Receiver<Mode>) {
    loop {
        let mut piece = Vec::with_capacity(16 << 10);
        let Ok(1..) = from.read_buf(&mut piece).await else { return };
        let due = Instant::now() + mode.borrow().delay();
        if sender.send((due, piece)).await.is_err() {
            return;
        }
    }
}

async fn give(
    way: Way,
    mut to: OwnedWriteHalf,
    mut pieces: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut mode: watch::Receiver<Mode>,
) {
    while let Some((due, piece)) = pieces.recv().await {
        // A timer that is due at once would cost a tick.
        if due > Instant::now() {
            sleep_until(due).await;
        }
        let is_over = mode.wait_for(|mode| !mode.holds(way)).await.is_err();
        if is_over || to.write_all(&piece).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// A proxy before something that echoes.
    async fn echo() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut from, mut to) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            }
        });
        Proxy::start(port).await
    }

    #[test]
    fn one_way_may_be_held_without_the_other() {
        let table = [
            (Mode::Pass, [false, false]),
            (Mode::Delay(Duration::from_secs(1)), [false, false]),
            (Mode::Hold, [true, true]),
            (Mode::HoldThere, [true, false]),
            (Mode::HoldBack, [false, true]),
        ];
        for (mode, wanted) in table {
            assert_eq!([Way::There, Way::Back].map(|way| mode.holds(way)), wanted, "{mode:?}");
        }
    }

    #[tokio::test]
    async fn what_is_held_passes_later_and_what_is_cut_is_closed() {
        let proxy = echo().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let mut heard = [0; 3];
        stream.write_all(b"one").await.unwrap();
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"one");
        proxy.set(Mode::Hold);
        stream.write_all(b"two").await.unwrap();
        timeout(Duration::from_millis(50), stream.read_exact(&mut heard)).await.unwrap_err();
        proxy.set(Mode::Delay(Duration::from_millis(1)));
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"two");
        proxy.set(Mode::Cut);
        assert!(!stream.read(&mut heard).await.is_ok_and(|count| count > 0));
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(!refused.read(&mut heard).await.is_ok_and(|count| count > 0));
    }
}
