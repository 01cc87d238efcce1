//! The request of a key: a request without content that has this key, if the key tells all of it and holds no secret.

use http::{HeaderName, HeaderValue, Method, Request, Uri, header};

use super::{
    fields::forwarding_lines,
    name::{Part, Parts},
    write::Tag,
};
use crate::{percent::decoded, semantics};

/// A request that has a given key.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    /// A GET with the fields that the key holds.
    pub(crate) request: Request<()>,
    /// The path that a layer outside of the cache has made of the path of the request.
    pub(crate) changed_path: Option<String>,
}

/// Returns the pattern of the route in a key. The fallback has none.
pub(crate) fn route_of(canonical: &[u8]) -> Option<&str> {
    let first = parts(canonical).find(|part| !part.is(Tag::Http))?;
    std::str::from_utf8(first.bytes).ok().filter(|_| first.is(Tag::Route))
}

/// Returns the length of a key without the part of a variant.
pub(crate) fn primary_len(canonical: &[u8]) -> usize {
    let mut all = Parts(canonical);
    all.by_ref().for_each(drop);
    canonical.len() - all.0.len()
}

fn parts(canonical: &[u8]) -> impl Iterator<Item = Part<'_>> {
    Parts(canonical).map_while(|part| part)
}

/// Returns the request of a key. Returns `None` if the key has an identity, the hash of a secret, the hash of content, or a part of an
/// application's extractor, and if a field, a parameter of the route or a parameter of the query has the name of a secret.
pub(crate) fn replay(canonical: &[u8]) -> Option<Replay> {
    if route_of(canonical).is_some_and(names_secret) {
        return None;
    }
    let (mut scheme, mut host, mut paths, mut query) = (None, None, Vec::new(), None);
    let (mut lines, mut forwarded) = (Vec::new(), Vec::new());
    let mut field = None;
    let text = |part: Part<'_>| std::str::from_utf8(part.bytes).ok().map(str::to_owned);
    for part in parts(canonical).skip_while(|part| part.is(Tag::Http)).skip(1) {
        let tag = |tag| part.is(tag);
        if tag(Tag::Scheme) {
            scheme = Some(text(part)?);
        } else if tag(Tag::Host) {
            host = Some(text(part)?);
        } else if tag(Tag::Path) {
            paths.push(text(part)?);
        } else if tag(Tag::SortedQuery) || tag(Tag::RawQuery) {
            query = Some(text(part)?);
        } else if tag(Tag::NoneCounts) {
            query = Some(String::new());
        } else if tag(Tag::Header) {
            field = Some(HeaderName::from_bytes(part.bytes).ok().filter(|name| *name != header::HOST)?);
        } else if tag(Tag::HeaderValue) {
            lines.push((field.clone()?, part.bytes.to_vec()));
        } else if tag(Tag::Forwarded) {
            forwarded.push(part.bytes);
        } else if !(tag(Tag::NoQuery) || tag(Tag::Absent) || tag(Tag::Cookie)) {
            return None;
        }
    }
    match &canonical[primary_len(canonical)..] {
        [] => {}
        [variant, selecting @ ..] if *variant == Tag::Variant as u8 => lines.extend(semantics::read_written(selecting)?),
        _ => return None,
    }
    if query.as_deref().is_some_and(has_secret) || lines.iter().any(|(name, _)| is_secret(name.as_str().as_bytes())) {
        return None;
    }
    lines.extend(forwarding_lines(&forwarded)?);
    let mut paths = paths.into_iter();
    let (sent, changed_path, None) = (paths.next()?, paths.next(), paths.next()) else { return None };
    let target = query.map_or_else(|| sent.clone(), |query| format!("{sent}?{query}"));
    let host = host.filter(|host| !host.is_empty());
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = match (&scheme, &host) {
        (Some(scheme), Some(host)) => {
            Uri::builder().scheme(scheme.as_str()).authority(host.as_str()).path_and_query(target).build().ok()?
        }
        (Some(_), None) => return None,
        (None, _) => target.parse().ok()?,
    };
    let headers = request.headers_mut();
    if let (None, Some(host)) = (scheme, host) {
        headers.insert(header::HOST, HeaderValue::from_str(&host).ok()?);
    }
    for (name, value) in lines {
        headers.append(name, HeaderValue::from_bytes(&value).ok()?);
    }
    Some(Replay { request, changed_path })
}

/// Returns true if a parameter of the pattern of a route has the name of a secret.
fn names_secret(pattern: &str) -> bool {
    pattern.split('{').skip(1).any(|piece| is_secret(piece.split('}').next().unwrap_or_default().as_bytes()))
}

/// Returns true if a parameter of a query has the name of a secret.
fn has_secret(query: &str) -> bool {
    query.split(['&', ';']).any(|piece| is_secret(&decoded(piece.split('=').next().unwrap_or_default().as_bytes())))
}

/// Returns true for names that secrets usually have. They are compared without case and without marks.
fn is_secret(name: &[u8]) -> bool {
    const WITHIN: [&str; 19] = [
        "accesskey",
        "apikey",
        "assertion",
        "authkey",
        "authorization",
        "bearer",
        "credential",
        "csrf",
        "hmac",
        "jwt",
        "passcode",
        "passphrase",
        "passw",
        "secret",
        "session",
        "signature",
        "token",
        "xauth",
        "xsrf",
    ];
    const WHOLE: [&str; 11] = ["auth", "code", "cookie", "key", "otp", "pass", "pin", "pwd", "sid", "sig", "ticket"];
    let name: String =
        name.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(|byte| char::from(byte.to_ascii_lowercase())).collect();
    WITHIN.iter().any(|part| name.contains(part)) || WHOLE.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_with_the_name_of_a_secret_is_found() {
        for query in ["token=1", "a=1&access_token=2", "X-Amz-Signature=3", "%74oken=4", "apiKey=5", "a;sid=6", "key=7"] {
            assert!(has_secret(query), "{query}");
        }
        for query in ["", "page=1", "keyword=a", "author=b", "a=token", "tag=c"] {
            assert!(!has_secret(query), "{query}");
        }
    }

    #[test]
    fn names_of_secrets_are_found() {
        for name in [
            "code",
            "pass",
            "passphrase",
            "passcode",
            "hmac",
            "x-auth",
            "X-Auth-User",
            "authkey",
            "auth_key",
            "bearer",
            "csrf",
            "X-CSRF-Token",
            "client_assertion",
            "otp",
            "pin",
            "resetToken",
        ] {
            assert!(is_secret(name.as_bytes()), "{name}");
        }
        for name in ["accept-encoding", "barcode", "author", "passenger", "compass", "pinned", "postcode", "table", "id"] {
            assert!(!is_secret(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn parameter_of_a_route_with_the_name_of_a_secret_is_found() {
        for pattern in ["/reset/{token}", "/share/{secret}/files", "/a/{id}/{*access_key}", "/v{version}/{pass}"] {
            assert!(names_secret(pattern), "{pattern}");
        }
        for pattern in ["", "/token", "/secret/{id}", "/a/{*rest}", "/tokens/{table}/{column}"] {
            assert!(!names_secret(pattern), "{pattern}");
        }
    }

    #[test]
    fn bytes_that_are_no_key_have_no_request() {
        for bytes in [&b""[..], b"\x01", b"\x01\xff", b"\x0e", b"\x01\x01a", b"\x02\x02/a\x02\x05/a"] {
            assert!(replay(bytes).is_none(), "{bytes:?}");
        }
    }
}
