//! Decides from a history whether each response was allowed. Pure: events in, violations out.
//!
//! It relies on this: all times are of one clock. `sent` is taken before a request's first byte leaves, `received` and
//! `done` after a response's last byte, an exchange's `from` after the origin has read the request's head and before it
//! reads the version, its `until` after the last byte has been sent. So an interval never looks shorter than it was, and
//! no scheduling of the test process makes an allowed response look forbidden.
//!
//! The evidence for a version is an exchange in which the origin sent it whole, or confirmed it by a 304. A response
//! that carries version V of key K, to a request sent at S and received at R, is allowed if
//!
//! * an exchange of (K, V) began before R;
//! * for each purge of K that was acknowledged as complete before S, and that was for the node which got the request, an
//!   exchange of (K, V) began after that purge was sent: a node takes an entry's mark before it sends to the origin, and
//!   the mark of what is good again is later than the purge. A soft one lets what states a grace or stale-if-error go on;
//!   where nothing is stated, it is a hard one;
//! * for each unsafe method that got 2xx or 3xx through the same node before S, an exchange of (K, V) began
//!   after the resource had changed, unless the node couldn't reach its log (it may then have been unable to notify its
//!   tiers, and promises nothing here);
//! * the last exchange of (K, V) was over at most a lifetime, what may be added to it, and a slack before S;
//! * everybody may be given the response, or it was made for this client and an exchange of it began after S;
//! * the request wasn't `no-cache`, or an exchange of (K, V) was over at most a slack before S: it may have joined a
//!   fetch that was under way.
//!
//! A 304 carries the version that the client has. Errors, and responses that visibly break off, are allowed: that a
//! region responds at all is asserted by the run, from its counts.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::Range,
};

use crate::{
    catalogue::{self, Resource},
    history::{Event, Exchange, Fault, Micros, Purge, Request, Scope, Write},
};

#[cfg(test)]
mod tests;

/// After a fault that cuts a node off, it may need so long to reach its log again.
const RECOVERY: Micros = 3_000_000;

/// The rules that a response can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Rule {
    /// It is a response to another key.
    AnotherKey,
    /// It is the response of another client, or of an earlier request.
    AnotherClient,
    /// It claims to be whole and isn't, or is mixed.
    Torn,
    /// The origin never sent this version.
    NeverIssued,
    /// It is from before an acknowledged purge.
    Purged,
    /// It is from before an unsafe method that succeeded through the same node.
    Written,
    /// It is older than its life.
    Expired,
    /// It was stored, and the client wanted it from the origin.
    Reload,
    /// A 304 to an unconditional request, or for another version than the client's.
    NotModified,
}

/// A response that wasn't allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The rule that it broke.
    pub(crate) rule: Rule,
    /// The request's number.
    pub(crate) request: u64,
    /// A sentence for people.
    pub(crate) because: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {}: {:?}: {}", self.request, self.rule, self.because)
    }
}

/// Checks every response of a history. `slack` is what a response's head may take from the origin to a node.
pub(crate) fn check(events: &[Event], slack: Micros) -> Vec<Violation> {
    let index = Index::of(events, slack);
    let requests = events.iter().filter_map(|event| match event {
        Event::Request(request) => Some(request),
        _ => None,
    });
    let judged = requests.filter_map(|request| {
        let (rule, because) = index.judge(request).err()?;
        let cache = request.seen.cache.as_deref().unwrap_or("-");
        let age = request.seen.age.as_deref().unwrap_or("-");
        let because = format!(
            "{because} ({} at node {} for {}, sent {} received {}, cache-status {cache}, age {age})",
            request.client, request.node, request.key, request.sent, request.received
        );
        Some(Violation { rule, request: request.id, because })
    });
    judged.collect()
}

/// Requests, responses from the caches, complete purges and the like: what a run was made of.
pub(crate) fn counts(events: &[Event]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let mut count = |what: String| *counts.entry(what).or_insert(0) += 1;
    for event in events {
        match event {
            Event::Request(request) => {
                count("requests".to_owned());
                count(match (request.seen.whole, request.seen.status) {
                    (false, _) => "responses that broke off or never came".to_owned(),
                    (true, status) => format!("responses {status}"),
                });
                if request.seen.cache.as_deref().is_some_and(|cache| cache.contains("; hit")) {
                    count("hits".to_owned());
                }
            }
            Event::Purge(purge) if purge.complete => count("purges complete".to_owned()),
            Event::Purge(_) => count("purges not complete".to_owned()),
            Event::Write(_) => count("unsafe methods".to_owned()),
            Event::Exchange(exchange) => count(format!("origin {}", exchange.status)),
            Event::Fault(fault) => count(format!("fault {}", fault.what)),
            Event::Begun { .. } | Event::Resource(_) | Event::Change(_) => {}
        }
    }
    counts
}

/// A moment past which what is served must be good: for requests sent after `acknowledged`, the evidence must have begun
/// after `since`.
struct Cut {
    since: Micros,
    acknowledged: Micros,
    /// The nodes that it holds for; all if there is none.
    nodes: Option<Range<usize>>,
    rule: Rule,
}

/// A history, ordered as the rules ask for it.
struct Index<'h> {
    resources: HashMap<&'h str, &'h Resource>,
    exchanges: HashMap<(&'h str, u64), Vec<&'h Exchange>>,
    cuts: HashMap<&'h str, Vec<Cut>>,
    slack: Micros,
}

type Verdict = Result<(), (Rule, String)>;

impl<'h> Index<'h> {
    fn of(events: &'h [Event], slack: Micros) -> Self {
        let mut index = Self { resources: HashMap::new(), exchanges: HashMap::new(), cuts: HashMap::new(), slack };
        let (mut changes, mut faults) = (HashMap::new(), Vec::new());
        for event in events {
            match event {
                Event::Resource(resource) => {
                    index.resources.insert(resource.path.as_str(), resource);
                }
                Event::Exchange(exchange) if exchange.whole => {
                    let of = (exchange.key.as_str(), exchange.version);
                    index.exchanges.entry(of).or_default().push(exchange);
                }
                Event::Change(change) => {
                    changes.insert(change.write, change.at);
                }
                Event::Fault(fault) if fault.cuts_off => faults.push(fault),
                _ => {}
            }
        }
        for event in events {
            match event {
                Event::Purge(purge) if purge.complete => index.cut_by_purge(purge),
                Event::Write(write) => {
                    if let Some(at) = changes.get(&write.id) {
                        index.cut_by_write(write, *at, &faults);
                    }
                }
                _ => {}
            }
        }
        index
    }

    fn cut_by_purge(&mut self, purge: &'h Purge) {
        let named = |resource: &Resource| match &purge.scope {
            Scope::Url(url) | Scope::Key(url) => resource.path == *url,
            Scope::Tag(tag) => resource.tags.contains(tag),
        };
        for (&url, &resource) in &self.resources {
            if named(resource) && !(purge.soft && resource.may_be_stale()) {
                let (since, acknowledged, nodes) = (purge.sent, purge.done, purge.nodes.clone());
                self.cuts.entry(url).or_default().push(Cut { since, acknowledged, nodes, rule: Rule::Purged });
            }
        }
    }

    fn cut_by_write(&mut self, write: &'h Write, at: Micros, faults: &[&Fault]) {
        let is_cut_off = |fault: &&Fault| {
            fault.node.is_none_or(|node| node == write.node)
                && fault.from <= write.done
                && fault.until + RECOVERY >= write.sent
        };
        if (200..400).contains(&write.status) && !faults.iter().any(is_cut_off) {
            let (acknowledged, nodes) = (write.done, Some(write.node..write.node + 1));
            self.cuts.entry(write.url.as_str()).or_default().push(Cut {
                since: at,
                acknowledged,
                nodes,
                rule: Rule::Written,
            });
        }
    }

    fn judge(&self, request: &Request) -> Verdict {
        let seen = &request.seen;
        if let Some(stamp) = &seen.stamp {
            if stamp.key != request.key {
                return Err((Rule::AnotherKey, format!("it is {} of {}", stamp.version, stamp.key)));
            }
            if stamp.to != "-" && stamp.to != request.client {
                return Err((Rule::AnotherClient, format!("it was made for {}", stamp.to)));
            }
        }
        match (seen.whole, seen.status) {
            (false, _) | (true, 400..) => Ok(()),
            (true, 200) => match &seen.stamp {
                Some(stamp) if seen.sound => self.judge_version(request, stamp.version),
                Some(stamp) => Err((Rule::Torn, format!("version {} has another length or checksum", stamp.version))),
                None => Err((Rule::Torn, "it has no stamp".to_owned())),
            },
            (true, 304) => self.judge_confirmation(request),
            (true, status) => Err((Rule::NeverIssued, format!("the origin never sends {status}"))),
        }
    }

    fn judge_confirmation(&self, request: &Request) -> Verdict {
        let Some(version) = request.condition else {
            return Err((Rule::NotModified, "the request had no condition".to_owned()));
        };
        let opaque = |tag: &str| tag.trim_start_matches("W/").to_owned();
        let resource = self.resources.get(catalogue::url_of(&request.key));
        let ours = resource.and_then(|resource| resource.etag(&request.key, version));
        if let (Some(ours), Some(theirs)) = (&ours, &request.seen.etag)
            && opaque(ours) != opaque(theirs)
        {
            return Err((Rule::NotModified, format!("the client has {ours}, the response says {theirs}")));
        }
        self.judge_version(request, version)
    }

    fn judge_version(&self, request: &Request, version: u64) -> Verdict {
        let url = catalogue::url_of(&request.key);
        let exchanges = self.exchanges.get(&(request.key.as_str(), version));
        let exchanges = exchanges.into_iter().flatten().filter(|exchange| exchange.from <= request.received);
        let last = exchanges.fold(None, |last: Option<(Micros, Micros)>, exchange| {
            let (from, until) = last.unwrap_or((0, 0));
            Some((from.max(exchange.from), until.max(exchange.until)))
        });
        let (Some((from, until)), Some(resource)) = (last, self.resources.get(url)) else {
            return Err((Rule::NeverIssued, format!("the origin never sent version {version}")));
        };
        let describe =
            |what: &str| format!("version {version} was last sent or confirmed from {from} to {until}, {what}");
        if !resource.sort.is_shared() && from < request.sent {
            return Err((Rule::AnotherClient, describe("for an earlier request, and is for one only")));
        }
        if request.reload && until + self.slack < request.sent {
            return Err((Rule::Reload, describe("and the client wanted it from the origin")));
        }
        self.judge_cuts(request, url, from, &describe)?;
        let end = until + resource.life() + self.slack;
        if request.sent > end {
            return Err((Rule::Expired, describe(&format!("and was to be served until {end}"))));
        }
        Ok(())
    }

    fn judge_cuts(&self, request: &Request, url: &str, from: Micros, describe: &dyn Fn(&str) -> String) -> Verdict {
        let holds = |cut: &&Cut| {
            let is_meant = cut.nodes.as_ref().is_none_or(|nodes| nodes.contains(&request.node));
            is_meant && cut.acknowledged <= request.sent && from < cut.since
        };
        match self.cuts.get(url).into_iter().flatten().find(holds) {
            None => Ok(()),
            Some(cut) => {
                let what = match cut.rule {
                    Rule::Written => "the resource changed at",
                    _ => "a purge was sent at",
                };
                Err((cut.rule, describe(&format!("{what} {} and acknowledged at {}", cut.since, cut.acknowledged))))
            }
        }
    }
}
