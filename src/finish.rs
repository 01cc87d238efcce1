//! The end of a request that needs no further lookup: its response, or the call that will bring it.

use std::sync::Arc;

use http::Request;
use http_body::Body;

use crate::{
    action::Finish,
    error::BoxError,
    fill::{Fill, tags, upstream::InnerService},
    future::ResponseFuture,
    refresh,
    respond::{self, serve},
    state::LayerState,
    status::CacheStatus,
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
        Finish::Complete(entry, now) => ResponseFuture::ready(respond::complete(shared, &entry, now)),
        Finish::Replay(entry, now) => ResponseFuture::ready(respond::replay(shared, &entry, now)),
        Finish::Hot(response, now) => ResponseFuture::ready(respond::hot(shared, &response, now)),
        Finish::HotReplay(response, now) => ResponseFuture::ready(respond::hot_replay(shared, &response, now)),
        Finish::HotReduced(response, now) => ResponseFuture::ready(respond::hot_reduced(shared, &response, &request, now)),
        Finish::Respond(entry, outcome, now) => ResponseFuture::ready(serve(shared, &request, &entry, outcome, now)),
        Finish::RespondAndRefresh(entry, outcome, missed) => {
            let response = serve(shared, &request, &entry, outcome, missed.miss.time.at);
            refresh::start(inner, shared, missed, &entry, request);
            ResponseFuture::ready(response)
        }
        Finish::OnlyIfCached => ResponseFuture::ready(respond::only_if_cached(shared)),
        Finish::Pass => ResponseFuture::pass(inner.call(request)),
        Finish::Forward(outcome) if shared.options.tags.is_some() => {
            let names = tags::of_request(shared, &request, outcome);
            ResponseFuture::work(tags::tagged(inner.call(request), shared.clone(), names, CacheStatus::new(outcome)))
        }
        Finish::Forward(outcome) => ResponseFuture::bypass(inner.call(request), shared.clone(), CacheStatus::new(outcome)),
        Finish::Head(missed) => {
            let fill = Fill::new(shared.clone(), missed, None, shared.store.context().clock.nanos());
            let call = fill.enter(|| inner.call(request));
            ResponseFuture::work(fill.head(call))
        }
    }
}
