//! The counted cases of each peer, and checks that the peer really serves hits and misses in them.

use std::{hint::black_box, thread};

use axum::body::Body as AxumBody;
use bytes::Bytes;
use hitbox_backend::format::{BincodeFormat, JsonFormat, RkyvFormat};
use http::{Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::Empty;
use tokio::runtime::Runtime;
use tower::Service;
use tower_response_cache_cost::{
    Case, Limit,
    calls::{Batches, Call, batched, distinct_requests, fill, in_turn},
    measure::counted_call,
    work::{EmptyService, Origin, item, nth_item, request, send_ready},
};

use crate::{
    client::{response_in, runtime, send_in},
    inner::{CallCount, Inner, call_count},
    peers::{self, MINUTE},
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A capacity in entries that no case exceeds.
const UNLIMITED: u64 = 100_000;
/// A capacity in entries in which misses evict. This crate's own misses have room for about as many entries.
const CAPACITY: u64 = 5_000;
/// The number of misses that fill the cache.
const FILLS: u64 = 12_000;

/// The number of misses before those that find room.
const FIRST_FILLS: u64 = 1_000;
/// The number of targets that are requested in turn.
const TARGETS: u64 = 10_000;
/// The number of entries whose memory is measured.
const ENTRIES: u64 = 10_000;

/// A line of the table.
pub struct Line {
    pub name: &'static str,
    /// The packages whose versions are printed.
    pub packages: &'static [&'static str],
    pub hit: &'static str,
    pub large: &'static str,
    pub miss: &'static str,
}

/// The lines of the table: the cases of `benches/cost` for this crate and its bounds, and the peers.
pub const LINES: &[Line] = &[
    line("no cache", &[], "no cache", "", "no cache, distinct"),
    line(
        "bound: `quick_cache`, lookup by target",
        &["quick_cache"],
        "bound: lookup by target",
        "",
        "bound: lookup by target, evicting",
    ),
    line("bound: every step of a correct hit", &[], "bound: correct hit", "", "bound: correct miss, evicting"),
    line("tower-response-cache", &["tower-response-cache"], CACHE_HIT, "hit, 1 MiB", "miss, evicting"),
    line("hitbox, rkyv", &["hitbox", "hitbox-moka"], "hitbox rkyv", "hitbox rkyv, 1 MiB", "hitbox rkyv, miss"),
    line("hitbox, bincode", &["hitbox", "hitbox-moka"], "hitbox bincode", "hitbox bincode, 1 MiB", "hitbox bincode, miss"),
    line("hitbox, JSON (its default)", &["hitbox", "hitbox-moka"], "hitbox json", "hitbox json, 1 MiB", "hitbox json, miss"),
    line("tower-http-cache", &["tower-http-cache"], "tower-http-cache", "tower-http-cache, 1 MiB", "tower-http-cache, miss"),
    line(
        "axum-response-cache",
        &["axum-response-cache"],
        "axum-response-cache",
        "axum-response-cache, 1 MiB",
        "axum-response-cache, miss",
    ),
    line(
        "axum-response-cache over a service that computes in `call`",
        &["axum-response-cache"],
        "axum-response-cache, eager",
        "",
        "",
    ),
    line(
        "http-cache-tower-server, moka",
        &["http-cache-tower-server", "http-cache"],
        "http-cache-tower-server",
        "http-cache-tower-server, 1 MiB",
        "http-cache-tower-server, miss",
    ),
];

/// The case that all others are compared with.
pub const CACHE_HIT: &str = "hit";

const fn line(
    name: &'static str,
    packages: &'static [&'static str],
    hit: &'static str,
    large: &'static str,
    miss: &'static str,
) -> Line {
    Line { name, packages, hit, large, miss }
}

/// The cases of the peers.
pub const PEERS: &[Case] = &[
    case(AXUM_BASE, "", 5_120, || batched(EmptyService, || axum(request(item())))),
    case("distinct axum requests, empty service", "", 2_048, || batched(EmptyService, axum_requests())),
    case(AXUM_DISTINCT_INNER, "distinct axum requests, empty service", 2_048, || {
        batched(Inner::of(KIB).axum(), axum_requests())
    }),
    case(RUNTIME_DISTINCT_INNER, DISTINCT_BASE, 2_048, || batched_in(entered(), Inner::of(KIB), distinct_requests())),
    case("hitbox rkyv", BASE, 2_560, || {
        hit(peers::hitbox(Inner::of(KIB), UNLIMITED, MINUTE, RkyvFormat::new()), KIB, plain, InnerCalls::None)
    }),
    case("hitbox rkyv, 1 MiB", BASE, 20, || {
        hit(peers::hitbox(Inner::of(MIB), UNLIMITED, MINUTE, RkyvFormat::new()), MIB, plain, InnerCalls::None)
    }),
    case("hitbox rkyv, miss", DISTINCT_INNER, 1_024, || {
        miss(peers::hitbox(Inner::of(KIB), CAPACITY, MINUTE, RkyvFormat::new()), plain)
    }),
    case("hitbox rkyv, miss, room left", DISTINCT_INNER, 1_024, || {
        miss_with_room(peers::hitbox(Inner::of(KIB), UNLIMITED, MINUTE, RkyvFormat::new()), plain)
    }),
    case("hitbox rkyv, 10,000 targets", TARGETS_BASE, 2_560, || {
        hits_in_turn(peers::hitbox(Inner::of(KIB), UNLIMITED, MINUTE, RkyvFormat::new()), plain, InnerCalls::None)
    }),
    case("hitbox rkyv, heap", "", ENTRIES, || {
        filled(peers::hitbox(Inner::of(KIB).own_bodies(), UNLIMITED, MINUTE, RkyvFormat::new()), plain)
    }),
    case("hitbox bincode", BASE, 2_560, || {
        hit(peers::hitbox(Inner::of(KIB), UNLIMITED, MINUTE, BincodeFormat), KIB, plain, InnerCalls::None)
    }),
    case("hitbox bincode, 1 MiB", BASE, 20, || {
        hit(peers::hitbox(Inner::of(MIB), UNLIMITED, MINUTE, BincodeFormat), MIB, plain, InnerCalls::None)
    }),
    case("hitbox bincode, miss", DISTINCT_INNER, 1_024, || {
        miss(peers::hitbox(Inner::of(KIB), CAPACITY, MINUTE, BincodeFormat), plain)
    }),
    case("hitbox json", BASE, 1_280, || {
        hit(peers::hitbox(Inner::of(KIB), UNLIMITED, MINUTE, JsonFormat), KIB, plain, InnerCalls::None)
    }),
    case("hitbox json, 1 MiB", BASE, 5, || {
        hit(peers::hitbox(Inner::of(MIB), UNLIMITED, MINUTE, JsonFormat), MIB, plain, InnerCalls::None)
    }),
    case("hitbox json, miss", DISTINCT_INNER, 1_024, || {
        miss(peers::hitbox(Inner::of(KIB), CAPACITY, MINUTE, JsonFormat), plain)
    }),
    case("tower-http-cache", BASE, 2_560, || {
        hit(peers::tower_http_cache(Inner::of(KIB), UNLIMITED, MINUTE), KIB, plain, InnerCalls::None)
    }),
    case("tower-http-cache, 1 MiB", BASE, 2_560, || {
        hit(peers::tower_http_cache(Inner::of(MIB), UNLIMITED, MINUTE), MIB, plain, InnerCalls::None)
    }),
    case("tower-http-cache, miss", DISTINCT_INNER, 1_024, || {
        miss(peers::tower_http_cache(Inner::of(KIB), CAPACITY, MINUTE), plain)
    }),
    case("tower-http-cache, miss, room left", DISTINCT_INNER, 1_024, || {
        miss_with_room(peers::tower_http_cache(Inner::of(KIB), UNLIMITED, MINUTE), plain)
    }),
    case("tower-http-cache, 10,000 targets", TARGETS_BASE, 2_560, || {
        hits_in_turn(peers::tower_http_cache(Inner::of(KIB), UNLIMITED, MINUTE), plain, InnerCalls::None)
    }),
    case("tower-http-cache, heap", "", ENTRIES, || {
        filled(peers::tower_http_cache(Inner::of(KIB).own_bodies(), UNLIMITED, MINUTE), plain)
    }),
    case("axum-response-cache", AXUM_BASE, 2_560, || {
        hit(peers::axum_response_cache(Inner::of(KIB).axum(), MINUTE), KIB, axum, InnerCalls::Called)
    }),
    case("axum-response-cache, 1 MiB", AXUM_BASE, 2_560, || {
        hit(peers::axum_response_cache(Inner::of(MIB).axum(), MINUTE), MIB, axum, InnerCalls::Called)
    }),
    case("axum-response-cache, miss", AXUM_DISTINCT_INNER, 1_024, || {
        miss(peers::axum_response_cache_bounded(Inner::of(KIB).axum(), CAPACITY as usize, MINUTE), axum)
    }),
    case("axum-response-cache, miss, room left", AXUM_DISTINCT_INNER, 1_024, || {
        miss_with_room(peers::axum_response_cache(Inner::of(KIB).axum(), MINUTE), axum)
    }),
    case("axum-response-cache, 10,000 targets", AXUM_TARGETS_BASE, 2_560, || {
        hits_in_turn(peers::axum_response_cache(Inner::of(KIB).axum(), MINUTE), axum, InnerCalls::Called)
    }),
    case("10,000 axum targets, empty service", "", 2_560, || in_turn(EmptyService, TARGETS, axum)),
    case("axum-response-cache, heap", "", ENTRIES, || {
        filled(peers::axum_response_cache(Inner::of(KIB).own_bodies().axum(), MINUTE), axum)
    }),
    case("axum-response-cache, eager", AXUM_BASE, 2_560, || {
        hit(peers::axum_response_cache(Inner::of(KIB).axum().eager(), MINUTE), KIB, axum, InnerCalls::Computed)
    }),
    case("http-cache-tower-server", BASE, 512, || {
        hit(peers::http_cache_tower_server(Inner::of(KIB), UNLIMITED), KIB, plain, InnerCalls::None)
    }),
    case("http-cache-tower-server, 1 MiB", BASE, 5, || {
        hit(peers::http_cache_tower_server(Inner::of(MIB), UNLIMITED), MIB, plain, InnerCalls::None)
    }),
    case("http-cache-tower-server, miss", RUNTIME_DISTINCT_INNER, 512, || {
        miss_in(entered(), peers::http_cache_tower_server(Inner::of(KIB), CAPACITY))
    }),
];

const BASE: &str = "empty service";
const DISTINCT_BASE: &str = "distinct requests, empty service";
const DISTINCT_INNER: &str = "no cache, distinct";
const AXUM_BASE: &str = "axum requests, empty service";
const AXUM_DISTINCT_INNER: &str = "no cache, distinct axum requests";
const TARGETS_BASE: &str = "10,000 targets, empty service";
const AXUM_TARGETS_BASE: &str = "10,000 axum targets, empty service";
const RUNTIME_DISTINCT_INNER: &str = "no cache, distinct, in a runtime";

const fn case(name: &'static str, subtract: &'static str, calls: u64, make: fn() -> Call) -> Case {
    Case { name, subtract, calls, limit: Limit::None, make }
}

/// Returns the request itself, for peers that accept any body.
pub fn plain(request: Request<Empty<Bytes>>) -> Request<Empty<Bytes>> {
    request
}

/// Gives the request a body of axum's type.
pub fn axum(request: Request<Empty<Bytes>>) -> Request<AxumBody> {
    request.map(AxumBody::new)
}

/// The use that a peer makes of the inner service on a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InnerCalls {
    /// The inner service is not called.
    None,
    /// The inner service is called, but its future is never polled.
    Called,
    /// The inner service is called and computes a response that is discarded.
    Computed,
}

/// Returns a runtime that this thread has entered.
fn entered() -> &'static Runtime {
    let runtime: &'static Runtime = Box::leak(Box::new(runtime()));
    std::mem::forget(runtime.enter());
    runtime
}

/// Sends the same request repeatedly and checks that each one is a hit.
fn hit<S, R, B>(mut service: S, bytes: usize, send: fn(Request<Empty<Bytes>>) -> Request<R>, inner_calls: InnerCalls) -> Call
where
    S: Service<Request<R>, Response = Response<B>> + 'static,
    R: 'static,
    B: Body<Data = Bytes>,
{
    check(entered(), &mut service, bytes, send, inner_calls);
    // Excludes the work of the first calls.
    for _ in 0..if bytes > KIB { 3 } else { 100 } {
        send_ready(&mut service, send(request(item())));
    }
    checked(CallCheck::hits(inner_calls), batched(service, move || send(request(item()))))
}

/// Requests many targets in turn and checks that each request is a hit.
fn hits_in_turn<S, R, B>(service: S, send: fn(Request<Empty<Bytes>>) -> Request<R>, inner_calls: InnerCalls) -> Call
where
    S: Service<Request<R>, Response = Response<B>> + 'static,
    R: 'static,
    B: Body<Data = Bytes>,
{
    entered();
    let call = in_turn(service, TARGETS, send);
    checked(CallCheck::hits(inner_calls), call)
}

/// Stores one more response with each call.
fn filled<S, R, B>(service: S, send: fn(Request<Empty<Bytes>>) -> Request<R>) -> Call
where
    S: Service<Request<R>, Response = Response<B>> + 'static,
    R: 'static,
    B: Body<Data = Bytes>,
{
    entered();
    checked(CallCheck::misses(), fill(service, send))
}

/// Sends a different request each time through a full cache.
fn miss<S, R, B>(service: S, send: fn(Request<Empty<Bytes>>) -> Request<R>) -> Call
where
    S: Service<Request<R>, Response = Response<B>> + 'static,
    R: 'static,
    B: Body<Data = Bytes>,
{
    miss_after(FILLS, service, send)
}

/// Sends a different request each time through a cache with room for all of them.
fn miss_with_room<S, R, B>(service: S, send: fn(Request<Empty<Bytes>>) -> Request<R>) -> Call
where
    S: Service<Request<R>, Response = Response<B>> + 'static,
    R: 'static,
    B: Body<Data = Bytes>,
{
    miss_after(FIRST_FILLS, service, send)
}

fn miss_after<S, R, B>(fills: u64, mut service: S, send: fn(Request<Empty<Bytes>>) -> Request<R>) -> Call
where
    S: Service<Request<R>, Response = Response<B>> + 'static,
    R: 'static,
    B: Body<Data = Bytes>,
{
    let runtime = entered();
    for n in 0..fills {
        send_in(runtime, &mut service, send(request(nth_item(n))));
    }
    let mut create = distinct_requests();
    checked(CallCheck::misses(), batched(service, move || send(create())))
}

/// Sends a different request each time through a full cache that stores responses in a spawned task.
fn miss_in<S, B>(runtime: &'static Runtime, mut service: S) -> Call
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>> + 'static,
    B: Body<Data = Bytes>,
{
    for n in 0..FILLS {
        send_in(runtime, &mut service, request(nth_item(n)));
    }
    checked(CallCheck::misses(), batched_in(runtime, service, distinct_requests()))
}

/// Sends one request of a batch inside a runtime, which then polls spawned tasks.
fn batched_in<S, B>(runtime: &'static Runtime, mut service: S, create: impl FnMut() -> Request<Empty<Bytes>> + 'static) -> Call
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>> + 'static,
    B: Body<Data = Bytes>,
{
    let mut batches = Batches::of(create);
    Box::new(move || {
        let request = batches.take();
        black_box(counted_call(|| send_in(runtime, &mut service, request)));
    })
}

fn axum_requests() -> impl FnMut() -> Request<AxumBody> {
    let mut create = distinct_requests();
    move || axum(create())
}

/// Checks the calls of the inner service, too.
fn checked(mut check: CallCheck, mut call: Call) -> Call {
    Box::new(move || {
        check.call();
        call();
    })
}

/// Checks that the inner service responds to a first request, that the cache responds equally to a second one, and that a request for another
/// page is not served from the cache.
fn check<S, R, B>(
    runtime: &Runtime,
    service: &mut S,
    bytes: usize,
    send: fn(Request<Empty<Bytes>>) -> Request<R>,
    inner_calls: InnerCalls,
) where
    S: Service<Request<R>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    let mut respond = |uri| {
        let before = call_count();
        let (parts, body) = response_in(runtime, service, send(request(uri)));
        assert_eq!(parts.status, StatusCode::OK);
        for (name, value) in Origin::of(bytes).respond().headers() {
            assert_eq!(parts.headers.get(name), Some(value), "{name}");
        }
        assert!(body == vec![b'7'; bytes], "the body differs");
        call_count().since(before)
    };
    let missed = CallCount { called: 1, responded: 1 };
    assert_eq!(respond(item()), missed, "the first request");
    assert_eq!(respond(item()), inner_calls.of(1), "the second request");
    assert_eq!(respond(Uri::from_static("/items/42?page=4&sort=asc")), missed, "a request for another page");
}

impl InnerCalls {
    fn of(self, hits: u64) -> CallCount {
        let (called, responded) = match self {
            Self::None => (0, 0),
            Self::Called => (hits, 0),
            Self::Computed => (hits, hits),
        };
        CallCount { called, responded }
    }
}

impl CallCount {
    fn since(self, before: Self) -> Self {
        Self { called: self.called - before.called, responded: self.responded - before.responded }
    }
}

/// Compares the calls of the inner service with the expected calls when it is dropped.
struct CallCheck {
    before: CallCount,
    calls: u64,
    inner_calls: InnerCalls,
}

impl CallCheck {
    fn hits(inner_calls: InnerCalls) -> Self {
        Self { before: call_count(), calls: 0, inner_calls }
    }

    fn misses() -> Self {
        Self::hits(InnerCalls::Computed)
    }

    fn call(&mut self) {
        self.calls += 1;
    }
}

impl Drop for CallCheck {
    fn drop(&mut self) {
        if !thread::panicking() {
            assert_eq!(call_count().since(self.before), self.inner_calls.of(self.calls), "calls of the inner service");
        }
    }
}
