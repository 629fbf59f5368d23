use std::net::{IpAddr, Ipv4Addr};

use super::{
    Rejection::{
        Asterisk, Connect, ExpectationUnknown, FieldsTooLarge, HostDiffers, HostMalformed, HostMissing, HostRepeated,
        LengthMalformed, LengthsDiffer, TargetAboveRoot, TargetMalformed, TargetTooLong, TooManyFields, Trace,
        TransferCodingUnknown, TransferEncodingForbidden, TwoFramings,
    },
    *,
};

const V10: Version = Version::HTTP_10;
const V11: Version = Version::HTTP_11;
const V2: Version = Version::HTTP_2;

const LIMITS: Limits = Limits {
    connections_max: 1,
    streams_max: 1,
    headers_max: 4,
    header_bytes_max: 100,
    body_bytes_max: 1,
    items_max: 1,
    body_buffered_bytes_max: 1,
    spool_memory_bytes_max: 1,
    spool_bytes_max: 1,
    spool_dir: None,
    client_spool_bytes_max: 1,
    client_connections_max: 1,
    client_streams_max: 1,
    client_places_max: 1,
    trusted_proxies: Vec::new(),
    forwarding_proxies: Vec::new(),
};

const A: (&str, &str) = ("host", "a");

type Fields<'a> = &'a [(&'a str, &'a str)];

fn parts(version: Version, line: &str, fields: Fields<'_>) -> Parts {
    let (method, target) = line.split_once(' ').unwrap();
    let mut builder = ::http::Request::builder().version(version).method(method).uri(target);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn run(version: Version, line: &str, fields: Fields<'_>) -> Result<RequestHead, Rejection> {
    let client = Client { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), version };
    checked(version, line, fields, client).map(|checked| checked.head)
}

fn checked(version: Version, line: &str, fields: Fields<'_>, client: Client) -> Result<Checked, Rejection> {
    let local = Some(SocketAddr::from(([192, 0, 2, 9], 8080)));
    normalise(&mut parts(version, line, fields), Scheme::Http, local, client, &LIMITS)
}

#[test]
fn what_leaves_room_for_doubt_is_refused() {
    let long_target = format!("GET /{}", "x".repeat(100));
    let long_value = "x".repeat(100);
    let cases: &[(Version, &str, Fields<'_>, Rejection)] = &[
        (V11, "CONNECT a:443", &[A], Connect),
        (V2, "CONNECT a:443", &[], Connect),
        (V11, "TRACE /", &[A], Trace),
        (V11, "OPTIONS *", &[A], Asterisk),
        (V11, "GET *", &[A], TargetMalformed),
        (V11, "GET a", &[A], TargetMalformed),
        (V11, "GET ftp://a/", &[A], TargetMalformed),
        (V11, "GET /../a", &[A], TargetAboveRoot),
        (V2, "GET http://a/b/%2e%2E/..", &[], TargetAboveRoot),
        (V11, long_target.as_str(), &[A], TargetTooLong),
        (V11, "GET /", &[A, ("b", ""), ("c", ""), ("d", ""), ("e", "")], TooManyFields),
        (V2, "GET http://a/", &[("b", long_value.as_str())], FieldsTooLarge),
        (V11, "GET /", &[], HostMissing),
        (V11, "GET http://a/", &[], HostMissing),
        (V2, "GET /", &[], HostMissing),
        (V11, "GET /", &[A, A], HostRepeated),
        (V11, "GET http://a/", &[A, A], HostRepeated),
        (V2, "GET /", &[A, A], HostRepeated),
        (V11, "GET /", &[("host", "u@a")], HostMalformed),
        (V11, "GET /", &[("host", "a b")], HostMalformed),
        (V11, "GET /", &[("host", "a:99999")], HostMalformed),
        (V11, "GET /", &[("host", "")], HostMalformed),
        (V11, "GET /", &[("host", "a..")], HostMalformed),
        (V11, "GET http://u@a/", &[A], HostMalformed),
        (V11, "GET http://a/", &[("host", "a b")], HostMalformed),
        (V2, "GET http://a/", &[("host", "b")], HostDiffers),
        (V2, "POST http://a/", &[("transfer-encoding", "chunked")], TransferEncodingForbidden),
        (V10, "POST /", &[A, ("transfer-encoding", "chunked")], TransferEncodingForbidden),
        (V11, "POST /", &[A, ("transfer-encoding", "gzip, chunked")], TransferCodingUnknown),
        (V11, "POST /", &[A, ("transfer-encoding", "chunked"), ("transfer-encoding", "x")], TransferCodingUnknown),
        (V11, "POST /", &[A, ("transfer-encoding", "chunked"), ("content-length", "1")], TwoFramings),
        (V11, "POST /", &[A, ("content-length", "1"), ("content-length", "2")], LengthsDiffer),
        (V11, "POST /", &[A, ("content-length", "+1")], LengthMalformed),
        (V11, "POST /", &[A, ("content-length", "1, 1")], LengthMalformed),
        (V11, "POST /", &[A, ("content-length", "")], LengthMalformed),
        (V2, "POST http://a/", &[("content-length", "18446744073709551616")], LengthMalformed),
        (V11, "POST /", &[A, ("expect", "200-ok")], ExpectationUnknown),
        (V11, "POST /", &[A, ("expect", "100-continue"), ("expect", "200-ok")], ExpectationUnknown),
        (V11, "POST /", &[A, ("expect", "100-continue, 200-ok")], ExpectationUnknown),
        (V11, "POST /", &[A, ("expect", "")], ExpectationUnknown),
    ];
    for (version, line, fields, expected) in cases {
        assert_eq!(run(*version, line, fields).err(), Some(*expected), "{version:?} {line} {fields:?}");
    }
}

#[test]
fn host_and_target_are_settled() {
    let cases: &[(Version, &str, Fields<'_>, &str, &str)] = &[
        (V11, "GET /p?q", &[A], "a", "/p?q"),
        (V11, "GET /", &[("host", "Example.ORG:80")], "example.org", "/"),
        (V11, "GET /", &[("host", "example.org.:81")], "example.org:81", "/"),
        (V11, "GET //a/./b/../%63?%63//..", &[A], "a", "/a/c?%63//.."),
        (V11, "GET http://b//a", &[A], "b", "/a"),
        (V2, "GET http://[0:0::1]/caf%c3%a9", &[], "[::1]", "/caf%C3%A9"),
        (V11, "GET http://B:81/p", &[A], "b:81", "/p"),
        (V11, "GET http://b", &[A], "b", "/"),
        (V11, "GET http://b?q", &[A], "b", "/?q"),
        (V11, "OPTIONS /p", &[A], "a", "/p"),
        (V10, "GET http://b/", &[], "b", "/"),
        (V10, "GET /", &[], "192.0.2.9:8080", "/"),
        (V10, "OPTIONS /", &[], "192.0.2.9:8080", "/"),
        (V10, "GET /", &[A], "a", "/"),
        (V2, "GET https://b/p", &[], "b", "/p"),
        (V2, "GET http://b:80/", &[("host", "B")], "b", "/"),
        (V2, "GET /", &[A], "a", "/"),
    ];
    for (version, line, fields, authority, target) in cases {
        let request = run(*version, line, fields).unwrap();
        assert_eq!((request.authority(), request.target.as_str()), (*authority, *target), "{version:?} {line}");
        assert!(!request.headers.contains_key(header::HOST));
        assert_eq!(request.scheme, Scheme::Http, "the connection's scheme, whatever the target says");
    }
}

#[test]
fn a_target_is_known_as_it_was_received_if_it_was_spelled_otherwise() {
    let received = |line| run(V11, line, &[A]).unwrap().received.map(|target| target.to_string());
    assert_eq!(received("GET /a%2Fb;c?%64"), None);
    assert_eq!(received("GET //a?b").as_deref(), Some("//a?b"));
}

#[test]
fn what_was_meant_for_the_connection_stays_here() {
    let cases: &[(Fields<'_>, Fields<'_>)] = &[
        (&[("x-kept", "1")], &[("x-kept", "1")]),
        (&[("connection", "keep-alive"), ("keep-alive", "timeout=5")], &[]),
        (&[("connection", "close, X-Hop"), ("x-hop", "1"), ("x-kept", "1")], &[("x-kept", "1")]),
        (&[("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "x")], &[]),
        (&[("http2-settings", "x")], &[]),
        (&[("connection", "close,, ,"), ("proxy-connection", "close")], &[]),
        (&[("connection", "te"), ("te", "gzip, Trailers;q=1, trailers")], &[("te", "trailers")]),
        (&[("te", "gzip")], &[]),
        (&[("proxy-authorization", "Basic eDp5")], &[("proxy-authorization", "Basic eDp5")]),
        (&[("connection", "content-length"), ("content-length", "1")], &[("content-length", "1")]),
        (&[("content-length", "1"), ("content-length", "01")], &[("content-length", "1")]),
        (&[("transfer-encoding", "Chunked")], &[]),
        (&[("expect", "100-Continue")], &[("expect", "100-continue")]),
        (&[("expect", "100-continue"), ("expect", "100-continue")], &[("expect", "100-continue")]),
        (&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")], &[("cookie", "a=1; b=2; c=3")]),
        (&[("accept", "a"), ("accept", "b")], &[("accept", "a"), ("accept", "b")]),
    ];
    for (sent, kept) in cases {
        let fields = [&[A][..], *sent].concat();
        let request = run(V11, "POST /", &fields).unwrap();
        let found: Vec<_> =
            request.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(found, *kept, "{sent:?}");
    }
}

#[test]
fn an_extended_connect_is_a_switch_on_a_stream() {
    let client = Client { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), version: V2 };
    for (marked, wanted) in [(true, true), (false, false)] {
        let mut parts = parts(V2, "GET https://a/chat", &[("upgrade", "websocket")]);
        if marked {
            parts.extensions.insert(ExtendedConnect);
        }
        let checked = normalise(&mut parts, Scheme::Https, None, client, &LIMITS).unwrap();
        assert_eq!((checked.switches, checked.head.headers.contains_key("upgrade")), (wanted, wanted));
    }
}

#[test]
fn only_a_websocket_is_switched_to() {
    let (upgrade, websocket) = (("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"));
    for (version, line, fields, wanted) in [
        (V11, "GET /", &[A, upgrade, websocket][..], true),
        (V11, "GET /", &[A, upgrade, websocket, ("content-length", "0")], true),
        (V11, "GET /", &[A, websocket], false),
        (V11, "GET /", &[A, upgrade], false),
        (V11, "GET /", &[A, upgrade, ("upgrade", "h2c")], false),
        (V11, "GET /", &[A, upgrade, websocket, ("upgrade", "h2c")], false),
        (V11, "GET /", &[A, upgrade, websocket, websocket], false),
        (V11, "GET /", &[A, upgrade, ("upgrade", "websocket, h2c")], false),
        (V11, "POST /", &[A, upgrade, websocket], false),
        (V11, "GET /", &[A, upgrade, websocket, ("content-length", "1")], false),
        (V11, "GET /", &[A, upgrade, websocket, ("transfer-encoding", "chunked")], false),
        (V10, "GET /", &[A, upgrade, websocket], false),
        (V2, "GET http://a/", &[upgrade, websocket], false),
    ] {
        let client = Client { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), version };
        let Checked { head, switches } = checked(version, line, fields, client).unwrap();
        assert_eq!((switches, head.headers.contains_key(header::UPGRADE)), (wanted, wanted), "{version:?} {fields:?}");
        assert!(!head.headers.contains_key(header::CONNECTION));
    }
}

#[test]
fn what_is_refused_is_known_by_method_and_target() {
    let client = Client { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), version: V11 };
    let mut parts = parts(V11, "PUT /../a?b", &[A]);
    let refused = normalise(&mut parts, Scheme::Http, None, client, &LIMITS);
    assert_eq!(refused.unwrap_err(), TargetAboveRoot);
    assert_eq!((parts.method, parts.uri.to_string().as_str()), (Method::PUT, "/../a?b"));
}
