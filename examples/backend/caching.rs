//! The cache of the application.
//!
//! | read | key | lifetime | invalidated by |
//! |---|---|---|---|
//! | `/auth/user` | path, hash of the token | 30 min | logout of the session, change of the account |
//! | `/tables/{table}` | path, query | 60–300 s | insert: the lists that could contain the row; update, delete: the table |
//! | `/storage/{bucket}` | path, query | 5 min | upload, move or delete in the bucket |

use std::time::Duration;

use axum::{
    Extension, Router,
    response::{IntoResponse, Response},
};
use tower_response_cache::{
    AnyStore, CachePolicy, Identity, Invalidations, Namespace, ResponseCache, RouteAndQuery, Rule,
    inspector::{Inspector, InspectorError},
    key::RequestView,
};

use super::{query, schema::Table};

const MINUTE: Duration = Duration::from_secs(60);

/// Makes the cache. The namespaces of a rule are invalidated even if the handler of a write fails or panics.
pub(crate) fn cache(store: impl Into<AnyStore>) -> ResponseCache {
    with_table_rule(store, |table| table)
}

/// Makes the cache. One hit in a hundred on a table is audited.
pub(crate) fn audited_cache(store: impl Into<AnyStore>) -> ResponseCache {
    with_table_rule(store, |table| table.audit(0.01))
}

fn with_table_rule(store: impl Into<AnyStore>, change: impl FnOnce(Rule) -> Rule) -> ResponseCache {
    // No handler reads `Host`, so processes on several ports can share entries.
    let key = || RouteAndQuery.without_host();
    let current_user = Rule::ttl(30 * MINUTE).key(key()).identity(Identity::bearer()).namespace("auth:user:{identity}");
    let logout = Rule::uncached().identity(Identity::bearer()).invalidates("auth:user:{identity}");
    let table = Rule::ttl_by(lifetime).key(key()).jitter(0.1).namespace("db_query:{table}").namespaces_by(namespaces);
    let row = Rule::uncached().invalidates("db_query:{table}").invalidates("db_query:joined");
    let list = Rule::ttl(5 * MINUTE).key(key()).stale_if_error(60 * MINUTE).namespace("storage:list:{bucket}");
    ResponseCache::new(store)
        .cache_status("tower-response-cache")
        .track_hottest(100)
        .route("/auth/login", Rule::uncached().invalidates_nothing())
        .route("/auth/user", current_user)
        .route("/auth/logout", logout)
        .route("/tables/{table}", change(table))
        .route("/tables/{table}/{id}", row)
        .route("/storage/{bucket}", list)
        .route("/storage/{bucket}/{*path}", Rule::uncached().invalidates("storage:list:{bucket}"))
}

/// Serves the Inspector of the cache at `/_cache`, outside of the cache, if there is a token.
pub(crate) fn with_inspector(app: Router, cache: &ResponseCache, token: Option<&str>) -> Result<Router, InspectorError> {
    let Some(token) = token else { return Ok(app) };
    let inspector = Inspector::builder(cache.clone()).token(token).build()?;
    Ok(app.nest_service("/_cache", inspector))
}

fn lifetime(request: &RequestView<'_>) -> Duration {
    Table::named(request.param("table")).map_or(MINUTE, |table| table.lifetime)
}

fn namespaces(request: &RequestView<'_>) -> Vec<Namespace> {
    parsed(query::namespaces(request.param("table"), request.query().unwrap_or_default()))
}

/// Returns the name of a namespace with these levels, each of them encoded.
pub(crate) fn namespace(levels: &[&str]) -> String {
    Namespace::of(levels).to_string()
}

fn parsed(names: Vec<String>) -> Vec<Namespace> {
    names.into_iter().map(|name| Namespace::new(name).expect("made by `namespace`")).collect()
}

/// Adds namespaces that only the handler knows to the response to a read.
pub(crate) fn with_namespaces(response: impl IntoResponse, namespaces: Vec<String>) -> Response {
    let policy = parsed(namespaces).into_iter().fold(CachePolicy::new(), CachePolicy::namespace);
    (Extension(policy), response).into_response()
}

/// Replaces the namespaces that the response to a write invalidates.
pub(crate) fn with_invalidations(response: impl IntoResponse, namespaces: Vec<String>) -> Response {
    (Extension(Invalidations::only(parsed(namespaces))), response).into_response()
}
