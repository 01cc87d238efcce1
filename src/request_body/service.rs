//! The service of `RequestBodyLayer`.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

#[cfg(feature = "graphql")]
use bytes::Bytes;
use http::{Method, Request, request};
use http_body::Body;
use tokio::time::Instant;
use tower::Service;

use super::{
    body::{End, Limits, ReadBody, Reading},
    future::RequestBodyFuture,
};
use crate::{
    budget::{Budget, Share},
    key::content::{OperationRequest, RequestContent},
    ready::take_ready,
    rpc::{Call, Protocol},
    rules::{Rules, live::LiveRules, policy::Policy},
    status::Bypass,
};

/// The service that a [`RequestBodyLayer`](super::RequestBodyLayer) makes.
#[derive(Clone)]
pub struct RequestBodyService<S> {
    inner: S,
    live: LiveRules,
    /// The version of `rules`.
    version: u64,
    /// The rules in force when the last request came.
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
    /// The rule for GraphQL that reads the content.
    graphql: Option<Arc<Policy>>,
}

impl<S> RequestBodyService<S> {
    pub(super) fn new(inner: S, live: LiveRules, read_timeout: Duration, budget: Arc<Budget>) -> Self {
        let (version, rules) = live.versioned();
        Self { inner, live, version, rules, read_timeout, budget }
    }

    /// Takes the newest rules.
    #[cold]
    fn reload(&mut self) {
        (self.version, self.rules) = self.live.versioned();
    }

    /// Returns the operation of a GET under a rule for GraphQL.
    #[cfg(feature = "graphql")]
    fn operation_of_get<B: Body>(&self, request: &Request<B>) -> Option<OperationRequest> {
        if *request.method() != Method::GET {
            return None;
        }
        let rule = self.rules.graphql(request.uri(), request.extensions())?;
        let body = request.body();
        let has_content = !body.is_end_stream() && body.size_hint().exact() != Some(0);
        Some(rule.operation_of_get(request.uri(), has_content))
    }

    /// Returns how to read the content of a request, if it belongs to the key or names what a write invalidates.
    fn wanted<B>(&self, request: &Request<B>) -> Option<Wanted> {
        let method = request.method();
        if *method == Method::GET || *method == Method::HEAD {
            return None;
        }
        let found = self.rules.peek(request.uri(), request.extensions());
        match found.filter(|found| found.rule.reads_content(method)) {
            Some(found) => {
                let call = found.rule.call(request);
                let is_other = call.is_none() && found.rule.is_rpc();
                let is_framed = call.is_some_and(|call| call.protocol.is_framed());
                let graphql = Some(found.rule).filter(|rule| rule.is_graphql()).cloned();
                Some(Wanted { bytes: found.rule.max_request_body(), is_framed, call, is_other, graphql })
            }
            None => {
                let bytes = self.rules.content_of_write(method, request.uri(), request.extensions())?;
                let is_framed = Protocol::of(request.headers()).is_some_and(Protocol::is_framed);
                Some(Wanted { bytes, is_framed, call: None, is_other: false, graphql: None })
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
        if self.live.version() != self.version {
            self.reload();
        }
        #[cfg(feature = "graphql")]
        if let Some(read) = self.operation_of_get(&request) {
            let mut request = request.map(ReadBody::untouched);
            let (content, operation) = (Ok(Bytes::new()), Some(read));
            request.extensions_mut().insert(RequestContent { content, call: None, is_new: false, operation });
            return RequestBodyFuture::pass(self.inner.call(request));
        }
        let Some(Wanted { bytes, is_framed, call, is_other, graphql }) = self.wanted(&request) else {
            return RequestBodyFuture::pass(self.inner.call(request.map(ReadBody::untouched)));
        };
        if is_other {
            let mut request = request.map(ReadBody::untouched);
            request.extensions_mut().insert(RequestContent {
                content: Err(Bypass::NotUnary),
                call,
                is_new: false,
                operation: None,
            });
            return RequestBodyFuture::pass(self.inner.call(request));
        }
        let limits = Limits { bytes, time: self.read_timeout, is_framed };
        let (head, body) = request.into_parts();
        let mut reading = Reading::new(body, limits, Share::of(self.budget.clone()));
        // The content of most requests has arrived with its head.
        if let Some(end) = reading.arrived() {
            return RequestBodyFuture::pass(self.inner.call(with_content(head, reading, end, (call, graphql))));
        }
        let call = call.map(|call| Call { arrived: Some(Instant::now()), ..call });
        let mut ready = take_ready(&mut self.inner);
        RequestBodyFuture::read(async move {
            let end = reading.read_all().await;
            ready.call(with_content(head, reading, end, (call, graphql))).await
        })
    }
}

/// Returns the request with its content as an extension. A request that bypasses the cache is not a call that the cache answers.
fn with_content<B: Body>(
    mut head: request::Parts,
    reading: Reading<B>,
    end: End<B::Error>,
    (call, graphql): (Option<Call>, Option<Arc<Policy>>),
) -> Request<ReadBody<B>> {
    let (body, content) = ReadBody::read(reading, end);
    let call = call.filter(|_| content.is_ok());
    let operation = graphql.and_then(|rule| operation(&rule, &head, content.as_deref().ok()?));
    head.extensions.insert(RequestContent { content, call, is_new: call.is_some(), operation });
    Request::from_parts(head, body)
}

/// Returns the operation of a request under a rule for GraphQL.
fn operation(rule: &Policy, head: &request::Parts, content: &[u8]) -> Option<OperationRequest> {
    #[cfg(feature = "graphql")]
    return Some(rule.operation_of_content(&head.uri, &head.headers, content));
    #[cfg(not(feature = "graphql"))]
    {
        let _ = (rule, head, content);
        None
    }
}

impl<S: fmt::Debug> fmt::Debug for RequestBodyService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBodyService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
