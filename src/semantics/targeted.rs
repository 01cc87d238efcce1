//! Cache directives for this cache alone, in a field of their own (RFC 9213).

use std::time::Duration;

use http::header::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry};

use super::directives::{CacheControl, Scope};
use super::list;
use super::structured;

/// The directives that decide how this cache treats a response: those of the first field in `targets` that is there, valid and not
/// empty, else those of `Cache-Control` (RFC 9213 §2.2).
///
/// A targeted field is obeyed only where it is configured: `CDN-Cache-Control` is for caches that act for the origin. If one
/// decides, neither `Cache-Control` nor `Expires` counts ([`CacheControl::targeted`]).
///
/// A malformed field is passed over as a whole. A directive with a value of another type than its own is read in the careful
/// direction: `max-age="60"` as 0, `no-store=1` as `no-store`, `public=1` as nothing.
///
/// ```
/// use std::time::Duration;
/// use http::{HeaderMap, HeaderName};
/// use tower_response_cache::semantics::response_directives;
///
/// let mut response = HeaderMap::new();
/// response.insert("cache-control", "no-store".parse().unwrap());
/// response.insert("cdn-cache-control", "max-age=600".parse().unwrap());
///
/// let cdn = [HeaderName::from_static("cdn-cache-control")];
/// assert_eq!(response_directives(&response, &cdn).max_age, Some(Duration::from_secs(600)));
/// assert!(response_directives(&response, &[]).no_store);
/// ```
pub fn response_directives(response: &HeaderMap, targets: &[HeaderName]) -> CacheControl {
    let valid = |name: &HeaderName| structured::field::<Dictionary>(response, name).filter(|field| !field.is_empty());
    match targets.iter().find_map(valid) {
        Some(field) => of_dictionary(&field),
        None => CacheControl::of(response),
    }
}

fn of_dictionary(field: &Dictionary) -> CacheControl {
    let mut cc = CacheControl { targeted: true, ..CacheControl::default() };
    // A dictionary has each key once: of repeated ones the last (RFC 9651 §4.2.2).
    for (name, value) in field {
        match name.as_str() {
            "no-store" => cc.no_store = restricts(value),
            "must-revalidate" => cc.must_revalidate = restricts(value),
            "proxy-revalidate" => cc.proxy_revalidate = restricts(value),
            "no-transform" => cc.no_transform = restricts(value),
            "private" => cc.private = scope(value),
            "no-cache" => cc.no_cache = scope(value),
            "public" => cc.public = permits(value),
            "must-understand" => cc.must_understand = permits(value),
            "immutable" => cc.immutable = permits(value),
            "max-age" => cc.max_age = Some(seconds(value)),
            "s-maxage" => cc.s_maxage = Some(seconds(value)),
            "stale-while-revalidate" => cc.stale_while_revalidate = Some(seconds(value)),
            "stale-if-error" => cc.stale_if_error = Some(seconds(value)),
            _ => {}
        }
    }
    cc
}

fn bare(value: &ListEntry) -> Option<&BareItem> {
    match value {
        ListEntry::Item(item) => Some(&item.bare_item),
        ListEntry::InnerList(_) => None,
    }
}

/// For a directive that takes something away: anything but false.
fn restricts(value: &ListEntry) -> bool {
    bare(value).and_then(BareItem::as_boolean) != Some(false)
}

/// For a directive that allows something: nothing but true.
fn permits(value: &ListEntry) -> bool {
    bare(value).and_then(BareItem::as_boolean) == Some(true)
}

/// `private` or `no-cache`: true for all of it, a String (or a Token, if it is but one) for some fields (RFC 9213 §2.1).
fn scope(value: &ListEntry) -> Option<Scope> {
    let names = match bare(value) {
        Some(BareItem::Boolean(false)) => return None,
        Some(BareItem::String(names)) => names.as_str(),
        Some(BareItem::Token(name)) => name.as_str(),
        _ => return Some(Scope::Whole),
    };
    Some(Scope::of_names(names.as_bytes()))
}

/// An Integer, from 0 to 2^31; anything else is 0.
fn seconds(value: &ListEntry) -> Duration {
    let seconds = bare(value).and_then(BareItem::as_integer).map_or(0, i64::from);
    Duration::from_secs(seconds.clamp(0, list::MAX_DELTA.into()).unsigned_abs())
}

#[cfg(test)]
#[path = "tests/targeted.rs"]
mod tests;
