//! Our own question to the inner service about a stored response, and what its answer does to it (RFC 9111 §4.3).

use http::StatusCode;
use http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE, SET_COOKIE,
};

use super::conditional::ETag;
use super::date::{format_date, parse_date};
use super::directives::CacheControl;
use super::storable::strip_for_storing;

/// Turns the header section of a client's request into a question about stored responses (§4.3.1). Returns whether there is
/// anything to ask with; if not, the request asks for a whole new response.
///
/// `stored` are the variants that the answer may pick from, the one that this request would select first. All of their
/// entity tags go into `If-None-Match`. `Last-Modified` becomes `If-Modified-Since` only where there is but one variant, since a date
/// does not tell several apart.
///
/// The client's own conditions and its `Range` are taken out: the answer is about *our* responses, whole ones, and the client's
/// conditions are put to what comes of it ([`evaluate`](super::evaluate)).
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
    // A malformed tag is not sent: it would be one in nobody's grammar, and could match nothing.
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

/// Which of the stored responses asked about ([`make_conditional`]) a 304 validates, as an index; none if it answers another question,
/// and then the request must be sent again without conditions (§4.3.3, §4.3.4).
///
/// A 304 to the client's own condition must not come here: it says nothing of what we have.
pub fn validated(stored: &[&HeaderMap], not_modified: &HeaderMap) -> Option<usize> {
    let tag = not_modified.get(ETAG);
    if let Some(tag) = tag.and_then(|tag| ETag::parse(tag.as_bytes())) {
        // A strong validator selects the responses with the same strong validator; a weak one those with the same tag.
        let matches = |ours: ETag<'_>| {
            if tag.is_weak() { ours.weak_eq(&tag) } else { ours.strong_eq(&tag) }
        };
        return stored.iter().position(|response| ETag::of(response).is_some_and(matches));
    }
    if tag.is_some() {
        return None;
    }
    if let Some(modified) = not_modified.get(LAST_MODIFIED) {
        return stored.iter().position(|response| response.get(LAST_MODIFIED) == Some(modified));
    }
    // Without any validator the RFC has it update only a stored response that has none either. Here it is the answer to a
    // question that we put together ourselves: with one response asked about, no other can be meant. Many origins leave them out.
    (stored.len() == 1).then_some(0)
}

/// Brings the header fields of a stored response up to date with those of a 304, or of a HEAD's 200 (§3.2).
///
/// Each field of the new message replaces the stored lines of that name, except for what belongs to the connection (§3.1) and
/// what describes the stored content, which has not come anew: `Content-Length`, `Content-Encoding`, `Content-Range`, its digests,
/// and the entity tag that has just matched. A weak tag therefore does not replace a strong one that it matches: the strong tag names
/// the stored bytes, and they are unchanged. A `Set-Cookie` is not taken over: it is for whoever asked.
///
/// `received` is when the new message arrived, in milliseconds since the Unix epoch: it is the response's `Date` now if the message
/// has none (RFC 9110 §6.6.1). A stored `Age` that the message does not repeat is gone. Compute the freshness anew, and `Vary`,
/// and whether it may still be stored.
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
    // What the update newly sets apart must not stay from before (§5.2.2.4, §5.2.2.7).
    if update.contains_key(CACHE_CONTROL) {
        strip_for_storing(stored, &cc);
    }
}

/// What the answer to a HEAD says of a stored GET response (§4.3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadResult {
    /// The stored response is still current: [`merge`] the new fields into it.
    Freshen,
    /// The stored response is out of date: it is stale from now on, or may be removed.
    Outdated,
    /// Nothing: the status is not 200, or there is no validator and the length does not differ.
    Ignored,
}

/// Compares the answer to a HEAD with a stored GET response of `length` bytes that the HEAD could have selected.
///
/// §4.3.5: the stored response is out of date if a validator or the `Content-Length` that was received differs from its own. It is
/// freshened only by a validator (`ETag`, or a `Last-Modified` that is a date) that was received and is the same. An answer without any
/// validator freshens nothing, whatever its `Content-Length`: two versions may be of one length.
///
/// A HEAD that selects by other request fields than the stored response ([`Vary`](super::Vary)) is about another response: do not
/// compare it.
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
