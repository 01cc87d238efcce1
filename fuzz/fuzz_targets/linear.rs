//! Parsers of lists, tags, ranges and directives: each byte is read a bounded number of times, for fields of every length and content.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use tower_response_cache::{
    __private::count_steps,
    semantics::{
        CacheControl, Normalise, Role, Selected, Vary, Weights, cache_groups, evaluate, response_directives, select_ranges,
        strip_for_storing,
    },
};

/// hyper's limit for all fields of a request.
const MAX_LENGTH: usize = 400 << 10;

/// The limit of steps is `STEPS_PER_BYTE` for each byte and `CONSTANT_STEPS` in addition.
const STEPS_PER_BYTE: usize = 8;
const CONSTANT_STEPS: usize = 64;

fn parsers(fields: &HeaderMap) -> [(&'static str, Box<dyn Fn() + '_>); 7] {
    let selected = || Selected { status: StatusCode::OK, headers: fields, received: 0 };
    let mut normalise = Normalise::rfc();
    (normalise.accept_encoding, normalise.accept_language) = (Weights::Unordered, Weights::Ordered);
    let targets = [HeaderName::from_static("cdn-cache-control")];
    [
        ("directives", Box::new(|| drop(CacheControl::of_request(fields)))),
        ("targeted", Box::new(move || drop(response_directives(fields, &targets)))),
        ("conditions", Box::new(move || _ = evaluate(&Method::GET, fields, &selected(), Role::Origin, 0))),
        ("ranges", Box::new(move || drop(select_ranges(&Method::GET, fields, &selected(), 1 << 20, 0)))),
        ("vary", Box::new(move || Vary::of(fields).write(fields, normalise, &mut Vec::new()))),
        ("groups", Box::new(|| drop(cache_groups(fields)))),
        ("connection", Box::new(|| strip_for_storing(&mut fields.clone(), &CacheControl::of(fields)))),
    ]
}

fuzz_target!(|input: &[u8]| {
    // The line is a head followed by repetitions of a pattern.
    let Some((cut, rest)) = input.split_first() else { return };
    let (head, pattern) = rest.split_at(usize::from(*cut).min(rest.len()));
    if pattern.is_empty() {
        return;
    }
    let length = MAX_LENGTH >> (pattern.len() % 5 * 2);
    let line: Vec<u8> = head.iter().chain(pattern.iter().cycle()).copied().take(length).collect();
    let Ok(value) = HeaderValue::from_bytes(&line) else { return };
    let names =
        ["cache-control", "cdn-cache-control", "pragma", "if-none-match", "if-match", "range", "vary", "accept-encoding"];
    let more = ["accept-language", "cache-groups", "connection", "etag", "accept"];
    let fields: HeaderMap = names.iter().chain(&more).map(|name| (HeaderName::from_static(name), value.clone())).collect();
    for (name, parse) in parsers(&fields) {
        let steps = count_steps(parse);
        // A parser may read several fields, and a field several times.
        assert!(steps <= STEPS_PER_BYTE * length + CONSTANT_STEPS, "{name}: {steps} steps for {length} bytes");
    }
});
