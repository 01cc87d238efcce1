//! Explanations: each one is compared with the outcome of the next real request.

mod common;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use common::*;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn, util::BoxCloneService};
use tower_response_cache::{
    AnyStore, CacheBody, CacheStatus, Clock, Identity, KeyExtractor, Memory, Outcome, ResponseCache, RouteAndQuery, Rule,
    Rules,
    explain::Explanation,
    key::{Cookie, RequestBody, RequestView},
    request_body::ReadBody,
    status::{Bypass, Miss, NoStore, Stale},
};

type Served = BoxCloneService<Request<Plain>, Response<CacheBody<Plain>>, Infallible>;

const HIT: Outcome = Outcome::Hit;

fn miss(reason: Miss) -> Option<Outcome> {
    Some(Outcome::Miss(reason))
}

fn bypass(reason: Bypass) -> Option<Outcome> {
    Some(Outcome::Bypass(reason))
}

fn rules() -> Rules {
    let short = |request: &RequestView<'_>| (request.param("id") != "none").then(|| request.param("id").to_owned());
    Rules::new()
        .route("/t/{table}", Rule::ttl(MINUTE).namespace("db:{table}"))
        .route("/stale/{table}", Rule::ttl(MINUTE).stale_while_revalidate(MINUTE).stale_if_error(MINUTE))
        .route("/me", Rule::ttl(MINUTE).identity(Identity::bearer().required()).namespace("user:{identity}"))
        .route("/maybe", Rule::ttl(MINUTE).identity(Identity::bearer()))
        .route("/theme", Rule::ttl(MINUTE).key(RouteAndQuery.and(Cookie::new("theme"))).ignore_cookies())
        .route("/short/{id}", Rule::ttl(MINUTE).key(short))
        .route("/search", Rule::ttl(MINUTE).reads_by_post().max_request_body(16).key(RouteAndQuery.and(RequestBody::json())))
        .route("/call/{*method}", Rule::rpc(MINUTE))
        .route("/http/{cache_control}", Rule::http())
        .route("/none", Rule::uncached())
        .route("/private", Rule::ttl(MINUTE))
}

/// Answers with the fields that the target names.
fn answer<B>(request: &Request<B>) -> Response<Plain> {
    let mut response = ok("0123456789");
    let mut set = |name, value: &str| _ = response.headers_mut().insert(name, value.parse().expect("a value"));
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    if let Some(cache_control) = path.strip_prefix("/http/") {
        set(header::CACHE_CONTROL, &cache_control.replace('+', ", "));
    }
    if path == "/private" {
        set(header::CACHE_CONTROL, "private");
    }
    if query.contains("vary") {
        set(header::VARY, "accept-language");
    }
    if query.contains("tag") {
        set(header::ETAG, "\"1\"");
    }
    let has_range = query.contains("part") && request.headers().contains_key(header::RANGE);
    if has_range {
        set(header::CONTENT_RANGE, "bytes 0-9/20");
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    if request.headers().get(header::IF_NONE_MATCH).is_some_and(|tag| tag == "\"1\"") {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    response
}

/// A cache, its service, and the number of the calls of the inner service.
struct Rig {
    cache: ResponseCache,
    service: Served,
    calls: Arc<AtomicUsize>,
}

impl Rig {
    fn new(store: impl Into<AnyStore>) -> Self {
        let cache = ResponseCache::new(store).rules(rules());
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = calls.clone();
        let inner = service_fn(move |request: Request<ReadBody<Plain>>| {
            counter.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Ok::<_, Infallible>(answer(&request)))
        });
        let layers = ServiceBuilder::new().layer(cache.request_body_layer()).layer(cache.cache_layer());
        Self { service: BoxCloneService::new(layers.service(inner)), cache, calls }
    }

    /// Explains a request inside of a layer that reads its content.
    async fn explain(&self, request: Request<Plain>) -> Explanation {
        let cache = self.cache.clone();
        let explain = service_fn(move |request: Request<ReadBody<Plain>>| {
            let explanation = cache.explain(&request);
            async move { Ok::<_, Infallible>(explanation.await) }
        });
        self.cache.request_body_layer().layer(explain).oneshot(request).await.expect("it does not fail")
    }

    /// Explains a request, sends it, and checks that its outcome is the expected one and the explained one.
    async fn agree(&self, want: Option<Outcome>, request: impl Fn() -> Request<Plain>) {
        let (before, calls) = (self.counts(), self.calls.load(Ordering::SeqCst));
        let explanation = self.explain(request()).await;
        let again = self.explain(request()).await;
        assert_eq!((self.counts(), self.calls.load(Ordering::SeqCst)), (before, calls), "an explanation leaves no trace");
        let shown = format!("{:?} {explanation}", request());
        assert_eq!(explanation.outcome(), again.outcome(), "{shown}");
        let response = send(&self.service, request()).await;
        let actual = CacheStatus::of(&response).map(|status| status.outcome());
        text(response).await;
        assert_eq!(actual, want, "{shown}");
        match actual {
            Some(Outcome::Revalidated) => {
                assert!(explanation.revalidates() && matches!(explanation.outcome(), Some(Outcome::Miss(_))), "{shown}");
            }
            actual => assert_eq!(explanation.outcome(), actual, "{shown}"),
        }
        assert_eq!(explanation.remedy().is_some(), actual != Some(HIT), "{shown}");
        let is_whole_hit = actual == Some(HIT) && !request().uri().query().is_some_and(|query| query.contains("part"));
        assert!(!is_whole_hit || explanation.stored().is_some_and(|stored| stored.is_fresh()), "{shown}");
    }

    /// Returns the statistics without the rules that matched nothing: the layer that reads content finds rules as well.
    fn counts(&self) -> String {
        let mut stats = self.cache.stats();
        stats.unmatched_rules = 0;
        stats.to_string()
    }
}

fn with(target: &'static str, fields: &'static [(&'static str, &'static str)]) -> impl Fn() -> Request<Plain> {
    move || {
        let request = fields.iter().fold(Request::get(target), |request, (name, value)| request.header(*name, *value));
        request.body(Plain::default()).expect("a valid request")
    }
}

fn by(method: Method, target: &'static str, content: &'static str) -> impl Fn() -> Request<Plain> {
    move || {
        let request = Request::builder().method(method.clone()).uri(target).header("content-type", "application/json");
        request.body(Full::new(Bytes::from_static(content.as_bytes()))).expect("a valid request")
    }
}

/// Requests that need no clock, in an order in which each finds what those before it have stored.
async fn agree_about_many(rig: &Rig) {
    const LANGUAGE: &[(&str, &str)] = &[("accept-language", "de")];
    let absent = miss(Miss::Absent);
    let hit = Some(HIT);
    let long: &'static str = format!("/t/{}", "a".repeat(9000)).leak();

    rig.agree(None, with("/elsewhere", &[])).await;
    rig.agree(absent, with("/t/a", &[])).await;
    rig.agree(hit, with("/t/a", &[])).await;
    rig.agree(absent, with("/t/a?page=1", &[])).await;
    rig.agree(absent, with("/t/a", &[("host", "other.example")])).await;
    rig.agree(hit, with("/t/a", &[("cache-control", "no-cache")])).await;
    rig.agree(hit, with("/t/a", &[("if-none-match", "\"x\"")])).await;
    rig.agree(hit, with("/t/a", &[("range", "bytes=0-1")])).await;
    rig.agree(hit, by(Method::HEAD, "/t/a", "")).await;
    rig.agree(miss(Miss::Head), by(Method::HEAD, "/t/b", "")).await;

    rig.agree(bypass(Bypass::Method), by(Method::POST, "/t/a", "")).await;
    rig.agree(bypass(Bypass::Uncached), with("/none", &[])).await;
    rig.agree(bypass(Bypass::RequestBody), by(Method::GET, "/t/a", "content")).await;
    rig.agree(bypass(Bypass::Credentials), with("/t/a", &[("cookie", "id=1")])).await;
    rig.agree(bypass(Bypass::Credentials), with("/t/a", &[("authorization", "Bearer a")])).await;
    rig.agree(bypass(Bypass::Extractor), with("/short/none", &[])).await;
    rig.agree(bypass(Bypass::KeyTooLong), with(long, &[])).await;
    rig.agree(bypass(Bypass::Range), with("/t/b", &[("range", "bytes=0-1")])).await;
    rig.agree(bypass(Bypass::Precondition), with("/t/a", &[("if-match", "\"a\"")])).await;
    rig.agree(bypass(Bypass::MethodOverride), with("/t/a", &[("x-http-method-override", "DELETE")])).await;
    rig.agree(bypass(Bypass::Upgrade), with("/t/a", &[("upgrade", "websocket")])).await;
    rig.agree(bypass(Bypass::AmbiguousPath), with("/t/..", &[])).await;
    rig.agree(bypass(Bypass::IdentityMissing), with("/me", &[])).await;
    let text_call = || {
        let mut request = by(Method::POST, "/call/a.B/C", "{}")();
        request.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
        request
    };
    rig.agree(bypass(Bypass::NotUnary), text_call).await;
    rig.agree(absent, by(Method::POST, "/call/a.B/C", "{}")).await;
    rig.agree(hit, by(Method::POST, "/call/a.B/C", "{}")).await;
    const NINE: [(&str, &str); 9] = [("x-forwarded-host", "a"); 9];
    rig.agree(bypass(Bypass::Forwarding), with("/t/a", &NINE)).await;
    let twice = &[("authorization", "Bearer a"), ("authorization", "Bearer b")];
    rig.agree(bypass(Bypass::IdentityAmbiguous), with("/me", twice)).await;

    rig.agree(absent, with("/me", &[("authorization", "Bearer a")])).await;
    rig.agree(hit, with("/me", &[("authorization", "Bearer a")])).await;
    rig.agree(absent, with("/me", &[("authorization", "Bearer b")])).await;
    rig.agree(absent, with("/maybe", &[])).await;
    rig.agree(hit, with("/maybe", &[])).await;
    rig.agree(absent, with("/theme", &[("cookie", "theme=dark; id=1")])).await;
    rig.agree(hit, with("/theme", &[("cookie", "theme=dark; id=2")])).await;
    rig.agree(absent, with("/theme", &[("cookie", "theme=light")])).await;
    rig.agree(absent, with("/short/7?a", &[])).await;
    rig.agree(hit, with("/short/7?b", &[])).await;

    rig.agree(absent, by(Method::POST, "/search", "{\"a\":1}")).await;
    rig.agree(hit, by(Method::POST, "/search", "{ \"a\": 1 }")).await;
    rig.agree(absent, by(Method::POST, "/search", "{\"a\":2}")).await;
    rig.agree(bypass(Bypass::RequestBodyTooLarge), by(Method::POST, "/search", "{\"a\":\"0123456789\"}")).await;

    rig.agree(absent, with("/t/v?vary", LANGUAGE)).await;
    rig.agree(hit, with("/t/v?vary", LANGUAGE)).await;
    rig.agree(miss(Miss::Variant), with("/t/v?vary", &[("accept-language", "fr")])).await;
    rig.agree(miss(Miss::Variant), with("/t/v?vary", &[])).await;
    rig.agree(hit, with("/t/v?vary", &[("accept-language", "fr")])).await;

    rig.agree(absent, with("/private", &[])).await;
    rig.agree(miss(Miss::HitForMiss), with("/private", &[])).await;
}

/// Requests under a rule where HTTP decides.
async fn agree_about_http(rig: &Rig) {
    let absent = miss(Miss::Absent);
    let hit = Some(HIT);
    const MINUTE: &str = "/http/max-age=60";
    const CREDENTIALS: &[(&str, &str)] = &[("authorization", "Bearer a")];

    rig.agree(Some(Outcome::OnlyIfCached), with(MINUTE, &[("cache-control", "only-if-cached")])).await;
    rig.agree(Some(Outcome::OnlyIfCached), with(MINUTE, &[("cache-control", "only-if-cached"), ("upgrade", "h2c")])).await;
    rig.agree(absent, with(MINUTE, &[])).await;
    rig.agree(hit, with(MINUTE, &[("cache-control", "only-if-cached")])).await;
    rig.agree(miss(Miss::Request), with(MINUTE, &[("cache-control", "no-cache")])).await;
    rig.agree(miss(Miss::Request), with(MINUTE, &[("cache-control", "min-fresh=120")])).await;
    rig.agree(miss(Miss::Request), with(MINUTE, CREDENTIALS)).await;
    rig.agree(absent, with("/http/public+max-age=60", CREDENTIALS)).await;
    rig.agree(hit, with("/http/public+max-age=60", CREDENTIALS)).await;
    rig.agree(absent, with("/http/max-age=60?tag", &[])).await;
    rig.agree(Some(Outcome::Revalidated), with("/http/max-age=60?tag", &[("cache-control", "no-cache")])).await;
    rig.agree(absent, with("/http/max-age=60?part&tag", &[("range", "bytes=0-9")])).await;
    rig.agree(hit, with("/http/max-age=60?part&tag", &[("range", "bytes=0-9")])).await;
    rig.agree(hit, with("/http/max-age=60?part&tag", &[("range", "bytes=2-4")])).await;
    rig.agree(absent, with("/http/max-age=60?part&tag", &[("range", "bytes=5-12")])).await;
    rig.agree(bypass(Bypass::Range), with("/http/max-age=60?part&tag", &[("range", "bytes=0-1"), ("range", "bytes=4-5")]))
        .await;
}

#[tokio::test]
async fn explanation_agrees_with_the_next_request() {
    let rig = Rig::new(Memory::default());
    agree_about_many(&rig).await;
    agree_about_http(&rig).await;
}

#[tokio::test]
async fn explanation_agrees_after_lifetime_and_invalidation() {
    let clock = Clock::manual();
    let rig = Rig::new(Memory::builder().clock(clock.clone()).build());
    let absent = miss(Miss::Absent);
    rig.agree(absent, with("/t/a", &[])).await;
    rig.agree(absent, with("/stale/a", &[])).await;
    rig.agree(absent, with("/http/max-age=60", &[])).await;
    clock.advance(MINUTE);
    rig.agree(miss(Miss::Expired), with("/t/a", &[])).await;
    rig.agree(Some(Outcome::Stale(Stale::MaxStale)), with("/http/max-age=60", &[("cache-control", "max-stale")])).await;
    rig.agree(miss(Miss::Expired), with("/http/max-age=60", &[])).await;
    let refreshes = rig.calls.load(Ordering::SeqCst);
    rig.agree(Some(Outcome::Stale(Stale::WhileRevalidate)), with("/stale/a", &[])).await;
    eventually(|| rig.calls.load(Ordering::SeqCst) > refreshes && rig.cache.stats().flights == 0).await;
    rig.agree(Some(HIT), with("/stale/a", &[])).await;
    rig.agree(Some(HIT), with("/t/a", &[])).await;
    rig.cache.invalidate_softly(["db:a"]).await.expect("memory");
    rig.agree(miss(Miss::SoftlyInvalidated), with("/t/a", &[])).await;
    rig.agree(Some(HIT), with("/t/a", &[])).await;
    rig.cache.invalidate(["db"]).await.expect("memory");
    rig.agree(absent, with("/t/a", &[])).await;
}

#[tokio::test]
async fn explanation_foresees_a_fill_in_progress() {
    let cache = ResponseCache::new(Memory::default()).rules(rules()).map_cache_layer(|layer| layer.max_waiters(1));
    let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let service = cache.cache_layer().layer(inner);
    let explained = async || cache.explain(&get("/t/a")).await.outcome();
    let leader = tokio::spawn(begin(&service, get("/t/a")).await);
    let (_, answer) = next_call(&mut handle).await;
    assert_eq!(explained().await, Some(Outcome::Collapsed));
    let mut follower = begin(&service, get("/t/a")).await;
    assert!(poll_once(&mut follower).is_pending());
    assert_eq!(explained().await, Some(Outcome::Miss(Miss::FlightLimit)));
    answer.send_response(ok("rows"));
    assert_eq!(outcome(&follower.await.expect("a response")), Outcome::Collapsed);
    text(leader.await.expect("a task").expect("a response")).await;
    assert_eq!(explained().await, Some(HIT));
}

#[tokio::test]
async fn disabled_cache_is_explained_as_if_enabled() {
    let rig = Rig::new(Memory::default());
    rig.cache.set_enabled(false);
    let explanation = rig.explain(get("/t/a")).await;
    assert_eq!(explanation.outcome(), bypass(Bypass::Disabled));
    assert_eq!(explanation.outcome_if_enabled(), miss(Miss::Absent));
    rig.agree(bypass(Bypass::Disabled), with("/t/a", &[])).await;
    assert_eq!(rig.explain(get("/elsewhere")).await.outcome(), None);
}

#[tokio::test]
async fn unread_content_is_explained_without_its_layer() {
    let cache = ResponseCache::new(Memory::default()).rules(rules());
    let search = || by(Method::POST, "/search", "{}")();
    assert_eq!(cache.explain(&search()).await.outcome(), bypass(Bypass::RequestBodyUnread));
    let (inner, _) = counting(|_, _| ok("x"));
    let response = send(&cache.cache_layer().layer(inner), search()).await;
    assert_eq!(outcome(&response), Outcome::Bypass(Bypass::RequestBodyUnread));
}

#[tokio::test]
async fn explanation_shows_key_namespaces_and_entry() {
    let clock = Clock::manual();
    let rig = Rig::new(Memory::builder().clock(clock.clone()).build());
    text(send(&rig.service, get("/t/a?b=2&a=1")).await).await;
    clock.advance(Duration::from_secs(20));
    let explanation = rig.explain(get("/t/a?a=1&b=2")).await;
    assert_eq!(explanation.rule().and_then(|rule| rule.route()), Some("/t/{table}"));
    assert_eq!(explanation.rule().map(|rule| rule.lifetime()), Some("60s"));
    let parts: Vec<_> = explanation.key_parts().iter().map(|part| (part.kind(), part.value())).collect();
    assert!(parts.contains(&("path", "/t/a")) && parts.contains(&("query", "a=1&b=2")), "{parts:?}");
    assert_eq!(explanation.namespaces()[0].as_str(), "db:a");
    let stored = explanation.stored().expect("an entry");
    assert_eq!((stored.age().as_secs(), stored.time_left().as_secs(), stored.body_size()), (20, 40, 10));
    assert!(stored.is_fresh() && !stored.is_softly_invalidated() && stored.size() > 10);
    assert_eq!(stored.namespaces()[0].as_str(), "db:a");
    let matched = rig.cache.matches(&Method::GET, &"/t/a?a=1&b=2".parse().expect("a URI")).expect("a rule");
    assert_eq!(Some(matched.key()), explanation.key());
}

#[tokio::test]
async fn no_secret_is_in_an_explanation() {
    let rig = Rig::new(Memory::default());
    let request = with("/me", &[("authorization", "Bearer hunter2")])();
    let explanation = rig.explain(request).await;
    let identity = explanation.key_parts().iter().find(|part| part.kind() == "identity").expect("an identity");
    assert!(identity.is_hash() && identity.value() == rig.cache.identity("hunter2"));
    assert!(!format!("{explanation:?} {explanation}").contains("hunter2"));
    assert_eq!(explanation.namespaces()[0].as_str(), format!("user:{}", rig.cache.identity("hunter2")));
}

#[test]
fn every_reason_has_a_remedy() {
    let remedies = Miss::ALL.iter().map(|reason| reason.remedy()).chain(Bypass::ALL.iter().map(|reason| reason.remedy()));
    for remedy in remedies.chain(NoStore::ALL.iter().map(|reason| reason.remedy())) {
        assert!(remedy.ends_with('.') && remedy.len() > 20, "{remedy}");
    }
}

#[cfg(feature = "redis")]
mod with_redis {
    use tower_response_cache::Redis;

    use super::{common::redis::Server, *};

    #[tokio::test]
    async fn explanation_agrees_over_redis() {
        let server = Server::start().await;
        for memory in [0, 8 << 20] {
            let prefix = format!("m{memory}");
            let builder = Redis::builder(&server.url()).prefix(&prefix).memory(memory).require_connection();
            let rig = Rig::new(builder.build().await.expect("a connection"));
            agree_about_many(&rig).await;
            agree_about_http(&rig).await;
        }
    }

    #[tokio::test]
    async fn explanation_keeps_no_copy_in_memory() {
        let server = Server::start().await;
        let store = async || {
            Redis::builder(&server.url())
                .memory(8 << 20)
                .secret([7; 32])
                .require_connection()
                .build()
                .await
                .expect("a connection")
        };
        let (one, other) = (Rig::new(store().await), Rig::new(store().await));
        text(send(&one.service, get("/t/a")).await).await;
        eventually(|| one.cache.stats().stored == 1).await;
        assert_eq!(other.explain(get("/t/a")).await.outcome(), Some(HIT));
        assert_eq!(other.cache.stats().entries, 0);
        other.agree(Some(HIT), with("/t/a", &[])).await;
        assert_eq!(other.cache.stats().entries, 1);
    }
}
