//! Detection of the HTTP version that a cleartext client speaks, by its first bytes.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::watch::Protocol;

/// The first bytes of every HTTP/2 client (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Enough for most request heads, so that detection rarely costs a read of its own.
const FIRST_READ: usize = 2048;

/// Reads until the version is clear. Returns it with what has been read, which the protocol has yet to parse; `None` if
/// the client closed without a byte. The caller bounds the time.
pub(super) async fn detect<R: AsyncRead + Unpin>(io: &mut R) -> io::Result<Option<(Protocol, Bytes)>> {
    let mut seen = BytesMut::with_capacity(FIRST_READ);
    loop {
        let ended = io.read_buf(&mut seen).await? == 0;
        if ended && seen.is_empty() {
            return Ok(None);
        }
        if let Some(protocol) = decide(&seen) {
            return Ok(Some((protocol, seen.freeze())));
        }
        if ended {
            // Half a preface; HTTP/1 refuses it.
            return Ok(Some((Protocol::Http1, seen.freeze())));
        }
    }
}

/// Returns the version; `None` while the bytes could still become the preface.
fn decide(seen: &[u8]) -> Option<Protocol> {
    if seen.len() >= PREFACE.len() {
        return Some(if seen.starts_with(PREFACE) { Protocol::Http2 } else { Protocol::Http1 });
    }
    if PREFACE.starts_with(seen) { None } else { Some(Protocol::Http1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decided_as_early_as_possible() {
        let mut preface_and_more = PREFACE.to_vec();
        preface_and_more.extend_from_slice(b"\0\0\0\x04");
        let cases: [(&[u8], Option<Protocol>); 10] = [
            (b"", None),
            (b"G", Some(Protocol::Http1)),
            (b"P", None),
            (b"PO", Some(Protocol::Http1)),
            (b"PR", None),
            (b"PRO", Some(Protocol::Http1)),
            (&PREFACE[..23], None),
            (PREFACE, Some(Protocol::Http2)),
            (&preface_and_more[..], Some(Protocol::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r", Some(Protocol::Http1)),
        ];
        for (seen, expected) in cases {
            assert_eq!(decide(seen), expected, "{}", seen.escape_ascii());
        }
    }

    #[tokio::test]
    async fn what_was_read_is_handed_on() {
        let cases: [(&[u8], Protocol); 3] =
            [(b"GET / HTTP/1.1\r\n", Protocol::Http1), (PREFACE, Protocol::Http2), (b"PRI * HTTP/2", Protocol::Http1)];
        for (sent, expected) in cases {
            let mut io = sent;
            let (protocol, seen) = detect(&mut io).await.unwrap().unwrap();
            assert_eq!((protocol, &seen[..]), (expected, sent));
        }
        let mut closed: &[u8] = b"";
        assert!(detect(&mut closed).await.unwrap().is_none());
    }
}
