//! The versions that are measured, as the lock file has them.

const LOCK: &str = include_str!("../Cargo.lock");

/// The version of a package of this program.
pub fn of(package: &str) -> &'static str {
    let before = format!("name = \"{package}\"\nversion = \"");
    let found = LOCK.split_once(&before).and_then(|(_, rest)| rest.split_once('"'));
    found.map(|(version, _)| version).unwrap_or_else(|| panic!("no package is called {package:?}"))
}
