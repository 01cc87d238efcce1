//! Deliberately broken caches, which the check must detect.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use tower::{BoxError, Service};

use super::{
    held::{ResponseFuture, Unreachable},
    routes::FORWARDED,
    system::Frontend,
};

/// A deliberate defect in the cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mutation {
    DropsVary,
    DropsPrivate,
    DropsSetCookie,
    OneSecondTooLong,
    StaleTooLong,
    SharesUsers,
    /// Manual invalidations have no effect.
    IgnoresInvalidation,
    /// Writes invalidate nothing.
    IgnoresWrites,
    /// Some responses have the body of another response.
    SwapsBodies,
    AgeOff,
    /// A body that fails ends cleanly.
    HidesTruncation,
    ShortPart,
    AlwaysNotModified,
    NeverNotModified,
    IgnoresOnlyIfCached,
    IgnoresNoCache,
    /// A write with another spelling of its URI invalidates nothing.
    IgnoresSpellings,
    /// The fields that a proxy adds are not in the key.
    IgnoresForwarded,
    NoCoalescing,
    NeverStores,
}

impl Mutation {
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
        Self::HidesTruncation,
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

/// A service between the cache and the origin.
#[derive(Clone)]
pub struct Inner<S> {
    pub inner: S,
    pub mutation: Option<Mutation>,
}

impl<S> Service<Request<Body>> for Inner<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Unreachable, Future: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = Unreachable;
    type Future = ResponseFuture<Unreachable>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unreachable>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (inner, mutation) = (self.inner.call(request), self.mutation);
        Box::pin(async move {
            let mut response = inner.await?;
            mutate_fields(response.headers_mut(), mutation);
            if mutation == Some(Mutation::HidesTruncation) {
                response = ChangedBody::wrap(response, BodyChange::HideFailure, LastPiece::default());
            }
            Ok(response)
        })
    }
}

fn mutate_fields(headers: &mut HeaderMap, mutation: Option<Mutation>) {
    match mutation {
        Some(Mutation::DropsVary) => _ = headers.remove(header::VARY),
        Some(Mutation::DropsPrivate) => {
            let lines: Vec<HeaderValue> = headers.get_all(header::CACHE_CONTROL).iter().cloned().collect();
            headers.remove(header::CACHE_CONTROL);
            for line in lines {
                let line = line.to_str().expect("text").to_ascii_lowercase().replace("private", "x");
                headers.append(header::CACHE_CONTROL, line.parse().expect("a value"));
            }
        }
        Some(Mutation::DropsSetCookie) => _ = headers.remove(header::SET_COOKIE),
        Some(Mutation::NeverStores) => _ = headers.append(header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        Some(Mutation::HidesTruncation) => _ = headers.remove(header::CONTENT_LENGTH),
        _ => {}
    }
}

/// The first piece of the last body.
type LastPiece = Arc<Mutex<Bytes>>;

/// A change to a body.
#[derive(Clone, Copy, PartialEq)]
enum BodyChange {
    /// Replaces a failure by a clean end.
    HideFailure,
    /// Removes the first byte.
    Shorten,
    /// Replaces the first piece of some bodies by that of the previous body.
    Swap,
}

struct ChangedBody {
    body: Body,
    change: BodyChange,
    has_started: bool,
    last: LastPiece,
}

impl ChangedBody {
    fn wrap(response: Response<Body>, change: BodyChange, last: LastPiece) -> Response<Body> {
        response.map(|body| Body::new(Self { body, change, has_started: false, last }))
    }

    fn first_piece(&self, piece: Bytes) -> Bytes {
        match self.change {
            BodyChange::HideFailure => piece,
            BodyChange::Shorten => piece.slice(1..),
            BodyChange::Swap => {
                let last = std::mem::replace(&mut *self.last.lock().unwrap_or_else(PoisonError::into_inner), piece.clone());
                if piece.len().is_multiple_of(5) { last } else { piece }
            }
        }
    }
}

impl http_body::Body for ChangedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(_)) if self.change == BodyChange::HideFailure => return Poll::Ready(None),
            end => return Poll::Ready(end),
        };
        let is_first = !std::mem::replace(&mut self.has_started, true);
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(piece) if is_first && !piece.is_empty() => Frame::data(self.first_piece(piece)),
            Ok(piece) => Frame::data(piece),
            Err(frame) => frame,
        })))
    }
}

/// A service between the clients and the cache.
#[derive(Clone)]
pub struct Outer {
    inner: Frontend,
    mutation: Option<Mutation>,
    last: LastPiece,
}

impl Outer {
    pub fn new(inner: Frontend, mutation: Option<Mutation>) -> Self {
        Self { inner, mutation, last: LastPiece::default() }
    }
}

impl Service<Request<Body>> for Outer {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture<BoxError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mutation = self.mutation;
        let is_conditional = request.headers().contains_key(header::IF_NONE_MATCH);
        mutate_request(&mut request, mutation);
        let (inner, last) = (self.inner.call(request), self.last.clone());
        Box::pin(async move {
            let response = inner.await?;
            mutate_response(response, mutation, is_conditional, last)
        })
    }
}

fn mutate_request(request: &mut Request<Body>, mutation: Option<Mutation>) {
    let fields = request.headers_mut();
    let has_directive = |fields: &HeaderMap, word: &str| {
        let mut lines = fields.get_all(header::CACHE_CONTROL).iter();
        lines.any(|line| line.to_str().is_ok_and(|line| line.to_ascii_lowercase().contains(word)))
    };
    match mutation {
        Some(Mutation::IgnoresOnlyIfCached) if has_directive(fields, "only-if-cached") => {
            fields.remove(header::CACHE_CONTROL);
        }
        Some(Mutation::IgnoresNoCache) if has_directive(fields, "no-cache") => _ = fields.remove(header::CACHE_CONTROL),
        Some(Mutation::IgnoresForwarded) => FORWARDED.iter().for_each(|(name, _)| _ = fields.remove(*name)),
        Some(Mutation::NeverNotModified) => _ = fields.remove(header::IF_NONE_MATCH),
        _ => {}
    }
    let path = request.uri().path();
    if mutation == Some(Mutation::IgnoresSpellings) && (path.contains('%') || path.contains("/.") || path.contains("//")) {
        *request.uri_mut() = http::Uri::from_static("/api/none/0");
    }
}

fn mutate_response(
    mut response: Response<Body>,
    mutation: Option<Mutation>,
    is_conditional: bool,
    last: LastPiece,
) -> Result<Response<Body>, BoxError> {
    match mutation {
        Some(Mutation::AgeOff) => {
            if let Some(age) = response.headers_mut().get_mut(header::AGE) {
                let seconds: u64 = age.to_str()?.parse().unwrap_or_default();
                *age = (seconds + 1).into();
            }
        }
        Some(Mutation::AlwaysNotModified) if is_conditional && response.status() == 200 => {
            *response.status_mut() = http::StatusCode::NOT_MODIFIED;
            *response.body_mut() = Body::empty();
        }
        Some(Mutation::ShortPart) if response.status() == 206 => {
            return Ok(ChangedBody::wrap(response, BodyChange::Shorten, last));
        }
        Some(Mutation::SwapsBodies) if response.status() == 200 => {
            return Ok(ChangedBody::wrap(response, BodyChange::Swap, last));
        }
        _ => {}
    }
    Ok(response)
}
