//! Closures over messages, and header fields: namespaces and lifetimes from requests and responses.

#[path = "../common/mod.rs"]
mod common;

mod fields;
#[cfg(feature = "json")]
mod json;
#[cfg(feature = "prost")]
mod protobuf;
mod reads;
mod writes;

use std::{convert::Infallible, sync::atomic::Ordering};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt, combinators::BoxBody};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_response_cache::{
    CacheStatus, Memory, Namespace, Outcome, ResponseCache, Rules,
    request_body::ReadBody,
    status::{NoStore, Storing},
};

use crate::common::{app::answering, *};

type Boxed = BoxBody<Bytes, Infallible>;

const GRPC: &str = "application/grpc";

/// A service behind both layers.
type App = common::app::App<Boxed>;

impl App {
    /// Returns a service that answers each call by a closure over the content and the number of the call.
    fn new<F>(rules: Rules, answer: F) -> Self
    where
        F: Fn(&str, usize) -> Response<Boxed> + Clone + Send + Sync + 'static,
    {
        Self::around(ResponseCache::new(Memory::default()).rules(rules), answer)
    }
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
