//! The initial data: the tables of `data/`, accounts, and files made from the tables.
//!
//! They are inserted in one transaction if the database is new.

use std::{io, sync::Arc};

use flate2::read::GzDecoder;
use rusqlite::{Connection, Transaction, params, params_from_iter, types::Value as Sql};

use super::{
    buckets::{Buckets, ObjectName},
    db::Db,
    error::Error,
    hash::SecretHash,
    schema::{TABLES, Table},
};

/// The number of accounts: `user0`, `user1` and so on. [`password`] returns their passwords.
pub(crate) const USERS: usize = 24;

const ACCOUNTS: &str = "
    CREATE TABLE teams (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
    CREATE TABLE roles (id INTEGER PRIMARY KEY, name TEXT NOT NULL, may_write INTEGER NOT NULL);
    CREATE TABLE permissions (role_id INTEGER NOT NULL REFERENCES roles, name TEXT NOT NULL);
    CREATE TABLE users (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, display_name TEXT NOT NULL, email TEXT NOT NULL,
        team_id INTEGER NOT NULL REFERENCES teams, role_id INTEGER NOT NULL REFERENCES roles,
        salt BLOB NOT NULL, hash BLOB NOT NULL
    );
    CREATE TABLE sessions (
        id TEXT PRIMARY KEY, user_id INTEGER NOT NULL REFERENCES users, salt BLOB NOT NULL, hash BLOB NOT NULL
    );
    INSERT INTO teams (name) VALUES ('Ramp'), ('Gate'), ('Tower');
    INSERT INTO roles (name, may_write) VALUES ('editor', 1), ('reader', 0);
    INSERT INTO permissions VALUES (1, 'tables:read'), (1, 'tables:write'), (1, 'storage:write'), (2, 'tables:read');
";

/// Returns whether the account may write. Every fourth account may only read.
pub(crate) fn may_write(user: usize) -> bool {
    user % 4 != 3
}

pub(crate) fn password(user: usize) -> String {
    format!("demo-password-{user}")
}

/// Fills the database and the buckets if they are new.
pub(crate) async fn fill(db: &Db, buckets: Arc<Buckets>) -> Result<(), Error> {
    let version = db.run(|db| Ok(db.query_row("PRAGMA user_version", [], |row| row.get(0))?));
    let version: i64 = version.await?;
    if version != 0 {
        return Ok(());
    }
    db.write(move |db| {
        for table in &TABLES {
            import(db, table)?;
        }
        accounts(db)?;
        reports(db, &buckets, "flights", "carrier", "day")?;
        reports(db, &buckets, "weather", "origin", "day")?;
        reports(db, &buckets, "planes", "manufacturer", "engines")?;
        Ok(db.execute_batch("PRAGMA user_version = 1")?)
    })
    .await
}

fn import(db: &Transaction<'_>, table: &Table) -> Result<(), Error> {
    let columns = table.columns.iter().map(|column| {
        let null = if column.required { " NOT NULL" } else { "" };
        format!("{} {}{null}", column.name, column.kind.sql())
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    let unique = if table.unique.is_empty() { String::new() } else { format!(", UNIQUE ({})", table.unique.join(", ")) };
    // With AUTOINCREMENT the id of a deleted row is never used again.
    let create = format!("CREATE TABLE {} (id INTEGER PRIMARY KEY AUTOINCREMENT, {columns}{unique})", table.name);
    db.execute_batch(&create)?;

    // No field of these files is quoted.
    let file = io::read_to_string(GzDecoder::new(table.rows))?;
    let mut records = file.lines().map(|line| line.split(','));
    let order: Vec<_> = records.next().into_iter().flatten().map(|name| table.column(name)).collect::<Result<_, _>>()?;
    let names: Vec<_> = order.iter().map(|column| column.name).collect();
    let marks = vec!["?"; names.len()].join(", ");
    let mut insert = db.prepare(&format!("INSERT INTO {} ({}) VALUES ({marks})", table.name, names.join(", ")))?;
    for record in records {
        let values = record.zip(&order).map(|field| match field {
            ("NA", _) => Ok(Sql::Null),
            (text, column) => column.parse(text),
        });
        insert.execute(params_from_iter(values.collect::<Result<Vec<_>, _>>()?))?;
    }
    Ok(())
}

fn accounts(db: &Transaction<'_>) -> Result<(), Error> {
    db.execute_batch(ACCOUNTS)?;
    let sql = "INSERT INTO users (name, display_name, email, team_id, role_id, salt, hash)
        SELECT ?, ?, ?, teams.id, roles.id, ?, ? FROM teams, roles WHERE teams.name = ? AND roles.name = ?";
    let mut insert = db.prepare(sql)?;
    for user in 0..USERS {
        let SecretHash { salt, hash } = SecretHash::new(&password(user));
        let team = ["Ramp", "Gate", "Tower"][user % 3];
        let role = if may_write(user) { "editor" } else { "reader" };
        let (name, print_exchange) = (format!("user{user}"), format!("User {user}"));
        let email = format!("{name}@example.com");
        insert.execute(params![name, print_exchange, email, salt, hash, team, role])?;
    }
    Ok(())
}

/// Makes a bucket of the table, with one CSV file for each pair of values: `flights/UA/07.csv`.
fn reports(db: &Connection, buckets: &Buckets, table: &str, folder: &str, file: &str) -> Result<(), Error> {
    buckets.create(table)?;
    let sql = format!(
        "SELECT replace({folder}, ' ', '-'), printf('%02d', {file}), group_concat(concat_ws(',', id, {folder}, {file}), char(10))
         FROM {table} GROUP BY {folder}, {file}"
    );
    let mut select = db.prepare(&sql)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (folder, file): (String, String) = (row.get(0)?, row.get(1)?);
        let (name, content): (_, String) = (format!("{folder}/{file}.csv"), row.get(2)?);
        buckets.write(&ObjectName::new(table, &name)?, content.as_bytes())?;
    }
    Ok(())
}
