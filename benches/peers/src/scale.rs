//! Hits in caches of different numbers of entries and namespaces. The cost of a hit must not depend on them.

use std::{env, hint::black_box, process::Command, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::Empty;
use tower::{Layer, Service};
use tower_response_cache::{CacheLayer, Memory, Rule};
use tower_response_cache_cost::{
    Case, Limit,
    bounds::CorrectCache,
    calls::in_runtime,
    setup::{self, Report},
    work::{EmptyService, request, send_ready},
};

use crate::inner::Inner;

type Call = Box<dyn FnMut()>;

/// The length of a body, small enough for a million entries.
const BODY: usize = 64;
/// A capacity in bytes for all entries.
const UNLIMITED: usize = 8 << 30;
/// A lifetime longer than the measurement.
const HOUR: Duration = Duration::from_secs(3600);

/// The number of namespaces in the case with many, each with one entry.
pub const NAMESPACES: u64 = 100_000;

/// A number of entries and the names of its cases.
pub struct Scale {
    pub entries: u64,
    pub empty_service: &'static str,
    pub bound: &'static str,
    pub cache: &'static str,
}

/// The numbers of entries.
pub const SCALES: &[Scale] = &[
    Scale { entries: 100, empty_service: "empty service, 100", bound: "bound, 100", cache: "cache, 100" },
    Scale { entries: 1_000, empty_service: "empty service, 1,000", bound: "bound, 1,000", cache: "cache, 1,000" },
    Scale { entries: 10_000, empty_service: "empty service, 10,000", bound: "bound, 10,000", cache: "cache, 10,000" },
    Scale { entries: 100_000, empty_service: "empty service, 100,000", bound: "bound, 100,000", cache: "cache, 100,000" },
    Scale {
        entries: 1_000_000,
        empty_service: "empty service, 1,000,000",
        bound: "bound, 1,000,000",
        cache: "cache, 1,000,000",
    },
];

/// The cases of namespaces: the empty service, one namespace for all entries, and one for each.
pub const NAMESPACE_CASES: [&str; 3] = ["empty service, namespaces", "one namespace", "namespaces"];

/// All cases.
pub const CASES: &[Case] = &[
    case_of(SCALES[0].empty_service, || empty_service(SCALES[0].entries)),
    case_of(SCALES[0].bound, || bound(SCALES[0].entries)),
    case_of(SCALES[0].cache, || cache(SCALES[0].entries)),
    case_of(SCALES[1].empty_service, || empty_service(SCALES[1].entries)),
    case_of(SCALES[1].bound, || bound(SCALES[1].entries)),
    case_of(SCALES[1].cache, || cache(SCALES[1].entries)),
    case_of(SCALES[2].empty_service, || empty_service(SCALES[2].entries)),
    case_of(SCALES[2].bound, || bound(SCALES[2].entries)),
    case_of(SCALES[2].cache, || cache(SCALES[2].entries)),
    case_of(SCALES[3].empty_service, || empty_service(SCALES[3].entries)),
    case_of(SCALES[3].bound, || bound(SCALES[3].entries)),
    case_of(SCALES[3].cache, || cache(SCALES[3].entries)),
    case_of(SCALES[4].empty_service, || empty_service(SCALES[4].entries)),
    case_of(SCALES[4].bound, || bound(SCALES[4].entries)),
    case_of(SCALES[4].cache, || cache(SCALES[4].entries)),
    case_of(NAMESPACE_CASES[0], || repeat_scattered(NAMESPACES, EmptyService, own_tenant)),
    case_of(NAMESPACE_CASES[1], || namespaces(one_tenant)),
    case_of(NAMESPACE_CASES[2], || namespaces(own_tenant)),
];

const fn case_of(name: &'static str, make: fn() -> Call) -> Case {
    Case { name, subtract: "", calls: 20_000, limit: Limit::None, make }
}

/// Returns the case with this name.
pub fn case(name: &str) -> Case {
    *CASES.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("unknown case {name:?}"))
}

/// Makes the calls of a case in the process under valgrind.
pub fn run(name: &str, calls: u64) {
    let mut call = (case(name).make)();
    counted_calls(&mut call, calls);
}

#[inline(never)]
fn counted_calls(call: &mut Call, calls: u64) {
    for _ in 0..calls {
        black_box(&mut *call)();
    }
}

/// Returns the instructions of one call. Filling the cache takes more instructions than the calls and varies, so it is not collected.
pub fn instructions(name: &str) -> f64 {
    let calls = case(name).calls;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*counted_calls*"])
        .arg(env::current_exe().expect("the path of this program"))
        .args(["run", name, &calls.to_string()])
        .output()
        .unwrap_or_else(|error| panic!("cannot run valgrind: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} failed:\n{text}");
    let figure = text.split("Collected : ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let counted: f64 = figure.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("no count:\n{text}"));
    assert!(counted > 0.0, "no instructions of {name} were counted");
    counted / calls as f64
}

fn empty_service(entries: u64) -> Call {
    repeat_scattered(entries, EmptyService, item)
}

fn bound(entries: u64) -> Call {
    filled(entries, CorrectCache::over(Inner::of(BODY).own_bodies(), UNLIMITED as u64), item)
}

fn cache(entries: u64) -> Call {
    let layer = setup::layer(Memory::new(UNLIMITED), Rule::ttl(HOUR), Report::Default);
    in_runtime(|| filled(entries, layer.layer(Inner::of(BODY).own_bodies()), item))
}

fn namespaces(target: fn(u64) -> Uri) -> Call {
    let rule = Rule::ttl(HOUR).namespace("tenants:{tenant}");
    let layer = CacheLayer::new(Memory::new(UNLIMITED)).route("/tenants/{tenant}/items/{id}", rule);
    in_runtime(|| filled(NAMESPACES, layer.layer(Inner::of(BODY).own_bodies()), target))
}

/// Returns a target. All targets have the same length.
fn item(n: u64) -> Uri {
    format!("/items/{:07}?page=3&sort=asc", n).try_into().expect("a target")
}

fn one_tenant(n: u64) -> Uri {
    tenant(0, n)
}

fn own_tenant(n: u64) -> Uri {
    tenant(n, n)
}

fn tenant(tenant: u64, n: u64) -> Uri {
    format!("/tenants/{tenant:07}/items/{n:07}").try_into().expect("a target")
}

fn filled<S, B>(entries: u64, mut service: S, target: fn(u64) -> Uri) -> Call
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>> + 'static,
    B: Body<Data = Bytes>,
{
    for n in 0..entries {
        send_ready(&mut service, request(target(n)));
    }
    repeat_scattered(entries, service, target)
}

/// Requests each of the targets once before repeating one, in a scattered order.
fn repeat_scattered<S, B>(entries: u64, mut service: S, target: fn(u64) -> Uri) -> Call
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>> + 'static,
    B: Body<Data = Bytes>,
{
    // The step and each number of entries are coprime, so every target is visited.
    const STEP: u64 = 618_033_989;
    let mut n = 0;
    Box::new(move || {
        n = (n + STEP) % entries;
        black_box(send_ready(&mut service, request(target(n))));
    })
}
