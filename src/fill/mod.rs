//! A fill: one call of the inner service, and its response on the way to the client and into the store.

pub(crate) mod admission;
pub(crate) mod begin;
pub(crate) mod body;
pub(crate) mod commit;
mod end;
pub(crate) mod fast_path;
pub(crate) mod forwarded;
pub(crate) mod future;
pub(crate) mod ongoing;
pub(crate) mod partial;
pub(crate) mod revalidate;
pub(crate) mod rpc;
pub(crate) mod run;
pub(crate) mod tags;
pub(crate) mod upstream;

use std::{
    future::Future,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::Arc,
};

use http::Response;
use tracing::field::Empty;

use self::ongoing::{OngoingCall, OngoingFill};
use crate::{
    body::CacheBody,
    clock::Nanos,
    lookup::request::MissedRequest,
    single_flight::Leader,
    state::LayerState,
    stats::routes::{MissCount, RouteCounters},
    store::Store,
};

/// The time for which a key is remembered as hit-for-miss, in nanoseconds.
pub(crate) const PASS: Nanos = 5_000_000_000;

/// The result of a request that awaits the inner service or another fill.
pub(crate) type Answer<B, E> = Result<Response<CacheBody<B>>, E>;

/// The rest of a fill that has to await something.
pub(crate) type RestFuture<B, E> = Pin<Box<dyn Future<Output = Answer<B, E>> + Send>>;

/// One call of the inner service, from its start to the stored entry.
pub(crate) struct Fill<St: Store> {
    pub(crate) shared: Arc<LayerState<St>>,
    pub(crate) missed: Box<MissedRequest<St>>,
    /// The time of the call.
    pub(crate) began: Nanos,
    /// The time of the response. Before that, the time of the call.
    pub(crate) answered: Nanos,
    /// The response came before the fill begins, at the time `answered`.
    pub(crate) is_late: bool,
    /// The fill is not a refresh in the background.
    pub(crate) is_read: bool,
    /// `None` if no other request may follow this fill.
    pub(crate) leader: Option<Leader>,
    /// The request, until it is counted. `None` for a refresh in the background.
    pub(crate) count: Option<MissCount>,
}

impl<St: Store> Fill<St> {
    /// Returns the counters of the rule.
    #[inline]
    pub(crate) fn route(&self) -> &RouteCounters {
        self.shared.route(&self.request.rule)
    }

    /// Returns the mark of this fill while its call runs.
    #[inline]
    fn ongoing(&self) -> OngoingFill {
        OngoingFill::of(self.shared.store.context(), self.request.primary.as_ref())
    }

    /// Returns the call of the inner service, in a span of its own.
    #[inline]
    fn call<F>(&self, inner: F) -> OngoingCall<F> {
        let reason = self.miss.reason.as_str();
        let span = tracing::debug_span!(
            "cache fill",
            http.route = self.request.rule.route(),
            cache.reason = reason,
            http.response.status_code = Empty,
            error.type = Empty
        );
        OngoingCall::new(self.ongoing(), span, inner)
    }

    /// Makes the call of the inner service while the fill is marked.
    pub(crate) fn enter<T>(&self, call: impl FnOnce() -> T) -> T {
        let _guard = self.ongoing().enter();
        call()
    }
}

/// Gives access to the request and its lookup, as `self.request` and `self.miss`.
impl<St: Store> Deref for Fill<St> {
    type Target = MissedRequest<St>;

    #[inline(always)]
    fn deref(&self) -> &MissedRequest<St> {
        &self.missed
    }
}

impl<St: Store> DerefMut for Fill<St> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut MissedRequest<St> {
        &mut self.missed
    }
}
