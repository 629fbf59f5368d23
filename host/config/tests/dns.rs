//! How records are asked for, and which pools ask.

use std::time::Duration;

use super::{Dns, LISTENING, SERVED, check_refusal, valid};

#[test]
fn wrong_servers_are_named_where_they_stand() {
    let many = format!("[dns]\nservers = [{}] # !", ["\"::1\""; 9].join(", "));
    let table: [(&str, &[&str]); 4] = [
        ("[dns]\nservers = [\"ns.example\"] # !", &["`ns.example` is no server", "such as `10.0.0.53`"]),
        ("[dns]\nservers = [\"10.0.0.53:x\"] # !", &["`10.0.0.53:x` is no server"]),
        (&many, &["`servers` has too many entries", "up to 8"]),
        ("[dns]\nttl_ms_max = 999 # !", &["`ttl_ms_max` can't be 999 ms", "1_000 ms to"]),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("{text}\n{SERVED}"), phrases);
    }
}

#[test]
fn wrong_sources_and_services_are_named_where_they_stand() {
    let table: [(&str, &[&str]); 2] = [
        (
            "[pool.web]\nendpoints = [\"srv+http://_http._tcp.h:80\"] # !",
            &["`srv+http://_http._tcp.h:80` is no endpoint: its ports are those of the SRV records"],
        ),
        ("[pool.web]\nendpoints = [\"http://h\"]\ndns = \"srv\" # !", &["`dns` can't be `srv`", "`system`, `records`"]),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("{LISTENING}{text}"), phrases);
    }
}

#[test]
fn a_pool_knows_how_records_are_asked_for_if_it_asks_for_any() {
    let pool = |dns: &str, endpoint: &str, more: &str| {
        let text = format!("{LISTENING}{dns}\n[pool.web]\nendpoints = [\"{endpoint}\"]\n{more}");
        valid(&text).pools["web"].clone()
    };
    let own = "dns = { servers = [\"::1\", \"127.0.0.1:5353\"], ttl_ms_max = 1_000 }";
    let servers = vec!["[::1]:53".parse().unwrap(), "127.0.0.1:5353".parse().unwrap()];
    let known = Dns { servers, ttl_max: Duration::from_secs(1) };
    for (endpoint, more, wanted) in [
        ("http://h", "", &Dns::default()),
        ("http://h", "dns = \"records\"", &known),
        ("srv+http://_http._tcp.h", "", &known),
    ] {
        assert_eq!(pool(own, endpoint, more).records, *wanted, "{endpoint} {more}");
    }
    assert_eq!(pool(own, "http://h", ""), pool("", "http://h", ""), "it makes no difference");
}
