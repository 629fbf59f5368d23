//! Which certificates a host may be shown.

use std::collections::HashMap;

/// The positions of certificates by the names that they are for.
#[derive(Debug, Default)]
pub(super) struct Names {
    exact: HashMap<String, Vec<usize>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<usize>>,
}

impl Names {
    /// Takes the names of each certificate, in their order.
    pub(super) fn new<'n>(certificates: impl IntoIterator<Item = &'n [String]>) -> Self {
        let mut found = Self::default();
        for (at, names) in certificates.into_iter().enumerate() {
            for name in names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut found.wildcard, parent),
                    None => (&mut found.exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_default().push(at);
            }
        }
        found
    }

    /// Returns the positions of those for this host, in their order: those that name it, else those whose wildcard stands
    /// for its first label (RFC 6125, section 6.4.3).
    pub(super) fn find(&self, host: &str) -> &[usize] {
        let host = host.to_ascii_lowercase();
        let by_wildcard = || host.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(&host).or_else(by_wildcard).map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_by_its_name_and_else_by_one_label_of_a_wildcard() {
        let certificates: Vec<Vec<String>> = [
            &["default.example"][..],
            &["*.shop.example", "shop.example"],
            &["www.shop.example"],
            &["*.shop.example", "www.shop.example"],
            &[],
        ]
        .map(|names| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>())
        .to_vec();
        let names = Names::new(certificates.iter().map(Vec::as_slice));
        for (host, wanted) in [
            ("default.example", &[0][..]),
            ("DEFAULT.example", &[0]),
            ("shop.example", &[1]),
            ("a.shop.example", &[1, 3]),
            ("www.shop.example", &[2, 3]),
            ("a.b.shop.example", &[]),
            ("example", &[]),
            ("", &[]),
        ] {
            assert_eq!(names.find(host), wanted, "{host}");
        }
    }
}
