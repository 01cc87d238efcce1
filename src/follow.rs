//! A request that follows another fill.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
};

use http::Response;
use tokio::time::Instant;

use crate::{
    body::CacheBody,
    clock::Nanos,
    entry::Content,
    lookup::request::CacheRequest,
    respond,
    rules::policy::Policy,
    semantics::Failure,
    single_flight::{
        follower::Follower,
        outcome::{FlightOutcome, Progress},
    },
    state::LayerState,
    status::{Miss, Outcome, Stale},
    store::Store,
};

/// The time for which requests do not wait for a key whose body took longer than the wait limit and could be shared only when complete.
const LONG_BODY: Nanos = 60_000_000_000;

/// The result of waiting for another fill.
pub(crate) enum Followed<B> {
    Respond(Response<CacheBody<B>>),
    /// The inner service is called for this request alone.
    FetchAlone(Miss),
    /// The request is looked up again.
    LookUp,
    /// The request is looked up again, because the store could not verify that the response may be shared.
    Unverified,
}

/// Waits for another fill.
pub(crate) async fn follow<St: Store, B>(
    shared: &Arc<LayerState<St>>,
    request: &CacheRequest,
    follower: &Follower,
    until: Instant,
) -> Followed<B> {
    let info = &request.info;
    let context = shared.store.context();
    let waiting = Waiting::begin(shared, &request.rule);
    let progress = match request.rule.soft_timeout() {
        None => follower.wait(until).await,
        Some(limit) => match tokio::time::timeout(limit, follower.wait(until)).await {
            Ok(progress) => progress,
            Err(_) => match serve_stale_to_follower(shared, request, Failure::Unreachable, Stale::SoftTimeout).await {
                Some(response) => return Followed::Respond(response),
                None => follower.wait(until).await,
            },
        },
    };
    drop(waiting);
    let now = context.clock.nanos();
    match progress {
        None => {
            follower.gives_up(&shared.flights);
            if follower.waits_for_a_body() {
                shared.flights.pass(follower.key(), now + LONG_BODY);
            }
            Followed::FetchAlone(Miss::WaitLimit)
        }
        Some(Progress::Landed(FlightOutcome::NotShareable)) => Followed::FetchAlone(Miss::NotShared),
        Some(Progress::Landed(FlightOutcome::Failed(failure))) => {
            match serve_stale_to_follower(shared, request, failure, Stale::IfError).await {
                Some(response) => Followed::Respond(response),
                None => Followed::FetchAlone(Miss::NotShared),
            }
        }
        Some(Progress::Landed(FlightOutcome::Stored(found))) => {
            if !info.allows_shared(found.entry.http(), now) {
                return Followed::FetchAlone(Miss::NotShared);
            }
            let (primary, stamp) = (request.primary.as_ref(), found.entry.stamp());
            if !info.may_share(&shared.store, stamp, &request.rule, found.terms(), primary) {
                return Followed::LookUp;
            }
            let (method, conditions) = (&info.method, info.conditions());
            let response = respond::from_entry(shared, &found.entry, method, conditions, Outcome::Collapsed, now);
            shared.route(&request.rule).collapsed(false, response.body().cached_length());
            shared.store.context().track(found.entry.key(), found.entry.namespaces(), 1);
            Followed::Respond(response)
        }
        Some(Progress::Arriving(found)) if found.fresh_until.is_some_and(|until| until <= now) => {
            // The response expires before its body is complete. Another request leads.
            follower.gives_up(&shared.flights);
            Followed::LookUp
        }
        Some(Progress::Arriving(found)) => {
            let primary = request.primary.as_ref();
            let shares = |stamp| info.may_share(&shared.store, stamp, &request.rule, found.terms(), primary);
            if !info.allows_shared(found.http.as_deref(), now) || !follower.stamp().is_some_and(shares) {
                return Followed::FetchAlone(Miss::NotShared);
            }
            match respond::from_arriving(shared, &found, info, now) {
                None => Followed::FetchAlone(Miss::NotShared),
                Some(response) => {
                    shared.route(&request.rule).collapsed(false, response.body().cached_length());
                    let mut names = Cow::Borrowed(&request.plan.names);
                    if !found.added.is_empty() {
                        names.to_mut().extend(&found.added);
                    }
                    shared.store.context().track(&found.key, &names, 1);
                    Followed::Respond(response)
                }
            }
        }
        Some(Progress::Landed(FlightOutcome::Unverified)) => Followed::Unverified,
        Some(Progress::Landed(FlightOutcome::LeaderLost) | Progress::Calling) => Followed::LookUp,
    }
}

/// A request that waits for a fill. It is counted until this is dropped.
struct Waiting<'a, St: Store> {
    shared: &'a LayerState<St>,
    rule: &'a Policy,
    began: Nanos,
}

impl<'a, St: Store> Waiting<'a, St> {
    fn begin(shared: &'a LayerState<St>, rule: &'a Policy) -> Self {
        let context = shared.store.context();
        context.counters.followers.fetch_add(1, Ordering::Relaxed);
        Self { shared, rule, began: context.clock.nanos() }
    }
}

impl<St: Store> Drop for Waiting<'_, St> {
    fn drop(&mut self) {
        let context = self.shared.store.context();
        context.counters.followers.fetch_sub(1, Ordering::Relaxed);
        self.shared.route(self.rule).time_of_wait(context.clock.nanos().saturating_sub(self.began));
    }
}

/// Returns a stale response for a follower whose leader's call is slow or has failed, if the request allows it.
async fn serve_stale_to_follower<St: Store, B>(
    shared: &LayerState<St>,
    request: &CacheRequest,
    failure: Failure,
    reason: Stale,
) -> Option<Response<CacheBody<B>>> {
    let lookup = request.look_up(shared).await.ok()?;
    let (entry, validity) = lookup.found.filter(|(entry, _)| matches!(entry.content(), Content::Response { .. }))?;
    let now = shared.store.context().clock.nanos();
    if !request.info.allows_stale_if_error(&entry, validity, failure, now) {
        return None;
    }
    let info = &request.info;
    let response = respond::from_entry(shared, &entry, &info.method, info.conditions(), Outcome::Stale(reason), now);
    shared.route(&request.rule).stale(reason, shared.is_from_store(true), response.body().cached_length());
    shared.store.context().track(entry.key(), entry.namespaces(), 1);
    Some(response)
}
