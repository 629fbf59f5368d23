//! A watch over each HTTP/2 stream. A client can stop one stream while the others and the socket go on, so each is
//! watched by itself: its task runs under a watch, which sees from the response's body ([`Marks`]) whether the stream
//! waits for its client, and ends the task, and so resets the stream, when the client takes too long. hyper gives a
//! body no other way to do so: it doesn't poll one while the window is shut.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tracing::Instrument;

use super::watch::SocketActivity;
use crate::{
    config::Timeouts,
    http::{metrics::Metrics, pace::Pace, patience::Patience, trace},
};

tokio::task_local! {
    static CURRENT: Arc<Marks>;
}

/// What a response's body tells the watch over its stream, and what its pieces tell it that are being written. No order
/// between the marks is needed.
#[derive(Default)]
pub(super) struct Marks {
    /// A piece lies ready, and the client has yet to make room for it.
    waits_for_client: AtomicBool,
    /// Bytes written since the watch last looked.
    written: AtomicU64,
    /// The activity of the stream's connection.
    activity: OnceLock<Arc<SocketActivity>>,
    /// Bytes that the connection had progressed by when the watch last looked.
    progressed: AtomicU64,
}

impl Marks {
    /// Returns the marks of the stream whose task this is, on the connection with this activity; `None` outside of one.
    pub(super) fn current(activity: &Arc<SocketActivity>) -> Option<Arc<Self>> {
        let marks = CURRENT.try_with(Arc::clone).ok()?;
        marks.belong(activity);
        Some(marks)
    }

    fn belong(&self, activity: &Arc<SocketActivity>) {
        if self.activity.set(Arc::clone(activity)).is_ok() {
            self.progressed.store(activity.progressed().0, Ordering::Relaxed);
        }
    }

    /// Returns the bytes that the client took since the watch last looked: those that its windows let through and, as
    /// long as the socket as a whole has no room, the stream's part of those that the client acknowledged. The pieces
    /// of many streams wait for the socket then, and it takes more only by the tens of thousands.
    pub(super) fn took(&self) -> u64 {
        let written = self.written.swap(0, Ordering::Relaxed);
        let Some(activity) = self.activity.get() else { return written };
        let (progressed, sharers) = activity.progressed();
        let before = self.progressed.swap(progressed, Ordering::Relaxed);
        written + progressed.saturating_sub(before) / u64::from(sharers.max(1))
    }

    /// A piece was handed over.
    pub(super) fn gave(&self) {
        self.waits_for_client.store(true, Ordering::Relaxed);
    }

    /// So many bytes of a piece were written: byte by byte what the windows let through.
    pub(super) fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(activity) = self.activity.get() {
            activity.passed();
        }
    }

    /// Notes that it isn't the client that the stream waits for.
    pub(super) fn pause(&self) {
        self.waits_for_client.store(false, Ordering::Relaxed);
    }
}

/// Runs the streams of all connections.
#[derive(Clone)]
pub(super) struct Streams(Arc<Rule>);

struct Rule {
    send: Duration,
    pace: Pace,
    metrics: Metrics,
}

impl Streams {
    pub(super) fn new(timeouts: &Timeouts, metrics: Metrics) -> Self {
        Self(Arc::new(Rule { send: timeouts.send, pace: Pace::of(timeouts), metrics }))
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let (rule, marks) = (Arc::clone(&self.0), Arc::new(Marks::default()));
        let watched = CURRENT.scope(Arc::clone(&marks), watch(stream, marks, rule));
        let span = trace::current();
        if span.is_disabled() {
            tokio::spawn(watched);
        } else {
            tokio::spawn(watched.instrument(span));
        }
    }
}

/// Runs a stream to its end, or until its client takes too long.
async fn watch<F: Future<Output = ()>>(stream: F, marks: Arc<Marks>, rule: Arc<Rule>) {
    let mut stream = pin!(stream);
    let mut patience = Patience::new(rule.send, rule.pace);
    let outcome = poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        let waits = marks.waits_for_client.load(Ordering::Relaxed);
        patience.book(marks.took(), waits);
        if waits { patience.poll_over(cx).map(Some) } else { Poll::Pending }
    });
    if let Some(reason) = outcome.await {
        rule.metrics.reset(reason.as_str());
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::http::activity::Activity;

    const LONG: Duration = Duration::from_secs(60);

    fn timeouts(send: Duration, rate_bytes_min: u64, rate_window: Duration) -> Timeouts {
        Timeouts { send, rate_bytes_min, rate_window, ..Timeouts::default() }
    }

    /// Polls a stream that never ends until the watch ends it; each of `gifts` is a piece and the pause after it.
    async fn watched(timeouts: &Timeouts, gifts: &[(usize, Duration)]) -> (u64, u64) {
        let (metrics, marks) = (Metrics::new(), Arc::new(Marks::default()));
        let Streams(rule) = Streams::new(timeouts, metrics.clone());
        let (given, gifts) = (Arc::clone(&marks), gifts.to_vec());
        let stream = async move {
            for (bytes, pause) in gifts {
                given.gave();
                given.wrote(bytes);
                tokio::time::sleep(pause).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::time::timeout(LONG, watch(stream, marks, rule)).await.expect("in time");
        (metrics.resets("send"), metrics.resets("rate"))
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_more_is_cut_and_one_that_trickles_too() {
        let short = Duration::from_millis(50);
        assert_eq!(watched(&timeouts(short, 0, LONG), &[(1, Duration::ZERO)]).await, (1, 0));
        let trickle = [(1, Duration::from_millis(20)); 100];
        assert_eq!(watched(&timeouts(LONG, 1_000_000, short), &trickle).await, (0, 1));
    }

    /// A stream whose piece waits for a socket that has no room, while its client acknowledges a kilobyte now and then.
    #[tokio::test]
    async fn what_is_acknowledged_on_a_full_socket_counts_for_its_streams() {
        let (marks, step) = (Arc::new(Marks::default()), Duration::from_millis(25));
        let limits = timeouts(step * 4, 1_000, step * 4);
        let activity = Arc::new(SocketActivity::new(Arc::new(Activity::new(Counter::default())), Pace::of(&limits)));
        activity.wrote(Some(100_000), || None);
        activity.wrote(None, || Some(100_000));
        let Streams(rule) = Streams::new(&limits, Metrics::new());
        let metrics = rule.metrics.clone();
        let (own, looks) = (Arc::clone(&marks), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&looks);
        let stream = async move {
            own.belong(&activity);
            own.gave();
            for look in 1..=20 {
                tokio::time::sleep(step).await;
                activity.wrote(None, || Some(100_000 - look * 1_000));
                count.store(look, Ordering::Relaxed);
            }
            std::future::pending::<()>().await;
        };
        tokio::time::timeout(LONG, watch(stream, marks, rule)).await.expect("in time");
        assert_eq!(looks.load(Ordering::Relaxed), 20, "as long as bytes were acknowledged");
        assert_eq!(metrics.resets("send") + metrics.resets("rate"), 1, "and not for ever");
    }

    #[tokio::test]
    async fn an_origin_may_take_its_time() {
        let (marks, short) = (Arc::new(Marks::default()), Duration::from_millis(10));
        let Streams(rule) = Streams::new(&timeouts(short, 1_000_000, short), Metrics::new());
        let paused = Arc::clone(&marks);
        let stream = async move {
            paused.gave();
            paused.pause();
            tokio::time::sleep(short * 10).await;
        };
        let metrics = rule.metrics.clone();
        watch(stream, marks, rule).await;
        assert_eq!((metrics.resets("send"), metrics.resets("rate")), (0, 0));
    }
}
