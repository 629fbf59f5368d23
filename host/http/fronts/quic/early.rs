//! Early data (0-RTT; RFC 8446, section 2.3; RFC 9001, section 4.6): the sessions that a client may resume with it.
//!
//! A session is kept in this process and is gone once it is resumed, so that the same early data is taken once at most,
//! as RFC 8446, section 8.1 has it. That doesn't hold across nodes, and so nothing that early data asks for may have an
//! effect; the pipeline sees to that.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions},
};

use crate::config::{Http3, Limits};

/// Bytes of what a client was promised.
const PROMISED: usize = 32;

/// What a client of early data counts on, since it was told so when its session began: with less of any it would have to
/// close the connection (RFC 9000, section 7.4.1; RFC 9114, section 7.2.4.2).
pub(super) type Promised = [u8; PROMISED];

/// Returns what clients are promised by these settings.
pub(super) fn promised(http3: &Http3, limits: &Limits) -> Promised {
    let numbers = [
        u64::from(http3.receive_bytes_max),
        u64::from(limits.streams_max),
        limits.header_bytes_max as u64,
        limits.headers_max as u64,
    ];
    let mut promised = [0; PROMISED];
    for (bytes, number) in promised.chunks_exact_mut(8).zip(numbers) {
        bytes.copy_from_slice(&number.to_be_bytes());
    }
    promised
}

/// Returns the same TLS with early data, whose sessions are kept there.
pub(super) fn taking(tls: &ServerConfig, sessions: &Arc<ServerSessionMemoryCache>, promised: Promised) -> ServerConfig {
    let mut tls = tls.clone();
    tls.session_storage = Arc::new(Sessions { kept: Arc::clone(sessions), promised });
    // The library takes early data of no session that it knows from a ticket alone: that could be resumed any number of
    // times.
    tls.ticketer = Arc::new(NoTickets);
    // The only number that QUIC knows beside none (RFC 9001, section 4.6.1).
    tls.max_early_data_size = u32::MAX;
    tls
}

/// Sessions that are resumed by what their clients were promised, or not at all.
#[derive(Debug)]
struct Sessions {
    kept: Arc<ServerSessionMemoryCache>,
    promised: Promised,
}

impl Sessions {
    fn of_same(&self, mut session: Vec<u8>) -> Option<Vec<u8>> {
        session.starts_with(&self.promised).then(|| session.split_off(PROMISED))
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.kept.put(key, [&self.promised[..], &value].concat())
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.kept.get(key).and_then(|session| self.of_same(session))
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.kept.take(key).and_then(|session| self.of_same(session))
    }

    fn can_cache(&self) -> bool {
        self.kept.can_cache()
    }
}

/// Makes no tickets, so that sessions are kept.
#[derive(Debug)]
struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_resumed_once_and_by_what_its_client_was_promised() {
        let (http3, limits, kept) = (Http3::default(), Limits::default(), ServerSessionMemoryCache::new(10));
        let sessions =
            |http3: &Http3, limits: &Limits| Sessions { kept: Arc::clone(&kept), promised: promised(http3, limits) };
        let same = sessions(&http3, &limits);
        for other in [
            sessions(&Http3 { receive_bytes_max: 70_000, ..http3.clone() }, &limits),
            sessions(&http3, &Limits { streams_max: 7, ..limits.clone() }),
            sessions(&http3, &Limits { header_bytes_max: 9_000, ..limits.clone() }),
            sessions(&http3, &Limits { headers_max: 9, ..limits.clone() }),
        ] {
            assert!(same.put(b"key".to_vec(), b"session".to_vec()));
            assert_eq!((same.get(b"key").as_deref(), other.get(b"key")), (Some(&b"session"[..]), None));
            assert_eq!((other.take(b"key"), same.take(b"key")), (None, None), "gone");
        }
        assert!(same.put(b"key".to_vec(), b"session".to_vec()));
        assert_eq!((same.take(b"key").as_deref(), same.take(b"key")), (Some(&b"session"[..]), None), "once");
    }
}
