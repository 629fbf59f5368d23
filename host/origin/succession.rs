//! What a pool takes over from the one that had its name before the configuration changed. Pure.

use crate::config::{self, Endpoint};

/// Whether connections that were opened by one configuration of a pool are as another one wants them.
pub(super) fn keeps_connections(former: &config::Pool, next: &config::Pool) -> bool {
    // Those that are named here have no part in connections. One that is new counts, until it is named as well.
    let own = config::Pool {
        endpoints: former.endpoints.clone(),
        zone: former.zone.clone(),
        zones: former.zones.clone(),
        dns_ttl: former.dns_ttl,
        records: config::Dns { ttl_max: former.records.ttl_max, ..next.records.clone() },
        waiting_max: former.waiting_max,
        response: former.response,
        idle: former.idle,
        body: former.body,
        attempts_max: former.attempts_max,
        request_coding: former.request_coding,
        response_coding: former.response_coding,
        host: former.host.clone(),
        health: former.health.clone(),
        eject: former.eject,
        batch: former.batch,
        translation: former.translation.clone(),
        ..next.clone()
    };
    own == *former
}

/// Returns where an endpoint stood in the former pool, whatever its share was there.
pub(super) fn place_of(endpoint: &Endpoint, former: &config::Pool) -> Option<usize> {
    former.endpoints.iter().position(|known| known.is_same_place(endpoint))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn which_keys_have_a_part_in_connections() {
        let pool = crate::origin::tests::config(&[]);
        let cases: &[(&str, fn(&mut config::Pool), bool)] = &[
            ("nothing", |_| {}, true),
            ("zone", |pool| pool.zone = Some("a".to_owned()), true),
            ("zones", |pool| pool.zones.push("a".to_owned()), true),
            ("dns_ttl_ms", |pool| pool.dns_ttl += Duration::from_secs(1), true),
            ("dns.ttl_ms_max", |pool| pool.records.ttl_max += Duration::from_secs(1), true),
            ("dns.servers", |pool| pool.records.servers.push(([127, 0, 0, 1], 53).into()), false),
            ("dns", |pool| pool.dns = config::NameSource::Records, false),
            ("waiting_max", |pool| pool.waiting_max += 1, true),
            ("host", |pool| pool.host = config::OriginHost::Client, true),
            ("eject", |pool| pool.eject.failures = 1, true),
            ("batch", |pool| pool.batch.size_max += 1, true),
            ("connections_max", |pool| pool.connections_max += 1, false),
            ("connect_ms", |pool| pool.connect += Duration::from_secs(1), false),
            ("keep_alive_ms", |pool| pool.keep_alive += Duration::from_secs(1), false),
            ("response_headers_max", |pool| pool.response_headers_max += 1, false),
            ("http", |pool| pool.http = config::OriginHttp::Http2, false),
            ("tls", |pool| pool.tls.server_name = Some("a".to_owned()), false),
        ];
        for (name, change, wanted) in cases {
            let mut next = pool.clone();
            change(&mut next);
            assert_eq!(keeps_connections(&pool, &next), *wanted, "{name}");
        }
    }

    #[test]
    fn an_endpoint_is_known_by_its_url() {
        let endpoint = |url: &str| Endpoint::new(url.parse().unwrap());
        let service = |name: &str| Endpoint { service: Some(name.to_owned()), ..endpoint("http://a") };
        let socket = |path: &str| Endpoint { socket: Some(path.into()), ..endpoint("http://localhost") };
        let former = config::Pool {
            endpoints: vec![endpoint("http://a"), endpoint("http://b"), socket("/c"), service("_http._tcp.a")],
            ..crate::origin::tests::config(&[])
        };
        for (endpoint, wanted) in [
            (Endpoint { weight: 7, backup: true, zone: Some("z".to_owned()), ..endpoint("http://b") }, Some(1)),
            (endpoint("http://b/x"), None),
            (endpoint("https://b"), None),
            (endpoint("http://localhost"), None),
            (socket("/c"), Some(2)),
            (socket("/d"), None),
            (service("_http._tcp.a"), Some(3)),
            (service("_web._tcp.a"), None),
            (endpoint("http://a"), Some(0)),
        ] {
            assert_eq!(place_of(&endpoint, &former), wanted, "{endpoint:?}");
        }
    }
}
