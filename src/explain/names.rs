//! The namespaces of an explanation.

use crate::namespace::{Namespace, set::Namespaces};

/// Returns the names of a set without the root and without the ancestors of other names.
pub(crate) fn most_specific(names: &Namespaces) -> Vec<Namespace> {
    let has_descendant = |name: &str| {
        let descends = |other: &str| other.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'));
        names.iter().any(descends)
    };
    let root = Namespace::root();
    let named = names.iter().filter(|name| *name != root.as_str() && !has_descendant(name));
    named.filter_map(|name| Namespace::new(name).ok()).collect()
}
