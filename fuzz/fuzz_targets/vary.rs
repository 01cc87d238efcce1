//! `Vary`: requests match if and only if their keys are equal, and less normalisation never matches more.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_response_cache::semantics::{Normalise, Vary, Weights};

#[path = "lines.rs"]
mod lines;

fuzz_target!(|input: &[u8]| {
    let (response, rest) = lines::halves(input);
    let (one, two) = lines::halves(rest);
    let (response, one, two) = (lines::fields(response), lines::fields(one), lines::fields(two));
    let vary = Vary::of(&response);
    let mut most = Normalise::rfc();
    (most.accept_language, most.accept_encoding) = (Weights::Unordered, Weights::Ordered);
    let mut matched = true;
    for normalise in [most, Normalise::rfc(), Normalise::none()] {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        vary.write(&one, normalise, &mut first);
        vary.write(&two, normalise, &mut second);
        let now = vary.matches(&one, &two, normalise);
        assert_eq!(now, !vary.is_star() && first == second);
        assert!(vary.is_star() || vary.matches(&one, &one, normalise));
        assert!(matched || !now);
        matched = now;
        let _ = vary.fits(&one, &response, &two, normalise);
    }
});
