//! `/tables/{table}`: rows or statistics, and inserts, updates and deletes.
//!
//! Reads need no account. An insert invalidates the lists that could contain the new row, an update or a delete the whole table.

use axum::{
    Json,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::Response,
};
use serde_json::{Map, Value, json};

use super::{
    app::Shared,
    caching,
    db::{Db, Row, Sql, Statement, parameters},
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
    let answer = match table_query.stats {
        Some(group) => stats::by_column(&backend.db, &table_query, group).await,
        None => page(&backend.db, &table_query).await,
    };
    answer.map(Json)
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
    let (names, values): (Vec<_>, Vec<_>) = row.into_iter().map(|(column, value)| (column.name, value)).unzip();
    let (list, marks) = (names.join(", "), parameters(1, names.len()));
    let insert = Statement::new(format!("INSERT INTO {} ({list}) VALUES ({marks}) RETURNING *", table.name), values);
    let inserted = backend.db.write(insert).await?.pop().map_or(Value::Null, Row::into_json);
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
    let place = changes.len() + 1;
    let settings: Vec<_> = (1..place).zip(&changes).map(|(at, (column, _))| format!("{} = ${at}", column.name)).collect();
    let sql = format!("UPDATE {} SET {} WHERE id = ${place} RETURNING *", table.name, settings.join(", "));
    let values: Vec<_> = changes.into_iter().map(|(_, value)| value).chain([id.into()]).collect();
    let updated = backend.db.write(Statement::new(sql, values)).await?.pop();
    let updated = updated.map(Row::into_json).ok_or_else(|| no_such_row(table, id))?;
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
    let delete = Statement::new(format!("DELETE FROM {} WHERE id = $1 RETURNING id", table.name), [id.into()]);
    match backend.db.write(delete).await?.is_empty() {
        true => Err(no_such_row(table, id)),
        false => Ok(caching::with_invalidations(StatusCode::NO_CONTENT, query::whole_table(table.name))),
    }
}

/// Returns a page of rows and the number of all rows, from one snapshot.
async fn page(db: &Db, table_query: &TableQuery) -> Result<Value, Error> {
    let (table, clause, order) = (table_query.table.name, table_query.clause(), &table_query.order);
    let count = Statement::new(format!("SELECT count(*) FROM {table}{clause}"), table_query.values());
    let mut values = table_query.values();
    values.extend([table_query.limit, table_query.offset].map(Sql::from));
    let (limit, offset) = (values.len() - 1, values.len());
    let sql = format!("SELECT * FROM {table}{clause} ORDER BY {order} LIMIT ${limit} OFFSET ${offset}");
    let [total, rows] = db.snapshot([count, Statement::new(sql, values)]).await?;
    let total: Vec<i64> = total.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
    let rows: Vec<_> = rows.into_iter().map(Row::into_json).collect();
    Ok(json!({ "table": table, "total": total.first(), "rows": rows }))
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
