//! The end of a request that needs no further lookup: its response, or the call that will bring it.

use std::sync::Arc;

use http::Request;
use http_body::Body;

use crate::{
    action::Finish,
    audit,
    error::BoxError,
    fill::{
        Fill,
        forwarded::Forwarded,
        tags,
        upstream::{InnerService, count_miss_of},
    },
    future::ResponseFuture,
    refresh,
    respond::{self, serve},
    state::LayerState,
    status::{Miss, Outcome},
    store::Store,
};

/// Carries out the last step for a request. `inner` is ready if the step [calls it](Finish::calls_inner).
#[inline(always)]
pub(crate) fn finish<S, St, ReqB, ResB>(
    inner: &mut S,
    shared: &Arc<LayerState<St>>,
    step: Finish<St>,
    request: Request<ReqB>,
) -> ResponseFuture<S::Future, St, ResB, S::Error>
where
    S: InnerService<ReqB, ResB> + Clone,
    St: Store,
    ReqB: Send + 'static,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    match step {
        Finish::Complete(entry, served) => ResponseFuture::ready(respond::complete(shared, &entry, served)),
        Finish::Replay(entry, served) => ResponseFuture::ready(respond::replay(shared, &entry, served)),
        Finish::Hot(response, served) => ResponseFuture::ready(respond::hot(shared, &response, served)),
        Finish::HotReplay(response, served) => ResponseFuture::ready(respond::hot_replay(shared, &response, served)),
        Finish::HotReduced(response, served) => {
            ResponseFuture::ready(respond::hot_reduced(shared, &response, &request, served))
        }
        Finish::Respond(entry, outcome, served) => ResponseFuture::ready(serve(shared, &request, &entry, outcome, served)),
        Finish::RespondAndRefresh(entry, outcome, missed) => {
            let response = serve(shared, &request, &entry, outcome, missed.request.served(missed.miss.time));
            refresh::start(inner, shared, missed, &entry, request);
            ResponseFuture::ready(response)
        }
        Finish::RespondAndAudit(entry, missed) => {
            let response = serve(shared, &request, &entry, Outcome::Hit, missed.request.served(missed.miss.time));
            audit::start(inner, shared, missed, entry, request);
            ResponseFuture::ready(response)
        }
        Finish::OnlyIfCached(place) => {
            shared.routes[place].only_if_cached();
            ResponseFuture::ready(respond::only_if_cached(shared))
        }
        Finish::Pass => ResponseFuture::pass(inner.call(request)),
        Finish::Forward(outcome, place) => {
            let forwarded = Forwarded::begin(shared, outcome, place);
            match shared.options.tags {
                None => ResponseFuture::forward(inner.call(request), forwarded),
                Some(_) => {
                    let names = tags::of_request(shared, &request, outcome);
                    ResponseFuture::work(tags::tagged(inner.call(request), forwarded, names))
                }
            }
        }
        Finish::Head(missed) => {
            let count = count_miss_of(shared, &missed.request, &missed.miss, Miss::Head);
            let fill = Fill::new(shared.clone(), missed, None, shared.store.context().clock.nanos(), Some(count));
            let call = fill.enter(|| inner.call(request));
            ResponseFuture::work(fill.head(call))
        }
    }
}
