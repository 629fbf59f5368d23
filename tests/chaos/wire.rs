//! HTTP/1.1 on a socket, no more than is needed to see where a message ends and whether it broke off before.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Longest head, and longest line of a chunked body.
const HEAD_MAX: usize = 64 << 10;
/// Longest body.
const BODY_MAX: usize = 16 << 20;
/// Bytes read from the socket at once.
const PIECE: usize = 32 << 10;

/// The start line and the fields of a message.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// The start line.
    pub(crate) first: String,
    fields: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> io::Result<Self> {
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let fields: Option<Vec<_>> = lines.map(field).collect();
        fields.map(|fields| Self { first, fields }).ok_or_else(|| broken("a field without a colon"))
    }

    /// The value of the first field of this name, in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find_map(|(known, value)| (known == name).then_some(value.as_str()))
    }

    /// The method and the target of a request.
    pub(crate) fn request(&self) -> io::Result<(&str, &str)> {
        let mut words = self.first.split(' ');
        words.next().zip(words.next()).ok_or_else(|| broken("not a request line"))
    }

    /// The status of a response.
    pub(crate) fn status(&self) -> io::Result<u16> {
        let word = self.first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        word.and_then(|word| word.parse().ok()).ok_or_else(|| broken("not a status line"))
    }

    /// The framing of a request's body.
    pub(crate) fn request_framing(&self) -> io::Result<Framing> {
        Ok(self.framing()?.unwrap_or(Framing::Length(0)))
    }

    /// The framing of the body of a response to a method other than HEAD.
    pub(crate) fn response_framing(&self) -> io::Result<Framing> {
        match self.status()? {
            100..200 | 204 | 304 => Ok(Framing::Length(0)),
            _ => Ok(self.framing()?.unwrap_or(Framing::Close)),
        }
    }

    fn framing(&self) -> io::Result<Option<Framing>> {
        if self.get("transfer-encoding").is_some_and(|codings| codings.eq_ignore_ascii_case("chunked")) {
            return Ok(Some(Framing::Chunked));
        }
        let Some(length) = self.get("content-length") else { return Ok(None) };
        length.parse().map(|length| Some(Framing::Length(length))).map_err(|_| broken("no length"))
    }
}

/// The framing of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many bytes.
    Length(usize),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// A body as it arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    /// Whether it ended as its framing says.
    pub(crate) whole: bool,
}

/// A connection.
pub(crate) struct Wire {
    stream: TcpStream,
    /// Read, and not used yet.
    ahead: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream))
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next message's head; `None` if the connection was closed before it began.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.ahead, b"\r\n\r\n") {
                let bytes: Vec<u8> = self.ahead.drain(..end + 4).take(end).collect();
                let text = String::from_utf8(bytes).map_err(|_| broken("a head that is no text"))?;
                return Head::parse(&text).map(Some);
            }
            if self.ahead.len() > HEAD_MAX {
                return Err(broken("a head without end"));
            }
            if !self.more().await? {
                return if self.ahead.is_empty() { Ok(None) } else { Err(broken("a head that breaks off")) };
            }
        }
    }

    /// The body that follows a head. What arrived before it broke off is in it.
    pub(crate) async fn body(&mut self, framing: Framing) -> Received {
        let mut bytes = Vec::new();
        let end = match framing {
            Framing::Length(length) => self.exactly(length, &mut bytes).await,
            Framing::Chunked => self.chunks(&mut bytes).await,
            Framing::Close => self.rest(&mut bytes).await,
        };
        Received { bytes, whole: end.is_ok() }
    }

    async fn exactly(&mut self, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let end = into.len() + length;
        if end > BODY_MAX {
            return Err(broken("a body without end"));
        }
        loop {
            let count = self.ahead.len().min(end - into.len());
            into.extend_from_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
            if into.len() == end {
                return Ok(());
            }
            self.some().await?;
        }
    }

    async fn chunks(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let line = self.line().await?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let length = usize::from_str_radix(digits, 16).map_err(|_| broken("not the size of a chunk"))?;
            if length == 0 {
                // Trailers, if there are any.
                while !self.line().await?.is_empty() {}
                return Ok(());
            }
            self.exactly(length, into).await?;
            if !self.line().await?.is_empty() {
                return Err(broken("a chunk that is longer than its size"));
            }
        }
    }

    async fn rest(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        loop {
            into.append(&mut self.ahead);
            if into.len() > BODY_MAX {
                return Err(broken("a body without end"));
            }
            if !self.more().await? {
                return Ok(());
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.ahead, b"\r\n") {
                let bytes: Vec<u8> = self.ahead.drain(..end + 2).take(end).collect();
                return String::from_utf8(bytes).map_err(|_| broken("a line that is no text"));
            }
            if self.ahead.len() > HEAD_MAX {
                return Err(broken("a line without end"));
            }
            self.some().await?;
        }
    }

    async fn some(&mut self) -> io::Result<()> {
        if self.more().await? { Ok(()) } else { Err(broken("the connection was closed")) }
    }

    /// Reads on; false at the end of the connection.
    async fn more(&mut self) -> io::Result<bool> {
        self.ahead.reserve(PIECE);
        Ok(self.stream.read_buf(&mut self.ahead).await? > 0)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Returns what a client reads when the other side sends this and closes.
    async fn heard(said: &'static str) -> (u16, Received) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let saying = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
        });
        let mut wire = Wire::connect(address).await.unwrap();
        let head = wire.head().await.unwrap().unwrap();
        let body = wire.body(head.response_framing().unwrap()).await;
        saying.await.unwrap();
        (head.status().unwrap(), body)
    }

    #[tokio::test]
    async fn what_breaks_off_is_seen() {
        for (said, status, body, whole) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, "abc", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", 200, "ab", false),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabc", 200, "ab", true),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
                200,
                "abc",
                true,
            ),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nt: 1\r\n\r\n", 200, "ab", true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n", 200, "ab", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n", 200, "ab", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", 200, "ab", false),
            ("HTTP/1.1 200 OK\r\n\r\nabc", 200, "abc", true),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n", 304, "", true),
        ] {
            let received = Received { bytes: body.as_bytes().to_vec(), whole };
            assert_eq!(heard(said).await, (status, received), "{said}");
        }
    }
}
