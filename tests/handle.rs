//! `ResponseCache`: the handle that an application keeps.

mod common;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body as AxumBody,
    extract::{Path, State},
    routing,
};
use common::*;
use http::{Method, Request, Response, StatusCode};
use tower::{Layer, Service, ServiceBuilder, service_fn};
use tower_response_cache::{
    AnyStore, CacheService, CacheStatus, Identity, InvalidateService, KeyExtractor, Memory, NoMatch, Outcome, ResponseCache,
    RouteAndQuery, Rule, Rules, Store, Switch,
    key::{Cookie, RequestView},
    status::{Bypass, Miss, StatusBody},
};

const ABSENT: Outcome = Outcome::Miss(Miss::Absent);

fn rule() -> Rule {
    Rule::ttl(MINUTE).namespace("db:{table}")
}

fn cache() -> ResponseCache {
    ResponseCache::new(Memory::default()).rules(one_rule(rule())).status_extension(true)
}

fn uri(target: &str) -> http::Uri {
    target.parse().expect("a URI")
}

/// Sends a GET and returns the outcome.
async fn read<S, R>(service: &S, target: &str) -> Outcome
where
    S: Service<Request<Plain>, Response = Response<R>, Error = Infallible> + Clone,
    R: StatusBody,
{
    outcome(&send(service, get(target)).await)
}

// ---- An application -----------------------------------------------------------------------------------------------------

async fn changed(State(cache): State<ResponseCache>, Path(table): Path<String>) -> StatusCode {
    match cache.invalidate([format!("db:{table}")]).await {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Returns an application whose tables have one row, and that row: the number of writes.
fn application(cache: ResponseCache) -> (Router, Arc<AtomicUsize>) {
    let row = Arc::new(AtomicUsize::new(1));
    let (reads, writes) = (row.clone(), row.clone());
    let read = move || async move { reads.load(Ordering::SeqCst).to_string() };
    let write = move || async move { writes.fetch_add(1, Ordering::SeqCst).to_string() };
    let router = Router::new()
        .route("/t/{table}", routing::get(read).post(write))
        .route("/changed/{table}", routing::post(changed))
        .layer(cache.layer())
        .with_state(cache);
    (router, row)
}

async fn ask(router: &Router, method: Method, target: &str) -> Response<AxumBody> {
    let request = Request::builder().method(method).uri(target).body(AxumBody::empty()).expect("a valid request");
    send(router, request).await
}

async fn row(router: &Router) -> (Outcome, String) {
    let response = ask(router, Method::GET, "/t/orders").await;
    (outcome_in_extension(&response).expect("a rule covers the request"), text(response).await)
}

async fn application_works(cache: ResponseCache) {
    let (router, table) = application(cache);
    assert_eq!(row(&router).await.1, "1");
    assert_eq!(row(&router).await, (Outcome::Hit, "1".into()));
    ask(&router, Method::POST, "/t/orders").await;
    assert_eq!(row(&router).await.1, "2", "the write through the layers");
    assert_eq!(row(&router).await, (Outcome::Hit, "2".into()));
    table.store(7, Ordering::SeqCst);
    let response = ask(&router, Method::POST, "/changed/orders").await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(row(&router).await.1, "7", "the invalidation by the handle");
}

#[tokio::test]
async fn application_works_over_memory() {
    application_works(cache()).await;
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn application_works_over_redis() {
    let server = common::redis::Server::start().await;
    let store = tower_response_cache::Redis::connect(&server.url()).await.expect("a store");
    application_works(ResponseCache::new(store).rules(one_rule(rule())).status_extension(true)).await;
}

// ---- Layers -------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn both_layers_fit_axum_and_tower() {
    let cache = cache();
    let route = routing::get(async || "rows").post(async || ()).layer(cache.layer());
    let app: Router = Router::new().route("/t/{table}", route);
    let get = || Request::get("/t/orders").body(AxumBody::empty()).expect("a valid request");
    assert_eq!(outcome_in_extension(&send(&app, get()).await), Some(ABSENT));
    assert_eq!(outcome_in_extension(&send(&app, get()).await), Some(Outcome::Hit));
    let service = ServiceBuilder::new().layer(cache.layer()).service(counting(|_, call| ok(call.to_string())).0);
    assert_eq!(read(&service, "/t/orders").await, Outcome::Hit, "both layers have one store");
}

#[tokio::test]
async fn invalidate_layer_is_outside_the_cache_layer() {
    let (inner, mut calls) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let service: InvalidateService<CacheService<_, AnyStore>, AnyStore> = cache().layer().layer(inner);
    let first = tokio::spawn(begin(&service, get("/t/orders")).await);
    next_call(&mut calls).await.1.send_response(ok("1"));
    let first = first.await.expect("no panic").expect("a response");
    assert_eq!((outcome(&first), text(first).await.as_str()), (ABSENT, "1"));

    let write = tokio::spawn(begin(&service, post("/t/orders")).await);
    let (_, response) = next_call(&mut calls).await;
    assert_eq!(outcome(&send(&service, get("/t/orders")).await), Outcome::Hit, "the write has no response yet");
    response.send_response(ok(""));
    write.await.expect("no panic").expect("a response");
    let second = tokio::spawn(begin(&service, get("/t/orders")).await);
    next_call(&mut calls).await.1.send_response(ok("2"));
    assert_eq!(text(second.await.expect("no panic").expect("a response")).await, "2");
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn undelivered_write_is_rejected_by_the_outer_layer() {
    use tower_response_cache::{Redis, invalidate::OnDeliveryTimeout};

    let store = Redis::connect("redis://127.0.0.1:1").await.expect("a store without its server");
    let cache = ResponseCache::new(store)
        .rules(one_rule(rule()))
        .cache_status("edge")
        .map_invalidate_layer(|layer| layer.delivery_timeout(SECOND / 100, OnDeliveryTimeout::Reject));
    let (inner, calls) = counting(|_, _| ok("done"));
    let service = cache.layer().layer(inner);
    let response = send(&service, post("/t/orders")).await;
    assert_eq!((response.status(), calls.load(Ordering::SeqCst)), (StatusCode::SERVICE_UNAVAILABLE, 1));
    assert_eq!(response.headers()["cache-status"], "edge; detail=undelivered");
    assert!(cache.invalidate(["db:orders"]).await.expect_err("Redis is down").is_queued());
}

#[tokio::test]
async fn each_layer_works_alone() {
    let cache = cache();
    let reads = cache.cache_layer().layer(counting(|_, call| ok(call.to_string())).0);
    let writes = cache.invalidate_layer().layer(counting(|_, _| ok("")).0);
    assert_eq!(read(&reads, "/t/orders").await, ABSENT);
    assert_eq!(read(&reads, "/t/orders").await, Outcome::Hit);
    send(&reads, post("/t/orders")).await;
    assert_eq!(read(&reads, "/t/orders").await, Outcome::Hit, "the cache layer does not invalidate");
    send(&writes, post("/t/orders")).await;
    assert_eq!(read(&reads, "/t/orders").await, ABSENT);
}

#[tokio::test(start_paused = true)]
async fn layers_of_clones_share_their_fills() {
    let cache = cache();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let inner = service_fn(move |_: Request<Plain>| {
        counter.fetch_add(1, Ordering::SeqCst);
        async {
            tokio::time::sleep(SECOND).await;
            Ok::<_, Infallible>(ok("rows"))
        }
    });
    let (one, other) = (cache.layer().layer(inner.clone()), cache.clone().layer().layer(inner));
    let (first, second) = tokio::join!(read(&one, "/t/orders"), read(&other, "/t/orders"));
    assert_eq!((first, second), (ABSENT, Outcome::Collapsed));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[test]
fn options_of_a_clone_leave_the_original_unchanged() {
    let cache = cache();
    let other = cache.clone().rules(Rules::new()).enabled(false);
    assert!(cache.is_enabled() && !other.is_enabled());
    assert!(cache.matches(&Method::GET, &uri("/t/orders")).is_ok());
    assert_eq!(other.matches(&Method::GET, &uri("/t/orders")).unwrap_err(), NoMatch::NoRule);
}

#[tokio::test]
async fn options_reach_both_layers() {
    let cache = ResponseCache::new(Memory::default())
        .route("/t/{table}", rule())
        .route("/u/{user}", Rule::ttl(MINUTE).namespace("user:{user}"))
        .cache_status("edge")
        .map_cache_layer(|layer| layer.status_extension(false));
    let service = cache.layer().layer(counting(|_, call| ok(call.to_string())).0);
    let status = async |target: &str| {
        let response = send(&service, get(target)).await;
        assert!(response.extensions().get::<CacheStatus>().is_none());
        response.headers()["cache-status"].to_str().expect("text").to_owned()
    };
    for target in ["/t/orders", "/u/ada"] {
        for expected in ["edge; fwd=uri-miss", "edge; hit"] {
            assert!(status(target).await.starts_with(expected), "{target}");
        }
        send(&service, post(target)).await;
        assert!(status(target).await.starts_with("edge; fwd=uri-miss"), "{target}");
    }
    assert_eq!(cache.stats().invalidations, 2);
}

#[tokio::test]
async fn switch_turns_all_clones_on_and_off() {
    let switch = Switch::new(false);
    let cache = cache().enabled(&switch);
    let service = cache.layer().layer(counting(|_, call| ok(call.to_string())).0);
    assert!(!cache.is_enabled());
    assert_eq!(read(&service, "/t/orders").await, Outcome::Bypass(Bypass::Disabled));
    cache.clone().set_enabled(true);
    assert!(cache.is_enabled() && switch.is_on());
    assert_eq!(read(&service, "/t/orders").await, ABSENT);
    assert_eq!(read(&service, "/t/orders").await, Outcome::Hit);
}

#[tokio::test]
async fn handle_and_store_report_the_same() {
    let store = Memory::new(1 << 20);
    let cache = ResponseCache::new(store.clone()).rules(one_rule(rule()));
    let service = cache.layer().layer(counting(|_, call| ok(call.to_string())).0);
    read(&service, "/t/orders").await;
    read(&service, "/t/orders").await;
    for stats in [cache.stats(), store.stats()] {
        assert_eq!((stats.hits, stats.stored, stats.capacity), (1, 1, 1 << 20));
    }
    assert_eq!(cache.identity("token"), store.identity("token"));
}

#[tokio::test]
async fn soft_invalidation_leaves_stale_entries() {
    let rules = one_rule(rule().stale_while_revalidate(MINUTE));
    let cache = ResponseCache::new(Memory::default()).rules(rules);
    let service = cache.layer().layer(counting(|_, call| ok(call.to_string())).0);
    read(&service, "/t/orders").await;
    cache.invalidate_softly(["db:orders"]).await.expect("memory");
    assert!(matches!(read(&service, "/t/orders").await, Outcome::Stale(_)));
    cache.invalidate(["db"]).await.expect("memory");
    assert_eq!(read(&service, "/t/orders").await, ABSENT);
    assert!(cache.invalidate(["db:"]).await.is_err(), "an invalid name");
}

#[tokio::test]
async fn key_of_a_match_invalidates_its_entry_alone() {
    let cache = cache();
    let service = cache.layer().layer(counting(|_, call| ok(call.to_string())).0);
    for target in ["/t/orders?page=1", "/t/orders?page=2"] {
        read(&service, target).await;
    }
    let found = cache.matches(&Method::GET, &uri("/t/orders?page=1")).expect("a rule");
    cache.invalidate_key(found.key()).await.expect("memory");
    assert_eq!(read(&service, "/t/orders?page=1").await, ABSENT);
    assert_eq!(read(&service, "/t/orders?page=2").await, Outcome::Hit);
}

// ---- Matches ------------------------------------------------------------------------------------------------------------

#[test]
fn match_names_route_key_and_namespaces() {
    let store = Memory::default();
    let rules = one_rule(rule().namespace("db").namespace("page:{table}:list")).fallback(Rule::ttl(MINUTE));
    let cache = ResponseCache::new(store.clone()).rules(rules.clone());
    let found = cache.matches(&Method::GET, &uri("/t/orders?page=1")).expect("a rule");
    assert_eq!(found.route(), Some("/t/{table}"));
    assert_eq!(Some(found.key()), rules.key(&store, &get("/t/orders?page=1")).as_ref());
    let mut names: Vec<_> = found.namespaces().iter().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["db:orders", "page:orders:list"]);

    let head = cache.matches(&Method::HEAD, &uri("/t/orders?page=1")).expect("a rule");
    assert_eq!(head.key(), found.key());
    let other = cache.matches(&Method::GET, &uri("/health")).expect("the fallback");
    assert_eq!((other.route(), other.namespaces().len()), (None, 0));
}

#[test]
fn each_reason_for_no_match_is_told() {
    let rules = one_rule(rule())
        .route("/hook", Rule::uncached().namespace("db"))
        .route("/me", Rule::ttl(MINUTE).identity(Identity::bearer().required()))
        .route("/part", Rule::ttl(MINUTE).key(|_: &RequestView<'_>| None::<String>));
    let cache = ResponseCache::new(Memory::default()).rules(rules).enabled(false);
    let long = format!("/t/orders?{}", "a".repeat(9 << 10));
    for (method, target, expected, text) in [
        (Method::GET, "/health", NoMatch::NoRule, "no rule covers the path"),
        (Method::GET, "/hook", NoMatch::Uncached, "the rule of the route caches nothing"),
        (Method::POST, "/t/orders", NoMatch::Bypass(Bypass::Method), "the request bypasses the cache: method"),
        (Method::GET, "/t/..", NoMatch::Bypass(Bypass::AmbiguousPath), "the request bypasses the cache: ambiguous-path"),
        (Method::GET, &long, NoMatch::Bypass(Bypass::KeyTooLong), "the request bypasses the cache: key-too-long"),
        (Method::GET, "/part", NoMatch::Bypass(Bypass::Extractor), "the request bypasses the cache: extractor"),
        (Method::GET, "/me", NoMatch::Bypass(Bypass::IdentityMissing), "the request bypasses the cache: identity-missing"),
    ] {
        let reason = cache.matches(&method, &uri(target)).expect_err(target);
        assert_eq!((reason, reason.to_string().as_str()), (expected, text), "{target}");
    }
}

#[tokio::test]
async fn match_changes_no_counter() {
    let rules = one_rule(rule());
    let cache = ResponseCache::new(Memory::default()).rules(rules.clone());
    let _service = cache.layer().layer(counting(|_, _| ok("")).0);
    cache.matches(&Method::GET, &uri("/t/orders")).expect("a rule");
    assert_eq!(rules.unmatched().count(), 1);
    assert_eq!(cache.stats().misses(), 0);
}

// ---- Invalidation of a URI ------------------------------------------------------------------------------------------------

/// Fills both targets, invalidates a URI, and tells which of them are still hits.
async fn hits_after(rule: Rule, filled: [&str; 2], invalidated: &str) -> [bool; 2] {
    let cache = ResponseCache::new(Memory::default()).rules(one_rule(rule));
    let service = cache.layer().layer(counting(|_, call| ok(call.to_string())).0);
    for target in filled {
        read(&service, target).await;
        assert_eq!(read(&service, target).await, Outcome::Hit);
    }
    cache.invalidate_uri(&uri(invalidated)).await.expect("memory");
    [read(&service, filled[0]).await == Outcome::Hit, read(&service, filled[1]).await == Outcome::Hit]
}

#[tokio::test]
async fn uri_invalidates_the_namespaces_of_its_rule() {
    let filled = ["http://a.example/t/orders?page=1", "http://b.example/t/users"];
    assert_eq!(hits_after(rule(), filled, "/t/orders?page=9").await, [false, true]);
    assert_eq!(hits_after(rule(), filled, "/t/invoices").await, [true, true]);
    assert_eq!(hits_after(rule(), filled, "/health").await, [true, true], "no rule covers it");
    let by_put = Rule::ttl(MINUTE).namespace("db:{table}").invalidates_on([Method::PUT], "db");
    assert_eq!(hits_after(by_put, filled, "/t/orders").await, [false, false], "any method");
}

#[tokio::test]
async fn uri_invalidates_its_own_key() {
    let filled = ["http://a.example/t/orders?page=1", "http://a.example/t/orders?page=2"];
    for rule in [Rule::ttl(MINUTE), Rule::http().default_ttl(MINUTE)] {
        assert_eq!(hits_after(rule.clone(), filled, filled[0]).await, [false, true]);
        let spelling = "https://A.example:443/t/./%6Frders/?page=1";
        assert_eq!(hits_after(rule, filled, spelling).await, [false, true]);
    }
}

#[tokio::test]
async fn uri_without_authority_reaches_only_keys_without_host() {
    let filled = ["http://a.example/t/orders", "/t/orders"];
    assert_eq!(hits_after(Rule::ttl(MINUTE), filled, "/t/orders").await, [true, false]);
    assert_eq!(hits_after(Rule::ttl(MINUTE), filled, "http://a.example/t/orders").await, [false, true]);
    let without_host = Rule::ttl(MINUTE).key(RouteAndQuery.without_host());
    assert_eq!(hits_after(without_host, filled, "/t/orders").await, [false, false]);
}

#[tokio::test]
async fn uri_under_http_invalidates_entries_of_all_clients() {
    for (rule, is_hit) in [(Rule::http().default_ttl(MINUTE), false), (Rule::ttl(MINUTE), true)] {
        let rule = rule.key(RouteAndQuery.and(Cookie::new("theme"))).ignore_credentials();
        let cache = ResponseCache::new(Memory::default()).rules(one_rule(rule));
        let service = cache.layer().layer(counting(|_, call| ok(call.to_string())).0);
        let read = async || {
            let mut request = get("/t/orders");
            request.headers_mut().insert("cookie", "theme=dark".parse().expect("a value"));
            outcome(&send(&service, request).await)
        };
        read().await;
        assert_eq!(read().await, Outcome::Hit);
        cache.invalidate_uri(&uri("/t/orders")).await.expect("memory");
        assert_eq!(read().await == Outcome::Hit, is_hit);
    }
}

#[tokio::test]
async fn uri_is_invalidated_softly_by_a_soft_rule() {
    let rules = one_rule(rule().invalidates_softly().stale_while_revalidate(MINUTE));
    let cache = ResponseCache::new(Memory::default()).rules(rules);
    let service = cache.layer().layer(counting(|_, call| ok(call.to_string())).0);
    read(&service, "/t/orders").await;
    cache.invalidate_uri(&uri("/t/orders")).await.expect("memory");
    assert!(matches!(read(&service, "/t/orders").await, Outcome::Stale(_)));
}
