//! One pair of connections to a server: the stream of a slot, and a connection for queries.

use std::collections::HashMap;

use super::{
    check::{self, text},
    connection::{Connection, quoted_name},
    error::{PostgresError, PostgresErrorKind},
    lsn::{Lsn, Snapshot},
    options::Options,
    slot::{self, Slot},
};

/// Connections that have passed all checks.
pub(super) struct Session {
    pub(super) control: Connection,
    pub(super) stream: Connection,
    pub(super) state: SlotState,
    /// The numbers of the tables in the server.
    pub(super) known: HashMap<u32, usize>,
    pub(super) version: u32,
    pub(super) server: Server,
    /// The position up to which all changes are processed.
    pub(super) confirmed: Lsn,
}

/// The state of the slot of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotState {
    /// The slot existed, and its stream has begun.
    Streaming,
    /// The slot is new, and has a temporary name.
    New,
}

/// The history of a server. Positions of different histories cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    system: String,
    timeline: String,
}

/// The reason to replace a slot that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replace {
    No,
    /// The log before the creation of the publication cannot be decoded.
    Undecodable,
}

impl Session {
    /// Connects, checks the server, and opens the slot. `strictly` makes faults of tables and of the publication errors.
    pub(super) async fn open(options: &Options, replace: Replace, strictly: bool) -> Result<Self, PostgresError> {
        let mut control = Connection::open(&options.target, false).await?;
        let version = check::server(&mut control, &options.target.application).await?;
        let known = match check_tables(&mut control, version, options).await {
            Err(error) if strictly => return Err(error),
            known => known.unwrap_or_default(),
        };
        let stream = Connection::open(&options.target, true).await;
        let mut stream = stream.map_err(|error| permission(error, &options.target.user))?;
        let server = identify(&mut stream).await?;
        let (state, confirmed) = open_slot(&mut control, &mut stream, options, replace).await?;
        Ok(Self { control, stream, state, known, version, server, confirmed })
    }

    /// Checks the tables and the publication again.
    pub(super) async fn check(&mut self, options: &Options) -> Result<(), PostgresError> {
        check::tables(&mut self.control, &options.tables).await?;
        check::publication(&mut self.control, self.version, &options.publication, &options.tables, false).await
    }

    /// Returns the transactions whose changes a query sees now.
    pub(super) async fn snapshot(&mut self) -> Result<Snapshot, PostgresError> {
        let rows = self.control.query("SELECT pg_current_snapshot()").await?;
        let snapshot = rows.first().and_then(|row| Snapshot::parse(text(row, 0)));
        snapshot.ok_or_else(|| PostgresError::protocol("expected a snapshot"))
    }

    /// Keeps a new slot under its name, and begins its stream.
    pub(super) async fn keep_slot(&mut self, options: &Options) -> Result<(), PostgresError> {
        if !options.is_temporary {
            slot::keep(&mut self.control, &mut self.stream, &temporary_name(&options.slot), &options.slot).await?;
        }
        self.stream.start_replication(&options.slot, &options.publication).await?;
        self.state = SlotState::Streaming;
        Ok(())
    }

    /// Ends both connections. The slot is free after that.
    pub(super) async fn close(self) {
        self.stream.close().await;
        self.control.close().await;
    }
}

async fn check_tables(control: &mut Connection, version: u32, options: &Options) -> Result<HashMap<u32, usize>, PostgresError> {
    let known = check::tables(control, &options.tables).await?;
    check::publication(control, version, &options.publication, &options.tables, options.creates).await?;
    Ok(known)
}

async fn identify(stream: &mut Connection) -> Result<Server, PostgresError> {
    let rows = stream.query("IDENTIFY_SYSTEM").await?;
    let row = rows.first().ok_or_else(|| PostgresError::protocol("expected the identity of the server"))?;
    Ok(Server { system: text(row, 0).into(), timeline: text(row, 1).into() })
}

/// Begins the stream of the slot, or creates a new slot.
async fn open_slot(
    control: &mut Connection,
    stream: &mut Connection,
    options: &Options,
    replace: Replace,
) -> Result<(SlotState, Lsn), PostgresError> {
    let name = &options.slot;
    if !options.is_temporary {
        let found = slot::find(control, name).await?;
        match (found, replace) {
            (Slot::At(confirmed), Replace::No) => {
                let started = stream.start_replication(name, &options.publication).await;
                started.map_err(|error| active(error, name))?;
                return Ok((SlotState::Streaming, confirmed));
            }
            (Slot::Missing, _) if options.creates => {}
            (Slot::Missing, _) => {
                let remedy = format!("Run: SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')");
                return Err(PostgresError::new(PostgresErrorKind::Slot, format!("slot {name:?} does not exist")).remedy(remedy));
            }
            (Slot::Lost, _) | (Slot::At(_), Replace::Undecodable) if !options.creates => {
                let remedy = "Drop it and create it again";
                return Err(PostgresError::new(PostgresErrorKind::Slot, format!("slot {name:?} cannot be read any more"))
                    .remedy(remedy));
            }
            (Slot::Lost, _) | (Slot::At(_), Replace::Undecodable) => {
                slot::remove(control, name).await.map_err(|error| active(error, name))?;
            }
        }
    }
    let temporary = if options.is_temporary { name.clone() } else { temporary_name(name) };
    let begin = slot::create_temporary(stream, &temporary).await.map_err(|error| {
        let error = active(error, name).during(format_args!("slot {name:?} was not created"));
        permission(error, &options.target.user)
    })?;
    Ok((SlotState::New, begin))
}

/// Returns the name of a new slot until all watched namespaces are invalidated. A process that ends before that leaves no slot, so that the next one
/// begins anew.
fn temporary_name(slot: &str) -> String {
    format!("{slot}_new")
}

fn permission(error: PostgresError, user: &str) -> PostgresError {
    match error.kind() {
        PostgresErrorKind::Permission => {
            error.remedy(format_args!("As a superuser, run: ALTER ROLE {} REPLICATION", quoted_name(user)))
        }
        _ => error,
    }
}

fn active(error: PostgresError, slot: &str) -> PostgresError {
    match error.kind() {
        PostgresErrorKind::SlotActive => error.remedy(format_args!(
            "Another process uses the slot {slot:?}: give each process or application a slot of its own, or let the others stand by"
        )),
        _ => error,
    }
}
