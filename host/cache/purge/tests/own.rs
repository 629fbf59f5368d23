//! Purges of one node alone.

use super::{
    world::{Kept, Logs, purged},
    *,
};

#[tokio::test]
async fn a_purge_of_this_node_alone_takes_nothing_from_others_whatever_they_share() {
    let (logs, dir) = (Logs::default(), tempfile::tempdir().unwrap());
    let (one, two) = (logs.started("one", Some(dir.path())).await, logs.started("two", None).await);
    let (here, there, other) = (Kept::new(&one, "t"), Kept::new(&two, "t"), Kept::new(&two, "u"));
    assert_eq!(purged(&one, Extent::Node, "t").await.applied, ["one"]);
    let shared = there.read_back();
    assert_eq!((here.judged(&one), shared.judged(&one)), (Standing::Gone, Standing::Gone));
    assert_eq!((there.judged(&two), shared.judged(&two)), (Standing::Good, Standing::Good));
    assert_eq!(other.read_back().judged(&one), Standing::Good, "another tag");
    assert_eq!(Kept::new(&one, "t").judged(&one), Standing::Good, "fetched since");
    assert_eq!(logs.region.server.lock().last().0, Position(0), "nothing of it is in a log");
}

/// Its own disk has it, whatever becomes of the logs.
#[tokio::test]
async fn a_purge_of_this_node_alone_outlives_the_process_and_the_logs() {
    let (logs, dir) = (Logs::default(), tempfile::tempdir().unwrap());
    let node = logs.started("n", Some(dir.path())).await;
    let before = Kept::new(&node, "t").read_back();
    purged(&node, Extent::Node, "t").await;
    let after = Kept::new(&node, "t").read_back();
    node.kill().await;
    let node = logs.started("n", Some(dir.path())).await;
    until("trust", || after.judged(&node) == Standing::Good).await;
    assert_eq!(before.judged(&node), Standing::Gone);
    logs.region.restore(Server::default());
    until("doubt", || after.judged(&node) == Standing::Doubtful).await;
    assert_eq!(before.judged(&node), Standing::Gone);
    let again = Kept::new(&node, "t");
    purged(&node, Extent::Node, "t").await;
    assert_eq!(again.judged(&node), Standing::Gone, "positions go on");
    node.kill().await;
    let node = logs.started("n", Some(dir.path())).await;
    assert_eq!(again.read_back().judged(&node), Standing::Gone);
}

#[tokio::test]
async fn a_purge_of_this_node_alone_by_prefix_or_softly_is_one() {
    let (logs, dir) = (Logs::default(), tempfile::tempdir().unwrap());
    let node = logs.started("n", Some(dir.path())).await;
    let (mark, checked) = (node.mark(), Checked::default());
    let subject = Subject { tags: &[], urls: &Urls::Unknown, mark: &mark };
    let standing = |url: &str| node.check(&subject, &checked, Some(&|prefixes| tag::of_url(url, prefixes)));
    assert_eq!(standing("http://a/x/y"), Standing::Good);
    let prefix = Scope::Prefix("http://a/x".to_owned());
    node.purge(Some(Extent::Node), &prefix, Kind::Soft, ACK).await.unwrap();
    assert_eq!((standing("http://a/x/y"), standing("http://a/z")), (Standing::Stale, Standing::Good));
    node.purge(Some(Extent::Node), &Scope::Url("http://a/z".to_owned()), Kind::Hard, ACK).await.unwrap();
    assert_eq!((standing("http://a/x/y"), standing("http://a/z")), (Standing::Stale, Standing::Gone));
}

/// Others may have stored it where the node reads it again after a restart.
#[tokio::test]
async fn where_nothing_could_keep_it_a_purge_of_this_node_alone_is_refused() {
    let logs = Logs::default();
    let node = logs.started("n", None).await;
    let kept = Kept::new(&node, "t");
    let refused = node.purge(Some(Extent::Node), &tag("t"), Kind::Hard, ACK).await.unwrap_err();
    let is_said = matches!(&refused, Error::Extent { wanted: Extent::Node, allowed } if allowed == "region, world");
    assert!(is_said, "{refused}");
    assert_eq!(kept.judged(&node), Standing::Good);
}

#[tokio::test]
async fn a_node_without_logs_purges_itself_and_nothing_wider() {
    let purges = Purges::open("n", &config(), None, None, None, &Metrics::default()).unwrap();
    for extent in [None, Some(Extent::Node)] {
        let kept = Kept::new(&purges, "t");
        let (done, receipt) = purges.purge(extent, &tag("t"), Kind::Hard, ACK).await.unwrap();
        assert_eq!((done, receipt.applied), (Extent::Node, vec!["n".to_owned()]));
        assert_eq!(kept.judged(&purges), Standing::Gone);
    }
    for extent in [Extent::Region, Extent::World] {
        let refused = purges.purge(Some(extent), &tag("t"), Kind::Hard, ACK).await;
        assert!(matches!(refused, Err(Error::Extent { .. })), "{extent}: {refused:?}");
    }
}

#[tokio::test]
async fn rows_that_fold_are_deleted_from_the_disk_and_leave_doubt() {
    let (log, dir) = (Arc::new(FakeLog::default()), tempfile::tempdir().unwrap());
    let config = config::Purge { tags_max: 2, ..config() };
    let purger = follower_with("n", &log, Some(dir.path()), &config);
    for name in ["a", "b", "c", "a"] {
        purger.purge_here(&tag(name), Kind::Hard).await.unwrap();
    }
    let rows = |table: &table::Table| ["a", "b", "c"].map(|name| table.row(&Tag::named(name.as_bytes())).is_some());
    let in_memory = rows(purger.state.read().own.as_ref().unwrap());
    assert_eq!(in_memory, [true, false, true]);
    // With room for all, whatever is on disk is in the table.
    let on_disk = purger.journal.as_ref().unwrap().load_own(table::Room::rows(1_000)).unwrap().unwrap();
    assert_eq!(rows(&on_disk), [true, true, true], "what was folded by the last one is deleted with the next");
    purger.purge_here(&tag("a"), Kind::Hard).await.unwrap();
    let on_disk = purger.journal.as_ref().unwrap().load_own(table::Room::rows(1_000)).unwrap().unwrap();
    assert_eq!((rows(&on_disk), on_disk.floor()), ([true, false, true], Position(2)));
    let foreign = Mark::default();
    assert_eq!(on_disk.check_own([Tag::named(b"b")], &foreign), Standing::Doubtful);
}
