//! What an unsafe request's invalidation costs: by itself, with many at once, and as a part of the whole request.
//! `cargo bench --bench invalidate`; with `HOLM_BENCH_REDIS=redis://…` also through a real log.

use std::{sync::Arc, time::Duration};

use divan::{Bencher, counter::ItemsCount};
use futures_util::future::{BoxFuture, join_all};
use holm::{
    cache::{
        Metrics,
        purge::{
            Error, Purger,
            log::{Append, Appended, Entry, Followed, Listed, Log, Member, Tied, chained},
            redis::RedisLog,
            table::{Cursor, Incarnation, Link, Position, Record},
        },
        tag::Tag,
    },
    config,
    message::RequestSpan,
    pipeline::Pipeline,
};
use http::Method;
use parking_lot::Mutex;
use tokio::{runtime::Runtime, sync::Notify};
use tokio_util::sync::CancellationToken;

#[path = "support/node.rs"]
mod node;

fn main() {
    divan::main();
    for (case, asked, joined, appended) in TOTALS.lock().iter() {
        eprintln!("{case}: {asked} invalidations, {joined} of them joined another, {appended} records in the log");
    }
}

/// How many invalidations there were in each case, how many joined another one, and what the log has of them.
static TOTALS: Mutex<Vec<(String, u64, u64, u64)>> = Mutex::new(Vec::new());

/// Invalidations that come together.
const TOGETHER: usize = 64;

/// A log in this process, so that what is measured is the node's own work.
#[derive(Debug, Default)]
struct Memory {
    records: Mutex<Vec<Tied>>,
    news: Notify,
    /// It takes nothing.
    is_down: bool,
}

/// The one incarnation that it has.
const LOG: Incarnation = Incarnation(1 << 32);

/// Records taken by one read.
const BATCH: usize = 512;

impl Memory {
    fn reach(&self) -> Result<(), Error> {
        if self.is_down { Err(Error::Log("down".to_owned())) } else { Ok(()) }
    }

    fn add(&self, purges: &[Append]) -> (Position, Link) {
        let mut records = self.records.lock();
        for purge in purges {
            let (position, before) = last(&records);
            let position = Position(position.0 + 1);
            let record = Record { position, tag: purge.tag, kind: purge.kind, reach: purge.reach.clone() };
            let entry = Entry { position, link: Link(position.0), record: Some(record) };
            records.push(Tied { entry, before });
        }
        last(&records)
    }
}

fn last(records: &[Tied]) -> (Position, Link) {
    records.last().map_or_else(Default::default, |tied| (tied.entry.position, tied.entry.link))
}

impl Log for Memory {
    fn identity(&self) -> Tag {
        Tag::named(b"memory")
    }

    fn append<'a>(&'a self, purges: &'a [Append], _known: &'a [Member]) -> BoxFuture<'a, Result<Appended, Error>> {
        Box::pin(async move {
            self.reach()?;
            let (position, link) = self.add(purges);
            self.news.notify_one();
            Ok(Appended { log: LOG, position, link, server: Some("memory".to_owned()) })
        })
    }

    fn follow<'a>(&'a self, _member: &'a Member, from: Cursor) -> BoxFuture<'a, Result<Followed, Error>> {
        Box::pin(async move {
            self.reach()?;
            if from.log != LOG {
                return Ok(Followed::Other(LOG));
            }
            let records = self.records.lock();
            let read = usize::try_from(from.position.0).unwrap_or(usize::MAX).min(records.len());
            let new = records[read..].iter().take(BATCH).cloned().collect();
            Ok(chained(from, new, last(&records), false, Some("memory".to_owned())))
        })
    }

    fn wait(&self, from: Cursor, time: Duration) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.reach()?;
            if last(&self.records.lock()).0 <= from.position {
                // Over, or something new: both are fine.
                let _ = tokio::time::timeout(time, self.news.notified()).await;
            }
            Ok(())
        })
    }

    fn begin_anew<'a>(&'a self, _from: Incarnation, _known: &'a [Member]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.reach() })
    }

    fn sign_on<'a>(&'a self, _known: &'a [Member]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.reach() })
    }

    fn members<'a>(
        &'a self,
        _purge: Option<&'a Appended>,
        _known: &'a [Member],
    ) -> BoxFuture<'a, Result<Listed, Error>> {
        Box::pin(async move {
            self.reach()?;
            Ok(Listed { log: LOG, server: Some("memory".to_owned()), ..Listed::default() })
        })
    }

    fn sign_off<'a>(&'a self, _member: &'a Member, _unless_changed: bool) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.reach() })
    }
}

fn redis_url() -> Option<String> {
    std::env::var("HOLM_BENCH_REDIS").ok()
}

/// Where invalidations go: no log, with a table in memory or on disk; a region's log, in this process or in Redis; and one
/// that is out of reach, so that the disk holds them.
fn logs() -> Vec<&'static str> {
    let mut cases = vec!["alone", "alone, disk", "log", "log, disk", "log out, disk"];
    if redis_url().is_some() {
        cases.push("redis");
    }
    cases
}

fn settings(redis: Option<&str>, endpoint: &str) -> config::Config {
    let redis = redis.map(|url| format!("[cache.redis]\nurl = \"{url}\"\n")).unwrap_or_default();
    node::configuration(endpoint, &format!("[cache]\nnamespace = \"bench-{}\"\n{redis}", fastrand::u32(..)))
}

/// A node's purger at work.
struct Scene {
    runtime: Runtime,
    purger: Arc<Purger>,
    metrics: Metrics,
    name: String,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new(case: &str, kind: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = Runtime::new().expect("a runtime");
        let config = settings(redis_url().as_deref().filter(|_| case == "redis"), "http://127.0.0.1:1");
        let log: Option<Arc<dyn Log>> = match case {
            "redis" => {
                let redis = config.cache.redis.as_ref().expect("a Redis");
                let log = RedisLog::new(&config.cache.namespace, redis, &config.cache.purge).expect("a log");
                Some(Arc::new(log) as Arc<dyn Log>)
            }
            "alone" | "alone, disk" => None,
            case => Some(Arc::new(Memory { is_down: case.contains("out"), ..Memory::default() }) as Arc<dyn Log>),
        };
        let disk = case.ends_with("disk").then(|| dir.path());
        let metrics = Metrics::default();
        let purger = Purger::open("bench", &config.cache.purge, disk, log, metrics.clone()).expect("a purger");
        runtime.spawn(Arc::clone(&purger).run(CancellationToken::new()));
        if !case.contains("out") {
            runtime.block_on(async {
                while !purger.in_step() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
        Self { runtime, purger, metrics, name: format!("{kind}, {case}"), _dir: dir }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let metrics = &self.metrics;
        let counts = [
            &metrics.purge_invalidations,
            &metrics.purge_invalidations_coalesced,
            &metrics.purge_invalidations_appended,
        ];
        let [asked, joined, appended] = counts.map(|counter| counter.get());
        TOTALS.lock().push((self.name.clone(), asked, joined, appended));
    }
}

/// URLs that come again and again, as those of an API do.
fn urls() -> Vec<Tag> {
    (0..8_192).map(|n| Tag::url(&format!("http://bench.example/{n}"))).collect()
}

/// One at a time, until it may be replied to: the log has taken it, or the disk.
#[divan::bench(args = logs())]
fn one(bencher: Bencher<'_, '_>, case: &str) {
    let (scene, urls) = (Scene::new(case, "one"), urls());
    let mut next = urls.iter().cycle();
    bencher.bench_local(|| {
        let url = *next.next().expect("another");
        scene.runtime.block_on(scene.purger.invalidate(url));
    });
}

/// Many at once, each of another URL.
#[divan::bench(args = logs())]
fn together(bencher: Bencher<'_, '_>, case: &str) {
    let (scene, urls) = (Scene::new(case, "together"), urls());
    let mut next = urls.iter().cycle();
    bencher.counter(ItemsCount::new(TOGETHER)).bench_local(|| {
        let batch: Vec<Tag> = next.by_ref().take(TOGETHER).copied().collect();
        scene.runtime.block_on(join_all(batch.into_iter().map(|url| scene.purger.invalidate(url))));
    });
}

/// Many at once, all of one URL.
#[divan::bench(args = logs())]
fn of_one_url(bencher: Bencher<'_, '_>, case: &str) {
    let scene = Scene::new(case, "of one URL");
    let url = Tag::url("http://bench.example/");
    bencher.counter(ItemsCount::new(TOGETHER)).bench_local(|| {
        scene.runtime.block_on(join_all((0..TOGETHER).map(|_| scene.purger.invalidate(url))));
    });
}

/// A node whose origin sends 2 bytes that may be stored for each request.
struct Whole {
    runtime: Runtime,
    pipeline: Arc<Pipeline>,
}

impl Whole {
    fn new(redis: Option<&str>) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let pipeline = runtime.block_on(async {
            let response = b"HTTP/1.1 200 OK\r\ncache-control: max-age=3600\r\ncontent-length: 2\r\n\r\nok";
            let config = settings(redis, &node::origin(response.to_vec()).await);
            let cache = node::cache(&config).await;
            tokio::spawn(Arc::clone(cache.purger()).run(CancellationToken::new()));
            while !cache.purger().in_step() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            node::pipeline(config, cache, None)
        });
        Self { runtime, pipeline }
    }

    fn serve(&self, method: Method, target: &str) {
        let served =
            self.runtime.block_on(self.pipeline.serve(node::request(method, target, &[]), RequestSpan::none()));
        assert_eq!(served.response.status(), 200);
    }
}

fn wholes() -> Vec<&'static str> {
    let mut cases = vec!["nothing stored", "stored"];
    if redis_url().is_some() {
        cases.push("stored, redis");
    }
    cases
}

/// A whole POST, the exchange with the origin included: of a URL for which certainly nothing is stored, and of one for
/// which something is.
#[divan::bench(args = wholes())]
fn post(bencher: Bencher<'_, '_>, case: &str) {
    let whole = Whole::new(redis_url().as_deref().filter(|_| case.ends_with("redis")));
    if case != "nothing stored" {
        whole.serve(Method::GET, "/item");
    }
    bencher.bench_local(|| whole.serve(Method::POST, "/item"));
}
