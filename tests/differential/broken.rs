//! Caches that are broken on purpose: the check has to catch each.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use tower::{BoxError, Service};

use super::{hand::Unreachable, routes::FORWARDED, world::Front};

/// How a cache is broken, and the law that it breaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    DropsVary,
    DropsPrivate,
    DropsSetCookie,
    OneSecondTooLong,
    StaleTooLong,
    SharesUsers,
    /// Invalidations by hand come to nothing.
    IgnoresInvalidation,
    /// Writes invalidate nothing.
    IgnoresWrites,
    /// One response in a few has the body of another.
    SwapsBodies,
    AgeOff,
    /// A body that breaks off ends as if it were whole.
    HidesBreak,
    ShortPart,
    AlwaysNotModified,
    NeverNotModified,
    IgnoresOnlyIfCached,
    IgnoresNoCache,
    /// A write whose URI is spelled in another way invalidates nothing.
    IgnoresSpellings,
    /// What a proxy says that the client sent is not in the key.
    IgnoresForwarded,
    NoCoalescing,
    NeverStores,
}

impl Fault {
    pub const ALL: [Self; 20] = [
        Self::DropsVary,
        Self::DropsPrivate,
        Self::DropsSetCookie,
        Self::OneSecondTooLong,
        Self::StaleTooLong,
        Self::SharesUsers,
        Self::IgnoresInvalidation,
        Self::IgnoresWrites,
        Self::SwapsBodies,
        Self::AgeOff,
        Self::HidesBreak,
        Self::ShortPart,
        Self::AlwaysNotModified,
        Self::NeverNotModified,
        Self::IgnoresOnlyIfCached,
        Self::IgnoresNoCache,
        Self::IgnoresSpellings,
        Self::IgnoresForwarded,
        Self::NoCoalescing,
        Self::NeverStores,
    ];
}

/// Stands between the cache and the origin.
#[derive(Clone)]
pub struct Inner<S> {
    pub inner: S,
    pub fault: Option<Fault>,
}

impl<S> Service<Request<Body>> for Inner<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Unreachable, Future: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = Unreachable;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Unreachable>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unreachable>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (inner, fault) = (self.inner.call(request), self.fault);
        Box::pin(async move {
            let mut response = inner.await?;
            let headers = response.headers_mut();
            match fault {
                Some(Fault::DropsVary) => _ = headers.remove(header::VARY),
                Some(Fault::DropsPrivate) => {
                    let lines: Vec<HeaderValue> = headers.get_all(header::CACHE_CONTROL).iter().cloned().collect();
                    headers.remove(header::CACHE_CONTROL);
                    for line in lines {
                        let line = line.to_str().expect("text").to_ascii_lowercase().replace("private", "x");
                        headers.append(header::CACHE_CONTROL, line.parse().expect("a value"));
                    }
                }
                Some(Fault::DropsSetCookie) => _ = headers.remove(header::SET_COOKIE),
                Some(Fault::NeverStores) => _ = headers.append(header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
                Some(Fault::HidesBreak) => {
                    headers.remove(header::CONTENT_LENGTH);
                    return Ok(response.map(|body| Body::new(Forgiving(body))));
                }
                _ => {}
            }
            Ok(response)
        })
    }
}

/// Ends cleanly where the body it has ends with an error.
struct Forgiving(Body);

impl http_body::Body for Forgiving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx).map(|frame| frame.and_then(|frame| frame.ok()).map(Ok))
    }
}

type Last = Arc<Mutex<Bytes>>;

/// A body whose first piece is changed.
struct Changed {
    body: Body,
    change: Option<fn(Bytes, &Last) -> Bytes>,
    bodies: Last,
}

fn swapped(piece: Bytes, last: &Last) -> Bytes {
    let last = std::mem::replace(&mut *last.lock().unwrap_or_else(PoisonError::into_inner), piece.clone());
    if piece.len().is_multiple_of(5) { last } else { piece }
}

impl http_body::Body for Changed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        let change = self.change.take();
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| match (frame.into_data(), change) {
                (Ok(piece), Some(change)) if !piece.is_empty() => http_body::Frame::data(change(piece, &self.bodies)),
                (Ok(piece), _) => http_body::Frame::data(piece),
                (Err(frame), _) => frame,
            })
        }))
    }
}

/// Stands between the clients and the cache.
#[derive(Clone)]
pub struct Outer {
    inner: Front,
    fault: Option<Fault>,
    /// The first piece of the last body.
    bodies: Last,
}

impl Outer {
    pub fn new(inner: Front, fault: Option<Fault>) -> Self {
        Self { inner, fault, bodies: Arc::default() }
    }
}

impl Service<Request<Body>> for Outer {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let fault = self.fault;
        let is_conditional = request.headers().contains_key(header::IF_NONE_MATCH);
        let fields = request.headers_mut();
        let asked = |fields: &http::HeaderMap, word: &str| {
            let mut lines = fields.get_all(header::CACHE_CONTROL).iter();
            lines.any(|line| line.to_str().is_ok_and(|line| line.to_ascii_lowercase().contains(word)))
        };
        match fault {
            Some(Fault::IgnoresOnlyIfCached) if asked(fields, "only-if-cached") => _ = fields.remove(header::CACHE_CONTROL),
            Some(Fault::IgnoresNoCache) if asked(fields, "no-cache") => _ = fields.remove(header::CACHE_CONTROL),
            Some(Fault::IgnoresForwarded) => {
                FORWARDED.iter().for_each(|(name, _)| _ = fields.remove(*name));
            }
            Some(Fault::NeverNotModified) => _ = fields.remove(header::IF_NONE_MATCH),
            _ => {}
        }
        let path = request.uri().path();
        if fault == Some(Fault::IgnoresSpellings) && (path.contains('%') || path.contains("/.") || path.contains("//")) {
            *request.uri_mut() = http::Uri::from_static("/api/none/0");
        }
        let (inner, bodies) = (self.inner.call(request), self.bodies.clone());
        Box::pin(async move {
            let mut response = inner.await?;
            match fault {
                Some(Fault::AgeOff) => {
                    if let Some(age) = response.headers_mut().get_mut(header::AGE) {
                        let seconds: u64 = age.to_str()?.parse().unwrap_or_default();
                        *age = (seconds + 1).into();
                    }
                }
                Some(Fault::AlwaysNotModified) if is_conditional && response.status() == 200 => {
                    *response.status_mut() = http::StatusCode::NOT_MODIFIED;
                    *response.body_mut() = Body::empty();
                }
                Some(Fault::ShortPart) if response.status() == 206 => {
                    return Ok(
                        response.map(|body| Body::new(Changed { body, change: Some(|bytes, _| bytes.slice(1..)), bodies }))
                    );
                }
                Some(Fault::SwapsBodies) if response.status() == 200 => {
                    return Ok(response.map(|body| Body::new(Changed { body, change: Some(swapped), bodies })));
                }
                _ => {}
            }
            Ok(response)
        })
    }
}
