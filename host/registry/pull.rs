//! Reading a component: its manifest, then the blob that this names, each checked against its digest.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, HOST, LOCATION, USER_AGENT, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::{
    challenge::Challenge,
    error::Error,
    manifest::component,
    reference::{Digest, Reference},
};
use crate::{admin::Trust, plugin::COMPONENT_BYTES_MAX};

/// How long all of it may take.
const PULL_TIME: Duration = Duration::from_secs(120);

/// Bytes of a manifest: what the specification has registries take.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// Bytes of what gives a token.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// URLs that are asked one after another because each leads to the next.
const HOPS_MAX: usize = 6;

const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, */*;q=0.5";

/// Reads a component from its registry, as one who hasn't signed in. `trust` says which authorities vouch for it.
///
/// # Errors
/// [`Error`]: it can't be had, or isn't the one that is meant.
pub async fn pull(reference: &Reference, trust: &Trust) -> Result<Vec<u8>, Error> {
    let mut registry = Registry { reference, tls: Arc::new(trust.config()?), token: None };
    match timeout(PULL_TIME, Box::pin(registry.component())).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::Timeout(PULL_TIME.as_secs())),
    }
}

struct Registry<'r> {
    reference: &'r Reference,
    tls: Arc<ClientConfig>,
    /// What it wants to see, once it has said so.
    token: Option<HeaderValue>,
}

/// A response, and what keeps its connection open and reads it.
struct Reply {
    response: Response<Incoming>,
    url: String,
    _open: (http1::SendRequest<Empty<Bytes>>, AbortOnDropHandle<hyper::Result<()>>),
}

/// What gives a token says it under either name.
#[derive(Deserialize)]
struct Given {
    token: Option<String>,
    access_token: Option<String>,
}

impl Registry<'_> {
    async fn component(&mut self) -> Result<Vec<u8>, Error> {
        let digest = self.reference.digest();
        let manifest = self.get(&format!("manifests/{digest}"), MANIFEST_BYTES_MAX).await?;
        let manifest = checked(manifest, digest)?;
        let blob = component(&manifest, COMPONENT_BYTES_MAX)?;
        let bytes = self.get(&format!("blobs/{}", blob.digest), blob.bytes).await?;
        Ok(checked(bytes, &blob.digest)?.to_vec())
    }

    /// Reads something of the repository, with a token if that is wanted.
    async fn get(&mut self, what: &str, bytes_max: u64) -> Result<Bytes, Error> {
        let url = self.reference.url(what);
        let mut reply = self.followed(&url).await?;
        if reply.response.status() == StatusCode::UNAUTHORIZED && self.token.is_none() {
            let challenge = reply.challenge()?;
            self.token = Some(self.given(&challenge).await?);
            reply = self.followed(&url).await?;
        }
        reply.read(bytes_max).await
    }

    /// Asks for a token as one who hasn't signed in.
    async fn given(&self, challenge: &Challenge) -> Result<HeaderValue, Error> {
        let reply = self.followed(&challenge.url(&self.reference.scope())).await?;
        let given = reply.read(TOKEN_BYTES_MAX).await?;
        let given: Given = serde_json::from_slice(&given).map_err(|error| Error::Token(error.to_string()))?;
        let token = given.token.or(given.access_token).ok_or_else(|| Error::Token("there is none".to_owned()))?;
        let shown = HeaderValue::try_from(format!("Bearer {token}"));
        let mut shown = shown.map_err(|_| Error::Token("it can't be sent".to_owned()))?;
        shown.set_sensitive(true);
        Ok(shown)
    }

    /// Requests a URL, and those to which it leads.
    async fn followed(&self, url: &str) -> Result<Reply, Error> {
        let mut url = self.allowed(url)?;
        for _ in 0..HOPS_MAX {
            let reply = self.requested(&url).await?;
            if !reply.response.status().is_redirection() {
                return Ok(reply);
            }
            let location = reply.response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let location = location.ok_or_else(|| reply.refused())?;
            // A path is one of the same host.
            url = if location.starts_with('/') && !location.starts_with("//") {
                let authority = url.authority().map_or("", |authority| authority.as_str());
                self.allowed(&format!("{}://{authority}{location}", url.scheme_str().unwrap_or_default()))?
            } else {
                self.allowed(location)?
            };
        }
        Err(Error::Redirects(url.to_string()))
    }

    fn allowed(&self, url: &str) -> Result<Uri, Error> {
        let parsed = url.parse::<Uri>().ok().filter(|url| self.reference.allows(url));
        parsed.ok_or_else(|| Error::Url(url.to_owned()))
    }

    async fn requested(&self, url: &Uri) -> Result<Reply, Error> {
        let failed = |cause| Error::Connect { url: url.to_string(), cause };
        let host = url.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_plain = url.scheme_str() == Some("http");
        let port = url.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
        let stream = TcpStream::connect((bare, port)).await.map_err(failed)?;
        if is_plain {
            return self.exchanged(stream, url).await;
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        self.exchanged(connector.connect(name, stream).await.map_err(failed)?, url).await
    }

    async fn exchanged<S>(&self, stream: S, url: &Uri) -> Result<Reply, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |reason: String| Error::Exchange { url: url.to_string(), reason };
        let request = self.request(url).map_err(|error| broken(error.to_string()))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| broken(error.to_string()))?;
        // An error of the connection reaches the request as well.
        let driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let response = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
        Ok(Reply { response, url: url.to_string(), _open: (sender, driver) })
    }

    fn request(&self, url: &Uri) -> Result<Request<Empty<Bytes>>, http::Error> {
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let authority = url.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::builder().method(Method::GET).uri(path).header(HOST, authority);
        request = request.header(ACCEPT, ACCEPTED).header(USER_AGENT, concat!("holm/", env!("CARGO_PKG_VERSION")));
        // The token is the registry's, and nobody else's to whom it leads.
        if let Some(token) = self.token.as_ref().filter(|_| url.authority() == Some(self.reference.authority())) {
            request = request.header(AUTHORIZATION, token.clone());
        }
        request.body(Empty::new())
    }
}

impl Reply {
    /// Returns where it says that a token is to be had.
    fn challenge(&self) -> Result<Challenge, Error> {
        let fields = self.response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenge = fields.filter_map(|field| field.to_str().ok()).find_map(Challenge::read);
        challenge.ok_or_else(|| Error::Token("it wants something else than a bearer token".to_owned()))
    }

    fn refused(&self) -> Error {
        Error::Status { url: self.url.clone(), status: self.response.status() }
    }

    /// Reads its body, if it is a success.
    async fn read(self, bytes_max: u64) -> Result<Bytes, Error> {
        if !self.response.status().is_success() {
            return Err(self.refused());
        }
        let limit = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let Self { response, url, _open } = self;
        let body = Limited::new(response.into_body(), limit).collect().await;
        Ok(body.map_err(|error| Error::Exchange { url, reason: error.to_string() })?.to_bytes())
    }
}

/// Returns what came if it is what was asked for.
fn checked(bytes: Bytes, digest: &Digest) -> Result<Bytes, Error> {
    if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(Error::Digest(digest.to_string())) }
}
