//! GraphQL in the cache: queries by GET and POST, and mutations as writes.

#[path = "../common/mod.rs"]
mod common;

mod entities;
mod followers;
mod keys;
mod persisted;
mod reads;
mod writes;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use serde_json::{Value, json};
use tower::{ServiceBuilder, ServiceExt};
use tower_response_cache::{
    Memory, Outcome, ResponseCache, Rule,
    status::{Bypass, NoStore},
};

use crate::common::*;

const NOTES: &str = "query Notes { notes { text } }";
const ADD: &str = "mutation Add { add { text } }";

/// A server of GraphQL behind both layers.
type App = common::app::App<Plain>;

impl App {
    /// Returns a server that answers each call with its number.
    fn new(rule: Rule) -> Self {
        Self::answering(rule, |_, call| reply(&json!({ "data": { "call": call } })))
    }

    /// Returns a server that answers each call by a closure over the content and the number of the call.
    fn answering<F>(rule: Rule, answer: F) -> Self
    where
        F: Fn(&str, usize) -> Response<Plain> + Clone + Send + Sync + 'static,
    {
        Self::around(ResponseCache::new(Memory::default()).route("/graphql", rule), answer)
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
