//! Hop-by-hop fields and `Via`.

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA},
};

use crate::NAME;

/// Iterates over the members of a list field of tokens in all its lines (RFC 9110, section 5.6.1).
pub(crate) fn members(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(name).into_iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty())
}

/// Removes the fields of the connection (RFC 9110, section 7.6.1): the fields that `Connection` names, itself, and the fields that are
/// hop-by-hop without being named.
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

/// Returns whether `Connection` must not name a field (RFC 9110, section 7.6.1: "a sender MUST NOT send a connection option
/// corresponding to a field intended for all recipients"). Without such a field the message would have another meaning.
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

/// Appends `Via` with the protocol in which the message was received (RFC 9110, section 7.6.3).
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
