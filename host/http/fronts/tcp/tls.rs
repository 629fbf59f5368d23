//! TLS over TCP, and the protocol that ALPN chose.

use std::sync::Arc;

use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::watch::Protocol;
use crate::http::{error::Error, tls::Certificates};

/// ALPN's name of HTTP/2.
const ALPN_HTTP_2: &[u8] = b"h2";

const ALPN_HTTP_11: &[u8] = b"http/1.1";

/// Returns what does the handshakes of a listener with these certificates.
pub(super) fn acceptor(certificates: &Certificates) -> Result<TlsAcceptor, Error> {
    let settings = certificates.server_config(&[ALPN_HTTP_2, ALPN_HTTP_11])?;
    Ok(TlsAcceptor::from(Arc::new(settings)))
}

/// Returns the protocol of a connection: HTTP/1 unless both sides agreed on another.
pub(super) fn protocol<S>(stream: &TlsStream<S>) -> Protocol {
    match stream.get_ref().1.alpn_protocol() {
        Some(ALPN_HTTP_2) => Protocol::Http2,
        _ => Protocol::Http1,
    }
}
