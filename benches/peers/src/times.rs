//! Processor time, which does not pass while others have the processor.

use std::{hint::black_box, iter, sync::mpsc::channel, thread, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use tower_response_cache_cost::Case;

/// What this clock of the process or of the thread says.
pub fn processor(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The one in the middle.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<_> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// How long one call of each case takes, round by round, each round all of them in turn.
pub struct Times(Vec<(&'static str, Vec<f64>)>);

impl Times {
    /// Goes through so many rounds, with so many calls of a case in each.
    pub fn of(cases: &[Case], rounds: usize, calls: fn(&Case) -> u64) -> Self {
        thread::scope(|scope| {
            // Each has a thread, where it is alone with its runtime and with what its inner service was asked.
            let mut threads = Vec::new();
            for case in cases {
                let (turns, turn) = channel();
                let (took, times) = channel();
                scope.spawn(move || {
                    let mut call = (case.make)();
                    for calls in turn {
                        took.send(time(&mut call, calls)).expect("the rounds go on");
                    }
                });
                threads.push((case, turns, times));
            }
            let mut took: Vec<_> = cases.iter().map(|case| (case.name, Vec::new())).collect();
            // The first round is not counted.
            for round in 0..=rounds {
                for ((case, turns, times), (_, took)) in threads.iter().zip(&mut took) {
                    turns.send(calls(case)).expect("the case is there");
                    let time = times.recv().expect("the case ran well");
                    took.extend((round > 0).then_some(time));
                }
            }
            drop(threads);
            Self(took)
        })
    }

    /// What one case took more than another, in nanoseconds: the median of the rounds.
    pub fn less(&self, name: &str, less: &str) -> f64 {
        median(iter::zip(self.rounds(name), self.rounds(less)).map(|(own, less)| own - less))
    }

    fn rounds(&self, name: &str) -> &[f64] {
        self.0.iter().find(|(other, _)| *other == name).map(|(_, times)| &times[..]).expect("a case that was timed")
    }
}

/// Nanoseconds of one of so many calls.
fn time(call: &mut Box<dyn FnMut()>, calls: u64) -> f64 {
    let began = processor(ClockId::ThreadCPUTime);
    for _ in 0..calls {
        black_box(&mut *call)();
    }
    (processor(ClockId::ThreadCPUTime) - began).as_nanos() as f64 / calls as f64
}
