//! The service of `InvalidateLayer`.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Method, Request, Response};
use http_body::Body;
use tower::Service;

use super::{
    body::InvalidateBody,
    future::{InvalidateFuture, State},
    write::{InvalidateState, Write},
};
use crate::{
    key::overrides_method,
    ready::take_ready,
    single_flight::detach::Detachable,
    store::{Store, memory::Memory},
};

/// The service that [`InvalidateLayer`](crate::InvalidateLayer) makes. Requests and responses pass through it as they are; the type of their body is
/// [`InvalidateBody`].
#[derive(Clone)]
pub struct InvalidateService<S, St = Memory> {
    pub(crate) inner: S,
    pub(crate) shared: Arc<InvalidateState<St>>,
}

impl<S: fmt::Debug, St> fmt::Debug for InvalidateService<S, St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvalidateService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, St, ReqB, ResB> Service<Request<ReqB>> for InvalidateService<S, St>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    St: Store,
    ReqB: Send + 'static,
    ResB: Body<Data: Send, Error: Send> + Send + 'static,
{
    type Response = Response<InvalidateBody<ResB>>;
    type Error = S::Error;
    type Future = InvalidateFuture<S::Future, St, ResB, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        if is_safe(&request) || self.reads(&request) {
            let shared = Some(self.shared.clone());
            return InvalidateFuture { state: State::Pass { inner: self.inner.call(request), shared } };
        }
        let (write, request) = Write::of(&self.shared, request);
        // In the task of its request while that lasts; it then goes on without it, however long it takes.
        let drive = if self.shared.store.is_strict() {
            let mut ready = take_ready(&mut self.inner);
            Detachable::to_the_end(write.fenced(move || ready.call(request)))
        } else {
            Detachable::to_the_end(write.run(self.inner.call(request)))
        };
        InvalidateFuture { state: State::Write(drive) }
    }
}

impl<S, St> InvalidateService<S, St> {
    /// Returns true for a POST under a rule that reads by POST.
    fn reads<B>(&self, request: &Request<B>) -> bool {
        *request.method() == Method::POST
            && self.shared.rules.with(|rules| rules.read_by_post(request.uri(), request.extensions()))
            && !request.headers().keys().any(overrides_method)
    }
}

pub(crate) fn is_safe<B>(request: &Request<B>) -> bool {
    const SAFE: [&str; 8] = ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "PROPFIND", "REPORT", "SEARCH"];
    let safe = |method: &Method| SAFE.contains(&method.as_str());
    safe(request.method()) && !request.headers().keys().any(overrides_method)
}
