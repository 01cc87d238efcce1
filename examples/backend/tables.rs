//! `/tables/{table}`: rows or statistics, and inserts, updates and deletes.
//!
//! Reads need no account. An insert invalidates the lists that could contain the new row, an update or a delete the whole table.

use axum::{
    Json,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::Response,
};
use rusqlite::{
    Connection, Row, params_from_iter,
    types::{Value as Sql, ValueRef},
};
use serde_json::{Map, Value, json};

use super::{
    app::Shared,
    caching,
    error::{Error, bad_request},
    extract::{JsonObject, PathParams},
    query::{self, TableQuery},
    schema::{Column, TABLES, Table},
    session::Session,
    stats,
};

/// `GET /tables`
pub(crate) async fn describe() -> Json<Value> {
    let tables = TABLES.iter().map(|table| {
        let columns = table.columns.iter().map(|column| (column.name.to_owned(), column.kind.describe().into()));
        json!({
            "name": table.name,
            "columns": columns.collect::<Map<_, _>>(),
            "stats_by": table.groups,
            "lifetime_seconds": table.lifetime.as_secs(),
        })
    });
    Json(json!({ "tables": tables.collect::<Vec<_>>() }))
}

/// `GET /tables/{table}`
pub(crate) async fn list(
    State(backend): State<Shared>,
    PathParams(table): PathParams<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Error> {
    let table_query = TableQuery::parse(Table::named(&table)?, query.as_deref().unwrap_or_default())?;
    let answer = backend.db.run(move |db| match table_query.stats {
        Some(group) => stats::by_column(db, &table_query, group),
        None => page(db, &table_query),
    });
    answer.await.map(Json)
}

/// `POST /tables/{table}`
pub(crate) async fn insert(
    State(backend): State<Shared>,
    PathParams(table): PathParams<String>,
    session: Session,
    body: JsonObject,
) -> Result<Response, Error> {
    session.may_write()?;
    let table = Table::named(&table)?;
    let row = columns_of(table, &body)?;
    if let Some(missing) =
        table.columns.iter().find(|column| column.required && !row.iter().any(|(c, _)| c.name == column.name))
    {
        return Err(bad_request(format!("`{}` is missing", missing.name)));
    }
    let affected_lists = query::affected_lists(table, &row);
    let inserted = backend.db.write(move |db| {
        let names: Vec<_> = row.iter().map(|(column, _)| column.name).collect();
        let marks = vec!["?"; names.len()].join(", ");
        let sql = format!("INSERT INTO {} ({}) VALUES ({marks}) RETURNING *", table.name, names.join(", "));
        Ok(db.prepare_cached(&sql)?.query_row(params_from_iter(row.iter().map(|(_, value)| value)), json_row)?)
    });
    let inserted = inserted.await?;
    let location = format!("/tables/{}/{}", table.name, inserted["id"]);
    Ok(caching::with_invalidations((StatusCode::CREATED, [(header::LOCATION, location)], Json(inserted)), affected_lists))
}

/// `PATCH /tables/{table}/{id}`
pub(crate) async fn update(
    State(backend): State<Shared>,
    PathParams((table, id)): PathParams<(String, String)>,
    session: Session,
    body: JsonObject,
) -> Result<Response, Error> {
    session.may_write()?;
    let (table, id) = (Table::named(&table)?, row_id(&id)?);
    let changes = columns_of(table, &body)?;
    let updated = backend.db.write(move |db| {
        let settings: Vec<_> = changes.iter().map(|(column, _)| format!("{} = ?", column.name)).collect();
        let sql = format!("UPDATE {} SET {} WHERE id = ? RETURNING *", table.name, settings.join(", "));
        let id = Sql::Integer(id);
        let values = changes.iter().map(|(_, value)| value).chain([&id]);
        Ok(db.prepare_cached(&sql)?.query_map(params_from_iter(values), json_row)?.next().transpose()?)
    });
    let updated = updated.await?.ok_or_else(|| no_such_row(table, id))?;
    Ok(caching::with_invalidations(Json(updated), query::whole_table(table.name)))
}

/// `DELETE /tables/{table}/{id}`
pub(crate) async fn delete(
    State(backend): State<Shared>,
    PathParams((table, id)): PathParams<(String, String)>,
    session: Session,
) -> Result<Response, Error> {
    session.may_write()?;
    let (table, id) = (Table::named(&table)?, row_id(&id)?);
    let sql = format!("DELETE FROM {} WHERE id = ?", table.name);
    match backend.db.write(move |db| Ok(db.prepare_cached(&sql)?.execute([id])?)).await? {
        0 => Err(no_such_row(table, id)),
        _ => Ok(caching::with_invalidations(StatusCode::NO_CONTENT, query::whole_table(table.name))),
    }
}

/// Returns a page of rows and the number of all rows, from one snapshot.
fn page(db: &mut Connection, table_query: &TableQuery) -> Result<Value, Error> {
    let (table, clause) = (table_query.table.name, table_query.clause());
    let snapshot = db.transaction()?;
    let total: i64 = snapshot
        .prepare_cached(&format!("SELECT count(*) FROM {table}{clause}"))?
        .query_row(params_from_iter(table_query.values()), |row| row.get(0))?;
    let (order, limit, offset) = (&table_query.order, table_query.limit, table_query.offset);
    let rows = snapshot
        .prepare_cached(&format!("SELECT * FROM {table}{clause} ORDER BY {order} LIMIT {limit} OFFSET {offset}"))?
        .query_map(params_from_iter(table_query.values()), json_row)?
        .collect::<Result<Vec<_>, _>>()?;
    Ok(json!({ "table": table, "total": total, "rows": rows }))
}

/// Converts a row to a JSON object.
pub(crate) fn json_row(row: &Row<'_>) -> rusqlite::Result<Value> {
    let names = row.as_ref().column_names().enumerate();
    let members = names.map(|(index, name)| {
        let value = match row.get_ref(index)? {
            ValueRef::Integer(number) => number.into(),
            ValueRef::Real(number) => number.into(),
            ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
            ValueRef::Null | ValueRef::Blob(_) => Value::Null,
        };
        Ok((name.to_owned(), value))
    });
    Ok(Value::Object(members.collect::<rusqlite::Result<_>>()?))
}

fn columns_of(table: &'static Table, body: &JsonObject) -> Result<Vec<(&'static Column, Sql)>, Error> {
    if body.0.is_empty() {
        return Err(bad_request("the body has no column"));
    }
    let pairs = body.0.iter().map(|(name, value)| {
        let column = table.column(name)?;
        Ok((column, column.accept(value)?))
    });
    pairs.collect()
}

fn row_id(text: &str) -> Result<i64, Error> {
    text.parse().map_err(|_| bad_request(format!("invalid id `{text}`: expected a whole number")))
}

fn no_such_row(table: &Table, id: i64) -> Error {
    Error::NotFound(format!("no row {id} in `{}`", table.name))
}
