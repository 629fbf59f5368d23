//! A connection to an endpoint that has switched to another protocol (RFC 9110, section 7.8): what the client sends after
//! the switch comes as the body of its request, what the endpoint sends goes as the body of its response.

use bytes::BytesMut;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

use super::{download::remove_connection_fields, ledger::Slot, opening::Opening};
use crate::message::{
    self, Body, BodyError,
    body::{Sender, Unread},
};

/// Pieces that the endpoint may be ahead of the client.
const PIECES: usize = 4;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 8 * 1024;

/// Returns the response to a switch that the endpoint agrees to. The place is held until either side has gone; the
/// listener bounds how long both may be silent.
pub(super) fn receive(mut response: Response<Opening>, from_client: Body, mut slot: Slot) -> message::Response {
    let switched = hyper::upgrade::on(&mut response);
    let (to_client, body) = Body::channel(PIECES, None);
    slot.report(true);
    tokio::spawn(async move {
        let _slot = slot;
        run(switched, from_client, to_client).await;
    });
    let protocol = response.headers().get(header::UPGRADE).cloned();
    let mut received = Response::new(body);
    *received.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *received.headers_mut() = std::mem::take(response.headers_mut());
    remove_connection_fields(received.headers_mut());
    if let Some(protocol) = protocol {
        received.headers_mut().insert(header::UPGRADE, protocol);
    }
    received.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    received
}

/// Runs the tunnel until the endpoint ends it, or the client has gone.
async fn run(switched: OnUpgrade, from_client: Body, to_client: Sender) {
    let (from_endpoint, to_endpoint) = match switched.await {
        Ok(upgraded) => split(TokioIo::new(upgraded)),
        Err(error) => return to_client.fail(BodyError::Broken(error.to_string())).await,
    };
    let upward = async {
        send(from_client, to_endpoint).await;
        // The client has half-closed, or doesn't reach the endpoint any more. The endpoint ends the rest.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = to_client.closed() => {}
        () = receive_all(from_endpoint, &to_client) => {}
        () = upward => {}
    }
}

/// Sends what the client sends, then the end.
async fn send(mut from_client: Body, mut to_endpoint: impl AsyncWrite + Unpin) {
    while let Some(Ok(frame)) = from_client.frame().await {
        let Ok(piece) = frame.into_data() else { continue };
        if to_endpoint.write_all(&piece).await.is_err() || to_endpoint.flush().await.is_err() {
            return;
        }
    }
    // An endpoint that has gone ends the tunnel by itself.
    let _ = to_endpoint.shutdown().await;
}

/// Hands on what the endpoint sends, until it ends.
async fn receive_all(mut from_endpoint: impl AsyncRead + Unpin, to_client: &Sender) {
    let mut piece = BytesMut::new();
    loop {
        piece.reserve(PIECE_BYTES);
        match from_endpoint.read_buf(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if let Err(Unread) = to_client.send(piece.split().freeze()).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn bytes_pass_both_ways_and_an_end_is_an_end() {
        let (ours, mut endpoint) = duplex(64);
        let (read, write) = split(ours);
        let (client, from_client) = Body::channel(1, None);
        let upward = tokio::spawn(send(from_client, write));
        client.send(Bytes::from_static(b"up")).await.unwrap();
        let mut said = [0; 2];
        endpoint.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"up");

        let (to_client, down) = Body::channel(1, None);
        let downward = tokio::spawn(async move { receive_all(read, &to_client).await });
        endpoint.write_all(b"down").await.unwrap();
        drop(endpoint);
        assert_eq!(down.collect(100).await.unwrap(), "down");
        drop(client);
        upward.await.unwrap();
        downward.await.unwrap();
    }
}
