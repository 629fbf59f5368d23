//! Keys by tenant: each has responses of its own, and without a tenant nothing is shared.

use holm_sdk::{Fault, Input, Key, Plan, Policy, Values, Verdict, config::Table, slot};

/// The operator's configuration.
struct PerTenant {
    /// The header field that names the tenant.
    tenant_header: String,
}

impl Policy for PerTenant {
    fn configure(config: &str) -> Result<Self, Fault> {
        let mut table = Table::parse(config)?;
        let tenant_header = table.text("tenant_header")?.unwrap_or_else(|| "x-tenant".into());
        table.finish()?;
        Ok(Self { tenant_header })
    }
}

impl Key for PerTenant {
    fn plan(&self) -> Plan {
        let tenant = Input::Header(self.tenant_header.clone());
        Plan::Call(vec![tenant, Input::Authority, Input::Path, Input::QueryAll])
    }

    fn derive(&self, values: Values) -> Result<Verdict, Fault> {
        let [tenant, authority, path, query] = values.as_slice() else {
            return Err(Fault::new(1, "there are not four values"));
        };
        let part = |value: &Option<Vec<u8>>| value.clone().unwrap_or_default();
        let tenant = part(tenant).to_ascii_lowercase();
        if tenant.is_empty() {
            return Ok(Verdict::Bypass("no tenant".into()));
        }
        Ok(Verdict::Lookup(vec![tenant, part(authority), part(path), slot(query.as_deref())]))
    }
}

holm_sdk::policy!(PerTenant: key);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_tenant_nothing_is_shared() {
        let policy = PerTenant::configure("{}").unwrap();
        let values = vec![None, Some(b"shop.example".to_vec()), Some(b"/".to_vec()), None];
        assert_eq!(policy.derive(values).unwrap(), Verdict::Bypass("no tenant".into()));
    }
}
