//! A connection whose client has switched to another protocol: bytes go both ways until either side ends, or both are
//! silent for too long.

use std::time::Duration;

use bytes::BytesMut;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    http::{
        end::{End, Reason},
        reply::Reply,
    },
    message::{
        Body,
        body::{Sender, Unread},
    },
};

/// Bytes that are read at once.
const PIECE_BYTES: usize = 8 * 1024;

/// The bytes of a tunnel, beyond its connection.
pub(super) struct Tunnel {
    /// What the client is sent. Keeps its request in flight.
    pub(super) to_client: Reply<Body>,
    /// Takes what the client sends.
    pub(super) from_client: Sender,
}

/// When a byte was moved last, in either direction.
struct Moved(Mutex<Instant>);

impl Moved {
    fn now(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Returns when nothing has been moved for `idle`.
    async fn silent(&self, idle: Duration) {
        loop {
            let due = *self.0.lock() + idle;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// Runs a tunnel to its end: that of what the client is sent, that of a client which has gone, silence for `idle`, or a cut.
pub(super) async fn run<F>(front: &mut F, tunnel: Tunnel, idle: Duration, cut: &CancellationToken) -> End
where
    F: AsyncRead + AsyncWrite + Unpin,
{
    let (moved, (read, write)) = (Moved(Mutex::new(Instant::now())), split(front));
    tokio::select! {
        biased;
        () = cut.cancelled() => End::Cut,
        end = send(tunnel.to_client, write, &moved) => end,
        end = receive(read, tunnel.from_client, &moved) => end,
        () = moved.silent(idle) => End::Timeout(Reason::Idle),
    }
}

/// Sends what the client is to get, and the end.
async fn send(mut to_client: Reply<Body>, mut write: impl AsyncWrite + Unpin, moved: &Moved) -> End {
    while let Some(frame) = to_client.frame().await {
        let Ok(frame) = frame else { return End::Aborted };
        let Ok(piece) = frame.into_data() else { continue };
        if write.write_all(&piece).await.is_err() || write.flush().await.is_err() {
            return End::Broken;
        }
        moved.now();
    }
    // A client that has gone has nothing left to be told.
    let _ = write.shutdown().await;
    End::Done
}

/// Takes what the client sends. Once it has ended its side, the other one decides when the tunnel ends.
async fn receive(mut read: impl AsyncRead + Unpin, from_client: Sender, moved: &Moved) -> End {
    let mut piece = BytesMut::new();
    loop {
        piece.reserve(PIECE_BYTES);
        match read.read_buf(&mut piece).await {
            Ok(0) => break,
            Ok(_) => moved.now(),
            Err(_) => return End::Broken,
        }
        if let Err(Unread) = from_client.send(piece.split().freeze()).await {
            break;
        }
        moved.now();
    }
    drop(from_client);
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::duplex;

    use super::*;

    /// Runs a tunnel; returns its client, what the origin's side has of it, and how it ends.
    fn begun(idle: Duration) -> (impl AsyncRead + AsyncWrite + Unpin, Sender, Body, tokio::task::JoinHandle<End>) {
        let (client, mut front) = duplex(64);
        let (origin, to_client) = Body::channel(1, None);
        let (from_client, upward) = Body::channel(1, None);
        let tunnel = Tunnel { to_client: Reply::instead(to_client), from_client };
        let running = tokio::spawn(async move { run(&mut front, tunnel, idle, &CancellationToken::new()).await });
        (client, origin, upward, running)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn bytes_pass_both_ways_until_the_origins_side_ends() {
        let (mut client, origin, mut upward, running) = begun(LONG);
        client.write_all(b"up").await.unwrap();
        assert_eq!(upward.frame().await.unwrap().unwrap().into_data().unwrap(), "up");
        client.shutdown().await.unwrap();
        assert!(upward.frame().await.is_none(), "a half-close goes on");
        origin.send(Bytes::from_static(b"down")).await.unwrap();
        drop(origin);
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        assert_eq!((said.as_str(), running.await.unwrap()), ("down", End::Done));
    }

    #[tokio::test]
    async fn silence_ends_it() {
        let (_client, _origin, _upward, running) = begun(Duration::from_millis(20));
        assert_eq!(running.await.unwrap(), End::Timeout(Reason::Idle));
    }

    #[tokio::test]
    async fn a_response_that_fails_ends_it() {
        let (_client, origin, _upward, running) = begun(LONG);
        origin.fail(crate::message::BodyError::Broken("on purpose".to_owned())).await;
        assert_eq!(running.await.unwrap(), End::Aborted);
    }
}
