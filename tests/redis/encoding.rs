//! Compressed and encrypted entries.

use crate::{
    common::{redis::Server, *},
    setup::rule,
};
use tower::Layer;
#[cfg(feature = "redis-compression")]
use tower_response_cache::Store;
use tower_response_cache::{CacheLayer, Outcome, Redis, redis::Coherence};

#[cfg(all(feature = "redis-compression", feature = "redis-encryption"))]
#[tokio::test(flavor = "multi_thread")]
async fn encrypted_entries_hide_their_content_and_keys_rotate() {
    use crate::setup::builder;
    use std::sync::atomic::Ordering;
    use tower_response_cache::redis::KeyRing;

    let server = Server::start().await;
    let (inner, calls) = counting(|_, _| {
        let mut response = ok("a confidential body ".repeat(400));
        response.headers_mut().insert("x-secret", "of-a-field".parse().unwrap());
        response
    });
    let store = async |keys: &[[u8; 32]]| {
        let ring = KeyRing::new(keys.iter().copied()).unwrap();
        builder(&server).encryption(ring).compression(4096, 1).build().await.unwrap()
    };
    let cache = |store: &Redis| CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone());
    let (old, both, new) = (store(&[[1; 32]]).await, store(&[[2; 32], [1; 32]]).await, store(&[[2; 32]]).await);
    send(&cache(&old), get("/t/x?filter=private")).await;
    let keys = server.keys("*:e:*").await;
    let raw: Vec<u8> = ::redis::from_redis_value(server.command(&["GET", &keys[0]]).await).unwrap();
    assert!(raw.len() < 2_000, "compressed");
    for text in ["confidential", "x-secret", "of-a-field", "private", "filter"] {
        assert!(!raw.windows(text.len()).any(|part| part == text.as_bytes()), "{text}");
        assert!(!keys[0].contains(text), "{text}");
    }
    // The next release knows both keys, the release after that only the new one.
    let hit = send(&cache(&both), get("/t/x?filter=private")).await;
    assert_eq!((outcome(&hit), hit.headers()["x-secret"].to_str().unwrap()), (Outcome::Hit, "of-a-field"));
    send(&cache(&both), get("/t/y")).await;
    assert_eq!(outcome(&send(&cache(&new), get("/t/y")).await), Outcome::Hit);
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    // A process without the key leaves the entry where it is.
    assert_ne!(outcome(&send(&cache(&new), get("/t/x?filter=private")).await), Outcome::Hit);
    assert_eq!(new.stats().damaged, 1);
}

/// An attacker with write access to Redis, but without a key of the ring, can copy entries.
#[cfg(feature = "redis-encryption")]
#[tokio::test(flavor = "multi_thread")]
async fn copied_encrypted_entry_is_a_miss_elsewhere() {
    use tower_response_cache::redis::KeyRing;

    let server = Server::start().await;
    let make = async |url: String, prefix: &str| {
        let keys = KeyRing::new([[7; 32]]).unwrap();
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let builder = Redis::builder(&url).prefix(prefix).coherence(Coherence::Validated).encryption(keys);
        CacheLayer::new(builder.build().await.unwrap()).rules(one_rule(rule())).layer(inner)
    };
    let own = make(server.url(), "own").await;
    send(&own, get("/t/x")).await;
    assert_eq!(outcome(&send(&own, get("/t/x")).await), Outcome::Hit);
    for key in server.keys("own:*").await {
        let other = key.replacen("own:", "other:", 1);
        server.command(&["COPY", &key, &other]).await;
        server.command(&["COPY", &key, &key, "DB", "1"]).await;
    }
    let elsewhere = [make(server.url(), "other").await, make(format!("{}/1", server.url()), "own").await];
    for cache in elsewhere {
        assert!(matches!(outcome(&send(&cache, get("/t/x")).await), Outcome::Miss(_)));
        assert_eq!(outcome(&send(&cache, get("/t/x")).await), Outcome::Hit, "its own entry");
    }
    assert_eq!(outcome(&send(&own, get("/t/x")).await), Outcome::Hit);
}

#[cfg(feature = "redis-compression")]
#[tokio::test(flavor = "multi_thread")]
async fn body_over_the_rule_limit_is_not_decompressed() {
    let server = Server::start().await;
    let make = async |max_body: usize, length: usize, compressed: bool| {
        let builder = Redis::builder(&server.url()).prefix(&compressed.to_string()).coherence(Coherence::Validated);
        let builder = builder.command_timeout(20 * SECOND);
        let builder = if compressed { builder.compression(1 << 10, 1) } else { builder };
        let (inner, _) = counting(move |_, _| ok(vec![b'a'; length]));
        let store = builder.build().await.unwrap();
        (store.clone(), CacheLayer::new(store).rules(one_rule(rule().max_body(max_body))).layer(inner))
    };
    for compressed in [true, false] {
        let (_, large) = make(16 << 20, 8 << 20, compressed).await;
        let (store, small) = make(64 << 10, 1, compressed).await;
        send(&large, get("/t/x")).await;
        assert_eq!(outcome(&send(&large, get("/t/x")).await), Outcome::Hit);
        let response = send(&small, get("/t/x")).await;
        assert!(matches!(outcome(&response), Outcome::Miss(_)), "{compressed}");
        assert_eq!(text(response).await, "a");
        assert!(store.stats().damaged > 0);
        assert_eq!(text(send(&large, get("/t/x")).await).await, "a", "the stored body is short enough for both rules");
    }
}
