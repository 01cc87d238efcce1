//! Connections: how they are made, and what is learned of a server before it is trusted.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use bb8_redis::bb8::ManageConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo, Pipeline as CommandPipeline, ProtocolVersion,
    RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, Value, aio::MultiplexedConnection,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    error::RedisConnectError,
    options::{CONNECT_TIMEOUT, Failover},
    pipeline::Pipeline,
    sentinel::Sentinels,
    server::Server,
};
use crate::clock::Clock;

#[cfg(unix)]
use tokio::net::UnixStream;

/// Where a server is found.
#[derive(Clone)]
pub(crate) enum Source {
    /// At an address.
    At(Box<Client>),
    /// Where the sentinels say.
    Sentinel(Arc<Sentinels>),
}

impl Source {
    async fn client(&self) -> Result<Client, RedisError> {
        match self {
            Self::At(client) => Ok((**client).clone()),
            Self::Sentinel(sentinels) => prepared(sentinels.client().await?),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(client) => write!(f, "{}", client.get_connection_info().addr()),
            Self::Sentinel(_) => f.write_str("the master that the sentinels name"),
        }
    }
}

/// A client for a URL: `redis://[user:password@]host[:port][/db]`, `rediss://` for TLS, `unix:///path`.
pub(crate) fn client(url: &str, certificates: Option<TlsCertificates>) -> Result<Client, RedisError> {
    let info = url.into_connection_info()?;
    if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        // Where the application has not chosen its cryptography, rustls has to be given one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let client = match certificates {
        Some(certificates) => Client::build_with_tls(info, certificates)?,
        None => Client::open(info)?,
    };
    prepared(client)
}

/// The client as we need it: RESP3, for pushes, and no waiting in the kernel for more to send.
pub(crate) fn prepared(client: Client) -> Result<Client, RedisError> {
    let info = client.get_connection_info().clone();
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Client::open(info.set_tcp_settings(tcp).set_redis_settings(settings))
}

/// The same client for another address: a node of a cluster.
pub(crate) fn at(client: &Client, host: &str, port: u16) -> Result<Client, RedisError> {
    let info = client.get_connection_info().clone();
    let address = match info.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host: host.into(), port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host.into(), port),
    };
    Client::open(info.set_addr(address))
}

/// A connection to a master. Clones share it, and their commands share a pipeline.
///
/// It is public because it is the connection type of [`RedisManager`], which bb8 names. It has no methods.
#[derive(Clone)]
pub struct RedisConnection {
    link: Link,
    /// The server, as it was when the connection was made.
    pub(super) server: u128,
    state: Arc<State>,
}

/// What is known of a connection, by all who hold a clone of it.
struct State {
    /// Where the server is: `host:port`, or a path.
    address: String,
    broken: AtomicBool,
    /// How often in a row there was no answer in time.
    silent: AtomicU32,
}

/// So many questions in a row without an answer, and a connection is of no use any more: it may be one that no packet passes, while
/// others to the same server are well.
const MOST_SILENT: u32 = 3;

/// By what a server is asked.
#[derive(Clone)]
enum Link {
    Pipeline(Pipeline),
    /// Where there are pushes to be heard, or TLS is spoken.
    Client(Box<MultiplexedConnection>),
}

impl Link {
    async fn ask(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Pipeline(line) => line.ask(command.get_packed_command()).await,
            Self::Client(client) => client.send_packed_command(command).await,
        }
    }

    /// A line to a server that is greeted by the client, who knows all its ways; `None` where it takes more than a line.
    async fn line(client: &Client) -> Result<Option<Pipeline>, RedisError> {
        let info = client.get_connection_info();
        match info.addr() {
            ConnectionAddr::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                let stream = stream.into_std()?;
                greet(info.redis_settings(), TcpStream::from_std(stream.try_clone()?)?).await?;
                Ok(Some(Self::driven(TcpStream::from_std(stream)?)))
            }
            #[cfg(unix)]
            ConnectionAddr::Unix(path) => {
                let stream = UnixStream::connect(path).await?.into_std()?;
                greet(info.redis_settings(), UnixStream::from_std(stream.try_clone()?)?).await?;
                Ok(Some(Self::driven(UnixStream::from_std(stream)?)))
            }
            _ => Ok(None),
        }
    }

    /// Asks the server for facts about itself.
    async fn info(&mut self) -> Result<Server, RedisConnectError> {
        let mut ask = redis::cmd("INFO");
        ask.arg(&["server", "replication", "memory", "cluster"]);
        let asked = Clock::system().nanos();
        match self.ask(&ask).await.and_then(Value::extract_error) {
            Ok(answer) => Server::read(&answer).map(|server| server.read_between(asked, Clock::system().nanos())),
            // Before 7.0, INFO took one section. What it says then is not enough, but says which version it is.
            Err(error) if error.code() == Some("ERR") => {
                let answer = self.ask(redis::cmd("INFO").arg("server")).await;
                Server::read(&answer.and_then(Value::extract_error)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn driven(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Pipeline {
        let (line, driver) = Pipeline::new(stream);
        tokio::spawn(driver);
        line
    }
}

/// Says who we are, by a copy of the socket that is closed then.
async fn greet(
    settings: &RedisConnectionInfo,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(), RedisError> {
    MultiplexedConnection::new_with_config(settings, stream, AsyncConnectionConfig::new()).await.map(drop)
}

impl RedisConnection {
    pub(super) async fn one(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let answer = self.link.ask(command).await;
        self.seen(answer.and_then(Value::extract_error))
    }

    /// The answers to some commands, errors of the server among them.
    pub(super) async fn all(&mut self, commands: &CommandPipeline) -> Result<Vec<Value>, RedisError> {
        let answers = match &mut self.link {
            Link::Pipeline(line) => line.ask_many(commands.get_packed_pipeline(), commands.len()).await,
            Link::Client(client) => client.send_packed_commands(commands, 0, commands.len()).await,
        };
        self.seen(answers)
    }

    /// The line, if it is one.
    #[inline]
    pub(super) fn line(&self) -> Option<&Pipeline> {
        match &self.link {
            Link::Pipeline(line) => Some(line),
            Link::Client(_) => None,
        }
    }

    /// Notes what says that the connection is of no use any more.
    pub(super) fn seen<T>(&self, answer: Result<T, RedisError>) -> Result<T, RedisError> {
        if self.state.silent.load(Ordering::Relaxed) != 0 {
            self.state.silent.store(0, Ordering::Relaxed);
        }
        if answer.as_ref().is_err_and(|error| error.is_unrecoverable_error() || error.is_io_error()) {
            self.breaks();
        }
        answer
    }

    /// What the server says of itself now.
    pub(super) async fn server(&mut self) -> Result<Server, RedisConnectError> {
        self.link.info().await
    }

    /// There was no answer in time.
    pub(super) fn is_silent(&self) {
        if self.state.silent.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_SILENT {
            self.breaks();
        }
    }

    pub(super) fn breaks(&self) {
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

/// Makes the connections of a pool that the application owns: [`RedisBuilder::pool`](super::RedisBuilder::pool).
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
    /// For the server at a URL.
    ///
    /// # Errors
    ///
    /// If it is not the URL of a Redis server.
    pub fn new(url: &str) -> Result<Self, RedisConnectError> {
        Ok(Self { source: Source::At(Box::new(client(url, None)?)), trust: false })
    }

    /// What becomes of entries from before a failover. Defaults to [`Failover::Flush`].
    #[must_use]
    pub fn failover(self, failover: Failover) -> Self {
        Self { trust: failover == Failover::Trust, ..self }
    }

    /// The host that it connects to, if that is known.
    pub(super) fn address(&self) -> Option<String> {
        match &self.source {
            Source::At(client) => match client.get_connection_info().addr() {
                ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host.clone()),
                _ => None,
            },
            Source::Sentinel(_) => None,
        }
    }

    /// A connection to a master, and what was learned of it. What the server sends of itself is heard as `pushes` has it.
    pub(super) async fn open(
        &self,
        pushes: Option<AsyncConnectionConfig>,
    ) -> Result<(RedisConnection, Server), RedisConnectError> {
        let (connection, server) = self.open_any(pushes).await?;
        match server.role == "master" {
            true => Ok((connection, server)),
            false => Err(format!("the server is a {}; only a master says which generations are current", server.role).into()),
        }
    }

    /// The same of any server, for what all of them know.
    pub(super) async fn open_any(
        &self,
        pushes: Option<AsyncConnectionConfig>,
    ) -> Result<(RedisConnection, Server), RedisConnectError> {
        let opening = async {
            let client = self.source.client().await?;
            let address = client.get_connection_info().addr().to_string();
            let line = if pushes.is_none() { Link::line(&client).await? } else { None };
            let mut link = match line {
                Some(line) => Link::Pipeline(line),
                None => {
                    let config = pushes.unwrap_or_default();
                    let config = config.set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(None);
                    Link::Client(Box::new(client.get_multiplexed_async_connection_with_config(&config).await?))
                }
            };
            let server = link.info().await?;
            Ok::<_, RedisConnectError>((link, address, server))
        };
        let late = || RedisConnectError::from(format!("no answer within {CONNECT_TIMEOUT:?}"));
        let (link, address, server) = tokio::time::timeout(CONNECT_TIMEOUT, opening).await.map_err(|_| late())??;
        let id = if self.trust { 0 } else { server.id };
        let state = Arc::new(State { address, broken: AtomicBool::new(false), silent: AtomicU32::new(0) });
        Ok((RedisConnection { link, server: id, state }, server))
    }
}

impl ManageConnection for RedisManager {
    type Connection = RedisConnection;
    type Error = RedisConnectError;

    async fn connect(&self) -> Result<Self::Connection, Self::Error> {
        Ok(self.open(None).await?.0)
    }

    async fn is_valid(&self, connection: &mut Self::Connection) -> Result<(), Self::Error> {
        connection.one(&redis::cmd("PING")).await?;
        Ok(())
    }

    fn has_broken(&self, connection: &mut Self::Connection) -> bool {
        connection.is_broken()
    }
}
