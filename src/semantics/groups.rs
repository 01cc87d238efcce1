//! Names by which responses are grouped, and cleared together (RFC 9875).

use std::collections::HashSet;

use http::Method;
use http::header::{HeaderMap, HeaderName};
use sfv::{BareItem, List, ListEntry};

use super::invalidation::is_safe;
use super::structured;

/// `Cache-Groups`: the groups that a response belongs to (§2).
pub const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");

/// `Cache-Group-Invalidation`: the groups that a response to an unsafe request clears (§3).
pub const CACHE_GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");

/// The groups that a response belongs to, each once, in the order of the field; none if there is no such field.
///
/// A group means the same only within one origin (§2.1); its name is compared byte for byte. Parameters count for nothing.
///
/// # Errors
///
/// [`MalformedGroups`] if the field is no List of Strings: the response cannot be cleared by its groups, so it is better not
/// stored where a rule relies on them.
///
/// ```
/// let mut response = http::HeaderMap::new();
/// response.insert("cache-groups", "\"orders\", \"shop\";x=1".parse().unwrap());
/// assert_eq!(tower_response_cache::semantics::cache_groups(&response).unwrap(), ["orders", "shop"]);
/// ```
pub fn cache_groups(response: &HeaderMap) -> Result<Vec<String>, MalformedGroups> {
    strings(response, &CACHE_GROUPS)
}

/// The groups that a response clears: what `Cache-Group-Invalidation` lists, and nothing if the method is safe, for then the
/// field must be ignored (§3).
///
/// # Errors
///
/// [`MalformedGroups`] if the field is no List of Strings: it names something, nobody knows what.
pub fn invalidated_groups(method: &Method, response: &HeaderMap) -> Result<Vec<String>, MalformedGroups> {
    if is_safe(method) { Ok(Vec::new()) } else { strings(response, &CACHE_GROUP_INVALIDATION) }
}

/// A field of groups that is no List of Strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedGroups(());

impl std::fmt::Display for MalformedGroups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cache groups are not a list of strings")
    }
}

impl std::error::Error for MalformedGroups {}

fn strings(headers: &HeaderMap, name: &HeaderName) -> Result<Vec<String>, MalformedGroups> {
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
