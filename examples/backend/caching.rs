//! Where the cache joins the application. Everything else in this directory would be the same without it.
//!
//! | read | key | lives | cleared by |
//! |---|---|---|---|
//! | `/auth/user` | path, hash of the token | 30 min | logout of that session; a change of that account |
//! | `/tables/{table}` | path, query | 60–300 s | insert: lists that could show the row; update, delete: the table |
//! | `/storage/{bucket}` | path, query | 5 min | upload, move, delete in that bucket |

use std::time::Duration;

use axum::{
    Extension, Router,
    response::{IntoResponse, Response},
};
use tower_response_cache::{
    CacheLayer, CachePolicy, Identity, InvalidateLayer, Invalidations, Namespace, RequestView, RouteAndQuery, Rule, Rules,
    Store,
};

use super::{query, schema::Table};

const MINUTE: Duration = Duration::from_secs(60);

/// The application, with a cache in front.
pub(crate) fn cached(app: Router, store: &impl Store) -> Router {
    let rules = rules();
    app.layer(CacheLayer::new(store.clone()).rules(rules.clone()).cache_status("tower-response-cache"))
        .layer(InvalidateLayer::new(store.clone()).rules(rules))
}

/// What is cached, and what clears it even if its handler says nothing: if it fails, or panics.
fn rules() -> Rules {
    // No handler asks by which name it was reached, so that processes on several ports share what they store.
    let key = || RouteAndQuery.without_host();
    let who_am_i = Rule::ttl(30 * MINUTE).key(key()).identity(Identity::bearer()).namespace("auth:user:{identity}");
    let logout = Rule::uncached().identity(Identity::bearer()).invalidates("auth:user:{identity}");
    let table = Rule::ttl_by(lifetime).key(key()).jitter(0.1).namespace("db_query:{table}").namespaces_by(namespaces);
    let row = Rule::uncached().invalidates("db_query:{table}").invalidates("db_query:joined");
    let list = Rule::ttl(5 * MINUTE).key(key()).stale_if_error(60 * MINUTE).namespace("storage:list:{bucket}");
    Rules::new()
        .route("/auth/user", who_am_i)
        .route("/auth/logout", logout)
        .route("/tables/{table}", table)
        .route("/tables/{table}/{id}", row)
        .route("/storage/{bucket}", list)
        .route("/storage/{bucket}/{*path}", Rule::uncached().invalidates("storage:list:{bucket}"))
}

fn lifetime(request: &RequestView<'_>) -> Duration {
    Table::named(request.param("table")).map_or(MINUTE, |table| table.lifetime)
}

fn namespaces(request: &RequestView<'_>) -> Vec<Namespace> {
    parsed(query::namespaces(request.param("table"), request.query().unwrap_or_default()))
}

/// The name of a namespace, its levels made safe.
pub(crate) fn name(levels: &[&str]) -> String {
    Namespace::of(levels).to_string()
}

fn parsed(names: Vec<String>) -> Vec<Namespace> {
    names.into_iter().map(|name| Namespace::new(name).expect("made by `name`")).collect()
}

/// The answer to a read, and what it hangs on that only its handler knows.
pub(crate) fn reads(response: impl IntoResponse, namespaces: Vec<String>) -> Response {
    let hints = parsed(namespaces).into_iter().fold(CachePolicy::new(), CachePolicy::namespace);
    (Extension(hints), response).into_response()
}

/// The answer to a write, and what it has made old: that and nothing else.
pub(crate) fn wrote(response: impl IntoResponse, namespaces: Vec<String>) -> Response {
    (Extension(Invalidations::only(parsed(namespaces))), response).into_response()
}
