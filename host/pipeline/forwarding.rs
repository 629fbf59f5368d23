//! Which header fields of an item are sent to the model, and which of these its key has: one rule for both, so that
//! no response depends on a field that isn't part of the key.
//!
//! With a native key all fields are sent and keyed, except those that say nothing about the response (`policy::fields`,
//! and the route's `ignore_headers`). With a policy's key, those that the key reads, credentials and the model's
//! context are sent; what of them the policy doesn't read is keyed by the host.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{advice::Advice, route::Route};
use crate::{
    message::RequestHead,
    policy::{Input, Policy, consult, fields, key},
};

/// Fields by which servers that take `_` for `-`, as CGI and WSGI do, would frame a message or believe an intermediary. A
/// client has no use for them but to be taken for one.
const LOOKED_LIKE: [&str; 12] = [
    "cdn-loop",
    "connection",
    "content-length",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Whether a field reads like one that frames the message or that intermediaries set, once `_` is taken for `-` and what
/// stands at its ends is dropped.
fn looks_alike(name: &HeaderName) -> bool {
    let name = name.as_str();
    if !name.contains('_') {
        return false;
    }
    let read = name.replace('_', "-");
    let read = read.trim_matches('-');
    LOOKED_LIKE.contains(&read)
        || read.starts_with("x-forwarded")
        || matches!(read, "x-real-ip" | "x-client-ip" | "true-client-ip")
}

/// Removes the fields that read like others.
fn remove_lookalikes(headers: &mut HeaderMap) {
    let alike: Vec<HeaderName> = headers.keys().filter(|name| looks_alike(name)).cloned().collect();
    for name in alike {
        headers.remove(name);
    }
}

/// The fields of a request that are sent with an item, sorted by name. `maker` made its key; `None` if the native
/// default did.
pub(super) fn sent(route: &Route, maker: Option<&dyn Policy>, headers: &HeaderMap) -> Vec<HeaderName> {
    let mut names: Vec<HeaderName> = headers.keys().filter(|name| is_sent(route, maker, name)).cloned().collect();
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names
}

/// The fields that are sent although the policy's key doesn't read them: the host's part of the key. `None` if there
/// are none.
pub(super) fn unread(route: &Route, policy: &dyn Policy, headers: &HeaderMap) -> Option<[u8; 32]> {
    let mut names = sent(route, Some(policy), headers);
    names.retain(|name| !reads(policy, name));
    (!names.is_empty()).then(|| {
        let mut digest = Digest::default();
        key::header_fields(headers, &names, &mut digest);
        *digest.0.finalize().as_bytes()
    })
}

/// Returns a digest of the parts of an item's target that the policy's key doesn't read: the host's part of the key,
/// too.
pub(super) fn unread_target(policy: &dyn Policy, head: &RequestHead) -> [u8; 32] {
    let is_read = |wanted: &Input| consult::key_reads(policy).any(|input| input == wanted);
    let mut digest = Digest::default();
    let mut part = |input: Input, value: Option<&str>| {
        key::Material::part(&mut digest, value.filter(|_| !is_read(&input)).map(str::as_bytes));
    };
    part(Input::Scheme, Some(head.scheme.as_str()));
    part(Input::Authority, Some(head.authority()));
    part(Input::Path, Some(head.target.path()));
    part(Input::QueryAll, head.target.query());
    *digest.0.finalize().as_bytes()
}

/// Returns the header fields of an item whose body isn't split, as they are sent for all requests with its key: without
/// the client's address, which is in no key.
pub(super) fn of_item(route: &Route, advice: &Advice, head: &RequestHead) -> HeaderMap {
    let maker = advice.key_maker().map(|policy| &**policy);
    let mut headers = head.headers.clone();
    for name in head.headers.keys().filter(|name| !is_sent(route, maker, name) && !fields::is_carried(name)) {
        headers.remove(name);
    }
    headers.append(header::VIA, HeaderValue::from_static("1.1 holm"));
    headers.insert("x-forwarded-proto", HeaderValue::from_static(head.scheme.as_str()));
    headers.insert("x-forwarded-host", head.authority.clone());
    headers
}

/// Returns the client's header fields as they are sent upstream, with the intermediaries that the request came through
/// (RFC 9110, section 7.6.3).
pub(super) fn of_request(head: &RequestHead) -> HeaderMap {
    let mut headers = head.headers.clone();
    remove_lookalikes(&mut headers);
    headers.append(header::VIA, HeaderValue::from_static("1.1 holm"));
    let mut chain: Vec<u8> = headers.get_all("x-forwarded-for").iter().fold(Vec::new(), |mut chain, line| {
        chain.extend_from_slice(line.as_bytes());
        chain.extend_from_slice(b", ");
        chain
    });
    chain.extend_from_slice(head.client.ip.to_string().as_bytes());
    if let Ok(chain) = HeaderValue::from_bytes(&chain) {
        headers.insert("x-forwarded-for", chain);
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static(head.scheme.as_str()));
    headers.insert("x-forwarded-host", head.authority.clone());
    headers
}

/// Whether a request presents credentials that its key doesn't have, so that its response may be for it alone.
pub(super) fn has_unkeyed_credentials(route: &Route, advice: &Advice, headers: &HeaderMap) -> bool {
    if route.infers() {
        // What is sent is in the key.
        return false;
    }
    let maker = advice.key_maker();
    let is_keyed = |name: &HeaderName| maker.is_some_and(|maker| reads(&**maker, name));
    headers.keys().any(|name| fields::is_credential(name) && !is_keyed(name))
}

fn is_sent(route: &Route, maker: Option<&dyn Policy>, name: &HeaderName) -> bool {
    if looks_alike(name) {
        return false;
    }
    if route.splits().is_some_and(|protocol| fields::is_of_whole_body(name) || protocol.describes_body(name)) {
        return false;
    }
    if maker.is_some_and(|policy| reads(policy, name)) {
        return true;
    }
    if fields::is_ignorable(name) || route.config.ignore_headers.contains(name) {
        return false;
    }
    maker.is_none() || fields::is_credential(name) || fields::is_context(name)
}

/// Whether a policy's key depends on a field by its own declaration.
fn reads(policy: &dyn Policy, name: &HeaderName) -> bool {
    consult::key_reads(policy).any(|input| matches!(input, Input::Header(read) if read == name))
}

#[derive(Default)]
struct Digest(blake3::Hasher);

impl key::Material for Digest {
    fn part(&mut self, part: Option<&[u8]>) {
        key::spell(part, |bytes| {
            self.0.update(bytes);
        });
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::{
        cache::key::KeySpace,
        config::{self, Mode, Protocol},
        policy::facts::tests::request,
    };

    fn route(mode: Mode) -> Route {
        let mut config = config::Route::new("r", "p");
        config.mode = mode;
        config.ignore_headers = vec![HeaderName::from_static("x-turn")];
        Route { config, keys: KeySpace::new("n", "r"), destinations: vec![], policy: None }
    }

    const HEADERS: &[(&str, &str)] = &[
        ("x-goog-api-key", "k"),
        ("anthropic-beta", "b"),
        ("content-type", "application/json"),
        ("x-anything", "1"),
        ("x-turn", "17"),
        ("user-agent", "u"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-request-id", "r"),
        ("accept-encoding", "gzip"),
    ];

    #[test]
    fn all_that_matters_is_sent_and_nothing_else() {
        let head = request(Method::POST, "/", HEADERS);
        for (protocol, wanted) in [
            (Protocol::Plain, &["anthropic-beta", "content-type", "x-anything", "x-goog-api-key"][..]),
            (Protocol::JsonArray, &["anthropic-beta", "x-anything", "x-goog-api-key"]),
        ] {
            let route = route(Mode::Infer(protocol));
            assert_eq!(sent(&route, None, &head.headers), wanted, "{protocol:?}");
            assert!(!has_unkeyed_credentials(&route, &Advice::default(), &head.headers));
        }
    }

    #[test]
    fn what_is_sent_on_is_in_the_key_or_made_of_what_is() {
        let head = request(Method::POST, "/", HEADERS);
        let headers = of_item(&route(Mode::Infer(Protocol::Plain)), &Advice::default(), &head);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let wanted = [
            "anthropic-beta",
            "content-type",
            "via",
            "x-anything",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-goog-api-key",
            "x-request-id",
        ];
        assert_eq!(names, wanted);
    }

    #[test]
    fn what_reads_like_framing_or_forwarding_is_not_sent() {
        for (name, wanted) in [
            ("content_length", true),
            ("content-length_", true),
            ("transfer_encoding", true),
            ("host_", true),
            ("_host", true),
            ("x_forwarded_for", true),
            ("x-forwarded_for", true),
            ("x_forwarded_client_cert", true),
            ("x_real_ip", true),
            ("content-length", false),
            ("x-forwarded-for", false),
            ("x_request_id", false),
            ("my_field", false),
            ("_", false),
        ] {
            let field = HeaderName::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(looks_alike(&field), wanted, "{name}");
        }
        let fields = [("x_forwarded_for", "192.0.2.1"), ("x-kept_", "1")];
        let sent = of_request(&request(Method::GET, "/", &fields));
        assert!(!sent.contains_key("x_forwarded_for") && sent.contains_key("x-kept_"), "{sent:?}");
        let head = request(Method::POST, "/", &fields);
        assert_eq!(super::sent(&route(Mode::Infer(Protocol::Plain)), None, &head.headers), ["x-kept_"]);
    }

    #[test]
    fn credentials_are_in_no_native_key_of_http() {
        let route = route(Mode::Http);
        for (headers, wanted) in [
            (&[][..], false),
            (&[("accept", "a"), ("x-request-id", "1")], false),
            (&[("cookie", "a=1")], true),
            (&[("x-api-key", "a")], true),
        ] {
            let head = request(Method::GET, "/", headers);
            let found = has_unkeyed_credentials(&route, &Advice::default(), &head.headers);
            assert_eq!(found, wanted, "{headers:?}");
        }
    }
}
