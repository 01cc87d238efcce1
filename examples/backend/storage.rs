//! `/storage/{bucket}`: objects on disk. Lists need no account, uploads, moves and deletes need write permission.
//!
//! A list reads and hashes every object for its ETag. The cache avoids this work.

use axum::{
    Json,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    app::Shared,
    buckets::{ObjectInfo, ObjectName},
    caching,
    db::blocking,
    error::{Error, bad_request},
    extract::{BodyBytes, JsonObject, PathParams},
    session::Session,
};

/// `GET /storage/{bucket}?prefix=`
pub(crate) async fn list(
    State(backend): State<Shared>,
    PathParams(bucket): PathParams<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Error> {
    let mut prefix = String::new();
    for (name, value) in form_urlencoded::parse(query.as_deref().unwrap_or_default().as_bytes()) {
        match &*name {
            "prefix" => prefix = value.into_owned(),
            other => return Err(bad_request(format!("unknown parameter `{other}`: expected `prefix`"))),
        }
    }
    let list = blocking(move || {
        let objects = backend.buckets.list(&bucket, &prefix)?;
        let objects: Vec<_> = objects.iter().map(describe).collect();
        Ok(json!({ "bucket": bucket, "prefix": prefix, "objects": objects }))
    });
    list.await.map(Json)
}

/// `GET /storage/{bucket}/{path}`
pub(crate) async fn download(
    State(backend): State<Shared>,
    PathParams((bucket, path)): PathParams<(String, String)>,
) -> Result<Response, Error> {
    let name = ObjectName::new(&bucket, &path)?;
    let kind = if path.ends_with(".csv") { "text/csv; charset=utf-8" } else { "application/octet-stream" };
    let content = blocking(move || backend.buckets.read(&name)).await?;
    Ok(([(header::CONTENT_TYPE, kind)], content).into_response())
}

/// `PUT /storage/{bucket}/{path}`
pub(crate) async fn upload(
    State(backend): State<Shared>,
    PathParams((bucket, path)): PathParams<(String, String)>,
    session: Session,
    BodyBytes(content): BodyBytes,
) -> Result<Response, Error> {
    session.may_write()?;
    let name = ObjectName::new(&bucket, &path)?;
    let stored = blocking(move || backend.buckets.write(&name, &content)).await?;
    Ok(caching::with_invalidations((StatusCode::CREATED, Json(describe(&stored))), vec![list_of(&bucket)]))
}

/// `POST /storage/{bucket}/{path}` with `{"move_to": "other/path", "bucket": "other"}`, where `bucket` is optional.
///
/// A move to another bucket changes two lists. Only the handler knows the second one.
pub(crate) async fn rename(
    State(backend): State<Shared>,
    PathParams((bucket, path)): PathParams<(String, String)>,
    session: Session,
    body: JsonObject,
) -> Result<Response, Error> {
    session.may_write()?;
    let target = body.optional_string("bucket")?.unwrap_or(&bucket).to_owned();
    let (from, to) = (ObjectName::new(&bucket, &path)?, ObjectName::new(&target, body.string("move_to")?)?);
    blocking(move || backend.buckets.rename(&from, &to)).await?;
    let mut changed = vec![list_of(&bucket), list_of(&target)];
    changed.dedup();
    Ok(caching::with_invalidations(StatusCode::NO_CONTENT, changed))
}

/// `DELETE /storage/{bucket}/{path}`
pub(crate) async fn delete(
    State(backend): State<Shared>,
    PathParams((bucket, path)): PathParams<(String, String)>,
    session: Session,
) -> Result<Response, Error> {
    session.may_write()?;
    let name = ObjectName::new(&bucket, &path)?;
    blocking(move || backend.buckets.delete(&name)).await?;
    Ok(caching::with_invalidations(StatusCode::NO_CONTENT, vec![list_of(&bucket)]))
}

fn list_of(bucket: &str) -> String {
    caching::namespace(&["storage", "list", bucket])
}

fn describe(object: &ObjectInfo) -> Value {
    json!({ "path": object.path, "bytes": object.bytes, "etag": object.etag })
}
