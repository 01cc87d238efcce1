//! Background refresh: of stale entries that were served (`stale-while-revalidate`), and of fresh entries that expire soon.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
};

use http::{Request, Response};
use http_body::Body;
use tokio::runtime::Handle;

use crate::{
    Store,
    clock::Nanos,
    entry::Entry,
    error::BoxError,
    fill::{
        Fill,
        begin::begin,
        upstream::{self, InnerService},
    },
    lookup::{
        decision::Decision,
        request::{CacheRequest, LookupMiss, LookupTime, MissedRequest},
    },
    ready::take_ready,
    rpc::deadline,
    single_flight::{
        Leader,
        detach::{AwaitCount, Work, start_in, unless_left},
        outcome::CompletionCount,
        permit::WithPermit,
    },
    state::LayerState,
    stats::counters::Count,
    store::backend::Context,
};

/// Starts the refresh of `entry`, which has answered the request, unless another fill of its key is in progress. The answer does not
/// wait for it. An entry is also refreshed where requests for its key do not wait for each other.
#[inline(never)]
pub(crate) fn start<S, St, ReqB, ResB>(
    inner: &mut S,
    shared: &Arc<LayerState<St>>,
    missed: Box<MissedRequest<St>>,
    entry: &Arc<Entry>,
    mut request: Request<ReqB>,
) where
    S: InnerService<ReqB, ResB> + Clone,
    St: Store,
    ReqB: Send + 'static,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    let Ok(runtime) = Handle::try_current() else { return };
    let (shared, time) = (shared.clone(), missed.miss.time);
    let work: Work<()>;
    if missed.request.rule.is_rpc() {
        deadline::remove(request.headers_mut());
    }
    if time.has_queried {
        let MissedRequest { request: cache_request, miss } = *missed;
        let Some(leader) = cache_request.lead_refresh(&shared, &miss) else { return };
        work = Box::pin(refresh(shared, inner.clone(), cache_request, miss, (leader, time.completions), request));
    } else if shared.store.is_shared() {
        // The ready instance is given back first, since other callers may need it meanwhile.
        drop(take_ready(inner));
        work = Box::pin(look_up_and_refresh(shared, inner.clone(), missed.request, missed.miss.refresh_ahead, request));
    } else if let Some((began, leader)) = begin_in_memory(&shared, &missed, entry, &request) {
        let mut missed = missed;
        let MissedRequest { request: cache_request, miss } = &mut *missed;
        let call = upstream::call(&mut take_ready(inner), &shared.store, cache_request, miss, request, false);
        work = Box::pin(run(&shared, missed, leader, began, call));
    } else {
        return;
    }
    start_in(&runtime, work);
}

/// Begins the refresh of an entry of a store in memory. Returns `None` if another refresh is in progress, or has ended since the lookup.
fn begin_in_memory<St: Store, ReqB>(
    shared: &LayerState<St>,
    missed: &MissedRequest<St>,
    entry: &Arc<Entry>,
    request: &Request<ReqB>,
) -> Option<(Nanos, Leader)> {
    let MissedRequest { request: cache_request, miss } = missed;
    let leader = cache_request.lead_refresh(shared, miss)?;
    if cache_request.current_entry(shared, request.headers()).is_some_and(|found| !Arc::ptr_eq(&found, entry)) {
        return None;
    }
    let Context { clock, counters, .. } = shared.store.context();
    counters.add(Count::Refreshes, 1);
    Some((clock.nanos(), leader))
}

/// Runs a fill in the background. Its call `began` before. The response goes to nobody; the entry serves all. The fill ends when it takes
/// too long, unless a request waits for it by then.
fn run<St, F, B, E>(
    shared: &Arc<LayerState<St>>,
    missed: Box<MissedRequest<St>>,
    leader: Leader,
    began: Nanos,
    call: F,
) -> impl Future<Output = ()> + Send + 'static
where
    St: Store,
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Error: Into<BoxError>> + Send + 'static,
    E: Send + 'static,
{
    let flight = leader.flight();
    let limit = Some(shared.options.fill_limit);
    // Boxed, since a spawned future is copied whole each time it is moved.
    let fill = Box::pin(Fill::new(shared.clone(), missed, Some(leader), began, None).run(call));
    async move { drop(unless_left(fill, limit, || !flight.flight().is_awaited()).await) }
}

/// Looks an entry up in a shared store, and refreshes it if it still needs that: if it is stale, or is still the entry that the hit has chosen to
/// refresh ahead.
async fn look_up_and_refresh<S, St, ReqB, ResB>(
    shared: Arc<LayerState<St>>,
    service: S,
    cache_request: CacheRequest,
    ahead: Option<Arc<Entry>>,
    request: Request<ReqB>,
) where
    S: InnerService<ReqB, ResB>,
    St: Store,
    ReqB: Send + 'static,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    let cache_request = cache_request.keeping(request.headers());
    let completions = shared.flights.landings_at(cache_request.primary.hash());
    let Ok(lookup) = cache_request.look_up(&shared).await else { return };
    let time = LookupTime { at: shared.store.context().clock.nanos(), completions, has_queried: true };
    let decision = cache_request.decide(lookup.found.as_ref(), time.at);
    let found = lookup.found.map(|(entry, _)| entry);
    let decision = decision.as_chosen(ahead.as_deref(), found.as_deref());
    let miss = match (decision, found) {
        (Decision::RefreshAhead | Decision::Stale, Some(entry)) => {
            let ahead = (decision == Decision::RefreshAhead).then(|| entry.clone());
            LookupMiss { refresh_ahead: ahead, ..LookupMiss::refreshing(entry, lookup.stamp, lookup.varying, time) }
        }
        (Decision::Fetch { reason, fallback }, found) => {
            LookupMiss::new(reason, found.filter(|_| fallback), lookup.stamp, lookup.varying, time)
        }
        _ => return,
    };
    if let Some(leader) = cache_request.lead_refresh(&shared, &miss) {
        refresh(shared, service, cache_request, miss, (leader, completions), request).await;
    }
}

/// Calls the inner service in the background, and stores its response.
async fn refresh<S, St, ReqB, ResB>(
    shared: Arc<LayerState<St>>,
    mut service: S,
    cache_request: CacheRequest,
    mut miss: LookupMiss<St>,
    (mut leader, completions): (Leader, CompletionCount),
    request: Request<ReqB>,
) where
    S: InnerService<ReqB, ResB>,
    St: Store,
    ReqB: Send + 'static,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    shared.store.context().counters.add(Count::Refreshes, 1);
    let until = shared.flights.patience();
    // A refresh elsewhere serves this process, too.
    if begin(&shared, &cache_request, &mut miss, Some((&mut leader, completions)), until).await.is_some() {
        return;
    }
    if poll_fn(|cx| service.poll_ready(cx)).await.is_ok() {
        let began = shared.store.context().clock.nanos();
        let call = upstream::call(&mut service, &shared.store, &cache_request, &mut miss, request, false);
        let call = WithPermit::new(call, miss.permit.as_ref());
        run(&shared, cache_request.missed(miss), leader, began, call).await;
    }
}
