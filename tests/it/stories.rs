//! The story of one request in the node's own log: at `debug` each stage of a sampled request is an event in its span.

use serde_json::json;

use crate::harness::{
    eventually, found,
    liar::Refusing,
    model::{ARRAY, doubling},
    node::{Builder, Node},
    origin::{Gate, Origin, Reply},
    process::Process,
    repository,
};

/// Directives by which only requests are logged.
const ONLY_REQUESTS: &str = "info,holm::request=debug";

fn builder(origin: &Origin) -> Builder {
    Node::builder().origin(&origin.url())
}

/// The lines of this request, in their order.
fn lines(process: &Process, id: &str) -> Vec<String> {
    let word = format!("id={id}");
    let said = process.said();
    said.lines().filter(|line| line.split(' ').any(|it| it == word)).map(str::to_owned).collect()
}

/// The lines of this request, as soon as the last one is there.
async fn story(process: &Process, id: &str) -> Vec<String> {
    found("the end of a story", async || {
        let lines = lines(process, id);
        lines.iter().any(|line| line.contains(" replied ")).then_some(lines)
    })
    .await
}

/// Checks that a story has lines with these words, in this order; others may stand between them.
fn check(story: &[String], wanted: &[&[&str]]) {
    let mut rest = story.iter();
    for words in wanted {
        let is_there = rest.any(|line| words.iter().all(|word| line.contains(word)));
        assert!(is_there, "{words:?} is missing, or not in its place, in\n{}", story.join("\n"));
    }
}

/// The value of a field in the first line with these words.
fn field<'s>(story: &'s [String], words: &str, name: &str) -> &'s str {
    let line = story.iter().find(|line| line.contains(words)).unwrap_or_else(|| panic!("no {words:?}: {story:#?}"));
    let value = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {line}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_miss_and_a_hit_can_be_read_stage_by_stage() {
    let origin = Origin::start().await;
    origin.on("/x", |_| Reply::fresh(600, "0123456789"));
    let process = builder(&origin).spawn_logging("debug").await;
    process.get("/x?q").header("x-request-id", "miss-1").send().await;
    process.hit("/x?q").await;
    process.get("/x?q").header("x-request-id", "hit-1").send().await;

    let miss = story(&process, "miss-1").await;
    let url = origin.url();
    let endpoint = url.trim_start_matches("http://");
    check(
        &miss,
        &[
            &["request received", "method=\"GET\"", "target=\"/x?q\""],
            &["routed", "route=\"all\""],
            &["planned", "plan=\"look-up\"", "why=\"keyed-by-head\""],
            &["key made", "by=\"native\"", "took_us="],
            &["looked up", "outcome=\"miss\"", "took_us="],
            &["planned", "plan=\"collapse\""],
            &["leads a flight", "flight="],
            &["sending", "pool=\"web\"", endpoint, "attempt=1"],
            &["responded", endpoint, "status=200", "took_us="],
            &["admission", "stored=true", "ttl_ms=600000"],
            &["flight landed", "with=\"stored-response\"", "waited_us="],
            &["replied", "status=200", "bytes=10", "lookup=\"miss\"", "stored=true", "took_us="],
        ],
    );
    assert!(miss.iter().all(|line| line.contains("connection:request:")), "{miss:#?}");
    let flights: Vec<&String> = miss.iter().filter(|line| line.contains(" flight=")).collect();
    let number = format!(" flight={} ", field(&miss, "leads a flight", "flight"));
    assert!(flights.len() >= 2 && flights.iter().all(|line| line.contains(&number)), "{flights:#?}");

    let hit = story(&process, "hit-1").await;
    check(
        &hit,
        &[
            &["request received"],
            &["routed", "route=\"all\""],
            &["key made"],
            &["looked up", "outcome=\"hit\"", "tier=\"memory\""],
            &["replied", "status=200", "bytes=10", "lookup=\"hit\"", "tier=\"memory\""],
        ],
    );
    assert!(!hit.iter().any(|line| line.contains("sending")), "{hit:#?}");
    assert_eq!(field(&hit, "key made", "key"), field(&miss, "key made", "key"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_names_the_flight_of_its_leader() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/x", move |_| Reply::fresh(600, "x").behind(&held));
    let process = builder(&origin).spawn_logging(ONLY_REQUESTS).await;
    let ask = |id: &str| tokio::spawn(process.get("/x").header("x-request-id", id).send());
    let leader = ask("lead-1");
    eventually("the fetch", async || origin.hits("/x") == 1).await;
    let follower = ask("follow-1");
    eventually("the follower", async || lines(&process, "follow-1").iter().any(|line| line.contains("follows"))).await;
    gate.open();
    for asked in [leader, follower] {
        assert_eq!(asked.await.unwrap().status, 200);
    }

    let (leads, follows) = (story(&process, "lead-1").await, story(&process, "follow-1").await);
    let flight = field(&leads, "leads a flight", "flight");
    assert_eq!(field(&follows, "follows a flight", "flight"), flight);
    check(
        &follows,
        &[
            &["looked up", "outcome=\"miss\""],
            &["follows a flight"],
            &["flight landed", "with=\"stored-response\""],
            &["replied", "collapsed=true"],
        ],
    );
    assert!(!follows.iter().any(|line| line.contains("sending")), "it sends nothing: {follows:#?}");
    assert!(leads.iter().any(|line| line.contains("sending")), "{leads:#?}");
    assert!(!process.said().contains("holm::http"), "only requests were to be logged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_named_by_each_of_its_items() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    doubling(&origin, gate.clone());
    gate.open();
    let process = builder(&origin).infer("json-array").route("ttl_ms = 600000").spawn_logging("debug").await;
    let body = json!([{"n": 1}, {"n": 2}]);
    let response = process.post(ARRAY).header("x-request-id", "batch-1").json(&body).send().await;
    assert_eq!(response.json(), json!([{"double": 2}, {"double": 4}]));

    let whole = story(&process, "batch-1").await;
    check(&whole, &[&["planned", "why=\"keyed-by-body\""], &["split", "items=2"], &["replied", "status=200"]]);
    let batch = field(&whole, "batch sent", "batch");
    for item in ["item=0", "item=1"] {
        let own: Vec<String> = whole.iter().filter(|line| line.split(' ').any(|it| it == item)).cloned().collect();
        let number = format!(" batch={batch} ");
        check(
            &own,
            &[
                &["request:item:", "key made"],
                &["looked up", "outcome=\"miss\""],
                &["leads a flight"],
                &["batch sent", number.as_str(), "items=2", "why=\"idle\"", "waited_us="],
                &["admission", "stored=true"],
                &["flight landed", "with=\"result\""],
                &["item fetched", "status=200", "stored=true"],
            ],
        );
    }
    let attempts: Vec<&String> = whole.iter().filter(|line| line.contains("sending")).collect();
    assert!(attempts.len() == 1 && attempts[0].contains("request:item:batch:"), "one for both: {attempts:#?}");
    assert!(attempts[0].ends_with(&format!("batch={batch}")), "{attempts:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_attempt_says_why_the_first_one_failed() {
    let (origin, refusing) = (Origin::start().await, Refusing::new());
    origin.on("*", |_| Reply::ok("x").header("cache-control", "no-store"));
    let endpoints = [refusing.url(), origin.url()];
    let process = Node::builder().endpoints(&endpoints).spawn_logging(ONLY_REQUESTS).await;
    let mut asked = 0;
    let retried = found("a second attempt", async || {
        asked += 1;
        let id = format!("retry-{asked}");
        process.get("/x").header("x-request-id", &id).send().await;
        let story = story(&process, &id).await;
        story.iter().any(|line| line.contains("trying again")).then_some(story)
    })
    .await;
    let [refusing, origin] = endpoints.each_ref().map(|url| url.trim_start_matches("http://"));
    check(
        &retried,
        &[
            &["sending", refusing, "attempt=1"],
            &["attempt failed", refusing, "reason=\"connect-refused\""],
            &["trying again", origin],
            &["sending", origin, "attempt=2"],
            &["responded", origin, "status=200"],
            &["admission", "stored=false", "why=\"no-store\""],
            &["replied", "stored=false"],
        ],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_verdict_of_each_hook_is_in_its_place() {
    let origin = Origin::start().await;
    origin.on("/x", |_| Reply::fresh(600, "x"));
    let process = builder(&origin)
        .policy("p", &repository("plugins/dist/mad.wasm"), "{ do = \"call\" }")
        .route("policy = \"p\"")
        .set("policy.p.limits", "call_us = 1000000")
        .spawn_logging(ONLY_REQUESTS)
        .await;
    process.get("/x").header("x-do", "a").header("x-request-id", "hooks-1").send().await;
    let decided = |hook: &str| format!("policy decided hook=\"{hook}\" by=\"p@");
    let [features, route, admit] = ["features", "route", "admit"].map(decided);
    check(
        &story(&process, "hooks-1").await,
        &[
            &["key made", "by=\"p@"],
            &["looked up", "outcome=\"miss\""],
            &[features.as_str(), "verdict=\""],
            &[route.as_str(), "verdict=\"candidates [0]\""],
            &["sending"],
            &[admit.as_str(), "verdict=\"store: ttl "],
            &["admission", "stored=true"],
        ],
    );
}

/// A `traceparent` whose caller has recorded its span, and one whose caller hasn't.
const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_sampled_has_no_span() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::fresh(600, "x"));
    let process = builder(&origin).set("log", "trace_ppm = 0").spawn_logging("debug").await;
    process.get("/a").header("x-request-id", "none-1").send().await;
    process.get("/b").header("x-request-id", "none-2").header("traceparent", UNSAMPLED).send().await;
    process.get("/c").header("x-request-id", "forced-1").header("traceparent", SAMPLED).send().await;
    let forced = story(&process, "forced-1").await;
    assert!(forced.iter().all(|line| line.contains("trace_id=\"0af7651916cd43dd8448eb211c80319c\"")), "{forced:#?}");
    let said = process.said();
    let others: Vec<&str> =
        said.lines().filter(|line| line.contains("holm::request") && !line.contains("id=forced-1")).collect();
    assert_eq!(others, Vec::<&str>::new());

    let mut process = builder(&origin).spawn_logging("info").await;
    process.get("/a").header("traceparent", SAMPLED).send().await;
    process.signal("TERM");
    process.ended().await;
    assert!(!process.said().contains("holm::request"), "{}", process.said());
}
