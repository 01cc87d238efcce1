//! Fields that are for one connection only, and the trace that a proxy leaves.

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA},
};

use crate::NAME;

/// The members of a list field of tokens, over all its lines (RFC 9110, section 5.6.1).
pub(crate) fn members(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(name).into_iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty())
}

/// Takes away what concerns the connection on which a message came (RFC 9110, section 7.6.1): what `Connection` names,
/// itself, and what has this meaning without being named.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = members(headers, CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .filter(|name| !is_end_to_end(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in ["http2-settings", "keep-alive", "proxy-connection", "proxy-authentication-info"] {
        headers.remove(name);
    }
}

/// Whether a field may not be named by `Connection`: without it a message would mean something else than its sender said, end elsewhere, or
/// be kept for everybody (RFC 9110, section 7.6.1: "a sender MUST NOT send a connection option corresponding to a field intended for
/// all recipients").
fn is_end_to_end(name: &HeaderName) -> bool {
    const FIELDS: [&str; 16] = [
        "age",
        "authorization",
        "cookie",
        "date",
        "etag",
        "expires",
        "forwarded",
        "host",
        "last-modified",
        "location",
        "no-vary-search",
        "origin",
        "pragma",
        "range",
        "set-cookie",
        "vary",
    ];
    const FAMILIES: [&str; 5] = ["accept", "cache-", "content-", "if-", "x-forwarded-"];
    let name = name.as_str();
    FIELDS.contains(&name) || name.ends_with("cache-control") || FAMILIES.iter().any(|family| name.starts_with(family))
}

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
