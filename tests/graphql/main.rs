//! GraphQL in the cache: queries by GET and POST, and mutations as writes.

#[path = "../common/mod.rs"]
mod common;

mod entities;
mod keys;
mod persisted;
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
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneService};
use tower_response_cache::{
    CacheBody, CacheStatus, Memory, Outcome, ResponseCache, Rule,
    invalidate::InvalidateBody,
    request_body::ReadBody,
    status::{Bypass, NoStore, Storing},
};

use crate::common::*;

type Served = Response<InvalidateBody<CacheBody<Plain>>>;

const NOTES: &str = "query Notes { notes { text } }";
const ADD: &str = "mutation Add { add { text } }";

/// A server of GraphQL behind both layers.
struct App {
    cache: ResponseCache,
    service: BoxCloneService<Request<Plain>, Served, Infallible>,
    calls: Arc<AtomicUsize>,
}

impl App {
    /// Returns a server that answers each call with its number.
    fn new(rule: Rule) -> Self {
        Self::answering(rule, |_, call| reply(&json!({ "data": { "call": call } })))
    }

    /// Returns a server that answers each call with what a closure makes of its content and its number.
    fn answering<F>(rule: Rule, answer: F) -> Self
    where
        F: Fn(&str, usize) -> Response<Plain> + Clone + Send + Sync + 'static,
    {
        let cache = ResponseCache::new(Memory::default()).route("/graphql", rule);
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = calls.clone();
        let inner = service_fn(move |request: Request<ReadBody<Plain>>| {
            let (answer, call) = (answer.clone(), counter.fetch_add(1, Ordering::SeqCst) + 1);
            async move {
                let content = request.into_body().collect().await.expect("content").to_bytes();
                Ok::<_, Infallible>(answer(&String::from_utf8_lossy(&content), call))
            }
        });
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

    async fn is_hit(&self, request: Request<Plain>) -> bool {
        self.read(request).await.0 == Outcome::Hit
    }

    /// Returns the reason for which a request bypasses the cache.
    async fn bypass(&self, request: Request<Plain>) -> Option<Bypass> {
        match self.read(request).await.0 {
            Outcome::Bypass(reason) => Some(reason),
            _ => None,
        }
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

fn rule() -> Rule {
    Rule::graphql(MINUTE).namespace("notes")
}

fn reply(content: &Value) -> Response<Plain> {
    reply_of("application/json", content.to_string())
}

fn reply_of(kind: &str, content: impl Into<Bytes>) -> Response<Plain> {
    let mut response = ok(content);
    response.headers_mut().insert(header::CONTENT_TYPE, kind.parse().expect("a content type"));
    response
}

fn by_post(content: impl Into<Bytes>) -> Request<Plain> {
    let request = Request::post("/graphql").header(header::CONTENT_TYPE, "application/json");
    request.body(Plain::new(content.into())).expect("a request")
}

fn post_json(content: &Value) -> Request<Plain> {
    by_post(content.to_string())
}

/// Returns a POST of a document without parameters.
fn query(document: &str) -> Request<Plain> {
    post_json(&json!({ "query": document }))
}

/// Returns a GET with these parameters, encoded.
fn by_get(params: &[(&str, &str)]) -> Request<Plain> {
    let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let pairs: Vec<_> = params.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    get(&format!("/graphql?{}", pairs.join("&")))
}
