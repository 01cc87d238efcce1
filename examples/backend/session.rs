//! The session of a request: an extractor that verifies the token.

use axum::extract::FromRequestParts;
use axum::http::{header, request::Parts};

use super::{
    app::Shared,
    caching,
    db::{Statement, blocking},
    error::Error,
    hash::SecretHash,
};

/// The session of a valid token.
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) user: i64,
    may_write: bool,
}

impl Session {
    pub(crate) fn may_write(&self) -> Result<(), Error> {
        if self.may_write { Ok(()) } else { Err(Error::Forbidden("this account may only read")) }
    }

    /// Returns the namespaces of responses about this account: one of the session, one of the account.
    pub(crate) fn namespaces(&self) -> [String; 2] {
        [caching::namespace(&["auth", "session", &self.id]), caching::namespace(&["auth", "account", &self.user.to_string()])]
    }
}

impl FromRequestParts<Shared> for Session {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, backend: &Shared) -> Result<Self, Error> {
        const UNKNOWN: Error = Error::Unauthorized("the token is invalid");
        let header = parts.headers.get(header::AUTHORIZATION).ok_or(Error::Unauthorized("a bearer token is required"))?;
        let (id, secret) = header.to_str().ok().and_then(bearer).ok_or(UNKNOWN)?;
        let sql = "SELECT sessions.id, user_id, roles.may_write, sessions.salt, sessions.hash
            FROM sessions JOIN users ON users.id = user_id JOIN roles ON roles.id = role_id
            WHERE sessions.id = $1";
        let row = backend.db.read(Statement::new(sql, [id.to_owned().into()])).await?.pop().ok_or(UNKNOWN)?;
        let session = Self { id: row.get(0)?, user: row.get(1)?, may_write: row.get(2)? };
        let (stored, secret) = (SecretHash { salt: row.get(3)?, hash: row.get(4)? }, secret.to_owned());
        if blocking(move || Ok(stored.matches(&secret))).await? { Ok(session) } else { Err(UNKNOWN) }
    }
}

/// Parses `Bearer {session}.{secret}`. The case of the scheme does not matter (RFC 9110, section 11.1).
fn bearer(header: &str) -> Option<(&str, &str)> {
    let (scheme, token) = header.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") { token.trim().split_once('.') } else { None }
}
