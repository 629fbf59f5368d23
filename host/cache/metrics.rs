//! The numbers of the cache.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// Counts of what the tiers do.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Values put into the tiers.
    pub stored: Counter,
    /// Fetches begun before what they refresh was stale.
    pub refreshed_ahead: Counter,
    /// Reads from disk that failed.
    pub disk_errors: Counter,
    /// Values on disk that were damaged, or overwritten while they were read.
    pub disk_lost: Counter,
    /// 1 while the directories are another process's, or nobody's.
    pub released: Gauge,
    /// Look-ups in Redis that were not made because its breaker is open.
    pub redis_skipped: Counter,
    /// Commands to Redis that failed or took too long.
    pub redis_errors: Counter,
    /// Writes to Redis that were dropped.
    pub redis_writes_dropped: Counter,
    /// Responses that weren't written to Redis because it has a newer one, or another node has the lease.
    pub redis_writes_older: Counter,
    /// Leases of the region that this node has had.
    pub leases_taken: Counter,
    /// How often this node has waited for what another one fetches.
    pub leases_waited: Counter,
    /// Of the leases, those whose former holder was waited for and has ended without a word.
    pub leases_taken_over: Counter,
    /// Bodies of which a part was missing when it was to be sent.
    pub parts_missing: Counter,
    /// Bodies whose rest came from the origin, because a part was missing.
    pub bodies_resumed: Counter,
    /// Bodies that broke off, because a part was missing and the origin couldn't make up for it.
    pub bodies_cut: Counter,
    /// Bodies that were passed on without being stored, because all together held as much as they may.
    pub bodies_unstored: Counter,
    /// Bytes of bodies that are held outside of the tiers.
    pub bodies_bytes: Gauge,
    /// Fetches under way that others wait for.
    pub flights: Gauge,
    /// Purges made through this node.
    pub purges: Counter,
    /// URLs that unsafe methods invalidated.
    pub purge_invalidations: Counter,
    /// Of these, how many joined one of the same URL that waited for the region's purge log.
    pub purge_invalidations_coalesced: Counter,
    /// Invalidations that the purge log has taken, each with those that had joined it.
    pub purge_invalidations_appended: Counter,
    /// URLs whose invalidation waits for the purge log.
    pub purge_invalidations_waiting: Gauge,
    /// How many of them are on disk.
    pub purge_invalidations_held: Gauge,
    /// Records of the region's purge log that could not be read.
    pub purge_unreadable: Counter,
    /// How often the region's purge log had lost records or was put back to an older state.
    pub purge_logs_lost: Counter,
    /// Whether this node is in step with its region's purge log.
    pub purge_in_step: Gauge,
    /// Records of the region's purge log that this node has yet to apply.
    pub purge_lag_records: Gauge,
    /// Milliseconds since the purge log was last read to its end.
    pub purge_lag_ms: Gauge,
    /// Milliseconds for which this node still serves without asking should it not reach the log any more.
    pub purge_fence_ms: Gauge,
    /// Whether another node of the region has this node's name.
    pub purge_namesakes: Gauge,
    /// 1 while purges wait for nodes of which nothing is known.
    pub purge_strangers: Gauge,
    /// Patterns that were purged and are remembered.
    pub purge_patterns: Gauge,
    /// Patterns that were forgotten for want of room.
    pub purge_patterns_dropped: Counter,
    /// The same of the world's purge log.
    pub world: WorldMetrics,
    /// Responses not stored because of their tags.
    pub tags_refused: Counter,
}

/// What is counted of the world's purge log, each as of the region's.
#[derive(Clone, Debug, Default)]
pub struct WorldMetrics {
    /// Records that could not be read.
    pub unreadable: Counter,
    /// How often the log had lost records or was put back to an older state.
    pub logs_lost: Counter,
    /// Whether this node is in step with it, or follows none.
    pub in_step: Gauge,
    /// Records that this node has yet to apply.
    pub lag_records: Gauge,
    /// Milliseconds since it was last read to its end.
    pub lag_ms: Gauge,
    /// Milliseconds for which this node still serves without asking should it not reach the log any more.
    pub fence_ms: Gauge,
    /// Whether another node has this node's region and name.
    pub namesakes: Gauge,
    /// 1 while purges wait for nodes of which nothing is known.
    pub strangers: Gauge,
    /// Patterns that were purged and are remembered.
    pub patterns: Gauge,
    /// Patterns that were forgotten for want of room.
    pub patterns_dropped: Counter,
}

impl Metrics {
    /// Returns the counts for whatever follows the world's log.
    #[must_use]
    pub fn of_world(&self) -> Self {
        let WorldMetrics {
            unreadable,
            logs_lost,
            in_step,
            lag_records,
            lag_ms,
            fence_ms,
            namesakes,
            strangers,
            patterns,
            patterns_dropped,
        } = self.world.clone();
        Self {
            purge_unreadable: unreadable,
            purge_logs_lost: logs_lost,
            purge_in_step: in_step,
            purge_lag_records: lag_records,
            purge_lag_ms: lag_ms,
            purge_fence_ms: fence_ms,
            purge_namesakes: namesakes,
            purge_strangers: strangers,
            purge_patterns: patterns,
            purge_patterns_dropped: patterns_dropped,
            // Unsafe methods have theirs handed on to the region's log alone.
            purge_invalidations_waiting: Gauge::default(),
            purge_invalidations_held: Gauge::default(),
            ..self.clone()
        }
    }

    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("cache_stored", "Values put into the tiers", &self.stored),
            ("cache_refreshed_ahead", "Fetches begun before what they refresh was stale", &self.refreshed_ahead),
            ("cache_disk_errors", "Reads from the disk tier that failed", &self.disk_errors),
            ("cache_disk_lost", "Values on disk that were gone or damaged when they were read", &self.disk_lost),
            ("cache_redis_skipped", "Look-ups skipped while Redis is left alone", &self.redis_skipped),
            ("cache_redis_errors", "Redis commands that failed or took too long", &self.redis_errors),
            ("cache_redis_writes_dropped", "Writes to Redis that were dropped", &self.redis_writes_dropped),
            ("cache_redis_writes_older", "Writes that would have replaced a newer response", &self.redis_writes_older),
            ("cache_leases_taken", "Leases of the region that this node has had", &self.leases_taken),
            ("cache_leases_waited", "Waits for what another node fetches", &self.leases_waited),
            ("cache_leases_taken_over", "Leases taken after their holder had vanished", &self.leases_taken_over),
            ("cache_parts_missing", "Bodies of which a part was missing", &self.parts_missing),
            ("cache_bodies_resumed", "Bodies whose rest came from the origin", &self.bodies_resumed),
            ("cache_bodies_cut", "Bodies that broke off for want of a part", &self.bodies_cut),
            ("cache_bodies_unstored", "Bodies not stored for want of memory on their way", &self.bodies_unstored),
            ("cache_purges", "Purges made through this node", &self.purges),
            ("cache_purge_invalidations", "URLs that unsafe methods invalidated", &self.purge_invalidations),
            ("cache_purge_invalidations_coalesced", "Of these, joined to another", &self.purge_invalidations_coalesced),
            ("cache_purge_invalidations_appended", "Taken by the purge log", &self.purge_invalidations_appended),
            ("cache_purge_unreadable", "Records of the purge log that could not be read", &self.purge_unreadable),
            ("cache_purge_logs_lost", "How often the purge log had lost records", &self.purge_logs_lost),
            ("cache_purge_patterns_dropped", "Purged patterns that were forgotten", &self.purge_patterns_dropped),
            ("cache_tags_refused", "Responses not stored because of their tags", &self.tags_refused),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let gauges = [
            ("cache_flights", "Fetches under way that others wait for", &self.flights),
            ("cache_bodies_bytes", "Bytes of bodies held outside of the tiers", &self.bodies_bytes),
            ("cache_released", "1 while the directories aren't this process's", &self.released),
            ("cache_purge_in_step", "1 while in step with the region's purge log, or without one", &self.purge_in_step),
            ("cache_purge_lag_records", "Records of the purge log yet to be applied", &self.purge_lag_records),
            ("cache_purge_lag_ms", "Since the purge log was read to its end; -1 before", &self.purge_lag_ms),
            ("cache_purge_fence_ms", "What is left of the fence", &self.purge_fence_ms),
            ("cache_purge_invalidations_waiting", "URLs that wait for the log", &self.purge_invalidations_waiting),
            ("cache_purge_invalidations_held", "How many of these are on disk", &self.purge_invalidations_held),
            ("cache_purge_namesakes", "1 if another node has this node's name", &self.purge_namesakes),
            ("cache_purge_strangers", "1 while purges wait for nodes of which nothing is known", &self.purge_strangers),
            ("cache_purge_patterns", "Purged patterns that are remembered", &self.purge_patterns),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        self.world.register(registry);
    }
}

impl WorldMetrics {
    fn register(&self, registry: &mut Registry) {
        let counters = [
            ("cache_purge_world_unreadable", "Records of the world's log that could not be read", &self.unreadable),
            ("cache_purge_world_logs_lost", "How often the world's log had lost records", &self.logs_lost),
            ("cache_purge_world_patterns_dropped", "Patterns of the world's log forgotten", &self.patterns_dropped),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let gauges = [
            ("cache_purge_world_in_step", "1 while in step with the world's purge log, or without one", &self.in_step),
            ("cache_purge_world_lag_records", "Records of the world's log yet to be applied", &self.lag_records),
            ("cache_purge_world_lag_ms", "Since the world's log was read to its end; -1 before", &self.lag_ms),
            ("cache_purge_world_fence_ms", "What is left of the world's fence", &self.fence_ms),
            ("cache_purge_world_namesakes", "1 if another node has this node's region and name", &self.namesakes),
            ("cache_purge_world_strangers", "1 while purges of the world wait for unknown nodes", &self.strangers),
            ("cache_purge_world_patterns", "Patterns of the world's log that are remembered", &self.patterns),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
    }
}
