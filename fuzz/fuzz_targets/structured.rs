//! Structured fields: targeted directives, cache groups, `No-Vary-Search` and `Cache-Status`.
#![no_main]

use http::{HeaderName, Method};
use libfuzzer_sys::fuzz_target;
use tower_response_cache::semantics::*;

#[path = "lines.rs"]
mod lines;

fuzz_target!(|input: &[u8]| {
    let (response, rest) = lines::halves(input);
    let (one, two) = lines::halves(rest);
    let response = lines::fields(response);
    let _ = response_directives(&response, &[HeaderName::from_static("cdn-cache-control")]);
    let _ = (cache_groups(&response), invalidated_groups(&Method::POST, &response));
    if let (Ok(one), Ok(two)) = (std::str::from_utf8(one), std::str::from_utf8(two)) {
        let variance = NoVarySearch::of(&response);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        variance.write(Some(one), &mut first);
        variance.write(Some(two), &mut second);
        assert_eq!(variance.equivalent(Some(one), Some(two)), first == second);
        let mut status = CacheStatus::hit(one);
        (status.key, status.detail) = (Some(two), Some(one));
        let _ = status.value();
    }
});
