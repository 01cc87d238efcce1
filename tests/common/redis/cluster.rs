//! Real servers that are a cluster, on the loopback interface.

use std::net::{IpAddr, SocketAddr};

use ::redis::Value;

use super::{
    Forwarder,
    server::{Options, Server, free_port},
    until,
};

/// A running cluster; dropping this kills its servers.
pub struct Cluster {
    servers: Vec<Server>,
    /// The forwarders before the ports of the bus, in the order of the servers.
    buses: Vec<Forwarder>,
    masters: usize,
}

/// How many slots a cluster has.
const SLOTS: usize = 16_384;

impl Cluster {
    /// So many masters, each with so many replicas. All know all, every slot is served, and replicas are linked, when this returns.
    pub async fn start(masters: usize, replicas: usize) -> Self {
        Self::start_with(masters, replicas, &[]).await
    }

    /// The same, each server with these lines in its configuration.
    pub async fn start_with(masters: usize, replicas: usize, lines: &[&str]) -> Self {
        let (mut servers, mut buses) = (Vec::new(), Vec::new());
        for index in 0..masters * (1 + replicas) {
            let (server, bus) = alone(index, lines).await;
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
        cluster.all("all know all", async |server| server.cluster_says(&format!("cluster_known_nodes:{count}\r")).await).await;
        for (index, server) in cluster.servers[masters..].iter().enumerate() {
            let id = cluster.servers[index % masters].id().await;
            until("the master is known to its replica", async || {
                server.try_command(&["CLUSTER", "REPLICATE", &id]).await.is_ok()
            })
            .await;
            server.linked().await;
        }
        cluster.all("every slot is served", async |server| server.cluster_says("cluster_state:ok").await).await;
        cluster
    }

    /// One server more, a master without slots. All know it when this returns.
    pub async fn joins(&mut self) {
        let (server, forwarder) = alone(self.servers.len(), &[]).await;
        let (port, bus) = (server.port().to_string(), forwarder.addr().port().to_string());
        self.servers[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        self.servers.push(server);
        self.buses.push(forwarder);
        let count = self.servers.len();
        self.all("all know all", async |server| server.cluster_says(&format!("cluster_known_nodes:{count}\r")).await).await;
        self.all("every slot is served", async |server| server.cluster_says("cluster_state:ok").await).await;
    }

    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::url).collect()
    }

    /// The server that is the master of a slot, as most of the others say.
    pub async fn master_of(&self, slot: u16) -> &Server {
        let mut found = None;
        until("somebody is the master of the slot", async || {
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

    /// Cuts the bus of a server in both directions: clients still reach it, and the rest of the cluster does not.
    pub fn isolates(&self, index: usize) {
        for (at, bus) in self.buses.iter().enumerate() {
            match at == index {
                true => {
                    bus.refuse(true);
                    bus.cut();
                }
                false => bus.shuts_out(Some(source(index))),
            }
        }
    }

    /// Ends that.
    pub fn heals(&self, index: usize) {
        self.buses[index].refuse(false);
        self.buses.iter().for_each(|bus| bus.shuts_out(None));
    }

    /// Waits until all servers but this one say that a slot has another master.
    pub async fn have_replaced(&self, index: usize, slot: u16) {
        let port = self.servers[index].port();
        for (_, server) in self.servers.iter().enumerate().filter(|(at, _)| *at != index) {
            until("all the others know the new master", async || {
                let Ok(Value::Array(ranges)) = server.try_command(&["CLUSTER", "SLOTS"]).await else { return false };
                ranges.iter().any(|range| master_in(range, slot).is_some_and(|new| new != port))
            })
            .await;
        }
    }

    /// Kills one of the first masters, and waits until a replica has its slots.
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

    /// Begins to move a slot from its master to another: keys that are not there are asked for at the other from now on.
    pub async fn begin_to_move(&self, slot: u16, to: &Server) {
        let (from, text) = (self.master_of(slot).await, slot.to_string());
        to.command(&["CLUSTER", "SETSLOT", &text, "IMPORTING", &from.id().await]).await;
        from.command(&["CLUSTER", "SETSLOT", &text, "MIGRATING", &to.id().await]).await;
    }

    /// Moves some keys of a slot that is on its way; how many were moved.
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

    /// The slot has arrived.
    pub async fn end_move(&self, slot: u16, from: &Server, to: &Server) {
        let (text, id) = (slot.to_string(), to.id().await);
        to.command(&["CLUSTER", "SETSLOT", &text, "NODE", &id]).await;
        from.command(&["CLUSTER", "SETSLOT", &text, "NODE", &id]).await;
    }

    async fn all(&self, what: &str, is: impl AsyncFn(&Server) -> bool) {
        for server in &self.servers {
            until(what, async || is(server).await).await;
        }
    }
}

/// A server that is to be in a cluster, and the forwarder before its bus. It has a source address of its own on the bus of others.
async fn alone(index: usize, lines: &[&str]) -> (Server, Forwarder) {
    let bus = free_port();
    let forwarder = Forwarder::start(SocketAddr::from(([127, 0, 0, 1], bus)));
    let options = Options::default()
        .line("cluster-enabled yes")
        .line(format!("cluster-port {bus}"))
        .line(format!("cluster-announce-bus-port {}", forwarder.addr().port()))
        .line("cluster-announce-ip 127.0.0.1")
        .line(format!("bind-source-addr {}", source(index)))
        // Another source address than 127.0.0.1 is a stranger otherwise.
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

    async fn cluster_says(&self, text: &str) -> bool {
        let info: String = ::redis::from_redis_value(self.command(&["CLUSTER", "INFO"]).await).expect("text");
        info.contains(text)
    }
}

/// The port of the master, if the slot is in this range of `CLUSTER SLOTS`.
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
