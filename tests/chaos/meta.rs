//! Whether the checker finds what it is for: the same clients and purges against a cache with one bug at a time, and
//! against the same cache without any.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::{
    catalogue::{self, TAGS},
    checker::{self, Rule},
    client::{self, Client, Places, Region},
    drive,
    history::{Event, History, Scope},
    origin::Origin,
    schedule::{self, Act, Lane, Target},
    toy::{Bug, Toy},
};

const SEED: u64 = 11;
const SECONDS: u64 = 5;
const CLIENTS: usize = 4;
/// The toy counts ages from before it asks, so nothing is to be allowed for.
const SLACK: u64 = 0;

/// The rules that a cache with this bug breaks.
async fn broken(bug: Option<Bug>) -> BTreeSet<Rule> {
    let resources = catalogue::generate(SEED);
    let lanes = schedule::draw_calm(SEED, SECONDS, &resources);
    let history = History::begin();
    for resource in &resources {
        history.push(Event::Resource(resource.clone()));
    }
    let region = Region { history: Arc::clone(&history), places: Places::of(1), resources: resources.into() };
    let origin = Arc::new(Origin::start(&history, &region.resources, SEED).await);
    let _toy = Toy::start(origin.address(), bug, &region.resources, &region.places).await;
    let begin = Instant::now();
    let end = begin + Duration::from_secs(SECONDS);
    let clients = (0..CLIENTS).map(|number| tokio::spawn(Client::new(&region, number, 0, SEED).run(end)));
    let mut tasks: Vec<_> = clients.collect();
    tasks.extend(lanes.into_iter().map(|lane| tokio::spawn(play(Arc::clone(&origin), region.clone(), lane, begin))));
    for task in tasks {
        task.await.unwrap();
    }
    origin.settle().await;
    let events = history.take();
    let violations = checker::check(&events, SLACK);
    let counts = checker::counts(&events);
    assert!(counts.get("purges complete") > Some(&0) && counts.get("responses 200") > Some(&0), "{counts:?}");
    if bug.is_none() {
        assert!(violations.is_empty(), "a right cache is called wrong: {}", violations[0]);
    }
    violations.iter().map(|violation| violation.rule).collect()
}

async fn play(origin: Arc<Origin>, region: Region, lane: Lane, begin: Instant) {
    for step in lane {
        sleep_until(begin + Duration::from_millis(step.at_ms)).await;
        match step.act {
            Act::Change { resource } => origin.change(&region.resources[resource].path),
            Act::Write { node, resource, method } => {
                let path = &region.resources[resource].path;
                client::write(&region, node, path, method.as_str()).await;
            }
            Act::Purge { node, target: Target::Url(at), soft, publish } => {
                let scope = Scope::Url(region.resources[at].path.clone());
                purge(&origin, &region, node, scope, soft, publish).await;
            }
            Act::Purge { node, target: Target::Tag(at), soft, publish } => {
                purge(&origin, &region, node, Scope::Tag(TAGS[at].to_owned()), soft, publish).await;
            }
            _ => {}
        }
    }
}

async fn purge(origin: &Origin, region: &Region, node: usize, scope: Scope, soft: bool, publish: bool) {
    if publish {
        drive::publish_all(origin, region, &scope);
    }
    client::purge(region, node, scope, None, soft).await;
}

async fn finds(bug: Bug, wanted: Rule) {
    let found = broken(Some(bug)).await;
    assert!(found.contains(&wanted), "{bug:?} was planted, and {found:?} were found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_without_a_bug_is_called_right() {
    assert_eq!(broken(None).await, BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ignored_purges_are_found() {
    finds(Bug::IgnoresPurges, Rule::Purged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ignored_writes_are_found() {
    finds(Bug::IgnoresWrites, Rule::Written).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_tenants_are_found() {
    finds(Bug::MixesTenants, Rule::AnotherKey).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torn_bodies_are_found() {
    finds(Bug::Tears, Rule::Torn).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ignored_max_age_is_found() {
    finds(Bug::IgnoresMaxAge, Rule::Expired).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_304_is_found() {
    finds(Bug::ConfirmsAnything, Rule::NotModified).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_private_responses_are_found() {
    finds(Bug::SharesPrivate, Rule::AnotherClient).await;
}
