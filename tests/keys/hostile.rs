//! What a hostile request, or a handler that means well, must not bring about.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::common::{MINUTE, Plain, counting, get, mocked, next_call, ok, one_rule, outcome, post, send, text};
use http::{Request, Response, header};
use tower::{Layer, service_fn};
use tower_response_cache::{
    Bypass, CacheLayer, CachePolicy, Context, Entry, Fence, InvalidateLayer, InvalidationKind, Invalidations, KeyRef, Lock,
    Memory, Miss, Namespace, Namespaces, Outcome, Put, Rule, Rules, RulesErrorKind, Stamp, Store, StoreError, StoreLookup,
    Usage, Validity,
};

const ABSENT: Outcome = Outcome::Miss(Miss::Absent);
const HIT: Outcome = Outcome::Hit;

fn with(mut request: Request<Plain>, fields: &[(&'static str, &'static str)]) -> Request<Plain> {
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().expect("a value"));
    }
    request
}

/// What a handler makes of the host that it is asked under: it takes the last `Host`, or else the target's.
fn link(request: &Request<Plain>, _: usize) -> Response<Plain> {
    let field = request.headers().get_all(header::HOST).iter().next_back().and_then(|host| host.to_str().ok());
    let host = field.or(request.uri().host()).unwrap_or_default();
    ok(format!("https://{host}/reset"))
}

// ---- The host --------------------------------------------------------------------------------------------------------

/// RFC 9112, section 3.2.2, has a server put the target's authority in the place of `Host`; hyper hands on both.
#[tokio::test]
async fn a_host_field_that_contradicts_the_target_poisons_nobody() {
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
async fn a_host_field_that_repeats_the_target_is_the_same_request() {
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(counting(link).0);
    let named = || with(get("/t/a"), &[("host", "bank.example")]);
    assert_eq!(outcome(&send(&service, named()).await), ABSENT);
    assert_eq!(outcome(&send(&service, named()).await), HIT);
    // One with a scheme is another than one without.
    assert_eq!(outcome(&send(&service, get("http://bank.example/t/a")).await), ABSENT);
    for same in [get("http://BANK.example/t/a"), with(get("http://bank.example/t/a"), &[("host", "Bank.Example")])] {
        assert_eq!(outcome(&send(&service, same).await), HIT);
    }
}

// ---- Secrets ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn who_signs_in_with_an_api_key_gets_nothing_of_anothers_without_an_identity_in_the_key() {
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

/// A store that remembers what keys it was given.
#[derive(Debug, Clone)]
struct Spy {
    memory: Memory,
    keys: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Store for Spy {
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

    fn bump_now(&self, names: &Namespaces) {
        self.memory.bump_now(names);
    }

    fn life(&self, stamp: &Stamp, names: &Namespaces) -> Validity {
        self.memory.life(stamp, names)
    }

    fn context(&self) -> &Context {
        self.memory.context()
    }

    fn usage(&self) -> Usage {
        self.memory.usage()
    }
}

/// Those who vary by a secret do not bring it into the key, and are kept apart by it all the same.
#[tokio::test]
async fn no_secret_enters_a_key_by_way_of_vary() {
    for name in ["authorization", "cookie", "x-api-key"] {
        let (inner, _) = counting(move |request, _| {
            let mut response = ok(request.headers()[name].as_bytes().to_vec());
            response.headers_mut().insert(header::VARY, name.parse().expect("a value"));
            response
        });
        let spy = Spy { memory: Memory::default(), keys: Arc::default() };
        let service = CacheLayer::new(spy.clone()).rules(one_rule(Rule::ttl(MINUTE).ignore_credentials())).layer(inner);
        // The second finds that what is stored is another's.
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

/// The bound on a key holds with what its variants add.
#[tokio::test]
async fn a_variant_does_not_make_a_key_longer_than_a_key_may_be() {
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
    assert_eq!(spy.usage().entries, 0);
}

// ---- Identity of paths -----------------------------------------------------------------------------------------------

/// A layer between the routers gives each tenant a path of its own, from a header.
#[cfg(feature = "axum")]
#[tokio::test]
async fn a_path_that_was_rewritten_on_the_way_is_in_the_key() {
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

/// The same table inside and outside of a nested router: a write clears what the reads have filled.
#[cfg(feature = "axum")]
#[tokio::test]
async fn one_table_serves_a_layer_on_either_side_of_a_nested_router() {
    use axum::{Router, body::Body, routing::get as read};

    let rules = Rules::new().route("/api/t/{table}", Rule::ttl(MINUTE).namespace("db:{table}"));
    for (cache_inside, clear_inside) in [(false, false), (false, true), (true, false), (true, true)] {
        let store = Memory::default();
        let cache = || CacheLayer::new(store.clone()).rules(rules.clone());
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
        assert_eq!(outcome(&ask("GET").await), ABSENT);
        assert_eq!(outcome(&ask("GET").await), HIT);
        ask("POST").await;
        assert_eq!(outcome(&ask("GET").await), ABSENT, "inside: cache {cache_inside}, invalidation {clear_inside}");
    }
}

// ---- Rules -----------------------------------------------------------------------------------------------------------

/// What axum's router wrote so before 0.8 and refuses now would be a literal that matches no request.
#[test]
fn a_parameter_in_the_old_notation_is_refused() {
    for (pattern, instead) in [("/users/:id", "`{id}`"), ("/files/*path", "`{*path}`"), ("/:a/b", "`{a}`")] {
        let error = Rules::new().try_route(pattern, Rule::ttl(MINUTE)).expect_err(pattern);
        assert_eq!(error.kind(), RulesErrorKind::Pattern);
        assert!(error.to_string().contains(pattern) && error.to_string().contains(instead), "{error}");
    }
    assert!(Rules::new().try_route("/a:b/c*", Rule::ttl(MINUTE)).is_ok());
}

/// What the handler has named is cleared, whatever becomes of the rule's own closure.
#[tokio::test]
async fn a_closure_that_panics_loses_nothing_of_what_the_handler_names() {
    let rules = Rules::new().route("/t/{table}", Rule::uncached().invalidates_by(|_, _| panic!("a fault in the rule")));
    let store = Memory::default();
    let reads =
        CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE).namespace("db:{table}"))).layer(counting(link).0);
    assert_eq!(outcome(&send(&reads, get("/t/a")).await), ABSENT);
    let writes = InvalidateLayer::new(store).rules(rules).layer(service_fn(async |_: Request<Plain>| {
        let mut response = ok("");
        response.extensions_mut().insert(Invalidations::also([Namespace::of(["db", "a"])]));
        Ok::<_, std::convert::Infallible>(response)
    }));
    let written = tokio::spawn(async move { send(&writes, post("/t/a")).await.status() }).await;
    assert!(written.expect_err("the closure panics").is_panic());
    assert_eq!(outcome(&send(&reads, get("/t/a")).await), ABSENT);
}

// ---- Names -----------------------------------------------------------------------------------------------------------

/// The rows of a large import: what they cost grows with their number, not with its square.
#[tokio::test]
async fn many_names_take_time_in_proportion() {
    let names = |n: usize| (0..n).map(|row| Namespace::of(["row", &row.to_string()])).collect::<Vec<_>>();
    let many = names(100_000);
    let began = Instant::now();
    Memory::default().invalidate(many.clone()).await.expect("memory can");
    let writes = InvalidateLayer::new(Memory::default()).layer(service_fn(move |_: Request<Plain>| {
        let mut response = ok("");
        response.extensions_mut().insert(Invalidations::only(many.clone()));
        std::future::ready(Ok::<_, std::convert::Infallible>(response))
    }));
    send(&writes, post("/t/a")).await;

    let many = names(100_000);
    let (inner, _) = counting(move |_, _| {
        let mut response = ok("");
        response.extensions_mut().insert(many.iter().cloned().fold(CachePolicy::new(), CachePolicy::namespace));
        response
    });
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    assert_eq!(outcome(&send(&service, get("/t/a")).await), ABSENT);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

// ---- Time ------------------------------------------------------------------------------------------------------------

/// The limit counts from when the last of them has left, not from when the fill moved to a task.
#[tokio::test(start_paused = true)]
async fn a_fill_has_its_whole_limit_from_when_nobody_is_left() {
    let layer = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).fill_limit(MINUTE);
    let (service, mut handle) = mocked::<Plain>(&layer);
    let ask = || {
        let service = service.clone();
        tokio::spawn(async move { send(&service, get("/t/a")).await })
    };
    let first = ask();
    let (_, call) = next_call(&mut handle).await;
    let second = ask();
    tokio::time::sleep(MINUTE - Duration::from_secs(1)).await;
    first.abort();
    second.abort();
    tokio::time::sleep(Duration::from_secs(2)).await;
    call.send_response(ok("in time"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let again = tokio::time::timeout(MINUTE, send(&service, get("/t/a"))).await.expect("the fill was given up too early");
    assert_eq!(outcome(&again), HIT);
}
