//! The time of each case in `src/cases.rs`, including the creation of the request.

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
