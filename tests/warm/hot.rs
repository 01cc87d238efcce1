//! Warming from the hottest requests.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, header},
    routing::get,
};
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_response_cache::{
    CachePolicy, Identity, KeyExtractor, Memory, Namespace, ResponseCache, RouteAndQuery, Rule,
    key::{Cookie, Headers, RequestView},
    warm::Warmer,
};

use crate::common::{MINUTE, within};

/// A cache whose handler counts its calls, and varies by `Accept-Encoding`.
fn app(rule: Rule) -> (ResponseCache, Router, Arc<AtomicUsize>) {
    let cache = ResponseCache::new(Memory::new(64 << 20)).route("/tables/{table}", rule).track_hottest(100);
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let rows = async move |headers: HeaderMap| {
        counter.fetch_add(1, SeqCst);
        let vary = if headers.contains_key(header::ACCEPT_ENCODING) { "accept-encoding" } else { "" };
        ([(header::VARY, vary), (header::CACHE_CONTROL, "public, max-age=60")], "rows")
    };
    let router = Router::new().route("/tables/{table}", get(rows)).layer(cache.layer());
    (cache, router, calls)
}

fn request(target: &str, fields: &[(&str, &str)]) -> Request<Body> {
    let request = Request::get(target);
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Body::empty()).expect("a request")
}

async fn send(app: &Router, target: &str, fields: &[(&str, &str)]) {
    let response = app.clone().oneshot(request(target, fields)).await.expect("a response");
    assert!(response.status().is_success(), "{target}");
    response.into_body().collect().await.expect("a body");
}

fn rule() -> Rule {
    Rule::ttl(MINUTE).namespace("db_query:{table}")
}

const HOST: (&str, &str) = ("host", "api.example");

#[tokio::test]
async fn hottest_requests_are_sent_at_the_start() {
    let (cache, app, calls) = app(rule());
    for (table, reads) in [("a", 3), ("b", 400), ("c", 1), ("d", 200)] {
        for _ in 0..reads {
            send(&app, &format!("/tables/{table}"), &[HOST]).await;
        }
    }
    let targets: Vec<_> = cache.hottest_requests().iter().map(|hot| hot.request().expect("single").uri().to_string()).collect();
    assert_eq!(targets[..2], ["/tables/b", "/tables/d"]);
    cache.invalidate(["*"]).await.expect("memory");
    assert_eq!(calls.load(SeqCst), 4);
    let summary = within(Warmer::new(&cache, app.clone()).hottest(2).start()).await;
    assert_eq!((summary.succeeded, calls.load(SeqCst)), (2, 6));
    for table in ["b", "d"] {
        send(&app, &format!("/tables/{table}"), &[HOST]).await;
    }
    assert_eq!(calls.load(SeqCst), 6, "both were hits");
    let summary = within(Warmer::new(&cache, app).hottest_of("db_query:a", 5).start()).await;
    assert_eq!((summary.succeeded, calls.load(SeqCst)), (1, 7));
}

#[tokio::test]
async fn hottest_requests_of_invalidated_namespaces_are_sent_again() {
    let (cache, app, calls) = app(rule());
    for target in ["/tables/a?page=1", "/tables/a?page=2", "/tables/b"] {
        send(&app, target, &[HOST]).await;
    }
    let _overall = Warmer::new(&cache, app.clone()).hottest(10).after_invalidations();
    let _of_one = Warmer::new(&cache, app.clone()).hottest_of("db_query:a", 10).after_invalidations();
    for (name, expected) in [("db_query:a", 5), ("db_query:b", 6), ("db_query:other", 6), ("db_query", 9), ("*", 12)] {
        cache.invalidate([name]).await.expect("memory");
        within(cache.wait_for_purges()).await;
        assert_eq!(calls.load(SeqCst), expected, "{name}");
    }
    for _ in 0..200 {
        send(&app, "/tables/a?page=2", &[HOST]).await;
    }
    assert_eq!(calls.load(SeqCst), 12, "hits");
    let counts: Vec<_> = cache.hottest_requests().iter().map(|hot| hot.count()).collect();
    assert!((129..=257).contains(&counts[0]), "a sampled hit counts for 64: {counts:?}");
    assert_eq!(counts[1..], [1, 1], "no request of a warmer counts");
}

#[tokio::test]
async fn request_of_each_key_is_a_hit_after_warming() {
    let by_language = || rule().key(RouteAndQuery.and(Headers::new(["accept-language"])));
    for (rule, target, fields) in [
        (rule(), "/tables/a", &[HOST][..]),
        (rule(), "/tables/a?b=1&a=%20x&a=", &[HOST]),
        (rule(), "/tables/%C3%A9?c[]=1;2", &[HOST]),
        (rule(), "/tables/a", &[]),
        (rule(), "https://api.example/tables/a?x", &[]),
        (
            rule(),
            "/tables/a",
            &[("host", "API.example:8080"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "b.example")],
        ),
        (rule(), "/tables/a", &[HOST, ("forwarded", "for=192.0.2.1;host=b.example;proto=https")]),
        (rule(), "/tables/a", &[HOST, ("accept-encoding", "gzip, br;q=0.5")]),
        (Rule::http(), "/tables/a", &[HOST, ("accept-encoding", "gzip"), ("accept-language", "de")]),
        (by_language(), "/tables/a", &[HOST, ("accept-language", "de, en;q=0.5"), ("accept-language", "fr")]),
        (by_language(), "/tables/a", &[HOST]),
        (rule().key(RouteAndQuery.without_host()), "/tables/a", &[HOST]),
        (rule().key(RouteAndQuery.without_query(["utm_*"])), "/tables/a?utm_source=x&b=1", &[HOST]),
        (rule().key(RouteAndQuery.only_query(["b"])), "/tables/a?utm_source=x", &[HOST]),
        (rule().key(RouteAndQuery.query_as_sent()), "/tables/a?b=1&a=2", &[HOST]),
        (rule().identity(Identity::bearer()), "/tables/a", &[HOST]),
        (rule().key(RouteAndQuery.and(Cookie::new("theme"))), "/tables/a", &[HOST]),
        (rule().ignore_credentials(), "/tables/a", &[HOST, ("authorization", "Bearer secret")]),
    ] {
        let (cache, app, calls) = app(rule);
        // The first request of a variant does not know its key.
        send(&app, target, fields).await;
        send(&app, target, fields).await;
        assert_eq!(calls.load(SeqCst), 1, "{target} {fields:?}");
        cache.invalidate(["*"]).await.expect("memory");
        let summary = within(Warmer::new(&cache, app.clone()).hottest(1).start()).await;
        assert_eq!((summary.succeeded, calls.load(SeqCst)), (1, 2), "{target} {fields:?}: {:?}", cache.hottest_requests());
        send(&app, target, fields).await;
        assert_eq!(calls.load(SeqCst), 2, "{target} {fields:?}: {:?}", cache.hottest_requests());
        assert!(!format!("{:?}", cache.hottest_requests()).contains("secret"));
    }
}

#[tokio::test]
async fn requests_with_secrets_count_for_their_route_alone() {
    let by_closure = |request: &RequestView<'_>| request.headers().get("x-user").map(|user| format!("{user:?}"));
    for (rule, target, fields) in [
        (rule().identity(Identity::bearer()), "/tables/a", [HOST, ("authorization", "Bearer s3cr3t")]),
        (rule().identity(Identity::cookie("id")), "/tables/a", [HOST, ("cookie", "id=s3cr3t")]),
        (rule().identity(Identity::header("x-api-key")), "/tables/a", [HOST, ("x-api-key", "s3cr3t")]),
        (rule().identity(Identity::by(|_| Some("s3cr3t".into()))), "/tables/a", [HOST, ("accept", "*/*")]),
        (rule().key(RouteAndQuery.and(Cookie::new("theme"))).ignore_cookies(), "/tables/a", [HOST, ("cookie", "theme=s3cr3t")]),
        (rule().key(RouteAndQuery.and(by_closure)), "/tables/a", [HOST, ("x-user", "s3cr3t")]),
        (rule().key(RouteAndQuery.and(Headers::new(["x-my-token"]))), "/tables/a", [HOST, ("x-my-token", "s3cr3t")]),
        (rule(), "/tables/a?access_token=s3cr3t", [HOST, ("accept", "*/*")]),
        (rule(), "https://ada:s3cr3t@api.example/tables/a", [("accept", "*/*"), ("accept", "*/*")]),
    ] {
        let (cache, app, calls) = app(rule);
        send(&app, target, &fields).await;
        send(&app, target, &fields).await;
        assert_eq!(calls.load(SeqCst), 1, "{target} {fields:?}");
        let hottest = cache.hottest_requests();
        let found: Vec<_> = hottest.iter().map(|hot| (hot.route(), hot.count(), hot.request().is_some())).collect();
        assert_eq!(found, [(Some("/tables/{table}"), 65, false)], "{target} {fields:?}");
        assert!(!format!("{hottest:?}").contains("s3cr3t"));
        assert_eq!(within(Warmer::new(&cache, app).hottest(10).start()).await.requests, 0);
    }
}

#[tokio::test]
async fn failure_of_a_hottest_request_names_its_route_alone() {
    let (cache, app, _) = app(rule());
    send(&app, "/tables/private", &[HOST]).await;
    let failing = Router::new().fallback(async || axum::http::StatusCode::BAD_GATEWAY);
    let summary = within(Warmer::new(&cache, failing.clone()).hottest(1).start()).await;
    assert_eq!(summary.first_failure.as_deref(), Some("a request of /tables/{table}: status 502 Bad Gateway"));
    let listed = Warmer::new(&cache, failing).targets(["/tables/a"]).expect("a target");
    let summary = within(listed.start()).await;
    assert_eq!(summary.first_failure.as_deref(), Some("/tables/a: status 502 Bad Gateway"));
}

#[tokio::test]
async fn varying_request_is_one_item_with_the_fields_of_its_variant() {
    let (cache, app, _) = app(rule());
    let fields = [HOST, ("accept-encoding", "gzip")];
    let request = || send(&app, "/tables/a", &fields);
    for _ in 0..3 {
        tokio::join!(request(), request(), request());
        cache.invalidate(["db_query:a"]).await.expect("memory");
    }
    for hottest in [cache.hottest_requests(), cache.hottest_requests_of("db_query:a")] {
        let fields: Vec<_> = hottest.iter().map(|hot| hot.request().expect("single").headers().clone()).collect();
        assert_eq!(fields.len(), 1, "{fields:?}");
        assert_eq!(fields[0]["accept-encoding"], "gzip");
    }
}

#[tokio::test]
async fn misses_count_for_the_namespaces_of_the_handler() {
    let cache = ResponseCache::new(Memory::default()).route("/named", Rule::ttl(MINUTE).namespace("page")).track_hottest(10);
    let named = async || axum::Extension(CachePolicy::new().namespace(Namespace::of(["row", "1"])));
    let app = Router::new().route("/named", get(named)).layer(cache.layer());
    for _ in 0..100 {
        send(&app, "/named", &[HOST]).await;
        cache.invalidate(["row:1"]).await.expect("memory");
    }
    let over: Vec<_> = cache.overinvalidated_namespaces().iter().map(|of| of.name().to_owned()).collect();
    assert!(over.is_empty(), "{over:?}");
    let reads: Vec<_> = cache.hottest_namespaces().iter().map(|of| (of.name().to_owned(), of.reads())).collect();
    assert!(reads.contains(&("row:1".into(), 100)), "{reads:?}");
}

#[tokio::test]
async fn nothing_is_listed_unless_it_is_tracked() {
    let cache = ResponseCache::new(Memory::default()).route("/tables/{table}", rule());
    let app: Router = Router::new().route("/tables/{table}", get(async || "rows")).layer(cache.layer());
    send(&app, "/tables/a", &[HOST]).await;
    assert!(!cache.tracks_hottest());
    assert!(cache.hottest_requests().is_empty() && cache.hottest_namespaces().is_empty());
    assert_eq!(within(Warmer::new(&cache, app).hottest(10).start()).await.requests, 0);
}

#[tokio::test]
async fn nested_router_is_warmed_by_the_path_of_the_client() {
    let cache = ResponseCache::new(Memory::default()).route("/tables/{table}", rule()).track_hottest(10);
    let inner: Router = Router::new().route("/tables/{table}", get(async || "rows")).layer(cache.layer());
    let app = Router::new().nest("/api", inner);
    send(&app, "/api/tables/a", &[HOST]).await;
    cache.invalidate(["*"]).await.expect("memory");
    assert_eq!(cache.hottest_requests()[0].request().expect("single").uri(), "/api/tables/a");
    within(Warmer::new(&cache, app.clone()).hottest(10).start()).await;
    let misses = cache.stats().misses();
    send(&app, "/api/tables/a", &[HOST]).await;
    assert_eq!(cache.stats().misses(), misses);
}
