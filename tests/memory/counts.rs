//! Statistics: every reason and every outcome is counted.

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use super::{custom::Faulty, settle, stored, with_manual_clock};
use crate::common::{Handle, MINUTE, Plain, SECOND, counting, get, mocked, next_call, ok, one_rule, outcome, post, send};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame};
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{
    BoxError, CacheLayer, CachePolicy, Identity, Memory, Namespace, Outcome, Rule, Rules, Store, Switch,
    message::MessageError,
    namespace::MAX_NAMESPACES,
    status::{Bypass, Miss, NoStore, Stale, Storing},
};

/// A body of one frame or one error.
struct Frames(Option<Result<Bytes, BoxError>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.take().map(|frame| frame.map(Frame::data)))
    }
}

pub(crate) fn of_reason<R: PartialEq>(counts: &[(R, u64)], reason: R) -> u64 {
    counts.iter().find(|(listed, _)| *listed == reason).expect("every reason is listed").1
}

/// Returns a response that is not stored for this reason only.
fn not_stored_for(reason: NoStore) -> Result<Response<Frames>, BoxError> {
    let mut response = Response::new(Frames(Some(Ok("rows".into()))));
    let field = match reason {
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
async fn every_reason_for_not_storing_is_counted_and_reported() {
    // These need a call by RPC (`examples/tonic/rpc`) or a rule for GraphQL (`tests/graphql`).
    let is_of_rpc = |reason: &NoStore| matches!(reason, NoStore::RpcStatus | NoStore::NotUnary);
    let is_of_graphql =
        |reason: &NoStore| matches!(reason, NoStore::GraphqlErrors | NoStore::GraphqlResponse | NoStore::GraphqlTypename);
    for reason in NoStore::ALL.iter().copied().filter(|reason| !is_of_rpc(reason) && !is_of_graphql(reason)) {
        let memory = with_manual_clock(1 << 20).1;
        let store = Faulty { memory: memory.clone(), put: reason != NoStore::Store, get: true };
        let invalidating = memory.clone();
        let inner = service_fn(move |_: Request<Plain>| {
            let store = invalidating.clone();
            async move {
                if reason == NoStore::Invalidated {
                    store.invalidate(["*"]).await.expect("a name");
                }
                not_stored_for(reason)
            }
        });
        let (rule, field) = match reason {
            NoStore::RequestNoStore => (Rule::http(), Some(("cache-control", "no-store"))),
            NoStore::Authorization => (Rule::http(), Some(("authorization", "Bearer a"))),
            NoStore::NotAllowed => (Rule::http(), None),
            NoStore::ContentUnreadable => (Rule::ttl(MINUTE).policy_from_response(|_| Err("unreadable".into())), None),
            NoStore::ContentCompressed => {
                (Rule::ttl(MINUTE).policy_from_response(|_| Err(MessageError::Compressed.into())), None)
            }
            _ => (Rule::ttl(MINUTE), None),
        };
        let service = CacheLayer::new(store).rules(one_rule(rule.max_body(100))).layer(inner);
        let mut request = get("/t/a");
        if let Some((name, value)) = field {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let answer = service.oneshot(request).await;
        assert_eq!(answer.is_err(), reason == NoStore::Failed);
        if let Ok(response) = answer {
            assert_eq!(stored(&response), Some(Storing::Not(reason)));
        }
        let stats = memory.stats();
        assert_eq!(of_reason(&stats.not_stored, reason), 1, "{reason}");
        assert_eq!(stats.not_stored.iter().map(|(_, n)| n).sum::<u64>(), 1, "{reason}");
        assert_eq!((stats.stored, stats.entries, stats.flights), (0, 0, 0), "{reason}");
    }
}

#[tokio::test]
async fn every_reason_for_a_bypass_is_counted() {
    let store = Memory::default();
    let rules = Rules::new()
        .route("/t/{table}", Rule::ttl(MINUTE))
        .route("/uncached", Rule::uncached())
        .route("/search", Rule::ttl(MINUTE).reads_by_post())
        .route("/none", Rule::ttl(MINUTE).key(|_: &tower_response_cache::key::RequestView<'_>| None))
        .route("/identity", Rule::ttl(MINUTE).identity(Identity::header("x-who").required()));
    let switch = Switch::default();
    let service = CacheLayer::new(store.clone()).rules(rules).enabled(&switch).layer(counting(|_, _| ok("x")).0);
    let with = |name: &'static str| {
        let mut request = get("/t/a");
        request.headers_mut().insert(name, HeaderValue::from_static("x"));
        request
    };
    for reason in Bypass::ALL.iter().copied() {
        let request = match reason {
            Bypass::Method => post("/t/a"),
            Bypass::Uncached => get("/uncached"),
            Bypass::RequestBodyUnread => post("/search"),
            // These need a `RequestBodyLayer`: `tests/keys/posts.rs` and `examples/tonic/rpc`.
            Bypass::RequestBodyTooLarge | Bypass::RequestBodyError | Bypass::NotUnary => continue,
            // `tests/graphql/reads.rs`
            Bypass::GraphqlRequest
            | Bypass::GraphqlDocument
            | Bypass::GraphqlOperation
            | Bypass::GraphqlIncremental
            | Bypass::GraphqlPersisted => continue,
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
                for name in ["ada", "bob"] {
                    request.headers_mut().append("x-who", HeaderValue::from_static(name));
                }
                request
            }
            // Needs two layers: `tests/composition/layered_twice.rs`.
            // It needs a layer or a rule of its own: `tests/audit`.
            Bypass::Shadow => continue,
            Bypass::Nested => continue,
            other => panic!("no request for {other}"),
        };
        switch.set(reason != Bypass::Disabled);
        assert_eq!(of_reason(&store.stats().bypasses, reason), 0, "{reason}");
        assert_eq!(outcome(&send(&service, request).await), Outcome::Bypass(reason));
        assert_eq!(of_reason(&store.stats().bypasses, reason), 1, "{reason}");
    }
    assert_eq!((store.stats().misses(), store.stats().hits, store.stats().inner_calls), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn every_reason_for_a_miss_is_counted() {
    for reason in Miss::ALL.iter().copied() {
        let (clock, store) = with_manual_clock(1 << 20);
        let rule = if reason == Miss::Request { Rule::http() } else { Rule::ttl(MINUTE) };
        let mut layer = CacheLayer::new(store.clone()).rules(one_rule(rule));
        if reason == Miss::FlightLimit {
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
            outcome(&asking.await.expect("no panic").expect("a response"))
        };
        let got = match reason {
            Miss::Absent | Miss::FlightLimit => answered(&mut handle, ok("x")).await,
            Miss::Expired => {
                answered(&mut handle, ok("x")).await;
                clock.advance(MINUTE);
                answered(&mut handle, ok("x")).await
            }
            Miss::SoftlyInvalidated => {
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
                let own = match reason {
                    // The inner service does not respond, and the paused clock advances past the limit.
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
                outcome(&second.await.expect("no panic").expect("a response"))
            }
            Miss::Head => {
                let asking = ask(Request::head("/t/a").body(Plain::default()).expect("valid"));
                next_call(&mut handle).await.1.send_response(ok(""));
                outcome(&asking.await.expect("no panic").expect("a response"))
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
                outcome(&asking.await.expect("no panic").expect("a response"))
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
                outcome(&asking.await.expect("no panic").expect("a response"))
            }
            other => panic!("no test of {other}"),
        };
        assert_eq!(got, Outcome::Miss(reason));
        let stats = store.stats();
        assert_eq!(of_reason(&stats.misses, reason), 1, "{reason}");
        assert_eq!(stats.misses(), stats.misses.iter().map(|(_, n)| n).sum::<u64>());
        assert_eq!(stats.flights, 0, "{reason}");
    }
}

#[tokio::test]
async fn hits_followers_times_and_bytes_are_counted() {
    let (clock, store) = with_manual_clock(1 << 20);
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
        answer.await.expect("no panic").expect("a response");
    }
    for _ in 0..130 {
        send(&service, get("/t/a")).await;
    }
    let stats = store.stats();
    assert_eq!((stats.misses(), stats.collapsed, stats.hits, stats.stored), (1, 4, 130, 1));
    assert_eq!((stats.inner_calls, stats.inner_time, stats.flights, stats.entries), (1, 3 * SECOND, 0, 1));
    assert_eq!((stats.bytes, stats.capacity), (store.stats().bytes, 1 << 20));
    assert!((stats.hit_ratio() - 134.0 / 135.0).abs() < 1e-9);
    assert_eq!(stats.cache_time_per_hit, Duration::ZERO, "the manual clock does not advance");

    clock.advance(MINUTE);
    assert_eq!(outcome(&send(&service, get("/t/a")).await), Outcome::Stale(Stale::WhileRevalidate));
    next_call(&mut handle).await.1.send_response(ok("y"));
    settle().await;
    let stats = store.stats();
    assert_eq!((stats.stale_hits, stats.refreshes, stats.stored, stats.inner_calls, stats.flights), (1, 1, 2, 2, 0));
}

/// A request that is served stale because the inner service failed counts as a stale hit alone.
#[tokio::test]
async fn hit_ratio_counts_requests_served_stale_once() {
    let (clock, store) = with_manual_clock(1 << 20);
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
    assert_eq!((stats.hits, stats.stale_hits, stats.stale_if_error, stats.misses(), stats.inner_calls), (0, 3, 3, 1, 4));
    assert!((stats.hit_ratio() - 0.75).abs() < 1e-9, "{}", stats.hit_ratio());
}

#[tokio::test]
async fn time_of_hits_is_measured() {
    let store = Memory::default();
    let service = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(counting(|_, _| ok("x")).0);
    for _ in 0..200 {
        send(&service, get("/t/a")).await;
    }
    let took = store.stats().cache_time_per_hit;
    assert!(took > Duration::ZERO && took < SECOND, "{took:?}");
}
