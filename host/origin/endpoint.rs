//! One member of a pool: its connections, and one exchange of a request for a response head.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, Error, ResponseFuture, connect::capture_connection},
    rt::{TokioExecutor, TokioTimer},
};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    dial::{Dialer, Used},
    failure::{Fault, Reason},
    keep_alive,
    places::Places,
    recoding::Willingness,
    upload::{Upload, WaitsFor},
};
use crate::config;

/// One member of a pool.
pub(super) struct Endpoint {
    /// Its place in the pool.
    pub(super) index: usize,
    /// `host:port`.
    pub(super) address: Arc<str>,
    /// What its own health checks say in `Host`.
    pub(super) host: HeaderValue,
    /// The places at it.
    pub(super) places: Places,
    /// Whether it takes coded bodies.
    pub(super) willingness: Mutex<Willingness>,
    scheme: Scheme,
    authority: Authority,
    connections: RwLock<Connections>,
    /// Opens a connection for each request.
    opener: Client<Dialer, Upload>,
    dialer: Dialer,
    /// Unused connections that are kept.
    idle_max: usize,
}

/// Connections that are used again.
struct Connections {
    client: Client<Dialer, Upload>,
    /// How long an unused one is kept.
    of_use: Duration,
}

impl Endpoint {
    /// An endpoint without a connection yet; nothing if `url` isn't `http` or `https` with a host and nothing else.
    pub(super) fn new(index: usize, url: &Uri, pool: &config::Pool, dialer: Dialer) -> Option<Self> {
        let parts = url.clone().into_parts();
        let (scheme, authority) = (parts.scheme?, parts.authority?);
        let port_default = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let bare = parts.path_and_query.is_none_or(|path| matches!(path.as_str(), "" | "/"));
        if !bare || authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let port = authority.port_u16().unwrap_or(port_default);
        Some(Self {
            index,
            address: format!("{}:{port}", authority.host()).into(),
            host: HeaderValue::from_str(authority.as_str()).ok()?,
            places: Places::new(pool.connections_max),
            willingness: Mutex::default(),
            scheme,
            authority,
            connections: RwLock::new(Connections::new(dialer.clone(), pool.connections_max, pool.keep_alive)),
            opener: client(dialer.clone(), 0, Duration::ZERO),
            dialer,
            idle_max: pool.connections_max,
        })
    }

    /// A request to this endpoint. `headers` has `Host` and no framing.
    pub(super) fn request(
        &self,
        method: Method,
        target: PathAndQuery,
        headers: HeaderMap,
        upload: Upload,
    ) -> Result<Request<Upload>, Fault> {
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(target)
            .build()
            .map_err(|error| Fault::new(Reason::Unsendable, error.to_string()))?;
        let mut request = Request::new(upload);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Sends a request and awaits the response's head. Opening a connection is limited by the dialer; `limit` bounds
    /// the time from then on, for as long as it is the endpoint that we wait for (`progress` says whether it is).
    /// `on_new_connection` opens one for this request alone.
    pub(super) async fn exchange(
        &self,
        mut request: Request<Upload>,
        progress: Option<watch::Receiver<WaitsFor>>,
        limit: Duration,
        on_new_connection: bool,
    ) -> Result<Response<Incoming>, Fault> {
        let mut captured = capture_connection(&mut request);
        let connected = async { drop(captured.wait_for_connection_metadata().await) };
        let mut call = self.call(request, on_new_connection);
        tokio::select! {
            biased;
            result = &mut call => return self.head(result),
            () = connected => {}
        }
        match await_head(call, progress, limit).await {
            Some(result) => self.head(result),
            None => {
                let limit_ms = crate::clock::millis(limit);
                Err(Fault::new(Reason::ResponseTimeout, format!("no response head within {limit_ms} ms")))
            }
        }
    }

    fn call(&self, request: Request<Upload>, on_new_connection: bool) -> ResponseFuture {
        if on_new_connection { self.opener.request(request) } else { self.connections.read().client.request(request) }
    }

    fn head(&self, result: Result<Response<Incoming>, Error>) -> Result<Response<Incoming>, Fault> {
        let response = result.map_err(|error| Fault::of_client(&error))?;
        if response.status().is_informational() {
            // The client library skips the others; a 101 comes through, though no switch of protocols was requested.
            return Err(Fault::new(Reason::InvalidResponse, format!("unasked-for status {}", response.status())));
        }
        Used::mark(response.extensions());
        if let Some(stated) = keep_alive::stated(response.headers()) {
            self.keep_for(keep_alive::of_use(stated));
        }
        Ok(response)
    }

    /// Keeps unused connections no longer than that. The client library has one time for all of its connections, so
    /// those that are unused now are given up. It only ever gets shorter, in steps of seconds: endpoints behind one
    /// address may differ, and the shortest suits all.
    fn keep_for(&self, of_use: Duration) {
        if of_use >= self.connections.read().of_use {
            return;
        }
        let mut connections = self.connections.write();
        if of_use < connections.of_use {
            *connections = Connections::new(self.dialer.clone(), self.idle_max, of_use);
        }
    }
}

impl Connections {
    fn new(dialer: Dialer, idle_max: usize, of_use: Duration) -> Self {
        Self { client: client(dialer, idle_max, of_use), of_use }
    }
}

/// Bytes of a response's head that are read; also how much of a request's body the client library takes before the endpoint
/// does.
const HEAD_BYTES_MAX: usize = 128 * 1024;

fn client(dialer: Dialer, idle_max: usize, of_use: Duration) -> Client<Dialer, Upload> {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(of_use)
        .pool_max_idle_per_host(idle_max)
        .http1_max_buf_size(HEAD_BYTES_MAX)
        .set_host(false)
        .build(dialer)
}

/// The call's result, or nothing if the endpoint kept us waiting for `limit`. The clock starts anew with each piece of
/// the request body that the connection takes, and stands still while the client's next piece is awaited: that wait
/// is limited by the listener.
async fn await_head(
    mut call: ResponseFuture,
    mut progress: Option<watch::Receiver<WaitsFor>>,
    limit: Duration,
) -> Option<Result<Response<Incoming>, Error>> {
    while let Some(upload) = &mut progress {
        let whom = *upload.borrow_and_update();
        tokio::select! {
            biased;
            result = &mut call => return Some(result),
            changed = upload.changed() => if changed.is_err() {
                progress = None;
            },
            () = sleep(limit), if whom == WaitsFor::Endpoint => return None,
        }
    }
    timeout(limit, call).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> config::Pool {
        super::super::tests::config(&[])
    }

    #[test]
    fn which_urls_are_endpoints() {
        for (url, expected) in [
            ("http://127.0.0.1:8000", Some("127.0.0.1:8000")),
            ("http://127.0.0.1:8000/", Some("127.0.0.1:8000")),
            ("http://models.example", Some("models.example:80")),
            ("https://models.example", Some("models.example:443")),
            ("https://[::1]:9", Some("[::1]:9")),
            ("ftp://models.example", None),
            ("http://models.example/v1", None),
            ("http://user:word@models.example", None),
            ("/v1", None),
            ("models.example:80", None),
        ] {
            let dialer = Dialer::new(Duration::from_secs(1)).unwrap();
            let endpoint = Endpoint::new(0, &url.parse().unwrap(), &pool(), dialer);
            assert_eq!(endpoint.as_ref().map(|endpoint| &*endpoint.address), expected, "{url}");
        }
    }
}
