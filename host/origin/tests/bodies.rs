//! Bodies in both directions, whole and broken.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use http::HeaderName;
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use tokio::time::Sleep;

use super::*;
use crate::message::{Body, BodyError};

/// A body that plays its steps.
struct Played(VecDeque<Step>);

enum Step {
    Piece(&'static str),
    Pause(Pin<Box<Sleep>>),
    Break,
}

impl HttpBody for Played {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(Step::Pause(sleep)) = self.0.front_mut() {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.0.pop_front();
        }
        Poll::Ready(match self.0.pop_front() {
            Some(Step::Piece(piece)) => Some(Ok(Frame::data(Bytes::from_static(piece.as_bytes())))),
            Some(Step::Break | Step::Pause(_)) => Some(Err(BodyError::Broken("the client left".to_owned()))),
            None => None,
        })
    }
}

fn played(steps: impl IntoIterator<Item = Step>) -> OutboundBody {
    OutboundBody::Once(Body::stream(Played(steps.into_iter().collect())))
}

#[tokio::test]
async fn a_body_that_ends_early_is_an_error_and_counts_against_the_endpoint() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let origin = Origin::saying(answer).await;
        let pool = pool(&[origin.address]);
        let fetched = within(pool.fetch(get())).await.unwrap();
        let error = within(fetched.response.into_body().collect(1024)).await.unwrap_err();
        assert!(matches!(error, BodyError::Broken(_)), "{error:?}");
        let endpoint = endpoint(&pool, 0);
        assert_eq!((endpoint.inflight, endpoint.ok, endpoint.failed), (0, 0, 1), "{answer:?}");
    }
}

#[tokio::test]
async fn a_body_that_stands_still_is_given_up() {
    let origin = Origin::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
        std::future::pending::<()>().await;
    })
    .await;
    let mut config = config(&[origin.address]);
    config.idle = Duration::from_millis(50);
    let pool = Pool::new("test", &config).unwrap();
    let fetched = within(pool.fetch(get())).await.unwrap();
    let error = within(fetched.response.into_body().collect(1024)).await.unwrap_err();
    assert_eq!(error, BodyError::Stalled { idle_ms: 50 });
    assert_eq!((endpoint(&pool, 0).inflight, endpoint(&pool, 0).failed), (0, 1));
}

#[tokio::test]
async fn trailers_pass_without_what_belongs_into_the_head() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n2\r\nok\r\n0\r\nx: 1\r\nSet-Cookie: a\r\n\r\n";
    let origin = Origin::saying(answer).await;
    let fetched = within(pool(&[origin.address]).fetch(get())).await.unwrap();
    assert!(fetched.response.headers().is_empty(), "{:?}", fetched.response.headers());
    let mut body = fetched.response.into_body();
    assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "ok");
    let trailers = within(body.frame()).await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers, HeaderMap::from_iter([(HeaderName::from_static("x"), HeaderValue::from_static("1"))]));
    assert!(within(body.frame()).await.is_none());
}

#[tokio::test]
async fn a_reader_that_leaves_frees_the_place_and_blames_nobody() {
    let origin = Origin::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    let pool = pool(&[origin.address]);
    drop(within(pool.fetch(get())).await.unwrap());
    let endpoint = endpoint(&pool, 0);
    assert_eq!((endpoint.inflight, endpoint.ok, endpoint.failed), (0, 0, 0));
}

#[tokio::test]
async fn a_client_that_breaks_off_its_body_is_not_the_endpoints_fault() {
    let origin = Origin::saying(OK).await;
    let pool = pool(&[origin.address]);
    let body = played([Step::Piece("abc"), Step::Break]);
    let failure = within(pool.fetch(request(Method::POST, body))).await.unwrap_err();
    assert_eq!((failure.status().as_u16(), failure.reason()), (400, "request-body"), "{failure}");
    assert_eq!(endpoint(&pool, 0).failed, 0);
}

#[tokio::test]
async fn a_slow_client_does_not_use_up_the_endpoints_time() {
    let origin = Origin::saying(OK).await;
    let mut config = config(&[origin.address]);
    config.response = Duration::from_millis(400);
    let pool = Pool::new("test", &config).unwrap();
    let pause = Step::Pause(Box::pin(sleep(Duration::from_millis(900))));
    let body = played([Step::Piece("abc"), pause, Step::Piece("def")]);
    let fetched = within(pool.fetch(request(Method::POST, body))).await.unwrap();
    assert_eq!(text(fetched).await, "ok");
}

#[tokio::test]
async fn silence_after_a_streamed_body_is_a_timeout() {
    let origin = Origin::silent().await;
    let mut config = config(&[origin.address]);
    config.response = Duration::from_millis(50);
    let pool = Pool::new("test", &config).unwrap();
    let failure = within(pool.fetch(request(Method::POST, played([Step::Piece("abc")])))).await.unwrap_err();
    assert_eq!(failure.reason(), "response-timeout");
}
