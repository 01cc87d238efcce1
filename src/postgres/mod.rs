//! Invalidation by the changes of rows in PostgreSQL, for writes that bypass the application.
//!
//! A [`PostgresListener`] reads the changes of tables by logical replication. It turns each committed change into namespaces and invalidates them.
//! `psql`, a job in another language and a trigger are then seen like a write of the application. The page [`guide::postgres`](crate::guide::postgres)
//! has the set-up and the guarantees.

mod check;
mod connection;
mod error;
mod listener;
mod lsn;
mod mapping;
mod options;
mod pgoutput;
mod run;
mod session;
mod slot;
mod stats;
mod template;
mod url;

pub use self::{
    error::{PostgresError, PostgresErrorKind},
    listener::{PostgresListener, RunningListener},
    stats::PostgresStats,
};
