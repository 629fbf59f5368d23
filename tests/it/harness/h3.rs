//! A client of HTTP/3, by other means than the node's own: it has the adapter between the two libraries that comes with
//! them.

use std::{net::SocketAddr, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use h3::{
    client::{RequestStream, SendRequest},
    error::{Code, ConnectionError, StreamError},
};
use http::{HeaderMap, Request, Version};
use http_body_util::BodyExt;
use quinn::{Connecting, Endpoint, TransportConfig, crypto::rustls::QuicClientConfig};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use tokio::task::JoinHandle;

use super::{
    client::{Ask, Failure, OutBody, Response},
    within,
};

/// A connection to a node.
pub(crate) struct H3Conn {
    sender: SendRequest<h3_quinn::OpenStreams, Bytes>,
    connection: quinn::Connection,
    driving: JoinHandle<()>,
    /// The socket; it goes with the connection.
    _endpoint: Endpoint,
}

impl Drop for H3Conn {
    fn drop(&mut self) {
        self.connection.close(0x100_u32.into(), b"");
        self.driving.abort();
    }
}

impl H3Conn {
    /// Connects to `localhost`, trusting `root`.
    pub(crate) async fn open(address: SocketAddr, root: &CertificateDer<'static>) -> Result<Self, Failure> {
        Self::with(address, root, TransportConfig::default()).await
    }

    /// The same, as a client that lets so many bytes of each body through before the test reads it.
    pub(crate) async fn ahead(
        address: SocketAddr,
        root: &CertificateDer<'static>,
        bytes: u32,
    ) -> Result<Self, Failure> {
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(bytes.into());
        Self::with(address, root, transport).await
    }

    async fn with(
        address: SocketAddr,
        root: &CertificateDer<'static>,
        transport: TransportConfig,
    ) -> Result<Self, Failure> {
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls(root)?)?));
        config.transport_config(Arc::new(transport));
        let (endpoint, connecting) = connecting(config, address)?;
        let connection = within("the handshake", connecting).await?;
        Self::over(endpoint, connection).await
    }

    async fn over(endpoint: Endpoint, connection: quinn::Connection) -> Result<Self, Failure> {
        let (mut driver, sender) =
            h3::client::builder().send_grease(true).build(h3_quinn::Connection::new(connection.clone())).await?;
        let driving = tokio::spawn(async move { drop(driver.wait_idle().await) });
        Ok(Self { sender, connection, driving, _endpoint: endpoint })
    }

    /// Opens the stream of a request and resets it before its head is there.
    pub(crate) async fn abandon(&self) -> Result<(), Failure> {
        let (mut sending, _receiving) = within("a stream", self.connection.open_bi()).await?;
        // A part of a frame.
        sending.write_all(&[1]).await?;
        sending.reset(0x10c_u32.into())?;
        Ok(())
    }

    /// Opens the stream of a request, writes these bytes on it and nothing more, and returns the code by which the node
    /// stops it; waits for ever if it doesn't.
    pub(crate) async fn stopped(&self, bytes: &[u8]) -> Option<u64> {
        let (mut sending, _receiving) = self.connection.open_bi().await.ok()?;
        let code = match sending.write_all(bytes).await {
            Ok(()) => sending.stopped().await.ok()?,
            Err(quinn::WriteError::Stopped(code)) => Some(code),
            Err(_) => None,
        };
        code.map(quinn::VarInt::into_inner)
    }

    /// Sends a request and returns when the response's head is there.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<H3Opened, Failure> {
        let (head, body) = ask.into_request("https")?.into_parts();
        let mut sender = self.sender.clone();
        let stream = within("the request", sender.send_request(Request::from_parts(head, ()))).await?;
        let (sending, mut receiving) = stream.split();
        let sending = tokio::spawn(upload(sending, body));
        let mut response = within("a response head", receiving.recv_response()).await?;
        while response.status().is_informational() {
            response = within("a final response head", receiving.recv_response()).await?;
        }
        Ok(H3Opened {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            receiving,
            _sending: sending,
        })
    }

    /// Sends a request whose body is sent when the node says that it wants it, and reads the whole response.
    pub(crate) async fn send_when_wanted(&self, ask: Ask) -> Result<Response, Failure> {
        let (head, body) = ask.into_request("https")?.into_parts();
        let mut sender = self.sender.clone();
        let stream = within("the request", sender.send_request(Request::from_parts(head, ()))).await?;
        let (sending, mut receiving) = stream.split();
        let interim = within("an interim response", receiving.recv_response()).await?;
        assert_eq!(interim.status(), 100);
        let sending = tokio::spawn(upload(sending, body));
        let response = within("a response head", receiving.recv_response()).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(H3Opened { status, headers, receiving, _sending: sending }.whole().await?.0)
    }

    /// Sends a request and reads the whole response.
    pub(crate) async fn send(&self, ask: Ask) -> Response {
        match self.try_send(ask).await {
            Ok(response) => response,
            Err(error) => panic!("over HTTP/3: {error}"),
        }
    }

    pub(crate) async fn try_send(&self, ask: Ask) -> Result<Response, Failure> {
        Ok(self.ask(ask).await?.whole().await?.0)
    }
}

/// Whether HTTP/3 says that the request wasn't processed: it was rejected, or the connection took no more and was closed in
/// good order.
pub(crate) fn was_refused(error: &Failure) -> bool {
    let is_rejected = match error.downcast_ref::<StreamError>() {
        Some(StreamError::RemoteClosing { .. }) => true,
        Some(StreamError::RemoteTerminate { code, .. }) => *code == Code::H3_REQUEST_REJECTED,
        Some(error) => error.is_h3_no_error(),
        None => false,
    };
    // The first two streams of a connection that was opened just then.
    is_rejected || error.downcast_ref::<ConnectionError>().is_some_and(ConnectionError::is_h3_no_error)
}

/// Returns the TLS of a client that trusts `root`.
fn tls(root: &CertificateDer<'static>) -> Result<ClientConfig, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    Ok(tls)
}

fn connecting(config: quinn::ClientConfig, address: SocketAddr) -> Result<(Endpoint, Connecting), Failure> {
    let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let connecting = endpoint.connect_with(config, address, "localhost")?;
    Ok((endpoint, connecting))
}

/// A client that resumes its sessions, with early data where the node takes it.
pub(crate) struct EarlyClient(quinn::ClientConfig);

impl EarlyClient {
    /// Returns one that trusts `root`.
    pub(crate) fn new(root: &CertificateDer<'static>) -> Self {
        let mut tls = tls(root).unwrap();
        tls.enable_early_data = true;
        Self(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap())))
    }

    /// Connects, and waits for the end of the handshake.
    pub(crate) async fn open(&self, address: SocketAddr) -> H3Conn {
        let (endpoint, connecting) = connecting(self.0.clone(), address).unwrap();
        let connection = within("the handshake", connecting).await.unwrap();
        H3Conn::over(endpoint, connection).await.unwrap()
    }

    /// Connects with what is sent next in early data; `None` if it has no session for that.
    pub(crate) async fn open_early(&self, address: SocketAddr) -> Option<H3Conn> {
        let (endpoint, connecting) = connecting(self.0.clone(), address).unwrap();
        let (connection, _) = connecting.into_0rtt().ok()?;
        Some(H3Conn::over(endpoint, connection).await.unwrap())
    }
}

/// Sends a body to its end; one that fails is reset.
async fn upload(mut sending: RequestStream<h3_quinn::SendStream<Bytes>, Bytes>, mut body: OutBody) {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return sending.stop_stream(Code::H3_REQUEST_CANCELLED) };
        // The node may have stopped it, which is no error of the client.
        let sent = match frame.into_data() {
            Ok(data) if data.is_empty() => Ok(()),
            Ok(data) => sending.send_data(data).await,
            Err(frame) => sending.send_trailers(frame.into_trailers().unwrap_or_default()).await,
        };
        if sent.is_err() {
            return;
        }
    }
    let _ = sending.finish().await;
}

/// A response whose head is there and whose body may still be arriving.
pub(crate) struct H3Opened {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    receiving: RequestStream<h3_quinn::RecvStream, Bytes>,
    _sending: JoinHandle<()>,
}

impl H3Opened {
    /// Returns the next bytes of the body; `None` at its end.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        let piece = within("a piece of the body", self.receiving.recv_data()).await?;
        Ok(piece.map(|mut piece| piece.copy_to_bytes(piece.remaining())))
    }

    /// Reads the body to its end, and returns the response with its trailers; without any they are empty.
    pub(crate) async fn whole(mut self) -> Result<(Response, HeaderMap), Failure> {
        let mut body = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            body.extend_from_slice(&piece);
        }
        let trailers = within("the trailers", self.receiving.recv_trailers()).await?.unwrap_or_default();
        let (status, headers) = (self.status, self.headers);
        Ok((Response { status, version: Version::HTTP_3, headers, body: body.freeze() }, trailers))
    }
}
