//! The work on which everything is measured: one request, one response, and how they are driven.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header};
use http_body::Body;
use http_body_util::{Empty, Full};
use tower_service::Service;

/// What a browser sends with a request for an item.
static ASKED: [(HeaderName, HeaderValue); 8] = [
    (header::HOST, HeaderValue::from_static("api.example.com")),
    (header::USER_AGENT, HeaderValue::from_static("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")),
    (header::ACCEPT, HeaderValue::from_static("application/json,text/html;q=0.9,*/*;q=0.8")),
    (header::ACCEPT_LANGUAGE, HeaderValue::from_static("en-US,en;q=0.7,de;q=0.3")),
    (header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate, br, zstd")),
    (header::REFERER, HeaderValue::from_static("https://www.example.com/items")),
    (header::CONNECTION, HeaderValue::from_static("keep-alive")),
    (header::DNT, HeaderValue::from_static("1")),
];

/// What the inner service answers with.
static ANSWERED: [(HeaderName, HeaderValue); 6] = [
    (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
    (header::CACHE_CONTROL, HeaderValue::from_static("max-age=60")),
    (header::ETAG, HeaderValue::from_static("\"5f3a9c0b7d21\"")),
    (header::LAST_MODIFIED, HeaderValue::from_static("Mon, 02 Jun 2025 08:00:00 GMT")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::SERVER, HeaderValue::from_static("items/1.4")),
];

/// A request as all of them are, to this target.
pub fn request(uri: Uri) -> Request<Empty<Bytes>> {
    let mut headers = HeaderMap::with_capacity(ASKED.len());
    for (name, value) in &ASKED {
        headers.insert(name, value.clone());
    }
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request
}

/// The target of the request that is asked again and again.
pub fn item() -> Uri {
    Uri::from_static("/items/42?page=3&sort=asc")
}

/// A target that was never asked for.
pub fn fresh_item(n: u64) -> Uri {
    format!("/items/{n}?page=3&sort=asc").try_into().expect("a target")
}

/// What computes responses.
pub trait Respond {
    /// One of them.
    fn respond(&self) -> Response<Full<Bytes>>;
}

/// An inner service that answers at once: six fields, and a body that is there.
#[derive(Debug, Clone)]
pub struct Origin {
    body: Bytes,
    varies: bool,
}

impl Origin {
    /// One that answers with so many bytes.
    pub fn of(bytes: usize) -> Self {
        Self { body: vec![b'7'; bytes].into(), varies: false }
    }

    /// The same, where the fifth field says that responses vary by `Accept-Encoding`.
    pub fn varying(self) -> Self {
        Self { varies: true, ..self }
    }

    /// The response that is computed.
    pub fn respond(&self) -> Response<Full<Bytes>> {
        let mut headers = HeaderMap::with_capacity(ANSWERED.len());
        for (name, value) in &ANSWERED {
            headers.insert(name, value.clone());
        }
        if self.varies {
            headers.remove(header::X_CONTENT_TYPE_OPTIONS);
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        let mut response = Response::new(Full::new(self.body.clone()));
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

/// A service that does nothing: what is subtracted from every figure.
#[derive(Debug, Clone)]
pub struct Nothing;

impl<B> Service<Request<B>> for Nothing {
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

/// Sends one request through a service that answers at once, and reads the body to its end. Returns the bytes read.
pub fn drive<S, R, B>(service: &mut S, request: Request<R>) -> usize
where
    S: Service<Request<R>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(service.poll_ready(cx).is_ready());
    let Poll::Ready(Ok(response)) = pin!(service.call(black_box(request))).poll(cx) else {
        panic!("the service did not answer at once")
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
