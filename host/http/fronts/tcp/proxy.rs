//! The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): the client's address, as a balancer sends it
//! ahead of the connection's own bytes.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How version 2 begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of the longest line of version 1, its end included.
const LINE_MAX: usize = 107;

/// Bytes of addresses and extensions that are read of version 2.
const BODY_MAX: usize = 4096;

/// Reads the header and nothing beyond it. Returns the client's address; `None` if the balancer speaks for itself, as in
/// its health checks, or doesn't know it. The caller bounds the time.
///
/// # Errors
/// The connection breaks, or doesn't begin with such a header.
pub(super) async fn read<R: AsyncRead + Unpin>(io: &mut R) -> io::Result<Option<SocketAddr>> {
    // No header of either version is shorter.
    let mut begin = [0; SIGNATURE.len()];
    io.read_exact(&mut begin).await?;
    if begin == SIGNATURE { version_2(io).await } else { version_1(io, &begin).await }
}

async fn version_1<R: AsyncRead + Unpin>(io: &mut R, begin: &[u8]) -> io::Result<Option<SocketAddr>> {
    let mut line = begin.to_vec();
    while !line.ends_with(b"\r\n") {
        // Byte by byte, because what follows the line is the connection's.
        if line.len() == LINE_MAX || !line.starts_with(b"PROXY ") {
            return Err(malformed());
        }
        line.push(io.read_u8().await?);
    }
    parse_line(&line).ok_or_else(malformed)
}

/// Reads a line of version 1; `None` if it isn't one.
fn parse_line(line: &[u8]) -> Option<Option<SocketAddr>> {
    let line = str::from_utf8(line).ok()?.strip_prefix("PROXY ")?.strip_suffix("\r\n")?;
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (source, destination) = (words.next()?, words.next()?);
    let is_family = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().is_ok(),
        "TCP6" => text.parse::<Ipv6Addr>().is_ok(),
        _ => false,
    };
    if !is_family(source) || !is_family(destination) {
        return None;
    }
    let (port, _) = (number(words.next()?)?, number(words.next()?)?);
    let address = SocketAddr::new(source.parse::<IpAddr>().ok()?, port);
    words.next().is_none().then_some(Some(address))
}

fn number(digits: &str) -> Option<u16> {
    // `parse` alone would let a plus sign pass.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

async fn version_2<R: AsyncRead + Unpin>(io: &mut R) -> io::Result<Option<SocketAddr>> {
    let (command, family) = (io.read_u8().await?, io.read_u8().await?);
    let length = usize::from(io.read_u16().await?);
    if length > BODY_MAX {
        return Err(malformed());
    }
    let mut body = vec![0; length];
    io.read_exact(&mut body).await?;
    parse_binary(command, family, &body).ok_or_else(malformed)
}

/// Reads version 2 behind its signature; `None` if it isn't that.
fn parse_binary(command: u8, family: u8, body: &[u8]) -> Option<Option<SocketAddr>> {
    match (command, family) {
        // The balancer's own connection, whatever else it says, or of a kind that has no address of the internet.
        (0x20, _) | (0x21, 0x00 | 0x31 | 0x32) => Some(None),
        (0x21, 0x11) => {
            let (source, rest) = body.split_first_chunk::<4>()?;
            Some(Some(SocketAddr::new(Ipv4Addr::from(*source).into(), source_port::<4>(rest)?)))
        }
        (0x21, 0x21) => {
            let (source, rest) = body.split_first_chunk::<16>()?;
            Some(Some(SocketAddr::new(Ipv6Addr::from(*source).into(), source_port::<16>(rest)?)))
        }
        _ => None,
    }
}

/// Returns the port of the source, which follows the address of the destination.
fn source_port<const ADDRESS: usize>(rest: &[u8]) -> Option<u16> {
    let (_, ports) = rest.split_first_chunk::<ADDRESS>()?;
    let (source, destination) = ports.split_first_chunk::<2>()?;
    (destination.len() >= 2).then(|| u16::from_be_bytes(*source))
}

fn malformed() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "no header of the PROXY protocol")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a header with a request behind it, of which nothing may be taken.
    async fn read_whole(header: &[u8]) -> Option<Option<String>> {
        let bytes = [header, b"GET / HTTP/1.1"].concat();
        let mut io = bytes.as_slice();
        let address = read(&mut io).await.ok()?;
        assert_eq!(io, b"GET / HTTP/1.1");
        Some(address.map(|address| address.to_string()))
    }

    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    #[tokio::test]
    async fn version_1_is_a_line() {
        for (header, wanted) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", Some(Some("192.0.2.1:56324"))),
            ("PROXY TCP6 2001:db8::1 2001:db8::2 1 443\r\n", Some(Some("[2001:db8::1]:1"))),
            ("PROXY UNKNOWN\r\n", Some(None)),
            ("PROXY UNKNOWN ffff:: ffff:: 1 2\r\n", Some(None)),
            ("PROXY TCP4 2001:db8::1 198.51.100.1 1 2\r\n", None),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n", None),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n", None),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 65536 2\r\n", None),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 +1 2\r\n", None),
            ("PROXY TCP5 192.0.2.1 198.51.100.1 1 2\r\n", None),
            ("PROXY TCP4  192.0.2.1 198.51.100.1 1 2\r\n", None),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ] {
            let read = read_whole(header.as_bytes()).await;
            assert_eq!(read, wanted.map(|address| address.map(str::to_owned)), "{header:?}");
        }
        assert_eq!(read_whole(format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_MAX)).as_bytes()).await, None);
    }

    #[tokio::test]
    async fn version_2_is_binary() {
        let four = [&[192_u8, 0, 2, 1, 198, 51, 100, 1][..], &[0xdc, 0x04, 0x01, 0xbb]].concat();
        let extended = [&four[..], &[0x03_u8, 0, 4, 1, 2, 3, 4]].concat();
        let six = [&[0x20_u8, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 16], &[0, 9, 0, 1]].concat();
        for (header, wanted) in [
            (binary(0x21, 0x11, &four), Some(Some("192.0.2.1:56324"))),
            (binary(0x21, 0x11, &extended), Some(Some("192.0.2.1:56324"))),
            (binary(0x21, 0x21, &six), Some(Some("[2001:db8::1]:9"))),
            (binary(0x20, 0x00, &[]), Some(None)),
            (binary(0x20, 0x11, &four), Some(None)),
            (binary(0x21, 0x00, &[]), Some(None)),
            (binary(0x21, 0x31, &[0; 216]), Some(None)),
            (binary(0x21, 0x11, &four[..11]), None),
            (binary(0x21, 0x21, &four), None),
            (binary(0x21, 0x12, &four), None),
            (binary(0x11, 0x11, &four), None),
            (binary(0x22, 0x11, &four), None),
            (binary(0x20, 0x00, &[0; BODY_MAX + 1]), None),
        ] {
            let read = read_whole(&header).await;
            assert_eq!(read, wanted.map(|address| address.map(str::to_owned)), "{}", header.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(line: Vec<u8>, command: u8, family: u8, body: Vec<u8>) {
            parse_line(&line);
            parse_line(&[b"PROXY TCP4 ", &line[..], b"\r\n"].concat());
            parse_binary(command, family, &body);
        }
    }
}
