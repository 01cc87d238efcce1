//! The figures of the server itself.

use std::time::{Duration, Instant};

use crate::rig::Server;

/// A reading of the counters of a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) at: Instant,
    /// The processor time of the server, in seconds.
    pub(super) cpu: f64,
    pub(super) commands: f64,
    pub(super) connections: f64,
    pub(super) memory: f64,
}

impl Reading {
    pub(super) async fn of(server: &Server) -> Self {
        Self::read(&server.info("all").await)
    }

    /// Reads a server that may be down.
    pub(super) async fn try_of(server: &Server) -> Option<Self> {
        let answer = server.try_command(&["INFO", "all"]).await.ok()?;
        Some(Self::read(&::redis::from_redis_value::<String>(answer).ok()?))
    }

    fn read(info: &str) -> Self {
        let field = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or_default()
        };
        Self {
            at: Instant::now(),
            cpu: field("used_cpu_user") + field("used_cpu_sys"),
            commands: field("total_commands_processed"),
            connections: field("total_connections_received"),
            memory: field("used_memory"),
        }
    }
}

/// Returns the processor time of all masters together, in seconds.
pub(super) async fn cpu_of(masters: &[Server]) -> f64 {
    let mut sum = 0.0;
    for master in masters {
        sum += Reading::of(master).await.cpu;
    }
    sum
}

/// Returns the share of a core that masters use together in this time.
pub(super) async fn share_over(masters: &[Server], time: Duration) -> f64 {
    let (before, begin) = (cpu_of(masters).await, Instant::now());
    tokio::time::sleep(time).await;
    (cpu_of(masters).await - before) / begin.elapsed().as_secs_f64()
}

/// Returns the largest number of bytes of replies and pushes that the server holds for a client of a class.
pub(super) async fn most_held(server: &Server, class: &str) -> u64 {
    let list = server.command(&["CLIENT", "LIST", "TYPE", class]).await;
    let list = ::redis::from_redis_value::<String>(list).expect("a list of clients");
    let held = |line: &str| line.split(' ').find_map(|field| field.strip_prefix("omem=")?.parse().ok());
    list.lines().filter_map(held).max().unwrap_or(0)
}
