//! Preparation of a request before it reaches the cache.

use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version,
    header::{EXPECT, HOST, MAX_FORWARDS, TRANSFER_ENCODING, UPGRADE},
    uri::{Authority, Parts},
};

use crate::{
    headers::{append_via, members, remove_hop_by_hop},
    upgrade,
};

/// The status and the text of a response of the proxy itself.
pub(crate) type Rejection = (StatusCode, &'static str);

/// Returns the request to forward, or the response of the proxy itself.
pub(crate) fn prepare<B>(mut request: Request<B>) -> Result<Request<B>, Rejection> {
    if request.method() == Method::CONNECT {
        return Err((StatusCode::NOT_IMPLEMENTED, "CONNECT is not supported\n"));
    }
    if let Err(text) = normalize_host(&mut request) {
        return Err((StatusCode::BAD_REQUEST, text));
    }
    // RFC 9112, section 6.1.
    if has_unknown_coding(request.headers()) {
        return Err((StatusCode::NOT_IMPLEMENTED, "unknown transfer coding\n"));
    }
    // RFC 9110, section 7.6.2.
    if [Method::OPTIONS, Method::TRACE].contains(request.method()) && decrement_max_forwards(request.headers_mut()) {
        return Err((StatusCode::OK, "Max-Forwards is 0\n"));
    }
    let received = request.version();
    let headers = request.headers_mut();
    let protocol = upgrade::requested(headers).filter(|_| received == Version::HTTP_11);
    remove_hop_by_hop(headers);
    if let Some(protocol) = protocol {
        // Such a request bypasses the cache.
        headers.insert(UPGRADE, protocol);
    }
    append_via(headers, received);
    // RFC 9110, section 10.1.1: the server of hyper sends 100 (Continue) when the content is read.
    headers.remove(EXPECT);
    *request.version_mut() = Version::HTTP_11;
    Ok(request)
}

/// Moves the authority of the target to `Host`, and demands one valid `Host`. With two, cache and origin could choose different ones.
fn normalize_host<B>(request: &mut Request<B>) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        // RFC 9112, section 3.2.
        (Some(_), Some(_)) => return Err("more than one Host\n"),
        (None, _) if request.version() == Version::HTTP_11 => return Err("no Host\n"),
        (Some(host), None) if !host.is_empty() && !is_host(host) => return Err("invalid Host\n"),
        _ => {}
    }
    // RFC 9112, section 3.2.2: the authority of a target in absolute form takes the place of the field.
    if let Some(authority) = request.uri().authority() {
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        let host = HeaderValue::try_from(host).map_err(|_| "invalid Host\n")?;
        let mut parts = Parts::default();
        parts.path_and_query = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| "invalid target\n")?;
        request.headers_mut().insert(HOST, host);
    }
    Ok(())
}

/// Returns whether the value is a host with an optional port (RFC 9110, section 7.2).
fn is_host(host: &HeaderValue) -> bool {
    !host.as_bytes().contains(&b'@') && Authority::try_from(host.as_bytes()).is_ok()
}

/// Returns whether the content has a transfer coding other than `chunked`, the only one that hyper decodes.
fn has_unknown_coding(headers: &HeaderMap) -> bool {
    members(headers, TRANSFER_ENCODING).any(|coding| !coding.eq_ignore_ascii_case(b"chunked"))
}

/// Returns whether `Max-Forwards` is 0, and otherwise decrements it.
fn decrement_max_forwards(headers: &mut HeaderMap) -> bool {
    let left = headers.get(MAX_FORWARDS).and_then(|left| left.to_str().ok()?.parse::<u32>().ok());
    match left {
        Some(0) => return true,
        Some(left) => drop(headers.insert(MAX_FORWARDS, HeaderValue::from(left - 1))),
        None => {}
    }
    false
}
