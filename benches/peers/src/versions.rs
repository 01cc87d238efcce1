//! The measured versions, from the lock file.

const LOCK: &str = include_str!("../Cargo.lock");

/// Returns the version of a package of this program.
pub fn of(package: &str) -> &'static str {
    let before = format!("name = \"{package}\"\nversion = \"");
    let found = LOCK.split_once(&before).and_then(|(_, rest)| rest.split_once('"'));
    found.map(|(version, _)| version).unwrap_or_else(|| panic!("unknown package {package:?}"))
}
