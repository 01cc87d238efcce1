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
    body::{Limits, ReadBody},
    budget::{Budget, Share},
    future::RequestBodyFuture,
};
use crate::{
    key::content::RequestContent,
    ready::take_ready,
    rules::{Rules, policy::Policy},
    status::Bypass,
};

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

    /// Returns the rule of a request whose content belongs to its key.
    fn rule<B>(&self, request: &Request<B>) -> Option<&Policy> {
        let method = request.method();
        if *method == Method::GET || *method == Method::HEAD {
            return None;
        }
        let found = self.rules.find(request.uri(), request.extensions())?;
        found.rule.reads_content(method).then(|| &**self.rules.at(found.place))
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
        let Some(rule) = self.rule(&request) else {
            return RequestBodyFuture::pass(self.inner.call(request.map(ReadBody::untouched)));
        };
        let call = rule.call(&request);
        if call.is_none() && rule.is_rpc() {
            let mut request = request.map(ReadBody::untouched);
            request.extensions_mut().insert(RequestContent { content: Err(Bypass::NotUnary), call, is_new: false });
            return RequestBodyFuture::pass(self.inner.call(request));
        }
        let is_framed = call.is_some_and(|call| call.protocol.is_framed());
        let limits = Limits { bytes: rule.max_request_body(), time: self.read_timeout, is_framed };
        let mut ready = take_ready(&mut self.inner);
        let share = Share::of(self.budget.clone());
        RequestBodyFuture::read(async move {
            let (mut head, body) = request.into_parts();
            let (body, content) = ReadBody::read(body, limits, share).await;
            // A request that bypasses the cache is not a call that it answers.
            let call = call.filter(|_| content.is_ok());
            head.extensions.insert(RequestContent { content, call, is_new: call.is_some() });
            ready.call(Request::from_parts(head, body)).await
        })
    }
}

impl<S: fmt::Debug> fmt::Debug for RequestBodyService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBodyService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
