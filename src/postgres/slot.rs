//! Replication slots.

use super::{
    check::text,
    connection::{Connection, quoted_name, quoted_text},
    error::{PostgresError, PostgresErrorKind},
    lsn::Lsn,
};

/// The state of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Missing,
    /// The server has removed a part of the log that the slot needs.
    Lost,
    /// The slot can stream all changes from here on.
    At(Lsn),
}

/// The sizes of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogSizes {
    /// The end of the log.
    pub(super) end: Lsn,
    /// The bytes that the slot keeps.
    pub(super) retained: u64,
}

/// Returns the state of a slot. A slot that belongs to something else is an error.
pub(super) async fn find(control: &mut Connection, name: &str) -> Result<Slot, PostgresError> {
    let sql = format!(
        "SELECT coalesce(plugin, ''), coalesce(database, ''), current_database(), coalesce(wal_status, 'lost'), confirmed_flush_lsn \
         FROM pg_replication_slots WHERE slot_name = {}",
        quoted_text(name)
    );
    let Some(row) = control.query(&sql).await?.pop() else { return Ok(Slot::Missing) };
    let foreign =
        |why: String| Err(PostgresError::new(PostgresErrorKind::Slot, format!("slot {name:?} {why}: use another name")));
    match (text(&row, 0), text(&row, 1), text(&row, 2)) {
        ("pgoutput", database, current) if database == current => {}
        ("pgoutput", database, _) => return foreign(format!("belongs to the database {database:?}")),
        ("", ..) => return foreign("is for physical replication".into()),
        (plugin, ..) => return foreign(format!("has the output plugin {plugin:?}")),
    }
    match (text(&row, 3), Lsn::parse(text(&row, 4))) {
        ("lost", _) | (_, None) => Ok(Slot::Lost),
        (_, Some(confirmed)) => Ok(Slot::At(confirmed)),
    }
}

/// Creates a slot that ends with the connection. It waits for the end of all transactions that are running. Returns the position where it begins.
pub(super) async fn create_temporary(stream: &mut Connection, name: &str) -> Result<Lsn, PostgresError> {
    let sql = format!("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT", quoted_name(name));
    let row = stream.query_patiently(&sql).await?.pop().unwrap_or_default();
    Lsn::parse(text(&row, 1)).ok_or_else(|| PostgresError::protocol("expected the position of the slot"))
}

/// Copies a temporary slot of the connection `stream` to one that stays, and removes the first.
pub(super) async fn keep(
    control: &mut Connection,
    stream: &mut Connection,
    temporary: &str,
    name: &str,
) -> Result<(), PostgresError> {
    let sql = format!("SELECT pg_copy_logical_replication_slot({}, {}, false)", quoted_text(temporary), quoted_text(name));
    control.query(&sql).await?;
    stream.query(&format!("DROP_REPLICATION_SLOT {}", quoted_name(temporary))).await.map(drop)
}

/// Removes a slot.
pub(super) async fn remove(control: &mut Connection, name: &str) -> Result<(), PostgresError> {
    control.query(&format!("SELECT pg_drop_replication_slot({})", quoted_text(name))).await.map(drop)
}

/// Returns the sizes of the log.
pub(super) async fn sizes(control: &mut Connection, name: &str) -> Result<LogSizes, PostgresError> {
    let sql = format!(
        "SELECT pg_current_wal_lsn(), (SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = {})",
        quoted_text(name)
    );
    let row = control.query(&sql).await?.pop().unwrap_or_default();
    let end = Lsn::parse(text(&row, 0)).ok_or_else(|| PostgresError::protocol("expected the end of the log"))?;
    Ok(LogSizes { end, retained: Lsn::parse(text(&row, 1)).map_or(0, |restart| end.since(restart)) })
}
