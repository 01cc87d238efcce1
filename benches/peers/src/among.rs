//! Hits among few entries and among many, and with few namespaces and many: what a hit costs must not depend on it.

use std::{env, hint::black_box, process::Command, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::Empty;
use tower_layer::Layer;
use tower_response_cache::{CacheLayer, Memory, Rule};
use tower_response_cache_cost::{
    Case, Limit,
    bounds::Correct,
    cases::in_runtime,
    ours::{self, Told},
    work::{Nothing, drive, request},
};
use tower_service::Service;

use crate::inner::Inner;

type Call = Box<dyn FnMut()>;

/// The bodies are small, so that a million of them fit.
const BODY: usize = 64;
/// Room for all of them.
const AMPLE: usize = 8 << 30;
/// None of them expires meanwhile.
const HOUR: Duration = Duration::from_secs(3600);

/// How many namespaces are in use if there are many, each with one of the entries.
pub const NAMESPACES: u64 = 100_000;

/// A number of entries, with the names of its cases.
pub struct Among {
    pub entries: u64,
    pub nothing: &'static str,
    pub bound: &'static str,
    pub ours: &'static str,
}

/// The numbers of entries.
pub const AMONG: &[Among] = &[
    Among { entries: 100, nothing: "nothing, 100", bound: "bound, 100", ours: "ours, 100" },
    Among { entries: 1_000, nothing: "nothing, 1,000", bound: "bound, 1,000", ours: "ours, 1,000" },
    Among { entries: 10_000, nothing: "nothing, 10,000", bound: "bound, 10,000", ours: "ours, 10,000" },
    Among { entries: 100_000, nothing: "nothing, 100,000", bound: "bound, 100,000", ours: "ours, 100,000" },
    Among { entries: 1_000_000, nothing: "nothing, 1,000,000", bound: "bound, 1,000,000", ours: "ours, 1,000,000" },
];

/// Namespaces: with the empty service, one for all entries, and one for each.
pub const SPREAD: [&str; 3] = ["nothing, namespaces", "one namespace", "namespaces"];

/// All cases.
pub const CASES: &[Case] = &[
    case_of(AMONG[0].nothing, || nothing(AMONG[0].entries)),
    case_of(AMONG[0].bound, || bound(AMONG[0].entries)),
    case_of(AMONG[0].ours, || among(AMONG[0].entries)),
    case_of(AMONG[1].nothing, || nothing(AMONG[1].entries)),
    case_of(AMONG[1].bound, || bound(AMONG[1].entries)),
    case_of(AMONG[1].ours, || among(AMONG[1].entries)),
    case_of(AMONG[2].nothing, || nothing(AMONG[2].entries)),
    case_of(AMONG[2].bound, || bound(AMONG[2].entries)),
    case_of(AMONG[2].ours, || among(AMONG[2].entries)),
    case_of(AMONG[3].nothing, || nothing(AMONG[3].entries)),
    case_of(AMONG[3].bound, || bound(AMONG[3].entries)),
    case_of(AMONG[3].ours, || among(AMONG[3].entries)),
    case_of(AMONG[4].nothing, || nothing(AMONG[4].entries)),
    case_of(AMONG[4].bound, || bound(AMONG[4].entries)),
    case_of(AMONG[4].ours, || among(AMONG[4].entries)),
    case_of(SPREAD[0], || at_random(NAMESPACES, Nothing, own_tenant)),
    case_of(SPREAD[1], || spread(one_tenant)),
    case_of(SPREAD[2], || spread(own_tenant)),
];

const fn case_of(name: &'static str, make: fn() -> Call) -> Case {
    Case { name, less: "", calls: 20_000, limit: Limit::None, make }
}

/// The case of this name.
pub fn case(name: &str) -> Case {
    *CASES.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("no case is called {name:?}"))
}

/// What the process under valgrind does.
pub fn run(name: &str, calls: u64) {
    let mut call = (case(name).make)();
    all_that_is_counted(&mut call, calls);
}

#[inline(never)]
fn all_that_is_counted(call: &mut Call, calls: u64) {
    for _ in 0..calls {
        black_box(&mut *call)();
    }
}

/// Instructions of one call. To make so many entries takes more than to ask for them, and not the same each time, so that it is left
/// out from the start.
pub fn instructions(name: &str) -> f64 {
    let calls = case(name).calls;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*all_that_is_counted*"])
        .arg(env::current_exe().expect("the path of this program"))
        .args(["run", name, &calls.to_string()])
        .output()
        .unwrap_or_else(|why| panic!("valgrind does not run: {why}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} did not end well:\n{said}");
    let figure = said.split("Collected : ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let counted: f64 = figure.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("no count:\n{said}"));
    assert!(counted > 0.0, "nothing of {name} was counted");
    counted / calls as f64
}

fn nothing(entries: u64) -> Call {
    at_random(entries, Nothing, item)
}

fn bound(entries: u64) -> Call {
    filled(entries, Correct::over(Inner::of(BODY).own_bodies(), AMPLE as u64), item)
}

fn among(entries: u64) -> Call {
    let layer = ours::layer(Memory::new(AMPLE), Rule::ttl(HOUR), Told::Age);
    in_runtime(|| filled(entries, layer.layer(Inner::of(BODY).own_bodies()), item))
}

fn spread(target: fn(u64) -> Uri) -> Call {
    let rule = Rule::ttl(HOUR).namespace("tenants:{tenant}");
    let layer = CacheLayer::new(Memory::new(AMPLE)).route("/tenants/{tenant}/items/{id}", rule).status_extension(false);
    in_runtime(|| filled(NAMESPACES, layer.layer(Inner::of(BODY).own_bodies()), target))
}

/// Targets of one length.
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
        drive(&mut service, request(target(n)));
    }
    at_random(entries, service, target)
}

/// Asks for each of so many targets before it asks for one again, in an order without rhyme.
fn at_random<S, B>(entries: u64, mut service: S, target: fn(u64) -> Uri) -> Call
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>> + 'static,
    B: Body<Data = Bytes>,
{
    // A step that has no divisor in common with a power of ten visits all.
    const STEP: u64 = 618_033_989;
    let mut n = 0;
    Box::new(move || {
        n = (n + STEP) % entries;
        black_box(drive(&mut service, request(target(n))));
    })
}
