//! Real processes whose wall clock is wrong: libfaketime (package `faketime`) shifts it, and leaves the monotonic clock alone.
#![allow(unreachable_pub, missing_docs)]

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;

/// The wall clock of a child process, as a shift of the machine's.
pub struct ShiftedClock {
    dir: TempDir,
}

impl ShiftedClock {
    /// A clock that is ahead by so many seconds, or behind where they are negative.
    pub fn by(seconds: i64) -> Self {
        let clock = Self { dir: TempDir::new().expect("a directory") };
        clock.set(seconds);
        clock
    }

    /// Sets it anew, also while the process runs, which sees it within a second.
    pub fn set(&self, seconds: i64) {
        // Renamed, so that it is never seen half written.
        let new = self.dir.path().join("new");
        fs::write(&new, format!("{seconds:+}\n")).expect("a file");
        fs::rename(new, self.file()).expect("a file");
    }

    /// Has a process started under this clock.
    pub fn of(&self, command: &mut Command) {
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
    let places = directories.chain(["/usr/lib".into(), "/usr/local/lib".into()]);
    let library = places.map(|place| place.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists());
    library.expect("libfaketime is missing: tests/run installs it, from the package `faketime`")
}
