//! The measured cases of this crate and of its lower bounds.

use std::{hint::black_box, time::Duration};

use http::{HeaderMap, HeaderValue, Method, header};
use tower_response_cache::{Identity, Memory, Rule, semantics::CacheControl};

use crate::{
    bounds::{CorrectCache, TargetLookup},
    calls::{
        BATCH, Call, batched, distinct, fill, in_runtime, in_turn, invalidate, repeat, repeat_item, requests_in_turn, stale,
        whole,
    },
    grpc,
    measure::{Case, Limit},
    parsers,
    setup::{self, Report},
    work::{
        EmptyService, Origin, authorized, conditional, forwarded, item, nth_item, post, request, send_ready, table, uncovered,
        uncovered_nested, with_method,
    },
};

// The compiler and build paths change counts by up to 2 %, and an allocation costs up to 42 instructions more in some environments. Limits named
// by a count allow for both. Misses and requests that no rule covers are counted above the inner service, all others above an empty service.

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The capacity of a store in which misses evict, and the number of misses that fill it.
const SMALL: usize = 8 * MIB;
const FILLS: u64 = 12_000;
/// A capacity that no case exceeds, and the number of misses that precede the counted ones.
const LARGE: usize = 256 * MIB;
const FIRST_FILLS: u64 = 1_000;
/// The number of targets that are requested in turn.
const TARGETS: u64 = 10_000;

/// All cases. Each one has the default configuration unless its name says otherwise.
pub const CASES: &[Case] = &[
    case("empty service", "", HITS, Limit::None, || repeat_item(EmptyService)),
    case("no cache", BASE, HITS, Limit::None, || repeat_item(Origin::of(KIB))),
    case("bound: lookup by target", BASE, HITS, Limit::None, || repeat_item(lookup(TARGETS as usize))),
    case(HIT_BOUND, BASE, HITS, Limit::None, || repeat_item(CorrectCache::over(Origin::of(KIB), LARGE as u64))),
    case("hit", BASE, HITS, near(2_609), || repeat_item(setup::warm(Origin::of(KIB), Report::Default))),
    case("hit, hottest requests tracked", BASE, HITS, Limit::Above("hit", 50.0), || {
        repeat_item(setup::tracking(Origin::of(KIB)))
    }),
    case("hit, Cache-Status", BASE, HITS, near(2_757), || repeat_item(setup::warm(Origin::of(KIB), Report::Header))),
    case("hit, Cache-Status, of an hour", BASE, HITS, near(2_747), || {
        let rule = Rule::ttl(Duration::from_secs(3600));
        repeat_item(setup::warm_by(rule, Origin::of(KIB), Report::Header))
    }),
    case("hit, extension", BASE, HITS, near(3_306), || repeat_item(setup::warm(Origin::of(KIB), Report::Extension))),
    case("hit, HEAD", BASE, HITS, near(3_291), || {
        repeat(setup::warm(Origin::of(KIB), Report::Default), || with_method(Method::HEAD))
    }),
    case("hit, If-None-Match", "conditional requests, empty service", HITS, near(2_708), || {
        repeat(setup::warm(Origin::of(KIB), Report::Default), conditional)
    }),
    case("conditional requests, empty service", "", HITS, Limit::None, || repeat(EmptyService, conditional)),
    case("hit, bearer identity", "authorized requests, empty service", HITS, near(3_794), || {
        let rule = setup::minute_rule().identity(Identity::bearer());
        repeat(setup::warm_by(rule, Origin::of(KIB), Report::Default), authorized)
    }),
    case("authorized requests, empty service", "", HITS, Limit::None, || repeat(EmptyService, authorized)),
    case("hit, Vary: Accept-Encoding", BASE, HITS, near(3_860), || {
        repeat_item(setup::warm(Origin::of(KIB).varying(), Report::Default))
    }),
    case("hit, quickstart", BASE, HITS, near(3_167), || repeat(setup::quickstart(Origin::of(KIB)), table)),
    case("10,000 targets, empty service", "", 2 * HITS, Limit::None, || batched(EmptyService, requests_in_turn(TARGETS))),
    case("10,000 targets, bound: lookup by target", TARGETS_BASE, 2 * HITS, Limit::None, || {
        in_turn(lookup(2 * TARGETS as usize), TARGETS, |request| request)
    }),
    case("10,000 targets, bound: correct hit", TARGETS_BASE, 2 * HITS, Limit::None, || {
        in_turn(CorrectCache::over(Origin::of(KIB), LARGE as u64), TARGETS, |request| request)
    }),
    case("hit, 10,000 targets", TARGETS_BASE, 2 * HITS, near(5_300), || {
        in_turn(setup::warm(Origin::of(KIB), Report::Default), TARGETS, |request| request)
    }),
    case("hit, gRPC", "gRPC, empty service", HITS, near(7_296), || in_runtime(grpc::hit)),
    case("gRPC, empty service", "", HITS, Limit::None, || in_runtime(grpc::empty)),
    #[cfg(feature = "graphql")]
    case("hit, GraphQL", "GraphQL, empty service", HITS, near(14_900), || in_runtime(crate::graphql::hit)),
    #[cfg(feature = "graphql")]
    case("GraphQL, empty service", "", HITS, Limit::None, || in_runtime(crate::graphql::empty)),
    case("hit, cache tags", BASE, HITS, near(7_216), || repeat_item(setup::tagged(Origin::of(KIB)))),
    case("hit, 1 MiB", BASE, HITS, near(2_821), || {
        repeat_item(setup::warm_by(setup::minute_rule().max_body(2 * MIB), Origin::of(MIB), Report::Default))
    }),
    case("hit, behind a load balancer", "forwarded requests, empty service", HITS, near(3_282), || {
        repeat(setup::warm(Origin::of(KIB), Report::Default), forwarded)
    }),
    case("forwarded requests, empty service", "", HITS, Limit::None, || repeat(EmptyService, forwarded)),
    case("hit, target not cached", BASE, HITS, near(4_382), || repeat_item(setup::without_target_cache(Origin::of(KIB)))),
    case("hit, 3 namespaces", BASE, HITS, Limit::None, || repeat_item(setup::with_namespaces(Origin::of(KIB), 3))),
    case("hit, 8 namespaces", BASE, HITS, Limit::None, || repeat_item(setup::with_namespaces(Origin::of(KIB), 8))),
    case("hit, 16 namespaces", BASE, HITS, Limit::None, || repeat_item(setup::with_namespaces(Origin::of(KIB), 16))),
    case("hit, 32 namespaces", BASE, HITS, Limit::None, || repeat_item(setup::with_namespaces(Origin::of(KIB), 32))),
    case("hit, 64 namespaces", BASE, HITS, near(3_581), || repeat_item(setup::with_namespaces(Origin::of(KIB), 64))),
    case("hit, 128 namespaces", BASE, HITS, Limit::None, || repeat_item(setup::with_namespaces(Origin::of(KIB), 128))),
    case("no rule", "no cache", HITS, near(383), || repeat(setup::warm(Origin::of(KIB), Report::Default), uncovered)),
    case("no rule, 20 routes that begin alike", "no cache", HITS, near(436), || {
        repeat(setup::nested(Origin::of(KIB)), uncovered_nested)
    }),
    case("bypass, method", "no cache", HITS, near(1_857), || repeat(setup::warm(Origin::of(KIB), Report::Default), post)),
    case("InvalidateLayer, GET", "no cache", HITS, near(443), || {
        in_runtime(|| repeat_item(setup::invalidating(Origin::of(KIB))))
    }),
    case("InvalidateLayer, POST", "no cache", HITS, near(5_506), || {
        in_runtime(|| repeat(setup::invalidating(Origin::of(KIB)), post))
    }),
    case("distinct requests, empty service", "", MISSES, Limit::None, || distinct(EmptyService)),
    case(DISTINCT_INNER, DISTINCT_BASE, MISSES, Limit::None, || distinct(Origin::of(KIB))),
    case("bound: lookup by target, evicting", DISTINCT_INNER, MISSES, Limit::None, || {
        let mut bound = lookup(5_000);
        for n in 0..FILLS {
            send_ready(&mut bound, request(nth_item(n)));
        }
        distinct(bound)
    }),
    case(MISS_BOUND, DISTINCT_INNER, MISSES, Limit::None, || {
        let mut bound = CorrectCache::over(Origin::of(KIB), SMALL as u64);
        for n in 0..FILLS {
            send_ready(&mut bound, request(nth_item(n)));
        }
        distinct(bound)
    }),
    case("miss, evicting", DISTINCT_INNER, MISSES, near(10_710), || miss(setup::minute_rule(), SMALL, FILLS, Report::Default)),
    case("miss, evicting, Cache-Status", DISTINCT_INNER, MISSES, near(12_402), || {
        miss(setup::minute_rule(), SMALL, FILLS, Report::Header)
    }),
    case("bound: lookup by target, room left", DISTINCT_INNER, MISSES, Limit::None, || distinct(lookup(50_000))),
    case("bound: correct miss, room left", DISTINCT_INNER, MISSES, Limit::None, || {
        distinct(CorrectCache::over(Origin::of(KIB), LARGE as u64))
    }),
    case("miss, room left", DISTINCT_INNER, MISSES, near(11_172), || {
        miss(setup::minute_rule(), LARGE, FIRST_FILLS, Report::Default)
    }),
    case("miss, Rule::http()", DISTINCT_INNER, MISSES, near(19_622), || miss(Rule::http(), SMALL, FILLS, Report::Default)),
    case("miss, Rule::http(), room left", DISTINCT_INNER, MISSES, near(20_377), || {
        miss(Rule::http(), LARGE, FIRST_FILLS, Report::Default)
    }),
    case("heap, bound: lookup by target", "", ENTRIES, Limit::None, || {
        fill(TargetLookup::over(Origin::of(KIB).own_bodies(), ENTRIES as usize), |request| request)
    }),
    case("heap, bound: every step", "", ENTRIES, Limit::None, || {
        fill(CorrectCache::over(Origin::of(KIB).own_bodies(), LARGE as u64), |request| request)
    }),
    case("heap", "", ENTRIES, Limit::None, || {
        in_runtime(|| fill(setup::empty(Origin::of(KIB).own_bodies(), LARGE), |request| request))
    }),
    case("stale hit with refresh", "", 1_000, near(21_400), stale),
    case("invalidate", "", HITS, near(1_400), invalidate),
    case("key", "request", HITS, near(1_840), || {
        let (store, rules) = (Memory::new(MIB), setup::rules(setup::minute_rule()));
        whole(move || drop(black_box(rules.key(&store, &request(item())))))
    }),
    case("request", "", HITS, Limit::None, || whole(|| drop(black_box(request(item()))))),
    case("parse Cache-Control", "", HITS, near(1_630), || {
        let mut headers = HeaderMap::new();
        let control = "public, max-age=60, stale-while-revalidate=30";
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(control));
        whole(move || drop(black_box(CacheControl::of(black_box(&headers)))))
    }),
    // Four times the length may take four times the instructions. The rest allows for sorting.
    case("hostile fields, 4 KiB", "", 1, Limit::None, || parsers::hostile(4 * KIB)),
    case("hostile fields, 16 KiB", "", 1, Limit::Times("hostile fields, 4 KiB", 4.4), || parsers::hostile(16 * KIB)),
    #[cfg(feature = "redis")]
    case("a stored entry, copied", "", HITS, Limit::None, || {
        let (_, stored) = setup::stored(Origin::of(KIB));
        whole(move || drop(black_box(bytes::Bytes::from(stored.clone()))))
    }),
    #[cfg(feature = "redis")]
    case("a stored entry, decoded", "a stored entry, copied", HITS, Limit::AtMost(5_400.0), || {
        crate::calls::decoded(setup::stored(Origin::of(KIB)))
    }),
    #[cfg(feature = "redis")]
    case("a stored entry of 8 namespaces, decoded", "", HITS, Limit::None, || {
        crate::calls::decoded(setup::stored_with_namespaces(Origin::of(KIB), 8))
    }),
    #[cfg(feature = "redis")]
    case("a stored entry of 64 namespaces, decoded", "", HITS, Limit::None, || {
        crate::calls::decoded(setup::stored_with_namespaces(Origin::of(KIB), 64))
    }),
];

const BASE: &str = "empty service";
const DISTINCT_INNER: &str = "no cache, distinct";
const DISTINCT_BASE: &str = "distinct requests, empty service";
const TARGETS_BASE: &str = "10,000 targets, empty service";
const HIT_BOUND: &str = "bound: correct hit";
const MISS_BOUND: &str = "bound: correct miss, evicting";

/// The number of counted hits: whole batches, also for a quarter of it.
const HITS: u64 = 20 * BATCH as u64;
/// The number of counted misses.
const MISSES: u64 = 8 * BATCH as u64;

/// The number of entries whose memory is measured.
const ENTRIES: u64 = 10_000;

const fn case(name: &'static str, subtract: &'static str, calls: u64, limit: Limit, make: fn() -> Call) -> Case {
    Case { name, subtract, calls, limit, make }
}

fn lookup(entries: usize) -> TargetLookup {
    TargetLookup::over(Origin::of(KIB), entries)
}

/// Returns the limit of a case of which this many instructions were counted.
const fn near(counted: u32) -> Limit {
    Limit::AtMost(counted as f64 * 1.03 + 42.0)
}

/// Sends requests that miss, in a cache that has stored this number of other targets.
fn miss(rule: Rule, bytes: usize, fills: u64, report: Report) -> Call {
    in_runtime(|| distinct(setup::filled(rule, bytes, (0..fills).map(nth_item), report)))
}
