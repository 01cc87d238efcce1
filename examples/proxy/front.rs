//! What is done with a request before the cache sees it.

use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version,
    header::{EXPECT, HOST, MAX_FORWARDS, TRANSFER_ENCODING, UPGRADE},
    uri::{Authority, Parts},
};

use crate::{
    fields::{append_via, members, remove_hop_by_hop},
    upgrade,
};

/// The status and the text of an answer that this proxy gives by itself.
pub(crate) type End = (StatusCode, &'static str);

/// The request as it is to be forwarded, or the answer where this proxy is the end of its way.
pub(crate) fn prepare<B>(mut request: Request<B>) -> Result<Request<B>, End> {
    if request.method() == Method::CONNECT {
        return Err((StatusCode::NOT_IMPLEMENTED, "this proxy opens no tunnels\n"));
    }
    if let Err(why) = settle_host(&mut request) {
        return Err((StatusCode::BAD_REQUEST, why));
    }
    // RFC 9112, section 6.1.
    if is_coded(request.headers()) {
        return Err((StatusCode::NOT_IMPLEMENTED, "a transfer coding that is not known\n"));
    }
    // RFC 9110, section 7.6.2: these two count their way.
    if [Method::OPTIONS, Method::TRACE].contains(request.method()) && count_down(request.headers_mut()) {
        return Err((StatusCode::OK, "Max-Forwards ends here\n"));
    }
    let received = request.version();
    let headers = request.headers_mut();
    let protocol = upgrade::wanted(headers).filter(|_| received == Version::HTTP_11);
    remove_hop_by_hop(headers);
    if let Some(protocol) = protocol {
        // The cache leaves such a request alone.
        headers.insert(UPGRADE, protocol);
    }
    append_via(headers, received);
    // RFC 9110, section 10.1.1: the server of hyper says 100 (Continue) as soon as the content is asked for.
    headers.remove(EXPECT);
    *request.version_mut() = Version::HTTP_11;
    Ok(request)
}

/// Leaves one `Host` and a target without authority. Two of them would be two opinions on whose response it is.
fn settle_host<B>(request: &mut Request<B>) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        // RFC 9112, section 3.2.
        (Some(_), Some(_)) => return Err("more than one Host\n"),
        (None, _) if request.version() == Version::HTTP_11 => return Err("no Host\n"),
        (Some(host), None) if !host.is_empty() && !is_host(host) => return Err("a Host that is none\n"),
        _ => {}
    }
    // RFC 9112, section 3.2.2: the authority of a target in absolute form takes the place of the field.
    if let Some(authority) = request.uri().authority() {
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        let host = HeaderValue::try_from(host).map_err(|_| "a Host that is none\n")?;
        let mut parts = Parts::default();
        parts.path_and_query = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| "a target that is none\n")?;
        request.headers_mut().insert(HOST, host);
    }
    Ok(())
}

/// A host, perhaps with a port, and nothing else that an authority may have (RFC 9110, section 7.2).
fn is_host(host: &HeaderValue) -> bool {
    !host.as_bytes().contains(&b'@') && Authority::try_from(host.as_bytes()).is_ok()
}

/// Whether content comes in chunks that are coded besides. The server of hyper takes the chunks apart, and nobody the coding.
fn is_coded(headers: &HeaderMap) -> bool {
    members(headers, TRANSFER_ENCODING).any(|coding| !coding.eq_ignore_ascii_case(b"chunked"))
}

/// Whether `Max-Forwards` says that the request goes no further; takes one from it otherwise.
fn count_down(headers: &mut HeaderMap) -> bool {
    let left = headers.get(MAX_FORWARDS).and_then(|left| left.to_str().ok()?.parse::<u32>().ok());
    match left {
        Some(0) => return true,
        Some(left) => drop(headers.insert(MAX_FORWARDS, HeaderValue::from(left - 1))),
        None => {}
    }
    false
}
