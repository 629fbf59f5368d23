//! Request header fields of items, by their effect on a response.

use http::HeaderName;

/// Fields that don't affect the response: how the message is framed, what a cache may do with it, its intermediaries,
/// its names in logs. They are neither sent with an item that others may share nor part of its key.
const IGNORABLE: [&str; 52] = [
    // The message, and what the node itself sets.
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    // Caching, conditions and ranges, which the node handles.
    "cache-control",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "pragma",
    "range",
    // The client's program.
    "date",
    "dnt",
    "idempotency-key",
    "priority",
    "upgrade-insecure-requests",
    "user-agent",
    // Intermediaries between it and the node.
    "cdn-loop",
    "cf-connecting-ip",
    "cf-ipcountry",
    "cf-ray",
    "cf-visitor",
    "fastly-client-ip",
    "forwarded",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-real-ip",
    "x-request-start",
    // The names of one request in logs and traces.
    "b3",
    "baggage",
    "elastic-apm-traceparent",
    "grpc-trace-bin",
    "request-id",
    "sentry-trace",
    "traceparent",
    "tracestate",
    "uber-trace-id",
    "x-amzn-trace-id",
    "x-client-request-id",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-ms-client-request-id",
    "x-request-id",
    "x-trace-id",
];

/// Prefixes of further such fields.
const IGNORABLE_PREFIXES: [&str; 6] = ["sec-", "x-b3-", "x-datadog-", "x-envoy-", "x-forwarded-", "x-stainless-"];

/// Fields that are sent although no key has them: the names of the request in traces, and the client's directives for
/// caches. Neither affects the response.
const CARRIED: [&str; 5] = ["cache-control", "pragma", "traceparent", "tracestate", "x-request-id"];

/// Fields that affect a model's response beside its credentials.
const CONTEXT: [&str; 4] = ["accept", "content-encoding", "content-type", "x-goog-user-project"];

/// Prefixes of further such fields.
const CONTEXT_PREFIXES: [&str; 2] = ["anthropic-", "openai-"];

/// Whether a field doesn't affect the response.
#[must_use]
pub fn is_ignorable(name: &HeaderName) -> bool {
    let name = name.as_str();
    IGNORABLE.contains(&name) || begins(name, &IGNORABLE_PREFIXES)
}

/// Whether an ignorable field is sent all the same.
#[must_use]
pub fn is_carried(name: &HeaderName) -> bool {
    CARRIED.contains(&name.as_str())
}

/// Whether a field holds credentials, by its name: `authorization`, `cookie`,
/// `x-api-key`, `x-goog-api-key`, `ocp-apim-subscription-key`, `x-auth-token`, …
#[must_use]
pub fn is_credential(name: &HeaderName) -> bool {
    const WORDS: [&str; 11] =
        ["auth", "cookie", "token", "secret", "password", "signature", "apikey", "jwt", "assertion", "oidc", "session"];
    let text = name.as_str();
    // A proxy's statement of the client's identity counts, others of its fields don't.
    let may_be = text.starts_with("x-forwarded-") || !is_ignorable(name);
    may_be && (text.ends_with("-key") || WORDS.iter().any(|word| text.contains(word)))
}

/// Whether a field affects a model's response beside its credentials.
#[must_use]
pub fn is_context(name: &HeaderName) -> bool {
    let name = name.as_str();
    CONTEXT.contains(&name) || begins(name, &CONTEXT_PREFIXES)
}

/// Whether a field describes the whole body, and so not the item that was cut out of it.
#[must_use]
pub fn is_of_whole_body(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("content-") || matches!(name, "digest" | "repr-digest")
}

fn begins(name: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_by_what_they_do() {
        for (name, ignorable, credential, context) in [
            ("authorization", false, true, false),
            ("cf-aig-authorization", false, true, false),
            ("cookie", false, true, false),
            ("api-key", false, true, false),
            ("apikey", false, true, false),
            ("x-api-key", false, true, false),
            ("x-goog-api-key", false, true, false),
            ("ocp-apim-subscription-key", false, true, false),
            ("x-functions-key", false, true, false),
            ("x-auth-token", false, true, false),
            ("x-amz-security-token", false, true, false),
            ("accept", false, false, true),
            ("anthropic-beta", false, false, true),
            ("anthropic-version", false, false, true),
            ("openai-beta", false, false, true),
            ("openai-organization", false, false, true),
            ("accept-language", false, false, false),
            ("x-anything", false, false, false),
            ("idempotency-key", true, false, false),
            ("sec-fetch-mode", true, false, false),
            ("traceparent", true, false, false),
            ("user-agent", true, false, false),
            ("x-forwarded-for", true, false, false),
            ("x-request-id", true, false, false),
            ("x-stainless-retry-count", true, false, false),
        ] {
            let field = HeaderName::from_static(name);
            let found = (is_ignorable(&field), is_credential(&field), is_context(&field));
            assert_eq!(found, (ignorable, credential, context), "{name}");
        }
        assert!(CARRIED.iter().all(|name| is_ignorable(&HeaderName::from_static(name))));
    }
}
