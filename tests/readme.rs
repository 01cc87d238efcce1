//! Compares the README with the code and the manifest.

#[test]
fn quickstart_of_the_readme_is_the_compiled_example() {
    let example = include_str!("../examples/quickstart.rs");
    let code = example.split_once("\n\n").expect("a doc comment and the code").1;
    assert!(include_str!("../README.md").contains(code), "the quickstart in README.md differs from examples/quickstart.rs");
    assert!(example.lines().count() < 40);
}

#[test]
fn readme_names_the_minimum_rust_version() {
    let version = env!("CARGO_PKG_RUST_VERSION");
    assert!(include_str!("../README.md").contains(&format!("minimum supported Rust version is {version};")));
}

#[test]
fn readme_lists_every_feature() {
    let manifest = include_str!("../Cargo.toml");
    let features =
        manifest.split_once("[features]").expect("a list of features").1.split_once("\n[").expect("the end of the list").0;
    for line in features.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')) {
        let name = line.split(" = ").next().unwrap_or_default();
        let quoted = format!("`{name}`");
        let is_row = |line: &str| line.starts_with("| `") && line.contains(&quoted);
        assert!(name == "default" || include_str!("../README.md").lines().any(is_row), "no row for `{name}`");
    }
}
