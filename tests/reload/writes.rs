//! Writes that a reload overtakes.

use crate::common::*;
use http::{Request, Response};
use tower::Layer;
use tower_response_cache::{Memory, ResponseCache, Rule, Rules};

fn named(name: &str) -> Rules {
    one_rule(Rule::ttl(MINUTE).namespace(name))
}

type Mock = tower_test::mock::Mock<Request<Plain>, Response<Plain>>;

/// Both layers over an inner service that the test answers by hand.
macro_rules! held {
    ($cache:ident, $service:ident, $handle:ident) => {
        let (inner, mut $handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let inner: Mock = inner;
        let $service = $cache.layer().layer(inner);
    };
}

/// Reads under each table around a write that is in progress, and returns the body of the read after the write.
async fn read_after_write(before: Rules, after: Rules) -> String {
    let cache = ResponseCache::new(Memory::default()).rules(before);
    held!(cache, service, handle);
    let write = tokio::spawn(begin(&service, post("/t/a")).await);
    let (_, write_call) = next_call(&mut handle).await;
    cache.reload(after).await.unwrap();
    // A reader under the new rules sees the old data, and stores them.
    let early = tokio::spawn(begin(&service, get("/t/a")).await);
    let (_, call) = next_call(&mut handle).await;
    call.send_response(ok("old"));
    text(early.await.unwrap().unwrap()).await;
    write_call.send_response(ok("written"));
    write.await.unwrap().unwrap();
    let late = tokio::spawn(begin(&service, get("/t/a")).await);
    tokio::select! {
        late = late => text(late.unwrap().unwrap()).await,
        (_, _call) = next_call(&mut handle) => "asked".to_owned(),
    }
}

#[tokio::test]
async fn write_invalidates_names_of_both_tables() {
    let tables = || {
        [
            named("a:{table}"),
            named("b:{table}"),
            named("c"),
            named("{table}"),
            Rules::new().route("/{kind}/{table}", Rule::ttl(MINUTE).namespace("d:{kind}")),
            Rules::new().fallback(Rule::http().default_ttl(MINUTE)),
            one_rule(
                Rule::ttl(MINUTE).namespace("e").invalidates_nothing().invalidates_by(|_, _| vec!["e".try_into().unwrap()]),
            ),
        ]
    };
    for (n, before) in tables().into_iter().enumerate() {
        for (m, after) in tables().into_iter().enumerate() {
            assert_eq!(read_after_write(before.clone(), after).await, "asked", "{n} {m}");
        }
    }
}

#[tokio::test]
async fn write_without_reload_invalidates_only_its_own_names() {
    let cache = ResponseCache::new(Memory::default()).rules(named("a:{table}"));
    held!(cache, service, handle);
    let read = tokio::spawn(begin(&service, get("/t/other")).await);
    next_call(&mut handle).await.1.send_response(ok("other"));
    text(read.await.unwrap().unwrap()).await;
    // Ended before the write begins.
    cache.reload(named("a:{table}").route("/u", Rule::uncached())).await.unwrap();
    let write = tokio::spawn(begin(&service, post("/t/a")).await);
    next_call(&mut handle).await.1.send_response(ok("written"));
    write.await.unwrap().unwrap();
    let hit = begin(&service, get("/t/other")).await.await.unwrap();
    assert_eq!(text(hit).await, "other");
}

#[tokio::test]
async fn write_over_many_reloads_invalidates_everything() {
    let cache = ResponseCache::new(Memory::default()).rules(named("a0"));
    held!(cache, service, handle);
    let write = tokio::spawn(begin(&service, post("/t/a")).await);
    let (_, write_call) = next_call(&mut handle).await;
    for n in 1..40 {
        cache.reload(named(&format!("a{n}"))).await.unwrap();
    }
    let early = tokio::spawn(begin(&service, get("/t/a")).await);
    next_call(&mut handle).await.1.send_response(ok("old"));
    text(early.await.unwrap().unwrap()).await;
    write_call.send_response(ok("written"));
    write.await.unwrap().unwrap();
    let late = tokio::spawn(begin(&service, get("/t/a")).await);
    next_call(&mut handle).await.1.send_response(ok("new"));
    assert_eq!(text(late.await.unwrap().unwrap()).await, "new");
}

#[tokio::test]
async fn write_whose_client_left_invalidates_names_of_both_tables() {
    let cache = ResponseCache::new(Memory::default()).rules(named("a"));
    held!(cache, service, handle);
    let mut write = begin(&service, post("/t/a")).await;
    assert!(poll_once(&mut write).is_pending());
    let (_, write_call) = next_call(&mut handle).await;
    drop(write);
    cache.reload(named("b")).await.unwrap();
    let early = tokio::spawn(begin(&service, get("/t/a")).await);
    next_call(&mut handle).await.1.send_response(ok("old"));
    text(early.await.unwrap().unwrap()).await;
    let before = cache.stats().invalidations;
    write_call.send_error("an unknown outcome");
    eventually(|| cache.stats().invalidations > before).await;
    let late = tokio::spawn(begin(&service, get("/t/a")).await);
    next_call(&mut handle).await.1.send_response(ok("new"));
    assert_eq!(text(late.await.unwrap().unwrap()).await, "new");
}
