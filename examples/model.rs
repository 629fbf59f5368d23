//! A model server whose time is known: each call takes a fixed time and some more for each of its items, one call at a
//! time. It responds to JSON arrays with their elements, and to bodies of OpenAI's `/v1/embeddings` with the lengths of
//! the texts.
//! `benches/versus-batching` measures with it: `cargo run --release --example model -- --listen 127.0.0.1:9000`

use std::{
    convert::Infallible,
    error::Error,
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Parser;
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

/// Bytes of a request body.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Calls that may wait for the accelerator.
const CALLS_MAX: usize = 1024;

/// Numbers in an embedding.
const DIMENSIONS: usize = 8;

#[derive(Clone, Copy, Parser)]
struct Flags {
    /// Where it listens; port 0 has the system choose one
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Microseconds of a call, however few items are in it
    #[arg(long, default_value_t = 20_000)]
    fixed_us: u64,
    /// Microseconds of each item
    #[arg(long, default_value_t = 1_000)]
    item_us: u64,
    /// Items of a call; more are refused with 413
    #[arg(long, default_value_t = 32)]
    size_max: usize,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let flags = Flags::parse();
    let listener = TcpListener::bind(flags.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let (jobs, waiting) = mpsc::sync_channel(CALLS_MAX);
    thread::spawn(move || accelerate(&waiting, flags));
    let model = Arc::new(Model { jobs, size_max: flags.size_max });
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream, Arc::clone(&model)));
    }
}

/// A call that waits for the accelerator.
struct Job {
    items: usize,
    done: oneshot::Sender<()>,
}

/// Takes its time for one call after the other. On a thread of its own, since the timers of the runtime are only good
/// to a millisecond, which is what an item takes.
fn accelerate(waiting: &Receiver<Job>, flags: Flags) {
    for job in waiting {
        let end = Instant::now() + Duration::from_micros(flags.fixed_us + flags.item_us * job.items as u64);
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            thread::park_timeout(left);
        }
        // A client that has gone away has cost its time all the same.
        let _ = job.done.send(());
    }
}

struct Model {
    jobs: SyncSender<Job>,
    size_max: usize,
}

async fn serve(stream: TcpStream, model: Arc<Model>) {
    // Without it responses are only later, not wrong.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let model = Arc::clone(&model);
        async move { Ok::<_, Infallible>(model.respond(request).await) }
    });
    // A client that breaks off counts the missing response itself.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Model {
    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, body) = match self.call(request.into_body()).await {
            Ok(body) => (StatusCode::OK, body),
            Err((status, message)) => (status, json!({"error": {"message": message}}).to_string().into()),
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// Returns the body of a response when the accelerator is done with the call.
    async fn call(&self, body: Incoming) -> Result<Bytes, (StatusCode, String)> {
        let refused = |status, error: &dyn ToString| (status, error.to_string());
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| refused(StatusCode::BAD_REQUEST, &error))?.to_bytes();
        let (items, reply) = reply(&body).map_err(|error| refused(StatusCode::BAD_REQUEST, &error))?;
        if items > self.size_max {
            return Err(refused(StatusCode::PAYLOAD_TOO_LARGE, &format!("{items} items; at most {}", self.size_max)));
        }
        let (done, over) = oneshot::channel();
        let busy = |_| refused(StatusCode::SERVICE_UNAVAILABLE, &"too many calls are waiting");
        self.jobs.try_send(Job { items, done }).map_err(busy)?;
        over.await.map_err(|_| refused(StatusCode::INTERNAL_SERVER_ERROR, &"the accelerator has ended"))?;
        Ok(reply)
    }
}

/// The body of a call of `/v1/embeddings`.
#[derive(Deserialize)]
struct Embeddings {
    #[serde(default)]
    model: String,
    input: Input,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    One(String),
    Many(Vec<String>),
}

/// Returns the number of items in a body, and the reply to them.
fn reply(body: &[u8]) -> Result<(usize, Bytes), serde_json::Error> {
    if body.trim_ascii_start().starts_with(b"[") {
        let items: Vec<&RawValue> = serde_json::from_slice(body)?;
        return Ok((items.len(), serde_json::to_vec(&items)?.into()));
    }
    let Embeddings { model, input } = serde_json::from_slice(body)?;
    let texts = match input {
        Input::One(text) => vec![text],
        Input::Many(texts) => texts,
    };
    let entry = |(index, text): (usize, &String)| {
        let embedding = [text.len(); DIMENSIONS];
        json!({"object": "embedding", "index": index, "embedding": embedding})
    };
    let data: Vec<_> = texts.iter().enumerate().map(entry).collect();
    let tokens: usize = texts.iter().map(|text| text.split_whitespace().count()).sum();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    let list = json!({"object": "list", "data": data, "model": model, "usage": usage});
    Ok((texts.len(), list.to_string().into()))
}
