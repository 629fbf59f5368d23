//! Error responses as `application/problem+json` (RFC 9457).

use http::{HeaderValue, StatusCode, header};

use super::{Body, Response};
use crate::report::Problem;

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Returns an error response: `title` is the same for every such problem, `detail` is about this one.
#[must_use]
pub fn problem(status: StatusCode, title: &str, detail: &str) -> Response {
    let document = Problem::new(status.as_u16(), title, detail);
    // Four plain members can't fail to serialise; an empty body would still carry the status.
    let body = serde_json::to_vec(&document).unwrap_or_default();
    let mut response = Response::new(Body::Full(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, MEDIA_TYPE);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_document_has_the_members_of_rfc_9457_and_escapes_text() {
        let response = problem(StatusCode::NOT_FOUND, "Not Found", "no \"route\"");
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let body = response.into_body().collect(1000).await.unwrap();
        let read: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let expected = serde_json::json!({
            "type": "about:blank", "title": "Not Found", "status": 404, "detail": "no \"route\""
        });
        assert_eq!(read, expected);
    }
}
