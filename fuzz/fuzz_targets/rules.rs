//! Rules from a file: no panic, and an error names an existing line or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_response_cache::Rules;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Err(error) = Rules::from_toml(text) {
        assert!(error.line().is_none_or(|line| (1..=text.lines().count().max(1) + 1).contains(&line)), "{error}");
        assert!(!error.to_string().is_empty());
    }
});
