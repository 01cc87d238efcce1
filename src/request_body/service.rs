//! The service of `RequestBodyLayer`.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Method, Request};
use http_body::Body;
use tower::Service;

use super::{
    body::ReadBody,
    budget::{Budget, Share},
    future::RequestBodyFuture,
};
use crate::{ready::take_ready, rules::Rules};

/// The service that a [`RequestBodyLayer`](super::RequestBodyLayer) makes.
#[derive(Clone)]
pub struct RequestBodyService<S> {
    inner: S,
    rules: Rules,
    read_timeout: Duration,
    budget: Arc<Budget>,
}

impl<S> RequestBodyService<S> {
    pub(super) fn new(inner: S, rules: Rules, read_timeout: Duration, budget: Arc<Budget>) -> Self {
        Self { inner, rules, read_timeout, budget }
    }

    /// Returns the size of the largest content that is read of this request. Returns `None` if the request passes untouched.
    fn limit<B>(&self, request: &Request<B>) -> Option<usize> {
        let method = request.method();
        if *method == Method::GET || *method == Method::HEAD {
            return None;
        }
        let found = self.rules.find(request.uri(), request.extensions())?;
        found.rule.reads_content(method).then(|| found.rule.max_request_body())
    }
}

impl<S, B> Service<Request<B>> for RequestBodyService<S>
where
    S: Service<Request<ReadBody<B>>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Response: 'static,
    S::Error: 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RequestBodyFuture<S::Future, S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(max) = self.limit(&request) else {
            return RequestBodyFuture::pass(self.inner.call(request.map(ReadBody::untouched)));
        };
        let mut ready = take_ready(&mut self.inner);
        let (timeout, share) = (self.read_timeout, Share::of(self.budget.clone()));
        RequestBodyFuture::read(async move {
            let (mut head, body) = request.into_parts();
            let (body, content) = ReadBody::read(body, max, timeout, share).await;
            head.extensions.insert(content);
            ready.call(Request::from_parts(head, body)).await
        })
    }
}

impl<S: fmt::Debug> fmt::Debug for RequestBodyService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBodyService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
