//! The service of `RequestBodyLayer`.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Method, Request, request};
use http_body::Body;
use tower::Service;

use super::{
    body::{End, Limits, ReadBody, Reading},
    budget::{Budget, Share},
    future::RequestBodyFuture,
};
use crate::{
    key::content::RequestContent,
    ready::take_ready,
    rpc::{Call, Protocol},
    rules::Rules,
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

/// The content to read of a request.
struct Wanted {
    /// The size of the largest content.
    bytes: usize,
    /// The content must be one message in a frame.
    is_framed: bool,
    /// The call that the cache may answer.
    call: Option<Call>,
    /// The request under a rule for RPC is not a unary call. It is not read.
    is_other: bool,
}

impl<S> RequestBodyService<S> {
    pub(super) fn new(inner: S, rules: Rules, read_timeout: Duration, budget: Arc<Budget>) -> Self {
        Self { inner, rules, read_timeout, budget }
    }

    /// Returns the content to read of a request: content that belongs to its key, or that names what a write invalidates.
    fn wanted<B>(&self, request: &Request<B>) -> Option<Wanted> {
        let method = request.method();
        if *method == Method::GET || *method == Method::HEAD {
            return None;
        }
        let found = self.rules.find(request.uri(), request.extensions());
        match found.filter(|found| found.rule.reads_content(method)) {
            Some(found) => {
                let call = found.rule.call(request);
                let is_other = call.is_none() && found.rule.is_rpc();
                let is_framed = call.is_some_and(|call| call.protocol.is_framed());
                Some(Wanted { bytes: found.rule.max_request_body(), is_framed, call, is_other })
            }
            None => {
                let bytes = self.rules.content_of_write(method, request.uri(), request.extensions())?;
                let is_framed = Protocol::of(request.headers()).is_some_and(Protocol::is_framed);
                Some(Wanted { bytes, is_framed, call: None, is_other: false })
            }
        }
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
        let Some(Wanted { bytes, is_framed, call, is_other }) = self.wanted(&request) else {
            return RequestBodyFuture::pass(self.inner.call(request.map(ReadBody::untouched)));
        };
        if is_other {
            let mut request = request.map(ReadBody::untouched);
            request.extensions_mut().insert(RequestContent { content: Err(Bypass::NotUnary), call, is_new: false });
            return RequestBodyFuture::pass(self.inner.call(request));
        }
        let limits = Limits { bytes, time: self.read_timeout, is_framed };
        let (head, body) = request.into_parts();
        let mut reading = Reading::new(body, limits, Share::of(self.budget.clone()));
        // The content of most requests has arrived with its head.
        if let Some(end) = reading.arrived() {
            return RequestBodyFuture::pass(self.inner.call(with_content(head, reading, end, call)));
        }
        let mut ready = take_ready(&mut self.inner);
        RequestBodyFuture::read(async move {
            let end = reading.read_all().await;
            ready.call(with_content(head, reading, end, call)).await
        })
    }
}

/// Returns the request with its content as an extension. A request that bypasses the cache is not a call that the cache answers.
fn with_content<B: Body>(
    mut head: request::Parts,
    reading: Reading<B>,
    end: End<B::Error>,
    call: Option<Call>,
) -> Request<ReadBody<B>> {
    let (body, content) = ReadBody::read(reading, end);
    let call = call.filter(|_| content.is_ok());
    head.extensions.insert(RequestContent { content, call, is_new: call.is_some() });
    Request::from_parts(head, body)
}

impl<S: fmt::Debug> fmt::Debug for RequestBodyService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBodyService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
