//! Closures over messages: namespaces and lifetimes from the content of requests and responses.

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "json")]
mod json;
#[cfg(feature = "prost")]
mod protobuf;
mod reads;
mod writes;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt, combinators::BoxBody};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn, util::BoxCloneService};
use tower_response_cache::{
    CacheBody, CacheStatus, Memory, Namespace, Outcome, ResponseCache, Rules,
    invalidate::InvalidateBody,
    request_body::ReadBody,
    status::{NoStore, Storing},
};

use crate::common::*;

type Boxed = BoxBody<Bytes, Infallible>;
type Served = Response<InvalidateBody<CacheBody<Boxed>>>;

const GRPC: &str = "application/grpc";

/// A service behind a cache. It answers each call with what a closure makes of the content and of the number of the call.
struct App {
    cache: ResponseCache,
    service: BoxCloneService<Request<Plain>, Served, Infallible>,
    calls: Arc<AtomicUsize>,
}

impl App {
    fn new<F>(rules: Rules, answer: F) -> Self
    where
        F: Fn(&str, usize) -> Response<Boxed> + Clone + Send + Sync + 'static,
    {
        let cache = ResponseCache::new(Memory::default()).rules(rules);
        let (inner, calls) = inner(answer);
        let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(inner);
        Self { cache, service: BoxCloneService::new(service), calls }
    }

    async fn send(&self, request: Request<Plain>) -> Served {
        self.service.clone().oneshot(request).await.expect("a response")
    }

    /// Sends a request, and returns its outcome and the text of its response.
    async fn read(&self, request: Request<Plain>) -> (Outcome, String) {
        let response = self.send(request).await;
        (outcome(&response), text(response).await)
    }

    /// Returns true if the response to a request is stored.
    async fn is_hit(&self, request: Request<Plain>) -> bool {
        self.read(request).await.0 == Outcome::Hit
    }

    /// Returns the reason for which the response to a request is not stored.
    async fn refusal(&self, request: Request<Plain>) -> Option<NoStore> {
        let response = self.send(request).await;
        let status = CacheStatus::of(&response).and_then(|status| status.stored());
        text(response).await;
        match status {
            Some(Storing::Not(reason)) => Some(reason),
            _ => None,
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

fn inner<F>(
    answer: F,
) -> (
    impl Service<Request<ReadBody<Plain>>, Response = Response<Boxed>, Error = Infallible, Future: Send> + Clone + Send,
    Arc<AtomicUsize>,
)
where
    F: Fn(&str, usize) -> Response<Boxed> + Clone + Send + Sync + 'static,
{
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let inner = service_fn(move |request: Request<ReadBody<Plain>>| {
        let (answer, call) = (answer.clone(), counter.fetch_add(1, Ordering::SeqCst) + 1);
        async move {
            let content = request.into_body().collect().await.expect("content").to_bytes();
            Ok::<_, Infallible>(answer(&String::from_utf8_lossy(&content), call))
        }
    });
    (inner, calls)
}

/// Returns a service whose calls the test answers.
fn held() -> (
    impl Service<Request<Plain>, Response = Response<ChannelBody>, Error = tower_response_cache::BoxError, Future: Send>
    + Clone
    + Send,
    Handle<ChannelBody>,
) {
    let (service, handle) = tower_test::mock::pair();
    (tower::buffer::Buffer::new(service, 8), handle)
}

/// Returns a request with content of a type.
fn request(method: Method, target: &str, kind: &str, content: impl Into<Bytes>) -> Request<Plain> {
    let request = Request::builder().method(method).uri(target).header(header::CONTENT_TYPE, kind);
    request.body(Plain::new(content.into())).expect("a request")
}

/// Returns a response with content of a type.
fn response(kind: &str, content: impl Into<Bytes>) -> Response<Boxed> {
    let response = Response::builder().header(header::CONTENT_TYPE, kind);
    response.body(BoxBody::new(Plain::new(content.into()))).expect("a response")
}

/// Returns the response to a call by gRPC with one message and this status.
fn call_response(message: &str, status: &'static str) -> Response<Boxed> {
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), status.parse().expect("a value"))]);
    let body = Plain::from(frame(message)).with_trailers(std::future::ready(Some(Ok(trailers))));
    Response::builder().header(header::CONTENT_TYPE, GRPC).body(BoxBody::new(body)).expect("a response")
}

/// Returns a message in its frame.
fn frame(message: &str) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
    [&[0], &length[..], message.as_bytes()].concat()
}

/// Returns the namespace of a message that consists of its name.
fn named(text: &[u8]) -> Result<Vec<Namespace>, tower_response_cache::BoxError> {
    let text = std::str::from_utf8(text)?;
    match text.strip_prefix("bad") {
        Some(_) => Err("a bad message".into()),
        None => Ok(vec![Namespace::of(["note", text])]),
    }
}
