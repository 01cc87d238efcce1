//! HTTP dates: no panic, and a parsed date is formatted as the same time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_response_cache::semantics::{format_date, parse_date};

#[path = "lines.rs"]
mod lines;

fuzz_target!(|input: &[u8]| {
    let (date, now) = lines::halves(input);
    let now = lines::number(now);
    if let Some(at) = parse_date(date, now) {
        assert_eq!(parse_date(format_date(at).as_bytes(), now), Some(at));
    }
});
