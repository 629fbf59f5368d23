//! Writes to Redis that depend on what is there: each is one step of a script, so that nothing comes between the look and
//! the write.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use redis::Cmd;

use crate::{
    cache::lease::{End, ORDER_BYTES, Order, Token},
    clock::{Timestamp, millis},
};

/// A script that is called in pipelines. `redis::Script` would have to see the reply to one call to know that Redis
/// hasn't got it.
pub(super) struct PipedScript {
    code: &'static str,
    hash: String,
}

impl PipedScript {
    fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }

    /// Returns the command that gives it to Redis. A restarted Redis has none, so each pipeline begins with it.
    pub(super) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.code);
        command
    }

    fn call(&self, keys: usize) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.hash).arg(keys);
        command
    }
}

/// The reply of [`PUT`] to a response that is older than what is stored, or whose lease has passed to another node.
pub(super) const OLDER: &[u8] = b"older";

/// Stores a response, unless an older one would replace a newer one: see [`Order`]. What is stored by a clock that is
/// ahead by more than clocks may differ is replaced.
pub(super) static PUT: LazyLock<PipedScript> = LazyLock::new(|| {
    PipedScript::new(
        "local token, at, made = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
        local skew, latest, length = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
        local head = redis.call('GETRANGE', KEYS[1], 0, length - 1)
        if #head == length and string.match(head, '^o%d+$') then
          local its_token = tonumber(string.sub(head, 2, 17))
          local its_at = tonumber(string.sub(head, 18, 33))
          local its_made = tonumber(string.sub(head, 34, 49))
          if token > 0 and its_token > 0 then
            if its_token > token then return 'older' end
          elseif its_at <= latest and at <= its_at + skew and (its_at > at + skew or its_made > made) then
            return 'older'
          end
        end
        if KEYS[2] then
          local newest = redis.call('HGET', KEYS[2], 'token')
          if newest and tonumber(newest) > token then return 'older' end
        end
        return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])",
    )
});

/// Writes down how a lease has ended, unless another node has it by now. Without a token it is whichever this node has.
pub(super) static END: LazyLock<PipedScript> = LazyLock::new(|| {
    PipedScript::new(
        "local lease = redis.call('HMGET', KEYS[1], 'token', 'state', 'owner')
        local token = ARGV[1]
        if token == '0' then
          if lease[2] ~= 'held' or lease[3] ~= ARGV[4] then return 0 end
          token = lease[1]
        elseif lease[1] and lease[1] ~= token then
          return 0
        end
        redis.call('HSET', KEYS[1], 'token', token, 'state', ARGV[2])
        redis.call('PEXPIRE', KEYS[1], ARGV[3])
        return 1",
    )
});

/// Returns the command that stores a response under `name` for `life_ms`, if it is as new as what is there. `skew` is by
/// how much clocks may differ.
pub(super) fn put(
    name: &[u8],
    head: &[u8],
    body: &Bytes,
    life_ms: u64,
    order: &Order,
    skew: Duration,
    now: Timestamp,
) -> Cmd {
    let mut bytes = Vec::with_capacity(ORDER_BYTES + head.len() + body.len());
    order.write(&mut bytes);
    bytes.extend_from_slice(head);
    bytes.extend_from_slice(body);
    let [token, requested_at, made] = order.numbers();
    let mut command = PUT.call(1 + usize::from(order.lease.is_some()));
    command.arg(name);
    if let Some(lease) = &order.lease {
        command.arg(&lease[..]);
    }
    command.arg(bytes).arg(life_ms).arg(token).arg(requested_at).arg(made);
    command.arg(millis(skew)).arg(now.plus(skew).0).arg(ORDER_BYTES);
    command
}

/// Returns the command that ends the lease of this name: the one with `token`, or the one that `owner` has.
pub(super) fn end(name: &[u8], token: Option<Token>, owner: &str, how: End) -> Cmd {
    let mut command = END.call(1);
    command.arg(name).arg(token.map_or(0, |token| token.0)).arg(how.as_str()).arg(how.known_ms()).arg(owner);
    command
}
