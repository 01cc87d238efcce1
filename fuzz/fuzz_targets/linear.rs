//! The parsers of lists, tags, ranges and directives look at each byte a bounded number of times, however long the field is and whatever
//! it says.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use tower_response_cache::semantics::{
    CacheControl, Normalise, Role, Selected, Vary, Weights, cache_groups, evaluate, response_directives, select_ranges, count_steps,
    strip_for_storing,
};

/// As long as the fields of a request may be in hyper.
const LONGEST: usize = 400 << 10;

/// How often a byte may be looked at, and what is free.
const TIMES: usize = 8;
const FREE: usize = 64;

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
        ("hops", Box::new(|| strip_for_storing(&mut fields.clone(), &CacheControl::of(fields)))),
    ]
}

fuzz_target!(|input: &[u8]| {
    // A head that stands once, and a pattern that is repeated.
    let Some((cut, rest)) = input.split_first() else { return };
    let (head, pattern) = rest.split_at(usize::from(*cut).min(rest.len()));
    if pattern.is_empty() {
        return;
    }
    let length = LONGEST >> (pattern.len() % 5 * 2);
    let line: Vec<u8> = head.iter().chain(pattern.iter().cycle()).copied().take(length).collect();
    let Ok(value) = HeaderValue::from_bytes(&line) else { return };
    let names = ["cache-control", "cdn-cache-control", "pragma", "if-none-match", "if-match", "range", "vary", "accept-encoding"];
    let more = ["accept-language", "cache-groups", "connection", "etag", "accept"];
    let fields: HeaderMap =
        names.iter().chain(&more).map(|name| (HeaderName::from_static(name), value.clone())).collect();
    for (name, parse) in parsers(&fields) {
        let steps = count_steps(parse);
        // A field may be read several times, and several of the fields by one parser.
        assert!(steps <= TIMES * length + FREE, "{name}: {steps} steps for {length} bytes");
    }
});
