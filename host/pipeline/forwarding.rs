//! Which header fields are sent upstream.
//!
//! Of an item: which are sent to the model, and which of these its key has: one rule for both, so that no response
//! depends on a field that isn't part of the key.
//!
//! With a native key all fields are sent and keyed, except those that say nothing about the response (`policy::fields`,
//! and the route's `ignore_headers`). With a policy's key, those that the key reads, credentials and the model's
//! context are sent; what of them the policy doesn't read is keyed by the host.
//!
//! Of a request to an `http` route: all, but those by which a client could say what only a proxy in front of the node
//! may ([`claims`]). Origins believe them, no native key has them, and so one client's claim would be in the response
//! that the next one gets.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::{
    advice::Advice,
    claims::{self, Claim},
    parents,
    replicate::{self, NotTaken, Said},
    route::Route,
};
use crate::{
    cache::targeted::SURROGATE_CONTROL,
    config,
    message::{
        RequestHead, Scheme, authority,
        delta::{AVAILABLE_DICTIONARY, DICTIONARY_ID},
        near::{self, Near},
        network::Cidr,
    },
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

/// Whether a field reads like one that frames the message, that intermediaries set, or that claims something
/// ([`claims`]), once `_` is taken for `-` and what stands at its ends is dropped.
fn looks_alike(name: &HeaderName) -> bool {
    let name = name.as_str();
    if !name.contains('_') {
        return false;
    }
    let read = name.replace('_', "-");
    let read = read.trim_matches('-');
    LOOKED_LIKE.contains(&read) || read.starts_with("x-forwarded") || claims::of(read).is_some()
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

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What `Surrogate-Control` can say to this node (Edge Architecture note, section 2.1).
const CAPABILITY: &str = "holm=\"Surrogate/1.0\"";

/// The proxies in front of the node that are believed what they forward about their clients.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    networks: Vec<Cidr>,
    /// The node's region.
    region: Option<Arc<str>>,
    /// The field in which they state their client's region.
    client_field: Option<HeaderName>,
}

impl Proxies {
    /// Returns the proxies of these networks, in front of a node of this region.
    pub(super) fn new(networks: Vec<Cidr>, region: Option<config::Region>) -> Self {
        let (name, client_field) = region.map(|region| (region.name, region.client_field)).unzip();
        Self { networks, region: name.map(Into::into), client_field: client_field.flatten() }
    }

    /// Returns the field in which they state their client's region.
    pub(super) fn client_field(&self) -> Option<&HeaderName> {
        self.client_field.as_ref()
    }

    fn trust(&self, head: &RequestHead) -> bool {
        self.networks.iter().any(|network| network.contains(head.client.ip))
    }

    /// Notes the regions of a request. The field that states the client's has what was understood from here on, or is
    /// gone, so that whoever reads it, by this name or by one that is taken for it, reads the same.
    fn locate(&self, head: &mut RequestHead, is_trusted: bool) {
        head.near = Near { client: None, node: self.region.clone() };
        let Some(field) = &self.client_field else { return };
        let reads_alike = |name: &str| name.replace('_', "-").trim_matches('-') == field.as_str();
        let is_alike = |name: &HeaderName| name.as_str().contains('_') && reads_alike(name.as_str());
        let alike: Vec<HeaderName> = head.headers.keys().filter(|name| is_alike(name)).cloned().collect();
        for name in alike {
            head.headers.remove(name);
        }
        let region = near::stated(&head.headers, field).filter(|_| is_trusted);
        match region.as_ref().and_then(|region| HeaderValue::from_str(region).ok()) {
            Some(value) => drop(head.headers.insert(field.clone(), value)),
            None => drop(head.headers.remove(field)),
        }
        head.near.client = region;
    }

    /// Takes over the scheme and the host that a trusted proxy says its client used, and its client's region: from here
    /// on they are the request's, in its route, its key and the URL that it can be purged by.
    pub(super) fn believe(&self, head: &mut RequestHead) {
        let is_trusted = self.trust(head);
        self.locate(head, is_trusted);
        if !is_trusted {
            return;
        }
        let scheme = match last(&head.headers, &FORWARDED_PROTO) {
            Some(text) if text.eq_ignore_ascii_case(b"https") => Scheme::Https,
            Some(text) if text.eq_ignore_ascii_case(b"http") => Scheme::Http,
            _ => head.scheme,
        };
        let host = last(&head.headers, &FORWARDED_HOST).and_then(|host| authority::normal(host, scheme));
        // Which port is a scheme's own depends on the scheme.
        let host = host.or_else(|| authority::normal(head.authority.as_bytes(), scheme));
        let host = host.and_then(|host| HeaderValue::from_bytes(&host).ok());
        head.scheme = scheme;
        if let Some(host) = host {
            head.authority = host;
        }
    }

    /// Takes what a node says that asks this one as its parent. Of others than trusted proxies it means nothing.
    pub(super) fn child(&self, head: &mut RequestHead) -> Option<HeaderValue> {
        if !self.trust(head) {
            return None;
        }
        head.headers.remove(&parents::CHILD)
    }

    /// Takes what a node says of a response that it has stored; `None` if the request is no such announcement.
    pub(super) fn announced(&self, head: &mut RequestHead) -> Option<Result<Said, NotTaken>> {
        let said = head.headers.remove(&replicate::REPLICATE)?;
        Some(if self.trust(head) { replicate::read(&head.method, &said) } else { Err(NotTaken::Stranger) })
    }

    /// Returns the header fields of a request to an `http` route as they are sent upstream, with the intermediaries that
    /// it came through (RFC 9110, section 7.6.3).
    pub(super) fn of_request(&self, route: &Route, advice: &Advice, head: &RequestHead) -> HeaderMap {
        let trusted = self.trust(head);
        let may_be_stored = [Method::GET, Method::HEAD, Method::QUERY].contains(&head.method);
        let maker = advice.key_maker();
        let is_keyed = |name: &HeaderName| maker.is_some_and(|maker| reads(&**maker, name));
        let is_passed_on = |name: &HeaderName| match claims::of(name.as_str()) {
            None => true,
            Some(Claim::Client) => trusted || is_keyed(name),
            Some(Claim::Proxy) => is_keyed(name),
            // What an unsafe method means is between the client and the origin; nothing is stored of it.
            Some(Claim::Override) => !may_be_stored || is_keyed(name),
        };
        // Servers that take `_` for `-` would read it as another field: one by which responses may vary, and which the
        // request that a variant is chosen by doesn't have.
        let passes_underscores = route.infers() || route.config.underscores_in_headers;
        let is_read_otherwise =
            |name: &HeaderName| !passes_underscores && name.as_str().contains('_') && !is_keyed(name);
        // Only what a trusted proxy stated is left of it, and a parent goes by it as well.
        let is_region = |name: &HeaderName| self.client_field.as_ref() == Some(name);
        let is_dropped = |name: &HeaderName| {
            !is_region(name) && (looks_alike(name) || is_read_otherwise(name) || !is_passed_on(name))
        };
        let mut headers = head.headers.clone();
        for name in head.headers.keys().filter(|name| is_dropped(name)) {
            headers.remove(name);
        }
        if route.config.deltas.pattern(head.target.path()).is_some() {
            // The node makes the deltas: the origin's would be for one dictionary alone.
            headers.remove(AVAILABLE_DICTIONARY);
            headers.remove(DICTIONARY_ID);
        }
        headers.append(header::VIA, HeaderValue::from_static("1.1 holm"));
        headers.insert(FORWARDED_FOR, chain(head, trusted));
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(head.scheme.as_str()));
        headers.insert(FORWARDED_HOST, head.authority.clone());
        if route.targeted().contains(&SURROGATE_CONTROL) {
            headers.append("surrogate-capability", HeaderValue::from_static(CAPABILITY));
        }
        headers
    }
}

/// Returns the last member of a list: the one that the nearest proxy has added, if it keeps what came.
fn last<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let line = headers.get_all(name).iter().next_back()?;
    line.as_bytes().rsplit(|byte| *byte == b',').next().map(<[u8]>::trim_ascii)
}

/// Returns the addresses that the request came through; those before the client's own only if it is a trusted proxy.
fn chain(head: &RequestHead, trusted: bool) -> HeaderValue {
    let mut chain = Vec::new();
    for line in head.headers.get_all(&FORWARDED_FOR).iter().filter(|_| trusted) {
        chain.extend_from_slice(line.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(head.client.ip.to_string().as_bytes());
    HeaderValue::from_bytes(&chain).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
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
pub(super) fn reads(policy: &dyn Policy, name: &HeaderName) -> bool {
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
    use super::*;
    use crate::{
        config::{Mode, Protocol},
        policy::facts::tests::request,
    };

    fn route(mode: Mode) -> Route {
        let mut config = config::Route::new("r", "p");
        config.mode = mode;
        config.ignore_headers = vec![HeaderName::from_static("x-turn")];
        Route::nowhere(config)
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

    /// Fields that origins believe, each with whether it is sent: of a client, of a trusted proxy, with an unsafe method.
    const CLAIMS: [(&str, bool, bool, bool); 58] = [
        ("cf-connecting-ip", false, true, false),
        ("client-ip", false, true, false),
        ("fastly-client-ip", false, true, false),
        ("true-client-ip", false, true, false),
        ("x-appengine-user-ip", false, true, false),
        ("x-azure-clientip", false, true, false),
        ("x-client-ip", false, true, false),
        ("x-cluster-client-ip", false, true, false),
        ("x-envoy-external-address", false, true, false),
        ("x-original-forwarded-for", false, true, false),
        ("x-originating-ip", false, true, false),
        ("x-real-ip", false, true, false),
        ("x-remote-addr", false, true, false),
        ("x-remote-ip", false, true, false),
        ("x-forwarded-access-token", false, true, false),
        ("x-forwarded-client-cert", false, true, false),
        ("x-forwarded-email", false, true, false),
        ("x-forwarded-groups", false, true, false),
        ("x-forwarded-preferred-username", false, true, false),
        ("x-forwarded-user", false, true, false),
        ("cf-access-jwt-assertion", false, true, false),
        ("remote-user", false, true, false),
        ("x-amzn-oidc-identity", false, true, false),
        ("x-client-cert", false, true, false),
        ("x-remote-user", false, true, false),
        ("x-forward-host", false, false, false),
        ("forwarded", false, false, false),
        ("front-end-https", false, false, false),
        ("surrogate-capability", false, false, false),
        ("x-forward-for", false, false, false),
        ("x-forwarded", false, false, false),
        ("x-forwarded-by", false, false, false),
        ("x-forwarded-path", false, false, false),
        ("x-forwarded-port", false, false, false),
        ("x-forwarded-prefix", false, false, false),
        ("x-forwarded-protocol", false, false, false),
        ("x-forwarded-scheme", false, false, false),
        ("x-forwarded-server", false, false, false),
        ("x-forwarded-ssl", false, false, false),
        ("x-forwarded-uri", false, false, false),
        ("x-forwarded-anything", false, false, false),
        ("x-scheme", false, false, false),
        ("x-script-name", false, false, false),
        ("x-url-scheme", false, false, false),
        ("x-host", false, false, true),
        ("x-host-override", false, false, true),
        ("x-http-destinationurl", false, false, true),
        ("x-http-host-override", false, false, true),
        ("x-http-method", false, false, true),
        ("x-http-method-override", false, false, true),
        ("x-method-override", false, false, true),
        ("x-original-host", false, false, true),
        ("x-original-uri", false, false, true),
        ("x-original-url", false, false, true),
        ("x-rewrite-url", false, false, true),
        ("x-request-id", true, true, true),
        ("x-anything", true, true, true),
        ("cookie", true, true, true),
    ];

    #[test]
    fn what_only_a_proxy_may_say_is_not_sent_for_a_client() {
        let fields: Vec<(&str, &str)> = CLAIMS.iter().map(|(name, ..)| (*name, "claimed")).collect();
        let (nobody, proxies) = (Proxies::default(), Proxies::new(Cidr::LOOPBACK.to_vec(), None));
        let sent = |proxies: &Proxies, method| {
            let mut head = request(method, "/", &fields);
            head.client.ip = [127, 0, 0, 1].into();
            proxies.of_request(&route(Mode::Http), &Advice::default(), &head)
        };
        let (client, proxy) = (sent(&nobody, Method::GET), sent(&proxies, Method::GET));
        let (head, unsafe_method) = (sent(&nobody, Method::HEAD), sent(&nobody, Method::POST));
        let query = sent(&nobody, Method::QUERY);
        for (name, by_client, by_proxy, with_post) in CLAIMS {
            let is_sent = |headers: &HeaderMap| headers.get(name).is_some_and(|value| value == "claimed");
            let found = (is_sent(&client), is_sent(&proxy), is_sent(&unsafe_method));
            assert_eq!(found, (by_client, by_proxy, with_post), "{name}");
            assert_eq!(is_sent(&head), by_client, "{name} with HEAD");
            assert_eq!(is_sent(&query), by_client, "{name} with QUERY");
        }
    }

    #[test]
    fn what_the_node_says_of_a_request() {
        let fields = [
            ("x-forwarded-for", "192.0.2.1, 192.0.2.2"),
            ("x-forwarded-proto", "https, http"),
            ("x-forwarded-host", "evil.example, Other.Example:80"),
        ];
        let sent = |networks: &[&str]| {
            let mut head = request(Method::GET, "/", &fields);
            head.client.ip = [10, 0, 0, 7].into();
            let proxies = Proxies::new(networks.iter().map(|network| network.parse().unwrap()).collect(), None);
            proxies.believe(&mut head);
            let headers = proxies.of_request(&route(Mode::Http), &Advice::default(), &head);
            let text = |name: &str| headers[name].to_str().unwrap().to_owned();
            assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
            assert_eq!(text("surrogate-capability"), CAPABILITY);
            (head.url(), [text("x-forwarded-for"), text("x-forwarded-proto"), text("x-forwarded-host")])
        };
        let own = request(Method::GET, "/", &[]);
        let (url, stated) = sent(&["10.0.0.8/32", "2001:db8::/32"]);
        assert_eq!(url, own.url());
        assert_eq!(stated, ["10.0.0.7", own.scheme.as_str(), own.authority()]);
        let (url, stated) = sent(&["10.0.0.0/8"]);
        assert_eq!(url, "http://other.example/");
        assert_eq!(stated, ["192.0.2.1, 192.0.2.2, 10.0.0.7", "http", "other.example"]);
    }

    #[test]
    fn what_a_proxy_states_badly_is_not_believed() {
        for (name, value) in [
            ("x-forwarded-proto", "ftp"),
            ("x-forwarded-proto", "https, "),
            ("x-forwarded-host", "a b"),
            ("x-forwarded-host", "user@shop.example"),
            ("x-forwarded-host", "shop.example,"),
        ] {
            let mut head = request(Method::GET, "/", &[(name, value)]);
            let before = head.url();
            Proxies::new(vec![head.client.ip.to_string().parse().unwrap()], None).believe(&mut head);
            assert_eq!(head.url(), before, "{name}: {value}");
        }
    }

    #[test]
    fn a_clients_region_is_what_a_trusted_proxy_states_and_the_same_for_all_who_read_it() {
        let region = |field| config::Region { name: "here".to_owned(), client_field: field };
        let (field, claimed) = (HeaderName::from_static("x-geo"), HeaderName::from_static("x-forwarded-region"));
        for (name, value, is_trusted, field, wanted) in [
            ("x-geo", "EU", true, Some(field.clone()), Some("eu")),
            ("x-geo", "EU", false, Some(field.clone()), None),
            ("x-geo", "eu, us", true, Some(field.clone()), None),
            ("x_geo", "eu", true, Some(field.clone()), None),
            ("x-geo_", "eu", true, Some(field), None),
            ("x-forwarded-region", "eu", true, Some(claimed), Some("eu")),
        ] {
            let mut head = request(Method::GET, "/", &[(name, value)]);
            let networks = is_trusted.then(|| head.client.ip.to_string().parse().unwrap());
            let proxies = Proxies::new(networks.into_iter().collect(), Some(region(field)));
            proxies.believe(&mut head);
            assert_eq!(head.near.client.as_deref(), wanted, "{name}: {value}");
            assert_eq!(head.near.node.as_deref(), Some("here"));
            assert_eq!(head.headers.get(name).and_then(|value| value.to_str().ok()), wanted, "{name}: {value}");
            let mut lenient = route(Mode::Http);
            lenient.config.underscores_in_headers = true;
            let sent = proxies.of_request(&lenient, &Advice::default(), &head);
            assert_eq!(sent.get(name).and_then(|value| value.to_str().ok()), wanted, "{name}: {value}");
        }
        let mut head = request(Method::GET, "/", &[("x-geo", "EU")]);
        Proxies::new(Vec::new(), Some(region(None))).believe(&mut head);
        assert_eq!((head.near.client, head.headers["x-geo"].to_str().unwrap()), (None, "EU"), "a field as any other");
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
            ("x_original_url", true),
            ("x_http_method-override", true),
            ("x-original-url", false),
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
        for (lets_pass, method) in [(false, Method::GET), (true, Method::GET), (false, Method::POST)] {
            let mut route = route(Mode::Http);
            route.config.underscores_in_headers = lets_pass;
            let head = request(method, "/", &fields);
            let sent = Proxies::default().of_request(&route, &Advice::default(), &head);
            assert!(!sent.contains_key("x_forwarded_for"), "{sent:?}");
            assert_eq!(sent.contains_key("x-kept_"), lets_pass, "{sent:?}");
        }
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
