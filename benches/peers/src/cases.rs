//! What is counted of each peer, and what must be so for the count to mean anything.

use std::{hint::black_box, thread};

use axum::body::Body as AxumBody;
use bytes::Bytes;
use hitbox_backend::format::{BincodeFormat, JsonFormat, RkyvFormat};
use http::{Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::Empty;
use tokio::runtime::Runtime;
use tower_response_cache_cost::{
    Case, Limit,
    work::{Nothing, Origin, drive, fresh_item, item, request},
};
use tower_service::Service;

use crate::{
    drive::{drive_in, response_in, runtime},
    inner::{Asked, Inner, asked},
    peers::{self, MINUTE},
};

type Call = Box<dyn FnMut()>;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Room that no hit needs, in entries.
const AMPLE: u64 = 1_000;
/// Room in which misses evict: about as many entries as the bytes that this crate has for its own misses hold of its own.
const FEW: u64 = 5_000;
/// How many misses fill that room.
const FILLS: u64 = 12_000;

/// A line of the table.
pub struct Line {
    pub name: &'static str,
    /// The packages whose versions are told.
    pub packages: &'static [&'static str],
    pub hit: &'static str,
    pub large: &'static str,
    pub miss: &'static str,
}

/// The lines of the table: what the cases of `benches/cost` say of this crate and of its bounds, and the peers.
pub const LINES: &[Line] = &[
    line("no cache", &[], "no cache", "", "no cache, distinct"),
    line("bound: `quick_cache`, by the bare target", &["quick_cache"], "bound: get by bare target", "", ""),
    line("bound: each duty of a correct hit", &[], "bound: a correct hit", "", "bound: a miss"),
    line("tower-response-cache", &["tower-response-cache"], OURS, "hit, 1 MiB", "miss, evicting"),
    line("hitbox, rkyv", &["hitbox", "hitbox-moka"], "rkyv", "rkyv, 1 MiB", "rkyv, miss"),
    line("hitbox, bincode", &["hitbox", "hitbox-moka"], "bincode", "bincode, 1 MiB", "bincode, miss"),
    line("hitbox, JSON (its default)", &["hitbox", "hitbox-moka"], "json", "json, 1 MiB", "json, miss"),
    line("tower-http-cache", &["tower-http-cache"], "thc", "thc, 1 MiB", "thc, miss"),
    line("axum-response-cache", &["axum-response-cache"], "arc", "arc, 1 MiB", "arc, miss"),
    line("the same, over a service that works in `call`", &["axum-response-cache"], "arc, eager", "", ""),
    line("http-cache-tower-server, moka", &["http-cache-tower-server", "http-cache"], "hcts", "hcts, 1 MiB", "hcts, miss"),
];

/// The case that all are compared with.
pub const OURS: &str = "hit";

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
    case("an axum request and an empty service", "", 5_000, || {
        let mut nothing = Nothing;
        Box::new(move || {
            black_box(drive(&mut nothing, axum(request(item()))));
        })
    }),
    case("distinct axum requests and an empty service", "", 2_000, || {
        let (mut nothing, mut n) = (Nothing, FIRST);
        Box::new(move || {
            n += 1;
            black_box(drive(&mut nothing, axum(request(fresh_item(n)))));
        })
    }),
    case("distinct requests, an empty service and a runtime", "", 2_000, || {
        let (runtime, mut nothing, mut n) = (entered(), Nothing, FIRST);
        Box::new(move || {
            n += 1;
            black_box(drive_in(runtime, &mut nothing, request(fresh_item(n))));
        })
    }),
    case("rkyv", NOTHING, 2_000, || {
        hit(peers::hitbox(Inner::of(KIB), AMPLE, MINUTE, RkyvFormat::new()), KIB, plain, Asks::Never)
    }),
    case("rkyv, 1 MiB", NOTHING, 20, || {
        hit(peers::hitbox(Inner::of(MIB), AMPLE, MINUTE, RkyvFormat::new()), MIB, plain, Asks::Never)
    }),
    case("rkyv, miss", DISTINCT, 1_000, || miss(peers::hitbox(Inner::of(KIB), FEW, MINUTE, RkyvFormat::new()), plain)),
    case("bincode", NOTHING, 2_000, || {
        hit(peers::hitbox(Inner::of(KIB), AMPLE, MINUTE, BincodeFormat), KIB, plain, Asks::Never)
    }),
    case("bincode, 1 MiB", NOTHING, 20, || {
        hit(peers::hitbox(Inner::of(MIB), AMPLE, MINUTE, BincodeFormat), MIB, plain, Asks::Never)
    }),
    case("bincode, miss", DISTINCT, 1_000, || miss(peers::hitbox(Inner::of(KIB), FEW, MINUTE, BincodeFormat), plain)),
    case("json", NOTHING, 1_000, || hit(peers::hitbox(Inner::of(KIB), AMPLE, MINUTE, JsonFormat), KIB, plain, Asks::Never)),
    case("json, 1 MiB", NOTHING, 5, || hit(peers::hitbox(Inner::of(MIB), AMPLE, MINUTE, JsonFormat), MIB, plain, Asks::Never)),
    case("json, miss", DISTINCT, 1_000, || miss(peers::hitbox(Inner::of(KIB), FEW, MINUTE, JsonFormat), plain)),
    case("thc", NOTHING, 2_000, || hit(peers::tower_http_cache(Inner::of(KIB), AMPLE, MINUTE), KIB, plain, Asks::Never)),
    case("thc, 1 MiB", NOTHING, 2_000, || hit(peers::tower_http_cache(Inner::of(MIB), AMPLE, MINUTE), MIB, plain, Asks::Never)),
    case("thc, miss", DISTINCT, 1_000, || miss(peers::tower_http_cache(Inner::of(KIB), FEW, MINUTE), plain)),
    case("arc", AXUM_NOTHING, 2_000, || hit(peers::axum_response_cache(Inner::of(KIB).axum(), MINUTE), KIB, axum, Asks::Calls)),
    case("arc, 1 MiB", AXUM_NOTHING, 2_000, || {
        hit(peers::axum_response_cache(Inner::of(MIB).axum(), MINUTE), MIB, axum, Asks::Calls)
    }),
    case("arc, miss", AXUM_DISTINCT, 1_000, || {
        miss(peers::axum_response_cache_bounded(Inner::of(KIB).axum(), FEW as usize, MINUTE), axum)
    }),
    case("arc, eager", AXUM_NOTHING, 2_000, || {
        hit(peers::axum_response_cache(Inner::of(KIB).axum().eager(), MINUTE), KIB, axum, Asks::Computes)
    }),
    case("hcts", NOTHING, 500, || hit(peers::http_cache_tower_server(Inner::of(KIB), AMPLE), KIB, plain, Asks::Never)),
    case("hcts, 1 MiB", NOTHING, 5, || hit(peers::http_cache_tower_server(Inner::of(MIB), AMPLE), MIB, plain, Asks::Never)),
    case("hcts, miss", RUNTIME_DISTINCT, 500, || miss_in(entered(), peers::http_cache_tower_server(Inner::of(KIB), FEW))),
];

const NOTHING: &str = "a request and an empty service";
const DISTINCT: &str = "distinct requests and an empty service";
const AXUM_NOTHING: &str = "an axum request and an empty service";
const AXUM_DISTINCT: &str = "distinct axum requests and an empty service";
const RUNTIME_DISTINCT: &str = "distinct requests, an empty service and a runtime";

const fn case(name: &'static str, less: &'static str, calls: u64, make: fn() -> Call) -> Case {
    Case { name, less, calls, limit: Limit::None, make }
}

/// What a request goes to the peer as: the request itself.
pub fn plain(request: Request<Empty<Bytes>>) -> Request<Empty<Bytes>> {
    request
}

/// With a body of axum's type.
pub fn axum(request: Request<Empty<Bytes>>) -> Request<AxumBody> {
    request.map(AxumBody::new)
}

/// What a hit asks of the inner service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// It does not know of it.
    Never,
    /// It is called, and what it returns is never polled.
    Calls,
    /// It is called, and has computed a response that nobody takes.
    Computes,
}

/// A runtime that this thread stays in.
fn entered() -> &'static Runtime {
    let runtime: &'static Runtime = Box::leak(Box::new(runtime()));
    std::mem::forget(runtime.enter());
    runtime
}

/// The same request again and again, all of them hits: checked before, and by what the inner service was asked meanwhile.
fn hit<S, R, B>(mut service: S, bytes: usize, send: fn(Request<Empty<Bytes>>) -> Request<R>, asks: Asks) -> Call
where
    S: Service<Request<R>, Response = Response<B>> + 'static,
    R: 'static,
    B: Body<Data = Bytes>,
{
    check(entered(), &mut service, bytes, send, asks);
    // What the first ones do that no later one does is not counted.
    for _ in 0..if bytes > KIB { 3 } else { 100 } {
        drive(&mut service, send(request(item())));
    }
    let mut watch = Watch::hits(asks);
    Box::new(move || {
        watch.call();
        black_box(drive(&mut service, send(request(item()))));
    })
}

/// Another request each time, over a cache that is full.
fn miss<S, R, B>(mut service: S, send: fn(Request<Empty<Bytes>>) -> Request<R>) -> Call
where
    S: Service<Request<R>, Response = Response<B>> + 'static,
    R: 'static,
    B: Body<Data = Bytes>,
{
    let runtime = entered();
    for n in 0..FILLS {
        drive_in(runtime, &mut service, send(request(fresh_item(n))));
    }
    let mut n = FIRST;
    let mut watch = Watch::misses();
    Box::new(move || {
        watch.call();
        n += 1;
        black_box(drive(&mut service, send(request(fresh_item(n)))));
    })
}

/// The same, where a task of the runtime stores what was missing.
fn miss_in<S, B>(runtime: &'static Runtime, mut service: S) -> Call
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>> + 'static,
    B: Body<Data = Bytes>,
{
    for n in 0..FILLS {
        drive_in(runtime, &mut service, request(fresh_item(n)));
    }
    let mut n = FIRST;
    let mut watch = Watch::misses();
    Box::new(move || {
        watch.call();
        n += 1;
        black_box(drive_in(runtime, &mut service, request(fresh_item(n))));
    })
}

/// The targets of misses, all of one length.
const FIRST: u64 = 1_000_000;

/// That a first request is answered by the inner service, a second one by the cache with all that the first one was answered, and
/// one for another page not by it.
fn check<S, R, B>(runtime: &Runtime, service: &mut S, bytes: usize, send: fn(Request<Empty<Bytes>>) -> Request<R>, asks: Asks)
where
    S: Service<Request<R>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    let mut respond = |uri| {
        let before = asked();
        let (parts, body) = response_in(runtime, service, send(request(uri)));
        assert_eq!(parts.status, StatusCode::OK);
        for (name, value) in Origin::of(bytes).respond().headers() {
            assert_eq!(parts.headers.get(name), Some(value), "{name}");
        }
        assert!(body == vec![b'7'; bytes], "the body is another");
        asked().since(before)
    };
    let missed = Asked { called: 1, answered: 1 };
    assert_eq!(respond(item()), missed, "the first request");
    assert_eq!(respond(item()), asks.of(1), "the second request");
    assert_eq!(respond(Uri::from_static("/items/42?page=4&sort=asc")), missed, "a request for another page");
}

impl Asks {
    fn of(self, hits: u64) -> Asked {
        let (called, answered) = match self {
            Self::Never => (0, 0),
            Self::Calls => (hits, 0),
            Self::Computes => (hits, hits),
        };
        Asked { called, answered }
    }
}

impl Asked {
    fn since(self, before: Self) -> Self {
        Self { called: self.called - before.called, answered: self.answered - before.answered }
    }
}

/// Compares in the end what the inner service was asked with what it should have been.
struct Watch {
    before: Asked,
    calls: u64,
    asks: Asks,
}

impl Watch {
    fn hits(asks: Asks) -> Self {
        Self { before: asked(), calls: 0, asks }
    }

    fn misses() -> Self {
        Self::hits(Asks::Computes)
    }

    fn call(&mut self) {
        self.calls += 1;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !thread::panicking() {
            assert_eq!(asked().since(self.before), self.asks.of(self.calls), "what the inner service was asked");
        }
    }
}
