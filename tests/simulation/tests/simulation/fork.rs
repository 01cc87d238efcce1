//! Each run in a process of its own, so that nothing that a run leaves in memory reaches another one.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Write},
    os::fd::FromRawFd,
    thread,
};

use super::{
    plan::Broken,
    run::{Report, run},
};

/// The stack of a run.
const STACK: usize = 8 << 20;

/// A running process.
struct Child {
    seed: u64,
    process: libc::pid_t,
    output: File,
}

/// Runs seeds, some at the same time, and calls `done` with the reports in their order, until it returns `false`.
pub fn run_all(
    seeds: impl IntoIterator<Item = u64>,
    broken: Option<Broken>,
    all_events: bool,
    mut done: impl FnMut(u64, Report) -> bool,
) {
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let (mut seeds, mut running) = (seeds.into_iter(), VecDeque::new());
    let mut goes_on = true;
    loop {
        while goes_on
            && running.len() < at_once
            && let Some(seed) = seeds.next()
        {
            running.push_back(start(seed, broken, all_events));
        }
        let Some(child) = running.pop_front() else { return };
        let seed = child.seed;
        let report = child.end();
        goes_on = goes_on && done(seed, report);
    }
}

fn start(seed: u64, broken: Option<Broken>, all_events: bool) -> Child {
    let mut ends = [0; 2];
    // SAFETY: it writes two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0, "a pipe");
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => panic!("no process can be started: {}", std::io::Error::last_os_error()),
        0 => {
            let run = thread::Builder::new().stack_size(STACK).spawn(move || run(seed, broken, all_events));
            let report = run.expect("a thread").join();
            let text = report.map_or_else(|_| "panicked".to_owned(), |report| report.to_text());
            // SAFETY: the descriptor is used nowhere else.
            let mut output = unsafe { File::from_raw_fd(ends[1]) };
            let written = output.write_all(text.as_bytes());
            // SAFETY: nothing has to run at the end of this process.
            unsafe { libc::_exit(i32::from(written.is_err())) }
        }
        process => {
            // SAFETY: the descriptors are used nowhere else.
            let output = unsafe {
                libc::close(ends[1]);
                File::from_raw_fd(ends[0])
            };
            Child { seed, process, output }
        }
    }
}

impl Child {
    fn end(mut self) -> Report {
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("it writes text");
        // SAFETY: the process is a child that nobody else waits for.
        unsafe { libc::waitpid(self.process, std::ptr::null_mut(), 0) };
        Report::from_text(&text)
            .unwrap_or_else(|| Report { violations: vec![format!("the run ended early: {text}")], ..Report::default() })
    }
}

impl Report {
    fn to_text(&self) -> String {
        let Self { hash, events, reads, hits, writes, violations, plan, trace } = self;
        let mut text = format!("{hash} {events} {reads} {hits} {writes} {}\n{plan}\n", violations.len());
        for line in violations.iter().chain(trace) {
            text.push_str(&line.replace('\n', " "));
            text.push('\n');
        }
        text
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines().map(str::to_owned);
        let first = lines.next()?;
        let mut numbers = first.split(' ').map(|word| word.parse::<u64>().ok());
        let mut number = || numbers.next().flatten();
        let (hash, events, reads, hits, writes) = (number()?, number()?, number()?, number()?, number()?);
        let count = number()? as usize;
        let plan = lines.next()?;
        let violations = lines.by_ref().take(count).collect();
        Some(Self { hash, events, reads, hits, writes, violations, plan, trace: lines.collect() })
    }
}
