//! Ranges: no panic, no byte beyond the end, and no byte twice.
#![no_main]

use http::{Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use tower_response_cache::semantics::*;

#[path = "lines.rs"]
mod lines;

fuzz_target!(|input: &[u8]| {
    let (request, rest) = lines::halves(input);
    let (stored, length) = lines::halves(rest);
    let (request, stored, length) = (lines::fields(request), lines::fields(stored), lines::number(length));
    let selected = Selected { status: StatusCode::OK, headers: &stored, received: 0 };
    match select_ranges(&Method::GET, &request, &selected, length, 0) {
        Ranges::Single(part) => {
            assert!(part.start < part.end && part.end <= length);
            let part = Part::of(&partial_headers(&stored, &part, length)).expect("a valid Content-Range");
            assert_eq!(part.is_complete(), part.range == (0..length));
        }
        Ranges::Multiple(parts) => {
            assert!(parts.len() > 1);
            assert!(parts.iter().all(|part| part.start < part.end && part.end <= length));
            let total = parts.iter().map(|part| part.end - part.start).fold(0, u64::saturating_add);
            assert!(total < length);
            let _ = Multipart::new(&stored, &parts, length, "b").headers(&stored);
        }
        Ranges::Whole | Ranges::NotSatisfiable => {}
    }
    if let Some(part) = Part::of(&stored) {
        assert_eq!(part.join(&part), Some(part.clone()));
        assert!(part.is_complete() <= part.missing().is_none());
    }
});
