//! Responses that are not shared.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    common::*,
    setup::{CROWD, layer, memory, of_user, user},
};
use http::{HeaderValue, Request, Response, header};
use tokio::{
    sync::{Barrier, Semaphore},
    time::timeout,
};
use tower::{Layer, service_fn};
use tower_response_cache::{CachePolicy, Outcome, Rule, Store, status::Miss};

/// Makes a response unstorable.
type Change = fn(&mut Response<Plain>);

/// Returns changes after which a response belongs to one request.
fn unstorable() -> Vec<(&'static str, Change)> {
    fn control(response: &mut Response<Plain>, value: &'static str) {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(value));
    }
    vec![
        ("set-cookie", |_| ()),
        ("private", |response| control(response, "private")),
        ("no-store", |response| control(response, "No-Store")),
        ("no-cache", |response| control(response, "max-age=60, no-cache")),
        ("vary", |response| drop(response.headers_mut().insert(header::VARY, HeaderValue::from_static("*")))),
        ("handler", |response| drop(response.extensions_mut().insert(CachePolicy::no_store()))),
        ("status", |response| *response.status_mut() = http::StatusCode::IM_A_TEAPOT),
    ]
}

/// Releases the first call once all requests have begun, and holds the others until all of them have called the inner service.
async fn crowd_calls_alone_and_at_once(name: &'static str, make_unstorable: fn(&mut Response<Plain>)) {
    let store = memory();
    let calls = Arc::new(AtomicUsize::new(0));
    let released = Arc::new(Semaphore::new(0));
    let inside = [Arc::new(Barrier::new(CROWD - 1)), Arc::new(Barrier::new(CROWD))];
    let inner = service_fn({
        let (calls, released) = (calls.clone(), released.clone());
        move |request: Request<Plain>| {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            let (released, inside) = (released.clone(), inside.clone());
            async move {
                match call {
                    0 => drop(released.acquire().await),
                    1..CROWD => _ = inside[0].wait().await,
                    _ => _ = inside[1].wait().await,
                }
                let user = user(&request);
                let mut response = ok(user.clone());
                make_unstorable(&mut response);
                // Only in this case, because a cookie alone makes a response unstorable.
                if name == "set-cookie" {
                    response.headers_mut().insert(header::SET_COOKIE, format!("session={user}").parse().unwrap());
                }
                Ok::<_, Infallible>(response)
            }
        }
    });
    let cache = layer(&store, Rule::ttl(MINUTE)).layer(inner);
    for (round, reason) in [(0, Miss::NotShared), (1, Miss::HitForMiss)] {
        let mut crowd = Vec::new();
        for user in 0..CROWD {
            let mine = begin(&cache, of_user("/t/a", user)).await;
            crowd.push(tokio::spawn(async move { (user, mine.await.unwrap()) }));
        }
        released.add_permits(1);
        for (i, one) in crowd.into_iter().enumerate() {
            let (user, response) = timeout(20 * SECOND, one).await.expect("all calls run at once").unwrap();
            let expected = if i == 0 && round == 0 { Miss::Absent } else { reason };
            assert_eq!(outcome(&response), Outcome::Miss(expected), "{name}");
            if name == "set-cookie" {
                assert_eq!(response.headers()[header::SET_COOKIE], format!("session={user}"));
                assert_eq!(response.headers().get_all(header::SET_COOKIE).iter().count(), 1);
            }
            assert_eq!(text(response).await, user.to_string(), "{name}");
        }
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2 * CROWD, "{name}");
    assert_eq!(store.stats().stored, 0, "{name}");
}

#[tokio::test(start_paused = true)]
async fn followers_of_an_unstorable_response_call_at_once() {
    for (name, make_unstorable) in unstorable() {
        crowd_calls_alone_and_at_once(name, make_unstorable).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn followers_of_an_unstorable_response_call_on_many_threads() {
    crowd_calls_alone_and_at_once("set-cookie", |_| ()).await;
}

#[tokio::test(start_paused = true)]
async fn hit_for_miss_ends_with_a_storable_response() {
    let store = memory();
    let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(MINUTE)));
    let private = || {
        let mut response = ok("mine");
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
        response
    };
    let first = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(private());
    assert_eq!(outcome(&first.await.unwrap()), Outcome::Miss(Miss::Absent));

    let second = begin(&cache, get("/t/a")).await;
    let third = begin(&cache, get("/t/a")).await;
    let answers = [next_call(&mut handle).await.1, next_call(&mut handle).await.1];
    answers.into_iter().for_each(|answer| answer.send_response(ok("ours")));
    for one in [second, third] {
        assert_eq!(outcome(&one.await.unwrap()), Outcome::Miss(Miss::HitForMiss));
    }
    assert_eq!(outcome(&begin(&cache, get("/t/a")).await.await.unwrap()), Outcome::Hit);

    store.invalidate(["table:a"]).await.unwrap();
    let leader = begin(&cache, get("/t/a")).await;
    let follower = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok("new"));
    assert_eq!(outcome(&leader.await.unwrap()), Outcome::Miss(Miss::Absent));
    assert_eq!(outcome(&follower.await.unwrap()), Outcome::Collapsed);
}

/// A 304 to the conditions of a client does not tell whether a whole response is storable.
#[tokio::test(start_paused = true)]
async fn not_modified_to_a_lone_client_keeps_coalescing() {
    let layer = layer(&memory(), Rule::ttl(MINUTE)).max_waiters(0);
    let (cache, mut handle) = mocked(&layer);
    let leader = begin(&cache, get("/t/a")).await;
    let asks = Request::get("/t/a").header(header::IF_NONE_MATCH, "\"1\"").body(Plain::default()).unwrap();
    let alone = begin(&cache, asks).await;
    let (_, first) = next_call(&mut handle).await;
    let (_, second) = next_call(&mut handle).await;
    let mut not_modified = ok("");
    *not_modified.status_mut() = http::StatusCode::NOT_MODIFIED;
    second.send_response(not_modified);
    assert_eq!(alone.await.unwrap().status(), http::StatusCode::NOT_MODIFIED);
    first.send_error("away");
    leader.await.unwrap_err();

    let leader = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok("rows"));
    assert_eq!(outcome(&leader.await.unwrap()), Outcome::Miss(Miss::Absent));
}
