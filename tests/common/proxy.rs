//! The program of the proxy in `examples/proxy`.

use std::{env, path::PathBuf, process::Command, sync::OnceLock};

/// Returns the path of the program, built with the profile of this test.
pub fn program() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let own = env::current_exe().expect("this program has a path");
        let profile = own.parent().and_then(|deps| deps.parent()).expect("it lies in the target directory");
        let target = profile.parent().expect("with one directory for each profile");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "--example", "proxy", "--all-features", "--target-dir"]).arg(target);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().expect("cargo runs").success(), "the proxy does not build");
        profile.join("examples").join("proxy")
    })
}
