//! The rules of the examples, with requests as their clients send them: no finding.

use std::iter;

use http::{Method, Request, Response};
use tower::Layer;
use tower_response_cache::{
    AnyStore, Identity, Memory, Namespace, ResponseCache, RouteAndQuery, Rule, Rules, key::RequestView,
};

use super::{answer_with, assert_none};
use crate::common::{MINUTE, Plain, counting, get, ok, post, send, text};

/// Sends these requests a hundred times. Fails if there is a finding before or after them.
async fn assert_clean(rules: Rules, requests: impl Fn() -> Vec<Request<Plain>>) {
    let cache = ResponseCache::new(Memory::default()).rules(rules);
    assert_none(&cache.lint());
    let answer = |request: &Request<Plain>, call: usize| -> Response<Plain> {
        match request.uri().path().starts_with("/assets/") {
            true => answer_with(&[("cache-control", "max-age=60"), ("etag", "\"1\"")]),
            false => ok(format!("answer {call}")),
        }
    };
    let service = cache.layer().layer(counting(answer).0);
    for request in iter::repeat_with(requests).take(100).flatten() {
        text(send(&service, request).await).await;
    }
    let stats = cache.stats();
    assert!(stats.hits > 0 && stats.invalidations > 0, "{stats}");
    assert_none(&cache.lint());
}

fn request(method: Method, target: &str) -> Request<Plain> {
    Request::builder().method(method).uri(target).body(Plain::default()).unwrap()
}

#[tokio::test]
async fn quickstart_has_no_finding() {
    let rules = Rules::new().route("/tables/{table}", Rule::ttl(MINUTE).namespace("db_query:{table}"));
    assert_clean(rules, || vec![get("/tables/a"), get("/tables/a"), get("/tables/b"), post("/tables/a")]).await;
}

#[tokio::test]
async fn per_user_has_no_finding() {
    #[derive(Clone)]
    struct User(&'static str);
    let user = Identity::by(|request| request.extensions().get::<User>().map(|user| user.0.to_owned())).required();
    let rules = Rules::new().route("/email", Rule::ttl(MINUTE).identity(user).namespace("email:{identity}"));
    let by = |mut request: Request<Plain>, user| {
        request.extensions_mut().insert(User(user));
        request.headers_mut().insert("authorization", "Bearer x".parse().unwrap());
        request
    };
    let requests = move || {
        let put = by(request(Method::PUT, "/email"), "anna");
        vec![by(get("/email"), "anna"), by(get("/email"), "anna"), by(get("/email"), "ben"), put]
    };
    assert_clean(rules, requests).await;
}

#[cfg(feature = "config")]
#[tokio::test]
async fn gateway_has_no_finding() {
    let rules = Rules::from_toml(include_str!("../../examples/gateway.toml")).unwrap();
    let requests = || vec![get("/tables/a"), get("/tables/a"), get("/assets/app.js"), request(Method::DELETE, "/tables/a/1")];
    assert_clean(rules, requests).await;
}

/// The rules of `examples/backend/caching.rs`, with a closure that names a fixed namespace.
fn backend() -> Rules {
    let key = || RouteAndQuery.without_host();
    let joined = |_: &RequestView<'_>| vec![Namespace::new("db_query:joined").unwrap()];
    let current_user = Rule::ttl(30 * MINUTE).key(key()).identity(Identity::bearer()).namespace("auth:user:{identity}");
    let logout = Rule::uncached().identity(Identity::bearer()).invalidates("auth:user:{identity}");
    let table = Rule::ttl_by(|_| MINUTE).key(key()).jitter(0.1).namespace("db_query:{table}").namespaces_by(joined);
    let row = Rule::uncached().invalidates("db_query:{table}").invalidates("db_query:joined");
    let list = Rule::ttl(5 * MINUTE).key(key()).stale_if_error(60 * MINUTE).namespace("storage:list:{bucket}");
    Rules::new()
        .route("/auth/login", Rule::uncached().invalidates_nothing())
        .route("/auth/user", current_user)
        .route("/auth/logout", logout)
        .route("/tables/{table}", table)
        .route("/tables/{table}/{id}", row)
        .route("/storage/{bucket}", list)
        .route("/storage/{bucket}/{*path}", Rule::uncached().invalidates("storage:list:{bucket}"))
}

#[tokio::test]
async fn backend_has_no_finding() {
    let signed_in = |method, target| {
        let mut request = request(method, target);
        request.headers_mut().insert("authorization", "Bearer anna".parse().unwrap());
        request
    };
    let requests = move || {
        vec![
            post("/auth/login"),
            signed_in(Method::GET, "/auth/user"),
            signed_in(Method::GET, "/auth/user"),
            get("/tables/customers?page=1"),
            get("/tables/customers?page=1"),
            request(Method::PATCH, "/tables/customers/1"),
            get("/storage/images"),
            get("/storage/images"),
            request(Method::PUT, "/storage/images/a/b.png"),
            signed_in(Method::POST, "/auth/logout"),
        ]
    };
    assert_clean(backend(), requests).await;
}

#[test]
fn cache_without_rules_has_no_finding() {
    assert_none(&ResponseCache::new(AnyStore::from(Memory::default())).lint());
}
