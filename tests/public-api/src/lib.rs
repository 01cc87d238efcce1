//! The public API of the crate as text, one item a line, and facts read off it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use public_api::{Builder, PublicApi};

/// The name of the crate in paths.
const CRATE: &str = "tower_response_cache";

const KINDS: [&str; 10] = ["const", "enum", "fn", "macro", "static", "struct", "trait", "type", "union", "use"];

/// Returns the directory of this package.
pub fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the directory of the crate.
pub fn root() -> PathBuf {
    here().join("../..")
}

/// Lists the public items with all features, without blanket and auto trait impls.
pub fn listing() -> PublicApi {
    let target = root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
    let status = Command::new(env!("CARGO"))
        .args(["rustdoc", "--quiet", "--locked", "--package", "tower-response-cache", "--lib", "--all-features"])
        .args(["--", "-Zunstable-options", "--output-format", "json", "--cap-lints", "allow"])
        .current_dir(root())
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTDOC", here().join("rustdoc"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "rustdoc failed");
    Builder::from_rustdoc_json(target.join("doc").join(CRATE).with_extension("json"))
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .build()
        .expect("the JSON format of the `rust-version` in Cargo.toml")
}

/// Returns the names at the crate root that are not modules.
pub fn root_names(api: &str) -> BTreeSet<&str> {
    api.lines().filter_map(|line| declared(line, &KINDS)).filter(|path| !path.contains("::")).collect()
}

/// Returns the enums to which no release may add a variant.
pub fn exhaustive_enums(api: &str) -> BTreeSet<&str> {
    let exhaustive = |line: &&str| !line.contains("#[non_exhaustive]");
    api.lines().filter(exhaustive).filter_map(|line| declared(line, &["enum"])).collect()
}

/// Returns the path below the crate, without generics, of an item of one of the kinds.
fn declared<'a>(line: &'a str, kinds: &[&str]) -> Option<&'a str> {
    let (before, path) = line.split_once(CRATE)?;
    let kind = before.split(' ').rev().nth(1)?;
    let path = path.strip_prefix("::")?.split(['<', '(', ' ']).next()?;
    kinds.contains(&kind).then(|| path.trim_end_matches(':'))
}

/// Returns the crates that paths in the listing begin with, this one excepted.
pub fn foreign_crates(api: &str) -> BTreeSet<&str> {
    let in_path = |c: char| c.is_alphanumeric() || "_:".contains(c);
    let firsts = api.split(|c| !in_path(c)).filter_map(|path| path.split_once("::")).map(|(first, _)| first);
    // Other paths begin with a type parameter, or with nothing after `>`.
    firsts.filter(|first| first.starts_with(char::is_lowercase) && *first != CRATE).collect()
}

/// Counts the `doc(hidden)` items of the sources outside a module `__private`.
pub fn hidden_items(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).expect("a directory of sources").map(|entry| entry.expect("an entry").path());
    let private = |path: &PathBuf| path.file_stem().is_some_and(|stem| stem == "__private");
    let hidden = |path: PathBuf| match path.is_dir() {
        true => hidden_items(&path),
        false => hidden_in(&std::fs::read_to_string(path).expect("a source")),
    };
    entries.filter(|path| !private(path)).map(hidden).sum()
}

fn hidden_in(source: &str) -> usize {
    let items = source.split("#[doc(hidden)]").skip(1);
    items.filter(|item| !item.trim_start().starts_with("pub mod __private")).count()
}
