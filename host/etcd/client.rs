//! The client: which endpoint a call goes to, who it is signed by, and what its failure means.

use std::{
    error::Error as StdError,
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use prost::Message;
use tokio::time::{Instant, timeout_at};
use tonic::{
    Code, ConnectError, Request, Status, Streaming,
    client::Grpc,
    metadata::AsciiMetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

use super::{
    error::Error,
    message::{
        AuthenticateRequest, AuthenticateResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
        LeaseKeepAliveResponse, LeaseRevokeRequest, LeaseRevokeResponse, TxnResponse,
    },
    txn::{LeaseId, Op, OpReply, Pair, Txn, TxnReply, after_prefix},
    watch::{self, Watch},
};
use crate::{clock, config};

/// Bytes of one reply; a larger one is a failure. A server takes requests of 1.5 MiB by default, so that what it was given
/// in a few of them fits.
const REPLY_BYTES_MAX: usize = 16 << 20;

/// Between two pings of a connection that is in use. Servers close one that is pinged more often than each 5 s.
const PING: Duration = Duration::from_secs(10);

/// How long the reply to one may take.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A call of etcd's API.
#[derive(Clone, Copy)]
struct Call {
    name: &'static str,
    path: &'static str,
}

const TXN: Call = Call { name: "a transaction", path: "/etcdserverpb.KV/Txn" };
const WATCH: Call = Call { name: "a watch", path: "/etcdserverpb.Watch/Watch" };
const GRANT: Call = Call { name: "a new lease", path: "/etcdserverpb.Lease/LeaseGrant" };
const REVOKE: Call = Call { name: "the end of a lease", path: "/etcdserverpb.Lease/LeaseRevoke" };
const KEEP_ALIVE: Call = Call { name: "a lease's renewal", path: "/etcdserverpb.Lease/LeaseKeepAlive" };
const AUTHENTICATE: Call = Call { name: "authentication", path: "/etcdserverpb.Auth/Authenticate" };

/// A client of one cluster. Its clones share their connections. It connects when it is used.
#[derive(Clone)]
pub struct Etcd {
    shared: Arc<Shared>,
}

struct Shared {
    peers: Vec<Peer>,
    /// The endpoint that is in use.
    current: AtomicUsize,
    user: Option<AuthenticateRequest>,
    token: Mutex<Option<AsciiMetadataValue>>,
    timeout: Duration,
}

struct Peer {
    url: String,
    endpoint: Endpoint,
    channel: Mutex<Option<Channel>>,
}

/// Why an attempt at one endpoint brought nothing.
enum Failure {
    /// The call was not sent.
    Unsent(String),
    /// The server doesn't know the client, or no longer.
    Unsigned(String),
    /// The server refused the call.
    Refused(String),
    /// The call was sent and its reply was lost.
    Lost(String),
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<&str> = self.endpoints().collect();
        f.debug_struct("Etcd").field("endpoints", &urls).finish_non_exhaustive()
    }
}

impl Etcd {
    /// Prepares a client, and reads the certificates and the key that it is to use.
    ///
    /// # Errors
    /// [`Error::Endpoint`]: there is no endpoint, or one can't be used as it is configured. [`Error::File`]: a file of
    /// TLS can't be read.
    pub fn new(config: &config::Etcd) -> Result<Self, Error> {
        let count = u32::try_from(config.endpoints.len()).unwrap_or(u32::MAX);
        // So that there is time for the other endpoints when connecting to one takes too long.
        let connect = config.timeout / count.saturating_add(1);
        let tls = tls(config, connect)?;
        let peer = |url: &String| -> Result<Peer, Error> {
            let unusable = |reason: &tonic::transport::Error| Error::Endpoint {
                endpoint: url.clone(),
                reason: root(reason).unwrap_or_else(|| reason.to_string()),
            };
            let endpoint = Endpoint::from_shared(url.clone()).map_err(|reason| unusable(&reason))?;
            let endpoint =
                endpoint.connect_timeout(connect).http2_keep_alive_interval(PING).keep_alive_timeout(PING_TIMEOUT);
            let endpoint = if url.starts_with("https:") {
                endpoint.tls_config(tls.clone()).map_err(|reason| unusable(&reason))?
            } else {
                endpoint
            };
            Ok(Peer { url: url.clone(), endpoint, channel: Mutex::default() })
        };
        let peers = config.endpoints.iter().map(peer).collect::<Result<Vec<_>, Error>>()?;
        if peers.is_empty() {
            return Err(Error::Endpoint { endpoint: String::new(), reason: "there is none".to_owned() });
        }
        let password = || config.password.clone().unwrap_or_default();
        let user = config.user.clone().map(|name| AuthenticateRequest { name, password: password() });
        let shared =
            Shared { peers, current: AtomicUsize::new(0), user, token: Mutex::default(), timeout: config.timeout };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns the URLs of the endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.shared.peers.iter().map(|peer| peer.url.as_str())
    }

    /// Returns how long one call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    /// Does a transaction. What only reads is tried at each endpoint.
    ///
    /// # Errors
    /// [`Error::Unknown`] if it may have taken effect; it has not with all others.
    pub async fn txn(&self, txn: Txn) -> Result<TxnReply, Error> {
        let (is_read, lengths) = (txn.is_read(), (txn.then.len(), txn.otherwise.len()));
        let (reply, endpoint): (TxnResponse, _) = self.call(TXN, txn.into_request(), is_read).await?;
        TxnReply::read(reply, lengths).ok_or_else(|| {
            if is_read {
                return Error::Reply { endpoint, call: TXN.name };
            }
            Error::Unknown { endpoint, call: TXN.name, reason: "the reply has an unexpected form".to_owned() }
        })
    }

    /// Reads a key; `None` if it isn't there.
    ///
    /// # Errors
    /// As [`Etcd::txn`].
    pub async fn get(&self, key: impl Into<Bytes> + Send) -> Result<Option<Pair>, Error> {
        let (_, reply) = self.one(Op::get(key)).await?;
        Ok(reply.into_pairs().pop())
    }

    /// Reads up to `limit` keys from `key` to the one before `end`, by key; 0 for all. Returns the store's revision as
    /// well, and whether there are more.
    ///
    /// # Errors
    /// As [`Etcd::txn`].
    pub async fn range(
        &self,
        key: impl Into<Bytes> + Send,
        end: impl Into<Bytes> + Send,
        limit: usize,
    ) -> Result<(i64, Vec<Pair>, bool), Error> {
        let (revision, reply) = self.one(Op::range(key, end, limit)).await?;
        let more = matches!(reply, OpReply::Got { more: true, .. });
        Ok((revision, reply.into_pairs(), more))
    }

    /// Writes a key, which goes with `lease` if there is one. Returns the revision.
    ///
    /// # Errors
    /// As [`Etcd::txn`].
    pub async fn put(
        &self,
        key: impl Into<Bytes> + Send,
        value: impl Into<Bytes> + Send,
        lease: Option<LeaseId>,
    ) -> Result<i64, Error> {
        let (revision, _) = self.one(Op::Put { key: key.into(), value: value.into(), lease }).await?;
        Ok(revision)
    }

    /// Deletes a key. Returns whether it was there.
    ///
    /// # Errors
    /// As [`Etcd::txn`].
    pub async fn delete(&self, key: impl Into<Bytes> + Send) -> Result<bool, Error> {
        let (_, reply) = self.one(Op::delete(key)).await?;
        Ok(matches!(reply, OpReply::Deleted(1..)))
    }

    async fn one(&self, op: Op) -> Result<(i64, OpReply), Error> {
        let reply = self.txn(Txn { then: vec![op], ..Txn::default() }).await?;
        let revision = reply.revision;
        // Without a comparison it succeeds, so there is a reply to the one operation.
        let only = reply.replies.into_iter().next().unwrap_or(OpReply::Put);
        Ok((revision, only))
    }

    /// Watches all keys that begin with `prefix`, from a revision on; 0 for the present one.
    ///
    /// # Errors
    /// As [`Etcd::watch_range`].
    pub async fn watch(&self, prefix: impl Into<Bytes> + Send, from_revision: i64) -> Result<Watch, Error> {
        let prefix = prefix.into();
        let end = after_prefix(&prefix);
        self.watch_range(prefix, end, from_revision).await
    }

    /// Watches the keys from `key` to the one before `end`, from a revision on; 0 for the present one.
    ///
    /// # Errors
    /// [`Error::Unreachable`] or [`Error::Refused`]: there is no watch.
    pub async fn watch_range(
        &self,
        key: impl Into<Bytes> + Send,
        end: impl Into<Bytes> + Send,
        from_revision: i64,
    ) -> Result<Watch, Error> {
        let (key, end) = (key.into(), end.into());
        let mut attempts = Attempts::new(&self.shared, WATCH, true);
        loop {
            let at = attempts.at();
            let requests = watch::requests(key.clone(), end.clone(), from_revision);
            let outcome = timeout_at(attempts.end, self.stream(&self.shared.peers[at], WATCH, requests)).await;
            if let Some(replies) = attempts.judge(at, outcome.ok())? {
                return Ok(Watch::new(replies, self.shared.peers[at].url.clone()));
            }
        }
    }

    /// Makes a lease of whole seconds, at least one.
    ///
    /// # Errors
    /// As [`Etcd::txn`]. A lease of which nobody knows expires by itself.
    pub async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let ttl = i64::try_from(seconds.max(1)).unwrap_or(i64::MAX);
        let (reply, endpoint): (LeaseGrantResponse, _) = self.call(GRANT, LeaseGrantRequest { ttl }, false).await?;
        if !reply.error.is_empty() {
            return Err(Error::Refused { endpoint, call: GRANT.name, reason: reply.error });
        }
        Ok(LeaseId(reply.id))
    }

    /// Renews a lease. Returns how long it lasts from now on.
    ///
    /// # Errors
    /// [`Error::Expired`]: there is no such lease any more. Others as [`Etcd::txn`].
    pub async fn lease_keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        let LeaseId(id) = lease;
        let mut attempts = Attempts::new(&self.shared, KEEP_ALIVE, true);
        let reply = loop {
            let at = attempts.at();
            let outcome = timeout_at(attempts.end, self.renew(&self.shared.peers[at], id)).await;
            if let Some(reply) = attempts.judge(at, outcome.ok())? {
                break reply;
            }
        };
        match u64::try_from(reply.ttl) {
            Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
            _ => Err(Error::Expired(id)),
        }
    }

    async fn renew(&self, peer: &Peer, id: i64) -> Result<LeaseKeepAliveResponse, Failure> {
        let requests = stream::once(std::future::ready(LeaseKeepAliveRequest { id }));
        let mut replies: Streaming<LeaseKeepAliveResponse> = self.stream(peer, KEEP_ALIVE, requests).await?;
        let reply = replies.message().await.map_err(|status| Failure::of(&status))?;
        reply.ok_or_else(|| Failure::Lost("the server has closed the stream".to_owned()))
    }

    /// Ends a lease, and deletes the keys that have it.
    ///
    /// # Errors
    /// As [`Etcd::txn`].
    pub async fn lease_revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let LeaseId(id) = lease;
        self.call::<_, LeaseRevokeResponse>(REVOKE, LeaseRevokeRequest { id }, false).await.map(drop)
    }

    /// Makes a call with one message each way. Returns the endpoint that replied as well.
    async fn call<M, R>(&self, call: Call, message: M, is_read: bool) -> Result<(R, String), Error>
    where
        M: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        let mut attempts = Attempts::new(&self.shared, call, is_read);
        loop {
            let at = attempts.at();
            let peer = &self.shared.peers[at];
            let outcome = timeout_at(attempts.end, self.unary::<M, R>(peer, call, message.clone())).await;
            if let Some(reply) = attempts.judge(at, outcome.ok())? {
                return Ok((reply, peer.url.clone()));
            }
        }
    }

    async fn unary<M, R>(&self, peer: &Peer, call: Call, message: M) -> Result<R, Failure>
    where
        M: Message + 'static,
        R: Message + Default + 'static,
    {
        let mut grpc = peer.grpc();
        let request = self.signed(peer, message).await?;
        ready(&mut grpc).await?;
        let codec = ProstCodec::<M, R>::default();
        let reply = grpc.unary(request, PathAndQuery::from_static(call.path), codec).await;
        reply.map(tonic::Response::into_inner).map_err(|status| Failure::of(&status))
    }

    async fn stream<S, M, R>(&self, peer: &Peer, call: Call, messages: S) -> Result<Streaming<R>, Failure>
    where
        S: Stream<Item = M> + Send + 'static,
        M: Message + 'static,
        R: Message + Default + 'static,
    {
        let mut grpc = peer.grpc();
        let mut request = self.signed(peer, messages).await?;
        // Else a member that is cut off from the others would keep a stream open and say nothing.
        request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
        ready(&mut grpc).await?;
        let codec = ProstCodec::<M, R>::default();
        let reply = grpc.streaming(request, PathAndQuery::from_static(call.path), codec).await;
        reply.map(tonic::Response::into_inner).map_err(|status| Failure::of(&status))
    }

    /// Returns a request with the token of the client's user, if it has one. It gets one if need be.
    async fn signed<M>(&self, peer: &Peer, message: M) -> Result<Request<M>, Failure> {
        let mut request = Request::new(message);
        let Some(user) = &self.shared.user else { return Ok(request) };
        let known = self.shared.token.lock().clone();
        let token = match known {
            Some(token) => token,
            None => self.authenticate(peer, user.clone()).await?,
        };
        request.metadata_mut().insert("token", token);
        Ok(request)
    }

    async fn authenticate(&self, peer: &Peer, user: AuthenticateRequest) -> Result<AsciiMetadataValue, Failure> {
        let mut grpc = peer.grpc();
        ready(&mut grpc).await?;
        let codec = ProstCodec::<AuthenticateRequest, AuthenticateResponse>::default();
        let reply = grpc.unary(Request::new(user), PathAndQuery::from_static(AUTHENTICATE.path), codec).await;
        let reply = reply.map_err(|status| match Failure::of(&status) {
            // The call itself has not been sent by then.
            Failure::Lost(reason) => Failure::Unsent(reason),
            Failure::Unsigned(reason) => Failure::Refused(reason),
            other => other,
        })?;
        let token = AsciiMetadataValue::try_from(reply.into_inner().token)
            .map_err(|_| Failure::Refused("the token that the server gave can't be sent".to_owned()))?;
        *self.shared.token.lock() = Some(token.clone());
        Ok(token)
    }
}

/// The attempts at one call: until one has a result, the time is over, or another one might do a second time what the
/// first has done already.
struct Attempts<'s> {
    shared: &'s Shared,
    call: Call,
    is_read: bool,
    end: Instant,
    /// Endpoints that brought nothing.
    tried: usize,
    was_unsigned: bool,
}

impl<'s> Attempts<'s> {
    fn new(shared: &'s Shared, call: Call, is_read: bool) -> Self {
        let end = Instant::now() + shared.timeout;
        Self { shared, call, is_read, end, tried: 0, was_unsigned: false }
    }

    /// Returns the endpoint that is to be tried.
    fn at(&self) -> usize {
        self.shared.current.load(Ordering::Relaxed) % self.shared.peers.len()
    }

    /// Judges the outcome of an attempt, `None` if the time was over before. Returns the result, or `None` if there is to
    /// be another attempt.
    fn judge<T>(&mut self, at: usize, outcome: Option<Result<T, Failure>>) -> Result<Option<T>, Error> {
        let (endpoint, call) = (self.shared.peers[at].url.clone(), self.call.name);
        let failure = match outcome {
            Some(Ok(reply)) => return Ok(Some(reply)),
            Some(Err(failure)) => failure,
            None => {
                // What its connection still brings would be of no use, and it may be dead.
                *self.shared.peers[at].channel.lock() = None;
                self.leave(at);
                let reason = format!("no reply within {} ms", clock::millis(self.shared.timeout));
                return Err(lost(self.is_read, endpoint, call, reason));
            }
        };
        match failure {
            Failure::Unsigned(_) if self.shared.user.is_some() && !self.was_unsigned => {
                *self.shared.token.lock() = None;
                self.was_unsigned = true;
                Ok(None)
            }
            Failure::Unsigned(reason) | Failure::Refused(reason) => Err(Error::Refused { endpoint, call, reason }),
            Failure::Lost(reason) if !self.is_read => {
                self.leave(at);
                Err(Error::Unknown { endpoint, call, reason })
            }
            Failure::Unsent(reason) | Failure::Lost(reason) => {
                self.leave(at);
                self.tried += 1;
                if self.tried < self.shared.peers.len() {
                    return Ok(None);
                }
                Err(Error::Unreachable { endpoint, call, reason })
            }
        }
    }

    /// Goes on to the endpoint after this one, unless another call has done so.
    fn leave(&self, at: usize) {
        let next = (at + 1) % self.shared.peers.len();
        let _ = self.shared.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Peer {
    fn grpc(&self) -> Grpc<Channel> {
        let channel = self.channel.lock().get_or_insert_with(|| self.endpoint.connect_lazy()).clone();
        Grpc::new(channel).max_decoding_message_size(REPLY_BYTES_MAX)
    }
}

async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Failure> {
    let ready = grpc.ready().await;
    ready.map_err(|error| Failure::Unsent(root(&error).unwrap_or_else(|| error.to_string())))
}

/// Returns what it means that a reply doesn't come.
fn lost(is_read: bool, endpoint: String, call: &'static str, reason: String) -> Error {
    if is_read { Error::Unreachable { endpoint, call, reason } } else { Error::Unknown { endpoint, call, reason } }
}

/// How the messages of etcd's own errors begin; others are those of the way to it.
const OWN: &str = "etcdserver: ";

/// Errors of etcd that mean that its token is to be got anew, beside the code for it.
const STALE_TOKENS: [&str; 2] = ["etcdserver: user name is empty", "etcdserver: revision of auth store is old"];

impl Failure {
    /// Returns what a status means. When in doubt the call may have taken effect: a server that gives up waiting for the
    /// others, for one, says nothing of what becomes of it.
    fn of(status: &Status) -> Self {
        if is_connecting(status) {
            return Self::Unsent(root(status).unwrap_or_else(|| status.message().to_owned()));
        }
        let said = status.message();
        let reason = if said.is_empty() { status.code().to_string() } else { said.to_owned() };
        if status.code() == Code::Unauthenticated || STALE_TOKENS.contains(&said) {
            return Self::Unsigned(reason);
        }
        match status.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::OutOfRange
                if said.starts_with(OWN) =>
            {
                Self::Refused(reason)
            }
            Code::Unimplemented => Self::Refused(reason),
            _ => Self::Lost(root(status).map_or_else(|| reason.clone(), |root| format!("{reason}: {root}"))),
        }
    }
}

/// Whether there was no connection to send anything on.
fn is_connecting(status: &Status) -> bool {
    let mut at = status.source();
    while let Some(error) = at {
        if error.is::<ConnectError>() {
            return true;
        }
        at = error.source();
    }
    false
}

/// Returns the innermost cause of an error, if it has one: the outer ones only say that there is one.
fn root(error: &dyn StdError) -> Option<String> {
    let mut at = error.source()?;
    while let Some(inner) = at.source() {
        at = inner;
    }
    Some(at.to_string())
}

/// Returns what endpoints with TLS are connected to with.
fn tls(config: &config::Etcd, connect: Duration) -> Result<ClientTlsConfig, Error> {
    let tls = ClientTlsConfig::new().timeout(connect);
    let tls = match &config.ca {
        Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
        None => tls.with_webpki_roots(),
    };
    Ok(match &config.client {
        Some(files) => tls.identity(Identity::from_pem(read(&files.certificate)?, read(&files.key)?)),
        None => tls,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    config::read_file(path).map_err(|cause| Error::File { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: &Status) -> &'static str {
        match Failure::of(status) {
            Failure::Unsent(_) => "unsent",
            Failure::Unsigned(_) => "unsigned",
            Failure::Refused(_) => "refused",
            Failure::Lost(_) => "lost",
        }
    }

    #[test]
    fn only_what_certainly_changed_nothing_is_not_lost() {
        let table = [
            (Status::invalid_argument("etcdserver: duplicate key given in txn request"), "refused"),
            (Status::resource_exhausted("etcdserver: too many requests"), "refused"),
            (Status::out_of_range("etcdserver: mvcc: required revision has been compacted"), "refused"),
            (Status::out_of_range("decoded message length too large"), "lost"),
            (Status::unavailable("etcdserver: request timed out"), "lost"),
            (Status::unavailable("etcdserver: leader changed"), "lost"),
            (Status::unknown("transport error"), "lost"),
            (Status::cancelled("operation was canceled"), "lost"),
            (Status::permission_denied("etcdserver: permission denied"), "refused"),
            (Status::unauthenticated("etcdserver: invalid auth token"), "unsigned"),
            (Status::invalid_argument("etcdserver: user name is empty"), "unsigned"),
            (Status::from_error(Box::new(ConnectError("refused".into()))), "unsent"),
        ];
        for (status, wanted) in table {
            assert_eq!(kind(&status), wanted, "{status:?}");
        }
    }

    #[test]
    fn a_client_needs_an_endpoint_and_the_files_that_it_is_to_use() {
        let config = config::Etcd::new(vec!["http://127.0.0.1:2379".to_owned()]);
        assert!(Etcd::new(&config).is_ok(), "it connects when it is used");
        assert!(matches!(Etcd::new(&config::Etcd::new(Vec::new())), Err(Error::Endpoint { .. })));
        let config = config::Etcd { ca: Some("/no/such/file.pem".into()), ..config };
        assert!(matches!(Etcd::new(&config), Err(Error::File { .. })));
    }

    #[test]
    fn a_password_is_not_shown() {
        let config = config::Etcd::new(vec!["http://127.0.0.1:2379".to_owned()]);
        let config = config::Etcd { user: Some("u".to_owned()), password: Some("secret".to_owned()), ..config };
        assert!(!format!("{:?}", Etcd::new(&config).unwrap()).contains("secret"));
    }
}
