//! The state that the clones of a Redis store share.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::{
    cluster::Topology,
    generation_times::GenerationTimes,
    keys::RedisKeys,
    lease::{KnownGenerations, Lease},
    node::Route,
    options::Coherence,
    outbox::Outbox,
    recent::Recent,
    server::Server,
    shared_reads::Reads,
    stop::Stop,
};
use crate::{
    clock::{self, Nanos, monotonic, nanos},
    codec::{Codec, frame::Moment},
    key::KeyRef,
    namespace::set::Namespaces,
    store::{
        backend::{Backend, Context},
        memory::Memory,
    },
};

/// The state that the clones of a store share.
pub(crate) struct RedisInner {
    /// The memory in front of Redis. Its epochs, clock and counters are those of the whole store.
    pub(crate) memory: Memory,
    /// `true` if entries are kept in it.
    pub(crate) has_memory: bool,
    pub(crate) topology: Topology,
    pub(crate) keys: RedisKeys,
    pub(crate) codec: Codec,
    pub(crate) coherence: Coherence,
    pub(crate) memory_ttl: Nanos,
    pub(crate) heartbeat: Duration,
    pub(crate) max_heartbeat: Duration,
    pub(crate) max_round_trip: Duration,
    /// The longest time for which frequent invalidations are gathered.
    pub(crate) gather: Duration,
    pub(crate) command_timeout: Duration,
    pub(crate) generation_times: GenerationTimes,
    /// The time for which a fence stands. `None` if the store is not strict.
    pub(crate) fence: Option<Duration>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) known: KnownGenerations,
    pub(crate) reads: Reads,
    pub(crate) outbox: Outbox,
    /// Invalidations that a server has accepted, which may have been replaced by then.
    pub(crate) recent: Recent,
    /// Notified when a master can be reached again.
    pub(crate) reconnected: Notify,
    pub(crate) stop: Stop,
    /// The runtime of the worker thread.
    pub(crate) runtime: std::sync::OnceLock<tokio::runtime::Handle>,
    /// `true` after a warning about a refused subscription.
    pub(crate) warned_of_channel: std::sync::atomic::AtomicBool,
}

impl RedisInner {
    #[inline]
    pub(crate) fn is_leased(&self) -> bool {
        self.coherence == Coherence::Leased && self.lease.is_held(monotonic())
    }

    pub(crate) fn context(&self) -> &Context {
        self.memory.context()
    }

    /// Returns the route by which generations are created. If they are tracked, it is the connection that receives pushes, which receives
    /// none for them.
    pub(crate) fn creation_route(&self) -> Route {
        match self.coherence {
            Coherence::Leased if self.topology.single().is_none() => Route::Control,
            _ => Route::Pool,
        }
    }

    /// Waits until all masters can be reached, or one is known to be down: at most one second for each step.
    pub(crate) async fn wait_until_ready(&self) {
        let settled = async {
            loop {
                let told = self.reconnected.notified();
                let nodes = self.topology.all();
                let heard = self.topology.is_known() && nodes.iter().all(|node| node.control().is_some());
                if heard || nodes.iter().any(|node| node.breaker.is_open()) {
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_millis(20), told).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), settled).await;
        for node in self.topology.all() {
            if !node.breaker.is_open() {
                let _ = tokio::time::timeout(Duration::from_secs(1), node.connect()).await;
            }
        }
    }

    /// Returns the present moment by the clock of a key's stored times and by the clock of this process.
    ///
    /// The wall clock of this process is used until the clock of the server is known. It is always used with an injected clock, which does
    /// not run with the clock of the server.
    pub(super) fn moment(&self, key: KeyRef<'_>, names: &Namespaces) -> Moment {
        let clock = &self.context().clock;
        let here = clock.nanos();
        let of_server = || match self.topology.single() {
            Some(node) => node.time.at(here),
            None => self.topology.master_of(self.keys.slot_of_entry(names, key.hash()))?.time.at(here),
        };
        let there = match clock.is_system() {
            true => of_server().unwrap_or_else(|| {
                clock::follow_the_wall();
                clock.wall_at(here)
            }),
            false => clock.wall_at(here),
        };
        Moment { there, here }
    }

    /// Warns once about a server that evicts fences.
    pub(crate) fn check_eviction(&self, server: &Server) {
        use std::sync::atomic::Ordering;
        let evicts = &self.context().counters.evicts_fences;
        if self.fence.is_some() && server.eviction != "noeviction" {
            if !evicts.swap(true, Ordering::Relaxed) {
                let policy = &server.eviction;
                tracing::warn!(%policy, "redis may evict fences: strict invalidation needs maxmemory-policy noeviction");
            }
        } else {
            evicts.store(false, Ordering::Relaxed);
        }
    }
}

/// Converts a span to whole milliseconds, at least one.
pub(crate) fn millis(span: Nanos) -> u64 {
    (span / 1_000_000).max(1)
}

pub(crate) fn millis_of(span: Duration) -> u64 {
    millis(nanos(span))
}
