//! Where a registry says that a token is to be had (the distribution project's "Token Authentication Specification").

use std::collections::BTreeMap;

/// A registry's demand for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// The URL of what gives it.
    realm: String,
    service: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    /// Reads a field `WWW-Authenticate`, which may have several challenges (RFC 9110, section 11.6.1). Returns the
    /// first of them that is about such a token; `None` if none is.
    pub(super) fn read(field: &str) -> Option<Self> {
        // Of the challenge that is being read, if its scheme is the one.
        let (mut found, mut rest): (Option<BTreeMap<String, String>>, &str) = (None, field);
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            let (word, after) = rest.split_at(rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len()));
            if let Some(text) = after.trim_start_matches([' ', '\t']).strip_prefix('=') {
                let (value, after) = value(text)?;
                if let Some(found) = &mut found {
                    found.entry(word.to_ascii_lowercase()).or_insert(value);
                }
                rest = after;
                continue;
            }
            // A word that has no value is the scheme of another challenge.
            if let Some(challenge) = found.take().and_then(Self::of) {
                return Some(challenge);
            }
            if word.is_empty() {
                return None;
            }
            found = word.eq_ignore_ascii_case("bearer").then(BTreeMap::new);
            rest = after;
        }
    }

    fn of(mut found: BTreeMap<String, String>) -> Option<Self> {
        let realm = found.remove("realm")?;
        Some(Self { realm, service: found.remove("service"), scope: found.remove("scope") })
    }

    /// Returns the URL at which it is to be had; for this scope if the registry names none.
    pub(super) fn url(&self, scope: &str) -> String {
        let joint = if self.realm.contains('?') { '&' } else { '?' };
        let scope = self.scope.as_deref().unwrap_or(scope);
        let mut url = format!("{}{joint}scope={}", self.realm, encoded(scope));
        if let Some(service) = &self.service {
            url.push_str("&service=");
            url.push_str(&encoded(service));
        }
        url
    }
}

/// Reads the value of a parameter, a token or a quoted string. Returns what follows it as well.
fn value(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([',', ' ']).unwrap_or(text.len()));
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

/// Encodes a value for the query of a URL.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_token_is_to_be_had_is_read() {
        for (field, url) in [
            (
                "Bearer realm=\"https://h/t\",service=\"registry.example\",scope=\"repository:a/b:pull\"",
                Some("https://h/t?scope=repository%3Aa%2Fb%3Apull&service=registry.example"),
            ),
            ("bearer  Realm = \"https://h\" ,", Some("https://h?scope=own")),
            ("bearer Realm=\"https://h/t?a=b\", error=\"in\\\"v\"", Some("https://h/t?a=b&scope=own")),
            ("Bearer realm=https://h/t, scope=\"c, d\"", Some("https://h/t?scope=c%2C%20d")),
            ("Bearer service=\"s\"", None),
            ("Bearer realm=\"https://h", None),
            ("Basic realm=\"x\"", None),
            ("Basic realm=\"x\", Bearer realm=\"https://h\"", Some("https://h?scope=own")),
            ("Bearer realm=\"https://h\", Basic realm=\"x\",scope=\"s\"", Some("https://h?scope=own")),
            ("Bearer, Bearer realm=\"https://h\",service=\"s\"", Some("https://h?scope=own&service=s")),
            ("Negotiate, Basic realm=\"a, Bearer realm=b\", x=y", None),
            ("Negotiate YQ==, bearer realm=\"https://h\"", Some("https://h?scope=own")),
            ("", None),
            ("=, =x", None),
            ("Bearer", None),
        ] {
            let found = Challenge::read(field).map(|challenge| challenge.url("own"));
            assert_eq!(found.as_deref(), url, "{field}");
        }
    }
}
