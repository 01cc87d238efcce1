//! Conditions of the client, validation requests and their responses: no panic, and each tag matches itself.
#![no_main]

use http::{Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use tower_response_cache::semantics::*;

#[path = "lines.rs"]
mod lines;

fuzz_target!(|input: &[u8]| {
    let (stored, request) = lines::halves(input);
    let (mut stored, mut request) = (lines::fields(stored), lines::fields(request));
    let selected = Selected { status: StatusCode::OK, headers: &stored, received: 0 };
    for method in [Method::GET, Method::PUT] {
        for role in [Role::Cache, Role::Origin] {
            let _ = evaluate(&method, &request, &selected, role, 0);
        }
    }
    if let Some(tag) = ETag::of(&stored) {
        assert_eq!(ETag::parse(stored["etag"].as_bytes()), Some(tag));
        assert_eq!(validated(&[&stored], &stored), Some(0));
    }
    let _ = compare_head(&stored, 5, StatusCode::OK, &request);
    let update = request.clone();
    merge(&mut stored, &update, 0);
    if make_conditional(&mut request, &[&stored]) {
        let selected = Selected { status: StatusCode::OK, headers: &stored, received: 0 };
        assert_eq!(evaluate(&Method::GET, &request, &selected, Role::Cache, 0), Precondition::NotModified);
    }
});
