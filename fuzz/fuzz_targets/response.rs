//! Responses from stored bytes: no panic for any bytes stored under the keys of a request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_response_cache::__private::fuzz_response;

fuzz_target!(|input: &[u8]| {
    fuzz_response(input);
});
