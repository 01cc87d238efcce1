//! The demonstration: every statement that it prints is checked.

use tower_response_cache::BoxError;

use super::{
    client::{Clients, Interface},
    spawn,
    table::Table,
};

/// The airline of the demonstration.
const CARRIER: &str = "UA";

/// Statements with their results.
#[derive(Default)]
struct Statements {
    failed: usize,
}

impl Statements {
    fn check(&mut self, holds: bool, statement: &str) {
        println!("{} {statement}", if holds { "ok    " } else { "FAILED" });
        self.failed += usize::from(!holds);
    }
}

/// Runs the demonstration against a server of its own. Returns true if every statement holds.
pub(crate) async fn run() -> Result<bool, BoxError> {
    let table = Table::load()?;
    let clients = Clients::connect(spawn(&table).await?).await?;
    let mut statements = Statements::default();
    for by in Interface::ALL {
        let (before, first) = (table.reads(), clients.read(by, CARRIER).await?);
        let second = clients.read(by, CARRIER).await?;
        let is_hit = first.name == second.name && second.status.contains("; hit") && table.reads() == before + 1;
        statements.check(is_hit, &format!("{}: the second read is a hit, and the table was read once", by.name()));
    }
    for writer in Interface::ALL {
        let name = format!("United, renamed by {}", writer.name());
        clients.rename(writer, CARRIER, &name).await?;
        for reader in Interface::ALL {
            let read = clients.read(reader, CARRIER).await?;
            let statement = format!("a write by {} is visible to the next read by {}", writer.name(), reader.name());
            statements.check(read.name == name && !read.status.contains("; hit"), &statement);
            let again = clients.read(reader, CARRIER).await?;
            statements.check(again.status.contains("; hit"), &format!("{}: the read after it is a hit", reader.name()));
        }
    }
    let (reads, _) = (table.reads(), clients.rename(Interface::Rest, "AA", "American").await?);
    for reader in Interface::ALL {
        clients.read(reader, CARRIER).await?;
    }
    statements.check(table.reads() == reads, "a write to another airline leaves all three responses in the cache");
    match statements.failed {
        0 => println!("\nevery statement holds"),
        failed => println!("\n{failed} statements do not hold"),
    }
    Ok(statements.failed == 0)
}
