//! Requests of an attacker, and mistakes of handlers, that must cause no harm.

use std::sync::{Arc, Mutex};

use crate::backend::delegate_to;
use crate::common::{MINUTE, Plain, counting, get, ok, one_rule, outcome, send, text};
use http::{Request, Response, header};
use tower::Layer;
use tower_response_cache::{
    __private::{Backend, Entry, Fence, InvalidationKind, Lock, Namespaces, Put, StoreLookup},
    CacheLayer, Memory, Outcome, Rule, Store, StoreError,
    key::KeyRef,
    status::{Bypass, Miss},
};

const ABSENT: Outcome = Outcome::Miss(Miss::Absent);
const HIT: Outcome = Outcome::Hit;

fn with(mut request: Request<Plain>, fields: &[(&'static str, &'static str)]) -> Request<Plain> {
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().expect("a value"));
    }
    request
}

/// A handler that puts the host into its response: the last `Host`, or that of the target.
fn link(request: &Request<Plain>, _: usize) -> Response<Plain> {
    let field = request.headers().get_all(header::HOST).iter().next_back().and_then(|host| host.to_str().ok());
    let host = field.or(request.uri().host()).unwrap_or_default();
    ok(format!("https://{host}/reset"))
}

// ---- The host --------------------------------------------------------------------------------------------------------

/// RFC 9112, section 3.2.2: a server replaces `Host` by the authority of the target. hyper passes both.
#[tokio::test]
async fn host_field_contradicting_the_target_poisons_no_entry() {
    for attack in [
        with(get("http://bank.example/t/a"), &[("host", "evil.example")]),
        with(get("/t/a"), &[("host", "bank.example"), ("host", "evil.example")]),
        with(get("http://bank.example/t/a"), &[("host", "bank.example"), ("host", "evil.example")]),
    ] {
        let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(counting(link).0);
        assert_eq!(text(send(&service, attack).await).await, "https://evil.example/reset");
        let honest = send(&service, with(get("/t/a"), &[("host", "bank.example")])).await;
        assert_eq!(text(honest).await, "https://bank.example/reset");
    }
}

#[tokio::test]
async fn host_field_repeating_the_target_is_ignored() {
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(counting(link).0);
    let named = || with(get("/t/a"), &[("host", "bank.example")]);
    assert_eq!(outcome(&send(&service, named()).await), ABSENT);
    assert_eq!(outcome(&send(&service, named()).await), HIT);
    // A target with a scheme has another key than one without.
    assert_eq!(outcome(&send(&service, get("http://bank.example/t/a")).await), ABSENT);
    for same in [get("http://BANK.example/t/a"), with(get("http://bank.example/t/a"), &[("host", "Bank.Example")])] {
        assert_eq!(outcome(&send(&service, same).await), HIT);
    }
}

// ---- Secrets ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn api_key_users_without_an_identity_share_nothing() {
    for name in ["x-api-key", "proxy-authorization"] {
        let (inner, _) = counting(move |request, _| {
            ok(request.headers().get(name).map_or("nobody", |key| key.to_str().unwrap()).to_owned())
        });
        let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
        for user in ["alice", "bob"] {
            let response = send(&service, with(get("/t/a"), &[(name, user)])).await;
            assert_eq!(outcome(&response), Outcome::Bypass(Bypass::Credentials));
            assert_eq!(text(response).await, user);
        }
        assert_eq!(text(send(&service, get("/t/a")).await).await, "nobody");
    }
}

/// A store that records the keys of its calls.
#[derive(Debug, Clone)]
struct Spy {
    memory: Memory,
    keys: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Store for Spy {}

impl Backend for Spy {
    fn get_now(&self, key: KeyRef<'_>) -> Option<StoreLookup> {
        self.keys.lock().expect("no panic").push(key.canonical().to_vec());
        self.memory.get_now(key)
    }

    async fn get(&self, key: KeyRef<'_>, names: &Namespaces) -> Result<StoreLookup, StoreError> {
        self.memory.get(key, names).await
    }

    async fn put(&self, entry: Arc<Entry>, lock: Option<Lock>) -> Result<Put, StoreError> {
        self.keys.lock().expect("no panic").push(entry.key().canonical().to_vec());
        self.memory.put(entry, lock).await
    }

    async fn fence(&self, names: &Namespaces) -> Result<Fence, StoreError> {
        self.memory.fence(names).await
    }

    async fn bump(&self, names: &Namespaces, kind: InvalidationKind, fence: Option<Fence>) -> Result<(), StoreError> {
        self.memory.bump(names, kind, fence).await
    }

    delegate_to!(memory);
}

/// A response that varies by a secret does not bring it into the key, and its variants are still kept apart.
#[tokio::test]
async fn no_secret_enters_a_key_through_vary() {
    for name in ["authorization", "cookie", "x-api-key"] {
        let (inner, _) = counting(move |request, _| {
            let mut response = ok(request.headers()[name].as_bytes().to_vec());
            response.headers_mut().insert(header::VARY, name.parse().expect("a value"));
            response
        });
        let spy = Spy { memory: Memory::default(), keys: Arc::default() };
        let service = CacheLayer::new(spy.clone()).rules(one_rule(Rule::ttl(MINUTE).ignore_credentials())).layer(inner);
        // The second request finds the entry of another variant.
        for round in [[ABSENT, Outcome::Miss(Miss::Variant)], [HIT, HIT]] {
            for (secret, want) in ["Bearer hunter2-a", "Bearer hunter2-b"].into_iter().zip(round) {
                let response = send(&service, with(get("/t/a"), &[(name, secret)])).await;
                assert_eq!(outcome(&response), want, "{name}");
                assert_eq!(text(response).await, secret);
            }
        }
        for key in &*spy.keys.lock().expect("no panic") {
            assert!(!key.windows(7).any(|bytes| bytes == b"hunter2"), "{name}: {}", String::from_utf8_lossy(key));
        }
    }
}

/// The limit of the key length includes the fields of variants.
#[tokio::test]
async fn variants_count_toward_the_key_length() {
    let (inner, _) = counting(|_, _| {
        let mut response = ok("x");
        response.headers_mut().insert(header::VARY, "user-agent".parse().expect("a value"));
        response
    });
    let spy = Spy { memory: Memory::default(), keys: Arc::default() };
    let service = CacheLayer::new(spy.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let mut request = get("/t/a");
    request.headers_mut().insert(header::USER_AGENT, "x".repeat(60_000).parse().expect("a value"));
    send(&service, request).await;
    assert_eq!(spy.stats().entries, 0);
}

// ---- Paths -------------------------------------------------------------------------------------------------------------

/// A layer between the routers rewrites the path of each tenant, from a header.
#[cfg(feature = "axum")]
#[tokio::test]
async fn rewritten_path_is_in_the_key() {
    use axum::{Router, extract::Path, routing::get as read};
    use tower::util::MapRequestLayer;

    let tenant = |mut request: Request<axum::body::Body>| {
        let path = format!("/t/{}", request.headers()["x-tenant"].to_str().expect("text"));
        *request.uri_mut() = path.parse().expect("a path");
        request
    };
    let inner: Router = Router::new()
        .route("/t/{tenant}", read(async |Path(tenant): Path<String>| tenant))
        .layer(CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))));
    let app: Router = Router::new().fallback_service(MapRequestLayer::new(tenant).layer(inner));
    for tenant in ["a", "b"] {
        let request = Request::get("/home").header("x-tenant", tenant).body(axum::body::Body::empty()).expect("a request");
        assert_eq!(text(send(&app, request).await).await, tenant);
    }
}

/// One table is used inside and outside of a nested router: a write invalidates the entries of the reads.
#[cfg(feature = "axum")]
#[tokio::test]
async fn one_table_serves_both_sides_of_a_nested_router() {
    use axum::{Router, body::Body, routing::get as read};
    use tower_response_cache::{InvalidateLayer, Rules};

    use crate::common::outcome_in_extension;

    let rules = Rules::new().route("/api/t/{table}", Rule::ttl(MINUTE).namespace("db:{table}"));
    for (cache_inside, clear_inside) in [(false, false), (false, true), (true, false), (true, true)] {
        let store = Memory::default();
        let cache = || CacheLayer::new(store.clone()).rules(rules.clone()).status_extension(true);
        let clear = || InvalidateLayer::new(store.clone()).rules(rules.clone());
        let mut nested = Router::new().route("/t/{table}", read(async || "rows").post(async || "written"));
        nested = if cache_inside { nested.layer(cache()) } else { nested };
        nested = if clear_inside { nested.layer(clear()) } else { nested };
        let mut app: Router = Router::new().nest("/api", nested);
        app = if cache_inside { app } else { app.layer(cache()) };
        app = if clear_inside { app } else { app.layer(clear()) };
        let ask = |method: &str| {
            let request = Request::builder().method(method).uri("/api/t/a").body(Body::empty()).expect("a request");
            send(&app, request)
        };
        assert_eq!(outcome_in_extension(&ask("GET").await), Some(ABSENT));
        assert_eq!(outcome_in_extension(&ask("GET").await), Some(HIT));
        ask("POST").await;
        assert_eq!(
            outcome_in_extension(&ask("GET").await),
            Some(ABSENT),
            "inside: cache {cache_inside}, invalidation {clear_inside}"
        );
    }
}

// ---- Time ------------------------------------------------------------------------------------------------------------
