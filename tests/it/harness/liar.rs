//! Origins that break the protocol: raw sockets that count requests.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// The treatment of every request.
#[derive(Clone, Debug)]
pub(crate) enum Lie {
    /// No response.
    Silence,
    /// A reset.
    Reset,
    /// These bytes, then an orderly close.
    Say(Vec<u8>),
    /// These bytes, then a reset.
    SayAndReset(Vec<u8>),
    /// These bytes, then nothing more, with the connection open.
    SayAndStall(Vec<u8>),
}

/// A lying origin.
pub(crate) struct Liar {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Liar {
    pub(crate) async fn start(lie: Lie) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(listener, lie, Arc::clone(&asked)));
        Self { address, asked, task }
    }

    /// Returns a liar that sends `text` with its line ends as HTTP wants them, and closes.
    pub(crate) async fn says(text: &str) -> Self {
        Self::start(Lie::Say(crlf(text))).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the requests so far.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns text whose line ends are CRLF.
pub(crate) fn crlf(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").into_bytes()
}

async fn accept(listener: TcpListener, lie: Lie, asked: Arc<AtomicUsize>) {
    let mut talks = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        talks.spawn(talk(stream, lie.clone(), Arc::clone(&asked)));
    }
}

async fn talk(mut stream: TcpStream, lie: Lie, asked: Arc<AtomicUsize>) {
    if !read_head(&mut stream).await {
        return;
    }
    asked.fetch_add(1, SeqCst);
    match lie {
        Lie::Silence => stall(stream).await,
        Lie::Reset => reset(&stream),
        Lie::Say(bytes) => {
            // The peer may have given up already; a liar doesn't mind.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Lie::SayAndReset(bytes) => {
            let _ = stream.write_all(&bytes).await;
            reset(&stream);
        }
        Lie::SayAndStall(bytes) => {
            let _ = stream.write_all(&bytes).await;
            stall(stream).await;
        }
    }
}

async fn read_head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return false,
            Ok(length) => head.extend_from_slice(&piece[..length]),
        }
    }
    true
}

/// Keeps the connection open until the other side closes it.
async fn stall(mut stream: TcpStream) {
    let mut piece = [0; 1024];
    while matches!(stream.read(&mut piece).await, Ok(length) if length > 0) {}
}

/// Makes the coming close a reset.
fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

/// An address that refuses connections for as long as this lives: bound, never listening.
pub(crate) struct Refusing(socket2::Socket);

impl Refusing {
    pub(crate) fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        socket.bind(&any.into()).unwrap();
        Self(socket)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap().as_socket().unwrap())
    }
}
