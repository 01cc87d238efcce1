//! Fields that are for one connection only, and the trace that a proxy leaves.

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA},
};

use crate::NAME;

/// Takes away what concerns the connection on which a message came (RFC 9110, section 7.6.1): what `Connection` names,
/// itself, and what has this meaning without being named.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|b| *b == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| !END_TO_END.contains(&name.as_str()))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authentication-info"] {
        headers.remove(name);
    }
}

/// Who may not be named by `Connection`: without them a message would mean something else than its sender said, or end
/// elsewhere (RFC 9110, section 7.6.1: "a sender MUST NOT send a connection option corresponding to a field intended for
/// all recipients").
const END_TO_END: [&str; 5] = ["host", "content-length", "cache-control", "authorization", "cookie"];

/// `Via: 1.1 name` (RFC 9110, section 7.6.3): the protocol in which the message was received.
pub(crate) fn append_via(headers: &mut HeaderMap, received: Version) {
    let protocol = match received {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    };
    if let Ok(via) = HeaderValue::try_from(format!("{protocol} {NAME}")) {
        headers.append(VIA, via);
    }
}
