//! Accounts: login, logout, and reading and changing one's profile.
//!
//! A token is `{session}.{secret}`. The database stores a slow salted hash of the secret, as of a password, so that a stolen database
//! contains no usable token. Verifying a token therefore takes milliseconds of processor time. The cache avoids this work.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use serde_json::{Value, json};

use super::{
    app::Shared,
    caching,
    db::{Sql, Statement, blocking},
    error::{Error, bad_request},
    extract::JsonObject,
    hash::{SecretHash, random_hex},
    session::Session,
};

/// `POST /auth/login`
pub(crate) async fn login(State(backend): State<Shared>, body: JsonObject) -> Result<Json<Value>, Error> {
    let (name, password) = (body.string("name")?.to_owned(), body.string("password")?.to_owned());
    let account = Statement::new("SELECT id, salt, hash FROM users WHERE name = $1", [name.into()]);
    // An unknown name takes as long as a wrong password.
    let (user, stored) = match backend.db.read(account).await?.pop() {
        Some(row) => (Some(row.get::<i64>(0)?), SecretHash { salt: row.get(1)?, hash: row.get(2)? }),
        None => (None, SecretHash { salt: [0; 16], hash: [0; 32] }),
    };
    let secret = random_hex();
    let text = secret.clone();
    let (right, hash) = blocking(move || Ok((stored.matches(&password), SecretHash::new(&text)))).await?;
    let user = user.filter(|_| right).ok_or(Error::Unauthorized("wrong name or password"))?;

    let session = random_hex();
    let token = format!("{session}.{secret}");
    let values: [Sql; 4] = [session.into(), user.into(), hash.salt.to_vec().into(), hash.hash.to_vec().into()];
    let open = Statement::new("INSERT INTO sessions (id, user_id, salt, hash) VALUES ($1, $2, $3, $4)", values);
    backend.db.write(open).await?;
    Ok(Json(json!({ "token": token })))
}

/// `POST /auth/logout`
pub(crate) async fn logout(State(backend): State<Shared>, session: Session) -> Result<Response, Error> {
    let [this_session, _] = session.namespaces();
    backend.db.write(Statement::new("DELETE FROM sessions WHERE id = $1", [session.id.into()])).await?;
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
    let sql = "UPDATE users SET display_name = coalesce($1, display_name), email = coalesce($2, email) WHERE id = $3";
    backend.db.write(Statement::new(sql, [name.into(), email.into(), session.user.into()])).await?;
    let [_, account] = session.namespaces();
    Ok(caching::with_invalidations(Json(profile(&backend, session.user).await?), vec![account]))
}

async fn profile(backend: &Shared, user: i64) -> Result<Value, Error> {
    let sql = "SELECT users.name, display_name, email, teams.name, roles.name, string_agg(permissions.name, ' ' ORDER BY permissions.name)
        FROM users JOIN teams ON teams.id = team_id JOIN roles ON roles.id = users.role_id
        LEFT JOIN permissions ON permissions.role_id = roles.id
        WHERE users.id = $1 GROUP BY users.id, teams.id, roles.id";
    let row = backend.db.read(Statement::new(sql, [user.into()])).await?.pop();
    let row = row.ok_or_else(|| Error::Internal(format!("no account {user}")))?;
    let permissions: Option<String> = row.get(5)?;
    Ok(json!({
        "name": row.get::<String>(0)?,
        "display_name": row.get::<String>(1)?,
        "email": row.get::<String>(2)?,
        "team": row.get::<String>(3)?,
        "role": row.get::<String>(4)?,
        "permissions": permissions.iter().flat_map(|all| all.split(' ')).collect::<Vec<_>>(),
    }))
}
