//! Connections to a server, by protocol.

use std::{net::SocketAddr, sync::Arc};

use bytes::{Buf, Bytes};
use clap::ValueEnum;
use h3::client::SendRequest;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use quinn::{Endpoint, crypto::rustls::QuicClientConfig};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Failure, Server};

/// What the server's certificate is for.
const NAME: &str = "localhost";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// HTTP/1.1 over TLS
    H1,
    /// HTTP/2 over TLS
    H2,
    /// HTTP/3
    H3,
}

impl Protocol {
    /// Returns its name in TLS (ALPN).
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::H1 => "http/1.1",
            Self::H2 => "h2",
            Self::H3 => "h3",
        }
    }

    /// Returns a request for a path, as this protocol has it.
    pub(crate) fn request(self, address: SocketAddr, path: &str) -> Result<Request<()>, Failure> {
        let authority = format!("{NAME}:{}", address.port());
        Ok(match self {
            Self::H1 => Request::get(path).header(header::HOST, authority).body(())?,
            Self::H2 | Self::H3 => Request::get(format!("https://{authority}{path}")).body(())?,
        })
    }
}

/// A connection, or a handle to one.
pub(crate) enum Wire {
    H1(http1::SendRequest<Empty<Bytes>>),
    H2(http2::SendRequest<Empty<Bytes>>),
    H3(Box<Quic>),
}

/// A connection by HTTP/3, with a socket of its own, as each client has one.
#[derive(Clone)]
pub(crate) struct Quic {
    sender: SendRequest<h3_quinn::OpenStreams, Bytes>,
    _endpoint: Endpoint,
}

impl Wire {
    /// Connects.
    pub(crate) async fn connect(server: &Server, protocol: Protocol) -> Result<Self, Failure> {
        Ok(match protocol {
            Protocol::H1 => {
                let (sender, connection) = http1::handshake(tls(server, protocol).await?).await?;
                tokio::spawn(connection);
                Self::H1(sender)
            }
            Protocol::H2 => {
                let handshake = http2::handshake(TokioExecutor::new(), tls(server, protocol).await?);
                let (sender, connection) = handshake.await?;
                tokio::spawn(connection);
                Self::H2(sender)
            }
            Protocol::H3 => Self::H3(Box::new(Quic::connect(server).await?)),
        })
    }

    /// Returns another handle to the same connection; `None` if it has one request at a time.
    pub(crate) fn another(&self) -> Option<Self> {
        match self {
            Self::H1(_) => None,
            Self::H2(sender) => Some(Self::H2(sender.clone())),
            Self::H3(quic) => Some(Self::H3(quic.clone())),
        }
    }

    /// Sends a request and returns how many bytes the response's body has.
    ///
    /// # Errors
    /// There is no whole response, or it isn't 200.
    pub(crate) async fn get(&mut self, request: Request<()>) -> Result<u64, Failure> {
        match self {
            Self::H1(sender) => {
                sender.ready().await?;
                let response = sender.send_request(request.map(|()| Empty::new())).await?;
                checked(response.status())?;
                read(response.into_body()).await
            }
            Self::H2(sender) => {
                sender.ready().await?;
                let response = sender.send_request(request.map(|()| Empty::new())).await?;
                checked(response.status())?;
                read(response.into_body()).await
            }
            Self::H3(quic) => quic.get(request, |_| {}).await,
        }
    }
}

impl Quic {
    pub(crate) async fn connect(server: &Server) -> Result<Self, Failure> {
        let crypto = QuicClientConfig::try_from(settings(server, Protocol::H3)?)?;
        let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let connection = endpoint.connect_with(config, server.address, NAME)?.await?;
        let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
        tokio::spawn(async move { drop(driver.wait_idle().await) });
        Ok(Self { sender, _endpoint: endpoint })
    }

    /// Sends a request and returns how many bytes the response's body has; `seen` is told of each piece.
    ///
    /// # Errors
    /// There is no whole response, or it isn't 200.
    pub(crate) async fn get(&mut self, request: Request<()>, mut seen: impl FnMut(u64)) -> Result<u64, Failure> {
        let mut stream = self.sender.send_request(request).await?;
        stream.finish().await?;
        checked(stream.recv_response().await?.status())?;
        let mut bytes = 0;
        while let Some(piece) = stream.recv_data().await? {
            let length = piece.remaining() as u64;
            bytes += length;
            seen(length);
        }
        Ok(bytes)
    }
}

fn checked(status: StatusCode) -> Result<(), Failure> {
    if status == StatusCode::OK { Ok(()) } else { Err(format!("the response is {status}").into()) }
}

async fn read(mut body: Incoming) -> Result<u64, Failure> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(bytes)
}

/// Connects by TLS.
async fn tls(server: &Server, protocol: Protocol) -> Result<TokioIo<TlsStream<TcpStream>>, Failure> {
    let stream = TcpStream::connect(server.address).await?;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::new(settings(server, protocol)?));
    let stream = connector.connect(ServerName::try_from(NAME)?, stream).await?;
    if stream.get_ref().1.alpn_protocol() != Some(protocol.name().as_bytes()) {
        return Err(format!("the server doesn't speak {}", protocol.name()).into());
    }
    Ok(TokioIo::new(stream))
}

/// Returns the same TLS for all protocols: 1.3, which HTTP/3 needs.
fn settings(server: &Server, protocol: Protocol) -> Result<ClientConfig, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&server.ca)?)?;
    let mut settings = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    settings.alpn_protocols = vec![protocol.name().as_bytes().to_vec()];
    Ok(settings)
}
