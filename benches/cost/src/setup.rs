//! Caches of this crate, prepared for the cases.

use std::time::Duration;

use tower::Layer;
use tower_response_cache::{
    CacheLayer, Clock, KeyExtractor, Memory, RouteAndQuery, Rule, Rules,
    key::{Extracted, KeyWriter, RequestView},
};

use crate::work::{Origin, item, request, send_ready};

/// The store of all cases: that of a `ResponseCache`.
#[cfg(not(feature = "direct"))]
pub type Store = tower_response_cache::AnyStore;

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

/// The form in which a response reports its cache status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusReport {
    /// No report, apart from `Age`.
    None,
    /// The field `Cache-Status`.
    Header,
    /// The response extension, which is the default.
    Extension,
}

/// Returns a layer over a store, with this rule for the item.
pub fn layer(store: Memory, rule: Rule, report: StatusReport) -> CacheLayer<Store> {
    let layer = CacheLayer::new(Store::from(store)).rules(rules(rule)).status_extension(report == StatusReport::Extension);
    if report == StatusReport::Header { layer.cache_status("items") } else { layer }
}

/// Returns a rule with a lifetime of one minute.
pub fn minute_rule() -> Rule {
    Rule::ttl(Duration::from_secs(60)).max_body(4 << 20)
}

/// Returns a cache that contains the item, with the system clock.
pub fn warm(origin: Origin, report: StatusReport) -> CacheService {
    let mut cache = layer(Memory::new(256 << 20), minute_rule(), report).layer(origin);
    // The cache learns from the first response that the resource varies.
    for _ in 0..2 {
        send_ready(&mut cache, request(item()));
    }
    cache
}

/// Returns a one-minute rule with this number of namespaces, which share two ancestors.
fn rule_with_namespaces(namespaces: usize) -> Rule {
    (0..namespaces).fold(minute_rule(), |rule, row| rule.namespace(&format!("row:items:{row}")))
}

/// Returns a cache that contains the item in this number of namespaces of three levels.
pub fn with_namespaces(origin: Origin, namespaces: usize) -> CacheService {
    let mut cache = CacheLayer::new(Store::from(Memory::new(256 << 20)))
        .rules(Rules::new().route("/items/{id}", rule_with_namespaces(namespaces)))
        .status_extension(false)
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
    let mut cache = layer(Memory::new(256 << 20), minute_rule().key(UncachedKey), StatusReport::None).layer(origin);
    send_ready(&mut cache, request(item()));
    cache
}

/// Returns a full cache.
pub fn full(origin: Origin, bytes: usize, first: impl Iterator<Item = http::Uri>) -> CacheService {
    let mut cache = layer(Memory::new(bytes), minute_rule(), StatusReport::None).layer(origin);
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
    let mut cache = layer(store, rule, StatusReport::None).layer(origin);
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
