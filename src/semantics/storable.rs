//! The conditions under which a shared cache may store a response, and the fields that it must not store (RFC 9111 §3).

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LOCATION, CONTENT_RANGE, ETAG, EXPIRES, HeaderMap, HeaderName,
    LAST_MODIFIED, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::{Method, StatusCode};

use super::directives::{CacheControl, Scope};
use super::invalidation::{Target, resolve_same_origin};
use super::list;
use super::vary::Vary;

/// The reason for which a response is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoStore {
    /// The method is neither GET nor QUERY.
    Method,
    /// The status is not storable.
    ///
    /// It is interim (1xx), depends on the request's conditions, range or rate (304, 407, 412, 416, 428, 429, 431, 511), or is not understood
    /// although the response says `must-understand`.
    Status,
    /// The response has `no-store`.
    NoStoreDirective,
    /// The request has `no-store`.
    RequestNoStore,
    /// The response has a bare `private`.
    Private,
    /// The response has a bare `no-cache` and either no validator or a rule that does not validate.
    NoCache,
    /// The response has `Set-Cookie`.
    SetCookie,
    /// The response has `Vary: *` or a malformed `Vary`.
    VaryStar,
    /// The request has `Authorization`, and the response does not allow sharing.
    Authorization,
    /// The response is a 206 or has `Content-Range`.
    Partial,
    /// The response has no lifetime, is not `public`, and its status is not cacheable by default.
    NotAllowed,
    /// The response has neither a lifetime nor a validator, so it could never be used.
    NothingToReuse,
}

impl NoStore {
    /// Returns a short name of the reason in lower case with hyphens, for logs and the `detail` of `Cache-Status`.
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

/// A request and its response, as far as they determine whether the response is stored.
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

/// The rule's additions to RFC 9111 §3. The default adds none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedRules {
    /// True if the rule provides a lifetime for a response that states none (RFC 9111 §4.2.2). Defaults to false.
    pub has_default_lifetime: bool,
    /// True if the key contains the user's identity. `Authorization` is then no obstacle, because the response is not shared between users.
    /// Defaults to false.
    pub identity_in_key: bool,
    /// True if a response with `Set-Cookie` is stored (RFC 9111 §7.3). The cookie is then sent to other users. Defaults to false.
    pub store_set_cookie: bool,
    /// True if the store supports partial responses: it can store, serve and combine 206 responses (RFC 9111 §3.3). Defaults to false.
    pub store_partial: bool,
}

/// Checks the requirements that apply to every rule, including rules that set the lifetime themselves.
///
/// `cc` holds the directives of the response. Fields named by a qualified `private` or `no-cache` are no obstacle, because
/// [`strip_for_storing`] removes them. The rule decides which statuses to store.
///
/// # Errors
///
/// Returns the first obstacle: a status as in [`NoStore::Status`], 206 or `Content-Range`, `no-store`, a bare `private` or `no-cache`,
/// `Set-Cookie`, or `Vary: *`.
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
    check_set_cookie(response, cc)?;
    check_vary(response)
}

/// Performs the checks of [`safe_to_store`] for a response without `Set-Cookie` and `Vary`.
///
/// `has_range` tells if the response has `Content-Range`. `cc` may be `None` if [`may_restrict_storing`](super::may_restrict_storing) is false for
/// each line.
pub(crate) fn safe_status_and_directives(
    status: StatusCode,
    has_range: bool,
    cc: Option<&CacheControl>,
) -> Result<(), NoStore> {
    check_status(status)?;
    // A part must not be stored as the complete representation.
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

/// Checks if a shared cache may store a response (RFC 9111 §3).
///
/// `cc` holds the directives of the response, from `Cache-Control` or a targeted field (RFC 9213). A response that is stale on receipt or has
/// `no-cache` may be stored if it has a validator. Call [`strip_for_storing`] before storing.
///
/// # Errors
///
/// Returns the first obstacle.
pub fn shared_storable(exchange: &Exchange<'_>, cc: &CacheControl, rules: SharedRules) -> Result<(), NoStore> {
    let Exchange { method, request, status, response } = *exchange;
    // §3: the cache understands the method. A HEAD has no content and only freshens stored responses (§4.3.5).
    if method != Method::GET && method.as_str() != "QUERY" {
        return Err(NoStore::Method);
    }
    check_status(status)?;
    // §3.3: a 206 needs a cache that supports parts. With other statuses `Content-Range` has no meaning (RFC 9110 §14.4).
    if status == StatusCode::PARTIAL_CONTENT && !rules.store_partial {
        return Err(NoStore::Partial);
    }
    // §5.2.2.3: must-understand overrides no-store for a status that is understood and forbids storing any other.
    if cc.must_understand && !is_understood(status, rules) {
        return Err(NoStore::Status);
    }
    if cc.no_store && !cc.must_understand {
        return Err(NoStore::NoStoreDirective);
    }
    // §5.2.1.5: the response to a request with no-store is not stored.
    if CacheControl::of(request).no_store {
        return Err(NoStore::RequestNoStore);
    }
    // §5.2.2.7: not in a shared cache. With field names, only those fields are not stored.
    if cc.private == Some(Scope::Whole) {
        return Err(NoStore::Private);
    }
    if !rules.store_set_cookie {
        check_set_cookie(response, cc)?;
    }
    // §4.1: `*` never matches, so such a response could not be used.
    check_vary(response)?;
    // §3.5: the response allows sharing explicitly.
    let allows_sharing = cc.public || cc.must_revalidate || cc.s_maxage.is_some();
    if request.contains_key(AUTHORIZATION) && !allows_sharing && !rules.identity_in_key {
        return Err(NoStore::Authorization);
    }
    // §3: at least one of these permits storing.
    let expires = !cc.targeted && response.contains_key(EXPIRES);
    let has_lifetime = cc.s_maxage.is_some() || cc.max_age.is_some() || expires;
    if !(has_lifetime || cc.public || heuristically_cacheable(status)) {
        return Err(NoStore::NotAllowed);
    }
    let validator = response.contains_key(ETAG) || response.contains_key(LAST_MODIFIED);
    if cc.no_cache == Some(Scope::Whole) && !validator {
        return Err(NoStore::NoCache);
    }
    if !(has_lifetime || validator || rules.has_default_lifetime) {
        return Err(NoStore::NothingToReuse);
    }
    Ok(())
}

/// Returns true if responses with this status are cacheable without a stated lifetime (RFC 9110 §15.1).
pub fn heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Returns true if the response to a POST may be stored for later GETs of the target (RFC 9110 §9.3.3).
///
/// It must state a lifetime, and its `Content-Location` must equal the target. Check with [`shared_storable`], passing GET as the method, that
/// it may be stored at all. A stored response never serves another POST.
pub fn post_answers_get(target: Target<'_>, response: &HeaderMap, cc: &CacheControl) -> bool {
    let mut lines = response.get_all(CONTENT_LOCATION).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return false;
    };
    let expires = !cc.targeted && response.contains_key(EXPIRES);
    let has_lifetime = cc.s_maxage.is_some() || cc.max_age.is_some() || expires;
    has_lifetime && line.to_str().is_ok_and(|line| resolve_same_origin(target, line).as_ref() == Some(target.path_and_query))
}

/// Removes the fields that must not be stored (RFC 9111 §3.1): connection-specific fields, fields of proxy authentication, and the fields
/// listed in `private="…"` and `no-cache="…"` (§5.2.2.7, §5.2.2.4).
///
/// Compute the freshness first, because a response may list a field that determines it. `Cache-Control` and `Vary` always stay.
pub fn strip_for_storing(headers: &mut HeaderMap, cc: &CacheControl) {
    let connection_fields: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| list::elements(line.as_bytes()))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect();
    let excluded_fields = [&cc.private, &cc.no_cache].into_iter().flatten().flat_map(Scope::fields);
    // The directives and the selecting fields stay for the next cache, even if the response lists them.
    for name in connection_fields.iter().chain(excluded_fields).filter(|name| ![CACHE_CONTROL, VARY].contains(name)) {
        headers.remove(name);
    }
    for name in [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authentication-info"] {
        headers.remove(name);
    }
}

/// Checks that the status is final (§3) and describes the target rather than this request.
///
/// 304, 412 and 416 depend on the request's conditions and range, and 407 on its connection. 428, 429, 431 and 511 must not be stored
/// (RFC 6585 §3 to §6).
fn check_status(status: StatusCode) -> Result<(), NoStore> {
    let depends_on_request = matches!(status.as_u16(), 304 | 407 | 412 | 416 | 428 | 429 | 431 | 511);
    if status.is_informational() || depends_on_request { Err(NoStore::Status) } else { Ok(()) }
}

/// Rejects `Set-Cookie`, which would reach other users (§7.3), unless the response excludes it from storage.
fn check_set_cookie(response: &HeaderMap, cc: &CacheControl) -> Result<(), NoStore> {
    let excludes = |scope: &Option<Scope>| scope.as_ref().is_some_and(|scope| scope.fields().contains(&SET_COOKIE));
    if response.contains_key(SET_COOKIE) && !excludes(&cc.private) && !excludes(&cc.no_cache) {
        return Err(NoStore::SetCookie);
    }
    Ok(())
}

fn check_vary(response: &HeaderMap) -> Result<(), NoStore> {
    if Vary::of(response).is_star() { Err(NoStore::VaryStar) } else { Ok(()) }
}

/// Returns true for the statuses whose caching requirements are implemented: all that RFC 9110 §15 defines with ordinary content.
fn is_understood(status: StatusCode, rules: SharedRules) -> bool {
    match status.as_u16() {
        206 => rules.store_partial,
        200..=205 | 300..=303 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505 => true,
        _ => false,
    }
}

#[cfg(test)]
#[path = "tests/storable.rs"]
mod tests;
