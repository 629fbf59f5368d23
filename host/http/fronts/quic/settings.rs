//! The settings of QUIC, from those of the node.

use std::{sync::Arc, time::Duration};

use quinn::{IdleTimeout, ServerConfig, TransportConfig, crypto::rustls::QuicServerConfig};
use rustls::server::ServerSessionMemoryCache;

use super::early;
use crate::{
    config::{Http3, Limits, Timeouts},
    http::{error::Error, tls::Certificates},
};

/// ALPN's name of HTTP/3.
const ALPN_HTTP_3: &[u8] = b"h3";

/// Unidirectional streams of a client: its control stream and two of QPACK, and some that only exercise this side.
const UNIDIRECTIONAL_MAX: u32 = 16;

/// Connections that wait until one of the slots is free, and bytes that they may have sent by then, each and all.
const WAITING_MAX: usize = 1_024;
const WAITING_BYTES: u64 = 64 * 1024;
const WAITING_BYTES_ALL: u64 = 16 << 20;

/// The least time without a packet after which a client is asked whether it is still there, and how long it has to say
/// so.
const PING_MIN: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// What holds for connections that a listener accepts from now on, beside the rules of the server.
pub(in crate::http) struct Settings {
    /// TLS whose tickets hold all that there is of a session, without early data.
    tls: Arc<rustls::ServerConfig>,
    crypto: Arc<QuicServerConfig>,
    /// Whether early data may be taken at all: not where clients show certificates.
    may_be_early: bool,
    /// Sessions that may be resumed with early data; `None` takes none.
    sessions: Option<Arc<ServerSessionMemoryCache>>,
    pub(super) http3: Http3,
}

impl Settings {
    /// Returns those of the configuration for an address with these certificates.
    ///
    /// # Errors
    /// [`Error::Settings`] if TLS can't be set up.
    pub(in crate::http) fn new(http3: &Http3, certificates: &Certificates) -> Result<Self, Error> {
        let tls = Arc::new(tls(certificates)?);
        let crypto = QuicServerConfig::try_from(Arc::clone(&tls));
        let crypto = crypto.map_err(|error| Error::Settings(Box::new(rustls::Error::General(error.to_string()))))?;
        let may_be_early = !certificates.asks_clients();
        let sessions = sessions(http3, may_be_early);
        Ok(Self { tls, crypto: Arc::new(crypto), may_be_early, sessions, http3: http3.clone() })
    }

    /// Returns the same with another configuration.
    pub(super) fn with(&self, http3: &Http3) -> Self {
        let of_early = |http3: &Http3| (http3.early_data, http3.early_sessions_max);
        let sessions = if of_early(http3) == of_early(&self.http3) {
            self.sessions.clone()
        } else {
            sessions(http3, self.may_be_early)
        };
        let (tls, crypto) = (Arc::clone(&self.tls), Arc::clone(&self.crypto));
        Self { tls, crypto, may_be_early: self.may_be_early, sessions, http3: http3.clone() }
    }

    /// Whether early data is taken.
    pub(super) const fn takes_early_data(&self) -> bool {
        self.sessions.is_some()
    }

    /// Returns what the settings of all connections of a listener have in common, with a key of its own for tokens that
    /// prove a client's address.
    pub(super) fn template(&self) -> ServerConfig {
        let mut template = ServerConfig::with_crypto(self.crypto.clone());
        template
            .max_incoming(WAITING_MAX)
            .incoming_buffer_size(WAITING_BYTES)
            .incoming_buffer_size_total(WAITING_BYTES_ALL);
        template
    }

    /// Returns the settings of connections that are opened by these rules.
    pub(super) fn server(&self, template: &ServerConfig, limits: &Limits, timeouts: &Timeouts) -> ServerConfig {
        let mut server = template.clone();
        server.crypto = self.crypto(limits);
        server.transport = Arc::new(transport(&self.http3, limits, timeouts));
        server
    }

    fn crypto(&self, limits: &Limits) -> Arc<QuicServerConfig> {
        let Some(sessions) = &self.sessions else { return Arc::clone(&self.crypto) };
        let tls = early::taking(&self.tls, sessions, early::promised(&self.http3, limits));
        // What can't be had with early data is had without.
        QuicServerConfig::try_from(tls).map_or_else(|_| Arc::clone(&self.crypto), Arc::new)
    }
}

/// Returns where sessions are kept that may be resumed with early data.
fn sessions(http3: &Http3, may_be_early: bool) -> Option<Arc<ServerSessionMemoryCache>> {
    (http3.early_data && may_be_early).then(|| ServerSessionMemoryCache::new(http3.early_sessions_max))
}

/// Returns the TLS of HTTP/3, without early data. Over QUIC the library speaks no version before TLS 1.3 (RFC 9001,
/// section 4.2), whatever the oldest one of the address is.
fn tls(certificates: &Certificates) -> Result<rustls::ServerConfig, Error> {
    let mut tls = certificates.server_config(&[ALPN_HTTP_3])?;
    tls.max_early_data_size = 0;
    Ok(tls)
}

fn transport(http3: &Http3, limits: &Limits, timeouts: &Timeouts) -> TransportConfig {
    let ping = (timeouts.idle / 2).max(PING_MIN);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(limits.streams_max.into())
        .max_concurrent_uni_streams(UNIDIRECTIONAL_MAX.into())
        // That of a connection without requests is the driver's; this one finds clients that have vanished.
        .max_idle_timeout(IdleTimeout::try_from(ping + PING_TIMEOUT).ok())
        .keep_alive_interval(Some(ping))
        .send_window(http3.send_bytes_max)
        .receive_window(http3.receive_bytes_max.into())
        // So that one body that isn't read doesn't stop the others.
        .stream_receive_window((http3.receive_bytes_max / 4).into())
        .datagram_receive_buffer_size(None)
        .enable_segmentation_offload(http3.segmentation_offload);
    transport
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Certificate, ListenTls, TlsVersion},
        http::tls::Metrics,
    };

    #[tokio::test]
    async fn whatever_tls_an_address_has_serves_quic_and_takes_no_early_data_unless_it_is_told_to() {
        let names = vec!["localhost".to_owned()];
        for version_min in [TlsVersion::Tls12, TlsVersion::Tls13] {
            let made = Certificate::SelfSigned { names: names.clone() };
            let listen = ListenTls { version_min, ..ListenTls::new(vec![made]) };
            let certificates = Certificates::load(&listen, &Metrics::default()).await.unwrap();
            let tls = tls(&certificates).unwrap();
            assert_eq!((tls.max_early_data_size, tls.alpn_protocols), (0, vec![b"h3".to_vec()]));
            let settings = Settings::new(&Http3::default(), &certificates).unwrap();
            assert!(!settings.takes_early_data(), "{version_min:?}");
            let early = Http3 { early_data: true, ..Http3::default() };
            let taking = settings.with(&early);
            assert!(taking.takes_early_data() && !taking.with(&Http3::default()).takes_early_data());
            let kept = |settings: &Settings| settings.sessions.as_ref().map(Arc::as_ptr);
            assert_eq!(kept(&taking), kept(&taking.with(&early)), "an exchange forgets no session");
            let over_tcp = certificates.server_config(&[b"h2"]).unwrap();
            assert_eq!(over_tcp.max_early_data_size, 0, "over TCP there is none");
        }
    }

    #[test]
    fn the_limits_of_the_node_are_those_of_quic() {
        let http3 = Http3 { send_bytes_max: 77_777, receive_bytes_max: 400_000, ..Http3::default() };
        let limits = Limits { streams_max: 55, ..Limits::default() };
        let timeouts = Timeouts { idle: Duration::from_secs(40), ..Timeouts::default() };
        let shown = format!("{:?}", transport(&http3, &limits, &timeouts));
        for piece in [
            "max_concurrent_bidi_streams: 55",
            "max_idle_timeout: Some(30000)",
            "send_window: 77777",
            "stream_receive_window: 100000",
            " receive_window: 400000",
            "keep_alive_interval: Some(20s)",
        ] {
            assert!(shown.contains(piece), "{piece} is missing in {shown}");
        }
    }
}
