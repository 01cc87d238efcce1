//! Freshness: no arithmetic overflow, the age never decreases, and the decision never improves with age.
#![no_main]

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use tower_response_cache::semantics::*;

#[path = "lines.rs"]
mod lines;

fuzz_target!(|input: &[u8]| {
    let (response, rest) = lines::halves(input);
    let (request, times) = lines::halves(rest);
    let (mut response, request) = (lines::fields(response), lines::fields(request));
    let time = |at: usize| lines::number(times.get(at * 8..).unwrap_or_default());
    let (requested, received, now, later) = (time(0), time(1), time(2), time(3));
    let at = ExchangeTimes { requested, received };

    let mut rules = FreshnessRules::default();
    rules.default_lifetime = DefaultLifetime::Heuristic { percent: 10, at_most: Duration::MAX };
    let cc = CacheControl::of(&response);
    let freshness = Freshness::shared(StatusCode::OK, &response, &cc, at, &rules);
    let (now, then) = (now, now.saturating_add(later));
    assert!(freshness.age(now) <= freshness.age(then));
    for directives in [CacheControl::of_request(&request), CacheControl::default()] {
        assert!(freshness.decide(&directives, now) <= freshness.decide(&directives, then));
        let _ = freshness.usable_on_failure(Failure::Unreachable, &directives, now);
    }
    assert!(freshness.fresh_until() <= freshness.useful_until());

    let exchange = Exchange { method: &Method::GET, request: &request, status: StatusCode::OK, response: &response };
    if shared_storable(&exchange, &cc, SharedRules::default()).is_ok() {
        assert!(!cc.no_store || cc.must_understand);
        assert!(!response.contains_key("set-cookie") || cc.private.is_some() || cc.no_cache.is_some());
    }
    let _ = safe_to_store(StatusCode::OK, &response, &cc);
    strip_for_storing(&mut response, &cc);
    assert!(!response.contains_key("connection"));
    let _ = RequestFields::of(&HeaderMap::new());
});
