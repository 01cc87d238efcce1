//! REST: `GET /airlines/{carrier}`, and `PUT` with the new name as plain text.

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::get,
};

use super::table::Table;

pub(crate) fn routes(table: Table) -> Router {
    Router::new().route("/airlines/{carrier}", get(read).put(write)).with_state(table)
}

async fn read(State(table): State<Table>, Path(carrier): Path<String>) -> Result<String, StatusCode> {
    table.name(&carrier).ok_or(StatusCode::NOT_FOUND)
}

async fn write(State(table): State<Table>, Path(carrier): Path<String>, name: String) -> StatusCode {
    match table.rename(&carrier, &name) {
        true => StatusCode::NO_CONTENT,
        false => StatusCode::NOT_FOUND,
    }
}
