//! Leases in Redis: of the nodes of a region that lack the same response, one has the lease for its key and fetches it.

use std::{
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{RedisResult, Script, aio::ConnectionManager};
use tokio::{
    task::AbortHandle,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use super::{health::Health, writes::Writes};
use crate::{
    cache::{
        entry::Head,
        key::Key,
        lease::{Ask, End, ORDER_BYTES, Order, Reply, Token},
    },
    clock, config,
};

/// Gives out the lease, or says what stands in the way. A token is the time of Redis's clock in microseconds, or what
/// comes after the last one: so tokens rise even if Redis was emptied or restored from an older copy.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local lease = redis.call('HMGET', KEYS[1], 'token', 'state', 'owner')
        local token, state = lease[1], lease[2]
        if token then
          if state == 'held' then
            local owner = lease[3]
            if owner and (owner == ARGV[2] or string.find(ARGV[7], owner, 1, true)) then return {'own', token} end
            return {'held', token}
          end
          if state == 'uncacheable' then
            return {state, string.format('%.0f', math.max(redis.call('PTTL', KEYS[1]), 0))}
          end
          if state == 'landed' and token ~= ARGV[3] then return {state, token} end
          if state == 'ended' and token == ARGV[4] then return {state, token} end
        end
        if ARGV[5] ~= '0' then
          local length = tonumber(ARGV[6])
          local head = redis.call('GETRANGE', KEYS[3], 0, length - 1)
          if #head == length and string.match(head, '^o%d+$')
            and tonumber(string.sub(head, 18, 33)) > tonumber(ARGV[5]) then
            return {'landed', '0'}
          end
        end
        local time = redis.call('TIME')
        local last = tonumber(redis.call('HGET', KEYS[2], 'token') or '0')
        token = string.format('%.0f', math.max(tonumber(time[1]) * 1000000 + tonumber(time[2]), last + 1))
        redis.call('HSET', KEYS[2], 'token', token)
        redis.call('HSET', KEYS[1], 'token', token, 'state', 'held', 'owner', ARGV[2])
        redis.call('PEXPIRE', KEYS[1], ARGV[1])
        return {'granted', token}",
    )
});

/// Has a lease last for another while, if it is still the one with this token.
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local lease = redis.call('HMGET', KEYS[1], 'token', 'state')
        if lease[1] ~= ARGV[1] or lease[2] ~= 'held' then return 0 end
        return redis.call('PEXPIRE', KEYS[1], ARGV[2])",
    )
});

/// The leases of a region, as this node asks for them.
pub struct Leases {
    connection: ConnectionManager,
    writes: Arc<Writes>,
    health: Arc<Health>,
    /// Before the name of each lease.
    prefix: Vec<u8>,
    /// The name of the last token.
    counter: Vec<u8>,
    /// Before the name of each value.
    values: Vec<u8>,
    /// The mark of this process among the holders of leases.
    owner: Arc<str>,
    budget: Duration,
    lease: Duration,
    wait_max: Duration,
    waiting: AtomicUsize,
}

impl Leases {
    /// Returns the leases of a namespace, `None` if they are turned off. `connection` is one for small replies.
    pub(super) fn new(
        connection: &ConnectionManager,
        redis: &config::Redis,
        namespace: &str,
        writes: &Arc<Writes>,
        health: &Arc<Health>,
    ) -> Option<Self> {
        (!redis.lease.is_zero()).then(|| Self {
            connection: connection.clone(),
            writes: Arc::clone(writes),
            health: Arc::clone(health),
            prefix: format!("{{{namespace}}}:l:").into_bytes(),
            counter: format!("{{{namespace}}}:lease").into_bytes(),
            values: format!("{{{namespace}}}:o:").into_bytes(),
            owner: format!("holm-{:016x}", fastrand::u64(..)).into(),
            budget: redis.budget,
            lease: redis.lease,
            wait_max: redis.lease_wait,
            waiting: AtomicUsize::new(0),
        })
    }

    /// Returns the mark by which this process is known as the holder of a lease; no other one has it.
    #[must_use]
    pub const fn owner(&self) -> &Arc<str> {
        &self.owner
    }

    /// Returns how long this node waits for another one's fetch at most.
    #[must_use]
    pub const fn wait_max(&self) -> Duration {
        self.wait_max
    }

    /// Returns the number of keys that this node waits for now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Notes that this node waits for a key, until the value is dropped.
    #[must_use]
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.health.metrics.leases_waited.inc();
        Waiting(self)
    }

    /// Asks for the lease of a key, under which what is to be fetched is stored, too. `senders` has the marks of the nodes
    /// that have sent the request on. Takes the budget of a look-up at most.
    pub async fn ask(&self, key: &Key, ask: &Ask, senders: &[u8]) -> Reply {
        // The breaker learns of failures alone: look-ups that are late must not be made up for by these replies.
        if self.health.is_open() {
            return Reply::None;
        }
        let name = self.name(key);
        let text = |token: Option<Token>| token.map_or(0, |token| token.0);
        let mut call = TAKE.prepare_invoke();
        call.key(&name[..]).key(&self.counter[..]).key([&self.values[..], key.as_bytes()].concat());
        call.arg(clock::millis(self.lease)).arg(&*self.owner).arg(text(ask.seen)).arg(text(ask.waits_for));
        call.arg(ask.has.0).arg(ORDER_BYTES).arg(senders);
        let mut connection = self.connection.clone();
        let replied: Result<RedisResult<(String, u64)>, _> =
            timeout(self.budget, call.invoke_async(&mut connection)).await;
        let reason = match replied {
            Ok(Ok((word, number))) => return reply(&word, number),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "a lease over its budget".to_owned(),
        };
        self.health.metrics.redis_errors.inc();
        self.health.failed(&reason);
        // Redis may have given it out all the same, and nobody would fetch under it.
        self.writes.end(name, None, &self.owner, End::Ended);
        Reply::None
    }

    /// Returns the lease of a key, which was granted with this token, and renews it until it ends.
    #[must_use]
    pub fn begin(&self, key: &Key, token: Token) -> Lease {
        self.health.metrics.leases_taken.inc();
        let name = self.name(key);
        let renewal = tokio::spawn(renew(self.connection.clone(), Arc::clone(&name), token, self.lease));
        Lease {
            token,
            name,
            owner: Arc::clone(&self.owner),
            writes: Arc::clone(&self.writes),
            renewal: renewal.abort_handle(),
            has_stored: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
        }
    }

    fn name(&self, key: &Key) -> Arc<[u8]> {
        [&self.prefix[..], key.as_bytes()].concat().into()
    }
}

/// A wait of this node for a key, until it is dropped.
pub struct Waiting<'l>(&'l Leases);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn reply(word: &str, number: u64) -> Reply {
    let token = Token(number);
    match word {
        "granted" => Reply::Granted(token),
        "held" => Reply::Held(token),
        "own" => Reply::Own,
        "landed" => Reply::Landed((number > 0).then_some(token)),
        "ended" => Reply::Ended,
        "uncacheable" => Reply::Uncacheable(Duration::from_millis(number)),
        _ => Reply::None,
    }
}

/// Renews a lease three times in its life, until another node has it. A renewal that fails is made up for by the next.
async fn renew(mut connection: ConnectionManager, name: Arc<[u8]>, token: Token, lease: Duration) {
    let pause = lease / 3;
    let mut ticks = interval_at(Instant::now() + pause, pause.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut call = RENEW.prepare_invoke();
        call.key(&name[..]).arg(token.0).arg(clock::millis(lease));
        let renewed: Result<RedisResult<u8>, _> = timeout(pause, call.invoke_async(&mut connection)).await;
        if matches!(renewed, Ok(Ok(0))) {
            return;
        }
    }
}

/// This node's right to fetch a response for its region. Dropped, it ends: with what was stored, if anything was.
pub struct Lease {
    token: Token,
    name: Arc<[u8]>,
    owner: Arc<str>,
    writes: Arc<Writes>,
    renewal: AbortHandle,
    has_stored: AtomicBool,
    has_ended: AtomicBool,
}

impl Lease {
    /// Returns the order of a response that was fetched under it. Once others have been let go, one of them may have the
    /// next lease, and still this response is stored until that one is.
    #[must_use]
    pub fn order(&self, head: &Head) -> Order {
        let lease = (!self.has_ended.load(Ordering::Relaxed)).then(|| Arc::clone(&self.name));
        Order { token: self.token.0, lease, ..Order::of(head) }
    }

    /// Notes that all of the response waits to be written to Redis.
    pub fn note_stored(&self) {
        self.has_stored.store(true, Ordering::Relaxed);
    }

    /// Ends it, behind what was stored before. Nothing if it has ended.
    pub fn end(&self, how: End) {
        if !self.has_ended.swap(true, Ordering::Relaxed) {
            self.renewal.abort();
            self.writes.end(Arc::clone(&self.name), Some(self.token), &self.owner, how);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end(if self.has_stored.load(Ordering::Relaxed) { End::Landed } else { End::Ended });
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("token", &self.token).finish_non_exhaustive()
    }
}
