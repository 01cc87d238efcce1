//! SQLite behind a small pool. A query runs on tokio's blocking threads, on one of a few connections that are never shared.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Error;

/// A handle to the pool; clones share it.
#[derive(Clone)]
pub(crate) struct Db {
    idle: Arc<Mutex<Vec<Connection>>>,
    free: Arc<Semaphore>,
}

impl Db {
    /// Opens `connections` connections to the file, which is created if it is absent.
    pub(crate) fn open(file: &Path, connections: usize) -> Result<Self, Error> {
        let idle = (0..connections).map(|_| connect(file)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { idle: Arc::new(Mutex::new(idle)), free: Arc::new(Semaphore::new(connections)) })
    }

    /// Runs `work` with a connection of its own, when one is free.
    ///
    /// The work runs to its end even if the caller stops waiting: a client that hangs up does not undo what it has ordered.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    {
        let permit = Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed");
        let mut loan = Loan::take(Arc::clone(&self.idle), permit);
        blocking(move || work(loan.connection())).await
    }

    /// The same in one transaction, which is committed if the work succeeds and rolled back if it does not.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, Error> + Send + 'static,
    {
        let whole = |db: &mut Connection| {
            // Taking the lock at once, and not at the first change, lets a writer wait its turn instead of failing half-way.
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let outcome = work(&transaction)?;
            transaction.commit()?;
            Ok(outcome)
        };
        self.run(whole).await
    }
}

/// Runs work that takes a processor or a disk for milliseconds where it holds up no other request.
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

/// A connection on loan, which finds its way back also when the work panics.
struct Loan {
    connection: Option<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
    // Dropped after `drop` below has run, so that whoever is woken by it finds the connection there.
    _permit: OwnedSemaphorePermit,
}

impl Loan {
    fn take(idle: Arc<Mutex<Vec<Connection>>>, permit: OwnedSemaphorePermit) -> Self {
        let connection = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self { connection, idle, _permit: permit }
    }

    fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("there are as many permits as connections")
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(self.connection.take());
    }
}
