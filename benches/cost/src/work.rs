//! The common workload: one request, one response, and a function that sends the request.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body::Body;
use http_body_util::{Empty, Full};
use tower::Service;

/// The fields that a browser sends with a request for an item.
static REQUEST_FIELDS: [(HeaderName, HeaderValue); 8] = [
    (header::HOST, HeaderValue::from_static("api.example.com")),
    (header::USER_AGENT, HeaderValue::from_static("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")),
    (header::ACCEPT, HeaderValue::from_static("application/json,text/html;q=0.9,*/*;q=0.8")),
    (header::ACCEPT_LANGUAGE, HeaderValue::from_static("en-US,en;q=0.7,de;q=0.3")),
    (header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate, br, zstd")),
    (header::REFERER, HeaderValue::from_static("https://www.example.com/items")),
    (header::CONNECTION, HeaderValue::from_static("keep-alive")),
    (header::DNT, HeaderValue::from_static("1")),
];

/// The fields of the inner service's response.
static RESPONSE_FIELDS: [(HeaderName, HeaderValue); 6] = [
    (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
    (header::CACHE_CONTROL, HeaderValue::from_static("max-age=60")),
    (header::ETAG, HeaderValue::from_static("\"5f3a9c0b7d21\"")),
    (header::LAST_MODIFIED, HeaderValue::from_static("Mon, 02 Jun 2025 08:00:00 GMT")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::SERVER, HeaderValue::from_static("items/1.4")),
];

/// Creates a request for this target.
pub fn request(uri: Uri) -> Request<Empty<Bytes>> {
    let mut headers = HeaderMap::with_capacity(REQUEST_FIELDS.len());
    for (name, value) in &REQUEST_FIELDS {
        headers.insert(name, value.clone());
    }
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request
}

/// Returns the target of the repeated request.
pub fn item() -> Uri {
    Uri::from_static("/items/42?page=3&sort=asc")
}

/// Returns the target of another item.
pub fn nth_item(n: u64) -> Uri {
    format!("/items/{n}?page=3&sort=asc").try_into().expect("a target")
}

/// Returns the item's request as forwarded by a load balancer.
pub fn forwarded() -> Request<Empty<Bytes>> {
    with_fields([("x-forwarded-for", "192.0.2.60"), ("x-forwarded-proto", "https"), ("x-forwarded-port", "443")])
}

/// Returns the item's request with the `ETag` of the response in `If-None-Match`.
pub fn conditional() -> Request<Empty<Bytes>> {
    with_fields([("if-none-match", "\"5f3a9c0b7d21\"")])
}

/// Returns the item's request with a bearer token.
pub fn authorized() -> Request<Empty<Bytes>> {
    with_fields([("authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.V0a1t0kZ9yq3jX")])
}

/// Returns the item's request with another method.
pub fn with_method(method: Method) -> Request<Empty<Bytes>> {
    let mut request = request(item());
    *request.method_mut() = method;
    request
}

/// Returns a write to the item.
pub fn post() -> Request<Empty<Bytes>> {
    with_method(Method::POST)
}

/// Returns a request to the quickstart of README.md.
pub fn table() -> Request<Empty<Bytes>> {
    request(Uri::from_static("/tables/orders?page=3&sort=a"))
}

/// Returns a request that no rule covers.
pub fn uncovered() -> Request<Empty<Bytes>> {
    request(Uri::from_static("/other/42?page=3&sort=asc"))
}

/// Returns a request that no rule covers, although its path begins like those of the rules.
pub fn uncovered_nested() -> Request<Empty<Bytes>> {
    request(Uri::from_static("/api/other/42?page=3&sort=asc"))
}

fn with_fields<const N: usize>(fields: [(&'static str, &'static str); N]) -> Request<Empty<Bytes>> {
    let mut request = request(item());
    for (name, value) in fields {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    request
}

/// A service that computes responses.
pub trait Respond {
    /// Computes a response.
    fn respond(&self) -> Response<Full<Bytes>>;
}

/// An inner service that responds at once, with six fields and a complete body.
#[derive(Debug, Clone)]
pub struct Origin {
    body: Bytes,
    varies: bool,
    own_bodies: bool,
}

impl Origin {
    /// Creates a service whose body has this number of bytes.
    pub fn of(bytes: usize) -> Self {
        Self { body: vec![b'7'; bytes].into(), varies: false, own_bodies: false }
    }

    /// Replaces the fifth field by `Vary: accept-encoding`.
    pub fn varying(self) -> Self {
        Self { varies: true, ..self }
    }

    /// Gives each response a body of its own, so that each entry has the memory of its body.
    pub fn own_bodies(self) -> Self {
        Self { own_bodies: true, ..self }
    }

    /// Computes the response.
    pub fn respond(&self) -> Response<Full<Bytes>> {
        let mut headers = HeaderMap::with_capacity(RESPONSE_FIELDS.len());
        for (name, value) in &RESPONSE_FIELDS {
            headers.insert(name, value.clone());
        }
        if self.varies {
            headers.remove(header::X_CONTENT_TYPE_OPTIONS);
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        let body = if self.own_bodies { Bytes::copy_from_slice(&self.body) } else { self.body.clone() };
        let mut response = Response::new(Full::new(body));
        *response.headers_mut() = headers;
        response
    }
}

impl Respond for Origin {
    fn respond(&self) -> Response<Full<Bytes>> {
        Self::respond(self)
    }
}

impl<B> Service<Request<B>> for Origin {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(self.respond()))
    }
}

/// A service that does nothing. Its cost is subtracted from every figure.
#[derive(Debug, Clone)]
pub struct EmptyService;

impl<B> Service<Request<B>> for EmptyService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(Response::new(Full::default())))
    }
}

/// Sends one request through a service that responds at once, and reads the body to its end. Returns the length of the body.
pub fn send_ready<S, R, B>(service: &mut S, request: Request<R>) -> usize
where
    S: Service<Request<R>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(service.poll_ready(cx).is_ready());
    let Poll::Ready(Ok(response)) = pin!(service.call(black_box(request))).poll(cx) else {
        panic!("the service was not ready at once")
    };
    let (parts, body) = response.into_parts();
    black_box(&parts);
    let mut body = pin!(body);
    let mut read = 0;
    while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(cx) {
        read += black_box(frame).into_data().map_or(0, |data| data.len());
    }
    read
}
