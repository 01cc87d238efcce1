//! CPU time, which excludes the time of other processes.

use std::{hint::black_box, iter, sync::mpsc::channel, thread, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use tower_response_cache_cost::Case;

/// Reads a CPU clock of the process or of the thread.
pub fn processor(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Returns the median.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<_> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The time per call of each case, by round. A round measures all cases in turn.
pub struct Times(Vec<(&'static str, Vec<f64>)>);

impl Times {
    /// Measures the cases.
    pub fn of(cases: &[Case], rounds: usize, calls: fn(&Case) -> u64) -> Self {
        thread::scope(|scope| {
            // Each case has a thread of its own with its own runtime and call counts.
            let mut threads = Vec::new();
            for case in cases {
                let (turns, turn) = channel();
                let (took, times) = channel();
                scope.spawn(move || {
                    let mut call = (case.make)();
                    for calls in turn {
                        took.send(time(&mut call, calls)).expect("a receiver");
                    }
                });
                threads.push((case, turns, times));
            }
            let mut took: Vec<_> = cases.iter().map(|case| (case.name, Vec::new())).collect();
            // The first round is not counted.
            for round in 0..=rounds {
                for ((case, turns, times), (_, took)) in threads.iter().zip(&mut took) {
                    turns.send(calls(case)).expect("a running case");
                    let time = times.recv().expect("a result");
                    took.extend((round > 0).then_some(time));
                }
            }
            drop(threads);
            Self(took)
        })
    }

    /// Returns the median difference between two cases, in nanoseconds.
    pub fn difference(&self, name: &str, less: &str) -> f64 {
        median(iter::zip(self.rounds(name), self.rounds(less)).map(|(own, less)| own - less))
    }

    fn rounds(&self, name: &str) -> &[f64] {
        self.0.iter().find(|(other, _)| *other == name).map(|(_, times)| &times[..]).expect("a case that was timed")
    }
}

/// Returns the time per call in nanoseconds.
fn time(call: &mut Box<dyn FnMut()>, calls: u64) -> f64 {
    let began = processor(ClockId::ThreadCPUTime);
    for _ in 0..calls {
        black_box(&mut *call)();
    }
    (processor(ClockId::ThreadCPUTime) - began).as_nanos() as f64 / calls as f64
}
