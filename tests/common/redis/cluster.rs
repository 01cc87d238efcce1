//! A cluster of real servers on the loopback interface.

use std::net::{IpAddr, SocketAddr};

use ::redis::Value;

use super::{
    Forwarder,
    port::free_port,
    server::{Options, Server},
    until,
};

/// A running cluster; dropping this kills its servers.
pub struct Cluster {
    servers: Vec<Server>,
    /// Forwarders in front of the cluster bus ports, in the order of the servers.
    buses: Vec<Forwarder>,
    masters: usize,
}

/// Number of slots in a cluster.
const SLOTS: usize = 16_384;

impl Cluster {
    /// Starts masters and replicas. When this returns, all servers know each other, every slot is served, and replicas are
    /// linked.
    pub async fn start(masters: usize, replicas: usize) -> Self {
        Self::start_with(masters, replicas, &[]).await
    }

    /// Starts a cluster whose servers have additional configuration lines.
    pub async fn start_with(masters: usize, replicas: usize, lines: &[&str]) -> Self {
        let (mut servers, mut buses) = (Vec::new(), Vec::new());
        for index in 0..masters * (1 + replicas) {
            let (server, bus) = start_server(index, lines).await;
            servers.push(server);
            buses.push(bus);
        }
        let (first, bus) = (servers[0].port().to_string(), buses[0].addr().port().to_string());
        for server in &servers[1..] {
            server.command(&["CLUSTER", "MEET", "127.0.0.1", &first, &bus]).await;
        }
        for (index, server) in servers[..masters].iter().enumerate() {
            let (from, to) = (index * SLOTS / masters, (index + 1) * SLOTS / masters - 1);
            server.command(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]).await;
        }
        let cluster = Self { servers, buses, masters };
        let count = cluster.servers.len();
        cluster
            .every("all servers know each other", async |server| {
                server.cluster_info_has(&format!("cluster_known_nodes:{count}\r")).await
            })
            .await;
        for (index, server) in cluster.servers[masters..].iter().enumerate() {
            let id = cluster.servers[index % masters].id().await;
            until("the master is known to its replica", async || {
                server.try_command(&["CLUSTER", "REPLICATE", &id]).await.is_ok()
            })
            .await;
            server.linked().await;
        }
        cluster.every("every slot is served", async |server| server.cluster_info_has("cluster_state:ok").await).await;
        cluster
    }

    /// Adds a master without slots. When this returns, all servers know it.
    pub async fn add_server(&mut self) {
        let (server, forwarder) = start_server(self.servers.len(), &[]).await;
        let (port, bus) = (server.port().to_string(), forwarder.addr().port().to_string());
        self.servers[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        self.servers.push(server);
        self.buses.push(forwarder);
        let count = self.servers.len();
        self.every("all servers know each other", async |server| {
            server.cluster_info_has(&format!("cluster_known_nodes:{count}\r")).await
        })
        .await;
        self.every("every slot is served", async |server| server.cluster_info_has("cluster_state:ok").await).await;
    }

    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::url).collect()
    }

    /// Returns the slot of a key or hash tag: CRC-16/XMODEM, modulo the number of slots.
    pub fn slot_of(tag: &str) -> u16 {
        let step = |crc: u16, byte: u8| {
            (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
        };
        tag.bytes().fold(0, step) % SLOTS as u16
    }

    /// Returns the master of a slot.
    pub async fn master_of(&self, slot: u16) -> &Server {
        let mut found = None;
        until("the slot has a master", async || {
            for server in &self.servers {
                if let Ok(Value::Array(ranges)) = server.try_command(&["CLUSTER", "SLOTS"]).await
                    && let Some(port) = ranges.iter().find_map(|range| master_in(range, slot))
                {
                    found = self.servers.iter().position(|server| server.port() == port);
                }
                if found.is_some() {
                    return true;
                }
            }
            false
        })
        .await;
        &self.servers[found.expect("just found")]
    }

    /// Cuts the bus of a server in both directions: clients still reach it, the rest of the cluster does not.
    pub fn isolate(&self, index: usize) {
        for (at, bus) in self.buses.iter().enumerate() {
            match at == index {
                true => {
                    bus.refuse(true);
                    bus.cut();
                }
                false => bus.block_client(Some(source(index))),
            }
        }
    }

    /// Reconnects the bus of an isolated server.
    pub fn heal(&self, index: usize) {
        self.buses[index].refuse(false);
        self.buses.iter().for_each(|bus| bus.block_client(None));
    }

    /// Waits until all other servers report another master for a slot.
    pub async fn wait_until_replaced(&self, index: usize, slot: u16) {
        let port = self.servers[index].port();
        for (_, server) in self.servers.iter().enumerate().filter(|(at, _)| *at != index) {
            until("all other servers know the new master", async || {
                let Ok(Value::Array(ranges)) = server.try_command(&["CLUSTER", "SLOTS"]).await else { return false };
                ranges.iter().any(|range| master_in(range, slot).is_some_and(|new| new != port))
            })
            .await;
        }
    }

    /// Kills a master, and waits until a replica serves its slots.
    pub async fn failover(&mut self, master: usize) {
        let slot = (master * SLOTS / self.masters) as u16;
        let port = self.servers[master].port();
        self.servers[master].kill();
        until("a replica takes over", async || {
            for server in &self.servers {
                if server.port() == port {
                    continue;
                }
                if let Ok(Value::Array(ranges)) = server.try_command(&["CLUSTER", "SLOTS"]).await
                    && ranges.iter().any(|range| master_in(range, slot).is_some_and(|new| new != port))
                {
                    return true;
                }
            }
            false
        })
        .await;
    }

    /// Begins to migrate a slot: its master redirects requests for missing keys from now on.
    pub async fn begin_to_move(&self, slot: u16, to: &Server) {
        let (from, text) = (self.master_of(slot).await, slot.to_string());
        to.command(&["CLUSTER", "SETSLOT", &text, "IMPORTING", &from.id().await]).await;
        from.command(&["CLUSTER", "SETSLOT", &text, "MIGRATING", &to.id().await]).await;
    }

    /// Moves some keys of a migrating slot, and returns their number.
    pub async fn move_keys(&self, slot: u16, from: &Server, to: &Server, most: usize) -> usize {
        let keys: Vec<String> =
            ::redis::from_redis_value(from.command(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &most.to_string()]).await)
                .expect("keys");
        if !keys.is_empty() {
            let port = to.port().to_string();
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            from.command(&words).await;
        }
        keys.len()
    }

    /// Ends the migration of a slot.
    pub async fn end_move(&self, slot: u16, from: &Server, to: &Server) {
        let (text, id) = (slot.to_string(), to.id().await);
        to.command(&["CLUSTER", "SETSLOT", &text, "NODE", &id]).await;
        from.command(&["CLUSTER", "SETSLOT", &text, "NODE", &id]).await;
    }

    async fn every(&self, what: &str, is: impl AsyncFn(&Server) -> bool) {
        for server in &self.servers {
            until(what, async || is(server).await).await;
        }
    }
}

/// Starts a server for a cluster, and the forwarder in front of its bus. Its connections to the buses of others have a source
/// address of their own.
async fn start_server(index: usize, lines: &[&str]) -> (Server, Forwarder) {
    let bus = free_port();
    let forwarder = Forwarder::start(SocketAddr::from(([127, 0, 0, 1], bus)));
    let options = Options::default()
        .line("cluster-enabled yes")
        .line(format!("cluster-port {bus}"))
        .line(format!("cluster-announce-bus-port {}", forwarder.addr().port()))
        .line("cluster-announce-ip 127.0.0.1")
        .line(format!("bind-source-addr {}", source(index)))
        // Protected mode rejects source addresses other than 127.0.0.1.
        .line("protected-mode no")
        .line("cluster-node-timeout 1500")
        .line("cluster-replica-validity-factor 0")
        .line("cluster-require-full-coverage no");
    let options = lines.iter().fold(options, |options, line| options.line(*line));
    (options.start().await, forwarder)
}

fn source(index: usize) -> IpAddr {
    IpAddr::from([127, 0, 1, index as u8 + 1])
}

impl Server {
    async fn id(&self) -> String {
        ::redis::from_redis_value(self.command(&["CLUSTER", "MYID"]).await).expect("an identifier")
    }

    async fn cluster_info_has(&self, text: &str) -> bool {
        let info: String = ::redis::from_redis_value(self.command(&["CLUSTER", "INFO"]).await).expect("text");
        info.contains(text)
    }
}

/// Returns the port of the master if the slot is in this range of `CLUSTER SLOTS`.
fn master_in(range: &Value, slot: u16) -> Option<u16> {
    let Value::Array(range) = range else { return None };
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    let slots = number(range.first()?)?..=number(range.get(1)?)?;
    let Value::Array(master) = range.get(2)? else { return None };
    slots.contains(&slot).then(|| number(master.get(1)?)).flatten()
}
