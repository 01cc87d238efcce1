//! Identities and credentials of requests.

use std::sync::atomic::Ordering;

use super::{ABSENT, CREDENTIALS, EXTRACTOR, HIT, MISSING, REPEATED, outcomes};
use crate::common::{MINUTE, counting, get, ok, one_rule, outcome, send};
use http::HeaderValue;
use tower::Layer;
use tower_response_cache::{
    CacheLayer, Identity, KeyExtractor, Memory, RouteAndQuery, Rule, Rules, Store,
    key::{Cookie, CredentialFields, RequestView},
};

#[tokio::test]
async fn credentials_without_an_identity_bypass() {
    let requests: [&[(&str, &str)]; 5] =
        [&[], &[("authorization", "Bearer a")], &[("cookie", "a=b")], &[("authorization", "")], &[]];
    let got = outcomes(Rule::ttl(MINUTE), &requests).await;
    assert_eq!(got, [ABSENT, CREDENTIALS, CREDENTIALS, CREDENTIALS, HIT]);
    let got = outcomes(Rule::ttl(MINUTE).ignore_credentials(), &requests).await;
    assert_eq!(got, [ABSENT, HIT, HIT, HIT, HIT]);
    let got = outcomes(Rule::ttl(MINUTE).ignore_cookies(), &requests).await;
    assert_eq!(got, [ABSENT, CREDENTIALS, HIT, CREDENTIALS, HIT]);
    // A cookie distinguishes variants, not users.
    let got = outcomes(Rule::ttl(MINUTE).key(Cookie::new("a")), &requests[2..3]).await;
    assert_eq!(got, [CREDENTIALS]);
}

#[tokio::test]
async fn bearer_has_its_own_entry_and_other_credentials_bypass() {
    let rule = || Rule::ttl(MINUTE).identity(Identity::bearer());
    let got = outcomes(
        rule(),
        &[
            &[("authorization", "Bearer a")],
            &[("authorization", "bearer  a ")],
            &[("authorization", "Bearer b")],
            &[("authorization", "Bearer A")],
            &[("authorization", "Basic a")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
            &[("cookie", "session=a")],
            &[],
            &[],
        ],
    )
    .await;
    let own = [ABSENT, HIT, ABSENT, ABSENT];
    let others = [CREDENTIALS, CREDENTIALS, CREDENTIALS, REPEATED, CREDENTIALS];
    assert_eq!(got, [&own[..], &others[..], &[ABSENT, HIT]].concat());
    let got = outcomes(rule().key(RouteAndQuery.and(Identity::bearer().required())), &[&[], &[]]).await;
    assert_eq!(got, [MISSING, MISSING]);
}

#[tokio::test]
async fn cookie_identifies_a_user_only_if_sent_once() {
    let got = outcomes(
        Rule::ttl(MINUTE).identity(Identity::cookie("session")),
        &[
            &[("cookie", "a=b; session=1")],
            &[("cookie", "session=1")],
            &[("cookie", "a=b"), ("cookie", "session=1 ; c=d")],
            &[("cookie", "session=2")],
            &[("cookie", "session=1; session=2")],
            &[("cookie", "session=1"), ("cookie", "session=1")],
            &[("cookie", "Session=1")],
            &[("authorization", "Bearer x")],
            &[],
            &[],
        ],
    )
    .await;
    assert_eq!(got, [ABSENT, HIT, HIT, ABSENT, REPEATED, REPEATED, CREDENTIALS, CREDENTIALS, ABSENT, HIT]);
}

#[tokio::test]
async fn repeated_identity_is_never_anonymous() {
    let twice: &[(&str, &str)] = &[("x-api-key", "a"), ("x-api-key", "b")];
    let got = outcomes(Rule::ttl(MINUTE).identity(Identity::header("x-api-key")), &[twice, &[], &[("x-api-key", "a")]]).await;
    assert_eq!(got, [REPEATED, ABSENT, ABSENT]);
    let twice: &[(&str, &str)] = &[("cookie", "session=a; session=b")];
    let ignoring = Rule::ttl(MINUTE).identity(Identity::cookie("session")).ignore_credentials();
    assert_eq!(outcomes(ignoring, &[twice, &[]]).await, [REPEATED, ABSENT]);
}

#[tokio::test]
async fn repeated_cookie_is_never_absent() {
    let twice: &[(&str, &str)] = &[("cookie", "lang=de; lang=en")];
    let rule = Rule::ttl(MINUTE).key(Cookie::new("lang")).ignore_credentials();
    assert_eq!(outcomes(rule, &[twice, &[], &[("cookie", "lang=de")]]).await, [EXTRACTOR, ABSENT, ABSENT]);
}

#[tokio::test]
async fn closure_identifies_the_user() {
    let by = |request: &RequestView<'_>| request.headers().get("x-user").map(|user| user.to_str().expect("text").to_owned());
    let requests: [&[(&str, &str)]; 5] =
        [&[("x-user", "1")], &[("x-user", "2")], &[("x-user", "1"), ("cookie", "a=b")], &[], &[("cookie", "a=b")]];
    let got = outcomes(Rule::ttl(MINUTE).identity(Identity::by(by)), &requests).await;
    assert_eq!(got, [ABSENT, ABSENT, HIT, ABSENT, CREDENTIALS]);
    let got = outcomes(Rule::ttl(MINUTE).identity(Identity::by(by).required()), &requests).await;
    assert_eq!(got, [ABSENT, ABSENT, HIT, MISSING, MISSING]);
}

#[tokio::test]
async fn identity_of_the_store_names_the_namespace() {
    let store = Memory::default();
    let (inner, calls) = counting(|_, _| ok("x"));
    let rule = Rule::ttl(MINUTE).identity(Identity::bearer()).namespace("auth:user:{identity}");
    let service = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(inner);
    let request = |token: &str| {
        let mut request = get("/t/a");
        request.headers_mut().insert("authorization", HeaderValue::from_str(&format!("Bearer {token}")).expect("valid"));
        request
    };
    for token in ["a", "b"] {
        send(&service, request(token)).await;
    }
    store.invalidate([format!("auth:user:{}", store.identity("a"))]).await.expect("valid");
    assert_eq!(outcome(&send(&service, request("a")).await), ABSENT);
    assert_eq!(outcome(&send(&service, request("b")).await), HIT);
    send(&service, get("/t/a")).await;
    store.invalidate(["auth:user:anonymous"]).await.expect("valid");
    assert_eq!(outcome(&send(&service, get("/t/a")).await), ABSENT);
    assert_eq!(calls.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn listed_credential_fields_bypass_without_an_identity() {
    let named = ["x-auth-token", "ApiKey", "Api-Key", "X-Access-Token", "Private-Token", "Cf-Access-Jwt-Assertion"];
    let list = CredentialFields::default();
    let names = list.names().map(str::to_owned).chain(named.map(str::to_owned));
    for name in names {
        let field: &[(&str, &str)] = &[(&name, "secret")];
        let got = outcomes(Rule::ttl(MINUTE), &[&[], field, &[]]).await;
        assert_eq!(got, [ABSENT, CREDENTIALS, HIT], "{name}");
    }
}

#[tokio::test]
async fn application_changes_the_credential_fields() {
    let fields = CredentialFields::default().with(["x-tenant-token", "Accept"]).without(["X-Api-Key", "cookie"]);
    let rules = Rules::new().route("/t/{table}", Rule::ttl(MINUTE)).credential_fields(fields);
    let (inner, _) = counting(|_, call| ok(format!("call {call}")));
    let service = CacheLayer::new(Memory::default()).rules(rules).layer(inner);
    for (name, want) in [
        ("x-request-id", ABSENT),
        ("x-tenant-token", CREDENTIALS),
        ("accept", CREDENTIALS),
        ("authorization", CREDENTIALS),
        ("x-api-key", HIT),
        ("cookie", HIT),
    ] {
        let mut request = get("/t/a");
        request.headers_mut().insert(name, HeaderValue::from_static("a"));
        assert_eq!(outcome(&send(&service, request).await), want, "{name}");
    }
}
