//! The listener for changes in PostgreSQL: a row that was changed past the cache, for example with `psql`, is visible in reads
//! a few milliseconds later.
//!
//! | table | a changed row invalidates |
//! |---|---|
//! | `flights`, `weather`, `planes`, `airlines` | `db_query:{table}`, and statistics, which join them |
//! | `users` | the account |
//! | `sessions` | the session |
//! | `teams`, `roles`, `permissions` | all accounts |

use std::time::{Duration, Instant};

use tower_response_cache::{
    ResponseCache,
    postgres::{PostgresListener, RunningListener},
};

use super::{BoxError, hash::random_hex, schema::TABLES};

/// The time for a new slot to begin.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a listener, and waits until changes arrive. Its slot ends with its connection, so that nothing is left behind.
pub(crate) async fn start(url: &str, cache: &ResponseCache) -> Result<RunningListener, BoxError> {
    let slot = format!("backend_{}", random_hex());
    let mut listener = PostgresListener::new(url).publication("backend").slot(slot).temporary_slot(true);
    for table in &TABLES {
        listener = listener.table(table.name, ["db_query:{table}", "db_query:joined"]);
    }
    let listener = listener
        .table("users", ["auth:account:{id}"])
        .table("sessions", ["auth:session:{id}"])
        .table("teams", ["auth:account"])
        .table("roles", ["auth:account"])
        .table("permissions", ["auth:account"]);
    let running = listener.start(cache).await.map_err(|error| format!("cannot listen for changes in PostgreSQL: {error}"))?;
    let begun = Instant::now();
    while !running.stats().connected {
        if begun.elapsed() > PATIENCE {
            return Err(format!("no changes arrive from PostgreSQL within {PATIENCE:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("Listening for changes in PostgreSQL");
    Ok(running)
}
