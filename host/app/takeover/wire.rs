//! What the two processes say to each other, over a Unix socket that only one of the same user may use.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
    time::timeout,
};

use crate::{cache::tag::Tag, http::Socket};

/// How both begin; another version would have other bytes here.
const HELLO: [u8; 8] = *b"holm-t-3";

/// How long the other side may take for what needs no work.
const REPLY_TIME: Duration = Duration::from_secs(5);

/// More sockets than any node listens at.
const SOCKETS_MAX: u32 = 10_000;

/// More tags than one message ever has.
const TAGS_MAX: u32 = 65_536;

/// Whose address a socket has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Clients,
    Admin,
}

/// One step of a takeover.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// New: all is put together that can be without the directories.
    Prepared,
    /// Old: the directories are closed.
    Released,
    /// New: they are open, and it can serve.
    Ready,
    /// Old: the other one may accept, and is the node from now on.
    Begin,
    /// Old: the other one may read the UDP sockets, and is to pass on what isn't its own.
    Datagrams,
    /// Old: it goes on by itself, and the other one is to end.
    GivenUp,
    /// Old: unsafe methods have changed these URLs; or so many that everything is to be confirmed.
    Invalidate { tags: Vec<Tag>, is_everything: bool },
    /// New: they are invalid, and whether they stay so if it ends.
    Applied { is_safe: bool },
}

/// The connection of the two.
pub(super) struct Wire(UnixStream);

impl Wire {
    /// Greets the other side, if it is a process of the same user.
    pub(super) async fn open(stream: UnixStream) -> io::Result<Self> {
        let user = rustix::process::geteuid().as_raw();
        if stream.peer_cred()?.uid() != user {
            return Err(io::Error::new(ErrorKind::PermissionDenied, "the other process is another user's"));
        }
        let mut wire = Self(stream);
        wire.0.write_all(&HELLO).await?;
        let mut hello = [0; HELLO.len()];
        in_time(REPLY_TIME, wire.0.read_exact(&mut hello)).await?;
        if hello == HELLO { Ok(wire) } else { Err(malformed("the other process speaks another version")) }
    }

    pub(super) async fn send(&mut self, message: &Message) -> io::Result<()> {
        // One that reads nothing isn't waited for.
        let bytes = encoded(message);
        in_time(REPLY_TIME, self.0.write_all(&bytes)).await
    }

    /// Receives a message within `limit`. A future that was dropped may have read half of one.
    pub(super) async fn receive(&mut self, limit: Duration) -> io::Result<Message> {
        in_time(limit, self.next()).await
    }

    /// Receives a message, whenever it comes.
    pub(super) async fn next(&mut self) -> io::Result<Message> {
        let code = self.0.read_u8().await?;
        Ok(match code {
            b'P' => Message::Prepared,
            b'L' => Message::Released,
            b'R' => Message::Ready,
            b'B' => Message::Begin,
            b'D' => Message::Datagrams,
            b'X' => Message::GivenUp,
            b'A' => Message::Applied { is_safe: self.0.read_u8().await? != 0 },
            b'I' => {
                let is_everything = self.0.read_u8().await? != 0;
                let count = bounded(self.0.read_u32().await?, TAGS_MAX)?;
                let mut tags = Vec::with_capacity(count);
                for _ in 0..count {
                    let mut tag = [0; 16];
                    self.0.read_exact(&mut tag).await?;
                    tags.push(Tag::from_bytes(tag));
                }
                Message::Invalidate { tags, is_everything }
            }
            _ => return Err(malformed("a message of an unknown kind")),
        })
    }

    /// Waits until the other side has closed the connection, for at most `limit`. Whether it has.
    pub(super) async fn ended(&mut self, limit: Duration) -> bool {
        let end = async { while self.next().await.is_ok() {} };
        timeout(limit, end).await.is_ok()
    }

    /// Says which process it is that sends, by which its claim on its node's name is known.
    pub(super) async fn send_process(&mut self, process: &str) -> io::Result<()> {
        in_time(REPLY_TIME, self.write_text(process)).await
    }

    pub(super) async fn receive_process(&mut self) -> io::Result<String> {
        in_time(REPLY_TIME, self.text()).await
    }

    /// Sends sockets, each with what it is for. All have to be taken in time.
    pub(super) async fn send_sockets(&mut self, sockets: &[(Role, Socket)]) -> io::Result<()> {
        self.send_sockets_within(REPLY_TIME, sockets).await
    }

    async fn send_sockets_within(&mut self, limit: Duration, sockets: &[(Role, Socket)]) -> io::Result<()> {
        in_time(limit, self.send_all(sockets)).await
    }

    async fn send_all(&mut self, sockets: &[(Role, Socket)]) -> io::Result<()> {
        let count = u32::try_from(sockets.len()).map_err(|_| malformed("too many sockets"))?;
        self.0.write_u32(count).await?;
        for (role, socket) in sockets {
            self.0.write_all(&[u8::from(*role == Role::Admin), u8::from(socket.owns_file)]).await?;
            self.write_text(&socket.name).await?;
            self.0.write_u8(u8::from(socket.key.is_some())).await?;
            if let Some(key) = &socket.key {
                self.0.write_all(key).await?;
            }
            self.send_descriptor(&socket.fd).await?;
        }
        Ok(())
    }

    pub(super) async fn receive_sockets(&mut self) -> io::Result<Vec<(Role, Socket)>> {
        in_time(REPLY_TIME, self.sockets()).await
    }

    async fn sockets(&mut self) -> io::Result<Vec<(Role, Socket)>> {
        let count = bounded(self.0.read_u32().await?, SOCKETS_MAX)?;
        let mut sockets = Vec::with_capacity(count);
        for _ in 0..count {
            let (role, owns_file) = (self.0.read_u8().await?, self.0.read_u8().await?);
            let name = self.text().await?;
            let key = if self.0.read_u8().await? == 0 { None } else { Some(self.key().await?) };
            let fd = self.receive_descriptor().await?;
            let role = if role == 0 { Role::Clients } else { Role::Admin };
            sockets.push((role, Socket { name, fd, owns_file: owns_file != 0, key }));
        }
        Ok(sockets)
    }

    async fn write_text(&mut self, text: &str) -> io::Result<()> {
        let length = u16::try_from(text.len()).map_err(|_| malformed("a name that is too long"))?;
        self.0.write_u16(length).await?;
        self.0.write_all(text.as_bytes()).await
    }

    async fn text(&mut self) -> io::Result<String> {
        let mut text = vec![0; usize::from(self.0.read_u16().await?)];
        self.0.read_exact(&mut text).await?;
        String::from_utf8(text).map_err(|_| malformed("a name that is no text"))
    }

    async fn key(&mut self) -> io::Result<[u8; 32]> {
        let mut key = [0; 32];
        self.0.read_exact(&mut key).await?;
        Ok(key)
    }

    /// Sends one byte, and with it a descriptor: so no read takes the bytes of two.
    async fn send_descriptor(&self, fd: &OwnedFd) -> io::Result<()> {
        let sent = self.0.async_io(Interest::WRITABLE, || {
            let fds = [fd.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(io::Error::other("there is no room for a descriptor"));
            }
            Ok(sendmsg(&self.0, &[IoSlice::new(b"f")], &mut control, SendFlags::NOSIGNAL)?)
        });
        sent.await.map(|_| ())
    }

    async fn receive_descriptor(&self) -> io::Result<OwnedFd> {
        let received = self.0.async_io(Interest::READABLE, || {
            let mut byte = [0];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let read = recvmsg(&self.0, &mut [IoSliceMut::new(&mut byte)], &mut control, RECEIVE)?;
            if read.bytes == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let fd = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            fd.ok_or_else(|| malformed("a byte without its descriptor"))
        });
        received.await
    }
}

/// A descriptor that was received isn't handed on to programs that this process starts, where the system can say so at
/// once; a node starts none.
#[cfg(target_os = "linux")]
const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(target_os = "linux"))]
const RECEIVE: RecvFlags = RecvFlags::empty();

fn encoded(message: &Message) -> Vec<u8> {
    match message {
        Message::Prepared => vec![b'P'],
        Message::Released => vec![b'L'],
        Message::Ready => vec![b'R'],
        Message::Begin => vec![b'B'],
        Message::Datagrams => vec![b'D'],
        Message::GivenUp => vec![b'X'],
        Message::Applied { is_safe } => vec![b'A', u8::from(*is_safe)],
        Message::Invalidate { tags, is_everything } => {
            let mut bytes = vec![b'I', u8::from(*is_everything)];
            // A batch of the purge log is far below that.
            bytes.extend(u32::try_from(tags.len()).unwrap_or(u32::MAX).to_be_bytes());
            tags.iter().for_each(|tag| bytes.extend(tag.as_bytes()));
            bytes
        }
    }
}

async fn in_time<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

fn bounded(count: u32, max: u32) -> io::Result<usize> {
    let count = if count <= max { usize::try_from(count).ok() } else { None };
    count.ok_or_else(|| malformed("more than there can be"))
}

/// Returns the error of a message that wasn't to come.
pub(super) fn unexpected(message: &Message) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{message:?} isn't what was to come"))
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    async fn pair() -> (Wire, Wire) {
        let (one, other) = UnixStream::pair().unwrap();
        let (one, other) = tokio::join!(Wire::open(one), Wire::open(other));
        (one.unwrap(), other.unwrap())
    }

    #[tokio::test]
    async fn messages_arrive_as_they_were_sent() {
        let (mut one, mut other) = pair().await;
        for message in [
            Message::Prepared,
            Message::Released,
            Message::Ready,
            Message::Begin,
            Message::Datagrams,
            Message::GivenUp,
            Message::Applied { is_safe: true },
            Message::Applied { is_safe: false },
            Message::Invalidate { tags: vec![Tag::url("a"), Tag::url("b")], is_everything: false },
            Message::Invalidate { tags: Vec::new(), is_everything: true },
        ] {
            one.send(&message).await.unwrap();
            assert_eq!(other.receive(REPLY_TIME).await.unwrap(), message);
        }
        let late = other.receive(Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::TimedOut);
        drop(one);
        assert!(other.ended(REPLY_TIME).await);
        assert_eq!(other.receive(REPLY_TIME).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn sockets_arrive_with_what_they_are() {
        let (mut one, mut other) = pair().await;
        let sockets: Vec<_> =
            [(Role::Clients, true, None), (Role::Admin, false, None), (Role::Clients, false, Some([7; 32]))]
                .into_iter()
                .map(|(role, owns_file, key)| (role, Socket { owns_file, key, ..socket("127.0.0.1:0") }))
                .collect();
        one.send_process("a process").await.unwrap();
        assert_eq!(other.receive_process().await.unwrap(), "a process");
        let (sent, received) = tokio::join!(one.send_sockets(&sockets), other.receive_sockets());
        sent.unwrap();
        let shown = |sockets: &[(Role, Socket)]| -> Vec<_> {
            sockets.iter().map(|(role, it)| (*role, it.name.clone(), it.address(), it.owns_file, it.key)).collect()
        };
        assert_eq!(shown(&received.unwrap()), shown(&sockets));
        one.send(&Message::Prepared).await.unwrap();
        assert_eq!(other.receive(REPLY_TIME).await.unwrap(), Message::Prepared);
    }

    fn socket(name: &str) -> Socket {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        Socket { name: name.to_owned(), fd: socket.into(), owns_file: false, key: None }
    }

    #[tokio::test]
    async fn a_process_that_takes_no_sockets_is_not_waited_for() {
        let (mut one, other) = pair().await;
        // More than the system holds on the way.
        let name = "n".repeat(usize::from(u16::MAX));
        let sockets: Vec<_> = (0..100).map(|_| (Role::Clients, socket(&name))).collect();
        let sent = one.send_sockets_within(Duration::from_millis(50), &sockets).await;
        assert_eq!(sent.unwrap_err().kind(), ErrorKind::TimedOut);
        drop(other);
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        for bytes in [&b"?"[..], b"I\0\xff\xff\xff\xff", b"A"] {
            let (mut one, mut other) = pair().await;
            one.0.write_all(bytes).await.unwrap();
            drop(one);
            assert!(other.receive(REPLY_TIME).await.is_err(), "{bytes:?}");
        }
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(b"GET / HT").await.unwrap();
        assert!(Wire::open(other).await.is_err());
    }
}
