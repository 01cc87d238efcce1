//! A small pool of SQLite connections. Statements run on the blocking threads of Tokio.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, TransactionBehavior, params_from_iter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{super::error::Error, Access, Dialect, Row, Statement, blocking};

pub(super) const DIALECT: Dialect = Dialect {
    id: "INTEGER PRIMARY KEY AUTOINCREMENT",
    text: "TEXT",
    tables: "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = $1",
};

#[derive(Clone)]
pub(crate) struct Pool {
    idle: Arc<Mutex<Vec<Connection>>>,
    free: Arc<Semaphore>,
}

impl Pool {
    pub(super) fn open(file: &Path, connections: u32) -> Result<Self, Error> {
        let idle = (0..connections).map(|_| connect(file)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { free: Arc::new(Semaphore::new(idle.len())), idle: Arc::new(Mutex::new(idle)) })
    }

    /// Waits for a free connection and runs statements in a transaction.
    pub(super) async fn run(&self, access: Access, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, Error> {
        let permit = Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed");
        let mut loan = PooledConnection::take(Arc::clone(&self.idle), permit);
        // With a deferred transaction, a writer that waits for the lock would fail at its first change.
        let behavior = match access {
            Access::Read => TransactionBehavior::Deferred,
            Access::Write => TransactionBehavior::Immediate,
        };
        let whole = move || {
            let transaction = loan.connection().transaction_with_behavior(behavior)?;
            let rows = statements.iter().map(|statement| rows(&transaction, statement)).collect::<Result<_, _>>()?;
            transaction.commit()?;
            Ok(rows)
        };
        blocking(whole).await
    }
}

fn rows(db: &Connection, Statement { sql, values }: &Statement) -> Result<Vec<Row>, Error> {
    let mut prepared = db.prepare_cached(sql)?;
    let names: Vec<_> = prepared.column_names().map(str::to_owned).collect();
    let row = |row: &rusqlite::Row<'_>| {
        let values = names.iter().enumerate().map(|(column, name)| Ok((name.clone(), row.get(column)?)));
        values.collect::<rusqlite::Result<_>>().map(Row)
    };
    Ok(prepared.query_map(params_from_iter(values), row)?.collect::<Result<_, _>>()?)
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

/// A connection that returns to the pool when it is dropped, also if the work panics.
struct PooledConnection {
    connection: Option<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
    // Dropped after `Drop::drop` below, so that the next task finds the connection in the pool.
    _permit: OwnedSemaphorePermit,
}

impl PooledConnection {
    fn take(idle: Arc<Mutex<Vec<Connection>>>, permit: OwnedSemaphorePermit) -> Self {
        let connection = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self { connection, idle, _permit: permit }
    }

    fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("there are as many permits as connections")
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(self.connection.take());
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::ConstraintViolation) => Self::Conflict("the row violates a constraint".into()),
            _ => Self::Internal(error.to_string()),
        }
    }
}
