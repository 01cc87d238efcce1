//! Requests that await: a store that must be queried, another request's fill, or a distributed lock.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
};

use http::{HeaderMap, Request, Response, header};
use http_body::Body;
use tokio::time::Instant;

use crate::{
    action::{self, Action, Finish, Wanted},
    body::CacheBody,
    entry::Entry,
    error::BoxError,
    fill::{
        Answer, Fill,
        begin::{FilledElsewhere, begin},
        upstream::{self, InnerService, count_miss, count_miss_of},
    },
    finish::finish,
    follow::{Followed, follow},
    lookup::{
        Lookup,
        decision::Decision,
        request::{CacheRequest, LookupTime, MissedRequest},
    },
    respond::{self, partial, serve},
    rules::policy::Policy,
    single_flight::{Join, Leader, detach::Detachable, flight::Flight, follower::Follower, permit::WithPermit},
    state::LayerState,
    status::{Miss, Outcome},
    store::Store,
};

/// The number of responses that a request waits for although nobody could verify that they may be shared. The first makes a new namespace
/// known. The second is stored, unless a namespace was invalidated meanwhile. Without a limit, requests would wait one behind another.
const MAX_UNVERIFIED: u32 = 3;

/// Queries the store and returns the action that follows. Without `serves_stale`, a stale entry is a fallback only. `chosen` is the decision for
/// each fresh entry, if it is made.
pub(crate) async fn look_up<St: Store>(
    shared: &LayerState<St>,
    cache_request: Box<CacheRequest>,
    headers: &HeaderMap,
    serves_stale: bool,
    chosen: Option<Decision>,
) -> Action<St> {
    let completions = shared.flights.landings_at(cache_request.primary.hash());
    let lookup = cache_request.look_up_with(shared, headers).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "lookup failed: the store did not answer");
        Lookup::nothing()
    });
    let context = shared.store.context();
    let time = LookupTime { at: context.clock.nanos(), completions, has_queried: true };
    let decision = match cache_request.decide(lookup.found.as_ref(), time.at) {
        Decision::Stale if !serves_stale => Decision::Fetch { reason: Miss::Expired, fallback: true },
        decision @ (Decision::Fresh | Decision::RefreshAhead | Decision::Audit) => chosen.unwrap_or(decision),
        decision => decision,
    };
    let method = cache_request.info.method.clone();
    let wanted = Wanted {
        method: &method,
        headers,
        has_range: headers.contains_key(header::RANGE),
        is_conditional_or_range: cache_request.info.is_conditional_or_range,
        by_http: cache_request.info.directives.is_some(),
    };
    let place = cache_request.rule.place();
    action::after(decision, lookup, time, &wanted, place, |miss| cache_request.keeping(headers).missed(miss))
}

/// The next step of a request on the slow path.
enum Next<St: Store> {
    LookUp(Box<CacheRequest>),
    Follow(Box<CacheRequest>, Follower),
    Act(Action<St>),
}

/// Runs the slow path.
///
/// A hit goes no further than the first lookup. All the rest is a future of its own, many times as large, and is made only when it is
/// needed: a future is copied to the place where it is kept. This is no `async fn`, because that would reserve room for its arguments
/// twice.
#[allow(clippy::manual_async_fn)]
pub(crate) fn wait<S, St, ReqB, ResB>(
    shared: Arc<LayerState<St>>,
    service: S,
    cache_request: Box<CacheRequest>,
    request: Request<ReqB>,
    follower: Option<Follower>,
) -> impl Future<Output = Result<Response<CacheBody<ResB>>, S::Error>> + Send + 'static
where
    S: InnerService<ReqB, ResB> + Clone,
    St: Store,
    ReqB: Send + 'static,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    async move {
        let next = match follower {
            Some(follower) => Next::Follow(cache_request, follower),
            None => match Box::pin(look_up(&shared, cache_request, request.headers(), true, None)).await {
                Action::Finish(Finish::Complete(entry, served)) => return Ok(respond::complete_owned(&shared, entry, served)),
                action => Next::Act(action),
            },
        };
        Box::pin(run(shared, service, next, request)).await
    }
}

/// Looks up, follows other fills, and fetches, until there is a response.
async fn run<S, St, ReqB, ResB>(
    shared: Arc<LayerState<St>>,
    mut service: S,
    mut next: Next<St>,
    request: Request<ReqB>,
) -> Answer<ResB, S::Error>
where
    S: InnerService<ReqB, ResB> + Clone,
    St: Store,
    ReqB: Send + 'static,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    let until = shared.flights.patience();
    let mut unverified = 0;
    loop {
        let mut alone = None;
        let action = match next {
            Next::Act(action) => action,
            Next::LookUp(cache_request) => look_up(&shared, cache_request, request.headers(), true, None).await,
            Next::Follow(cache_request, follower) => {
                match follow(&shared, &cache_request, &follower, until).await {
                    Followed::Respond(response) => return Ok(response),
                    Followed::FetchAlone(reason) => alone = Some(reason),
                    Followed::LookUp => {}
                    Followed::Unverified => {
                        unverified += 1;
                        alone = (unverified == MAX_UNVERIFIED).then_some(Miss::NotShared);
                    }
                }
                drop(follower);
                look_up(&shared, cache_request, request.headers(), alone.is_none(), None).await
            }
        };
        let mut missed = match action {
            Action::Finish(step) => {
                if step.calls_inner() {
                    poll_fn(|cx| service.poll_ready(cx)).await?;
                }
                return finish(&mut service, &shared, step, request).await;
            }
            Action::Call(_) => unreachable!("a call is new once"),
            Action::Wait(cache_request) => {
                next = Next::LookUp(cache_request);
                continue;
            }
            Action::FetchPart(mut missed) => {
                if let Some(response) = partial::stored(&shared, &missed.request, &missed.miss).await {
                    return Ok(response);
                }
                // No request waits for a part, and a stored part is not revalidated.
                missed.miss.revalidatable = None;
                alone = Some(missed.miss.reason);
                missed
            }
            Action::Fetch(missed) => missed,
            Action::Shadow => unreachable!("shadow mode has a path of its own"),
        };
        if alone.is_none() && action::requires_own_response(&missed) {
            alone = Some(missed.miss.reason);
        }
        if alone.is_none() && shared.store.is_shared() && action::is_hit_for_miss(&shared, &missed, missed.miss.time.at) {
            alone = Some(Miss::HitForMiss);
        }
        let join = if alone.is_some() { Join::Full } else { missed.request.join(&shared, &missed.miss) };
        match join {
            Join::Lead(leader, task) => match begin_to_lead(&shared, &mut missed, leader, request.headers(), until).await {
                Ok(leader) => return fetch_as_leader(shared, service, missed, leader, task, request).await,
                Err(FilledElsewhere::Before(entry)) => {
                    let served = missed.request.served(missed.miss.time);
                    return Ok(serve(&shared, &request, &entry, Outcome::Hit, served));
                }
                Err(FilledElsewhere::Stored(entry)) => {
                    return Ok(respond_collapsed(&shared, &missed.request.rule, &request, &entry));
                }
                Err(FilledElsewhere::InProgress(follower)) => next = Next::Follow(Box::new(missed.request), follower),
            },
            Join::Follow(follower) => next = Next::Follow(Box::new(missed.request), follower),
            Join::Full => {
                let reason = alone.unwrap_or(Miss::FlightLimit);
                return fetch_alone(shared, service, missed, reason, request, until).await;
            }
        }
    }
}

/// Begins a fill as its leader, unless another fill has stored an entry or is in progress.
async fn begin_to_lead<St: Store>(
    shared: &Arc<LayerState<St>>,
    missed: &mut MissedRequest<St>,
    mut leader: Leader,
    headers: &HeaderMap,
    until: Instant,
) -> Result<Leader, FilledElsewhere> {
    let MissedRequest { request: cache_request, miss } = missed;
    if let Some(entry) = cache_request.fresh_entry(shared, headers) {
        return Err(FilledElsewhere::Before(entry));
    }
    let completions = miss.time.completions;
    match begin(shared, cache_request, miss, Some((&mut leader, completions)), until).await {
        None => Ok(leader),
        // The leader is dropped: its followers look up as well.
        Some(filled) => Err(filled),
    }
}

/// Returns the response from an entry that another fill has stored meanwhile.
fn respond_collapsed<St: Store, ReqB, ResB>(
    shared: &LayerState<St>,
    rule: &Policy,
    request: &Request<ReqB>,
    entry: &Arc<Entry>,
) -> Response<CacheBody<ResB>> {
    let (method, headers, now) = (request.method(), request.headers(), shared.store.context().clock.nanos());
    let response = respond::from_entry(shared, entry, method, headers, Outcome::Collapsed, now);
    shared.route(rule).collapsed(true, response.body().cached_length());
    shared.store.context().track(entry.key(), entry.namespaces(), 1);
    response
}

/// Calls the inner service, and shares the response with the followers.
async fn fetch_as_leader<S, St, ReqB, ResB>(
    shared: Arc<LayerState<St>>,
    mut service: S,
    mut missed: Box<MissedRequest<St>>,
    leader: Leader,
    task: Detachable<Answer<ResB, S::Error>, Flight>,
    request: Request<ReqB>,
) -> Answer<ResB, S::Error>
where
    S: InnerService<ReqB, ResB>,
    St: Store,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    let count = count_miss(&shared, &missed);
    poll_fn(|cx| service.poll_ready(cx)).await?;
    let began = shared.store.context().clock.nanos();
    let MissedRequest { request: cache_request, miss } = &mut *missed;
    let call = upstream::call(&mut service, &shared.store, cache_request, miss, request, false);
    let call = WithPermit::new(call, miss.permit.as_ref());
    task.begin(Box::pin(Fill::new(shared, missed, Some(leader), began, Some(count)).run(call)));
    task.await
}

/// Calls the inner service for this request alone. `reason` is the reason of the miss, unless an entry is revalidated.
async fn fetch_alone<S, St, ReqB, ResB>(
    shared: Arc<LayerState<St>>,
    mut service: S,
    mut missed: Box<MissedRequest<St>>,
    reason: Miss,
    request: Request<ReqB>,
    until: Instant,
) -> Answer<ResB, S::Error>
where
    S: InnerService<ReqB, ResB>,
    St: Store,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    let MissedRequest { request: cache_request, miss } = &mut *missed;
    if miss.revalidatable.is_none() {
        miss.reason = reason;
    }
    let count = count_miss_of(&shared, cache_request, miss, miss.reason);
    // Without a leader, no other fill is waited for.
    let _ = begin(&shared, cache_request, miss, None, until).await;
    poll_fn(|cx| service.poll_ready(cx)).await?;
    let began = shared.store.context().clock.nanos();
    let call = upstream::call(&mut service, &shared.store, cache_request, miss, request, true);
    let call = WithPermit::new(call, miss.permit.as_ref());
    Fill::new(shared.clone(), missed, None, began, Some(count)).run(call).await
}
