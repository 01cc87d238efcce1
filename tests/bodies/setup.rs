//! Layers, responses and results that the tests of bodies share.

use std::{fmt::Debug, future::Future, pin::Pin};

use crate::common::*;
use bytes::Bytes;
use http::{Response, header};
use http_body::Body;
use tower_response_cache::{
    BoxError, CacheLayer, CacheStatus, Memory, Outcome, Rule, Store,
    status::{NoStore, StatusBody, Storing},
};

/// Returns a layer with one rule, and its store.
pub(crate) fn caching(rule: Rule) -> (Memory, CacheLayer) {
    let store = Memory::new(16 << 20);
    (store.clone(), CacheLayer::new(store).rules(one_rule(rule)))
}

/// Returns a layer that stores everything for a minute, and its store.
pub(crate) fn minute() -> (Memory, CacheLayer) {
    caching(Rule::ttl(MINUTE))
}

/// Returns a response whose `Content-Length` is the given length.
pub(crate) fn with_length<B>(body: B, length: Option<u64>) -> Response<B> {
    let mut response = Response::new(body);
    if let Some(length) = length {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

/// Returns whether a response of the inner service is stored.
pub(crate) fn storing<B: StatusBody>(response: &Response<B>) -> Storing {
    let status = CacheStatus::of(response).expect("a rule covers the request");
    status.stored().expect("the inner service was called")
}

/// Reads a body to its end. Returns the text, and the text of the error at its end.
pub(crate) async fn read_to_end<B>(response: Response<B>) -> (String, Option<String>)
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let mut body = opened(response);
    let mut all = String::new();
    while let Some(next) = piece(&mut body).await {
        match next {
            Ok(data) => all += &data,
            Err(error) => return (all, Some(error)),
        }
    }
    (all, None)
}

/// Checks that two followers share a running body that has begun with `one`, and returns their bodies.
pub(crate) async fn shared_bodies<F, B, E>(followers: [F; 2]) -> Vec<Pin<Box<B>>>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: StatusBody + Body<Data = Bytes, Error: Into<BoxError>>,
    E: Debug,
{
    let mut bodies = Vec::new();
    for follower in followers {
        let response = within(follower).await.unwrap();
        assert_eq!(outcome(&response), Outcome::Collapsed);
        let mut body = opened(response);
        assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "one");
        bodies.push(body);
    }
    bodies
}

/// Returns the number of responses that were not stored for a reason.
pub(crate) fn not_stored(store: &Memory, reason: NoStore) -> u64 {
    store.stats().not_stored.iter().find(|(counted, _)| *counted == reason).expect("every reason is listed").1
}
