//! The application: its routes and what they share. It knows nothing of how it is served, or of what stands in front of it.

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

/// What the handlers work with.
pub(crate) struct Backend {
    pub(crate) db: Db,
    pub(crate) buckets: Arc<Buckets>,
    pub(crate) calls: Calls,
}

pub(crate) type Shared = Arc<Backend>;

/// The routes over a backend.
pub(crate) fn app(backend: Shared) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/auth/login", post(auth::login))
        .route("/auth/logout", post(auth::logout))
        .route("/auth/user", get(auth::who_am_i).patch(auth::change_profile))
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
        .fallback(async || Error::NotFound("there is nothing here; `/` names what there is".into()))
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

/// How often each handler has been called. It is counted here, inside of any cache, so nothing that a cache answers is in it.
#[derive(Default)]
pub(crate) struct Calls(Mutex<BTreeMap<String, u64>>);

impl Calls {
    /// Calls by `METHOD /route/{as}/{declared}`.
    pub(crate) fn so_far(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn count(State(backend): State<Shared>, path: MatchedPath, request: Request, next: Next) -> Response {
    let route = format!("{} {}", request.method(), path.as_str());
    *backend.calls.0.lock().unwrap_or_else(PoisonError::into_inner).entry(route).or_default() += 1;
    next.run(request).await
}
