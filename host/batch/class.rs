//! What may travel together.

use std::sync::Arc;

use bytes::Bytes;

/// Questions share a batch only when pool and group are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// The pool's name.
    pub pool: Arc<str>,
    /// What must be equal beside the pool: path, credentials, model and parameters, put together by the caller.
    pub group: Bytes,
}
