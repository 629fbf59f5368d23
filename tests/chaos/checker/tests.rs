use super::*;
use crate::{
    catalogue::{Sort, Validator},
    history::{Change, Seen},
    stamp::Stamp,
};

const SLACK: Micros = 500;

/// A resource that lives for ten seconds and is tagged `t`.
fn resource(path: &str, sort: Sort) -> Resource {
    Resource {
        path: path.to_owned(),
        sort,
        ttl_s: 10,
        grace_s: 0,
        if_error_s: 0,
        validator: Validator::Strong,
        length: 300,
        tags: vec!["t".to_owned()],
    }
}

fn exchange(key: &str, version: u64, from: Micros, until: Micros) -> Event {
    Event::Exchange(Exchange { key: key.to_owned(), version, status: 200, whole: true, from, until })
}

/// A request of client `c` to node 0, whose response is whole and has this version.
fn request(key: &str, version: u64, sent: Micros, received: Micros) -> Request {
    let stamp = Stamp { key: key.to_owned(), version, to: "-".to_owned(), length: 300 };
    let seen = Seen { status: 200, whole: true, stamp: Some(stamp), sound: true, ..Seen::default() };
    let (client, key) = ("c".to_owned(), key.to_owned());
    Request { id: 1, client, node: 0, key, reload: false, condition: None, sent, received, seen }
}

/// The same with a 304, for a client that has this version.
fn confirmed(key: &str, version: u64, sent: Micros, received: Micros) -> Request {
    let etag = Some(format!("\"{key}.{version}\""));
    let seen = Seen { status: 304, whole: true, etag, ..Seen::default() };
    Request { condition: Some(version), seen, ..request(key, version, sent, received) }
}

fn purge(scope: Scope, sent: Micros, done: Micros) -> Purge {
    let (status, applied, nodes) = (200, Vec::new(), None);
    Purge { node: 1, scope, soft: false, sent, done, status, complete: true, applied, nodes }
}

fn write(node: usize, sent: Micros, done: Micros) -> Write {
    let (url, method) = ("/p".to_owned(), "POST".to_owned());
    Write { id: 7, node, url, method, sent, done, status: 204 }
}

/// The rule that a request breaks after these events, if any.
fn found(before: &[Event], request: Request) -> Option<Rule> {
    let resources = [("/p", Sort::Plain), ("/q", Sort::Plain), ("/t", Sort::Tenant), ("/x", Sort::Private)];
    let mut events: Vec<Event> = resources.map(|(path, sort)| Event::Resource(resource(path, sort))).into();
    events.extend_from_slice(before);
    events.push(Event::Request(request));
    let violations = check(&events, SLACK);
    assert!(violations.len() <= 1, "{violations:?}");
    violations.first().map(|violation| violation.rule)
}

#[test]
fn a_response_is_a_version_of_its_key_that_the_origin_has_sent() {
    let sent = [exchange("/p", 1, 100, 110), exchange("/t#a", 4, 100, 110)];
    assert_eq!(found(&sent, request("/p", 1, 90, 120)), None, "the exchange that it led to");
    assert_eq!(found(&sent, request("/p", 1, 200, 210)), None, "stored");
    assert_eq!(found(&sent, request("/p", 2, 200, 210)), Some(Rule::NeverIssued));
    assert_eq!(found(&sent, request("/p", 1, 80, 90)), Some(Rule::NeverIssued), "not yet");
    let mixed = Request { key: "/t#b".to_owned(), ..request("/t#a", 4, 200, 210) };
    assert_eq!(found(&sent, mixed), Some(Rule::AnotherKey), "another tenant's");
    let mixed = Request { key: "/q".to_owned(), ..request("/p", 1, 200, 210) };
    assert_eq!(found(&sent, mixed.clone()), Some(Rule::AnotherKey));
    let broken = Request { seen: Seen { whole: false, ..mixed.seen.clone() }, ..mixed };
    assert_eq!(found(&sent, broken), Some(Rule::AnotherKey), "even if it broke off");
    let torn = Event::Exchange(Exchange {
        key: "/q".to_owned(),
        version: 1,
        status: 200,
        whole: false,
        from: 100,
        until: 110,
    });
    assert_eq!(found(&[torn], request("/q", 1, 200, 210)), Some(Rule::NeverIssued), "not whole");
}

#[test]
fn what_claims_to_be_whole_is() {
    let sent = [exchange("/p", 1, 100, 110)];
    let whole = request("/p", 1, 200, 210);
    let seen = |change: fn(&mut Seen)| {
        let mut request = whole.clone();
        change(&mut request.seen);
        request
    };
    assert_eq!(found(&sent, seen(|seen| seen.sound = false)), Some(Rule::Torn));
    assert_eq!(found(&sent, seen(|seen| (seen.sound, seen.stamp) = (false, None))), Some(Rule::Torn), "no stamp");
    assert_eq!(found(&sent, seen(|seen| (seen.sound, seen.whole) = (false, false))), None, "it broke off");
    assert_eq!(found(&sent, seen(|seen| *seen = Seen::default())), None, "nothing came");
    let error = seen(|seen| *seen = Seen { status: 502, whole: true, ..Seen::default() });
    assert_eq!(found(&sent, error), None);
    let partial = seen(|seen| *seen = Seen { status: 206, whole: true, ..Seen::default() });
    assert_eq!(found(&sent, partial), Some(Rule::NeverIssued), "no request was for a part");
}

#[test]
fn nothing_is_from_before_an_acknowledged_purge() {
    for scope in [Scope::Url("/p".to_owned()), Scope::Key("/p".to_owned()), Scope::Tag("t".to_owned())] {
        let purged = purge(scope, 150, 160);
        let history = [exchange("/p", 1, 100, 110), Event::Purge(purged.clone())];
        assert_eq!(found(&history, request("/p", 1, 161, 170)), Some(Rule::Purged));
        assert_eq!(found(&history, request("/p", 1, 160, 170)), Some(Rule::Purged));
        assert_eq!(found(&history, confirmed("/p", 1, 161, 170)), Some(Rule::Purged), "by a 304 as well");
        assert_eq!(found(&history, request("/p", 1, 159, 170)), None, "it was requested before the acknowledgement");
        let again = [&history[..], &[exchange("/p", 1, 155, 156)]].concat();
        assert_eq!(found(&again, request("/p", 1, 161, 170)), None, "the origin has confirmed it since");
        let slow = [exchange("/p", 1, 140, 400), Event::Purge(purged.clone())];
        assert_eq!(found(&slow, request("/p", 1, 161, 410)), Some(Rule::Purged), "a fetch that began before it");
        let partly = Purge { complete: false, status: 504, ..purged };
        let history = [exchange("/p", 1, 100, 110), Event::Purge(partly)];
        assert_eq!(found(&history, request("/p", 1, 161, 170)), None, "it wasn't acknowledged as complete");
    }
    let other = [exchange("/p", 1, 100, 110), Event::Purge(purge(Scope::Url("/q".to_owned()), 150, 160))];
    assert_eq!(found(&other, request("/p", 1, 161, 170)), None);
    let all = [exchange("/t#a", 1, 100, 110), Event::Purge(purge(Scope::Url("/t".to_owned()), 150, 160))];
    assert_eq!(found(&all, request("/t#a", 1, 161, 170)), Some(Rule::Purged), "a URL is all that is selected from it");
}

#[test]
fn a_purge_of_a_region_says_nothing_of_the_nodes_of_another() {
    for (nodes, wanted) in [(0..2, Some(Rule::Purged)), (2..4, None)] {
        let purged = Purge { nodes: Some(nodes.clone()), ..purge(Scope::Url("/p".to_owned()), 150, 160) };
        let history = [exchange("/p", 1, 100, 110), Event::Purge(purged)];
        assert_eq!(found(&history, request("/p", 1, 161, 170)), wanted, "{nodes:?}");
    }
}

#[test]
fn a_soft_purge_asks_the_origin_unless_something_stale_may_be_served() {
    let mut lenient = resource("/p", Sort::Plain);
    lenient.grace_s = 5;
    let soft = Event::Purge(Purge { soft: true, ..purge(Scope::Url("/p".to_owned()), 150, 160) });
    let history = [exchange("/p", 1, 100, 110), soft];
    assert_eq!(found(&history, request("/p", 1, 161, 170)), Some(Rule::Purged));
    let history = [&history[..], &[Event::Resource(lenient)]].concat();
    assert_eq!(found(&history, request("/p", 1, 161, 170)), None);
}

#[test]
fn an_unsafe_method_is_seen_by_later_clients_of_the_same_node() {
    let change = Event::Change(Change { write: 7, at: 152 });
    let history = |write: Write| vec![exchange("/p", 1, 100, 110), change.clone(), Event::Write(write)];
    assert_eq!(found(&history(write(0, 150, 160)), request("/p", 1, 161, 170)), Some(Rule::Written));
    assert_eq!(found(&history(write(0, 150, 160)), request("/p", 1, 159, 170)), None);
    assert_eq!(found(&history(write(1, 150, 160)), request("/p", 1, 161, 170)), None, "through another node");
    let failed = Write { status: 500, ..write(0, 150, 160) };
    assert_eq!(found(&history(failed), request("/p", 1, 161, 170)), None);
    let mut fresh = history(write(0, 150, 160));
    fresh.push(exchange("/p", 2, 153, 155));
    assert_eq!(found(&fresh, request("/p", 2, 161, 170)), None);
    for (node, allowed) in [(None, true), (Some(0), true), (Some(1), false)] {
        let mut history = history(write(0, 150, 160));
        let what = "redis frozen".to_owned();
        history.push(Event::Fault(Fault { what, node, cuts_off: true, from: 120, until: 155 }));
        assert_eq!(found(&history, request("/p", 1, 161, 170)).is_none(), allowed, "cut off: {node:?}");
    }
}

#[test]
fn nothing_is_older_than_its_life() {
    let history = [exchange("/p", 1, 100, 110)];
    let end = 110 + 10_000_000 + SLACK;
    assert_eq!(found(&history, request("/p", 1, end, end + 9)), None);
    assert_eq!(found(&history, request("/p", 1, end + 1, end + 9)), Some(Rule::Expired));
    assert_eq!(found(&history, confirmed("/p", 1, end + 1, end + 9)), Some(Rule::Expired));
    let renewed = [&history[..], &[exchange("/p", 1, 5_000_000, 5_000_010)]].concat();
    assert_eq!(found(&renewed, request("/p", 1, end + 1, end + 9)), None);
    let mut lenient = resource("/p", Sort::Plain);
    (lenient.grace_s, lenient.if_error_s) = (1, 2);
    let lenient = [&history[..], &[Event::Resource(lenient)]].concat();
    assert_eq!(found(&lenient, request("/p", 1, end + 2_000_000, end + 2_000_009)), None);
    assert_eq!(found(&lenient, request("/p", 1, end + 2_000_001, end + 2_000_009)), Some(Rule::Expired));
}

#[test]
fn a_304_speaks_of_what_the_client_has() {
    let history = [exchange("/p", 1, 100, 110), exchange("/p", 2, 120, 130)];
    assert_eq!(found(&history, confirmed("/p", 1, 200, 210)), None);
    let weak = |etag: &str| {
        let mut request = confirmed("/p", 1, 200, 210);
        request.seen.etag = Some(etag.to_owned());
        request
    };
    assert_eq!(found(&history, weak("W/\"/p.1\"")), None);
    assert_eq!(found(&history, weak("\"/p.2\"")), Some(Rule::NotModified));
    assert_eq!(found(&history, confirmed("/p", 3, 200, 210)), Some(Rule::NeverIssued));
    let unasked = Request { condition: None, ..confirmed("/p", 1, 200, 210) };
    assert_eq!(found(&history, unasked), Some(Rule::NotModified));
}

#[test]
fn what_is_for_one_client_is_made_for_each_request_anew() {
    let history = [exchange("/x", 1, 100, 110)];
    let private = |to: &str, sent: Micros| {
        let mut request = request("/x", 1, sent, 300);
        request.seen.stamp.as_mut().unwrap().to = to.to_owned();
        request
    };
    assert_eq!(found(&history, private("c", 90)), None);
    assert_eq!(found(&history, private("d", 90)), Some(Rule::AnotherClient));
    assert_eq!(found(&history, private("c", 101)), Some(Rule::AnotherClient), "stored, if for the same client");
}

#[test]
fn a_reload_gets_what_the_origin_says() {
    let history = [exchange("/p", 1, 100, 110)];
    let reload = |sent| Request { reload: true, ..request("/p", 1, sent, 900) };
    assert_eq!(found(&history, reload(90)), None);
    assert_eq!(found(&history, reload(110 + SLACK)), None, "the fetch may still have been under way for the node");
    assert_eq!(found(&history, reload(111 + SLACK)), Some(Rule::Reload));
}

#[test]
fn a_run_is_counted() {
    let mut hit = request("/p", 1, 200, 210);
    hit.seen.cache = Some("n1; hit; ttl=9".to_owned());
    let events = [
        Event::Request(hit),
        Event::Request(Request { seen: Seen::default(), ..request("/p", 1, 1, 2) }),
        Event::Purge(purge(Scope::Url("/p".to_owned()), 1, 2)),
        exchange("/p", 1, 100, 110),
    ];
    let counts = counts(&events);
    for (what, wanted) in
        [("requests", 2), ("hits", 1), ("responses 200", 1), ("purges complete", 1), ("origin 200", 1)]
    {
        assert_eq!(counts.get(what), Some(&wanted), "{what}");
    }
}
