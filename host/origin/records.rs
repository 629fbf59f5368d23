//! Names of which the records are asked for: addresses, and services of SRV (RFC 2782), with their TTL. The only file
//! that knows the library.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, Record, rdata::SRV},
};
use tokio::{task::spawn_blocking, time::timeout};

use super::targets::{Found, Target};
use crate::config;

/// Hosts of a service that are looked up, those of the lowest priorities. Services with more have more than anybody
/// connects to.
const TARGETS_MAX: usize = 64;

/// Hosts of a service that are looked up at once.
const AT_ONCE: usize = 16;

/// How long the addresses of one host of a service are waited for: the others are of use without it.
const HOST_TIME: Duration = Duration::from_millis(1_000);

/// Asks for records.
pub(super) struct Resolver {
    dns: config::Dns,
}

impl Resolver {
    /// Returns what asks the servers that are configured, or those of the system.
    pub(super) fn new(dns: &config::Dns) -> Self {
        Self { dns: dns.clone() }
    }

    /// Looks up the addresses of a name, each with this port.
    ///
    /// # Errors
    /// No server has responded, or there is no address.
    pub(super) async fn addresses(&self, name: &str, port: u16) -> io::Result<Found> {
        let library = self.library().await?;
        addresses_of(&library, name, port).await.map_err(|error| unresolved(&error))
    }

    /// Looks up the hosts and ports of a service.
    ///
    /// # Errors
    /// No server has responded, there is no SRV record, or none of its hosts has an address.
    pub(super) async fn service(&self, name: &str) -> io::Result<Found> {
        let library = self.library().await?;
        hosts_of(&library, name).await.map_err(|error| unresolved(&error))
    }

    /// Returns the library as the files of the system have it now: it reads them once, and names are looked up seldom.
    async fn library(&self) -> io::Result<TokioResolver> {
        let dns = self.dns.clone();
        let made = spawn_blocking(move || library(&dns)).await.map_err(io::Error::other)?;
        made.map_err(|error| unresolved(&error))
    }
}

fn library(dns: &config::Dns) -> Result<TokioResolver, NetError> {
    let mut builder = if dns.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = dns.servers.iter().copied().map(server).collect();
        let config = ResolverConfig::from_name_servers(servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    // What is found is known by its name, which is looked up when that is over.
    builder.options_mut().cache_size = 0;
    builder.build()
}

/// Asks over UDP, and over TCP what is too long for that.
fn server(address: SocketAddr) -> NameServerConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

async fn addresses_of(library: &TokioResolver, name: &str, port: u16) -> Result<Found, NetError> {
    let (addresses, ttl) = look_up(library, Name::from_ascii(name)?, port).await?;
    Ok(Found { targets: vec![Target::only(addresses)], ttl: Some(ttl), is_partial: false })
}

async fn hosts_of(library: &TokioResolver, name: &str) -> Result<Found, NetError> {
    let answer = library.srv_lookup(Name::from_ascii(name)?).await?;
    let mut records: Vec<&SRV> = answer.answers().iter().filter_map(service_of).collect();
    if records.is_empty() {
        return Err(NetError::from("the name has no SRV record"));
    }
    // `.` says that there is no such service.
    records.retain(|record| !record.target.is_root());
    records.sort_by_key(|record| record.priority);
    records.truncate(TARGETS_MAX);
    let (mut targets, mut ttl) = (Vec::with_capacity(records.len()), ttl(answer.answers()));
    let (mut failed, mut is_partial) = (None, false);
    let looking: Vec<_> = records.iter().map(|record| timeout(HOST_TIME, host_of(library, record))).collect();
    let looked_up: Vec<_> = stream::iter(looking).buffered(AT_ONCE).collect().await;
    for outcome in looked_up {
        match outcome.unwrap_or(Err(NetError::Timeout)) {
            Ok((target, own)) => {
                targets.push(target);
                ttl = ttl.min(own);
            }
            Err(error) => {
                if !has_no_records(&error) {
                    // What is left out for now is asked for again as soon as that may be.
                    (ttl, is_partial) = (Duration::ZERO, true);
                }
                failed = Some(error);
            }
        }
    }
    match failed {
        Some(error) if targets.is_empty() => Err(error),
        _ => Ok(Found { targets, ttl: Some(ttl), is_partial }),
    }
}

async fn host_of(library: &TokioResolver, record: &SRV) -> Result<(Target, Duration), NetError> {
    let (addresses, ttl) = look_up(library, record.target.clone(), record.port).await?;
    Ok((Target { priority: record.priority, weight: record.weight, addresses }, ttl))
}

/// Looks up the addresses of a name of either family, each with this port, and how long they hold.
async fn look_up(library: &TokioResolver, name: Name, port: u16) -> Result<(Vec<SocketAddr>, Duration), NetError> {
    let found = library.lookup_ip(name).await?;
    let addresses: Vec<SocketAddr> = found.iter().map(|ip| SocketAddr::new(ip, port)).collect();
    if addresses.is_empty() {
        return Err(NetError::from("the name has no address"));
    }
    Ok((addresses, ttl(found.as_lookup().answers())))
}

fn service_of(record: &Record) -> Option<&SRV> {
    match &record.data {
        RData::SRV(service) => Some(service),
        _ => None,
    }
}

/// Returns how long all of these records hold.
fn ttl(records: &[Record]) -> Duration {
    Duration::from_secs(records.iter().map(|record| u64::from(record.ttl)).min().unwrap_or(0))
}

/// Whether a server has said that there is nothing, as opposed to none having said anything.
fn has_no_records(error: &NetError) -> bool {
    matches!(error, NetError::Dns(DnsError::NoRecordsFound(_)))
}

fn unresolved(error: &NetError) -> io::Error {
    io::Error::other(error.to_string())
}
