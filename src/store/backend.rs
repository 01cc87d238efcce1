//! The protocol between the layers and a store.

use std::{
    fmt,
    future::{self, Future},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use super::{error::StoreError, lock::Lock};
use crate::{
    clock::Clock,
    entry::{Entry, stamp::Stamp, validity::Validity},
    key::KeyRef,
    namespace::set::Namespaces,
    secret::Secret,
    stats::{counters::Counters, usage::Usage},
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
    /// Answers at once, or says with `None` that the answer needs [`get`](Self::get).
    ///
    /// Memory always answers here, and a hit then takes no future at all.
    fn get_now(&self, key: KeyRef<'_>) -> Option<StoreLookup>;

    /// What has become of an entry that [`get_now`](Self::get_now) has answered with before, if it would do so again now: never that it
    /// is dead.
    ///
    /// For a thread that keeps at hand what it is asked for often. `None`, the default, sends it to `get_now`.
    #[inline]
    fn still_has(&self, entry: &Arc<Entry>) -> Option<Validity> {
        let _ = entry;
        None
    }

    /// The entry of this key, if there is one that may be served or at least shown to be stale, and the stamp of now.
    ///
    /// `names` are the namespaces that are known from the request, whose generations the stamp must cover.
    fn get(&self, key: KeyRef<'_>, names: &Namespaces) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send;

    /// As [`get`](Self::get), for a request whose rule allows bodies of up to `max_body` bytes: an entry with a longer one is as good as
    /// none.
    ///
    /// For a store that decodes what others have written, so that it unpacks no more than that. The default has no limit.
    fn get_up_to(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        max_body: usize,
    ) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        let _ = max_body;
        self.get(key, names)
    }

    /// Whether fills have to [`begin`](Self::begin) here, because other processes fill and clear as well.
    fn is_shared(&self) -> bool {
        false
    }

    /// The last step before the inner service is called: makes the stamp of a look-up whole, and takes the lock across processes
    /// if that is wished for. Asked only of a store that [is shared](Self::is_shared).
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

    /// Keeps an entry, and gives back the lock of its fill. It carries the stamp that was taken *before* its response was computed.
    fn put(&self, entry: Arc<Entry>, lock: Option<Lock>) -> impl Future<Output = Result<Put, StoreError>> + Send;

    /// Keeps an entry at once, or says with `None` that this needs [`put`](Self::put). Memory always does it here.
    fn put_now(&self, entry: &Arc<Entry>) -> Option<Put> {
        let _ = entry;
        None
    }

    /// Keeps `entry` in the place of `old`, if that is what is still kept under the key of `entry`; whether it was. A response that was
    /// stored since `old` was found is never overwritten, whoever has stored it.
    ///
    /// For the answer to a HEAD, which changes what is known of a stored response and not the response. The default replaces nothing: a
    /// store that cannot compare and write in one step keeps what it has.
    fn replace(&self, old: &Entry, entry: Arc<Entry>) -> impl Future<Output = Result<bool, StoreError>> + Send {
        let _ = (old, entry);
        future::ready(Ok(false))
    }

    /// Gives back the lock of a fill that has stored nothing, without waiting; `unfit` if nobody should wait for the next one.
    fn release(&self, lock: Lock, unfit: bool) {
        let _ = (lock, unfit);
    }

    /// Whether a request whose look-up gave `seen` may have what is being filled under `stamp`: nothing of `names` was cleared
    /// between the two.
    fn may_join(&self, stamp: &Stamp, seen: &Stamp, names: &Namespaces) -> bool {
        let _ = seen;
        self.life(stamp, names) == Validity::Valid
    }

    /// Whether writes are to set a [`fence`](Self::fence) before they begin.
    fn is_strict(&self) -> bool {
        false
    }

    /// A write begins: until [`bump`](Self::bump) takes the fence back, or it expires, nothing of these names is
    /// served or stored. For strict invalidation across processes; memory alone needs none and answers `Fence::none()`.
    fn fence(&self, names: &Namespaces) -> impl Future<Output = Result<Fence, StoreError>> + Send;

    /// Moves the deadline of a fence on: asked time and again while the write is under way, if the fence wants that.
    fn renew(&self, names: &Namespaces, fence: &Fence) -> impl Future<Output = ()> + Send {
        let _ = (names, fence);
        future::ready(())
    }

    /// A write may have committed: what carries an older stamp of these names is no longer servable (or, with
    /// [`InvalidationKind::Soft`], stale) once this is done. Idempotent, O(1), and walks over no entries.
    ///
    /// In a store that has to be reached, what could not be done goes on behind the scenes, also if this is dropped or has
    /// returned an error, and what it concerns is served to nobody in this process meanwhile.
    fn bump(
        &self,
        names: &Namespaces,
        kind: InvalidationKind,
        fence: Option<Fence>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// As much of a hard [`bump`](Self::bump) as can be done without waiting: for the end of a write that was dropped.
    fn bump_now(&self, names: &Namespaces);

    /// Whether what began under `stamp` may still answer a request that arrives now and belongs to `names`.
    fn life(&self, stamp: &Stamp, names: &Namespaces) -> Validity;

    /// What every store shares with the layers over it: the clock, the secret, the counters.
    fn context(&self) -> &Context;

    /// What the store holds at this moment: entries and bytes.
    fn usage(&self) -> Usage;
}

/// What a store shares with the layers over it.
#[derive(Debug)]
pub struct Context {
    pub(crate) clock: Clock,
    pub(crate) secret: Secret,
    pub(crate) counters: Counters,
    /// How long an explicit invalidation waits.
    pub(crate) invalidate_timeout: Duration,
}

/// How long an explicit invalidation waits for a shared store, unless set.
pub(crate) const INVALIDATE_TIMEOUT: Duration = Duration::from_secs(1);

/// Awaits work for no longer than this. Work that is ready at once needs no timer.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let at_once = future::poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
    match at_once {
        Poll::Ready(output) => Some(output),
        Poll::Pending => tokio::time::timeout(limit, work).await.ok(),
    }
}

impl Context {
    /// A context with counters at zero. Stores that are to agree on identities need the same secret.
    pub fn new(clock: Clock, secret: Secret) -> Self {
        Self { clock, secret, counters: Counters::default(), invalidate_timeout: INVALIDATE_TIMEOUT }
    }

    /// The clock by which entries live and expire.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}

/// The answer of [`Backend::get`].
#[derive(Debug, Clone)]
pub struct StoreLookup {
    /// The entry, and whether it was cleared softly. Never one that is dead.
    pub found: Option<(Arc<Entry>, Validity)>,
    /// The stamp as seen now: what a fill that begins after this lookup must carry.
    pub stamp: Stamp,
}

/// What a fill wishes for when it begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FillOptions {
    /// To be the only one of all processes for so long at most.
    pub lock: Option<Duration>,
    /// With the lock: to be told if something fresh [has appeared](BeginFill::AlreadyStored) since the look.
    pub looks: bool,
    /// That names known only from the response can be [admitted](Backend::admit).
    pub counts: bool,
    /// The longest body, in bytes, that may have appeared; no limit if there is none.
    pub max_body: Option<usize>,
}

/// What [`Backend::begin`] comes to.
#[derive(Debug)]
pub enum BeginFill {
    /// Call the inner service.
    Proceed {
        /// What the fill must carry. One that is not [whole](Stamp::is_whole) keeps its response out of a shared store.
        stamp: Stamp,
        /// To be given back with the entry.
        lock: Option<Lock>,
    },
    /// Another process is at it: look again in a moment.
    Locked,
    /// Another process has stored something since the look: look again now.
    AlreadyStored,
    /// Another process has found a moment ago that what is stored under this key is not to be shared.
    Uncacheable {
        /// As in [`Proceed`](Self::Proceed).
        stamp: Stamp,
    },
}

/// The answer of [`Backend::admit`].
#[derive(Debug)]
pub enum Admitted {
    /// The stamp, with what it needs to cover the names.
    Stamp(Stamp),
    /// One of the names was invalidated since the stamp was taken.
    Invalidated,
    /// One of the names is new to the store: it vouches for the responses of fills that begin from now on.
    New,
}

/// What became of [`Backend::put`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is kept.
    Stored,
    /// Something that it belongs to was cleared after its stamp was taken.
    Dead,
    /// It is larger than the store can hold.
    TooLarge,
}

/// A fence that stands, to be taken back by the bump that ends its write.
#[derive(Debug, Clone, Default)]
pub struct Fence {
    token: u128,
    renew_after: Option<Duration>,
}

impl Fence {
    /// No fence: the store needs none.
    pub fn none() -> Self {
        Self::default()
    }

    /// A fence known to its store by this token.
    pub fn with_token(token: u128) -> Self {
        Self { token, renew_after: None }
    }

    /// The same, whose deadline is to be moved on each time so much has passed.
    pub fn renewed_every(self, after: Duration) -> Self {
        Self { renew_after: Some(after), ..self }
    }

    /// The token.
    pub fn token(&self) -> u128 {
        self.token
    }

    /// When its deadline is to be moved on.
    pub fn renew_after(&self) -> Option<Duration> {
        self.renew_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fence_keeps_its_token_and_period() {
        assert_eq!(Fence::none().token(), 0);
        let fence = Fence::with_token(42).renewed_every(Duration::from_secs(10));
        assert_eq!((fence.token(), fence.renew_after()), (42, Some(Duration::from_secs(10))));
    }
}
