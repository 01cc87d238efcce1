//! One `redis-server` on a free port of the loopback interface.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    ffi::OsString,
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ::redis::{Client, FromRedisValue, RedisError, Value, aio::MultiplexedConnection};
use tempfile::TempDir;

use super::{PATIENCE, port::free_port, unhurried, until};

/// Name of the log file in the directory of a server.
const LOG: &str = "server.log";

/// Configuration of a server; by default without password and without persistence.
#[derive(Clone, Default)]
pub struct Options {
    lines: Vec<String>,
    password: Option<String>,
}

impl Options {
    /// Adds a line of configuration.
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Sets the password of the default user, a single word.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.line(format!("requirepass {password}")).line(format!("masterauth {password}"))
    }

    /// Appends every write to a file before it is answered.
    pub fn appendonly(self) -> Self {
        self.line("appendonly yes").line("appendfsync always")
    }

    /// Limits the memory, with an eviction policy such as `noeviction`.
    pub fn maxmemory(self, bytes: u64, policy: &str) -> Self {
        self.line(format!("maxmemory {bytes}")).line(format!("maxmemory-policy {policy}"))
    }

    /// Makes the server a replica of `master`.
    pub fn replica_of(self, master: &Server) -> Self {
        self.line(format!("replicaof 127.0.0.1 {}", master.port))
    }

    /// Starts the server, and returns when it answers. Panics if it never does.
    pub async fn start(self) -> Server {
        let mut log = String::new();
        for _ in 0..20 {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let port = free_port();
            let child = spawn(&dir, port, &self.lines);
            let mut server = Server { child, port, dir, options: self.clone() };
            // If another process has taken the port in the meantime, the server ends by itself.
            if server.ready().await {
                return server;
            }
            log = fs::read_to_string(server.dir.path().join(LOG)).unwrap_or_default();
        }
        panic!("redis-server ended at once, on 20 ports. The last one logged:\n{log}");
    }
}

/// A running `redis-server`; dropping this kills it and waits for its end.
pub struct Server {
    child: Child,
    port: u16,
    dir: TempDir,
    options: Options,
}

impl Server {
    /// Starts a server with the default options.
    pub async fn start() -> Self {
        Options::default().start().await
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Returns the URL for a client, including the password.
    pub fn url(&self) -> String {
        match &self.options.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}", self.port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// Suspends the process: its connections stay open and nothing is answered.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Resumes the process.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    /// Kills the process at once, as a crash would, and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends the process as an operator would, and waits for its end.
    pub fn stop(&mut self) {
        self.signal("-TERM");
        self.child.wait().expect("the server ends");
    }

    /// Starts the server again on the same port, with its persisted data or without data.
    pub async fn restart(&mut self, keep_data: bool) {
        self.kill();
        if !keep_data {
            self.dir = tempfile::tempdir().expect("a temporary directory");
        }
        self.child = spawn(&self.dir, self.port, &self.options.lines);
        assert!(self.ready().await, "redis-server does not start again on port {}", self.port);
    }

    /// Makes a replica a master.
    pub async fn promote(&self) {
        self.command(&["REPLICAOF", "NO", "ONE"]).await;
    }

    /// Waits until this replica is linked to its master.
    pub async fn linked(&self) {
        until("the replica is linked", async || self.info("replication").await.contains("master_link_status:up")).await;
    }

    /// Closes all connections of ordinary and subscribed clients.
    pub async fn client_kill_all(&self) {
        self.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        self.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    }

    pub async fn config_set(&self, name: &str, value: &str) {
        self.command(&["CONFIG", "SET", name, value]).await;
    }

    /// Sends one command over a new connection. Panics on an error.
    pub async fn command(&self, arguments: &[&str]) -> Value {
        self.try_command(arguments).await.unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// Sends one command over a new connection.
    pub async fn try_command(&self, arguments: &[&str]) -> Result<Value, RedisError> {
        query(&mut self.connection().await?, arguments).await
    }

    pub async fn keys(&self, pattern: &str) -> Vec<String> {
        read(self.command(&["KEYS", pattern]).await)
    }

    pub async fn info(&self, section: &str) -> String {
        read(self.command(&["INFO", section]).await)
    }

    /// Number of commands that the server has executed, including those of the test.
    pub async fn commands_processed(&self) -> u64 {
        self.info_number("stats", "total_commands_processed").await
    }

    /// Returns a number of `INFO`.
    pub async fn info_number(&self, section: &str, field: &str) -> u64 {
        let info = self.info(section).await;
        let number = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        number.unwrap_or_else(|| panic!("no {field} in {info}")).trim().parse().expect("a number")
    }

    /// Returns how often the server has run each command, by its name in small letters.
    pub async fn command_calls(&self) -> HashMap<String, u64> {
        let stats = self.info("commandstats").await;
        let of_line = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().expect("a number")))
        };
        stats.lines().filter_map(of_line).collect()
    }

    /// Counts the commands of clients from now on.
    pub async fn command_log(&self) -> CommandLog {
        let mut connection = self.connection().await.expect("the server answers");
        let before = calls(&mut connection).await;
        CommandLog { connection, before }
    }

    async fn connection(&self) -> Result<MultiplexedConnection, RedisError> {
        Client::open(self.url())?.get_multiplexed_async_connection_with_config(&unhurried()).await
    }

    /// Waits until the server answers. Returns false if it has ended instead.
    async fn ready(&mut self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if self.child.try_wait().expect("a child of this process").is_some() {
                return false;
            }
            // Another server on this port would answer too, but with another process id.
            let id = format!("process_id:{}\r", self.child.id());
            let asked = tokio::time::timeout(Duration::from_secs(5), self.try_command(&["INFO", "server"])).await;
            if let Ok(Ok(info)) = asked
                && read::<String>(info).contains(&id)
                // While it loads its data, it answers `INFO` and little else.
                && self.try_command(&["PING"]).await.is_ok()
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("redis-server on port {} does not answer within {PATIENCE:?}", self.port);
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.expect("the command kill").success(), "kill {signal} of redis-server");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Commands that a server has received since this was created, by name, without those of the log itself.
///
/// Commands inside a script count in addition to the script. Commands that a client sends on connecting count as well.
pub struct CommandLog {
    connection: MultiplexedConnection,
    before: BTreeMap<String, u64>,
}

impl CommandLog {
    /// Returns the number of calls of each command since the last call or the creation. Names are in lower case.
    pub async fn take(&mut self) -> BTreeMap<String, u64> {
        let now = calls(&mut self.connection).await;
        let mut since = now.clone();
        for (name, count) in &mut since {
            *count -= self.before.get(name).copied().unwrap_or(0);
            // `INFO` is counted after its reply: this reply includes the `INFO` of the previous call.
            *count -= u64::from(name == "info");
        }
        self.before = now;
        since.retain(|_, count| *count > 0);
        since
    }
}

/// Returns the number of calls of each command.
async fn calls(connection: &mut MultiplexedConnection) -> BTreeMap<String, u64> {
    let info: String = read(query(connection, &["INFO", "commandstats"]).await.expect("the server answers"));
    info.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        })
        .collect()
}

async fn query(connection: &mut MultiplexedConnection, arguments: &[&str]) -> Result<Value, RedisError> {
    let mut command = ::redis::Cmd::new();
    command.arg(arguments);
    command.query_async(connection).await
}

fn read<T: FromRedisValue>(value: Value) -> T {
    ::redis::from_redis_value(value).unwrap_or_else(|_| panic!("a reply of another type"))
}

fn spawn(dir: &TempDir, port: u16, lines: &[String]) -> Child {
    let file = dir.path().join("redis.conf");
    let text = format!(
        "bind 127.0.0.1\nport {port}\nsave \"\"\ndir \"{}\"\nlogfile {LOG}\n{}\n",
        dir.path().display(),
        lines.join("\n")
    );
    fs::write(&file, text).expect("a configuration file");
    Command::new(program()).arg(file).stdout(Stdio::null()).spawn().expect("redis-server is installed: see tests/run")
}

/// Returns the program to start: `redis-server`, or the one that the environment variable `REDIS_SERVER` names (see
/// tests/servers/run).
pub(super) fn program() -> OsString {
    env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}
