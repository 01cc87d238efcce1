//! Audits and shadow mode: stored responses that are compared with fresh ones.

#[path = "../common/mod.rs"]
mod common;

mod coverage;
mod limits;
#[cfg(feature = "dashboard")]
mod reports;
mod shadow;
#[cfg(feature = "redis")]
mod shared;
mod verdicts;
mod writes;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use common::*;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use tower::Service;
use tower_response_cache::{
    CacheLayer, Memory, Rule, Store,
    stats::{AuditResult, Difference, RouteStats},
};

/// An inner service whose response the test sets. A write sets its content.
#[derive(Clone, Default)]
struct Origin(Arc<Mutex<(String, HeaderMap, usize)>>);

impl Origin {
    fn new(content: &str) -> Self {
        let origin = Self::default();
        origin.set(content);
        origin
    }

    /// Changes the content without a request.
    fn set(&self, content: &str) {
        self.0.lock().unwrap().0 = content.to_owned();
    }

    fn set_field(&self, name: &'static str, value: &'static str) {
        self.0.lock().unwrap().1.insert(name, value.parse().unwrap());
    }

    /// Returns the number of calls.
    fn calls(&self) -> usize {
        self.0.lock().unwrap().2
    }

    fn respond(&self) -> Response<Plain> {
        let mut state = self.0.lock().unwrap();
        state.2 += 1;
        let mut response = ok(state.0.clone());
        *response.headers_mut() = state.1.clone();
        response
    }

    /// Returns the service.
    fn service(
        &self,
    ) -> impl Service<
        Request<Plain>,
        Response = Response<Plain>,
        Error = Infallible,
        Future = std::future::Ready<Result<Response<Plain>, Infallible>>,
    > + Clone
    + Send
    + use<> {
        let origin = self.clone();
        tower::service_fn(move |_| std::future::ready(Ok(origin.respond())))
    }
}

/// Returns a rule that audits every hit.
fn audited() -> Rule {
    Rule::ttl(MINUTE).namespace("t:{table}").audit(1.0)
}

/// Returns a layer that repeats requests, without a pause after a difference.
fn layer<St: Store>(store: St, rule: Rule) -> CacheLayer<St> {
    CacheLayer::new(store).rules(one_rule(rule)).audit_body(Full::<Bytes>::new).audit_grace(Duration::ZERO)
}

fn memory() -> Memory {
    Memory::new(16 << 20)
}

fn route(store: &impl Store) -> RouteStats {
    store.stats().routes.into_iter().find(|route| route.route.is_some()).expect("a request of the route")
}

/// Waits until `count` audits have ended, and returns their results.
async fn audits(store: &impl Store, count: u64) -> Vec<(AuditResult, u64)> {
    let read = || route(store).audits;
    eventually(|| read().iter().map(|(_, count)| count).sum::<u64>() >= count).await;
    read()
}

fn differences(store: &impl Store) -> Vec<Difference> {
    route(store).audit_differences.into_iter().map(|(part, _)| part).collect()
}
