//! Opening the tiers with the purge logs that the node follows.

use std::sync::Arc;

use crate::{
    cache::{
        self, Cache, Metrics,
        purge::{self, World, etcd::EtcdLog},
    },
    config::Config,
    etcd::Etcd,
};

/// Opens the tiers, and prepares to follow the region's purge log and the world's.
///
/// # Errors
/// As [`Cache::open_in`].
pub(super) async fn open(config: &Config, metrics: Metrics) -> Result<Arc<Cache>, cache::Error> {
    Cache::open_in(&config.node, &config.cache, world(config)?, metrics).await
}

/// Returns the world's log, if the configuration has one.
fn world(config: &Config) -> Result<Option<World>, purge::Error> {
    // `config` refuses the one without the other.
    let (Some(global), Some(region)) = (&config.global, &config.region) else { return Ok(None) };
    let etcd = Etcd::new(&global.etcd).map_err(|error| purge::Error::Log(error.to_string()))?;
    let log = EtcdLog::new(etcd, &global.namespace, &global.purge);
    Ok(Some(World { region: region.name.clone(), log: Arc::new(log), purge: global.purge.clone() }))
}
