//! Which routes are asked for a request, the most specific first: by the host (a name before a pattern, the longer
//! pattern first, any host last), then by the length of the path, then by the number of further conditions, then in the
//! order of the file.
//!
//! Where there are few routes a list is walked ([`RouteList`]). Thousands of them cost a request what ten do by an index
//! ([`RouteIndex`]): a route is found by the digest of its path under each of its hosts, and looked up by the digests of
//! all prefixes of a request's path. What is found is only likely to take the request, and is asked for confirmation;
//! what isn't found doesn't take it.

use std::{cmp::Reverse, slice};

use smallvec::SmallVec;

use crate::message::target;

/// Prefixes of a path that need no allocation.
const PREFIXES_INLINE: usize = 16;

/// What routes are found by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'r> {
    /// Hosts and patterns of hosts; none stand for any.
    pub(super) hosts: &'r [String],
    pub(super) path: &'r str,
    /// The number of its further conditions.
    pub(super) conditions: usize,
}

/// A pattern of hosts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum HostPattern {
    /// This one.
    Name(Box<str>),
    /// Those that end so, the longer ones first: `.example.org`.
    Below(Reverse<usize>, Box<str>),
    /// Any.
    Any,
}

impl HostPattern {
    /// Returns the patterns of a route, each once.
    fn of(hosts: &[String]) -> Vec<Self> {
        let pattern = |host: &String| match host.strip_prefix('*') {
            None => Self::Name(host.as_str().into()),
            Some(suffix) if suffix.starts_with('.') => Self::Below(Reverse(suffix.len()), suffix.into()),
            Some(_) => Self::Any,
        };
        let mut patterns: Vec<Self> = hosts.iter().map(pattern).collect();
        if patterns.is_empty() {
            patterns.push(Self::Any);
        }
        patterns.sort();
        patterns.dedup();
        patterns
    }

    fn takes(&self, host: &str) -> bool {
        match self {
            Self::Name(name) => **name == *host,
            Self::Below(_, suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
            Self::Any => true,
        }
    }
}

/// Returns the most specific of a route's hosts that takes this one.
pub(super) fn host_pattern<'h>(hosts: &'h [String], host: &str) -> Option<&'h str> {
    let taking = hosts.iter().filter_map(|written| {
        let pattern = HostPattern::of(slice::from_ref(written)).pop()?;
        pattern.takes(host).then_some((pattern, written))
    });
    taking.min().map(|(_, written)| written.as_str())
}

/// Routes in the order in which they are asked.
#[derive(Debug)]
pub(super) struct RouteList(Vec<(HostPattern, usize)>);

impl RouteList {
    /// Lists routes, which are numbered from 0.
    pub(super) fn new<'r>(routes: impl IntoIterator<Item = Place<'r>>) -> Self {
        let mut listed = Vec::new();
        for (number, Place { hosts, path, conditions }) in routes.into_iter().enumerate() {
            let order = (Reverse(target::prefix_length(path)), Reverse(conditions), number);
            listed.extend(HostPattern::of(hosts).into_iter().map(|pattern| (rank(&pattern), order, pattern)));
        }
        listed.sort();
        Self(listed.into_iter().map(|(_, (.., number), pattern)| (pattern, number)).collect())
    }

    /// Returns the first route for this host that `takes` the rest of the request.
    pub(super) fn first(&self, host: &str, mut takes: impl FnMut(usize) -> bool) -> Option<usize> {
        self.0.iter().find(|(pattern, number)| pattern.takes(host) && takes(*number)).map(|(_, number)| *number)
    }
}

/// Returns the rank of a pattern. Of those with the same at most one takes a host.
const fn rank(pattern: &HostPattern) -> (u8, Reverse<usize>) {
    match pattern {
        HostPattern::Name(_) => (0, Reverse(0)),
        HostPattern::Below(length, _) => (1, *length),
        HostPattern::Any => (2, Reverse(0)),
    }
}

/// Numbers of routes by the digests of their paths, those with more conditions first.
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
    /// Indexes routes, which are numbered from 0.
    pub(super) fn new<'r>(routes: impl IntoIterator<Item = Place<'r>>) -> Self {
        let mut index = Self::default();
        let mut conditions = Vec::new();
        for (number, place) in routes.into_iter().enumerate() {
            conditions.push(place.conditions);
            let digest = target::prefix_digest(place.path);
            for pattern in HostPattern::of(place.hosts) {
                let paths = match pattern {
                    HostPattern::Name(name) => index.hosts.entry(name).or_default(),
                    HostPattern::Below(_, suffix) => index.below.entry(suffix).or_default(),
                    HostPattern::Any => &mut index.any,
                };
                paths.entry(digest).or_default().push(number);
            }
        }
        let all = index.hosts.values_mut().chain(index.below.values_mut()).chain([&mut index.any]);
        for numbers in all.flat_map(|paths| paths.values_mut()) {
            // Stable: those with as many conditions stay in their order.
            numbers.sort_by_key(|number| Reverse(conditions[*number]));
        }
        index
    }

    /// Returns the first route for a host and a path that `takes` the request; that confirms the path.
    pub(super) fn first(&self, host: &str, path: &str, mut takes: impl FnMut(usize) -> bool) -> Option<usize> {
        let prefixes: SmallVec<[u64; PREFIXES_INLINE]> = target::prefix_digests(path).collect();
        for paths in self.paths(host) {
            for numbers in prefixes.iter().rev().filter_map(|digest| paths.get(digest)) {
                if let Some(number) = numbers.iter().copied().find(|number| takes(*number)) {
                    return Some(number);
                }
            }
        }
        None
    }

    /// Returns the paths of all routes that are for this host, in the order of their hosts.
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
        let places = hosts.iter().zip(&paths).map(|(hosts, path)| Place { hosts, path, conditions: 0 });
        let index = RouteIndex::new(places);
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

    /// Each row has hosts, path and number of conditions, in the order in which they are asked.
    const ORDERED: [(&str, &str, usize); 10] = [
        ("a.b.example", "/x/y", 0),
        ("a.b.example", "/%40x", 1),
        ("a.b.example", "/@x", 0),
        ("a.b.example", "/", 3),
        ("a.b.example", "/", 2),
        ("*.b.example", "/x", 0),
        ("*.b.example", "/", 1),
        ("*.example", "/x/y/z", 2),
        ("", "/x/y/z", 3),
        ("", "/", 0),
    ];

    #[test]
    fn the_most_specific_is_asked_first_whatever_the_order_of_the_file() {
        let hosts_of = |host: &str| if host.is_empty() { Vec::new() } else { vec![host.to_owned()] };
        let hosts: Vec<Vec<String>> = ORDERED.iter().rev().map(|(host, ..)| hosts_of(host)).collect();
        let places: Vec<Place<'_>> = ORDERED
            .iter()
            .rev()
            .zip(&hosts)
            .map(|((_, path, conditions), hosts)| Place { hosts, path, conditions: *conditions })
            .collect();
        for path in ["/x/y/z", "/@x", "/"] {
            let mut wanted: Vec<usize> =
                (0..ORDERED.len()).filter(|row| target::reaches(ORDERED[*row].1, path)).collect();
            wanted.iter_mut().for_each(|row| *row = ORDERED.len() - 1 - *row);
            let (mut walked, mut found) = (Vec::new(), Vec::new());
            let is_for = |number: usize| target::reaches(places[number].path, path);
            RouteList::new(places.iter().copied()).first("a.b.example", |number| {
                walked.extend(Some(number).filter(|number| is_for(*number)));
                false
            });
            RouteIndex::new(places.iter().copied()).first("a.b.example", path, |number| {
                found.extend(Some(number).filter(|number| is_for(*number)));
                false
            });
            assert_eq!(walked, wanted, "{path}");
            assert_eq!(found, wanted, "{path}");
        }
    }
}
