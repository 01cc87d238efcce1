//! The initial data: the tables of `data/`, accounts, and files made from the tables.
//!
//! The tables and accounts are inserted in one transaction if the database is new, and the files are written if their directory is new.

use std::{collections::BTreeMap, io, sync::Arc};

use flate2::read::GzDecoder;

use super::{
    buckets::{Buckets, ObjectName},
    db::{Db, Dialect, Sql, Statement, blocking, parameters},
    error::Error,
    hash::SecretHash,
    schema::{TABLES, Table},
};

/// The number of accounts: `user0`, `user1` and so on. [`password`] returns their passwords.
pub(crate) const USERS: usize = 24;

/// The number of rows that one statement inserts.
const ROWS: usize = 50;

/// Returns whether the account may write. Every fourth account may only read.
pub(crate) fn may_write(user: usize) -> bool {
    user % 4 != 3
}

pub(crate) fn password(user: usize) -> String {
    format!("demo-password-{user}")
}

/// Fills the database and the buckets if they are new.
pub(crate) async fn fill(db: &Db, buckets: Arc<Buckets>) -> Result<(), Error> {
    let _lock = db.fill_lock().await?;
    if !db.has_table("users").await? {
        let mut statements = Vec::new();
        for table in &TABLES {
            import(db.dialect(), table, &mut statements)?;
        }
        accounts(db.dialect(), &mut statements);
        db.write_all(statements).await?;
    }
    if !buckets.are_filled() {
        reports(db, &buckets, "flights", "carrier", "day").await?;
        reports(db, &buckets, "weather", "origin", "day").await?;
        reports(db, &buckets, "planes", "manufacturer", "engines").await?;
        buckets.set_filled()?;
    }
    Ok(())
}

fn import(dialect: &Dialect, table: &Table, statements: &mut Vec<Statement>) -> Result<(), Error> {
    let columns = table.columns.iter().map(|column| {
        let null = if column.required { " NOT NULL" } else { "" };
        format!("{} {}{null}", column.name, column.kind.sql(dialect))
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    let unique = if table.unique.is_empty() { String::new() } else { format!(", UNIQUE ({})", table.unique.join(", ")) };
    let create = format!("CREATE TABLE {} (id {}, {columns}{unique})", table.name, dialect.id);
    statements.push(Statement::new(create, []));

    // No field of these files is quoted.
    let file = io::read_to_string(GzDecoder::new(table.rows))?;
    let mut records = file.lines().map(|line| line.split(','));
    let order: Vec<_> = records.next().into_iter().flatten().map(|name| table.column(name)).collect::<Result<_, _>>()?;
    let names: Vec<_> = order.iter().map(|column| column.name).collect();
    let rows = records.map(|record| {
        let values = record.zip(&order).map(|field| match field {
            ("NA", _) => Ok(Sql::Null),
            (text, column) => column.parse(text),
        });
        values.collect::<Result<Vec<_>, _>>()
    });
    insert(table.name, &names, rows.collect::<Result<_, _>>()?, statements);
    Ok(())
}

fn accounts(dialect: &Dialect, statements: &mut Vec<Statement>) {
    let Dialect { id, text, .. } = dialect;
    for table in [
        format!("teams (id {id}, name {text} NOT NULL)"),
        format!("roles (id {id}, name {text} NOT NULL, may_write BIGINT NOT NULL)"),
        format!("permissions (role_id BIGINT NOT NULL REFERENCES roles, name {text} NOT NULL, PRIMARY KEY (role_id, name))"),
        format!(
            "users (id {id}, name {text} NOT NULL UNIQUE, display_name {text} NOT NULL, email {text} NOT NULL,
                team_id BIGINT NOT NULL REFERENCES teams, role_id BIGINT NOT NULL REFERENCES roles,
                salt BYTEA NOT NULL, hash BYTEA NOT NULL)"
        ),
        format!(
            "sessions (id {text} PRIMARY KEY, user_id BIGINT NOT NULL REFERENCES users, salt BYTEA NOT NULL, hash BYTEA NOT NULL)"
        ),
    ] {
        statements.push(Statement::new(format!("CREATE TABLE {table}"), []));
    }
    // The ids are 1, 2 and 3.
    for rows in [
        "teams (name) VALUES ('Ramp'), ('Gate'), ('Tower')",
        "roles (name, may_write) VALUES ('editor', 1), ('reader', 0)",
        "permissions VALUES (1, 'tables:read'), (1, 'tables:write'), (1, 'storage:write'), (2, 'tables:read')",
    ] {
        statements.push(Statement::new(format!("INSERT INTO {rows}"), []));
    }
    let users = (0..USERS).map(|user| {
        let SecretHash { salt, hash } = SecretHash::new(&password(user));
        let (name, display_name) = (format!("user{user}"), format!("User {user}"));
        let email = format!("{name}@example.com");
        let (team, role) = (user as i64 % 3 + 1, if may_write(user) { 1 } else { 2 });
        vec![
            name.into(),
            display_name.into(),
            email.into(),
            team.into(),
            role.into(),
            salt.to_vec().into(),
            hash.to_vec().into(),
        ]
    });
    let columns = ["name", "display_name", "email", "team_id", "role_id", "salt", "hash"];
    insert("users", &columns, users.collect(), statements);
}

/// Adds statements that insert rows, some in each.
fn insert(table: &str, columns: &[&str], rows: Vec<Vec<Sql>>, statements: &mut Vec<Statement>) {
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let some: Vec<_> = rows.by_ref().take(ROWS).collect();
        let marks = (0..some.len()).map(|row| format!("({})", parameters(row * columns.len() + 1, columns.len())));
        let (names, marks) = (columns.join(", "), marks.collect::<Vec<_>>().join(", "));
        let sql = format!("INSERT INTO {table} ({names}) VALUES {marks}");
        statements.push(Statement::new(sql, some.into_iter().flatten().collect::<Vec<_>>()));
    }
}

/// Makes a bucket of the table, with one CSV file for each pair of values: `flights/UA/07.csv`.
async fn reports(db: &Db, buckets: &Arc<Buckets>, table: &'static str, folder: &str, file: &str) -> Result<(), Error> {
    let sql = format!("SELECT {folder}, {file}, id FROM {table} ORDER BY id");
    let rows = db.read(Statement::new(sql, [])).await?;
    let buckets = Arc::clone(buckets);
    let write = move || {
        buckets.create(table)?;
        let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in &rows {
            let line = [row.get(2)?, row.get::<Sql>(0)?, row.get(1)?].each_ref().map(text);
            let name = format!("{}/{:0>2}.csv", line[1].replace(' ', "-"), line[2]);
            files.entry(name).or_default().push(line.join(","));
        }
        for (name, lines) in files {
            buckets.write(&ObjectName::new(table, &name)?, lines.join("\n").as_bytes())?;
        }
        Ok(())
    };
    blocking(write).await
}

fn text(value: &Sql) -> String {
    match value {
        Sql::Integer(number) => number.to_string(),
        Sql::Text(text) => text.clone(),
        Sql::Real(_) | Sql::Null | Sql::Blob(_) => String::new(),
    }
}
