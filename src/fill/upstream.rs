//! The request that the inner service sees.

use http::{HeaderMap, Method, Request, Response, header};
use tower::Service;

use super::{ongoing::OngoingFill, revalidate::as_inner_service_knows};
use crate::{
    lookup::request::{CacheRequest, LookupMiss, MissedRequest},
    semantics,
    state::LayerState,
    stats::routes::MissCount,
    status::Miss,
    store::Store,
};

/// An inner service whose calls can outlive the request.
pub(crate) trait InnerService<ReqB, ResB>:
    Service<Request<ReqB>, Response = Response<ResB>, Future: Send + 'static, Error: Send + 'static> + Send + 'static
{
}

impl<S, ReqB, ResB> InnerService<ReqB, ResB> for S where
    S: Service<Request<ReqB>, Response = Response<ResB>, Future: Send + 'static, Error: Send + 'static> + Send + 'static
{
}

/// Begins to count a miss whose response may be shared.
pub(crate) fn count_miss<St: Store>(shared: &LayerState<St>, missed: &MissedRequest<St>) -> MissCount {
    let reason = missed.miss.reason;
    tracing::debug!(reason = reason.as_str(), "miss");
    count_miss_of(shared, &missed.request, &missed.miss, reason)
}

/// Begins to count a miss for a reason.
pub(crate) fn count_miss_of<St: Store>(
    shared: &LayerState<St>,
    request: &CacheRequest,
    miss: &LookupMiss<St>,
    reason: Miss,
) -> MissCount {
    shared.store.context().track(miss.key(request), &request.plan.names, 1);
    MissCount::new(shared.route(&request.rule), reason)
}

/// Removes the client's conditions and its range. The cache answers them itself, and the inner service returns the complete response.
fn remove_conditions(headers: &mut HeaderMap) {
    for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::RANGE, header::IF_RANGE] {
        if headers.remove(&name).is_some() {
            tracing::trace!(%name, "request field removed");
        }
    }
}

/// Calls the inner service for a fill. If an entry can be revalidated, the request has the conditions for that. If not, it has no condition, or
/// those of the client if it is fetched `alone`.
#[inline]
pub(crate) fn call<S: Service<Request<B>>, B, St: Store>(
    service: &mut S,
    store: &St,
    cache_request: &CacheRequest,
    miss: &mut LookupMiss<St>,
    mut request: Request<B>,
    alone: bool,
) -> S::Future {
    if *request.method() == Method::POST {
        // A condition of a POST can fail it (RFC 9110, section 13.1.2).
        miss.revalidatable = None;
    } else if let Some(entry) = &miss.revalidatable {
        // RFC 9111, section 4.3.1: the conditions are those of the cache, so that a 304 is about the stored response.
        if !semantics::make_conditional(request.headers_mut(), &[&as_inner_service_knows(entry)]) {
            miss.revalidatable = None;
        }
    } else if !alone && cache_request.info.is_conditional_or_range {
        remove_conditions(request.headers_mut());
    }
    let _guard = OngoingFill::of(store.context(), cache_request.primary.as_ref()).enter();
    service.call(request)
}
