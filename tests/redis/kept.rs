//! The hottest requests, kept in Redis across restarts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::{
    common::{
        redis::{Server, until},
        *,
    },
    setup::{builder, in_time, rule},
};
use axum::{Router, body::Body, http::Request as HttpRequest, routing};
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_response_cache::{Identity, Memory, Redis, ResponseCache, Rule, stats::HotRequest, warm::Warmer};

/// One process: its cache, its application and the number of calls of its handler.
struct Process {
    cache: ResponseCache,
    app: Router,
    calls: Arc<AtomicUsize>,
}

impl Process {
    async fn start(server: &Server) -> Self {
        Self::over(builder(server).memory(8 << 20).build().await.expect("a server is there"))
    }

    fn over(store: Redis) -> Self {
        let cache = ResponseCache::new(store)
            .route("/t/{table}", rule())
            .route("/reset/{token}", Rule::ttl(MINUTE).namespace("resets"))
            .route("/me", Rule::ttl(MINUTE).namespace("users").identity(Identity::bearer()))
            .track_hottest(100);
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = calls.clone();
        let rows = async move || {
            counter.fetch_add(1, SeqCst);
            "rows"
        };
        let router = Router::new()
            .route("/t/{table}", routing::get(rows.clone()))
            .route("/reset/{token}", routing::get(rows.clone()))
            .route("/me", routing::get(rows));
        Self { app: router.layer(cache.layer()), cache, calls }
    }

    /// The application under the path `/api`, with its layer inside.
    fn nested(self) -> Self {
        Self { app: Router::new().nest("/api", self.app), ..self }
    }

    async fn read(&self, target: &str, fields: &[(&str, &str)]) {
        let request = HttpRequest::get(target).header("host", "api.example");
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = self.app.clone().oneshot(request.body(Body::empty()).expect("a request")).await.expect("a response");
        assert!(response.status().is_success());
        response.into_body().collect().await.expect("a body");
    }

    async fn kept(&self) -> Vec<String> {
        let kept = self.cache.kept_hottest("api").await.expect("a server is there");
        kept.iter().map(|hot| hot.request().expect("single").uri().to_string()).collect()
    }
}

async fn value(server: &Server) -> Vec<u8> {
    let keys = server.keys("*:h:*").await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    ::redis::from_redis_value(server.command(&["GET", &keys[0]]).await).expect("bytes")
}

#[tokio::test(flavor = "multi_thread")]
async fn next_process_warms_from_the_kept_list() {
    let server = Server::start().await;
    let first = Process::start(&server).await;
    for (table, reads) in [("a", 3), ("b", 200), ("c", 1)] {
        for _ in 0..reads {
            first.read(&format!("/t/{table}?page=1"), &[]).await;
        }
    }
    first.cache.save_hottest("api").await.expect("a server is there");
    // Nothing of what the first process has stored remains.
    first.cache.invalidate(["*"]).await.expect("a server is there");
    drop(first);

    let second = Process::start(&server).await;
    assert_eq!(second.kept().await.first().map(String::as_str), Some("/t/b?page=1"));
    let kept = second.cache.kept_hottest("api").await.expect("a server is there");
    assert_eq!((kept.len(), kept[0].route(), kept[0].error()), (3, Some("/t/{table}"), 0));
    let warmer = Warmer::new(&second.cache, second.app.clone()).requests(kept.iter().filter_map(HotRequest::request));
    let summary = in_time("warming", warmer.start()).await;
    assert_eq!((summary.succeeded, summary.failed, second.calls.load(SeqCst)), (3, 0, 3));
    second.read("/t/b?page=1", &[]).await;
    assert_eq!((second.calls.load(SeqCst), second.cache.stats().misses()), (3, 3), "the first request of a client is a hit");
}

#[tokio::test(flavor = "multi_thread")]
async fn list_of_a_nested_router_holds_the_paths_of_the_client() {
    let server = Server::start().await;
    let first = Process::start(&server).await.nested();
    first.read("/api/t/a?page=1", &[]).await;
    first.cache.save_hottest("api").await.expect("a server is there");
    first.cache.invalidate(["*"]).await.expect("a server is there");

    let second = Process::start(&server).await.nested();
    assert_eq!(second.kept().await, ["/api/t/a?page=1"]);
    let kept = second.cache.kept_hottest("api").await.expect("a server is there");
    let warmer = Warmer::new(&second.cache, second.app.clone()).requests(kept.iter().filter_map(HotRequest::request));
    assert_eq!(in_time("warming", warmer.start()).await.succeeded, 1);
    second.read("/api/t/a?page=1", &[]).await;
    assert_eq!(second.calls.load(SeqCst), 1, "the request of the client is a hit");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_processes_are_merged() {
    let server = Server::start().await;
    let (one, other) = (Process::start(&server).await, Process::start(&server).await);
    for process in [&one, &other] {
        process.read("/t/both", &[]).await;
    }
    one.read("/t/one", &[]).await;
    other.read("/t/other", &[]).await;
    let saves = (0..6).map(|n| {
        let cache = if n % 2 == 0 { one.cache.clone() } else { other.cache.clone() };
        tokio::spawn(async move { cache.save_hottest("api").await.expect("saved") })
    });
    for save in saves.collect::<Vec<_>>() {
        in_time("saving", save).await.expect("no panic");
    }
    let mut kept = one.kept().await;
    kept.sort();
    assert_eq!(kept, ["/t/both", "/t/one", "/t/other"]);
    let ttl: i64 =
        ::redis::from_redis_value(server.command(&["PTTL", &server.keys("*:h:*").await[0]]).await).expect("a number");
    assert!((1..=7 * 86_400_000).contains(&ttl), "{ttl}");
}

#[tokio::test(flavor = "multi_thread")]
async fn list_is_saved_at_its_interval_until_the_handle_is_dropped() {
    let server = Server::start().await;
    let process = Process::start(&server).await;
    process.read("/t/a", &[]).await;
    let keeping = process.cache.keep_hottest("api", Duration::ZERO);
    until("the list is saved", async || process.kept().await == ["/t/a"]).await;
    drop(keeping);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_never_reach_redis() {
    let server = Server::start().await;
    let process = Process::start(&server).await;
    process.read("/t/public", &[]).await;
    for _ in 0..100 {
        process.read("/me", &[("authorization", "Bearer s3cr3t")]).await;
    }
    process.read("/t/a?access_token=s3cr3t", &[]).await;
    process.read("/reset/s3cr3t", &[]).await;
    process.cache.save_hottest("api").await.expect("a server is there");
    let (value, hash) = (value(&server).await, process.cache.identity("s3cr3t"));
    for secret in ["s3cr3t", &hash, "authorization", "/me", "access_token"] {
        assert!(!value.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
    }
    assert!(value.windows(9).any(|part| part == b"/t/public"));
    assert_eq!(process.kept().await, ["/t/public"]);
}

#[cfg(feature = "redis-encryption")]
#[tokio::test(flavor = "multi_thread")]
async fn list_is_encrypted_if_the_store_encrypts() {
    use tower_response_cache::redis::KeyRing;

    let server = Server::start().await;
    let ring = || KeyRing::new([[7; 32]]).expect("a key");
    let process = Process::over(builder(&server).encryption(ring()).build().await.expect("a server is there"));
    process.read("/t/public", &[]).await;
    process.cache.save_hottest("api").await.expect("a server is there");
    assert!(!value(&server).await.windows(9).any(|part| part == b"/t/public"));
    assert_eq!(process.kept().await, ["/t/public"]);
    assert!(Process::start(&server).await.kept().await.is_empty(), "it has no key");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_list_is_ignored_and_replaced() {
    let server = Server::start().await;
    let process = Process::start(&server).await;
    process.read("/t/a", &[]).await;
    process.cache.save_hottest("api").await.expect("a server is there");
    // Without a global subscriber, another test that reaches the warning first may turn it off for all threads.
    let _ = tracing::subscriber::set_global_default(Warnings::default());
    let warnings = Warnings::default();
    let _default = tracing::subscriber::set_default(warnings.clone());
    let (key, whole) = (server.keys("*:h:*").await.remove(0), value(&server).await);
    let mut damaged = vec![Vec::new(), b"x".to_vec(), b"not a list, and longer than sixteen bytes".to_vec()];
    damaged.extend((0..whole.len()).step_by(7).map(|end| whole[..end].to_vec()));
    damaged.extend((0..whole.len()).step_by(5).map(|at| {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        changed
    }));
    let client = ::redis::Client::open(server.url()).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("a server is there");
    for bytes in damaged {
        let text = bytes.escape_ascii().to_string();
        ::redis::cmd("SET").arg(&key).arg(bytes).exec_async(&mut connection).await.expect("a server is there");
        assert!(process.kept().await.is_empty(), "{text}");
        process.cache.save_hottest("api").await.expect("a server is there");
        assert_eq!(process.kept().await, ["/t/a"], "{text}");
    }
    server.command(&["DEL", &key]).await;
    server.command(&["LPUSH", &key, "x"]).await;
    assert!(process.kept().await.is_empty());
    process.cache.save_hottest("api").await.expect("a server is there");
    assert_eq!(process.kept().await, ["/t/a"]);
    assert_eq!(warnings.0.load(SeqCst), 1, "one warning for all");
}

/// Counts warnings about damaged lists.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN && metadata.module_path() == Some("tower_response_cache::redis::kept")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, SeqCst);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_is_away_is_an_error_and_memory_keeps_nothing() {
    let mut server = Server::start().await;
    let process = Process::start(&server).await;
    process.read("/t/a", &[]).await;
    server.stop();
    assert!(process.cache.save_hottest("api").await.is_err());
    assert!(process.cache.kept_hottest("api").await.is_err());
    let memory = ResponseCache::new(Memory::default()).track_hottest(10);
    memory.save_hottest("api").await.expect("nothing to do");
    assert!(memory.kept_hottest("api").await.expect("nothing").is_empty());
}
