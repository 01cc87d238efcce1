//! The application: its routes and their shared state. It does not depend on the server or on the cache.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    extract::{MatchedPath, Request, State},
    middleware::{self, Next},
    response::Response,
    routing::{get, patch, post},
};
use serde_json::{Value, json};

use super::{auth, buckets::Buckets, db::Db, error::Error, storage, tables};

/// State of the handlers.
pub(crate) struct Backend {
    pub(crate) db: Db,
    pub(crate) buckets: Arc<Buckets>,
    pub(crate) calls: Calls,
}

pub(crate) type Shared = Arc<Backend>;

/// Makes the router.
pub(crate) fn app(backend: Shared) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/auth/login", post(auth::login))
        .route("/auth/logout", post(auth::logout))
        .route("/auth/user", get(auth::current_user).patch(auth::change_profile))
        .route("/tables", get(tables::describe))
        .route("/tables/{table}", get(tables::list).post(tables::insert))
        .route("/tables/{table}/{id}", patch(tables::update).delete(tables::delete))
        .route("/storage/{bucket}", get(storage::list))
        .route(
            "/storage/{bucket}/{*path}",
            get(storage::download).put(storage::upload).post(storage::rename).delete(storage::delete),
        )
        .method_not_allowed_fallback(async || Error::MethodNotAllowed)
        .route_layer(middleware::from_fn_with_state(Arc::clone(&backend), count))
        .fallback(async || Error::NotFound("no such path: `/` lists the paths".into()))
        .with_state(backend)
}

/// `GET /`
async fn index() -> Json<Value> {
    Json(json!({
        "reads": ["/tables", "/tables/{table}?{column}={value}&sort=-{column}&limit=50", "/tables/flights?stats=carrier",
            "/storage/{bucket}?prefix=", "/storage/{bucket}/{path}", "/auth/user"],
        "writes": ["POST /auth/login", "POST /auth/logout", "PATCH /auth/user", "POST /tables/{table}",
            "PATCH /tables/{table}/{id}", "DELETE /tables/{table}/{id}", "PUT /storage/{bucket}/{path}",
            "POST /storage/{bucket}/{path}", "DELETE /storage/{bucket}/{path}"],
    }))
}

/// Counts the calls of each handler. The counter is inside any cache, so a hit is not counted.
#[derive(Default)]
pub(crate) struct Calls(Mutex<BTreeMap<String, u64>>);

impl Calls {
    /// Returns the calls by `METHOD /route/{pattern}`.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn count(State(backend): State<Shared>, path: MatchedPath, request: Request, next: Next) -> Response {
    let route = format!("{} {}", request.method(), path.as_str());
    *backend.calls.0.lock().unwrap_or_else(PoisonError::into_inner).entry(route).or_default() += 1;
    next.run(request).await
}
