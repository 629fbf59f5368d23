//! Purges by pattern.

use proptest::prelude::*;

use super::{
    table::{Room, Row, Table},
    world::{Kept, Logs},
    *,
};
use crate::message::pattern::Pattern;

const LOG: Incarnation = Incarnation(9);

fn read(text: &str) -> Pattern {
    Pattern::parse(text).unwrap()
}

fn pattern(text: &str) -> Scope {
    Scope::Pattern(read(text))
}

/// An entry for this URL.
fn stored_for(purger: &Purger, url: &str) -> Stored {
    Stored { tags: tag::of_url(url, true).to_vec(), urls: Urls::one(url), ..Stored::new(purger, "") }
}

#[tokio::test]
async fn a_pattern_takes_what_is_stored_for_urls_that_match_and_nothing_fetched_since() {
    let purger = alone(None);
    let [item, other] = ["http://a/item/1.json", "http://a/item/1.html"].map(|url| stored_for(&purger, url));
    assert_eq!((item.judged(&purger), other.judged(&purger)), (Standing::Good, Standing::Good));
    for (kind, wanted) in [(Kind::Soft, Standing::Stale), (Kind::Hard, Standing::Gone)] {
        purger.purge(&pattern("http://a/*.json"), kind, ACK).await.unwrap();
        assert_eq!((item.judged(&purger), other.judged(&purger)), (wanted, Standing::Good));
        assert_eq!(stored_for(&purger, "http://a/item/1.json").judged(&purger), Standing::Good, "fetched since");
    }
    assert_eq!(purger.state.read().table.patterns().len(), 1, "it is one, however often it is purged");
}

#[tokio::test]
async fn a_request_is_checked_by_its_own_url_as_well() {
    let purger = alone(None);
    let (mark, checked) = (purger.mark(), AtomicU64::new(0));
    purger.purge(&pattern("http://a/x/*"), Kind::Hard, ACK).await.unwrap();
    for (url, wanted) in
        [("http://a/y", Standing::Good), ("http://a/x/y", Standing::Gone), ("http://b/x/y", Standing::Good)]
    {
        assert_eq!(check(&purger, url, &mark, &checked), wanted, "{url}");
    }
    assert_eq!(check(&purger, "http://a/x/y", &purger.mark(), &AtomicU64::new(0)), Standing::Good, "fetched since");
}

#[tokio::test]
async fn what_may_be_for_urls_that_match_is_to_be_confirmed() {
    let purger = alone(None);
    let url = "http://a/x/y?q=1";
    let of = |urls: Urls| Stored { urls, ..stored_for(&purger, url) };
    let [unknown, one] = [Urls::Unknown, Urls::one(url)].map(of);
    let queries = of(Urls::Queries(url.into()));
    let elsewhere = Stored { urls: Urls::Unknown, ..stored_for(&purger, "http://a/z/y") };
    let judged = || [&unknown, &queries, &one, &elsewhere].map(|stored| stored.judged(&purger));
    let (doubtful, good, gone) = (Standing::Doubtful, Standing::Good, Standing::Gone);
    for (text, wanted) in [
        ("http://a/v/*", [good, good, good, good]),
        ("http://a/x/z*", [doubtful, good, good, good]),
        ("http://a/x/*z", [doubtful, doubtful, good, good]),
        ("http://a/x/*?q=1", [doubtful, gone, gone, good]),
    ] {
        purger.purge(&pattern(text), Kind::Hard, ACK).await.unwrap();
        assert_eq!(judged(), wanted, "{text}");
    }
    let since = Stored { urls: Urls::Unknown, ..stored_for(&purger, url) };
    assert_eq!(since.judged(&purger), Standing::Good);
}

#[tokio::test]
async fn a_pattern_for_which_there_is_no_room_leaves_a_doubt_where_its_urls_are() {
    let config = config::Purge { patterns_max: 2, ..config() };
    let purger = Purger::open("n", &config, None, None, Metrics::default()).unwrap();
    let urls = ["http://a/x/1", "http://a/x/2.json", "http://a/y", "http://b/1", "http://c/1"];
    let before = urls.map(|url| stored_for(&purger, url));
    for text in ["http://a/x/*.json", "http://b/*", "http://c/*"] {
        purger.purge(&pattern(text), Kind::Hard, ACK).await.unwrap();
    }
    let (doubtful, good, gone) = (Standing::Doubtful, Standing::Good, Standing::Gone);
    assert_eq!(before.each_ref().map(|stored| stored.judged(&purger)), [doubtful, doubtful, good, gone, gone]);
    assert_eq!(check(&purger, "http://a/x/3.json", &before[0].mark, &AtomicU64::new(0)), doubtful, "as for requests");
    assert_eq!(stored_for(&purger, urls[1]).judged(&purger), good, "fetched since");
    purger.refresh_metrics();
    assert_eq!((purger.metrics.purge_patterns.get(), purger.metrics.purge_patterns_dropped.get()), (2, 1));
    // The latest purge of each counts.
    purger.purge(&pattern("http://b/*"), Kind::Soft, ACK).await.unwrap();
    purger.purge(&pattern("http://d/*"), Kind::Soft, ACK).await.unwrap();
    assert_eq!(before.each_ref().map(|stored| stored.judged(&purger)), [doubtful, doubtful, good, gone, doubtful]);
}

#[tokio::test]
async fn patterns_outlive_the_process_and_a_restart_leaves_no_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let purger = alone(Some(dir.path()));
    let [hard, soft, other] =
        ["http://a/x/1", "http://b/1", "http://c/1"].map(|url| stored_for(&purger, url).read_back());
    let judged = |purger: &Purger| [&hard, &soft, &other].map(|stored| stored.read_back().judged(purger));
    purger.purge(&pattern("http://a/x/*"), Kind::Hard, ACK).await.unwrap();
    purger.purge(&pattern("http://b/*"), Kind::Soft, ACK).await.unwrap();
    drop(purger);
    for _ in 0..2 {
        let purger = alone(Some(dir.path()));
        assert_eq!(judged(&purger), [Standing::Gone, Standing::Stale, Standing::Good]);
        let asked = check(&purger, "http://a/x/2", &hard.mark, &AtomicU64::new(0));
        assert_eq!(asked, Standing::Gone, "for requests as well");
    }
    // With less room the oldest goes, for good. On disk there is one floor for all.
    let less = config::Purge { patterns_max: 1, ..config() };
    drop(Purger::open("n", &less, Some(dir.path()), None, Metrics::default()).unwrap());
    let purger = alone(Some(dir.path()));
    assert_eq!(judged(&purger), [Standing::Doubtful; 3]);
    assert_eq!(purger.state.read().table.patterns().len(), 1);
}

#[tokio::test]
async fn a_pattern_reaches_the_others_of_its_log_and_outlives_their_restart() {
    for extent in [Extent::Region, Extent::World] {
        let (logs, dir) = (Logs::default(), tempfile::tempdir().unwrap());
        let (one, two) = (logs.started("one", None).await, logs.started("two", Some(dir.path())).await);
        let [item, other] = ["http://a/item/1", "http://a/other"].map(|url| Kept::under(&two, url).read_back());
        let purged = one.purge(Some(extent), &pattern("http://a/item/*"), Kind::Hard, ACK).await;
        let (_, receipt) = purged.unwrap();
        assert!(receipt.missing.is_empty() && receipt.applied.len() == 2, "{extent}: {receipt:?}");
        for node in [&one, &two] {
            let judged = [&item, &other].map(|kept| kept.read_back().judged(node));
            assert_eq!(judged, [Standing::Gone, Standing::Good], "{extent}");
        }
        two.kill().await;
        let two = logs.started("two", Some(dir.path())).await;
        until("trust", || other.read_back().judged(&two) == Standing::Good).await;
        assert_eq!(item.read_back().judged(&two), Standing::Gone, "{extent}");
    }
}

#[tokio::test]
async fn a_pattern_of_this_node_alone_outlives_its_process() {
    let (logs, dir) = (Logs::default(), tempfile::tempdir().unwrap());
    let (node, two) = (logs.started("n", Some(dir.path())).await, logs.started("two", None).await);
    let own = Kept::under(&node, "http://a/item/1").read_back();
    let foreign = Kept::under(&two, "http://a/item/1").read_back();
    let other = Kept::under(&node, "http://a/other").read_back();
    node.purge(Some(Extent::Node), &pattern("http://a/item/*"), Kind::Soft, ACK).await.unwrap();
    let judged = |node: &Purges| [&own, &foreign, &other].map(|kept| kept.read_back().judged(node));
    assert_eq!(judged(&node), [Standing::Stale, Standing::Stale, Standing::Good]);
    assert_eq!(Kept::under(&node, "http://a/item/1").judged(&node), Standing::Good, "fetched since");
    assert_eq!(judged(&two), [Standing::Good; 3]);
    node.kill().await;
    let node = logs.started("n", Some(dir.path())).await;
    until("trust", || judged(&node) == [Standing::Stale, Standing::Stale, Standing::Good]).await;
}

#[tokio::test]
async fn what_is_on_its_way_is_judged_by_both_urls() {
    let purger = alone(None);
    let (mark, early) = (purger.mark(), purger.arrived());
    purger.purge(&pattern("http://a/*"), Kind::Soft, ACK).await.unwrap();
    let late = purger.arrived();
    let of = |fetched: &str, asked: &str, arrived: &Moment| {
        let subject = Subject { tags: &[], urls: &Urls::one(fetched), mark: &mark };
        purger.is_outdated(&subject, arrived, || tag::of_url(asked, true))
    };
    assert!(!of("http://a/1", "http://a/1", &early), "purged after the request came");
    assert!(of("http://a/1", "http://b/1", &late) && of("http://b/1", "http://a/1", &late));
    assert!(!of("http://b/1", "http://b/2", &late));
    let is_gone = |fetched: &str, asked: &str| {
        let subject = Subject { tags: &[], urls: &Urls::one(fetched), mark: &mark };
        purger.is_gone(&subject, &tag::of_url(asked, true))
    };
    assert!(!is_gone("http://a/1", "http://a/1"), "it is stale");
    purger.purge(&pattern("http://a/1*"), Kind::Hard, ACK).await.unwrap();
    assert!(is_gone("http://a/1", "http://b/1") && is_gone("http://b/1", "http://a/1"));
    assert!(!is_gone("http://b/1", "http://a/2"));
}

#[test]
fn a_pattern_on_disk_that_cannot_be_read_may_have_purged_anything() {
    let mut table = Table::new(LOG, Room::rows(10));
    table.restore_pattern("http://a/{x,y}", Row { hard: Position(5), soft: Position(0) });
    table.advance(Position(9));
    let judged = |position| {
        let mark = Mark { log: LOG, position: Position(position), ..Mark::default() };
        table.check([Tag::url("http://b/")], &mark)
    };
    assert_eq!((judged(4), judged(5)), (Standing::Doubtful, Standing::Good));
}

#[test]
fn an_entry_of_another_log_is_gone_if_a_pattern_matches_it_as_by_a_tag() {
    let mut table = Table::new(LOG, Room::rows(10));
    let (tag, reach) = (Tag::pattern(&read("http://a/*")), Reach::Pattern(read("http://a/*")));
    table.apply(&Record { position: Position(1), tag, kind: Kind::Soft, reach });
    let mark = Mark { log: Incarnation(1), position: Position(99), ..Mark::default() };
    for (url, wanted) in [("http://a/1", Standing::Gone), ("http://b/1", Standing::Good)] {
        let subject = Subject { tags: &[], urls: &Urls::one(url), mark: &mark };
        assert_eq!(table.check_patterns(&subject, None), wanted, "{url}");
    }
    assert_eq!(table.check([], &mark), Standing::Doubtful, "whatever the patterns say");
}

const PATTERNS: [&str; 5] = ["http://a/*", "http://a/x*", "http://a/*y", "http://b/d/*z", "http://b/?*"];
const URLS: [&str; 6] = ["http://a/x", "http://a/xy", "http://b/d/z", "http://b/?z", "http://b/", "http://c/"];

proptest! {
    /// However few of them are remembered: what a pattern has purged after its fetch is never good, and the last one
    /// is still known.
    #[test]
    fn what_a_pattern_purged_is_never_good(
        purges in prop::collection::vec((0..PATTERNS.len(), any::<bool>()), 1..12),
        patterns in 1_usize..4,
        url in 0..URLS.len(),
        knows in 0..3_usize,
        fetched in 0_u64..13,
    ) {
        let (mut table, url) = (Table::new(LOG, Room { rows: 10, patterns }), URLS[url]);
        let mut purged_after = false;
        for (at, (name, hard)) in (1..).zip(&purges) {
            let pattern = read(PATTERNS[*name]);
            let kind = if *hard { Kind::Hard } else { Kind::Soft };
            purged_after |= at > fetched && pattern.matches(url);
            let tag = Tag::pattern(&pattern);
            table.apply(&Record { position: Position(at), tag, kind, reach: Reach::Pattern(pattern) });
        }
        let urls = [Urls::Unknown, Urls::one(url), Urls::Queries(url.into())];
        let tags = tag::of_url(url, true).to_vec();
        let mark = Mark { log: LOG, position: Position(fetched), ..Mark::default() };
        let subject = Subject { tags: &tags, urls: &urls[knows], mark: &mark };
        let standing = table.check(tags.iter().copied(), &mark).max(table.check_patterns(&subject, None));
        prop_assert!(!purged_after || standing != Standing::Good, "{}: {:?}", url, standing);
        let (last, hard) = purges[purges.len() - 1];
        if read(PATTERNS[last]).matches(url) && fetched < purges.len() as u64 && knows > 0 && hard {
            prop_assert_eq!(standing, Standing::Gone);
        }
        prop_assert!(table.patterns().len() <= patterns);
    }
}
