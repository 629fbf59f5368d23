//! The inputs of a key by name and value, so that people can read them and those of two keys can be compared. A
//! credential is compared and never shown, by the rule of the configuration's listing; what is long, and what is of a body,
//! is shown by its digest.

use std::{borrow::Cow, fmt};

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{advice::Advice, forwarding, route::Route};
use crate::{
    cache::vary,
    config::{HIDDEN, is_secret_field},
    message::{RequestHead, target},
    policy::{Facts, Hook, Input as Read, KeyPlan, Policy, consult, fields, key},
    report::WhyInput,
};

/// Bytes of a value that is shown as text.
const TEXT_BYTES_MAX: usize = 128;

/// Bytes of a value that are hashed for its digest, so that a large body costs no more than a small one.
const HASHED_BYTES_MAX: usize = 16 << 10;

/// Inputs that are listed of one key; further ones are left out.
const INPUTS_MAX: usize = 48;

/// One input of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) name: Cow<'static, str>,
    value: Value,
}

/// An input's value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Absent,
    Text(Box<str>),
    /// A query with secrets in it: as it is shown, and the digest of all of it.
    Partly(Box<str>, Secret),
    Digest {
        bytes: usize,
        digest: Digest,
    },
    Hidden(Secret),
}

/// The beginning of a blake3, of the value's beginning and length.
type Digest = [u8; 8];

/// The digest of a credential.
#[derive(Clone, PartialEq, Eq)]
struct Secret(Digest);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// How a value may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    AsText,
    /// As text, the values of parameters that are secrets left out.
    AsQuery,
    ByDigest,
    Never,
}

impl Value {
    fn of(value: Option<&[u8]>, shown: Shown) -> Self {
        let Some(bytes) = value else { return Self::Absent };
        if shown == Shown::AsQuery
            && let Cow::Owned(text) = without_secrets(&String::from_utf8_lossy(bytes))
        {
            let all = Secret(digest(bytes));
            return if text.len() <= TEXT_BYTES_MAX { Self::Partly(text.into(), all) } else { Self::Hidden(all) };
        }
        match shown {
            Shown::Never => Self::Hidden(Secret(digest(bytes))),
            Shown::AsText | Shown::AsQuery if bytes.len() <= TEXT_BYTES_MAX => match std::str::from_utf8(bytes) {
                Ok(text) => Self::Text(text.into()),
                Err(_) => Self::Digest { bytes: bytes.len(), digest: digest(bytes) },
            },
            Shown::AsText | Shown::AsQuery | Shown::ByDigest => {
                Self::Digest { bytes: bytes.len(), digest: digest(bytes) }
            }
        }
    }
}

impl Input {
    /// Returns an input that is missing.
    pub(super) fn absent(name: Cow<'static, str>) -> Self {
        Self { name, value: Value::Absent }
    }

    /// Whether both have the same value.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        self.value == other.value
    }

    /// Whether it has a value.
    pub(super) fn is_there(&self) -> bool {
        self.value != Value::Absent
    }

    /// Returns it as reports have it.
    pub(super) fn report(&self) -> WhyInput {
        let name = self.name.clone().into_owned();
        match &self.value {
            Value::Absent => WhyInput { name, ..WhyInput::default() },
            Value::Text(text) | Value::Partly(text, _) => {
                WhyInput { name, value: Some(text.to_string()), ..WhyInput::default() }
            }
            Value::Digest { bytes, digest } => {
                let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                WhyInput { name, digest: Some(format!("{digits}, {bytes} bytes")), ..WhyInput::default() }
            }
            Value::Hidden(_) => WhyInput { name, hidden: true, ..WhyInput::default() },
        }
    }
}

/// Returns a query without the values of parameters that are secrets; borrowed if it has none.
fn without_secrets(query: &str) -> Cow<'_, str> {
    let hidden = |parameter: &str| {
        let (name, _) = parameter.split_once('=')?;
        let decoded: Vec<u8> = target::decoded_name(name).collect();
        is_secret_field(&String::from_utf8_lossy(&decoded)).then(|| format!("{name}={HIDDEN}"))
    };
    if !query.split('&').any(|parameter| hidden(parameter).is_some()) {
        return Cow::Borrowed(query);
    }
    let shown: Vec<String> = query.split('&').map(|one| hidden(one).unwrap_or_else(|| one.to_owned())).collect();
    Cow::Owned(shown.join("&"))
}

fn digest(bytes: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes[..bytes.len().min(HASHED_BYTES_MAX)]);
    let mut digest = Digest::default();
    let length = digest.len();
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..length]);
    digest
}

/// A list of inputs in the making.
#[derive(Default)]
struct List(Vec<Input>);

impl List {
    fn add(&mut self, name: impl Into<Cow<'static, str>>, value: Option<&[u8]>, shown: Shown) {
        if self.0.len() < INPUTS_MAX {
            self.0.push(Input { name: name.into(), value: Value::of(value, shown) });
        }
    }

    fn text(&mut self, name: &'static str, value: Option<&str>) {
        self.add(name, value.map(str::as_bytes), Shown::AsText);
    }

    fn query(&mut self, value: Option<&str>) {
        self.add("query-all", value.map(str::as_bytes), Shown::AsQuery);
    }

    fn header(&mut self, name: &HeaderName, headers: &HeaderMap) {
        let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        let value = (!lines.is_empty()).then(|| lines.join(&b'\n'));
        self.add(format!("header({name})"), value.as_deref(), shown_of_field(name));
    }
}

const fn shown_if(is_secret: bool) -> Shown {
    if is_secret { Shown::Never } else { Shown::AsText }
}

fn is_secret(name: &HeaderName) -> bool {
    fields::is_credential(name) || is_secret_field(name.as_str())
}

fn shown_of_field(name: &HeaderName) -> Shown {
    shown_if(is_secret(name))
}

/// Returns the inputs of a request's key once it is made. `content` is what the native key of an item, or of a QUERY, has
/// of the body.
pub(super) fn of(route: &Route, advice: &Advice, facts: &Facts<'_>, content: Option<&[u8]>) -> Vec<Input> {
    let (mut list, head) = (List::default(), facts.request());
    let maker = advice.key_maker();
    list.add("route", Some(route.config.name.as_bytes()), Shown::AsText);
    list.add("made-by", Some(maker.map_or("native", |maker| &**maker.label()).as_bytes()), Shown::AsText);
    if let Some(label) = advice.on_trial() {
        list.add("canary", Some(label.as_bytes()), Shown::AsText);
    }
    if let Some(received) = route.received(head) {
        list.text("path-as-received", Some(received.path()));
    }
    list.text("method", Some(key::shared_method(&head.method).as_str()));
    match maker {
        Some(maker) => by_policy(&mut list, route, &**maker, facts),
        None => natively(&mut list, route, head, content),
    }
    list.0
}

fn natively(list: &mut List, route: &Route, head: &RequestHead, content: Option<&[u8]>) {
    if route.config.key_client_region {
        list.text("client-region", head.near.client.as_deref());
    }
    list.text("scheme", Some(head.scheme.as_str()));
    list.text("authority", Some(head.authority()));
    list.text("path", Some(head.target.path()));
    list.query(head.target.query());
    if route.infers() {
        for name in forwarding::sent(route, None, &head.headers) {
            list.header(&name, &head.headers);
        }
    }
    if route.infers() || head.method == Method::QUERY {
        list.add("body", content, Shown::ByDigest);
    }
}

fn by_policy(list: &mut List, route: &Route, policy: &dyn Policy, facts: &Facts<'_>) {
    let head = facts.request();
    if route.infers() {
        let is_read = |wanted: &Read| consult::key_reads(policy).any(|input| input == wanted);
        let target = [
            (Read::Scheme, "scheme", Some(head.scheme.as_str())),
            (Read::Authority, "authority", Some(head.authority())),
            (Read::Path, "path", Some(head.target.path())),
        ];
        for (_, name, value) in target.into_iter().filter(|(input, ..)| !is_read(input)) {
            list.text(name, value);
        }
        if !is_read(&Read::QueryAll) {
            list.query(head.target.query());
        }
        let sent = forwarding::sent(route, Some(policy), &head.headers);
        for name in sent.iter().filter(|name| !forwarding::reads(policy, name)) {
            list.header(name, &head.headers);
        }
    }
    match policy.key_plan() {
        KeyPlan::Native => {}
        KeyPlan::Recipe(parts) => {
            for part in parts {
                let value = facts.read(&part.input).map(|value| part.transform.apply(value));
                let name = match part.transform {
                    key::Transform::Identity => part.input.to_string(),
                    transform => format!("{} | {}", part.input, transform.name()),
                };
                list.add(name, value.as_deref(), shown_of(policy, &part.input));
            }
        }
        KeyPlan::Call(inputs) => {
            for input in inputs {
                list.add(input.to_string(), facts.read(input).as_deref(), shown_of(policy, input));
            }
        }
    }
    if facts.body().is_some_and(|body| !body.is_empty())
        && consult::key_reads(policy).any(|input| facts.misreads(input))
    {
        list.add("body-as-it-came", Some(&facts.raw_digest()), Shown::ByDigest);
    }
}

fn shown_of(policy: &dyn Policy, input: &Read) -> Shown {
    match input {
        Read::Header(name) => shown_of_field(name),
        Read::Cookie(_) => Shown::Never,
        Read::Query(name) => shown_if(is_secret_field(name)),
        Read::QueryAll => Shown::AsQuery,
        // It may say what it was made of.
        Read::Feature(_) => {
            let made_of = policy.reads(Hook::Features).unwrap_or_default();
            let may_tell = |input: &Read| match input {
                Read::Header(name) => is_secret(name),
                Read::Query(name) => is_secret_field(name),
                Read::Cookie(_) | Read::QueryAll => true,
                other => other.needs_body(),
            };
            if made_of.iter().any(may_tell) { Shown::Never } else { Shown::AsText }
        }
        Read::BodyLength | Read::BodyTokens(..) => Shown::AsText,
        other if other.needs_body() => Shown::ByDigest,
        _ => Shown::AsText,
    }
}

/// Returns the fields of a request that a stored response varies by.
pub(super) fn of_variant(head: &RequestHead, names: &[HeaderName]) -> Vec<Input> {
    let mut list = List::default();
    for name in names {
        let value = vary::normalised(head, name);
        list.add(format!("vary({name})"), value.as_deref(), shown_of_field(name));
    }
    list.0
}

/// An input that two keys have of different values.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    pub(super) here: Input,
    pub(super) there: Input,
}

/// Returns the inputs that differ.
pub(super) fn differences(here: &[Input], there: &[Input]) -> Vec<Difference> {
    let of = |inputs: &[Input], name: &str| inputs.iter().find(|input| input.name == name).cloned();
    let changed = here.iter().filter_map(|one| {
        let other = of(there, &one.name).unwrap_or_else(|| Input::absent(one.name.clone()));
        (!one.agrees(&other)).then(|| Difference { here: one.clone(), there: other })
    });
    let further = there.iter().filter(|other| other.is_there() && of(here, &other.name).is_none());
    let further = further.map(|other| Difference { here: Input::absent(other.name.clone()), there: other.clone() });
    changed.chain(further).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{self, Mode, Protocol},
        policy::{Notes, facts::tests::request},
    };

    fn route(mode: Mode) -> Route {
        let config = config::Route { mode, ..config::Route::new("r", "p") };
        Route::nowhere(config)
    }

    fn inputs(mode: Mode, target: &'static str, headers: &[(&'static str, &'static str)], body: &[u8]) -> Vec<Input> {
        let (head, notes) = (request(Method::POST, target, headers), Notes::default());
        of(&route(mode), &Advice::default(), &Facts::new(&head, None, &notes), Some(body))
    }

    #[test]
    fn what_differs_is_named() {
        let here = inputs(Mode::Http, "/a?x=1", &[], b"");
        for (target, wanted) in
            [("/a?x=1", &[][..]), ("/a?x=2", &["query-all"]), ("/a", &["query-all"]), ("/b", &["path", "query-all"])]
        {
            let differs = differences(&here, &inputs(Mode::Http, target, &[], b""));
            assert_eq!(differs.iter().map(|one| &*one.here.name).collect::<Vec<_>>(), wanted, "{target}");
        }
    }

    #[test]
    fn a_query_differs_by_its_content() {
        let of = |method, content: &[u8]| {
            let (head, notes) = (request(method, "/a", &[]), Notes::default());
            super::of(&route(Mode::Http), &Advice::default(), &Facts::new(&head, None, &notes), Some(content))
        };
        for (method, wanted) in [(Method::QUERY, &["body"][..]), (Method::GET, &[])] {
            let differs = differences(&of(method.clone(), &[1; 32]), &of(method.clone(), &[2; 32]));
            assert_eq!(differs.iter().map(|one| &*one.here.name).collect::<Vec<_>>(), wanted, "{method}");
        }
    }

    #[test]
    fn credentials_and_bodies_are_compared_and_not_shown() {
        let plain = Mode::Infer(Protocol::Plain);
        let of = |token, body: &[u8]| inputs(plain, "/a", &[("authorization", token), ("x-a", "1")], body);
        let here = of("Bearer hush", b"private");
        let shown = serde_json::to_string(&here.iter().map(Input::report).collect::<Vec<_>>()).unwrap();
        assert!(
            !shown.contains("hush") && !shown.contains("private") && !format!("{here:?}").contains("hush"),
            "{shown}"
        );
        let differs = |there: &[Input]| {
            let differs = differences(&here, there);
            differs.iter().map(|one| one.here.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(differs(&of("Bearer other", b"private")), ["header(authorization)"]);
        assert_eq!(differs(&of("Bearer hush", b"PRIVATE")), ["body"]);
        let further = inputs(plain, "/a", &[("authorization", "Bearer hush"), ("x-a", "1"), ("x-b", "2")], b"private");
        assert_eq!(differs(&further), ["header(x-b)"]);
    }

    #[test]
    fn what_a_configurations_listing_hides_is_hidden_here() {
        let shown = |inputs: &[Input]| serde_json::to_string(&inputs.iter().map(Input::report).collect::<Vec<_>>());
        let plain = Mode::Infer(Protocol::Plain);
        for name in [
            "authorization",
            "cookie",
            "x-api-key",
            "x-session",
            "x-signing",
            "x-signature",
            "x-psk",
            "x-pwd",
            "x-hmac",
            "x-private-id",
            "x-credential",
            "x-passphrase",
            "x-user-jwt",
            "x-assertion",
        ] {
            let head = [(name, "hush")];
            assert!(is_secret(&HeaderName::from_static(name)) && is_secret_field(name), "{name}");
            let said = shown(&inputs(plain, "/a", &head, b"")).unwrap();
            assert!(!said.contains("hush"), "{name}: {said}");
        }
        let (here, there) =
            (inputs(Mode::Http, "/a?x=1&%74oken=hush&sig=hush2", &[], b""), "/a?x=1&%74oken=hush&sig=other");
        let said = shown(&here).unwrap();
        assert!(!said.contains("hush") && said.contains("x=1&") && said.contains("oken=***&sig=***"), "{said}");
        assert!(!format!("{here:?}").contains("hush"));
        let differs = differences(&here, &inputs(Mode::Http, there, &[], b""));
        assert_eq!(differs.iter().map(|one| &*one.here.name).collect::<Vec<_>>(), ["query-all"], "and compared");
        let long: &'static str = format!("/a?token=hush&x={}", "y".repeat(TEXT_BYTES_MAX)).leak();
        let hidden = inputs(Mode::Http, long, &[], b"").iter().map(Input::report).find(|one| one.name == "query-all");
        assert!(hidden.unwrap().hidden);
    }

    #[test]
    fn a_key_with_many_inputs_is_listed_in_part() {
        let names: Vec<&'static str> = (0..100).map(|n| &*format!("x-{n}").leak()).collect();
        let headers: Vec<(&'static str, &'static str)> = names.into_iter().map(|name| (name, "1")).collect();
        assert_eq!(inputs(Mode::Infer(Protocol::Plain), "/a", &headers, b"").len(), INPUTS_MAX);
    }
}
