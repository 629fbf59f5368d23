//! Who is waited for: processes that start on a member's directory while the log is out of reach, and nodes that have
//! signed on and have yet to be sure of the log.

use super::{
    loss::{killed, spawned},
    *,
};

/// How a member's process ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Killed,
    /// It stops in good order, with or without the log.
    Stopped,
    StoppedAlone,
}

/// Returns the directory of a node that was a member, and has ended while the log is down.
async fn former_member(log: &Arc<FakeLog>, end: End) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (node, stop) = (reopened(log, dir.path(), &config()).await, CancellationToken::new());
    let task = tokio::spawn(Arc::clone(&node).run(stop.clone()));
    until("step", || node.in_step()).await;
    until("its being on disk", || note(&node).is_some()).await;
    match end {
        End::Killed => killed(task).await,
        End::Stopped | End::StoppedAlone => {
            log.set_down(matches!(end, End::StoppedAlone));
            stop.cancel();
            let _ = task.await;
        }
    }
    log.set_down(true);
    dir
}

fn note(node: &Purger) -> Option<super::super::membership::Membership> {
    node.journal.as_ref().unwrap().membership().unwrap()
}

/// Waits until the node has found that it can't reach the log, and has drawn its conclusions.
async fn found_out(log: &FakeLog) {
    let before = log.failed.load(Ordering::Relaxed);
    until("another attempt", || log.failed.load(Ordering::Relaxed) >= before + 2).await;
}

#[tokio::test]
async fn a_process_that_starts_without_its_log_takes_the_place_of_the_member_that_it_was() {
    let same = config();
    let other_fence = config::Purge { fence: FENCE * 2, ..config() };
    let serving = config::Purge { cut_off: config::CutOff::Serve, ..config() };
    let table = [
        ("killed", End::Killed, &same, "a", true),
        ("stopped, and signed off", End::Stopped, &same, "a", false),
        ("stopped while the log was out", End::StoppedAlone, &same, "a", true),
        ("another name", End::Killed, &same, "b", false),
        ("another fence", End::Killed, &other_fence, "a", false),
        ("another answer to being cut off", End::Killed, &serving, "a", false),
    ];
    for (case, end, config, name, is_awaited) in table {
        let log = Arc::new(FakeLog::default());
        let dir = former_member(&log, end).await;
        // Waits until the directory is free.
        drop(reopened(&log, dir.path(), &self::config()).await);
        let node = run(&follower_with(name, &log, Some(dir.path()), config));
        found_out(&log).await;
        let (fetched, read_back) = (Stored::new(&node, "t"), Stored::new(&node, "t").read_back());
        let wanted = if is_awaited { Standing::Good } else { Standing::Unconfirmed };
        assert_eq!(fetched.judged(&node), wanted, "{case}");
        assert_ne!(read_back.judged(&node), Standing::Good, "{case}: what another process fetched");
        assert!(!node.in_step() && node.is_catching_up(), "{case}");
    }
}

/// Whatever is tried on the way: the note of a member outlives processes that never became one.
#[tokio::test]
async fn all_processes_of_a_directory_are_succeeded_by_the_one_that_reaches_the_log() {
    let log = Arc::new(FakeLog::default());
    let dir = former_member(&log, End::Killed).await;
    for _ in 0..2 {
        let node = reopened(&log, dir.path(), &config()).await;
        let task = spawned(&node);
        until("its being awaited", || Stored::new(&node, "t").judged(&node) == Standing::Good).await;
        killed(task).await;
    }
    assert_eq!(log.nodes(), 1);
    let node = run(&reopened(&log, dir.path(), &config()).await);
    let instance = node.region.as_ref().unwrap().instance;
    log.set_down(false);
    until("step", || node.in_step()).await;
    let is_alone = || log.server.lock().members.keys().all(|member| [0, instance].contains(member));
    until("the former member's being signed off", || log.nodes() == 1 && is_alone()).await;
    assert_eq!(note(&node).map(|note| note.instance), Some(instance));
}

/// A copy tells of processes that may still run where it was made, or be started there again.
#[tokio::test]
async fn a_process_on_a_copy_of_a_members_directory_signs_nobody_off() {
    let log = Arc::new(FakeLog::default());
    let (one, line) = (run(&follower("one", &log, None)), log.line());
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cut = reopened(&line, dir.path(), &config()).await;
    let task = spawned(&cut);
    until("step", || one.in_step() && cut.in_step()).await;
    until("its being on disk", || note(&cut).is_some()).await;
    line.set_down(true);
    // It writes nothing any more.
    found_out(&line).await;
    std::fs::copy(dir.path().join("purge.redb"), copy.path().join("purge.redb")).unwrap();
    let on_copy = run(&follower("c", &log, Some(copy.path())));
    until("step", || on_copy.in_step()).await;
    let has_waited = async |purging: &Running| {
        let receipt = purging.purge(&tag("t"), Kind::Hard, ACK).await.unwrap();
        receipt.expired.contains(&"a".to_owned()) && receipt.missing.is_empty()
    };
    // Each takes a fence, in which the one on the copy looks at the list.
    for purging in [&one, &on_copy, &one] {
        assert!(has_waited(purging).await, "while it runs");
    }
    killed(task).await;
    drop(cut);
    let next = run(&reopened(&line, dir.path(), &config()).await);
    found_out(&line).await;
    assert_eq!(Stored::new(&next, "t").judged(&next), Standing::Good, "it has taken the member's place");
    for purging in [&one, &on_copy] {
        assert!(has_waited(purging).await, "after another start on its own directory");
    }
    line.set_down(false);
    let named = || log.server.lock().members.values().filter(|member| member.node == "a").count();
    until("the former process's being signed off", || next.in_step() && named() == 1).await;
}

/// To the others there is no difference between a member that stands still and its successor.
#[tokio::test]
async fn purges_wait_for_a_process_that_has_taken_a_members_place() {
    for case in ["by one that knew it", "by a third one", "after the server was wiped"] {
        let log = Arc::new(FakeLog::default());
        let (one, line) = (run(&follower("one", &log, None)), log.line());
        until("step", || one.in_step()).await;
        let dir = former_member(&line, End::Killed).await;
        let knows = || one.region.as_ref().unwrap().known().iter().any(|member| member.node == "a");
        until("its being known", knows).await;
        if case == "after the server was wiped" {
            log.restore(Server::default());
        }
        let third = run(&follower("third", &log, None));
        let purging = if case == "by a third one" { &third } else { &one };
        until("step", || one.in_step() && third.in_step()).await;
        let node = run(&reopened(&line, dir.path(), &config()).await);
        found_out(&line).await;
        // What follows on a log's beginning is over.
        purging.purge(&tag("x"), Kind::Hard, ACK).await.unwrap();
        let stored = Stored::new(&node, "t");
        assert_eq!(stored.judged(&node), Standing::Good, "{case}");
        let receipt = purging.purge(&tag("t"), Kind::Hard, ACK).await.unwrap();
        assert_eq!((&receipt.expired, receipt.missing.len()), (&vec!["a".to_owned()], 0), "{case}: {receipt:?}");
        assert_eq!(stored.judged(&node), Standing::Unconfirmed, "{case}");
        assert_eq!(Stored::new(&node, "t").judged(&node), Standing::Good, "{case}: it goes on being awaited");
    }
}

/// `ahead` has applied a purge, and stands still. The log is put back to before it, and `behind` finds nothing amiss.
#[tokio::test]
async fn a_node_that_is_not_sure_of_the_log_trusts_nothing_stored_but_is_ready_and_asks_once() {
    for returns in [true, false] {
        let log = Arc::new(FakeLog::default());
        let config = config::Purge { fence: FENCE * 20, ..config() };
        let ahead = follower_with("ahead", &log, None, &config);
        let task = spawned(&ahead);
        until("step", || ahead.in_step()).await;
        log.add(Some((Tag::named(b"x"), Kind::Hard)));
        until("news", || ahead.applied.borrow().position == Position(1)).await;
        let (copy, stored) = (log.server.lock().clone(), Stored::new(&ahead, "t").read_back());
        log.add(Some((Tag::named(b"t"), Kind::Hard)));
        until("the purge", || ahead.applied.borrow().position == Position(2)).await;
        killed(task).await;
        log.restore(copy);
        let behind = run(&follower_with("behind", &log, None, &config));
        until("readiness", || {
            assert_ne!(stored.judged(&behind), Standing::Good);
            !behind.is_catching_up()
        })
        .await;
        assert_eq!(
            (stored.judged(&behind), behind.in_step()),
            (Standing::Unconfirmed, false),
            "nobody has confirmed it"
        );
        assert_eq!(Stored::new(&behind, "t").judged(&behind), Standing::Good, "once a key and fence period");
        if returns {
            let _ahead = run(&ahead);
            until("doubt", || {
                assert_ne!(stored.judged(&behind), Standing::Good);
                stored.judged(&behind) == Standing::Doubtful
            })
            .await;
        }
    }
}

/// It is on the list of the new incarnation, and still judges by the table of the old one.
#[tokio::test]
async fn a_node_that_has_yet_to_begin_anew_has_not_applied_what_was_purged_before() {
    let log = Arc::new(FakeLog::default());
    let (one, line) = (run(&follower("one", &log, None)), log.line());
    let two = run(&follower("two", &line, None));
    until("step", || one.in_step() && two.in_step()).await;
    assert_eq!(one.sign_off("*", ACK).await.unwrap().done, 1, "nodes of which nothing is known");
    // What follows on the log's beginning is over.
    one.purge(&tag("x"), Kind::Hard, ACK).await.unwrap();
    let append = Append { tag: Tag::named(b"t"), kind: Kind::Hard, reach: Reach::Entries };
    *line.stuck.lock() = "follow";
    let region = one.region.as_ref().unwrap();
    let appended = region.log.append(&[append], &[]).await.unwrap();
    log.server.lock().begin(&[]);
    *line.stuck.lock() = "records";
    two.fence.renew(clock::uptime());
    let stored = Stored::new(&two, "t");
    assert_eq!(stored.judged(&two), Standing::Good);
    let receipt = region.acknowledged(&appended, ACK, one.applied.subscribe()).await.unwrap();
    assert!(receipt.missing.is_empty(), "{receipt:?}");
    assert_ne!(stored.judged(&two), Standing::Good);
    *line.stuck.lock() = "";
}
