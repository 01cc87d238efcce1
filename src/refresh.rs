//! Background refresh.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
};

use http::{Request, Response};
use http_body::Body;

use crate::{
    clock::Nanos,
    error::BoxError,
    fill::{
        Fill,
        begin::{Begins, begin},
        upstream::{InnerService, question},
    },
    lookup::{
        decision::Decision,
        request::{CacheRequest, LookupMiss, MissedRequest},
    },
    single_flight::{
        Join, Leader,
        detach::{AwaitCount, unless_left},
        outcome::CompletionCount,
        permit::WithPermit,
    },
    state::LayerState,
    stats::counters::Count,
    store::backend::Store,
};

/// Fills as the leader, in the background, by a call that `began` before this: what is answered is for nobody, what is stored is for
/// all. It ends when it takes too long, unless somebody waits for it by then.
pub(crate) fn refreshing<St, F, B, E>(
    shared: &Arc<LayerState<St>>,
    sought: Box<MissedRequest<St>>,
    leader: Leader,
    began: Nanos,
    inner: F,
) -> impl Future<Output = ()> + Send + 'static
where
    St: Store,
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Error: Into<BoxError>> + Send + 'static,
    E: Send + 'static,
{
    let flight = leader.flight();
    let limit = Some(shared.options.fill_limit);
    // Boxed, as is what is spawned: a future is copied whole each time it is handed on.
    let fill = Box::pin(Fill::new(shared.clone(), sought, Some(leader), began).run(inner));
    async move { drop(unless_left(fill, limit, || !flight.flight().is_awaited()).await) }
}

/// Looks into a shared store whether an entry that has been served still wants refreshing, and refreshes it then.
pub(crate) async fn renew<S, St, ReqB, ResB>(
    shared: Arc<LayerState<St>>,
    service: S,
    quest: CacheRequest,
    request: Request<ReqB>,
) where
    S: InnerService<ReqB, ResB>,
    St: Store,
    ReqB: Send + 'static,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    let quest = quest.keeping(&request);
    let landings = shared.flights.landings_at(&quest.primary);
    let Ok(look) = quest.look(&shared).await else { return };
    let missed = match quest.decide(look.found, shared.store.context().clock.nanos()) {
        Decision::Early(entry) => LookupMiss { early: true, ..LookupMiss::renewing(entry, look.stamp, look.varying) },
        Decision::Stale(entry) => LookupMiss::renewing(entry, look.stamp, look.varying),
        Decision::Ask(why, spare) => LookupMiss::asking(why, spare, look.stamp, look.varying),
        Decision::Fresh(_) | Decision::Accepted(_) | Decision::Refused => return,
    };
    if let Join::Lead(leader, _) = quest.join::<_, ()>(&shared, &missed) {
        refresh(shared, service, quest, missed, (leader, landings), request).await;
    }
}

/// Calls the inner service in the background, and stores what it answers.
pub(crate) async fn refresh<S, St, ReqB, ResB>(
    shared: Arc<LayerState<St>>,
    mut service: S,
    quest: CacheRequest,
    mut missed: LookupMiss<St>,
    (mut leader, landings): (Leader, CompletionCount),
    mut request: Request<ReqB>,
) where
    S: InnerService<ReqB, ResB>,
    St: Store,
    ReqB: Send + 'static,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    shared.store.context().counters.add(Count::Refreshes, 1);
    let until = shared.flights.patience();
    // Whoever refreshes it elsewhere does it for us, too.
    match begin(&shared, &quest, &mut missed, Some((&mut leader, landings)), until).await {
        Begins::Call => {}
        Begins::Answered(_) | Begins::Follows(_) => return,
    }
    if poll_fn(|cx| service.poll_ready(cx)).await.is_ok() {
        let began = shared.store.context().clock.nanos();
        question(&mut request, &quest, &mut missed, false);
        let inner = WithPermit::new(service.call(request), missed.permit.as_ref());
        refreshing(&shared, quest.but(missed), leader, began, inner).await;
    }
}
