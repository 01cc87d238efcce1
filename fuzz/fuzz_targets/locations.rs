//! `Location` and `Content-Location`: no panic, and every path is normalised and of the same origin.
#![no_main]

use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use tower_response_cache::semantics::*;

#[path = "lines.rs"]
mod lines;

fuzz_target!(|input: &[u8]| {
    let response = lines::fields(input);
    let (path, authority) = (PathAndQuery::from_static("/a/b?c"), Authority::from_static("example.com"));
    let target = Target { scheme: None, authority: Some(&authority), path_and_query: &path };
    let paths = invalidated(&Method::POST, target, StatusCode::OK, &response);
    assert_eq!(paths[0], path);
    for path in paths {
        assert!(path.path().starts_with('/') && path.path().split('/').all(|segment| segment != ".." && segment != "."));
    }
    let _ = post_answers_get(target, &response, &CacheControl::of(&response));
});
