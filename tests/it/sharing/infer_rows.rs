//! Rows on routes of mode `infer`: the key is the body, and whatever else the model is sent.

use super::{
    http_rows::{SORTED, SORTING, TENANTS, TENANTS_AS_SENT},
    places::{ARRAY, EMBEDDINGS, PLAIN},
    row::{
        Req, Row,
        Verdict::{self, Apart, Must, SentAlike, Shared},
    },
};

const ON: &[&str] = &[PLAIN, ARRAY, EMBEDDINGS];

/// Policies whose key has members of the body, and not all of it.
const BY_MEMBERS: &[&str] = &["tenant-key-body", "lane"];
/// Policies whose key has no credentials. What isn't in the key isn't sent.
const POLICIES: &[&str] =
    &["tenant-key-body", "tenant-key-call", "tenant-key-whole", "lane", "prompt-features", "prompt-window"];
/// These are configured to leave `/user` out.
const WITHOUT_USER: &[&str] = &["prompt-features", "prompt-window", "tenant-key-body", "lane"];

/// Reasons.
const SAME_JSON: &str = "the same JSON: RFC 8259";
const SAME_ITEM: &str = "they have an item in common";
const NO_MEMBERS: &str = "neither has the members that the operator named";
const OTHER_MEMBERS: &str = "the operator named the members that count";

pub(super) fn rows() -> Vec<Row> {
    let families = [
        same(),
        values(),
        numbers(),
        strings(),
        members(),
        lists(),
        whole_bodies(),
        cannot_be_read(),
        coded(),
        credentials(),
        fields(),
        tenants(),
        targets(),
        directives(),
    ];
    families.into_iter().flatten().collect()
}

/// A call that every protocol takes, with this JSON where a model and each policy look for the input.
pub(super) fn asked(what: &str) -> String {
    format!(r#"{{"model":"m","input":{what},"messages":[{{"role":"user","content":{what}}}]}}"#)
}

fn post(body: impl Into<bytes::Bytes>) -> Req {
    Req::new("POST", "/v1").set("content-type", "application/json").body(body)
}

fn ask() -> Req {
    post(asked("\"a\""))
}

fn row(name: impl Into<String>, verdict: Verdict, first: Req, second: Req) -> Row {
    Row::new(ON, name, verdict, first, second)
}

/// Two calls with different inputs.
fn pair(name: &str, verdict: Verdict, one: &str, other: &str) -> Row {
    row(format!("bodies: {name}"), verdict, post(asked(one)), post(asked(other)))
}

/// Two bodies.
fn two(name: &str, verdict: Verdict, one: impl Into<bytes::Bytes>, other: impl Into<bytes::Bytes>) -> Row {
    row(format!("bodies: {name}"), verdict, post(one), post(other))
}

fn same() -> Vec<Row> {
    let spaced = r#" { "messages" : [ { "content" : "a", "role" : "user" } ] , "input" : "a" , "model" : "m" } "#;
    let text = || Req::new("POST", "/v1").body("no JSON");
    vec![
        pair("the same", Must("it is the same"), "\"a\"", "\"a\""),
        two("white space and the order of members", Must(SAME_JSON), asked("\"a\""), spaced)
            .under(TENANTS_AS_SENT, Shared(SAME_JSON)),
        row("bodies: the same text", Must("it is the same"), text(), text()).on(&[PLAIN]),
    ]
}

/// JSON values of different types, or of one type.
fn values() -> Vec<Row> {
    let table = [
        ("text", "\"a\"", "\"b\""),
        ("text and a number", "\"1\"", "1"),
        ("text and true", "\"true\"", "true"),
        ("text and null", "\"null\"", "null"),
        ("empty text and null", "\"\"", "null"),
        ("false and null", "false", "null"),
        ("true and one", "true", "1"),
        ("an empty list and an empty object", "[]", "{}"),
        ("an empty list and null", "[]", "null"),
        ("text and a list of it", "\"a\"", "[[\"a\"]]"),
        ("an object and its text", "{\"k\":1}", "\"{\\\"k\\\":1}\""),
        ("lists in another order", "[1,2]", "[2,1]"),
        ("lists of lists", "[[1],2]", "[1,[2]]"),
        ("lists of tokens", "[1,23]", "[12,3]"),
        ("objects with another name", "{\"a\":1}", "{\"b\":1}"),
        ("objects with one member more", "{\"a\":1}", "{\"a\":1,\"b\":null}"),
        ("a slash in a name", "{\"a/b\":1}", "{\"a\":{\"b\":1}}"),
        ("a quote in a value", r#"{"a":"b\",\"c\":\"d"}"#, r#"{"a":"b","c":"d"}"#),
        ("a name in capitals", "{\"a\":1}", "{\"A\":1}"),
    ];
    let deep = |levels: usize, inmost: &str| format!("{}{inmost}{}", "[".repeat(levels), "]".repeat(levels));
    let objects = |levels: usize, inmost: &str| format!("{}{inmost}{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let nested = [100, 124, 125, 126, 127, 128, 129, 200, 1000].into_iter().flat_map(|levels| {
        [
            pair(&format!("lists {levels} deep"), Apart, &deep(levels, "1"), &deep(levels, "2")),
            pair(&format!("objects {levels} deep"), Apart, &objects(levels, "1"), &objects(levels, "2")),
        ]
    });
    let levels = pair("nested once more", Apart, &deep(200, "1"), &deep(201, "1"));
    table.into_iter().map(|(name, one, other)| pair(name, Apart, one, other)).chain(nested).chain([levels]).collect()
}

/// The text of a number is never read as a number.
fn numbers() -> Vec<Row> {
    let apart = [
        ("1", "2"),
        ("1", "1.0"),
        ("1.0", "1e0"),
        ("1", "1e0"),
        ("100", "1e2"),
        ("0", "-0"),
        ("0", "0.0"),
        ("0.0", "-0.0"),
        ("0.1", "0.10"),
        ("0.1", "0.10000000000000000001"),
        ("9007199254740992", "9007199254740993"),
        ("9223372036854775807", "9223372036854775808"),
        ("18446744073709551615", "18446744073709551616"),
        ("18446744073709551616", "18446744073709551617"),
        ("123456789012345678901234567890", "123456789012345678901234567891"),
        ("1e400", "1e401"),
        ("1e400", "-1e400"),
        ("1e400", "null"),
        ("1e-400", "0"),
        ("1e-400", "1e-401"),
        ("1e99999999999", "2e99999999999"),
    ];
    let same = [("1E5", "1e5"), ("1e+5", "1e5")];
    let apart = apart.into_iter().map(|(one, other)| pair(&format!("{one} and {other}"), Apart, one, other));
    let same =
        same.into_iter().map(|(one, other)| pair(&format!("{one} is {other}"), Shared("the same number"), one, other));
    apart.chain(same).collect()
}

fn strings() -> Vec<Row> {
    let apart = [
        (r#""a""#, r#""A""#),
        (r#""a""#, r#""a ""#),
        (r#""a""#, r#""a\u0000""#),
        (r#""a""#, r#""a\n""#),
        (r#""\n""#, r#""\\n""#),
        (r#""\u0061""#, r#""\\u0061""#),
        (r#""%61""#, r#""a""#),
        ("\"\u{e9}\"", "\"e\u{301}\""),
        ("\"\u{ff41}\"", "\"a\""),
        (r#""a""#, "\"a\u{200b}\""),
        (r#""\ud83d""#, r#""\ud83e""#),
        (r#""\ud83d""#, "\"\u{fffd}\""),
        (r#""\ud83d""#, r#""?""#),
        (r#""\ud83d""#, r#""""#),
        (r#""\ud83d""#, "null"),
        (r#""a\ud83d""#, r#""b\ud83d""#),
        (r#""\ud83da""#, r#""\ud83db""#),
        (r#""\ude00""#, r#""\ude01""#),
        (r#""\ude00\ud83d""#, r#""\ud83d\ude00""#),
        (r#""\ud83d\ud83d""#, r#""\ud83d""#),
        (r#"{"\ud83d":1}"#, r#"{"\ud83e":1}"#),
        (r#"["\ud83d","a"]"#, r#"["\ud83d","b"]"#),
    ];
    let same = [
        (r#""\u0061""#, r#""a""#),
        (r#""\/""#, r#""/""#),
        (r#""\u000a""#, r#""\n""#),
        (r#""\u00e9""#, "\"\u{e9}\""),
        (r#""\ud83d\ude00""#, "\"\u{1f600}\""),
        (r#""\ud83d""#, r#""\uD83D""#),
        (r#"{"\u0061":1}"#, r#"{"a":1}"#),
    ];
    let named =
        |one: &str, other: &str, word: &str| format!("{} {word} {}", one.escape_default(), other.escape_default());
    let apart = apart.into_iter().map(|(one, other)| pair(&named(one, other, "and"), Apart, one, other));
    let same = same.into_iter().map(|(one, other)| pair(&named(one, other, "is"), Shared(SAME_JSON), one, other));
    apart.chain(same).collect()
}

/// Members of the body beside the input, and members that stand there twice.
fn members() -> Vec<Row> {
    let beside = |member: &str| asked("\"a\"").replacen('{', &format!("{{{member},"), 1);
    let other = |name: &str, one: &str, other: &str| {
        two(&format!("beside: {name}"), Apart, beside(one), beside(other)).under(BY_MEMBERS, Shared(OTHER_MEMBERS))
    };
    let twice = |one: &str, last: &str| {
        let (one, last) = (asked(one), asked(last));
        format!("{},{}", one.trim_end_matches('}'), last.trim_start_matches('{'))
    };
    let model = |name: &str| asked("\"a\"").replace("\"m\"", name);
    let last = "of members of one name the last counts, and is sent";
    vec![
        other("temperature", "\"temperature\":0", "\"temperature\":1"),
        other("stream", "\"stream\":false", "\"stream\":true"),
        other("dimensions", "\"dimensions\":8", "\"dimensions\":16"),
        other("a lone surrogate", r#""x":"\ud83d""#, r#""x":"\ud83e""#),
        other("a member with an empty name", "\"\":1", "\"\":2"),
        other("null and none", "\"x\":null", "\"x\":{}"),
        other("user", "\"user\":\"u-1\"", "\"user\":\"u-2\"")
            .under(WITHOUT_USER, Shared("the operator leaves /user out")),
        two("models", Apart, model("\"m\""), model("\"n\"")),
        two("models in capitals", Apart, model("\"m\""), model("\"M\"")),
        two("models by number", Apart, model("1"), model("1.0")),
        two("missing and null", Apart, r#"{"model":"m"}"#, r#"{"model":"m","input":null,"messages":null}"#),
        two("names in capitals", Apart, asked("\"a\""), r#"{"MODEL":"m","INPUT":"a","MESSAGES":[]}"#),
        two("twice: the last", Shared(last), twice("\"b\"", "\"a\""), asked("\"a\"")),
        two("twice: the first", Apart, twice("\"b\"", "\"a\""), asked("\"b\"")),
        two("twice: in another order", Apart, twice("\"b\"", "\"a\""), twice("\"a\"", "\"b\"")),
        pair("twice, within", Shared(last), "{\"k\":1,\"k\":2}", "{\"k\":2}"),
        pair("twice, within: the first", Apart, "{\"k\":1,\"k\":2}", "{\"k\":1}"),
    ]
}

/// Lists of items, which two of the protocols split.
fn lists() -> Vec<Row> {
    let list = |items: &[&str]| format!("[{}]", items.iter().map(|item| asked(item)).collect::<Vec<_>>().join(","));
    let (a, b, c) = ("\"a\"", "\"b\"", "\"c\"");
    let inputs = |name: &str, one: &str, other: &str| {
        let body = |input: &str| format!(r#"{{"model":"m","input":{input}}}"#);
        two(name, Apart, body(one), body(other))
            .under(&[EMBEDDINGS], Shared(SAME_ITEM))
            .under(&["lane"], Shared(OTHER_MEMBERS))
    };
    vec![
        two("lists of calls with one in common", Apart, list(&[a, b]), list(&[a, c]))
            .under(BY_MEMBERS, Shared(NO_MEMBERS))
            .under(&[ARRAY], Shared(SAME_ITEM)),
        two("lists of calls with none in common", Apart, list(&[a]), list(&[b, c])).on(&[ARRAY]),
        two("a call and a list of it", Apart, asked(a), list(&[a])).under(&[ARRAY], Shared(SAME_ITEM)),
        inputs("lists of inputs with one in common", "[\"a\",\"b\"]", "[\"a\",\"c\"]"),
        inputs("an input and a list of it", a, "[\"a\"]"),
        inputs("lists of tokens with one in common", "[[1,2],[3]]", "[[1,2],[4]]"),
        pair("lists of inputs with none in common", Apart, "[\"a\"]", "[\"b\",\"c\"]"),
        pair("an empty list and an empty text", Apart, "[]", "\"\""),
    ]
}

/// The bodies of a pair.
type Bodies = (Vec<u8>, Vec<u8>);

/// Bodies that are JSON, but no call.
fn whole_bodies() -> Vec<Row> {
    let table = [
        ("numbers", "1", "2"),
        ("a number, spelled otherwise", "1", "1.0"),
        ("texts", "\"a\"", "\"b\""),
        ("text and a number", "\"1\"", "1"),
        ("true and false", "true", "false"),
        ("nothing and null", "", "null"),
        ("nothing and an object", "", "{}"),
        ("null and an object", "null", "{}"),
        ("lists", "[[1]]", "[[2]]"),
        ("a list and an object", "[[]]", "{}"),
        ("lone surrogates", r#""\ud83d""#, r#""\ud83e""#),
    ];
    let rows = table.into_iter().map(|(name, one, other)| {
        two(&format!("as a whole: {name}"), Apart, one, other).under(BY_MEMBERS, Shared(NO_MEMBERS))
    });
    rows.collect()
}

/// A name, header fields, and two bodies.
pub(super) type Unreadable = (String, Vec<(&'static str, &'static str)>, Vec<u8>, Vec<u8>);

/// Bodies whose input a key can't read.
pub(super) fn unreadable() -> Vec<Unreadable> {
    let (a, b) = (asked("\"a\""), asked("\"b\""));
    let around = |before: &[u8], after: &[u8]| {
        let body = |text: &str| [before, text.as_bytes(), after].concat();
        (body(&a), body(&b))
    };
    let raw = |one: &[u8], other: &[u8]| {
        let body = |piece: &[u8]| {
            let (before, after) = a.split_at(a.find("\"a\"").unwrap_or_default() + 1);
            [before.as_bytes(), piece, &after.as_bytes()[1..]].concat()
        };
        (body(one), body(other))
    };
    let said = |one: &str, other: &str| (asked(one).into_bytes(), asked(other).into_bytes());
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let marked = |text: &[u8]| [&b"\xff\xfe"[..], text].concat();
    let cut = |text: &str| text.as_bytes()[..text.len() - 1].to_vec();
    let table: [(&str, Bodies); 27] = [
        ("a byte order mark", around(b"\xef\xbb\xbf", b"")),
        ("UTF-16", (wide(&a), wide(&b))),
        ("UTF-16 with its mark", (marked(&wide(&a)), marked(&wide(&b)))),
        ("bytes that are no UTF-8", raw(b"\xff", b"\xfe")),
        ("bytes that are no UTF-8, elsewhere", around(b"", b"\xff")),
        ("a byte that is no UTF-8 and its replacement", raw(b"\xff", "\u{fffd}".as_bytes())),
        ("a surrogate in UTF-8", raw(b"\xed\xa0\xbd", b"\xed\xa0\xbe")),
        ("not a number", said("NaN", "Infinity")),
        ("not a number and null", said("NaN", "null")),
        ("infinities", said("Infinity", "-Infinity")),
        ("a comma too many", said("[1,]", "[2,]")),
        ("JSON that breaks off", (cut(&a), cut(&b))),
        ("a comma before the end", (replaced(&a, "]}", "],}"), replaced(&b, "]}", "],}"))),
        ("comments", around(b"/* ? */", b"")),
        ("a comment at the end of a line", around(b"", b" // ?")),
        ("quotes of another kind", said("'a'", "'b'")),
        ("names without quotes", said("{k:1}", "{k:2}")),
        ("zeros in front", said("01", "02")),
        ("a plus in front", said("+1", "+2")),
        ("a point at the end", said("1.", "2.")),
        ("hexadecimal", said("0x1", "0x2")),
        ("a line break in a text", said("\"a\nb\"", "\"a\nc\"")),
        ("an unknown escape", said(r#""\xaa""#, r#""\xbb""#)),
        ("something behind it", around(b"", b" x")),
        ("another value behind it", (format!("{a}{a}").into_bytes(), format!("{a}{b}").into_bytes())),
        ("lines of JSON", (format!("{a}\n{a}\n").into_bytes(), format!("{a}\n{b}\n").into_bytes())),
        ("a NUL behind it", around(b"", b"\0")),
    ];
    let plain = table.into_iter().map(|(name, (one, other))| (name.to_owned(), Vec::new(), one, other));
    let form = ("a form".to_owned(), vec![("content-type", FORM)], b"input=a".to_vec(), b"input=b".to_vec());
    let packed = ("MessagePack".to_owned(), vec![], b"\x81\xa5input\xa1a".to_vec(), b"\x81\xa5input\xa1b".to_vec());
    let text = ("text".to_owned(), vec![], b"a".to_vec(), b"b".to_vec());
    plain.chain([form, packed, text]).chain(encoded()).collect()
}

fn replaced(body: &str, piece: &str, by: &str) -> Vec<u8> {
    body.replace(piece, by).into_bytes()
}

const FORM: &str = "application/x-www-form-urlencoded";

/// Bodies with a content coding.
fn encoded() -> Vec<Unreadable> {
    let (a, b) = (asked("\"a\""), asked("\"b\""));
    let (packed_a, packed_b) = (gzip(a.as_bytes(), 0), gzip(b.as_bytes(), 0));
    let behind = |first: &[u8], more: &[u8]| [first, more].concat();
    let cut = |packed: &[u8]| packed[..packed.len() - 6].to_vec();
    let row = |name: &str, coding: &'static str, one: Vec<u8>, other: Vec<u8>| {
        (format!("coded: {name}"), vec![("content-encoding", coding)], one, other)
    };
    vec![
        row("gzip", "gzip", packed_a.clone(), packed_b.clone()),
        row("x-gzip", "x-gzip", packed_a.clone(), packed_b.clone()),
        row("gzip in gzip", "gzip, gzip", gzip(&packed_a, 0), gzip(&packed_b, 0)),
        row("gzip, broken off", "gzip", cut(&packed_a), cut(&packed_b)),
        row("gzip, a second member", "gzip", behind(&packed_a, &packed_a), behind(&packed_a, &packed_b)),
        row("gzip, something behind it", "gzip", behind(&packed_a, b"x"), behind(&packed_a, b"y")),
        row("no gzip, though it says so", "gzip", a.into_bytes(), b.into_bytes()),
        row("a coding that nobody knows", "x-own", packed_a.clone(), packed_b.clone()),
        row("br, though it is gzip", "br", packed_a.clone(), packed_b.clone()),
        ("coded: gzip that isn't named".to_owned(), vec![], packed_a, packed_b),
    ]
}

/// One member of a gzip file (RFC 1952) with the data as it is, and this time in its head.
fn gzip(data: &[u8], time: u8) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    let head = [0x1f, 0x8b, 8, 0, time, 0, 0, 0, 0, 255, 1];
    let (crc, size) = (crc32(data).to_le_bytes(), u32::from(length).to_le_bytes());
    [&head[..], &length.to_le_bytes(), &(!length).to_le_bytes(), data, &crc, &size].concat()
}

fn crc32(data: &[u8]) -> u32 {
    let byte = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 })
    };
    !data.iter().fold(u32::MAX, byte)
}

fn cannot_be_read() -> Vec<Row> {
    let rows = unreadable().into_iter().map(|(name, fields, one, other)| {
        let request =
            |body: Vec<u8>| fields.iter().fold(post(body), |request, &(name, value)| request.set(name, value));
        row(format!("unreadable: {name}"), Apart, request(one), request(other))
    });
    rows.chain([two("nothing and white space", Apart, "", " ")]).collect()
}

/// The same body, or nearly, with and without a content coding.
fn coded() -> Vec<Row> {
    let same_body = Shared("the same body, decoded");
    let body = asked("\"a\"").into_bytes();
    let packed = |time| post(gzip(&body, time)).set("content-encoding", "gzip");
    let plain = || post(body.clone());
    vec![
        row("coded: gzip and not", same_body, packed(0), plain()),
        row("coded: gzip of another time", same_body, packed(0), packed(1)),
        row("coded: gzip and another body", Apart, packed(0), post(asked("\"b\""))),
        row("coded: gzip that one doesn't name", SentAlike, packed(0), post(gzip(&body, 0))),
        row("coded: two names for it", SentAlike, packed(0), packed(0).set("content-encoding", "br")),
        row("coded: a coding that isn't there", SentAlike, plain(), plain().set("content-encoding", "gzip")),
        row("coded: identity", same_body, plain(), plain().set("content-encoding", "identity")),
        row("a byte order mark and none", same_body, post([&b"\xef\xbb\xbf"[..], &body[..]].concat()), plain()),
    ]
}

/// Fields that carry credentials, each with two values. A policy may leave them out of its key; then they aren't sent.
fn credentials() -> Vec<Row> {
    let table = [
        ("authorization", "Bearer a", "Bearer b"),
        ("authorization", "Basic YTpi", "Basic YTpj"),
        ("cookie", "sid=1", "sid=2"),
        ("cookie", "a=1; b=2", "b=2; a=1"),
        ("x-api-key", "one", "other"),
        ("api-key", "one", "other"),
    ];
    let rows = table.into_iter().flat_map(|(name, one, other)| {
        [
            row(format!("by {name}: {one} and {other}"), Apart, ask().set(name, one), ask().set(name, other)),
            row(format!("by {name}: {one} and none"), Apart, ask().set(name, one), ask()),
        ]
    });
    let moved = row("by another field", Apart, ask().set("x-api-key", "one"), ask().set("api-key", "one"));
    let lines = ask().with("x-api-key", "one").with("x-api-key", "other");
    let second = row("by a second line", Apart, ask().set("x-api-key", "one"), lines);
    rows.chain([moved, second]).map(|row| row.under(POLICIES, SentAlike)).collect()
}

/// Everything else that a client can send to a model: it is in the key, or it isn't sent.
fn fields() -> Vec<Row> {
    let table = [
        ("accept", "application/json", "text/event-stream"),
        ("accept-encoding", "gzip", "br"),
        ("accept-language", "en", "de"),
        ("anthropic-beta", "one", "other"),
        ("anthropic-version", "2023-06-01", "2024-06-01"),
        ("content-language", "en", "de"),
        ("content-type", "application/json", "text/plain"),
        ("forwarded", "for=192.0.2.1", "for=192.0.2.2"),
        ("idempotency-key", "one", "other"),
        ("ocp-apim-subscription-key", "one", "other"),
        ("openai-beta", "assistants=v1", "assistants=v2"),
        ("openai-organization", "one", "other"),
        ("openai-project", "one", "other"),
        ("origin", "https://a.test", "https://b.test"),
        ("prefer", "respond-async", "wait=1"),
        ("proxy-authorization", "Bearer a", "Bearer b"),
        ("referer", "http://a.test/", "http://b.test/"),
        ("user-agent", "one", "other"),
        ("x-amz-security-token", "one", "other"),
        ("x-auth-token", "one", "other"),
        ("x-budget-micro", "1", "2"),
        ("x-debug", "0", "1"),
        ("x-goog-api-key", "one", "other"),
        ("x-goog-user-project", "one", "other"),
        ("x-http-method-override", "GET", "PUT"),
        ("x-model", "small", "large"),
        ("x-priority", "low", "high"),
        ("x-real-ip", "192.0.2.1", "192.0.2.2"),
        ("x-user", "u-1", "u-2"),
        ("x-whatever", "one", "other"),
    ];
    let rows = table.into_iter().flat_map(|(name, one, other)| {
        [
            row(format!("models are sent {name}"), SentAlike, ask().set(name, one), ask().set(name, other)),
            row(format!("models are sent {name} by one"), SentAlike, ask(), ask().set(name, other)),
        ]
    });
    let id = Shared("it numbers the request");
    let numbered = [
        row("models are sent x-request-id", id, ask().set("x-request-id", "one"), ask().set("x-request-id", "other")),
        row("models are sent x-forwarded-for", SentAlike, ask(), ask().set("x-forwarded-for", "192.0.2.1")),
    ];
    rows.chain(numbered).collect()
}

fn tenants() -> Vec<Row> {
    let lower = "the policy takes tenants in lower case";
    let pair = |name: &str, one, other| {
        row(format!("tenants of models: {name}"), SentAlike, ask().tenant(one), ask().tenant(other))
            .under(TENANTS, Apart)
            .under(TENANTS_AS_SENT, Apart)
    };
    vec![
        pair("two", Some("acme"), Some("umbrella")),
        pair("one and none", Some("acme"), None),
        pair("an empty one and none", Some(""), None),
        pair("capitals", Some("acme"), Some("ACME")).under(TENANTS, Shared(lower)),
    ]
}

/// Authorities, paths, queries and methods.
fn targets() -> Vec<Row> {
    let to = |rest: &str| Req::new("POST", rest).set("content-type", "application/json").body(asked("\"a\""));
    let pair = |one: &str, other: &str| row(format!("models at {one} and {other}"), Apart, to(one), to(other));
    let text = |method: &str| Req::new(method, "/v1").body("no JSON");
    vec![
        row("models at another host", Apart, ask(), ask().host("other.test")),
        row("models at another port", Apart, ask(), ask().host("shop.test:8080")),
        pair("/v1", "/v2"),
        pair("/v1", "/V1"),
        pair("/v1", "/v1/"),
        pair("/v1%2Fa", "/v1/a"),
        pair("/v1", "/v1?"),
        pair("/v1?a=1", "/v1?a=2"),
        pair("/v1?api-version=1&a=2", "/v1?a=2&api-version=1").under(SORTING, Shared(SORTED)),
        row("models called by GET and POST", Apart, text("POST"), text("GET")).on(&[PLAIN]),
        row("models asked by PUT and POST", Apart, ask(), Req::new("PUT", "/v1").body(asked("\"a\""))),
        row("models asked by QUERY and POST", Apart, ask(), Req::new("QUERY", "/v1").body(asked("\"a\""))),
        row("models called with nothing, by GET and POST", Apart, Req::new("POST", "/v1"), Req::new("GET", "/v1"))
            .on(&[PLAIN]),
    ]
}

/// Cache directives of clients. The first request of a pair has none.
fn directives() -> Vec<Row> {
    let renewed = Shared("what a request with no-cache brings is stored for all");
    let whatever = Shared("it asks for nothing else");
    let says = |control: &str, there, back| {
        row(format!("one says to a model {control}"), there, ask(), ask().set("cache-control", control)).back(back)
    };
    let for_one = ["private, max-age=600", "no-store", "max-age=0"].into_iter();
    let for_one = for_one.map(|control| {
        row(format!("the same call, and the model says {control}"), Apart, ask(), ask())
            .says(&[("cache-control", control)])
    });
    let says =
        [says("no-store", Apart, Apart), says("no-cache", Apart, renewed), says("only-if-cached", whatever, whatever)];
    says.into_iter().chain(for_one).collect()
}
