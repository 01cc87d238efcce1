//! The builder of a listener, and its handle.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    error::{PostgresError, PostgresErrorKind},
    mapping::Table,
    options::Options,
    run::Worker,
    session::{Replace, Session},
    stats::{Counters, PostgresStats},
    url::Target,
};
use crate::handle::ResponseCache;

/// A listener for the changes of rows in PostgreSQL 13 or newer, by logical replication (`pgoutput`).
///
/// Each committed transaction invalidates the namespaces of the rows that it has changed, in the order of the commits and at least once. The server
/// keeps the changes in a slot until the store has confirmed the invalidation. A restart of the process, of the server or of the store loses none.
///
/// ```no_run
/// use tower_response_cache::{Memory, ResponseCache, postgres::PostgresListener};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let cache = ResponseCache::new(Memory::new(64 << 20));
/// let listener = PostgresListener::new("postgres://replicator:secret@db.example/shop?sslmode=verify-full")
///     .slot("shop_cache")
///     .table("orders", ["db_query:{table}", "order:{id}"])
///     .table("audit.events", ["db_query:events"])
///     .start(&cache)
///     .await?;
/// println!("{}", listener.stats());
/// # listener.stop().await;
/// # Ok::<(), tower_response_cache::postgres::PostgresError>(()) }).unwrap();
/// ```
#[derive(Clone)]
#[must_use = "a listener does nothing before `start`"]
pub struct PostgresListener {
    url: String,
    publication: String,
    slot: String,
    tables: Vec<(String, Vec<String>)>,
    creates: bool,
    is_temporary: bool,
    stands_by: bool,
    invalidates_at_start: bool,
    max_lag: Option<u64>,
    check_interval: Duration,
}

impl PostgresListener {
    /// Returns a listener for a database: `postgres://user[:password]@host[:port]/database`.
    ///
    /// The parameters of the URL are those of libpq: `sslmode` (`disable`, `allow`, `prefer`, `require`, `verify-ca`, `verify-full`; defaults to
    /// `prefer`, which checks no certificate), `sslrootcert` (a file, or `system`, which implies `verify-full`), `sslcert`, `sslkey`, `host` (also the folder of a Unix socket),
    /// `port`, `user`, `password`, `dbname`, `application_name` and `connect_timeout` (in seconds; defaults to 10). Environment variables
    /// and `.pgpass` are not read. The role needs the attribute `REPLICATION`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            publication: "response_cache".into(),
            slot: "response_cache".into(),
            tables: Vec::new(),
            creates: true,
            is_temporary: false,
            stands_by: false,
            invalidates_at_start: false,
            max_lag: None,
            check_interval: Duration::from_secs(10),
        }
    }

    /// Sets the name of the publication. Defaults to `response_cache`.
    pub fn publication(self, name: impl Into<String>) -> Self {
        Self { publication: name.into(), ..self }
    }

    /// Sets the name of the replication slot: at most 59 of `a`–`z`, `0`–`9` and `_`. Defaults to `response_cache`.
    ///
    /// One process at a time reads a slot. Over Redis, one listener invalidates for all processes. Over [`Memory`](crate::Memory), each process needs a
    /// slot of its own. A slot that no process reads fills the disk of the server: remove it by `pg_drop_replication_slot`.
    pub fn slot(self, name: impl Into<String>) -> Self {
        Self { slot: name.into(), ..self }
    }

    /// Adds a table, as `table` in the schema `public` or as `schema.table`, with templates of the namespaces that a change of a row invalidates.
    ///
    /// A template may hold `{table}`, `{schema}`, and `{column}` for the value of a column. Values are PostgreSQL's text forms, encoded as in the
    /// templates of rules ([`Namespace::of`](crate::Namespace::of)). An insert names the new row, a delete the old one, an update both. A null names
    /// nothing. The names are written as PostgreSQL stores them, without quotes.
    ///
    /// The columns must belong to the replica identity of the table, so that a delete states their values: to the primary key, or to more after `ALTER
    /// TABLE … REPLICA IDENTITY`. [`start`](Self::start) checks that. Where a value is not known at run time, and after `TRUNCATE`, the nearest
    /// ancestor without a column is invalidated: `order` for `order:{id}`.
    pub fn table<T: Into<String>>(mut self, table: impl Into<String>, namespaces: impl IntoIterator<Item = T>) -> Self {
        self.tables.push((table.into(), namespaces.into_iter().map(Into::into).collect()));
        self
    }

    /// Tells if the publication and the slot are created where they do not exist. Defaults to `true`. If not, the error of [`start`](Self::start)
    /// states the commands.
    ///
    /// A publication needs the owner of the tables. A table that is added to the listener later must be added to the publication by hand.
    pub fn create_missing(self, creates: bool) -> Self {
        Self { creates, ..self }
    }

    /// Uses a slot that ends with the connection. Nothing is kept while the listener is not connected, so that all watched
    /// namespaces are invalidated at each start and after each outage. It fits processes over [`Memory`](crate::Memory) that come and go.
    /// Defaults to `false`.
    pub fn temporary_slot(self, on: bool) -> Self {
        Self { is_temporary: on, ..self }
    }

    /// Waits while another process uses the slot, and takes it over when it is free, instead of the error
    /// [`SlotActive`](PostgresErrorKind::SlotActive). It fits processes over one Redis, of which one listens at a time. Defaults to `false`.
    pub fn stand_by(self, on: bool) -> Self {
        Self { stands_by: on, ..self }
    }

    /// Invalidates all watched namespaces at the start, also if the slot exists. It is needed once after tables or templates were changed, because
    /// earlier changes of new tables were not replicated. Defaults to `false`. A new slot always begins so.
    pub fn invalidate_at_start(self, on: bool) -> Self {
        Self { invalidates_at_start: on, ..self }
    }

    /// Invalidates all watched namespaces when more bytes of the write-ahead log than this are not yet processed, at each
    /// [check](Self::check_interval) where that many were added. Off by default.
    pub fn max_lag(self, bytes: u64) -> Self {
        Self { max_lag: Some(bytes), ..self }
    }

    /// Sets the pause between two checks of the lag, of the tables and of the publication. Defaults to 10 seconds.
    pub fn check_interval(self, pause: Duration) -> Self {
        Self { check_interval: pause.max(Duration::from_millis(10)), ..self }
    }

    /// Connects, checks the server, the tables and the publication, opens the slot, and starts a task that listens.
    ///
    /// A new slot begins when all transactions have ended that are running now. The task then invalidates all watched namespaces,
    /// once. After an outage, the task connects again, with exponential backoff from 0.1 to 15 seconds and jitter.
    ///
    /// # Errors
    ///
    /// If the URL or a template is invalid, if the server cannot be reached or is not set up for logical replication, if a table or a column does
    /// not exist or is not replicated with all its changes, if a permission is missing, or if another process uses the slot. The text names the
    /// remedy.
    pub async fn start(self, cache: &ResponseCache) -> Result<RunningListener, PostgresError> {
        let worker = Worker::new(cache.clone(), self.options()?);
        let session = match Session::open(&worker.options, Replace::No, true).await {
            Err(error) if error.kind() == PostgresErrorKind::SlotActive && worker.options.stands_by => {
                tracing::info!(slot = worker.options.slot, "another process listens to PostgreSQL: this one stands by");
                None
            }
            session => Some(session?),
        };
        let counters = worker.counters.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(worker.run(session, async { _ = stopped.await }));
        Ok(RunningListener { counters, stop: Some(stop), task })
    }

    fn options(self) -> Result<Options, PostgresError> {
        let Self {
            url,
            publication,
            slot,
            tables,
            creates,
            is_temporary,
            stands_by,
            invalidates_at_start,
            max_lag,
            check_interval,
        } = self;
        let target = Target::parse(&url)?;
        let invalid = |why: String| Err(PostgresError::new(PostgresErrorKind::Mapping, why));
        if tables.is_empty() {
            return invalid("the listener has no table: expected `.table(\"orders\", [\"db_query:orders\"])`".into());
        }
        let is_valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if slot.is_empty() || slot.len() > 59 || !slot.chars().all(is_valid) {
            return invalid(format!("slot {slot:?}: expected 1 to 59 of `a`–`z`, `0`–`9` and `_`"));
        }
        if publication.is_empty() || publication.len() > 63 {
            return invalid(format!("publication {publication:?}: expected a name of 1 to 63 bytes"));
        }
        let tables: Vec<_> = tables.iter().map(|(table, templates)| Table::new(table, templates)).collect::<Result<_, _>>()?;
        for (index, table) in tables.iter().enumerate() {
            if tables[..index].iter().any(|other| (&other.schema, &other.name) == (&table.schema, &table.name)) {
                return invalid(format!(
                    "table \"{}.{}\" is there twice: give all its namespaces at once",
                    table.schema, table.name
                ));
            }
        }
        let tables: Arc<[_]> = tables.into();
        Ok(Options {
            target,
            publication,
            slot,
            tables,
            creates,
            is_temporary,
            stands_by,
            invalidates_at_start,
            max_lag,
            check_interval,
        })
    }
}

/// Shows no part of the URL, which may hold a password.
impl fmt::Debug for PostgresListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { publication, slot, tables, .. } = self;
        let listener = &mut f.debug_struct("PostgresListener");
        listener.field("publication", publication).field("slot", slot).field("tables", tables).finish_non_exhaustive()
    }
}

/// A listener that runs. It stops when this handle is dropped.
#[derive(Debug)]
#[must_use = "the listener stops when its handle is dropped"]
pub struct RunningListener {
    counters: Arc<Counters>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl RunningListener {
    /// Returns the counters.
    pub fn stats(&self) -> PostgresStats {
        self.counters.read()
    }

    /// Stops the listener, and waits until its slot is free for another process. Changes that are not confirmed are sent again after the next start.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        _ = (&mut self.task).await;
    }
}

/// The task ends, and frees its slot a moment later.
impl Drop for RunningListener {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(listener: PostgresListener) -> PostgresError {
        listener.options().err().expect("an error")
    }

    #[test]
    fn invalid_options_are_refused_without_a_connection() {
        let new = || PostgresListener::new("postgres://app:secret@db/shop");
        let orders = || new().table("orders", ["db_query:orders"]);
        for (listener, expected) in [
            (new(), "the listener has no table"),
            (orders().slot("Cache-1"), "slot \"Cache-1\": expected 1 to 59"),
            (orders().publication(""), "publication \"\": expected a name"),
            (new().table("orders", ["order:{id"]), "unmatched brace"),
            (orders().table("public.orders", ["order:{id}"]), "table \"public.orders\" is there twice"),
        ] {
            let error = error(listener);
            assert_eq!(error.kind(), PostgresErrorKind::Mapping);
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(orders().options().is_ok());
    }

    #[test]
    fn debug_hides_the_url() {
        let shown = format!("{:?}", PostgresListener::new("postgres://app:secret@db/shop").table("orders", ["a"]));
        assert!(!shown.contains("secret") && !shown.contains("db/") && shown.contains("orders"), "{shown}");
    }
}
