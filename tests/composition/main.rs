//! The cache among other layers: over axum, beside those of tower and tower-http, and over real connections.

#[path = "../common/mod.rs"]
mod common;

mod axum_stack;
mod connections;
mod layered_twice;
mod services;
mod tower_http_layers;
mod tower_layers;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::body::Body as AxumBody;
use common::*;
use http::{Request, Response};
use tower::{Service, service_fn};
use tower_response_cache::{CacheLayer, Clock, Memory, Rule};

fn rule() -> Rule {
    Rule::ttl(MINUTE).namespace("table:{table}")
}

fn minute() -> CacheLayer {
    CacheLayer::new(Memory::new(16 << 20)).rules(one_rule(rule()))
}

fn with_clock(rule: Rule) -> (Clock, CacheLayer) {
    let clock = Clock::manual();
    let store = Memory::builder().capacity(16 << 20).clock(clock.clone()).build();
    (clock, CacheLayer::new(store).rules(one_rule(rule)))
}

fn from_axum(target: &str) -> Request<AxumBody> {
    Request::get(target).body(AxumBody::empty()).unwrap()
}

/// An extension of a request.
#[derive(Clone)]
struct Tenant(&'static str);

/// Returns an inner service that lets other tasks run before it responds, and the count of its calls.
fn yielding() -> (
    impl Service<Request<Plain>, Response = Response<Plain>, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static,
    Arc<AtomicUsize>,
) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let service = service_fn(move |request: Request<Plain>| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            Ok(ok(request.uri().to_string()))
        }
    });
    (service, calls)
}
