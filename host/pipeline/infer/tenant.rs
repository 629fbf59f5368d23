//! The tenant of a request: between tenants, a pool's slots are shared equally.

use http::{HeaderMap, HeaderName};

use crate::{batch::Tenant, config::TenantBy, message::RequestHead, policy::fields};

/// Returns the tenant of a request. Only a digest of what tells it apart is held; requests without any of that are one
/// tenant's.
pub(super) fn of(by: &TenantBy, head: &RequestHead) -> Tenant {
    let mut digest = Digest::default();
    match by {
        TenantBy::Credentials => {
            for name in head.headers.keys().filter(|name| fields::is_credential(name)) {
                digest.field(&head.headers, name);
            }
        }
        TenantBy::Header(name) => digest.field(&head.headers, name),
        TenantBy::Client => digest.part(head.client.ip.to_string().as_bytes()),
        TenantBy::Nothing => {}
    }
    digest.tenant()
}

/// A digest of some parts.
#[derive(Default)]
struct Digest(Option<blake3::Hasher>);

impl Digest {
    fn part(&mut self, part: &[u8]) {
        let hasher = self.0.get_or_insert_with(blake3::Hasher::new);
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }

    /// Adds a header field, if there is one.
    fn field(&mut self, headers: &HeaderMap, name: &HeaderName) {
        for value in headers.get_all(name) {
            self.part(name.as_str().as_bytes());
            self.part(value.as_bytes());
        }
    }

    /// Returns the tenant, which is the default one if there was no part.
    fn tenant(&self) -> Tenant {
        let Some(hasher) = &self.0 else { return Tenant::default() };
        let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
        Tenant::of_digest(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::policy::facts::tests::request;

    #[test]
    fn tenants_are_told_apart_by_what_the_route_says() {
        let field = |name| TenantBy::Header(HeaderName::from_static(name));
        // by, the fields of one request, those of another, whether they are one tenant's
        for (by, one, other, same) in [
            (TenantBy::Credentials, &[("authorization", "a")][..], &[("authorization", "b")][..], false),
            (TenantBy::Credentials, &[("x-api-key", "a")], &[("api-key", "a")], false),
            (TenantBy::Credentials, &[("authorization", "a"), ("x-a", "1")], &[("authorization", "a")], true),
            (TenantBy::Credentials, &[("x-a", "1")], &[("x-a", "2")], true),
            (field("x-tenant"), &[("x-tenant", "a")], &[("x-tenant", "b")], false),
            (field("x-tenant"), &[("x-tenant", "a"), ("authorization", "a")], &[("x-tenant", "a")], true),
            (field("x-tenant"), &[("x-tenant", "")], &[], false),
            (TenantBy::Client, &[("authorization", "a")], &[("authorization", "b")], true),
            (TenantBy::Nothing, &[("authorization", "a")], &[("authorization", "b")], true),
        ] {
            let tenant = |headers| of(&by, &request(Method::POST, "/", headers));
            assert_eq!(tenant(one) == tenant(other), same, "{by:?}: {one:?}, {other:?}");
        }
        assert_eq!(of(&field("x-tenant"), &request(Method::POST, "/", &[])), Tenant::default());
    }
}
