//! The response on its way from an endpoint: its fields cleaned, its body watched.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName,
    header::{self, HeaderValue},
};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::{ledger::Slot, opening::Opening, trailers::passed_on};
use crate::{clock, message::BodyError};

/// Fields that concern one connection only (RFC 9110, section 7.6.1). `Proxy-Status` isn't one: it is for all
/// recipients.
static CONNECTION_FIELDS: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authentication-info"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Fields that `Connection` can't nominate for removal: they are for all recipients, and without them more would be stored
/// or shared than allowed.
static KEPT_FIELDS: [HeaderName; 2] = [header::CACHE_CONTROL, header::VARY];

/// Removes the fields that concern only the connection on which the response came.
pub(super) fn remove_connection_fields(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // RFC 9112, section 6.3: the encoding decided where the body ends; a length beside it is a lie or an attack.
        headers.remove(header::CONTENT_LENGTH);
    }
    let nominated: Vec<_> = headers.get_all(header::CONNECTION).iter().flat_map(nominations).collect();
    if nominated.contains(&header::SET_COOKIE) && headers.contains_key(header::SET_COOKIE) {
        // It goes, but what came with it is still for the one user that it was set for.
        headers.append(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    }
    for name in nominated.iter().filter(|name| !KEPT_FIELDS.contains(name)).chain(&CONNECTION_FIELDS) {
        headers.remove(name);
    }
}

fn nominations(value: &HeaderValue) -> impl Iterator<Item = HeaderName> {
    value.as_bytes().split(|byte| *byte == b',').filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
}

/// A response body as it arrives.
pub(super) struct Download {
    /// Gone once the end, or an error, has been returned.
    under_way: Option<(Opening, Slot)>,
    idle: Duration,
    /// Runs while `waiting`; made at the first wait.
    alarm: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    begun: bool,
}

impl Download {
    pub(super) fn new(incoming: Opening, slot: Slot, idle: Duration) -> Self {
        Self { under_way: Some((incoming, slot)), idle, alarm: None, waiting: false, begun: false }
    }

    /// Takes a piece. A body of stated length may not be polled after its last byte, so the end is looked for here.
    fn take(&mut self, data: Bytes) -> Frame<Bytes> {
        self.begun = true;
        if self.is_end_stream() {
            self.end();
        }
        Frame::data(data)
    }

    fn end(&mut self) {
        if let Some((_, mut slot)) = self.under_way.take() {
            slot.report(true);
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some((_, mut slot)) = self.under_way.take() {
            slot.report_broken();
            if matches!(error, BodyError::Stalled { .. }) {
                slot.give_up_connection();
            }
        }
        Poll::Ready(Some(Err(error)))
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(self.idle)));
        if !std::mem::replace(&mut self.waiting, true) {
            alarm.set(sleep(self.idle));
        }
        match alarm.as_mut().poll(cx) {
            Poll::Ready(()) => self.fail(BodyError::Stalled { idle_ms: clock::millis(self.idle) }),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl HttpBody for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            let Some((incoming, _)) = this.under_way.as_mut() else { return Poll::Ready(None) };
            let Poll::Ready(frame) = Pin::new(incoming).poll_frame(cx) else { return this.wait(cx) };
            this.waiting = false;
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => return Poll::Ready(Some(Ok(this.take(data)))),
                Some(Ok(Err(other))) => {
                    let Ok(trailers) = other.into_trailers() else { continue };
                    this.begun = true;
                    return Poll::Ready(Some(Ok(Frame::trailers(passed_on(trailers)))));
                }
                Some(Err(error)) => return this.fail(error),
                None => {
                    this.end();
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.under_way.as_ref().is_none_or(|(incoming, _)| incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.under_way.as_ref().map_or_else(|| SizeHint::with_exact(0), |(incoming, _)| incoming.size_hint())
    }
}

impl Drop for Download {
    /// A reader that leaves early says nothing bad about the endpoint, and something good only if bytes had come.
    fn drop(&mut self) {
        if self.begun {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, fields as they arrive, names that are left.
    type Case = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

    #[test]
    fn connection_fields_are_removed() {
        let cases: &[Case] = &[
            ("plain", &[("content-length", "3"), ("etag", "\"a\"")], &["content-length", "etag"]),
            (
                "the fixed ones",
                &[
                    ("connection", "keep-alive"),
                    ("keep-alive", "timeout=5"),
                    ("upgrade", "h2c"),
                    ("trailer", "x"),
                    ("te", "trailers"),
                    ("proxy-authenticate", "Basic"),
                    ("proxy-connection", "close"),
                    ("proxy-status", "a; error=dns_error"),
                ],
                &["proxy-status"],
            ),
            (
                "the nominated, over several lines",
                &[
                    ("connection", "X-One , x-two"),
                    ("connection", "close,X-Three,,"),
                    ("x-one", "1"),
                    ("x-two", "2"),
                    ("x-three", "3"),
                    ("x-four", "4"),
                ],
                &["x-four"],
            ),
            (
                "a nomination can't loosen what may be cached",
                &[("connection", "cache-control, vary, x"), ("cache-control", "no-store"), ("vary", "*"), ("x", "")],
                &["cache-control", "vary"],
            ),
            (
                "a cookie that is nominated goes, and with it that the rest may be shared",
                &[("connection", "Set-Cookie"), ("set-cookie", "a"), ("etag", "\"a\"")],
                &["cache-control", "etag"],
            ),
            ("a cookie that isn't there changes nothing", &[("connection", "set-cookie"), ("age", "1")], &["age"]),
            (
                "a length beside an encoding",
                &[("transfer-encoding", "chunked"), ("content-length", "9"), ("age", "1")],
                &["age"],
            ),
        ];
        for (name, fields, expected) in cases {
            let mut headers = HeaderMap::new();
            for &(field, value) in *fields {
                headers.append(HeaderName::from_static(field), HeaderValue::from_static(value));
            }
            remove_connection_fields(&mut headers);
            let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
            let mut expected = expected.to_vec();
            left.sort_unstable();
            expected.sort_unstable();
            assert_eq!(left, expected, "{name}");
        }
    }
}
