//! A cluster of three masters, each with a replica, and its faults.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    load::KEYS,
    rig::{Options, Server, until},
};

/// Number of masters. Each has one replica.
const MASTERS: usize = 3;

/// Number of slots in a cluster.
const SLOTS: usize = 16_384;

/// A node, as it describes itself.
struct Member {
    id: String,
    is_master: bool,
    /// Identifier of the master of a replica.
    master: String,
    slots: Vec<(u16, u16)>,
}

impl Member {
    fn has(&self, slot: u16) -> bool {
        self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

async fn member(server: &Server) -> Member {
    let text = text(server, &["CLUSTER", "NODES"]).await;
    let line = text.lines().find(|line| line.contains("myself")).expect("a node knows itself");
    let words: Vec<&str> = line.split(' ').collect();
    let slots = words[8..].iter().filter(|word| !word.starts_with('[')).map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        (first.parse().expect("a slot"), last.parse().expect("a slot"))
    });
    Member { id: words[0].into(), is_master: words[2].contains("master"), master: words[3].into(), slots: slots.collect() }
}

async fn text(server: &Server, words: &[&str]) -> String {
    ::redis::from_redis_value(server.command(words).await).expect("text")
}

/// Returns whether all nodes know all others, and each slot has a reachable master.
async fn is_well(servers: &[Server]) -> bool {
    for server in servers {
        let info = server.try_command(&["CLUSTER", "INFO"]).await;
        let info: String = info.ok().and_then(|info| ::redis::from_redis_value(info).ok()).unwrap_or_default();
        if !info.contains("cluster_state:ok") || !info.contains(&format!("cluster_known_nodes:{}", servers.len())) {
            return false;
        }
    }
    true
}

/// Starts six servers, and joins them into a cluster.
pub async fn start() -> Vec<Server> {
    let mut servers = Vec::new();
    for _ in 0..2 * MASTERS {
        let options = Options::default()
            .line("cluster-enabled yes")
            .line("cluster-node-timeout 700")
            .line("cluster-replica-validity-factor 0")
            .line("repl-diskless-sync-delay 0");
        servers.push(options.start().await);
    }
    for (index, server) in servers.iter().enumerate().take(MASTERS) {
        let bound = |index: usize| (index * SLOTS / MASTERS).to_string();
        let last = (((index + 1) * SLOTS / MASTERS) - 1).to_string();
        server.command(&["CLUSTER", "ADDSLOTSRANGE", &bound(index), &last]).await;
        server.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]).await;
    }
    for server in &servers[1..] {
        servers[0].command(&["CLUSTER", "MEET", "127.0.0.1", &server.port().to_string()]).await;
    }
    until("the cluster is complete", async || is_well(&servers).await).await;
    for index in 0..MASTERS {
        let master = member(&servers[index]).await.id;
        let replica = &servers[MASTERS + index];
        until("the replica has a master", async || replica.try_command(&["CLUSTER", "REPLICATE", &master]).await.is_ok()).await;
        replica.linked().await;
    }
    servers
}

/// Returns the indices of each master and its replica.
async fn pairs(servers: &[Server]) -> Vec<(usize, usize)> {
    let mut members = Vec::new();
    for server in servers {
        members.push(member(server).await);
    }
    let masters: HashMap<&str, usize> = members
        .iter()
        .enumerate()
        .filter(|(_, member)| member.is_master)
        .map(|(index, member)| (member.id.as_str(), index))
        .collect();
    members
        .iter()
        .enumerate()
        .filter_map(|(index, member)| masters.get(member.master.as_str()).map(|master| (*master, index)))
        .collect()
}

/// Kills a master, waits until its replica replaces it, and restarts it as a replica.
pub async fn failover(servers: &mut [Server], random: &mut fastrand::Rng) {
    let (master, replica) = pair(servers, random).await;
    servers[master].kill();
    until("the replica takes over", async || member(&servers[replica]).await.is_master).await;
    tokio::time::sleep(Duration::from_millis(random.u64(50..500))).await;
    servers[master].restart(true).await;
    until("the old master follows", async || !member(&servers[master]).await.is_master).await;
    servers[master].linked().await;
    until("the cluster is complete", async || is_well(servers).await).await;
}

/// Replaces a master by its replica, in a planned failover.
pub async fn planned_failover(servers: &[Server], random: &mut fastrand::Rng) {
    let (_, replica) = pair(servers, random).await;
    // A planned failover that does not complete in time is aborted, and has to be requested again.
    let mut asked: Option<Instant> = None;
    until("the replica takes over", async || {
        if asked.is_none_or(|at| at.elapsed() > Duration::from_secs(6)) {
            asked = servers[replica].try_command(&["CLUSTER", "FAILOVER"]).await.is_ok().then(Instant::now);
        }
        member(&servers[replica]).await.is_master
    })
    .await;
}

/// Returns the index of the master of a key.
pub async fn master_of(servers: &[Server], key: &str) -> usize {
    let slot: u16 = ::redis::from_redis_value(servers[0].command(&["CLUSTER", "KEYSLOT", key]).await).expect("a slot");
    for (index, server) in servers.iter().enumerate() {
        if member(server).await.has(slot) {
            return index;
        }
    }
    panic!("no master has the slot of {key}")
}

async fn pair(servers: &[Server], random: &mut fastrand::Rng) -> (usize, usize) {
    let mut all = Vec::new();
    until("each master has its replica", async || {
        all = pairs(servers).await;
        all.len() == MASTERS
    })
    .await;
    all[random.usize(..all.len())]
}

/// Migrates the slot of the namespace of a register to another master, key by key.
pub async fn migrate(servers: &[Server], random: &mut fastrand::Rng) {
    let key = format!("{{row:{}}}", random.u32(..KEYS));
    let slot: u16 = ::redis::from_redis_value(servers[0].command(&["CLUSTER", "KEYSLOT", &key]).await).expect("a slot");
    let mut masters = Vec::new();
    for (index, server) in servers.iter().enumerate() {
        let member = member(server).await;
        if member.is_master {
            masters.push((index, member));
        }
    }
    let at = masters.iter().position(|(_, member)| member.has(slot)).expect("each slot has a master");
    let (from, from_id) = (&servers[masters[at].0], masters[at].1.id.clone());
    let to = &masters[(at + 1 + random.usize(..masters.len() - 1)) % masters.len()];
    let (to, to_id) = (&servers[to.0], to.1.id.clone());
    let (slot, port) = (slot.to_string(), to.port().to_string());
    let mut pause = async || tokio::time::sleep(Duration::from_millis(random.u64(5..60))).await;

    to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
    from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
    pause().await;
    loop {
        let keys = from.command(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]).await;
        let keys: Vec<String> = ::redis::from_redis_value(keys).expect("names of keys");
        let Some(key) = keys.first() else { break };
        from.command(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]).await;
        pause().await;
    }
    to.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
    pause().await;
    from.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
}
