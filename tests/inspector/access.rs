//! Access: the token, the session, and the origin of requests.

use std::convert::Infallible;

use axum::Router;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tower::{Service, ServiceExt};
use tower_response_cache::{Memory, ResponseCache, inspector::Inspector};

use super::{Answer, App, TOKEN, request};
use crate::common::send;

#[tokio::test]
async fn inspector_without_a_choice_is_refused() {
    let cache = ResponseCache::new(Memory::default());
    let error = Inspector::builder(cache.clone()).build().expect_err("no choice");
    assert!(error.to_string().contains("behind_own_authentication"), "{error}");
    let error = Inspector::builder(cache.clone()).token("").build().expect_err("an empty token");
    assert!(error.to_string().contains("empty"), "{error}");
    assert!(Inspector::builder(cache).behind_own_authentication().build().is_ok());
}

#[tokio::test]
async fn request_without_the_token_is_refused() {
    let app = App::new();
    app.get("/t/a").await;
    let wrong = format!("Bearer {TOKEN}x");
    let basic = format!("Basic {TOKEN}");
    for fields in [
        &[][..],
        &[("authorization", wrong.as_str())],
        &[("authorization", &basic)],
        &[("cookie", "response-cache-inspector=00")],
    ] {
        for path in ["/api/stats", "/api/keys", "/api/explain?url=/t/a", "/api/nothing"] {
            let answer = app.send(Method::GET, path, fields, "").await;
            assert_eq!(
                (answer.status, answer.field("www-authenticate").is_empty()),
                (StatusCode::UNAUTHORIZED, false),
                "{path}"
            );
            assert!(!answer.text.contains("hits") && !answer.text.contains("/t/"), "{}", answer.text);
        }
        for (method, path) in
            [("POST", "/api/purge"), ("POST", "/api/invalidate"), ("PURGE", "/"), ("POST", "/"), ("POST", "/api/explain")]
        {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let answer = app.send(method, path, fields, "everything=true").await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        }
        let page = app.send(Method::GET, "/", fields, "").await;
        assert_eq!(page.status, StatusCode::UNAUTHORIZED);
        assert!(page.text.contains("type=\"password\"") && !page.text.contains("Hit ratio"), "{}", page.text);
    }
    assert_eq!(app.cache.stats().invalidations, 0);
}

#[tokio::test]
async fn post_from_a_foreign_origin_is_refused() {
    let app = App::new();
    let bearer = format!("Bearer {TOKEN}");
    for (name, value, status) in [
        ("origin", "https://evil.example", StatusCode::FORBIDDEN),
        ("origin", "null", StatusCode::FORBIDDEN),
        ("origin", "https://app.example.evil", StatusCode::FORBIDDEN),
        ("sec-fetch-site", "cross-site", StatusCode::FORBIDDEN),
        ("sec-fetch-site", "same-site", StatusCode::FORBIDDEN),
        ("sec-fetch-site", "same-origin", StatusCode::OK),
        ("origin", "https://app.example", StatusCode::OK),
        ("accept", "*/*", StatusCode::OK),
    ] {
        for method in ["POST", "PURGE"] {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let fields = [("authorization", bearer.as_str()), (name, value)];
            let answer = app.send(method, "/api/purge?everything=true", &fields, "").await;
            assert_eq!(answer.status, status, "{name}: {value}");
        }
    }
    assert_eq!(app.cache.stats().invalidations, 6);
}

#[tokio::test]
async fn login_sets_a_cookie_that_stands_for_the_token() {
    let app = App::new();
    let form = &[("content-type", "application/x-www-form-urlencoded"), ("origin", "https://app.example")][..];
    let refused = app.send(Method::POST, "/login", form, "token=wrong").await;
    assert_eq!((refused.status, refused.field("set-cookie")), (StatusCode::UNAUTHORIZED, ""));
    let answer = app.send(Method::POST, "/login", form, &format!("token={TOKEN}")).await;
    assert_eq!((answer.status, answer.field("location")), (StatusCode::SEE_OTHER, "./"));
    let cookie = answer.field("set-cookie");
    for attribute in ["HttpOnly", "SameSite=Strict", "Secure"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    assert!(!cookie.contains(TOKEN));
    let pair = cookie.split(';').next().expect("a pair");
    let page = app.send(Method::GET, "/", &[("cookie", &format!("other=1; {pair}"))], "").await;
    assert_eq!(page.status, StatusCode::OK);
    let foreign = [("cookie", pair), ("origin", "https://evil.example")];
    assert_eq!(app.send(Method::POST, "/api/purge?everything=true", &foreign, "").await.status, StatusCode::FORBIDDEN);
    let out = app.send(Method::POST, "/logout", &[("cookie", pair)], "").await;
    assert!(out.field("set-cookie").contains("Max-Age=0"), "{}", out.field("set-cookie"));
    let foreign = app.send(Method::POST, "/login", &[("origin", "https://evil.example")], &format!("token={TOKEN}")).await;
    assert_eq!(foreign.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn debug_output_has_no_session() {
    let app = App::new();
    let cookie = app.send(Method::POST, "/login", &[], &format!("token={TOKEN}")).await;
    let session = cookie.field("set-cookie").split(['=', ';']).nth(1).expect("a value");
    let builder = Inspector::builder(app.cache.clone()).token(TOKEN);
    for text in [format!("{builder:?}"), format!("{:?}", builder.clone().build().expect("a token"))] {
        assert!(!session.is_empty() && !text.contains(session) && !text.contains(TOKEN), "{text}");
    }
}

#[tokio::test]
async fn every_response_is_kept_out_of_caches_and_frames() {
    let app = App::new();
    for answer in [
        app.ask(Method::GET, "/", "").await,
        app.ask(Method::GET, "/api/stats", "").await,
        app.send(Method::GET, "/api/stats", &[], "").await,
        app.send(Method::GET, "/", &[], "").await,
    ] {
        assert_eq!(answer.field("cache-control"), "no-store");
        // With `no-referrer`, browsers send `Origin: null` with the forms of the page itself.
        assert_eq!(answer.field("referrer-policy"), "same-origin");
        assert_eq!((answer.field("x-content-type-options"), answer.field("x-frame-options")), ("nosniff", "DENY"));
        let policy = answer.field("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}

/// Calls an Inspector without a router.
async fn bare(
    service: &(
         impl Service<
        Request<Full<Bytes>>,
        Response = http::Response<impl http_body::Body<Data = Bytes, Error = Infallible>>,
        Error = Infallible,
    > + Clone
     ),
    target: &str,
) -> Answer {
    let request = Request::get(target).header("authorization", format!("Bearer {TOKEN}")).body(Full::default());
    Answer::of(service.clone().oneshot(request.expect("a valid request")).await.unwrap_or_else(|never| match never {})).await
}

#[tokio::test]
async fn mount_needs_no_router_that_removes_it() {
    let cache = ResponseCache::new(Memory::default());
    let inspector = Inspector::builder(cache).token(TOKEN).build().expect("a token");
    for prefix in ["", "/_cache", "/ops/cache", "/api/_cache"] {
        assert_eq!(bare(&inspector, &format!("{prefix}/api/stats")).await.status, StatusCode::OK);
        assert!(bare(&inspector, &format!("{prefix}/")).await.text.contains("<h1>"));
    }
    let answer = bare(&inspector, "/ops/cache").await;
    assert_eq!((answer.status, answer.field("location")), (StatusCode::SEE_OTHER, "./cache/"));
}

#[tokio::test]
async fn redirect_to_the_mount_stays_on_its_host() {
    let inspector = Inspector::builder(ResponseCache::new(Memory::default())).token(TOKEN).build().expect("a token");
    for path in ["/https:evil.example", "/ops/https:evil.example", "/javascript:alert(1)"] {
        let answer = bare(&inspector, path).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER);
        assert!(answer.field("location").starts_with("./"), "{path}: {}", answer.field("location"));
    }
}

#[tokio::test]
async fn mount_may_lie_below_a_path_named_api() {
    let inspector = Inspector::builder(ResponseCache::new(Memory::default())).token(TOKEN).build().expect("a token");
    let router: Router = Router::new().nest_service("/api/_cache", inspector);
    let bearer = format!("Bearer {TOKEN}");
    for (path, status, text) in [
        ("/api/_cache/", StatusCode::OK, "<h1>"),
        ("/api/_cache", StatusCode::SEE_OTHER, ""),
        ("/api/_cache/api/stats", StatusCode::OK, "hit_ratio"),
        ("/api/_cache/api/stats/", StatusCode::NOT_FOUND, "endpoint"),
        ("/api/_cache/nothing", StatusCode::NOT_FOUND, "page"),
    ] {
        let response = send(&router, request(Method::GET, path, &[("authorization", &bearer)], "")).await;
        let answer = Answer::of(response).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.text.contains(text), "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn nested_mount_redirects_to_its_slash() {
    let app = App::new();
    let response = send(&app.router, request(Method::GET, "/_cache", &[], "")).await;
    let answer = Answer::of(response).await;
    assert_eq!((answer.status, answer.field("location")), (StatusCode::SEE_OTHER, "./_cache/"));
    assert_eq!(app.ask(Method::GET, "/nothing", "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(app.ask(Method::GET, "/api/nothing", "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(app.ask(Method::DELETE, "/api/stats", "").await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn own_authentication_needs_no_token_and_checks_the_origin() {
    let cache = ResponseCache::new(Memory::default());
    let inspector = Inspector::builder(cache.clone()).behind_own_authentication().build().expect("a choice");
    let app = App::with(cache, inspector);
    assert_eq!(app.send(Method::GET, "/api/stats", &[], "").await.status, StatusCode::OK);
    assert_eq!(app.send(Method::POST, "/api/purge?everything=1", &[], "").await.status, StatusCode::OK);
    let foreign = &[("origin", "https://evil.example")];
    assert_eq!(app.send(Method::POST, "/api/purge?everything=1", foreign, "").await.status, StatusCode::FORBIDDEN);
    assert!(!app.send(Method::GET, "/", &[], "").await.text.contains("Log out"));
}
