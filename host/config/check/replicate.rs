//! What is announced to other regions, and the limits of that.

use toml::Spanned;

use super::routing::path_fault;
use crate::{
    config::{
        Replicate, Replication,
        findings::Findings,
        raw,
        units::{GIB, HOUR_MS, KIB, TIB},
    },
    message::{tag, target},
};

/// Tags or prefixes of a route: each may be compared with each response that it stores.
const CHOICES_MAX: usize = 64;

/// Pools that a route announces to: each response is announced to each of them.
const POOLS_MAX: usize = 64;

/// Returns what a route announces. `pools` are the names of those that are defined.
pub(super) fn of_route(raw: &raw::Route, pools: &[&str], findings: &mut Findings<'_>) -> Option<Replicate> {
    let given = raw.replicate.as_ref()?;
    let raw::Replicate { tags, prefixes, to } = given.get_ref();
    if tags.is_empty() && prefixes.is_empty() {
        findings.refuse(given.span(), "`replicate` chooses nothing", "add `tags`, `prefixes`, or both");
    }
    if to.is_empty() {
        let help = "add to `to` the name of a pool whose endpoints are holm nodes of another region";
        findings.refuse(given.span(), "`replicate` names no pool", help);
    }
    let lists = [(tags, "tags", CHOICES_MAX), (prefixes, "prefixes", CHOICES_MAX), (to, "pools", POOLS_MAX)];
    for (list, what, max) in lists {
        if let Some(beyond) = list.get(max) {
            let message = format!("`replicate` has at most {max} {what}");
            findings.refuse(beyond.span(), message, "name those that matter");
        }
    }
    Some(Replicate {
        tags: tags.iter().map(|given| named_tag(given, findings)).collect(),
        prefixes: prefixes.iter().map(|given| prefix(given, findings)).collect(),
        to: to.iter().map(|given| pool(given, raw, pools, findings)).collect(),
    })
}

fn named_tag(given: &Spanned<String>, findings: &mut Findings<'_>) -> String {
    let name = given.get_ref();
    if !tag::is_nameable(name.as_bytes()) {
        let help = "write it as the origin does, in `Surrogate-Key` or `Cache-Tag`";
        findings.refuse(given.span(), format!("{name:?} is no tag"), help);
    }
    name.clone()
}

fn prefix(given: &Spanned<String>, findings: &mut Findings<'_>) -> String {
    let path = given.get_ref();
    let fault = path_fault(path).or_else(|| {
        let is_normal = target::normal_path(path).is_ok_and(|normal| normal == *path);
        (!is_normal).then_some("it isn't in its normal form")
    });
    if let Some(fault) = fault {
        let help = "write where the paths of URLs begin, such as `/assets`";
        findings.refuse(given.span(), format!("{path:?} is no prefix: {fault}"), help);
    }
    path.clone()
}

/// Returns the name of a pool of nodes. A pool of origins is none: its members don't fetch for themselves.
fn pool(given: &Spanned<String>, raw: &raw::Route, pools: &[&str], findings: &mut Findings<'_>) -> String {
    let mut origins = raw.pool.iter().chain(raw.candidates.iter().map(|candidate| &candidate.pool));
    if origins.any(|pool| pool.get_ref() == given.get_ref()) {
        let message = format!("nothing is announced to `{}`, which is an origin of the route", given.get_ref());
        findings.refuse(given.span(), message, "name a pool whose endpoints are holm nodes of another region");
    }
    findings.reference(given, "pool", pools)
}

/// Returns the limits of a node.
pub(super) fn of_node(raw: &raw::Replication, findings: &mut Findings<'_>) -> Replication {
    let base = Replication::default();
    let (concurrency, queue, time) = (&(0..=1_000), &(1..=1_000_000), &(1..=HOUR_MS));
    Replication {
        concurrency: findings.count("concurrency", &raw.concurrency, base.concurrency, concurrency),
        queue_max: findings.count("queue_max", &raw.queue_max, base.queue_max, queue),
        queue_bytes_max: findings.bytes(
            "queue_bytes_max",
            &raw.queue_bytes_max,
            base.queue_bytes_max,
            &(64 * KIB..=GIB),
        ),
        object_bytes_max: findings.bytes("object_bytes_max", &raw.object_bytes_max, base.object_bytes_max, &(1..=TIB)),
        send: findings.millis("send_ms_max", &raw.send_ms_max, base.send, time),
        fetch_concurrency: findings.count(
            "fetch_concurrency",
            &raw.fetch_concurrency,
            base.fetch_concurrency,
            concurrency,
        ),
        fetch_queue_max: findings.count("fetch_queue_max", &raw.fetch_queue_max, base.fetch_queue_max, queue),
        fetch: findings.millis("fetch_ms_max", &raw.fetch_ms_max, base.fetch, time),
    }
}
