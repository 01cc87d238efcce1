//! Cache groups: names shared by responses that are invalidated together (RFC 9875).

use std::collections::HashSet;

use http::Method;
use http::header::{HeaderMap, HeaderName};
use sfv::{BareItem, List, ListEntry};

use super::invalidation::is_safe;
use super::structured;

/// The field name `Cache-Groups`, which lists the groups of a response (§2).
pub const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");

/// The field name `Cache-Group-Invalidation`, which lists the groups invalidated by the response to an unsafe request (§3).
pub const CACHE_GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");

/// Returns the groups of a response, without duplicates, in the order of the field. Without the field the list is empty.
///
/// A group is scoped to one origin (§2.1). Names are compared byte for byte. Parameters are ignored.
///
/// # Errors
///
/// Returns [`MalformedGroups`] if the field is not a List of Strings. Such a response cannot be invalidated by its groups, so a rule that
/// relies on groups should not store it.
///
/// ```
/// let mut response = http::HeaderMap::new();
/// response.insert("cache-groups", "\"orders\", \"shop\";x=1".parse().unwrap());
/// assert_eq!(tower_response_cache::semantics::cache_groups(&response).unwrap(), ["orders", "shop"]);
/// ```
pub fn cache_groups(response: &HeaderMap) -> Result<Vec<String>, MalformedGroups> {
    parse_groups(response, &CACHE_GROUPS)
}

/// Returns the groups listed in `Cache-Group-Invalidation`. For a safe method the field is ignored and the list is empty (§3).
///
/// # Errors
///
/// Returns [`MalformedGroups`] if the field is not a List of Strings. The groups to invalidate are then unknown.
pub fn invalidated_groups(method: &Method, response: &HeaderMap) -> Result<Vec<String>, MalformedGroups> {
    if is_safe(method) { Ok(Vec::new()) } else { parse_groups(response, &CACHE_GROUP_INVALIDATION) }
}

/// The error for a groups field that is not a List of Strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedGroups(());

impl std::fmt::Display for MalformedGroups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cache groups are not a list of strings")
    }
}

impl std::error::Error for MalformedGroups {}

fn parse_groups(headers: &HeaderMap, name: &HeaderName) -> Result<Vec<String>, MalformedGroups> {
    if !headers.contains_key(name) {
        return Ok(Vec::new());
    }
    let (mut names, mut seen) = (Vec::new(), HashSet::new());
    for member in structured::field::<List>(headers, name).ok_or(MalformedGroups(()))? {
        match member {
            ListEntry::Item(item) if matches!(item.bare_item, BareItem::String(_)) => {
                let group = item.bare_item.as_string().map(|group| group.as_str()).unwrap_or_default();
                if seen.insert(group.to_owned()) {
                    names.push(group.to_owned());
                }
            }
            _ => return Err(MalformedGroups(())),
        }
    }
    Ok(names)
}

#[cfg(test)]
#[path = "tests/groups.rs"]
mod tests;
