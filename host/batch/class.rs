//! Classes: which items may share a batch.

use std::sync::Arc;

use bytes::Bytes;

/// What items must have in common to share a batch: they do only if pool and group are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// The pool's name.
    pub pool: Arc<str>,
    /// What must be equal beside the pool: path, credentials, model and parameters, put together by the caller.
    pub group: Bytes,
}
