//! The harness of the tests: nodes, origins, a Redis and clients, all over real sockets. Every wait has a limit and
//! waits for a condition; nothing sleeps for a fixed time.

pub(crate) mod client;
pub(crate) mod dns;
pub(crate) mod etcd;
pub(crate) mod h2;
pub(crate) mod h3;
pub(crate) mod liar;
pub(crate) mod load;
pub(crate) mod model;
pub(crate) mod node;
pub(crate) mod origin;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod relay;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// Longest wait of a test for anything; generous, because several tests share few cores.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(5);

/// Awaits `future`, but not for ever.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(LIMIT, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not done within {LIMIT:?}"),
    }
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    found(what, async || condition().await.then_some(())).await;
}

/// Waits until `look` finds something.
pub(crate) async fn found<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(thing) = look().await {
            return thing;
        }
        assert!(Instant::now() < end, "{what}: not seen within {LIMIT:?}");
    }
}

/// Returns an address that nobody listens at now.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A body of `length` bytes that nothing else looks like and that proves itself: the digest of the rest, then the rest.
pub(crate) fn sealed(seed: &str, length: usize) -> Bytes {
    assert!(length > SEAL, "a sealed body is longer than its seal");
    let mut rest = vec![0; length - SEAL];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut rest);
    let mut whole = blake3::hash(&rest).to_hex().as_bytes().to_vec();
    whole.append(&mut rest);
    whole.into()
}

/// Whether it is whole and unmixed.
pub(crate) fn is_sealed(body: &[u8]) -> bool {
    body.len() > SEAL && blake3::hash(&body[SEAL..]).to_hex().as_bytes() == &body[..SEAL]
}

/// Bytes of the digest in hex that leads a sealed body.
const SEAL: usize = 64;

/// A file of this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Text as a TOML string, for paths and URLs.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
