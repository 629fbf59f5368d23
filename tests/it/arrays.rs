//! Arrays of inputs: each reply is whole, in order and with the right usage, and no input is sent that needn't be,
//! whatever is known, repeated, purged or failing meanwhile.

use std::{
    collections::BTreeSet,
    iter,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use fastrand::Rng;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{
    client::Response,
    eventually,
    model::{ARRAY, EMBEDDINGS, batches, doubling},
    node::{Builder, Node, NodeHandle},
    origin::{Gate, Origin, Reply, Seen},
};

/// Arrays of the random test.
const ARRAYS: usize = 10_000;

/// Clients that send them.
const CLIENTS: usize = 16;

/// Where the random test begins; what it finds may depend on the machine's pace as well.
const SEED: u64 = 11;

/// A node whose results are stored.
fn asking(origin: &Origin, protocol: &str) -> Builder {
    Node::builder().origin(&origin.url()).infer(protocol).route("ttl_ms = 600000")
}

/// A request for embeddings. One whose embeddings are numbers may say so.
#[derive(Debug)]
struct Array {
    inputs: Vec<Value>,
    /// Whether the inputs are a list; else it is one.
    is_list: bool,
    dimensions: Option<usize>,
    format: Option<&'static str>,
    user: Option<&'static str>,
    control: Option<&'static str>,
}

impl Array {
    fn of(inputs: Vec<Value>) -> Self {
        Self { inputs, is_list: true, dimensions: None, format: None, user: None, control: None }
    }

    /// Returns texts that no other number has.
    fn texts(numbers: impl IntoIterator<Item = u32>) -> Self {
        Self::of(numbers.into_iter().map(|number| input(number, false)).collect())
    }

    /// Returns an array of any form with duplicates, of which some share may be known.
    fn random(random: &mut Rng) -> Self {
        let (is_list, is_tokens, known) = (random.u32(..5) > 0, random.bool(), random.u32(..=4));
        let mut inputs: Vec<Value> = Vec::new();
        let length = if is_list { random.usize(1..=8) } else { 1 };
        for _ in 0..length {
            let repeated = (!inputs.is_empty() && random.u32(..5) == 0).then(|| random.usize(..inputs.len()));
            let number = if random.u32(..4) < known { random.u32(..40) } else { random.u32(40..) };
            inputs.push(repeated.map_or_else(|| input(number, is_tokens), |at| inputs[at].clone()));
        }
        let mut one_of = |values: &[Option<&'static str>]| values[random.usize(..values.len())];
        let format = one_of(&[None, None, None, Some("float"), Some("base64")]);
        let user = one_of(&[None, None, None, Some("u")]);
        let control = one_of(&[[None; 8].as_slice(), &[Some("no-cache"), Some("no-store")]].concat());
        let dimensions = (random.u32(..5) == 0).then_some(2);
        Self { inputs, is_list, dimensions, format, user, control }
    }

    fn call(&self) -> Value {
        let input = if self.is_list { json!(self.inputs) } else { self.inputs[0].clone() };
        let mut call = json!({"model": "m", "input": input});
        if let Some(dimensions) = self.dimensions {
            call["dimensions"] = json!(dimensions);
        }
        if let Some(format) = self.format {
            call["encoding_format"] = json!(format);
        }
        if let Some(user) = self.user {
            call["user"] = json!(user);
        }
        call
    }

    fn distinct(&self) -> BTreeSet<String> {
        self.inputs.iter().map(Value::to_string).collect()
    }
}

/// Returns the input of this number: text, or token ids.
fn input(number: u32, is_tokens: bool) -> Value {
    let length = 1 + number as usize % 9;
    if is_tokens { json!(vec![number; length]) } else { json!(format!("{number:x}{}", "x".repeat(length))) }
}

/// Returns the tokens that an honest model counts for an input.
fn tokens(input: &Value) -> usize {
    input.as_array().map_or_else(|| input.as_str().unwrap().len(), Vec::len)
}

/// Returns an input's own embedding, in the form that the request asks for.
fn embedding(input: &Value, dimensions: Option<usize>, format: Option<&str>) -> Value {
    let length = dimensions.unwrap_or(4);
    let digest = blake3::hash(format!("{length} {input}").as_bytes());
    let numbers = digest.as_bytes()[..length].iter().map(|byte| f32::from(*byte) / 256.0);
    match format {
        Some("base64") => json!(base64(&numbers.flat_map(f32::to_le_bytes).collect::<Vec<u8>>())),
        _ => numbers.map(Value::from).collect(),
    }
}

/// Returns bytes in base64 (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = bytes.chunks(3).flat_map(|three| {
        let bits = (0..3).fold(0_usize, |bits, at| (bits << 8) | three.get(at).map_or(0, |byte| usize::from(*byte)));
        let digit = move |place: usize| char::from(DIGITS[(bits >> (18 - 6 * place)) & 63]);
        let written = three.len() + 1;
        (0..written).map(digit).chain(iter::repeat_n('=', 4 - written))
    });
    digits.collect()
}

/// What a model does wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// It responds with this status.
    Status(u16),
    /// One embedding isn't a number.
    NotANumber,
    /// One embedding is missing.
    TooFew,
    /// The entries are in order and have no index, or `null` in its place.
    NoIndex,
    /// It takes a while.
    Slow,
    /// Its connection closes.
    Cut,
}

impl Fault {
    fn random(random: &mut Rng) -> Self {
        match random.u32(..1000) {
            0..20 => Self::Status(500),
            20..28 => Self::Status(429),
            28..43 => Self::NotANumber,
            43..53 => Self::TooFew,
            53..61 => Self::Cut,
            61..100 => Self::NoIndex,
            100..115 => Self::Slow,
            _ => Self::None,
        }
    }
}

/// Returns what a model says with this status.
fn refusal(status: u16) -> String {
    json!({"error": {"message": format!("the model says {status}"), "type": "x", "param": null, "code": null}})
        .to_string()
}

/// Returns the inputs of a call.
fn inputs(seen: &Seen) -> (Value, Vec<Value>) {
    let call: Value = serde_json::from_slice(&seen.body).unwrap();
    let inputs = match &call["input"] {
        Value::Array(list) if !list[0].is_number() => list.clone(),
        one => vec![one.clone()],
    };
    (call, inputs)
}

/// Responds to a call as a model with this fault does; the entries of a good response are in any order.
fn respond(seen: &Seen, fault: Fault, random: &mut Rng) -> Reply {
    if let Fault::Status(status) = fault {
        return Reply::says(status, refusal(status)).header("content-type", "application/json");
    }
    if fault == Fault::Cut {
        return Reply::cut();
    }
    let (call, inputs) = inputs(seen);
    let dimensions = call["dimensions"].as_u64().map(|length| usize::try_from(length).unwrap());
    let spoiled = random.usize(..inputs.len());
    let (is_null, is_fraction) = (random.bool(), random.u32(..8) == 0);
    let entry = |(at, input): (usize, &Value)| {
        let is_spoiled = fault == Fault::NotANumber && at == spoiled;
        let own = || embedding(input, dimensions, call["encoding_format"].as_str()).to_string();
        let embedding = if is_spoiled { "NaN".to_owned() } else { own() };
        let index = match fault {
            Fault::NoIndex if is_null => r#""index":null,"#.to_owned(),
            Fault::NoIndex => String::new(),
            _ if is_fraction => format!(r#""index":{at}.0,"#),
            _ => format!(r#""index":{at},"#),
        };
        format!(r#"{{"object":"embedding",{index}"embedding":{embedding}}}"#)
    };
    let mut entries: Vec<String> = inputs.iter().enumerate().map(entry).collect();
    if fault == Fault::TooFew {
        entries.pop();
    } else if fault != Fault::NoIndex {
        random.shuffle(&mut entries);
    }
    let total: usize = inputs.iter().map(tokens).sum();
    let (entries, usage) = (entries.join(","), json!({"prompt_tokens": total, "total_tokens": total}));
    let body = format!(r#"{{"object":"list","data":[{entries}],"model":"m","usage":{usage}}}"#);
    let delay = if fault == Fault::Slow { Duration::from_millis(20) } else { Duration::ZERO };
    let tag = format!("t{}", random.u32(..TAGS));
    Reply::ok(body).header("content-type", "application/json").header("surrogate-key", &tag).after(delay)
}

/// Different tags of the model's responses.
const TAGS: u32 = 4;

/// What a right response shows.
#[derive(Clone, Copy, Debug)]
enum Shown {
    /// The embeddings, of which so many were sent for it.
    Embeddings { sent: usize },
    /// A failure of the model's, or a stated refusal.
    Failure,
}

/// Returns what is wrong with a response to an array.
fn check(array: &Array, response: &Response) -> Result<Shown, String> {
    if response.status != 200 {
        return if is_stated(response) { Ok(Shown::Failure) } else { Err("an unstated failure".to_owned()) };
    }
    // A model's own mistake is given to the clients that wait for it alone, and to no other.
    let mut text = String::from_utf8_lossy(&response.body).into_owned();
    if array.inputs.len() == 1 {
        text = text.replace(":NaN", ":null");
    }
    let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let data = list["data"].as_array().ok_or("there is no list")?;
    if data.len() != array.inputs.len() {
        return Err(format!("{} embeddings", data.len()));
    }
    for (at, (entry, input)) in data.iter().zip(&array.inputs).enumerate() {
        let found = entry.get("embedding").ok_or("an entry has no embedding")?;
        let is_own = *found == embedding(input, array.dimensions, array.format);
        if !is_own && (!found.is_null() || response.is_hit()) {
            return Err(format!("wrong vector at {at}"));
        }
        // What the model got wrong is given as the model wrote it.
        if is_own && entry["index"] != json!(at) {
            return Err(format!("wrong index at {at}"));
        }
    }
    let total: usize = array.inputs.iter().map(tokens).sum();
    if list["usage"] != json!({"prompt_tokens": total, "total_tokens": total}) {
        return Err(format!("usage {} and not {total}", list["usage"]));
    }
    let sent = check_cost(array, response, total)?;
    Ok(Shown::Embeddings { sent })
}

/// Whether a failure is one that the model gave, or says what the model did.
fn is_stated(response: &Response) -> bool {
    let (status, cache) = (response.status, response.cache());
    match (status, cache.get("detail")) {
        (429, "queue-full") => true,
        (429 | 500, _) => response.text() == refusal(status),
        (502 | 503, detail) => !detail.is_empty() && response.json()["error"]["message"].is_string(),
        _ => false,
    }
}

/// Checks what the response says that it cost, and returns how many inputs were sent for it.
fn check_cost(array: &Array, response: &Response, total: usize) -> Result<usize, String> {
    let said = response.header("holm-usage");
    let mut counts = said.split(", ").filter_map(|count| count.split_once('='));
    let mut count = |name: &str| counts.find(|(found, _)| *found == name).and_then(|(_, count)| count.parse().ok());
    let (items, sent): (Option<usize>, Option<usize>) = (count("items"), count("sent"));
    let (prompt, whole): (Option<usize>, Option<usize>) = (count("prompt_tokens"), count("total_tokens"));
    let distinct = array.distinct();
    let of_distinct: usize =
        distinct.iter().map(|text| tokens(&serde_json::from_str(text).expect("an input is JSON"))).sum();
    let sent = sent.ok_or_else(|| format!("the cost is {said:?}"))?;
    let is_right = items == Some(array.inputs.len())
        && prompt == whole
        && match sent {
            0 => prompt.is_none(),
            _ if sent == distinct.len() => prompt == Some(of_distinct) && !response.is_hit(),
            _ => prompt.is_some_and(|prompt| prompt < total) && sent < distinct.len() && !response.is_hit(),
        };
    if is_right { Ok(sent) } else { Err(format!("the cost is {said:?} of {} distinct", distinct.len())) }
}

/// What one client has seen.
#[derive(Debug, Default)]
struct Report {
    served: usize,
    known: usize,
    mixed: usize,
    wrong: Vec<String>,
}

/// Purges what some of the responses brought, or everything.
async fn purge(node: &NodeHandle, random: &mut Rng) {
    let soft = random.bool();
    if random.bool() {
        node.purge_url(EMBEDDINGS, soft).await;
    } else {
        node.purge(&json!({"tag": format!("t{}", random.u32(..TAGS)), "soft": soft})).await;
    }
}

/// Sends arrays, one after the other, and purges now and then.
async fn send(node: NodeHandle, number: usize) -> Report {
    let (mut random, mut report) = (Rng::with_seed(SEED + number as u64), Report::default());
    let mut conn = node.h2().await;
    for _ in 0..ARRAYS / CLIENTS {
        if random.u32(..100) == 0 {
            purge(&node, &mut random).await;
        }
        let array = Array::random(&mut random);
        let ask = node.post(EMBEDDINGS).json(&array.call());
        let response = conn.send(array.control.iter().fold(ask, |ask, said| ask.header("cache-control", said))).await;
        match check(&array, &response) {
            Ok(Shown::Embeddings { sent }) => {
                report.served += 1;
                report.known += usize::from(response.is_hit());
                report.mixed += usize::from(sent > 0 && sent < array.distinct().len());
            }
            Ok(Shown::Failure) => {}
            Err(wrong) => {
                let (status, headers, body) = (response.status, &response.headers, &response.body);
                report.wrong.push(format!("{wrong}: {array:?}: {status} {headers:?} {body:?}"));
            }
        }
    }
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_arrays_have_their_own_vectors_indexes_and_usage_whatever_happens() {
    let (origin, random) = (Origin::start().await, Mutex::new(Rng::with_seed(SEED)));
    origin.on(EMBEDDINGS, move |seen| {
        let mut random = random.lock();
        let fault = Fault::random(&mut random);
        respond(seen, fault, &mut random)
    });
    let node = asking(&origin, "openai-embeddings")
        .route("grace_ms = 600000\nstale_if_error_ms = 600000")
        .set("pool.web.batch", "size_max = 16\nconcurrency = 4")
        .start()
        .await;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(send(NodeHandle::clone(&node), number));
    }
    let reports = clients.join_all().await;
    let wrong: Vec<&String> = reports.iter().flat_map(|report| &report.wrong).collect();
    assert!(wrong.is_empty(), "{} wrong, the first of them: {:#?}", wrong.len(), &wrong[..wrong.len().min(3)]);
    let sum = |count: fn(&Report) -> usize| reports.iter().map(count).sum::<usize>();
    let (served, known, mixed) = (sum(|report| report.served), sum(|report| report.known), sum(|report| report.mixed));
    // Else the test shows little.
    assert!(served > ARRAYS * 3 / 4, "{served} served");
    assert!(known > ARRAYS / 50 && mixed > ARRAYS / 50, "{known} known, {mixed} mixed");
}

/// A model at [`EMBEDDINGS`] that makes no mistakes.
fn honest(origin: &Origin) {
    origin.on(EMBEDDINGS, |seen| respond(seen, Fault::None, &mut Rng::with_seed(SEED)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_thirty_two_inputs_those_that_are_new_are_sent_and_paid() {
    let origin = Origin::start().await;
    honest(&origin);
    let node = asking(&origin, "openai-embeddings").start().await;
    let ask = async |array: &Array| node.post(EMBEDDINGS).json(&array.call()).send().await;
    check(&Array::texts(0..20), &ask(&Array::texts(0..20)).await).unwrap();
    let mut array = Array::texts(0..32);
    Rng::with_seed(SEED).shuffle(&mut array.inputs);
    let response = ask(&array).await;
    assert!(matches!(check(&array, &response), Ok(Shown::Embeddings { sent: 12 })), "{response:?}");
    let mut sent: Vec<String> = batches(&origin, EMBEDDINGS)[1..].concat().iter().map(Value::to_string).collect();
    sent.sort();
    assert_eq!(sent, Array::texts(20..32).distinct().into_iter().collect::<Vec<_>>());
    let new: usize = Array::texts(20..32).inputs.iter().map(tokens).sum();
    let said = format!("items=32, sent=12, prompt_tokens={new}, total_tokens={new}");
    assert_eq!(response.header("holm-usage"), said);
    let again = ask(&array).await;
    assert!(matches!(check(&array, &again), Ok(Shown::Embeddings { sent: 0 })), "{again:?}");
    assert_eq!((again.is_hit(), again.json(), origin.hits(EMBEDDINGS)), (true, response.json(), 2));
    assert_eq!(again.header("holm-usage"), "items=32, sent=0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_thirty_two_elements_those_that_are_new_are_sent() {
    let origin = Origin::start().await;
    doubling(&origin, Gate::opened());
    let node = asking(&origin, "json-array").start().await;
    let element = |n: usize| json!({"n": n});
    let first = node.post(ARRAY).json(&(0..20).map(element).collect()).send().await;
    assert_eq!((first.status, first.header("holm-usage")), (200, "items=20, sent=20"));
    let mut numbers: Vec<usize> = (0..32).collect();
    Rng::with_seed(SEED).shuffle(&mut numbers);
    let response = node.post(ARRAY).json(&numbers.iter().copied().map(element).collect()).send().await;
    assert_eq!(response.json(), numbers.iter().map(|n| json!({"double": 2 * n})).collect::<Value>());
    assert_eq!(response.header("holm-usage"), "items=32, sent=12");
    let mut sent: Vec<u64> =
        batches(&origin, ARRAY)[1..].concat().iter().map(|item| item["n"].as_u64().unwrap()).collect();
    sent.sort_unstable();
    assert_eq!(sent, (20..32).collect::<Vec<_>>());
}

/// A model at [`ARRAY`] whose results are numbers in the order in which it was asked.
fn numbering(origin: &Origin, control: &'static str) {
    let asked = AtomicUsize::new(0);
    origin.on(ARRAY, move |seen| {
        let items: Vec<Value> = serde_json::from_slice(&seen.body).unwrap();
        let numbers: Value = items.iter().map(|_| json!(asked.fetch_add(1, SeqCst))).collect();
        Reply::ok(numbers.to_string()).header("cache-control", control)
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_twice_is_sent_once_however_it_is_fetched() {
    // What the client and the model say of storing, limits of the node, and what is sent of three when asked again.
    for (client, model, limits, again) in [
        ("", "max-age=600", "", 0),
        ("no-cache", "max-age=600", "", 3),
        ("no-store", "max-age=600", "", 3),
        ("", "private", "", 3),
        ("", "no-store", "", 3),
        // What is past the limit is fetched without being stored.
        ("", "max-age=600", "flights_max = 1", 2),
    ] {
        let origin = Origin::start().await;
        numbering(&origin, model);
        let node = asking(&origin, "json-array").set("cache.collapse", limits).start().await;
        for sent in [3, again] {
            let before = batches(&origin, ARRAY).concat().len();
            let ask = node
                .post(ARRAY)
                .json(&json!([{"n": 1}, {"n": 2}, {"n": 1}, {"m": 0, "n": 2}, {"n": 1}, {"n": 2, "m": 0}]));
            let ask = if client.is_empty() { ask } else { ask.header("cache-control", client) };
            let response = ask.send().await;
            let list = response.json();
            let case = format!("{client}, {model}, {limits}: {list}");
            assert_eq!((&list[0], &list[0], &list[3]), (&list[2], &list[4], &list[5]), "{case}");
            let different: BTreeSet<String> = list.as_array().unwrap().iter().map(Value::to_string).collect();
            assert_eq!(different.len(), 3, "{case}");
            assert_eq!(batches(&origin, ARRAY).concat().len() - before, sent, "{case}");
            assert_eq!(response.header("holm-usage"), format!("items=6, sent={sent}"), "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embeddings_of_other_dimensions_and_formats_are_others() {
    let origin = Origin::start().await;
    honest(&origin);
    let node = asking(&origin, "openai-embeddings").start().await;
    let forms = [(None, None), (None, Some("base64")), (Some(2), None), (Some(2), Some("base64")), (Some(3), None)];
    for is_known in [false, true] {
        for (dimensions, format) in forms {
            let array = Array { dimensions, format, ..Array::texts(0..3) };
            let response = node.post(EMBEDDINGS).json(&array.call()).send().await;
            check(&array, &response).unwrap();
            assert_eq!(response.is_hit(), is_known, "{array:?}");
        }
    }
    // An input is the same alone, in a list and between others.
    for (inputs, is_list) in [(&[1][..], false), (&[1], true), (&[2, 1, 0, 1], true)] {
        let array = Array { is_list, ..Array::texts(inputs.iter().copied()) };
        let response = node.post(EMBEDDINGS).json(&array.call()).send().await;
        check(&array, &response).unwrap();
        assert!(response.is_hit(), "{array:?}");
    }
    assert_eq!(origin.hits(EMBEDDINGS), forms.len());
}

/// Returns the counts of `total_tokens` that responses tell: of all their inputs, and of those that were sent.
fn told(responses: &[Response]) -> (u64, u64) {
    let all = responses.iter().map(|response| response.json()["usage"]["total_tokens"].as_u64().unwrap());
    let sent = responses.iter().filter_map(|response| response.header("holm-usage").rsplit_once("total_tokens="));
    (all.sum(), sent.map(|(_, count)| count.parse::<u64>().unwrap()).sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_batch_of_several_clients_cost_is_divided_among_them_without_a_rest() {
    const OTHERS: u32 = 6;
    let (origin, gate, counted) = (Origin::start().await, Gate::closed(), Arc::new(AtomicUsize::new(0)));
    let (held, counting) = (gate.clone(), Arc::clone(&counted));
    origin.on(EMBEDDINGS, move |seen| {
        let (_, inputs) = inputs(seen);
        // Tokens of several bytes, and two more for each input: what an input costs can't be told by its length.
        let tokens: usize = inputs.iter().map(|input| tokens(input).div_ceil(4) + 2).sum();
        counting.fetch_add(tokens, SeqCst);
        let data: Value = inputs.iter().map(|input| json!({"embedding": embedding(input, None, None)})).collect();
        Reply::ok(json!({"data": data, "usage": {"total_tokens": tokens}}).to_string()).behind(&held)
    });
    let node =
        asking(&origin, "openai-embeddings").set("pool.web.batch", "size_max = 32\nconcurrency = 1").start().await;
    let arrays: Vec<Array> = (0..=OTHERS).map(|n| Array::texts((10 * n..10 * n + 3).chain([10 * n]))).collect();
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    for (at, array) in arrays.iter().enumerate() {
        let (mut stream, ask) = (conn.stream(), node.post(EMBEDDINGS).json(&array.call()));
        asks.spawn(async move { stream.send(ask).await });
        if at == 0 {
            eventually("the model being busy", async || origin.hits(EMBEDDINGS) == 1).await;
        }
    }
    node.took_over_h2(OTHERS + 1).await;
    gate.open();
    let responses = asks.join_all().await;
    assert_eq!(batches(&origin, EMBEDDINGS).iter().map(Vec::len).collect::<Vec<_>>(), [3, 3 * OTHERS as usize]);
    let (all, sent) = told(&responses);
    assert_eq!(sent, counted.load(SeqCst) as u64);
    assert!(all > sent, "the one that stands twice counts twice: {all}, {sent}");
    let mut again = Vec::new();
    for array in &arrays {
        again.push(node.post(EMBEDDINGS).json(&array.call()).send().await);
    }
    assert!(again.iter().all(Response::is_hit));
    assert_eq!(told(&again), (all, 0));
}
