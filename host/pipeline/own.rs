//! Responses that a route gives by itself, without an origin: redirects and fixed ones.

use http::{HeaderValue, Method, header};

use super::{
    rewriting::{self, Unwritable},
    route::without_port,
};
use crate::{
    config::{Fixed, OwnResponse, Piece, Rewrite},
    message::{Body, RequestHead, Response, target},
};

/// Returns the word for such a response in the access log.
pub(super) const fn word(own: &OwnResponse) -> &'static str {
    match own {
        OwnResponse::Redirect(_) => "redirect",
        OwnResponse::Fixed(_) => "respond",
    }
}

/// Returns the response to a request.
///
/// # Errors
/// [`Unwritable`], if its path can't be rewritten for the `Location`.
pub(super) fn response(
    own: &OwnResponse,
    rewrite: Option<&Rewrite>,
    head: &RequestHead,
) -> Result<Response, Unwritable> {
    match own {
        OwnResponse::Redirect(redirect) => {
            let location = location(&redirect.pieces, rewrite, head)?;
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = redirect.status;
            response.headers_mut().insert(header::LOCATION, location);
            Ok(response)
        }
        OwnResponse::Fixed(own) => Ok(fixed(own, &head.method)),
    }
}

fn fixed(fixed: &Fixed, method: &Method) -> Response {
    let has_body = method != Method::HEAD && !fixed.body.is_empty();
    let mut response = Response::new(if has_body { Body::Full(fixed.body.clone()) } else { Body::Empty });
    *response.status_mut() = fixed.status;
    let headers = response.headers_mut();
    if !fixed.body.is_empty() {
        headers.insert(header::CONTENT_TYPE, fixed.content_type.clone());
    }
    if method == Method::HEAD {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(fixed.body.len()));
    }
    response
}

/// Returns the target of a redirect. Host and path are in their normal forms, in which neither has a line break, a `//` or
/// a `\`.
fn location(pieces: &[Piece], rewrite: Option<&Rewrite>, head: &RequestHead) -> Result<HeaderValue, Unwritable> {
    let mut text = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(literal) => text.push_str(literal),
            Piece::Scheme => text.push_str(head.scheme.as_str()),
            Piece::Host => text.push_str(without_port(head.authority())),
            Piece::Authority => text.push_str(head.authority()),
            Piece::Path => match rewrite {
                None => text.push_str(head.target.path()),
                Some(rewrite) => text.push_str(&rewriting::path(rewrite, head.target.path())?),
            },
            Piece::Query => push_query(&mut text, head.target.query()),
        }
    }
    HeaderValue::try_from(text).map_err(|_| Unwritable::NoTarget)
}

/// Adds a query as it came, unless it has characters that no URI can have.
fn push_query(text: &mut String, query: Option<&str>) {
    let Some(query) = query else { return };
    text.push('?');
    if query.is_ascii() {
        text.push_str(query);
    } else {
        text.push_str(&target::normal_query(query));
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::{config::Redirect, policy::facts::tests::request};

    #[test]
    fn a_location_is_put_together_of_the_request() {
        let all = [
            Piece::Scheme,
            Piece::Text("://".to_owned()),
            Piece::Host,
            Piece::Text(":8443".to_owned()),
            Piece::Path,
            Piece::Query,
        ];
        let strip = Rewrite { strip_prefix: Some("/old".to_owned()), prefix: None };
        for (target, rewrite, wanted) in [
            ("/a?b=%20c", None, Ok("https://shop.example:8443/a?b=%20c")),
            ("/a", None, Ok("https://shop.example:8443/a")),
            ("/a?", None, Ok("https://shop.example:8443/a?")),
            ("/a?\u{E022}é", None, Ok("https://shop.example:8443/a?%22%C3%A9")),
            ("/old/x?y", Some(&strip), Ok("https://shop.example:8443/x?y")),
            ("/old/..%2Fx", Some(&strip), Err(Unwritable::HidesDots)),
        ] {
            let pieces = all.to_vec();
            let own = OwnResponse::Redirect(Redirect { status: StatusCode::FOUND, to: String::new(), pieces });
            let given = response(&own, rewrite, &request(Method::GET, target, &[]));
            let given = given.map(|response| response.headers()[header::LOCATION].to_str().unwrap().to_owned());
            assert_eq!(given, wanted.map(str::to_owned), "{target}");
        }
    }

    #[tokio::test]
    async fn a_fixed_response_has_its_length_for_head_as_well() {
        let made = |body: &'static str| {
            let (status, body) = (StatusCode::NOT_FOUND, body.as_bytes().into());
            OwnResponse::Fixed(Fixed { status, body, content_type: HeaderValue::from_static("text/html") })
        };
        for (method, text, length, content_type) in [
            (Method::GET, "gone", None, Some("text/html")),
            (Method::HEAD, "gone", Some("4"), Some("text/html")),
            (Method::POST, "", None, None),
        ] {
            let given = response(&made(text), None, &request(method.clone(), "/", &[])).unwrap();
            let field = |name| given.headers().get(name).map(|value| value.to_str().unwrap());
            assert_eq!((given.status().as_u16(), field(header::CONTENT_LENGTH)), (404, length), "{method}");
            assert_eq!(field(header::CONTENT_TYPE), content_type, "{method}");
            let body = given.into_body().collect(100).await.unwrap();
            assert_eq!(body, if method == Method::HEAD { "" } else { text }, "{method}");
        }
    }
}
