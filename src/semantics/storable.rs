//! May a response be kept by a shared cache, and what of it (RFC 9111 §3)?

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LOCATION, CONTENT_RANGE, ETAG, EXPIRES, HeaderMap, HeaderName,
    LAST_MODIFIED, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::{Method, StatusCode};

use super::directives::{CacheControl, Scope};
use super::invalidation::{Target, same_origin};
use super::list;
use super::vary::Vary;

/// Why a response is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoStore {
    /// The answers to this method are not kept; only those to GET and QUERY are.
    Method,
    /// An interim response; a status that answers the request's own conditions, range or rate rather than what it asks for (304,
    /// 407, 412, 416, 428, 429, 431, 511); or, with `must-understand`, one that is not understood.
    Status,
    /// The response said `no-store`.
    NoStoreDirective,
    /// The request said `no-store`.
    RequestNoStore,
    /// The response said `private`, for all of it.
    Private,
    /// The response said `no-cache`, and there is no validator, or the rule does not validate.
    NoCache,
    /// The response sets a cookie.
    SetCookie,
    /// The response varies on what no header field shows: `Vary: *`, or a `Vary` that cannot be read.
    VaryStar,
    /// The request carried `Authorization`, and the response does not say that others may have it.
    Authorization,
    /// A 206, or a response with `Content-Range`.
    Partial,
    /// Nothing in the response allows keeping it: no lifetime, not `public`, not a status that may be kept by default.
    NotAllowed,
    /// It could never be used: no lifetime, and no validator with which to ask again.
    NothingToReuse,
}

impl NoStore {
    /// A short name of the reason, in lower case with hyphens, for logs and `Cache-Status` details.
    pub fn as_str(&self) -> &'static str {
        match self {
            NoStore::Method => "method",
            NoStore::Status => "status",
            NoStore::NoStoreDirective => "no-store",
            NoStore::RequestNoStore => "request-no-store",
            NoStore::Private => "private",
            NoStore::NoCache => "no-cache",
            NoStore::SetCookie => "set-cookie",
            NoStore::VaryStar => "vary-star",
            NoStore::Authorization => "authorization",
            NoStore::Partial => "partial",
            NoStore::NotAllowed => "not-allowed",
            NoStore::NothingToReuse => "nothing-to-reuse",
        }
    }
}

/// A request and its response, as far as storing depends on them.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The method of the request.
    pub method: &'a Method,
    /// The header fields of the request.
    pub request: &'a HeaderMap,
    /// The status of the response.
    pub status: StatusCode,
    /// The header fields of the response.
    pub response: &'a HeaderMap,
}

/// What a rule adds to RFC 9111 §3. The default adds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedRules {
    /// A lifetime is made up where the response states none and the RFC allows it (a heuristic, or the rule's own default).
    /// Defaults to no.
    pub has_default_lifetime: bool,
    /// Who asks is part of the key, so nobody else is served: `Authorization` then does not stand in the way. Defaults to no.
    pub identity_in_key: bool,
    /// A response that sets cookies may be kept, as RFC 9111 §7.3 permits. Defaults to no, for they are replayed to others.
    pub keep_set_cookie: bool,
    /// The store can keep parts (206) and serve and combine them as such. Defaults to no.
    pub keep_partial: bool,
}

/// What holds for every rule, also one that sets its own lifetime: whether the response itself can be shared at all.
///
/// `cc` is the response's. Fields named by a qualified `private` or `no-cache` do not stand in the way, because
/// [`strip_for_storing`] takes them out; the statuses worth keeping are the rule's own choice.
///
/// # Errors
///
/// The first reason against it: a status as in [`NoStore::Status`], 206 or `Content-Range`, `no-store`, bare `private` or `no-cache`, `Set-Cookie`,
/// `Vary: *`.
///
/// ```
/// use http::{HeaderMap, StatusCode};
/// use tower_response_cache::semantics::{CacheControl, NoStore, safe_to_store};
///
/// let mut response = HeaderMap::new();
/// response.insert("set-cookie", "session=1".parse().unwrap());
/// let cc = CacheControl::of(&response);
/// assert_eq!(safe_to_store(StatusCode::OK, &response, &cc), Err(NoStore::SetCookie));
/// ```
pub fn safe_to_store(status: StatusCode, response: &HeaderMap, cc: &CacheControl) -> Result<(), NoStore> {
    safe_status_and_directives(status, response.contains_key(CONTENT_RANGE), Some(cc))?;
    cookies(response, cc)?;
    vary(response)
}

/// The same for a response of which it is known that it has neither `Set-Cookie` nor `Vary`, and whether it has `Content-Range`. Without
/// directives if none [may forbid](super::may_restrict_storing) it.
pub(crate) fn safe_status_and_directives(
    status: StatusCode,
    has_range: bool,
    cc: Option<&CacheControl>,
) -> Result<(), NoStore> {
    final_status(status)?;
    // What looks like a part is not kept as the whole.
    if has_range || status == StatusCode::PARTIAL_CONTENT {
        return Err(NoStore::Partial);
    }
    match cc {
        None => Ok(()),
        Some(cc) if cc.no_store => Err(NoStore::NoStoreDirective),
        Some(cc) if cc.private == Some(Scope::Whole) => Err(NoStore::Private),
        Some(cc) if cc.no_cache == Some(Scope::Whole) => Err(NoStore::NoCache),
        Some(_) => Ok(()),
    }
}

/// Whether a shared cache may keep the response, by RFC 9111 §3. `cc` is the response's (or that of a targeted field,
/// RFC 9213).
///
/// A response that is stale from the start, or says `no-cache`, is kept if it can be validated later. [`strip_for_storing`]
/// says what of it is kept.
///
/// # Errors
///
/// The first reason against it.
pub fn shared_storable(exchange: &Exchange<'_>, cc: &CacheControl, rules: SharedRules) -> Result<(), NoStore> {
    let Exchange { method, request, status, response } = *exchange;
    // §3: the method is understood by the cache. A HEAD brings no content, and is used to freshen only (§4.3.5).
    if method != Method::GET && method.as_str() != "QUERY" {
        return Err(NoStore::Method);
    }
    final_status(status)?;
    // §3.3: only a cache that knows parts keeps them. With another status, `Content-Range` means nothing (RFC 9110 §14.4).
    if status == StatusCode::PARTIAL_CONTENT && !rules.keep_partial {
        return Err(NoStore::Partial);
    }
    // §5.2.2.3: with must-understand, an understood status lets no-store be passed over, and another may not be stored.
    if cc.must_understand && !understood(status, rules) {
        return Err(NoStore::Status);
    }
    if cc.no_store && !cc.must_understand {
        return Err(NoStore::NoStoreDirective);
    }
    // §5.2.1.5: neither this request nor any response to it.
    if CacheControl::of(request).no_store {
        return Err(NoStore::RequestNoStore);
    }
    // §5.2.2.7: not by a shared cache; with field names, only those fields are not kept.
    if cc.private == Some(Scope::Whole) {
        return Err(NoStore::Private);
    }
    if !rules.keep_set_cookie {
        cookies(response, cc)?;
    }
    // §4.1: `*` always fails to match, so that such a response could never be used.
    vary(response)?;
    // §3.5: only where the response says that it is meant for others, too.
    let shared_anyway = cc.public || cc.must_revalidate || cc.s_maxage.is_some();
    if request.contains_key(AUTHORIZATION) && !shared_anyway && !rules.identity_in_key {
        return Err(NoStore::Authorization);
    }
    // §3: at least one of these allows it.
    let expires = !cc.targeted && response.contains_key(EXPIRES);
    let explicit = cc.s_maxage.is_some() || cc.max_age.is_some() || expires;
    if !(explicit || cc.public || heuristically_cacheable(status)) {
        return Err(NoStore::NotAllowed);
    }
    let validator = response.contains_key(ETAG) || response.contains_key(LAST_MODIFIED);
    if cc.no_cache == Some(Scope::Whole) && !validator {
        return Err(NoStore::NoCache);
    }
    if !(explicit || validator || rules.has_default_lifetime) {
        return Err(NoStore::NothingToReuse);
    }
    Ok(())
}

/// Whether a response with this status may be kept, and be given a lifetime, where it states none (RFC 9110 §15.1).
pub fn heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Whether the response to a POST may be kept as the answer to later GETs of the same URI (RFC 9110 §9.3.3): it states its
/// lifetime, and its `Content-Location` is the target itself. Whether it may be stored at all is for [`shared_storable`] to say, asked
/// about a GET. It never answers another POST.
pub fn post_answers_get(target: Target<'_>, response: &HeaderMap, cc: &CacheControl) -> bool {
    let mut lines = response.get_all(CONTENT_LOCATION).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return false;
    };
    let expires = !cc.targeted && response.contains_key(EXPIRES);
    let explicit = cc.s_maxage.is_some() || cc.max_age.is_some() || expires;
    explicit && line.to_str().is_ok_and(|line| same_origin(target, line).as_ref() == Some(target.path_and_query))
}

/// Takes out what is not kept (RFC 9111 §3.1): the fields of the connection and those that `Connection` names, those of a
/// proxy's authentication, and the ones in `private="…"` and `no-cache="…"` (§5.2.2.7, §5.2.2.4).
///
/// Read the lifetime before: what a response names here is gone afterwards. `Cache-Control` and `Vary` stay.
pub fn strip_for_storing(headers: &mut HeaderMap, cc: &CacheControl) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| list::elements(line.as_bytes()))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect();
    let qualified = [&cc.private, &cc.no_cache].into_iter().flatten().flat_map(Scope::fields);
    // A response's own directives are never taken out of it, whoever names them, and neither is what tells the next cache by which fields
    // of a request it was chosen.
    for name in named.iter().chain(qualified).filter(|name| ![CACHE_CONTROL, VARY].contains(name)) {
        headers.remove(name);
    }
    for name in [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authentication-info"] {
        headers.remove(name);
    }
}

/// §3: the status code is final. And it is about what was asked for, not about how: a 304, 412 and 416 answer the
/// request's own conditions and range, a 407 its connection, and 428, 429, 431 and 511 must not be stored (RFC 6585 §3 to §6).
fn final_status(status: StatusCode) -> Result<(), NoStore> {
    let about_the_request = matches!(status.as_u16(), 304 | 407 | 412 | 416 | 428 | 429 | 431 | 511);
    if status.is_informational() || about_the_request { Err(NoStore::Status) } else { Ok(()) }
}

/// §7.3: a stored cookie is set for everybody. One that the response itself sets apart is not stored with it.
fn cookies(response: &HeaderMap, cc: &CacheControl) -> Result<(), NoStore> {
    let apart = |scope: &Option<Scope>| scope.as_ref().is_some_and(|scope| scope.fields().contains(&SET_COOKIE));
    if response.contains_key(SET_COOKIE) && !apart(&cc.private) && !apart(&cc.no_cache) {
        return Err(NoStore::SetCookie);
    }
    Ok(())
}

fn vary(response: &HeaderMap) -> Result<(), NoStore> {
    if Vary::of(response).is_star() { Err(NoStore::VaryStar) } else { Ok(()) }
}

/// The statuses whose rules for caching are implemented here (RFC 9110 §15): all that it defines with plain content.
fn understood(status: StatusCode, rules: SharedRules) -> bool {
    match status.as_u16() {
        206 => rules.keep_partial,
        200..=205 | 300..=303 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505 => true,
        _ => false,
    }
}

#[cfg(test)]
#[path = "tests/storable.rs"]
mod tests;
