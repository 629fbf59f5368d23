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
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    dial::{Dialer, Used},
    failure::{Fault, Reason},
    places::Places,
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
    scheme: Scheme,
    authority: Authority,
    client: Client<Dialer, Upload>,
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
            scheme,
            authority,
            client: client(pool, dialer),
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
    pub(super) async fn exchange(
        &self,
        mut request: Request<Upload>,
        progress: Option<watch::Receiver<WaitsFor>>,
        limit: Duration,
    ) -> Result<Response<Incoming>, Fault> {
        let mut captured = capture_connection(&mut request);
        let connected = async { drop(captured.wait_for_connection_metadata().await) };
        let mut call = self.client.request(request);
        tokio::select! {
            biased;
            result = &mut call => return head(result),
            () = connected => {}
        }
        match await_head(call, progress, limit).await {
            Some(result) => head(result),
            None => {
                let limit_ms = crate::clock::millis(limit);
                Err(Fault::new(Reason::ResponseTimeout, format!("no response head within {limit_ms} ms")))
            }
        }
    }
}

/// Bytes of a response's head that are read; also how much of a request's body the client library takes before the endpoint
/// does.
const HEAD_BYTES_MAX: usize = 128 * 1024;

fn client(pool: &config::Pool, dialer: Dialer) -> Client<Dialer, Upload> {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(pool.keep_alive)
        .pool_max_idle_per_host(pool.connections_max)
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

fn head(result: Result<Response<Incoming>, Error>) -> Result<Response<Incoming>, Fault> {
    let response = result.map_err(|error| Fault::of_client(&error))?;
    if response.status().is_informational() {
        // The client library skips the others; a 101 comes through, though no switch of protocols was requested.
        return Err(Fault::new(Reason::InvalidResponse, format!("unasked-for status {}", response.status())));
    }
    Used::mark(response.extensions());
    Ok(response)
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
