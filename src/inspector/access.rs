//! Access to the Inspector: the token, the session of a browser, and the origin of a request.

use std::fmt;

use blake3::Hash;
use http::{HeaderMap, HeaderValue, Uri, header};

/// The name of the cookie.
const COOKIE: &str = "response-cache-inspector";

/// The authentication of the Inspector. Hashes are compared in constant time.
#[derive(Clone)]
pub(super) enum Access {
    Token {
        /// The hash of the token.
        token: Hash,
        /// The value of the cookie. It is derived from the token, so that all processes with one token accept it.
        session: Hash,
    },
    /// The application authenticates.
    Elsewhere,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The session is as good as the token.
        f.write_str(if self.has_token() { "Token" } else { "Elsewhere" })
    }
}

impl Access {
    pub(super) fn token(token: &[u8]) -> Self {
        let session = blake3::derive_key("tower-response-cache inspector session", token);
        Self::Token { token: blake3::hash(token), session: session.into() }
    }

    /// Returns true if a token is required.
    pub(super) fn has_token(&self) -> bool {
        matches!(self, Self::Token { .. })
    }

    /// Returns true if a request may see the Inspector.
    pub(super) fn allows(&self, headers: &HeaderMap) -> bool {
        match self {
            Self::Elsewhere => true,
            Self::Token { session, .. } => {
                bearer(headers).is_some_and(|token| self.is_token(token))
                    || cookies(headers).any(|value| Hash::from_hex(value).is_ok_and(|value| value == *session))
            }
        }
    }

    /// Returns true for the token.
    pub(super) fn is_token(&self, given: &[u8]) -> bool {
        matches!(self, Self::Token { token, .. } if *token == blake3::hash(given))
    }

    /// Returns the `Set-Cookie` field that begins a session.
    pub(super) fn session_cookie(&self, is_secure: bool) -> Option<HeaderValue> {
        let Self::Token { session, .. } = self else { return None };
        let secure = if is_secure { "; Secure" } else { "" };
        let mut value =
            HeaderValue::from_str(&format!("{COOKIE}={session}; HttpOnly; SameSite=Strict; Max-Age=43200{secure}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Returns the `Set-Cookie` field that ends a session.
    pub(super) fn end_of_session() -> HeaderValue {
        HeaderValue::from_static("response-cache-inspector=; HttpOnly; SameSite=Strict; Max-Age=0")
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(COOKIE.as_bytes())?.strip_prefix(b"="))
}

/// Returns true if a page of another origin has sent the request. Programs other than browsers send neither field.
pub(super) fn is_foreign(headers: &HeaderMap, uri: &Uri) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let host = uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = host.or_else(|| headers.get(header::HOST).map(HeaderValue::as_bytes)).unwrap_or_default();
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    authority.is_none_or(|(_, authority)| !authority.as_bytes().eq_ignore_ascii_case(host))
}

/// Returns true if the client is known to use HTTPS.
pub(super) fn is_https(headers: &HeaderMap, uri: &Uri) -> bool {
    let forwarded = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme.as_bytes().eq_ignore_ascii_case(b"https"));
    let origin = headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
    forwarded || origin || uri.scheme_str() == Some("https")
}
