//! Rows on routes of mode `http`: the key is method, scheme, authority, path and query, plus what the origin varies by.

use super::{
    infer_rows::{asked, unreadable},
    places::HTTP,
    row::{
        Req, Row,
        Verdict::{self, Apart, Must, SentAlike, Shared},
    },
};

const ON: &[&str] = &[HTTP];

/// Policies whose key has the tenant in lower case.
pub(super) const TENANTS: &[&str] = &["tenant-key", "tenant-key-call", "tenant-key-body", "tenant-key-whole", "lane"];
/// Policies whose key has the tenant as it stands.
pub(super) const TENANTS_AS_SENT: &[&str] = &["prompt-features", "prompt-window"];
/// Policies whose key has the parameters of the query sorted.
pub(super) const SORTING: &[&str] =
    &["tenant-key", "tenant-key-call", "tenant-key-body", "tenant-key-whole", "prompt-features", "prompt-window"];

/// Reasons.
const NO_VARY: &str = "the origin names no Vary: RFC 9111, section 4.1";
const PERMITTED: &str = "the origin permits it: RFC 9111, section 3.5";
const SAME_RESOURCE: &str = "the same resource: RFC 3986, section 6.2.2";
const RENEWED: &str = "what a request with no-cache brings is stored for all";
pub(super) const SORTED: &str = "the policy sorts the parameters";

pub(super) fn rows() -> Vec<Row> {
    let families = [
        same(),
        fields(),
        varied(),
        for_one(),
        authorized(),
        methods(),
        authorities(),
        other_paths(),
        same_paths(),
        queries(),
        directives(),
        partial(),
        tenants(),
        bodies(),
    ];
    families.into_iter().flatten().collect()
}

fn get() -> Req {
    Req::new("GET", "/p")
}

fn row(name: impl Into<String>, verdict: Verdict, first: Req, second: Req) -> Row {
    Row::new(ON, name, verdict, first, second)
}

/// Pairs that must share: without them a cache that stores nothing would pass.
fn same() -> Vec<Row> {
    let differ = |name: &'static str, one: &str, other: &str| {
        let why = "it says nothing about the response, and the origin names no Vary";
        row(format!("{name} differs, and it must not matter"), Must(why), get().set(name, one), get().set(name, other))
    };
    vec![
        row("the same request", Must("it is the same"), get(), get()),
        row("the same query", Must("it is the same"), Req::new("GET", "/p?a=1"), Req::new("GET", "/p?a=1")),
        row("HEAD and GET", Must("a response to GET has HEAD's in it"), get(), Req::new("HEAD", "/p")),
        row("HEAD and HEAD", Must("it is the same"), Req::new("HEAD", "/p"), Req::new("HEAD", "/p")),
        row("hosts in capitals", Must("RFC 9110, section 4.2.3"), get(), get().host("SHOP.Test")),
        row("the scheme's own port", Must("RFC 9110, section 4.2.3"), get(), get().host("shop.test:80")),
        row(
            "white space in a list",
            Must("RFC 9111, section 4.1"),
            get().set("accept", "a, b"),
            get().set("accept", "a,b"),
        )
        .varies("accept"),
        differ("user-agent", "one", "other"),
        differ("x-request-id", "one", "other"),
        differ("referer", "http://a.test/", "http://b.test/"),
        differ("traceparent", TRACES[0], TRACES[1]),
    ]
}

const TRACES: [&str; 2] = [
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "00-1bf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
];

/// Header fields, each with two values.
const FIELDS: [(&str, &str, &str); 27] = [
    ("accept", "text/html", "application/json"),
    ("accept-charset", "utf-8", "latin1"),
    ("accept-encoding", "gzip", "br"),
    ("accept-language", "en", "de"),
    ("content-type", "text/plain", "application/json"),
    ("cookie", "sid=1", "sid=2"),
    ("dnt", "0", "1"),
    ("forwarded", "for=192.0.2.1", "for=192.0.2.2"),
    ("from", "a@a.test", "b@b.test"),
    ("origin", "https://a.test", "https://b.test"),
    ("priority", "u=1", "u=5"),
    ("save-data", "on", "off"),
    ("sec-ch-ua-mobile", "?0", "?1"),
    ("sec-fetch-mode", "navigate", "cors"),
    ("upgrade-insecure-requests", "0", "1"),
    ("x-api-key", "one", "other"),
    ("x-auth-token", "one", "other"),
    ("x-client-cert", "one", "other"),
    ("x-device", "phone", "desktop"),
    ("x-host", "a.test", "b.test"),
    ("x-http-method-override", "GET", "DELETE"),
    ("x-original-url", "/a", "/admin"),
    ("x-real-ip", "192.0.2.1", "192.0.2.2"),
    ("x-requested-with", "XMLHttpRequest", "fetch"),
    ("x-rewrite-url", "/a", "/admin"),
    ("x-user", "u-1", "u-2"),
    ("x-user-role", "guest", "admin"),
];

/// Those of them that origins believe of a client: they are in no key, and so they aren't sent.
const CLAIMS: [&str; 7] =
    ["forwarded", "x-client-cert", "x-host", "x-http-method-override", "x-original-url", "x-real-ip", "x-rewrite-url"];

/// A field that differs, with and without the origin saying that it counts.
fn fields() -> Vec<Row> {
    let by = FIELDS.into_iter().flat_map(|(name, one, other)| {
        let pair = || (get().set(name, one), get().set(name, other));
        let (first, second) = pair();
        let verdict = if CLAIMS.contains(&name) { SentAlike } else { Shared(NO_VARY) };
        let unnamed = row(format!("{name} differs"), verdict, first, second);
        let unnamed = if name == "accept-language" { unnamed.under(&["language-key"], Apart) } else { unnamed };
        let (first, second) = pair();
        let named = row(format!("{name} differs, and Vary names it"), Apart, first, second).varies(name);
        let one_has =
            row(format!("one has {name}, and Vary names it"), Apart, get(), get().set(name, other)).varies(name);
        [unnamed, named, one_has]
    });
    // The origin gets these from the node, which sends what it knows itself.
    let replaced = [("x-forwarded-host", "a.test", "b.test"), ("x-forwarded-proto", "http", "https")];
    let replaced = replaced.into_iter().map(|(name, one, other)| {
        let why = "the node replaces it: the origin is sent the same";
        row(format!("{name} differs"), Shared(why), get().set(name, one), get().set(name, other)).varies(name)
    });
    let address = |address: &str| get().set("x-forwarded-for", address);
    let by_address = row("Vary names the client's address", Apart, address("192.0.2.1"), address("192.0.2.2"));
    by.chain(replaced).chain([by_address.varies("x-forwarded-for")]).collect()
}

/// Spellings of a field that the origin varies by.
fn varied() -> Vec<Row> {
    let by = |name: &str, verdict, one: &[&str], other: &[&str]| {
        let with = |lines: &[&str]| lines.iter().fold(get(), |request, line| request.with("accept", line));
        row(format!("varied: {name}"), verdict, with(one), with(other)).varies("Accept")
    };
    let both = |agent: &str| get().set("accept", "a").set("user-agent", agent);
    vec![
        by("another order of a list", Apart, &["a, b"], &["b, a"]),
        by("capitals", Apart, &["a"], &["A"]),
        by("a weight of one", Apart, &["a"], &["a;q=1"]),
        by("a list in two lines", Shared("RFC 9110, section 5.3"), &["a, b"], &["a", "b"]),
        by("two lines in another order", Apart, &["a", "b"], &["b", "a"]),
        by("a comma in quotes", Apart, &["\"a,b\""], &["a,b"]),
        by("white space in quotes", Apart, &["\"a, b\""], &["\"a,b\""]),
        by("an empty value", Apart, &[""], &[]),
        by("a prefix", Apart, &["a"], &["ab"]),
        row("varied: the second of two fields", Apart, both("one"), both("other")).varies("accept, user-agent"),
        row("varied: two lines of Vary", Apart, both("one"), both("other")).varies("accept").varies("user-agent"),
        row("varied: another field than named", Shared(NO_VARY), both("one"), both("other")).varies("accept"),
        row("varied: *", Apart, get(), get()).varies("*"),
        row("varied: * in a list", Apart, get(), get()).varies("accept, *"),
        row("varied: no field name", Apart, get(), get()).varies("a b"),
        row("varied: cookies in another order", Apart, cookies("a=1; b=2"), cookies("b=2; a=1")).varies("cookie"),
        row("varied: one cookie more", Apart, cookies("a=1"), cookies("a=1; b=2")).varies("cookie"),
    ]
}

fn cookies(line: &str) -> Req {
    get().set("cookie", line)
}

/// The same request twice, but the origin marks its response as for one client, or for now.
fn for_one() -> Vec<Row> {
    let said = |says: &[(&'static str, &'static str)], verdict| {
        row(format!("the same request, and the origin says {says:?}"), verdict, get(), get()).says(says)
    };
    let cookie = ("set-cookie", "sid=1");
    vec![
        said(&[("cache-control", "private, max-age=600")], Apart),
        said(&[("cache-control", "max-age=600, PRIVATE")], Apart),
        said(&[("cache-control", "no-store")], Apart),
        said(&[("cache-control", "max-age=600, no-store, public")], Apart),
        said(&[("cache-control", "no-cache, max-age=600")], Apart),
        said(&[("cache-control", "max-age=0")], Apart),
        said(&[("cache-control", "max-age=600, s-maxage=0")], Apart),
        said(&[("cache-control", "max-age=x")], Apart),
        said(&[("cache-control", "max-age=600"), ("age", "700")], Apart),
        said(&[("expires", "Thu, 01 Jan 1970 00:00:00 GMT")], Apart),
        said(&[("expires", "0")], Apart),
        said(&[("x-nothing", "about lifetimes")], Apart),
        said(&[("cache-control", "max-age=600"), cookie], Apart),
        said(&[("cache-control", "max-age=600, public"), cookie], Shared("the origin says public")),
        said(&[("cache-control", "public, max-age=600")], Must("the origin says public")),
        said(&[("cache-control", "s-maxage=600")], Must("it is fresh")),
    ]
}

const CREDENTIALS: [(&str, &str); 5] = [
    ("Basic YTpi", "Basic YTpj"),
    ("Bearer a", "Bearer b"),
    ("Digest username=\"a\"", "Digest username=\"b\""),
    ("Negotiate YQ==", "Negotiate Yg=="),
    ("Bearer c", "bearer c"),
];

/// `Authorization` of two users, and of one and nobody.
fn authorized() -> Vec<Row> {
    let user = |credentials: &str| get().set("authorization", credentials);
    let two = CREDENTIALS.into_iter().flat_map(|(one, other)| {
        [
            row(format!("authorized by {one} and {other}"), Apart, user(one), user(other)),
            row(format!("authorized by {one} and not at all"), Apart, user(one), get()),
            row(format!("authorized by {one} and {other}, and Vary names it"), Apart, user(one), user(other))
                .says(&[("cache-control", "public, max-age=600"), ("vary", "authorization")]),
        ]
    });
    let permitted =
        ["public, max-age=600", "s-maxage=600", "max-age=600, must-revalidate"].into_iter().map(|control| {
            row(
                format!("authorized, and the origin says {control}"),
                Shared(PERMITTED),
                user("Bearer a"),
                user("Bearer b"),
            )
            .says(&[("cache-control", control)])
        });
    let others = [
        row("authorized the same, and nobody says that it may be stored", Apart, user("Bearer a"), user("Bearer a")),
        row("authorized, and the origin says private", Apart, user("Bearer a"), user("Bearer b"))
            .says(&[("cache-control", "private, max-age=600")]),
        row("authorized, by an empty value", Apart, user(""), user("Bearer a")),
    ];
    two.chain(permitted).chain(others).collect()
}

fn methods() -> Vec<Row> {
    let by = |method: &str| Req::new(method, "/p");
    let with_get = ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "PROPFIND", "get", "PURGE"].into_iter();
    let with_get = with_get.map(|method| row(format!("GET and {method}"), Apart, get(), by(method)));
    let twice = ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"].into_iter();
    let twice = twice.map(|method| row(format!("{method} twice"), Apart, by(method).body("a"), by(method).body("a")));
    let bodies = ["POST", "PUT", "QUERY"].into_iter();
    let bodies = bodies
        .map(|method| row(format!("{method} with two bodies"), Apart, by(method).body("a"), by(method).body("b")));
    let query = |kind: &str, body: &'static str| by("QUERY").set("content-type", kind).body(body);
    let (json, text) = ("application/json", "text/plain");
    let queries = [
        row("QUERY with two contents", Apart, query(text, "a"), query(text, "b")),
        row("QUERY with two types", Apart, query(text, "[1]"), query(json, "[1]")),
        row("QUERY with a number in two spellings", Apart, query(json, "[1]"), query(json, "[1.0]")),
        row("QUERY with JSON in two spellings", Shared("the same query"), query(json, "[1]"), query(json, "[ 1 ]")),
    ];
    with_get.chain(twice).chain(bodies).chain(queries).collect()
}

fn authorities() -> Vec<Row> {
    let other = |host: &'static str| row(format!("hosts: {host}"), Apart, get(), get().host(host));
    let others =
        ["other.test", "www.shop.test", "shop.test:8080", "shop.test:443", "shop.tes", "shop_test", "127.0.0.1"];
    let dotted = row("hosts: with a dot at the end", Shared("the same name"), get(), get().host("shop.test."));
    others.into_iter().map(other).chain([dotted]).collect()
}

/// Paths that are different resources.
const OTHER_PATHS: [(&str, &str); 37] = [
    ("/a%2Fb", "/a/b"),
    ("/a%2fb", "/a/b"),
    ("/a%5Cb", "/a/b"),
    ("/a", "/A"),
    ("/a", "/a/"),
    ("/a", "/a;v=1"),
    ("/a;v=1", "/a;v=2"),
    ("/a;v", "/a%3Bv"),
    ("/a;/b", "/a/b"),
    ("/a%20b", "/a+b"),
    ("/a%20b", "/a%2520b"),
    ("/a%25", "/a%2525"),
    ("/a%", "/a%25"),
    ("/a%00", "/a"),
    ("/a%0A", "/a"),
    ("/a%3Fb", "/a?b"),
    ("/a%23b", "/a"),
    ("/a.html", "/a"),
    ("/a.css", "/a"),
    ("/a/x.css", "/a"),
    ("/a%2Ecss", "/a"),
    ("/a,b", "/a%2Cb"),
    ("/a@b", "/a%40b"),
    ("/a:b", "/a%3Ab"),
    ("/a!b", "/a%21b"),
    ("/a=b", "/a%3Db"),
    ("/a&b", "/a%26b"),
    ("/a$b", "/a%24b"),
    ("/a'b", "/a%27b"),
    ("/a(b)", "/a%28b%29"),
    ("/a*b", "/a%2Ab"),
    ("/%C3%A9", "/%E9"),
    ("/%C3%A9", "/e%CC%81"),
    ("/%C3%A9", "/e"),
    ("/x/..%2Fa", "/a"),
    ("/x/%2e%2e%2fa", "/a"),
    ("/x/.../a", "/a"),
];

fn other_paths() -> Vec<Row> {
    let pair = |(one, other): (&str, &str)| {
        row(format!("paths: {one} and {other}"), Apart, Req::new("GET", one), Req::new("GET", other))
    };
    OTHER_PATHS.into_iter().map(pair).collect()
}

/// Paths that are spelled otherwise and name the same.
const SAME_PATHS: [(&str, &str); 11] = [
    ("/x/../a", "/a"),
    ("/x/%2e%2e/a", "/a"),
    ("/x/.%2E/a", "/a"),
    ("/./a", "/a"),
    ("/a/.", "/a/"),
    ("/a/x/..", "/a/"),
    ("/%61", "/a"),
    ("/%7Eu", "/~u"),
    ("/a%2Db", "/a-b"),
    ("/a%2fb", "/a%2Fb"),
    ("/a//b", "/a/b"),
];

fn same_paths() -> Vec<Row> {
    let pair = |(one, other): (&str, &str)| {
        row(format!("paths: {one} is {other}"), Shared(SAME_RESOURCE), Req::new("GET", one), Req::new("GET", other))
    };
    SAME_PATHS.into_iter().map(pair).collect()
}

/// Queries that are different resources, whoever sorts parameters.
const OTHER_QUERIES: [(&str, &str); 24] = [
    ("", "?"),
    ("", "?a"),
    ("?a", "?a="),
    ("?a=1", "?a=2"),
    ("?a=1", "?A=1"),
    ("?a=1", "?b=1"),
    ("?a=x", "?a=X"),
    ("?a=1&a=2", "?a=2&a=1"),
    ("?a=1&a=1", "?a=1"),
    ("?a=1;b=2", "?a=1&b=2"),
    ("?a=1;b=2", "?a=1"),
    ("?a=1%26b=2", "?a=1&b=2"),
    ("?a=1%3Bb=2", "?a=1;b=2"),
    ("?a=b%3Dc", "?a=b=c"),
    ("?a=+", "?a=%20"),
    ("?a=+", "?a=%2B"),
    ("?a=1,2", "?a=1%2C2"),
    ("?a=1", "?a=1%00"),
    ("?a=1", "?a=1%0A"),
    ("?a=1", "??a=1"),
    ("?a=1", "?a=1?"),
    ("?a=1", "?a=1&utm_source=x"),
    ("?callback=x", "?callback=y"),
    ("?_=1", "?_=2"),
];

/// Queries that sorting makes equal.
const SORTED_QUERIES: [(&str, &str); 6] = [
    ("?a=1&b=2", "?b=2&a=1"),
    ("?a=1&b=2", "?a=1&&b=2"),
    ("?a=1", "?a=1&"),
    ("?a=1", "?&a=1"),
    ("?", "?&"),
    ("?b=2&a=1&a=3", "?a=1&b=2&a=3"),
];

fn queries() -> Vec<Row> {
    let pair = |one: &str, other: &str| {
        let request = |query: &str| Req::new("GET", &format!("/p{query}"));
        row(format!("queries: {one:?} and {other:?}"), Apart, request(one), request(other))
    };
    let others = OTHER_QUERIES.into_iter().map(|(one, other)| pair(one, other));
    let sorted = SORTED_QUERIES.into_iter().map(|(one, other)| pair(one, other).under(SORTING, Shared(SORTED)));
    let spelled =
        row("queries: ?a=%31 is ?a=1", Shared(SAME_RESOURCE), Req::new("GET", "/p?a=%31"), Req::new("GET", "/p?a=1"));
    let moved = row("queries: in the path or behind it", Apart, Req::new("GET", "/p/a=1"), Req::new("GET", "/p?a=1"));
    others.chain(sorted).chain([spelled, moved]).collect()
}

/// Cache directives of clients. The first request of a pair has none.
fn directives() -> Vec<Row> {
    let says = |control: &str, there, back| {
        row(format!("one says {control}"), there, get(), get().set("cache-control", control)).back(back)
    };
    let whatever = Shared("it asks for nothing else");
    vec![
        says("no-store", Apart, Apart),
        says("No-Store", Apart, Apart),
        says("max-age=60, no-store", Apart, Apart),
        says("no-cache", Apart, Shared(RENEWED)),
        says("NO-CACHE", Apart, Shared(RENEWED)),
        // A response that is stored within the millisecond has the age 0.
        says("max-age=0", whatever, whatever),
        says("min-fresh=700", Apart, Shared(RENEWED)),
        says("max-age=600, max-stale", whatever, whatever),
        says("only-if-cached", whatever, whatever),
        says("private", whatever, whatever),
        says("unknown", whatever, whatever),
        row("one says Pragma: no-cache", whatever, get(), get().set("pragma", "no-cache")),
    ]
}

/// Ranges and conditions, which are about what is stored.
fn partial() -> Vec<Row> {
    let with = |name, value: &str| get().set(name, value);
    let part = Shared("a part of the same representation");
    let condition = Shared("a condition is about what is stored");
    vec![
        row("one asks for a range", part, get(), with("range", "bytes=0-3")),
        row("two ranges", part, with("range", "bytes=0-3"), with("range", "bytes=4-7")),
        row("one asks for a range that isn't there", part, get(), with("range", "bytes=999-")),
        row("one asks for a range if it is this", part, get(), with("range", "bytes=0-3").set("if-range", "\"x\"")),
        row("one has a validator", condition, get(), with("if-none-match", "\"x\"")),
        row("one has two validators", condition, get(), with("if-none-match", "\"x\", W/\"y\"")),
        row("one has a date", condition, get(), with("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT")),
        row("one takes it only if it is this", condition, get(), with("if-match", "\"x\"")),
    ]
}

/// The field that names a tenant; the origin doesn't say that it counts, the policies that read it do.
fn tenants() -> Vec<Row> {
    let lower = "the policy takes tenants in lower case";
    let pair = |name: &str, one, other| {
        row(format!("tenants: {name}"), Shared(NO_VARY), get().tenant(one), get().tenant(other)).under(TENANTS, Apart)
    };
    let away = |tenant| get().tenant(Some(tenant)).set("connection", "x-tenant");
    let in_lines = |one: &str, other: &str| get().tenant(None).with("x-tenant", one).with("x-tenant", other);
    vec![
        pair("two", Some("acme"), Some("umbrella")),
        pair("a prefix", Some("acme"), Some("acme2")),
        pair("one and none", Some("acme"), None),
        pair("an empty one and none", Some(""), None),
        pair("one and an empty one", Some("acme"), Some("")),
        pair("capitals", Some("acme"), Some("ACME")).under(TENANTS, Shared(lower)),
        row("tenants: in two lines, in another order", Shared(NO_VARY), in_lines("a", "b"), in_lines("b", "a"))
            .under(TENANTS, Apart),
        row("tenants: two lines and the first", Shared(NO_VARY), in_lines("acme", "b"), get()).under(TENANTS, Apart),
        row(
            "tenants: taken away by Connection",
            Shared("none reaches the node's pipeline"),
            away("acme"),
            away("umbrella"),
        ),
        row("tenants: one taken away by Connection", Shared(NO_VARY), get(), away("acme")).under(TENANTS, Apart),
        pair("named by Vary", Some("acme"), Some("umbrella")).varies("x-tenant").under(&["http"], Apart),
    ]
}

/// GET with a body: it is in the key, or nothing is shared.
fn bodies() -> Vec<Row> {
    let with = |name: &str, one: Req, other: Req| row(format!("GET with a body: {name}"), Apart, one, other);
    let two = with("two", get().body(asked("\"a\"")), get().body(asked("\"b\"")));
    let one = with("one and none", get(), get().body(asked("\"a\"")));
    let pairs = unreadable().into_iter().flat_map(|(name, fields, first, second)| {
        let request = |body: &[u8]| {
            let request = get().body(body.to_vec());
            fields.iter().fold(request, |request, &(name, value)| request.set(name, value))
        };
        [with(&name, request(&first), request(&second)), with(&format!("{name}, and none"), request(&first), get())]
    });
    [two, one].into_iter().chain(pairs).collect()
}
