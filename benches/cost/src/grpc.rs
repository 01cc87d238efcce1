//! Unary calls by gRPC.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body::{Body, Frame};
use http_body_util::Full;
use tower::{Service, ServiceBuilder};
use tower_response_cache::{Memory, RequestBodyLayer, Rule, Rules};

use crate::{calls::Call, setup, work::send_ready};

const PATH: &str = "/items.v1.Items/Get";

/// The fields that a tonic client sends with a call.
const FIELDS: [(&str, &str); 4] =
    [("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "tonic/0.14.2"), ("grpc-timeout", "5S")];

/// Creates a call with a message of eight bytes.
fn call() -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::from(&b"\0\0\0\0\x0812345678"[..]));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(PATH);
    let headers = request.headers_mut();
    headers.reserve(FIELDS.len());
    for (name, value) in FIELDS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    request
}

/// A message of 1 KiB, and the trailers of a call that has succeeded.
#[derive(Debug)]
struct Message {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Body for Message {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.take().map(Frame::data);
        Poll::Ready(data.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }
}

/// A method that responds at once.
#[derive(Debug, Clone)]
struct Get;

impl<B> Service<Request<B>> for Get {
    type Response = Response<Message>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        drop(black_box(request));
        let mut frame = vec![b'7'; 1029];
        frame[..5].copy_from_slice(b"\0\0\0\x04\0");
        let status = (HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
        let mut response = Response::new(Message { data: Some(frame.into()), trailers: Some(HeaderMap::from_iter([status])) });
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        ready(Ok(response))
    }
}

/// Repeats a call whose response is stored, with the layer that reads its message.
pub fn hit() -> Call {
    let rules = rules();
    let service = ServiceBuilder::new()
        .layer(RequestBodyLayer::new(rules.clone()))
        .layer(tower_response_cache::CacheLayer::new(setup::Store::from(Memory::new(256 << 20))).rules(rules))
        .service(Get);
    repeat(service, call)
}

/// Repeats a call through a service that does nothing.
pub fn empty() -> Call {
    repeat(crate::work::EmptyService, call)
}

fn rules() -> Rules {
    setup::rules(setup::minute_rule()).route(PATH, Rule::rpc(std::time::Duration::from_secs(60)).namespace("items"))
}

/// Sends requests that differ in nothing.
pub fn repeat<S, B>(mut service: S, create: fn() -> Request<Full<Bytes>>) -> Call
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + 'static,
    B: Body<Data = Bytes>,
{
    for _ in 0..100 {
        send_ready(&mut service, create());
    }
    crate::calls::batched(service, create)
}
