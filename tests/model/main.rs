//! x
mod canonical;
mod checker;
mod protocol;
mod scope;
mod state;
mod words;
use checker::*; use scope::*; use scope::Place::*; use state::law;
#[test]
fn try_it() {
    let s = Scope { readers: &[Far, Far], writers: &[Far, Far], evict_entry: true, evict_generation: true, ..Scope::SMALL };
    let t = std::time::Instant::now();
    let r = explore(&s, &Question { laws: law::ALL, liveness: true });
    println!("{} {} {} {:x} {:?}", r.states, r.steps, r.depth, r.seen, t.elapsed());
    if let Some(t) = r.counterexample { println!("{}\n{t}", law::names(t.broken)); }
    if let Some(t) = r.stuck { println!("stuck\n{t}"); }
}
