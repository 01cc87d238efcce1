//! Caches of this crate, prepared for the cases.

use std::time::Duration;

use tower::Layer;
use tower_response_cache::{
    AnyStore, CacheLayer, CacheTags, Clock, InvalidateLayer, InvalidateService, KeyExtractor, Memory, ResponseCache,
    RouteAndQuery, Rule, Rules,
    key::{Extracted, KeyWriter, RequestView},
};

use crate::work::{Origin, item, request, send_ready};

/// The store of all cases: that of a `ResponseCache`.
#[cfg(not(feature = "direct"))]
pub type Store = AnyStore;

/// The store of all cases: memory itself.
#[cfg(feature = "direct")]
pub type Store = Memory;

/// The measured service.
pub type CacheService = tower_response_cache::CacheService<Origin, Store>;

const ROUTES: [&str; 19] = [
    "/auth/user",
    "/auth/session",
    "/customers",
    "/customers/{id}",
    "/customers/{id}/orders",
    "/files/{*path}",
    "/health",
    "/invoices/{id}",
    "/invoices",
    "/items",
    "/orders",
    "/orders/{id}",
    "/orders/{id}/lines",
    "/reports/{year}/{month}",
    "/search",
    "/storage/{bucket}",
    "/storage/{bucket}/{key}",
    "/tables/{table}",
    "/users/{id}",
];

/// Returns a table of 20 routes. The requested route belongs to a namespace below the root, so that a hit checks both.
pub fn rules(rule: Rule) -> Rules {
    let minute = Duration::from_secs(60);
    let rules = ROUTES.iter().fold(Rules::new(), |rules, route| rules.route(route, Rule::ttl(minute).namespace("others")));
    rules.route("/items/{id}", rule.namespace("items"))
}

/// Returns a table of 20 routes that begin alike, as in an axum application whose routes are nested below one path.
fn nested_rules() -> Rules {
    let rule = minute_rule().namespace("others");
    ROUTES
        .iter()
        .chain(["/items/{id}"].iter())
        .fold(Rules::new(), |rules, route| rules.route(&format!("/api{route}"), rule.clone()))
}

/// The options that report the cache status of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The default options.
    Default,
    /// The default options, with the field `Cache-Status`.
    Header,
    /// The default options, with the response extension.
    Extension,
}

/// Returns a layer over a store, with this rule for the item.
pub fn layer(store: Memory, rule: Rule, report: Report) -> CacheLayer<Store> {
    let layer = CacheLayer::new(Store::from(store)).rules(rules(rule));
    match report {
        Report::Default => layer,
        Report::Header => layer.cache_status("items"),
        Report::Extension => layer.status_extension(true),
    }
}

/// Returns a rule with a lifetime of one minute.
pub fn minute_rule() -> Rule {
    Rule::ttl(Duration::from_secs(60))
}

/// Returns a cache that contains the item, with the system clock.
pub fn warm(origin: Origin, report: Report) -> CacheService {
    warm_by(minute_rule(), origin, report)
}

/// Returns a cache that contains the item, by this rule.
pub fn warm_by(rule: Rule, origin: Origin, report: Report) -> CacheService {
    let mut cache = layer(Memory::new(256 << 20), rule, report).layer(origin);
    // The cache learns from the first response that the resource varies.
    for _ in 0..2 {
        send_ready(&mut cache, request(item()));
    }
    cache
}

/// Returns a cache that contains the item, and sends cache tags.
pub fn tagged(origin: Origin) -> CacheService {
    let layer = layer(Memory::new(256 << 20), minute_rule(), Report::Default).cache_tags(CacheTags::surrogate_key());
    let mut cache = layer.layer(origin);
    send_ready(&mut cache, request(item()));
    cache
}

/// Returns a cache that contains the item, and tracks the hottest requests.
pub fn tracking(origin: Origin) -> CacheService {
    let mut cache = layer(Memory::new(256 << 20), minute_rule(), Report::Default).track_hottest(100).layer(origin);
    send_ready(&mut cache, request(item()));
    cache
}

/// Returns a cache in front of routes that begin alike.
pub fn nested(origin: Origin) -> CacheService {
    CacheLayer::new(Store::from(Memory::new(256 << 20))).rules(nested_rules()).layer(origin)
}

/// Returns both layers of the quickstart in README.md.
pub fn quickstart(origin: Origin) -> InvalidateService<tower_response_cache::CacheService<Origin, AnyStore>, AnyStore> {
    ResponseCache::new(Memory::new(64 << 20))
        .route("/tables/{table}", Rule::ttl(Duration::from_secs(60)).namespace("db_query:{table}"))
        .cache_status("quickstart")
        .layer()
        .layer(origin)
}

/// Returns an `InvalidateLayer` alone, with the table of the cache.
pub fn invalidating(origin: Origin) -> InvalidateService<Origin, Store> {
    InvalidateLayer::new(Store::from(Memory::new(256 << 20))).rules(rules(minute_rule())).layer(origin)
}

/// Returns a one-minute rule with this number of namespaces, which share two ancestors.
fn rule_with_namespaces(namespaces: usize) -> Rule {
    (0..namespaces).fold(minute_rule(), |rule, row| rule.namespace(&format!("row:items:{row}")))
}

/// Returns a cache that contains the item in this number of namespaces of three levels.
pub fn with_namespaces(origin: Origin, namespaces: usize) -> CacheService {
    let mut cache = CacheLayer::new(Store::from(Memory::new(256 << 20)))
        .rules(Rules::new().route("/items/{id}", rule_with_namespaces(namespaces)))
        .layer(origin);
    send_ready(&mut cache, request(item()));
    cache
}

/// The default key, extracted by a custom type that disables the cache of targets.
struct UncachedKey;

impl KeyExtractor for UncachedKey {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        RouteAndQuery.extract(request, key)
    }
}

/// Returns a cache that contains the item, and matches the route and writes the key for each request.
pub fn without_target_cache(origin: Origin) -> CacheService {
    let mut cache = layer(Memory::new(256 << 20), minute_rule().key(UncachedKey), Report::Default).layer(origin);
    send_ready(&mut cache, request(item()));
    cache
}

/// Returns an empty cache of this capacity in bytes.
pub fn empty(origin: Origin, bytes: usize) -> CacheService {
    layer(Memory::new(bytes), minute_rule(), Report::Default).layer(origin)
}

/// Returns a cache of this capacity in bytes that has stored these targets.
pub fn filled(rule: Rule, bytes: usize, first: impl Iterator<Item = http::Uri>, report: Report) -> CacheService {
    let mut cache = layer(Memory::new(bytes), rule, report).layer(Origin::of(1 << 10));
    for uri in first {
        send_ready(&mut cache, request(uri));
    }
    cache
}

/// Returns a cache with a manual clock. Its entry is stale two minutes later and is then served while it is revalidated.
pub fn stale(origin: Origin) -> (CacheService, Clock) {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let rule = minute_rule().stale_while_revalidate(Duration::from_secs(3600));
    let mut cache = layer(store, rule, Report::Default).layer(origin);
    send_ready(&mut cache, request(item()));
    (cache, clock)
}

/// Returns an entry and its stored form in Redis: one kilobyte, seven fields and three namespaces.
#[cfg(feature = "redis")]
pub fn stored(origin: Origin) -> (tower_response_cache::__private::Entry, Vec<u8>) {
    // The root, the namespace of the items, and the key.
    stored_by(rules(minute_rule()), origin, 3)
}

/// Returns an entry with this number of namespaces of three levels, and its stored form.
#[cfg(feature = "redis")]
pub fn stored_with_namespaces(origin: Origin, namespaces: usize) -> (tower_response_cache::__private::Entry, Vec<u8>) {
    stored_by(Rules::new().route("/items/{id}", rule_with_namespaces(namespaces)), origin, namespaces as u128 + 4)
}

#[cfg(feature = "redis")]
fn stored_by(rules: Rules, origin: Origin, names: u128) -> (tower_response_cache::__private::Entry, Vec<u8>) {
    use tower_response_cache::__private::{Backend, Generation, bench_stored};

    let store = Memory::new(1 << 20);
    let mut cache = CacheLayer::new(store.clone()).rules(rules.clone()).status_extension(false).layer(origin);
    send_ready(&mut cache, request(item()));
    let key = rules.key(&store, &request(item())).expect("a rule covers it");
    let (entry, _) = store.get_now(key.as_ref()).and_then(|look| look.found).expect("it is stored");
    let generations: Vec<_> = (1..=names).map(|hard| Some(Generation { hard, soft: 0 })).collect();
    let entry = entry.stamped(entry.stamp().clone().with_generations(generations));
    let stored = bench_stored(&entry).expect("it is whole");
    (entry, stored.into())
}
