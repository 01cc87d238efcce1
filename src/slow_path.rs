//! The road of a request that has to wait: for a store that has to be asked, or for another's response.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
};

use http::{HeaderMap, Method, Request, Response, header};
use http_body::Body;
use tokio::time::Instant;
use tracing::Instrument;

use crate::{
    body::CacheBody,
    clock::Nanos,
    entry::{Content, stamp::Stamp},
    error::BoxError,
    fill::{
        Answer, Fill,
        begin::{Begins, begin},
        upstream::{InnerService, question},
    },
    key::Key,
    lookup::{
        Lookup,
        decision::Decision,
        info::{self, RequestInfo},
        partial::asks_for_one,
        request::{CacheRequest, LookupMiss, MissedRequest},
    },
    refresh::refresh,
    respond::{self, hit, partial},
    semantics::{Failure, Vary},
    single_flight::{
        Join, Leader,
        detach::Detachable,
        flight::Flight,
        follower::Follower,
        outcome::{CompletionCount, FlightOutcome, Progress},
        permit::WithPermit,
    },
    state::LayerState,
    stats::counters::Count,
    status::{Bypass, CacheStatus, Miss, Outcome, Stale},
    store::backend::Store,
};

/// Fills as the leader: in the task of its own request for as long as nobody else depends on it.
#[inline]
pub(crate) fn lead<St, F, B, E>(
    shared: Arc<LayerState<St>>,
    sought: Box<MissedRequest<St>>,
    (leader, drive): (Leader, Detachable<Answer<B, E>, Flight>),
    began: Nanos,
    inner: F,
) -> Detachable<Answer<B, E>, Flight>
where
    St: Store,
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Error: Into<BoxError>> + Send + 'static,
    E: Send + 'static,
{
    drive.begin(Box::pin(Fill::new(shared, sought, Some(leader), began).run(inner)));
    drive
}

/// What may be served in place of another's response to one who waits for that, where the inner service is slow or has failed.
async fn instead<St: Store, B>(
    shared: &LayerState<St>,
    quest: &CacheRequest,
    failure: Failure,
    why: Stale,
) -> Option<Response<CacheBody<B>>> {
    let look = quest.look(shared).await.ok()?;
    let (entry, life) = look.found.filter(|(entry, _)| matches!(entry.content(), Content::Response { .. }))?;
    let now = shared.store.context().clock.nanos();
    if !quest.asked.may_have_instead(&entry, life, failure, now) {
        return None;
    }
    shared.store.context().counters.add(Count::Stale, 1);
    let asked = &quest.asked;
    Some(respond::from_entry(shared, &entry, &asked.method, asked.conditions(), Outcome::Stale(why), now))
}

/// What a look at the store has come to.
pub(crate) struct Decided {
    decision: Decision,
    stamp: Stamp,
    varying: Option<(Vary, Key)>,
    now: Nanos,
    /// How many fills had landed before.
    landings: CompletionCount,
}

/// Looks into the store, waiting for one that has to be asked.
pub(crate) async fn look<St: Store>(shared: &LayerState<St>, quest: &CacheRequest, headers: &HeaderMap) -> Decided {
    let landings = shared.flights.landings_at(&quest.primary);
    let look = Lookup::later(&shared.store, &quest.rule, quest.primary.as_ref(), headers, &quest.plan.names).await;
    let look = look.unwrap_or_else(|error| {
        tracing::debug!(%error, "the store did not answer");
        Lookup::nothing()
    });
    let now = shared.store.context().clock.nanos();
    let Lookup { found, stamp, varying } = look;
    Decided { decision: quest.decide(found, now), stamp, varying, now, landings }
}

/// The road of a request that has to wait.
///
/// A hit goes no further than the first look. All the rest is a future of its own, many times as large, that is made only when it is
/// needed: a future is moved to where it is kept, byte by byte. For the same reason this is no `async fn`, which would have room for
/// what it is given twice.
#[allow(clippy::manual_async_fn)]
pub(crate) fn wait<S, St, ReqB, ResB>(
    shared: Arc<LayerState<St>>,
    service: S,
    mut quest: Box<CacheRequest>,
    request: Request<ReqB>,
    follower: Option<Follower>,
) -> impl Future<Output = Result<Response<CacheBody<ResB>>, S::Error>> + Send + 'static
where
    S: InnerService<ReqB, ResB>,
    St: Store,
    ReqB: Send + 'static,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    async move {
        let first = match &follower {
            Some(_) => None,
            None => Some(Box::pin(look(&shared, &quest, request.headers())).await),
        };
        let first = match first {
            Some(Decided { decision: Decision::Fresh(entry), now, .. }) => {
                hit(&shared, now);
                let (method, headers) = (request.method(), request.headers());
                return Ok(match quest.asked.less || *method == Method::HEAD {
                    false => respond::from_last(&shared, entry, CacheStatus::new(Outcome::Hit), now),
                    true => respond::from_entry(&shared, &entry, method, headers, Outcome::Hit, now),
                });
            }
            first => first,
        };
        quest.asked.keep(&request);
        Box::pin(further(shared, service, *quest, request, follower, first)).await
    }
}

/// The road beyond the first look, or that of a follower, who has not looked yet.
async fn further<S, St, ReqB, ResB>(
    shared: Arc<LayerState<St>>,
    mut service: S,
    quest: CacheRequest,
    mut request: Request<ReqB>,
    mut follower: Option<Follower>,
    mut first: Option<Decided>,
) -> Result<Response<CacheBody<ResB>>, S::Error>
where
    S: InnerService<ReqB, ResB>,
    St: Store,
    ReqB: Send + 'static,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    let until = shared.flights.patience();
    let context = shared.store.context();
    let RequestInfo { method, http, .. } = &quest.asked;
    let mut unvouched = 0;
    loop {
        let headers = request.headers();
        let mut alone = None;
        if let Some(follower) = follower.take() {
            match follow(&shared, &quest, &follower, until).await {
                Followed::Answer(response) => return Ok(response),
                Followed::Alone(why) => alone = Some(why),
                Followed::Again => {}
                Followed::Unvouched => {
                    unvouched += 1;
                    alone = (unvouched == MOST_UNVOUCHED).then_some(Miss::NotShared);
                }
            }
        }
        let Decided { decision, stamp, varying, now, landings } = match first.take() {
            Some(decided) => decided,
            None => look(&shared, &quest, headers).await,
        };
        let early = matches!(decision, Decision::Early(_));
        let mut missed = match decision {
            Decision::Fresh(entry) => {
                hit(&shared, now);
                return Ok(respond::from_entry(&shared, &entry, method, headers, Outcome::Hit, now));
            }
            Decision::Early(entry) | Decision::Stale(entry) if early || alone.is_none() => {
                let outcome = if early { Outcome::Hit } else { Outcome::Stale(Stale::WhileRevalidate) };
                match early {
                    true => hit(&shared, now),
                    false => _ = context.counters.add(Count::Stale, 1),
                }
                let response = respond::from_entry(&shared, &entry, method, headers, outcome, now);
                let missed = LookupMiss { early, ..LookupMiss::renewing(entry, stamp, varying) };
                if *method != Method::HEAD
                    && let Join::Lead(leader, _) = quest.join::<_, ()>(&shared, &missed)
                {
                    // Not awaited by the stale answer, which is to leave at once.
                    let shared = shared.clone();
                    let refresh = refresh(shared, service, quest, missed, (leader, landings), request);
                    tokio::spawn(Box::pin(refresh).in_current_span());
                }
                return Ok(response);
            }
            Decision::Accepted(entry) => {
                context.counters.add(Count::Stale, 1);
                let outcome = Outcome::Stale(Stale::MaxStale);
                return Ok(respond::from_entry(&shared, &entry, method, headers, outcome, now));
            }
            Decision::Refused => return Ok(respond::only_if_cached(&shared)),
            Decision::Early(entry) | Decision::Stale(entry) => LookupMiss::asking(Miss::Expired, Some(entry), stamp, varying),
            // As at the first look: a response without its content is no answer for the GETs of this key.
            Decision::Ask(_, Some(entry)) if *method == Method::HEAD && entry.http().is_some() => {
                context.counters.miss(Miss::Head);
                poll_fn(|cx| service.poll_ready(cx)).await?;
                let missed = LookupMiss::asking(Miss::Head, Some(entry), stamp, varying);
                let inner = service.call(request);
                return Fill::new(shared.clone(), quest.but(missed), None, now).head(inner).await;
            }
            Decision::Ask(..) if *method == Method::HEAD => {
                context.counters.miss(Miss::Head);
                poll_fn(|cx| service.poll_ready(cx)).await?;
                let response = service.call(request).await?.map(CacheBody::inner);
                return Ok(shared.marked(response, CacheStatus::new(Outcome::Miss(Miss::Head))));
            }
            Decision::Ask(why, spare) => LookupMiss::asking(why, spare, stamp, varying),
        };
        if alone.is_none() && (missed.why == Miss::Request || http.as_ref().is_some_and(|asked| asked.goes_alone())) {
            alone = Some(missed.why);
        }
        if alone.is_none() && shared.store.is_shared() && shared.flights.passes(missed.key(&quest), now) {
            alone = Some(Miss::HitForMiss);
        }
        if http.is_some() && asks_for_one(method, headers) {
            if let Some(response) = partial::stored(&shared, &quest, &missed).await {
                return Ok(response);
            }
            // The whole was not asked for, so nobody waits for this answer, and what is stored of it is not asked about.
            missed.ours = None;
            alone = Some(missed.why);
        } else if *method == Method::GET && headers.contains_key(header::RANGE) {
            context.counters.bypass(Bypass::Range);
            poll_fn(|cx| service.poll_ready(cx)).await?;
            let response = service.call(request).await?.map(CacheBody::inner);
            return Ok(shared.marked(response, CacheStatus::new(Outcome::Bypass(Bypass::Range))));
        }
        if alone.is_none() {
            match quest.join(&shared, &missed) {
                Join::Lead(mut leader, drive) => {
                    if let Some(entry) = quest.fresh_by_now(&shared, headers) {
                        drop(leader);
                        hit(&shared, now);
                        return Ok(respond::from_entry(&shared, &entry, method, headers, Outcome::Hit, now));
                    }
                    match begin(&shared, &quest, &mut missed, Some((&mut leader, landings)), until).await {
                        Begins::Call => {}
                        Begins::Answered(entry) => {
                            // Those who wait look as well: what was seen now says nothing of who has come since.
                            drop(leader);
                            let now = context.clock.nanos();
                            context.counters.add(Count::Collapsed, 1);
                            return Ok(respond::from_entry(&shared, &entry, method, headers, Outcome::Collapsed, now));
                        }
                        Begins::Follows(another) => {
                            follower = Some(another);
                            continue;
                        }
                    }
                    context.counters.miss(missed.why);
                    tracing::debug!(reason = missed.why.as_str(), "miss");
                    poll_fn(|cx| service.poll_ready(cx)).await?;
                    let began = context.clock.nanos();
                    question(&mut request, &quest, &mut missed, false);
                    let inner = WithPermit::new(service.call(request), missed.permit.as_ref());
                    return lead(shared.clone(), quest.but(missed), (leader, drive), began, inner).await;
                }
                Join::Follow(another) => {
                    follower = Some(another);
                    continue;
                }
                Join::Full => alone = Some(Miss::FlightLimit),
            }
        }
        if let Some(alone) = alone.filter(|_| missed.ours.is_none()) {
            missed.why = alone;
        }
        context.counters.miss(missed.why);
        // Without a leader to be, nobody is waited for, so there is nothing to be answered with.
        let _ = begin(&shared, &quest, &mut missed, None, until).await;
        poll_fn(|cx| service.poll_ready(cx)).await?;
        let began = context.clock.nanos();
        question(&mut request, &quest, &mut missed, true);
        let inner = WithPermit::new(service.call(request), missed.permit.as_ref());
        return Fill::new(shared.clone(), quest.but(missed), None, began).run(inner).await;
    }
}

/// How long nobody waits for a body that has taken longer than anybody waits, and can be shared at its end only.
const LONG_BODY: Nanos = 60_000_000_000;

/// How many responses that nobody vouches for a request waits for. The first makes a new namespace known, and the second is stored, unless
/// something was invalidated meanwhile. Where that goes on, requests would wait one behind another.
const MOST_UNVOUCHED: u32 = 3;

/// What waiting for another's response comes to.
enum Followed<B> {
    Answer(Response<CacheBody<B>>),
    /// To the inner service, without waiting any more.
    Alone(Miss),
    /// Look again.
    Again,
    /// The same, since nobody could say whether this response may be shared.
    Unvouched,
}

async fn follow<St: Store, B>(
    shared: &Arc<LayerState<St>>,
    quest: &CacheRequest,
    follower: &Follower,
    until: Instant,
) -> Followed<B> {
    let asked = &quest.asked;
    let context = shared.store.context();
    let progress = match quest.rule.soft_timeout() {
        None => follower.wait(until).await,
        Some(limit) => match tokio::time::timeout(limit, follower.wait(until)).await {
            Ok(progress) => progress,
            Err(_) => match instead(shared, quest, Failure::Unreachable, Stale::SoftTimeout).await {
                Some(response) => return Followed::Answer(response),
                None => follower.wait(until).await,
            },
        },
    };
    let now = context.clock.nanos();
    match progress {
        None => {
            follower.gives_up(&shared.flights);
            if follower.waits_for_a_body() {
                shared.flights.pass(follower.key(), now + LONG_BODY);
            }
            Followed::Alone(Miss::WaitLimit)
        }
        Some(Progress::Landed(FlightOutcome::NotShareable)) => Followed::Alone(Miss::NotShared),
        Some(Progress::Landed(FlightOutcome::Failed(failure))) => match instead(shared, quest, failure, Stale::IfError).await {
            Some(response) => Followed::Answer(response),
            None => Followed::Alone(Miss::NotShared),
        },
        Some(Progress::Landed(FlightOutcome::Stored(found))) => {
            if !quest.asked.may_have(found.entry.http(), now) {
                return Followed::Alone(Miss::NotShared);
            }
            let (primary, stamp) = (quest.primary.as_ref(), found.entry.stamp());
            if !info::may_share(&shared.store, stamp, &quest.rule, found.terms(), primary, asked) {
                return Followed::Again;
            }
            context.counters.add(Count::Collapsed, 1);
            let (method, conditions) = (&asked.method, asked.conditions());
            Followed::Answer(respond::from_entry(shared, &found.entry, method, conditions, Outcome::Collapsed, now))
        }
        Some(Progress::Arriving(found)) if found.fresh_until.is_some_and(|until| until <= now) => {
            // A body that takes longer than its response lives is of no use to who comes now. Another leads.
            follower.gives_up(&shared.flights);
            Followed::Again
        }
        Some(Progress::Arriving(found)) => {
            let primary = quest.primary.as_ref();
            let shares = |stamp| info::may_share(&shared.store, stamp, &quest.rule, found.terms(), primary, asked);
            if !quest.asked.may_have(found.http.as_deref(), now) || !follower.stamp().is_some_and(shares) {
                // On its way, but not for us.
                return Followed::Alone(Miss::NotShared);
            }
            match respond::from_arriving(shared, &found, &quest.asked, now) {
                None => Followed::Alone(Miss::NotShared),
                Some(response) => {
                    context.counters.add(Count::Collapsed, 1);
                    Followed::Answer(response)
                }
            }
        }
        Some(Progress::Landed(FlightOutcome::Unverified)) => Followed::Unvouched,
        Some(Progress::Landed(FlightOutcome::LeaderLost) | Progress::Calling) => Followed::Again,
    }
}
