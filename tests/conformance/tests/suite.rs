//! Each case to the bare service, and through both layers of the cache, cold and warm: the responses are equal bit for bit.
//! Only a GET from the cache has an `Age` more.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody, combinators::UnsyncBoxBody};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneService};
use tower_response_cache::{CacheStatus, KeyExtractor, Memory, Outcome, ResponseCache, RouteAndQuery, Rule, key::Headers};
use tower_response_cache_conformance::{
    cases::{Cached, Case, cases},
    service::service,
    wire::forms,
};

const MINUTE: Duration = Duration::from_secs(60);

type Chunks = UnsyncBoxBody<Bytes, Infallible>;
type BodyError = Box<dyn std::error::Error + Send + Sync>;
type Service = BoxCloneService<Request<Chunks>, (Response<UnsyncBoxBody<Bytes, BodyError>>, Option<Outcome>), Infallible>;

/// All of a response that a client can see.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: StatusCode,
    version: Version,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

/// Sends a request whose body arrives in chunks of this size. Returns its response and its outcome in the cache.
async fn send(service: &Service, request: &Request<Bytes>, chunk: usize) -> (Seen, Option<Outcome>) {
    let chunks: Vec<_> = request.body().chunks(chunk).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
    let body = match chunks.is_empty() {
        true => Empty::new().boxed_unsync(),
        false => StreamBody::new(stream::iter(chunks)).boxed_unsync(),
    };
    let request = request.clone().map(|_| body);
    let (response, outcome) = service.clone().oneshot(request).await.expect("a response");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a complete body");
    let trailers = body.trailers().cloned();
    let seen = Seen { status: head.status, version: head.version, headers: head.headers, body: body.to_bytes(), trailers };
    (seen, outcome)
}

/// Returns the bare service, and the service behind both layers of a cache.
fn services(calls: &Arc<AtomicUsize>, cache: &ResponseCache) -> (Service, Service) {
    let bare = ServiceExt::<Request<Chunks>>::map_response(service(calls), |response| {
        (response.map(|body| body.map_err(Into::into).boxed_unsync()), None)
    });
    let cached = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(service(calls));
    let cached = ServiceExt::<Request<Chunks>>::map_response(cached, |response| {
        let outcome = CacheStatus::of(&response).map(|status| status.outcome());
        (response.map(|body| body.boxed_unsync()), outcome)
    });
    (BoxCloneService::new(bare), BoxCloneService::new(cached))
}

fn rule() -> Rule {
    Rule::rpc(MINUTE).key(RouteAndQuery.query_as_sent().and(Headers::new(["x-conformance-test", "x-conformance-bin"])))
}

/// A rule that stores all errors.
fn rule_with_errors() -> Rule {
    let rule = (1..=16).fold(rule(), |rule, code| rule.rpc_status(code, MINUTE));
    let statuses = [400, 401, 403, 404, 408, 409, 413, 415, 429, 499, 500, 501, 503, 504];
    statuses.into_iter().fold(rule, |rule, status| rule.status(StatusCode::from_u16(status).expect("a status"), MINUTE))
}

/// Sends all cases of all forms to the bare service, and twice through one cache that all of them share.
async fn compare(rules: impl Fn(ResponseCache) -> ResponseCache, stores: Stores, chunk: usize) {
    let calls = Arc::new(AtomicUsize::new(0));
    let cache = rules(ResponseCache::new(Memory::new(256 << 20)));
    let (bare, cached) = services(&calls, &cache);
    let all: Vec<_> = forms().into_iter().flat_map(|form| cases(form).into_iter().map(move |case| (form, case))).collect();
    let (mut failures, mut hits) = (Vec::new(), 0);
    for round in ["cold", "warm"] {
        for (form, Case { name, request, cached: expected }) in &all {
            let (want, _) = send(&bare, request, chunk).await;
            assert_eq!(want, send(&bare, request, chunk).await.0, "{name} by {form:?} has no fixed response");
            let before = calls.load(Ordering::SeqCst);
            let (mut got, outcome) = send(&cached, request, chunk).await;
            let name = format!("{name}, {round}, {outcome:?}, by {form:?}");
            let is_hit = outcome == Some(Outcome::Hit);
            if is_hit && request.method() == Method::GET {
                // RFC 9111, section 5.1, which the cache follows for GET.
                assert!(got.headers.remove("age").is_some(), "{name}");
            }
            if want != got {
                failures.push(format!("{name} differs:\n  bare   {want:?}\n  cached {got:?}"));
            }
            if is_hit && calls.load(Ordering::SeqCst) != before {
                failures.push(format!("{name}: a hit has called the method"));
            }
            let may_be_hit = match expected {
                Cached::Always => true,
                Cached::WithErrors => stores.errors,
                Cached::Never => false,
                Cached::AsUnary => is_hit && stores.streams,
                Cached::Any => is_hit,
            };
            if round == "warm" && is_hit != may_be_hit {
                failures.push(format!("{name}: a hit was {}expected", if may_be_hit { "" } else { "not " }));
            }
            hits += usize::from(is_hit);
        }
    }
    println!("{} cases, {hits} hits", all.len());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures[..failures.len().min(20)].join("\n"));
}

/// What the rules let the cache store.
#[derive(Default)]
struct Stores {
    errors: bool,
    streams: bool,
}

const UNARY: [&str; 3] = ["Unary", "Idempotent", "Unimplemented"];

fn on_unary_methods(rule: impl Fn() -> Rule) -> impl Fn(ResponseCache) -> ResponseCache {
    move |cache| {
        UNARY.into_iter().fold(cache, |cache, method| cache.route(&format!("/conformance.v1.Service/{method}"), rule()))
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_differs_with_a_rule_on_the_unary_methods() {
    compare(on_unary_methods(rule), Stores::default(), usize::MAX).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_differs_if_errors_are_stored() {
    compare(on_unary_methods(rule_with_errors), Stores { errors: true, streams: false }, usize::MAX).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_differs_if_requests_arrive_in_pieces() {
    compare(on_unary_methods(rule), Stores::default(), 1000).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_differs_if_the_pattern_covers_streams() {
    compare(
        |cache| cache.route("/conformance.v1.Service/{method}", rule()),
        Stores { errors: false, streams: true },
        usize::MAX,
    )
    .await;
}
