//! The database: SQLite, or PostgreSQL with `--postgres`.
//!
//! Statements are written once for both; [`Dialect`] has the rest. Parameters are `$1`, `$2` and so on, in the order of their first
//! use, because SQLite numbers such names in that order.

#[cfg(feature = "postgres")]
mod postgres;
mod sqlite;

use std::path::Path;

use rusqlite::types::FromSql;
use serde_json::Value;

use super::error::Error;

/// A value of a row or of a parameter.
pub(crate) use rusqlite::types::Value as Sql;

/// A pool of connections. Clones share the pool.
#[derive(Clone)]
pub(crate) enum Db {
    Sqlite(sqlite::Pool),
    #[cfg(feature = "postgres")]
    Postgres(postgres::Pool),
}

/// The parts of SQL that differ between the databases.
pub(crate) struct Dialect {
    /// The type of a primary key. The key of a deleted row is never used again.
    pub(crate) id: &'static str,
    /// The type of a text, which is ordered by its bytes.
    pub(crate) text: &'static str,
    /// Counts the tables with a name.
    tables: &'static str,
}

/// The right to fill a database that other processes may fill as well. It ends when it is dropped.
pub(crate) struct FillLock {
    #[cfg(feature = "postgres")]
    _held: Option<postgres::Lock>,
}

/// A statement and the values of its parameters.
pub(crate) struct Statement {
    sql: String,
    values: Vec<Sql>,
}

/// A row: the names of the columns and the values.
pub(crate) struct Row(Vec<(String, Sql)>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl Db {
    /// Opens the file of an SQLite database, and creates the file if it is absent.
    pub(crate) fn open(file: &Path, connections: u32) -> Result<Self, Error> {
        sqlite::Pool::open(file, connections).map(Self::Sqlite)
    }

    /// Connects to a PostgreSQL database: `postgres://user[:password]@host[:port]/database`.
    #[cfg(feature = "postgres")]
    pub(crate) async fn connect(url: &str, connections: u32) -> Result<Self, Error> {
        postgres::Pool::connect(url, connections).await.map(Self::Postgres)
    }

    pub(crate) fn dialect(&self) -> &'static Dialect {
        match self {
            Self::Sqlite(_) => &sqlite::DIALECT,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => &postgres::DIALECT,
        }
    }

    /// Waits until no other process fills the database. Processes over SQLite share the directory of the file, and its lock.
    pub(crate) async fn fill_lock(&self) -> Result<FillLock, Error> {
        Ok(FillLock {
            #[cfg(feature = "postgres")]
            _held: match self {
                Self::Sqlite(_) => None,
                Self::Postgres(pool) => Some(pool.lock().await?),
            },
        })
    }

    pub(crate) async fn has_table(&self, name: &str) -> Result<bool, Error> {
        let rows = self.read(Statement::new(self.dialect().tables, [name.to_owned().into()])).await?;
        Ok(rows.first().map(|row| row.get::<i64>(0)).transpose()? > Some(0))
    }

    /// Runs a read, and returns its rows.
    pub(crate) async fn read(&self, statement: Statement) -> Result<Vec<Row>, Error> {
        let [rows] = self.snapshot([statement]).await?;
        Ok(rows)
    }

    /// Runs reads that see one state of the database, and returns the rows of each.
    pub(crate) async fn snapshot<const N: usize>(&self, statements: [Statement; N]) -> Result<[Vec<Row>; N], Error> {
        let rows = self.run(Access::Read, statements.into()).await?;
        rows.try_into().map_err(|_| Error::Internal("a statement has no result".into()))
    }

    /// Runs a write, and returns the rows of its `RETURNING`.
    pub(crate) async fn write(&self, statement: Statement) -> Result<Vec<Row>, Error> {
        Ok(self.run(Access::Write, vec![statement]).await?.pop().unwrap_or_default())
    }

    /// Runs writes in one transaction.
    pub(crate) async fn write_all(&self, statements: Vec<Statement>) -> Result<(), Error> {
        self.run(Access::Write, statements).await.map(drop)
    }

    /// Runs statements in one transaction, also to its end if the future is dropped because the client disconnects.
    async fn run(&self, access: Access, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, Error> {
        match self {
            Self::Sqlite(pool) => pool.run(access, statements).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(pool) => pool.run(access, statements).await,
        }
    }
}

impl Statement {
    pub(crate) fn new(sql: impl Into<String>, values: impl Into<Vec<Sql>>) -> Self {
        Self { sql: sql.into(), values: values.into() }
    }
}

impl Row {
    /// Returns the value of a column, by its place.
    pub(crate) fn get<T: FromSql>(&self, column: usize) -> Result<T, Error> {
        let (name, value) = self.0.get(column).ok_or_else(|| Error::Internal(format!("the row has no column {column}")))?;
        T::column_result(value.into()).map_err(|error| Error::Internal(format!("column {name}: {error}")))
    }

    /// Returns the row with its measurements rounded to `digits` behind the point. The databases round differently.
    pub(crate) fn rounded(mut self, digits: i32) -> Self {
        let unit = 10_f64.powi(digits);
        for (_, value) in &mut self.0 {
            if let Sql::Real(number) = value {
                *number = (*number * unit).round() / unit;
            }
        }
        self
    }

    /// Converts the row to a JSON object.
    pub(crate) fn into_json(self) -> Value {
        let member = |(name, value)| {
            let value = match value {
                Sql::Integer(number) => number.into(),
                Sql::Real(number) => number.into(),
                Sql::Text(text) => text.into(),
                Sql::Null | Sql::Blob(_) => Value::Null,
            };
            (name, value)
        };
        Value::Object(self.0.into_iter().map(member).collect())
    }
}

/// Returns `$first, …`, one parameter for each of `count` values.
pub(crate) fn parameters(first: usize, count: usize) -> String {
    (first..first + count).map(|number| format!("${number}")).collect::<Vec<_>>().join(", ")
}

/// Runs work that blocks a thread for milliseconds, without delaying other requests.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::Internal(error.to_string())))
}
