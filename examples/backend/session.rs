//! The token of a request, verified: an extractor for the handlers that must know who asks.

use axum::extract::FromRequestParts;
use axum::http::{header, request::Parts};
use rusqlite::OptionalExtension;

use super::{app::Shared, caching, db::blocking, error::Error, hash::Slow};

/// A request that has shown a valid token.
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) user: i64,
    may_write: bool,
}

impl Session {
    pub(crate) fn may_write(&self) -> Result<(), Error> {
        if self.may_write { Ok(()) } else { Err(Error::Forbidden("this account may read, not write")) }
    }

    /// What an answer about this account hangs on: this session, and the account, whichever session changes it.
    pub(crate) fn namespaces(&self) -> [String; 2] {
        [caching::name(&["auth", "session", &self.id]), caching::name(&["auth", "account", &self.user.to_string()])]
    }
}

impl FromRequestParts<Shared> for Session {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, backend: &Shared) -> Result<Self, Error> {
        const UNKNOWN: Error = Error::Unauthorized("this token is not, or no longer, valid");
        let header = parts.headers.get(header::AUTHORIZATION).ok_or(Error::Unauthorized("a bearer token is needed"))?;
        let (id, secret) = header.to_str().ok().and_then(bearer).ok_or(UNKNOWN)?;
        let (id, secret) = (id.to_owned(), secret.to_owned());
        let row = backend.db.run(move |db| {
            let sql = "SELECT sessions.id, user_id, roles.may_write, sessions.salt, sessions.hash
                FROM sessions JOIN users ON users.id = user_id JOIN roles ON roles.id = role_id
                WHERE sessions.id = ?";
            let row = db.prepare_cached(sql)?.query_row([id], |row| {
                let session = Self { id: row.get(0)?, user: row.get(1)?, may_write: row.get(2)? };
                Ok((session, Slow { salt: row.get(3)?, hash: row.get(4)? }))
            });
            Ok(row.optional()?)
        });
        let (session, kept) = row.await?.ok_or(UNKNOWN)?;
        if blocking(move || Ok(kept.matches(&secret))).await? { Ok(session) } else { Err(UNKNOWN) }
    }
}

/// `Bearer {session}.{secret}`; the scheme in any case, as RFC 9110 has it.
fn bearer(header: &str) -> Option<(&str, &str)> {
    let (scheme, token) = header.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") { token.trim().split_once('.') } else { None }
}
