//! The stand-in for a model server: feature-hashing embeddings behind OpenAI's `/v1/embeddings`, and the time that one
//! accelerator needs for them. Deterministic and without I/O, so that two responses can be compared value by value.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;

/// The one model there is.
pub(super) const MODEL: &str = "feature-hash-64";

/// What a batch costs however small it is: the launch of the work.
pub(super) const BATCH_COST: Duration = Duration::from_micros(4_000);

/// What each item adds.
pub(super) const ITEM_COST: Duration = Duration::from_micros(150);

/// Length of an embedding, unless the call asks for fewer.
const DIMENSIONS: usize = 64;

/// Items of one call; OpenAI's own limit.
const ITEMS_MAX: usize = 2_048;

/// Work that may be waiting for the accelerator; calls beyond it are refused.
const BACKLOG_MAX: Duration = Duration::from_secs(20);

/// A checked embeddings call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    texts: Vec<String>,
    dimensions: usize,
    encoding: Encoding,
}

/// Why a call is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not the JSON of an embeddings call.
    #[error("not an embeddings request: {0}")]
    Malformed(String),
    /// Another model.
    #[error("the model `{0}` does not exist; there is `{model}`", model = MODEL)]
    NoSuchModel(String),
    /// No items, or too many.
    #[error("`input` must have 1 to {max} items, not {0}", max = ITEMS_MAX)]
    Items(usize),
    /// A length that the model doesn't have.
    #[error("`dimensions` must be 1 to {max}, not {0}", max = DIMENSIONS)]
    Dimensions(usize),
    /// A body over the server's limit.
    #[error("the body is too large or broke off")]
    Body,
    /// Too much work is waiting.
    #[error("the accelerator is busy for too long; try again later")]
    Busy,
}

/// One accelerator, given the time: it works on one batch after the other, in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct Accelerator {
    free_at: Option<Instant>,
}

impl Accelerator {
    /// When a batch of `items` that arrives `now` is done; `None` if too much is waiting already.
    pub(super) fn take(&mut self, items: usize, now: Instant) -> Option<Instant> {
        let start = self.free_at.map_or(now, |free| free.max(now));
        if start.duration_since(now) > BACKLOG_MAX {
            return None;
        }
        let done = start + cost(items);
        self.free_at = Some(done);
        Some(done)
    }
}

impl Call {
    /// Reads and checks a request body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let wire: Wire = serde_json::from_slice(body).map_err(|error| Refusal::Malformed(error.to_string()))?;
        if wire.model != MODEL {
            return Err(Refusal::NoSuchModel(wire.model));
        }
        let texts = wire.input.into_texts();
        if texts.is_empty() || texts.len() > ITEMS_MAX {
            return Err(Refusal::Items(texts.len()));
        }
        let dimensions = wire.dimensions.unwrap_or(DIMENSIONS);
        if dimensions == 0 || dimensions > DIMENSIONS {
            return Err(Refusal::Dimensions(dimensions));
        }
        Ok(Self { texts, dimensions, encoding: wire.encoding_format })
    }

    /// How many embeddings are requested.
    pub(super) fn items(&self) -> usize {
        self.texts.len()
    }

    /// The JSON of the response.
    pub(super) fn respond(&self) -> Bytes {
        let data: Vec<Item> = self.texts.iter().enumerate().map(|(index, text)| self.item(index, text)).collect();
        let tokens: usize = self.texts.iter().map(|text| text.split_whitespace().count()).sum();
        let usage = Usage { prompt_tokens: tokens, total_tokens: tokens };
        let list = List { object: "list", data, model: MODEL, usage };
        // Nothing in it can fail to serialise: strings, integers and finite floats only.
        serde_json::to_vec(&list).unwrap_or_default().into()
    }

    fn item(&self, index: usize, text: &str) -> Item {
        let values = embed(text, self.dimensions);
        let embedding = match self.encoding {
            Encoding::Float => Vector::Float(values),
            Encoding::Base64 => {
                Vector::Base64(base64(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()))
            }
        };
        Item { object: "embedding", index, embedding }
    }
}

impl Refusal {
    /// The status that says so.
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::Items(_) | Self::Dimensions(_) => StatusCode::BAD_REQUEST,
            Self::NoSuchModel(_) => StatusCode::NOT_FOUND,
            Self::Body => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// OpenAI's error object.
    pub(super) fn body(&self) -> Bytes {
        let kind = if matches!(self, Self::Busy) { "server_error" } else { "invalid_request_error" };
        let error = json!({ "message": self.to_string(), "type": kind, "param": null, "code": null });
        json!({ "error": error }).to_string().into()
    }
}

/// What a batch of `items` costs the accelerator.
pub(super) fn cost(items: usize) -> Duration {
    BATCH_COST + ITEM_COST * u32::try_from(items).unwrap_or(u32::MAX)
}

/// Hashes words and pairs of neighbours into signed buckets and scales the sum to length one.
fn embed(text: &str, dimensions: usize) -> Vec<f32> {
    let mut sums = vec![0.0; DIMENSIONS];
    let lowered = text.to_lowercase();
    let words = lowered.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    // The ends are features too, so that no text, not even an empty one, is without any.
    let mut previous = "^";
    for word in words.chain(["$"]) {
        add(&mut sums, "", word);
        add(&mut sums, previous, word);
        previous = word;
    }
    sums.truncate(dimensions);
    normalise(&mut sums);
    sums
}

fn add(sums: &mut [f32], before: &str, word: &str) {
    let mut hasher = blake3::Hasher::new();
    // A word has no space, so the pair can be told from every other one.
    hasher.update(before.as_bytes()).update(b" ").update(word.as_bytes());
    let digest = hasher.finalize();
    let [bucket, sign, ..] = *digest.as_bytes();
    let bucket = usize::from(bucket) % sums.len();
    sums[bucket] += if sign & 1 == 0 { 1.0 } else { -1.0 };
}

fn normalise(values: &mut [f32]) {
    let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        for value in values {
            *value /= length;
        }
    }
}

/// Base64 with padding (RFC 4648, section 4), the form in which OpenAI's own client asks for embeddings.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = (0..3).fold(0_u32, |word, place| (word << 8) | group.get(place).copied().map_or(0, u32::from));
        for place in 0..4 {
            let six = (word >> (18 - 6 * place)) & 63;
            text.push(if place > group.len() { '=' } else { char::from(ALPHABET[six as usize]) });
        }
    }
    text
}

#[derive(Deserialize)]
struct Wire {
    model: String,
    input: Input,
    dimensions: Option<usize>,
    #[serde(default)]
    encoding_format: Encoding,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

impl Input {
    fn into_texts(self) -> Vec<String> {
        match self {
            Self::Text(text) => vec![text],
            Self::Texts(texts) => texts,
            Self::Tokens(tokens) => vec![spelled(&tokens)],
            Self::TokenLists(lists) => lists.iter().map(|tokens| spelled(tokens)).collect(),
        }
    }
}

/// Tokens as words: this model has no vocabulary of its own.
fn spelled(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Float,
    Base64,
}

#[derive(Serialize)]
struct List {
    object: &'static str,
    data: Vec<Item>,
    model: &'static str,
    usage: Usage,
}

#[derive(Serialize)]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn cosine(left: &str, right: &str) -> f32 {
        embed(left, DIMENSIONS).iter().zip(embed(right, DIMENSIONS)).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn an_embedding_has_length_one_and_neighbours_in_meaning_are_neighbours() {
        for text in ["", "tide", "how high is the tide at noon?", "Ünïcode, too"] {
            let length: f32 = embed(text, DIMENSIONS).iter().map(|value| value * value).sum();
            assert!((length - 1.0).abs() < 1e-5, "{text:?} has squared length {length}");
        }
        let close = cosine("how high is the tide at noon?", "How high is the tide at dusk?");
        let far = cosine("how high is the tide at noon?", "which bread do bakers sell first");
        assert!(close > far + 0.2, "{close} and {far}");
    }

    #[test]
    fn the_order_of_words_matters_and_case_does_not() {
        assert_ne!(embed("dog bites man", DIMENSIONS), embed("man bites dog", DIMENSIONS));
        assert_eq!(embed("Dog bites man!", DIMENSIONS), embed("dog bites MAN", DIMENSIONS));
    }

    #[test]
    fn every_form_of_input_is_read() {
        for (input, items) in
            [(r#""a""#, 1), (r#"["a","b"]"#, 2), ("[1,2,3]", 1), ("[[1,2],[3]]", 2), (r#"["a","a","a"]"#, 3)]
        {
            let body = format!(r#"{{"model":"{MODEL}","input":{input}}}"#);
            assert_eq!(Call::parse(body.as_bytes()).map(|call| call.items()), Ok(items), "{input}");
        }
    }

    #[test]
    fn a_wrong_call_is_refused_with_its_reason() {
        let many = format!(r#"{{"model":"{MODEL}","input":[{}"a"]}}"#, r#""a","#.repeat(ITEMS_MAX));
        for (body, wanted) in [
            (format!(r#"{{"model":"{MODEL}","input":[]}}"#), Refusal::Items(0)),
            (many, Refusal::Items(ITEMS_MAX + 1)),
            (r#"{"model":"gpt","input":"a"}"#.to_owned(), Refusal::NoSuchModel("gpt".to_owned())),
            (format!(r#"{{"model":"{MODEL}","input":"a","dimensions":65}}"#), Refusal::Dimensions(65)),
            (format!(r#"{{"model":"{MODEL}","input":"a","dimensions":0}}"#), Refusal::Dimensions(0)),
        ] {
            assert_eq!(Call::parse(body.as_bytes()), Err(wanted));
        }
        let refusal = Call::parse(b"{").unwrap_err();
        assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
        let body: Value = serde_json::from_slice(&refusal.body()).unwrap();
        assert_eq!(body["error"]["type"], "invalid_request_error");
    }

    #[test]
    fn a_response_is_numbered_and_says_the_same_in_both_encodings() {
        let response = |more: &str| -> Value {
            let body = format!(r#"{{"model":"{MODEL}","input":["one two","three"],"dimensions":3{more}}}"#);
            serde_json::from_slice(&Call::parse(body.as_bytes()).unwrap().respond()).unwrap()
        };
        let (float, packed) = (response(""), response(r#","encoding_format":"base64""#));
        assert_eq!(float["usage"]["prompt_tokens"], 3);
        assert_eq!(float["data"][1]["index"], 1);
        let bytes: Vec<u8> = embed("three", 3).iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(float["data"][1]["embedding"].as_array().map(Vec::len), Some(3));
        assert_eq!(packed["data"][1]["embedding"], base64(&bytes));
    }

    #[test]
    fn base64_pads() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn the_accelerator_works_on_one_batch_at_a_time_and_has_a_limit() {
        let mut accelerator = Accelerator::default();
        let now = Instant::now();
        assert_eq!(accelerator.take(10, now), Some(now + cost(10)));
        assert_eq!(accelerator.take(1, now), Some(now + cost(10) + cost(1)));
        let later = now + Duration::from_secs(1);
        assert_eq!(accelerator.take(1, later), Some(later + cost(1)), "an idle one begins at once");
        assert_eq!(cost(10), BATCH_COST + 10 * ITEM_COST);

        let huge = usize::try_from(BACKLOG_MAX.as_micros() / ITEM_COST.as_micros()).unwrap();
        assert!(accelerator.take(huge, later).is_some());
        assert_eq!(accelerator.take(1, later), None);
    }
}
