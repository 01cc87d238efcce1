//! What goes wrong while clients are at work.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    cluster,
    rig::{Fault as Way, Forwarder, Options, Server},
    stage::{NODES, Stage},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing but time.
    Calm,
    /// `kill -9` of a process, which is then started again.
    Kill,
    /// The same, between the commit of a write and its clearing, as far as that can be hit.
    KillWriter,
    /// A process has a wrong wall clock, from its start or from some moment on.
    Shift,
    /// `SIGSTOP` of Redis for a while.
    Freeze,
    /// Redis is killed and comes back with nothing.
    Forget,
    /// Redis is killed and comes back with what it had some time before.
    Relapse,
    /// Redis has little room, and evicts whatever it likes.
    Evict,
    /// Redis has no room, and takes nothing in.
    Fill,
    /// `CLIENT KILL` of all connections.
    Hang,
    /// Clients run slow scripts, so that Redis reads many commands in one event-loop cycle: there, a process that creates a generation is
    /// not told that another has deleted it.
    Busy,
    /// The way of a process to Redis, or from it, stalls.
    Stall,
    /// Nothing comes from Redis to one process, while another one writes what it has in memory.
    Lag,
    /// What is sent on that way takes longer.
    Delay,
    /// The connections of a process are cut.
    Cut,
    /// The same of all processes, while one of them holds the lock of a fill.
    Orphan,
    /// A replica that has missed the last changes takes the place of its master.
    Promote,
    /// A master of a cluster is killed, and its replica takes over.
    Failover,
    /// A replica takes over from its master by agreement.
    HandOver,
    /// A slot goes to another master.
    Migrate,
}

impl Stage {
    /// One fault after another, drawn from these, until the time is over; the calm before and after them is part of it.
    pub async fn suffer(&mut self, faults: &[Fault], time: Duration) {
        let end = Instant::now() + time;
        self.pass(200..400).await;
        while Instant::now() < end {
            let fault = faults[self.random.usize(..faults.len())];
            self.strike(fault).await;
            self.pass(50..350).await;
        }
    }

    /// One fault, from its begin to its end.
    pub async fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Calm => self.pass(100..200).await,
            Fault::Kill => {
                let node = self.random.usize(..NODES);
                self.kill(node).await;
            }
            Fault::KillWriter => self.kill_writer().await,
            Fault::Shift => self.shift().await,
            Fault::Freeze => {
                self.redis().pause();
                self.pass(20..700).await;
                self.redis().resume();
            }
            Fault::Forget => self.redis[0].restart(false).await,
            Fault::Relapse => {
                self.redis().command(&["SAVE"]).await;
                self.pass(50..400).await;
                self.redis[0].restart(true).await;
            }
            Fault::Evict => {
                self.redis().config_set("maxmemory-policy", "allkeys-random").await;
                let room = self.used_memory().await.saturating_sub(self.random.u64(1_000..40_000));
                self.redis().config_set("maxmemory", &room.to_string()).await;
                self.pass(20..100).await;
                self.redis().config_set("maxmemory", "0").await;
            }
            Fault::Fill => {
                self.redis().config_set("maxmemory-policy", "noeviction").await;
                self.redis().config_set("maxmemory", "1").await;
                self.pass(50..500).await;
                self.redis().config_set("maxmemory", "0").await;
            }
            Fault::Hang => self.redis().client_kill_all().await,
            Fault::Busy => self.busy().await,
            Fault::Stall => self.obstruct(Way::Stall, 20..800).await,
            Fault::Lag => self.lag().await,
            Fault::Delay => {
                let late = Duration::from_millis(self.random.u64(1..40));
                self.obstruct(Way::Delay(late), 50..400).await;
            }
            Fault::Cut => {
                let node = self.random.usize(..NODES);
                self.ways[node].refuse(self.random.bool());
                self.ways[node].cut();
                self.pass(10..300).await;
                self.ways[node].refuse(false);
            }
            Fault::Orphan => self.orphan().await,
            Fault::Promote => self.promote().await,
            Fault::Failover => cluster::failover(&mut self.redis, &mut self.random).await,
            Fault::HandOver => cluster::hand_over(&self.redis, &mut self.random).await,
            Fault::Migrate => cluster::migrate(&self.redis, &mut self.random).await,
        }
    }

    async fn busy(&mut self) {
        const SLOW: &str = "local function now() local t = redis.call('TIME') return t[1] * 1000000 + t[2] end
            local stop = now() + 1500
            while now() < stop do end";
        let time = Duration::from_millis(self.random.u64(200..800));
        let slow = async || loop {
            let _ = self.redis().try_command(&["EVAL", SLOW, "0"]).await;
        };
        let _ = tokio::time::timeout(time, async { tokio::join!(slow(), slow()) }).await;
    }

    async fn obstruct(&mut self, fault: Way, time: std::ops::Range<u64>) {
        let (node, side) = (self.random.usize(..NODES), self.random.u8(..3));
        let time = Duration::from_millis(self.random.u64(time));
        let set = |fault| {
            let way: &Forwarder = &self.ways[node];
            if side != 0 {
                way.requests(fault);
            }
            if side != 1 {
                way.answers(fault);
            }
        };
        set(fault);
        tokio::time::sleep(time).await;
        set(Way::Pass);
    }

    /// Neither the entry of the fill nor the return of its lock gets through.
    async fn orphan(&mut self) {
        let end = Instant::now() + Duration::from_secs(5);
        while self.redis().keys("history*:l:*").await.is_empty() && Instant::now() < end {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        for way in &self.ways {
            way.refuse(true);
            way.cut();
        }
        self.pass(20..100).await;
        for way in &self.ways {
            way.refuse(false);
        }
        self.pass(100..300).await;
    }

    /// The server, where there is one.
    fn redis(&self) -> &Server {
        &self.redis[0]
    }

    async fn used_memory(&self) -> u64 {
        let info = self.redis().info("memory").await;
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        line.and_then(|number| number.trim().parse().ok()).expect("the server knows its memory")
    }

    /// Nobody talks to the old master any more before there is a new one: two at a time are outside of the promise.
    async fn promote(&mut self) {
        let link = Forwarder::start(address(self.redis()));
        // By a command: as a line of its configuration it would be a replica again after a restart.
        let replica = server().await;
        replica.command(&["REPLICAOF", "127.0.0.1", &link.addr().port().to_string()]).await;
        replica.linked().await;
        link.answers(Way::Stall);
        self.pass(100..400).await;
        for way in &self.ways {
            way.refuse(true);
            way.cut();
        }
        self.redis[0].kill();
        replica.promote().await;
        for way in &self.ways {
            way.retarget(address(&replica));
            way.refuse(false);
        }
        self.redis[0] = replica;
    }
}

/// A server that makes no replica wait for others before it is sent what there is.
pub async fn server() -> Server {
    Options::default().line("repl-diskless-sync-delay 0").start().await
}

fn address(server: &Server) -> SocketAddr {
    ([127, 0, 0, 1], server.port()).into()
}
