//! The README says what the code does.

/// The quickstart that is shown is the one that is compiled.
#[test]
fn the_quickstart_of_the_readme_is_the_example() {
    let example = include_str!("../examples/quickstart.rs");
    let code = example.split_once("\n\n").expect("a head and the code").1;
    assert!(include_str!("../README.md").contains(code), "README.md shows another quickstart than examples/quickstart.rs");
    assert!(example.lines().count() < 40);
}

/// The minimum version that the README names is that of the manifest.
#[test]
fn the_readme_names_the_minimum_rust_version_of_the_manifest() {
    let version = env!("CARGO_PKG_RUST_VERSION");
    assert!(include_str!("../README.md").contains(&format!("minimum supported Rust version is {version};")));
}

/// Every feature of the manifest has a row.
#[test]
fn the_readme_lists_every_feature() {
    let manifest = include_str!("../Cargo.toml");
    let features = manifest.split_once("[features]").expect("a list").1.split_once("\n[").expect("its end").0;
    for line in features.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')) {
        let name = line.split(" = ").next().unwrap_or_default();
        let row = format!("| `{name}` |");
        assert!(name == "default" || include_str!("../README.md").contains(&row), "no row for `{name}`");
    }
}
