//! The result of an audit.

use http::{HeaderValue, Response, StatusCode};
use tower::Layer;
use tower_response_cache::{
    Outcome, Rule, Rules, Store,
    stats::{AuditResult, Difference},
};

use crate::{Origin, audited, audits, common::*, differences, layer, memory, route};

fn field(name: &str) -> Difference {
    Difference::Field(name.into())
}

#[tokio::test]
async fn equal_response_is_the_same() {
    let (store, origin) = (memory(), Origin::new("rows"));
    let cache = layer(store.clone(), audited()).layer(origin.service());
    send(&cache, get("/t/a")).await;
    let hit = send(&cache, get("/t/a")).await;
    assert_eq!(outcome(&hit), Outcome::Hit);
    assert_eq!(audits(&store, 1).await, [(AuditResult::Same, 1)]);
    assert_eq!((origin.calls(), route(&store).inner_calls), (2, 1));
    assert!(differences(&store).is_empty());
    assert_eq!(store.stats().audits(AuditResult::Same), 1);
}

#[tokio::test]
async fn write_past_the_cache_is_found_by_its_body() {
    let (store, origin) = (memory(), Origin::new("old"));
    let cache = layer(store.clone(), audited()).layer(origin.service());
    send(&cache, get("/t/a")).await;
    origin.set("new");
    assert_eq!(text(send(&cache, get("/t/a")).await).await, "old");
    assert_eq!(audits(&store, 1).await, [(AuditResult::Differed, 1)]);
    assert_eq!(differences(&store), [Difference::Body]);
    assert_eq!(origin.calls(), 3, "a difference is confirmed by a second call");
    assert_eq!(text(send(&cache, get("/t/a")).await).await, "old", "an audit stores nothing");
}

#[tokio::test]
async fn differing_field_is_named_unless_it_is_ignored() {
    for (rule, result) in [
        (audited(), AuditResult::Differed),
        (audited().audit_ignoring(["x-version"]), AuditResult::Same),
        (audited().audit_by(|stored, fresh| stored.body() == fresh.body()), AuditResult::Same),
        (audited().audit_by(|_, _| false), AuditResult::Unstable),
    ] {
        let (store, origin) = (memory(), Origin::new("rows"));
        origin.set_field("x-version", "1");
        let cache = layer(store.clone(), rule).layer(origin.service());
        send(&cache, get("/t/a")).await;
        origin.set_field("x-version", "2");
        origin.set_field("x-request-id", "2");
        send(&cache, get("/t/a")).await;
        assert_eq!(audits(&store, 1).await, [(result, 1)]);
        if result == AuditResult::Differed {
            assert_eq!(differences(&store), [field("x-version")]);
        }
    }
}

#[tokio::test]
async fn other_status_differs_and_server_error_is_a_failure() {
    for (status, result) in [(404, AuditResult::Differed), (503, AuditResult::Failed)] {
        let store = memory();
        let (inner, _) = counting(move |_, call| {
            let mut response = ok("rows");
            if call > 1 {
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
            }
            response
        });
        let cache = layer(store.clone(), audited()).layer(inner);
        send(&cache, get("/t/a")).await;
        send(&cache, get("/t/a")).await;
        assert_eq!(audits(&store, 1).await, [(result, 1)]);
        assert_eq!(differences(&store).contains(&Difference::Status), result == AuditResult::Differed);
    }
}

#[tokio::test]
async fn handler_that_does_not_repeat_itself_is_unstable() {
    let store = memory();
    let (inner, _) = counting(|_, call| ok(format!("answer {call}")));
    let cache = layer(store.clone(), audited()).layer(inner);
    send(&cache, get("/t/a")).await;
    send(&cache, get("/t/a")).await;
    assert_eq!(audits(&store, 1).await, [(AuditResult::Unstable, 1)]);
    assert!(differences(&store).is_empty());
}

#[tokio::test]
async fn request_that_cannot_be_repeated_leaves_a_difference_unconfirmed() {
    let (store, origin) = (memory(), Origin::new("old"));
    let rules = one_rule(audited());
    let layer = tower_response_cache::CacheLayer::new(store.clone()).rules(rules).audit_grace(std::time::Duration::ZERO);
    let cache = layer.layer(origin.service());
    send(&cache, get("/t/a")).await;
    origin.set("new");
    send(&cache, get("/t/a")).await;
    assert_eq!(audits(&store, 1).await, [(AuditResult::Unconfirmed, 1)]);
}

#[tokio::test]
async fn trailers_are_compared() {
    let store = memory();
    let (service, mut handle) = tower_test::mock::pair();
    let cache = layer(store.clone(), audited()).layer(service);
    for (n, value) in ["0", "5", "5"].into_iter().enumerate() {
        let pending = (n < 2).then(|| tokio::spawn(send_owned(cache.clone(), get("/t/a"))));
        let (_, reply) = next_call(&mut handle).await;
        let (response, source) = channel_response(None);
        source.send("rows");
        source.trailers("grpc-status", value);
        reply.send_response(response);
        drop(source);
        if let Some(pending) = pending {
            assert_eq!(text(pending.await.unwrap()).await, "rows");
        }
    }
    assert_eq!(audits(&store, 1).await, [(AuditResult::Differed, 1)]);
    assert_eq!(differences(&store), [Difference::Trailers]);
}

async fn send_owned<S, B, R>(service: S, request: http::Request<B>) -> Response<R>
where
    S: tower::Service<http::Request<B>, Response = Response<R>> + Clone,
    S::Error: std::fmt::Debug,
{
    send(&service, request).await
}

#[tokio::test]
async fn invalid_share_is_an_error_that_names_the_allowed_ones() {
    for share in [0.0, -0.1, 1.01, f64::NAN, f64::INFINITY] {
        let error = Rules::new().try_route("/a", Rule::ttl(MINUTE).audit(share)).unwrap_err().to_string();
        assert!(error.contains("expected a share of the hits above 0 and up to 1"), "{error}");
    }
    assert!(Rules::new().try_route("/a", Rule::ttl(MINUTE).audit(1e-9)).is_ok());
}

#[cfg(feature = "config")]
#[tokio::test]
async fn audit_is_configured_in_a_file() {
    let file =
        |audit: &str| format!("[[route]]\npath = '/t/{{table}}'\nttl = '60s'\naudit = {audit}\naudit_ignoring = ['x-v']\n");
    let error = Rules::from_toml(&file("2.0")).unwrap_err().to_string();
    assert!(error.contains("invalid audit 2: expected a share of the hits above 0 and up to 1"), "{error}");
    let rules = Rules::from_toml(&file("1.0")).unwrap();
    let (store, origin) = (memory(), Origin::new("rows"));
    let cache = tower_response_cache::CacheLayer::new(store.clone()).rules(rules).layer(origin.service());
    origin.set_field("x-v", "1");
    send(&cache, get("/t/a")).await;
    origin.set_field("x-v", "2");
    send(&cache, get("/t/a")).await;
    assert_eq!(audits(&store, 1).await, [(AuditResult::Same, 1)]);
}

#[tokio::test]
async fn share_of_the_hits_is_audited() {
    let (store, origin) = (memory(), Origin::new("rows"));
    let rule = Rule::ttl(MINUTE).audit(0.25);
    let cache = layer(store.clone(), rule).max_audits(10_000).layer(origin.service());
    for _ in 0..=4000 {
        send(&cache, get("/t/a")).await;
    }
    let chosen = || route(&store).audits.iter().map(|(_, count)| count).sum::<u64>();
    // Ten standard deviations.
    until("audits end", || (726..=1274).contains(&chosen())).await;
    assert_eq!(store.stats().hits, 4000);
}

#[tokio::test]
async fn tag_that_the_cache_has_made_is_no_difference() {
    let (store, origin) = (memory(), Origin::new("rows"));
    let cache = layer(store.clone(), audited().etag()).layer(origin.service());
    send(&cache, get("/t/a")).await;
    let hit = send(&cache, get("/t/a")).await;
    assert_ne!(hit.headers().get("etag"), None::<&HeaderValue>);
    assert_eq!(audits(&store, 1).await, [(AuditResult::Same, 1)]);
}
