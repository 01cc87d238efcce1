//! A real sentinel that watches a master.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use ::redis::{Client, Value};
use tempfile::TempDir;

use super::{port::free_port, server::Server, unhurried, until};

/// A running sentinel; dropping this kills it.
pub struct Sentinel {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Sentinel {
    /// Name of the master in the configuration.
    pub const SERVICE: &str = "mymaster";

    /// Starts a sentinel that can replace the master alone. When this returns, it knows the master and its replica.
    pub async fn start(master: &Server) -> Self {
        let sentinel = Self::spawn(master, 1);
        sentinel.knows_all(0).await;
        sentinel
    }

    /// Starts three sentinels, two of which can replace the master. When this returns, they know the master, its replica and
    /// each other.
    pub async fn three(master: &Server) -> [Self; 3] {
        let sentinels = [(); 3].map(|()| Self::spawn(master, 2));
        for sentinel in &sentinels {
            sentinel.knows_all(2).await;
        }
        sentinels
    }

    fn spawn(master: &Server, quorum: usize) -> Self {
        let (dir, port) = (tempfile::tempdir().expect("a temporary directory"), free_port());
        let file = dir.path().join("sentinel.conf");
        let name = Self::SERVICE;
        let text = format!(
            "bind 127.0.0.1\nport {port}\ndir \"{}\"\nsentinel monitor {name} 127.0.0.1 {} {quorum}\n\
             sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 5000\n",
            dir.path().display(),
            master.port(),
        );
        fs::write(&file, text).expect("a configuration file");
        let child = Command::new(super::server::program())
            .arg(file)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server");
        Self { child, port, _dir: dir }
    }

    async fn knows_all(&self, others: usize) {
        let count = async |what| match self.command(&["SENTINEL", what, Self::SERVICE]).await {
            Some(Value::Array(known)) => known.len(),
            _ => 0,
        };
        until("the sentinel knows the replica and the others", async || {
            count("REPLICAS").await > 0 && count("SENTINELS").await >= others
        })
        .await;
    }

    /// Replaces the master by its replica, although the master works.
    pub async fn fail_over(&self) {
        until("the sentinel agrees to fail over", async || {
            matches!(self.command(&["SENTINEL", "FAILOVER", Self::SERVICE]).await, Some(Value::Okay))
        })
        .await;
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Waits until the sentinel names the server with this port as the master.
    pub async fn wait_for_master(&self, port: u16) {
        until("the sentinel names the new master", async || {
            let address = self.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::SERVICE]).await;
            let address: Option<Vec<String>> = address.and_then(|address| ::redis::from_redis_value(address).ok());
            address.is_some_and(|address| address.get(1).is_some_and(|named| *named == port.to_string()))
        })
        .await;
    }

    async fn command(&self, arguments: &[&str]) -> Option<Value> {
        let mut connection =
            Client::open(self.url()).ok()?.get_multiplexed_async_connection_with_config(&unhurried()).await.ok()?;
        let mut command = ::redis::Cmd::new();
        command.arg(arguments);
        command.query_async(&mut connection).await.ok()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
