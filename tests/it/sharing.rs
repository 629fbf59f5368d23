//! Which requests share a response. A table of pairs, each of which differs in one thing, goes through a route of every
//! kind, with and without the shipped policies; no pair shares a response unless its row says why.
//!
//! The origin numbers its responses, so "shares" means: the second response carries a number of the first. Each row has
//! a path of its own on each route and in each direction, so that rows don't meet.

mod http_rows;
mod infer_rows;
mod model;
mod places;
mod row;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::task::{JoinSet, yield_now};

use crate::harness::{
    client::{Conn, Failure, Response},
    node::{Node, NodeHandle},
    origin::Origin,
    within,
};
use places::Place;
use row::{Req, Row, Verdict};

/// Connections that send rows at the same time.
const WORKERS: usize = 8;

/// Repetitions of the first request, at most, until it is a hit. One with `no-cache` never is.
const REPEATS_MAX: usize = 10;

/// Pairs that the table has at least.
const PAIRS_MIN: usize = 200;

/// Failures that are shown.
const SHOWN_MAX: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pair_shares_a_response_unless_the_table_says_why() {
    let (table, places) = (Arc::new(Table::new()), Arc::new(places::all()));
    let origin = Origin::start().await;
    model::respond(&origin, table.says());
    let node = places::node(&origin, &places).start().await;
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (table, places, next) = (Arc::clone(&table), Arc::clone(&places), Arc::clone(&next));
        workers.spawn(Worker::of(&node).run(table, places, next));
    }
    let failures: Vec<String> = workers.join_all().await.into_iter().flatten().collect();
    let shown = failures.iter().take(SHOWN_MAX).map(String::as_str).collect::<Vec<&str>>().join("\n");
    assert!(failures.is_empty(), "{} of the table's pairs are wrong:\n{shown}", failures.len());
}

#[test]
fn the_table_is_large_and_each_reason_and_name_is_there() {
    let table = Table::new();
    assert!(table.rows.len() >= PAIRS_MIN, "{} pairs", table.rows.len());
    let mut names = BTreeSet::new();
    for row in &table.rows {
        assert!(names.insert(row.name()), "two rows are called {}", row.name());
        assert!(row.verdicts().all(|verdict| verdict.reason().is_none_or(|why| why.len() > 3)), "{}", row.name());
    }
    for place in places::all() {
        let musts = |row: &Row| row.is_on(&place) && matches!(row.verdict(&place, false), Verdict::Must(_));
        assert!(table.rows.iter().any(musts), "nothing has to be shared on {place}");
    }
}

/// All rows.
struct Table {
    rows: Vec<Row>,
}

impl Table {
    fn new() -> Self {
        Self { rows: http_rows::rows().into_iter().chain(infer_rows::rows()).collect() }
    }

    /// The header fields of the origin's responses to each row.
    fn says(&self) -> Vec<model::Says> {
        self.rows.iter().map(|row| row.says_of_origin().to_vec()).collect()
    }
}

/// Sends pairs over one connection.
struct Worker {
    handle: NodeHandle,
    conn: Option<Conn>,
}

/// The outcome of sending a pair in one direction.
struct Tried {
    shared: bool,
    /// The digest of what the origin was sent for the first request; empty if it was sent nothing.
    digest: String,
    /// Both responses, for the message.
    seen: String,
}

impl Worker {
    fn of(node: &Node) -> Self {
        Self { handle: NodeHandle::clone(node), conn: None }
    }

    /// Takes rows until there are no more, and returns what is wrong.
    async fn run(mut self, table: Arc<Table>, places: Arc<Vec<Place>>, next: Arc<AtomicUsize>) -> Vec<String> {
        let mut failures = Vec::new();
        loop {
            let job = next.fetch_add(1, SeqCst);
            let (number, place) = (job / places.len(), &places[job % places.len()]);
            let Some(row) = table.rows.get(number) else { return failures };
            if row.is_on(place) {
                failures.extend(self.judge(number, row, place).await);
            }
        }
    }

    /// Sends a pair in both directions, and returns what is wrong.
    async fn judge(&mut self, number: usize, row: &Row, place: &Place) -> Vec<String> {
        let (first, second) = row.pair();
        let there = self.send_pair(&place.target(number, 'f'), first, second).await;
        let back = self.send_pair(&place.target(number, 'b'), second, first).await;
        let alike = !there.digest.is_empty() && there.digest == back.digest;
        let wrong = |(tried, is_back): (&Tried, bool)| {
            let verdict = row.verdict(place, is_back);
            let fault = verdict.fault(tried.shared, alike)?;
            let direction = if is_back { "second, then first" } else { "first, then second" };
            Some(format!("{} on {place}, {direction}: {fault} ({verdict:?}): {}", row.name(), tried.seen))
        };
        [(&there, false), (&back, true)].into_iter().filter_map(wrong).collect()
    }

    /// Sends one request until its response is stored, if it is to be stored, and then the other.
    async fn send_pair(&mut self, target: &str, first: &Req, second: &Req) -> Tried {
        let response = self.send(target, first).await;
        let (mut given, digest) = (serials(&response), response.header(model::DIGEST).to_owned());
        let (mut last, mut left) = (response.clone(), REPEATS_MAX);
        while !last.is_hit() && last.cache().has("stored") && left > 0 {
            left -= 1;
            yield_now().await;
            last = self.send(target, first).await;
            given.extend(serials(&last));
        }
        let other = self.send(target, second).await;
        let summary = |response: &Response| format!("{} {}", response.status, response.header("cache-status"));
        let shared = serials(&other).iter().any(|serial| given.contains(serial));
        Tried { shared, digest, seen: format!("{} | {}", summary(&response), summary(&other)) }
    }

    async fn send(&mut self, target: &str, request: &Req) -> Response {
        // A node may have closed a connection after what it refused.
        if let Some(conn) = self.conn.take()
            && let Ok(response) = self.exchange(conn, target, request).await
        {
            return response;
        }
        let conn = self.handle.h1().await;
        match self.exchange(conn, target, request).await {
            Ok(response) => response,
            Err(error) => panic!("{target} {request:?}: {error}"),
        }
    }

    async fn exchange(&mut self, mut conn: Conn, target: &str, request: &Req) -> Result<Response, Failure> {
        let ask = request.ask(&self.handle, target);
        let response = within(target, async { conn.open(ask).await?.whole().await }).await?;
        self.conn = (response.header("connection") != "close").then_some(conn);
        Ok(response)
    }
}

/// The numbers that a response carries: one, or one for each item; a response to HEAD has its in a header field.
fn serials(response: &Response) -> BTreeSet<u64> {
    let body = String::from_utf8_lossy(&response.body);
    let numbers = body.match_indices(model::MEMBER).map(|(at, member)| &body[at + member.len()..]);
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>().ok();
    numbers.filter_map(digits).chain(digits(response.header(model::SERIAL))).collect()
}
