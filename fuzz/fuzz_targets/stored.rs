//! Entries from bytes: no panic, and a decoded entry is encoded and decoded again to the same entry.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_response_cache::__private::fuzz_stored;

fuzz_target!(|input: &[u8]| {
    if let Some((first, rest)) = input.split_first() {
        fuzz_stored(first % 2 == 1, rest);
    }
});
