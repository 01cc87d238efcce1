//! Targeted cache control: directives for one class of caches in a field of their own (RFC 9213).

use std::time::Duration;

use http::header::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry};

use super::directives::{CacheControl, Scope};
use super::list;
use super::structured;

/// Returns the directives that apply to a response: those of the first valid, non-empty field in `targets`, else those of `Cache-Control`
/// (RFC 9213 §2.2).
///
/// Configure only the targeted fields that address this cache. `CDN-Cache-Control` addresses caches operated for the origin. With a targeted
/// field, both `Cache-Control` and `Expires` are ignored ([`CacheControl::targeted`]).
///
/// A malformed field is ignored completely. A value of the wrong type is read as the more restrictive directive: `max-age="60"` as
/// `max-age=0`, `no-store=1` as `no-store`. A permission of the wrong type, such as `public=1`, is ignored.
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
    // A Dictionary contains each key once, with the last of repeated values (RFC 9651 §4.2.2).
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

/// Returns true unless a restricting directive has the value false.
fn restricts(value: &ListEntry) -> bool {
    bare(value).and_then(BareItem::as_boolean) != Some(false)
}

/// Returns true only if a permitting directive has the value true.
fn permits(value: &ListEntry) -> bool {
    bare(value).and_then(BareItem::as_boolean) == Some(true)
}

/// Reads `private` or `no-cache`: true covers the whole response, a String or a Token lists fields (RFC 9213 §2.1).
fn scope(value: &ListEntry) -> Option<Scope> {
    let names = match bare(value) {
        Some(BareItem::Boolean(false)) => return None,
        Some(BareItem::String(names)) => names.as_str(),
        Some(BareItem::Token(name)) => name.as_str(),
        _ => return Some(Scope::Whole),
    };
    Some(Scope::of_names(names.as_bytes()))
}

/// Reads an Integer between 0 and 2^31. Any other value is 0.
fn seconds(value: &ListEntry) -> Duration {
    let seconds = bare(value).and_then(BareItem::as_integer).map_or(0, i64::from);
    Duration::from_secs(seconds.clamp(0, list::MAX_DELTA.into()).unsigned_abs())
}

#[cfg(test)]
#[path = "tests/targeted.rs"]
mod tests;
