//! Faults of single writes, whose registers are read meanwhile.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::{
    environment::{Environment, NODES},
    load::{Interruption, KEYS, ROUTES, Reading},
    operation::Operation,
    rig::{Fault as LinkFault, until},
};

/// Longest wait for the commit of an interrupted write, whose statement may not have been sent.
const COMMIT: Duration = Duration::from_millis(500);

/// A write by a slow statement. Another process reads the register, and may write it as well.
struct SlowWrite {
    id: u64,
    other: usize,
    write: JoinHandle<Operation>,
    writes_of_others: Vec<JoinHandle<Operation>>,
    reads: Vec<Reading>,
}

impl Environment {
    /// Writes, and kills the writing process as soon as the database has committed.
    pub async fn kill_writer(&mut self) {
        let node = self.random.usize(..NODES);
        let write = self.begin_slow_write(node, None).await;
        while !self.database.has_committed(write.id) && !write.write.is_finished() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        self.kill(node).await;
        self.finish(write).await;
    }

    /// Writes, and interrupts the write while its statement runs.
    pub async fn interrupt_writer(&mut self, interruption: fn(Duration) -> Interruption) {
        let (node, after) = (self.random.usize(..NODES), Duration::from_millis(self.random.u64(5..30)));
        let write = self.begin_slow_write(node, Some(interruption(after))).await;
        let end = Instant::now() + COMMIT;
        while !self.database.has_committed(write.id) && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.finish(write).await;
    }

    async fn begin_slow_write(&mut self, node: usize, interruption: Option<Interruption>) -> SlowWrite {
        // A register that is seldom written: the next write and its invalidation would hide a violation.
        let (other, key) = ((node + self.random.usize(1..NODES)) % NODES, self.random.u32(KEYS / 2..KEYS));
        if let Some(forwarder) = self.forwarders.get(other).filter(|_| self.random.bool()) {
            forwarder.requests(LinkFault::Delay(Duration::from_millis(self.random.u64(1..6))));
        }
        let reads = self.plan.mix.routes.iter().map(|route| self.clients.keep_reading(other, route, key)).collect();
        let write = |id, node, interruption| {
            let clients = self.clients.clone();
            tokio::spawn(async move { clients.write(id, node, key, interruption).await })
        };
        let mut writes_of_others = Vec::new();
        // None, at the same time, or just before.
        let second = self.random.u8(..3);
        if second > 0 {
            let id = self.clients.number();
            let first = write(id, other, None);
            if second == 2 {
                until("a write has ended", async || first.is_finished() || self.database.has_committed(id)).await;
            }
            writes_of_others.push(first);
        }
        let id = self.clients.number();
        self.database.slow_down(id, Duration::from_millis(self.random.u64(20..120)));
        SlowWrite { id, other, write: write(id, node, interruption), writes_of_others, reads }
    }

    async fn finish(&mut self, write: SlowWrite) {
        for write in write.writes_of_others.into_iter().chain([write.write]) {
            self.operations.push(write.await.expect("a client does not panic"));
        }
        for read in write.reads {
            self.operations.extend(read.finish().await);
        }
        if let Some(forwarder) = self.forwarders.get(write.other) {
            forwarder.requests(LinkFault::Pass);
        }
    }

    /// Stalls the data from Redis to a process that has a register in memory, writes through another process, and reads
    /// repeatedly.
    pub async fn lose_pushes(&mut self) {
        let (reader, key) = (self.random.usize(..NODES), self.random.u32(KEYS / 2..KEYS));
        let writer = (reader + self.random.usize(1..NODES)) % NODES;
        let clients = self.clients.clone();
        for _ in 0..2 {
            self.operations.push(clients.read(reader, ROUTES[0], key).await);
        }
        self.forwarders[reader].answers(LinkFault::Stall);
        self.operations.push(clients.write(clients.number(), writer, key, None).await);
        let end = Instant::now() + self.plan.heartbeat.delta() * 2;
        while Instant::now() < end {
            self.operations.push(clients.read(reader, ROUTES[0], key).await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.forwarders[reader].answers(LinkFault::Pass);
    }
}
