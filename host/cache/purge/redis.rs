//! The region's purge log as a Redis stream, whose identifiers are the log's own numbers: no clock takes part. What must be
//! one step is one script.

use std::{
    collections::HashMap,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisResult, Script, Value, aio::MultiplexedConnection};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{
    Error,
    listing::{field, limits, lower_bits, member, random, said},
    log::{Append, Appended, Entry, Followed, Listed, Log, Member, RETRY, Tied, chained},
    table::{Cursor, INCARNATION_BITS, Incarnation, Kind, Link, Position, Reach, Record},
};
use crate::{cache::tag::Tag, clock, config, message::pattern::Pattern};

/// Connecting, and any command but the blocking read.
const PATIENCE: Duration = Duration::from_millis(1_000);

/// Records taken by one read.
const BATCH: usize = 512;

/// Begins the log if it isn't there, or isn't whole, and appends to it. Those who have signed on stay on the list.
static APPEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local known = tonumber(ARGV[4])
        local s = redis.call('HMGET', KEYS[1], 'id', 'seq', 'tip')
        local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
        if not (s[1] and s[2] and s[3]) or (last and last[1] ~= s[2] .. '-0') then
          redis.call('DEL', KEYS[2], KEYS[4])
          local number = math.max(math.floor(tonumber(s[1] or '0') / 4294967296), tonumber(ARGV[3])) + 1
          s = {string.format('%.0f', number * 4294967296 + tonumber(ARGV[1])), '0', '0'}
          redis.call('HSET', KEYS[1], 'id', s[1], 'seq', '0', 'tip', '0')
          for i = 5, 4 + 2 * known, 2 do redis.call('HSETNX', KEYS[3], ARGV[i], ARGV[i + 1]) end
        end
        local seq, tip = tonumber(s[2]), s[3]
        for i = 5 + 2 * known, #ARGV, 4 do
          seq = seq + 1
          redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], string.format('%.0f-0', seq), 'before', tip,
            'link', ARGV[i], 'tag', ARGV[i + 1], 'kind', ARGV[i + 2], 'url', ARGV[i + 3], 'origin', 'region')
          tip = ARGV[i]
        end
        redis.call('HSET', KEYS[1], 'seq', string.format('%.0f', seq), 'tip', tip)
        return {s[1], string.format('%.0f', seq)}",
    )
});

/// Checks the reader's place, signs it on, and reads on. A place in the middle is known by the record that is there, or by
/// the one after it. That it left once is forgotten when it comes back: if the list were lost, it would count as signed off
/// to those who know no later word of it.
static FOLLOW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local s = redis.call('HMGET', KEYS[1], 'id', 'seq', 'tip')
        if not (s[1] and s[2] and s[3]) then return {'other', '0'} end
        if s[1] ~= ARGV[2] then return {'other', s[1]} end
        local at, last = tonumber(ARGV[6]), tonumber(s[2])
        if at > last then return {'forked'} end
        local function field(entry, name)
          for i = 1, #entry[2], 2 do if entry[2][i] == name then return entry[2][i + 1] end end
        end
        local known = at == 0 or (at == last and s[3] == ARGV[7])
        if at == last and at > 0 and not known then return {'forked'} end
        local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
        if not known and first then
          local here = redis.call('XRANGE', KEYS[2], ARGV[6] .. '-0', ARGV[6] .. '-0')[1]
          if here then
            if field(here, 'link') ~= ARGV[7] then return {'forked'} end
            known = true
          elseif first[1] == string.format('%.0f-0', at + 1) then
            if field(first, 'before') ~= ARGV[7] then return {'forked'} end
            known = true
          elseif tonumber(string.match(first[1], '^%d+')) <= at then
            return {'forked'}
          end
        end
        local applied = known and ARGV[3] or '0'
        redis.call('ZREM', KEYS[4], ARGV[1])
        redis.call('HSET', KEYS[3], ARGV[1], table.concat({ARGV[9], applied, ARGV[4], ARGV[5]}, ' '))
        local entries = redis.call('XRANGE', KEYS[2], '(' .. ARGV[6] .. '-0', '+', 'COUNT', ARGV[8])
        return {'ok', s[2], s[3], first and first[1] or '', entries}",
    )
});

/// Those who have signed on stay on the list, and those that the caller knows join them: they are waited for until they
/// have begun anew as well.
static BEGIN_ANEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local id = redis.call('HGET', KEYS[1], 'id')
        if (id or '0') == ARGV[1] then
          redis.call('DEL', KEYS[1], KEYS[2], KEYS[4])
          local number = math.max(math.floor(tonumber(ARGV[1]) / 4294967296), tonumber(ARGV[3])) + 1
          id = string.format('%.0f', number * 4294967296 + tonumber(ARGV[2]))
          redis.call('HSET', KEYS[1], 'id', id, 'seq', '0', 'tip', '0')
          for i = 4, #ARGV, 2 do redis.call('HSETNX', KEYS[3], ARGV[i], ARGV[i + 1]) end
        end",
    )
});

/// The reply of [`MEMBERS`]: the incarnation, whether a purge was lost, who is on the list, and who has left it.
type List = (u64, u8, HashMap<String, String>, Vec<String>);

/// A record may have left at the oldest end, as the log's bound has it; anywhere else it was lost. A member that the caller
/// knows has left if that was written down no earlier than its last word.
static MEMBERS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local id = redis.call('HGET', KEYS[1], 'id') or '0'
        local lost = '0'
        if id == ARGV[1] then
          local here = redis.call('XRANGE', KEYS[2], ARGV[2] .. '-0', ARGV[2] .. '-0')[1]
          local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
          if here then
            lost = '1'
            for i = 1, #here[2], 2 do
              if here[2][i] == 'link' and here[2][i + 1] == ARGV[3] then lost = '0' end
            end
          elseif not (first and tonumber(string.match(first[1], '^%d+')) > tonumber(ARGV[2])) then
            lost = '1'
          end
        end
        local left = {}
        for i = 4, #ARGV, 2 do
          local beat = redis.call('ZSCORE', KEYS[4], ARGV[i])
          if beat and tonumber(beat) >= tonumber(ARGV[i + 1]) and redis.call('HEXISTS', KEYS[3], ARGV[i]) == 0 then
            left[#left + 1] = ARGV[i]
          end
        end
        return {id, lost, redis.call('HGETALL', KEYS[3]), left}",
    )
});

/// A member that has left since is not put back.
static SIGN_ON: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "for i = 1, #ARGV, 3 do
          local beat = redis.call('ZSCORE', KEYS[2], ARGV[i])
          if not beat or tonumber(beat) < tonumber(ARGV[i + 2]) then
            redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1])
            redis.call('ZREM', KEYS[2], ARGV[i])
          end
        end",
    )
});

/// That a member is missing on the list may be a loss, so that it has left is written down, with its last word. Of more
/// than 1024 a note goes: then those that have yet to see it wait for the member's fence until it is lost.
static SIGN_OFF: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local here = redis.call('HGET', KEYS[1], ARGV[1])
        if ARGV[2] == '' or here == ARGV[2] then
          local beat = tonumber(ARGV[3])
          if here then beat = math.max(beat, tonumber(string.match(here, ' (%d+)$') or '0')) end
          redis.call('HDEL', KEYS[1], ARGV[1])
          redis.call('ZADD', KEYS[2], string.format('%.0f', beat), ARGV[1])
          redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1025)
        end",
    )
});

/// A client of the log.
#[derive(Debug)]
pub struct RedisLog {
    client: Client,
    names: Names,
    identity: Tag,
    log_max: usize,
    fence: Duration,
    lost: Duration,
    /// The highest running number of an incarnation that is known. One that begins from nothing goes on from there.
    highest: AtomicU64,
    /// Reads that may wait have a connection of their own.
    waits: Slot,
    calls: Slot,
}

/// The names in Redis; the braces keep them on one node of a cluster.
#[derive(Debug)]
struct Names {
    state: String,
    log: String,
    members: String,
    left: String,
}

/// An open connection, and the server at its other end.
#[derive(Clone)]
struct Line {
    connection: MultiplexedConnection,
    server: Option<String>,
}

/// A connection that is opened when it is needed, and again after an error.
struct Slot(Mutex<Opened>);

/// What came of opening a connection.
#[derive(Default)]
struct Opened {
    line: Option<Line>,
    /// When the last attempt failed: those that waited for it don't each make another.
    failed: Option<Instant>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

impl RedisLog {
    /// Prepares; connects when it is used.
    ///
    /// # Errors
    /// [`Error::Log`] if the URL is not one.
    pub fn new(namespace: &str, redis: &config::Redis, purge: &config::Purge) -> Result<Self, Error> {
        let prefix = format!("{{{namespace}}}:purge");
        Ok(Self {
            client: Client::open(redis.url.as_str()).map_err(unreachable)?,
            names: Names {
                state: format!("{prefix}:state"),
                log: format!("{prefix}:log"),
                members: format!("{prefix}:members"),
                left: format!("{prefix}:left"),
            },
            identity: Tag::named(format!("{:?} {prefix:?}", redis.url).as_bytes()),
            log_max: purge.log_max,
            fence: purge.fence,
            lost: purge.lost,
            highest: AtomicU64::new(0),
            waits: Slot(Mutex::default()),
            calls: Slot(Mutex::default()),
        })
    }

    /// Uses a connection, for a call that may take up to `time`. One that failed is not used again: what it still brings
    /// would be the reply to another call.
    async fn with<T>(
        &self,
        slot: &Slot,
        time: Duration,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<(T, Option<String>), Error> {
        let mut line = self.line(slot).await?;
        let called = timeout(time, call(&mut line.connection)).await;
        match called {
            Ok(Ok(value)) => Ok((value, line.server)),
            Ok(Err(error)) => {
                slot.0.lock().await.line = None;
                Err(unreachable(error))
            }
            Err(_) => {
                slot.0.lock().await.line = None;
                Err(Error::Log(format!("no reply within {} ms", clock::millis(time))))
            }
        }
    }

    async fn line(&self, slot: &Slot) -> Result<Line, Error> {
        let mut slot = slot.0.lock().await;
        if let Some(line) = &slot.line {
            return Ok(line.clone());
        }
        if slot.failed.is_some_and(|failed| failed.elapsed() < RETRY / 2) {
            return Err(Error::Log("it could not be connected to".to_owned()));
        }
        let connected = timeout(PATIENCE, self.connect()).await;
        let connected = connected.map_err(|_| Error::Log("no connection in time".to_owned()));
        let line = connected.and_then(|line| line.map_err(unreachable));
        slot.failed = line.is_err().then(Instant::now);
        let line = line?;
        slot.line = Some(line.clone());
        Ok(line)
    }

    async fn connect(&self) -> RedisResult<Line> {
        // The caller bounds each call; a timeout in here as well would only hide which of them it was.
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(None);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        // Not to be allowed to ask is no error: then it isn't known, and purges wait a little longer.
        let info: RedisResult<String> = redis::cmd("INFO").arg("server").query_async(&mut connection).await;
        let run_id = |info: String| info.lines().find_map(|line| line.strip_prefix("run_id:").map(str::to_owned));
        Ok(Line { connection, server: info.ok().and_then(run_id) })
    }

    async fn append(&self, purges: &[Append], known: &[Member]) -> Result<Appended, Error> {
        let mut call = APPEND.prepare_invoke();
        call.key(&self.names.state).key(&self.names.log).key(&self.names.members).key(&self.names.left);
        call.arg(lower_bits()).arg(self.log_max).arg(self.highest.load(Ordering::Relaxed)).arg(known.len());
        for member in known {
            call.arg(field(member)).arg(said(member));
        }
        let mut link = 0;
        for purge in purges {
            link = random();
            let kind = match purge.kind {
                Kind::Hard => "hard",
                Kind::Soft => "soft",
            };
            // Nodes that know no prefixes or patterns can't read such a record, and so confirm all that they have.
            let tag = &purge.tag.as_bytes()[..];
            let (reach, what) = match &purge.reach {
                Reach::Entries => (0_u8, tag),
                Reach::Url => (1, tag),
                Reach::Prefix => (2, tag),
                Reach::Pattern(pattern) => (3, pattern.as_str().as_bytes()),
            };
            call.arg(link).arg(what).arg(kind).arg(reach);
        }
        let called = self.with(&self.calls, PATIENCE, async |connection| call.invoke_async(connection).await).await?;
        let ((log, position), server): ((u64, u64), _) = called;
        self.highest.fetch_max(log >> INCARNATION_BITS, Ordering::Relaxed);
        Ok(Appended { log: Incarnation(log), position: Position(position), link: Link(link), server })
    }

    async fn follow(&self, member: &Member, from: Cursor) -> Result<Followed, Error> {
        self.highest.fetch_max(from.log.0 >> INCARNATION_BITS, Ordering::Relaxed);
        let mut call = FOLLOW.prepare_invoke();
        call.key(&self.names.state).key(&self.names.log).key(&self.names.members).key(&self.names.left);
        let report = &member.report;
        call.arg(field(member)).arg(from.log.0).arg(report.applied.0).arg(limits(report)).arg(report.beat);
        call.arg(from.position.0).arg(from.link.0).arg(BATCH).arg(member.log.0);
        let (reply, server): (Vec<Value>, _) =
            self.with(&self.calls, PATIENCE, async |connection| call.invoke_async(connection).await).await?;
        read(from, &reply, server).ok_or_else(|| Error::Log("the log's server gave an unexpected reply".to_owned()))
    }

    async fn wait(&self, from: Cursor, time: Duration) -> Result<(), Error> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(1).arg("BLOCK").arg(clock::millis(time).max(1));
        command.arg("STREAMS").arg(&self.names.log).arg(format!("{}-0", from.position));
        let call = async |connection: &mut MultiplexedConnection| command.query_async::<Value>(connection).await;
        self.with(&self.waits, time + PATIENCE, call).await.map(drop)
    }

    async fn begin_anew(&self, from: Incarnation, known: &[Member]) -> Result<(), Error> {
        let mut call = BEGIN_ANEW.prepare_invoke();
        call.key(&self.names.state).key(&self.names.log).key(&self.names.members).key(&self.names.left);
        call.arg(from.0).arg(lower_bits()).arg(self.highest.load(Ordering::Relaxed));
        for member in known {
            call.arg(field(member)).arg(said(member));
        }
        let call = async |connection: &mut MultiplexedConnection| call.invoke_async::<Value>(connection).await;
        self.with(&self.calls, PATIENCE, call).await.map(drop)
    }

    async fn sign_on(&self, known: &[Member]) -> Result<(), Error> {
        let mut call = SIGN_ON.prepare_invoke();
        call.key(&self.names.members).key(&self.names.left);
        for member in known {
            call.arg(field(member)).arg(said(member)).arg(member.report.beat);
        }
        let call = async |connection: &mut MultiplexedConnection| call.invoke_async::<Value>(connection).await;
        self.with(&self.calls, PATIENCE, call).await.map(drop)
    }

    async fn members(&self, purge: Option<&Appended>, known: &[Member]) -> Result<Listed, Error> {
        let (log, position, link) = purge.map_or((0, 0, 0), |purge| (purge.log.0, purge.position.0, purge.link.0));
        let mut call = MEMBERS.prepare_invoke();
        call.key(&self.names.state).key(&self.names.log).key(&self.names.members).key(&self.names.left);
        call.arg(log).arg(position).arg(link);
        for member in known {
            call.arg(field(member)).arg(member.report.beat);
        }
        let call = async |connection: &mut MultiplexedConnection| call.invoke_async(connection).await;
        let ((log, lost, listed, left), server): (List, _) = self.with(&self.calls, PATIENCE, call).await?;
        let log = Incarnation(log);
        let members = listed.iter().map(|(field, said)| {
            // A node that speaks otherwise is waited for like one that is out of touch.
            let unknown = || Member { node: field.clone(), ..Member::strangers(self.fence, self.lost) };
            member(field, said).unwrap_or_else(unknown)
        });
        let left = known.iter().filter(|member| left.contains(&field(member))).cloned().collect();
        Ok(Listed { log, server, members: members.collect(), left, lost: lost == 1 })
    }

    async fn sign_off(&self, member: &Member, unless_changed: bool) -> Result<(), Error> {
        let mut call = SIGN_OFF.prepare_invoke();
        let said = if unless_changed { said(member) } else { String::new() };
        call.key(&self.names.members).key(&self.names.left).arg(field(member)).arg(said).arg(member.report.beat);
        let call = async |connection: &mut MultiplexedConnection| call.invoke_async::<Value>(connection).await;
        self.with(&self.calls, PATIENCE, call).await.map(drop)
    }
}

impl Log for RedisLog {
    fn identity(&self) -> Tag {
        self.identity
    }

    fn append<'a>(&'a self, purges: &'a [Append], known: &'a [Member]) -> BoxFuture<'a, Result<Appended, Error>> {
        Box::pin(self.append(purges, known))
    }

    fn follow<'a>(&'a self, member: &'a Member, from: Cursor) -> BoxFuture<'a, Result<Followed, Error>> {
        Box::pin(self.follow(member, from))
    }

    fn wait(&self, from: Cursor, time: Duration) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.wait(from, time))
    }

    fn begin_anew<'a>(&'a self, from: Incarnation, known: &'a [Member]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.begin_anew(from, known))
    }

    fn sign_on<'a>(&'a self, known: &'a [Member]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.sign_on(known))
    }

    fn members<'a>(&'a self, purge: Option<&'a Appended>, known: &'a [Member]) -> BoxFuture<'a, Result<Listed, Error>> {
        Box::pin(self.members(purge, known))
    }

    fn sign_off<'a>(&'a self, member: &'a Member, unless_changed: bool) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.sign_off(member, unless_changed))
    }
}

/// Reads what [`FOLLOW`] returned; `None` if that isn't what it returns.
fn read(from: Cursor, reply: &[Value], server: Option<String>) -> Option<Followed> {
    let text = |at: usize| reply.get(at).and_then(|value| String::from_redis_value_ref(value).ok());
    match text(0)?.as_str() {
        "other" => Some(Followed::Other(Incarnation(text(1)?.parse().ok()?))),
        "forked" => Some(Followed::Forked),
        "ok" => {
            let (last, tip, first) = (text(1)?.parse().ok()?, text(2)?.parse().ok()?, text(3)?);
            let Value::Array(entries) = reply.get(4)? else { return None };
            let records: Option<Vec<Tied>> = entries.iter().map(tied).collect();
            // What isn't even a record of this log shows that somebody else wrote into it.
            let Some(records) = records else { return Some(Followed::Forked) };
            let trimmed = records.first().is_some_and(|record| first == format!("{}-0", record.entry.position));
            Some(chained(from, records, (Position(last), Link(tip)), trimmed, server))
        }
        _ => None,
    }
}

/// A record with its ties; `None` if it has none.
fn tied(entry: &Value) -> Option<Tied> {
    let Value::Array(entry) = entry else { return None };
    let [id, Value::Array(fields)] = entry.as_slice() else { return None };
    let id = String::from_redis_value_ref(id).ok()?;
    let (position, "0") = id.split_once('-')? else { return None };
    let position = Position(position.parse().ok()?);
    let number = |name| std::str::from_utf8(bytes(fields, name)?).ok()?.parse().ok();
    let entry = Entry { position, link: Link(number("link")?), record: record(position, fields) };
    Some(Tied { entry, before: Link(number("before")?) })
}

/// What a record purges; `None` if this node can't understand it.
fn record(position: Position, fields: &[Value]) -> Option<Record> {
    let kind = match bytes(fields, "kind")? {
        b"hard" => Kind::Hard,
        b"soft" => Kind::Soft,
        _ => return None,
    };
    let what = bytes(fields, "tag")?;
    let reach = match bytes(fields, "url")? {
        b"0" => Reach::Entries,
        b"1" => Reach::Url,
        b"2" => Reach::Prefix,
        b"3" => Reach::Pattern(Pattern::stored(std::str::from_utf8(what).ok()?)?),
        _ => return None,
    };
    let tag = match &reach {
        Reach::Pattern(pattern) => Tag::pattern(pattern),
        Reach::Entries | Reach::Url | Reach::Prefix => Tag::from_bytes(what.try_into().ok()?),
    };
    Some(Record { position, tag, kind, reach })
}

fn bytes<'f>(fields: &'f [Value], name: &str) -> Option<&'f [u8]> {
    let pairs = fields.chunks_exact(2);
    pairs.filter_map(|pair| <&[Value; 2]>::try_from(pair).ok()).find_map(|[key, value]| match (key, value) {
        (Value::BulkString(key), Value::BulkString(value)) if key == name.as_bytes() => Some(value.as_slice()),
        _ => None,
    })
}

fn unreachable(error: impl std::fmt::Display) -> Error {
    Error::Log(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_what_its_tag_stands_for() {
        let (tag, pattern) = (Tag::named(b"t"), Pattern::parse("http://a/*").unwrap());
        let (tag, text) = (&tag.as_bytes()[..], pattern.as_str().as_bytes());
        for (said, what, wanted) in [
            ("0", tag, Some(Reach::Entries)),
            ("1", tag, Some(Reach::Url)),
            ("2", tag, Some(Reach::Prefix)),
            ("3", text, Some(Reach::Pattern(pattern.clone()))),
            ("3", tag, None),
            ("3", &b"http://A/*"[..], None),
            ("2", text, None),
            ("4", tag, None),
        ] {
            let fields = [("tag", what), ("kind", &b"hard"[..]), ("url", said.as_bytes())];
            let fields =
                fields.map(|(name, value)| [Value::BulkString(name.into()), Value::BulkString(value.to_vec())]);
            let record = record(Position(1), fields.as_flattened());
            assert_eq!(record.map(|record| record.reach), wanted, "{said}");
        }
    }
}
