//! The origin behind the servers that are compared.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use clap::Args;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::Failure;

const OBJECT_BYTES: usize = 1024;
const BULK_BYTES: usize = 32 << 20;

#[derive(Args)]
pub(crate) struct Flags {
    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:18080")]
    listen: SocketAddr,
}

pub(crate) async fn run(flags: &Flags) -> Result<(), Failure> {
    let listener = TcpListener::bind(flags.listen).await?;
    let (object, bulk) = (Bytes::from(vec![b'x'; OBJECT_BYTES]), Bytes::from(vec![b'x'; BULK_BYTES]));
    loop {
        let (stream, _) = listener.accept().await?;
        let (object, bulk) = (object.clone(), bulk.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let body = if request.uri().path() == "/bulk" { bulk.clone() } else { object.clone() };
            async move { Ok::<_, Infallible>(response(body)) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn response(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("public, max-age=3600"));
    headers.insert(header::ETAG, header::HeaderValue::from_static("\"v1\""));
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    response
}
