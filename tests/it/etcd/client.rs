//! The client of etcd against real servers.

use std::time::Duration;

use bytes::Bytes;
use holm::{
    config,
    etcd::{Compare, Error, Event, Op, Txn, Watch, Watched},
};

use crate::harness::{
    etcd::{Etcd, is_there},
    eventually, within,
};

type Client = holm::etcd::Etcd;

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn value(client: &Client, key: &'static str) -> Option<Bytes> {
    client.get(key).await.unwrap().map(|pair| pair.value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_takes_place_if_all_that_it_wants_holds() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start().await;
    let client = etcd.connected();
    client.put("k", "old", None).await.unwrap();
    let revision = client.put("k", "v", None).await.unwrap();
    let table = [
        (vec![], true),
        (vec![Compare::Exists(bytes("k"))], true),
        (vec![Compare::Exists(bytes("l"))], false),
        (vec![Compare::Absent(bytes("l"))], true),
        (vec![Compare::Absent(bytes("k"))], false),
        (vec![Compare::Value(bytes("k"), bytes("v"))], true),
        (vec![Compare::Value(bytes("k"), bytes("old"))], false),
        (vec![Compare::Value(bytes("l"), bytes(""))], false),
        (vec![Compare::Version(bytes("k"), 2)], true),
        (vec![Compare::Version(bytes("k"), 1)], false),
        (vec![Compare::ModRevision(bytes("k"), revision)], true),
        (vec![Compare::ModRevision(bytes("k"), revision - 1)], false),
        (vec![Compare::Exists(bytes("k")), Compare::Exists(bytes("l"))], false),
    ];
    for (when, wanted) in table {
        let txn = Txn { when, then: vec![Op::put("then", "1")], otherwise: vec![Op::put("otherwise", "1")] };
        let reply = client.txn(txn.clone()).await.unwrap();
        assert_eq!(reply.succeeded, wanted, "{txn:?}");
        let (done, other) = if wanted { ("then", "otherwise") } else { ("otherwise", "then") };
        assert_eq!((value(&client, done).await, value(&client, other).await), (Some(bytes("1")), None), "{txn:?}");
        assert!(client.delete(done).await.unwrap() && !client.delete(other).await.unwrap());
    }
    for key in ["p/1", "p/2", "p/3", "q"] {
        client.put(key, "v", None).await.unwrap();
    }
    let (_, pairs, more) = client.range("p/", "p0", 2).await.unwrap();
    let keys: Vec<Bytes> = pairs.into_iter().map(|pair| pair.key).collect();
    assert_eq!((keys, more), (vec![bytes("p/1"), bytes("p/2")], true));
    // A key that is written twice is a mistake, which changes nothing.
    let twice = Txn { then: vec![Op::put("q", "1"), Op::put("q", "2")], ..Txn::default() };
    assert!(matches!(client.txn(twice).await, Err(Error::Refused { .. })));
    assert_eq!(value(&client, "q").await, Some(bytes("v")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_goes_with_its_lease() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start().await;
    let client = etcd.connected();
    let lease = client.lease_grant(Duration::from_millis(59_001)).await.unwrap();
    client.put("k", "v", Some(lease)).await.unwrap();
    assert_eq!(client.lease_keep_alive(lease).await.unwrap(), Duration::from_secs(60));
    client.lease_revoke(lease).await.unwrap();
    assert_eq!(value(&client, "k").await, None);
    assert!(matches!(client.lease_keep_alive(lease).await, Err(Error::Expired(_))));
}

async fn next(watch: &mut Watch) -> Watched {
    within("an event", watch.next()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_brings_every_change_from_its_revision_on_or_says_that_it_cannot() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start().await;
    let client = etcd.connected();
    let first = client.put("w/a", "1", None).await.unwrap();
    client.put("x", "1", None).await.unwrap();
    client.delete("w/a").await.unwrap();
    let mut watch = client.watch("w/", first).await.unwrap();
    let last = client.put("w/b", "2", None).await.unwrap();
    let mut events = Vec::new();
    while events.len() < 3 {
        if let Watched::Events { events: more, .. } = next(&mut watch).await {
            events.extend(more);
        }
    }
    let event = |key, value, mod_revision| Event { key: bytes(key), value, mod_revision };
    let wanted =
        [event("w/a", Some(bytes("1")), first), event("w/a", None, first + 2), event("w/b", Some(bytes("2")), last)];
    assert_eq!(events, wanted);
    etcd.control(&["compaction", &last.to_string()]);
    let mut late = client.watch("w/", first).await.unwrap();
    assert_eq!(next(&mut late).await, Watched::Compacted { revision: last });
    assert!(within("the end", late.next()).await.is_err(), "it has ended");
    etcd.kill();
    assert!(within("the end", watch.next()).await.is_err(), "it isn't one in which nothing happens");
    assert!(matches!(client.watch("w/", last).await, Err(Error::Unreachable { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_may_have_happened_is_told_from_one_that_has_not() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start().await;
    let client = etcd.connected();
    client.put("k", "1", None).await.unwrap();
    etcd.stop();
    assert!(matches!(within("a write", client.put("k", "2", None)).await, Err(Error::Unknown { .. })));
    assert!(matches!(within("a read", client.get("k")).await, Err(Error::Unreachable { .. })));
    etcd.cont();
    eventually("a read", async || client.get("k").await.is_ok()).await;
    client.put("l", "4", None).await.unwrap();
    etcd.kill();
    let unreachable = async || matches!(client.put("l", "5", None).await, Err(Error::Unreachable { .. }));
    eventually("the end being noticed", unreachable).await;
    etcd.start_again().await;
    eventually("a read", async || client.get("l").await.is_ok()).await;
    assert_eq!(value(&client, "l").await, Some(bytes("4")), "what was acknowledged is on disk, and nothing else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_on_with_another_member_as_long_as_there_is_a_majority() {
    if !is_there() {
        return;
    }
    let members = Etcd::cluster(3).await;
    let config =
        config::Etcd { timeout: Duration::from_secs(2), ..config::Etcd::new(members.iter().map(Etcd::url).collect()) };
    let client = Client::new(&config).unwrap();
    client.put("k", "1", None).await.unwrap();
    members[0].kill();
    eventually("a write", async || client.put("k", "2", None).await.is_ok()).await;
    members[1].stop();
    for _ in 0..4 {
        assert!(within("a write", client.put("j", "3", None)).await.is_err(), "there is no majority");
    }
    members[0].start_again().await;
    eventually("a write", async || client.put("k", "4", None).await.is_ok()).await;
    members[1].cont();
    assert_eq!(within("a read", client.get("k")).await.unwrap().unwrap().value, "4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_signs_its_calls_and_gets_another_token_when_its_own_is_forgotten() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start().await;
    etcd.control(&["user", "add", "root:word"]);
    etcd.control(&["auth", "enable"]);
    let client = |user: Option<&str>, password: &str| {
        let config = config::Etcd {
            user: user.map(str::to_owned),
            password: Some(password.to_owned()),
            ..config::Etcd::new(vec![etcd.url()])
        };
        Client::new(&config).unwrap()
    };
    for refused in [client(None, ""), client(Some("root"), "wrong")] {
        assert!(matches!(refused.put("k", "1", None).await, Err(Error::Refused { .. })), "{refused:?}");
    }
    let known = client(Some("root"), "word");
    known.put("k", "1", None).await.unwrap();
    etcd.kill();
    etcd.start_again().await;
    eventually("a write", async || known.put("k", "2", None).await.is_ok()).await;
    let mut watch = known.watch("k", 1).await.unwrap();
    assert!(matches!(next(&mut watch).await, Watched::Events { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_trusts_its_own_authority_and_shows_its_certificate() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::secured().await;
    etcd.connected().put("k", "1", None).await.unwrap();
    for config in [config::Etcd { ca: None, ..etcd.config() }, config::Etcd { client: None, ..etcd.config() }] {
        let refused = Client::new(&config).unwrap().put("k", "2", None).await;
        assert!(refused.is_err(), "{config:?}");
    }
    assert_eq!(value(&etcd.connected(), "k").await, Some(bytes("1")));
}
