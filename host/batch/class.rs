//! Classes: which items may share a batch.

use std::sync::Arc;

use bytes::Bytes;

use super::shares::Tenant;

/// What items must have in common to share a batch: they do only if all of it is equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// The pool's name.
    pub pool: Arc<str>,
    /// What must be equal beside the pool: path, credentials, model and parameters, put together by the caller.
    pub group: Bytes,
    /// The tenant whose items share batches with each other only, if they do.
    pub apart: Option<Tenant>,
}
