//! The cases of `src/cases.rs` by the clock: what they take in one run beside their lower bounds, making the request included.

use divan::Bencher;
use tower_response_cache_cost::cases::CASES;

fn main() {
    divan::main();
}

#[divan::bench(args = CASES.iter().map(|case| case.name))]
fn per_request(bencher: Bencher, name: &str) {
    let case = CASES.iter().find(|case| case.name == name).expect("a case of that name");
    bencher.bench_local((case.make)());
}
