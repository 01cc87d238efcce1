//! Which stored responses an unsafe request makes out of date (RFC 9111 §4.4).

use http::header::{CONTENT_LOCATION, HeaderMap, LOCATION};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri};

/// Whether a method changes nothing, by definition. One that is not known may change anything (§4.4: also methods whose safety is
/// unknown invalidate).
///
/// Of the methods registered with IANA as safe: GET, HEAD, OPTIONS, TRACE, QUERY, PROPFIND, REPORT, SEARCH, and PRI.
pub fn is_safe(method: &Method) -> bool {
    matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "QUERY" | "PROPFIND" | "REPORT" | "SEARCH" | "PRI")
}

/// The target URI of a request, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its scheme; `None` if this server cannot tell, and then http and https of one authority are taken for the same origin.
    pub scheme: Option<&'a Scheme>,
    /// Its authority, from the URI or from `Host`; `None` if there was neither, and then no absolute URI is of the same origin.
    pub authority: Option<&'a Authority>,
    /// Its path and query.
    pub path_and_query: &'a PathAndQuery,
}

/// The URIs of the target's own origin whose stored responses an exchange makes out of date, as paths and queries: the target
/// itself, then those of `Location` and `Content-Location`. None if the method is safe or the response an error.
///
/// Where the request was cancelled nothing came back, and it may have been carried out all the same: treat that as a success.
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
    // §4.4: a non-error response, 2xx or 3xx, to an unsafe method.
    if is_safe(method) || !(status.is_success() || status.is_redirection()) {
        return Vec::new();
    }
    let mut paths = vec![target.path_and_query.clone()];
    for line in [LOCATION, CONTENT_LOCATION].iter().flat_map(|name| response.get_all(name)) {
        if let Some(path) = line.to_str().ok().and_then(|reference| same_origin(target, reference))
            && !paths.contains(&path)
        {
            paths.push(path);
        }
    }
    paths
}

/// Resolves a reference against the target (RFC 3986 §5.2); none if it leaves the target's origin, so that no site can clear
/// another's responses (§4.4).
pub(super) fn same_origin(target: Target<'_>, reference: &str) -> Option<PathAndQuery> {
    let reference = reference.split('#').next()?.trim();
    if has_scheme(reference) {
        let uri: Uri = reference.parse().ok()?;
        same_authority(target, uri.scheme()?, uri.authority()?)?;
        return normal(uri.path(), uri.query());
    }
    if let Some(rest) = reference.strip_prefix("//") {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        // Of the scheme of the target, whichever that is.
        same_authority(target, target.scheme.unwrap_or(&Scheme::HTTPS), &rest[..end].parse().ok()?)?;
        let (path, query) = split_query(&rest[end..]);
        return normal(path, query);
    }
    let base = target.path_and_query;
    let (path, query) = split_query(reference);
    if path.is_empty() {
        return normal(base.path(), query.or(base.query()));
    }
    if path.starts_with('/') {
        return normal(path, query);
    }
    let folder = &base.path()[..base.path().rfind('/')? + 1];
    normal(&format!("{folder}{path}"), query)
}

/// RFC 3986 §3.1: a letter, then letters, digits and `+-.`, up to a colon.
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

/// RFC 9110 §4.3.1: the same scheme, host and port.
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

/// Puts path and query together, without `.` and `..` (RFC 3986 §5.2.4).
fn normal(path: &str, query: Option<&str>) -> Option<PathAndQuery> {
    let mut segments: Vec<&str> = Vec::new();
    let mut folder = false;
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        folder = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    if folder {
        segments.push("");
    }
    let mut whole = format!("/{}", segments.join("/"));
    if let Some(query) = query {
        whole.push('?');
        whole.push_str(query);
    }
    whole.parse().ok()
}

#[cfg(test)]
#[path = "tests/invalidation.rs"]
mod tests;
