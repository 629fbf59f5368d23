//! Header fields of a request by which a client could claim what only a proxy in front of the node knows, or ask for
//! something else than its target says. Origins and frameworks believe them, and no native key has them. Pure.

/// What a field claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The client's address, or the user that a proxy has authenticated. Believed of a trusted proxy.
    Client,
    /// The scheme, host, port or path by which a proxy was reached. The node says itself what of that it knows.
    Proxy,
    /// Another method, path or host than the request has.
    Override,
}

/// Names of the client's address, beside `X-Forwarded-For`.
const ADDRESSES: [&str; 16] = [
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "client-ip",
    "fastly-client-ip",
    "true-client-ip",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-original-forwarded-for",
    "x-original-remote-addr",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-real-ip",
];

/// Names of the user that a proxy has authenticated. What of `X-Forwarded-…` isn't here claims something of the proxy.
const USERS: [&str; 21] = [
    "client-cert",
    "client-cert-chain",
    "x-apigateway-api-userinfo",
    "x-arr-clientcert",
    "x-client-dn",
    "x-client-verify",
    "x-credential-identifier",
    "x-endpoint-api-userinfo",
    "x-forwarded-access-token",
    "x-forwarded-client-cert",
    "x-forwarded-email",
    "x-forwarded-for",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-tls-client-cert",
    "x-forwarded-tls-client-cert-info",
    "x-forwarded-user",
    "x-goog-iap-jwt-assertion",
    "x-proxy-user",
    "x-ssl-cert",
    "x-tls-client-cert",
];

/// Beginnings of further such names.
const USERS_BEGIN: [&str; 19] = [
    "cf-access-",
    "oidc-claim-",
    "remote-",
    "ssl-client-",
    "tailscale-user-",
    "x-amzn-mtls-",
    "x-amzn-oidc-",
    "x-auth-request-",
    "x-authenticated-",
    "x-authentik-",
    "x-client-cert",
    "x-consumer-",
    "x-goog-authenticated-user-",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-pomerium-",
    "x-remote-",
    "x-ssl-client-",
    "x-webauth-",
];

/// Names of the address by which a proxy was reached, beside `X-Forwarded-…`, and what nodes tell each other.
const PROXIES: [&str; 14] = [
    "forwarded",
    "front-end-https",
    "surrogate-capability",
    "x-envoy-original-host",
    "x-forward-for",
    "x-forward-host",
    "x-forward-proto",
    "x-forwarded",
    "x-holm-child",
    "x-holm-replicate",
    "x-scheme",
    "x-script-name",
    "x-url-scheme",
    "x-wap-proto",
];

/// Names of another target or method.
const OVERRIDES: [&str; 15] = [
    "x-envoy-original-path",
    "x-host",
    "x-host-override",
    "x-http-destinationurl",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-override-url",
    "x-rewrite-uri",
    "x-rewrite-url",
];

/// Whether a name begins like one that is here: nearly no other field does, but for `x-…`.
const fn may_claim(name: &[u8]) -> bool {
    matches!(
        name,
        [b'x', b'-', ..]
            | [b'c', b'f' | b'l', ..]
            | [b'f', ..]
            | [b'o', b'i', ..]
            | [b'r', b'e', b'm', ..]
            | [b's', b's' | b'u', ..]
            | [b't', b'a' | b'r', ..]
    )
}

/// Returns what the field of this name, in lower case, claims; `None` if nothing of this kind.
pub(super) fn of(name: &str) -> Option<Claim> {
    let is_in = |names: &[&str]| names.contains(&name);
    if !may_claim(name.as_bytes()) {
        None
    } else if is_in(&USERS) || is_in(&ADDRESSES) || USERS_BEGIN.iter().any(|beginning| name.starts_with(beginning)) {
        Some(Claim::Client)
    } else if name.starts_with("x-forwarded-") || is_in(&PROXIES) {
        Some(Claim::Proxy)
    } else if is_in(&OVERRIDES) {
        Some(Claim::Override)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found() {
        for name in [&USERS[..], &USERS_BEGIN, &ADDRESSES, &PROXIES, &OVERRIDES].concat() {
            assert!(of(name).is_some(), "{name}");
        }
    }

    #[test]
    fn users_are_claimed_under_many_names() {
        for name in [
            "cf-access-authenticated-user-email",
            "remote-user",
            "ssl-client-s-dn",
            "tailscale-user-login",
            "x-amzn-oidc-data",
            "x-auth-request-email",
            "x-authenticated-userid",
            "x-client-certificate",
            "x-goog-authenticated-user-email",
            "x-ms-client-principal-name",
            "x-remote-ip",
            "x-remote-user",
            "x-ssl-client-verify",
            "x-webauth-user",
        ] {
            assert_eq!(of(name), Some(Claim::Client), "{name}");
        }
        assert_eq!(of("x-forward-host"), Some(Claim::Proxy));
        // Clients have a use for these.
        for name in ["referer", "range", "x-auth-token", "x-auth-user", "x-ms-version", "te", "cookie", "x-user"] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
