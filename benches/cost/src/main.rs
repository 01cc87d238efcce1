//! Prints the table of this crate and its lower bounds.

fn main() {
    tower_response_cache_cost::measure::main(tower_response_cache_cost::cases::CASES);
}
