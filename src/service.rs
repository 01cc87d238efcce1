//! The service: the first lookup, and one match on the action that follows.

use std::{
    fmt,
    sync::Arc,
    task::{self, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower::Service;

use crate::{
    action::{self, Action, Finish},
    body::CacheBody,
    clock::Nanos,
    error::BoxError,
    fast_path::{first_action, shadowed_action},
    fill::{
        Fill,
        upstream::{self, InnerService, count_miss_of},
    },
    finish::finish,
    future::ResponseFuture,
    key::content::new_call,
    lookup::request::{CacheRequest, MissedRequest},
    ready::take_ready,
    respond::{call::respond_to_call, serve},
    shadow,
    single_flight::{Join, follower::Follower},
    slow_path,
    state::LayerState,
    status::{Miss, Outcome},
    store::{Store, memory::Memory},
};

/// The service of [`CacheLayer`](crate::CacheLayer).
///
/// It is ready when the inner service is ready, and it calls the instance that was made ready. A request that follows another fill gives the ready
/// instance back first. A hit leaves the inner service ready for the next call. A caller that keeps an idle service therefore keeps its resources,
/// such as a permit of a `ConcurrencyLimit`. Servers drop the service after each request.
pub struct CacheService<S, St = Memory> {
    inner: S,
    shared: Arc<LayerState<St>>,
}

impl<S, St> CacheService<S, St> {
    pub(crate) fn new(inner: S, shared: Arc<LayerState<St>>) -> Self {
        Self { inner, shared }
    }

    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service for changes.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S: Clone, St> Clone for CacheService<S, St> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: self.shared.clone() }
    }
}

impl<S: fmt::Debug, St> fmt::Debug for CacheService<S, St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, St, ReqB, ResB> Service<Request<ReqB>> for CacheService<S, St>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    St: Store,
    ReqB: Body + Send + 'static,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<CacheBody<ResB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, St, ResB, S::Error>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        if self.shared.is_replaced() {
            self.reload();
        }
        if !self.shared.rules.may_cover(request.uri(), request.extensions()) {
            return ResponseFuture::pass(self.inner.call(request));
        }
        match first_action(&self.shared, &request) {
            // Here, because a request is large and each function that takes one may move it.
            Action::Finish(step) => finish(&mut self.inner, &self.shared, step, request),
            action => self.act(action, request),
        }
    }
}

impl<S, St> CacheService<S, St> {
    /// Carries out the action for a request.
    #[inline(always)]
    fn act<ReqB, ResB>(&mut self, action: Action<St>, request: Request<ReqB>) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: InnerService<ReqB, ResB> + Clone,
        St: Store,
        ReqB: Body + Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        match action {
            Action::Finish(step) => finish(&mut self.inner, &self.shared, step, request),
            Action::Fetch(missed) if !self.shared.store.is_shared() => self.fetch(missed, request),
            // Other processes fill and invalidate as well, so that a lookup in memory alone is not enough to begin a fill.
            Action::Fetch(missed) | Action::FetchPart(missed) => self.wait(Box::new(missed.request), request, None),
            Action::Wait(cache_request) => self.wait(cache_request, request, None),
            Action::Call(action) => self.respond_to_call(*action, request),
            Action::Shadow => self.shadow(request),
        }
    }

    /// Responds by the inner service, in shadow mode.
    #[cold]
    #[inline(never)]
    fn shadow<ReqB, ResB>(&mut self, request: Request<ReqB>) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: InnerService<ReqB, ResB> + Clone,
        St: Store,
        ReqB: Body + Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        match shadowed_action(&self.shared, &request) {
            Action::Finish(Finish::Pass) => ResponseFuture::pass(self.inner.call(request)),
            action => {
                let ready = take_ready(&mut self.inner);
                ResponseFuture::work(shadow::respond(self.shared.clone(), ready, action, request))
            }
        }
    }

    /// Takes the newest rules.
    #[cold]
    #[inline(never)]
    fn reload(&mut self) {
        if let Some(newest) = self.shared.successor() {
            self.shared = newest;
        }
    }

    /// Responds to a call by RPC, until its deadline.
    #[cold]
    #[inline(never)]
    fn respond_to_call<ReqB, ResB>(
        &mut self,
        action: Action<St>,
        mut request: Request<ReqB>,
    ) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: InnerService<ReqB, ResB> + Clone,
        St: Store,
        ReqB: Body + Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let call = new_call(&mut request);
        let response = self.act(action, request);
        match call {
            Some(call) => ResponseFuture::work(respond_to_call(call, self.shared.clone(), response)),
            None => response,
        }
    }

    /// Calls the inner service, or waits for the response of a call that is in progress.
    #[inline(always)]
    fn fetch<ReqB, ResB>(
        &mut self,
        mut missed: Box<MissedRequest<St>>,
        request: Request<ReqB>,
    ) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: InnerService<ReqB, ResB> + Clone,
        St: Store,
        ReqB: Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let now = missed.miss.time.at;
        if action::requires_own_response(&missed) {
            let reason = missed.miss.reason;
            return self.fetch_alone(missed, reason, now, request);
        }
        if action::is_hit_for_miss(&self.shared, &missed, now) {
            return self.fetch_alone(missed, Miss::HitForMiss, now, request);
        }
        let MissedRequest { request: cache_request, miss } = &mut *missed;
        match cache_request.join(&self.shared, miss) {
            Join::Lead(leader, task) => {
                // Another fill may have ended between the lookup and the join.
                let is_variant = miss.varying.is_some();
                if self.shared.flights.have_landed_since(miss.time.completions, miss.key(cache_request), is_variant)
                    && let Some(entry) = cache_request.fresh_entry(&self.shared, request.headers())
                {
                    drop(leader);
                    let served = cache_request.served(miss.time);
                    return ResponseFuture::ready(serve(&self.shared, &request, &entry, Outcome::Hit, served));
                }
                let count = upstream::count_miss(&self.shared, &missed);
                let MissedRequest { request: cache_request, miss } = &mut *missed;
                let mut inner = take_ready(&mut self.inner);
                let call = upstream::call(&mut inner, &self.shared.store, cache_request, miss, request, false);
                task.begin(Box::pin(Fill::new(self.shared.clone(), missed, Some(leader), now, Some(count)).run(call)));
                ResponseFuture::lead(task)
            }
            Join::Follow(follower) => self.wait(Box::new(missed.request), request, Some(follower)),
            Join::Full => self.fetch_alone(missed, Miss::FlightLimit, now, request),
        }
    }

    /// Calls the inner service for this request alone. `reason` is the reason of the miss, unless an entry is revalidated.
    fn fetch_alone<ReqB, ResB>(
        &mut self,
        mut missed: Box<MissedRequest<St>>,
        reason: Miss,
        now: Nanos,
        request: Request<ReqB>,
    ) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: InnerService<ReqB, ResB> + Clone,
        St: Store,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let MissedRequest { request: cache_request, miss } = &mut *missed;
        if reason == Miss::FlightLimit || miss.revalidatable.is_none() {
            miss.reason = reason;
        }
        let count = count_miss_of(&self.shared, cache_request, miss, miss.reason);
        let mut inner = take_ready(&mut self.inner);
        let call = upstream::call(&mut inner, &self.shared.store, cache_request, miss, request, true);
        ResponseFuture::work(Fill::new(self.shared.clone(), missed, None, now, Some(count)).run(call))
    }

    /// Waits for a store that has to be queried, or for the response of another fill. The ready instance is given back first, since other
    /// callers may need it meanwhile.
    fn wait<ReqB, ResB>(
        &mut self,
        cache_request: Box<CacheRequest>,
        request: Request<ReqB>,
        follower: Option<Follower>,
    ) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: InnerService<ReqB, ResB> + Clone,
        St: Store,
        ReqB: Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        drop(take_ready(&mut self.inner));
        ResponseFuture::work(slow_path::wait(self.shared.clone(), self.inner.clone(), cache_request, request, follower))
    }
}
