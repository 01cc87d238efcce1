//! A small pool of SQLite connections. Queries run on the blocking threads of Tokio.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Error;

/// A handle of the pool. Clones share the pool.
#[derive(Clone)]
pub(crate) struct Db {
    idle: Arc<Mutex<Vec<Connection>>>,
    free: Arc<Semaphore>,
}

impl Db {
    /// Opens connections to the file, and creates the file if it is absent.
    pub(crate) fn open(file: &Path, connections: usize) -> Result<Self, Error> {
        let idle = (0..connections).map(|_| connect(file)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { idle: Arc::new(Mutex::new(idle)), free: Arc::new(Semaphore::new(connections)) })
    }

    /// Waits for a free connection and runs `work` with it.
    ///
    /// The work runs to its end even if the future is dropped because the client disconnects.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    {
        let permit = Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed");
        let mut loan = PooledConnection::take(Arc::clone(&self.idle), permit);
        blocking(move || work(loan.connection())).await
    }

    /// Runs `work` in a transaction, which is committed if the work succeeds and otherwise rolled back.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, Error> + Send + 'static,
    {
        let whole = |db: &mut Connection| {
            // With a deferred transaction, a writer that waits for the lock would fail at its first change.
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let outcome = work(&transaction)?;
            transaction.commit()?;
            Ok(outcome)
        };
        self.run(whole).await
    }
}

/// Runs work that blocks a thread for milliseconds, without delaying other requests.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::Internal(error.to_string())))
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
