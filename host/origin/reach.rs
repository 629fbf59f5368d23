//! Opening a socket to an endpoint: to one of the addresses of its name or service, or to a Unix socket.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    time::sleep,
};
use tower::Service;

use super::names::{Name, Source};

/// How long an address may keep a connection waiting until the next one is tried as well (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Opens sockets to one endpoint. Clones are the same.
#[derive(Clone)]
pub(super) struct Reach {
    place: Arc<Place>,
    /// How long opening one may take.
    limit: Duration,
}

enum Place {
    Address(SocketAddr),
    Name(Name),
    Socket(PathBuf),
}

impl Reach {
    /// Returns what opens sockets to a host: an IP address, or a name whose addresses come from `source`.
    pub(super) fn to_host(host: &str, port: u16, source: Source, limit: Duration) -> Self {
        let place = match host.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(ip) => Place::Address(SocketAddr::new(ip, port)),
            Err(_) => Place::Name(Name::new(host, port, source)),
        };
        Self { place: Arc::new(place), limit }
    }

    /// Returns what connects to a Unix socket.
    pub(super) fn to_socket(path: PathBuf, limit: Duration) -> Self {
        Self { place: Arc::new(Place::Socket(path)), limit }
    }

    /// Returns the name that is looked up, if there is one.
    pub(super) fn name(&self) -> Option<&Name> {
        match &*self.place {
            Place::Name(name) => Some(name),
            Place::Address(_) | Place::Socket(_) => None,
        }
    }
}

impl Service<Uri> for Reach {
    type Response = TokioIo<Socket>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Socket>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Opens a socket to its own endpoint, whatever the URI.
    fn call(&mut self, _: Uri) -> Self::Future {
        let (place, limit) = (Arc::clone(&self.place), self.limit);
        Box::pin(async move { place.open(limit).await.map(TokioIo::new) })
    }
}

impl Place {
    async fn open(&self, limit: Duration) -> io::Result<Socket> {
        let stream = match self {
            Self::Socket(path) => return UnixStream::connect(path).await.map(Socket::Unix),
            Self::Address(address) => TcpStream::connect(*address).await?,
            Self::Name(name) => {
                let addresses = name.addresses(limit).await?;
                first_of(addresses).await.inspect_err(|_| name.expire())?
            }
        };
        stream.set_nodelay(true)?;
        Ok(Socket::Tcp(stream))
    }
}

/// Connects to the first of these addresses that takes it. The next one is tried when one has failed, and beside it
/// when one is slow.
async fn first_of(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut left = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::other("the name has no address");
    loop {
        match left.next() {
            Some(address) => attempts.push(TcpStream::connect(address)),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        let is_last = left.len() == 0;
        tokio::select! {
            Some(done) = attempts.next() => match done {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            },
            () = sleep(STAGGER), if !is_last => {}
        }
    }
}

/// An open socket.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Returns the address at its other end, if it has one.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Returns the bytes that have come and haven't been read; 0 if the system can't tell.
    pub(super) fn unread(&self) -> u64 {
        let bytes = match self {
            Self::Tcp(stream) => rustix::io::ioctl_fionread(stream),
            Self::Unix(stream) => rustix::io::ioctl_fionread(stream),
        };
        bytes.unwrap_or(0)
    }
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, time::timeout};

    use super::*;

    /// Longer than anything here takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        // Port 0 is nobody's.
        let nobody = SocketAddr::from(([127, 0, 0, 1], 0));
        let stream = timeout(PATIENCE, first_of(vec![nobody, nobody, at])).await.unwrap().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), at);
        assert!(timeout(PATIENCE, first_of(vec![nobody, nobody])).await.unwrap().is_err());
        assert!(timeout(PATIENCE, first_of(Vec::new())).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn the_next_address_is_tried_beside_one_that_is_slow() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        // A listener that accepts nothing, and whose queue is full.
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let slow = full.local_addr().unwrap().as_socket().unwrap();
        let mut filling = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(200), TcpStream::connect(slow)).await {
            filling.push(stream);
        }
        let stream = timeout(PATIENCE, first_of(vec![slow, at])).await.unwrap().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), at);
    }

    #[test]
    fn which_hosts_are_looked_up() {
        let reach = |host: &str| Reach::to_host(host, 80, Source::System, PATIENCE);
        for (host, wanted) in [("10.0.0.1", None), ("[::1]", None), ("origin.example", Some("origin.example"))] {
            assert_eq!(reach(host).name().map(Name::host), wanted, "{host}");
        }
    }
}
