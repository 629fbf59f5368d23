//! Requests are taken in or refused as a whole, with the time of the backlog, and what is too late isn't sent.

use super::*;

const ANSWERED: Returned =
    Returned { items: 1, took: Duration::from_millis(500), outcome: Outcome::Responded, endpoint: None };

fn list(items: std::ops::Range<u32>, terms: Terms) -> Vec<(char, Vec<(u32, Terms)>)> {
    vec![('a', items.map(|item| (item, terms)).collect())]
}

/// Returns a scheduler of one slot, which is taken, and that has measured half a second for a batch.
fn busy(rule: SchedulerRule, now: Instant) -> (Scheduler<char, u32>, QueueId<char>) {
    let mut scheduler = Scheduler::new(SchedulerRule { concurrency: 1, ..rule }, Box::new(Gather));
    let mut send = |item| {
        scheduler.arrive(&'a', item, of(1), now, |_| true).unwrap();
        let Next::Send(batch) = scheduler.next(now, |_| true) else { panic!("a slot is free") };
        batch.queue_id
    };
    let queue_id = send(1_000);
    scheduler.finished(&queue_id, &ANSWERED, now);
    let mut send = |item| {
        scheduler.arrive(&'a', item, of(1), now, |_| true).unwrap();
        let Next::Send(batch) = scheduler.next(now, |_| true) else { panic!("a slot is free") };
        batch.queue_id
    };
    let queue_id = send(1_001);
    (scheduler, queue_id)
}

/// Lets batches come back until nothing waits, and returns them.
fn drain(scheduler: &mut Scheduler<char, u32>, mut out: QueueId<char>, now: Instant) -> Vec<Vec<u32>> {
    let mut batches = Vec::new();
    loop {
        scheduler.finished(&out, &ANSWERED, now);
        let Next::Send(batch) = scheduler.next(now, |_| true) else { return batches };
        batches.push(batch.items);
        out = batch.queue_id;
    }
}

#[test]
fn a_list_longer_than_the_queue_is_served_in_pieces() {
    let now = Instant::now();
    let rule = SchedulerRule { former: FormerRule { queue_max: 5, ..RULE.former }, ..RULE };
    let (mut scheduler, out) = busy(rule, now);
    scheduler.arrive_together(list(0..20, of(1)), now, |_| true).unwrap();
    assert_eq!(scheduler.load().items, 20);
    let refused = scheduler.arrive_together(list(20..40, of(1)), now, |_| true).unwrap_err();
    assert_eq!(refused.items, (20..40).collect::<Vec<_>>(), "as a whole");
    // 40 items in batches of 3, half a second each.
    assert_eq!((refused.why, refused.retry_after), (Refusal::Full, Duration::from_secs(7)));
    let other = Terms { tenant: Tenant::of_digest(7), ..of(1) };
    scheduler.arrive_together(list(40..42, other), now, |_| true).expect("another tenant has its share");
    let sent = drain(&mut scheduler, out, now);
    assert!(sent[0].contains(&40) && sent.concat().len() == 22, "{sent:?}");
}

#[test]
fn a_further_item_of_a_request_that_was_taken_in_has_a_place_in_a_full_queue_and_is_not_late() {
    let now = Instant::now();
    let rule = SchedulerRule { former: FormerRule { queue_max: 2, ..RULE.former }, ..RULE };
    let (mut scheduler, out) = busy(rule, now);
    scheduler.arrive_together(list(0..2, of(1)), now, |_| true).unwrap();
    for (terms, taken) in [
        (of(1), false),
        (Terms { admitted: true, ..of(1) }, true),
        (Terms { late_by: Some(now), ..of(1) }, false),
        (Terms { late_by: Some(now), admitted: true, ..of(1) }, true),
    ] {
        assert_eq!(scheduler.arrive(&'a', 9, terms, now, |_| true).is_ok(), taken, "{terms:?}");
    }
    assert_eq!(scheduler.load().items, 4);
    assert!(scheduler.arrive(&'a', 10, of(1), now, |_| true).is_err(), "those count for what comes after them");
    assert_eq!(drain(&mut scheduler, out, now).concat(), [0, 1, 9, 9]);
}

#[test]
fn several_lists_are_served_in_turns() {
    let now = Instant::now();
    let rule = SchedulerRule { former: FormerRule { queue_max: 13, ..RULE.former }, ..RULE };
    let (mut scheduler, out) = busy(rule, now);
    for start in [0, 100, 200] {
        scheduler.arrive_together(list(start..start + 7, of(1)), now, |_| true).expect("a list takes six places");
    }
    assert!(scheduler.arrive(&'b', 300, of(1), now, |_| true).is_err());
    let sent = drain(&mut scheduler, out, now);
    assert_eq!(sent[..4], [[0, 1, 2], [100, 101, 102], [200, 201, 202], [3, 4, 5]]);
    assert_eq!(sent.concat().len(), 21);
}

#[test]
fn a_request_of_several_classes_is_refused_as_a_whole() {
    let now = Instant::now();
    let rule = SchedulerRule { former: FormerRule { queue_max: 1, ..RULE.former }, ..RULE };
    let (mut scheduler, _) = busy(rule, now);
    scheduler.arrive(&'a', 0, of(1), now, |_| true).unwrap();
    let groups = vec![('b', vec![(1, of(1))]), ('c', vec![(2, of(1))])];
    assert_eq!(scheduler.arrive_together(groups, now, |_| true).unwrap_err().items, [1, 2]);
    assert_eq!((scheduler.load().items, scheduler.classes()), (1, 1));
}

#[test]
fn what_cant_be_in_time_is_refused_at_once() {
    let now = Instant::now();
    let within = |millis| Terms { deadline: Some(now + Duration::from_millis(millis)), ..of(1) };
    let after = |millis| Some(now + Duration::from_millis(millis));
    // items that wait, their terms, the terms of what comes, whether it is taken
    for (waiting, before, terms, taken) in [
        (0, of(1), within(400), false),
        (0, of(1), within(600), true),
        (0, of(1), Terms { late_by: after(400), ..of(1) }, false),
        (0, of(1), Terms { late_by: after(600), ..of(1) }, true),
        (0, of(1), Terms { late_by: after(400), ..within(600) }, false),
        // A client that stops to wait is no reason to refuse it.
        (0, of(1), Terms { wanted_by: after(400), ..of(1) }, true),
        (0, of(1), Terms { wanted_by: after(0), ..of(1) }, true),
        (0, of(1), Terms { wanted_by: after(400), ..within(600) }, true),
        // Without deadlines they are overtaken.
        (3, of(1), within(600), true),
        (3, within(550), within(600), false),
        (3, within(5_000), within(600), true),
        (3, within(550), within(1_100), true),
        (3, within(550), Terms { priority: 1, ..within(600) }, true),
        (3, within(550), Terms { tenant: Tenant::of_digest(7), ..within(600) }, true),
    ] {
        let (mut scheduler, _) = busy(RULE, now);
        for item in 0..waiting {
            scheduler.arrive(&'a', item, Terms { deadline: before.deadline, ..of(1) }, now, |_| true).unwrap();
        }
        let outcome = scheduler.arrive(&'a', 9, terms, now, |_| true);
        assert_eq!(outcome.is_ok(), taken, "{waiting} before {terms:?}");
        if let Err(refused) = outcome {
            assert_eq!((refused.why, refused.items), (Refusal::Late, vec![9]));
        }
    }
}

#[test]
fn a_pool_with_nothing_to_do_tries_whatever_was_measured() {
    let now = Instant::now();
    let (mut scheduler, out) = busy(RULE, now);
    scheduler.finished(&out, &ANSWERED, now);
    let within = |millis| Terms { deadline: Some(now + Duration::from_millis(millis)), ..of(1) };
    assert!(scheduler.arrive(&'a', 0, within(0), now, |_| true).is_err(), "it is past");
    assert!(scheduler.arrive(&'a', 1, within(10), now, |_| true).is_ok());
}

#[test]
fn what_others_may_wait_for_stays_when_it_is_late() {
    let start = Instant::now();
    let after = |millis| start + Duration::from_millis(millis);
    let mut scheduler = Scheduler::new(slots(1), Box::new(Gather));
    scheduler.arrive(&'a', 0, of(1), start, |_| true).unwrap();
    let Next::Send(out) = scheduler.next(start, |_| true) else { panic!("a slot is free") };
    let shared = Terms { late_by: Some(after(20)), wanted_by: Some(after(20)), ..of(1) };
    scheduler.arrive(&'a', 1, shared, start, |_| true).unwrap();
    assert_eq!(scheduler.next(start, |_| true), Next::Idle, "nothing is to be taken out");
    assert_eq!(scheduler.expire(after(60)), [0; 0]);
    scheduler.finished(&out.queue_id, &RETURNED, after(60));
    let Next::Send(out) = scheduler.next(after(61), |_| true) else { panic!("it waits still") };
    assert_eq!(out.items, [1]);
}

#[test]
fn what_passes_its_deadline_while_it_waits_is_not_sent() {
    let start = Instant::now();
    let after = |millis| start + Duration::from_millis(millis);
    let mut scheduler = Scheduler::new(slots(1), Box::new(Gather));
    scheduler.arrive(&'a', 0, of(1), start, |_| true).unwrap();
    let Next::Send(out) = scheduler.next(start, |_| true) else { panic!("a slot is free") };
    for (item, millis) in [(1, 30), (2, 20), (3, 40)] {
        let terms = Terms { deadline: Some(after(millis)), ..of(1) };
        scheduler.arrive(&'a', item, terms, start, |_| true).unwrap();
    }
    assert_eq!(scheduler.next(start, |_| true), Next::WaitUntil(after(20)), "also while no slot is free");
    assert_eq!(scheduler.expire(after(19)), [0; 0]);
    assert_eq!(scheduler.expire(after(20)), [2]);
    assert_eq!(scheduler.next(after(20), |_| true), Next::WaitUntil(after(30)));
    assert_eq!(scheduler.expire(after(30)), [1]);
    scheduler.finished(&out.queue_id, &RETURNED, after(30));
    let Next::Send(out) = scheduler.next(after(31), |_| true) else { panic!("one is left") };
    assert_eq!(out.items, [3]);
    scheduler.finished(&out.queue_id, &RETURNED, after(50));
    assert_eq!(scheduler.next(after(50), |_| true), Next::WaitUntil(after(40)));
    assert_eq!((scheduler.expire(after(50)), scheduler.next(after(50), |_| true)), (vec![], Next::Idle));
    assert!(scheduler.is_idle() && scheduler.classes() == 0);
}
