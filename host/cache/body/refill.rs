//! The rest of a body as it comes from the origin, part by part. A part is given on only if it is the one that was
//! lost.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;

use super::part::PartRef;
use crate::message::Body;

/// Asks for the rest of a body where it came from.
pub trait Rest: fmt::Debug + Send + Sync {
    /// The body from `offset` on, or from an earlier byte, and up to `end` at least; without that to its own end. `None`
    /// if it can't be had.
    fn resume(self: Arc<Self>, offset: u64, end: Option<u64>) -> BoxFuture<'static, Option<Resumed>>;
}

/// A body that begins anew somewhere.
#[derive(Debug)]
pub struct Resumed {
    /// The offset of its first byte.
    pub offset: u64,
    /// What comes from there on.
    pub body: Body,
}

/// What the origin sends.
pub(super) struct Refill {
    body: Body,
    /// The offset of the next byte.
    at: u64,
    /// Bytes that have arrived and belong to the next part.
    over: Bytes,
}

/// Why there is no next part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The origin has another body by now.
    Changed,
    /// The body broke off.
    Broken,
}

impl Refill {
    /// Asks for the body from `offset` on, up to `end` if no more of it is needed.
    pub(super) async fn begin(rest: Arc<dyn Rest>, offset: u64, end: Option<u64>) -> Option<Self> {
        let Resumed { offset: at, body } = rest.resume(offset, end).await?;
        (at <= offset).then_some(Self { body, at, over: Bytes::new() })
    }

    /// Whether the part is yet to come.
    pub(super) const fn may_have(&self, part: &PartRef) -> bool {
        self.at <= part.start
    }

    /// The part, whole. What comes before it is skipped.
    pub(super) async fn part(&mut self, part: &PartRef) -> Result<Bytes, Failure> {
        while self.at < part.start {
            self.take(usize::try_from(part.start - self.at).unwrap_or(usize::MAX)).await?;
        }
        let mut bytes = Vec::with_capacity(part.length);
        while bytes.len() < part.length {
            bytes.extend_from_slice(&self.take(part.length - bytes.len()).await?);
        }
        if part.is(&bytes) { Ok(bytes.into()) } else { Err(Failure::Changed) }
    }

    /// The next bytes, at most so many.
    async fn take(&mut self, most: usize) -> Result<Bytes, Failure> {
        while self.over.is_empty() {
            match self.body.frame().await {
                Some(Ok(frame)) => self.over = frame.into_data().unwrap_or_default(),
                // A body that is shorter than the one that was stored is another.
                None => return Err(Failure::Changed),
                Some(Err(_)) => return Err(Failure::Broken),
            }
        }
        let piece = self.over.split_to(most.min(self.over.len()));
        self.at += piece.len() as u64;
        Ok(piece)
    }
}
