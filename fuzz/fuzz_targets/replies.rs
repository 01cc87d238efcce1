//! Replies of Redis from bytes: no panic, and each is read as the `redis` crate reads it, in one piece and in two.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_response_cache::__private::fuzz_replies;

fuzz_target!(|input: &[u8]| {
    fuzz_replies(input);
});
