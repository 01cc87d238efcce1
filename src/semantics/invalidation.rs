//! Invalidation of stored responses by an unsafe request (RFC 9111 §4.4).

use http::header::{CONTENT_LOCATION, HeaderMap, LOCATION};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri};

/// Returns true for the methods registered with IANA as safe: GET, HEAD, OPTIONS, TRACE, QUERY, PROPFIND, REPORT, SEARCH and PRI.
///
/// An unknown method counts as unsafe (§4.4).
pub fn is_safe(method: &Method) -> bool {
    matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "QUERY" | "PROPFIND" | "REPORT" | "SEARCH" | "PRI")
}

/// The known components of the target URI of a request.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The scheme. With `None`, http and https of one authority count as the same origin.
    pub scheme: Option<&'a Scheme>,
    /// The authority, from the URI or from `Host`. With `None`, no absolute URI has the same origin.
    pub authority: Option<&'a Authority>,
    /// The path and query.
    pub path_and_query: &'a PathAndQuery,
}

/// Returns the URIs invalidated by a request and its response, as paths and queries of the target's origin (§4.4).
///
/// The list contains the target and the same-origin URIs of `Location` and `Content-Location`, without duplicates. It is empty if the method
/// is safe or the status is an error.
///
/// A cancelled request may have taken effect. Pass a success status for it.
///
/// ```
/// use http::{HeaderMap, Method, StatusCode, uri::PathAndQuery};
/// use tower_response_cache::semantics::{Target, invalidated};
///
/// let path = PathAndQuery::from_static("/orders?sort=new");
/// let authority = "shop.example".parse().unwrap();
/// let target = Target { scheme: None, authority: Some(&authority), path_and_query: &path };
/// let mut response = HeaderMap::new();
/// response.insert("location", "orders/7".parse().unwrap());
/// response.insert("content-location", "https://other.example/".parse().unwrap());
/// let paths = invalidated(&Method::POST, target, StatusCode::CREATED, &response);
/// assert_eq!(paths, ["/orders?sort=new", "/orders/7"]);
/// ```
pub fn invalidated(method: &Method, target: Target<'_>, status: StatusCode, response: &HeaderMap) -> Vec<PathAndQuery> {
    // §4.4: a non-error response (2xx or 3xx) to an unsafe method.
    if is_safe(method) || !(status.is_success() || status.is_redirection()) {
        return Vec::new();
    }
    let mut paths = vec![target.path_and_query.clone()];
    for line in [LOCATION, CONTENT_LOCATION].iter().flat_map(|name| response.get_all(name)) {
        if let Some(path) = line.to_str().ok().and_then(|reference| resolve_same_origin(target, reference))
            && !paths.contains(&path)
        {
            paths.push(path);
        }
    }
    paths
}

/// Resolves a URI reference against the target (RFC 3986 §5.2). Returns `None` for another origin, so that no origin can invalidate the
/// responses of another (§4.4).
pub(super) fn resolve_same_origin(target: Target<'_>, reference: &str) -> Option<PathAndQuery> {
    let reference = reference.split('#').next()?.trim();
    if has_scheme(reference) {
        let uri: Uri = reference.parse().ok()?;
        same_authority(target, uri.scheme()?, uri.authority()?)?;
        return normalise(uri.path(), uri.query());
    }
    if let Some(rest) = reference.strip_prefix("//") {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        // A reference without a scheme has the target's scheme.
        same_authority(target, target.scheme.unwrap_or(&Scheme::HTTPS), &rest[..end].parse().ok()?)?;
        let (path, query) = split_query(&rest[end..]);
        return normalise(path, query);
    }
    let base = target.path_and_query;
    let (path, query) = split_query(reference);
    if path.is_empty() {
        return normalise(base.path(), query.or(base.query()));
    }
    if path.starts_with('/') {
        return normalise(path, query);
    }
    let directory = &base.path()[..base.path().rfind('/')? + 1];
    normalise(&format!("{directory}{path}"), query)
}

/// Returns true if a reference begins with a scheme (RFC 3986 §3.1): a letter, then letters, digits and `+-.`, up to a colon.
fn has_scheme(reference: &str) -> bool {
    reference.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

fn split_query(reference: &str) -> (&str, Option<&str>) {
    match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    }
}

/// Returns `Some` if scheme, host and port equal the target's (RFC 9110 §4.3.1).
fn same_authority(target: Target<'_>, scheme: &Scheme, authority: &Authority) -> Option<()> {
    let own = target.authority?;
    let own_scheme = target.scheme.unwrap_or(scheme);
    let port = |scheme: &Scheme, authority: &Authority| match authority.port_u16() {
        Some(port) => Some(port),
        None if *scheme == Scheme::HTTP => Some(80),
        None if *scheme == Scheme::HTTPS => Some(443),
        None => None,
    };
    let same = own_scheme == scheme
        && own.host().eq_ignore_ascii_case(authority.host())
        && port(own_scheme, own) == port(scheme, authority);
    same.then_some(())
}

/// Joins path and query and removes dot segments (RFC 3986 §5.2.4).
fn normalise(path: &str, query: Option<&str>) -> Option<PathAndQuery> {
    let mut segments: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        directory = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    if directory {
        segments.push("");
    }
    let mut target = format!("/{}", segments.join("/"));
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    target.parse().ok()
}

#[cfg(test)]
#[path = "tests/invalidation.rs"]
mod tests;
