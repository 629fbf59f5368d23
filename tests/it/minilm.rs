//! A real model: MiniLM behind a node with the configuration that `examples/minilm` has.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use http::Method;
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinSet, time::timeout};

use crate::harness::{
    client::{Ask, Response},
    eventually,
    model::EMBEDDINGS,
    node::NodeHandle,
    process::{Process, signal},
    repository,
};

/// The models whose weights are there; `tests/run` installs them and sets it.
const MODELS: &str = "HOLM_MODELS";

/// Without `tests/run` the weights are downloaded first.
const START_TIME: Duration = Duration::from_secs(300);

/// The address of the model in the example's configuration.
const MODEL_ADDRESS: &str = "127.0.0.1:9100";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_models_vectors_are_the_same_through_holm_and_take_fewer_calls() {
    if !std::env::var(MODELS).is_ok_and(|known| known.split_whitespace().any(|known| known == "minilm")) {
        eprintln!("skipped: tests/run installs the weights of MiniLM and sets {MODELS}");
        return;
    }
    let (model, texts) = (MiniLm::start().await, texts());
    let mut expected = BTreeMap::new();
    for text in &texts {
        expected.insert(text.clone(), model.direct(&json!(text)).await);
    }
    let before = model.stats().await;
    let node = Process::serve(&config(model.address)).await;

    // The model stands still until all have asked, so that what follows doesn't depend on how fast that is.
    model.signal("STOP");
    let mut asks = JoinSet::new();
    for text in texts.clone() {
        let ask = embeddings(&node, &json!(text));
        asks.spawn(async move { (text, ask.send().await) });
    }
    let count = texts.len();
    eventually("the requests", async || node.metric("holm_http_requests_total", "version=\"1.1\"").await >= of(count))
        .await;
    model.signal("CONT");
    let mut tokens = 0;
    for (text, response) in asks.join_all().await {
        assert_eq!(response.status, 200, "{text}: {}", response.text());
        assert!(vectors(&response) == vectors(&expected[&text]), "{text}: another vector");
        tokens += response.json()["usage"]["total_tokens"].as_u64().unwrap();
    }
    let after = model.stats().await;
    let calls = after.calls - before.calls;
    assert!(calls <= count / 2, "{count} requests made {calls} calls");
    assert_eq!((after.inputs - before.inputs, after.tokens - before.tokens), (count, tokens), "each text once");

    for text in &texts {
        let response = embeddings(&node, &json!(text)).send().await;
        assert!(response.is_hit(), "{text}: {:?}", response.cache());
        assert!(vectors(&response) == vectors(&expected[text]), "{text}: another vector");
    }
    assert_eq!(model.stats().await, after, "what is known isn't asked again");
    lists_are_whole(&model, &node, &texts).await;
}

/// Lists are the same through the node, in either form of vectors, and their vectors are those of this model.
async fn lists_are_whole(model: &MiniLm, node: &NodeHandle, texts: &[String]) {
    for format in ["float", "base64"] {
        let body = json!({"model": "all-MiniLM-L6-v2", "input": texts, "encoding_format": format});
        let response = node.post(EMBEDDINGS).json(&body).send().await;
        let direct = Ask::new(model.address, Method::POST, EMBEDDINGS).json(&body).send().await;
        assert_eq!((response.status, direct.status), (200, 200), "{}", response.text());
        assert!(vectors(&response) == vectors(&direct), "{format}: other vectors");
    }
    let [cat, kitten, engine] = of_three(node, ["cat", "kitten", "car engine"]).await;
    assert!(similarity(&cat, &kitten) > similarity(&cat, &engine) + 0.3);
    // As the authors of sentence-transformers publish it for these texts and this model.
    let published = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."];
    let [weather, sunny, stadium] = of_three(node, published).await;
    for (one, other, similar) in [(&weather, &sunny, 0.6660), (&weather, &stadium, 0.1046), (&sunny, &stadium, 0.1411)]
    {
        assert!((similarity(one, other) - similar).abs() < 1e-3, "{} isn't {similar}", similarity(one, other));
    }
}

/// Returns the vectors of these texts, asked for in one list, as numbers.
async fn of_three(node: &NodeHandle, texts: [&str; 3]) -> [Vec<f64>; 3] {
    let response = embeddings(node, &json!(texts)).send().await;
    let number = |number: &Value| number.as_f64().unwrap();
    let numbers = |vector: &Value| vector.as_array().unwrap().iter().map(number).collect::<Vec<f64>>();
    let all: Vec<Vec<f64>> = vectors(&response).iter().map(numbers).collect();
    all.try_into().expect("three vectors")
}

/// The example's model server, killed with this value.
struct MiniLm {
    child: Child,
    address: SocketAddr,
}

/// What the model has been asked.
#[derive(Debug, PartialEq)]
struct Stats {
    calls: usize,
    inputs: usize,
    tokens: u64,
}

impl MiniLm {
    async fn start() -> Self {
        let mut command = Command::new(repository("examples/minilm/run"));
        command.args(["--port", "0"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Holds the process before anything is awaited, so that it doesn't outlive a test that gives up.
        let mut model = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let (tell, told) = oneshot::channel();
        std::thread::spawn(move || tell.send(lines.next()));
        let line = timeout(START_TIME, told).await.expect("ready in time").unwrap();
        let line = line.expect("it says where it is; why not is above").unwrap();
        model.address = line.rsplit_once("http://").unwrap().1.parse().unwrap();
        model
    }

    fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Asks it without a node.
    async fn direct(&self, input: &Value) -> Response {
        let response = asking(Ask::new(self.address, Method::POST, EMBEDDINGS), input).send().await;
        assert_eq!(response.status, 200, "{}", response.text());
        response
    }

    async fn stats(&self) -> Stats {
        let stats = Ask::new(self.address, Method::GET, "/stats").send().await.json();
        let count = |name: &str| stats[name].as_u64().unwrap();
        Stats {
            calls: usize::try_from(count("calls")).unwrap(),
            inputs: usize::try_from(count("inputs")).unwrap(),
            tokens: count("tokens"),
        }
    }
}

impl Drop for MiniLm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the example's configuration for a model at this address, with ports that the system chooses.
fn config(model: SocketAddr) -> String {
    let mut config = std::fs::read_to_string(repository("examples/minilm/holm.toml")).unwrap();
    let (model, any) = (model.to_string(), "127.0.0.1:0");
    for (shipped, here) in [(MODEL_ADDRESS, model.as_str()), ("127.0.0.1:8080", any), ("127.0.0.1:9090", any)] {
        assert!(config.contains(shipped), "{shipped} isn't in\n{config}");
        config = config.replace(shipped, here);
    }
    config
}

/// Returns 64 different texts, from two words to some sixty, in several scripts.
fn texts() -> Vec<String> {
    let subjects = ["a cat", "the weather", "your invoice of March", "Zürich", "東京", "it", "the engine's oil", "who"];
    let ends = ["sleeps", "is late today", "isn't what it was, sadly", "costs $3.50", "— näh", "?!", "wins", "runs on"];
    let text = |n: usize| format!("{} {} {}", subjects[n / 8], "very ".repeat(n * 5 % 56), ends[n % 8]);
    (0..64).map(text).collect()
}

fn embeddings(node: &NodeHandle, input: &Value) -> Ask {
    asking(node.post(EMBEDDINGS), input)
}

fn asking(ask: Ask, input: &Value) -> Ask {
    ask.json(&json!({"model": "all-MiniLM-L6-v2", "input": input}))
}

/// Returns the vectors of a response in its order, as they are written.
fn vectors(response: &Response) -> Vec<Value> {
    let list = response.json();
    let data = list["data"].as_array().unwrap();
    let vector = |(index, entry): (usize, &Value)| {
        assert_eq!(entry["index"], json!(index));
        entry["embedding"].clone()
    };
    data.iter().enumerate().map(vector).collect()
}

/// Returns the cosine of the angle between vectors of length one.
fn similarity(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

/// Returns a count as metrics have it.
fn of(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}
