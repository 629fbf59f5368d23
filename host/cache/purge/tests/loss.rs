//! What must outlive the loss of a log, its list of members and a node together.

use super::*;

/// Runs a purger until the task is aborted, as a process that is killed.
pub(super) fn spawned(purger: &Arc<Purger>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(Arc::clone(purger).run(CancellationToken::new()))
}

pub(super) async fn killed(task: tokio::task::JoinHandle<()>) {
    task.abort();
    let _ = task.await;
}

/// The node that is cut off stands for one that serves on and can't reach the log.
#[tokio::test]
async fn a_node_that_is_cut_off_is_not_forgotten_with_the_log_and_its_list() {
    for cut_off in [config::CutOff::Ask, config::CutOff::Serve] {
        for restarted in [false, true] {
            let (log, dir) = (Arc::new(FakeLog::default()), tempfile::tempdir().unwrap());
            let node = reopened(&log, dir.path(), &config()).await;
            let task = spawned(&node);
            let cut = follower_with("b", &log, None, &config::Purge { cut_off, ..config() });
            let cut_task = spawned(&cut);
            until("step", || node.in_step() && cut.in_step()).await;
            killed(cut_task).await;
            let on_disk = || node.journal.as_ref().unwrap().roster().unwrap();
            until("its being known", || on_disk().iter().any(|member| member.node == "b")).await;
            let purging = if restarted {
                killed(task).await;
                drop(node);
                log.restore(Server::default());
                reopened(&log, dir.path(), &config()).await
            } else {
                // The log is begun by a node that knows it, and used by one that doesn't.
                log.restore(Server::default());
                until("the log's beginning", || log.server.lock().id != 0).await;
                killed(task).await;
                follower("c", &log, None)
            };
            let purging = run(&purging);
            until("step", || purging.in_step()).await;
            let receipt = purging.purge(&tag("t"), Kind::Hard, FENCE * 3).await.unwrap();
            let named = match cut_off {
                config::CutOff::Ask => &receipt.expired,
                config::CutOff::Serve => &receipt.missing,
            };
            assert!(named.contains(&"b".to_owned()), "{cut_off:?}, restarted: {restarted}: {receipt:?}");
        }
    }
}

/// One node has a list that was put back to a time before another one joined it.
#[tokio::test]
async fn who_is_missing_on_a_restored_list_is_signed_on_again() {
    let log = Arc::new(FakeLog::default());
    let one = run(&follower("one", &log, None));
    until("step", || one.in_step()).await;
    let copy = log.server.lock().clone();
    let cut = follower("b", &log, None);
    let task = spawned(&cut);
    until("step", || cut.in_step()).await;
    killed(task).await;
    let knows = || one.region.as_ref().unwrap().known().iter().any(|member| member.node == "b");
    until("its being known", knows).await;
    log.restore(copy);
    until("its being listed", || log.server.lock().members.values().any(|member| member.node == "b")).await;
}

/// The log, its server and the node that knew the other stay what they were: nothing shows but that one is missing.
#[tokio::test]
async fn who_is_missing_on_a_list_without_having_left_is_signed_on_again() {
    let log = Arc::new(FakeLog::default());
    let (one, stop) = (run(&follower("one", &log, None)), CancellationToken::new());
    let (cut, leaving) = (follower("b", &log, None), follower("c", &log, None));
    let task = spawned(&cut);
    let leaves = tokio::spawn(Arc::clone(&leaving).run(stop.clone()));
    let knows = |name: &str| one.region.as_ref().unwrap().known().iter().any(|member| member.node == name);
    until("step", || [&*one, &cut, &leaving].iter().all(|node| node.in_step()) && knows("b") && knows("c")).await;
    killed(task).await;
    log.server.lock().members.retain(|_, member| member.node == "one");
    let is_listed = |name: &str| log.server.lock().members.values().any(|member| member.node == name);
    until("its being listed", || is_listed("b") && is_listed("c")).await;
    stop.cancel();
    let _ = leaves.await;
    until("the other's being forgotten", || !knows("c")).await;
    assert!(knows("b") && is_listed("b") && !is_listed("c"), "the other has signed off");
    let receipt = one.purge(&tag("t"), Kind::Hard, ACK).await.unwrap();
    assert_eq!((receipt.applied, receipt.expired, receipt.missing), (vec!["one".into()], vec!["b".into()], vec![]));
}

#[tokio::test]
async fn where_nobody_knows_an_earlier_log_purges_wait_for_a_fence_for_a_while() {
    let log = Arc::new(FakeLog::default());
    let cut = follower("b", &log, None);
    let task = spawned(&cut);
    until("step", || cut.in_step()).await;
    let stored = Stored::new(&cut, "t");
    killed(task).await;
    log.restore(Server::default());
    let one = run(&follower_with("one", &log, None, &config::Purge { lost: FENCE * 15, ..config() }));
    until("step", || one.in_step()).await;
    let has_strangers = || log.server.lock().members.values().any(Member::is_strangers);
    assert!(has_strangers());
    // What follows on the log's beginning is over.
    one.purge(&tag("x"), Kind::Hard, ACK).await.unwrap();
    // As if it had read just before it was cut off.
    cut.fence.renew(clock::uptime());
    assert_eq!(stored.judged(&cut), Standing::Good);
    let receipt = one.purge(&tag("t"), Kind::Hard, ACK).await.unwrap();
    assert_eq!((receipt.applied, receipt.expired, receipt.missing), (vec!["one".into()], vec![], vec![]));
    assert_eq!(stored.judged(&cut), Standing::Unconfirmed);
    until("nobody's counting with it", || !has_strangers()).await;
    let roll = &one.region.as_ref().unwrap().roll;
    until("its being forgotten", || !roll.lock().has_strangers()).await;
}

#[tokio::test]
async fn a_node_whose_disk_refuses_is_past_its_fence_until_it_does_not() {
    let (log, dir) = (Arc::new(FakeLog::default()), tempfile::tempdir().unwrap());
    let node = run(&follower("n", &log, Some(dir.path())));
    until("step", || node.in_step()).await;
    let stored = Stored::new(&node, "t");
    until("the fence's end", || {
        // As each save leaves it that fails.
        node.unsaved.store(true, Ordering::Relaxed);
        stored.judged(&node) == Standing::Unconfirmed
    })
    .await;
    until("the disk's having it", || !node.unsaved.load(Ordering::Relaxed)).await;
    until("step", || stored.judged(&node) == Standing::Good).await;
}

/// The node and the log's server end together, and neither has the write.
#[tokio::test]
async fn a_write_that_the_log_took_and_lost_costs_confirmations_after_a_restart() {
    for is_lost in [true, false] {
        let (log, dir) = (Arc::new(FakeLog::default()), tempfile::tempdir().unwrap());
        let node = reopened(&log, dir.path(), &config()).await;
        let task = spawned(&node);
        until("step", || node.in_step()).await;
        node.purge(&tag("x"), Kind::Hard, ACK).await.unwrap();
        let (written, other) = (stored_under(&node, "u"), stored_under(&node, "v"));
        let copy = log.server.lock().clone();
        // The log takes it, and this node doesn't come to read it back.
        *log.stuck.lock() = "follow";
        node.invalidate(Tag::url("u")).await;
        assert_eq!(log.server.lock().last().0, Position(2));
        assert!(node.journal.as_ref().unwrap().busy().unwrap().is_some());
        killed(task).await;
        let (written, other) = (written.read_back(), other.read_back());
        drop(node);
        if is_lost {
            log.restore(copy);
        }
        *log.stuck.lock() = "";
        let node = run(&reopened(&log, dir.path(), &config()).await);
        until("catching up", || {
            assert_ne!(written.judged(&node), Standing::Good);
            node.in_step()
        })
        .await;
        if is_lost {
            assert_eq!((written.judged(&node), other.judged(&node)), (Standing::Doubtful, Standing::Doubtful));
        } else {
            assert_eq!((written.judged(&node), other.judged(&node)), (Standing::Gone, Standing::Good));
        }
        let note = || node.journal.as_ref().unwrap().busy().unwrap();
        until("the note's end", || note().is_none()).await;
    }
}
