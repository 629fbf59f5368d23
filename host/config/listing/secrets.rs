//! What of a configuration is shown to nobody.

use serde_json::{Map, Value};

use super::values::text;

/// The text that takes the place of a secret.
pub const HIDDEN: &str = "***";

/// Pieces of the names of members whose text is a secret, wherever they stand.
const SECRET_NAMES: [&str; 10] =
    ["secret", "token", "password", "passwd", "credential", "authorization", "api_key", "api-key", "apikey", "private"];

/// Whole words of such names where nobody but a policy knows them, in the singular. In the tables of this program `key`
/// is a file.
const SECRET_WORDS: [&str; 19] = [
    "apikey",
    "auth",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "hmac",
    "jwt",
    "key",
    "oidc",
    "pass",
    "passphrase",
    "psk",
    "pwd",
    "session",
    "sid",
    "sig",
    "signature",
    "signing",
];

/// The member of a policy whose members are the policy's own.
const FREE: &str = "config";

/// Returns a listing, or a part of one, without secrets: what a URL has before `@`, and text under a name that is one
/// of a secret.
#[must_use]
pub fn without_secrets(value: Value) -> Value {
    hide(value, Place::default())
}

/// Returns the value of a member of this name without secrets.
pub(in crate::config) fn member_without_secrets(name: &str, value: Value) -> Value {
    hide(value, Place::default().member(name))
}

/// Members whose own members are header fields, or have them.
const FIELD_TABLES: [&str; 3] = ["headers", "request_headers", "response_headers"];

/// Where a value stands.
#[derive(Clone, Copy, Default)]
struct Place {
    /// Under a name of a secret.
    is_hidden: bool,
    /// In a table whose names aren't this program's.
    is_free: bool,
    /// In a table whose names are those of header fields.
    has_fields: bool,
}

impl Place {
    fn member(self, name: &str) -> Self {
        let is_secret =
            is_secret(name) || self.is_free && has_secret_word(name) || self.has_fields && is_secret_field(name);
        Self {
            is_hidden: self.is_hidden || is_secret,
            is_free: self.is_free || name == FREE,
            has_fields: self.has_fields || FIELD_TABLES.contains(&name),
        }
    }
}

fn hide(value: Value, place: Place) -> Value {
    match value {
        Value::String(_) if place.is_hidden => text(HIDDEN),
        Value::String(given) => Value::String(without_userinfo(given)),
        Value::Array(items) => Value::Array(items.into_iter().map(|item| hide(item, place)).collect()),
        Value::Object(members) => {
            let hides_tenants = hides_tenants(&members);
            let hidden = |(name, value): (String, Value)| {
                if hides_tenants && name == TENANT_WEIGHTS {
                    return (name, text(HIDDEN));
                }
                let place = place.member(&name);
                (name, hide(value, place))
            };
            Value::Object(members.into_iter().map(hidden).collect())
        }
        other => other,
    }
}

/// Whether text under this name is a secret. Names of files aren't.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !name.ends_with("_file") && SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

/// Whether a name has a word of those of secrets. Names of files have none.
fn has_secret_word(name: &str) -> bool {
    let words = words(name);
    let is_secret = |word: &String| {
        SECRET_WORDS.contains(&word.strip_suffix('s').unwrap_or(word)) || SECRET_WORDS.contains(&word.as_str())
    };
    words.last().is_none_or(|last| last != "file") && words.iter().any(is_secret)
}

/// Returns the words of a name in lower case, be it written `like_this`, `like-this` or `likeThis`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_within = false;
    for letter in name.chars() {
        if !letter.is_alphanumeric() || is_within && letter.is_uppercase() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| letter.is_alphanumeric()) {
            word.extend(letter.to_lowercase());
        }
        is_within = letter.is_lowercase() || letter.is_numeric();
    }
    words
}

/// The member of a route whose members are named by its tenants.
pub(in crate::config) const TENANT_WEIGHTS: &str = "tenant_weights";

/// Whether the names of a route's tenants are secrets: they are the values of a header field with credentials.
pub(in crate::config) fn hides_tenants(route: &Map<String, Value>) -> bool {
    let tenant = route.get("tenant").and_then(Value::as_str);
    let field = tenant.and_then(|tenant| tenant.strip_prefix("header:"));
    field.is_some_and(is_secret_field)
}

/// Whether a header field or a query parameter holds credentials, by its name: then its value is shown to nobody, be it
/// in a configuration or in a request that is explained.
#[must_use]
pub fn is_secret_field(name: &str) -> bool {
    const PIECES: [&str; 8] = ["assertion", "auth", "cookie", "jwt", "key", "oidc", "session", "signature"];
    let lower = name.to_ascii_lowercase();
    is_secret(name) || has_secret_word(name) || PIECES.iter().any(|piece| lower.contains(piece))
}

/// Hides what stands between `://` and the last `@`: a password may hold any character.
pub(in crate::config) fn without_userinfo(given: String) -> String {
    let Some((scheme, rest)) = given.split_once("://") else { return given };
    match rest.rsplit_once('@') {
        Some((_, place)) => format!("{scheme}://{HIDDEN}@{place}"),
        None => given,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_left_out_wherever_they_stand() {
        let table = [
            (json!({"url": "redis://:hunter2@10.0.0.1:6379/0"}), json!({"url": "redis://***@10.0.0.1:6379/0"})),
            (json!({"url": "rediss://user:pa/s@s@h"}), json!({"url": "rediss://***@h"})),
            (json!({"url": "redis://h:6379"}), json!({"url": "redis://h:6379"})),
            (json!({"Api_Key": "a", "tokens_max": 5}), json!({"Api_Key": "***", "tokens_max": 5})),
            (json!({"a": [{"passwords": ["x", {"y": "z"}]}]}), json!({"a": [{"passwords": ["***", {"y": "***"}]}]})),
            (json!({"tenant_header": "x-tenant"}), json!({"tenant_header": "x-tenant"})),
            (
                json!({"tenant": "header:authorization", "tenant_weights": {"Basic YTpi": 4}}),
                json!({"tenant": "header:authorization", "tenant_weights": "***"}),
            ),
            (
                json!({"tenant": "header:x-tenant", "tenant_weights": {"gold": 4}}),
                json!({"tenant": "header:x-tenant", "tenant_weights": {"gold": 4}}),
            ),
            (
                json!({"request_headers": {"set": {"Authorization": "Basic YTpi", "x-origin-key": "k", "x-a": "b"}}}),
                json!({"request_headers": {"set": {"Authorization": "***", "x-origin-key": "***", "x-a": "b"}}}),
            ),
            (
                json!({"headers": {"x-api-key": "k", "x-beta": true}, "remove": ["cookie"]}),
                json!({"headers": {"x-api-key": "***", "x-beta": true}, "remove": ["cookie"]}),
            ),
            (json!({"token_file": "t", "key": "tls/key.pem"}), json!({"token_file": "t", "key": "tls/key.pem"})),
            (
                json!({"tenant": "header:x-session", "tenant_weights": {"s-1": 4}}),
                json!({"tenant": "header:x-session", "tenant_weights": "***"}),
            ),
            // Whole words of names that are a policy's own.
            (
                json!({"policy": {"p": {"file": "p.wasm", "config": {"key": "k", "signing_key": "k", "adminPwd": "p",
                    "cookies": ["c"], "x-bearer": "b", "keyboard": "us", "monkey": "m", "key_file": "f", "keys": {"a": "b"},
                    "deep": [{"session-id": "s", "n": "n"}], "keep": "kept", "key_count": 3}}}}),
                json!({"policy": {"p": {"file": "p.wasm", "config": {"key": "***", "signing_key": "***", "adminPwd": "***",
                    "cookies": ["***"], "x-bearer": "***", "keyboard": "us", "monkey": "m", "key_file": "f",
                    "keys": {"a": "***"}, "deep": [{"session-id": "***", "n": "n"}], "keep": "kept", "key_count": 3}}}}),
            ),
        ];
        for (given, shown) in table {
            assert_eq!(without_secrets(given.clone()), shown, "{given}");
        }
        assert_eq!(member_without_secrets("token", json!("a")), json!("***"));
        assert_eq!(member_without_secrets("config", json!({"pwd": "a"})), json!({"pwd": "***"}));
        assert_eq!(member_without_secrets("key", json!("tls/key.pem")), json!("tls/key.pem"));
    }
}
