//! Layers, stores and requests that the tests of request coalescing share.

use crate::common::*;
use http::Request;
use tower_response_cache::{CacheLayer, Clock, Memory, Rule};

/// Number of concurrent requests for one key.
pub(crate) const CROWD: usize = 1000;

pub(crate) fn memory() -> Memory {
    Memory::new(16 << 20)
}

/// Returns a layer with one rule, whose namespace is `table:{table}`.
pub(crate) fn layer(store: &Memory, rule: Rule) -> CacheLayer {
    CacheLayer::new(store.clone()).rules(one_rule(rule.namespace("table:{table}")))
}

/// Returns a store with a clock that the test advances.
pub(crate) fn with_manual_clock() -> (Memory, Clock) {
    let clock = Clock::manual();
    (Memory::builder().capacity(16 << 20).clock(clock.clone()).build(), clock)
}

/// Returns a GET of a user.
pub(crate) fn of_user(target: &str, user: usize) -> Request<Plain> {
    Request::get(target).header("x-user", user).body(Plain::default()).expect("a valid request")
}

/// Returns the user of a request.
pub(crate) fn user(request: &Request<Plain>) -> String {
    request.headers().get("x-user").expect("every request names its user").to_str().expect("text").to_owned()
}
