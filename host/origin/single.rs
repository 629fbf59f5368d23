//! The HTTP/1.1 connections of one endpoint, each of which has one request at a time.

use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, Error, ResponseFuture, connect::capture_connection},
    rt::{TokioExecutor, TokioTimer},
};
use parking_lot::RwLock;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    dial::{Dialer, Used},
    failure::{Fault, Reason},
    keep_alive,
    upload::{Upload, WaitsFor},
};
use crate::{clock, config};

/// Header fields that the client library parses without an allocation.
const FIELDS_INLINE: usize = 100;

/// The HTTP/1.1 connections of one endpoint.
pub(super) struct Single {
    connections: RwLock<Connections>,
    /// Opens a connection for each request.
    opener: Client<Dialer, Upload>,
    dialer: Dialer,
    bounds: Bounds,
}

/// Bounds of its connections.
#[derive(Clone, Copy)]
struct Bounds {
    /// Unused connections that are kept.
    idle_max: usize,
    /// Header fields of a response.
    fields_max: usize,
    /// Bytes of a response's head; also how much of a request's body the client library takes before the endpoint does.
    head_bytes_max: usize,
}

/// Connections that are used again.
struct Connections {
    client: Client<Dialer, Upload>,
    /// How long an unused one is kept.
    of_use: Duration,
}

impl Single {
    /// Returns the connections of an endpoint, none of which is open yet.
    pub(super) fn new(pool: &config::Pool, dialer: Dialer) -> Self {
        let bounds = Bounds {
            idle_max: pool.connections_max,
            fields_max: pool.response_headers_max,
            head_bytes_max: pool.response_header_bytes_max,
        };
        Self {
            connections: RwLock::new(Connections::new(dialer.clone(), bounds, pool.keep_alive)),
            opener: client(dialer.clone().for_one(), Bounds { idle_max: 0, ..bounds }, Duration::ZERO),
            dialer,
            bounds,
        }
    }

    /// Sends a request and awaits the response's head. Opening a connection is limited by the dialer; `limit` bounds
    /// the time from then on, for as long as it is the endpoint that we wait for (`progress` says whether it is).
    /// `on_new_connection` opens one for this request alone.
    ///
    /// # Errors
    /// What went wrong.
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
            None => Err(no_head(limit)),
        }
    }

    fn call(&self, request: Request<Upload>, on_new_connection: bool) -> ResponseFuture {
        if on_new_connection { self.opener.request(request) } else { self.connections.read().client.request(request) }
    }

    fn head(&self, result: Result<Response<Incoming>, Error>) -> Result<Response<Incoming>, Fault> {
        let response = result.map_err(|error| Fault::of_client(&error))?;
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
            *connections = Connections::new(self.dialer.clone(), self.bounds, of_use);
        }
    }
}

impl Single {
    /// Gives up the connections: those that are unused now, others when they have brought their responses.
    pub(super) fn renew(&self) {
        let mut connections = self.connections.write();
        let of_use = connections.of_use;
        *connections = Connections::new(self.dialer.clone(), self.bounds, of_use);
    }
}

impl Connections {
    fn new(dialer: Dialer, bounds: Bounds, of_use: Duration) -> Self {
        Self { client: client(dialer, bounds, of_use), of_use }
    }
}

fn client(dialer: Dialer, bounds: Bounds, of_use: Duration) -> Client<Dialer, Upload> {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(of_use)
        .pool_max_idle_per_host(bounds.idle_max)
        .http1_max_buf_size(bounds.head_bytes_max)
        .set_host(false);
    // Up to that many are parsed on the stack.
    if bounds.fields_max > FIELDS_INLINE {
        builder.http1_max_headers(bounds.fields_max);
    }
    builder.build(dialer)
}

/// The call's result, or nothing if the endpoint kept us waiting for `limit`. The clock starts anew with each piece of
/// the request body that the connection takes, and stands still while the client's next piece is awaited: that wait
/// is limited by the listener.
pub(super) async fn await_head<T>(
    mut call: impl Future<Output = T> + Unpin,
    mut progress: Option<watch::Receiver<WaitsFor>>,
    limit: Duration,
) -> Option<T> {
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

/// Returns the fault of an endpoint that didn't respond in time.
pub(super) fn no_head(limit: Duration) -> Fault {
    Fault::new(Reason::ResponseTimeout, format!("no response head within {} ms", clock::millis(limit)))
}
