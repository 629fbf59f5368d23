//! The tenant of a request, as its policy says by features that are the host's.

use super::RequestEdits;
use crate::config::{TENANT_NAME_BYTES_MAX, TENANT_WEIGHT_MAX};

/// The beginning of the names of such features. The author of a policy that has another one expects something of it, so
/// it is a fault.
const HOSTS: &str = "holm:";
/// The feature that names the tenant.
pub const TENANT: &str = "holm:tenant";
const TENANT_WEIGHT: &str = "holm:tenant-weight";

/// The tenant that a request is served for. What the policy leaves out is as the route says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tenancy<'a> {
    /// The tenant's name.
    pub tenant: Option<&'a [u8]>,
    /// What it counts for beside others.
    pub weight: Option<u32>,
}

impl RequestEdits {
    /// Returns what the policy says of the tenant.
    #[must_use]
    pub fn tenancy(&self) -> Tenancy<'_> {
        Tenancy { tenant: self.feature(TENANT), weight: self.feature(TENANT_WEIGHT).and_then(weight_of) }
    }
}

/// Returns what is wrong with a feature, if it is one of the host's: there is none of this name, or it can't have this
/// value.
#[must_use]
pub fn problem(name: &str, value: &[u8]) -> Option<String> {
    if !name.starts_with(HOSTS) {
        return None;
    }
    match name {
        TENANT if (1..=TENANT_NAME_BYTES_MAX).contains(&value.len()) => None,
        TENANT => Some(format!("has {} bytes; the name of a tenant has 1 to {TENANT_NAME_BYTES_MAX}", value.len())),
        TENANT_WEIGHT if weight_of(value).is_some() => None,
        TENANT_WEIGHT => Some(format!("isn't a whole number from 1 to {TENANT_WEIGHT_MAX}")),
        _ => Some(format!("is none that this node knows; of `{HOSTS}` it knows {TENANT} and {TENANT_WEIGHT}")),
    }
}

/// Returns the weight that decimal digits make, if it is one.
fn weight_of(digits: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|weight| (1..=TENANT_WEIGHT_MAX).contains(weight))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_policy_names_the_tenant_and_its_weight_or_one_of_both() {
        for (given, tenant, weight) in [
            (&[][..], None, None),
            (&[("tenant", "a"), ("weight", "2"), ("holm", "x"), ("x-holm:tenant", "")], None, None),
            (&[("holm:tenant", "a"), ("other", "x")], Some("a"), None),
            (&[("holm:tenant-weight", "1000")], None, Some(1_000)),
            (&[("holm:tenant-weight", "4"), ("holm:tenant", "\u{e9}\n")], Some("\u{e9}\n"), Some(4)),
        ] {
            assert!(given.iter().all(|(name, value)| problem(name, value.as_bytes()).is_none()), "{given:?}");
            let feature =
                |(name, value): &(&str, &'static str)| ((*name).to_owned(), Bytes::from_static(value.as_bytes()));
            let features = given.iter().map(feature).collect();
            let request_edits = RequestEdits { features, ..RequestEdits::default() };
            assert_eq!(request_edits.tenancy(), Tenancy { tenant: tenant.map(str::as_bytes), weight }, "{given:?}");
        }
    }

    #[test]
    fn what_is_none_of_the_hosts_features_or_has_no_such_value_is_said() {
        let long = "t".repeat(257);
        for (name, value, words) in [
            ("holm:tenant", "", "has 0 bytes; the name of a tenant has 1 to 256"),
            ("holm:tenant", &*long, "has 257 bytes"),
            ("holm:tenant-weight", "0", "isn't a whole number from 1 to 1000"),
            ("holm:tenant-weight", "1001", "isn't a whole number"),
            ("holm:tenant-weight", "0.5", "isn't a whole number"),
            ("holm:tenant-weight", "+4", "isn't a whole number"),
            ("holm:tenant-weight", "", "isn't a whole number"),
            (
                "holm:tennant",
                "a",
                "is none that this node knows; of `holm:` it knows holm:tenant and holm:tenant-weight",
            ),
            ("holm:", "", "is none that this node knows"),
        ] {
            let problem = problem(name, value.as_bytes()).unwrap_or_default();
            assert!(problem.contains(words), "{name}: {problem}");
        }
    }
}
