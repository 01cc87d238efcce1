//! A service behind both layers, which answers each call by a closure.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn, util::BoxCloneService};
use tower_response_cache::{
    BoxError, CacheBody, CacheStatus, Outcome, ResponseCache,
    invalidate::InvalidateBody,
    request_body::ReadBody,
    status::{Bypass, NoStore, Storing},
};

use super::{Plain, outcome, text};

pub type Served<B> = Response<InvalidateBody<CacheBody<B>>>;

/// Returns a service that passes the content and the number of each call to a closure, and the counter of its calls.
pub fn answering<F, B>(
    answer: F,
) -> (
    impl Service<Request<ReadBody<Plain>>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send,
    Arc<AtomicUsize>,
)
where
    F: Fn(&str, usize) -> Response<B> + Clone + Send + Sync + 'static,
    B: Send + 'static,
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

/// A service behind a cache. Its layers read the content of requests.
pub struct App<B: Body<Error: Into<BoxError>>> {
    pub cache: ResponseCache,
    service: BoxCloneService<Request<Plain>, Served<B>, Infallible>,
    calls: Arc<AtomicUsize>,
}

impl<B: Body<Data = Bytes, Error = Infallible> + Send + 'static> App<B> {
    /// Returns a cache around the service of [`answering`].
    pub fn around<F>(cache: ResponseCache, answer: F) -> Self
    where
        F: Fn(&str, usize) -> Response<B> + Clone + Send + Sync + 'static,
    {
        let (inner, calls) = answering(answer);
        let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(inner);
        Self { cache, service: BoxCloneService::new(service), calls }
    }

    pub async fn send(&self, request: Request<Plain>) -> Served<B> {
        self.service.clone().oneshot(request).await.expect("a response")
    }

    /// Sends a request, and returns its outcome and the text of its response.
    pub async fn read(&self, request: Request<Plain>) -> (Outcome, String) {
        let response = self.send(request).await;
        (outcome(&response), text(response).await)
    }

    /// Sends a request. Returns true for a hit.
    pub async fn is_hit(&self, request: Request<Plain>) -> bool {
        self.read(request).await.0 == Outcome::Hit
    }

    /// Returns the reason for which a request bypasses the cache.
    pub async fn bypass(&self, request: Request<Plain>) -> Option<Bypass> {
        match self.read(request).await.0 {
            Outcome::Bypass(reason) => Some(reason),
            _ => None,
        }
    }

    /// Returns the reason for which the response to a request is not stored.
    pub async fn refusal(&self, request: Request<Plain>) -> Option<NoStore> {
        let response = self.send(request).await;
        let status = CacheStatus::of(&response).and_then(|status| status.stored());
        text(response).await;
        match status {
            Some(Storing::Not(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Returns the number of calls of the service.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}
