//! A request's body on HTTP/1 while it arrives.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};

use super::watch::SocketActivity;

/// A body that notes when the request has come whole: from then on a client has nothing to say about it but that it
/// goes.
pub(super) struct Arriving<B> {
    body: B,
    /// Until it is noted.
    activity: Option<Arc<SocketActivity>>,
}

impl<B: Body> Arriving<B> {
    /// Returns a body as it came; `activity` is that of an HTTP/1 connection, and `None` on others.
    pub(super) fn new(body: B, activity: Option<&Arc<SocketActivity>>) -> Self {
        if body.is_end_stream() {
            if let Some(activity) = activity {
                activity.request_whole();
            }
            return Self { body, activity: None };
        }
        Self { body, activity: activity.cloned() }
    }
}

impl<B: Body + Unpin> Body for Arriving<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        let next = Pin::new(&mut this.body).poll_frame(cx);
        let is_whole = match &next {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => this.body.is_end_stream(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        if is_whole && let Some(activity) = this.activity.take() {
            activity.request_whole();
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use ::http::Version;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Empty, Full, StreamBody};
    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::{
        config::Timeouts,
        http::{
            activity::{Activity, InFlight},
            pace::Pace,
        },
    };

    /// A connection whose request's head has come.
    fn begun() -> (Arc<SocketActivity>, InFlight) {
        let requests = Arc::new(Activity::new(Counter::default()));
        let activity = Arc::new(SocketActivity::new(requests.clone(), Pace::of(&Timeouts::default())));
        activity.head_complete(Version::HTTP_11);
        (activity, InFlight::begin(&requests))
    }

    #[tokio::test]
    async fn a_request_is_whole_with_its_last_piece() {
        let (activity, _request) = begun();
        let _none = Arriving::new(Empty::<Bytes>::new(), Some(&activity));
        assert!(activity.is_served());

        let (activity, _request) = begun();
        let mut body = Arriving::new(Full::new(Bytes::from_static(b"x")), Some(&activity));
        assert!(!activity.is_served());
        body.frame().await.unwrap().unwrap();
        assert!(activity.is_served());

        let (activity, _request) = begun();
        let pieces = [Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x")))];
        let mut body = Arriving::new(StreamBody::new(futures_util::stream::iter(pieces)), Some(&activity));
        body.frame().await.unwrap().unwrap();
        assert!(!activity.is_served(), "more may come");
        assert!(body.frame().await.is_none() && activity.is_served());
    }

    #[tokio::test]
    async fn a_request_that_broke_off_is_not_whole() {
        let (activity, _request) = begun();
        let pieces = [Err::<Frame<Bytes>, _>("the client left")];
        let mut body = Arriving::new(StreamBody::new(futures_util::stream::iter(pieces)), Some(&activity));
        assert!(body.frame().await.unwrap().is_err() && !activity.is_served());
    }
}
