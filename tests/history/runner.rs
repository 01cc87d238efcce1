//! A test runner. It runs two tests at a time, which mostly wait; more of them would delay each other.

use std::{
    cell::Cell,
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Instant,
};

/// A test: its name and its function.
pub type Test = (&'static str, fn());

thread_local! {
    static NAME: Cell<&'static str> = const { Cell::new("") };
}

/// Prints a line about the test of this thread.
pub fn print_line(line: impl std::fmt::Display) {
    println!("    {}: {line}", NAME.get());
}

/// Options of `cargo test` with a value, which is not a name.
const WITH_VALUE: [&str; 4] = ["--color", "--format", "--logfile", "-Z"];

/// Supported arguments of `cargo test -- …`: names, `--exact`, `--skip NAME`, `--list`, `--test-threads N`.
#[derive(Default)]
struct Selection {
    names: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
    threads: Option<usize>,
    /// Selects ignored tests, of which there are none.
    ignored: bool,
}

impl Selection {
    fn of(mut arguments: impl Iterator<Item = OsString>) -> Self {
        let mut selection = Self::default();
        while let Some(word) = arguments.next() {
            let word = word.to_string_lossy();
            match &*word {
                "--exact" => selection.exact = true,
                "--list" => selection.list = true,
                "--ignored" => selection.ignored = true,
                "--skip" => selection.skipped.extend(arguments.next().map(|name| name.to_string_lossy().into_owned())),
                "--test-threads" => {
                    selection.threads = arguments.next().and_then(|number| number.to_string_lossy().parse().ok())
                }
                option if option.starts_with("--test-threads=") => {
                    selection.threads = option["--test-threads=".len()..].parse().ok()
                }
                option if WITH_VALUE.contains(&option) => drop(arguments.next()),
                option if option.starts_with('-') => {}
                name => selection.names.push(name.to_owned()),
            }
        }
        selection
    }

    fn has(&self, name: &str) -> bool {
        let is = |asked: &String| if self.exact { asked == name } else { name.contains(asked.as_str()) };
        !self.ignored && (self.names.is_empty() || self.names.iter().any(is)) && !self.skipped.iter().any(is)
    }
}

/// Runs the selected tests, and prints their results like the standard runner.
pub fn run(tests: &[Test], arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let selection = Selection::of(arguments);
    let chosen: Vec<_> = tests.iter().filter(|(name, _)| selection.has(name)).collect();
    if selection.list {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let begin = Instant::now();
    println!("\nrunning {} tests", chosen.len());
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..selection.threads.unwrap_or(2) {
            scope.spawn(|| {
                while let Some((name, test)) = chosen.get(next.fetch_add(1, SeqCst)) {
                    NAME.set(name);
                    let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
                    println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
                    if !passed {
                        failed.lock().expect("never held over a panic").push(*name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("never held over a panic");
    if !failed.is_empty() {
        println!("\nfailures:\n    {}", failed.join("\n    "));
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        chosen.len() - failed.len(),
        failed.len(),
        tests.len() - chosen.len(),
        begin.elapsed().as_secs_f64()
    );
    // The exit code of the standard runner.
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}
