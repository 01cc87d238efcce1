//! Variants of a key (RFC 9111, section 4.1).

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::storing::{ABSENT, HIT, answering, asking, store_and_repeat};
use crate::{
    common::{MINUTE, Plain, counting, get, ok, one_rule, outcome, send, text},
    script::Fields,
};
use http::{Request, Response};
use tower::Layer;
use tower_response_cache::{
    CacheLayer, Clock, Memory, Outcome, Rule, Store,
    status::{Miss, NoStore, Stale, Storing},
};

/// The key has an entry, but not for these request fields (RFC 9111, section 4.1).
const OTHER_VARIANT: Outcome = Outcome::Miss(Miss::Variant);

#[tokio::test]
async fn response_varying_by_everything_is_not_stored() {
    let table: [Fields; 5] = [
        &[("vary", "*")],
        &[("vary", "accept, *")],
        &[("vary", "accept"), ("vary", "*")],
        &[("vary", "not a name")],
        &[("vary", "a, b, c, d, e, f, g, h, i")],
    ];
    for fields in table {
        let (storing, second) = store_and_repeat(fields).await;
        assert_eq!(storing, Storing::Not(NoStore::Vary), "{fields:?}");
        assert!(matches!(outcome(&second), Outcome::Miss(_)));
    }
}

/// Responds in the requested language, with `Vary`.
fn multilingual(request: &Request<Plain>, call: usize) -> Response<Plain> {
    let asked: Vec<_> = request.headers().get_all("accept-language").iter().map(|v| v.to_str().expect("text")).collect();
    answering(format!("{} {call}", asked.join("|")), &[("vary", "Accept-Language")])
}

#[tokio::test]
async fn variants_are_stored_side_by_side() {
    let variants: [Fields; 7] = [
        &[],
        &[("accept-language", "")],
        &[("accept-language", "en")],
        &[("accept-language", "de")],
        &[("accept-language", "de, en")],
        &[("accept-language", "en, de")],
        // The first line alone selects another variant.
        &[("accept-language", "en"), ("accept-language", "fr")],
    ];
    let (inner, calls) = counting(multilingual);
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let mut bodies = Vec::new();
    for fields in variants {
        let response = send(&service, asking("/t/a", fields)).await;
        let want = if bodies.is_empty() { ABSENT } else { OTHER_VARIANT };
        assert_eq!(outcome(&response), want, "{fields:?}");
        bodies.push(text(response).await);
    }
    for (fields, body) in variants.iter().zip(&bodies).rev() {
        let response = send(&service, asking("/t/a", fields)).await;
        assert_eq!((outcome(&response), text(response).await), (HIT, body.clone()), "{fields:?}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), variants.len());
    // RFC 9111, section 4.1: a list on two lines equals the list on one.
    let joined = [("accept-language", "de"), ("accept-language", "en")];
    assert_eq!(text(send(&service, asking("/t/a", &joined)).await).await, bodies[4]);
}

#[tokio::test]
async fn later_vary_field_counts_from_then_on() {
    let (inner, _) = counting(|request, call| {
        let tenant = request.headers().get("x-tenant").map_or("", |tenant| tenant.to_str().expect("text"));
        let vary = if call == 1 { "accept-language" } else { "x-tenant" };
        answering(format!("{tenant} {call}"), &[("vary", vary)])
    });
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let ask = async |language: &str, tenant: &str| {
        text(send(&service, asking("/t/a", &[("accept-language", language), ("x-tenant", tenant)])).await).await
    };
    assert_eq!(ask("en", "1").await, "1 1");
    assert_eq!(ask("de", "1").await, "1 2");
    assert_eq!(ask("de", "2").await, "2 3");
    for _ in 0..2 {
        assert_eq!(ask("de", "1").await, "1 2");
        assert_eq!(ask("de", "2").await, "2 3");
    }
}

#[tokio::test]
async fn response_without_vary_serves_no_known_variant() {
    // RFC 9111, section 4.1: "some resources mistakenly omit the Vary header field from their default response".
    let (inner, _) = counting(|request, call| match request.headers().contains_key("accept-language") {
        true => multilingual(request, call),
        false => ok("default"),
    });
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let ask = async |fields: Fields| text(send(&service, asking("/t/a", fields)).await).await;
    assert_eq!(ask(&[("accept-language", "de")]).await, "de 1");
    assert_eq!(ask(&[]).await, "default");
    assert_eq!(ask(&[("accept-language", "de")]).await, "de 1");
    assert_eq!(ask(&[("accept-language", "en")]).await, "en 3");
    assert_eq!(ask(&[]).await, "default");
}

#[tokio::test]
async fn stale_if_error_serves_the_requested_variant() {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let failing = Arc::new(AtomicBool::new(false));
    let down = failing.clone();
    let (inner, _) = counting(move |request, call| match down.load(Ordering::SeqCst) {
        true => Response::builder().status(503).body(Plain::default()).expect("valid"),
        false => multilingual(request, call),
    });
    let rule = Rule::ttl(MINUTE).stale_if_error(MINUTE);
    let service = CacheLayer::new(store).rules(one_rule(rule)).layer(inner);
    let ask = async |language: &str| {
        let response = send(&service, asking("/t/a", &[("accept-language", language)])).await;
        (outcome(&response), response.status().as_u16(), text(response).await)
    };
    ask("en").await;
    ask("de").await;
    clock.advance(MINUTE);
    failing.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(ask("en").await, (Outcome::Stale(Stale::IfError), 200, "en 1".into()));
        assert_eq!(ask("de").await, (Outcome::Stale(Stale::IfError), 200, "de 2".into()));
        assert_eq!(ask("fr").await, (OTHER_VARIANT, 503, String::new()));
    }
}

#[tokio::test]
async fn invalidated_key_loses_all_variants() {
    let store = Memory::default();
    let rules = one_rule(Rule::ttl(MINUTE));
    let (inner, _) = counting(multilingual);
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
    let ask = async |language: &str| outcome(&send(&service, asking("/t/a", &[("accept-language", language)])).await);
    assert_eq!((ask("en").await, ask("de").await, ask("en").await), (ABSENT, OTHER_VARIANT, HIT));
    store.invalidate_key(&rules.key(&store, &get("/t/a")).expect("a key")).await.expect("memory answers");
    assert_eq!((ask("en").await, ask("de").await, ask("en").await), (ABSENT, OTHER_VARIANT, HIT));
}

/// A response that was selected by a request field is not for a request that differs in it, with or without `Vary`.
#[tokio::test]
async fn negotiated_response_is_not_shared_without_vary() {
    let cases: [(&str, &str, &str, &str, &str); 3] = [
        ("accept-encoding", "gzip, br", "identity", "content-encoding", "gzip"),
        ("accept-language", "de", "en", "content-language", "de"),
        ("origin", "https://a.example", "https://b.example", "access-control-allow-origin", "https://a.example"),
    ];
    for (asks, one, other, says, value) in cases {
        for (rule, plain_before) in [(Rule::ttl(MINUTE), 0), (Rule::ttl(MINUTE), 70), (Rule::http().default_ttl(MINUTE), 0)] {
            // The handler forgets `Vary`.
            let (inner, _) = counting(move |request, call| {
                let negotiated = request.headers().get(asks).is_some_and(|asked| asked == one);
                let fields: Vec<_> = negotiated.then_some((says, value)).into_iter().collect();
                answering(call.to_string(), &fields)
            });
            let service = CacheLayer::new(Memory::default()).rules(one_rule(rule)).layer(inner);
            for n in 0..plain_before {
                send(&service, get(&format!("/t/{n}"))).await;
            }
            let mut seen = Vec::new();
            for _ in 0..3 {
                for fields in [&[(asks, one)][..], &[(asks, other)], &[]] {
                    let response = send(&service, asking("/t/a", fields)).await;
                    let is_one = fields.first().is_some_and(|(_, value)| *value == one);
                    assert!(is_one || !response.headers().contains_key(says), "{asks}: {fields:?}");
                    seen.push(outcome(&response));
                }
            }
            assert_eq!(seen[6..], [HIT; 3], "{asks}, {plain_before} before");
        }
    }
}

/// A response that does not depend on request fields is shared by all requests.
#[tokio::test]
async fn response_that_was_not_negotiated_is_shared() {
    let fields = [
        ("content-encoding", "identity"),
        ("access-control-allow-origin", "*"),
        ("access-control-allow-origin", "https://c.example"),
    ];
    for field in fields {
        let (inner, calls) = counting(move |_, _| answering("a", &[field]));
        let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
        for asked in [("origin", "https://a.example"), ("accept-encoding", "gzip"), ("origin", "https://b.example")] {
            send(&service, asking("/t/a", &[asked])).await;
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1, "{field:?}");
    }
}
