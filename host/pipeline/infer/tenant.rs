//! The tenant of a request: between tenants, a pool's slots are shared by their weights.

use std::{borrow::Cow, collections::BTreeMap};

use http::{HeaderMap, HeaderName};

use crate::{
    batch::{Tenant, Weight},
    config::{self, TenantBy},
    message::RequestHead,
    policy::{
        fields,
        tenancy::{self, Tenancy},
    },
};

/// The tenant that a request is served for, and what that counts for beside others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) tenant: Tenant,
    pub(super) weight: Weight,
}

impl Account {
    /// Returns the account of a request by what its route says.
    pub(super) fn of(route: &config::Route, head: &RequestHead) -> Self {
        let weight = if route.tenant_weights.is_empty() {
            Weight::ONE
        } else {
            weight_of(&route.tenant_weights, name(&route.tenant, head).as_deref())
        };
        Self { tenant: tenant(&route.tenant, head), weight }
    }

    /// Returns the account by what a policy says of it, and for the rest this one. The name that a policy gives may have
    /// a weight by the route.
    pub(super) fn by_policy(self, route: &config::Route, tenancy: Tenancy<'_>) -> Self {
        let named = tenancy.tenant.map_or(self, |name| {
            let mut digest = Digest::default();
            // No header field has this name.
            digest.part(tenancy::TENANT.as_bytes());
            digest.part(name);
            Self { tenant: digest.tenant(), weight: weight_of(&route.tenant_weights, Some(name)) }
        });
        Self { weight: tenancy.weight.map_or(named.weight, Weight::of), ..named }
    }
}

/// The name of all tenants whose name has no weight.
const ALL_OTHERS: &str = "*";

fn weight_of(weights: &BTreeMap<String, u32>, name: Option<&[u8]>) -> Weight {
    let own = name.and_then(|name| weights.get(std::str::from_utf8(name).ok()?));
    own.or_else(|| weights.get(ALL_OTHERS)).map_or(Weight::ONE, |weight| Weight::of(*weight))
}

/// Returns the name of a request's tenant, if it has one: a field in several lines is none.
fn name<'h>(by: &TenantBy, head: &'h RequestHead) -> Option<Cow<'h, [u8]>> {
    match by {
        TenantBy::Header(name) => {
            let mut lines = head.headers.get_all(name).iter();
            lines.next().filter(|_| lines.next().is_none()).map(|only| Cow::Borrowed(only.as_bytes()))
        }
        TenantBy::Client => Some(Cow::Owned(head.client.ip.to_string().into_bytes())),
        TenantBy::Credentials | TenantBy::Nothing => None,
    }
}

/// Returns the tenant of a request. Only a digest of what tells it apart is held; requests without any of that are one
/// tenant's.
fn tenant(by: &TenantBy, head: &RequestHead) -> Tenant {
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
            let tenant = |headers| tenant(&by, &request(Method::POST, "/", headers));
            assert_eq!(tenant(one) == tenant(other), same, "{by:?}: {one:?}, {other:?}");
        }
        assert_eq!(tenant(&field("x-tenant"), &request(Method::POST, "/", &[])), Tenant::default());
    }

    /// Returns a route with this way to tell tenants apart, and these weights.
    fn route(by: TenantBy, weights: &[(&str, u32)]) -> config::Route {
        let tenant_weights = weights.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        config::Route { tenant: by, tenant_weights, ..config::Route::new("r", "p") }
    }

    #[test]
    fn weights_go_by_the_names_of_tenants() {
        let by_field = || TenantBy::Header(HeaderName::from_static("x-tenant"));
        let client = request(Method::POST, "/", &[]).client.ip.to_string();
        // by, the weights, the fields of a request, its weight
        for (by, weights, fields, wanted) in [
            (by_field(), &[("gold", 4)][..], &[("x-tenant", "gold")][..], 4),
            (by_field(), &[("gold", 4)], &[("x-tenant", "Gold")], 1),
            (by_field(), &[("gold", 4)], &[], 1),
            (by_field(), &[("gold", 4), ("*", 2)], &[("x-tenant", "silver")], 2),
            (by_field(), &[("gold", 4), ("*", 2)], &[], 2),
            (by_field(), &[("gold", 4)], &[("x-tenant", "gold"), ("x-tenant", "gold")], 1),
            (by_field(), &[], &[("x-tenant", "gold")], 1),
            (TenantBy::Client, &[(&*client, 7)], &[], 7),
            (TenantBy::Credentials, &[("gold", 4)], &[("authorization", "gold")], 1),
        ] {
            let account = Account::of(&route(by, weights), &request(Method::POST, "/", fields));
            assert_eq!(account.weight, Weight::of(wanted), "{weights:?}: {fields:?}");
        }
    }

    #[test]
    fn what_a_policy_says_holds_instead_of_what_the_route_does() {
        let route = route(TenantBy::Client, &[("gold", 4), ("*", 2)]);
        let own = Account::of(&route, &request(Method::POST, "/", &[]));
        assert_eq!((own, own.weight), (own.by_policy(&route, Tenancy::default()), Weight::of(2)));
        let by = |tenant: Option<&'static str>, weight| {
            own.by_policy(&route, Tenancy { tenant: tenant.map(str::as_bytes), weight })
        };
        assert_eq!(by(None, Some(9)), Account { weight: Weight::of(9), ..own });
        let (gold, other) = (by(Some("gold"), None), by(Some("other"), None));
        assert!(gold.tenant != other.tenant && gold.tenant != own.tenant);
        assert_eq!((gold.weight, other.weight), (Weight::of(4), Weight::of(2)));
        assert_eq!(by(Some("gold"), Some(9)), Account { weight: Weight::of(9), ..gold });
        let client = request(Method::POST, "/", &[]).client.ip.to_string();
        let namesake = own.by_policy(&route, Tenancy { tenant: Some(client.as_bytes()), weight: None });
        assert!(namesake.tenant != own.tenant, "a policy's names are no addresses");
    }
}
