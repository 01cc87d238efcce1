//! The example `processes` does what it says: three processes over one Redis, each of which sees what the others write.
#![cfg(feature = "redis")]

use std::process::Command;

#[test]
fn three_processes_see_what_each_of_them_writes() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["run", "--quiet", "--locked", "--example", "processes", "--features"]);
    cargo.arg(features());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.output().expect("cargo");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert_eq!(said.matches("then processes; hit").count(), 3, "{said}");
    assert_eq!(said.matches("has written").count(), 3, "{said}");
    assert_eq!(said.matches("seen by process").count(), 6, "{said}");
}

/// Those this test is built with, so that nothing is built twice.
fn features() -> String {
    let all = [
        ("axum", cfg!(feature = "axum")),
        ("config", cfg!(feature = "config")),
        ("redis", cfg!(feature = "redis")),
        ("compression", cfg!(feature = "redis-compression")),
        ("encryption", cfg!(feature = "redis-encryption")),
    ];
    all.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect::<Vec<_>>().join(",")
}
