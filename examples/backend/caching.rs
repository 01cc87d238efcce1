//! Where the cache joins the application. Everything else in this directory would be the same without it.

use axum::{
    Router,
    response::{IntoResponse, Response},
};

/// The application, with a cache of so many bytes in front.
pub(crate) fn cached(app: Router, memory: usize) -> Router {
    let _ = memory;
    app
}

/// The answer to a read, and what it hangs on that only its handler knows.
pub(crate) fn reads(response: impl IntoResponse, namespaces: Vec<String>) -> Response {
    let _ = namespaces;
    response.into_response()
}

/// The answer to a write, and what it has made old.
pub(crate) fn wrote(response: impl IntoResponse, namespaces: Vec<String>) -> Response {
    let _ = namespaces;
    response.into_response()
}
