//! The memory store: its bound, what leaves it, what is cleared, what is counted; and stores of a user's own.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    thread,
    time::{Duration, Instant},
};

use crate::common::{Handle, MINUTE, Plain, SECOND, counting, get, mocked, next_call, ok, one_rule, outcome, post, send, text};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame};
use proptest::prelude::*;
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{
    Admitted, BoxError, Bypass, CacheLayer, CachePolicy, CacheStatus, Clock, Context, Entry, Fence, Identity, InvalidationKind,
    KeyRef, Lock, MAX_NAMESPACES, Memory, Miss, Namespace, Namespaces, NoStore, Outcome, Put, Rule, Rules, Stale, Stamp, Store,
    StoreError, StoreLookup, Storing, Switch, Usage, Validity,
};

const ABSENT: Outcome = Outcome::Miss(Miss::Absent);
const HIT: Outcome = Outcome::Hit;

fn stored<B>(response: &Response<B>) -> Option<Storing> {
    response.extensions().get::<CacheStatus>().expect("a rule covers it").stored()
}

fn timed(capacity: usize) -> (Clock, Memory) {
    let clock = Clock::manual();
    let store = Memory::builder().capacity(capacity).clock(clock.clone()).build();
    (clock, store)
}

/// An inner service whose bodies are as long as the last part of the path says.
fn sized(request: &Request<Plain>, _: usize) -> Response<Plain> {
    let len = request.uri().path().rsplit('-').next().and_then(|len| len.parse().ok()).expect("a length");
    ok(vec![b'.'; len])
}

/// Lets every task that can go on do so.
async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

// ---- The bound -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn no_more_bytes_are_held_than_the_capacity_however_many_pass() {
    for capacity in [64 << 10, 1 << 20, 17 << 20] {
        let (_, store) = timed(capacity);
        let service = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(counting(sized).0);
        let (mut passed, mut random) = (0, fastrand::Rng::with_seed(7));
        let mut n = 0;
        while passed < 10 * capacity {
            let len = match random.u8(..) {
                0..100 => random.usize(..64),
                100..200 => random.usize(..4 << 10),
                200..250 => random.usize(..64 << 10),
                _ => random.usize(..1 << 20),
            };
            passed += len + 500;
            n += 1;
            send(&service, get(&format!("/t/{n}-{len}"))).await;
            let usage = store.usage();
            assert!(usage.bytes <= usage.capacity, "{} of {} after {n}", usage.bytes, usage.capacity);
            assert_eq!(usage.capacity, capacity as u64);
        }
        let stats = store.stats();
        assert!(stats.evictions > 0 && stats.entries > 0);
        let used = capacity < 1 << 20 || stats.bytes > stats.capacity / 3;
        assert!(used, "{} of {}: most of the room is not used", stats.bytes, stats.capacity);
    }
}

#[tokio::test]
async fn entries_that_are_cleared_or_replaced_over_and_over_take_no_room() {
    let (_, store) = timed(1 << 20);
    let rule = Rule::ttl(MINUTE).namespace("db:{table}");
    let service = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(counting(sized).0);
    for _ in 0..2_000 {
        send(&service, get("/t/a-1000")).await;
        store.invalidate(["db"]).await.expect("a name");
    }
    let usage = store.usage();
    assert!(usage.entries <= 1 && usage.bytes < 64 << 10, "{usage:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn an_entry_weighs_at_least_what_it_holds(
        body in 0_usize..5_000,
        fields in prop::collection::vec(("[a-z]{1,30}", "[ -~]{0,60}"), 0..20),
        table in "[a-z]{1,100}",
        query in "[a-z]{0,400}",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let (_, store) = timed(1 << 20);
            let rules = one_rule(Rule::ttl(MINUTE).namespace("db:{table}"));
            let held: usize = fields.iter().map(|(name, value)| name.len() + value.trim().len() + 2).sum();
            let sent = fields.clone();
            let (inner, _) = counting(move |_, _| {
                let mut response = ok(vec![0; body]);
                for (name, value) in &sent {
                    let name = http::HeaderName::from_bytes(format!("x-{name}").as_bytes()).expect("a name");
                    response.headers_mut().append(name, HeaderValue::from_str(value.trim()).expect("a value"));
                }
                response
            });
            let before = store.usage().bytes;
            let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
            let request = || get(&format!("/t/{table}?{query}"));
            send(&service, request()).await;
            let key = rules.key(&store, &request()).expect("a key");
            let (entry, _) = store.get_now(key.as_ref()).and_then(|look| look.found).expect("stored");
            let least = body + held + key.canonical().len() + size_of::<Entry>();
            assert!(entry.weight() >= least as u64, "{} < {least}", entry.weight());
            assert_eq!(store.usage().bytes - before, entry.weight());
        });
    }
}

#[tokio::test]
async fn a_small_slice_of_a_large_buffer_does_not_hold_the_buffer() {
    let (_, store) = timed(1 << 20);
    let large = Bytes::from(vec![1; 1 << 20]);
    let slice = large.slice(10..20);
    let (inner, _) = counting(move |_, _| ok(slice.clone()));
    let service = CacheLayer::new(store).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    send(&service, get("/t/a")).await;
    let hit = send(&service, get("/t/a")).await;
    assert_eq!(outcome(&hit), HIT);
    let body = http_body_util::BodyExt::collect(hit.into_body()).await.expect("a body").to_bytes();
    assert!(!large.as_ptr_range().contains(&body.as_ptr()), "a slice of the handler's buffer is kept");
}

#[tokio::test]
async fn what_is_larger_than_the_room_is_passed_on_and_not_kept() {
    let (_, store) = timed(1 << 20);
    let rule = Rule::ttl(MINUTE).max_body(8 << 20);
    let service = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(counting(sized).0);
    send(&service, get("/t/small-10")).await;
    for _ in 0..2 {
        let response = send(&service, get("/t/large-2000000")).await;
        assert_eq!(stored(&response), Some(Storing::Not(NoStore::TooLarge)));
        assert_eq!(text(response).await.len(), 2_000_000);
    }
    assert_eq!(outcome(&send(&service, get("/t/small-10")).await), HIT);
    assert_eq!((store.usage().entries, store.stats().evictions), (1, 0));
}

#[tokio::test]
async fn what_is_said_to_be_stored_is_stored() {
    for percent in 80..105 {
        let (_, store) = timed(1 << 20);
        let len = (1 << 20) / 100 * percent;
        let rule = Rule::ttl(MINUTE).max_body(8 << 20);
        let service = CacheLayer::new(store).rules(one_rule(rule)).layer(counting(sized).0);
        let target = format!("/t/a-{len}");
        let said = stored(&send(&service, get(&target)).await) == Some(Storing::Stored);
        assert_eq!(outcome(&send(&service, get(&target)).await) == HIT, said, "{percent} % of the capacity");
    }
}

#[test]
#[should_panic(expected = "a memory store of 65535 bytes is too small: at least 65536 (64 KiB)")]
fn a_capacity_that_is_of_no_use_is_refused() {
    let _ = Memory::new((64 << 10) - 1);
}

/// A response that takes the place of an older one has not made room.
#[tokio::test]
async fn what_is_replaced_is_not_evicted() {
    let (clock, store) = timed(1 << 20);
    let service =
        CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(SECOND).stale_if_error(MINUTE))).layer(counting(sized).0);
    for _ in 0..3 {
        send(&service, get("/t/a-100")).await;
        clock.advance(2 * SECOND);
    }
    let stats = store.stats();
    assert_eq!((stats.stored, stats.entries, stats.evictions), (3, 1, 0));
}

// ---- Leaving ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn what_has_expired_leaves_without_being_asked_for_and_not_before() {
    let (clock, store) = timed(1 << 20);
    let empty = store.usage().bytes;
    let rules = Rules::new().route("/t/{a}", Rule::ttl(MINUTE)).route("/u/{a}", Rule::ttl(MINUTE).stale_if_error(MINUTE));
    let service = CacheLayer::new(store.clone()).rules(rules).layer(counting(sized).0);
    for n in 0..50 {
        send(&service, get(&format!("/t/{n}-100"))).await;
        send(&service, get(&format!("/u/{n}-100"))).await;
    }
    for (passes, left) in [(59 * SECOND, 100), (2 * SECOND, 50), (58 * SECOND, 50), (2 * SECOND, 0)] {
        clock.advance(passes);
        store.remove_expired();
        assert_eq!(store.usage().entries, left);
    }
    assert_eq!(store.usage().bytes, empty);
    assert_eq!((store.stats().expired, store.stats().evictions), (100, 0));
}

#[tokio::test]
async fn nobody_has_to_call_for_what_has_expired_to_leave() {
    let (clock, store) = timed(1 << 20);
    let service = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(counting(sized).0);
    send(&service, get("/t/a-100")).await;
    clock.advance(2 * MINUTE);
    // The sweep is a thread's, by the wall's clock: twice a second would do, ten are patience.
    let patience = Instant::now() + 10 * SECOND;
    while store.usage().entries > 0 {
        assert!(Instant::now() < patience, "it stays");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(store.stats().expired, 1);
}

#[tokio::test]
async fn what_was_replaced_expires_by_its_own_time() {
    let (clock, store) = timed(1 << 20);
    let (inner, _) = counting(|_, call| {
        let mut response = ok("x");
        let ttl = if call == 1 { SECOND } else { 100 * SECOND };
        response.extensions_mut().insert(CachePolicy::new().ttl(ttl));
        response
    });
    let service = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    send(&service, get("/t/a")).await;
    clock.advance(SECOND);
    send(&service, get("/t/a")).await;
    clock.advance(10 * SECOND);
    store.remove_expired();
    assert_eq!((outcome(&send(&service, get("/t/a")).await), store.stats().expired), (HIT, 0));
}

#[tokio::test]
async fn what_was_cleared_leaves_when_it_is_asked_for() {
    let (_, store) = timed(1 << 20);
    let rules = one_rule(Rule::ttl(MINUTE));
    let empty = store.usage().bytes;
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(counting(sized).0);
    send(&service, get("/t/a-100")).await;
    store.invalidate(["*"]).await.expect("a name");
    let key = rules.key(&store, &get("/t/a-100")).expect("a key");
    assert!(store.get_now(key.as_ref()).expect("memory answers").found.is_none());
    assert_eq!((store.usage().entries, store.usage().bytes), (0, empty));
}

// ---- Clearing --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_name_clears_itself_and_what_is_below_it_and_nothing_else() {
    for (cleared, of, gone) in [
        ("users", "users", true),
        ("users", "users:1", true),
        ("users", "users:1:posts", true),
        ("users:1", "users:1:posts", true),
        ("users:1", "users:1", true),
        ("users:1", "users", false),
        ("users:1", "users:10", false),
        ("users", "users-admin", false),
        ("users", "users-admin:1", false),
        ("users", "Users", false),
        ("users", "admin:users", false),
        ("user", "users", false),
        ("*", "users:1", true),
        // No glob: these are names like any other.
        ("user?", "users", false),
        ("[u]sers", "users", false),
        ("users\\", "users", false),
        ("%", "users", false),
    ] {
        for soft in [false, true] {
            let store = Memory::default();
            let rule = Rule::ttl(MINUTE).namespaces_by(move |_| vec![Namespace::new(of).expect("a name")]);
            let service = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(counting(sized).0);
            send(&service, get("/t/a-1")).await;
            match soft {
                true => store.invalidate_softly([cleared]).await.expect("a name"),
                false => store.invalidate([cleared]).await.expect("a name"),
            }
            let want = match (gone, soft) {
                (false, _) => HIT,
                (true, false) => ABSENT,
                (true, true) => Outcome::Miss(Miss::SoftlyCleared),
            };
            assert_eq!(outcome(&send(&service, get("/t/a-1")).await), want, "{cleared} {of}");
        }
    }
}

#[tokio::test]
async fn a_list_with_a_name_that_cannot_be_clears_nothing() {
    let store = Memory::default();
    let rule = Rule::ttl(MINUTE).namespace("users");
    let service = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(counting(sized).0);
    send(&service, get("/t/a-1")).await;
    for bad in ["users*", "users:", "", "a b"] {
        let error = store.invalidate(["users", bad]).await.expect_err(bad).to_string();
        assert!(error.contains(&format!("{bad:?}")), "{error}");
        assert!(store.invalidate_softly(["users", bad]).await.is_err());
    }
    assert_eq!(outcome(&send(&service, get("/t/a-1")).await), HIT);
}

#[tokio::test]
async fn a_key_is_cleared_alone() {
    let store = Memory::default();
    let rules = one_rule(Rule::ttl(MINUTE));
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(counting(sized).0);
    let ask = async |target: &str| outcome(&send(&service, get(target)).await);
    assert_eq!((ask("/t/a-1").await, ask("/t/a-1?b").await), (ABSENT, ABSENT));
    store.invalidate_key(&rules.key(&store, &get("/t/a-1")).expect("a key")).await.expect("memory answers");
    assert_eq!((ask("/t/a-1").await, ask("/t/a-1?b").await), (ABSENT, HIT));
}

#[tokio::test]
async fn many_names_are_cleared_at_once_also_if_some_are_there_twice() {
    let store = Memory::default();
    // No two have an ancestor in common, but for the root.
    let rules = Rules::new().route("/t/{id}", Rule::ttl(MINUTE).namespace("{id}:row"));
    let service = CacheLayer::new(store.clone()).rules(rules).layer(counting(sized).0);
    let others: Vec<_> = (0..40).map(|n| format!("/t/other{n}-1")).collect();
    for target in ["/t/0-1", "/t/399-1"].into_iter().chain(others.iter().map(String::as_str)) {
        send(&service, get(target)).await;
    }
    // More than 64 KiB of text.
    let names = (0..400).map(|n| format!("{n}-1:row")).chain((0..400).map(|n| format!("{}{n}", "ä".repeat(90))));
    let names: Vec<_> = names.collect();
    store.invalidate(names.iter().chain(&names).map(String::as_str)).await.expect("names");
    for target in ["/t/0-1", "/t/399-1"] {
        assert_eq!(outcome(&send(&service, get(target)).await), ABSENT, "{target}");
    }
    let mut alive = 0;
    for target in &others {
        alive += usize::from(outcome(&send(&service, get(target)).await) == HIT);
    }
    // Names that meet in the table of epochs are cleared together: some, never many.
    assert!(alive >= 30, "{alive} of 40");
}

#[tokio::test]
async fn stores_and_layers_that_share_a_memory_share_what_is_cleared() {
    let store = Memory::default();
    let other = store.clone();
    let rule = || one_rule(Rule::ttl(MINUTE).namespace("users"));
    let one = CacheLayer::new(store).rules(rule()).layer(counting(sized).0);
    let two = CacheLayer::new(other.clone()).rules(rule()).layer(counting(sized).0);
    send(&one, get("/t/a-1")).await;
    assert_eq!(outcome(&send(&two, get("/t/a-1")).await), HIT);
    other.invalidate(["users"]).await.expect("a name");
    assert_eq!(outcome(&send(&one, get("/t/a-1")).await), ABSENT);
}

// ---- Statistics ------------------------------------------------------------------------------------------------------

/// A body of one frame, or of one error.
struct Frames(Option<Result<Bytes, BoxError>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.take().map(|frame| frame.map(Frame::data)))
    }
}

fn of_reason<R: PartialEq>(counts: &[(R, u64)], reason: R) -> u64 {
    counts.iter().find(|(listed, _)| *listed == reason).expect("every reason is listed").1
}

/// A response that is not stored for this reason, and for no other.
fn unfit(why: NoStore) -> Result<Response<Frames>, BoxError> {
    let mut response = Response::new(Frames(Some(Ok("rows".into()))));
    let field = match why {
        NoStore::Status => {
            *response.status_mut() = http::StatusCode::BAD_REQUEST;
            None
        }
        NoStore::RequestNoStore | NoStore::Authorization => Some(("cache-control", "max-age=60")),
        NoStore::NoStore => Some(("cache-control", "no-store")),
        NoStore::Private => Some(("cache-control", "private")),
        NoStore::NoCache => Some(("cache-control", "no-cache")),
        NoStore::SetCookie => Some(("set-cookie", "a=b")),
        NoStore::Vary => Some(("vary", "*")),
        NoStore::Partial => Some(("content-range", "bytes 0-3/9")),
        NoStore::EventStream => Some(("content-type", "Text/Event-Stream; charset=utf-8")),
        NoStore::Truncated => Some(("content-length", "5")),
        NoStore::Lifetime => {
            response.extensions_mut().insert(CachePolicy::new().ttl(Duration::ZERO));
            None
        }
        NoStore::TooLarge => {
            response.body_mut().0 = Some(Ok(vec![0; 101].into()));
            None
        }
        NoStore::BodyError => {
            response.body_mut().0 = Some(Err("broken".into()));
            None
        }
        NoStore::Failed => return Err("down".into()),
        NoStore::NewNamespace => {
            response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::new("new").expect("a name")));
            None
        }
        NoStore::Namespaces => {
            let names = (0..=MAX_NAMESPACES).map(|n| Namespace::new(n.to_string()).expect("a name"));
            let hints = names.fold(CachePolicy::new(), CachePolicy::namespace);
            response.extensions_mut().insert(hints);
            None
        }
        _ => None,
    };
    if let Some((name, value)) = field {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

#[tokio::test]
async fn every_reason_for_not_storing_is_counted_and_told() {
    for why in NoStore::ALL.iter().copied() {
        let memory = timed(1 << 20).1;
        let store = Faulty { memory: memory.clone(), put: why != NoStore::Store, get: true };
        let clearing = memory.clone();
        let inner = service_fn(move |_: Request<Plain>| {
            let store = clearing.clone();
            async move {
                if why == NoStore::Cleared {
                    store.invalidate(["*"]).await.expect("a name");
                }
                unfit(why)
            }
        });
        let (rule, field) = match why {
            NoStore::RequestNoStore => (Rule::http(), Some(("cache-control", "no-store"))),
            NoStore::Authorization => (Rule::http(), Some(("authorization", "Bearer a"))),
            NoStore::NotAllowed => (Rule::http(), None),
            _ => (Rule::ttl(MINUTE), None),
        };
        let service = CacheLayer::new(store).rules(one_rule(rule.max_body(100))).layer(inner);
        let mut request = get("/t/a");
        if let Some((name, value)) = field {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let answer = service.oneshot(request).await;
        assert_eq!(answer.is_err(), why == NoStore::Failed);
        if let Ok(response) = answer {
            assert_eq!(stored(&response), Some(Storing::Not(why)));
        }
        let stats = memory.stats();
        assert_eq!(of_reason(&stats.not_stored, why), 1, "{why}");
        assert_eq!(stats.not_stored.iter().map(|(_, n)| n).sum::<u64>(), 1, "{why}");
        assert_eq!((stats.stored, stats.entries, stats.flights), (0, 0, 0), "{why}");
    }
}

#[tokio::test]
async fn every_reason_for_a_bypass_is_counted() {
    let store = Memory::default();
    let rules = Rules::new()
        .route("/t/{table}", Rule::ttl(MINUTE))
        .route("/uncached", Rule::uncached())
        .route("/none", Rule::ttl(MINUTE).key(|_: &tower_response_cache::RequestView<'_>| None))
        .route("/identity", Rule::ttl(MINUTE).identity(Identity::header("x-who").required()));
    let switch = Switch::default();
    let service = CacheLayer::new(store.clone()).rules(rules).enabled(&switch).layer(counting(|_, _| ok("x")).0);
    let with = |name: &'static str| {
        let mut request = get("/t/a");
        request.headers_mut().insert(name, HeaderValue::from_static("x"));
        request
    };
    for why in Bypass::ALL.iter().copied() {
        let request = match why {
            Bypass::Method => post("/t/a"),
            Bypass::Uncached => get("/uncached"),
            Bypass::RequestBody => get("/t/a").map(|_| Plain::from("x")),
            Bypass::Credentials => with("cookie"),
            Bypass::Extractor => get("/none"),
            Bypass::KeyTooLong => get(&format!("/t/{}", "a".repeat(9_000))),
            Bypass::Range => with("range"),
            Bypass::Precondition => with("if-match"),
            Bypass::MethodOverride => with("x-http-method-override"),
            Bypass::Upgrade => with("upgrade"),
            Bypass::AmbiguousPath => get("/t/.."),
            Bypass::Forwarding => {
                let mut request = get("/t/a");
                for host in ["a", "b", "c", "d", "e", "f", "g", "h", "i"] {
                    request.headers_mut().append("x-forwarded-host", HeaderValue::from_static(host));
                }
                request
            }
            Bypass::Disabled => get("/t/a"),
            Bypass::IdentityMissing => get("/identity"),
            Bypass::IdentityAmbiguous => {
                let mut request = get("/identity");
                for who in ["ada", "bob"] {
                    request.headers_mut().append("x-who", HeaderValue::from_static(who));
                }
                request
            }
            other => panic!("no request for {other}"),
        };
        switch.set(why != Bypass::Disabled);
        assert_eq!(of_reason(&store.stats().bypasses, why), 0, "{why}");
        assert_eq!(outcome(&send(&service, request).await), Outcome::Bypass(why));
        assert_eq!(of_reason(&store.stats().bypasses, why), 1, "{why}");
    }
    assert_eq!((store.stats().misses(), store.stats().hits, store.stats().inner_calls), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn every_reason_for_a_miss_is_counted() {
    for why in Miss::ALL.iter().copied() {
        let (clock, store) = timed(1 << 20);
        let rule = if why == Miss::Request { Rule::http() } else { Rule::ttl(MINUTE) };
        let mut layer = CacheLayer::new(store.clone()).rules(one_rule(rule));
        if why == Miss::FlightLimit {
            layer = layer.max_concurrent_fills(0);
        }
        let (service, mut handle) = mocked::<Plain>(&layer);
        let ask = |request| tokio::spawn(service.clone().oneshot(request));
        let no_store = || {
            let mut response = ok("x");
            response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
            response
        };
        let answered = async |handle: &mut Handle, response| {
            let asking = ask(get("/t/a"));
            next_call(handle).await.1.send_response(response);
            outcome(&asking.await.expect("no panic").expect("an answer"))
        };
        let got = match why {
            Miss::Absent | Miss::FlightLimit => answered(&mut handle, ok("x")).await,
            Miss::Expired => {
                answered(&mut handle, ok("x")).await;
                clock.advance(MINUTE);
                answered(&mut handle, ok("x")).await
            }
            Miss::SoftlyCleared => {
                answered(&mut handle, ok("x")).await;
                store.invalidate_softly(["*"]).await.expect("a name");
                answered(&mut handle, ok("x")).await
            }
            Miss::HitForMiss => {
                answered(&mut handle, no_store()).await;
                answered(&mut handle, ok("x")).await
            }
            Miss::NotShared | Miss::WaitLimit => {
                let first = ask(get("/t/a"));
                let (_, call) = next_call(&mut handle).await;
                let second = ask(get("/t/a"));
                settle().await;
                let own = match why {
                    // Nothing is answered, and the paused time runs out.
                    Miss::WaitLimit => {
                        let own = next_call(&mut handle).await.1;
                        call.send_response(ok("x"));
                        own
                    }
                    _ => {
                        call.send_response(no_store());
                        next_call(&mut handle).await.1
                    }
                };
                own.send_response(ok("x"));
                drop(first.await);
                outcome(&second.await.expect("no panic").expect("an answer"))
            }
            Miss::Head => {
                let asking = ask(Request::head("/t/a").body(Plain::default()).expect("valid"));
                next_call(&mut handle).await.1.send_response(ok(""));
                outcome(&asking.await.expect("no panic").expect("an answer"))
            }
            Miss::Request => {
                let fresh = || {
                    let mut response = ok("x");
                    response.headers_mut().insert("cache-control", HeaderValue::from_static("max-age=60"));
                    response
                };
                answered(&mut handle, fresh()).await;
                let mut reload = get("/t/a");
                reload.headers_mut().insert("cache-control", HeaderValue::from_static("no-cache"));
                let asking = ask(reload);
                next_call(&mut handle).await.1.send_response(fresh());
                outcome(&asking.await.expect("no panic").expect("an answer"))
            }
            Miss::Variant => {
                let varying = || {
                    let mut response = ok("x");
                    response.headers_mut().insert("vary", HeaderValue::from_static("accept-language"));
                    response
                };
                answered(&mut handle, varying()).await;
                let mut other = get("/t/a");
                other.headers_mut().insert("accept-language", HeaderValue::from_static("de"));
                let asking = ask(other);
                next_call(&mut handle).await.1.send_response(varying());
                outcome(&asking.await.expect("no panic").expect("an answer"))
            }
            other => panic!("no way to {other}"),
        };
        assert_eq!(got, Outcome::Miss(why));
        let stats = store.stats();
        assert_eq!(of_reason(&stats.misses, why), 1, "{why}");
        assert_eq!(stats.misses(), stats.misses.iter().map(|(_, n)| n).sum::<u64>());
        assert_eq!(stats.flights, 0, "{why}");
    }
}

#[tokio::test]
async fn hits_waiters_times_and_what_is_held_are_counted() {
    let (clock, store) = timed(1 << 20);
    let rule = Rule::ttl(MINUTE).stale_while_revalidate(MINUTE);
    let (service, mut handle) = mocked::<Plain>(&CacheLayer::new(store.clone()).rules(one_rule(rule)));
    let ask = || tokio::spawn(service.clone().oneshot(get("/t/a")));
    let asking: Vec<_> = (0..5).map(|_| ask()).collect();
    settle().await;
    let (_, call) = next_call(&mut handle).await;
    assert_eq!(store.stats().flights, 1);
    clock.advance(3 * SECOND);
    call.send_response(ok("x"));
    for answer in asking {
        answer.await.expect("no panic").expect("an answer");
    }
    for _ in 0..130 {
        send(&service, get("/t/a")).await;
    }
    let stats = store.stats();
    assert_eq!((stats.misses(), stats.collapsed, stats.hits, stats.stored), (1, 4, 130, 1));
    assert_eq!((stats.inner_calls, stats.inner_time, stats.flights, stats.entries), (1, 3 * SECOND, 0, 1));
    assert_eq!((stats.bytes, stats.capacity), (store.usage().bytes, 1 << 20));
    assert!((stats.hit_ratio() - 134.0 / 135.0).abs() < 1e-9);
    assert_eq!(stats.cache_time_per_hit, Duration::ZERO, "the manual clock stood still");

    clock.advance(MINUTE);
    assert_eq!(outcome(&send(&service, get("/t/a")).await), Outcome::Stale(Stale::WhileRevalidate));
    next_call(&mut handle).await.1.send_response(ok("y"));
    settle().await;
    let stats = store.stats();
    assert_eq!((stats.stale_hits, stats.refreshes, stats.stored, stats.inner_calls, stats.flights), (1, 1, 2, 2, 0));
}

/// One that is answered with a stale response because the inner service has failed is a miss, and a stale hit, and one request.
#[tokio::test]
async fn the_hit_ratio_counts_each_request_once_also_where_a_stale_response_stands_in() {
    let (clock, store) = timed(1 << 20);
    let (inner, _) = counting(|_, call| match call {
        1 => ok("old"),
        _ => Response::builder().status(503).body(Plain::default()).expect("a response"),
    });
    let service = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE).stale_if_error(MINUTE))).layer(inner);
    send(&service, get("/t/a")).await;
    clock.advance(MINUTE);
    for _ in 0..3 {
        assert_eq!(outcome(&send(&service, get("/t/a")).await), Outcome::Stale(Stale::IfError));
    }
    let stats = store.stats();
    assert_eq!((stats.hits, stats.stale_hits, stats.stale_if_error, stats.misses(), stats.inner_calls), (0, 3, 3, 4, 4));
    assert!((stats.hit_ratio() - 0.75).abs() < 1e-9, "{}", stats.hit_ratio());
}

#[tokio::test]
async fn the_time_that_hits_take_is_measured() {
    let store = Memory::default();
    let service = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(counting(|_, _| ok("x")).0);
    for _ in 0..200 {
        send(&service, get("/t/a")).await;
    }
    let took = store.stats().cache_time_per_hit;
    assert!(took > Duration::ZERO && took < SECOND, "{took:?}");
}

// ---- Stores of a user's own ------------------------------------------------------------------------------------------

/// Memory behind a wire: it answers nothing at once, and each half only if it is not down.
#[derive(Clone, Debug)]
struct Faulty {
    memory: Memory,
    put: bool,
    get: bool,
}

impl Faulty {
    fn slow(memory: &Memory) -> Self {
        Self { memory: memory.clone(), put: true, get: true }
    }
}

async fn wire(up: bool) -> Result<(), StoreError> {
    tokio::task::yield_now().await;
    if up { Ok(()) } else { Err(StoreError::new("the wire is cut")) }
}

impl Store for Faulty {
    fn get_now(&self, _: KeyRef<'_>) -> Option<StoreLookup> {
        None
    }

    async fn get(&self, key: KeyRef<'_>, names: &Namespaces) -> Result<StoreLookup, StoreError> {
        wire(self.get).await?;
        self.memory.get(key, names).await
    }

    async fn admit(&self, stamp: &Stamp, added: &Namespaces) -> Result<Admitted, StoreError> {
        match added.iter().any(|name| name == "new") {
            true => Ok(Admitted::New),
            false => self.memory.admit(stamp, added).await,
        }
    }

    async fn put(&self, entry: Arc<Entry>, lock: Option<Lock>) -> Result<Put, StoreError> {
        wire(self.put).await?;
        self.memory.put(entry, lock).await
    }

    async fn fence(&self, names: &Namespaces) -> Result<Fence, StoreError> {
        wire(self.put).await?;
        self.memory.fence(names).await
    }

    async fn bump(&self, names: &Namespaces, kind: InvalidationKind, fence: Option<Fence>) -> Result<(), StoreError> {
        wire(self.put).await?;
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

#[tokio::test]
async fn a_store_that_has_to_be_waited_for_serves_like_one_that_has_not() {
    let (clock, memory) = timed(1 << 20);
    let store = Faulty::slow(&memory);
    let rules = one_rule(Rule::ttl(MINUTE).namespace("db:{table}").stale_while_revalidate(MINUTE));
    let (inner, _) = counting(|request, call| {
        let mut response = ok(call.to_string());
        if request.uri().query() == Some("vary") {
            response.headers_mut().insert("vary", HeaderValue::from_static("accept"));
        }
        response
    });
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
    let ask = async |target: &str| {
        let response = send(&service, get(target)).await;
        (outcome(&response), text(response).await)
    };
    assert_eq!(ask("/t/a").await, (ABSENT, "1".into()));
    assert_eq!(ask("/t/a").await, (HIT, "1".into()));
    clock.advance(MINUTE);
    assert_eq!(ask("/t/a").await, (Outcome::Stale(Stale::WhileRevalidate), "1".into()));
    settle().await;
    assert_eq!(ask("/t/a").await, (HIT, "2".into()));
    store.invalidate(["db:a"]).await.expect("a name");
    assert_eq!(ask("/t/a").await, (ABSENT, "3".into()));
    store.invalidate_key(&rules.key(&store, &get("/t/a")).expect("a key")).await.expect("the wire is whole");
    assert_eq!(ask("/t/a").await, (ABSENT, "4".into()));
    assert_eq!(ask("/t/a?vary").await, (ABSENT, "5".into()));
    assert_eq!(ask("/t/a?vary").await, (HIT, "5".into()));
}

#[tokio::test]
async fn a_head_is_never_stored_for_a_get_whatever_the_store() {
    for up in [true, false] {
        let memory = timed(1 << 20).1;
        let store = Faulty { memory: memory.clone(), put: true, get: up };
        let (inner, _) = counting(|request, _| ok(if request.method() == "HEAD" { "" } else { "rows" }));
        let service = CacheLayer::new(store).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
        let head = || Request::head("/t/a").body(Plain::default()).expect("valid");
        assert_eq!(outcome(&send(&service, head()).await), Outcome::Miss(Miss::Head));
        assert_eq!(memory.usage().entries, 0);
        assert_eq!(text(send(&service, get("/t/a")).await).await, "rows");
        let response = send(&service, head()).await;
        assert_eq!(outcome(&response), if up { HIT } else { Outcome::Miss(Miss::Head) });
    }
}

#[tokio::test]
async fn of_many_requests_to_a_slow_store_one_asks_the_inner_service() {
    let memory = timed(1 << 20).1;
    let layer = CacheLayer::new(Faulty::slow(&memory)).rules(one_rule(Rule::ttl(MINUTE)));
    let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let service = layer.layer(inner);
    let asking: Vec<_> = (0..20).map(|_| tokio::spawn(service.clone().oneshot(get("/t/a")))).collect();
    settle().await;
    let (_, call) = next_call(&mut handle).await;
    assert!(handle.poll_request().is_pending());
    call.send_response(ok("x"));
    for answer in asking {
        assert_eq!(text(answer.await.expect("no panic").expect("an answer")).await, "x");
    }
    assert_eq!((memory.stats().inner_calls, memory.stats().collapsed), (1, 19));
}

#[tokio::test]
async fn with_a_slow_store_a_refresh_waits_for_the_inner_service_behind_the_back_of_who_is_served() {
    for early in [true, false] {
        let (clock, memory) = timed(1 << 20);
        let rule = match early {
            true => Rule::ttl(MINUTE).refresh_ahead(1e9),
            false => Rule::ttl(MINUTE).stale_while_revalidate(MINUTE),
        };
        let layer = CacheLayer::new(Faulty::slow(&memory)).rules(one_rule(rule));
        let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let service = layer.layer(inner);
        let asking = tokio::spawn(service.clone().oneshot(get("/t/a")));
        let (_, call) = next_call(&mut handle).await;
        clock.advance(SECOND);
        call.send_response(ok("old"));
        asking.await.expect("no panic").expect("an answer");
        clock.advance(if early { SECOND } else { MINUTE });
        // From here on the inner service is not ready.
        handle.allow(0);
        let want = if early { HIT } else { Outcome::Stale(Stale::WhileRevalidate) };
        for _ in 0..3 {
            // One that is not ready yet: a clone of what has not been polled.
            let mut service = service.clone();
            let asking = tokio::spawn(async move { tower::Service::call(&mut service, get("/t/a")).await });
            settle().await;
            assert!(asking.is_finished(), "it waits for the inner service");
            let response = asking.await.expect("no panic").expect("an answer");
            assert_eq!((outcome(&response), text(response).await.as_str()), (want, "old"));
        }
        handle.allow(1);
        next_call(&mut handle).await.1.send_response(ok("new"));
        settle().await;
        handle.allow(9);
        assert_eq!(text(send(&service, get("/t/a")).await).await, "new");
        assert_eq!(memory.stats().refreshes, 1);
    }
}

#[tokio::test]
async fn a_store_that_fails_fails_no_request() {
    for (get_up, put_up) in [(false, false), (false, true), (true, false)] {
        let memory = timed(1 << 20).1;
        let store = Faulty { memory: memory.clone(), get: get_up, put: put_up };
        let (inner, _) = counting(|_, call| ok(call.to_string()));
        let rule = Rule::ttl(MINUTE).stale_while_revalidate(MINUTE).stale_if_error(MINUTE);
        let service = CacheLayer::new(store).rules(one_rule(rule)).layer(inner);
        for call in 1..4 {
            let response = send(&service, get("/t/a")).await;
            assert_eq!((response.status().as_u16(), outcome(&response)), (200, ABSENT));
            assert_eq!(text(response).await, call.to_string());
        }
        let wanted = if put_up { 0 } else { 3 };
        assert_eq!(of_reason(&memory.stats().not_stored, NoStore::Store), wanted);
        assert_eq!(memory.stats().flights, 0);
    }
}

#[tokio::test]
async fn what_is_fetched_while_the_store_is_down_is_not_kept_past_a_bump() {
    let memory = timed(1 << 20).1;
    memory.invalidate(["*"]).await.expect("a name");
    let store = Faulty { memory: memory.clone(), get: false, put: true };
    let service = CacheLayer::new(store).rules(one_rule(Rule::ttl(MINUTE))).layer(counting(|_, _| ok("x")).0);
    assert_eq!(stored(&send(&service, get("/t/a")).await), Some(Storing::Not(NoStore::Cleared)));
}
