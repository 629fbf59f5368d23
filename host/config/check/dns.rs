//! The servers that are asked for records.

use std::net::{IpAddr, SocketAddr};

use toml::Spanned;

use crate::config::{Dns, findings::Findings, raw, units::DAY_MS};

/// The port of a server that is written without one.
const PORT: u16 = 53;

/// Servers that are named: more than anybody has, and each is asked when those before it don't respond.
const SERVERS_MAX: usize = 8;

pub(super) fn dns(raw: &raw::Dns, findings: &mut Findings<'_>) -> Dns {
    let base = Dns::default();
    if let Some(given) = raw.servers.get(SERVERS_MAX) {
        let help = format!("allowed are up to {SERVERS_MAX}");
        findings.refuse(given.span(), "`servers` has too many entries", help);
    }
    Dns {
        servers: raw.servers.iter().take(SERVERS_MAX).filter_map(|given| server(given, findings)).collect(),
        ttl_max: findings.millis("ttl_ms_max", &raw.ttl_ms_max, base.ttl_max, &(1_000..=DAY_MS)),
    }
}

/// Reads the address of a server, with or without a port.
fn server(given: &Spanned<String>, findings: &mut Findings<'_>) -> Option<SocketAddr> {
    let text = given.get_ref();
    let at_port = |ip: IpAddr| SocketAddr::new(ip, PORT);
    let read = text.parse::<SocketAddr>().ok().or_else(|| text.parse().ok().map(at_port));
    if read.is_none() {
        let help = "write an IP address, with a port if it isn't 53, such as `10.0.0.53` or `127.0.0.1:5353`";
        findings.refuse(given.span(), format!("`{text}` is no server to ask for records"), help);
    }
    read
}
