//! Rules: what is refused when a table is built, and how long what is stored lives.

use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe},
    sync::{Once, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use crate::common::{Handle, MINUTE, Plain, SECOND, counting, get, mocked, next_call, ok, one_rule, outcome, send, text};
use http::{HeaderValue, Request, Response, StatusCode};
use tower::Layer;
use tower_response_cache::{
    BoxError, CacheLayer, CacheService, Clock, Identity, Memory, Miss, NoStore, Outcome, Rule, Rules, RulesErrorKind, Stale,
    Store, Storing,
};
use tower_test::mock;

const ABSENT: Outcome = Outcome::Miss(Miss::Absent);
const EXPIRED: Outcome = Outcome::Miss(Miss::Expired);
const HIT: Outcome = Outcome::Hit;
const REVALIDATING: Outcome = Outcome::Stale(Stale::WhileRevalidate);
const FAILING: Outcome = Outcome::Stale(Stale::IfError);

// ---- What is refused -------------------------------------------------------------------------------------------------

fn rule() -> Rule {
    Rule::ttl(MINUTE)
}

/// Every fault that a table can have: the route, its rule, what sort of fault it is, and words that its text must have.
fn refused() -> Vec<(&'static str, Rule, RulesErrorKind, &'static [&'static str])> {
    use RulesErrorKind::{Namespace, Overlap, Parameter, Pattern, Setting};
    let table = "/t/{table}";
    let names = |n: usize| (0..n).fold(rule(), |rule, n| rule.namespace(&format!("n{n}")));
    let status = |status: u16| rule().status(StatusCode::from_u16(status).expect("a status"), MINUTE);
    vec![
        ("", rule(), Pattern, &["\"\"", "begins with `/`", "/tables/{table}"]),
        ("tables/{t}", rule(), Pattern, &["tables/{t}", "begins with `/`"]),
        ("/t/{", rule(), Pattern, &["/t/{", "`{name}`"]),
        ("/t/{}", rule(), Pattern, &["`{name}` or `{*name}`"]),
        ("/t/a}", rule(), Pattern, &["`{{` and `}}`"]),
        ("/t/{*rest}/more", rule(), Pattern, &["/t/{*rest}/more", "at the end"]),
        ("/t/{a}{b}", rule(), Pattern, &["more than one parameter"]),
        ("/there/{other}", rule(), Overlap, &["/there/{other}", "overlaps with", "/there/{name}"]),
        ("/there/{name}", rule(), Overlap, &["overlaps with"]),
        ("/there", rule(), Overlap, &["\"/there\"", "overlaps with"]),
        (
            table,
            rule().namespace("db:{nope}"),
            Parameter,
            &["/t/{table}", "db:{nope}", "no parameter `{nope}`", "`{table}`, `{identity}`"],
        ),
        (table, rule().namespace("{Table}"), Parameter, &["`{Table}`"]),
        (table, rule().namespace("db:{identity}"), Parameter, &["holds no identity", "Identity::bearer()"]),
        (table, rule().namespace("db:{table"), Parameter, &["brace has no partner"]),
        (table, rule().namespace("db:table}"), Parameter, &["brace has no partner"]),
        (table, rule().namespace("db:{}"), Parameter, &["no parameter `{}`"]),
        (table, rule().invalidates("db:{nope}"), Parameter, &["db:{nope}", "`{table}`"]),
        (table, rule().invalidates_on([http::Method::POST], "a::b"), Namespace, &["a::b", "empty level"]),
        (table, rule().namespace(""), Namespace, &["\"\"", "is empty", "`*` for everything"]),
        (table, rule().namespace("a::{table}"), Namespace, &["a::{table}", "empty level"]),
        (table, rule().namespace("a:"), Namespace, &["empty level"]),
        (table, rule().namespace(":a"), Namespace, &["empty level"]),
        (table, rule().namespace("a b"), Namespace, &["white space"]),
        (table, rule().namespace("a\u{7}"), Namespace, &["control character"]),
        (table, rule().namespace("a:*"), Namespace, &["`*`"]),
        (table, rule().namespace(&"n".repeat(201)), Namespace, &["longer than 200 bytes"]),
        (table, rule().namespace(&["{table}"; 4].join(":")), Namespace, &["259 bytes", "200 are allowed"]),
        (table, rule().namespace("a:b:c:d:e:f:g:h"), Namespace, &["7 levels"]),
        (table, names(129), Namespace, &["129 namespaces", "at most 128"]),
        (table, names(128).namespace("a:b:c"), Namespace, &["129 namespaces"]),
        (table, status(100), Setting, &["100", "cannot be stored"]),
        (table, status(199), Setting, &["199"]),
        (table, status(206), Setting, &["206"]),
        (table, status(304), Setting, &["304"]),
        (table, rule().jitter(1.5), Setting, &["jitter is 1.5", "from 0 to 1"]),
        (table, rule().jitter(-0.5), Setting, &["jitter is -0.5"]),
        (table, rule().jitter(f64::NAN), Setting, &["jitter is NaN"]),
        (table, rule().refresh_ahead(-1.0), Setting, &["early_refresh is -1"]),
        (table, rule().refresh_ahead(f64::NAN), Setting, &["early_refresh is NaN"]),
        (table, rule().refresh_ahead(f64::INFINITY), Setting, &["early_refresh is inf"]),
    ]
}

fn there() -> Rules {
    Rules::new().route("/there/{name}", rule()).route("/there", rule())
}

#[test]
fn what_cannot_be_is_refused_and_the_text_says_which_and_why() {
    for (pattern, rule, kind, words) in refused() {
        let shown = format!("{pattern} {rule:?}");
        let error = there().try_route(pattern, rule).expect_err(&shown);
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{shown}: {text}");
        assert!(text.contains(&format!("route {pattern:?}")), "{shown}: {text}");
        for word in words {
            assert!(text.contains(word), "{shown}: {text:?} lacks {word:?}");
        }
    }
}

thread_local! {
    /// Where the last panic of this thread was, as its hook saw it.
    static PLACE: RefCell<Option<(String, u32)>> = const { RefCell::new(None) };
}

/// The message of a panic, and the file and line that it names.
fn panicked<T>(work: impl FnOnce() -> T) -> (String, (String, u32)) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map(|place| (place.file().to_owned(), place.line()));
            PLACE.with(|last| *last.borrow_mut() = place);
            before(info);
        }));
    });
    let refused = panic::catch_unwind(AssertUnwindSafe(|| drop(work()))).expect_err("a panic");
    let text = match refused.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => (*other.downcast::<&str>().expect("a message")).to_owned(),
    };
    (text, PLACE.with(|last| last.borrow().clone()).expect("a place"))
}

#[test]
fn a_table_that_cannot_be_panics_with_the_same_text_at_the_line_of_who_wrote_it() {
    for (pattern, rule, _, _) in refused() {
        let told = there().try_route(pattern, rule.clone()).expect_err(pattern).to_string();
        let (by_rules, place) = (panicked(|| there().route(pattern, rule.clone())), (file!().to_owned(), line!()));
        assert_eq!(by_rules, (told.clone(), place));
        let layer = CacheLayer::new(Memory::new(64 << 10)).rules(there());
        let (by_layer, place) = (panicked(|| layer.route(pattern, rule.clone())), (file!().to_owned(), line!()));
        assert_eq!(by_layer, (told, place));
    }
}

#[test]
fn a_rule_without_a_route_knows_no_parameter() {
    let layer = || CacheLayer::new(Memory::new(64 << 10));
    let faulty = || rule().namespace("db_query:{table}");
    let error = layer().try_rule(faulty()).expect_err("no route");
    assert_eq!(error.kind(), RulesErrorKind::Parameter);
    let told = error.to_string();
    for word in ["rule without a route", "db_query:{table}", ".route(\"/…/{table}\", rule)", "`{identity}`"] {
        assert!(told.contains(word), "{told:?} lacks {word:?}");
    }
    let (by_layer, place) = (panicked(|| layer().rule(faulty())), (file!().to_owned(), line!()));
    assert_eq!(by_layer, (told.clone(), place));
    let (by_rules, place) = (panicked(|| Rules::new().fallback(faulty())), (file!().to_owned(), line!()));
    assert_eq!(by_rules, (told, place));
    assert!(layer().try_rule(rule().identity(Identity::bearer()).namespace("user:{identity}")).is_ok());
}

#[test]
fn what_is_at_the_edge_of_the_possible_is_taken() {
    let names = (0..7).fold(rule(), |rule, n| rule.namespace(&format!("n{n}")));
    for (pattern, rule) in [
        ("/", rule()),
        ("/v{version}/{*rest}", rule().namespace("{version}:{rest}")),
        ("/{{literal}}", rule()),
        ("/a", names),
        ("/b", rule().namespace("a:b:c:d:e:f:g")),
        ("/c/{a}", rule().namespace(&format!("{}:{{a}}", "n".repeat(135)))),
        ("/d", rule().namespace("*").namespace("käse:brot")),
        ("/e", rule().jitter(0.0).jitter(1.0).refresh_ahead(0.0).refresh_ahead(f64::MAX)),
        ("/f", Rule::ttl(Duration::MAX).stale_while_revalidate(Duration::MAX).stale_if_error(Duration::MAX)),
        ("/g/{a}", rule().identity(Identity::bearer()).namespace("{identity}:{a}")),
    ] {
        if let Err(error) = Rules::new().try_route(pattern, rule) {
            panic!("{pattern}: {error}");
        }
    }
}

#[test]
fn a_name_that_cache_status_cannot_carry_is_refused() {
    let layer = || CacheLayer::new(Memory::new(64 << 10));
    for name in ["", "my cache", "1st", "a;b", "a\"", "käse", "a\n", "-a"] {
        let (text, place) = panicked(|| layer().cache_status(name));
        assert!(text.contains("Cache-Status") && text.contains(&format!("{name:?}")), "{text}");
        assert_eq!(place.0, file!());
    }
    for name in ["a", "Edge-1.example", "a_b"] {
        let _ = layer().cache_status(name);
    }
}

#[test]
fn of_routes_that_match_the_most_specific_counts() {
    let store = Memory::new(64 << 10);
    let fixed = |name: &'static str| rule().key(move |_: &tower_response_cache::RequestView<'_>| Some(name.to_owned()));
    let rules =
        Rules::new().route("/t/{table}", fixed("table")).route("/t/orders", fixed("orders")).route("/{*all}", fixed("all"));
    for (target, route) in [("/t/a", "table"), ("/t/orders", "orders"), ("/t/a/b", "all"), ("/x", "all")] {
        let key = rules.key(&store, &get(target)).expect("a key");
        assert!(key.canonical().ends_with(route.as_bytes()), "{target}");
    }
}

// ---- Lifetimes -------------------------------------------------------------------------------------------------------

fn timed() -> (Clock, Memory) {
    let clock = Clock::manual();
    let store = Memory::builder().capacity(1 << 20).clock(clock.clone()).build();
    (clock, store)
}

/// An inner service that answers with the status, and the lifetime, that the target asks for.
fn obliging(request: &Request<Plain>, call: usize) -> Response<Plain> {
    let mut response = ok(call.to_string());
    for pair in request.uri().query().unwrap_or_default().split('&') {
        match pair.split_once('=') {
            Some(("status", status)) => *response.status_mut() = status.parse().expect("a status"),
            Some(("ttl", ttl)) => {
                response.headers_mut().insert("x-ttl", HeaderValue::from_str(ttl).expect("a value"));
            }
            _ => {}
        }
    }
    response
}

#[tokio::test]
async fn a_response_lives_for_as_long_as_its_rule_says_and_no_longer() {
    let by_request = || {
        Rule::ttl_by(|request| match request.param("table") {
            "orders" => MINUTE,
            "never" => Duration::ZERO,
            _ => 5 * MINUTE,
        })
    };
    let by_response = || {
        Rule::ttl_by_response(|response| {
            let seconds = response.headers.get("x-ttl")?.to_str().ok()?.parse().ok()?;
            Some(Duration::from_secs(seconds))
        })
    };
    let by_status = || Rule::ttl(MINUTE).status(StatusCode::NOT_FOUND, 5 * SECOND).status(StatusCode::IM_A_TEAPOT, SECOND);
    for (rule, target, seconds) in [
        (Rule::ttl(MINUTE), "/t/a", 60),
        (Rule::ttl(Duration::ZERO), "/t/a", 0),
        (by_request(), "/t/orders", 60),
        (by_request(), "/t/other", 300),
        (by_request(), "/t/never", 0),
        (by_response(), "/t/a?ttl=7", 7),
        (by_response(), "/t/a?ttl=0", 0),
        (by_response(), "/t/a", 0),
        (by_response(), "/t/a?ttl=7&status=500", 0),
        (by_status(), "/t/a", 60),
        (by_status(), "/t/a?status=404", 5),
        (by_status(), "/t/a?status=418", 1),
        (by_status(), "/t/a?status=410", 60),
        (by_status(), "/t/a?status=500", 0),
        (by_status().status(StatusCode::OK, Duration::ZERO), "/t/a", 0),
        (by_status().status(StatusCode::NOT_FOUND, MINUTE), "/t/a?status=404", 60),
        (by_response().status(StatusCode::NOT_FOUND, SECOND), "/t/a?ttl=7&status=404", 1),
    ] {
        let (clock, store) = timed();
        let (inner, _) = counting(obliging);
        let service = CacheLayer::new(store).rules(one_rule(rule)).layer(inner);
        let first = send(&service, get(target)).await;
        assert_eq!(outcome(&first), ABSENT, "{target}");
        if seconds == 0 {
            assert!(!matches!(outcome(&send(&service, get(target)).await), HIT), "{target}");
            continue;
        }
        clock.advance(Duration::from_secs(seconds) - Duration::from_nanos(1));
        assert_eq!(outcome(&send(&service, get(target)).await), HIT, "{target}");
        clock.advance(Duration::from_nanos(1));
        assert_eq!(outcome(&send(&service, get(target)).await), EXPIRED, "{target}");
    }
}

#[tokio::test]
async fn a_lifetime_of_zero_is_not_stored_and_says_so() {
    let (_, store) = timed();
    let (inner, _) = counting(obliging);
    let service = CacheLayer::new(store).rules(one_rule(Rule::ttl(Duration::ZERO))).layer(inner);
    let response = send(&service, get("/t/a")).await;
    let status = response.extensions().get::<tower_response_cache::CacheStatus>().expect("marked");
    assert_eq!(status.stored(), Some(Storing::Not(NoStore::Lifetime)));
}

#[tokio::test]
async fn jitter_only_shortens_and_spreads() {
    let (clock, store) = timed();
    let (inner, _) = counting(|_, _| ok("x"));
    let rules = Rules::new().route("/t/{id}", Rule::ttl(100 * SECOND).jitter(0.5));
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
    let mut lifetimes = Vec::new();
    for id in 0..200 {
        let request = || get(&format!("/t/{id}"));
        send(&service, request()).await;
        let key = rules.key(&store, &request()).expect("a key");
        let (entry, _) = store.get_now(key.as_ref()).and_then(|look| look.found).expect("stored");
        lifetimes.push(entry.expires().duration_since(clock.now()).expect("later"));
    }
    let (least, most) = (lifetimes.iter().min().expect("some"), lifetimes.iter().max().expect("some"));
    assert!(*most <= 100 * SECOND && *least >= 50 * SECOND, "{least:?} {most:?}");
    assert!(*most > 90 * SECOND && *least < 60 * SECOND, "{least:?} {most:?}");
}

#[tokio::test]
async fn no_lifetime_is_too_long_for_jitter_or_for_the_clock() {
    for jitter in [0.0, f64::MIN_POSITIVE, 0.5] {
        let (clock, store) = timed();
        let (inner, _) = counting(|_, _| ok("x"));
        let rule = Rule::ttl(Duration::MAX).jitter(jitter).stale_while_revalidate(Duration::MAX).stale_if_error(Duration::MAX);
        let service = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(inner);
        send(&service, get("/t/a")).await;
        clock.advance(Duration::from_secs(100 * 365 * 86_400));
        store.remove_expired();
        assert_eq!(outcome(&send(&service, get("/t/a")).await), HIT, "{jitter}");
    }
}

// ---- Refreshing ------------------------------------------------------------------------------------------------------

type Held = (CacheService<mock::Mock<Request<Plain>, Response<Plain>>>, Handle);

fn held(store: &Memory, rule: Rule) -> Held {
    mocked(&CacheLayer::new(store.clone()).rules(one_rule(rule)))
}

/// Asks in a task of its own, as a server does.
fn ask(service: &Held) -> tokio::task::JoinHandle<Result<(Outcome, StatusCode, String), BoxError>> {
    let service = service.0.clone();
    tokio::spawn(async move {
        let response = tower::ServiceExt::oneshot(service, get("/t/a")).await?;
        Ok((outcome(&response), response.status(), text(response).await))
    })
}

/// Lets every task that can go on do so.
async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

async fn fill(service: &mut Held, body: &'static str) {
    let asking = ask(service);
    next_call(&mut service.1).await.1.send_response(ok(body));
    assert_eq!(asking.await.expect("no panic").expect("an answer").2, body);
}

/// What the cache answers by itself, without the inner service answering anything.
async fn at_once(service: &Held) -> (Outcome, String) {
    let asking = ask(service);
    settle().await;
    assert!(asking.is_finished(), "it waits for the inner service");
    let (outcome, _, body) = asking.await.expect("no panic").expect("an answer");
    (outcome, body)
}

fn is_idle(handle: &mut Handle) -> bool {
    matches!(handle.poll_request(), Poll::Pending)
}

#[tokio::test]
async fn stale_while_revalidate_serves_at_once_refreshes_once_and_is_fresh_then() {
    let (clock, store) = timed();
    let mut service = held(&store, Rule::ttl(MINUTE).stale_while_revalidate(MINUTE / 2));
    fill(&mut service, "old").await;
    clock.advance(MINUTE);
    for _ in 0..5 {
        assert_eq!(at_once(&service).await, (REVALIDATING, "old".into()));
    }
    let (_, call) = next_call(&mut service.1).await;
    assert!(is_idle(&mut service.1), "one refresh is enough");
    call.send_response(ok("new"));
    settle().await;
    assert_eq!(at_once(&service).await, (HIT, "new".into()));
    let stats = store.stats();
    assert_eq!((stats.stale_hits, stats.refreshes, stats.flights), (5, 1, 0));
}

#[tokio::test]
async fn stale_while_revalidate_ends_with_its_window() {
    for (age, want) in [
        (MINUTE - Duration::from_nanos(1), HIT),
        (MINUTE, REVALIDATING),
        (MINUTE * 3 / 2 - Duration::from_nanos(1), REVALIDATING),
        (MINUTE * 3 / 2, EXPIRED),
        (100 * MINUTE, EXPIRED),
    ] {
        let (clock, store) = timed();
        let (inner, _) = counting(obliging);
        let rule = Rule::ttl(MINUTE).stale_while_revalidate(MINUTE / 2);
        let service = CacheLayer::new(store).rules(one_rule(rule)).layer(inner);
        send(&service, get("/t/a")).await;
        clock.advance(age);
        assert_eq!(outcome(&send(&service, get("/t/a")).await), want, "{age:?}");
    }
}

#[tokio::test]
async fn a_refresh_that_fails_leaves_the_stale_and_the_next_request_tries_again() {
    let (clock, store) = timed();
    let mut service = held(&store, Rule::ttl(MINUTE).stale_while_revalidate(MINUTE));
    fill(&mut service, "old").await;
    clock.advance(MINUTE);
    for failure in [true, false] {
        assert_eq!(at_once(&service).await, (REVALIDATING, "old".into()));
        let (_, call) = next_call(&mut service.1).await;
        if failure {
            call.send_error("down");
        } else {
            call.send_response(Response::builder().status(503).body(Plain::default()).expect("valid"));
        }
        settle().await;
    }
    assert_eq!(at_once(&service).await, (REVALIDATING, "old".into()));
    next_call(&mut service.1).await.1.send_response(ok("new"));
    settle().await;
    assert_eq!(at_once(&service).await, (HIT, "new".into()));
}

#[tokio::test]
async fn what_was_cleared_softly_is_stale_and_what_was_cleared_hard_is_gone() {
    let (_, store) = timed();
    let rule = || Rule::ttl(MINUTE).namespace("db:{table}");
    let mut service = held(&store, rule().stale_while_revalidate(MINUTE));
    fill(&mut service, "old").await;
    store.invalidate_softly(["db:a"]).await.expect("valid");
    assert_eq!(at_once(&service).await, (REVALIDATING, "old".into()));
    next_call(&mut service.1).await.1.send_response(ok("new"));
    settle().await;
    assert_eq!(at_once(&service).await, (HIT, "new".into()));
    store.invalidate(["db:a"]).await.expect("valid");
    let asking = ask(&service);
    next_call(&mut service.1).await.1.send_response(ok("newer"));
    assert_eq!(asking.await.expect("no panic").expect("an answer").0, ABSENT);

    // Without a window, soft is as good as expired.
    let mut service = held(&timed().1, rule());
    fill(&mut service, "old").await;
    let (_, store) = timed();
    let mut service = held(&store, rule());
    fill(&mut service, "old").await;
    store.invalidate_softly(["db"]).await.expect("valid");
    let asking = ask(&service);
    next_call(&mut service.1).await.1.send_response(ok("new"));
    assert_eq!(asking.await.expect("no panic").expect("an answer").0, Outcome::Miss(Miss::SoftlyCleared));
}

#[tokio::test]
async fn stale_if_error_serves_for_the_errors_of_a_server_and_for_no_other_answer() {
    for (status, stale) in
        [(500, true), (502, true), (503, true), (504, true), (501, false), (505, false), (404, false), (429, false)]
    {
        let (clock, store) = timed();
        let (inner, _) = counting(move |_, call| {
            let status = if call == 1 { 200 } else { status };
            Response::builder().status(status).body(Plain::from(call.to_string())).expect("valid")
        });
        let service = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE).stale_if_error(MINUTE))).layer(inner);
        send(&service, get("/t/a")).await;
        clock.advance(MINUTE);
        let response = send(&service, get("/t/a")).await;
        let want = if stale { (FAILING, 200, "1") } else { (EXPIRED, status, "2") };
        assert_eq!((outcome(&response), response.status().as_u16(), text(response).await.as_str()), want);
        assert_eq!(store.stats().stale_hits, u64::from(stale));
        assert_eq!(store.stats().flights, 0);
    }
}

#[tokio::test]
async fn stale_if_error_ends_with_its_window_and_the_error_passes_then() {
    for (age, stale) in
        [(MINUTE, true), (2 * MINUTE - Duration::from_nanos(1), true), (2 * MINUTE, false), (90 * MINUTE, false)]
    {
        let (clock, store) = timed();
        let mut service = held(&store, Rule::ttl(MINUTE).stale_if_error(MINUTE));
        fill(&mut service, "old").await;
        clock.advance(age);
        let asking = ask(&service);
        next_call(&mut service.1).await.1.send_error("down");
        let answer = asking.await.expect("no panic");
        match stale {
            true => assert_eq!(answer.expect("the stale"), (FAILING, StatusCode::OK, "old".into()), "{age:?}"),
            false => assert_eq!(answer.expect_err("the error").to_string(), "down", "{age:?}"),
        }
        assert_eq!(store.stats().flights, 0);
    }
}

#[tokio::test]
async fn the_window_of_stale_if_error_counts_when_the_error_comes() {
    let (clock, store) = timed();
    let mut service = held(&store, Rule::ttl(MINUTE).stale_if_error(MINUTE));
    fill(&mut service, "old").await;
    clock.advance(MINUTE * 3 / 2);
    let asking = ask(&service);
    let (_, call) = next_call(&mut service.1).await;
    clock.advance(MINUTE);
    call.send_error("down");
    assert!(asking.await.expect("no panic").is_err());
}

#[tokio::test]
async fn stale_if_error_never_serves_what_was_cleared_meanwhile() {
    for (hard, by_key) in [(true, false), (true, true), (false, false)] {
        let (clock, store) = timed();
        let rule = Rule::ttl(MINUTE).namespace("db:{table}").stale_if_error(MINUTE);
        let mut service = held(&store, rule.clone());
        fill(&mut service, "old").await;
        clock.advance(MINUTE);
        let asking = ask(&service);
        let (_, call) = next_call(&mut service.1).await;
        match (hard, by_key) {
            (_, true) => {
                let key = one_rule(rule).key(&store, &get("/t/a")).expect("a key");
                store.invalidate_key(&key).await.expect("memory answers");
            }
            (true, _) => store.invalidate(["db:a"]).await.expect("valid"),
            (false, _) => store.invalidate_softly(["db:a"]).await.expect("valid"),
        }
        call.send_error("down");
        match asking.await.expect("no panic") {
            Ok(answer) => assert_eq!((hard, answer.0), (false, FAILING)),
            Err(error) => assert!(hard, "{error}"),
        }
    }
}

#[tokio::test]
async fn those_who_wait_for_a_fill_that_failed_do_not_queue_for_the_next_failure() {
    let (clock, store) = timed();
    let mut service = held(&store, Rule::ttl(MINUTE).stale_if_error(MINUTE));
    fill(&mut service, "old").await;
    clock.advance(MINUTE);
    let asking: Vec<_> = (0..5).map(|_| ask(&service)).collect();
    settle().await;
    next_call(&mut service.1).await.1.send_error("down");
    settle().await;
    let mut calls = Vec::new();
    while let Poll::Ready(Some((_, call))) = service.1.poll_request() {
        calls.push(call);
    }
    assert_ne!(calls.len(), 1, "they fail one after the other");
    calls.into_iter().for_each(|call| call.send_error("down"));
    for answer in asking {
        assert_eq!(answer.await.expect("no panic").expect("the stale").2, "old");
    }
}

#[tokio::test]
async fn early_refresh_goes_to_the_inner_service_once_while_everybody_is_served() {
    let (clock, store) = timed();
    let mut service = held(&store, Rule::ttl(MINUTE).refresh_ahead(1e9));
    let asking = ask(&service);
    let (_, call) = next_call(&mut service.1).await;
    clock.advance(SECOND);
    call.send_response(ok("old"));
    asking.await.expect("no panic").expect("an answer");
    for _ in 0..5 {
        assert_eq!(at_once(&service).await, (HIT, "old".into()));
    }
    let (_, call) = next_call(&mut service.1).await;
    assert!(is_idle(&mut service.1), "one refresh is enough");
    // A refresh that took no time makes an entry that costs nothing to make again: it is not refreshed early.
    call.send_response(ok("new"));
    settle().await;
    assert_eq!(at_once(&service).await, (HIT, "new".into()));
    assert!(is_idle(&mut service.1));
    assert_eq!((store.stats().refreshes, store.stats().hits), (1, 6));
}

#[tokio::test]
async fn early_refresh_is_off_unless_asked_for() {
    for rule in [Rule::ttl(MINUTE), Rule::ttl(MINUTE).refresh_ahead(0.0)] {
        let (clock, store) = timed();
        let mut service = held(&store, rule);
        let asking = ask(&service);
        let (_, call) = next_call(&mut service.1).await;
        clock.advance(1000 * MINUTE);
        call.send_response(ok("old"));
        asking.await.expect("no panic").expect("an answer");
        clock.advance(MINUTE - Duration::from_nanos(1));
        for _ in 0..20 {
            assert_eq!(at_once(&service).await, (HIT, "old".into()));
        }
        assert!(is_idle(&mut service.1));
    }
}

#[tokio::test]
async fn early_refresh_leaves_alone_what_has_long_to_live() {
    let (clock, store) = timed();
    let mut service = held(&store, Rule::ttl(1000 * MINUTE).refresh_ahead(1.0));
    let asking = ask(&service);
    let (_, call) = next_call(&mut service.1).await;
    clock.advance(SECOND);
    call.send_response(ok("old"));
    asking.await.expect("no panic").expect("an answer");
    for _ in 0..100 {
        assert_eq!(at_once(&service).await, (HIT, "old".into()));
    }
    assert!(is_idle(&mut service.1));
}

#[tokio::test]
async fn a_rule_that_caches_nothing_leaves_reads_alone() {
    let (inner, calls) = counting(obliging);
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::uncached().namespace("a"))).layer(inner);
    for _ in 0..2 {
        let response = send(&service, get("/t/a")).await;
        assert_eq!(outcome(&response), Outcome::Bypass(tower_response_cache::Bypass::Uncached));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}
