//! Keys by tenant: the response depends on the tenant (a header), on authority, path and query and on chosen fields of
//! a JSON body. As a recipe it costs no call; with `require_tenant` it is called for each request, so that one without
//! a tenant bypasses the cache.

use holm_sdk::{Fault, Input, Key, Part, Plan, Policy, Transform, Values, Verdict, config::Table, slot};

/// The operator's table.
#[derive(Debug)]
struct TenantKey {
    /// The header field that names the tenant.
    tenant_header: String,
    /// Pointers (RFC 6901) to the fields of a JSON body that count.
    body: Vec<String>,
    /// Bypass the cache for requests without a tenant.
    require_tenant: bool,
}

impl Policy for TenantKey {
    fn configure(config: &str) -> Result<Self, Fault> {
        let mut table = Table::parse(config)?;
        let policy = Self {
            tenant_header: table.text("tenant_header")?.unwrap_or_else(|| "x-tenant".into()),
            body: table.texts("body")?.unwrap_or_default(),
            require_tenant: table.flag("require_tenant")?.unwrap_or(false),
        };
        table.finish()?;
        Ok(policy)
    }
}

impl Key for TenantKey {
    fn plan(&self) -> Plan {
        let parts = self.parts();
        if self.require_tenant {
            Plan::Call(parts.into_iter().map(|part| part.input).collect())
        } else {
            Plan::Recipe(parts)
        }
    }

    fn derive(&self, mut values: Values) -> Result<Verdict, Fault> {
        match values.first_mut() {
            Some(Some(tenant)) if !tenant.is_empty() => tenant.make_ascii_lowercase(),
            _ => return Ok(Verdict::Bypass("no tenant".into())),
        }
        if let Some(Some(query)) = values.get_mut(QUERY) {
            *query = sorted(query);
        }
        Ok(Verdict::Lookup(values.iter().map(|value| slot(value.as_deref())).collect()))
    }
}

/// The index of the query among the parts.
const QUERY: usize = 3;

impl TenantKey {
    /// The parts of the key. The host hands over JSON in canonical form already, so `derive` has nothing to do there.
    fn parts(&self) -> Vec<Part> {
        let mut parts = vec![
            Part::new(Input::Header(self.tenant_header.clone()), Transform::Lowercase),
            Part::new(Input::Authority, Transform::Identity),
            Part::new(Input::Path, Transform::Identity),
            Part::new(Input::QueryAll, Transform::SortQuery),
        ];
        let field = |pointer: &String| Part::new(Input::BodyJson(pointer.clone()), Transform::JsonCanonical);
        parts.extend(self.body.iter().map(field));
        parts
    }
}

/// Parameters by name, the order of equal names kept, empty ones dropped: what `sort-query` does in a recipe.
fn sorted(query: &[u8]) -> Vec<u8> {
    let mut pairs: Vec<&[u8]> = query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).collect();
    pairs.sort_by_key(|pair| pair.split(|byte| *byte == b'=').next());
    pairs.join(&b'&')
}

holm_sdk::policy!(TenantKey: key);

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(config: &str) -> TenantKey {
        TenantKey::configure(config).unwrap()
    }

    /// The key of a request with this tenant, query and field of the body.
    fn derived(tenant: Option<&str>, query: Option<&str>, model: Option<&str>) -> Verdict {
        let values = [tenant, Some("shop.example"), Some("/p"), query, model];
        let values = values.iter().map(|value| value.map(|text| text.as_bytes().to_vec())).collect();
        configured(r#"{"require_tenant": true, "body": ["/model"]}"#).derive(values).unwrap()
    }

    #[test]
    fn without_configuration_it_is_a_recipe_of_four_parts() {
        let Plan::Recipe(parts) = configured("{}").plan() else { panic!("a call") };
        assert_eq!(parts[0], Part::new(Input::Header("x-tenant".into()), Transform::Lowercase));
        assert_eq!(parts[QUERY], Part::new(Input::QueryAll, Transform::SortQuery));
        assert_eq!(parts.len(), 4);
    }

    #[test]
    fn the_table_names_the_header_and_the_fields() {
        let Plan::Recipe(parts) = configured(r#"{"tenant_header": "x-org", "body": ["/model", "/input"]}"#).plan()
        else {
            panic!("a call")
        };
        assert_eq!(parts[0].input, Input::Header("x-org".into()));
        assert_eq!(parts[4], Part::new(Input::BodyJson("/model".into()), Transform::JsonCanonical));
        assert_eq!(parts[5].input, Input::BodyJson("/input".into()));
    }

    #[test]
    fn a_wrong_table_is_refused_with_its_reason() {
        let fault = TenantKey::configure(r#"{"tenant": "x"}"#).unwrap_err();
        assert!(fault.detail.contains("unknown field \"tenant\""), "{fault:?}");
    }

    #[test]
    fn a_request_without_a_tenant_bypasses_if_one_is_required() {
        for tenant in [None, Some("")] {
            assert_eq!(derived(tenant, None, None), Verdict::Bypass("no tenant".into()));
        }
    }

    #[test]
    fn what_matters_tells_keys_apart_and_nothing_else_does() {
        let key = derived(Some("acme"), Some("a=1&b=2"), Some("\"m\""));
        assert_eq!(key, derived(Some("ACME"), Some("b=2&&a=1"), Some("\"m\"")));
        for other in [
            derived(Some("umbrella"), Some("a=1&b=2"), Some("\"m\"")),
            derived(Some("acme"), Some("a=1&b=3"), Some("\"m\"")),
            derived(Some("acme"), None, Some("\"m\"")),
            derived(Some("acme"), Some("a=1&b=2"), None),
        ] {
            assert_ne!(key, other);
        }
        assert_ne!(derived(Some("acme"), None, None), derived(Some("acme"), Some(""), None));
    }

    #[test]
    fn equal_names_keep_their_order() {
        assert_eq!(sorted(b"b=2&a=9&a=1&"), b"a=9&a=1&b=2");
    }
}
