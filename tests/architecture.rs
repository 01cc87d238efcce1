//! The layers of `src`: a file imports from its own layer and from lower ones, and no files import each other in a circle.
//!
//! A re-export (`pub use`) is not counted as an import: it names the public path of an item and uses nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The modules of the crate root, the lowest layer first. ARCHITECTURE.md describes them.
const LAYERS: &[&[&str]] = &[
    &[
        "budget",
        "clock",
        "compare",
        "error",
        "graphql",
        "histogram",
        "percent",
        "ready",
        "rpc",
        "secret",
        "semantics",
        "switch",
        "tls",
        "watched",
    ],
    &["entry", "hottest", "key", "namespace", "route", "stats", "status"],
    &["cdn", "extensions", "message", "store"],
    &["codec", "metrics", "redis", "rules"],
    &["body", "lookup", "request_body", "single_flight", "state"],
    &["respond", "target_cache"],
    &["fill"],
    &[
        "action",
        "audit",
        "explain",
        "fast_path",
        "finish",
        "follow",
        "future",
        "handle",
        "inspector",
        "invalidate",
        "layer",
        "lint",
        "postgres",
        "precompiled",
        "refresh",
        "service",
        "shadow",
        "slow_path",
        "warm",
    ],
];

/// Modules without a layer: tests and hidden exports, which may use everything.
const OUTSIDE: &[&str] = &["fuzz", "guide", "lib"];

/// The imports of each module: its path without `.rs`, such as `redis/outbox`, and the modules that it names.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// Returns every module of `src` with its code: without comments, and without the module of unit tests at its end.
fn modules(dir: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
    for item in fs::read_dir(dir).expect("a folder of src") {
        let path = item.expect("an entry of the folder").path();
        let name = path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned();
        if path.is_dir() && name != "tests" {
            modules(&path, &format!("{prefix}{name}/"), found);
        } else if path.extension().is_some_and(|kind| kind == "rs") && name != "tests" {
            let module = if name == "mod" { prefix.trim_end_matches('/').to_owned() } else { format!("{prefix}{name}") };
            let text = fs::read_to_string(&path).expect("a source file");
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let code = code.lines().map(|line| line.split("//").next().unwrap_or_default());
            found.insert(module, code.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// Expands `a::{b, c::{d, e}}` to the paths `a::b`, `a::c::d` and `a::c::e`.
fn expand(tree: &str, prefix: &str, paths: &mut Vec<String>) {
    let Some((stem, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return paths.push(format!("{prefix}{}", path.trim()));
    };
    let prefix = format!("{prefix}{}", stem.trim());
    let inner = rest.trim_end().strip_suffix('}').expect("a closing brace");
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(inner[start..at].trim(), &prefix, paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inner[start..].trim().is_empty() {
        expand(inner[start..].trim(), &prefix, paths);
    }
}

/// Returns the paths that a module names from the crate root: by `use crate::`, `use super::`, `use self::`, and within its code.
fn named_paths(module: &str, code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for statement in code.split("\nuse ").skip(1).chain(code.strip_prefix("use ")) {
        expand(statement.split(';').next().unwrap_or_default(), "", &mut paths);
    }
    for start in ["crate::", "super::"] {
        paths.extend(code.split(start).skip(1).filter_map(|rest| {
            let path: String = rest.chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
            (!path.is_empty()).then(|| format!("{start}{path}"))
        }));
    }
    let own: Vec<String> = module.split('/').map(str::to_owned).collect();
    let absolute = |path: &String| {
        let mut parts: Vec<String> = path.split("::").map(str::to_owned).collect();
        let mut base = own.clone();
        match parts.first().map(String::as_str) {
            Some("crate") => return Some(parts.split_off(1)),
            Some("self") => parts.remove(0).clear(),
            Some("super") => {}
            _ => return None,
        }
        while parts.first().is_some_and(|part| part == "super") {
            base.pop();
            parts.remove(0);
        }
        Some([base, parts].concat())
    };
    paths.iter().filter_map(absolute).collect()
}

fn imports() -> Imports {
    let mut modules_of_src = BTreeMap::new();
    modules(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut modules_of_src);
    let module_of = |path: &[String]| {
        (1..=path.len()).rev().map(|end| path[..end].join("/")).find(|module| modules_of_src.contains_key(module))
    };
    let of = |(module, code): (&String, &String)| {
        let named = named_paths(module, code);
        let used = named.iter().filter_map(|path| module_of(path)).filter(|used| used != module).collect();
        (module.clone(), used)
    };
    modules_of_src.iter().map(of).collect()
}

fn root_of(module: &str) -> &str {
    module.split('/').next().unwrap_or_default()
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&root_of(module)))
}

/// Returns a circle of imports, if there is one.
fn circle(imports: &Imports) -> Option<Vec<String>> {
    let mut left = imports.clone();
    loop {
        let before = left.len();
        let names: BTreeSet<String> = left.keys().cloned().collect();
        let named: BTreeSet<String> = left.values().flatten().cloned().collect();
        left.retain(|module, used| named.contains(module) && used.iter().any(|used| names.contains(used)));
        if left.is_empty() {
            return None;
        }
        if left.len() == before {
            return Some(left.into_keys().collect());
        }
    }
}

#[test]
fn every_module_has_a_layer() {
    let missing: BTreeSet<_> = imports().into_keys().filter(|module| layer_of(module).is_none()).collect();
    let missing: Vec<_> = missing.iter().filter(|module| !OUTSIDE.contains(&root_of(module))).collect();
    assert!(missing.is_empty(), "add these modules to LAYERS: {missing:?}");
}

#[test]
fn no_module_imports_from_a_higher_layer() {
    let mut upward = Vec::new();
    for (module, used) in imports() {
        let Some(own) = layer_of(&module) else { continue };
        upward.extend(used.into_iter().filter(|used| layer_of(used) > Some(own)).map(|used| format!("{module} -> {used}")));
    }
    assert!(upward.is_empty(), "upward imports: {upward:#?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut all = imports();
    all.retain(|module, _| !OUTSIDE.contains(&root_of(module)));
    assert_eq!(circle(&all), None);
}

#[test]
fn no_folders_import_each_other_in_a_circle() {
    let mut folders = Imports::new();
    for (module, used) in imports().into_iter().filter(|(module, _)| !OUTSIDE.contains(&root_of(module))) {
        let own = root_of(&module).to_owned();
        let used = used.iter().map(|used| root_of(used).to_owned()).filter(|used| *used != own);
        folders.entry(own.clone()).or_default().extend(used);
    }
    assert_eq!(circle(&folders), None);
}

#[test]
fn semantics_imports_nothing_from_the_crate() {
    let outside = |used: &String| root_of(used) != "semantics";
    let strays: Vec<_> =
        imports().into_iter().filter(|(module, used)| root_of(module) == "semantics" && used.iter().any(outside)).collect();
    assert!(strays.is_empty(), "{strays:?}");
}

#[test]
fn a_circle_and_an_upward_import_are_found() {
    let edge = |from: &str, to: &str| (from.to_owned(), BTreeSet::from([to.to_owned()]));
    assert_eq!(circle(&Imports::from([edge("a", "b"), edge("b", "a"), edge("c", "a")])).map(|found| found.len()), Some(2));
    assert_eq!(circle(&Imports::from([edge("a", "b"), edge("c", "a")])), None);
    assert!(layer_of("fill/run") > layer_of("store/memory"));
    let paths = named_paths(
        "fill/run",
        "use super::{Fill, body::{self, Body as B}};\nuse crate::key::Key;\nfn f() { crate::clock::nanos() }",
    );
    let paths: Vec<_> = paths.iter().map(|path| path.join("/")).collect();
    for path in ["fill/Fill", "fill/body/self", "fill/body/Body", "key/Key", "clock/nanos"] {
        assert!(paths.iter().any(|found| found == path), "{path} of {paths:?}");
    }
}
