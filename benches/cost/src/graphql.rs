//! Queries of GraphQL by POST.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::Full;
use tower::{Service, ServiceBuilder};
use tower_response_cache::{CacheLayer, Memory, RequestBodyLayer, Rule};

use crate::{calls::Call, grpc, setup, work::EmptyService};

const PATH: &str = "/graphql";

/// The fields that a client sends with a query.
const FIELDS: [(&str, &str); 3] =
    [("content-type", "application/json"), ("accept", "application/json"), ("user-agent", "client/1.0")];

const QUERY: &str =
    r#"{"query":"query Item($id: ID!) { item(id: $id) { id name } }","operationName":"Item","variables":{"id":"12345678"}}"#;

fn query() -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::from(QUERY));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(PATH);
    let headers = request.headers_mut();
    headers.reserve(FIELDS.len());
    for (name, value) in FIELDS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    request
}

/// A server that responds at once with 1 KiB.
#[derive(Debug, Clone)]
struct Server;

impl<B> Service<Request<B>> for Server {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        drop(black_box(request));
        let name = "7".repeat(1024 - r#"{"data":{"item":{"id":"12345678","name":""}}}"#.len());
        let mut response = Response::new(Full::from(format!(r#"{{"data":{{"item":{{"id":"12345678","name":"{name}"}}}}}}"#)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        ready(Ok(response))
    }
}

/// Repeats a query whose response is stored, with the layer that reads its content.
pub fn hit() -> Call {
    let rule = Rule::graphql(Duration::from_secs(60)).namespace("items");
    let rules = setup::rules(setup::minute_rule()).route(PATH, rule);
    let service = ServiceBuilder::new()
        .layer(RequestBodyLayer::new(rules.clone()))
        .layer(CacheLayer::new(setup::Store::from(Memory::new(256 << 20))).rules(rules))
        .service(Server);
    grpc::repeat(service, query)
}

/// Repeats a query through a service that does nothing.
pub fn empty() -> Call {
    grpc::repeat(EmptyService, query)
}
