//! A TCP proxy between a node and Redis that delays, withholds and cuts.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

/// The treatment of what passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It passes.
    #[default]
    Pass,
    /// Each piece waits so long before it passes.
    Delay(Duration),
    /// Nothing passes, and neither side is notified.
    Hold,
    /// Connections are cut, and no new one is let through.
    Cut,
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
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let (there, back) = (pass(near_in, far_out, mode.clone()), pass(far_in, near_out, mode.clone()));
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

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>) {
    let mut piece = Vec::with_capacity(16 << 10);
    loop {
        piece.clear();
        let Ok(1..) = from.read_buf(&mut piece).await else { return };
        let now = *mode.borrow();
        if let Mode::Delay(by) = now {
            sleep(by).await;
        }
        let is_over = mode.wait_for(|mode| *mode != Mode::Hold).await.is_err();
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
