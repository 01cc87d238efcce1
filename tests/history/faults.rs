//! Faults that are injected while clients run.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    cluster,
    environment::{Environment, NODES},
    load::Interruption,
    rig::{Fault as LinkFault, Forwarder, Options, Server},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    Nothing,
    /// `kill -9` of a process, which is started again.
    Kill,
    /// `kill -9` of a process between the commit of a write and its invalidation, as far as that can be timed. As in the next two
    /// faults, the statement is slow, and another process reads and writes the register meanwhile.
    KillWriter,
    /// A handler stops waiting for the statement of its write, which commits later.
    LoseOutcome,
    /// The client of a write disconnects before the statement commits.
    Disconnect,
    /// `SIGSTOP` of a process for a while.
    Pause,
    /// A wrong wall clock of a process, from its start or from a later moment on.
    ShiftClock,
    /// `SIGSTOP` of Redis for a while.
    Freeze,
    /// Redis is killed and restarted without data.
    RestartEmpty,
    /// Redis is killed and restarted with older data.
    RestoreOld,
    /// Redis has little memory, and evicts random keys.
    Evict,
    /// Redis has no memory left, and rejects writes.
    Full,
    /// `CLIENT KILL` of all connections.
    KillConnections,
    /// Clients run slow scripts, so that Redis reads many commands in one event-loop cycle. A process that creates a generation
    /// then gets no push for its earlier deletion by another process.
    SlowScripts,
    /// The connections between a process and Redis stall, in one or both directions.
    Stall,
    /// Redis sends nothing to one process while another process writes the registers in its memory.
    LosePushes,
    /// Data between a process and Redis is delayed.
    Delay,
    /// The connections of a process are cut.
    Cut,
    /// The connections of all processes are cut while one of them holds the lock of a fill.
    OrphanLock,
    /// A replica that has missed the last changes replaces its master.
    PromoteReplica,
    /// A master of a cluster is killed and replaced by its replica.
    Failover,
    /// A replica replaces its master in a planned failover.
    PlannedFailover,
    /// A slot migrates to another master.
    Migrate,
}

impl Environment {
    /// Injects random faults, one after another, with pauses between them, until the time is over and enough was read.
    pub async fn inject_faults(&mut self, faults: &[Fault], time: Duration) {
        let end = Instant::now() + time;
        self.wait(200..400).await;
        while Instant::now() < end || !self.has_enough_reads() {
            let fault = faults[self.random.usize(..faults.len())];
            self.inject(fault).await;
            self.wait(50..350).await;
        }
    }

    /// Injects one fault, and returns when it has ended.
    pub async fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Nothing => self.wait(100..200).await,
            Fault::Kill => {
                let node = self.random.usize(..NODES);
                self.kill(node).await;
            }
            Fault::KillWriter => self.kill_writer().await,
            Fault::LoseOutcome => self.interrupt_writer(Interruption::LostOutcome).await,
            Fault::Disconnect => self.interrupt_writer(Interruption::Disconnect).await,
            Fault::Pause => self.pause(20..1_500).await,
            Fault::ShiftClock => self.shift().await,
            Fault::Freeze => {
                self.redis().pause();
                self.wait(20..700).await;
                self.redis().resume();
            }
            Fault::RestartEmpty => self.redis[0].restart(false).await,
            Fault::RestoreOld => {
                self.redis().command(&["SAVE"]).await;
                self.wait(50..400).await;
                self.redis[0].restart(true).await;
            }
            Fault::Evict => {
                self.redis().config_set("maxmemory-policy", "allkeys-random").await;
                let room = self.used_memory().await.saturating_sub(self.random.u64(1_000..40_000));
                self.redis().config_set("maxmemory", &room.to_string()).await;
                self.wait(20..100).await;
                self.redis().config_set("maxmemory", "0").await;
            }
            Fault::Full => {
                self.redis().config_set("maxmemory-policy", "noeviction").await;
                self.redis().config_set("maxmemory", "1").await;
                self.wait(50..500).await;
                self.redis().config_set("maxmemory", "0").await;
            }
            Fault::KillConnections => self.redis().client_kill_all().await,
            Fault::SlowScripts => self.run_slow_scripts().await,
            Fault::Stall => self.disturb(LinkFault::Stall, 20..800).await,
            Fault::LosePushes => self.lose_pushes().await,
            Fault::Delay => {
                let late = Duration::from_millis(self.random.u64(1..40));
                self.disturb(LinkFault::Delay(late), 50..400).await;
            }
            Fault::Cut => {
                let node = self.random.usize(..NODES);
                self.forwarders[node].refuse(self.random.bool());
                self.forwarders[node].cut();
                self.wait(10..300).await;
                self.forwarders[node].refuse(false);
            }
            Fault::OrphanLock => self.orphan_lock().await,
            Fault::PromoteReplica => self.promote().await,
            Fault::Failover => cluster::failover(&mut self.redis, &mut self.random).await,
            Fault::PlannedFailover => cluster::planned_failover(&self.redis, &mut self.random).await,
            Fault::Migrate => cluster::migrate(&self.redis, &mut self.random).await,
        }
    }

    async fn run_slow_scripts(&mut self) {
        // Some 1.5 ms. The time of `TIME` stands still in scripts of Valkey.
        const SLOW: &str = "local sum = 0 for n = 1, 100000 do sum = sum + n end";
        let time = Duration::from_millis(self.random.u64(200..800));
        let server = match self.plan.cluster {
            true => &self.redis[cluster::master_of(&self.redis, "{row}").await],
            false => self.redis(),
        };
        let slow = async || loop {
            let _ = server.try_command(&["EVAL", SLOW, "0"]).await;
        };
        let _ = tokio::time::timeout(time, async { tokio::join!(slow(), slow()) }).await;
    }

    async fn disturb(&mut self, fault: LinkFault, time: std::ops::Range<u64>) {
        let (node, side) = (self.random.usize(..NODES), self.random.u8(..3));
        let time = Duration::from_millis(self.random.u64(time));
        let set = |fault| {
            let forwarder: &Forwarder = &self.forwarders[node];
            if side != 0 {
                forwarder.requests(fault);
            }
            if side != 1 {
                forwarder.answers(fault);
            }
        };
        set(fault);
        tokio::time::sleep(time).await;
        set(LinkFault::Pass);
    }

    /// Lets neither the entry of a fill nor the release of its lock reach Redis.
    async fn orphan_lock(&mut self) {
        let end = Instant::now() + Duration::from_secs(5);
        while self.redis().keys("history*:l:*").await.is_empty() && Instant::now() < end {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        for forwarder in &self.forwarders {
            forwarder.refuse(true);
            forwarder.cut();
        }
        self.wait(20..100).await;
        for forwarder in &self.forwarders {
            forwarder.refuse(false);
        }
        self.wait(100..300).await;
    }

    /// Returns the server of a run without a cluster.
    fn redis(&self) -> &Server {
        &self.redis[0]
    }

    async fn used_memory(&self) -> u64 {
        self.redis().info_number("memory", "used_memory").await
    }

    /// Disconnects all processes from the old master before the promotion: two masters at a time are outside of the guarantee.
    async fn promote(&mut self) {
        let link = Forwarder::start(address(self.redis()));
        // By a command: with a line of configuration it would be a replica again after a restart.
        let replica = server().await;
        replica.command(&["REPLICAOF", "127.0.0.1", &link.addr().port().to_string()]).await;
        replica.linked().await;
        link.answers(LinkFault::Stall);
        self.wait(100..400).await;
        for forwarder in &self.forwarders {
            forwarder.refuse(true);
            forwarder.cut();
        }
        self.redis[0].kill();
        replica.promote().await;
        for forwarder in &self.forwarders {
            forwarder.retarget(address(&replica));
            forwarder.refuse(false);
        }
        self.redis[0] = replica;
    }
}

/// Starts a server that synchronises a replica without waiting for others.
pub async fn server() -> Server {
    Options::default().line("repl-diskless-sync-delay 0").start().await
}

fn address(server: &Server) -> SocketAddr {
    ([127, 0, 0, 1], server.port()).into()
}
