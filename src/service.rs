//! The service: leaves a request alone, answers it at once, or sets out to have it answered.

use std::{
    fmt, mem,
    sync::Arc,
    task::{self, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tokio::runtime::Handle;
use tower_service::Service;
use tracing::Instrument;

use crate::{
    action::{LookupTime, Recalled, Step, first_step, recalled},
    body::CacheBody,
    clock::Nanos,
    entry::Entry,
    error::BoxError,
    fill::{
        Fill,
        upstream::{InnerService, question},
    },
    future::ResponseFuture,
    lookup::request::{CacheRequest, MissedRequest},
    refresh,
    respond::{self, at_hand, hit, serve, whole},
    single_flight::{Join, follower::Follower},
    slow_path,
    state::LayerState,
    stats::counters::Count,
    status::{Bypass, CacheStatus, Miss, Outcome},
    store::{
        backend::{Context, Store},
        memory::Memory,
    },
};

/// The service that [`CacheLayer`](crate::CacheLayer) makes.
///
/// It is ready when the inner service is, and uses the very instance that was made ready; whoever waits for another's
/// response gives it back first. A hit leaves it as it is, ready for the next call: as with every service that may answer
/// by itself, a caller that keeps an idle service keeps what it was promised, a permit of a `ConcurrencyLimit`, say. Servers
/// drop theirs after each request.
pub struct CacheService<S, St = Memory> {
    inner: S,
    shared: Arc<LayerState<St>>,
}

impl<S, St> CacheService<S, St> {
    pub(crate) fn new(inner: S, shared: Arc<LayerState<St>>) -> Self {
        Self { inner, shared }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, to change it.
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
        if !self.shared.rules.may_cover(request.uri(), request.extensions()) {
            return ResponseFuture::pass(self.inner.call(request));
        }
        if !self.shared.options.enabled.is_on() {
            return self.call_disabled(request);
        }
        let early = match recalled(&self.shared, &request) {
            Some(Recalled::Whole(entry, now)) => return ResponseFuture::ready(whole(&self.shared, &entry, now)),
            Some(Recalled::AtHand(response, now)) => return ResponseFuture::ready(at_hand(&self.shared, &response, now)),
            Some(Recalled::Wait(quest)) => return self.wait(quest, request, None),
            Some(Recalled::Early) => true,
            None => false,
        };
        match first_step(&self.shared, &request, early) {
            Step::Pass => ResponseFuture::pass(self.inner.call(request)),
            Step::Mark(status) => ResponseFuture::bypass(self.inner.call(request), self.shared.clone(), status),
            Step::Whole(entry, now) => ResponseFuture::ready(whole(&self.shared, &entry, now)),
            Step::Serve(entry, outcome, now) => ResponseFuture::ready(serve(&self.shared, &request, &entry, outcome, now)),
            Step::Refresh(entry, outcome, now, sought) => {
                let response = serve(&self.shared, &request, &entry, outcome, now);
                self.refresh(sought, &entry, request);
                ResponseFuture::ready(response)
            }
            Step::Refused => ResponseFuture::ready(respond::only_if_cached(&self.shared)),
            Step::Head(sought) => {
                let fill = Fill::new(self.shared.clone(), sought, None, self.shared.store.context().clock.nanos());
                ResponseFuture::work(fill.head(self.inner.call(request)))
            }
            // Where other processes fill and clear as well, the stamp of a look at what is near is not enough.
            Step::Ask(sought, _) if self.shared.store.is_shared() => self.wait(Box::new(sought.quest), request, None),
            Step::Ask(sought, looked) => self.ask(sought, looked, request),
            Step::Wait(quest) => self.wait(quest, request, None),
        }
    }
}

impl<S, St> CacheService<S, St> {
    /// The ready instance, for a call that comes now or in the background.
    fn take_ready(&mut self) -> S
    where
        S: Clone,
    {
        let next = self.inner.clone();
        mem::replace(&mut self.inner, next)
    }

    /// Calls the inner service while caching is turned off.
    #[cold]
    fn call_disabled<ReqB, ResB>(&mut self, request: Request<ReqB>) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: InnerService<ReqB, ResB>,
        St: Store,
        ResB: Send + 'static,
    {
        if self.shared.rules.find(request.uri(), request.extensions()).is_none() {
            return ResponseFuture::pass(self.inner.call(request));
        }
        self.shared.store.context().counters.bypass(Bypass::Disabled);
        let status = CacheStatus::new(Outcome::Bypass(Bypass::Disabled));
        ResponseFuture::bypass(self.inner.call(request), self.shared.clone(), status)
    }

    /// Asks the inner service, or waits for who is asking already.
    #[inline(always)]
    fn ask<ReqB, ResB>(
        &mut self,
        mut sought: Box<MissedRequest<St>>,
        looked: LookupTime,
        mut request: Request<ReqB>,
    ) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: InnerService<ReqB, ResB> + Clone,
        St: Store,
        ReqB: Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let shared = self.shared.clone();
        let counters = &shared.store.context().counters;
        let now = looked.at;
        let MissedRequest { quest, missed } = &mut *sought;
        let by_itself = missed.why == Miss::Request || quest.asked.http.as_ref().is_some_and(|asked| asked.goes_alone());
        if by_itself || shared.flights.passes(missed.key(quest), now) {
            if !by_itself && missed.ours.is_none() {
                missed.why = Miss::HitForMiss;
            }
            return self.ask_alone(sought, now, request);
        }
        match quest.join(&shared, missed) {
            Join::Lead(leader, drive) => {
                // Another fill may have landed between our look and our joining.
                if shared.flights.landings() != looked.landings
                    && let Some(entry) = quest.fresh_by_now(&shared, request.headers())
                {
                    drop(leader);
                    let (method, headers) = (request.method(), request.headers());
                    let response = respond::from_entry(&shared, &entry, method, headers, Outcome::Hit, now);
                    hit(&shared, now);
                    return ResponseFuture::ready(response);
                }
                counters.miss(missed.why);
                tracing::debug!(reason = missed.why.as_str(), "miss");
                question(&mut request, quest, missed, false);
                let inner = self.take_ready().call(request);
                ResponseFuture::lead(slow_path::lead(shared, sought, (leader, drive), now, inner))
            }
            Join::Follow(follower) => self.wait(Box::new(sought.quest), request, Some(follower)),
            Join::Full => {
                missed.why = Miss::FlightLimit;
                self.ask_alone(sought, now, request)
            }
        }
    }

    /// Asks the inner service for this request alone.
    fn ask_alone<ReqB, ResB>(
        &mut self,
        mut sought: Box<MissedRequest<St>>,
        now: Nanos,
        mut request: Request<ReqB>,
    ) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: InnerService<ReqB, ResB> + Clone,
        St: Store,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let MissedRequest { quest, missed } = &mut *sought;
        self.shared.store.context().counters.miss(missed.why);
        question(&mut request, quest, missed, true);
        let inner = self.take_ready().call(request);
        ResponseFuture::work(Fill::new(self.shared.clone(), sought, None, now).run(inner))
    }

    /// Waits: for a store that has to be asked, or for another's response. The ready instance is given back first, so that
    /// it starves nobody meanwhile.
    fn wait<ReqB, ResB>(
        &mut self,
        quest: Box<CacheRequest>,
        request: Request<ReqB>,
        follower: Option<Follower>,
    ) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: InnerService<ReqB, ResB> + Clone,
        St: Store,
        ReqB: Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        drop(self.take_ready());
        ResponseFuture::work(slow_path::wait(self.shared.clone(), self.inner.clone(), quest, request, follower))
    }

    /// Has an entry refreshed behind its back, unless somebody is at it.
    fn refresh<ReqB, ResB>(&mut self, mut sought: Box<MissedRequest<St>>, seen: &Arc<Entry>, mut request: Request<ReqB>)
    where
        S: InnerService<ReqB, ResB> + Clone,
        St: Store,
        ReqB: Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let Ok(runtime) = Handle::try_current() else { return };
        let shared = self.shared.clone();
        let MissedRequest { quest, missed } = &mut *sought;
        // Also where nobody waits for the next response of this key: not to wait for it is not a reason not to fetch it.
        if shared.store.is_shared() {
            drop(self.take_ready());
            runtime.spawn(Box::pin(refresh::renew(shared, self.inner.clone(), sought.quest, request)).in_current_span());
            return;
        }
        if let Join::Lead(leader, _) = quest.join::<_, ()>(&shared, missed) {
            // Whoever was at it may have landed between our look and our joining.
            if quest.look_again(&shared, request.headers()).is_some_and(|found| !Arc::ptr_eq(&found, seen)) {
                return;
            }
            let Context { clock, counters, .. } = shared.store.context();
            counters.add(Count::Refreshes, 1);
            let began = clock.nanos();
            question(&mut request, quest, missed, false);
            let inner = self.take_ready().call(request);
            runtime.spawn(refresh::refreshing(&shared, sought, leader, began, inner).in_current_span());
        }
    }
}
