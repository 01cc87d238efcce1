//! The protocol between the layers and a store.

use std::{
    fmt,
    future::{self, Future},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use super::{error::StoreError, lock::Lock, writes::WritesInProgress};
use crate::{
    cdn::worker::PurgeHooks,
    clock::{Clock, Nanos},
    entry::{Entry, stamp::Stamp, validity::Validity},
    key::{Key, KeyRef},
    namespace::set::Namespaces,
    secret::Secret,
    stats::{
        counters::{Count, Counters},
        usage::Usage,
    },
    store::epochs::InvalidationKind,
};

/// The protocol between the layers and a store. It is private: [`Store`](super::Store) is the part that users see.
///
/// A store keeps entries, the stamps that decide whether an entry may still be served, and the invalidations that end it. It is a handle:
/// clones share everything.
///
/// The protocol in the order of a request: [`get`](Self::get) returns the entry that may be served *and the stamp as seen now*. If the
/// inner service has to be called, [`begin`](Self::begin) completes that stamp, and it goes back with [`put`](Self::put). A response that
/// was computed before a [`bump`](Self::bump) is therefore never taken for one that was computed after it. The stamp is always taken
/// before the call. No method returns a stamp at the time of storing.
///
/// No method may panic, and no error reaches the client: a read that fails is a miss.
pub trait Backend: Clone + fmt::Debug + Send + Sync + 'static {
    /// Returns the result at once, or `None` if it needs [`get`](Self::get).
    ///
    /// Memory always answers here, so a hit needs no future.
    fn get_now(&self, key: KeyRef<'_>) -> Option<StoreLookup>;

    /// Returns the validity of an entry that [`get_now`](Self::get_now) returned before, or `None` if `get_now` has to be called again. It
    /// is never `Invalidated`.
    ///
    /// A thread calls it for its hot responses. Defaults to `None`.
    #[inline]
    fn still_has(&self, entry: &Arc<Entry>) -> Option<Validity> {
        let _ = entry;
        None
    }

    /// Returns the entry of this key, if one may be served or shown to be stale, and the current stamp.
    ///
    /// `names` are the namespaces known from the request. The stamp must cover their generations.
    fn get(&self, key: KeyRef<'_>, names: &Namespaces) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send;

    /// Returns the result of [`get`](Self::get) for a rule that allows bodies of up to `max_body` bytes. An entry with a longer body counts
    /// as absent.
    ///
    /// A store that decodes entries of other processes unpacks no more than that. The default has no limit.
    fn get_up_to(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        max_body: usize,
    ) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        let _ = max_body;
        self.get(key, names)
    }

    /// Returns the result of [`get_up_to`](Self::get_up_to) without a trace in the store: no copy is kept, no entry is removed, and no entry
    /// counts as used. For explanations. The default is `get_up_to`.
    fn peek(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        max_body: usize,
    ) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        self.get_up_to(key, names, max_body)
    }

    /// Returns true if other processes fill and invalidate this store as well. Fills then have to [`begin`](Self::begin).
    fn is_shared(&self) -> bool {
        false
    }

    /// Returns the result of [`peek`](Self::peek), by the generations that a shared store has now: no copy in memory answers alone. For audits.
    /// The default is `peek`.
    fn verify(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        max_body: usize,
    ) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        self.peek(key, names, max_body)
    }

    /// Completes the stamp of a lookup just before the inner service is called, and takes the distributed lock if the options ask for it.
    /// Called only for a store that [is shared](Self::is_shared).
    fn begin(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        stamp: Stamp,
        wish: FillOptions,
    ) -> impl Future<Output = Result<BeginFill, StoreError>> + Send {
        let _ = (key, names, wish);
        future::ready(Ok(BeginFill::Proceed { stamp, lock: None }))
    }

    /// Completes a stamp so that it covers names that are known only from the response, unless they may have been invalidated since it was
    /// taken.
    fn admit(&self, stamp: &Stamp, added: &Namespaces) -> impl Future<Output = Result<Admitted, StoreError>> + Send {
        future::ready(Ok(match self.life(stamp, added) {
            Validity::Invalidated => Admitted::Invalidated,
            _ => Admitted::Stamp(stamp.clone()),
        }))
    }

    /// Stores an entry, and releases the lock of its fill. The entry carries the stamp that was taken *before* its response was computed.
    fn put(&self, entry: Arc<Entry>, lock: Option<Lock>) -> impl Future<Output = Result<Put, StoreError>> + Send;

    /// Stores an entry at once, or returns `None` if this needs [`put`](Self::put). Memory always stores it here.
    fn put_now(&self, entry: &Arc<Entry>) -> Option<Put> {
        let _ = entry;
        None
    }

    /// Stores `entry` in the place of `old` if `old` is still stored under the key of `entry`, and returns whether it did. A response that
    /// any process has stored since `old` was found is never overwritten.
    ///
    /// A response to HEAD needs it: it changes the fields of a stored response, not the response. The default replaces nothing, because a
    /// store that cannot compare and write in one step must keep its entry.
    fn replace(&self, old: &Entry, entry: Arc<Entry>) -> impl Future<Output = Result<bool, StoreError>> + Send {
        let _ = (old, entry);
        future::ready(Ok(false))
    }

    /// Releases the lock of a fill that stored nothing, without waiting. If `unfit`, other processes do not wait for the next fill of this
    /// key.
    fn release(&self, lock: Lock, unfit: bool) {
        let _ = (lock, unfit);
    }

    /// Returns true if a request whose lookup returned `seen` may share the fill that began with `stamp`. None of `names` was invalidated
    /// between the two.
    fn may_join(&self, stamp: &Stamp, seen: &Stamp, names: &Namespaces) -> bool {
        let _ = seen;
        self.life(stamp, names) == Validity::Valid
    }

    /// Returns true if writes must set a [`fence`](Self::fence) before they begin.
    fn is_strict(&self) -> bool {
        false
    }

    /// Sets a fence before a write. Until [`bump`](Self::bump) removes it, or it expires, no entry of these names is served or stored.
    /// Strict invalidation across processes needs it. Memory needs none and returns `Fence::none()`.
    fn fence(&self, names: &Namespaces) -> impl Future<Output = Result<Fence, StoreError>> + Send;

    /// Extends the deadline of a fence. Called repeatedly during the write if the fence asks for it.
    fn renew(&self, names: &Namespaces, fence: &Fence) -> impl Future<Output = ()> + Send {
        let _ = (names, fence);
        future::ready(())
    }

    /// Invalidates the names after a write that may have committed. Afterwards no entry with an older stamp of these names is served (or,
    /// with [`InvalidationKind::Soft`], each is stale). Idempotent and O(1): it visits no entries.
    ///
    /// If a remote store cannot be reached, the invalidation continues in the background, also if this future is dropped or returns an
    /// error. Until it is delivered, this process serves no entry of these names.
    fn bump(
        &self,
        names: &Namespaces,
        kind: InvalidationKind,
        fence: Option<Fence>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Performs the part of a hard [`bump`](Self::bump) that needs no waiting, at the end of a write that was dropped.
    fn bump_now(&self, names: &Namespaces);

    /// Returns the validity of a fill that began with `stamp`, for a request that arrives now and belongs to `names`.
    fn life(&self, stamp: &Stamp, names: &Namespaces) -> Validity;

    /// Returns the clock, the secret and the counters, which a store shares with the layers over it.
    fn context(&self) -> &Context;

    /// Returns up to `limit` entries in memory, in no order. Defaults to none.
    fn sample(&self, limit: usize) -> Vec<Arc<Entry>> {
        let _ = limit;
        Vec::new()
    }

    /// Returns the current number of entries and bytes.
    fn usage(&self) -> Usage;
}

/// The parts of a store that it shares with the layers over it.
#[derive(Debug)]
pub struct Context {
    pub(crate) clock: Clock,
    pub(crate) secret: Secret,
    pub(crate) counters: Counters,
    /// The hooks that are called after invalidations.
    pub(crate) hooks: PurgeHooks,
    /// The writes in progress in this process.
    pub(crate) writes: Arc<WritesInProgress>,
    /// The time that an explicit invalidation waits for the store.
    pub(crate) invalidate_timeout: Duration,
}

/// The default time that an explicit invalidation waits for a shared store.
pub(crate) const INVALIDATE_TIMEOUT: Duration = Duration::from_secs(1);

/// Awaits `work` for at most `limit`. Work that is ready at once needs no timer.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let at_once = future::poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
    match at_once {
        Poll::Ready(output) => Some(output),
        Poll::Pending => tokio::time::timeout(limit, work).await.ok(),
    }
}

impl Context {
    /// Returns a context with counters at zero. Stores that must agree on identities need the same secret.
    pub fn new(clock: Clock, secret: Secret) -> Self {
        let (counters, hooks) = (Counters::default(), PurgeHooks::default());
        Self { clock, secret, counters, hooks, writes: Arc::default(), invalidate_timeout: INVALIDATE_TIMEOUT }
    }

    /// Returns the clock by which entries live and expire.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Counts a read for the hottest requests, if they are tracked.
    #[inline]
    pub(crate) fn track(&self, key: &Key, names: &Namespaces, weight: u64) {
        if let Some(tracker) = self.counters.hottest.get() {
            tracker.read(key, names, weight);
        }
    }

    /// Reports an invalidation to the hooks, and counts it for each of its namespaces.
    pub(crate) fn invalidated(&self, names: &Namespaces, is_delivered: bool) {
        if let Some(tracker) = self.counters.hottest.get() {
            tracker.invalidated(names);
        }
        self.hooks.invalidated(names, is_delivered);
    }
}

/// An invalidation that was counted, until it is delivered.
pub(crate) struct InvalidationCount<'a> {
    context: &'a Context,
    /// `None` if the time is not measured.
    began: Option<Nanos>,
}

impl<'a> InvalidationCount<'a> {
    /// Counts an invalidation that begins. Those of a shared store are measured, and one in 64 of those in memory.
    #[inline]
    pub(crate) fn begin<St: Backend>(store: &'a St, kind: InvalidationKind) -> Self {
        let context = store.context();
        let is_measured = context.counters.add(Count::Invalidations, 1).is_multiple_of(64) || store.is_shared();
        if kind == InvalidationKind::Soft {
            context.counters.add(Count::SoftInvalidations, 1);
        }
        Self { context, began: is_measured.then(|| context.clock.nanos()) }
    }

    /// Records the time to the delivery.
    #[inline]
    pub(crate) fn delivered(self) {
        if let Some(began) = self.began {
            let Context { counters, clock, .. } = self.context;
            counters.invalidation_times.record(clock.nanos().saturating_sub(began));
        }
    }
}

/// The result of [`Backend::get`].
#[derive(Debug, Clone)]
pub struct StoreLookup {
    /// The entry and its validity, which is never `Invalidated`.
    pub found: Option<(Arc<Entry>, Validity)>,
    /// The current stamp. A fill that begins after this lookup must carry it.
    pub stamp: Stamp,
}

/// Options for starting a fill.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FillOptions {
    /// The longest time to hold the distributed lock; no lock if `None`.
    pub lock: Option<Duration>,
    /// With the lock: report a fresh entry that [was stored](BeginFill::AlreadyStored) since the lookup.
    pub looks: bool,
    /// Read the counter of new names, so that names known only from the response can be [admitted](Backend::admit).
    pub counts: bool,
    /// The longest body, in bytes, of an entry that counts as already stored; no limit if `None`.
    pub max_body: Option<usize>,
}

/// The result of [`Backend::begin`].
#[derive(Debug)]
pub enum BeginFill {
    /// The inner service is called.
    Proceed {
        /// The stamp of the fill. A stamp that is not [complete](Stamp::is_whole) keeps the response out of a shared store.
        stamp: Stamp,
        /// The lock, to be released with the entry.
        lock: Option<Lock>,
    },
    /// Another process fills this key. The lookup is repeated after a moment.
    Locked,
    /// Another process has stored an entry since the lookup. The lookup is repeated at once.
    AlreadyStored,
    /// Another process found a moment ago that the responses of this key cannot be shared.
    Uncacheable {
        /// The stamp of the fill, used like the one in [`Proceed`](Self::Proceed).
        stamp: Stamp,
    },
}

/// The result of [`Backend::admit`].
#[derive(Debug)]
pub enum Admitted {
    /// The stamp, completed so that it covers the names.
    Stamp(Stamp),
    /// One of the names was invalidated since the stamp was taken.
    Invalidated,
    /// One of the names is new to the store. Fills that begin from now on can be stored under it.
    New,
}

/// The result of [`Backend::put`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The entry is stored.
    Stored,
    /// A namespace of the entry was invalidated after its stamp was taken.
    Dead,
    /// The entry is larger than the store can hold.
    TooLarge,
}

/// A fence that is set. The invalidation that ends its write removes it.
#[derive(Debug, Clone, Default)]
pub struct Fence {
    token: u128,
    stands: Option<Duration>,
}

/// The number of times that the deadline of a fence is extended while it stands once.
pub(crate) const RENEWALS: u32 = 3;

impl Fence {
    /// Returns the fence of a store that needs none.
    pub fn none() -> Self {
        Self::default()
    }

    /// Returns a fence that its store knows by this token.
    pub fn with_token(token: u128) -> Self {
        Self { token, stands: None }
    }

    /// Sets the time for which the fence stands after it was set or its deadline was extended.
    pub fn standing_for(self, stands: Duration) -> Self {
        Self { stands: Some(stands), ..self }
    }

    /// Returns the token.
    pub fn token(&self) -> u128 {
        self.token
    }

    /// Returns the period after which the deadline has to be extended.
    pub fn renew_after(&self) -> Option<Duration> {
        self.stands.map(|stands| stands / RENEWALS)
    }

    /// Returns the time for which the fence stands if nothing removes it.
    pub(crate) fn stands(&self) -> Option<Duration> {
        self.stands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fence_keeps_its_token_and_period() {
        assert_eq!(Fence::none().token(), 0);
        let fence = Fence::with_token(42).standing_for(Duration::from_secs(30));
        assert_eq!((fence.token(), fence.renew_after()), (42, Some(Duration::from_secs(10))));
    }
}
