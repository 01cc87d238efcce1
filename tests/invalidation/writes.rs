//! Invalidations by `InvalidateLayer`: which writes invalidate which namespaces, and when.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    task::Poll,
    time::{Duration, Instant},
};

use super::{memory, name, table};
use crate::common::*;
use http::{Method, Request, Response, StatusCode};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneService};
use tower_response_cache::{
    CacheBody, CacheLayer, CachePolicy, Identity, InvalidateLayer, Invalidations, Memory, Namespace, Outcome, Rule, Rules,
    Store, invalidate::Invalidation, status::Miss,
};

/// Reads through a cache and writes through an `InvalidateLayer` over the same store and rules.
struct App {
    store: Memory,
    read: BoxCloneService<Request<Plain>, Response<CacheBody<Plain>>, Infallible>,
    layer: InvalidateLayer,
}

impl App {
    fn new(rules: Rules) -> Self {
        let store = memory();
        let (inner, _) = counting(|_, call| ok(call.to_string()));
        let read = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner).boxed_clone();
        Self { layer: InvalidateLayer::new(store.clone()).rules(rules), store, read }
    }

    async fn filled(rules: Rules) -> Self {
        let app = Self::new(rules);
        send(&app.read, get("/t/a")).await;
        assert!(app.hits("/t/a").await);
        app
    }

    /// Returns whether the next read is a hit. The entry exists afterwards.
    async fn hits(&self, target: &str) -> bool {
        self.hits_with(get(target)).await
    }

    async fn hits_with(&self, request: Request<Plain>) -> bool {
        outcome(&send(&self.read, request).await) == Outcome::Hit
    }

    /// Returns whether a write with this response invalidates `/t/a`.
    async fn invalidates(&self, request: Request<Plain>, answer: Response<Plain>) -> bool {
        let answer = Arc::new(Mutex::new(Some(answer)));
        let inner = service_fn(move |_: Request<Plain>| {
            let answer = answer.lock().unwrap().take().expect("one call");
            async move { Ok::<_, Infallible>(answer) }
        });
        self.layer.layer(inner).oneshot(request).await.unwrap();
        !self.hits("/t/a").await
    }
}

fn request(method: &str, target: &str) -> Request<Plain> {
    Request::builder().method(method).uri(target).body(Plain::default()).unwrap()
}

fn status(status: u16) -> Response<Plain> {
    let mut response = ok("");
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn responding(invalidations: Invalidations) -> Response<Plain> {
    let mut response = ok("");
    response.extensions_mut().insert(invalidations);
    response
}

#[tokio::test(start_paused = true)]
async fn write_is_invalidated_before_its_response_leaves() {
    let app = App::filled(one_rule(table())).await;
    let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let mut write = begin(&app.layer.layer(inner), post("/t/a")).await;
    assert!(poll_once(&mut write).is_pending());
    let (_, answer) = handle.next_request().await.unwrap();
    assert!(app.hits("/t/a").await, "nothing is invalidated before the handler has responded");
    answer.send_response(ok(""));
    assert!(app.hits("/t/a").await);
    assert!(poll_once(&mut write).is_ready());
    // In the same turn of the scheduler.
    let Poll::Ready(read) = poll_once(&mut begin(&app.read, get("/t/a")).await) else { panic!("the service responds at once") };
    assert_eq!(outcome(&read.unwrap()), Outcome::Miss(Miss::Absent));
}

#[tokio::test(start_paused = true)]
async fn every_status_that_may_have_committed_invalidates() {
    for code in [200, 201, 204, 302, 303, 400, 404, 409, 422, 500, 502, 503] {
        let app = App::filled(one_rule(table())).await;
        assert!(app.invalidates(post("/t/a"), status(code)).await, "{code}");
        let app = App::filled(one_rule(table().skip_on_client_error())).await;
        let skipped = (400..500).contains(&code);
        assert_eq!(app.invalidates(post("/t/a"), status(code)).await, !skipped, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_or_panicked_write_invalidates() {
    let app = App::filled(one_rule(table())).await;
    let failing = app.layer.layer(service_fn(async |_: Request<Plain>| Err::<Response<Plain>, _>("away")));
    assert_eq!(failing.oneshot(post("/t/a")).await.unwrap_err(), "away");
    assert!(!app.hits("/t/a").await);

    let panicking = app.layer.layer(service_fn(async |request: Request<Plain>| {
        tokio::task::yield_now().await;
        assert!(request.uri().path().is_empty(), "the handler panics");
        Ok::<_, Infallible>(ok(""))
    }));
    tokio::spawn(panicking.oneshot(post("/t/a"))).await.unwrap_err();
    assert!(!app.hits("/t/a").await);

    let panicking_at_once = app.layer.layer(service_fn(|request: Request<Plain>| {
        assert!(request.uri().path().is_empty(), "the handler panics before it has a future");
        std::future::ready(Ok::<_, Infallible>(ok("")))
    }));
    tokio::spawn(panicking_at_once.oneshot(post("/t/a"))).await.unwrap_err();
    assert!(!app.hits("/t/a").await);
}

#[tokio::test(start_paused = true)]
async fn handler_of_a_lost_client_ends_before_the_invalidation() {
    for polled in [false, true] {
        let app = App::filled(one_rule(table())).await;
        let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let mut write = begin(&app.layer.layer(inner), post("/t/a")).await;
        if polled {
            assert!(poll_once(&mut write).is_pending());
        }
        let (_, commit) = handle.next_request().await.unwrap();
        drop(write);
        tokio::task::yield_now().await;
        assert!(app.hits("/t/a").await, "the handler has not committed");
        invalidates_after_commit(&app, || commit.send_response(ok(""))).await;
    }
}

/// Checks that an entry filled between the disconnect and the commit is invalidated by the commit.
async fn invalidates_after_commit(app: &App, commit: impl FnOnce()) {
    send(&app.read, get("/t/between")).await;
    app.store.invalidate(["table:a"]).await.unwrap();
    assert!(!app.hits("/t/a").await);
    assert!(app.hits("/t/a").await, "the entry was filled before the commit");
    let bumps = app.store.stats().invalidations;
    commit();
    until("the invalidation has happened", || app.store.stats().invalidations > bumps).await;
    assert!(!app.hits("/t/a").await);
    assert!(app.hits("/t/between").await);
}

#[test]
fn end_of_the_runtime_invalidates_at_once() {
    for polled in [false, true] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (app, write) = runtime.block_on(async {
            let app = App::filled(one_rule(table())).await;
            let never =
                app.layer.layer(service_fn(|_: Request<Plain>| std::future::pending::<Result<Response<Plain>, Infallible>>()));
            let mut write = begin(&never, post("/t/a")).await;
            if polled {
                let _ = poll_once(&mut write);
            }
            assert!(app.hits("/t/a").await);
            (app, write)
        });
        drop(runtime);
        drop(write);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert!(!runtime.block_on(app.hits("/t/a")), "polled: {polled}");
    }
}

#[tokio::test(start_paused = true)]
async fn handler_adds_to_or_replaces_its_rule() {
    let other = || post("/t/other");
    let app = App::filled(one_rule(table())).await;
    assert!(!app.invalidates(other(), ok("")).await);
    assert!(app.invalidates(other(), responding(Invalidations::also([name(&["table", "a"])]))).await);
    assert!(app.invalidates(post("/t/a"), responding(Invalidations::also([name(&["table", "b"])]))).await);
    assert!(!app.invalidates(post("/t/a"), responding(Invalidations::only([name(&["table", "b"])]))).await);
    assert!(app.invalidates(other(), responding(Invalidations::only([name(&["table"])]))).await);
    assert!(app.invalidates(other(), responding(Invalidations::try_only(["*"]).unwrap())).await);
    // On an uncovered route, with a rule that invalidates nothing, and with a skipped status.
    assert!(app.invalidates(post("/elsewhere"), responding(Invalidations::also([name(&["table", "a"])]))).await);
    assert!(!app.invalidates(post("/elsewhere"), ok("")).await);
    let app = App::filled(one_rule(table().invalidates_nothing().skip_on_client_error())).await;
    assert!(!app.invalidates(post("/t/a"), ok("")).await);
    let mut refused = responding(Invalidations::also([name(&["table", "a"])]));
    *refused.status_mut() = StatusCode::CONFLICT;
    assert!(app.invalidates(post("/t/a"), refused).await);
}

/// A GET whose response an inner cache has just stored counts, too: its namespaces are invalidated before the response leaves.
#[tokio::test(start_paused = true)]
async fn handler_of_a_get_invalidates_its_namespaces() {
    let app = App::filled(one_rule(table())).await;
    for method in ["GET", "HEAD", "OPTIONS"] {
        for invalidations in [Invalidations::also([name(&["table", "a"])]), Invalidations::only([name(&["table"])])] {
            assert!(app.invalidates(request(method, "/elsewhere"), responding(invalidations)).await, "{method}");
        }
        assert!(
            !app.invalidates(request(method, "/elsewhere"), responding(Invalidations::only([name(&["table", "b"])]))).await,
            "{method}"
        );
    }
    let store = memory();
    let inner = counting(|_, _| responding(Invalidations::also([name(&["seen"])]))).0;
    let cache = CacheLayer::new(store.clone()).rules(one_rule(table())).layer(inner);
    let service = InvalidateLayer::new(store.clone()).rules(one_rule(table())).layer(cache);
    let first = send(&service, get("/t/a")).await;
    assert_eq!(first.extensions().get::<Invalidation>(), Some(&Invalidation::Delivered));
    let hit = send(&service, get("/t/a")).await;
    assert_eq!((outcome(&hit), hit.extensions().get::<Invalidation>()), (Outcome::Hit, None), "a hit reports no invalidation");
    assert_eq!(store.stats().invalidations, 1);
}

#[tokio::test(start_paused = true)]
async fn rule_invalidates_for_its_methods_only() {
    let app = App::filled(one_rule(table().invalidates_on([Method::DELETE, Method::PUT], "table:{table}"))).await;
    assert!(!app.invalidates(post("/t/a"), ok("")).await);
    assert!(app.invalidates(request("DELETE", "/t/a"), ok("")).await);
    assert!(app.invalidates(request("PUT", "/t/a"), ok("")).await);
    // With a method override, the handler may see any of these methods.
    let mut overridden = post("/t/a");
    overridden.headers_mut().insert("x-http-method-override", "DELETE".parse().unwrap());
    assert!(app.invalidates(overridden, ok("")).await);

    let by = table().invalidates_by(|request, response| match response.headers.get("x-table") {
        Some(table) => vec![name(&["table", table.to_str().unwrap()])],
        None => vec![name(&["table", request.param("table")])],
    });
    let app = App::filled(one_rule(by)).await;
    assert!(app.invalidates(post("/t/a"), ok("")).await);
    let mut moved = ok("");
    moved.headers_mut().insert("x-table", "b".parse().unwrap());
    assert!(!app.invalidates(post("/t/a"), moved).await);
}

#[tokio::test(start_paused = true)]
async fn only_unsafe_methods_invalidate() {
    let app = App::filled(one_rule(table())).await;
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "PROPFIND", "REPORT", "SEARCH"] {
        assert!(!app.invalidates(request(method, "/t/a"), ok("")).await, "{method}");
        let mut overridden = request(method, "/t/a");
        overridden.headers_mut().insert("x-http-method-override", "PUT".parse().unwrap());
        assert!(app.invalidates(overridden, ok("")).await, "{method} as PUT");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "MKCOL", "get", "BREW"] {
        assert!(app.invalidates(request(method, "/t/a"), ok("")).await, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn soft_invalidation_leaves_a_stale_entry_and_hard_none() {
    let rule = table().stale_while_revalidate(MINUTE);
    for (soft, rule) in [(true, rule.clone().invalidates_softly()), (false, rule)] {
        let app = App::filled(one_rule(rule)).await;
        let (inner, _) = counting(|_, _| ok(""));
        send(&app.layer.layer(inner), post("/t/a")).await;
        let response = send(&app.read, get("/t/a")).await;
        assert_eq!(matches!(outcome(&response), Outcome::Stale(_)), soft);
        assert_eq!(matches!(outcome(&response), Outcome::Miss(_)), !soft);
    }
}

#[tokio::test(start_paused = true)]
async fn logout_invalidates_the_entries_of_its_token_only() {
    let me = Rule::ttl(MINUTE).identity(Identity::bearer()).namespace("auth:{identity}");
    let out = Rule::uncached().identity(Identity::bearer()).invalidates("auth:{identity}");
    let app = App::new(Rules::new().route("/me", me).route("/logout", out));
    let with = |mut request: Request<Plain>, token: &str| {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    };
    for token in ["ann", "bob"] {
        assert!(!app.hits_with(with(get("/me"), token)).await);
        assert!(app.hits_with(with(get("/me"), token)).await);
    }
    let (inner, _) = counting(|_, _| ok(""));
    send(&app.layer.layer(inner), with(post("/logout"), "ann")).await;
    assert!(app.hits_with(with(get("/me"), "bob")).await);
    assert!(!app.hits_with(with(get("/me"), "ann")).await);
    app.store.invalidate([name(&["auth", &app.store.identity("bob")])]).await.unwrap();
    assert!(!app.hits_with(with(get("/me"), "bob")).await);
}

/// A handler may use the first or the last credential. Browsers send a cookie twice if it was set for two paths.
#[tokio::test(start_paused = true)]
async fn write_with_two_identities_invalidates_both() {
    let twice: [(Identity, &str, [&str; 2]); 3] = [
        (Identity::bearer(), "authorization", ["Bearer ann", "Bearer bob"]),
        (Identity::header("x-api-key"), "x-api-key", ["ann", "bob"]),
        (Identity::cookie("session"), "cookie", ["session=ann", "session=bob; other=1"]),
    ];
    for (identity, field, values) in twice {
        let app = App::new(one_rule(Rule::ttl(MINUTE).identity(identity).namespace("auth:{identity}")));
        let with = |mut request: Request<Plain>, values: &[&str]| {
            values.iter().for_each(|value| _ = request.headers_mut().append(field, value.parse().unwrap()));
            request
        };
        for value in values {
            assert!(!app.hits_with(with(get("/t/me"), &[value])).await);
            assert!(app.hits_with(with(get("/t/me"), &[value])).await);
        }
        send(&app.layer.layer(counting(|_, _| ok("")).0), with(post("/t/me"), &values)).await;
        for value in values {
            assert!(!app.hits_with(with(get("/t/me"), &[value])).await, "{field}: {value}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn encoded_and_plain_parameters_invalidate_the_same() {
    for (read, written) in
        [("/t/orders", "/t/%6Frders"), ("/t/%6frders", "/t/orders"), ("/t/a:b", "/t/a%3Ab"), ("/t/caf%C3%A9", "/t/caf%c3%a9")]
    {
        let app = App::new(one_rule(table()));
        send(&app.read, get(read)).await;
        assert!(app.hits(read).await);
        let (inner, _) = counting(|_, _| ok(""));
        send(&app.layer.layer(inner), post(written)).await;
        assert!(!app.hits(read).await, "{read} after a write to {written}");
    }
}

/// The namespaces of the handler are invalidated even if the closure of the rule panics.
#[tokio::test]
async fn panicking_closure_keeps_the_namespaces_of_the_handler() {
    let rules = Rules::new().route("/t/{table}", Rule::uncached().invalidates_by(|_, _| panic!("a fault in the rule")));
    let store = Memory::default();
    let reads = CacheLayer::new(store.clone())
        .rules(one_rule(Rule::ttl(MINUTE).namespace("db:{table}")))
        .layer(counting(|_, _| ok("rows")).0);
    assert_eq!(outcome(&send(&reads, get("/t/a")).await), Outcome::Miss(Miss::Absent));
    let writes = InvalidateLayer::new(store).rules(rules).layer(service_fn(async |_: Request<Plain>| {
        let mut response = ok("");
        response.extensions_mut().insert(Invalidations::also([Namespace::of(["db", "a"])]));
        Ok::<_, std::convert::Infallible>(response)
    }));
    let written = tokio::spawn(async move { send(&writes, post("/t/a")).await.status() }).await;
    assert!(written.expect_err("the closure panics").is_panic());
    assert_eq!(outcome(&send(&reads, get("/t/a")).await), Outcome::Miss(Miss::Absent));
}

/// The names of a large import take time in proportion to their number, not to its square.
#[tokio::test]
async fn many_names_take_linear_time() {
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
    assert_eq!(outcome(&send(&service, get("/t/a")).await), Outcome::Miss(Miss::Absent));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

/// A handler may resolve the path of a POST to another route. A rule that reads by POST then says nothing about it.
#[tokio::test]
async fn post_that_may_be_a_write_is_no_read() {
    let reads = || Rule::ttl(MINUTE).reads_by_post();
    let writes = || Rule::uncached().invalidates("rows");
    let wildcard = Rules::new().route("/search/{*words}", reads()).route("/orders", writes());
    let fallback = Rules::new().route("/orders", writes()).fallback(reads());
    for (rules, target, is_read) in [
        (&wildcard, "/search/a", true),
        (&wildcard, "/search/../orders", false),
        (&fallback, "/other", true),
        (&fallback, "/orders/", false),
        (&fallback, "//orders", false),
        (&fallback, "/api/orders", false),
    ] {
        let rules = rules.clone().route("/t/{table}", Rule::ttl(MINUTE).namespace("rows"));
        let app = App::filled(rules).await;
        let (inner, _) = counting(|_, call| ok(call.to_string()));
        send(&app.layer.clone().layer(inner), post(target)).await;
        let has_invalidated = !app.hits("/t/a").await;
        assert!(has_invalidated || is_read, "{target}");
        assert!(!has_invalidated || !is_read, "{target}");
    }
}
