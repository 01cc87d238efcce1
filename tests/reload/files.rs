//! A file of rules that is read again when it has changed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::common::*;
use tower_response_cache::{
    Memory, ResponseCache, Rule,
    rules::{RulesFile, RulesWatch},
};

const INTERVAL: Duration = Duration::from_millis(2);

/// A folder for one test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rules-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn route(path: &str) -> String {
    format!("[[route]]\npath = '{path}'\nttl = '60s'\nnamespaces = ['n']\n")
}

fn watched(path: &Path) -> (ResponseCache, RulesWatch) {
    let cache = ResponseCache::new(Memory::default());
    let watch = cache.watch_rules(RulesFile::new(path), INTERVAL);
    (cache, watch)
}

/// Waits until the only rule is the rule of this path.
async fn has_route(cache: &ResponseCache, path: &str) {
    eventually(|| cache.unmatched().eq([path.to_owned()])).await;
}

#[tokio::test]
async fn changed_replaced_and_relinked_files_are_reloaded() {
    let folder = Folder::new("changes");
    let path = folder.file("rules.toml", &route("/a"));
    let (cache, watch) = watched(&path);
    has_route(&cache, "/a").await;
    fs::write(&path, route("/b")).unwrap();
    has_route(&cache, "/b").await;
    // As editors do.
    fs::rename(folder.file("new.toml", &route("/c")), &path).unwrap();
    has_route(&cache, "/c").await;
    // As Kubernetes does: a link to a link of a folder.
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        for version in ["one", "two"] {
            fs::create_dir(folder.0.join(version)).unwrap();
            folder.file(&format!("{version}/rules.toml"), &route(&format!("/{version}")));
        }
        symlink("one", folder.0.join("data")).unwrap();
        let (cache, _watch) = watched(&folder.0.join("data/rules.toml"));
        has_route(&cache, "/one").await;
        symlink("two", folder.0.join("next")).unwrap();
        fs::rename(folder.0.join("next"), folder.0.join("data")).unwrap();
        has_route(&cache, "/two").await;
    }
    assert!(watch.last_error().is_none());
}

#[tokio::test]
async fn broken_or_missing_file_keeps_the_rules_before() {
    let folder = Folder::new("faults");
    let path = folder.file("rules.toml", &route("/a"));
    let (cache, watch) = watched(&path);
    has_route(&cache, "/a").await;
    fs::rename(folder.file("broken.toml", "[[route]]\npath = '/b'\nttl = 60\n"), &path).unwrap();
    eventually(|| watch.failures() == 1).await;
    let error = watch.last_error().expect("the file is broken");
    assert_eq!((error.line(), error.column()), (Some(3), Some(7)));
    assert!(error.to_string().contains("/rules.toml:3:7: "), "{error}");
    fs::remove_file(&path).unwrap();
    eventually(|| watch.failures() == 2).await;
    let error = watch.last_error().expect("the file is missing");
    assert!(error.to_string().contains("rules.toml: the file cannot be read: "), "{error}");
    assert_eq!(cache.unmatched().collect::<Vec<_>>(), ["/a"]);

    fs::rename(folder.file("good.toml", &route("/b")), &path).unwrap();
    has_route(&cache, "/b").await;
    eventually(|| watch.last_error().is_none()).await;
    assert_eq!((watch.reloads(), watch.failures()), (2, 2));
    let stats = cache.stats();
    assert_eq!((stats.rules_replaced, stats.rules_refused), (2, 2));
    assert!(stats.to_string().contains("rules replaced 2, refused 2\n"), "{stats}");
}

#[tokio::test]
async fn rules_in_code_are_added_at_each_load() {
    let folder = Folder::new("code");
    let path = folder.file("rules.toml", &route("/a"));
    let special = Rule::ttl_by(|_| MINUTE).namespace("special");
    let file = RulesFile::new(&path).with(move |rules| rules.try_route("/special", special.clone()));
    let cache = ResponseCache::new(Memory::default()).rules(file.load().unwrap());
    let _watch = cache.watch_rules(file, INTERVAL);
    for target in ["/b", "/c"] {
        fs::rename(folder.file("new.toml", &route(target)), &path).unwrap();
        eventually(|| cache.unmatched().eq([target.to_owned(), "/special".to_owned()])).await;
    }
    fs::rename(folder.file("new.toml", &route("/special")), &path).unwrap();
    let error = RulesFile::new(&path).with(|rules| rules.try_route("/special", Rule::uncached())).load().unwrap_err();
    assert!(error.to_string().contains("rules in code: route \"/special\" overlaps"), "{error}");
}

#[test]
fn each_fault_has_its_line_and_column() {
    let folder = Folder::new("table");
    // Line 1 is a comment, and line 2 begins the table of the route.
    let head = "# rules\n[[route]]\npath = '/t/{table}'\n";
    for (text, line, column, message) in [
        ("ttl = '60'\n", 4, 7, "expected a duration"),
        ("ttl = '60s\n", 4, 11, ""),
        ("ttl = '60s'\njitter = 1.5\n", 5, 10, "invalid jitter 1.5: expected a fraction between 0 and 1"),
    ] {
        let error = RulesFile::new(folder.file("rules.toml", &format!("{head}{text}"))).load().unwrap_err();
        assert_eq!((error.line(), error.column()), (Some(line), Some(column)), "{text}{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
    let error = RulesFile::new(folder.file("empty.toml", "\n")).load().unwrap_err();
    assert!(error.to_string().ends_with("empty.toml: the file is empty: expected rules, or a comment if there are none"));
    let path = folder.0.join("bytes.toml");
    fs::write(&path, b"# a\n\xff").unwrap();
    assert!(RulesFile::new(path).load().unwrap_err().to_string().ends_with("bytes.toml:2: the line is not text in UTF-8"));
}

#[tokio::test]
async fn watch_outlives_a_closure_that_panics() {
    let folder = Folder::new("panics");
    let path = folder.file("rules.toml", &route("/special"));
    let file = RulesFile::new(&path).with(|rules| Ok(rules.route("/special", Rule::ttl(MINUTE).namespace("special"))));
    let cache = ResponseCache::new(Memory::default());
    let watch = cache.watch_rules(file, INTERVAL);
    eventually(|| watch.failures() == 1).await;
    let error = watch.last_error().expect("the closure has panicked");
    assert!(error.to_string().ends_with("a closure has panicked: expected an error, as of `Rules::try_route`"), "{error}");
    fs::rename(folder.file("new.toml", &route("/a")), &path).unwrap();
    eventually(|| watch.reloads() == 1).await;
}

#[test]
fn huge_files_and_devices_are_refused() {
    let folder = Folder::new("huge");
    let path = folder.file("rules.toml", &route("/a"));
    fs::File::options().write(true).open(&path).unwrap().set_len(17 << 20).unwrap();
    let error = |path: &Path| RulesFile::new(path).load().unwrap_err().to_string();
    assert!(error(&path).ends_with("the file cannot be read: it is larger than 16 MiB"));
    #[cfg(unix)]
    assert!(error(Path::new("/dev/zero")).ends_with("the file cannot be read: it is no regular file"));
}
