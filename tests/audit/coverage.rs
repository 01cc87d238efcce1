//! Requests that are audited, and the requests that the inner service gets.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    CacheLayer, Identity, KeyExtractor, Outcome, RequestBodyLayer, RouteAndQuery, Rule, key::RequestBody,
    request_body::ReadBody, stats::AuditResult,
};

use crate::{Origin, audited, audits, common::*, differences, layer, memory};

#[tokio::test]
async fn audit_asks_for_the_complete_response() {
    for (name, value, status) in [
        (header::RANGE, "bytes=0-1", StatusCode::PARTIAL_CONTENT),
        (header::IF_NONE_MATCH, "\"a\"", StatusCode::NOT_MODIFIED),
        (header::ACCEPT, "*/*", StatusCode::OK),
    ] {
        let (store, seen) = (memory(), Arc::new(Mutex::new(Vec::new())));
        let requests = seen.clone();
        let (inner, _) = counting(move |request, _| {
            requests.lock().unwrap().push(request.headers().clone());
            let mut response = ok("rows");
            response.headers_mut().insert("etag", "\"a\"".parse().unwrap());
            response
        });
        let cache = layer(store.clone(), audited()).layer(inner);
        send(&cache, get("/t/a")).await;
        let mut request = get("/t/a");
        request.headers_mut().insert(&name, value.parse().unwrap());
        let response = send(&cache, request).await;
        assert_eq!((response.status(), outcome(&response)), (status, Outcome::Hit));
        assert_eq!(audits(&store, 1).await, [(AuditResult::Same, 1)], "{name}");
        assert_eq!(seen.lock().unwrap()[1].contains_key(&name), name == header::ACCEPT);
    }
}

#[tokio::test]
async fn head_is_compared_without_a_body() {
    let store = memory();
    let (inner, _) = counting(|request, _| {
        let mut response = if request.method() == "HEAD" { ok("") } else { ok("rows") };
        response.headers_mut().insert("content-length", 4.into());
        response
    });
    let cache = layer(store.clone(), audited()).layer(inner);
    send(&cache, get("/t/a")).await;
    let head = Request::head("/t/a").body(Plain::default()).unwrap();
    assert_eq!(outcome(&send(&cache, head).await), Outcome::Hit);
    assert_eq!(audits(&store, 1).await, [(AuditResult::Same, 1)]);
}

#[tokio::test]
async fn audit_of_a_user_compares_the_entry_of_that_user() {
    let store = memory();
    let (inner, calls) = counting(|request, _| ok(format!("{:?}", request.headers().get("authorization"))));
    let rule = audited().identity(Identity::bearer());
    let cache = layer(store.clone(), rule).layer(inner);
    let of = |user: &str| {
        let mut request = get("/t/a");
        request.headers_mut().insert("authorization", format!("Bearer {user}").parse().unwrap());
        request
    };
    for user in ["ann", "bob", "ann", "bob"] {
        assert!(text(send(&cache, of(user)).await).await.contains(user));
        tokio::task::yield_now().await;
    }
    assert_eq!(audits(&store, 2).await, [(AuditResult::Same, 2)]);
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 4);
}

#[tokio::test]
async fn field_that_is_missing_from_the_key_is_found() {
    let store = memory();
    let (inner, _) = counting(|request, _| ok(format!("{:?}", request.headers().get("x-tenant"))));
    let cache = layer(store.clone(), audited()).layer(inner);
    for tenant in ["a", "b"] {
        let mut request = get("/t/a");
        request.headers_mut().insert("x-tenant", tenant.parse().unwrap());
        send(&cache, request).await;
    }
    assert_eq!(audits(&store, 1).await, [(AuditResult::Differed, 1)]);
    assert_eq!(differences(&store).len(), 1);
}

#[tokio::test]
async fn variant_is_compared_with_its_own_variant() {
    let store = memory();
    let (inner, _) = counting(|request, _| {
        let mut response = ok(format!("{:?}", request.headers().get("x-lang")));
        response.headers_mut().insert("vary", "x-lang".parse().unwrap());
        response
    });
    let cache = layer(store.clone(), audited()).layer(inner);
    for lang in ["de", "en", "de", "en"] {
        let mut request = get("/t/a");
        request.headers_mut().insert("x-lang", lang.parse().unwrap());
        send(&cache, request).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(audits(&store, 2).await, [(AuditResult::Same, 2)]);
}

#[tokio::test]
async fn read_by_post_is_repeated_with_its_content() {
    let store = memory();
    let contents = Arc::new(Mutex::new(Vec::new()));
    let seen = contents.clone();
    let inner = tower::service_fn(move |request: Request<ReadBody<Plain>>| {
        let seen = seen.clone();
        async move {
            let content = request.into_body().collect().await.unwrap().to_bytes();
            let mut seen = seen.lock().unwrap();
            seen.push(content);
            Ok::<_, std::convert::Infallible>(ok(if seen.len() == 1 { "old" } else { "new" }))
        }
    });
    let rules = one_rule(audited().reads_by_post().key(RouteAndQuery.and(RequestBody::bytes())));
    let cache = CacheLayer::new(store.clone())
        .rules(rules.clone())
        .audit_grace(std::time::Duration::ZERO)
        .audit_body(ReadBody::<Plain>::from)
        .layer(inner);
    let service = RequestBodyLayer::new(rules).layer(cache);
    for _ in 0..2 {
        let request = Request::post("/t/a").body(Full::new(Bytes::from("query"))).unwrap();
        let response: Response<_> = service.clone().oneshot(request).await.unwrap();
        assert_eq!(text(response).await, "old");
    }
    assert_eq!(audits(&store, 1).await, [(AuditResult::Differed, 1)]);
    assert_eq!(*contents.lock().unwrap(), ["query"; 3]);
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn requests_of_axum_are_repeated_without_an_option() {
    use axum::{Router, body::Body, routing::get};
    let (store, origin) = (memory(), Origin::new("old"));
    let rules = one_rule(audited());
    let handler = origin.clone();
    let layer = CacheLayer::new(store.clone()).rules(rules).audit_grace(std::time::Duration::ZERO);
    let app = Router::new().route("/t/{table}", get(async move || handler.respond().map(Body::new))).layer(layer);
    for _ in 0..2 {
        app.clone().oneshot(Request::get("/t/a").body(Body::empty()).unwrap()).await.unwrap();
        origin.set("new");
    }
    assert_eq!(audits(&store, 1).await, [(AuditResult::Differed, 1)]);
}

#[tokio::test]
async fn rule_where_http_decides_is_audited() {
    let (store, origin) = (memory(), Origin::new("old"));
    origin.set_field("cache-control", "max-age=60");
    let cache = layer(store.clone(), Rule::http().audit(1.0)).layer(origin.service());
    send(&cache, get("/t/a")).await;
    origin.set("new");
    send(&cache, get("/t/a")).await;
    assert_eq!(audits(&store, 1).await, [(AuditResult::Differed, 1)]);
}
