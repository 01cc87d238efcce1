//! The store itself: a handle to the state shared by its clones.

use std::{fmt, future::Future, sync::Arc};

use super::{
    builder::RedisBuilder, inner::RedisInner, lock::Returning, options::Coherence, outbox::DeliveryResult, read::ReadRequest,
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

/// Ends the thread behind a store when the last handle is dropped.
pub(super) struct Handle {
    pub(super) core: Arc<RedisInner>,
    pub(super) builder: RedisBuilder,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.stop.tell();
    }
}

/// Entries in Redis, shared by many processes, with memory in front if you like. Needs the feature `redis`.
///
/// **Promise.** Once a write's response has been sent through [`InvalidateLayer`](crate::InvalidateLayer) in whatever process, or
/// [`invalidate`](Store::invalidate) has returned there, a hit is
///
/// | [`Coherence`] | stale by at most | round trips of a hit in memory |
/// |---|---|---|
/// | [`Ttl`](Coherence::Ttl) | the time it is given | 0 |
/// | [`Leased`](Coherence::Leased), the default | Δ = 2 heartbeats and a round trip (120 ms), whatever the network does; typically under 1 ms | 0 |
/// | [`Validated`](Coherence::Validated) | nothing | 1, without the body |
///
/// With [`strict`](RedisBuilder::strict) that holds also if the writing process dies between its commit and the clearing.
///
/// **How.** A namespace has a generation in Redis, an opaque random value; an entry carries those that were read before its response
/// was computed, and is served only while all of them are there and equal. To clear a namespace is to delete its generation: one
/// command, whatever the number of entries, accepted also by a server that is full.
///
/// **Limits.**
///
/// - A failover that loses the last write: entries from before are not served after it, unless you [trust](crate::redis::Failover::Trust) it.
/// - A process that still talks to a replaced master, until it learns of the replacement. A heartbeat is a command that a replica
///   refuses, and so does a master that is cut off from its cluster: neither extends a lease. Such a master takes about
///   `cluster-node-timeout` to notice. Sentinels are asked every 100 ms, and take some seconds to hear of a planned failover. What was
///   invalidated in the last minute is delivered again when the server changes.
/// - A fence that is lost, because Redis evicts it (strict wants `maxmemory-policy noeviction`) or because of a failover during the
///   write: one process may serve the result of that write, and another what was there before, until the write is answered. If its
///   writer dies as well, until the entry expires. Every entry has a lifetime.
/// - A write whose clearing could not be delivered in time: see [`OnDeliveryTimeout`](crate::invalidate::OnDeliveryTimeout).
///
/// **Redis away.** No request waits for longer than the [`command_timeout`](RedisBuilder::command_timeout), 50 ms unless set, and after three of them
/// none does until a probe has been answered; they are served by the inner service as if nothing were stored. Clearings wait in a
/// bounded queue and are delivered when Redis is back; what they concern is not served by this process meanwhile.
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
/// It must be made within a Tokio runtime. A `Redis` is a handle: its clones share everything. Redis 7.0 or newer, or Valkey,
/// standalone, behind Sentinel, or a cluster. Its own thread ends with the last handle.
#[derive(Clone)]
pub struct Redis(pub(super) Arc<Handle>);

impl Redis {
    /// Whether Redis answered when it was last asked, all masters of it.
    pub fn is_reachable(&self) -> bool {
        let nodes = &self.0.core.nodes;
        nodes.are_known() && nodes.all().iter().all(|node| !node.breaker.is_open())
    }

    /// Whether memory is trusted without a round trip at this moment: [`Coherence::Leased`], and all masters are heard of.
    pub fn is_leased(&self) -> bool {
        self.0.core.is_leased()
    }

    /// How many round trips this store has made to the masters that it has now, heartbeats apart.
    pub fn round_trips(&self) -> u64 {
        use std::sync::atomic::Ordering;
        self.0.core.nodes.all().iter().map(|node| node.trips.load(Ordering::Relaxed)).sum()
    }

    /// How many names wait to be cleared in Redis.
    pub fn waiting(&self) -> usize {
        self.0.core.deliveries.waiting()
    }

    pub(super) fn core(&self) -> &Arc<RedisInner> {
        &self.0.core
    }
}

impl Backend for Redis {
    /// What is in memory and may be served without asking.
    #[inline]
    fn get_now(&self, key: KeyRef<'_>) -> Option<StoreLookup> {
        self.0.core.get_now(key)
    }

    #[inline]
    fn still_has(&self, entry: &Arc<Entry>) -> Option<Validity> {
        self.0.core.still_has(entry)
    }

    /// The very future of the core: one around it would only be larger.
    fn get(&self, key: KeyRef<'_>, names: &Namespaces) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        self.0.core.get(ReadRequest { key, names, max_body: usize::MAX })
    }

    fn get_up_to(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        max_body: usize,
    ) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        self.0.core.get(ReadRequest { key, names, max_body })
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn begin(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        stamp: Stamp,
        wish: FillOptions,
    ) -> Result<BeginFill, StoreError> {
        self.0.core.begin(key, names, stamp, wish).await
    }

    async fn admit(&self, stamp: &Stamp, added: &Namespaces) -> Result<Admitted, StoreError> {
        self.0.core.admit(stamp, added).await
    }

    async fn put(&self, entry: Arc<Entry>, lock: Option<Lock>) -> Result<Put, StoreError> {
        self.0.core.put(entry, lock).await
    }

    async fn replace(&self, old: &Entry, entry: Arc<Entry>) -> Result<bool, StoreError> {
        self.0.core.replace(old, entry).await
    }

    fn release(&self, lock: Lock, unfit: bool) {
        let core = self.0.core.clone();
        let returning = Returning::unfit(&core, &lock, unfit);
        // Without a runtime, or at its end, it goes to the delivery queue.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { core.returns(returning).await });
        }
    }

    /// The same generations now and then: nothing was bumped between the two. The epochs do not count here. They are also stepped by the
    /// push for a generation that another process has created, and by names that share a slot, which end no flight.
    fn may_join(&self, stamp: &Stamp, seen: &Stamp, names: &Namespaces) -> bool {
        let count = names.count();
        let of_names = |stamp: &Stamp| {
            let generations = stamp.generations()?.get(..count)?;
            generations.iter().copied().collect::<Option<Vec<_>>>()
        };
        of_names(stamp).is_some_and(|generations| of_names(seen) == Some(generations))
    }

    fn is_strict(&self) -> bool {
        self.0.core.fence.is_some()
    }

    async fn fence(&self, names: &Namespaces) -> Result<Fence, StoreError> {
        self.0.core.fence(names).await
    }

    async fn renew(&self, names: &Namespaces, fence: &Fence) {
        self.0.core.renew(names, fence).await;
    }

    fn bump(
        &self,
        names: &Namespaces,
        kind: InvalidationKind,
        fence: Option<Fence>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let arrived = self.0.core.bump(names, kind, fence);
        async move {
            match arrived.await {
                Ok(DeliveryResult::Delivered) => Ok(()),
                Ok(DeliveryResult::Queued) => Err(StoreError::queued()),
                Err(_) => Err(StoreError::new("the store has ended")),
            }
        }
    }

    fn bump_now(&self, names: &Namespaces) {
        drop(self.0.core.bump(names, InvalidationKind::Hard, None));
    }

    fn life(&self, stamp: &Stamp, names: &Namespaces) -> Validity {
        self.0.core.near.life(stamp, names)
    }

    #[inline]
    fn context(&self) -> &Context {
        self.0.core.context()
    }

    /// That of the memory in front; what Redis holds, [`Redis::server`] says.
    fn usage(&self) -> Usage {
        match self.0.core.keeps {
            true => self.0.core.near.usage(),
            false => Usage::default(),
        }
    }
}

impl Store for Redis {
    fn stats(&self) -> Stats {
        let leased = (self.0.core.coherence == Coherence::Leased).then(|| self.is_leased());
        Stats { reachable: Some(self.is_reachable()), leased, ..Stats::of(&self.context().counters, self.usage()) }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = &self.0.core;
        f.debug_struct("Redis").field("prefix", &core.names.base()).field("coherence", &core.coherence).finish_non_exhaustive()
    }
}
