//! Documents, requests and responses of GraphQL: no panic, and the operation that a request selects is one of its document.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_response_cache::__private::fuzz_graphql;

fuzz_target!(|input: &[u8]| {
    fuzz_graphql(input);
});
