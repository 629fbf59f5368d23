//! The body of a response while it is sent.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{activity::InFlight, guests::Ticket};

/// Keeps its request in flight until the body is sent or given up.
pub(super) struct Reply<B> {
    body: B,
    _in_flight: Option<InFlight>,
    _ticket: Option<Ticket>,
}

impl<B> Reply<B> {
    /// Returns a body to be sent; `ticket` is that of a client whose address is limited.
    pub(super) fn new(body: B, in_flight: InFlight, ticket: Option<Ticket>) -> Self {
        Self { body, _in_flight: Some(in_flight), _ticket: ticket }
    }

    /// Returns a body in the place of one that goes another way, which keeps the request in flight.
    pub(super) const fn instead(body: B) -> Self {
        Self { body, _in_flight: None, _ticket: None }
    }
}

impl<B> Body for Reply<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
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
    use std::sync::Arc;

    use http_body_util::{BodyExt, Full};
    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::http::activity::Activity;

    #[tokio::test]
    async fn a_request_is_in_flight_until_its_response_is_dropped() {
        let activity = Arc::new(Activity::new(Counter::default()));
        let body = Full::new(Bytes::from_static(b"x"));
        let mut reply = Reply::new(body, InFlight::begin(&activity), None);
        reply.frame().await.unwrap().unwrap();
        assert_eq!(activity.in_flight(), 1);
        drop(reply);
        assert_eq!(activity.in_flight(), 0);
    }
}
