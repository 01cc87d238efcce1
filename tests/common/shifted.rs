//! Child processes with a wrong wall clock. libfaketime (package `faketime`) shifts it and does not change the monotonic clock.
#![allow(unreachable_pub, missing_docs)]

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;

/// The wall clock of a child process, shifted from the machine's.
pub struct ShiftedClock {
    dir: TempDir,
}

impl ShiftedClock {
    /// Returns a clock that is ahead by `seconds`, or behind if they are negative.
    pub fn by(seconds: i64) -> Self {
        let clock = Self { dir: TempDir::new().expect("a directory") };
        clock.set(seconds);
        clock
    }

    /// Changes the shift. A running process observes the change within a second.
    pub fn set(&self, seconds: i64) {
        // Renamed, so that no process reads a partly written file.
        let new = self.dir.path().join("new");
        fs::write(&new, format!("{seconds:+}\n")).expect("a file");
        fs::rename(new, self.file()).expect("a file");
    }

    /// Configures a command to run under this clock.
    pub fn apply_to(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", library())
            .env("FAKETIME_TIMESTAMP_FILE", self.file())
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("shift")
    }
}

fn library() -> PathBuf {
    let directories = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let roots = directories.chain(["/usr/lib".into(), "/usr/local/lib".into()]);
    let library = roots.map(|root| root.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists());
    library.expect("libfaketime is missing: tests/run installs it, from the package `faketime`")
}
