//! Endpoints whose addresses change, and those of a pool that another one follows.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{
    super::{
        Bounds, Metrics, Pool,
        targets::{Found, Target},
    },
    Origin, config, endpoint, get, nobody, text, until, within,
};
use crate::config::{self as configuration, OriginHttp};

fn found(address: SocketAddr) -> Found {
    Found { targets: vec![Target::only(vec![address])], ttl: None, is_partial: false }
}

/// An origin that responds to all requests with a word, and how many of its connections have ended.
async fn serving(version: OriginHttp, word: &'static str) -> (Origin, Arc<AtomicUsize>) {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    let origin = Origin::start(move |_, stream| {
        let count = Arc::clone(&count);
        async move {
            let service = service_fn(move |_: Request<Incoming>| async move {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(word.as_bytes()))))
            });
            let stream = TokioIo::new(stream);
            if version == OriginHttp::Http2 {
                drop(http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await);
            } else {
                drop(http1::Builder::new().serve_connection(stream, service).await);
            }
            count.fetch_add(1, SeqCst);
        }
    })
    .await;
    (origin, ended)
}

async fn fetched(pool: &Pool) -> String {
    text(within(pool.fetch(get())).await.unwrap()).await
}

#[tokio::test]
async fn connections_to_addresses_that_are_gone_end() {
    for version in [OriginHttp::Http1, OriginHttp::Http2] {
        let (old, ended) = serving(version, "old").await;
        let (new, _) = serving(version, "new").await;
        let url = format!("http://localhost:{}", old.address.port()).parse().unwrap();
        let said =
            configuration::Pool { endpoints: vec![configuration::Endpoint::new(url)], http: version, ..config(&[]) };
        let pool = Pool::new("test", &said).unwrap();
        assert_eq!(fetched(&pool).await, "old");
        assert!(endpoint(&pool, 0).addresses.contains(&old.address.to_string()));
        let member = &pool.endpoints[0];
        let name = member.reach().name().unwrap();
        for _ in 0..2 {
            let change = name.take(found(new.address));
            assert!(change.gone.is_empty(), "it may come back");
            member.leave(&change.gone);
        }
        assert_eq!(ended.load(SeqCst), 0, "{version:?}");
        let change = name.take(found(new.address));
        assert!(change.gone.contains(&old.address));
        member.leave(&change.gone);
        until(|| ended.load(SeqCst) == old.connections()).await;
        assert_eq!(fetched(&pool).await, "new", "{version:?}");
        assert_eq!(endpoint(&pool, 0).addresses, [new.address.to_string()]);
    }
}

#[tokio::test]
async fn what_is_known_of_an_endpoint_outlives_its_pool() {
    let (origin, _) = serving(OriginHttp::Http2, "x").await;
    let mut said = config(&[origin.address, nobody().await]);
    (said.http, said.eject.failures) = (OriginHttp::Http2, 1);
    let former = Pool::new("test", &said).unwrap();
    let failing = async {
        while endpoint(&former, 1).ejected_until.is_none() {
            assert_eq!(fetched(&former).await, "x");
        }
    };
    within(failing).await;

    said.endpoints.swap(0, 1);
    said.endpoints[1].weight = 5;
    said.waiting_max += 1;
    let metrics = Metrics::new();
    let bounds = Bounds::new(&configuration::Limits::default(), &metrics);
    let next = Pool::of_node("test", &said, &metrics, &bounds, Some(&*former)).unwrap();
    for (at, was) in [(0, 1), (1, 0)] {
        let (is, was) = (endpoint(&next, at), endpoint(&former, was));
        assert_eq!((&is.address, is.ok, is.failed), (&was.address, was.ok, was.failed));
        assert_eq!(is.ejected_until.is_some(), at == 0);
    }
    assert_eq!(endpoint(&next, 1).weight, 5);
    drop(former);
    assert_eq!(fetched(&next).await, "x");
    assert_eq!(origin.connections(), 1);
}
