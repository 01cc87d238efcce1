//! Fields that proxies set, such as `X-Forwarded-Host` and `Forwarded`.

use super::{ABSENT, HIT};
use crate::common::{MINUTE, counting, get, ok, one_rule, outcome, post, send, text};
use http::{HeaderValue, Request};
use tower::Layer;
use tower_response_cache::{CacheLayer, InvalidateLayer, Memory, Outcome, Rule, Store, key::RequestView, status::Bypass};

/// Sends requests to a handler that returns each field that a proxy may have set.
async fn forwarded(rule: Rule, requests: &[&[(&'static str, &'static str)]]) -> Vec<(Outcome, String)> {
    let (inner, _) = counting(|request, _| {
        let seen = |name: &&str| request.headers().get_all(*name).iter().map(|value| format!("{value:?}")).collect::<Vec<_>>();
        ok(FORWARDING.iter().flat_map(seen).collect::<Vec<_>>().join(" "))
    });
    let service = CacheLayer::new(Memory::default()).rules(one_rule(rule)).layer(inner);
    let mut answers = Vec::new();
    for fields in requests {
        let mut request = get("/t/a");
        fields.iter().for_each(|(name, value)| {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        });
        let response = send(&service, request).await;
        answers.push((outcome(&response), text(response).await));
    }
    answers
}

const FORWARDING: [&str; 14] = [
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-original-url",
    "x-rewrite-url",
    "x-host",
    "x-forwarded-scheme",
    "x-forwarded-ssl",
    "x-forwarded-server",
    "x-scheme",
    "x-original-host",
    "x-http-host-override",
    "forwarded",
];

#[tokio::test]
async fn response_for_forwarding_fields_serves_equal_fields_only() {
    for rule in
        [Rule::ttl(MINUTE), Rule::http().default_ttl(MINUTE), Rule::ttl(MINUTE).key(|_: &RequestView<'_>| Some(String::new()))]
    {
        for name in FORWARDING {
            let value = if name == "forwarded" { "host=evil.test" } else { "evil.test" };
            let other = if name == "forwarded" { "host=a.test" } else { "a.test" };
            let requests: [&[_]; 6] =
                [&[(name, value)], &[], &[(name, other)], &[(name, value)], &[(name, value), (name, other)], &[]];
            let got = forwarded(rule.clone(), &requests).await;
            let outcomes: Vec<_> = got.iter().map(|(outcome, _)| *outcome).collect();
            assert_eq!(outcomes, [ABSENT, ABSENT, ABSENT, HIT, ABSENT, HIT], "{name}");
            assert_eq!(got[1].1, "", "{name}");
            assert_eq!(got[0].1, got[3].1, "{name}");
        }
    }
}

#[tokio::test]
async fn client_address_fields_are_not_in_the_key() {
    let requests: [&[_]; 4] = [
        &[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")],
        &[("x-forwarded-for", "192.0.2.2"), ("x-forwarded-proto", "https")],
        &[("forwarded", "for=192.0.2.1;proto=https")],
        &[("forwarded", "for=192.0.2.2;by=192.0.2.9;proto=https")],
    ];
    let outcomes: Vec<_> = forwarded(Rule::ttl(MINUTE), &requests).await.into_iter().map(|(outcome, _)| outcome).collect();
    assert_eq!(outcomes, [ABSENT, HIT, ABSENT, HIT]);
}

#[tokio::test]
async fn more_than_eight_forwarding_fields_bypass() {
    let many = [("x-forwarded-host", "a.test"); 9];
    let requests: [&[_]; 4] = [&many[..8], &many[..8], &many, &many[..7]];
    let got = forwarded(Rule::ttl(MINUTE), &requests).await;
    let outcomes: Vec<_> = got.into_iter().map(|(outcome, _)| outcome).collect();
    assert_eq!(outcomes, [ABSENT, HIT, Outcome::Bypass(Bypass::Forwarding), ABSENT]);
}

#[tokio::test]
async fn rule_ignoring_forwarded_shares_one_entry() {
    let requests: [&[_]; 3] = [&[("x-forwarded-host", "a.test")], &[("forwarded", "host=b.test")], &[]];
    let got = forwarded(Rule::ttl(MINUTE).ignore_forwarded(), &requests).await;
    assert_eq!(got.into_iter().map(|(outcome, _)| outcome).collect::<Vec<_>>(), [ABSENT, HIT, HIT]);
}

#[tokio::test]
async fn write_invalidates_for_all_forwarding_fields() {
    let store = Memory::default();
    let rules = one_rule(Rule::http().default_ttl(MINUTE));
    let (inner, _) = counting(|_, call| ok(format!("call {call}")));
    let service =
        (CacheLayer::new(store.clone()).rules(rules.clone()), InvalidateLayer::new(store.clone()).rules(rules.clone()));
    let service = service.layer(inner);
    let read = async |host: Option<&'static str>| {
        let mut request = get("/t/a");
        if let Some(host) = host {
            request.headers_mut().insert("x-forwarded-host", HeaderValue::from_static(host));
        }
        outcome(&send(&service, request).await)
    };
    let hosts = [None, Some("a.test"), Some("b.test")];
    for host in hosts {
        assert_eq!(read(host).await, ABSENT);
        assert_eq!(read(host).await, HIT);
    }
    let mut write = post("/t/a");
    write.headers_mut().insert("x-forwarded-host", HeaderValue::from_static("b.test"));
    send(&service, write).await;
    for host in hosts {
        assert!(matches!(read(host).await, Outcome::Miss(_)), "{host:?} after a write");
        assert_eq!(read(host).await, HIT);
    }
    // A key is invalidated for the forwarding fields of every client.
    let request = Request::get("/t/a").header("x-forwarded-host", "c.test").body(()).expect("a request");
    store.invalidate_key(&rules.key(&store, &request).expect("a key")).await.expect("memory is reachable");
    for host in hosts {
        assert!(matches!(read(host).await, Outcome::Miss(_)), "{host:?} after its key was invalidated");
    }
}
