//! Runs tests one after another: each has the machine to itself, as far as this program goes.

use std::{
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

/// A law, and how it is tested.
pub type Test = (&'static str, fn());

/// Options of `cargo test` that take a value; it is none of the names.
const WITH_VALUE: [&str; 5] = ["--test-threads", "--color", "--format", "--logfile", "-Z"];

/// What of `cargo test -- …` is understood: names, `--exact`, `--skip NAME`, `--list`.
#[derive(Default)]
struct Choice {
    names: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
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
    let mut failed = Vec::new();
    for (name, test) in &chosen {
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(*name);
        }
    }
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
