//! The store: a handle of the state that its clones share.

use std::{
    fmt,
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    builder::RedisBuilder, inner::RedisInner, lock::LockReturn, options::Coherence, read::ReadRequest, waiting::DeliveryResult,
};
use crate::{
    entry::{Entry, stamp::Stamp, validity::Validity},
    key::KeyRef,
    namespace::set::Namespaces,
    stats::{Stats, usage::Usage},
    store::{
        Store,
        backend::{Admitted, Backend, BeginFill, Context, Fence, FillOptions, Put, StoreLookup},
        epochs::InvalidationKind,
        error::StoreError,
        lock::Lock,
    },
};

/// Ends the worker thread when the last handle is dropped.
pub(super) struct Handle {
    pub(super) inner: Arc<RedisInner>,
    pub(super) builder: RedisBuilder,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inner.stop.signal();
    }
}

/// A store in Redis that many processes share, optionally with memory in front. Needs the feature `redis`.
///
/// **Guarantee.** After the response of a write has been sent through an [`InvalidateLayer`](crate::InvalidateLayer) of any process, or
/// after [`invalidate`](Store::invalidate) has returned there, a hit is
///
/// | [`Coherence`] | stale by at most | round trips of a hit in memory |
/// |---|---|---|
/// | [`Ttl`](Coherence::Ttl) | the given time | 0 |
/// | [`Leased`](Coherence::Leased), the default | Δ = 2 heartbeats and a round trip ([`max_staleness`](Redis::max_staleness), 120 ms with up to 100 processes), independently of the network; typically under 1 ms | 0 |
/// | [`Validated`](Coherence::Validated) | nothing | 1, without the body |
///
/// With [`strict`](RedisBuilder::strict), this also holds if the writing process dies between its commit and the invalidation.
///
/// **Mechanism.** A namespace has a generation in Redis, which is an opaque random value. An entry carries the generations that were read
/// before its response was computed. It is served only while all of them exist and are equal. An invalidation deletes the generation of a
/// namespace: one script for any number of entries, which a full server accepts as well.
///
/// **Limits.**
///
/// - A failover may lose the last write. Entries from before it are not served after it, unless you [trust](crate::redis::Failover::Trust)
///   it.
/// - A process may use a replaced master until it learns of the replacement. A heartbeat is a command that a replica refuses, as does a
///   master that is cut off from its cluster: neither extends a lease. Such a master takes about `cluster-node-timeout` to notice.
///   Sentinels are asked every 100 ms, and take some seconds to learn of a planned failover. Invalidations of the last minute are delivered
///   again when the server changes.
/// - A fence may be lost, because Redis evicts it (strict needs `maxmemory-policy noeviction`) or because of a failover during the write.
///   Until the write is answered, one process may then serve its result and another the earlier response. If the writer dies as well, this
///   lasts until the entry expires. Every entry has a lifetime.
/// - An invalidation may not be delivered in time: see [`OnDeliveryTimeout`](crate::invalidate::OnDeliveryTimeout).
///
/// **When Redis is down.** No request waits longer than the [`command_timeout`](RedisBuilder::command_timeout), 50 ms by default. After
/// three timeouts no request waits until a probe has been answered. Requests are then served by the inner service, and nothing is stored.
/// Invalidations wait in a bounded queue and are delivered when Redis is back. Until then this process does not serve the affected entries.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_response_cache::{Redis, Store};
///
/// let store = Redis::connect("redis://127.0.0.1").await?.with_memory(64 << 20);
/// store.invalidate(["db_query:orders"]).await?;
/// # Ok(()) }
/// ```
///
/// Create it within a Tokio runtime. A `Redis` is a handle whose clones share everything. It works with Redis 7.0 or newer and with Valkey,
/// standalone, behind Sentinel, or in a cluster. Its worker thread ends with the last handle.
#[derive(Clone)]
pub struct Redis(pub(super) Arc<Handle>);

impl Redis {
    /// Returns `true` if all masters answered when they were last asked.
    pub fn is_reachable(&self) -> bool {
        let topology = &self.0.inner.topology;
        topology.is_known() && topology.all().iter().all(|node| !node.breaker.is_open())
    }

    /// Returns `true` while memory is trusted without a round trip: with [`Coherence::Leased`], while pushes of all masters arrive.
    pub fn is_leased(&self) -> bool {
        self.0.inner.is_leased()
    }

    /// Returns Δ, by which a hit under a lease may be stale, as it follows from the heartbeats in force. Zero without a lease so far.
    ///
    /// Heartbeats slow down if many processes use the server: see [`RedisBuilder::heartbeat`].
    pub fn max_staleness(&self) -> Duration {
        Duration::from_nanos(self.0.inner.lease.delta())
    }

    /// Returns the number of round trips to the current masters, without heartbeats.
    pub fn round_trips(&self) -> u64 {
        self.0.inner.topology.all().iter().map(|node| node.trips.begun()).sum()
    }

    /// Returns the number of names whose invalidation is not delivered yet.
    pub fn waiting(&self) -> usize {
        self.0.inner.outbox.waiting()
    }

    pub(super) fn inner(&self) -> &Arc<RedisInner> {
        &self.0.inner
    }
}

impl Backend for Redis {
    /// Returns an entry in memory that may be served without asking Redis.
    #[inline]
    fn get_now(&self, key: KeyRef<'_>) -> Option<StoreLookup> {
        self.0.inner.get_now(key)
    }

    #[inline]
    fn still_has(&self, entry: &Arc<Entry>) -> Option<Validity> {
        self.0.inner.still_has(entry)
    }

    /// Returns the future of the inner state. Another one around it would only be larger.
    fn get(&self, key: KeyRef<'_>, names: &Namespaces) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        self.0.inner.get(ReadRequest { key, names, max_body: usize::MAX })
    }

    fn get_up_to(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        max_body: usize,
    ) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        self.0.inner.get(ReadRequest { key, names, max_body })
    }

    async fn peek(&self, key: KeyRef<'_>, names: &Namespaces, max_body: usize) -> Result<StoreLookup, StoreError> {
        Ok(self.0.inner.peek(&ReadRequest { key, names, max_body }, true).await?)
    }

    async fn verify(&self, key: KeyRef<'_>, names: &Namespaces, max_body: usize) -> Result<StoreLookup, StoreError> {
        Ok(self.0.inner.peek(&ReadRequest { key, names, max_body }, false).await?)
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn begin(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        stamp: Stamp,
        options: FillOptions,
    ) -> Result<BeginFill, StoreError> {
        self.0.inner.begin(key, names, stamp, options).await
    }

    async fn admit(&self, stamp: &Stamp, added: &Namespaces) -> Result<Admitted, StoreError> {
        self.0.inner.admit(stamp, added).await
    }

    async fn put(&self, entry: Arc<Entry>, lock: Option<Lock>) -> Result<Put, StoreError> {
        self.0.inner.put(entry, lock).await
    }

    async fn replace(&self, old: &Entry, entry: Arc<Entry>) -> Result<bool, StoreError> {
        self.0.inner.replace(old, entry).await
    }

    fn release(&self, lock: Lock, unfit: bool) {
        let inner = self.0.inner.clone();
        let returning = LockReturn::unfit(&inner, &lock, unfit);
        // Without a running runtime, the lock goes to the outbox.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { inner.return_lock(returning).await });
        }
    }

    /// Returns `true` if the generations are equal: nothing was invalidated between the two stamps.
    ///
    /// Epochs do not count. They are also stepped by the push for a generation that another process creates, and by names that share a
    /// slot, which end no flight.
    fn may_join(&self, stamp: &Stamp, seen: &Stamp, names: &Namespaces) -> bool {
        let count = names.count();
        let of_names = |stamp: &Stamp| {
            let generations = stamp.generations()?.get(..count)?;
            generations.iter().copied().collect::<Option<Vec<_>>>()
        };
        of_names(stamp).is_some_and(|generations| of_names(seen) == Some(generations))
    }

    fn is_strict(&self) -> bool {
        self.0.inner.fence.is_some()
    }

    async fn fence(&self, names: &Namespaces) -> Result<Fence, StoreError> {
        self.0.inner.fence(names).await
    }

    async fn renew(&self, names: &Namespaces, fence: &Fence) {
        self.0.inner.renew(names, fence).await;
    }

    fn bump(
        &self,
        names: &Namespaces,
        kind: InvalidationKind,
        fence: Option<Fence>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let arrived = self.0.inner.bump(names, kind, fence);
        async move {
            match arrived.await {
                Ok(DeliveryResult::Delivered) => Ok(()),
                Ok(DeliveryResult::Queued) => Err(StoreError::queued()),
                Err(_) => Err(StoreError::new("the store was dropped before redis confirmed")),
            }
        }
    }

    fn bump_now(&self, names: &Namespaces) {
        drop(self.0.inner.bump(names, InvalidationKind::Hard, None));
    }

    fn life(&self, stamp: &Stamp, names: &Namespaces) -> Validity {
        self.0.inner.memory.life(stamp, names)
    }

    #[inline]
    fn context(&self) -> &Context {
        self.0.inner.context()
    }

    fn sample(&self, limit: usize) -> Vec<Arc<Entry>> {
        self.0.inner.memory.sample(limit)
    }

    /// Returns the usage of the memory in front. [`Redis::server`] returns that of Redis.
    fn usage(&self) -> Usage {
        match self.0.inner.has_memory {
            true => self.0.inner.memory.usage(),
            false => Usage::default(),
        }
    }
}

impl Store for Redis {
    fn stats(&self) -> Stats {
        let leased = (self.0.inner.coherence == Coherence::Leased).then(|| self.is_leased());
        let mut stats = Stats::of(&self.context().counters, self.usage());
        for node in self.0.inner.topology.all().iter() {
            stats.round_trips += node.trips.begun();
            stats.failed_round_trips += node.trips.failed();
            stats.round_trip_times.add(&node.trips.times());
            stats.pushes += node.trips.pushes.load(Ordering::Relaxed);
        }
        Stats { reachable: Some(self.is_reachable()), leased, ..stats }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0.inner;
        f.debug_struct("Redis").field("prefix", &inner.keys.base()).field("coherence", &inner.coherence).finish_non_exhaustive()
    }
}
