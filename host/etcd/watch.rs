//! Watches: the changes of a range of keys, in order and without a gap.

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use tonic::{Status, Streaming};

use super::{
    error::Error,
    message::{WatchCreateRequest, WatchRequest, WatchResponse},
};

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Bytes,
    /// Its value; `None` if it was deleted.
    pub value: Option<Bytes>,
    /// The revision of the change.
    pub mod_revision: i64,
}

/// What a watch brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Changes.
    Events {
        /// The revision up to which all are known now.
        revision: i64,
        /// The changes, in their order.
        events: Vec<Event>,
    },
    /// Changes before this revision are no longer known to the server, so some may have been missed. The watch has ended.
    Compacted {
        /// The oldest revision from which a watch can begin.
        revision: i64,
    },
    /// There was no change up to this revision, as the server says by itself.
    Progress {
        /// The revision.
        revision: i64,
    },
}

/// A watch. It ends with this value.
///
/// Only what the server sends moves it on: that nothing came for a while says nothing of what was changed.
pub struct Watch {
    replies: Streaming<WatchResponse>,
    endpoint: String,
    /// The server says nothing more, but the stream stays open.
    has_ended: bool,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Returns what a client sends for a watch: the request, and nothing more until it ends.
pub(super) fn requests(key: Bytes, range_end: Bytes, from: i64) -> impl Stream<Item = WatchRequest> + Send + 'static {
    let create = WatchCreateRequest { key, range_end, start_revision: from, progress_notify: true };
    let create = WatchRequest { create: Some(create) };
    stream::once(std::future::ready(create)).chain(stream::pending())
}

impl Watch {
    pub(super) const fn new(replies: Streaming<WatchResponse>, endpoint: String) -> Self {
        Self { replies, endpoint, has_ended: false }
    }

    /// Waits for what comes next, however long it takes. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`Error::WatchEnded`]: the stream broke, or the server has ended the watch, now or before.
    pub async fn next(&mut self) -> Result<Watched, Error> {
        while !self.has_ended {
            let watched = read(self.replies.message().await);
            self.has_ended = matches!(watched, Err(_) | Ok(Some(Watched::Compacted { .. })));
            if let Some(watched) = watched.map_err(|reason| self.ended(reason))? {
                return Ok(watched);
            }
        }
        Err(self.ended("it had ended before".to_owned()))
    }

    fn ended(&self, reason: String) -> Error {
        Error::WatchEnded { endpoint: self.endpoint.clone(), reason }
    }
}

/// Returns what a message means; `None` if it means nothing, or why the watch has ended.
fn read(reply: Result<Option<WatchResponse>, Status>) -> Result<Option<Watched>, String> {
    let reply = match reply {
        Ok(Some(reply)) => reply,
        Ok(None) => return Err("the server has closed it".to_owned()),
        Err(status) => return Err(status.message().to_owned()),
    };
    if reply.compact_revision > 0 {
        return Ok(Some(Watched::Compacted { revision: reply.compact_revision }));
    }
    if reply.canceled {
        return Err(format!("the server has canceled it: {}", reply.cancel_reason));
    }
    let revision = reply.header.as_ref().ok_or("a message has no header")?.revision;
    if reply.created {
        return Ok(None);
    }
    if reply.events.is_empty() {
        return Ok(Some(Watched::Progress { revision }));
    }
    let mut events = Vec::with_capacity(reply.events.len());
    for event in reply.events {
        let pair = event.kv.ok_or("a change has no key")?;
        let value = match event.kind {
            0 => Some(pair.value),
            1 => None,
            other => return Err(format!("a change is of the unknown kind {other}")),
        };
        events.push(Event { key: pair.key, value, mod_revision: pair.mod_revision });
    }
    Ok(Some(Watched::Events { revision, events }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::message::{KeyValue, ResponseHeader, WatchEvent};

    fn reply() -> WatchResponse {
        let header = Some(ResponseHeader { cluster_id: 1, revision: 9 });
        WatchResponse { header, ..WatchResponse::default() }
    }

    fn event(kind: i32) -> WatchEvent {
        let kv = KeyValue { key: "k".into(), value: "v".into(), mod_revision: 8, version: 1 };
        WatchEvent { kind, kv: Some(kv) }
    }

    #[test]
    fn a_watch_that_ends_is_never_one_in_which_nothing_happens() {
        let change = |value: Option<&'static str>| Watched::Events {
            revision: 9,
            events: vec![Event { key: "k".into(), value: value.map(Bytes::from), mod_revision: 8 }],
        };
        let table = [
            ("created", Ok(Some(WatchResponse { created: true, ..reply() })), Some(None)),
            ("progress", Ok(Some(reply())), Some(Some(Watched::Progress { revision: 9 }))),
            ("put", Ok(Some(WatchResponse { events: vec![event(0)], ..reply() })), Some(Some(change(Some("v"))))),
            ("deleted", Ok(Some(WatchResponse { events: vec![event(1)], ..reply() })), Some(Some(change(None)))),
            (
                "compacted",
                Ok(Some(WatchResponse { canceled: true, compact_revision: 7, ..reply() })),
                Some(Some(Watched::Compacted { revision: 7 })),
            ),
            ("canceled", Ok(Some(WatchResponse { canceled: true, created: true, ..reply() })), None),
            ("closed", Ok(None), None),
            ("broken", Err(Status::unavailable("reset")), None),
            ("without a header", Ok(Some(WatchResponse::default())), None),
            ("unknown", Ok(Some(WatchResponse { events: vec![event(2)], ..reply() })), None),
        ];
        for (name, reply, wanted) in table {
            assert_eq!(read(reply).ok(), wanted, "{name}");
        }
    }
}
