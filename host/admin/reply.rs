//! Responses of the admin API.

use std::fmt::Display;

use axum::{
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{
    drain::{DrainFailure, DrainInvalid},
    policy::PolicyFailure,
    purge::{PurgeFailure, PurgeInvalid},
    why::WhyInvalid,
};
use crate::report::Problem;

pub(super) const JSON: &str = "application/json";
pub(super) const PROBLEM: &str = "application/problem+json";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// Why a request isn't carried out; sent as a [`Problem`].
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    detail: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, detail: impl Display) -> Self {
        Self { status, detail: detail.to_string() }
    }

    #[cfg(test)]
    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = json(self.status, PROBLEM, &problem(self.status, self.detail));
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<PurgeInvalid> for Refusal {
    fn from(invalid: PurgeInvalid) -> Self {
        Self::new(StatusCode::BAD_REQUEST, invalid)
    }
}

impl From<WhyInvalid> for Refusal {
    fn from(invalid: WhyInvalid) -> Self {
        Self::new(StatusCode::BAD_REQUEST, invalid)
    }
}

impl From<DrainInvalid> for Refusal {
    fn from(invalid: DrainInvalid) -> Self {
        Self::new(StatusCode::BAD_REQUEST, invalid)
    }
}

impl From<DrainFailure> for Refusal {
    fn from(failure: DrainFailure) -> Self {
        let status = match failure {
            DrainFailure::Stopping | DrainFailure::Alone | DrainFailure::Elsewhere(_) => StatusCode::CONFLICT,
            DrainFailure::Unknown(_) => StatusCode::NOT_FOUND,
            DrainFailure::Unreachable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, failure)
    }
}

impl From<PurgeFailure> for Refusal {
    fn from(failure: PurgeFailure) -> Self {
        let status = match failure {
            PurgeFailure::Failed(_) => StatusCode::SERVICE_UNAVAILABLE,
            PurgeFailure::Scope(_) => StatusCode::BAD_REQUEST,
        };
        Self::new(status, failure)
    }
}

impl From<PolicyFailure> for Refusal {
    fn from(failure: PolicyFailure) -> Self {
        let status = match failure {
            PolicyFailure::Unknown(_) => StatusCode::NOT_FOUND,
            PolicyFailure::Invalid(_) => StatusCode::BAD_REQUEST,
            PolicyFailure::Refused(_) => StatusCode::CONFLICT,
        };
        Self::new(status, failure)
    }
}

/// Returns a problem whose title is the status's text.
pub(super) fn problem(status: StatusCode, detail: String) -> Problem<'static> {
    Problem::new(status.as_u16(), status.canonical_reason().unwrap_or_default(), detail)
}

/// Returns a value of [`crate::report`] as JSON.
pub(super) fn json(status: StatusCode, content_type: &'static str, value: &impl Serialize) -> Response {
    // By way of a tree, which has its members in alphabetical order: the text doesn't depend on how a type lists them.
    match serde_json::to_value(value) {
        Ok(tree) => respond(status, content_type, tree.to_string()),
        // Doesn't occur: plain values, and maps with text for keys.
        Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
    }
}

pub(super) fn respond(status: StatusCode, content_type: &'static str, body: impl Into<axum::body::Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
