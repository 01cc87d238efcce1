//! `Cache-Control`: no panic, and printed directives are parsed to the same value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_response_cache::semantics::CacheControl;

fuzz_target!(|input: &[u8]| {
    let cc = CacheControl::of_lines(input.split(|byte| *byte == b'\n'));
    let printed = cc.to_string();
    assert_eq!(CacheControl::of_lines([printed.as_bytes()]), cc);
});
