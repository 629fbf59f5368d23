//! An index of routes by host and path, so that thousands of them cost a request what ten do.
//!
//! A route is found by the digest of its path under each of its hosts, and looked up by the digests of all prefixes of a
//! request's path. What is found is only likely to take the request, and is asked for confirmation; what isn't found
//! doesn't take it.

use smallvec::SmallVec;

use crate::message::target;

/// Prefixes of a path that need no allocation.
const PREFIXES_INLINE: usize = 16;

/// Numbers of routes, in ascending order, by the digests of their paths.
type Paths = foldhash::HashMap<u64, Vec<usize>>;

/// Routes by host and path.
#[derive(Debug, Default)]
pub(super) struct RouteIndex {
    /// For any host.
    any: Paths,
    /// For one host.
    hosts: foldhash::HashMap<Box<str>, Paths>,
    /// For the hosts that end so: `.example.org`.
    below: foldhash::HashMap<Box<str>, Paths>,
}

impl RouteIndex {
    /// Indexes routes by their hosts, of which none stand for any, and their paths. They are numbered from 0.
    pub(super) fn new<'r>(routes: impl IntoIterator<Item = (&'r [String], &'r str)>) -> Self {
        let mut index = Self::default();
        for (number, (hosts, path)) in routes.into_iter().enumerate() {
            let digest = target::prefix_digest(path);
            if hosts.is_empty() {
                index.any.entry(digest).or_default().push(number);
            }
            for host in hosts {
                let paths = match host.strip_prefix('*') {
                    None => index.hosts.entry(host.as_str().into()).or_default(),
                    Some(suffix) if suffix.starts_with('.') => index.below.entry(suffix.into()).or_default(),
                    Some(_) => &mut index.any,
                };
                let numbers = paths.entry(digest).or_default();
                // Two of its hosts may be under one key.
                if numbers.last() != Some(&number) {
                    numbers.push(number);
                }
            }
        }
        index
    }

    /// Returns the lowest number of a route that takes a request with this host and path; `takes` confirms it.
    pub(super) fn first(&self, host: &str, path: &str, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let prefixes: SmallVec<[u64; PREFIXES_INLINE]> = target::prefix_digests(path).collect();
        let mut best: Option<usize> = None;
        for paths in self.paths(host) {
            for numbers in prefixes.iter().filter_map(|digest| paths.get(digest)) {
                let mut lower = numbers.iter().copied().take_while(|number| best.is_none_or(|best| *number < best));
                if let Some(number) = lower.find(|number| takes(*number)) {
                    best = Some(number);
                }
            }
        }
        best
    }

    /// Returns the paths of all routes that are for this host.
    fn paths<'i>(&'i self, host: &'i str) -> impl Iterator<Item = &'i Paths> {
        let suffixes = host.match_indices('.').filter(|(at, _)| *at > 0).map(move |(at, _)| &host[at..]);
        let below = suffixes.filter_map(move |suffix| self.below.get(suffix));
        self.hosts.get(host).into_iter().chain(below).chain([&self.any])
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn ten_thousand_routes_are_not_walked() {
        let hosts: Vec<Vec<String>> = (0..10_000).map(|n| vec![format!("h{}.example", n % 100)]).collect();
        let paths: Vec<String> = (0..10_000).map(|n| format!("/p{}", n / 100)).collect();
        let index = RouteIndex::new(hosts.iter().zip(&paths).map(|(hosts, path)| (hosts.as_slice(), path.as_str())));
        for (host, path, wanted) in [
            ("h7.example", "/p3", Some(307)),
            ("h7.example", "/p3/x;y/z", Some(307)),
            ("h7.example", "/p33", Some(3307)),
            ("h7.example", "/p", None),
            ("h100.example", "/p3", None),
        ] {
            let asked = Cell::new(0);
            let takes = |number: usize| {
                asked.set(asked.get() + 1);
                hosts[number][0] == host && target::reaches(&paths[number], path)
            };
            assert_eq!(index.first(host, path, takes), wanted, "{host}{path}");
            assert!(asked.get() <= 1, "{host}{path}: {} were asked", asked.get());
        }
    }
}
