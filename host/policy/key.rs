//! How a key is made: the native defaults, recipes that the host evaluates, and the verdict of a call.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

pub use super::material::{Material, spell};

use super::{Facts, Input, json::Json};
use crate::planted::{Plant, planted};

/// How a policy makes keys, known when it is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyPlan {
    /// By the native default.
    #[default]
    Native,
    /// These parts, evaluated by the host; no call.
    Recipe(Vec<Part>),
    /// A call that is given these inputs.
    Call(Vec<Input>),
}

impl KeyPlan {
    /// Returns a digest of what its material means; `version` names the component and its configuration, which
    /// determine a call's verdict and the features that a recipe reads. Material of plans with different meanings must
    /// not lead to the same key.
    #[must_use]
    pub fn meaning(&self, version: &str) -> [u8; 32] {
        let meaning = match self {
            Self::Native => String::new(),
            Self::Recipe(parts) if parts.iter().any(|part| matches!(part.input, Input::Feature(_))) => {
                format!("{version} {parts:?}")
            }
            Self::Recipe(parts) => format!("{parts:?}"),
            Self::Call(inputs) => format!("{version} {inputs:?}"),
        };
        *blake3::hash(meaning.as_bytes()).as_bytes()
    }

    /// Returns its inputs.
    #[must_use]
    pub fn inputs(&self) -> Vec<Input> {
        match self {
            Self::Native => Vec::new(),
            Self::Recipe(parts) => parts.iter().map(|part| part.input.clone()).collect(),
            Self::Call(inputs) => inputs.clone(),
        }
    }
}

/// One part of a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The input.
    pub input: Input,
    /// Its transform.
    pub transform: Transform,
}

/// The change that a recipe makes to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// Nothing.
    Identity,
    /// ASCII letters become lower case.
    Lowercase,
    /// `b=2&&a=1` becomes `a=1&b=2`: parameters sorted by name, the order of equal names kept, empty ones dropped.
    SortQuery,
    /// Everything from the first `?` on is dropped.
    DropQuery,
    /// JSON without insignificant white space, members sorted; what isn't JSON, or names a member twice, stays as it
    /// is.
    JsonCanonical,
}

/// Evaluates a recipe.
pub fn evaluate(recipe: &[Part], facts: &Facts<'_>, material: &mut impl Material) {
    for part in recipe {
        let value = facts.read(&part.input);
        material.part(value.map(|value| part.transform.apply(value)).as_deref());
    }
}

/// Writes the native key of an `http` route: method, scheme, authority, path and query. HEAD shares GET's entry.
pub fn http_default(facts: &Facts<'_>, material: &mut impl Material) {
    http_path(facts, material);
    let query = facts.request().target.query().filter(|_| !planted(Plant::KeyWithoutQuery));
    material.part(query.map(str::as_bytes));
}

/// Writes what the native key of an `http` route has before the query.
pub fn http_path(facts: &Facts<'_>, material: &mut impl Material) {
    let request = facts.request();
    material.part(Some(shared_method(&request.method).as_str().as_bytes()));
    material.part(Some(request.scheme.as_str().as_bytes()));
    material.part(Some(request.authority().as_bytes()));
    material.part(Some(request.target.path().as_bytes()));
}

/// Writes the native key of an item: method, target, the header fields that are sent with it, and its canonical form.
/// Credentials are among the fields, so that no client is served what another paid for.
pub fn infer_default(facts: &Facts<'_>, sent: &[HeaderName], canonical: &[u8], material: &mut impl Material) {
    let request = facts.request();
    material.part(Some(shared_method(&request.method).as_str().as_bytes()));
    material.part(Some(request.scheme.as_str().as_bytes()));
    material.part(Some(request.authority().as_bytes()));
    material.part(Some(request.target.as_str().as_bytes()));
    header_fields(&request.headers, sent, material);
    material.part(Some(canonical));
}

/// Writes header fields by name and value. The lines of one are kept apart: some readers see only the first.
pub fn header_fields(headers: &HeaderMap, names: &[HeaderName], material: &mut impl Material) {
    for name in names {
        let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        material.part(Some(name.as_str().as_bytes()));
        material.part((!lines.is_empty()).then(|| lines.join(&b'\n')).as_deref());
    }
}

/// Returns the method whose entry a request may use.
#[must_use]
pub fn shared_method(method: &Method) -> &Method {
    if method == Method::HEAD { &Method::GET } else { method }
}

impl Transform {
    /// Returns the contract's word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Lowercase => "lowercase",
            Self::SortQuery => "sort-query",
            Self::DropQuery => "drop-query",
            Self::JsonCanonical => "json-canonical",
        }
    }

    /// Applies the transform; borrows where nothing changes.
    #[must_use]
    pub fn apply(self, value: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
        match self {
            Self::Identity => value,
            Self::Lowercase if value.iter().any(u8::is_ascii_uppercase) => Cow::Owned(value.to_ascii_lowercase()),
            Self::Lowercase => value,
            Self::SortQuery => sort_query(value),
            Self::DropQuery => drop_query(value),
            Self::JsonCanonical => match Json::read(&value) {
                Some(json) => Cow::Owned(json.to_string().into_bytes()),
                None => value,
            },
        }
    }
}

fn sort_query(query: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let pairs = || query.split(|byte| *byte == b'&');
    // None and not an empty name: to compare with an empty slice, whose address is mapped nowhere, took 70 ns.
    let mut name = None;
    let mut follows = |pair| {
        let before = name.replace(parameter(pair));
        before <= name
    };
    if pairs().all(|pair| !pair.is_empty() && follows(pair)) {
        return query;
    }
    let mut sorted: Vec<&[u8]> = pairs().filter(|pair| !pair.is_empty()).collect();
    sorted.sort_by_key(|pair| parameter(pair));
    Cow::Owned(sorted.join(&b'&'))
}

/// Returns the name of a parameter.
fn parameter(pair: &[u8]) -> &[u8] {
    let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
    &pair[..end]
}

fn drop_query(value: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    match (value.iter().position(|byte| *byte == b'?'), value) {
        (None, value) => value,
        (Some(end), Cow::Borrowed(bytes)) => Cow::Borrowed(&bytes[..end]),
        (Some(end), Cow::Owned(mut bytes)) => {
            bytes.truncate(end);
            Cow::Owned(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Notes, facts::tests::request},
        *,
    };

    #[derive(Default, PartialEq, Eq, Debug)]
    struct List(Vec<Option<Vec<u8>>>);

    impl Material for List {
        fn part(&mut self, part: Option<&[u8]>) {
            self.0.push(part.map(<[u8]>::to_vec));
        }
    }

    #[test]
    fn transforms() {
        use Transform::*;
        for (transform, before, after) in [
            (Identity, "A b", "A b"),
            (Lowercase, "EN-gb", "en-gb"),
            (Lowercase, "en", "en"),
            (SortQuery, "b=2&a=1", "a=1&b=2"),
            (SortQuery, "b=2&&a=9&a=1&", "a=9&a=1&b=2"),
            (SortQuery, "a=1&b=2", "a=1&b=2"),
            (SortQuery, "", ""),
            (DropQuery, "/p?x=1?2", "/p"),
            (DropQuery, "/p", "/p"),
            (JsonCanonical, "{\"b\": 1, \"a\": [1, 2]}", "{\"a\":[1,2],\"b\":1}"),
            (JsonCanonical, "{broken", "{broken"),
            (JsonCanonical, "{\"a\": 1, \"a\": 2}", "{\"a\": 1, \"a\": 2}"),
            (JsonCanonical, "[\"\\uD83D\"]", "[\"\\ud83d\"]"),
        ] {
            let result = transform.apply(Cow::Borrowed(before.as_bytes()));
            assert_eq!(String::from_utf8_lossy(&result), after, "{transform:?} of {before:?}");
        }
    }

    #[test]
    fn head_and_get_share_a_key_and_a_missing_query_is_not_an_empty_one() {
        let keyed = |method, target| {
            let request = request(method, target, &[]);
            let mut list = List::default();
            http_default(&Facts::new(&request, None, &Notes::default()), &mut list);
            list
        };
        assert_eq!(keyed(Method::HEAD, "/a"), keyed(Method::GET, "/a"));
        assert_ne!(keyed(Method::GET, "/a"), keyed(Method::GET, "/a?"));
        assert_ne!(keyed(Method::GET, "/a"), keyed(Method::POST, "/a"));
    }

    #[test]
    fn an_item_is_keyed_by_all_that_is_sent_with_it() {
        let keyed = |method, headers: &[(&'static str, &'static str)]| {
            let request = request(method, "/v1/embeddings", headers);
            let mut sent: Vec<HeaderName> = request.headers.keys().cloned().collect();
            sent.sort_by(|a, b| a.as_str().cmp(b.as_str()));
            let mut list = List::default();
            infer_default(&Facts::new(&request, None, &Notes::default()), &sent, b"{}", &mut list);
            list
        };
        let lists = [
            keyed(Method::GET, &[]),
            keyed(Method::POST, &[]),
            keyed(Method::POST, &[("authorization", "Bearer a")]),
            keyed(Method::POST, &[("authorization", "Bearer b")]),
            keyed(Method::POST, &[("x-api-key", "Bearer a")]),
            keyed(Method::POST, &[("accept", "a"), ("accept", "b")]),
            keyed(Method::POST, &[("accept", "a, b")]),
            keyed(Method::POST, &[("accept", "a"), ("x-a", "b")]),
        ];
        for (at, list) in lists.iter().enumerate() {
            assert!(!lists[..at].contains(list), "{list:?}");
        }
        let (one, other) = ([("a", "1"), ("b", "2")], [("b", "2"), ("a", "1")]);
        assert_eq!(keyed(Method::POST, &one), keyed(Method::POST, &other));
    }

    #[test]
    fn a_recipe_reads_in_order_and_keeps_missing_apart_from_empty() {
        let request = request(Method::GET, "/a?Q=1", &[("x-tenant", "ACME")]);
        let recipe = [
            Part { input: Input::Header(HeaderName::from_static("x-tenant")), transform: Transform::Lowercase },
            Part { input: Input::Header(HeaderName::from_static("x-none")), transform: Transform::Lowercase },
        ];
        let mut list = List::default();
        evaluate(&recipe, &Facts::new(&request, None, &Notes::default()), &mut list);
        assert_eq!(list.0, [Some(b"acme".to_vec()), None]);
    }
}
