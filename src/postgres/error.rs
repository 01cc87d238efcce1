//! The error of a listener.

use std::{error, fmt};

/// A listener could not start. The text names the cause and the remedy, and never the password.
///
/// ```
/// use tower_response_cache::{Memory, ResponseCache, postgres::{PostgresErrorKind, PostgresListener}};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let cache = ResponseCache::new(Memory::default());
/// let listener = PostgresListener::new("mysql://root@db/app").table("orders", ["db_query:orders"]);
/// let error = listener.start(&cache).await.unwrap_err();
/// assert_eq!(error.kind(), PostgresErrorKind::Url);
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct PostgresError {
    kind: PostgresErrorKind,
    text: String,
    /// The `SQLSTATE` of an error of the server.
    code: Option<String>,
}

/// The kind of a [`PostgresError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostgresErrorKind {
    /// The URL is invalid, or a file that it names cannot be read.
    Url,
    /// A template or a name is invalid, or the listener has no table.
    Mapping,
    /// No connection could be made, or it broke.
    Connection,
    /// The server refused the user or the password.
    SignIn,
    /// The role lacks a permission.
    Permission,
    /// The server is not set up for logical replication: `wal_level`, its version, or it is a standby.
    Server,
    /// The publication does not exist, or does not publish all changes of the tables.
    Publication,
    /// A table does not exist.
    Table,
    /// A table lacks a column that a template names.
    Column,
    /// The replica identity of a table lacks a column that a template names.
    ReplicaIdentity,
    /// The slot does not exist, is lost, or belongs to something else.
    Slot,
    /// Another process uses the slot.
    SlotActive,
    /// The server answered with another error, or with an answer that is not valid.
    Protocol,
}

impl PostgresError {
    pub(super) fn new(kind: PostgresErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), code: None }
    }

    pub(super) fn protocol(text: impl Into<String>) -> Self {
        Self::new(PostgresErrorKind::Protocol, text)
    }

    /// Returns the error of a server, by its `SQLSTATE`.
    pub(super) fn of_server(code: &str, message: &str, hint: Option<&str>) -> Self {
        use PostgresErrorKind::{Connection, Permission, Protocol, SignIn, SlotActive};
        let kind = match code {
            "42501" => Permission,
            "55006" => SlotActive,
            _ if code.starts_with("28") => SignIn,
            // The server shuts down, starts, or has no connection left.
            _ if code.starts_with("57P") || code.starts_with("08") || code.starts_with("53") => Connection,
            _ => Protocol,
        };
        let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
        Self { kind, text: format!("{message} [SQLSTATE {code}]{hint}"), code: Some(code.to_owned()) }
    }

    /// Puts the work that failed in front of the text.
    pub(super) fn during(mut self, work: impl fmt::Display) -> Self {
        self.text = format!("{work}: {}", self.text);
        self
    }

    /// Puts the remedy behind the text.
    pub(super) fn remedy(mut self, remedy: impl fmt::Display) -> Self {
        self.text = format!("{}. {remedy}", self.text);
        self
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> PostgresErrorKind {
        self.kind
    }

    /// Returns the `SQLSTATE`, if the server answered with an error.
    pub(super) fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }
}

impl fmt::Display for PostgresError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl error::Error for PostgresError {}
