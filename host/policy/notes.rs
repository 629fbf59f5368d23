//! The notes about one request: what is found out once, for all stages that call a policy.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{Decision, Fault, RequestEdits, json::Json};

/// The verdict of the `features` hook on a request.
pub(super) type Extracted = Result<Arc<Decision>, Fault>;

/// Findings about one request, or about one of its items, for one generation of a policy.
#[derive(Debug, Default)]
pub struct Notes {
    content: OnceLock<Option<Bytes>>,
    json: OnceLock<Option<Json>>,
    extracted: OnceLock<Option<Extracted>>,
    arms: OnceLock<Vec<Arm>>,
}

/// The arm that was drawn for an experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm {
    /// The experiment's name.
    pub experiment: Arc<str>,
    /// Its place among the policy's experiments, and the arm's among its arms.
    pub place: (usize, usize),
    /// The arm's name.
    pub name: Arc<str>,
}

impl Notes {
    /// Returns the notes of a record that states its arms and its features itself.
    #[must_use]
    pub fn stated(arms: Option<Vec<Arm>>, features: Option<Vec<(String, Bytes)>>) -> Self {
        let notes = Self::default();
        if let Some(arms) = arms {
            let _ = notes.arms.set(arms);
        }
        if let Some(features) = features {
            let request_edits = RequestEdits { features, ..RequestEdits::default() };
            let _ = notes.extracted.set(Some(Ok(Arc::new(Decision::Features(request_edits)))));
        }
        notes
    }

    /// Returns the body without its content codings; `decode` is called the first time. `None` if it can't be decoded.
    pub(super) fn content(&self, decode: impl FnOnce() -> Option<Bytes>) -> Option<&Bytes> {
        self.content.get_or_init(decode).as_ref()
    }

    /// Returns the body as JSON; `read` is called the first time. `None` if it can't be read.
    pub(super) fn json(&self, read: impl FnOnce() -> Option<Json>) -> Option<&Json> {
        self.json.get_or_init(read).as_ref()
    }

    /// Returns the verdict of `features`; `extract` is called the first time.
    pub(super) fn extracted(&self, extract: impl FnOnce() -> Option<Extracted>) -> Option<&Extracted> {
        self.extracted.get_or_init(extract).as_ref()
    }

    /// Returns the verdict of `features`, if it has been called.
    pub(super) fn request_edits(&self) -> Option<&RequestEdits> {
        match self.extracted.get()?.as_ref()?.as_deref() {
            Ok(Decision::Features(request_edits)) => Some(request_edits),
            _ => None,
        }
    }

    /// Returns the arms; `draw` is called the first time.
    pub(super) fn draw(&self, draw: impl FnOnce() -> Vec<Arm>) -> &[Arm] {
        self.arms.get_or_init(draw)
    }

    /// Returns the arms that have been drawn, to keep.
    #[must_use]
    pub fn into_arms(self) -> Vec<Arm> {
        self.arms.into_inner().unwrap_or_default()
    }

    /// Returns the arms that have been drawn.
    #[must_use]
    pub fn arms(&self) -> &[Arm] {
        self.arms.get().map(Vec::as_slice).unwrap_or_default()
    }
}
