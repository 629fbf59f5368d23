//! How many requests an endpoint takes at once, and which wait.

use tokio::{sync::Semaphore, task::JoinSet};

use super::*;

/// An origin that responds only when the test lets it, and notes how many requests wait at once.
struct Gated {
    origin: Origin,
    gate: Arc<Semaphore>,
    most: Arc<AtomicUsize>,
}

impl Gated {
    async fn start() -> Self {
        let (gate, most, now) = (Arc::new(Semaphore::new(0)), Arc::default(), Arc::<AtomicUsize>::default());
        let (open, peak) = (Arc::clone(&gate), Arc::<AtomicUsize>::clone(&most));
        let origin = Origin::start(move |_, mut stream| {
            let (open, peak, now) = (Arc::clone(&open), Arc::clone(&peak), Arc::clone(&now));
            async move {
                read_request(&mut stream).await;
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                open.acquire().await.unwrap().forget();
                now.fetch_sub(1, Ordering::SeqCst);
                write(&mut stream, OK).await;
            }
        })
        .await;
        Self { origin, gate, most }
    }
}

#[tokio::test]
async fn only_so_many_at_once_and_only_so_many_wait() {
    let gated = Gated::start().await;
    let mut config = config(&[gated.origin.address]);
    config.connections_max = 2;
    config.waiting_max = 2;
    let pool = Pool::new("test", &config).unwrap();

    let mut fetches = JoinSet::new();
    for _ in 0..4 {
        let pool = Arc::clone(&pool);
        fetches.spawn(async move { text(pool.fetch(get()).await.unwrap()).await });
    }
    until(|| (endpoint(&pool, 0).inflight, pool.info().waiting) == (2, 2)).await;
    let failure = within(pool.fetch(get())).await.unwrap_err();
    assert_eq!((failure.status().as_u16(), failure.reason(), failure.endpoint()), (503, "pool-full", None));

    // A place is taken before the origin has read the request: both are there before any gets its response.
    until(|| gated.most.load(Ordering::SeqCst) == 2).await;
    gated.gate.add_permits(4);
    while let Some(answer) = within(fetches.join_next()).await {
        assert_eq!(answer.unwrap(), "ok");
    }
    assert_eq!(gated.most.load(Ordering::SeqCst), 2);
    let endpoint = endpoint(&pool, 0);
    assert_eq!((endpoint.inflight, endpoint.waiting, endpoint.ok, endpoint.failed), (0, 0, 4, 0));
}

#[tokio::test]
async fn waiting_is_bounded_and_ends_with_the_body_of_another() {
    let origin = Origin::start(|number, mut stream| async move {
        read_request(&mut stream).await;
        if number == 0 {
            // A body that the origin doesn't end.
            write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok").await;
            std::future::pending::<()>().await;
        }
        write(&mut stream, OK).await;
    })
    .await;
    let mut config = config(&[origin.address]);
    config.connections_max = 1;
    config.connect = Duration::from_millis(200);
    let pool = Pool::new("test", &config).unwrap();

    let first = within(pool.fetch(get())).await.unwrap();
    let failure = within(pool.fetch(get())).await.unwrap_err();
    assert_eq!((failure.status().as_u16(), failure.reason()), (503, "wait-timeout"), "the body holds the place");
    assert_eq!(endpoint(&pool, 0).failed, 0, "which isn't the endpoint's fault");
    drop(first);
    assert_eq!(text(within(pool.fetch(get())).await.unwrap()).await, "ok");
}

#[tokio::test]
async fn a_fetch_that_is_given_up_frees_its_place() {
    let gated = Gated::start().await;
    let mut config = config(&[gated.origin.address]);
    config.connections_max = 1;
    let pool = Pool::new("test", &config).unwrap();
    let given_up = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.fetch(get()).await }
    });
    until(|| gated.most.load(Ordering::SeqCst) == 1).await;
    given_up.abort();
    assert!(within(given_up).await.unwrap_err().is_cancelled());
    let endpoint = endpoint(&pool, 0);
    assert_eq!((endpoint.inflight, endpoint.waiting, endpoint.failed), (0, 0, 0));
}
