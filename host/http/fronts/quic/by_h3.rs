//! A [`Session`] by the `h3` crate. Nothing else knows it, but for `transport`, which brings it its bytes.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use ::http::{HeaderMap, Response};
use bytes::{Buf, Bytes};
use h3::{
    error::StreamError,
    server::{Connection, RequestResolver, RequestStream},
};

use super::{
    session::{Arrived, Broken, Code, Lost, Marks, NoHead, Opening, Receiving, Sending, Session},
    transport::{Accepted, Latest, RecvStream, SendStream, Transport},
};

/// Bytes of header sections.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Of a request's, counted as the field section size is (RFC 9114, section 4.2.2).
    pub(super) section: u64,
    /// Of all together that have begun to come and aren't whole.
    pub(super) gathered: u64,
}

/// A connection that speaks HTTP/3.
pub(super) struct H3 {
    session: Connection<Transport, Bytes>,
    latest: Latest,
    /// For its statistics.
    connection: quinn::Connection,
}

impl H3 {
    /// Begins with HTTP/3 on a connection.
    pub(super) async fn begin(connection: quinn::Connection, bounds: Bounds) -> Result<Self, Lost> {
        // Encoded, a section is smaller than it counts; what is larger is cut before it has come. One may always come.
        let gathered = bounds.gathered.max(bounds.section);
        let transport = Transport::new(connection.clone(), bounds.section, gathered);
        let latest = transport.latest();
        let mut builder = h3::server::builder();
        builder.max_field_section_size(bounds.section).send_grease(false);
        let session = builder.build(transport).await.map_err(|_| Lost)?;
        Ok(Self { session, latest, connection })
    }
}

impl Session for H3 {
    type Opening = H3Opening;

    async fn accept(&mut self) -> Result<Option<H3Opening>, Lost> {
        match self.session.accept().await {
            Ok(Some(resolver)) => {
                // The one that was accepted last: those that the library refuses by itself come before it.
                let Some(accepted) = self.latest.lock().take() else { return Err(Lost) };
                Ok(Some(H3Opening { resolver, accepted, connection: self.connection.clone() }))
            }
            Ok(None) => Ok(None),
            Err(_) => Err(Lost),
        }
    }

    async fn go_away(&mut self) -> Result<(), Lost> {
        // The library counts from the last stream that it accepted, and would name that one as refused.
        self.session.shutdown(1).await.map_err(|_| Lost)
    }
}

/// A request whose header section is yet to be read.
pub(super) struct H3Opening {
    resolver: RequestResolver<Transport, Bytes>,
    accepted: Accepted,
    connection: quinn::Connection,
}

impl Opening for H3Opening {
    type Sending = H3Sending;
    type Receiving = H3Receiving;

    async fn head(self) -> Result<Arrived<H3Sending, H3Receiving>, NoHead> {
        let Self { resolver, accepted: Accepted { marks, over, is_early }, connection } = self;
        let (request, stream) = resolver.resolve_request().await.map_err(|error| match error {
            StreamError::HeaderTooBig { .. } => NoHead::TooLarge,
            _ => NoHead::Broken,
        })?;
        marks.serve();
        let (sending, receiving) = stream.split();
        let sending = H3Sending { stream: sending, connection, marks: Arc::clone(&marks) };
        Ok(Arrived { request, sending, receiving: H3Receiving { stream: receiving }, over, marks, is_early })
    }

    fn reject(self) {
        self.accepted.marks.reject();
    }
}

/// The response's half of a stream.
pub(super) struct H3Sending {
    stream: RequestStream<SendStream, Bytes>,
    connection: quinn::Connection,
    marks: Arc<Marks>,
}

impl Sending for H3Sending {
    async fn head(&mut self, head: Response<()>, is_followed: bool) -> Result<(), Broken> {
        self.marks.hold(is_followed);
        self.stream.send_response(head).await.map_err(|_| Broken)
    }

    async fn data(&mut self, data: Bytes) -> Result<(), Broken> {
        self.marks.hold(false);
        self.marks.lend(data.clone());
        self.stream.send_data(data).await.map_err(|_| Broken)
    }

    async fn trailers(&mut self, trailers: HeaderMap) -> Result<(), Broken> {
        self.marks.hold(false);
        self.stream.send_trailers(trailers).await.map_err(|_| Broken)
    }

    async fn finish(&mut self) -> Result<(), Broken> {
        self.stream.finish().await.map_err(|_| Broken)
    }

    fn reset(&mut self, code: Code) {
        self.stream.stop_stream(u64::from(code.value()).into());
    }

    fn frames_sent(&self) -> u64 {
        self.connection.stats().frame_tx.stream
    }
}

/// The request's half of a stream.
pub(super) struct H3Receiving {
    stream: RequestStream<RecvStream, Bytes>,
}

impl Receiving for H3Receiving {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        self.stream.poll_recv_data(cx).map(|next| match next {
            Ok(Some(mut data)) => Ok(Some(data.copy_to_bytes(data.remaining()))),
            Ok(None) => Ok(None),
            Err(_) => Err(Broken),
        })
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Broken>> {
        self.stream.poll_recv_trailers(cx).map_err(|_| Broken)
    }
}
