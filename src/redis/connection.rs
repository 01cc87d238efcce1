//! Connections to a server, and how they are made.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use bb8_redis::bb8::ManageConnection;
use redis::{Cmd, Pipeline as CommandPipeline, RedisError, Value};

use super::{
    error::RedisConnectError,
    options::{CONNECT_TIMEOUT, Failover},
    pipeline::{Pipeline, PushListener},
    sentinel::Sentinels,
    server::Server,
    transport::Endpoint,
};
use crate::{clock::Clock, tls::Certificates};

/// A way to find a server.
#[derive(Clone)]
pub(crate) enum Source {
    /// At a fixed address.
    At(Box<Endpoint>),
    /// The master that the sentinels name.
    Sentinel(Arc<Sentinels>),
}

impl Source {
    async fn endpoint(&self) -> Result<Endpoint, RedisConnectError> {
        match self {
            Self::At(endpoint) => Ok((**endpoint).clone()),
            Self::Sentinel(sentinels) => sentinels.master().await,
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(endpoint) => write!(f, "{endpoint}"),
            Self::Sentinel(_) => f.write_str("the master that the sentinels name"),
        }
    }
}

/// A connection to a master. Clones share it, and their commands share a pipeline.
///
/// It is public because it is the connection type of [`RedisManager`], which bb8 names. It has no methods.
#[derive(Clone)]
pub struct RedisConnection {
    pipeline: Pipeline,
    /// The identity of the server when the connection was made.
    pub(super) server: u128,
    state: Arc<State>,
}

/// The state that the clones of a connection share.
struct State {
    /// The address of the server: `host:port` or a path.
    address: String,
    broken: AtomicBool,
    /// The number of consecutive timeouts.
    timeouts: AtomicU32,
}

/// The number of consecutive timeouts after which a connection is replaced. The network may drop the packets of one connection while others
/// to the same server work.
const MAX_TIMEOUTS: u32 = 3;

impl RedisConnection {
    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, RedisError> {
        let answer = self.pipeline.send(command.get_packed_command()).await;
        self.note_result(answer.and_then(Value::extract_error))
    }

    /// Sends commands in one pipeline. Errors of the server are among the values.
    pub(super) async fn send_all(&self, commands: &CommandPipeline) -> Result<Vec<Value>, RedisError> {
        let answers = self.pipeline.send_many(commands.get_packed_pipeline(), commands.len()).await;
        self.note_result(answers)
    }

    #[inline]
    pub(super) fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Marks the connection as broken if an answer shows that it is.
    pub(super) fn note_result<T>(&self, answer: Result<T, RedisError>) -> Result<T, RedisError> {
        if self.state.timeouts.load(Ordering::Relaxed) != 0 {
            self.state.timeouts.store(0, Ordering::Relaxed);
        }
        if answer.as_ref().is_err_and(|error| error.is_unrecoverable_error() || error.is_io_error()) {
            self.mark_broken();
        }
        answer
    }

    /// Asks the server for current facts about itself.
    pub(super) async fn server(&self) -> Result<Server, RedisConnectError> {
        info(&self.pipeline).await
    }

    /// Counts a timeout.
    pub(super) fn note_timeout(&self) {
        if self.state.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_TIMEOUTS {
            self.mark_broken();
        }
    }

    pub(super) fn mark_broken(&self) {
        self.state.broken.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_at(&self, address: &str) -> bool {
        self.state.address == address
    }

    pub(super) fn is_broken(&self) -> bool {
        self.state.broken.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConnection").field("broken", &self.state.broken).finish_non_exhaustive()
    }
}

/// A bb8 manager for a pool that the application owns: [`RedisBuilder::pool`](super::RedisBuilder::pool).
///
/// It is public only for that method, and it is a manager of bb8 0.9. A store without a pool of the application needs neither.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use bb8_redis::bb8::Pool;
/// use tower_response_cache::redis::{RedisBuilder, RedisManager};
///
/// let manager = RedisManager::new("redis://127.0.0.1")?;
/// let pool = Pool::builder().max_size(4).test_on_check_out(false).build(manager.clone()).await?;
/// let store = RedisBuilder::pool(manager, pool).build().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct RedisManager {
    pub(super) source: Source,
    pub(super) trust: bool,
}

impl RedisManager {
    /// Creates a manager for the server at a URL. Over TLS it trusts the certificate authorities of the system.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is invalid.
    pub fn new(url: &str) -> Result<Self, RedisConnectError> {
        let endpoint = Endpoint::from_url(url, &Certificates::default())?;
        Ok(Self { source: Source::At(Box::new(endpoint)), trust: false })
    }

    /// Sets whether entries from before a failover are served. Defaults to [`Failover::Flush`].
    #[must_use]
    pub fn failover(self, failover: Failover) -> Self {
        Self { trust: failover == Failover::Trust, ..self }
    }

    /// Returns the host, if it is known without asking.
    pub(super) fn address(&self) -> Option<String> {
        match &self.source {
            Source::At(endpoint) => endpoint.host().map(str::to_owned),
            Source::Sentinel(_) => None,
        }
    }

    /// Connects to a master and reads facts about it. `listener` receives its pushes.
    pub(super) async fn open(&self, listener: Option<PushListener>) -> Result<(RedisConnection, Server), RedisConnectError> {
        let (connection, server) = self.open_any(listener).await?;
        match server.role == "master" {
            true => Ok((connection, server)),
            false => Err(format!("the server is a {}: expected a master", server.role).into()),
        }
    }

    /// Connects to any server, master or not.
    pub(super) async fn open_any(
        &self,
        listener: Option<PushListener>,
    ) -> Result<(RedisConnection, Server), RedisConnectError> {
        let opening = async {
            let endpoint = self.source.endpoint().await?;
            let pipeline = endpoint.connect(listener).await?;
            let server = info(&pipeline).await?;
            Ok::<_, RedisConnectError>((pipeline, endpoint.to_string(), server))
        };
        let late = || RedisConnectError::from(format!("no answer to the sign-in within {CONNECT_TIMEOUT:?}"));
        let (pipeline, address, server) = tokio::time::timeout(CONNECT_TIMEOUT, opening).await.map_err(|_| late())??;
        let id = if self.trust { 0 } else { server.id };
        let state = Arc::new(State { address, broken: AtomicBool::new(false), timeouts: AtomicU32::new(0) });
        Ok((RedisConnection { pipeline, server: id, state }, server))
    }
}

impl ManageConnection for RedisManager {
    type Connection = RedisConnection;
    type Error = RedisConnectError;

    async fn connect(&self) -> Result<Self::Connection, Self::Error> {
        Ok(self.open(None).await?.0)
    }

    async fn is_valid(&self, connection: &mut Self::Connection) -> Result<(), Self::Error> {
        connection.send(&redis::cmd("PING")).await?;
        Ok(())
    }

    fn has_broken(&self, connection: &mut Self::Connection) -> bool {
        connection.is_broken()
    }
}

/// Asks a server for facts about itself.
async fn info(pipeline: &Pipeline) -> Result<Server, RedisConnectError> {
    let ask = async |sections: &[&str]| {
        let answer = pipeline.send(redis::cmd("INFO").arg(sections).get_packed_command()).await;
        answer.and_then(Value::extract_error)
    };
    let asked = Clock::system().nanos();
    match ask(&["server", "clients", "replication", "memory", "cluster"]).await {
        Ok(answer) => Server::read(&answer).map(|server| server.read_between(asked, Clock::system().nanos())),
        // Before 7.0, INFO took one section, which contains the version.
        Err(error) if error.code() == Some("ERR") => Server::read(&ask(&["server"]).await?),
        Err(error) => Err(error.into()),
    }
}
