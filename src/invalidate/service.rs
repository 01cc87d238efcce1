//! The service of `InvalidateLayer`.

use std::{
    fmt,
    task::{Context, Poll},
};

use http::{Method, Request, Response};
use tower::Service;

use super::{
    future::{InvalidateFuture, State},
    write::{Options, Write},
};
use crate::{
    body::InvalidateBody,
    key::{RequestView, overrides_method},
    ready::take_ready,
    rules::{RouteMatch, Rules, policy::Policy, views::Views},
    single_flight::detach::Detachable,
    store::{Store, epochs::InvalidationKind, memory::Memory},
};

/// The service that [`InvalidateLayer`](crate::InvalidateLayer) makes. Requests and responses pass through it as they are; the type of their body is
/// [`InvalidateBody`].
#[derive(Clone)]
pub struct InvalidateService<S, St = Memory> {
    pub(crate) inner: S,
    pub(crate) store: St,
    pub(crate) rules: Rules,
    pub(crate) options: Options,
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
    ResB: Send + 'static,
{
    type Response = Response<InvalidateBody<ResB>>;
    type Error = S::Error;
    type Future = InvalidateFuture<S::Future, St, ResB, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        if is_safe(&request) || self.reads(&request) {
            let said = Some((self.store.clone(), self.options.clone()));
            return InvalidateFuture { state: State::Pass { inner: self.inner.call(request), said } };
        }
        let secret = &self.store.context().secret;
        let mut write = Write::new(self.store.clone(), self.options.clone());
        let views = Views::of(request.uri(), request.extensions());
        let mut by_response = false;
        let covering = self.rules.covering(&views);
        // Softly only if all of them say so.
        let soft = !covering.is_empty() && covering.iter().all(|found| found.rule.invalidates_softly());
        write.kind = if soft { InvalidationKind::Soft } else { InvalidationKind::Hard };
        for RouteMatch { rule, params, .. } in covering {
            write.names.extend(rule.invalidations(&RequestView::of(&request, &params, secret)));
            by_response |= rule.invalidates_by_response() || rule.http().is_some() || rule.has_groups();
            if write.rule.is_none() {
                write.options.delivery_timeout = rule.delivery_timeout().unwrap_or(write.options.delivery_timeout);
                write.options.on_fence_error = rule.on_fence_error().unwrap_or(write.options.on_fence_error);
                write.rule = Some(rule.clone());
            }
        }
        drop(views);
        if write.rule.is_none() {
            write.uncovered = Some((request.method().clone(), request.uri().path().into(), !self.rules.is_empty()));
        }
        let request = if by_response {
            let (head, body) = request.into_parts();
            write.head = Some((head.clone(), self.rules.clone()));
            write.keys = write.keys(None);
            Request::from_parts(head, body)
        } else {
            request
        };
        // In the task of its request while that lasts; it then goes on without it, however long it takes.
        let drive = if self.store.is_strict() {
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
            && self.rules.peek_read(request.uri(), request.extensions()).is_some_and(Policy::reads_by_post)
            && !request.headers().keys().any(overrides_method)
    }
}

pub(crate) fn is_safe<B>(request: &Request<B>) -> bool {
    const SAFE: [&str; 8] = ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "PROPFIND", "REPORT", "SEARCH"];
    let safe = |method: &Method| SAFE.contains(&method.as_str());
    safe(request.method()) && !request.headers().keys().any(overrides_method)
}
