//! Accounts: login, logout, and reading and changing one's profile.
//!
//! A token is `{session}.{secret}`. The database stores a slow salted hash of the secret, as of a password, so that a stolen database
//! contains no usable token. Verifying a token therefore takes milliseconds of processor time. The cache avoids this work.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use rusqlite::{OptionalExtension, params};
use serde_json::{Value, json};

use super::{
    app::Shared,
    caching,
    db::blocking,
    error::{Error, bad_request},
    extract::JsonObject,
    hash::{SecretHash, random_hex},
    session::Session,
};

/// `POST /auth/login`
pub(crate) async fn login(State(backend): State<Shared>, body: JsonObject) -> Result<Json<Value>, Error> {
    let (name, password) = (body.string("name")?.to_owned(), body.string("password")?.to_owned());
    let account = backend.db.run(move |db| {
        let sql = "SELECT id, salt, hash FROM users WHERE name = ?";
        let account = db
            .prepare_cached(sql)?
            .query_row([name], |row| Ok((row.get::<_, i64>(0)?, SecretHash { salt: row.get(1)?, hash: row.get(2)? })));
        Ok(account.optional()?)
    });
    // An unknown name takes as long as a wrong password.
    let (user, stored) = match account.await? {
        Some((user, stored)) => (Some(user), stored),
        None => (None, SecretHash { salt: [0; 16], hash: [0; 32] }),
    };
    let secret = random_hex();
    let text = secret.clone();
    let (right, hash) = blocking(move || Ok((stored.matches(&password), SecretHash::new(&text)))).await?;
    let user = user.filter(|_| right).ok_or(Error::Unauthorized("wrong name or password"))?;

    let session = random_hex();
    let token = format!("{session}.{secret}");
    let open = backend.db.write(move |db| {
        let sql = "INSERT INTO sessions (id, user_id, salt, hash) VALUES (?, ?, ?, ?)";
        db.prepare_cached(sql)?.execute(params![session, user, hash.salt, hash.hash])?;
        Ok(())
    });
    open.await?;
    Ok(Json(json!({ "token": token })))
}

/// `POST /auth/logout`
pub(crate) async fn logout(State(backend): State<Shared>, session: Session) -> Result<Response, Error> {
    let [this_session, _] = session.namespaces();
    let close = backend.db.write(move |db| Ok(db.execute("DELETE FROM sessions WHERE id = ?", [session.id])?));
    close.await?;
    Ok(caching::with_invalidations(StatusCode::NO_CONTENT, vec![this_session]))
}

/// `GET /auth/user`
pub(crate) async fn current_user(State(backend): State<Shared>, session: Session) -> Result<Response, Error> {
    let profile = profile(&backend, session.user).await?;
    Ok(caching::with_namespaces(Json(profile), session.namespaces().into()))
}

/// `PATCH /auth/user`
pub(crate) async fn change_profile(
    State(backend): State<Shared>,
    session: Session,
    body: JsonObject,
) -> Result<Response, Error> {
    let known = ["display_name", "email"];
    if body.0.is_empty() || body.0.keys().any(|name| !known.contains(&name.as_str())) {
        return Err(bad_request(format!("a profile has the members {}", known.join(", "))));
    }
    let [name, email] =
        [body.optional_string("display_name")?, body.optional_string("email")?].map(|new| new.map(str::to_owned));
    let user = session.user;
    let change = backend.db.write(move |db| {
        let sql = "UPDATE users SET display_name = coalesce(?, display_name), email = coalesce(?, email) WHERE id = ?";
        Ok(db.prepare_cached(sql)?.execute(params![name, email, user])?)
    });
    change.await?;
    let [_, account] = session.namespaces();
    Ok(caching::with_invalidations(Json(profile(&backend, user).await?), vec![account]))
}

async fn profile(backend: &Shared, user: i64) -> Result<Value, Error> {
    let profile = backend.db.run(move |db| {
        let sql = "SELECT users.name, display_name, email, teams.name, roles.name, group_concat(permissions.name, ' ')
            FROM users JOIN teams ON teams.id = team_id JOIN roles ON roles.id = users.role_id
            LEFT JOIN permissions ON permissions.role_id = roles.id
            WHERE users.id = ? GROUP BY users.id";
        Ok(db.prepare_cached(sql)?.query_row([user], |row| {
            let permissions: Option<String> = row.get(5)?;
            Ok(json!({
                "name": row.get::<_, String>(0)?,
                "display_name": row.get::<_, String>(1)?,
                "email": row.get::<_, String>(2)?,
                "team": row.get::<_, String>(3)?,
                "role": row.get::<_, String>(4)?,
                "permissions": permissions.iter().flat_map(|all| all.split(' ')).collect::<Vec<_>>(),
            }))
        })?)
    });
    profile.await
}
