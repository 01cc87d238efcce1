//! Runs tests, two at a time: each of them waits more than it works, and more of them would keep each other from what they wait for.

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

/// A law, and how it is tested.
pub type Test = (&'static str, fn());

thread_local! {
    static NAME: Cell<&'static str> = const { Cell::new("") };
}

/// A line about the test that this thread runs.
pub fn say(what: impl std::fmt::Display) {
    println!("    {}: {what}", NAME.get());
}

/// Options of `cargo test` that take a value; it is none of the names.
const WITH_VALUE: [&str; 4] = ["--color", "--format", "--logfile", "-Z"];

/// What of `cargo test -- …` is understood: names, `--exact`, `--skip NAME`, `--list`, `--test-threads N`.
#[derive(Default)]
struct Choice {
    names: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
    threads: Option<usize>,
    /// Only tests that are ignored: there are none.
    ignored: bool,
}

impl Choice {
    fn of(mut words: impl Iterator<Item = OsString>) -> Self {
        let mut choice = Self::default();
        while let Some(word) = words.next() {
            let word = word.to_string_lossy();
            match &*word {
                "--exact" => choice.exact = true,
                "--list" => choice.list = true,
                "--ignored" => choice.ignored = true,
                "--skip" => choice.skipped.extend(words.next().map(|name| name.to_string_lossy().into_owned())),
                "--test-threads" => choice.threads = words.next().and_then(|number| number.to_string_lossy().parse().ok()),
                option if option.starts_with("--test-threads=") => {
                    choice.threads = option["--test-threads=".len()..].parse().ok()
                }
                option if WITH_VALUE.contains(&option) => drop(words.next()),
                option if option.starts_with('-') => {}
                name => choice.names.push(name.to_owned()),
            }
        }
        choice
    }

    fn has(&self, name: &str) -> bool {
        let is = |asked: &String| if self.exact { asked == name } else { name.contains(asked.as_str()) };
        !self.ignored && (self.names.is_empty() || self.names.iter().any(is)) && !self.skipped.iter().any(is)
    }
}

/// Runs those that are asked for, and says of each what came of it, in the words of the standard runner.
pub fn run(tests: &[Test], words: impl Iterator<Item = OsString>) -> ExitCode {
    let choice = Choice::of(words);
    let chosen: Vec<_> = tests.iter().filter(|(name, _)| choice.has(name)).collect();
    if choice.list {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let begin = Instant::now();
    println!("\nrunning {} tests", chosen.len());
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..choice.threads.unwrap_or(2) {
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
    // As the standard runner ends.
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}
