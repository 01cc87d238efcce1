//! Ways to reach Redis: addresses, clients, pools, passwords, encryption keys.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    common::{
        redis::{Options, Server, free_port},
        *,
    },
    setup::{builder, rule},
};
use tower::Layer;
use tower_response_cache::{
    CacheLayer, Outcome, Redis,
    redis::{Coherence, RedisBuilder},
    status::Miss,
};

#[tokio::test(flavor = "multi_thread")]
async fn store_is_built_without_redis_unless_required() {
    let port = free_port();
    let url = format!("redis://127.0.0.1:{port}");
    let error = Redis::builder(&url).require_connection().build().await.unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
    let store = Redis::connect(&url).await.unwrap();
    assert!(!store.is_reachable());
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store).rules(one_rule(rule())).layer(inner);
    assert_eq!(text(send(&cache, get("/t/x")).await).await, "answer 1");
    for (wrong, reason) in [
        (Redis::builder("http://:secret@127.0.0.1").build().await, "invalid Redis URL"),
        (Redis::builder("localhost").build().await, "expected redis://[user:password@]host[:port][/db], rediss:// for TLS"),
        (Redis::builder(&url).memory(10).build().await, "invalid memory 10: expected 0, for none, or at least 65536"),
        (Redis::builder(&url).prefix("a b").build().await, "letters, digits"),
        (Redis::builder(&url).heartbeat(Duration::ZERO).build().await, "invalid heartbeat 0ns: expected 5ms to 10s"),
        (Redis::builder(&url).connections(0).build().await, "invalid connections 0"),
        (RedisBuilder::cluster(Vec::<String>::new()).build().await, "at least one node"),
        (RedisBuilder::sentinel([""; 0], "service", Default::default()).build().await, "at least one"),
        (
            RedisBuilder::sentinel([&url], "service", Default::default()).root_certificate("PEM").build().await,
            "root_certificate and client_certificate",
        ),
    ] {
        let error = wrong.expect_err(reason).to_string();
        assert!(error.contains(reason) && !error.contains("secret"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_password_fails_the_build() {
    let server = Options::default().password("right").start().await;
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}", server.port());
    let error = Redis::connect(&url("wrong")).await.unwrap_err().to_string();
    assert!(error.to_lowercase().contains("password") || error.contains("WRONGPASS"), "{error}");
    assert!(Redis::connect(&url("right")).await.unwrap().is_reachable());
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_and_port_of_one_database_share_entries() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("redis.sock");
    let server = Options::default().line(format!("unixsocket {}", socket.display())).start().await;
    let by_socket = format!("unix://{}?db=2", socket.display());
    let by_port = format!("redis://127.0.0.1:{}/2", server.port());
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let prefix = format!("{coherence:?}");
        let make = async |url: &str| {
            let builder = Redis::builder(url).prefix(&prefix).coherence(coherence).command_timeout(Duration::from_secs(2));
            builder.require_connection().build().await.unwrap()
        };
        let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
        let one = CacheLayer::new(make(&by_socket).await).rules(one_rule(rule())).layer(inner.clone());
        let other = CacheLayer::new(make(&by_port).await).rules(one_rule(rule())).layer(inner);
        assert_eq!(outcome(&send(&one, get("/t/x")).await), Outcome::Miss(Miss::Absent));
        for cache in [&other, &one] {
            let response = send(cache, get("/t/x")).await;
            assert_eq!(outcome(&response), Outcome::Hit, "{coherence:?}");
            assert_eq!(text(response).await, "answer 1");
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }
    assert!(server.keys("*").await.is_empty(), "the first database is empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_pool_and_url_share_entries() {
    use bb8_redis::bb8::Pool;
    use tower_response_cache::redis::RedisManager;

    let server = Server::start().await;
    let manager = RedisManager::new(&server.url()).unwrap();
    let pool = Pool::builder().max_size(3).test_on_check_out(false).build(manager.clone()).await.unwrap();
    let client = ::redis::Client::open(server.url()).unwrap();
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let budget = Duration::from_secs(2);
    for store in [
        Redis::builder(&server.url()).command_timeout(budget).build().await.unwrap(),
        RedisBuilder::client(client).command_timeout(budget).build().await.unwrap(),
        RedisBuilder::pool(manager, pool).command_timeout(budget).build().await.unwrap(),
    ] {
        let cache = CacheLayer::new(store).rules(one_rule(rule())).layer(inner.clone());
        assert_eq!(text(send(&cache, get("/t/x")).await).await, "answer 1");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// Runs only over an older server, which tests/servers/run starts.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Redis older than 7.0: tests/servers/run"]
async fn redis_older_than_7_is_refused() {
    let server = Server::start().await;
    let version = server.info("server").await;
    assert!(version.contains("redis_version:6."), "{version}");
    let error = builder(&server).build().await.expect_err("Redis 6 is refused").to_string();
    assert!(error.contains("7.0 or newer, or Valkey, is needed"), "{error}");
}
