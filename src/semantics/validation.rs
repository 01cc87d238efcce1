//! Validation of stored responses by a conditional request to the inner service (RFC 9111 §4.3).

use http::StatusCode;
use http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE, SET_COOKIE,
};

use super::conditional::ETag;
use super::date::{format_date, parse_date};
use super::directives::CacheControl;
use super::storable::strip_for_storing;

/// Turns the header section of a client's request into a conditional request that validates stored responses (§4.3.1).
///
/// Returns true if the request now has a condition. Otherwise it asks for a complete new response.
///
/// `stored` holds the variants that the inner service may select, beginning with the one that this request selects. All their entity tags are
/// sent in `If-None-Match`. `Last-Modified` is sent in `If-Modified-Since` only for a single variant, because a date does not identify one of
/// several.
///
/// The client's own conditions and its `Range` are removed. Evaluate the conditions afterwards ([`evaluate`](super::evaluate)).
///
/// ```
/// use http::HeaderMap;
/// use tower_response_cache::semantics::make_conditional;
///
/// let mut stored = HeaderMap::new();
/// stored.insert("etag", "\"ours\"".parse().unwrap());
/// let mut request = HeaderMap::new();
/// request.insert("if-none-match", "\"the client's\"".parse().unwrap());
///
/// assert!(make_conditional(&mut request, &[&stored]));
/// assert_eq!(request["if-none-match"], "\"ours\"");
/// ```
pub fn make_conditional(request: &mut HeaderMap, stored: &[&HeaderMap]) -> bool {
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE] {
        request.remove(name);
    }
    // A malformed tag is not sent, because it could match nothing.
    let mut tags = Vec::new();
    for value in stored.iter().filter_map(|response| ETag::of(response).and(response.get(ETAG))) {
        if !tags.contains(&value) {
            tags.push(value);
        }
    }
    if let [one] = tags[..] {
        request.insert(IF_NONE_MATCH, one.clone());
    } else if !tags.is_empty() {
        let line: Vec<&[u8]> = tags.iter().map(|tag| tag.as_bytes()).collect();
        let line = HeaderValue::from_bytes(&line.join(&b", "[..])).expect("field values and commas");
        request.insert(IF_NONE_MATCH, line);
    }
    if let [only] = stored
        && let Some(modified) = only.get(LAST_MODIFIED).filter(|date| parse_date(date.as_bytes(), 0).is_some())
    {
        request.insert(IF_MODIFIED_SINCE, modified.clone());
    }
    request.contains_key(IF_NONE_MATCH) || request.contains_key(IF_MODIFIED_SINCE)
}

/// Returns the index of the stored response that a 304 validates (§4.3.3, §4.3.4).
///
/// `stored` holds the responses passed to [`make_conditional`]. If none is validated, send the request again without conditions. Do not pass
/// a 304 that answers the client's own condition, because it does not refer to a stored response.
pub fn validated(stored: &[&HeaderMap], not_modified: &HeaderMap) -> Option<usize> {
    let tag = not_modified.get(ETAG);
    if let Some(tag) = tag.and_then(|tag| ETag::parse(tag.as_bytes())) {
        // A strong tag selects the response with the same strong tag, a weak one the response with an equal tag.
        let matches = |stored_tag: ETag<'_>| {
            if tag.is_weak() { stored_tag.weak_eq(&tag) } else { stored_tag.strong_eq(&tag) }
        };
        return stored.iter().position(|response| ETag::of(response).is_some_and(matches));
    }
    if tag.is_some() {
        return None;
    }
    if let Some(modified) = not_modified.get(LAST_MODIFIED) {
        return stored.iter().position(|response| response.get(LAST_MODIFIED) == Some(modified));
    }
    // Without a validator, RFC 9111 updates only a stored response that has no validator either. Many origins omit the validator, though,
    // and with a single candidate the 304 can mean no other.
    (stored.len() == 1).then_some(0)
}

/// Updates the header fields of a stored response with those of a 304, or of a 200 to HEAD (§3.2).
///
/// Each field of the update replaces the stored lines of that name, with these exceptions:
///
/// - Connection-specific fields are not stored (§3.1).
/// - `Content-Length`, `Content-Encoding`, `Content-Range` and digests describe the stored content and stay.
/// - `ETag` stays, because the update has matched it. A weak tag does not replace a strong one.
/// - `Set-Cookie` is not stored.
///
/// A stored `Age` is removed. `received`, the time at which the update arrived in milliseconds since the Unix epoch, becomes the `Date` if the
/// update has none (RFC 9110 §6.6.1).
///
/// Afterwards compute the freshness and `Vary` again, and check if the response may still be stored.
pub fn merge(stored: &mut HeaderMap, update: &HeaderMap, received: u64) {
    let mut update = update.clone();
    let cc = CacheControl::of(&update);
    strip_for_storing(&mut update, &cc);
    let digests = ["content-md5", "content-digest", "repr-digest", "digest"].map(HeaderName::from_static);
    for name in [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_RANGE, ETAG, SET_COOKIE].iter().chain(&digests) {
        update.remove(name);
    }
    stored.remove(AGE);
    if !update.contains_key(DATE) {
        update.insert(DATE, format_date(received));
    }
    let names: Vec<HeaderName> = update.keys().cloned().collect();
    for name in names {
        let mut lines = update.get_all(&name).iter();
        if let Some(first) = lines.next() {
            stored.insert(&name, first.clone());
            lines.for_each(|line| {
                stored.append(&name, line.clone());
            });
        }
    }
    // Fields that the update excludes from storage must not stay (§5.2.2.4, §5.2.2.7).
    if update.contains_key(CACHE_CONTROL) {
        strip_for_storing(stored, &cc);
    }
}

/// The effect of the response to a HEAD on a stored GET response. The enum is complete: §4.3.5 defines no other effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadResult {
    /// The stored response is current. Update it with [`merge`].
    Freshen,
    /// The stored response is outdated. Treat it as stale or remove it.
    Outdated,
    /// No effect: the status is not 200, or there is no validator and the length does not differ.
    Ignored,
}

/// Compares the response to a HEAD with a stored GET response of `length` bytes (§4.3.5).
///
/// The stored response is outdated if a received validator or `Content-Length` differs from its own. It is current only if a received
/// validator (`ETag`, or a valid `Last-Modified`) is equal. An equal `Content-Length` alone has no effect, because two versions may have the
/// same length.
///
/// Do not compare a HEAD whose request would not select the stored response ([`Vary`](super::Vary)).
pub fn compare_head(stored: &HeaderMap, length: u64, status: StatusCode, head: &HeaderMap) -> HeadResult {
    if status != StatusCode::OK {
        return HeadResult::Ignored;
    }
    let same = |name: HeaderName| head.get(&name).is_none_or(|value| stored.get(&name) == Some(value));
    let same_length =
        head.get(CONTENT_LENGTH).is_none_or(|value| value.to_str().is_ok_and(|value| value.parse() == Ok(length)));
    if !(same(ETAG) && same(LAST_MODIFIED) && same_length) {
        return HeadResult::Outdated;
    }
    let has_date = head.get(LAST_MODIFIED).is_some_and(|date| parse_date(date.as_bytes(), 0).is_some());
    if ETag::of(head).is_some() || has_date { HeadResult::Freshen } else { HeadResult::Ignored }
}

#[cfg(test)]
#[path = "tests/validation.rs"]
mod tests;
