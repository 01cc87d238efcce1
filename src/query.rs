//! QUERY requests, whose content is part of the key. The content is read before the request reaches the cache, and passed on.

use std::{
    collections::VecDeque,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, header};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tower::{Layer, Service};

use crate::{
    key::{KeyWriter, RequestView, Tag},
    ready::take_ready,
};

/// Reads the content of QUERY requests, so that a [`CacheLayer`](crate::CacheLayer) inside this layer can answer them. Two QUERY requests
/// share a response if their content is equal byte for byte, their `Content-Type`, `Content-Encoding` and `Content-Language` are equal, and
/// two GETs with the same heads would share one. An unsafe request to the same URI invalidates the responses to all of them.
///
/// Content is read up to a limit and then passed on. A QUERY with more content bypasses the cache, as every QUERY does without this layer.
/// Requests of other methods are not changed. The inner service gets a [`QueryBody`] and must accept it as the body of its requests. With
/// axum's `Router`, put both layers on the router, the cache first.
///
/// ```
/// use std::{convert::Infallible, time::Duration};
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_response_cache::{CacheLayer, Memory, QueryLayer, Rule, Rules, query::QueryBody};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let service = ServiceBuilder::new()
///     .layer(QueryLayer::new())
///     .layer(CacheLayer::new(Memory::new(1 << 20)).rule(Rule::ttl(Duration::from_secs(60))))
///     .service(service_fn(async |request: Request<QueryBody<Full<Bytes>>>| {
///         let asked = request.into_body().collect().await.unwrap().to_bytes();
///         Ok::<_, Infallible>(Response::new(Full::new(asked)))
///     }));
///
/// let query = |text| Request::builder().method("QUERY").uri("/rows").body(Full::<Bytes>::from(text)).unwrap();
/// for (text, outcome) in [("a > 1", "miss"), ("a > 1", "hit"), ("a > 2", "miss")] {
///     let response = service.clone().oneshot(query(text)).await.unwrap();
///     let status = response.extensions().get::<tower_response_cache::CacheStatus>().unwrap().outcome();
///     assert_eq!(status == tower_response_cache::Outcome::Hit, outcome == "hit");
///     assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), text);
/// }
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct QueryLayer {
    max: usize,
}

impl QueryLayer {
    /// Returns a layer that reads up to 64 KiB.
    pub fn new() -> Self {
        Self { max: 64 << 10 }
    }

    /// Sets the size of the largest content that is read, in bytes. Defaults to 64 KiB.
    pub fn max(mut self, bytes: usize) -> Self {
        self.max = bytes;
        self
    }
}

impl Default for QueryLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for QueryLayer {
    type Service = QueryService<S>;

    fn layer(&self, inner: S) -> QueryService<S> {
        QueryService { inner, max: self.max }
    }
}

/// The service of a [`QueryLayer`].
#[derive(Debug, Clone)]
pub struct QueryService<S> {
    inner: S,
    max: usize,
}

/// A boxed future, because the content has to be awaited.
type Answer<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl<S, B> Service<Request<B>> for QueryService<S>
where
    S: Service<Request<QueryBody<B>>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Response: 'static,
    S::Error: 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = QueryFuture<S::Future, S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if !is_query(request.method()) {
            return QueryFuture { state: State::Pass(self.inner.call(request.map(QueryBody::untouched))) };
        }
        let mut ready = take_ready(&mut self.inner);
        let max = self.max;
        let work: Answer<_, _> = Box::pin(async move {
            let (mut head, body) = request.into_parts();
            let body = QueryBody::read(body, max).await;
            if let Kind::Read { content, .. } = &body.kind {
                head.extensions.insert(KnownContent(content.clone().unwrap_or_default()));
            }
            ready.call(Request::from_parts(head, body)).await
        });
        QueryFuture { state: State::Read(work) }
    }
}

pub(crate) fn is_query(method: &Method) -> bool {
    method.as_str() == "QUERY"
}

/// The content of a request, stored in its extensions.
#[derive(Clone)]
struct KnownContent(Bytes);

/// Returns true if the whole content of a request is known.
pub(crate) fn is_known(extensions: &http::Extensions) -> bool {
    extensions.get::<KnownContent>().is_some()
}

/// Writes the content of a request and its describing fields to the key.
pub(crate) fn write(request: &RequestView<'_>, key: &mut KeyWriter<'_>) {
    let Some(KnownContent(content)) = request.extensions().get::<KnownContent>() else { return };
    // A hash, because the content may be long. Nobody can construct two contents with one hash.
    key.tagged(Tag::Content, blake3::hash(content).as_bytes());
    for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE] {
        for line in request.headers().get_all(&name) {
            key.tagged(Tag::HeaderValue, line.as_bytes());
        }
        key.tagged(Tag::Header, name.as_str().as_bytes());
    }
}

/// The future of a [`QueryService`].
#[pin_project]
pub struct QueryFuture<F, T, E> {
    #[pin]
    state: State<F, T, E>,
}

#[pin_project(project = StateProj)]
enum State<F, T, E> {
    Pass(#[pin] F),
    Read(Answer<T, E>),
}

impl<F: Future<Output = Result<T, E>>, T, E> Future for QueryFuture<F, T, E> {
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T, E>> {
        match self.project().state.project() {
            StateProj::Pass(inner) => inner.poll(cx),
            StateProj::Read(work) => work.as_mut().poll(cx),
        }
    }
}

impl<F, T, E> fmt::Debug for QueryFuture<F, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QueryFuture")
    }
}

/// The body of a request after a [`QueryLayer`]: unread, or read in part or in full. Its data are [`Bytes`]. Trailers are kept.
#[pin_project]
pub struct QueryBody<B: Body> {
    #[pin]
    kind: Kind<B>,
}

#[pin_project(project = KindProj)]
enum Kind<B: Body> {
    // Not read.
    Untouched(#[pin] B),
    // Read in full.
    Read { content: Option<Bytes>, trailers: Option<HeaderMap> },
    // Too long or failed: the chunks that were read, the error, and the rest of the body.
    Partial { read: VecDeque<Bytes>, end: Option<B::Error>, body: Pin<Box<B>> },
}

impl<B: Body> QueryBody<B> {
    fn untouched(body: B) -> Self {
        Self { kind: Kind::Untouched(body) }
    }

    async fn read(body: B, max: usize) -> Self {
        let mut body = Box::pin(body);
        let (mut read, mut len, mut trailers) = (VecDeque::new(), 0, None);
        let partial = |read, end, body| Self { kind: Kind::Partial { read, end, body } };
        if body.size_hint().lower() > max as u64 {
            return partial(read, None, body);
        }
        while !body.is_end_stream() {
            let frame = match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                None => break,
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return partial(read, Some(error), body),
            };
            match frame.into_data() {
                Ok(mut data) => {
                    len += data.remaining();
                    read.push_back(data.copy_to_bytes(data.remaining()));
                    if len > max {
                        return partial(read, None, body);
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
            }
        }
        let content = match read.len() {
            0 | 1 => read.pop_front(),
            _ => {
                let mut all = BytesMut::with_capacity(len);
                read.iter().for_each(|piece| all.extend_from_slice(piece));
                Some(all.freeze())
            }
        };
        Self { kind: Kind::Read { content: content.filter(|content| !content.is_empty()), trailers } }
    }
}

impl<B: Body> Body for QueryBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let to_bytes = |frame: Frame<B::Data>| frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
        match self.project().kind.project() {
            KindProj::Untouched(body) => body.poll_frame(cx).map_ok(to_bytes),
            KindProj::Read { content, trailers } => {
                let next = content.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(next.map(Ok))
            }
            KindProj::Partial { read, end, body } => match (read.pop_front(), end.take()) {
                (Some(data), broken) => {
                    *end = broken;
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                (None, Some(broken)) => Poll::Ready(Some(Err(broken))),
                (None, None) => body.as_mut().poll_frame(cx).map_ok(to_bytes),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched(body) => body.is_end_stream(),
            Kind::Read { content, trailers } => content.is_none() && trailers.is_none(),
            Kind::Partial { read, end, body } => read.is_empty() && end.is_none() && body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched(body) => body.size_hint(),
            Kind::Read { content, .. } => SizeHint::with_exact(content.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Partial { read, body, .. } => {
                let (before, rest) = (read.iter().map(Bytes::len).sum::<usize>() as u64, body.size_hint());
                let mut hint = SizeHint::new();
                hint.set_lower(before + rest.lower());
                if let Some(upper) = rest.upper() {
                    hint.set_upper(before + upper);
                }
                hint
            }
        }
    }
}

impl<B: Body> fmt::Debug for QueryBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QueryBody")
    }
}
