//! Rules for the public API. After an intended change of it, accept the new listing and read its difference:
//!
//! ```sh
//! UPDATE_SNAPSHOTS=yes cargo test --manifest-path tests/public-api/Cargo.toml; git diff tests/public-api/api.txt
//! ```

use std::{collections::BTreeSet, sync::LazyLock};

use public_api::PublicApi;
use tower_response_cache_public_api::{exhaustive_enums, foreign_crates, here, hidden_items, listing, root, root_names};

static LISTING: LazyLock<PublicApi> = LazyLock::new(listing);
static API: LazyLock<String> = LazyLock::new(|| LISTING.to_string());

/// The most names that may stand at the crate root, modules not counted.
const ROOT_NAMES: usize = 40;

/// The most `doc(hidden)` items outside a module `__private`. There are none.
const HIDDEN_ITEMS: usize = 0;

/// The crates that may occur in public signatures, each with its reason.
const FOREIGN: &[(&str, &str)] = &[
    ("core", "standard library"),
    ("alloc", "standard library"),
    ("std", "standard library"),
    ("bytes", "1.x; data of bodies"),
    ("http", "1.x; requests and responses"),
    ("http_body", "1.x; bodies"),
    ("tower_layer", "0.3 since 2019; the `Layer` trait that makes this a layer"),
    ("tower_service", "0.3 since 2019; the `Service` trait that makes this a service"),
    ("pin_project", "1.x; only inside the `Unpin` bounds that its macro writes, which no caller names"),
    ("serde_core", "1.x; `Rules` is a serde type with the feature `config`, and messages are decoded to one with the feature `json`"),
    ("prost", "0.14; the trait of messages that are decoded, with the feature `prost`"),
    ("metrics", "0.24; prefixes of metric names, with the feature `metrics`, whose recorder must be of the same version"),
    ("redis", "1.x; connection settings, with the feature `redis`"),
    ("bb8", "0.9; a pool of the application's own, with the feature `redis`"),
];

/// Public enums that are complete: their doc says why no variant will be added.
const COMPLETE: &[&str] = &[
    "key::Extracted",
    "semantics::HeadResult",
    "semantics::MaxStale",
    "semantics::Precondition",
    "semantics::Ranges",
    "semantics::Role",
    "semantics::Scope",
];

#[test]
fn public_api_is_the_accepted_one() {
    LISTING.assert_eq_or_update(here().join("api.txt"));
}

#[test]
fn crate_root_has_few_names() {
    let names = root_names(&API);
    assert!(names.len() <= ROOT_NAMES, "{} names at the crate root, at most {ROOT_NAMES}: {names:?}", names.len());
}

#[test]
fn signatures_name_listed_crates_only() {
    let allowed: BTreeSet<_> = FOREIGN.iter().map(|(name, _)| *name).collect();
    assert_eq!(foreign_crates(&API), allowed, "crates in public signatures (left) and in FOREIGN (right)");
}

#[test]
fn public_enums_are_non_exhaustive_or_complete() {
    let complete: BTreeSet<_> = COMPLETE.iter().copied().collect();
    assert_eq!(exhaustive_enums(&API), complete, "enums without #[non_exhaustive] (left) and those in COMPLETE (right)");
}

#[test]
fn hidden_items_stand_in_private_modules() {
    let hidden = hidden_items(&root().join("src"));
    assert!(hidden <= HIDDEN_ITEMS, "{hidden} `doc(hidden)` items outside `__private`, at most {HIDDEN_ITEMS}");
}
