//! The crate on the same work.

use std::time::Duration;

use tower_layer::Layer;
use tower_response_cache::{
    CacheService, CacheLayer, Clock, Extracted, KeyExtractor, KeyWriter, Memory, RequestView, RouteAndQuery, Rule, Rules,
};

use crate::work::{Origin, drive, item, request};

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

/// A table of 20 routes; the one that is asked for belongs to a namespace besides the root, so that both are looked at.
pub fn rules(rule: Rule) -> Rules {
    let minute = Duration::from_secs(60);
    let rules = ROUTES.iter().fold(Rules::new(), |rules, route| rules.route(route, Rule::ttl(minute).namespace("others")));
    rules.route("/items/{id}", rule.namespace("items"))
}

/// What responses are told of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing but `Age`.
    Age,
    /// `CacheService-Status` as well.
    Header,
    /// An extension, as is the default.
    Extension,
}

/// A layer over a store with this rule for the item.
pub fn layer(store: Memory, rule: Rule, told: Told) -> CacheLayer {
    let layer = CacheLayer::new(store).rules(rules(rule)).status_extension(told == Told::Extension);
    if told == Told::Header { layer.cache_status("items") } else { layer }
}

/// A minute's rule.
pub fn minute() -> Rule {
    Rule::ttl(Duration::from_secs(60)).max_body(4 << 20)
}

/// A cache that holds the item, by the system's clock.
pub fn warm(origin: Origin, told: Told) -> CacheService<Origin> {
    let mut cache = layer(Memory::new(256 << 20), minute(), told).layer(origin);
    // A response that varies shows so only once it is stored.
    for _ in 0..2 {
        drive(&mut cache, request(item()));
    }
    cache
}

/// A minute's rule whose entries belong to so many namespaces, and their two ancestors.
fn naming(namespaces: usize) -> Rule {
    (0..namespaces).fold(minute(), |rule, row| rule.namespace(&format!("row:items:{row}")))
}

/// A cache that holds the item, which belongs to so many namespaces of three levels.
pub fn named(origin: Origin, namespaces: usize) -> CacheService<Origin> {
    let mut cache = CacheLayer::new(Memory::new(256 << 20))
        .rules(Rules::new().route("/items/{id}", naming(namespaces)))
        .status_extension(false)
        .layer(origin);
    drive(&mut cache, request(item()));
    cache
}

/// The default keys, and never remembered by their targets.
struct Written;

impl KeyExtractor for Written {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        RouteAndQuery.extract(request, key)
    }
}

/// A cache that holds the item, and finds its route and writes its key for each request.
pub fn forgetful(origin: Origin) -> CacheService<Origin> {
    let mut cache = layer(Memory::new(256 << 20), minute().key(Written), Told::Age).layer(origin);
    drive(&mut cache, request(item()));
    cache
}

/// A cache that has no room left.
pub fn full(origin: Origin, bytes: usize, first: impl Iterator<Item = http::Uri>) -> CacheService<Origin> {
    let mut cache = layer(Memory::new(bytes), minute(), Told::Age).layer(origin);
    for uri in first {
        drive(&mut cache, request(uri));
    }
    cache
}

/// A cache whose entry is stale whenever the clock has gone on by two minutes, and is served all the same.
pub fn stale(origin: Origin) -> (CacheService<Origin>, Clock) {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let rule = minute().stale_while_revalidate(Duration::from_secs(3600));
    let mut cache = layer(store, rule, Told::Age).layer(origin);
    drive(&mut cache, request(item()));
    (cache, clock)
}

/// An entry as it comes from Redis, of a kilobyte, seven fields and three names, and the bytes of it.
#[cfg(feature = "redis")]
pub fn stored(origin: Origin) -> (tower_response_cache::Entry, Vec<u8>) {
    // The root, the items, and the key itself.
    stored_by(rules(minute()), origin, 3)
}

/// The same, belonging to so many namespaces of three levels.
#[cfg(feature = "redis")]
pub fn stored_named(origin: Origin, namespaces: usize) -> (tower_response_cache::Entry, Vec<u8>) {
    stored_by(Rules::new().route("/items/{id}", naming(namespaces)), origin, namespaces as u128 + 4)
}

#[cfg(feature = "redis")]
fn stored_by(rules: Rules, origin: Origin, names: u128) -> (tower_response_cache::Entry, Vec<u8>) {
    use tower_response_cache::{Generation, Store, bench_stored};

    let store = Memory::new(1 << 20);
    let mut cache = CacheLayer::new(store.clone()).rules(rules.clone()).status_extension(false).layer(origin);
    drive(&mut cache, request(item()));
    let key = rules.key(&store, &request(item())).expect("a rule covers it");
    let (entry, _) = store.get_now(key.as_ref()).and_then(|look| look.found).expect("it is stored");
    let generations: Vec<_> = (1..=names).map(|hard| Some(Generation { hard, soft: 0 })).collect();
    let entry = entry.stamped(entry.stamp().clone().with_generations(generations));
    let stored = bench_stored(&entry).expect("it is whole");
    (entry, stored.into())
}
