//! An extended CONNECT for a WebSocket (RFC 8441): on HTTP/2 a stream becomes what on HTTP/1.1 is the connection after a
//! switch. It is served as the GET with `Upgrade` that it stands for.

use ::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::ext::Protocol;

use crate::{
    http::{reply::Reply, request::ExtendedConnect},
    message::{Body, problem::problem},
};

const WEBSOCKET: &str = "websocket";

static SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
static SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// The digits of base64, and those among them that may be the last of sixteen bytes.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const LAST_DIGITS: &[u8; 4] = b"AQgw";

/// Whether a request is one for a WebSocket; any other protocol is none that is known.
pub(super) fn is_websocket<B>(request: &Request<B>) -> bool {
    let protocol = request.extensions().get::<Protocol>();
    *request.method() == Method::CONNECT
        && protocol.is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case(WEBSOCKET))
}

/// Makes it the request that HTTP/1.1 would have, with a key of this node's: over HTTP/2 there is none.
pub(super) fn translate<B>(request: &mut Request<B>) {
    *request.method_mut() = Method::GET;
    request.extensions_mut().insert(ExtendedConnect);
    let headers = request.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
    headers.insert(&SEC_WEBSOCKET_KEY, key());
}

/// Returns sixteen random bytes in base64.
fn key() -> HeaderValue {
    let mut digits = [b'='; 24];
    for digit in &mut digits[..21] {
        *digit = DIGITS[fastrand::usize(..DIGITS.len())];
    }
    digits[21] = LAST_DIGITS[fastrand::usize(..LAST_DIGITS.len())];
    // They are visible characters.
    HeaderValue::from_bytes(&digits).unwrap_or_else(|_| HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}

/// Returns the response to a client whose stream is a tunnel from now on.
pub(super) fn accepted(switched: Response<()>) -> Response<Reply<Body>> {
    let mut response = switched.map(|()| Reply::instead(Body::Empty));
    *response.status_mut() = StatusCode::OK;
    for name in [header::CONNECTION, header::UPGRADE, SEC_WEBSOCKET_ACCEPT.clone()] {
        response.headers_mut().remove(name);
    }
    response
}

/// Returns the response where there is no tunnel: that of the origin, unless the client would take it for one.
pub(super) fn refused(response: Response<Reply<Body>>) -> Response<Reply<Body>> {
    if !response.status().is_success() {
        return response;
    }
    let detail = "the origin responded to the request for a WebSocket without switching to it";
    let mut refusal = problem(StatusCode::BAD_GATEWAY, "Bad Gateway", detail);
    refusal.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    refusal.map(Reply::instead)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, protocol: Option<&'static str>) -> Request<()> {
        let mut request = Request::builder().method(method).uri("https://a.test/chat").body(()).unwrap();
        if let Some(protocol) = protocol {
            request.extensions_mut().insert(Protocol::from_static(protocol));
        }
        request
    }

    #[test]
    fn only_a_connect_for_a_websocket_is_one() {
        for (method, protocol, wanted) in [
            (Method::CONNECT, Some("websocket"), true),
            (Method::CONNECT, Some("WebSocket"), true),
            (Method::CONNECT, Some("connect-udp"), false),
            (Method::CONNECT, None, false),
            (Method::GET, Some("websocket"), false),
        ] {
            assert_eq!(is_websocket(&request(method.clone(), protocol)), wanted, "{method} {protocol:?}");
        }
    }

    #[test]
    fn it_is_the_get_that_http_1_would_have_with_another_key_each_time() {
        let keys: Vec<HeaderValue> = (0..2)
            .map(|_| {
                let mut request = request(Method::CONNECT, Some(WEBSOCKET));
                translate(&mut request);
                assert_eq!(
                    (request.method(), request.headers()["upgrade"].as_bytes()),
                    (&Method::GET, &b"websocket"[..])
                );
                request.headers()["sec-websocket-key"].clone()
            })
            .collect();
        assert!(keys[0] != keys[1] && keys.iter().all(|key| key.len() == 24), "{keys:?}");
    }

    #[test]
    fn what_a_client_would_take_for_a_tunnel_is_a_failure() {
        for (status, wanted) in [(200_u16, 502_u16), (204, 502), (403, 403), (426, 426), (501, 501)] {
            let response = Response::builder().status(status).body(Reply::instead(Body::Empty)).unwrap();
            assert_eq!(refused(response).status(), wanted);
        }
        let switched =
            Response::builder().status(101).header("upgrade", "websocket").header("sec-websocket-accept", "x");
        let accepted = accepted(switched.header("sec-websocket-protocol", "chat").body(()).unwrap());
        assert_eq!((accepted.status(), accepted.headers().len()), (StatusCode::OK, 1));
    }
}
