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

/// As long as nothing has been passed on, the client gets a status.
#[tokio::test]
async fn a_body_that_breaks_off_or_is_framed_wrongly_at_once_is_no_response() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let origin = Origin::saying(answer).await;
        let pool = pool(&[origin.address]);
        match within(pool.fetch(get())).await {
            Err(failure) => assert_eq!((failure.status().as_u16(), failure.reason()), (502, "invalid-response")),
            // On a busy machine the end comes later than anybody is made to wait for it.
            Ok(fetched) => assert!(within(fetched.response.into_body().collect(1024)).await.is_err(), "{answer:?}"),
        }
        let endpoint = endpoint(&pool, 0);
        assert_eq!((endpoint.inflight, endpoint.ok, endpoint.failed), (0, 0, 1), "{answer:?}");
    }
}

#[tokio::test]
async fn a_body_that_ends_early_is_an_error_and_counts_against_the_endpoint() {
    let long = "x".repeat(9_000);
    for answer in [
        format!("HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n{long}"),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2328\r\n{long}\r\n"),
    ] {
        let origin = Origin::start(move |_, mut stream| {
            let answer = answer.clone();
            async move {
                read_request(&mut stream).await;
                write(&mut stream, &answer).await;
            }
        })
        .await;
        let pool = pool(&[origin.address]);
        let fetched = within(pool.fetch(get())).await.unwrap();
        let error = within(fetched.response.into_body().collect(100_000)).await.unwrap_err();
        assert!(matches!(error, BodyError::Broken(_)), "{error:?}");
        let endpoint = endpoint(&pool, 0);
        assert_eq!((endpoint.inflight, endpoint.ok, endpoint.failed), (0, 0, 1));
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

/// It reads nothing of the body, so that what has been sent of it makes its close a reset.
#[tokio::test]
async fn an_endpoint_that_refuses_an_upload_by_its_head_and_closes_is_heard() {
    for _ in 0..20 {
        let origin = Origin::start(|_, mut stream| async move {
            let mut head = [0; 200];
            stream.read_exact(&mut head).await.unwrap();
            write(&mut stream, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig").await;
        })
        .await;
        let pool = pool(&[origin.address]);
        let upload = OutboundBody::Replayable(Bytes::from(vec![b'x'; 8 << 20]));
        let fetched = within(pool.fetch(request(Method::POST, upload))).await.unwrap();
        assert_eq!(fetched.response.status(), 413);
        assert_eq!(text(fetched).await, "big");
    }
}

#[tokio::test]
async fn a_get_has_its_body_whatever_its_length() {
    let (seen, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::start(move |_, mut stream| {
        let seen = seen.clone();
        async move {
            seen.send(read_request(&mut stream).await.unwrap()).unwrap();
            write(&mut stream, OK).await;
        }
    })
    .await;
    let pool = pool(&[origin.address]);
    let pause = || Step::Pause(Box::pin(sleep(Duration::from_millis(900))));
    for (steps, framing) in [
        (vec![Step::Piece("abc")], "content-length: 3"),
        (vec![Step::Piece("abc"), pause(), Step::Piece("def")], "transfer-encoding: chunked"),
    ] {
        within(pool.fetch(request(Method::GET, played(steps)))).await.unwrap();
        let sent = requests.recv().await.unwrap();
        assert!(sent.starts_with("GET /a?b=c ") && sent.contains("abc"), "{sent}");
        assert!(sent.to_ascii_lowercase().contains(framing), "{framing} in {sent}");
    }
}

#[tokio::test]
async fn an_expectation_is_passed_on_and_the_body_waits_for_the_endpoints_word() {
    for (word, status) in [("HTTP/1.1 100 Continue\r\n\r\n", 200), ("", 413)] {
        let origin = Origin::start(move |_, mut stream| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
            assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
            if word.is_empty() {
                return write(&mut stream, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await;
            }
            write(&mut stream, word).await;
            let mut body = Vec::new();
            while !body.ends_with(b"0\r\n\r\n") {
                body.push(stream.read_u8().await.unwrap());
            }
            assert!(body.windows(3).any(|three| three == b"abc"));
            write(&mut stream, OK).await;
        })
        .await;
        let pool = pool(&[origin.address]);
        let mut outbound = request(Method::POST, played([Step::Piece("abc")]));
        outbound.headers.insert(http::header::EXPECT, HeaderValue::from_static("100-continue"));
        let fetched = within(pool.fetch(outbound)).await.unwrap();
        assert_eq!(fetched.response.status(), status, "{word:?}");
    }
}

#[tokio::test]
async fn raw_characters_of_a_query_are_written_raw() {
    let (seen, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::start(move |_, mut stream| {
        let seen = seen.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                seen.send(request).unwrap();
                write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let pool = pool(&[origin.address]);
    for (target, wanted) in [
        ("/a?q={\u{E022}b\u{E022}:\u{E03C}1\u{E03E}}", "GET /a?q={\"b\":<1>} HTTP/1.1\r\n"),
        ("/a?q=1", "GET /a?q=1 HTTP/1.1\r\n"),
    ] {
        let outbound = Outbound { target: target.parse().unwrap(), ..get() };
        assert_eq!(text(within(pool.fetch(outbound)).await.unwrap()).await, "ok");
        let sent = requests.recv().await.unwrap();
        assert!(sent.starts_with(wanted) && sent.ends_with("\r\n\r\n"), "{sent}");
    }
}
