//! The request that the inner service sees.

use http::{HeaderMap, Request, Response, header};
use tower_service::Service;

use super::revalidate::as_inner_service_knows;
use crate::{
    lookup::request::{CacheRequest, LookupMiss},
    semantics,
    store::backend::Store,
};

/// What the inner service must be for its calls to go on without the request that they were made for.
pub(crate) trait InnerService<ReqB, ResB>:
    Service<Request<ReqB>, Response = Response<ResB>, Future: Send + 'static, Error: Send + 'static> + Send + 'static
{
}

impl<S, ReqB, ResB> InnerService<ReqB, ResB> for S where
    S: Service<Request<ReqB>, Response = Response<ResB>, Future: Send + 'static, Error: Send + 'static> + Send + 'static
{
}

/// The client's own conditions and its range: we answer them ourselves, and the inner service is to send the whole.
fn without_conditions(headers: &mut HeaderMap) {
    for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::RANGE, header::IF_RANGE] {
        if headers.remove(&name).is_some() {
            tracing::trace!(%name, "taken off");
        }
    }
}

/// Makes of a request what the inner service is to see: one with our own conditions where we have something to ask about, else one
/// without any; alone, it goes as it came.
#[inline]
pub(crate) fn question<B, St: Store>(request: &mut Request<B>, quest: &CacheRequest, missed: &mut LookupMiss<St>, alone: bool) {
    if let Some(ours) = &missed.ours {
        // RFC 9111, section 4.3.1: ours and not the client's, so that a 304 is about what is stored here.
        if !semantics::make_conditional(request.headers_mut(), &[&as_inner_service_knows(ours)]) {
            missed.ours = None;
        }
    } else if !alone && quest.asked.less {
        without_conditions(request.headers_mut());
    }
}
